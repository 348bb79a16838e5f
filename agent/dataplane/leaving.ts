/**
 * What leaves: a frame as the slow twin (memory.ts) makes it of one that came.
 * Every sum is made from nothing, but that of a first fragment, whose rest is
 * not there. The gate's nat.h, normalise.h and fragments.h.
 */
import type { Address, Endpoint } from '../core/net.ts';
import { type Normalisation, PROTOCOL_NUMBERS } from '../core/words.ts';
import { ETHERNET, IPV4, type Packet, pseudoHeader, sum, TCP, viewOf, wireOf } from './frame.ts';
import type { Piece } from './pieces.ts';

/** By what the headers of carried packets are made alike. */
export interface Terms {
  readonly normalise: Normalisation;
  readonly identificationKey: bigint;
}

/** What becomes of one end of a carried packet. */
export interface Change {
  /** `source`: it goes outward. */
  readonly end: 'source' | 'destination';
  readonly to: Endpoint;
  /** The grant's number. */
  readonly number: number;
  /** The largest segment that both links take; undefined: any. */
  readonly mss?: number | undefined;
  /** The stack forwards it, and takes a hop. */
  readonly byStack?: boolean;
}

const ECN = 3;
const SYN = 2;

/** A TCP or UDP packet, or a piece of one, with an end rewritten and its headers made alike. */
export function translated(
  frame: Uint8Array,
  packet: Packet,
  piece: Piece | undefined,
  change: Change,
  terms: Terms,
): Uint8Array {
  const bytes = Uint8Array.from(frame);
  const view = viewOf(bytes);
  const { contentEnd } = packet;
  const contentAt = piece?.contentAt ?? packet.contentAt;
  const protocol = piece ? PROTOCOL_NUMBERS[piece.protocol] : packet.protocol;
  const hasTransport = !piece || piece.offset === 0;
  const isUdp = protocol === PROTOCOL_NUMBERS.udp;
  const sumAt = contentAt + (isUdp ? 6 : 16);
  const length = contentEnd - contentAt;
  const covered = () => {
    const all = [...pseudoHeader(endsOf(bytes, packet), 0, 0), ...bytes.subarray(contentAt, contentEnd)];
    const at = all.length - length + sumAt - contentAt;
    all[at] = all[at + 1] = 0;
    return ~sum(Uint8Array.from(all)) & 0xffff;
  };
  const before = hasTransport ? covered() : 0;

  writeHeader(bytes, packet, piece, change, terms);
  if (!hasTransport) return bytes;
  view.setUint16(change.end === 'source' ? contentAt : contentAt + 2, change.to.port);
  if (!isUdp && ((bytes[contentAt + 13] ?? 0) & SYN) !== 0) amendOptions(bytes, contentAt, change.mss, terms.normalise);
  // A UDP sum of zero says that there is none, and stays so; one that comes out as zero is sent as all ones.
  const was = view.getUint16(sumAt);
  if (isUdp && was === 0) return bytes;
  view.setUint16(sumAt, 0);
  const whole = isUdp ? view.getUint16(contentAt + 4) : length;
  const made = piece
    ? ~folded((~was & 0xffff) + (~before & 0xffff) + covered()) & 0xffff
    : sum(
        Uint8Array.of(
          ...pseudoHeader(endsOf(bytes, packet), protocol, whole),
          ...bytes.subarray(contentAt, contentAt + whole),
        ),
      );
  view.setUint16(sumAt, isUdp && made === 0 ? 0xffff : made);
  return bytes;
}

/** The packet's ends as they stand in its header by now. */
function endsOf(bytes: Uint8Array, { family, source, destination }: Packet): Pick<Packet, 'source' | 'destination'> {
  const size = family === 'ipv4' ? 4 : 16;
  const at = ETHERNET + (family === 'ipv4' ? 12 : 8);
  const now = (address: Address, from: number): Address => {
    const all = Uint8Array.from(address.bytes);
    all.set(bytes.subarray(from, from + size), 16 - size);
    return { ...address, bytes: all };
  };
  return { source: now(source, at), destination: now(destination, at + size) };
}

function writeHeader(
  bytes: Uint8Array,
  packet: Packet,
  piece: Piece | undefined,
  { end, to, number, byStack = false }: Change,
  { normalise, identificationKey }: Terms,
): void {
  const view = viewOf(bytes);
  const outward = end === 'source';
  const wire = wireOf(to.address);
  const hops = (normalise.hopLimit || packet.hops - 1) + (byStack ? 1 : 0);
  const key = (identificationKey ^ BigInt(number)) & MASK64;
  if (packet.family === 'ipv4') {
    bytes.set(wire, ETHERNET + (outward ? 12 : 16));
    view.setUint8(ETHERNET + 8, hops);
    if (normalise.trafficClass) view.setUint8(ETHERNET + 1, view.getUint8(ETHERNET + 1) & ECN);
    if (outward && normalise.identification) {
      const isAtomic = !packet.mayBeCut && !piece; // RFC 6864, 4.1
      view.setUint16(ETHERNET + 4, isAtomic ? 0 : permuted(view.getUint16(ETHERNET + 4), 8, key));
    }
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, sum(bytes.subarray(ETHERNET, ETHERNET + IPV4)));
    return;
  }
  bytes.set(wire, ETHERNET + (outward ? 8 : 24));
  view.setUint8(ETHERNET + 7, hops);
  let word = view.getUint32(ETHERNET);
  if (normalise.trafficClass) word &= ~((0xff ^ ECN) << 20);
  if (outward && normalise.flowLabel) word &= ~0xfffff;
  view.setUint32(ETHERNET, word >>> 0);
  if (outward && piece && normalise.identification)
    view.setUint32(piece.contentAt - 4, permuted(piece.identification, 16, key));
}

const MASK64 = 0xffff_ffff_ffff_ffffn;

/** Another number for each, of 2 * `bits` bits (a Feistel network); normalise.h draws the same. */
function permuted(number: number, bits: number, grant: bigint): number {
  let key = (grant * 0x9e3779b97f4a7c15n) & MASK64;
  const mask = 2 ** bits - 1;
  let left = number >>> bits;
  let right = number & mask;
  for (let round = 0; round < 4; round++) {
    const mixed = Math.imul((right ^ Number(key & 0xffff_ffffn)) >>> 0, 0x85ebca6b) >>> 0;
    [left, right] = [right, (left ^ ((mixed ^ (mixed >>> 15)) & mask)) >>> 0];
    key = ((key >> 16n) | (key << 48n)) & MASK64;
  }
  return ((left << bits) | right) >>> 0;
}

const [OPTION_END, OPTION_NOTHING, OPTION_MSS, OPTION_TIMESTAMPS, OPTION_MPTCP] = [0, 1, 2, 8, 30];

function amendOptions(bytes: Uint8Array, contentAt: number, mss: number | undefined, normalise: Normalisation): void {
  const view = viewOf(bytes);
  const end = contentAt + (view.getUint8(contentAt + 12) >> 4) * 4;
  for (let at = contentAt + TCP; at + 1 < end; ) {
    const [kind, size] = [view.getUint8(at), view.getUint8(at + 1)];
    if (kind === OPTION_END) return;
    if (kind === OPTION_NOTHING) {
      at += 1;
      continue;
    }
    if (size < 2 || at + size > end) return;
    if (kind === OPTION_MSS && size === 4 && mss !== undefined && view.getUint16(at + 2) > mss)
      view.setUint16(at + 2, mss);
    if (kind === OPTION_TIMESTAMPS && size === 10 && normalise.timestamps) bytes.fill(OPTION_NOTHING, at, at + size);
    if (kind === OPTION_MPTCP) bytes.fill(OPTION_NOTHING, at, at + size);
    at += size;
  }
}

/** A sum of 16-bit words, carries added in (RFC 1071). */
export function folded(total: number): number {
  let rest = total;
  while (rest > 0xffff) rest = (rest & 0xffff) + (rest >>> 16);
  return rest;
}
