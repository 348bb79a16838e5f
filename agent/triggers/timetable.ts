/**
 * What is due when: keys, each at one second of the boot's clock at the most.
 * Taking what is due costs as much as is due, however much is due later.
 */
export class Timetable<Key> {
  readonly #seconds = new Map<Key, number>();
  readonly #due = new Map<number, Set<Key>>();
  /** The first second that has not been taken wholly. */
  #next: number;

  constructor(nowNs: bigint) {
    this.#next = secondOf(nowNs);
  }

  /** Moves a key to a time; one that is past is taken next. */
  put(key: Key, atNs: bigint): void {
    this.remove(key);
    const second = Math.max(secondOf(atNs), this.#next);
    this.#seconds.set(key, second);
    const due = this.#due.get(second) ?? new Set();
    this.#due.set(second, due.add(key));
  }

  remove(key: Key): void {
    const second = this.#seconds.get(key);
    if (second === undefined) return;
    this.#seconds.delete(key);
    const due = this.#due.get(second);
    due?.delete(key);
    if (due?.size === 0) this.#due.delete(second);
  }

  /** Takes out all whose second is over. */
  take(nowNs: bigint): Key[] {
    const taken: Key[] = [];
    const now = secondOf(nowNs);
    for (; this.#next < now; this.#next += 1) {
      for (const key of this.#due.get(this.#next) ?? []) {
        this.#seconds.delete(key);
        taken.push(key);
      }
      this.#due.delete(this.#next);
    }
    return taken;
  }
}

function secondOf(ns: bigint): number {
  return Number(ns / 1_000_000_000n);
}
