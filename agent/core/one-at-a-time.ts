/**
 * Who must not be interleaved takes turns, in the order of asking. A fault
 * belongs to whoever asked for the turn in which it happened: the next goes on
 * as if there had been none.
 */

type Act<Result> = () => Promise<Result>;

export class OneAtATime {
  #last: Promise<unknown> = Promise.resolve();

  inTurn<Result>(act: Act<Result>): Promise<Result> {
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {});
    return turn;
  }
}

/** Turns of each key; those of different keys do not wait for each other. */
export class OneAtATimeByKey<Key> {
  /** The last turn of each key of which one is under way. */
  readonly #last = new Map<Key, Promise<unknown>>();

  async inTurn<Result>(key: Key, act: Act<Result>): Promise<Result> {
    const turn = (this.#last.get(key) ?? Promise.resolve()).then(act);
    const over = turn.catch(() => {});
    this.#last.set(key, over);
    try {
      return await turn;
    } finally {
      if (this.#last.get(key) === over) this.#last.delete(key);
    }
  }
}
