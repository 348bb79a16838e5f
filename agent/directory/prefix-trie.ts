/**
 * Prefixes of one family with a value each, so that those that share an address with another
 * prefix are found without a look at the rest: a binary trie over the 128 bits
 * of the mapped form, in which a node stands only where there is a value or
 * two ways part.
 */
import { mappedLength, type Prefix } from '../core/net.ts';

interface Node<Value> {
  /** Of any address below; the first `length` bits count. */
  readonly bytes: Uint8Array;
  readonly length: number;
  value: Value | undefined;
  /** Where the next bit is 0, and where it is 1: two fields, since a pair would take as much again as the node. */
  zero: Node<Value> | undefined;
  one: Node<Value> | undefined;
}

export class PrefixTrie<Value> {
  #root: Node<Value> = node(new Uint8Array(16), 0);

  /** The value of this very prefix takes the place of the one before. */
  put(prefix: Prefix, value: Value): void {
    const { bytes } = prefix.address;
    const length = mappedLength(prefix);
    let at = this.#root;
    while (at.length < length) {
      const side = bitOf(bytes, at.length);
      const next = at[side];
      if (!next) {
        at[side] = node(bytes, length, value);
        return;
      }
      const common = Math.min(commonBits(bytes, next.bytes), length, next.length);
      if (common < next.length) {
        const fork = node<Value>(bytes, common);
        fork[bitOf(next.bytes, common)] = next;
        at[side] = fork;
      }
      at = at[side] as Node<Value>;
    }
    at.value = value;
  }

  /** All values, in the order of their prefixes. */
  all(): Value[] {
    const found: Value[] = [];
    collect(this.#root, found);
    return found;
  }

  remove(prefix: Prefix): void {
    const { bytes } = prefix.address;
    const length = mappedLength(prefix);
    const way: Node<Value>[] = [];
    let at: Node<Value> | undefined = this.#root;
    while (at && at.length < length) {
      way.push(at);
      at = at[bitOf(bytes, at.length)];
    }
    if (!at || at.length !== length || commonBits(bytes, at.bytes) < length) return;
    at.value = undefined;
    // A node that neither holds nothing nor parts two ways goes; so may the one above it then.
    for (let one: Node<Value> | undefined = at, above = way.pop(); one && above; one = above, above = way.pop()) {
      if (one.value !== undefined || (one.zero && one.one)) return;
      above[bitOf(one.bytes, above.length)] = one.zero ?? one.one;
    }
  }

  /** The values of all prefixes that share an address with this one; of those that hold it whole first, the shortest first. */
  overlapping(prefix: Prefix): Value[] {
    const { bytes } = prefix.address;
    const length = mappedLength(prefix);
    const found: Value[] = [];
    let at: Node<Value> | undefined = this.#root;
    while (at && at.length < length) {
      if (commonBits(bytes, at.bytes) < at.length) return found;
      if (at.value !== undefined) found.push(at.value);
      at = at[bitOf(bytes, at.length)];
    }
    if (at && commonBits(bytes, at.bytes) >= length) collect(at, found);
    return found;
  }
}

function node<Value>(bytes: Uint8Array, length: number, value?: Value): Node<Value> {
  return { bytes, length, value, zero: undefined, one: undefined };
}

function collect<Value>({ value, zero, one }: Node<Value>, found: Value[]): void {
  if (value !== undefined) found.push(value);
  if (zero) collect(zero, found);
  if (one) collect(one, found);
}

function bitOf(bytes: Uint8Array, index: number): 'zero' | 'one' {
  return ((bytes[index >> 3] ?? 0) >> (7 - (index & 7))) & 1 ? 'one' : 'zero';
}

/** How many bits two addresses have in common from the first on. */
function commonBits(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < 16; i++) {
    const differing = (a[i] ?? 0) ^ (b[i] ?? 0);
    if (differing !== 0) return i * 8 + Math.clz32(differing) - 24;
  }
  return 128;
}
