/**
 * A denied packet as a row of the list: where it came from, what it was for,
 * and whose endpoint that was when it was seen.
 */
import type { Address, Endpoint } from '../core/net.ts';
import type { PacketReason } from '../core/reasons.ts';
import { endpointKey, type Owner, PROTOCOL_NUMBERS, PROTOCOLS, type Protocol } from '../core/words.ts';
import type { DenialFacts } from './denials.ts';
import { type Packet, readPacket } from './packet.ts';

/** Whose an external endpoint is, live or at rest, for a packet from there. */
export type OwnerOf = (protocol: Protocol, external: Endpoint, from: Address | undefined) => Owner | undefined;

const OTHER_NAMES: Readonly<Record<number, string>> = { 1: 'icmp', 47: 'gre', 50: 'esp', 58: 'icmpv6', 132: 'sctp' };

type Holder = Partial<Pick<Owner, 'mtcUser' | 'device'>>;
/** Who holds a trigger port, as far as it is known; undefined: it is none. */
export type TriggeredAt = (to: Endpoint) => Holder | undefined;
/** Who holds an address by which the outside knows a device, as far as it is known; undefined: it is none. */
export type HolderAt = (address: Address) => Holder | undefined;

/** What a packet is put down to by where it was for. */
export interface Whose {
  readonly ownerOf: OwnerOf;
  readonly triggeredAt?: TriggeredAt;
  readonly ownAddressAt?: HolderAt;
}

/** Denials of packets to the inside: one of them to a trigger port was a trigger that nobody authorised (TR 23.888, 5.8.2). */
const TOWARD_DEVICES: readonly PacketReason[] = [
  'realmDestination',
  'deviceToDevice',
  'unsolicited',
  'unauthorisedTrigger',
];

export function packetDenial(
  reason: PacketReason,
  bytes: Uint8Array,
  { ownerOf, triggeredAt, ownAddressAt }: Whose,
  rule?: string,
): DenialFacts {
  const packet = readPacket(bytes);
  const protocol = PROTOCOLS.find((one) => PROTOCOL_NUMBERS[one] === packet.protocol);
  const to = protocol &&
    packet.ports &&
    packet.destination && { address: packet.destination, port: packet.ports.destination };
  const triggered = to && TOWARD_DEVICES.includes(reason) ? triggeredAt?.(to) : undefined;
  // The gate said that nobody's grant was there; one opened since is not what this packet was for.
  const owner = protocol && to && reason !== 'noGrant' ? ownerOf(protocol, to, packet.source) : undefined;
  return {
    kind: 'packet',
    reason: triggered ? 'unauthorisedTrigger' : reason,
    source: packet.source?.text ?? 'unknown',
    target: protocol && to ? endpointKey(protocol, to) : targetOf(packet),
    ...(triggered ?? owner ?? (packet.destination && ownAddressAt?.(packet.destination))),
    ...(packet.ports && { sourcePort: packet.ports.source }),
    ...(rule !== undefined && { rule }),
  };
}

/** What a packet without ports, or cut before them, was for: as much as it says. */
function targetOf({ protocol, destination, icmp }: Packet): string {
  const name = PROTOCOLS.find((one) => PROTOCOL_NUMBERS[one] === protocol) ?? OTHER_NAMES[protocol ?? -1];
  const what = protocol === undefined ? 'ip' : (name ?? `protocol-${protocol}`);
  return `${what} ${destination?.text ?? 'unknown'}${icmp ? ` type ${icmp.type}` : ''}`;
}
