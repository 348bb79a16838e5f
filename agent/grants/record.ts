/**
 * The record of a grant: what the store keeps, and what everything else is
 * derived from. A grant exists because its record does (no hole without a
 * record), so the record is durable before the gate is told.
 */
import type { Address, Endpoint, Family } from '../core/net.ts';
import type { Clock } from '../core/ports.ts';
import type {
  DeviceReference,
  ExternalId,
  GrantId,
  InnerAddress,
  MtcUserName,
  Protocol,
  ServerName,
} from '../core/words.ts';
import type { EndCause, GrantState } from './lifecycle.ts';

/** How long a freed external endpoint rests before it may stand for another device (RFC 6888 REQ-8). */
export const REST_SECONDS = 120;

export interface GrantRecord {
  readonly id: GrantId;
  /** Names the grant in the gate: random, below 2^48, never used twice. */
  readonly number: number;
  /** Which gateway granted it; many may one day act as one. */
  readonly gateway: string;
  readonly server: ServerName;
  readonly mtcUser: MtcUserName;
  readonly device: ExternalId;
  /** The identifier the server used: answers repeat it, and never another. */
  readonly reference: DeviceReference;
  readonly rule: string;
  readonly policyVersion: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly inner: InnerAddress;
  readonly devicePort: number;
  readonly remote: Address | 'all';
  /** 0: any port of the application server. */
  readonly remotePort: number;
  readonly external: Endpoint;
  /** Place of the entry in the gate. */
  readonly index: number;
  readonly grantedSeconds: number;
  readonly startedAtMs: number;
  /**
   * The end in UTC, and on CLOCK_BOOTTIME of the boot named: same boot, the
   * second counts. Unlike the gate's own clock it goes on while the host is
   * suspended, so that a grant does not outlive its time by a suspend.
   */
  readonly expiresAtMs: number;
  readonly bootId: string;
  readonly expiresAtNs: bigint;
  readonly state: GrantState;
  readonly endCause?: EndCause;
  readonly endedAtMs?: number;
}

/** What may be live once only: same server, device, family, protocol and port, whatever the application server. */
export function keyOf(grant: Pick<GrantRecord, 'server' | 'device' | 'family' | 'protocol' | 'devicePort'>): string {
  return [grant.server, grant.device, grant.family, grant.protocol, grant.devicePort].join(' ');
}

/**
 * How long the host has been suspended since it booted, in nanoseconds: what
 * lies between the record's clock and the gate's. In steps of 10 ms, since
 * the two clocks cannot be read at the same instant.
 */
export function suspendedNs(clock: Clock): bigint {
  const step = 10_000_000n;
  return ((clock.boottimeNs() - clock.monotonicNs() + step / 2n) / step) * step;
}
