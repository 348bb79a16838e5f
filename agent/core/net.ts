/**
 * Addresses, prefixes and endpoints: IPv4 and IPv6 in one type.
 *
 * Everything that compares or stores an address does it on the values made
 * here, so that one address has one spelling: canonical text (RFC 5952) and
 * 16 bytes, in which IPv4 stands in its mapped form (::ffff:a.b.c.d, RFC 4291
 * 2.5.5.2), as it does in the gate's maps. Parsing is strict: no octal, no
 * zone, no missing octets, no host bits set behind a prefix.
 */
import { Address6 } from 'ip-address';
import { Netmask } from 'netmask';

export type Family = 'ipv4' | 'ipv6';

/** An address. `bytes` has 16 bytes (IPv4 in mapped form) and must not be written to. */
export interface Address {
  readonly family: Family;
  readonly text: string;
  readonly bytes: Uint8Array;
}

/** A prefix; `length` counts from the family's own first bit (IPv4: 0 to 32, IPv6: 0 to 128). */
export interface Prefix {
  readonly family: Family;
  readonly address: Address;
  readonly length: number;
  readonly text: string;
}

/** An address with a port (0 to 65535). */
export interface Endpoint {
  readonly address: Address;
  readonly port: number;
}

/** Next hops by family; without one the kernel's own route decides, packet by packet. */
export interface NextHops {
  readonly ipv4?: Address;
  readonly ipv6?: Address;
}

const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] as const;
const IPV4_TEXT = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/;

/** The address that 16 bytes mean (mapped form: IPv4). @throws RangeError for any other length */
export function addressFromBytes(bytes: Uint8Array): Address {
  if (bytes.length !== 16) throw new RangeError(`an address has 16 bytes, not ${bytes.length}`);
  const copy = Uint8Array.from(bytes);
  if (MAPPED.every((byte, i) => copy[i] === byte)) {
    return { family: 'ipv4', text: copy.subarray(12).join('.'), bytes: copy };
  }
  return { family: 'ipv6', text: textOfIpv6(copy), bytes: copy };
}

/** The address that the four octets of IPv4 are. @throws RangeError for any other number of them */
export function addressFromIpv4(octets: ArrayLike<number>): Address {
  if (octets.length !== 4) throw new RangeError(`an IPv4 address has 4 octets, not ${octets.length}`);
  const bytes = new Uint8Array(16);
  bytes.set(MAPPED);
  bytes.set(octets, MAPPED.length);
  return { family: 'ipv4', text: bytes.subarray(12).join('.'), bytes };
}

/**
 * RFC 5952, 4: of the runs of zero groups the longest, and of equal ones the
 * first, is left out; never a single group. Here and not by the library, which
 * takes ten times as long: a start reads a text for each of a million bindings.
 */
function textOfIpv6(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  let [from, length] = [0, 1];
  for (let i = 0, run = 0; i < 8; i++) {
    run = groups[i] === 0 ? run + 1 : 0;
    if (run > length) [from, length] = [i + 1 - run, run];
  }
  const hex = groups.map((group) => group.toString(16));
  if (length === 1) return hex.join(':');
  const [before, behind] = [hex.slice(0, from), hex.slice(from + length)];
  // One join, so that the text is one string and not a rope of four.
  return [...(from === 0 ? [''] : before), '', ...(behind.length === 0 ? [''] : behind)].join(':');
}

/** An address from its text, or undefined where the text is none. IPv4-mapped IPv6 is read as IPv4. */
export function parseAddress(text: string): Address | undefined {
  const octets = IPV4_TEXT.exec(text)?.slice(1).map(Number);
  if (octets) {
    if (octets.some((octet) => octet > 255)) return undefined;
    return addressFromIpv4(octets);
  }
  if (!text.includes(':') || /[%/\s]/.test(text)) return undefined;
  const bytes = bytesOfIpv6(text);
  if (!bytes) return undefined;
  const padded = new Uint8Array(16);
  padded.set(bytes, 16 - bytes.length);
  return addressFromBytes(padded);
}

/** Without leading zeros; undefined where the text is none. (`Address6.isValid` would read it once more.) */
function bytesOfIpv6(text: string): number[] | undefined {
  try {
    return new Address6(text).toUnsignedByteArray();
  } catch {
    return undefined;
  }
}

/** @throws RangeError where the text is no address; for text that was checked before */
export function address(text: string): Address {
  const parsed = parseAddress(text);
  if (!parsed) throw new RangeError(`"${text}" is not an IP address`);
  return parsed;
}

/**
 * A prefix from its text (`address/length`; a bare address is a host prefix).
 * Returns the reason as a string where the text is none, worded for operators.
 */
export function parsePrefix(text: string): Prefix | string {
  const [host = '', lengthText, ...rest] = text.split('/');
  const parsed = parseAddress(host);
  if (!parsed || rest.length > 0) return `"${text}" is not a prefix such as 198.51.100.0/24 or 2001:db8::/32`;
  if (host.includes(':') && parsed.family === 'ipv4') return `"${text}": write IPv4 prefixes without ::ffff:`;
  const widest = parsed.family === 'ipv4' ? 32 : 128;
  if (lengthText !== undefined && !/^(0|[1-9]\d{0,2})$/.test(lengthText))
    return `"${text}": "/${lengthText}" is not a length`;
  const length = lengthText === undefined ? widest : Number(lengthText);
  if (length > widest) return `"${text}": the length goes up to ${widest}`;
  const base = firstOf(parsed, length);
  if (base.text !== parsed.text)
    return `"${text}" has bits set behind its length; the prefix is ${base.text}/${length}`;
  return { family: base.family, address: base, length, text: `${base.text}/${length}` };
}

/** @throws RangeError where the text is no prefix; for text that was checked before */
export function prefix(text: string): Prefix {
  const parsed = parsePrefix(text);
  if (typeof parsed === 'string') throw new RangeError(parsed);
  return parsed;
}

/** The prefix of an address and a length; undefined where the length is none of its family, or bits are set behind it. */
export function prefixOf(of: Address, length: number): Prefix | undefined {
  const prefix = { family: of.family, address: of, length, text: `${of.text}/${length}` };
  return length > (of.family === 'ipv4' ? 32 : 128) || bitsBehind(of.bytes, mappedLength(prefix)) ? undefined : prefix;
}

/** The host prefix (/32 or /128) of an address. */
export function hostPrefix(host: Address): Prefix {
  const length = host.family === 'ipv4' ? 32 : 128;
  return { family: host.family, address: host, length, text: `${host.text}/${length}` };
}

/** How many of the 128 bits of the mapped form a prefix fixes: the length the gate's tries use. */
export function mappedLength(of: Prefix): number {
  return of.family === 'ipv4' ? of.length + 96 : of.length;
}

/** Whether the address lies in the prefix; never across families. */
export function contains(outer: Prefix, inner: Address): boolean {
  return outer.family === inner.family && sameBits(outer.address.bytes, inner.bytes, mappedLength(outer));
}

/** Whether two prefixes share an address. */
export function overlaps(a: Prefix, b: Prefix): boolean {
  return a.length <= b.length ? contains(a, b.address) : contains(b, a.address);
}

/** Whether the whole of a prefix lies in another; never across families. */
export function encloses(outer: Prefix, inner: Prefix): boolean {
  return outer.length <= inner.length && contains(outer, inner.address);
}

/** Whether a prefix is one address. */
export function isHost({ family, length }: Prefix): boolean {
  return length === (family === 'ipv4' ? 32 : 128);
}

/** How many addresses a prefix holds. */
export function sizeOf(of: Prefix): bigint {
  return of.family === 'ipv4' ? BigInt(new Netmask(of.text).size) : 1n << BigInt(128 - of.length);
}

/** The address at an offset from a prefix's first one. @throws RangeError past its end */
export function addressAt(of: Prefix, offset: bigint): Address {
  if (offset < 0n || offset >= sizeOf(of)) throw new RangeError(`${of.text} has no address number ${offset}`);
  return addressFromValue(numberOf(of.address) + offset);
}

/** How far an address is from a prefix's first one. The address must lie in the prefix. */
export function offsetIn(of: Prefix, host: Address): bigint {
  return numberOf(host) - numberOf(of.address);
}

/** `192.0.2.1:80`, `[2001:db8::1]:80` (RFC 5952, 6). */
export function formatEndpoint(endpoint: Endpoint): string {
  const { address: host, port } = endpoint;
  return host.family === 'ipv4' ? `${host.text}:${port}` : `[${host.text}]:${port}`;
}

/** An endpoint from `host:port`, IPv6 in brackets; undefined where the text is none. */
export function parseEndpoint(text: string): Endpoint | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(0|[1-9]\d{0,4})$/.exec(text);
  const host = parseAddress(match?.[1] ?? match?.[2] ?? '');
  const port = Number(match?.[3]);
  if (!host || port > 65535 || (match?.[1] === undefined) !== (host.family === 'ipv4')) return undefined;
  return { address: host, port };
}

function firstOf(host: Address, length: number): Address {
  const fixed = host.family === 'ipv4' ? length + 96 : length;
  return addressFromValue((numberOf(host) >> BigInt(128 - fixed)) << BigInt(128 - fixed));
}

function sameBits(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  const whole = bits >> 3;
  for (let i = 0; i < whole; i++) if (a[i] !== b[i]) return false;
  const rest = bits & 7;
  return rest === 0 || ((a[whole] ?? 0) ^ (b[whole] ?? 0)) >> (8 - rest) === 0;
}

/** Whether a bit is set behind the first `bits`. */
function bitsBehind(bytes: Uint8Array, bits: number): boolean {
  return bytes.some((byte, i) => (byte & (0xff >> Math.min(8, Math.max(0, bits - i * 8)))) !== 0);
}

function numberOf(host: Address): bigint {
  let value = 0n;
  for (const byte of host.bytes) value = (value << 8n) | BigInt(byte);
  return value;
}

function addressFromValue(value: bigint): Address {
  const bytes = new Uint8Array(16);
  for (let i = 15, rest = value; i >= 0; i--, rest >>= 8n) bytes[i] = Number(rest & 0xffn);
  return addressFromBytes(bytes);
}
