/**
 * One Ethernet frame, read the way a textbook would: what the slow twin
 * (memory.ts) asks of it. What it makes of one stands in leaving.ts.
 *
 * Reading is total: any bytes give an answer, none throws. What is read is
 * strict, as in the gate's parse.h: a length that contradicts the frame or
 * another length is malformed, and so is an IPv4-mapped address on the wire
 * (RFC 4291, 2.5.5.2), which would pass for an IPv4 one.
 * RFC 791, 8200 (IP), 768, 9293 (UDP, TCP), 792, 4443 (ICMP), 1071 (sums).
 */
import { type Address, addressFromBytes, contains, type Endpoint, type Family, prefix } from '../core/net.ts';
import type { DenialReason } from '../core/reasons.ts';
import { PROTOCOL_NUMBERS, PROTOCOLS, type Protocol } from '../core/words.ts';

export const ETHERNET = 14;
export const IPV4 = 20;
export const IPV6 = 40;
export const UDP = 8;
export const TCP = 20;
const ICMP = 8;

const HOP_BY_HOP = 0;
const IPV6_FRAGMENT = 44;
const FRAGMENT_HEADER = 8;
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
  /** IPv4 without DF: it may be cut into fragments. */
  readonly mayBeCut: boolean;
  /** Of plain TCP or UDP, which a grant can carry; of any other packet, why none can, or not as it is. */
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
    mayBeCut: (view.getUint8(ETHERNET + 6) & 0x40) === 0,
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
    mayBeCut: false,
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

/** An ICMP message on its way out, behind whatever headers. `isPiece`: the first of a datagram. */
export interface IcmpMessage {
  readonly at: number;
  readonly type: number;
  readonly isPiece: boolean;
}

/** `none`: of another protocol, or a later fragment of one; `malformed`: it cannot be read that far. */
export function icmpMessage(frame: Uint8Array, packet: Packet): IcmpMessage | 'none' | 'malformed' {
  const content = packet.family === 'ipv6' ? skipExtensions(frame, packet) : skipNothing(frame, packet);
  if (content === 'laterFragment') return 'none';
  if (content === 'malformed') return 'malformed';
  const { protocol, at, isPiece } = content;
  if (protocol !== ICMP_OF[packet.family].protocol) return 'none';
  const type = frame[at];
  return type === undefined ? 'malformed' : { at, type, isPiece };
}

type Content =
  | { readonly protocol: number; readonly at: number; readonly isPiece: boolean }
  | 'laterFragment'
  | 'malformed';

function skipNothing(frame: Uint8Array, { protocol, contentAt, ports }: Packet): Content {
  const offset = viewOf(frame).getUint16(ETHERNET + 6) & 0x1fff;
  return offset === 0 ? { protocol, at: contentAt, isPiece: ports === 'fragment' } : 'laterFragment';
}

function skipExtensions(frame: Uint8Array, packet: Packet): Content {
  const view = viewOf(frame);
  let { protocol, contentAt: at } = packet;
  let isPiece = false;
  for (let skipped = 0; IPV6_OPTIONS.includes(protocol) || protocol === IPV6_FRAGMENT; skipped++) {
    if (skipped === IPV6_EXTENSIONS_MAX || at + 4 > frame.length) return 'malformed';
    const next = view.getUint8(at);
    const units = view.getUint8(at + 1);
    if (protocol === IPV6_FRAGMENT) {
      if ((view.getUint16(at + 2) & 0xfff8) !== 0) return 'laterFragment';
      isPiece = true;
      at += 8;
    } else at += protocol === AUTHENTICATION ? (units + 2) * 4 : (units + 1) * 8;
    protocol = next;
  }
  return { protocol, at, isPiece };
}

/** A packet in pieces: which of them it is, and what of its transport shows. */
export interface Piece {
  readonly protocol: Protocol;
  /** Bytes of the datagram's content, where this piece begins and ends. */
  readonly offset: number;
  readonly end: number;
  readonly more: boolean;
  readonly identification: number;
  /** Where in the frame. */
  readonly contentAt: number;
  /** Of the first piece. */
  readonly ports?: { readonly source: number; readonly destination: number };
}

const MOST_CONTENT = 65_535;

/** A fragment that a grant could carry; else why not (RFC 791; RFC 8200, 4.5; RFC 1858; RFC 7112, 5). */
export function readPiece(frame: Uint8Array, packet: Packet): Piece | 'ofAnotherProtocol' | 'broken' {
  const fields = packet.family === 'ipv4' ? ipv4Fragment(frame, packet) : ipv6Fragment(frame, packet);
  if (!fields) return 'broken';
  const { number, contentAt, offset, more } = fields;
  const protocol = PROTOCOLS.find((one) => PROTOCOL_NUMBERS[one] === number);
  if (!protocol) return 'ofAnotherProtocol';
  const length = packet.contentEnd - contentAt;
  const end = offset + length;
  if (length <= 0 || end > MOST_CONTENT || (more && length % 8 !== 0)) return 'broken';
  const piece = { ...fields, protocol, end };
  if (offset > 0) return piece;
  const view = viewOf(frame);
  if (protocol === 'udp') {
    if (length < UDP) return 'broken';
    const stated = view.getUint16(contentAt + 4);
    if (stated < UDP || (!more && stated > length)) return 'broken';
  } else {
    const header = length < TCP ? 0 : (view.getUint8(contentAt + 12) >> 4) * 4;
    if (header < TCP || header > length) return 'broken';
  }
  return { ...piece, ports: { source: view.getUint16(contentAt), destination: view.getUint16(contentAt + 2) } };
}

function ipv4Fragment(frame: Uint8Array, { protocol, contentAt }: Packet) {
  const view = viewOf(frame);
  const word = view.getUint16(ETHERNET + 6);
  return {
    number: protocol,
    contentAt,
    offset: (word & 0x1fff) * 8,
    more: (word & 0x2000) !== 0,
    identification: view.getUint16(ETHERNET + 4),
  };
}

function ipv6Fragment(frame: Uint8Array, { contentAt, contentEnd }: Packet) {
  if (contentAt + FRAGMENT_HEADER > contentEnd) return undefined;
  const view = viewOf(frame);
  const word = view.getUint16(contentAt + 2);
  return {
    number: view.getUint8(contentAt),
    contentAt: contentAt + FRAGMENT_HEADER,
    offset: word & 0xfff8,
    more: (word & 1) !== 0,
    identification: view.getUint32(contentAt + 4),
  };
}

/** The packet that an ICMP error is about, of those that a grant could have carried. */
export interface Quote {
  readonly source: Endpoint;
  readonly destination: Endpoint;
  readonly protocol: Protocol;
  /** Where in the frame its IP header and its transport's begin. */
  readonly headerAt: number;
  readonly contentAt: number;
}

/** Behind a quoted IP header as much is needed, and carried on. */
export const QUOTED = 8;

export function isIcmp(packet: Packet): boolean {
  return packet.ports === 'protocolNotCarried' && packet.protocol === ICMP_OF[packet.family].protocol;
}

/** The type of an ICMP message that has all of its header; `malformed` where it has not. */
export function icmpHeaderType(frame: Uint8Array, packet: Packet): number | 'malformed' {
  return packet.contentAt + ICMP > packet.contentEnd ? 'malformed' : viewOf(frame).getUint8(packet.contentAt);
}

export function isIcmpError(packet: Packet, type: number): boolean {
  return ICMP_OF[packet.family].isError(type);
}

export function isEchoRequest(packet: Packet, type: number): boolean {
  return ICMP_OF[packet.family].echoRequest === type;
}

/** Whether grants carry errors of this type; outward none that shows where hops are used up. */
export function isCarriedError(packet: Packet, type: number, outward: boolean): boolean {
  const six = packet.family === 'ipv6';
  const timeExceeded = six ? 3 : 11;
  return (six ? [1, 2, 4] : [3, 12]).includes(type) || (type === timeExceeded && !outward);
}

/** The header of the packet that an ICMP error is about, as it stands in the frame. */
export interface QuotedHeader {
  readonly source: Address;
  readonly destination: Address;
  readonly protocol: number;
  readonly headerAt: number;
  readonly contentAt: number;
  readonly isLaterPiece: boolean;
}

/** What an error quotes that begins there; undefined: no header of its family. */
export function readQuotedHeader(frame: Uint8Array, { family }: Packet, errorAt: number): QuotedHeader | undefined {
  const headerAt = errorAt + ICMP;
  const six = family === 'ipv6';
  const view = viewOf(frame);
  if (headerAt + (six ? IPV6 : IPV4) > frame.length || view.getUint8(headerAt) >> 4 !== (six ? 6 : 4)) return undefined;
  let contentAt = headerAt + (six ? IPV6 : (view.getUint8(headerAt) & 15) * 4);
  if (contentAt < headerAt + IPV4) return undefined;
  let protocol = view.getUint8(headerAt + (six ? 6 : 9));
  let isLaterPiece = !six && (view.getUint16(headerAt + 6) & 0x1fff) !== 0;
  if (six && protocol === IPV6_FRAGMENT) {
    if (contentAt + 4 > frame.length) return undefined;
    isLaterPiece = (view.getUint16(contentAt + 2) & 0xfff8) !== 0;
    protocol = view.getUint8(contentAt);
    contentAt += FRAGMENT_HEADER;
  }
  const [source, destination] = six
    ? [ipv6At(frame, headerAt + 8), ipv6At(frame, headerAt + 24)]
    : [ipv4At(frame, headerAt + 12), ipv4At(frame, headerAt + 16)];
  return { source, destination, protocol, headerAt, contentAt, isLaterPiece };
}

/** RFC 5508, REQ-3 and 4; a quote may have options (REQ-3b), or be of a first piece. */
export function readQuote(frame: Uint8Array, packet: Packet): Quote | undefined {
  const header = readQuotedHeader(frame, packet, packet.contentAt);
  const protocol = PROTOCOLS.find((one) => PROTOCOL_NUMBERS[one] === header?.protocol);
  if (!header || !protocol || header.isLaterPiece || header.contentAt + QUOTED > packet.contentEnd) return undefined;
  const { source, destination, headerAt, contentAt } = header;
  const view = viewOf(frame);
  return {
    source: { address: source, port: view.getUint16(contentAt) },
    destination: { address: destination, port: view.getUint16(contentAt + 2) },
    ...{ protocol, headerAt, contentAt },
  };
}

/** Longer errors there are none. */
const LONGEST_ERROR = 2048;

export function icmpSumHolds(frame: Uint8Array, packet: Packet): boolean {
  const content = frame.subarray(packet.contentAt, packet.contentEnd);
  if (content.length > LONGEST_ERROR) return false;
  const pseudo = packet.family === 'ipv6' ? pseudoHeader(packet, packet.protocol, content.length) : [];
  return sum(Uint8Array.of(...pseudo, ...content)) === 0;
}

/** What sums of transports, and of ICMPv6, cover before their own bytes (RFC 8200, 8.1). */
export function pseudoHeader(
  { source, destination }: Pick<Packet, 'source' | 'destination'>,
  protocol: number,
  length: number,
): readonly number[] {
  return [...wireOf(source), ...wireOf(destination), 0, protocol, length >> 8, length & 0xff];
}

/** An address as its family has it in a header. */
export function wireOf({ family, bytes }: Address): Uint8Array {
  return family === 'ipv4' ? bytes.subarray(12) : bytes;
}

function ipv4At(frame: Uint8Array, at: number): Address {
  return addressFromBytes(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...frame.subarray(at, at + 4)));
}

function ipv6At(frame: Uint8Array, at: number): Address {
  return addressFromBytes(frame.subarray(at, at + 16));
}

/** The Internet checksum (RFC 1071). */
export function sum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) total += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return ~total & 0xffff;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
