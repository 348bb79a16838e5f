/**
 * Whose an address is, read off the set-up by scanning its lists: what the
 * twin (memory.ts) asks where the gate asks its trie `owned`. The host's own
 * addresses are looked at first, as in a trie the longest prefix wins.
 */
import type { Admission } from '../core/admissions.ts';
import { type Address, contains, prefix } from '../core/net.ts';
import type { GateSetup } from './dataplane.ts';
import type { Packet } from './frame.ts';
import { icmpMeaning, icmpType, isListenerReport } from './frame-icmp.ts';

const LINK_LOCAL = prefix('fe80::/10');
const LINK_LOCAL_MULTICAST = prefix('ff02::/16');
const UNSPECIFIED = prefix('::/128');
const OF_ALL = ['224.0.0.0/4', '255.255.255.255/32', 'ff00::/8'].map(prefix);

type Owner =
  | { readonly kind: 'device'; readonly realm: number; readonly isSeen: boolean }
  | { readonly kind: 'hostInside' | 'hostElsewhere' | 'nobodyHere' };

/** Link-local addresses are nobody's: each link has its own. `isSeen`: the outside knows the device by it. */
export function ownerOf(setup: GateSetup, address: Address): Owner {
  if (contains(LINK_LOCAL, address)) return { kind: 'nobodyHere' };
  const own = setup.own.find((one) => one.address.text === address.text);
  if (own) return { kind: own.on === 'inside' ? 'hostInside' : 'hostElsewhere' };
  const realms = setup.inside.filter(({ prefixes }) => prefixes.some((one) => contains(one, address)));
  const last = realms.at(-1); // the trie's too: what is written last stands
  return last ? { kind: 'device', realm: last.realm, isSeen: !last.translated } : { kind: 'nobodyHere' };
}

/** An address that nobody outside has. */
export function isInside(setup: GateSetup, address: Address): boolean {
  return ['device', 'hostInside'].includes(ownerOf(setup, address).kind);
}

/** An address that must not be seen outside. */
export function isInner(setup: GateSetup, address: Address): boolean {
  const owner = ownerOf(setup, address);
  return owner.kind === 'hostInside' || (owner.kind === 'device' && !owner.isSeen);
}

/** Whether a device that sends there speaks to the host: on its link there is no other neighbour. */
export function isHost(setup: GateSetup, address: Address): boolean {
  return contains(LINK_LOCAL, address) || ['hostInside', 'hostElsewhere'].includes(ownerOf(setup, address).kind);
}

/** Whether all on the link have an address, the host too: multicast, and IPv4's limited broadcast. */
export function isOfAll(address: Address): boolean {
  return OF_ALL.some((one) => contains(one, address));
}

export function inGrantsPool({ pool }: GateSetup, address: Address): boolean {
  return [...pool.ipv4, ...pool.ipv6].some((one) => contains(one, address));
}

/** Whether an operator's filter lets this in without a grant. A fragment or a packet with options shows too little. */
export function isAdmitted(one: Admission, packet: Packet, frame: Uint8Array): boolean {
  const { source, destination, protocol, ports, types } = one;
  if (!contains(source, packet.source) || !contains(destination, packet.destination)) return false;
  if (typeof packet.ports === 'object') {
    if (protocol === 'any') return true;
    const port = packet.ports.destination;
    return protocol === packet.ports.protocol && (!ports || (ports.low <= port && port <= ports.high));
  }
  if (packet.ports !== 'protocolNotCarried') return false;
  const type = icmpType(frame, packet);
  if (type === 'none') return protocol === 'any';
  if (type === 'malformed') return false;
  const icmp = packet.family === 'ipv4' ? 'icmp' : 'icmpv6';
  return protocol === 'any' || (protocol === icmp && (!types || types.includes(type)));
}

/** Whether a device may say this to the host itself. A fragment or a packet with options shows too little. */
export function isWelcome(setup: GateSetup, packet: Packet, frame: Uint8Array): boolean {
  const serves = (protocol: string, port: number) =>
    setup.services.some((service) => service.protocol === protocol && service.port === port);
  if (typeof packet.ports === 'object') return serves(packet.ports.protocol, packet.ports.destination);
  switch (icmpMeaning(frame, packet)) {
    case 'neighbourDiscovery':
      return true;
    case 'echoRequest':
      return serves(packet.family === 'ipv4' ? 'icmp' : 'icmpv6', 0);
    case 'other':
      return false;
  }
}

/** What says nothing beyond the link: neighbour discovery with the host, reports of multicast listeners to it. */
export function isLinkUpkeep(setup: GateSetup, packet: Packet, frame: Uint8Array): boolean {
  const { source, destination } = packet;
  if (icmpMeaning(frame, packet) === 'neighbourDiscovery')
    return isHost(setup, destination) || contains(LINK_LOCAL_MULTICAST, destination);
  const isOfLink = contains(LINK_LOCAL, source) || contains(UNSPECIFIED, source);
  return isOfLink && isListenerReport(frame, packet);
}
