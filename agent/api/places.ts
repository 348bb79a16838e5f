/**
 * Who may connect, before anything but an address is known: each server and MTC
 * user of the policy, by its apiSources, has connections and handshakes of its own, which
 * nobody can take from it; everybody else, strangers, shares a few, and of
 * those one address has a part. Strangers are not refused outright, since it
 * is them that a certificate may make known.
 *
 * Invariants:
 * - a server with fewer connections than its own part, and handshakes left, is
 *   never turned away, whatever the others do;
 * - all places together are bounded: own parts, spare ones, strangers';
 * - memory is bounded: of addresses, as many as are connected and a few more.
 *
 * Where places are used up by handshakes that stand still, the oldest of them
 * makes room: whoever only stalls would have to outrun the handshakes that its
 * address is given, and can hold no place for longer than a slow client needs.
 * What is lost to: an attacker within a server's own apiSources keeps that
 * server's new connections out (not those that stand); one with more than
 * eight addresses keeps other strangers out. Pure: given clock and policy.
 */

import type { ShedReason } from '../core/handshakes.ts';
import type { Address } from '../core/net.ts';
import { type ConnectionLimits, ownPart, type Rate } from './limits.ts';
import { neighbourhoodOf, type PartySources, Sources } from './sources.ts';

/** A connection's place, from its start to its end. */
export interface Place {
  /** Whose share it is: a server, or `strangers`. */
  readonly party: string;
  readonly stranger: boolean;
  /** Its handshake is over. */
  settle(resumed: boolean): void;
  leave(): void;
}

/** A resumed handshake gives so much back: it costs three quarters of a full one, first request included. */
const RESUMED_GIVES_BACK = 0.25;
/** Of addresses that are not connected so many are remembered. */
const ADDRESSES_KEPT = 1_024;

/** What one party, or one address, has at the moment. */
class Holding {
  taken = 0;
  tokens: number;
  atMs: number;
  /** The oldest first. */
  readonly pending = new Set<{ readonly sinceMs: number; readonly cut: () => void }>();

  constructor(burst: number, nowMs: number) {
    this.tokens = burst;
    this.atMs = nowMs;
  }

  /** Whether a handshake may be begun. */
  mayBegin({ perSecond, burst }: Rate, nowMs: number): boolean {
    this.tokens = Math.min(burst, this.tokens + ((nowMs - this.atMs) * perSecond) / 1_000);
    this.atMs = nowMs;
    return this.tokens >= 1;
  }
}

/** One of the bounds that a connection must be within. */
interface Bound {
  readonly holding: Holding;
  readonly rate: Rate;
  readonly hasPlace: () => boolean;
  readonly placesGone: ShedReason;
  readonly handshakesGone: ShedReason;
}

export class Places {
  readonly #limits: ConnectionLimits;
  readonly #sources: () => PartySources;
  readonly #nowMs: () => number;
  readonly #strangers: Holding;
  /** Strangers' addresses; the one that was last seen longest ago, first. */
  readonly #addresses = new Map<string, Holding>();
  readonly #parties = new Map<string, Holding>();
  #policy: { readonly of: PartySources; readonly sources: Sources; readonly own: number; readonly rate: Rate };
  /** Places that servers have beyond their own part. */
  #spareTaken = 0;

  constructor(limits: ConnectionLimits, sources: () => PartySources, nowMs: () => number) {
    this.#limits = limits;
    this.#sources = sources;
    this.#nowMs = nowMs;
    this.#strangers = new Holding(limits.strangerHandshakes.burst, nowMs());
    this.#policy = this.#read(sources());
  }

  /** A place for a connection, or why there is none. `cut` ends it, should it have to make room. */
  enter(from: Address, cut: () => void): Place | ShedReason {
    if (this.#policy.of !== this.#sources()) this.#switchPolicy();
    const nowMs = this.#nowMs();
    const server = this.#policy.sources.partyAt(from);
    const bounds = server === undefined ? this.#boundsOfStranger(from, nowMs) : [this.#boundOfServer(server, nowMs)];
    for (const { holding, rate, hasPlace, placesGone, handshakesGone } of bounds) {
      if (!holding.mayBegin(rate, nowMs)) return handshakesGone;
      if (!hasPlace() && !this.#overtake(holding, nowMs)) return placesGone;
      // Also where the next bound turns it away: an address that hammers is soon heard as seldom as it may be,
      // and competes with one that comes for the first time by that much and no more.
      holding.tokens -= 1;
    }
    return this.#seat(server, bounds, { sinceMs: nowMs, cut });
  }

  #seat(server: string | undefined, bounds: readonly Bound[], pending: { sinceMs: number; cut: () => void }): Place {
    for (const { holding } of bounds) {
      if (server !== undefined && holding.taken >= this.#policy.own) this.#spareTaken += 1;
      holding.taken += 1;
      holding.pending.add(pending);
    }
    let hasLeft = false;
    return {
      party: server ?? 'strangers',
      stranger: server === undefined,
      settle: (resumed) => {
        for (const { holding } of bounds) {
          holding.pending.delete(pending);
          if (resumed) holding.tokens += RESUMED_GIVES_BACK;
        }
      },
      leave: () => {
        if (hasLeft) return;
        hasLeft = true;
        for (const { holding } of bounds) {
          holding.pending.delete(pending);
          if (server !== undefined && holding.taken > this.#policy.own) this.#spareTaken -= 1;
          holding.taken -= 1;
        }
      },
    };
  }

  #boundOfServer(server: string, nowMs: number): Bound {
    const { own, rate } = this.#policy;
    const { serverPlaces, sparePlaces } = this.#limits;
    const holding = this.#parties.get(server) ?? new Holding(rate.burst, nowMs);
    this.#parties.set(server, holding);
    const hasPlace = () => holding.taken < own || (holding.taken < serverPlaces.most && this.#spareTaken < sparePlaces);
    return { holding, rate, hasPlace, placesGone: 'serverPlaces', handshakesGone: 'serverHandshakes' };
  }

  /** The address's bound comes first: what is beyond it takes nothing from the others. */
  #boundsOfStranger(from: Address, nowMs: number): Bound[] {
    const { addressPlaces, addressHandshakes, strangerPlaces, strangerHandshakes } = this.#limits;
    const address = this.#addressAt(neighbourhoodOf(from), nowMs);
    const strangers = this.#strangers;
    return [
      {
        holding: address,
        rate: addressHandshakes,
        hasPlace: () => address.taken < addressPlaces,
        placesGone: 'addressPlaces',
        handshakesGone: 'addressHandshakes',
      },
      {
        holding: strangers,
        rate: strangerHandshakes,
        hasPlace: () => strangers.taken < strangerPlaces,
        placesGone: 'strangerPlaces',
        handshakesGone: 'strangerHandshakes',
      },
    ];
  }

  #addressAt(key: string, nowMs: number): Holding {
    const known = this.#addresses.get(key) ?? new Holding(this.#limits.addressHandshakes.burst, nowMs);
    this.#addresses.delete(key);
    this.#addresses.set(key, known);
    if (this.#addresses.size > ADDRESSES_KEPT) {
      // No more than strangerPlaces are connected, so this ends soon.
      for (const [old, { taken }] of this.#addresses) {
        if (taken > 0) continue;
        this.#addresses.delete(old);
        break;
      }
    }
    return known;
  }

  /** Cuts the oldest handshake that has had its time; its place is free when this returns. */
  #overtake({ pending }: Holding, nowMs: number): boolean {
    for (const oldest of pending) {
      if (nowMs - oldest.sinceMs < this.#limits.overtakenMs) return false;
      oldest.cut();
      return true;
    }
    return false;
  }

  #read(of: PartySources) {
    const { serverPlaces, serverHandshakes } = this.#limits;
    const sources = new Sources(of);
    const own = ownPart(serverPlaces, sources.parties);
    const rate = { perSecond: ownPart(serverHandshakes, sources.parties), burst: serverPlaces.most };
    return { of, sources, own, rate };
  }

  #switchPolicy(): void {
    this.#policy = this.#read(this.#sources());
    this.#spareTaken = 0;
    for (const [party, { taken }] of this.#parties) {
      if (taken === 0) this.#parties.delete(party);
      else this.#spareTaken += Math.max(0, taken - this.#policy.own);
    }
  }
}
