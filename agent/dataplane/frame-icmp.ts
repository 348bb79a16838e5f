/**
 * What an ICMP message in a frame says, and what it quotes, to the slow twin
 * (memory.ts). The gate's icmp.h, and guards.h where a gateway is addressed.
 * RFC 792, 4443 (ICMP), 4861 (neighbour discovery), 2710, 3810 (listeners).
 */
import { type Address, contains, type Endpoint, prefix } from '../core/net.ts';
import { PROTOCOL_NUMBERS, PROTOCOLS, type Protocol } from '../core/words.ts';
import {
  AUTHENTICATION,
  ETHERNET,
  FRAGMENT_HEADER,
  IPV4,
  IPV6,
  IPV6_FRAGMENT,
  IPV6_OPTIONS,
  ipv4At,
  ipv6At,
  type Packet,
  pseudoHeader,
  sum,
  viewOf,
} from './frame.ts';

const ICMP = 8;
const HOP_BY_HOP = 0;
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
