/**
 * Lists of slots, one a key, each slot in one of them at the most. A slot
 * carries its neighbours in two of its own fields, so that it is put in and
 * taken out at the same cost however long its list is.
 */
import type { Slots, WordField } from './slots.ts';

/** Where the first of each list stands: one more than its slot, 0 where the list is empty. */
export interface Heads {
  get(key: number): number;
  set(key: number, head: number): void;
}

export class Chains {
  readonly #slots: Slots;
  readonly #heads: Heads;
  readonly #before: WordField;
  readonly #after: WordField;

  constructor(slots: Slots, heads: Heads, before: WordField, after: WordField) {
    this.#slots = slots;
    this.#heads = heads;
    this.#before = before;
    this.#after = after;
  }

  add(key: number, slot: number): void {
    const next = this.#heads.get(key);
    this.#slots.setWord(slot, this.#before, 0);
    this.#slots.setWord(slot, this.#after, next);
    if (next > 0) this.#slots.setWord(next - 1, this.#before, slot + 1);
    this.#heads.set(key, slot + 1);
  }

  remove(key: number, slot: number): void {
    const before = this.#slots.word(slot, this.#before);
    const after = this.#slots.word(slot, this.#after);
    if (before > 0) this.#slots.setWord(before - 1, this.#after, after);
    else this.#heads.set(key, after);
    if (after > 0) this.#slots.setWord(after - 1, this.#before, before);
  }

  /** The slots of a list; none may be put in or taken out meanwhile. */
  *of(key: number): Generator<number> {
    for (let at = this.#heads.get(key); at > 0; at = this.#slots.word(at - 1, this.#after)) yield at - 1;
  }
}
