/**
 * What an inner address looks like wherever it stands: as bytes, either way
 * round; as text, of an IPv4 address in dots, as a number and inside an IPv6
 * one, of an IPv6 address as it may be shortened; in hexadecimal; in base64 of
 * the text, which has three faces by where it begins.
 *
 * Of a whole prefix are found its text, its base64, and the bytes where they
 * are six or more: four bytes of an IPv4 address stand in a gigabyte of random
 * ones by chance, two all the time. So of IPv4 the bytes are found of the
 * addresses that are named.
 */
import { type Address, address, addressFromBytes, contains, type Prefix, prefix } from '../agent/core/net.ts';

export class InnerForms {
  readonly #prefixes: readonly Prefix[];
  readonly #bytes: RegExp;
  readonly #text: RegExp;

  constructor(prefixes: readonly string[], addresses: readonly string[]) {
    this.#prefixes = prefixes.map(prefix);
    const exact = addresses.map(address);
    const all = (parts: readonly string[]) => new RegExp([...new Set(parts)].join('|') || '(?!)', 's');
    this.#bytes = all([...exact.flatMap(bytesOf), ...this.#prefixes.flatMap(bytesOfPrefix)]);
    this.#text = all([...exact.flatMap(textsOf), ...this.#prefixes.flatMap(textsOfPrefix)]);
  }

  /** Whether an address, as its bytes in a header, is of the inside. */
  has(bytes: Uint8Array): boolean {
    if (bytes.length !== 4 && bytes.length !== 16) return false;
    const found = wireAddress(bytes);
    return this.#prefixes.some((one) => contains(one, found));
  }

  /** The first form found, and what stands around it; of ciphertext only text is looked for, since bytes mean nothing there. */
  find(bytes: Uint8Array, ciphertext = false): string | undefined {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
    const found = this.#text.exec(text) ?? (ciphertext ? null : this.#bytes.exec(text));
    if (!found) return undefined;
    const around = text.slice(Math.max(0, found.index - 24), found.index + found[0].length + 24);
    return `${JSON.stringify(found[0])} at byte ${found.index} in ${JSON.stringify(around)}`;
  }
}

/** An address as a header has it. */
export function wireAddress(bytes: Uint8Array): Address {
  return addressFromBytes(
    bytes.length === 4 ? Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...bytes) : bytes,
  );
}

const wire = ({ family, bytes }: Address) => (family === 'ipv4' ? bytes.subarray(12) : bytes);
const hex2 = (byte: number) => byte.toString(16).padStart(2, '0');
/** A pattern of bytes in a text of one character a byte. */
const literal = (bytes: Iterable<number>) => Array.from(bytes, (byte) => `\\x${hex2(byte)}`).join('');
const anyCase = (digits: string) => digits.replace(/[a-f]/g, (letter) => `[${letter}${letter.toUpperCase()}]`);
/** Hexadecimal text of bytes, as `0a140002` or `0a:14:00:02`. */
const hexText = (bytes: Iterable<number>) => Array.from(bytes, (byte) => anyCase(hex2(byte))).join('[:. -]?');
const group = (value: number) => {
  const digits = value.toString(16);
  return `0{0,${4 - digits.length}}${anyCase(digits)}`;
};

function bytesOf(one: Address): string[] {
  const bytes = wire(one);
  return [literal(bytes), literal([...bytes].reverse())];
}

function bytesOfPrefix({ address: base, length }: Prefix): string[] {
  const fixed = wire(base).subarray(0, length >> 3);
  return fixed.length < 6 ? [] : [literal(fixed), literal([...fixed].reverse())];
}

function textsOf(one: Address): string[] {
  const bytes = wire(one);
  const [a = 0, b = 0, c = 0, d = 0] = bytes;
  if (one.family === 'ipv6') return [hexText(bytes), hexText([...bytes].reverse()), ...base64Of(bytes)];
  const number = ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
  return [
    `(?<![\\d.])${a}\\.${b}\\.${c}\\.${d}(?!\\d)`,
    `(?<![\\d.])${number}(?!\\d)`,
    `[fF]{4}:${group((a << 8) | b)}:${group((c << 8) | d)}(?![0-9a-fA-F])`,
    `(?<![0-9a-fA-F])${hexText(bytes)}(?![0-9a-fA-F])`,
    `(?<![0-9a-fA-F])${hexText([...bytes].reverse())}(?![0-9a-fA-F])`,
  ];
}

function textsOfPrefix({ address: base, length }: Prefix): string[] {
  const fixed = wire(base).subarray(0, length >> 3);
  if (base.family === 'ipv4') {
    const text = `${fixed.join('.')}.`;
    const rest = Array.from({ length: 4 - fixed.length }, () => '\\d{1,3}').join('\\.');
    return [`(?<![\\d.])${text.replaceAll('.', '\\.')}${rest}(?![\\d])`, ...base64Of(Buffer.from(text))];
  }
  const groups = Array.from(
    { length: fixed.length >> 1 },
    (_, i) => ((fixed[2 * i] ?? 0) << 8) | (fixed[2 * i + 1] ?? 0),
  );
  while (groups.at(-1) === 0) groups.pop(); // `fd00:20::2` and `fd00:20:0:…` both begin so
  const begin = `${groups.map(group).join(':')}:`;
  const shortest = `${groups.map((value) => value.toString(16)).join(':')}:`;
  const ways = [shortest, shortest.toUpperCase()].flatMap((text) => base64Of(Buffer.from(text)));
  return [`(?<![0-9a-fA-F:])${begin}`, hexText(fixed), ...ways, ...base64Of(fixed)];
}

/** Base64 of bytes that stand somewhere in what was encoded: of each way to begin, the characters that depend on nothing else. */
function base64Of(bytes: Uint8Array): string[] {
  return [0, 1, 2].map((before) => {
    const text = Buffer.concat([Buffer.alloc(before), bytes]).toString('base64');
    const first = Math.ceil((before * 8) / 6);
    const last = Math.floor(((before + bytes.length) * 8) / 6);
    return text.slice(first, last).replace(/[+/]/g, (sign) => (sign === '+' ? '[+-]' : '[/_]'));
  });
}
