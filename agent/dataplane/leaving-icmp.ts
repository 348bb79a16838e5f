/**
 * ICMP messages that the gate writes, as the slow twin (memory.ts) makes them:
 * errors anew, and answers of its own. The gate's icmp.h and answers.h.
 */
import type { Endpoint } from '../core/net.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../core/words.ts';
import { ETHERNET, IPV4, IPV6, type Packet, pseudoHeader, sum, TCP, UDP, viewOf, wireOf } from './frame.ts';
import { QUOTED, type Quote, type QuotedHeader } from './frame-icmp.ts';
import { type Change, folded, type Terms } from './leaving.ts';

const OWN_HOPS = 64;

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
  // Were the kernel to complete it, it would be the same again (answers.h).
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
