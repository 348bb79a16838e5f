/**
 * A set of prefixes of one family that says of an address, lying in the
 * kernel's bytes, whether one of them holds it: a look for each length that
 * occurs, however many prefixes there are, and nothing is made on the way.
 * Millions of addresses are asked about at once (conntrack-message.ts).
 *
 * Open addressing, at most a quarter full. A slot is the prefix's four words,
 * the host bits zero, and its length plus one: 0 is an empty slot. IPv4 is the
 * last word, with zeros before it.
 */
import { type Family, mappedLength, type Prefix } from '../core/net.ts';

const SLOT = 5;

export class PrefixSet {
  readonly family: Family;
  /** Bytes of an address of this family, as it lies in the kernel's messages. */
  readonly width: 4 | 16;
  /** For each length that occurs: four words of mask, and the length. */
  readonly #masks: Uint32Array;
  readonly #slots: Uint32Array;
  readonly #last: number;

  /** Of these, those of that family. */
  constructor(family: Family, prefixes: readonly Prefix[]) {
    const own = prefixes.filter((prefix) => prefix.family === family);
    this.family = family;
    this.width = family === 'ipv4' ? 4 : 16;
    const lengths = [...new Set(own.map(mappedLength))];
    this.#masks = Uint32Array.from(
      lengths.flatMap((length) => [...[0, 1, 2, 3].map((i) => maskOf(length - 32 * i)), length]),
    );
    let size = 4;
    while (size < 4 * own.length) size *= 2;
    this.#slots = new Uint32Array(size * SLOT);
    this.#last = size - 1;
    for (const prefix of own) this.#add(prefix);
  }

  get isEmpty(): boolean {
    return this.#masks.length === 0;
  }

  /** Whether a prefix holds the address of `width` bytes at that place. */
  holds(view: DataView, at: number): boolean {
    return this.width === 4
      ? this.#finds(0, 0, 0, view.getUint32(at))
      : this.#finds(view.getUint32(at), view.getUint32(at + 4), view.getUint32(at + 8), view.getUint32(at + 12));
  }

  #finds(a: number, b: number, c: number, d: number): boolean {
    const masks = this.#masks;
    for (let i = 0; i < masks.length; i += SLOT) {
      const at = this.#slotOf(
        (a & (masks[i] as number)) >>> 0,
        (b & (masks[i + 1] as number)) >>> 0,
        (c & (masks[i + 2] as number)) >>> 0,
        (d & (masks[i + 3] as number)) >>> 0,
        masks[i + 4] as number,
      );
      if (this.#slots[at + 4] !== 0) return true;
    }
    return false;
  }

  #add(prefix: Prefix): void {
    const { buffer, byteOffset } = prefix.address.bytes;
    const view = new DataView(buffer, byteOffset, 16);
    const [a, b, c] =
      this.width === 4 ? ([0, 0, 0] as const) : ([view.getUint32(0), view.getUint32(4), view.getUint32(8)] as const);
    const length = mappedLength(prefix);
    this.#slots.set([a, b, c, view.getUint32(12), length + 1], this.#slotOf(a, b, c, view.getUint32(12), length));
  }

  /** Where this prefix stands, or would stand. */
  #slotOf(a: number, b: number, c: number, d: number, length: number): number {
    const slots = this.#slots;
    let hash = Math.imul(a ^ Math.imul(b, 0x85ebca6b) ^ length, 0x9e3779b1);
    hash = Math.imul(hash ^ (hash >>> 15) ^ c ^ Math.imul(d, 0xc2b2ae35), 0x27d4eb2f);
    hash ^= hash >>> 15;
    for (let slot = hash & this.#last; ; slot = (slot + 1) & this.#last) {
      const at = slot * SLOT;
      if (slots[at + 4] === 0) return at;
      if (
        slots[at + 4] === length + 1 &&
        slots[at] === a &&
        slots[at + 1] === b &&
        slots[at + 2] === c &&
        slots[at + 3] === d
      )
        return at;
    }
  }
}

/** A word of which so many leading bits are set; less than none is none, more than all is all. */
function maskOf(bits: number): number {
  if (bits <= 0) return 0;
  return bits >= 32 ? 0xffff_ffff : (0xffff_ffff << (32 - bits)) >>> 0;
}
