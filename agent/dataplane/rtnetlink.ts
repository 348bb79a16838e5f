/**
 * What the kernel says of interfaces and routes, in the words of the domain:
 * rtnetlink's questions, and its answers read. linux/rtnetlink.h, if_link.h,
 * if_addr.h. Pure; the socket is netlink.ts.
 *
 * The filters of a question are the kernel's work (NETLINK_GET_STRICT_CHK).
 * What is answered is held against them again: a family that does not know a
 * filter answers with all it has.
 */
import { type Address, addressFromBytes, addressFromIpv4, type Family, type Prefix, parsePrefix } from '../core/net.ts';
import { attributeIn, type Message, type Question, textIn, viewOf } from './netlink-message.ts';

export interface Link {
  readonly name: string;
  readonly ifindex: number;
  /** `ether` for everything with an Ethernet header, `none` where frames begin with IP (TUN); in iproute2's words. */
  readonly kind: string;
  /** The most bytes of IP that a packet may have there; 0: not said. */
  readonly mtu: number;
  readonly addresses: readonly Address[];
  /** By which this host is reached together with all others there: IPv4's broadcast, IPv6's anycast of routers (RFC 4291, 2.6.1). */
  readonly shared?: readonly Address[];
  /** What the kernel makes it of, such as `veth` or `vlan`, in iproute2's words; absent: a device has it, of silicon or of a hypervisor. */
  readonly virtual?: string;
  /** Whether XDP can redirect frames to it; absent: the kernel does not say (before Linux 6.3). */
  readonly takesFrames?: boolean;
  /** Whether its hardware takes VLAN tags out of frames, so that XDP does not see them; absent: not asked. */
  readonly takesTags?: boolean;
}

/** Marks our routes among others' (`ip route show proto 109`); 109 is 'm', and unassigned. */
export const ROUTE_PROTOCOL = 109;

const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;
const RTM_GETADDR = 22;
const RTM_NEWROUTE = 24;
const RTM_GETROUTE = 26;
const RTM_NEWRULE = 32;
const RTM_GETRULE = 34;
/** struct ifinfomsg, ifaddrmsg, rtmsg (and fib_rule_hdr) */
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
const IFA_BROADCAST = 4;
const RT_SCOPE_LINK = 253;
const RTA_DST = 1;
const RTA_TABLE = 15;
const RT_TABLE_MAIN = 254;
const RTN_BLACKHOLE = 6;
const FRA_IP_PROTO = 22;
const FRA_DSCP = 25;
const FRA_FLOWLABEL = 26;
/** Bytes of an address, by address family; others have no addresses that we know. */
const WIDTHS: Readonly<Record<number, number>> = { 2: 4, 10: 16 };

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

/** The rules that choose a routing table, of both families. */
export const ALL_RULES: Question = {
  what: 'the routing rules',
  type: RTM_GETRULE,
  dump: true,
  body: new Uint8Array(ROUTE_HEADER),
};

/** The families in which a rule looks at a packet's source, TOS, protocol or flow label: `ip rule`, man 8 ip-rule. */
export function readRoutedByMore(rules: readonly Message[]): Family[] {
  const families = rules.flatMap(({ type, body }): Family[] => {
    const view = viewOf(body, ROUTE_HEADER);
    const family = view.getUint8(0) === 2 ? 'ipv4' : view.getUint8(0) === 10 ? 'ipv6' : undefined;
    const [sourceLength, tos] = [view.getUint8(2), view.getUint8(3)];
    const looks = [FRA_IP_PROTO, FRA_DSCP, FRA_FLOWLABEL].some((one) => attributeIn(body, ROUTE_HEADER, one));
    return type === RTM_NEWRULE && family && (sourceLength > 0 || tos > 0 || looks) ? [family] : [];
  });
  return [...new Set(families)].sort();
}

/**
 * Interfaces with their addresses. An address whose interface has come since, or gone, is left out. `takers`: the
 * interfaces that take redirected frames, where the kernel says so.
 */
export function readLinks(
  links: readonly Message[],
  addresses: readonly Message[],
  takers?: ReadonlySet<number>,
): Link[] {
  const held = new Map<number, { readonly own: Address[]; readonly shared: Address[] }>();
  for (const { type, body } of addresses) {
    const view = viewOf(body, ADDRESS_HEADER);
    const width = WIDTHS[view.getUint8(0)];
    // Link-local addresses stand on every interface and are never routed.
    if (type !== RTM_NEWADDR || width === undefined || view.getUint8(3) === RT_SCOPE_LINK) continue;
    // Where there is a peer, IFA_ADDRESS is the peer's; where IFA_LOCAL is missing, there is none.
    const bytes = attributeIn(body, ADDRESS_HEADER, IFA_LOCAL) ?? attributeIn(body, ADDRESS_HEADER, IFA_ADDRESS);
    if (bytes === undefined) continue;
    const ifindex = view.getUint32(4, true);
    const here = held.get(ifindex) ?? { own: [], shared: [] };
    held.set(ifindex, here);
    here.own.push(addressOf(bytes, width));
    const network = attributeIn(body, ADDRESS_HEADER, IFA_ADDRESS) ?? bytes;
    const said = attributeIn(body, ADDRESS_HEADER, IFA_BROADCAST);
    here.shared.push(...sharedIn(network, width, view.getUint8(1)), ...(said ? [addressOf(said, width)] : []));
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
      addresses: held.get(ifindex)?.own ?? [],
      shared: held.get(ifindex)?.shared ?? [],
      ...(virtual && { virtual: textIn(virtual) }),
      ...(takers && { takesFrames: takers.has(ifindex) }),
    };
  });
}

/** What all on a link are reached by, in a prefix that has room for it (RFC 919, RFC 3021; RFC 4291, 2.6.1, RFC 6164). */
function sharedIn(network: Uint8Array, width: number, length: number): Address[] {
  if (length > width * 8 - 2) return [];
  const bytes = network.slice(0, width);
  for (let bit = length; bit < width * 8; bit++) {
    const mask = 0x80 >> (bit & 7);
    bytes[bit >> 3] = width === 4 ? (bytes[bit >> 3] as number) | mask : (bytes[bit >> 3] as number) & ~mask;
  }
  return [addressOf(bytes, width)];
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
  return width === 4 ? addressFromIpv4(bytes.subarray(0, 4)) : addressFromBytes(bytes.subarray(0, 16));
}
