/**
 * One Ethernet frame, read the way a textbook would: what the slow twin
 * (memory.ts) asks of it, and the same frame with an endpoint rewritten and
 * every sum made from nothing.
 *
 * Reading is total: any bytes give an answer, none throws. What is read is
 * strict, as in the gate's parse.h: a length that contradicts the frame or
 * another length is malformed, and so is an IPv4-mapped address on the wire
 * (RFC 4291, 2.5.5.2), which would pass for an IPv4 one.
 * RFC 791, 8200 (IP), 768, 9293 (UDP, TCP), 792, 4443 (ICMP), 1071 (sums).
 */
import { type Address, addressFromBytes, contains, type Endpoint, type Family, prefix } from '../core/net.ts';
import type { DenialReason } from '../core/reasons.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../core/words.ts';

const ETHERNET = 14;
const IPV4 = 20;
const IPV6 = 40;
const UDP = 8;
const TCP = 20;
const ICMP = 8;

const HOP_BY_HOP = 0;
const IPV6_FRAGMENT = 44;
const AUTHENTICATION = 51;
/** Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6 (RFC 7045, 4). */
const IPV6_OPTIONS: readonly number[] = [0, 43, AUTHENTICATION, 60, 135, 139, 140];
const IPV6_EXTENSIONS_MAX = 4;

/** What messages of ICMP mean, where it differs by family (RFC 792; RFC 4443; RFC 4861, 4). */
const ICMP_OF = {
  ipv4: { protocol: 1, echoRequest: 8, isError: (type: number) => [3, 4, 5, 11, 12].includes(type) },
  ipv6: { protocol: 58, echoRequest: 128, isError: (type: number) => type < 128 },
} as const;
/** Router solicitation, neighbour solicitation, neighbour advertisement: what a device may say to its router. */
const NEIGHBOUR_DISCOVERY: readonly number[] = [133, 135, 136];
/** Report and done of version 1, report of version 2. */
const LISTENER_REPORTS: readonly number[] = [131, 132, 143];
const MULTICAST = prefix('ff00::/8');

const IMPOSSIBLE_SOURCES = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4', '255.255.255.255/32', '::1/128', 'ff00::/8'].map(
  prefix,
);
const LINK_LOCAL_MULTICAST = prefix('ff02::/16');

interface Ports {
  readonly protocol: Protocol;
  readonly source: number;
  readonly destination: number;
}

export interface Packet {
  readonly family: Family;
  readonly source: Address;
  readonly destination: Address;
  /** IPv4 protocol, or the first next header of IPv6. */
  readonly protocol: number;
  readonly hops: number;
  /** Where what the IP header carries begins and ends in the frame; behind it a frame may be padded. */
  readonly contentAt: number;
  readonly contentEnd: number;
  /** Of plain TCP or UDP, which a grant can carry; of any other packet, why none can. */
  readonly ports: Ports | DenialReason;
}

/** A frame's packet; `other` where it carries no IP, or not of this interface (VLAN). */
export function readFrame(frame: Uint8Array): Packet | 'other' | 'malformed' {
  if (frame.length < ETHERNET) return 'malformed';
  const etherType = viewOf(frame).getUint16(12);
  if (etherType === 0x0800) return readIpv4(frame);
  if (etherType === 0x86dd) return readIpv6(frame);
  return 'other';
}

function readIpv4(frame: Uint8Array): Packet | 'malformed' {
  if (frame.length < ETHERNET + IPV4) return 'malformed';
  const view = viewOf(frame);
  const version = view.getUint8(ETHERNET) >> 4;
  const headerLength = (view.getUint8(ETHERNET) & 15) * 4;
  const totalLength = view.getUint16(ETHERNET + 2);
  if (version !== 4 || headerLength < IPV4 || totalLength < headerLength) return 'malformed';
  if (ETHERNET + totalLength > frame.length) return 'malformed';
  const isFragment = (view.getUint16(ETHERNET + 6) & 0x3fff) !== 0; // more to come, or an offset
  const packet = {
    family: 'ipv4',
    source: ipv4At(frame, ETHERNET + 12),
    destination: ipv4At(frame, ETHERNET + 16),
    protocol: view.getUint8(ETHERNET + 9),
    hops: view.getUint8(ETHERNET + 8),
    contentAt: ETHERNET + headerLength,
    contentEnd: ETHERNET + totalLength,
  } as const;
  if (headerLength > IPV4) return { ...packet, ports: 'headerOptions' };
  if (isFragment) return { ...packet, ports: 'fragment' };
  return { ...packet, ports: readPorts(frame, packet) };
}

function readIpv6(frame: Uint8Array): Packet | 'malformed' {
  if (frame.length < ETHERNET + IPV6) return 'malformed';
  const view = viewOf(frame);
  const contentAt = ETHERNET + IPV6;
  const contentEnd = contentAt + view.getUint16(ETHERNET + 4);
  if (view.getUint8(ETHERNET) >> 4 !== 6 || contentEnd > frame.length) return 'malformed';
  const packet = {
    family: 'ipv6',
    source: ipv6At(frame, ETHERNET + 8),
    destination: ipv6At(frame, ETHERNET + 24),
    protocol: view.getUint8(ETHERNET + 6),
    hops: view.getUint8(ETHERNET + 7),
    contentAt,
    contentEnd,
  } as const;
  if (packet.source.family === 'ipv4' || packet.destination.family === 'ipv4') return 'malformed';
  if (IPV6_OPTIONS.includes(packet.protocol)) return { ...packet, ports: 'headerOptions' };
  if (packet.protocol === IPV6_FRAGMENT) return { ...packet, ports: 'fragment' };
  return { ...packet, ports: readPorts(frame, packet) };
}

function readPorts(frame: Uint8Array, packet: Omit<Packet, 'ports'>): Ports | DenialReason {
  const { protocol, contentAt, contentEnd } = packet;
  const view = viewOf(frame);
  const length = contentEnd - contentAt;
  if (protocol === PROTOCOL_NUMBERS.udp) {
    if (length < UDP) return 'malformed';
    const stated = view.getUint16(contentAt + 4);
    if (stated < UDP || stated > length) return 'malformed';
  } else if (protocol === PROTOCOL_NUMBERS.tcp) {
    if (length < TCP) return 'malformed';
    const headerLength = (view.getUint8(contentAt + 12) >> 4) * 4;
    if (headerLength < TCP || headerLength > length) return 'malformed';
  } else return 'protocolNotCarried';
  return {
    protocol: protocol === PROTOCOL_NUMBERS.udp ? 'udp' : 'tcp',
    source: view.getUint16(contentAt),
    destination: view.getUint16(contentAt + 2),
  };
}

/**
 * A source that no packet from a network has. The unspecified address is one
 * as well, but for what IPv6 itself says with it on the link (RFC 4861, 4.3).
 */
export function hasImpossibleSource({ source, destination }: Packet): boolean {
  if (source.text === '::') return !contains(LINK_LOCAL_MULTICAST, destination);
  return IMPOSSIBLE_SOURCES.some((impossible) => contains(impossible, source));
}

/** The type of an ICMP message that is no fragment; `none`: another protocol. */
export function icmpType(frame: Uint8Array, packet: Packet): number | 'none' | 'malformed' {
  if (packet.protocol !== ICMP_OF[packet.family].protocol) return 'none';
  return packet.contentAt === packet.contentEnd ? 'malformed' : viewOf(frame).getUint8(packet.contentAt);
}

/** Of a plain ICMP packet, what it is to a gateway that is addressed. */
export function icmpMeaning(frame: Uint8Array, packet: Packet): 'neighbourDiscovery' | 'echoRequest' | 'other' {
  if (packet.ports !== 'protocolNotCarried') return 'other';
  const type = icmpType(frame, packet);
  if (typeof type === 'string') return 'other';
  if (type === ICMP_OF[packet.family].echoRequest) return 'echoRequest';
  // From beyond the link it could not have 255 hops left (RFC 4861, 3.1).
  const isDiscovery = packet.family === 'ipv6' && packet.hops === 255 && NEIGHBOUR_DISCOVERY.includes(type);
  return isDiscovery ? 'neighbourDiscovery' : 'other';
}

/** A report of a multicast listener, behind the router alert and for one hop (RFC 2710, 3; RFC 3810, 5). */
export function isListenerReport(frame: Uint8Array, packet: Packet): boolean {
  const { destination, protocol, hops, contentAt, contentEnd } = packet;
  if (protocol !== HOP_BY_HOP || hops !== 1 || !contains(MULTICAST, destination)) return false;
  if (contentAt + 8 >= contentEnd) return false;
  const [next, units] = frame.subarray(contentAt);
  return next === ICMP_OF.ipv6.protocol && units === 0 && LISTENER_REPORTS.includes(frame[contentAt + 8] ?? 0);
}

/**
 * The addresses that an ICMP error quotes: source and destination of the
 * packet it complains about. None where it is no error, or a later fragment
 * of one; `malformed` where it cannot be read that far.
 */
export function quotedAddresses(frame: Uint8Array, packet: Packet): readonly Address[] | 'malformed' {
  const content = packet.family === 'ipv6' ? skipExtensions(frame, packet) : skipNothing(frame, packet);
  if (content === 'laterFragment') return [];
  if (content === 'malformed') return 'malformed';
  const { protocol, at } = content;
  const { protocol: icmp, isError } = ICMP_OF[packet.family];
  if (protocol !== icmp) return [];
  const type = frame[at];
  if (type === undefined) return 'malformed';
  if (!isError(type)) return [];
  const quoteAt = at + ICMP;
  const six = packet.family === 'ipv6';
  if (quoteAt + (six ? IPV6 : IPV4) > frame.length) return 'malformed';
  if (viewOf(frame).getUint8(quoteAt) >> 4 !== (six ? 6 : 4)) return 'malformed';
  return six
    ? [ipv6At(frame, quoteAt + 8), ipv6At(frame, quoteAt + 24)]
    : [ipv4At(frame, quoteAt + 12), ipv4At(frame, quoteAt + 16)];
}

type Content = { readonly protocol: number; readonly at: number } | 'laterFragment' | 'malformed';

function skipNothing(frame: Uint8Array, { protocol, contentAt }: Packet): Content {
  const offset = viewOf(frame).getUint16(ETHERNET + 6) & 0x1fff;
  return offset === 0 ? { protocol, at: contentAt } : 'laterFragment';
}

function skipExtensions(frame: Uint8Array, packet: Packet): Content {
  const view = viewOf(frame);
  let { protocol, contentAt: at } = packet;
  for (let skipped = 0; IPV6_OPTIONS.includes(protocol) || protocol === IPV6_FRAGMENT; skipped++) {
    if (skipped === IPV6_EXTENSIONS_MAX || at + 4 > frame.length) return 'malformed';
    const next = view.getUint8(at);
    const units = view.getUint8(at + 1);
    if (protocol === IPV6_FRAGMENT) {
      if ((view.getUint16(at + 2) & 0xfff8) !== 0) return 'laterFragment';
      at += 8;
    } else at += protocol === AUTHENTICATION ? (units + 2) * 4 : (units + 1) * 8;
    protocol = next;
  }
  return { protocol, at };
}

/** The frame with one endpoint replaced, one hop fewer, and its sums made from nothing. */
export function rewrite(
  frame: Uint8Array,
  packet: Packet,
  which: 'source' | 'destination',
  endpoint: Endpoint,
): Uint8Array {
  const bytes = Uint8Array.from(frame);
  const view = viewOf(bytes);
  const { family, contentAt, contentEnd, protocol } = packet;
  const first = which === 'source';
  const wire = family === 'ipv4' ? endpoint.address.bytes.subarray(12) : endpoint.address.bytes;
  const addressesAt = ETHERNET + (family === 'ipv4' ? 12 : 8);
  bytes.set(wire, first ? addressesAt : addressesAt + wire.length);
  view.setUint16(first ? contentAt : contentAt + 2, endpoint.port);
  view.setUint8(ETHERNET + (family === 'ipv4' ? 8 : 7), packet.hops - 1);
  if (family === 'ipv4') {
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, sum(bytes.subarray(ETHERNET, contentAt)));
  }

  const isUdp = protocol === PROTOCOL_NUMBERS.udp;
  const sumAt = contentAt + (isUdp ? 6 : 16);
  // A UDP sum of zero says that there is none, and stays so; one that comes out as zero is sent as all ones.
  if (isUdp && view.getUint16(sumAt) === 0) return bytes;
  view.setUint16(sumAt, 0);
  const length = isUdp ? view.getUint16(contentAt + 4) : contentEnd - contentAt;
  const addresses = bytes.subarray(addressesAt, addressesAt + 2 * wire.length);
  const pseudoHeader = [...addresses, 0, protocol, length >> 8, length & 0xff];
  const made = sum(Uint8Array.of(...pseudoHeader, ...bytes.subarray(contentAt, contentAt + length)));
  view.setUint16(sumAt, isUdp && made === 0 ? 0xffff : made);
  return bytes;
}

function ipv4At(frame: Uint8Array, at: number): Address {
  return addressFromBytes(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...frame.subarray(at, at + 4)));
}

function ipv6At(frame: Uint8Array, at: number): Address {
  return addressFromBytes(frame.subarray(at, at + 16));
}

/** The Internet checksum (RFC 1071). */
function sum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) total += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return ~total & 0xffff;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
