/**
 * The gate's tables from a key to an entry, written in place (struct
 * gate_bucket): the gate finds any key in two or three cache lines, and the
 * agent needs no call of the kernel for it.
 *
 * Invariants. A slot is one aligned word, stored at once; the gate may look at
 * any moment. A slot leads to an index, and the entry there says whether it is
 * of the key: what is left over leads nowhere, and its slot is taken by the
 * next that needs one. At least two slots stand for each entry there is.
 */
import { AgentError } from '../core/errors.ts';
import { BUCKET_SLOTS } from './layout.ts';

/** How many buckets a table for so many keys has: a power of two, at the most half full. */
export function bucketsFor(keys: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, (2 * keys) / BUCKET_SLOTS)));
}

/** The two buckets of a key among so many, and its tag; `key` is a struct of the gate's, of whole words. As the gate reckons. */
export function placesOf(
  key: Uint8Array,
  seed: bigint,
  buckets: number,
): { first: number; second: number; tag: number } {
  const words = new Uint32Array(key.slice().buffer);
  let a = Number(BigInt.asUintN(32, seed));
  let b = Number(seed >> 32n);
  for (const word of words) {
    a = Math.imul(a ^ word, 0x9e3779b1);
    a ^= a >>> 15;
    b = Math.imul(b + word, 0x85ebca6b);
    b ^= b >>> 13;
  }
  const tag = (b | 1) >>> 0;
  const mask = buckets - 1;
  return { first: (a & mask) >>> 0, second: ((a ^ Math.imul(tag >>> 1, 0x27d4eb2f)) & mask) >>> 0, tag };
}

export class EntryTable {
  readonly #words: BigUint64Array;
  /** The same memory: of each slot the index, then the tag. */
  readonly #halves: Uint32Array;
  readonly #buckets: number;
  readonly #seed: bigint;
  readonly #keyAt: (index: number) => Uint8Array | undefined;

  /** `keyAt`: the key of the entry at an index, where it is not empty. */
  constructor(memory: ArrayBuffer, seed: bigint, keyAt: (index: number) => Uint8Array | undefined) {
    this.#words = new BigUint64Array(memory);
    this.#halves = new Uint32Array(memory);
    this.#buckets = this.#words.length / BUCKET_SLOTS;
    this.#seed = seed;
    this.#keyAt = keyAt;
  }

  /** The key leads to this index from now on, and to no other. @throws AgentError gateFault where there is no room */
  put(key: Uint8Array, index: number): void {
    const { first, second, tag } = placesOf(key, this.#seed, this.#buckets);
    const at = this.#slotOf(key, first, tag) ?? this.#slotOf(key, second, tag) ?? this.#roomIn(first, second);
    if (at === undefined) throw new AgentError('gateFault', `the gate has no room for a key of entry ${index}`);
    Atomics.store(this.#words, at, (BigInt(tag) << 32n) | BigInt(index));
  }

  /** The key leads to this index no more; what it leads to by now is left alone. */
  remove(key: Uint8Array, index: number): void {
    const { first, second, tag } = placesOf(key, this.#seed, this.#buckets);
    for (const bucket of [first, second])
      for (let at = bucket * BUCKET_SLOTS; at < (bucket + 1) * BUCKET_SLOTS; at++)
        if (this.#tagAt(at) === tag && this.#indexAt(at) === index) Atomics.store(this.#words, at, 0n);
  }

  /** A slot by which the key is found. */
  #slotOf(key: Uint8Array, bucket: number, tag: number): number | undefined {
    for (let at = bucket * BUCKET_SLOTS; at < (bucket + 1) * BUCKET_SLOTS; at++)
      if (this.#tagAt(at) === tag && isSame(this.#keyAt(this.#indexAt(at)), key)) return at;
    return undefined;
  }

  /** A slot that leads nowhere, in the bucket that has more of them empty. */
  #roomIn(first: number, second: number): number | undefined {
    const of = (bucket: number, isFree: (at: number) => boolean) =>
      Array.from({ length: BUCKET_SLOTS }, (_, i) => bucket * BUCKET_SLOTS + i).filter(isFree);
    const isEmpty = (at: number) => this.#tagAt(at) === 0;
    const [one, other] = [of(first, isEmpty), of(second, isEmpty)];
    const isLeftOver = (at: number) => !this.#leads(at);
    return (one.length >= other.length ? one[0] : other[0]) ?? of(first, isLeftOver)[0] ?? of(second, isLeftOver)[0];
  }

  /** Whether a slot is of the key that its entry has. */
  #leads(at: number): boolean {
    const key = this.#keyAt(this.#indexAt(at));
    return key !== undefined && placesOf(key, this.#seed, this.#buckets).tag === this.#tagAt(at);
  }

  #tagAt(at: number): number {
    return this.#halves[at * 2 + 1] as number;
  }

  #indexAt(at: number): number {
    return this.#halves[at * 2] as number;
  }
}

function isSame(one: Uint8Array | undefined, other: Uint8Array): boolean {
  return one !== undefined && Buffer.compare(one, other) === 0;
}
