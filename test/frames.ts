/**
 * Builds packets for tests, from the inside out: a transport part, an IP
 * packet around it, an Ethernet frame around that. Lengths and sums come out
 * right by themselves (RFC 791, 8200, 768, 9293, 792, 4443, 1071); a row that
 * wants a wrong one says so with `spoil`.
 *
 *   ethernet(ip('203.0.113.9', '198.51.100.1', udp(40000, 5683, 'hello')))
 */
import { type Address, address } from '../agent/core/net.ts';

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;

const FRAGMENT_HEADER = 44;

/** What an IP packet carries; some sums cover the addresses, so they are made late. */
export interface Upper {
  readonly protocol: number;
  bytes(source: Address, destination: Address): Uint8Array;
}

export interface IpFields {
  /** TTL or hop limit; 64. */
  readonly hops?: number;
  /** IPv4 options, a multiple of 4 bytes. */
  readonly options?: Uint8Array;
  /** IPv6 extension headers of 8 bytes each, by number (0 hop-by-hop, 60 destination, 43 routing), in order. */
  readonly extensions?: readonly number[];
  /** Makes the packet a fragment; `offset` in bytes, a multiple of 8. */
  readonly fragment?: { readonly offset: number; readonly more: boolean };
  /** IPv4's don't-fragment bit. */
  readonly dontFragment?: boolean;
  readonly id?: number;
  readonly trafficClass?: number;
  /** IPv6. */
  readonly flowLabel?: number;
}

/** Bytes from text (UTF-8) or from a count of them. */
export function filler(content: string | number | Uint8Array): Uint8Array {
  if (typeof content === 'number') return Uint8Array.from({ length: content }, (_, i) => i & 0xff);
  return typeof content === 'string' ? new TextEncoder().encode(content) : content;
}

export function udp(
  from: number,
  to: number,
  content: string | number | Uint8Array = '',
  fields: { readonly noChecksum?: boolean } = {},
): Upper {
  return {
    protocol: 17,
    bytes(source, destination) {
      const payload = filler(content);
      const part = concat(new Uint8Array(8), payload);
      const view = viewOf(part);
      view.setUint16(0, from);
      view.setUint16(2, to);
      view.setUint16(4, part.length);
      // All ones where the sum comes out as zero, which means "none" (RFC 768).
      if (!fields.noChecksum) view.setUint16(6, transportSum(17, source, destination, part) || 0xffff);
      return part;
    },
  };
}

const TCP_SYN = 0x02;
export const TCP_ACK = 0x10;

export function tcp(
  from: number,
  to: number,
  content: string | number | Uint8Array = '',
  flags = TCP_SYN,
  fields: { readonly sequence?: number; readonly acknowledges?: number; readonly options?: readonly number[] } = {},
): Upper {
  const { options = [] } = fields;
  return {
    protocol: 6,
    bytes(source, destination) {
      const part = concat(new Uint8Array(20), Uint8Array.from(options), filler(content));
      const view = viewOf(part);
      view.setUint16(0, from);
      view.setUint16(2, to);
      view.setUint32(4, fields.sequence ?? 0x01020304);
      view.setUint32(8, fields.acknowledges ?? 0);
      view.setUint8(12, (5 + options.length / 4) << 4);
      view.setUint8(13, flags);
      view.setUint16(14, 64240);
      view.setUint16(16, transportSum(6, source, destination, part));
      return part;
    },
  };
}

/** ICMP or ICMPv6, by the family of the packet it is put into. `rest` is the second word of the header. */
export function icmp(
  family: 'icmp' | 'icmpv6',
  type: number,
  code: number,
  content: string | number | Uint8Array = '',
  rest = 0,
): Upper {
  const protocol = family === 'icmp' ? 1 : 58;
  return {
    protocol,
    bytes(source, destination) {
      const part = concat(new Uint8Array(8), filler(content));
      const view = viewOf(part);
      view.setUint8(0, type);
      view.setUint8(1, code);
      view.setUint32(4, rest);
      view.setUint16(2, family === 'icmp' ? fold(sum(part)) : transportSum(58, source, destination, part));
      return part;
    },
  };
}

/** Any other protocol, or a later fragment. */
export function raw(protocol: number, content: string | number | Uint8Array = ''): Upper {
  return { protocol, bytes: () => filler(content) };
}

/** An IP packet, without a link layer; the addresses' family decides which. */
export function ip(from: string, to: string, upper: Upper, fields: IpFields = {}): Uint8Array {
  const source = address(from);
  const destination = address(to);
  if (source.family !== destination.family) throw new RangeError(`${from} and ${to} are of two families`);
  const content = upper.bytes(source, destination);
  return source.family === 'ipv4'
    ? ipv4(source, destination, upper.protocol, content, fields)
    : ipv6(source, destination, upper.protocol, content, fields);
}

/** A packet in pieces, cut where it is said: bytes of its content, multiples of 8. As a router would, or a sender. */
export function cut(packet: Uint8Array, ...places: readonly number[]): Uint8Array[] {
  const six = (packet[0] ?? 0) >> 4 === 6;
  const header = packet.subarray(0, six ? 40 : 20);
  const content = packet.subarray(header.length);
  return [0, ...places].map((from, i) => {
    const part = content.subarray(from, places[i]);
    return fragment(header, from, i < places.length, part);
  });
}

/** One piece, whatever it holds and wherever it says it belongs; the identification of IPv6 is `id`. */
export function fragment(
  header: Uint8Array,
  offset: number,
  more: boolean,
  content: Uint8Array,
  id = 0x89ab_cdef,
): Uint8Array {
  const six = (header[0] ?? 0) >> 4 === 6;
  const piece = concat(header, six ? new Uint8Array(8) : new Uint8Array(), content);
  const view = viewOf(piece);
  if (six) {
    view.setUint8(40, header[6] ?? 0);
    view.setUint16(42, offset | (more ? 1 : 0));
    view.setUint32(44, id);
    view.setUint8(6, FRAGMENT_HEADER);
    view.setUint16(4, piece.length - 40);
    return piece;
  }
  view.setUint16(2, piece.length);
  view.setUint16(6, (more ? 0x2000 : 0) | (offset >> 3));
  view.setUint16(10, 0);
  view.setUint16(10, fold(sum(piece.subarray(0, 20))));
  return piece;
}

/** A frame around a packet; `vlan`: what stands in its 802.1Q tags, the outer one first. */
export function ethernet(
  packet: Uint8Array,
  fields: { readonly etherType?: number; readonly vlan?: number | readonly number[] } = {},
): Uint8Array {
  const type = fields.etherType ?? ((packet[0] ?? 0) >> 4 === 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
  const tags = [fields.vlan ?? []].flat();
  const header = new Uint8Array(14 + 4 * tags.length);
  header.set([0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01]);
  const view = viewOf(header);
  for (const [i, tag] of tags.entries()) {
    view.setUint16(12 + 4 * i, 0x8100);
    view.setUint16(14 + 4 * i, tag);
  }
  view.setUint16(header.length - 2, type);
  return concat(header, packet);
}

/** A copy with some bytes overwritten: a wrong length, a wrong version. */
export function spoil(bytes: Uint8Array, offset: number, ...values: readonly number[]): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy.set(values, offset);
  return copy;
}

/** Whether the sums of a TCP, UDP, ICMP or ICMPv6 packet (no link layer, no fragment, no extension header) hold. */
export function sumsHold(packet: Uint8Array): boolean {
  const six = (packet[0] ?? 0) >> 4 === 6;
  const view = viewOf(packet);
  const headerLength = six ? 40 : ((packet[0] ?? 0) & 15) * 4;
  if (!six && fold(sum(packet.subarray(0, headerLength))) !== 0) return false;
  const end = six ? 40 + view.getUint16(4) : view.getUint16(2);
  const part = packet.subarray(headerLength, end);
  const protocol = packet[six ? 6 : 9] ?? 0;
  if (protocol === 17 && viewOf(part).getUint16(6) === 0) return !six;
  if (protocol === 1) return fold(sum(part)) === 0;
  const addresses = six ? packet.subarray(8, 40) : packet.subarray(12, 20);
  return fold(sum(part) + sum(addresses) + part.length + protocol) === 0;
}

function ipv4(source: Address, destination: Address, protocol: number, content: Uint8Array, fields: IpFields) {
  const header = new Uint8Array(20 + (fields.options?.length ?? 0));
  header.set(fields.options ?? [], 20);
  const view = viewOf(header);
  const { offset, more } = fields.fragment ?? { offset: 0, more: false };
  view.setUint8(0, (4 << 4) | (header.length / 4));
  view.setUint8(1, fields.trafficClass ?? 0);
  view.setUint16(2, header.length + content.length);
  view.setUint16(4, fields.id ?? 0x1234);
  view.setUint16(6, (fields.dontFragment ? 0x4000 : 0) | (more ? 0x2000 : 0) | (offset >> 3));
  view.setUint8(8, fields.hops ?? 64);
  view.setUint8(9, protocol);
  header.set(source.bytes.subarray(12), 12);
  header.set(destination.bytes.subarray(12), 16);
  view.setUint16(10, fold(sum(header)));
  return concat(header, content);
}

function ipv6(source: Address, destination: Address, protocol: number, content: Uint8Array, fields: IpFields) {
  const { fragment } = fields;
  const chain = [...(fields.extensions ?? []), ...(fragment ? [FRAGMENT_HEADER] : [])];
  const extensions = chain.map((type, i) => {
    const next = chain[i + 1] ?? protocol;
    if (type !== FRAGMENT_HEADER || !fragment) return Uint8Array.of(next, 0, 1, 4, 0, 0, 0, 0); // PadN
    const word = fragment.offset | (fragment.more ? 1 : 0);
    return Uint8Array.of(
      next,
      0,
      word >> 8,
      word & 0xff,
      0,
      0,
      (fields.id ?? 0x1234) >> 8,
      (fields.id ?? 0x1234) & 0xff,
    );
  });
  const header = new Uint8Array(40);
  const view = viewOf(header);
  view.setUint32(0, ((6 << 28) | ((fields.trafficClass ?? 0) << 20) | (fields.flowLabel ?? 0)) >>> 0);
  view.setUint16(4, extensions.length * 8 + content.length);
  view.setUint8(6, chain[0] ?? protocol);
  view.setUint8(7, fields.hops ?? 64);
  header.set(source.bytes, 8);
  header.set(destination.bytes, 24);
  return concat(header, ...extensions, content);
}

function transportSum(protocol: number, source: Address, destination: Address, part: Uint8Array): number {
  // Of the mapped form only what is on the wire.
  const from = source.family === 'ipv4' ? 12 : 0;
  const addresses = sum(source.bytes.subarray(from)) + sum(destination.bytes.subarray(from));
  return fold(addresses + protocol + part.length + sum(part));
}

/** The 16-bit words of a sum of one's complement (RFC 1071), and what of them stands in a header. */
export function sum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) total += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  return total;
}

export function fold(total: number): number {
  let rest = total;
  while (rest > 0xffff) rest = (rest & 0xffff) + Math.floor(rest / 0x10000);
  return ~rest & 0xffff;
}

function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
