/**
 * Allocation of external endpoints, and of the places of their entries.
 *
 * One endpoint of the pool stands for one grant. It is drawn at random from a
 * cryptographic source (RFC 6056 3.3.1: an attacker must not guess where the
 * next grant will be), and after its grant has ended it rests for 120 s
 * (RFC 6888 REQ-8), so that a late packet meets nobody. When all are in use
 * or at rest, allocation says so: nothing is evicted. Drawing costs the same
 * however full the pool is.
 *
 * A grant that is not translated has the device's own endpoint, which several
 * servers may have at once; what is drawn for it is the place of its entry.
 */
import {
  type Address,
  addressFromBytes,
  contains,
  type Endpoint,
  type Family,
  mappedLength,
  type Prefix,
} from '../core/net.ts';
import { indexOfIpv4, ipv4Addresses, ipv4Entries, type Pool } from '../core/pool.ts';
import type { Random } from '../core/ports.ts';
import { PROTOCOLS, type Protocol } from '../core/words.ts';

/** Where a grant is: its endpoint, and the place of its entry in the gate. */
export interface Place {
  readonly index: number;
  readonly external: Endpoint;
}

/** What one supply is for: the places of the IPv4 pool by protocol; all others. */
export const KINDS = ['ipv4 tcp', 'ipv4 udp', 'keyed'] as const;
export type Kind = (typeof KINDS)[number];

/** How often an IPv6 address is drawn again when it is taken; a pool so full that this fails is full. */
const DRAWS = 32;

export class Endpoints {
  readonly #pool: Pool;
  readonly #random: Random;
  readonly #ipv4: Readonly<Record<Protocol, FreeSet>>;
  readonly #ipv4Addresses: readonly Address[];
  readonly #keyed: FreeSet;
  /** Where the indices begin that no endpoint has by arithmetic. */
  readonly #keyedFrom: number;
  /** IPv6 addresses of the pool in use or at rest; one address stands for one grant. */
  readonly #ipv6Taken = new Set<string>();

  constructor(pool: Pool, random: Random) {
    this.#pool = pool;
    this.#random = random;
    this.#keyedFrom = ipv4Entries(pool);
    const perProtocol = this.#keyedFrom / PROTOCOLS.length;
    this.#ipv4 = { tcp: new FreeSet(perProtocol), udp: new FreeSet(perProtocol) };
    this.#ipv4Addresses = ipv4Addresses(pool);
    this.#keyed = new FreeSet(pool.keyedGrants);
  }

  /** Draws a free place of the pool, or undefined where there is none. */
  allocate(family: Family, protocol: Protocol): Place | undefined {
    return family === 'ipv4' ? this.#allocateIpv4(protocol) : this.#allocateIpv6();
  }

  /** Draws a place for a grant that is not translated, on this endpoint of a device. */
  allocateOwn(device: Endpoint): Place | undefined {
    const ordinal = this.#keyed.draw(this.#random);
    return ordinal === undefined ? undefined : { index: this.#keyedFrom + ordinal, external: device };
  }

  /**
   * Takes a place that the store says is in use or at rest. Returns false
   * where there is no such place (any more), or its endpoint is no longer in
   * the pool; that of a grant which is not translated never was.
   */
  take(protocol: Protocol, place: Place, isTranslated: boolean): boolean {
    const { index, external } = place;
    const { address } = external;
    if (isTranslated && address.family === 'ipv4') {
      if (indexOfIpv4(this.#pool, protocol, external) !== index) return false;
      return this.#ipv4[protocol].take(this.#ordinal(index));
    }
    if (isTranslated && !this.#pool.ipv6.some((prefix) => contains(prefix, address))) return false;
    if (!this.#keyed.take(index - this.#keyedFrom)) return false;
    if (isTranslated) this.#ipv6Taken.add(address.text);
    return true;
  }

  /** Gives a place back; its rest is over. */
  free(protocol: Protocol, { index, external }: Place): void {
    if (index < this.#keyedFrom) {
      this.#ipv4[protocol].put(this.#ordinal(index));
      return;
    }
    this.#ipv6Taken.delete(external.address.text);
    this.#keyed.put(index - this.#keyedFrom);
  }

  kindOf(protocol: Protocol, { index }: Pick<Place, 'index'>): Kind {
    return index < this.#keyedFrom ? `ipv4 ${protocol}` : 'keyed';
  }

  /** How many more grants could be given a place: of IPv4 by protocol, of IPv6 together with those that are not translated. */
  available(family: Family, protocol: Protocol): number {
    return family === 'ipv4' ? this.#ipv4[protocol].size : this.#keyed.size;
  }

  #allocateIpv4(protocol: Protocol): Place | undefined {
    const ordinal = this.#ipv4[protocol].draw(this.#random);
    if (ordinal === undefined) return undefined;
    // Indices run slot by slot, within a slot protocol by protocol (gate.h).
    const { portLow, portCount } = this.#pool;
    const slot = Math.floor(ordinal / portCount);
    const port = ordinal % portCount;
    const address = this.#ipv4Addresses[slot] as Address;
    const index = (slot * PROTOCOLS.length + PROTOCOLS.indexOf(protocol)) * portCount + port;
    return { index, external: { address, port: portLow + port } };
  }

  #allocateIpv6(): Place | undefined {
    const address = this.#drawIpv6Address();
    const ordinal = address && this.#keyed.draw(this.#random);
    if (!address || ordinal === undefined) return undefined;
    this.#ipv6Taken.add(address.text);
    const port = this.#pool.portLow + this.#random.integer(this.#pool.portCount);
    return { index: this.#keyedFrom + ordinal, external: { address, port } };
  }

  #drawIpv6Address(): Address | undefined {
    for (let draw = 0; draw < DRAWS; draw++) {
      const prefix = this.#pool.ipv6[this.#random.integer(this.#pool.ipv6.length || 1)];
      if (!prefix) return undefined;
      const address = randomAddressIn(prefix, this.#random);
      // The prefix's first address is the subnet-router anycast address (RFC 4291 2.6.1).
      if (!this.#ipv6Taken.has(address.text) && address.text !== prefix.address.text) return address;
    }
    return undefined;
  }

  /** The place of an IPv4 index among those of its own protocol. */
  #ordinal(index: number): number {
    const { portCount } = this.#pool;
    return Math.floor(index / portCount / PROTOCOLS.length) * portCount + (index % portCount);
  }
}

function randomAddressIn(prefix: Prefix, random: Random): Address {
  const fixed = mappedLength(prefix);
  const bytes = random.bytes(16).map((byte, i) => {
    const own = Math.max(0, Math.min(8, fixed - i * 8)); // leading bits of this byte that the prefix fixes
    const mask = (0xff << (8 - own)) & 0xff;
    return ((prefix.address.bytes[i] ?? 0) & mask) | (byte & ~mask);
  });
  return addressFromBytes(bytes);
}

/**
 * The free ones of the numbers below `count`. A permutation whose first
 * `size` places are the free numbers, and its inverse: to draw, take and put
 * are each one swap.
 */
class FreeSet {
  size: number;
  readonly #numbers: Uint32Array;
  readonly #placeOf: Uint32Array;

  constructor(count: number) {
    this.size = count;
    this.#numbers = Uint32Array.from({ length: count }, (_, i) => i);
    this.#placeOf = this.#numbers.slice();
  }

  draw(random: Random): number | undefined {
    if (this.size === 0) return undefined;
    const number = this.#numbers[random.integer(this.size)] as number;
    this.take(number);
    return number;
  }

  take(number: number): boolean {
    const place = this.#placeOf[number];
    if (place === undefined || place >= this.size) return false;
    this.size -= 1;
    this.#swap(place, this.size);
    return true;
  }

  put(number: number): void {
    const place = this.#placeOf[number];
    if (place === undefined || place < this.size) return;
    this.#swap(place, this.size);
    this.size += 1;
  }

  #swap(a: number, b: number): void {
    const [atA, atB] = [this.#numbers[a] as number, this.#numbers[b] as number];
    this.#numbers[a] = atB;
    this.#numbers[b] = atA;
    this.#placeOf[atB] = a;
    this.#placeOf[atA] = b;
  }
}
