/**
 * When grants end: by the second, on the record's clock. A grant is in one
 * list, that of the second at whose beginning its time is over; what is due is
 * found by looking at the seconds that have passed, and costs nothing for all
 * others. There is no timer.
 */
import { Chains } from './chains.ts';
import { type Slots, WORD } from './slots.ts';

const SECOND_NS = 1_000_000_000n;
/** Beyond this many seconds of a boot (a century) nothing is due. */
const LAST = 0xffff_ffff;

export class Calendar {
  readonly #slots: Slots;
  readonly #heads = new Map<number, number>();
  readonly #chains: Chains;
  /** The second that has begun, and those up to it in which something is due. */
  #now = -1;
  readonly #due = new Set<number>();

  constructor(slots: Slots) {
    this.#slots = slots;
    const heads = {
      get: (second: number) => this.#heads.get(second) ?? 0,
      set: (second: number, head: number) =>
        void (head > 0 ? this.#heads.set(second, head) : this.#heads.delete(second)),
    };
    this.#chains = new Chains(slots, heads, WORD.secondBefore, WORD.secondAfter);
  }

  /** Puts a grant where its end is. */
  add(slot: number, endNs: bigint): void {
    const second = Math.min(LAST, Math.max(0, Number((endNs + SECOND_NS - 1n) / SECOND_NS)));
    this.#slots.setWord(slot, WORD.second, second);
    if (second <= this.#now) this.#due.add(second);
    this.#chains.add(second, slot);
  }

  remove(slot: number): void {
    this.#chains.remove(this.#slots.word(slot, WORD.second), slot);
  }

  /** Whether its time was over at the last `pass`. */
  isDue(slot: number): boolean {
    return this.#slots.word(slot, WORD.second) <= this.#now;
  }

  /** What the clock says now; `tell` hears of each grant that has become due by that. */
  pass(nowNs: bigint, tell: (slot: number) => void): void {
    const now = Number(nowNs / SECOND_NS);
    const passed = this.#passedUntil(now);
    this.#now = Math.max(this.#now, now);
    for (const second of passed) {
      for (const slot of this.#chains.of(second)) tell(slot);
      this.#due.add(second);
    }
  }

  /** What ends by the beginning of a second, and after that of the one before. */
  of(second: number): number[] {
    return this.#heads.has(second) ? [...this.#chains.of(second)] : [];
  }

  /** Some of what is due, at most so many. */
  due(limit: number): number[] {
    const found: number[] = [];
    for (const second of this.#due) {
      if (!this.#heads.has(second)) this.#due.delete(second);
      for (const slot of this.#chains.of(second)) {
        if (found.length >= limit) return found;
        found.push(slot);
      }
    }
    return found;
  }

  /** Seconds behind the last one, up to `now`, in which anything ends. After a long leap the lists are fewer than the seconds. */
  #passedUntil(now: number): number[] {
    const last = this.#now;
    if (now - last > this.#heads.size)
      return [...this.#heads.keys()].filter((second) => second > last && second <= now);
    return Array.from({ length: Math.max(0, now - last) }, (_, i) => last + 1 + i).filter((second) =>
      this.#heads.has(second),
    );
  }
}
