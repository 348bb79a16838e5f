/**
 * One Ethernet frame, read the way a textbook would: what the slow twin
 * (memory.ts) asks of it. ICMP stands in frame-icmp.ts, fragments in
 * pieces.ts; what the twin makes of a frame in leaving.ts and leaving-icmp.ts.
 *
 * Reading is total: any bytes give an answer, none throws. What is read is
 * strict, as in the gate's parse.h: a length that contradicts the frame or
 * another length is malformed, and so is an IPv4-mapped address on the wire
 * (RFC 4291, 2.5.5.2), which would pass for an IPv4 one.
 * RFC 791, 8200 (IP), 768, 9293 (UDP, TCP), 1071 (sums).
 */
import { type Address, addressFromBytes, addressFromIpv4, contains, type Family, prefix } from '../core/net.ts';
import type { DenialReason } from '../core/reasons.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../core/words.ts';

export const ETHERNET = 14;
export const IPV4 = 20;
export const IPV6 = 40;
export const UDP = 8;
export const TCP = 20;

export const AUTHENTICATION = 51;
export const IPV6_FRAGMENT = 44;
export const FRAGMENT_HEADER = 8;
/** Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6 (RFC 7045, 4). */
export const IPV6_OPTIONS: readonly number[] = [0, 43, AUTHENTICATION, 60, 135, 139, 140];

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

export function ipv4At(frame: Uint8Array, at: number): Address {
  return addressFromIpv4(frame.subarray(at, at + 4));
}

export function ipv6At(frame: Uint8Array, at: number): Address {
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
