/**
 * Values that many share, each kept once under a small number for as long as
 * somebody uses it. The number is what a grant carries in its place.
 */
import { Column } from './column.ts';
import { HashIndex, hashText } from './hash-index.ts';

/** Which values are the same, and a hash that is equal for those; what is kept of one, where it holds more than is needed. */
export interface Sameness<Value> {
  readonly hash: (value: Value) => number;
  readonly same: (a: Value, b: Value) => boolean;
  readonly keep?: (value: Value) => Value;
}

export const TEXTS = { hash: hashText, same: <Text extends string>(a: Text, b: Text): boolean => a === b };

export class Interned<Value> {
  readonly #sameness: Sameness<Value>;
  readonly #values: (Value | undefined)[] = [];
  readonly #users = new Column();
  readonly #index: HashIndex;
  readonly #free: number[] = [];
  /** What was used last: most often it is used again. */
  #last = -1;

  constructor(sameness: Sameness<Value>) {
    this.#sameness = sameness;
    this.#index = new HashIndex((number) => sameness.hash(this.at(number)));
  }

  /** The number of a value, which has one more user from now on. */
  use(value: Value): number {
    const known = this.#isLast(value) ? this.#last : this.find(value);
    const number = known >= 0 ? known : this.#add(value);
    this.#last = number;
    this.#users.set(number, this.#users.get(number) + 1);
    return number;
  }

  /** One user less; the last one takes the value along. */
  release(number: number): void {
    const left = this.#users.get(number) - 1;
    this.#users.set(number, left);
    if (left > 0) return;
    this.#index.remove(number);
    this.#values[number] = undefined;
    this.#free.push(number);
    if (this.#last === number) this.#last = -1;
  }

  /** The number of a value that is in use; -1 where it is not. */
  find(value: Value): number {
    const { hash, same } = this.#sameness;
    return this.#index.find(hash(value), (number) => same(this.at(number), value));
  }

  /** The value of a number that is in use. */
  at(number: number): Value {
    return this.#values[number] as Value;
  }

  users(number: number): number {
    return this.#users.get(number);
  }

  #isLast(value: Value): boolean {
    return this.#last >= 0 && this.#sameness.same(this.at(this.#last), value);
  }

  #add(value: Value): number {
    const number = this.#free.pop() ?? this.#values.length;
    this.#values[number] = this.#sameness.keep?.(value) ?? value;
    this.#index.add(number);
    return number;
  }
}
