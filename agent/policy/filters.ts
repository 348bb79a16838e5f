/**
 * Filters: what operators say of packets, beside the grants.
 *
 * A drop is judged on every packet that is forwarded between inside and
 * outside, that way; it knows no flows, so one that is new stops what runs. An
 * allow is judged on the packet that begins a flow, and lets the answers of
 * that flow back. Drop wins over allow, so the order of filters never matters.
 * What no filter speaks of is decided by the base. A staged filter decides
 * nothing.
 *
 * This is the model: pure, and total over packets. The base (ruleset.ts) is
 * compiled from the same values, and must do the same.
 */
import type { Place } from '../core/document.ts';
import { type Address, contains, type Family, overlaps, type Prefix } from '../core/net.ts';
import type { ExternalId, InnerAddress, PortRange, Protocol, RealmName, ServerName } from '../core/words.ts';

import type { DeviceFacts } from './groups.ts';

export type Side = 'inside' | 'outside';
export const SIDES: readonly Side[] = ['inside', 'outside'];

export type FilterProtocol = Protocol | 'icmp' | 'icmpv6';
export const FILTER_PROTOCOLS: readonly FilterProtocol[] = ['tcp', 'udp', 'icmp', 'icmpv6'];

/** ICMP's messages by their names in rule files, which are those of nft (RFC 792, 950, 1256; RFC 4443, 4861, 2710, 3810, 2894). */
export const ICMP_TYPES: Readonly<Record<'icmp' | 'icmpv6', Readonly<Record<string, number>>>> = {
  icmp: {
    'echo-reply': 0,
    'destination-unreachable': 3,
    'source-quench': 4,
    redirect: 5,
    'echo-request': 8,
    'router-advertisement': 9,
    'router-solicitation': 10,
    'time-exceeded': 11,
    'parameter-problem': 12,
    'timestamp-request': 13,
    'timestamp-reply': 14,
    'info-request': 15,
    'info-reply': 16,
    'address-mask-request': 17,
    'address-mask-reply': 18,
  },
  icmpv6: {
    'destination-unreachable': 1,
    'packet-too-big': 2,
    'time-exceeded': 3,
    'parameter-problem': 4,
    'echo-request': 128,
    'echo-reply': 129,
    'mld-listener-query': 130,
    'mld-listener-report': 131,
    'mld-listener-done': 132,
    'nd-router-solicit': 133,
    'nd-router-advert': 134,
    'nd-neighbor-solicit': 135,
    'nd-neighbor-advert': 136,
    'nd-redirect': 137,
    'router-renumbering': 138,
    'ind-neighbor-solicit': 141,
    'ind-neighbor-advert': 142,
    'mld2-listener-report': 143,
  },
};

/** The ICMP messages that begin a flow: requests. Errors are of a flow, answers are within one. */
export const BEGINNING_TYPES: Readonly<Record<'icmp' | 'icmpv6', readonly number[]>> = {
  icmp: [8, 13, 15, 17],
  icmpv6: [128],
};

/** Where a packet is from, or to; any of these. */
export interface Ends {
  readonly sides: readonly Side[];
  /** Those of rule files, and the sources of server groups. */
  readonly prefixes: readonly Prefix[];
  /** Device groups, by name: the addresses that their devices are bound to. */
  readonly groups: readonly string[];
}

export interface Filter {
  readonly id: string;
  readonly place: Place;
  readonly action: 'drop' | 'allow';
  /** Absent: from, or to, anywhere. */
  readonly from?: Ends;
  readonly to?: Ends;
  /** Absent: any. */
  readonly protocol?: FilterProtocol;
  /** Destination ports, of tcp and udp. */
  readonly ports?: readonly PortRange[];
  /** Numbers of message types, of icmp and icmpv6. */
  readonly types?: readonly number[];
  /** It opens what else a grant alone may open. */
  readonly standing: boolean;
  /** Counted and logged, and never enforced. */
  readonly staged: boolean;
}

/** One end of a packet. A device's address may not be known (a policy test); then only what holds of all its addresses does. */
export interface PacketEnd {
  readonly side: Side;
  readonly address?: Address;
  readonly realm?: RealmName;
}

/** A packet that is forwarded, whole: nothing passes the base in fragments. */
export interface FilteredPacket {
  readonly family: Family;
  readonly from: PacketEnd;
  readonly to: PacketEnd;
  /** A number where it has no name here. */
  readonly protocol: FilterProtocol | number;
  /** Destination port of tcp and udp. */
  readonly port?: number;
  readonly type?: number;
}

/** One end: an address outside, or a device: at its address, or at none that is known. */
export interface WalkEnd extends PacketEnd {
  readonly device?: DeviceFacts;
}

/** A grant that is taken to live. */
export interface GivenGrant {
  readonly server: ServerName;
  readonly device: ExternalId;
  readonly protocol: Protocol;
  readonly port: number;
}

export interface WalkedPacket {
  readonly from: WalkEnd;
  /** A device without an address: its endpoint in a grant. */
  readonly to: WalkEnd;
  readonly protocol: FilterProtocol;
  readonly port?: number;
  readonly sourcePort?: number;
  readonly type?: number;
  readonly given: readonly GivenGrant[];
}

/** What is known beside the policy. */
export interface FilterSite<End = PacketEnd> {
  /** Whether one end of a packet is a device of this group. */
  readonly isInGroup: (group: string, end: End) => boolean;
}

export type FilterVerdict =
  | { readonly verdict: 'drop' | 'allow'; readonly filter: Filter }
  | { readonly verdict: 'none' };

/** What the filters say of a packet that begins a flow; of any other packet, as far as drops go. */
export function judgePacket<End extends PacketEnd>(
  filters: readonly Filter[],
  packet: FilteredPacket & { readonly from: End; readonly to: End },
  site: FilterSite<End>,
): FilterVerdict {
  const said = (action: Filter['action']) =>
    filters.find((one) => one.action === action && !one.staged && matchesPacket(one, packet, site));
  const drop = said('drop');
  if (drop) return { verdict: 'drop', filter: drop };
  // Between devices nothing is opened, whatever is said: they are kept apart.
  const allow = packet.from.side !== packet.to.side && beginsFlow(packet) ? said('allow') : undefined;
  return allow ? { verdict: 'allow', filter: allow } : { verdict: 'none' };
}

function beginsFlow({
  protocol,
  type,
}: {
  readonly protocol: FilteredPacket['protocol'] | undefined;
  readonly type?: number;
}): boolean {
  return (protocol !== 'icmp' && protocol !== 'icmpv6') || BEGINNING_TYPES[protocol].some((one) => one === type);
}

/** Whether a filter speaks of messages that begin flows, to which there may be answers, and errors about them. */
export function mayBegin({ protocol, types }: Filter): boolean {
  return !types || types.some((type) => beginsFlow({ protocol, type }));
}

/** Whether a filter, staged or not, speaks of a packet: also where an allow opens nothing by that. */
export function matchesPacket<End extends PacketEnd>(
  filter: Filter,
  packet: FilteredPacket & { readonly from: End; readonly to: End },
  site: FilterSite<End>,
): boolean {
  const { from, to, protocol, ports, types } = filter;
  if (protocol !== undefined && protocol !== packet.protocol) return false;
  if (ports && !ports.some(({ low, high }) => packet.port !== undefined && low <= packet.port && packet.port <= high))
    return false;
  if (types && !types.some((type) => type === packet.type)) return false;
  if (!familiesOf(filter).includes(packet.family)) return false;
  return isAt(from, packet.from, site) && isAt(to, packet.to, site);
}

function isAt<End extends PacketEnd>(ends: Ends | undefined, end: End, { isInGroup }: FilterSite<End>): boolean {
  if (!ends) return true;
  const { side, address } = end;
  if (ends.sides.includes(side)) return true;
  if (address && ends.prefixes.some((prefix) => contains(prefix, address))) return true;
  return side === 'inside' && ends.groups.some((group) => isInGroup(group, end));
}

/** The families a filter can meet: those that its protocol and both its ends have. */
export function familiesOf({ protocol, from, to }: Pick<Filter, 'protocol' | 'from' | 'to'>): readonly Family[] {
  return (['ipv4', 'ipv6'] as const).filter(
    (family) =>
      (protocol !== 'icmp' || family === 'ipv4') &&
      (protocol !== 'icmpv6' || family === 'ipv6') &&
      [from, to].every((ends) => !ends || hasFamily(ends, family)),
  );
}

function hasFamily({ sides, prefixes, groups }: Ends, family: Family): boolean {
  return sides.length > 0 || groups.length > 0 || prefixes.some((prefix) => prefix.family === family);
}

/** What a grant would carry, both ways, as filters see it. */
interface GrantedFlow {
  readonly family: Family;
  readonly protocol: Protocol;
  /** Undefined where it is not known. */
  readonly device: InnerAddress | undefined;
  readonly devicePort: number;
  /** One address, or all of a server's sources. */
  readonly remotes: readonly Prefix[];
  /** Undefined: any. */
  readonly remotePort?: number | undefined;
}

/** The drop that meets a packet which a grant would carry, in whichever direction: the grant passes no filter later. */
export function dropOfGrant(filters: readonly Filter[], flow: GrantedFlow, site: FilterSite): Filter | undefined {
  const { family, protocol, devicePort, remotePort } = flow;
  const device: PacketEnd = { side: 'inside', ...flow.device };
  const remotes = flow.remotes.filter((prefix) => prefix.family === family);
  const isRemote = (ends: Ends | undefined) =>
    !ends ||
    ends.sides.includes('outside') ||
    ends.prefixes.some((prefix) => remotes.some((remote) => overlaps(prefix, remote)));
  const hasPort = ({ ports }: Filter, port: number | undefined) =>
    !ports || ports.some(({ low, high }) => port === undefined || (low <= port && port <= high));
  return filters.find((filter) => {
    if (filter.action !== 'drop' || filter.staged) return false;
    if (filter.protocol !== undefined && filter.protocol !== protocol) return false;
    if (!familiesOf(filter).includes(family)) return false;
    const inward = isRemote(filter.from) && isAt(filter.to, device, site) && hasPort(filter, devicePort);
    const outward = isAt(filter.from, device, site) && isRemote(filter.to) && hasPort(filter, remotePort);
    return inward || outward;
  });
}

/** What a filter speaks of, as a person would: `udp ports 161 from 192.0.2.0/28 to inside`. */
export function describeFilter({ from, to, protocol, ports, types }: Filter): string {
  const names = protocol === 'icmp' || protocol === 'icmpv6' ? Object.entries(ICMP_TYPES[protocol]) : [];
  const ranges = ports?.map(({ low, high }) => (low === high ? `${low}` : `${low}-${high}`));
  return [
    protocol ?? 'any protocol',
    ...(ranges ? [`ports ${ranges.join(', ')}`] : []),
    ...(types ? [`types ${types.map((type) => names.find(([, one]) => one === type)?.[0] ?? type).join(', ')}`] : []),
    `from ${describeEnds(from)} to ${describeEnds(to)}`,
  ].join(' ');
}

function describeEnds(ends: Ends | undefined): string {
  if (!ends) return 'any';
  const groups = ends.groups.map((group) => `group:${group}`);
  return [...ends.sides, ...ends.prefixes.map(({ text }) => text), ...groups].join(', ');
}
