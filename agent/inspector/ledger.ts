/**
 * Everything that did not pass, in memory and on disk: the list of denials,
 * and each refusal alone. Written in slices, every few seconds and at the
 * end; what could not be written is tried again with the next.
 *
 * A disk that takes nothing holds nobody up: the list goes on in memory, and
 * of the refusals that wait the oldest are given up, counted.
 */

import type { TlsReason } from '../core/handshakes.ts';
import type { Endpoint } from '../core/net.ts';
import type { Clock, Log, Random } from '../core/ports.ts';
import type { Refusal, RefusalFacts } from '../core/refusals.ts';
import { endpointKey } from '../core/words.ts';
import type { DenialStore } from './denial-store.ts';
import { Denials } from './denials.ts';
import {
  type KeptRefusal,
  keptRefusal,
  matchesRefusal,
  type NamedDevice,
  type RefusalFilter,
  refusalDenial,
} from './refusals.ts';

const WAITING_MOST = 10_000;
/** So many of each are written at once: some milliseconds. */
const SLICE = 128;
/** And so many refusals read at once. */
const PAGE = 512;
const AGE_MOST_MS = 30 * 24 * 3_600_000;

export class Ledger {
  readonly denials: Denials;
  readonly #store: DenialStore;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #deviceOf: (named: string) => NamedDevice | undefined;
  /** Refusals that are not in the store yet, the oldest first. */
  #waiting: KeptRefusal[] = [];
  #givenUp = 0;

  /** `deviceOf`: whose device a request named, as it is now; undefined where it is nobody's. */
  constructor(
    store: DenialStore,
    clock: Clock,
    random: Random,
    log: Log,
    deviceOf: (named: string) => NamedDevice | undefined,
  ) {
    this.#deviceOf = deviceOf;
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
    this.denials = new Denials(clock, rowIds(random), store.before);
  }

  /** Refusals that the store did not take in time. */
  get givenUp(): number {
    return this.#givenUp;
  }

  /**
   * A request that was refused. Kept for itself where it has a line in the log;
   * the same again counts in its row, and what is too much to be told apart
   * with those that were rolled up.
   */
  refused(refusal: Refusal, facts: RefusalFacts, how: 'written' | 'repeated' | 'leftOut' = 'written'): void {
    const { device } = facts;
    const named = typeof device === 'string' ? this.#deviceOf(device) : undefined;
    if (how === 'leftOut') {
      this.denials.count('request', refusal.reason, named?.mtcUser);
      return;
    }
    const kept = keptRefusal(refusal, facts, this.#clock.nowMs(), named);
    this.denials.add(refusalDenial(kept));
    if (how === 'repeated') return;
    this.#waiting.push(kept);
    if (this.#waiting.length <= WAITING_MOST) return;
    this.#waiting.shift();
    this.#givenUp += 1;
  }

  /** A handshake that failed, from an address if that is known, at where the API listens. */
  refusedHandshake(reason: TlsReason, remote: string | undefined, at: Endpoint): void {
    this.denials.add({ kind: 'handshake', reason, source: remote ?? 'unknown', target: endpointKey('tcp', at) });
  }

  /** The newest first. */
  refusals(filter: RefusalFilter, limit: number): KeptRefusal[] {
    const waiting = this.#waiting.filter((refusal) => matchesRefusal(filter, refusal)).reverse();
    return [...waiting, ...this.#store.refusals(filter, limit)].slice(0, limit);
  }

  /** Since a time (UTC ms), the newest first; read some at a time, so that much may happen in between. */
  *newest(sinceMs: number): Generator<KeptRefusal> {
    const waiting = [...this.#waiting].reverse();
    const told = new Set(waiting.map(({ instance }) => instance)); // they may be in the store by then
    for (const refusal of waiting) {
      if (refusal.atMs < sinceMs) return;
      yield refusal;
    }
    for (let before: number | undefined; ; ) {
      const { refusals, next } = this.#store.refusalsBefore(before, PAGE);
      for (const refusal of refusals) {
        if (refusal.atMs < sinceMs) return;
        if (!told.has(refusal.instance)) yield refusal;
      }
      if (next === undefined) return;
      before = next;
    }
  }

  refusal(instance: string): KeptRefusal | undefined {
    return this.#waiting.find((refusal) => refusal.instance === instance) ?? this.#store.refusal(instance);
  }

  /** Writes what is new, a slice at a time: a flood has changed every row, and the loop answers others in between. */
  async keep(): Promise<void> {
    for (let isMore = true; isMore; ) {
      const changes = this.denials.changes(SLICE);
      const refusals = this.#waiting.slice(0, SLICE);
      if (changes.changed.length + changes.removed.length + refusals.length === 0) return;
      const isKept = this.#try(() => {
        this.#store.write(changes, refusals);
        this.denials.wereKept(changes);
        this.#waiting = this.#waiting.slice(refusals.length);
      });
      isMore = isKept && (changes.changed.length >= SLICE || refusals.length === SLICE);
      if (isMore) await new Promise(setImmediate);
    }
  }

  /** Rolls up and forgets what is older than 30 days. */
  age(): void {
    const before = this.#clock.nowMs() - AGE_MOST_MS;
    this.denials.rollUpBefore(before);
    this.#try(() => this.#store.purge(before));
  }

  #try(write: () => void): boolean {
    try {
      write();
      return true;
    } catch (fault) {
      this.#log.error({ why: (fault as Error).message }, 'denialsNotKept');
      return false;
    }
  }
}

/**
 * Random, and nothing else: it stands in reports, and a number that grows would
 * tell an MTC user how many rows those of all others are. Cheap, since a flood
 * makes thousands a second; 96 bits are never drawn twice.
 */
function rowIds(random: Random): () => string {
  return () => Buffer.from(random.bytes(12)).toString('hex');
}
