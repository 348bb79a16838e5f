/**
 * Where the live grants lie: a slot each, in blocks that are made
 * as they are needed and never moved. A slot holds what is a grant's own; what
 * many share stands in tables (packed-grants.ts), and the slot has its number there.
 */
import { type Address, addressFromBytes } from '../core/net.ts';
import { hashNumbers, hashText } from './hash-index.ts';
import { FORMS, pack, unpack, type Words } from './packed-text.ts';

/** A slot's words of 32 bits; even, so that those of 64 bits lie whole. */
const WORDS = 44;
const BITS = 12;
const MASK = (1 << BITS) - 1;

/** Fields of 64 bits, by their place among such: they lie before all others. */
export const LONG = {
  number: 0,
  expiresAtNs: 1,
  expiresAtMs: 2,
  startedAtMs: 3,
  sequence: 4,
  mtcUserSequence: 5,
} as const;
/** Fields of 32 bits. Texts and the address take four of these. */
export const WORD = {
  id: 12,
  correlator: 16,
  external: 20,
  devicePort: 24,
  externalPort: 25,
  remotePort: 26,
  forms: 27,
  grantedSeconds: 28,
  index: 29,
  terms: 30,
  server: 31,
  device: 32,
  pair: 33,
  inner: 34,
  reference: 35,
  place: 36,
  second: 37,
  innerBefore: 38,
  innerAfter: 39,
  secondBefore: 40,
  secondAfter: 41,
  mtcUser: 42,
  mtcUserPlace: 43,
} as const;

export type WordField = (typeof WORD)[keyof typeof WORD];
type LongField = (typeof LONG)[keyof typeof LONG];
type TextField = 'id' | 'correlator';

/** Where in the word `forms` stands how a text is kept. */
const FORM_SHIFT = { id: 0, correlator: 2 } as const;
/** The third word of an IPv4 address in mapped form. */
const MAPPED = 0xffff;

interface Block {
  readonly words: Uint32Array;
  readonly doubles: Float64Array;
  readonly longs: BigInt64Array;
  /** Texts that are not packed, by slot. */
  readonly texts: Readonly<Record<TextField, string[]>>;
}

export class Slots {
  readonly #blocks: Block[] = [];
  /** IPv4 addresses of the pool, which are few. */
  readonly #ipv4 = new Map<number, Address>();
  readonly #packed: Words = [0, 0, 0, 0];
  /** Slots that were given back, and the first that never was taken. */
  readonly #free: number[] = [];
  #end = 0;

  take(): number {
    const slot = this.#free.pop() ?? this.#end++;
    if (slot >>> BITS >= this.#blocks.length) this.#blocks.push(newBlock());
    return slot;
  }

  give(slot: number): void {
    const { texts } = this.#block(slot);
    delete texts.id[slot & MASK];
    delete texts.correlator[slot & MASK];
    this.#free.push(slot);
  }

  word(slot: number, field: WordField): number {
    return this.#block(slot).words[(slot & MASK) * WORDS + field] as number;
  }

  setWord(slot: number, field: WordField, value: number): void {
    this.#block(slot).words[(slot & MASK) * WORDS + field] = value;
  }

  double(slot: number, field: LongField): number {
    return this.#block(slot).doubles[((slot & MASK) * WORDS) / 2 + field] as number;
  }

  setDouble(slot: number, field: LongField, value: number): void {
    this.#block(slot).doubles[((slot & MASK) * WORDS) / 2 + field] = value;
  }

  long(slot: number, field: LongField): bigint {
    return this.#block(slot).longs[((slot & MASK) * WORDS) / 2 + field] as bigint;
  }

  setLong(slot: number, field: LongField, value: bigint): void {
    this.#block(slot).longs[((slot & MASK) * WORDS) / 2 + field] = value;
  }

  text(slot: number, field: TextField): string {
    const form = this.#form(slot, field);
    if (form === 'text') return this.#block(slot).texts[field][slot & MASK] as string;
    return unpack(form, this.#words(slot, WORD[field]));
  }

  setText(slot: number, field: TextField, text: string): void {
    const form = pack(text, this.#packed);
    if (form === 'text') this.#block(slot).texts[field][slot & MASK] = text;
    else for (let i = 0; i < 4; i++) this.setWord(slot, (WORD[field] + i) as WordField, this.#packed[i] as number);
    const shift = FORM_SHIFT[field];
    const others = this.word(slot, WORD.forms) & ~(3 << shift);
    this.setWord(slot, WORD.forms, others | (FORMS.indexOf(form) << shift));
  }

  address(slot: number): Address {
    const words = this.#words(slot, WORD.external);
    const [a, b, c, d] = words;
    if (a !== 0 || b !== 0 || c !== MAPPED) return addressOf(words);
    const known = this.#ipv4.get(d) ?? addressOf(words);
    this.#ipv4.set(d, known);
    return known;
  }

  setAddress(slot: number, { bytes }: Address): void {
    for (let i = 0; i < 4; i++) this.setWord(slot, (WORD.external + i) as WordField, wordAt(bytes, i));
  }

  isAddress(slot: number, { bytes }: Address): boolean {
    for (let i = 0; i < 4; i++) {
      if (this.word(slot, (WORD.external + i) as WordField) !== wordAt(bytes, i)) return false;
    }
    return true;
  }

  hashOfText(slot: number, field: TextField): number {
    const form = this.#form(slot, field);
    return form === 'text' ? hashText(this.text(slot, field)) : hashNumbers(...this.#words(slot, WORD[field]));
  }

  isText(slot: number, field: TextField, text: string): boolean {
    const form = pack(text, this.#packed);
    if (form !== this.#form(slot, field)) return false;
    if (form === 'text') return this.text(slot, field) === text;
    return this.#words(slot, WORD[field]).every((word, i) => word === this.#packed[i]);
  }

  /** What `hashOfEndpoint` says of where the slot is. */
  hashOfEndpoint(slot: number): number {
    return hashNumbers(...this.#words(slot, WORD.external), this.word(slot, WORD.externalPort));
  }

  /** What a text hashes to, wherever it is kept. */
  hash(text: string): number {
    return pack(text, this.#packed) === 'text' ? hashText(text) : hashNumbers(...this.#packed);
  }

  #form(slot: number, field: TextField) {
    return FORMS[(this.word(slot, WORD.forms) >>> FORM_SHIFT[field]) & 3] as (typeof FORMS)[number];
  }

  #words(slot: number, field: WordField): Words {
    const { words } = this.#block(slot);
    const at = (slot & MASK) * WORDS + field;
    return [words[at] as number, words[at + 1] as number, words[at + 2] as number, words[at + 3] as number];
  }

  #block(slot: number): Block {
    return this.#blocks[slot >>> BITS] as Block;
  }
}

function newBlock(): Block {
  const buffer = new ArrayBuffer((1 << BITS) * WORDS * 4);
  return {
    words: new Uint32Array(buffer),
    doubles: new Float64Array(buffer),
    longs: new BigInt64Array(buffer),
    texts: { id: [], correlator: [] },
  };
}

function wordAt(bytes: Uint8Array, word: number): number {
  const [a = 0, b = 0, c = 0, d = 0] = bytes.subarray(word * 4, word * 4 + 4);
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
}

/** What an address hashes to, with its port. */
export function hashOfEndpoint({ bytes }: Pick<Address, 'bytes'>, port: number): number {
  return hashNumbers(wordAt(bytes, 0), wordAt(bytes, 1), wordAt(bytes, 2), wordAt(bytes, 3), port);
}

function addressOf(words: Words): Address {
  const bytes = new Uint8Array(16);
  for (const [i, word] of words.entries()) {
    for (let byte = 0; byte < 4; byte++) bytes[i * 4 + byte] = word >>> (24 - 8 * byte);
  }
  return addressFromBytes(bytes);
}
