/**
 * What the host's own stack does with a packet before, or instead of, any rule:
 * addresses that it takes for no host's, and pieces that it puts together.
 * Linux: ip_route_input_slow, ip6_rcv_core, ip6_forward; rp_filter is off.
 */
import { type Address, contains, type Prefix, prefix } from '../../../agent/core/net.ts';
import type { Place } from './neighbourhood.ts';
import { assembled, type Packet, read } from './packet.ts';

/** From where, and to where, the stack routes nothing (of 0.0.0.0/8 only the first since Linux 5.3). */
export const MARTIAN_SOURCES = ['0.0.0.0/32', '127.0.0.0/8', '224.0.0.0/4', '255.255.255.255/32'].map(prefix);
export const MARTIAN_DESTINATIONS = ['0.0.0.0/32', '127.0.0.0/8'].map(prefix);
/** What IPv6 drops before any hook; ff00 and ff01 are of the host itself. */
export const UNHEARD_SOURCES = ['::1/128', 'ff00::/8'].map(prefix);
export const UNHEARD_DESTINATIONS = ['::1/128', 'ff00::/15'].map(prefix);
/** Broadcasts, and groups in which the gateway is; then all groups. */
export const HEARD = ['224.0.0.1/32', '255.255.255.255/32', '192.0.2.3/32', '10.20.255.255/32', 'ff02::1/128'].map(
  prefix,
);
/** IPv6 says so to who sent it, where it can (RFC 4443, 3.1: beyond scope). */
export const UNFORWARDED_SOURCES = ['::/128', 'fe80::/10'].map(prefix);
export const GROUPS = ['224.0.0.0/4', 'ff00::/8'].map(prefix);
export const inOneOf = (prefixes: readonly Prefix[], host: Address) => prefixes.some((one) => contains(one, host));

/** Pieces that wait for the rest. */
export class Pieces {
  readonly #waiting = new Map<string, Uint8Array[]>();

  /** The packet itself, or the one that this was the last missing piece of. */
  whole(from: Place, piece: Packet): Packet | undefined {
    if (!piece.fragment || isBroken(piece)) return piece;
    const key = `${from} ${piece.source.text} ${piece.destination.text} ${piece.fragment.id}`;
    const pieces = [...(this.#waiting.get(key) ?? []), piece.bytes];
    this.#waiting.set(key, pieces);
    const bytes = assembled(pieces);
    if (bytes) this.#waiting.delete(key);
    return bytes && read(bytes);
  }
}

/** A piece of IPv6 that is not the last and does not end at eight bytes: it is handed on as it is (RFC 8200, 4.5: discarded). */
function isBroken({ family, fragment, bytes, upperAt }: Packet): boolean {
  return family === 'ipv6' && (fragment?.more ?? false) && (bytes.length - upperAt) % 8 !== 0;
}
