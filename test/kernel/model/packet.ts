/**
 * IP packets as this model reads and rewrites them: what a NAT changes is
 * changed, and every sum made from nothing. Only of packets that the cases
 * build, which are well formed: what is malformed is the gate's to see, and
 * the twin of the gate (memory.ts) is held against it.
 */
import { type Address, addressFromBytes, type Family } from '../../../agent/core/net.ts';
import { fold, sum } from '../../frames.ts';

const HEADER = { ipv4: 20, ipv6: 40 } as const;
const FRAGMENT = 44;
const DESTINATION_OPTIONS = 60;
/** Hop-by-hop, routing, destination options: all of 8 bytes and more. */
const EXTENSIONS: readonly number[] = [0, 43, DESTINATION_OPTIONS];
const ICMP_ERRORS = { ipv4: [3, 4, 5, 11, 12], ipv6: [1, 2, 3, 4] } as const;

export interface Packet {
  readonly bytes: Uint8Array;
  readonly family: Family;
  readonly source: Address;
  readonly destination: Address;
  readonly hops: number;
  /** Behind extension headers. */
  readonly protocol: number;
  readonly upperAt: number;
  /** Options that no packet is forwarded with: of IPv4 any, of IPv6 hop-by-hop and routing. */
  readonly isSteered: boolean;
  readonly fragment?: {
    readonly offset: number;
    readonly more: boolean;
    readonly id: number;
    readonly headerAt: number;
  };
  readonly ports?: { readonly source: number; readonly destination: number };
  readonly tcp?: { readonly flags: number; readonly sequence: number };
  readonly icmp?: { readonly type: number; readonly code: number; readonly id: number };
  /** Where an ICMP error quotes another packet. */
  readonly quoteAt?: number;
}

export function read(bytes: Uint8Array): Packet {
  const view = viewOf(bytes);
  const family: Family = (bytes[0] ?? 0) >> 4 === 6 ? 'ipv6' : 'ipv4';
  const network = family === 'ipv4' ? readIpv4(bytes, view) : readIpv6(bytes, view);
  const { protocol, upperAt, fragment } = network;
  const packet = { bytes, family, ...network };
  const isFirst = (fragment?.offset ?? 0) === 0;
  if (!isFirst || upperAt + 8 > bytes.length) return packet;
  if (protocol === 6 || protocol === 17) {
    const ports = { source: view.getUint16(upperAt), destination: view.getUint16(upperAt + 2) };
    if (protocol === 17) return { ...packet, ports };
    return { ...packet, ports, tcp: { flags: bytes[upperAt + 13] ?? 0, sequence: view.getUint32(upperAt + 4) } };
  }
  if (protocol !== (family === 'ipv4' ? 1 : 58)) return packet;
  const type = bytes[upperAt] ?? 0;
  const icmp = { type, code: bytes[upperAt + 1] ?? 0, id: view.getUint16(upperAt + 4) };
  const isError = (ICMP_ERRORS[family] as readonly number[]).includes(type);
  return { ...packet, icmp, ...(isError && { quoteAt: upperAt + 8 }) };
}

function readIpv4(bytes: Uint8Array, view: DataView) {
  const word = view.getUint16(6);
  const [offset, more] = [(word & 0x1fff) * 8, (word & 0x2000) !== 0];
  return {
    source: ipv4At(bytes, 12),
    destination: ipv4At(bytes, 16),
    hops: bytes[8] ?? 0,
    protocol: bytes[9] ?? 0,
    upperAt: ((bytes[0] ?? 0) & 15) * 4,
    isSteered: ((bytes[0] ?? 0) & 15) * 4 > HEADER.ipv4,
    ...((offset > 0 || more) && { fragment: { offset, more, id: view.getUint16(4), headerAt: 6 } }),
  };
}

function readIpv6(bytes: Uint8Array, view: DataView) {
  let protocol = bytes[6] ?? 0;
  let upperAt: number = HEADER.ipv6;
  let isSteered = false;
  let fragment: Packet['fragment'];
  for (;;) {
    const next = bytes[upperAt] ?? 59;
    if (protocol === FRAGMENT) {
      const word = view.getUint16(upperAt + 2);
      fragment = { offset: word & 0xfff8, more: (word & 1) === 1, id: view.getUint32(upperAt + 4), headerAt: upperAt };
      upperAt += 8;
      protocol = next;
      if (fragment.offset > 0) break;
    } else if (EXTENSIONS.includes(protocol)) {
      if (protocol !== DESTINATION_OPTIONS) isSteered = true;
      upperAt += ((bytes[upperAt + 1] ?? 0) + 1) * 8;
      protocol = next;
    } else break;
  }
  return {
    source: addressFromBytes(bytes.subarray(8, 24)),
    destination: addressFromBytes(bytes.subarray(24, 40)),
    hops: bytes[7] ?? 0,
    protocol,
    upperAt,
    isSteered,
    ...(fragment && { fragment }),
  };
}

/** What a NAT, and forwarding, may change. */
export interface Changes {
  readonly source?: Address;
  readonly destination?: Address;
  /** Ports, or the ICMP id for either. */
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  /** Its headers are made like all others': which way it goes. */
  readonly alike?: 'inward' | 'outward';
  readonly quote?: Changes;
}

/** The packet with these changes, and its sums made anew. Of a fragment: the header alone. */
export function translated(packet: Packet, changes: Changes): Uint8Array {
  const bytes = Uint8Array.from(packet.bytes);
  const view = viewOf(bytes);
  const { family, upperAt, ports, icmp, quoteAt } = packet;
  const put = (address: Address | undefined, at: number) => {
    if (address) bytes.set(family === 'ipv4' ? address.bytes.subarray(12) : address.bytes, at);
  };
  put(changes.source, family === 'ipv4' ? 12 : 8);
  put(changes.destination, family === 'ipv4' ? 16 : 24);
  if (changes.alike) makeAlike(bytes, family, changes.alike);
  if (ports && changes.sourcePort !== undefined) view.setUint16(upperAt, changes.sourcePort);
  if (ports && changes.destinationPort !== undefined) view.setUint16(upperAt + 2, changes.destinationPort);
  const id = changes.sourcePort ?? changes.destinationPort;
  if (icmp && quoteAt === undefined && id !== undefined) view.setUint16(upperAt + 4, id);
  if (quoteAt !== undefined && changes.quote)
    bytes.set(translated(read(packet.bytes.subarray(quoteAt)), changes.quote), quoteAt);
  if (family === 'ipv4') {
    view.setUint16(10, 0);
    view.setUint16(10, fold(sum(bytes.subarray(0, upperAt))));
  }
  if (!packet.fragment) putUpperSum(packet, bytes, view);
  return bytes;
}

/** As by default (Normalisation): so many hops, ECN alone of the traffic class, and no flow label outward. */
function makeAlike(bytes: Uint8Array, family: Family, way: 'inward' | 'outward'): void {
  bytes[family === 'ipv4' ? 8 : 7] = 64;
  if (family === 'ipv4') {
    bytes[1] = (bytes[1] ?? 0) & 3;
    return;
  }
  const view = viewOf(bytes);
  view.setUint32(0, (view.getUint32(0) & (way === 'outward' ? 0xf030_0000 : 0xf03f_ffff)) >>> 0);
}

/** The same with another identification. IPv4. */
export function numbered(packet: Uint8Array, id: number): Uint8Array {
  const bytes = Uint8Array.from(packet);
  const view = viewOf(bytes);
  view.setUint16(4, id);
  view.setUint16(10, 0);
  view.setUint16(10, fold(sum(bytes.subarray(0, read(packet).upperAt))));
  return bytes;
}

function putUpperSum({ family, protocol, upperAt }: Packet, bytes: Uint8Array, view: DataView): void {
  const at = { 1: 2, 6: 16, 17: 6, 58: 2 }[protocol];
  if (at === undefined || upperAt + at + 2 > bytes.length) return;
  const isUdp = protocol === 17;
  if (isUdp && view.getUint16(upperAt + at) === 0) return; // it has none
  view.setUint16(upperAt + at, 0);
  const part = bytes.subarray(upperAt);
  const addresses = family === 'ipv4' ? bytes.subarray(12, 20) : bytes.subarray(8, 40);
  const pseudo = protocol === 1 ? 0 : sum(addresses) + protocol + part.length;
  const made = fold(sum(part) + pseudo);
  view.setUint16(upperAt + at, isUdp && made === 0 ? 0xffff : made);
}

/** The whole that these pieces are of, or undefined while one is missing. */
export function assembled(pieces: readonly Uint8Array[]): Uint8Array | undefined {
  const parts = pieces.map(read).sort((a, b) => (a.fragment?.offset ?? 0) - (b.fragment?.offset ?? 0));
  const [first] = parts;
  if (first?.fragment?.offset !== 0) return undefined;
  let end = 0;
  for (const { fragment, bytes, upperAt } of parts) {
    if (fragment?.offset !== end) return undefined;
    end += bytes.length - upperAt;
  }
  if (parts.at(-1)?.fragment?.more) return undefined;
  const upper = parts.flatMap(({ bytes, upperAt }) => [...bytes.subarray(upperAt)]);
  const { headerAt } = first.fragment;
  if (first.family === 'ipv4') {
    const whole = Uint8Array.of(...first.bytes.subarray(0, first.upperAt), ...upper);
    const view = viewOf(whole);
    view.setUint16(headerAt, view.getUint16(headerAt) & 0x4000);
    view.setUint16(2, whole.length);
    view.setUint16(10, 0);
    view.setUint16(10, fold(sum(whole.subarray(0, first.upperAt))));
    return whole;
  }
  const whole = Uint8Array.of(...first.bytes.subarray(0, headerAt), ...upper);
  whole[6] = first.bytes[headerAt] ?? 0; // no extension stands before it in these cases
  viewOf(whole).setUint16(4, whole.length - HEADER.ipv6);
  return whole;
}

function ipv4At(bytes: Uint8Array, at: number): Address {
  return addressFromBytes(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...bytes.subarray(at, at + 4)));
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
