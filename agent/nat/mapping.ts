/**
 * A row of the NAT record: from when until when an external endpoint stood
 * for a device (RFC 6888 4, RFC 6302 2). With whom it spoke is not kept
 * (RFC 6888 REQ-12), but for grants, which are for one server by name; nor is
 * any identifier of the device but the external one.
 */
import { type Address, addressFromBytes, addressFromIpv4 } from '../core/net.ts';

export interface Mapping {
  /** IP's number. */
  readonly protocol: number;
  /** 4 or 16 bytes, as all addresses here. */
  readonly external: Uint8Array;
  /** Of a ping its identifier. */
  readonly port: number;
  readonly realm: string;
  readonly inner: Uint8Array;
  readonly innerPort: number;
  /** External identifier; null: no device of the registry held the address. */
  readonly device: string | null;
  /** Of grants alone. */
  readonly grant: string | null;
  readonly server: string | null;
  /** It was there then; where that is not known, it may have been since `beganFromMs`. */
  readonly beganMs: number;
  readonly beganFromMs: number | null;
  /** Null: it still is. Where that is not known, it may have ended since `endedFromMs`. */
  readonly endedMs: number | null;
  readonly endedFromMs: number | null;
}

/** A time in which it is not known what began and ended. */
export interface Gap {
  readonly fromMs: number;
  readonly toMs: number;
  readonly why: string;
}

/** What a question finds. */
export interface Found {
  readonly mappings: readonly Mapping[];
  readonly gaps: readonly Gap[];
  /** Before this the record has been given up, or there was none. */
  readonly coveredFromMs: number;
  /** Until then what happened is written. */
  readonly writtenUntilMs: number;
}

const NAMES: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmpv6' };

export function protocolName(protocol: number): string {
  return NAMES[protocol] ?? `protocol-${protocol}`;
}

export function addressOf(bytes: Uint8Array): Address {
  return bytes.length === 4 ? addressFromIpv4(bytes) : addressFromBytes(bytes);
}

export function bytesOf({ family, bytes }: Address): Uint8Array {
  return family === 'ipv4' ? bytes.subarray(12) : bytes;
}

/** Whether it was there at any moment of a span, as far as is known. */
export function isAt({ beganFromMs, beganMs, endedMs }: Mapping, fromMs: number, toMs: number): boolean {
  return (beganFromMs ?? beganMs) <= toMs && (endedMs ?? Number.POSITIVE_INFINITY) >= fromMs;
}

/** Whether it is known to have been there in all of a span. */
export function isSurelyAt({ beganMs, endedMs, endedFromMs }: Mapping, fromMs: number, toMs: number): boolean {
  return beganMs <= fromMs && (endedFromMs ?? endedMs ?? Number.POSITIVE_INFINITY) >= toMs;
}
