/**
 * Whose turn it is: so many pieces of work at once, and when there are more,
 * one of each party after the other, however many a party has brought.
 *
 * Invariants: what has to wait waits behind its own party's and, for each of
 * those, behind at most one of every other party's; a party that has nothing
 * waiting loses and gains nothing; nobody waits while there is room. Pure:
 * given the time.
 */

interface Waiting {
  readonly sinceMs: number;
  readonly answer: (isTurn: boolean) => void;
}

export class Turns {
  readonly #atOnce: number;
  #working = 0;
  /** Of every party that waits, the oldest first; the party that is next, first. */
  readonly #waiting = new Map<string, Waiting[]>();

  constructor(atOnce: number) {
    this.#atOnce = atOnce;
  }

  get working(): number {
    return this.#working;
  }

  /** True where it is the turn at once; else true when it comes, or false if it has not come in time. Then there is nothing to give back. */
  take(party: string, nowMs: number): true | Promise<boolean> {
    if (this.#working < this.#atOnce) {
      this.#working += 1;
      return true;
    }
    return new Promise((answer) => {
      const waiting = this.#waiting.get(party);
      if (waiting) waiting.push({ sinceMs: nowMs, answer });
      else this.#waiting.set(party, [{ sinceMs: nowMs, answer }]);
    });
  }

  /** Gives a turn back, to who is next. */
  done(): void {
    for (const [party, waiting] of this.#waiting) {
      const next = waiting.shift();
      this.#waiting.delete(party);
      if (waiting.length > 0) this.#waiting.set(party, waiting);
      next?.answer(true);
      return;
    }
    this.#working -= 1;
  }

  /** Sends those away who have waited since before. */
  expire(beforeMs: number): void {
    for (const [party, waiting] of this.#waiting) {
      while (waiting[0] && waiting[0].sinceMs < beforeMs) waiting.shift()?.answer(false);
      if (waiting.length === 0) this.#waiting.delete(party);
    }
  }
}
