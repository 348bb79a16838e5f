/**
 * Datagrams in pieces, as the slow twin (memory.ts) reads and follows them:
 * what the first piece said of each, and where the next must begin. The gate's
 * fragments.h; there an LRU map bounds them, here nothing does.
 */
import { PROTOCOL_NUMBERS, PROTOCOLS, type Protocol } from '../core/words.ts';
import type { Mapping } from './dataplane.ts';
import { ETHERNET, FRAGMENT_HEADER, type Packet, TCP, UDP, viewOf } from './frame.ts';

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

const LAST_NS = 5_000_000_000n;
const NONE_FOLLOWS = 65_536;

type Ports = NonNullable<Piece['ports']>;

interface Datagram {
  readonly sinceNs: bigint;
  readonly of: Pick<Mapping, 'index' | 'number'>;
  readonly ports: Ports;
  next: number;
}

/** Where pieces come from: the outside, or a realm. */
type From = 'outside' | number;

export class Pieces {
  readonly #datagrams = new Map<string, Datagram>();

  /** The first piece's word on a later one that comes in its order. */
  follow(from: From, packet: Packet, piece: Piece, nowNs: bigint): Pick<Datagram, 'of' | 'ports'> | undefined {
    const known = this.#known(from, packet, piece, nowNs);
    if (!known) return undefined;
    if (known.next === piece.offset) return known;
    if (piece.offset < known.next) known.next = NONE_FOLLOWS;
    return undefined;
  }

  /** A piece that is carried. False: a second first one, which ends what was begun. */
  remember(from: From, packet: Packet, ports: Ports, piece: Piece, of: Datagram['of'], nowNs: bigint): boolean {
    const known = this.#known(from, packet, piece, nowNs);
    if (piece.offset > 0) {
      if (known) known.next = piece.end;
      if (!piece.more) this.#datagrams.delete(keyOf(from, packet, piece));
      return true;
    }
    if (known?.of.number === of.number) {
      known.next = NONE_FOLLOWS;
      return false;
    }
    if (piece.more) this.#datagrams.set(keyOf(from, packet, piece), { sinceNs: nowNs, of, ports, next: piece.end });
    return true;
  }

  #known(from: From, packet: Packet, piece: Piece, nowNs: bigint): Datagram | undefined {
    const known = this.#datagrams.get(keyOf(from, packet, piece));
    return known && known.sinceNs + LAST_NS > nowNs ? known : undefined;
  }
}

function keyOf(from: From, { source, destination }: Packet, { protocol, identification }: Piece): string {
  return `${from} ${source.text} ${destination.text} ${protocol} ${identification}`;
}
