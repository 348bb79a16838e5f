/**
 * What leaves: a frame as the slow twin (memory.ts) makes it of one that came.
 * Every sum is made from nothing, but that of a first fragment, whose rest is
 * not there. The gate's nat.h, normalise.h, fragments.h and icmp.h.
 */
import type { Address, Endpoint } from '../core/net.ts';
import { type Normalisation, PROTOCOL_NUMBERS, type Protocol } from '../core/words.ts';
import {
  ETHERNET,
  IPV4,
  IPV6,
  type Packet,
  type Piece,
  pseudoHeader,
  QUOTED,
  type Quote,
  type QuotedHeader,
  sum,
  TCP,
  UDP,
  viewOf,
  wireOf,
} from './frame.ts';

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

const OWN_HOPS = 64;
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

const [OPTION_END, OPTION_NOTHING, OPTION_MSS, OPTION_TIMESTAMPS] = [0, 1, 2, 8];

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
    at += size;
  }
}

/** A carried ICMP error, written anew: with what it says, and no more of what it quotes than names a flow. */
export function errorAnew(
  frame: Uint8Array,
  packet: Packet,
  quote: Quote,
  { end, to }: Pick<Change, 'end' | 'to'>,
  terms: Terms,
): Uint8Array {
  const inward = end === 'source';
  const six = packet.family === 'ipv6';
  const quoted = quotedAnew(frame, packet, { ...quote, protocol: PROTOCOL_NUMBERS[quote.protocol] }, terms);
  const view = viewOf(quoted);
  quoted.set(wireOf(to.address), (six ? 8 : 12) + (inward ? 0 : six ? 16 : 4));
  if (!six) sealHeader(quoted);
  const from = inward ? quote.source : quote.destination;
  const header = quoted.length - QUOTED;
  view.setUint16(header + (inward ? 0 : 2), to.port);
  const was = view.getUint16(header + 6);
  if (quote.protocol === 'udp' && was !== 0)
    view.setUint16(header + 6, ~folded((~was & 0xffff) + (~ends(from) & 0xffff) + ends(to)) & 0xffff);
  const ips = inward
    ? { source: packet.source, destination: to.address }
    : { source: to.address, destination: packet.destination };
  const message = messageAnew(frame, packet, packet.contentAt, quoted);
  return framed(frame, ips, message, terms.normalise.hopLimit || packet.hops - 1);
}

/** An error that leaves, and is about no grant's packet: written anew as it is. */
export function leavingError(
  frame: Uint8Array,
  packet: Packet,
  errorAt: number,
  quote: QuotedHeader,
  terms: Terms,
): Uint8Array {
  const message = messageAnew(frame, packet, errorAt, quotedAnew(frame, packet, quote, terms));
  return framed(frame, packet, message, terms.normalise.hopLimit || packet.hops);
}

function messageAnew(frame: Uint8Array, packet: Packet, errorAt: number, quoted: Uint8Array): Uint8Array {
  const [type = 0, code = 0] = frame.subarray(errorAt);
  return Uint8Array.of(type, code, 0, 0, ...meaningOf(frame, packet, errorAt), ...quoted);
}

/** A quoted header without options, whose hops all have, and what names its flow. */
function quotedAnew(
  frame: Uint8Array,
  { family }: Packet,
  { headerAt, contentAt, protocol }: Pick<QuotedHeader, 'headerAt' | 'contentAt' | 'protocol'>,
  { normalise: { hopLimit } }: Terms,
): Uint8Array {
  const six = family === 'ipv6';
  const quoted = Uint8Array.of(
    ...frame.subarray(headerAt, headerAt + (six ? IPV6 : IPV4)),
    ...frame.subarray(contentAt, contentAt + QUOTED),
  );
  if (hopLimit > 0) quoted[six ? 7 : 8] = hopLimit;
  if (six) quoted[6] = protocol;
  else {
    quoted[0] = 0x45;
    sealHeader(quoted);
  }
  return quoted;
}

/** The sum of the IPv4 header that stands there first, made. */
function sealHeader(bytes: Uint8Array): void {
  const view = viewOf(bytes);
  view.setUint16(10, 0);
  view.setUint16(10, sum(bytes.subarray(0, IPV4)));
}

/** The sum of an endpoint's words. */
function ends({ address, port }: Endpoint): number {
  return ~sum(Uint8Array.of(...wireOf(address), port >> 8, port & 0xff)) & 0xffff;
}

/** MTU or pointer, where the type has one; never how long the quote is (RFC 4884). */
function meaningOf(frame: Uint8Array, { family }: Packet, errorAt: number): readonly number[] {
  const [type = 0, code = 0, , , ...rest] = frame.subarray(errorAt, errorAt + 8);
  if (family === 'ipv6') return type === 2 || type === 4 ? rest : [0, 0, 0, 0];
  const [pointer = 0, , high = 0, low = 0] = rest;
  const isTooBig = type === 3 && code === 4;
  return [type === 12 ? pointer : 0, 0, isTooBig ? high : 0, isTooBig ? low : 0];
}

/** What the sender of a packet that does not fit is told (RFC 1191, RFC 8201), in the name of its peer. */
export function tooBig(
  frame: Uint8Array,
  packet: Packet,
  protocol: Protocol,
  mtu: number,
  { normalise: { hopLimit } }: Terms,
): Uint8Array {
  const six = packet.family === 'ipv6';
  const size = protocol === 'udp' ? UDP : TCP;
  const quoted = Uint8Array.from(frame.subarray(ETHERNET, packet.contentAt + size));
  const part = quoted.subarray(quoted.length - size);
  const sumAt = protocol === 'udp' ? 6 : 16;
  // Were the kernel to complete it, it would be the same again (icmp.h).
  viewOf(part).setUint16(sumAt, 0);
  const rest = sum(part);
  viewOf(part).setUint16(sumAt, ((rest >> 1) | (rest << 15)) & 0xffff);
  const head = six ? [2, 0, 0, 0, 0, 0, mtu >> 8, mtu & 0xff] : [3, 4, 0, 0, 0, 0, mtu >> 8, mtu & 0xff];
  const back = { source: packet.destination, destination: packet.source };
  return turned(framed(frame, back, Uint8Array.of(...head, ...quoted), hopLimit || OWN_HOPS));
}

/** What an echo request to an external address is answered, where a filter lets it in. */
export function echoReply(frame: Uint8Array, packet: Packet, { normalise: { hopLimit } }: Terms): Uint8Array {
  const bytes = turned(frame);
  const view = viewOf(bytes);
  const six = packet.family === 'ipv6';
  const at = ETHERNET + (six ? 8 : 12);
  bytes.set([...wireOf(packet.destination), ...wireOf(packet.source)], at);
  view.setUint8(ETHERNET + (six ? 7 : 8), hopLimit || OWN_HOPS);
  if (!six) {
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, sum(bytes.subarray(ETHERNET, packet.contentAt)));
  }
  view.setUint8(packet.contentAt, six ? 129 : 0);
  view.setUint16(packet.contentAt + 2, 0);
  const content = bytes.subarray(packet.contentAt, packet.contentEnd);
  const pseudo = six ? pseudoHeader(packet, packet.protocol, content.length) : [];
  view.setUint16(packet.contentAt + 2, sum(Uint8Array.of(...pseudo, ...content)));
  return bytes;
}

/** An ICMP message, whose sum is still to be made, in a packet of its own. */
function framed(
  frame: Uint8Array,
  ips: Pick<Packet, 'source' | 'destination'>,
  message: Uint8Array,
  hops: number,
): Uint8Array {
  const six = ips.source.family === 'ipv6';
  const header = new Uint8Array(six ? IPV6 : IPV4);
  const view = viewOf(header);
  const pseudo = six ? pseudoHeader(ips, 58, message.length) : [];
  viewOf(message).setUint16(2, sum(Uint8Array.of(...pseudo, ...message)));
  if (six) {
    header.set([0x60, 0, 0, 0, message.length >> 8, message.length & 0xff, 58, hops]);
    header.set([...wireOf(ips.source), ...wireOf(ips.destination)], 8);
  } else {
    const length = header.length + message.length;
    header.set([0x45, 0, length >> 8, length & 0xff, 0, 0, 0x40, 0, hops, 1]);
    header.set([...wireOf(ips.source), ...wireOf(ips.destination)], 12);
    view.setUint16(10, sum(header));
  }
  return Uint8Array.of(...frame.subarray(0, ETHERNET), ...header, ...message.subarray(0, message.length));
}

/** The same frame on its way back. */
function turned(frame: Uint8Array): Uint8Array {
  return Uint8Array.of(...frame.subarray(6, 12), ...frame.subarray(0, 6), ...frame.subarray(12));
}

function folded(total: number): number {
  let rest = total;
  while (rest > 0xffff) rest = (rest & 0xffff) + (rest >>> 16);
  return rest;
}
