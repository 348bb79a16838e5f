/**
 * The two kinds of names that a gateway makes in masses, ULIDs and UUIDs, are
 * 128 bits each and take that much here, not the threefold as text. What is
 * neither, or not in its canonical spelling, is kept as the text it is.
 */
export type Words = [number, number, number, number];
/** How a text is kept; `text` is as it came. */
export const FORMS = ['text', 'ulid', 'uuid'] as const;
export type Form = (typeof FORMS)[number];

const ULID_LETTERS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const ULID_VALUES = valuesOf(ULID_LETTERS);
const HEX = '0123456789abcdef';
const HEX_VALUES = valuesOf(HEX);
const HYPHEN = 45;

/** Writes the 128 bits of a text into `words`, and says how; `text` where it has none, and then writes nothing of use. */
export function pack(text: string, words: Words): Form {
  if (text.length === 26) return packUlid(text, words) ? 'ulid' : 'text';
  return text.length === 36 && packUuid(text, words) ? 'uuid' : 'text';
}

/** The text that was packed so. */
export function unpack(form: 'ulid' | 'uuid', words: Words): string {
  return form === 'ulid' ? ulidOf(words) : uuidOf(words);
}

/** What each letter stands for, by its code; -1 for those that stand for nothing. */
function valuesOf(letters: string): Int8Array {
  const values = new Int8Array(128).fill(-1);
  for (const [value, letter] of [...letters].entries()) values[letter.charCodeAt(0)] = value;
  return values;
}

/** Hyphens stand behind the digits 8, 12, 16 and 20. */
function packUuid(text: string, words: Words): boolean {
  words.fill(0);
  for (let i = 0, digit = 0; i < 36; i++) {
    const code = text.charCodeAt(i);
    if (i === 8 || i === 13 || i === 18 || i === 23) {
      if (code !== HYPHEN) return false;
      continue;
    }
    const value = HEX_VALUES[code] ?? -1;
    if (value < 0) return false;
    const at = digit >>> 3;
    words[at] = (((words[at] as number) << 4) | value) >>> 0;
    digit += 1;
  }
  return true;
}

/** 26 letters of 5 bits are 130: the first has only the lower three. */
function packUlid(text: string, words: Words): boolean {
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i < 26; i++) {
    const value = ULID_VALUES[text.charCodeAt(i)] ?? -1;
    if (value < 0 || (i === 0 && value > 7)) return false;
    a = (a << 5) | (b >>> 27);
    b = (b << 5) | (c >>> 27);
    c = (c << 5) | (d >>> 27);
    d = (d << 5) | value;
  }
  words[0] = a >>> 0;
  words[1] = b >>> 0;
  words[2] = c >>> 0;
  words[3] = d >>> 0;
  return true;
}

function uuidOf(words: Words): string {
  const letters: number[] = [];
  for (let digit = 0; digit < 32; digit++) {
    if (digit === 8 || digit === 12 || digit === 16 || digit === 20) letters.push(HYPHEN);
    const value = ((words[digit >>> 3] as number) >>> (28 - 4 * (digit & 7))) & 15;
    letters.push(HEX.charCodeAt(value));
  }
  return String.fromCharCode(...letters);
}

function ulidOf([a, b, c, d]: Words): string {
  const letters = new Array<number>(26);
  for (let i = 25; i >= 0; i--) {
    letters[i] = ULID_LETTERS.charCodeAt(d & 31);
    d = (d >>> 5) | (c << 27);
    c = (c >>> 5) | (b << 27);
    b = (b >>> 5) | (a << 27);
    a >>>= 5;
  }
  return String.fromCharCode(...letters);
}
