/**
 * The grants pool and its layout: which index of the gate's entries an
 * external endpoint has. IPv4 is a plain array (found by arithmetic, flat
 * cost). Behind it lie `keyedGrants` indices for grants that the gate finds by
 * a key, and which take any of them: those of IPv6, whose pool is far larger
 * than memory, and those that are not translated, whose endpoint is in no pool.
 * A rule file may ask for the latter at any time, so there is always room.
 */
import { type Address, addressAt, contains, type Endpoint, type Prefix, sizeOf } from './net.ts';
import { PROTOCOLS, type Protocol } from './words.ts';

/** What one entry takes in the gate (struct gate_entry). */
export const ENTRY_BYTES = 128;

export interface Pool {
  readonly ipv4: readonly Prefix[];
  readonly ipv6: readonly Prefix[];
  readonly portLow: number;
  readonly portCount: number;
  /** How many grants may be live or at rest at once that are IPv6, or not translated. */
  readonly keyedGrants: number;
}

/** How many IPv4 addresses the pool has. */
export function ipv4Slots(pool: Pool): number {
  return pool.ipv4.reduce((sum, prefix) => sum + Number(sizeOf(prefix)), 0);
}

/** How many indices are IPv4 endpoints; those of keyed grants follow. */
export function ipv4Entries(pool: Pool): number {
  return ipv4Slots(pool) * PROTOCOLS.length * pool.portCount;
}

/** How many entries the gate must have. */
export function entryCount(pool: Pool): number {
  return ipv4Entries(pool) + pool.keyedGrants;
}

/** How many endpoints of the pool are found by a key. */
export function ipv6Endpoints(pool: Pool): number {
  return pool.ipv6.length > 0 ? pool.keyedGrants : 0;
}

/** The index of an IPv4 endpoint, or undefined where it is not in the pool. */
export function indexOfIpv4(pool: Pool, protocol: Protocol, endpoint: Endpoint): number | undefined {
  const port = endpoint.port - pool.portLow;
  if (port < 0 || port >= pool.portCount) return undefined;
  let slot = 0;
  for (const prefix of pool.ipv4) {
    if (contains(prefix, endpoint.address)) {
      slot += ipv4Value(endpoint.address) - ipv4Value(prefix.address);
      return (slot * PROTOCOLS.length + PROTOCOLS.indexOf(protocol)) * pool.portCount + port;
    }
    slot += Number(sizeOf(prefix));
  }
  return undefined;
}

/** Asked for with every grant: a number, and no bigint. */
function ipv4Value({ bytes }: Address): number {
  const [a = 0, b = 0, c = 0, d = 0] = [bytes[12], bytes[13], bytes[14], bytes[15]];
  return a * 2 ** 24 + ((b << 16) | (c << 8) | d);
}

/** The pool's IPv4 addresses by their slot; each made once, since every grant names one. */
export function ipv4Addresses(pool: Pool): readonly Address[] {
  return pool.ipv4.flatMap((prefix) =>
    Array.from({ length: Number(sizeOf(prefix)) }, (_, offset) => addressAt(prefix, BigInt(offset))),
  );
}

/** The gate's tables of keys (entry-table.ts): 16 bytes a key, of a power of two of keys. */
const KEY_BYTES = 16;

/** What a pool takes in the kernel: the entries, and the tables of the keys that lead to them. */
export function poolMebibytes(pool: Pool): number {
  const table = (keys: number) => (keys > 0 ? KEY_BYTES * 2 ** Math.ceil(Math.log2(keys)) : 0);
  const entries = entryCount(pool);
  return Math.ceil((entries * ENTRY_BYTES + table(entries) + table(ipv6Endpoints(pool))) / 2 ** 20);
}
