/**
 * Datagrams in pieces, as the slow twin (memory.ts) follows them: what the
 * first piece said of each, and where the next must begin. The gate's
 * fragments.h; there an LRU map bounds them, here nothing does.
 */
import type { Mapping } from './dataplane.ts';
import type { Packet, Piece } from './frame.ts';

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
