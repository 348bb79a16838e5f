/**
 * Finds things that have a number (a slot, say) by what they hash to. Linear
 * hashing (Litwin, 1980): with each thing the table grows by one bucket, and
 * one bucket is divided, so that no single addition costs more than another,
 * however many there are. It keeps numbers only; what a thing hashes to it asks.
 */
import { Column } from './column.ts';

export class HashIndex {
  readonly #hashOf: (thing: number) => number;
  /** First of each bucket, and of each thing the next in its bucket; one more than its number, 0 is none. */
  readonly #heads = new Column();
  readonly #nexts = new Column();
  /** The largest power of two that is not above the number of buckets. */
  #round = 1;
  #buckets = 1;
  #size = 0;

  constructor(hashOf: (thing: number) => number) {
    this.#hashOf = hashOf;
  }

  /** The thing with this hash that is the one meant; -1 where none is. */
  find(hash: number, isMeant: (thing: number) => boolean): number {
    for (let at = this.#heads.get(this.#bucketOf(hash)); at > 0; at = this.#nexts.get(at - 1)) {
      if (isMeant(at - 1)) return at - 1;
    }
    return -1;
  }

  add(thing: number): void {
    this.#push(this.#bucketOf(this.#hashOf(thing)), thing);
    this.#size += 1;
    if (this.#size > this.#buckets) this.#divide();
  }

  /** The thing must hash to what it did when it was added. */
  remove(thing: number): void {
    const bucket = this.#bucketOf(this.#hashOf(thing));
    const next = this.#nexts.get(thing);
    let at = this.#heads.get(bucket);
    if (at === thing + 1) this.#heads.set(bucket, next);
    else {
      while (this.#nexts.get(at - 1) !== thing + 1) at = this.#nexts.get(at - 1);
      this.#nexts.set(at - 1, next);
    }
    this.#size -= 1;
  }

  #bucketOf(hash: number): number {
    const wide = hash & (2 * this.#round - 1);
    return wide < this.#buckets ? wide : hash & (this.#round - 1);
  }

  #push(bucket: number, thing: number): void {
    this.#nexts.set(thing, this.#heads.get(bucket));
    this.#heads.set(bucket, thing + 1);
  }

  /** One more bucket: it takes its share of the one that stood for both. */
  #divide(): void {
    const shared = this.#buckets - this.#round;
    this.#buckets += 1;
    if (this.#buckets === 2 * this.#round) this.#round *= 2;
    let at = this.#heads.get(shared);
    this.#heads.set(shared, 0);
    while (at > 0) {
      const next = this.#nexts.get(at - 1);
      this.#push(this.#bucketOf(this.#hashOf(at - 1)), at - 1);
      at = next;
    }
  }
}

/** Unforeseeable, so that nobody can choose names and ports that all fall into one bucket. Decides nothing. */
const SEED = Math.floor(Math.random() * 2 ** 32);

/** One hash of several whole numbers, or of a hash and more. */
export function hashNumbers(first: number, ...more: number[]): number {
  let hash = mixed(SEED ^ first);
  for (const number of more) hash = mixed(hash ^ number);
  return hash;
}

/** Of a whole text, or of its last letters only. */
export function hashText(text: string, letters = text.length): number {
  let hash = SEED;
  for (let i = Math.max(0, text.length - letters); i < text.length; i++)
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mixed(hash);
}

/** Every bit that comes out depends on every bit that goes in (MurmurHash3's finalizer). */
function mixed(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
