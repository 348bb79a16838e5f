/**
 * What stands in the files people write, as schemas: the words shared by
 * agent.yaml, the rule files and the devices file. Each knows what it expects
 * and says so in its message. All messages of a file have one form:
 * `expected …, found …`, or `"key" is missing: expected …`.
 *
 * Scalars arrive as their text (document.ts), so every field reads text. What
 * is said to editors (JSON Schema) is the type as they see it.
 */
import { z } from 'zod';
import { isHashed } from './identities.ts';
import { type Family, parseAddress, parsePrefix } from './net.ts';
import {
  type Imsi,
  type Msisdn,
  PROTOCOLS,
  parseExternalId,
  parseImsi,
  parseInterfaceId,
  parseMsisdn,
} from './words.ts';

/** A scalar, read by a function that answers undefined where the text is none of the kind. */
export function field<Value>(
  expected: string,
  read: (text: string) => Value | undefined,
  editor: z.core.GlobalMeta = {},
  complain = (text: string) => `expected ${expected}, found ${describe(text)}`,
) {
  return z
    .string({ error: wanted(expected) })
    .meta({ description: `expected: ${expected}`, ...editor })
    .transform((text, context): Value => {
      const value = read(text);
      if (value !== undefined) return value;
      context.issues.push({ code: 'custom', input: text, message: complain(text) });
      return z.NEVER;
    });
}

/** One whose message does not say what was found: it may be what must not stand in a log. */
function secretField<Value>(expected: string, read: (text: string) => Value | undefined) {
  return field(
    expected,
    read,
    {},
    (text) => `expected ${expected}, found ${text === '' ? 'nothing' : 'something else'}`,
  );
}

/** A mapping with these keys and no others. */
export function mapping<Shape extends z.core.$ZodShape>(shape: Shape, expected = 'a mapping') {
  const known = Object.keys(shape);
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys'
        ? issue.keys.map((key) => unknownWord('key', key, known)).join('\n')
        : wanted(`${expected} with the keys ${known.join(', ')}`)(issue),
  });
}

/** A mapping that may be written short: a text alone is the value of this key. */
export function shortFor<Schema extends z.ZodType>(key: string, schema: Schema) {
  return z.preprocess((written) => (typeof written === 'string' ? { [key]: written } : written), schema);
}

/** A mapping from names to values. */
export function named<Value extends z.ZodType>(value: Value, expected: string) {
  return z.record(nameText, value, { error: wanted(`a mapping from names to ${expected}`) });
}

/** A list. Where its absence means "any", an empty one would be read as "none" by some: `least` is then 1. */
export function list<Item extends z.ZodType>(item: Item, expected: string, least = 1) {
  const empty = `expected a list of ${expected}, found an empty one`;
  return z.array(item, { error: wanted(`a list of ${expected}`) }).min(least, { error: empty });
}

/** One item, or a list of them: reads as a list. Each item is judged at its own place. */
export function oneOrMore<Item extends z.ZodType<unknown, string>>(item: Item, expected: string) {
  const input = z.union([z.string(), list(z.string(), expected)], { error: wanted(`${expected}, or a list of these`) });
  return input
    .meta({ description: `expected: ${expected}, or a list of these` })
    .transform((written, context): z.output<Item>[] => {
      const readings = [written].flat().map((text) => item.safeParse(text));
      for (const [i, { error }] of readings.entries())
        for (const { message } of error?.issues ?? [])
          context.issues.push({
            code: 'custom',
            input: written,
            message,
            path: Array.isArray(written) ? [i] : [],
          });
      return readings.flatMap(({ data }) => (data === undefined ? [] : [data]));
    });
}

/** YAML has no unions; a mapping with exactly one of some keys reads as one. Judged beside whatever else is wrong. */
export function exactlyOne(...keys: readonly string[]) {
  const one = (written: object) => keys.filter((key) => key in written).length === 1;
  const named = `${keys.slice(0, -1).join(', ')} and ${keys.at(-1)}`;
  return [one, { error: `expected exactly one of ${named}`, when: isMapping }] as const;
}

export function isMapping({ value }: { readonly value: unknown }): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function integer(low: number, high: number) {
  const read = (text: string) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    return low <= value && value <= high ? value : undefined;
  };
  return field(`a whole number from ${low} to ${high}`, read, { type: 'integer', minimum: low, maximum: high });
}

export function choice<const Word extends string>(...words: readonly Word[]) {
  const read = (text: string) => words.find((word) => word === text);
  return field(words.length === 1 ? words.join() : `one of ${words.join(', ')}`, read, { enum: [...words] });
}

/** `true` or `false`. */
export const flag = field(
  'true or false',
  (value) => (value === 'true' ? true : value === 'false' ? false : undefined),
  { type: 'boolean' },
);

const NAME = /^[a-z0-9][a-z0-9.-]{0,62}$/;
const NAME_EXPECTED = 'a name (lower-case letters, digits, dot, hyphen; at most 63)';
const nameText = z
  .string()
  .regex(NAME, { error: (issue) => `expected ${NAME_EXPECTED}, found ${describe(issue.input)}` });

/** A name, branded as what it names. */
export function name<Brand extends string>() {
  return field(NAME_EXPECTED, (text) => (NAME.test(text) ? (text as Brand) : undefined), { pattern: NAME.source });
}

/** A mapping from attribute names (of a device) to values. */
export function attributes<Value extends z.ZodType>(value: Value) {
  return z
    .record(attributeName, value, { error: wanted('a mapping from attribute names to values') })
    .refine((written) => Object.keys(written).length <= MOST_ATTRIBUTES, {
      error: `expected at most ${MOST_ATTRIBUTES} attributes`,
    });
}

/** Attributes of one device. */
const MOST_ATTRIBUTES = 32;
const ATTRIBUTE = /^[A-Za-z][A-Za-z0-9_]{0,62}$/;
const ATTRIBUTE_EXPECTED = 'an attribute name (letters, digits, underscore; a letter first; at most 63)';
export const attributeName = z
  .string()
  .regex(ATTRIBUTE, { error: (issue) => `expected ${ATTRIBUTE_EXPECTED}, found ${describe(issue.input)}` });

/** What an attribute says; as written, since it is compared as a whole. */
export const attributeValue = field(
  'a text of at most 256 characters',
  (value) => (value.length >= 1 && value.length <= 256 ? value : undefined),
  { minLength: 1, maxLength: 256 },
);

/** Bytes: `10MB` is 10^7, as networks count. No more than the gate has room for (40 bits: limits.h). */
export const bytes = field(
  'a size such as 500kB, 10MB or 2GB (powers of 1000), or a number of bytes; at most 1TB',
  (value) => {
    const [, digits, unit = ''] = /^([1-9]\d{0,15})(kB|MB|GB|TB)?$/.exec(value) ?? [];
    const size = Number(digits) * 1000 ** ['', 'kB', 'MB', 'GB', 'TB'].indexOf(unit);
    return size <= 1e12 ? size : undefined;
  },
  { type: ['integer', 'string'], minimum: 1, maximum: 1e12, pattern: '^[1-9][0-9]{0,15}(kB|MB|GB|TB)?$' },
);

export const text = field('a text', (value) => (value.trim() === '' ? undefined : value.trim()), { minLength: 1 });
export const port = integer(1, 65535);
export const protocol = choice(...PROTOCOLS);
export const family = choice<Family>('ipv4', 'ipv6');
export const address = field('an IP address', parseAddress);
export const externalId = field('an external identifier such as meter-1@meters.example', parseExternalId);
export const msisdn = secretField(
  'an MSISDN: 5 to 15 digits of E.164, such as +491715550100',
  (text) => parseMsisdn(text) ?? (isHashed(text) ? (text as Msisdn) : undefined),
);
export const imsi = secretField(
  'an IMSI: 6 to 15 digits',
  (text) => parseImsi(text) ?? (isHashed(text) ? (text as Imsi) : undefined),
);
export const interfaceId = field('an interface identifier such as 0:0:0:1, not all zeros', parseInterfaceId);
export const prefix = field(
  'a prefix such as 198.51.100.0/24 or 2001:db8::/32',
  (value) => {
    const parsed = parsePrefix(value);
    return typeof parsed === 'string' ? undefined : parsed;
  },
  {},
  (value) => `expected a prefix: ${parsePrefix(value)}`,
);

/** A port as a regular expression. Leading zeros are read, as they are where a number stands alone. */
const PORT_PATTERN = '0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])';

/**
 * A range of ports, `61616-61631`, or one port. A range whose upper end is
 * none must not pass for its lower port alone: a deny would let the others by.
 */
export const ports = field(
  'a port or a range of ports such as 61616-61631',
  (value) => {
    const [first = '', ...more] = value.split('-');
    const [low, high] = [first, more.length === 0 ? first : more.join('-')].map((part) => port.safeParse(part).data);
    return low !== undefined && high !== undefined && low <= high ? { low, high } : undefined;
  },
  { type: ['integer', 'string'], minimum: 1, maximum: 65535, pattern: `^${PORT_PATTERN}(-${PORT_PATTERN})?$` },
  (value) => {
    const reversed = /^(\d{1,5})-(\d{1,5})$/.exec(value);
    const hint = reversed && Number(reversed[1]) > Number(reversed[2]) ? '; the lower port comes first' : '';
    return `expected a port or a range of ports such as 61616-61631, found ${describe(value)}${hint}`;
  },
);

/** `unknown key "sevrers"; did you mean "servers"?` */
export function unknownWord(kind: string, word: string, known: readonly string[]): string {
  const nearest = nearestTo(word, known);
  if (nearest) return `unknown ${kind} "${word}"; did you mean "${nearest}"?`;
  return `unknown ${kind} "${word}"; known here: ${known.length > 16 ? `${known.length} others` : known.join(', ') || 'none'}`;
}

/** The word that a misspelt one was meant to be, or undefined where none is near. */
function nearestTo(word: string, known: Iterable<string>): string | undefined {
  let nearest: string | undefined;
  let least = Math.min(Math.max(3, Math.floor(word.length / 3)), word.length);
  for (const candidate of known) {
    const distance = distanceBetween(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) [nearest, least] = [candidate, distance];
  }
  return nearest;
}

/** How many letters to add, drop or replace (Levenshtein), row by row. */
function distanceBetween(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (above[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, (above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
  }
  return row[b.length] ?? 0;
}

function wanted(expected: string) {
  return ({ input, path }: { input?: unknown; path?: readonly PropertyKey[] | undefined }) =>
    input === undefined
      ? `"${String(path?.at(-1))}" is missing: expected ${expected}`
      : `expected ${expected}, found ${describe(input)}`;
}

/** What was found, in a message. */
export function describe(input: unknown): string {
  if (typeof input === 'string')
    return input === '' ? 'nothing' : `"${input.length > 80 ? `${input.slice(0, 80)}…` : input}"`;
  if (input === null) return 'nothing';
  // Of JSON: a number has lost its leading zeros, and more, before it is looked at.
  if (typeof input === 'number' || typeof input === 'boolean') return `${input} without quotation marks`;
  return Array.isArray(input) ? 'a list' : 'a mapping';
}
