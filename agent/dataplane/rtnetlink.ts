/**
 * What the kernel says of interfaces and routes, in the words of the domain:
 * rtnetlink's questions, and its answers read. linux/rtnetlink.h, if_link.h,
 * if_addr.h. Pure; the socket is netlink.ts.
 *
 * The filters of a question are the kernel's work (NETLINK_GET_STRICT_CHK).
 * What is answered is held against them again: a family that does not know a
 * filter answers with all it has.
 */
import { type Address, addressFromBytes, type Prefix, parsePrefix } from '../core/net.ts';
import { attributeIn, type Message, type Question, textIn, viewOf } from './netlink-message.ts';

export interface Link {
  readonly name: string;
  readonly ifindex: number;
  /** `ether` for everything with an Ethernet header, `none` where frames begin with IP (TUN); in iproute2's words. */
  readonly kind: string;
  /** The most bytes of IP that a packet may have there; 0: not said. */
  readonly mtu: number;
  readonly addresses: readonly Address[];
  /** What the kernel makes it of, such as `veth` or `vlan`, in iproute2's words; absent: a device has it, of silicon or of a hypervisor. */
  readonly virtual?: string;
  /** Whether XDP can redirect frames to it; absent: the kernel does not say (before Linux 6.3). */
  readonly takesFrames?: boolean;
}

/** Marks our routes among others' (`ip route show proto 109`); 109 is 'm', and unassigned. */
export const ROUTE_PROTOCOL = 109;

const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;
const RTM_GETADDR = 22;
const RTM_NEWROUTE = 24;
const RTM_GETROUTE = 26;
/** struct ifinfomsg, ifaddrmsg, rtmsg */
const LINK_HEADER = 16;
const ADDRESS_HEADER = 8;
const ROUTE_HEADER = 12;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINKINFO = 18;
const IFLA_INFO_KIND = 1;
/** An attribute of 8 bytes, IFLA_EXT_MASK: without an interface's counters (RTEXT_FILTER_SKIP_STATS), half of the answer. */
const WITHOUT_COUNTERS = [8, 0, 29, 0, 8, 0, 0, 0] as const;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const RT_SCOPE_LINK = 253;
const RTA_DST = 1;
const RTA_TABLE = 15;
const RT_TABLE_MAIN = 254;
const RTN_BLACKHOLE = 6;
/** Bytes of an address, by address family; others have no addresses that we know. */
const WIDTHS: Readonly<Record<number, number>> = { 2: 4, 10: 16 };
const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] as const;

/** Types of interface (linux/if_arp.h) that a gateway may have, as iproute2 names them. */
const KINDS: Readonly<Record<number, string>> = {
  1: 'ether',
  32: 'infiniband',
  512: 'ppp',
  519: 'rawip',
  768: 'ipip',
  769: 'tunnel6',
  772: 'loopback',
  776: 'sit',
  778: 'gre',
  823: 'gre6',
  65534: 'none',
  65535: 'void',
};

export const ALL_LINKS: Question = {
  what: 'the interfaces',
  type: RTM_GETLINK,
  dump: true,
  body: Uint8Array.of(...new Uint8Array(LINK_HEADER), ...WITHOUT_COUNTERS),
};

export const ALL_ADDRESSES: Question = {
  what: 'the addresses',
  type: RTM_GETADDR,
  dump: true,
  body: new Uint8Array(ADDRESS_HEADER),
};

/** Family (any), lengths, TOS; table, protocol, scope, type; flags. */
export const OUR_BLACKHOLES: Question = {
  what: 'the blackhole routes',
  type: RTM_GETROUTE,
  dump: true,
  body: Uint8Array.of(0, 0, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, 0, RTN_BLACKHOLE, 0, 0, 0, 0),
};

/**
 * Interfaces with their addresses. An address whose interface has come since, or gone, is left out. `takers`: the
 * interfaces that take redirected frames, where the kernel says so.
 */
export function readLinks(
  links: readonly Message[],
  addresses: readonly Message[],
  takers?: ReadonlySet<number>,
): Link[] {
  const held = new Map<number, Address[]>();
  for (const { type, body } of addresses) {
    const view = viewOf(body, ADDRESS_HEADER);
    const width = WIDTHS[view.getUint8(0)];
    // Link-local addresses stand on every interface and are never routed.
    if (type !== RTM_NEWADDR || width === undefined || view.getUint8(3) === RT_SCOPE_LINK) continue;
    // Where there is a peer, IFA_ADDRESS is the peer's; where IFA_LOCAL is missing, there is none.
    const bytes = attributeIn(body, ADDRESS_HEADER, IFA_LOCAL) ?? attributeIn(body, ADDRESS_HEADER, IFA_ADDRESS);
    if (bytes === undefined) continue;
    const ifindex = view.getUint32(4, true);
    const list = held.get(ifindex) ?? [];
    list.push(addressOf(bytes, width));
    held.set(ifindex, list);
  }
  return links.flatMap(({ type, body }) => {
    const view = viewOf(body, LINK_HEADER);
    const name = attributeIn(body, LINK_HEADER, IFLA_IFNAME);
    const mtu = attributeIn(body, LINK_HEADER, IFLA_MTU);
    const about = attributeIn(body, LINK_HEADER, IFLA_LINKINFO);
    const virtual = about && attributeIn(about, 0, IFLA_INFO_KIND);
    if (type !== RTM_NEWLINK || name === undefined) return [];
    const hardware = view.getUint16(2, true);
    const ifindex = view.getInt32(4, true);
    const kind = KINDS[hardware] ?? `[${hardware}]`;
    return {
      name: textIn(name),
      ifindex,
      kind,
      mtu: mtu ? viewOf(mtu, 4).getUint32(0, true) : 0,
      addresses: held.get(ifindex) ?? [],
      ...(virtual && { virtual: textIn(virtual) }),
      ...(takers && { takesFrames: takers.has(ifindex) }),
    };
  });
}

/** Where our blackholes lead to: those of the main table, of both families. */
export function readBlackholes(routes: readonly Message[]): Prefix[] {
  return routes.flatMap(({ type, body }) => {
    const view = viewOf(body, ROUTE_HEADER);
    const width = WIDTHS[view.getUint8(0)];
    const isOurs = view.getUint8(5) === ROUTE_PROTOCOL && view.getUint8(7) === RTN_BLACKHOLE;
    if (type !== RTM_NEWROUTE || width === undefined || !isOurs || tableOf(body, view) !== RT_TABLE_MAIN) return [];
    const to = addressOf(attributeIn(body, ROUTE_HEADER, RTA_DST) ?? new Uint8Array(width), width); // none: to all
    const prefix = parsePrefix(`${to.text}/${view.getUint8(1)}`);
    return typeof prefix === 'string' ? [] : prefix;
  });
}

/** Tables past 255 stand in an attribute only. */
function tableOf(body: Uint8Array, view: DataView): number {
  const table = attributeIn(body, ROUTE_HEADER, RTA_TABLE);
  return table ? viewOf(table, 4).getUint32(0, true) : view.getUint8(4);
}

/** @throws AgentError netlinkFailed where it has too few bytes for its family */
function addressOf(bytes: Uint8Array, width: number): Address {
  viewOf(bytes, width);
  return addressFromBytes(width === 4 ? Uint8Array.of(...MAPPED, ...bytes.subarray(0, 4)) : bytes.subarray(0, 16));
}
