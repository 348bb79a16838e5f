/**
 * The record of a grant: what the store keeps, and what everything else is
 * derived from. A grant exists because its record does (no hole without a
 * record), so the record is durable before the gate is told.
 */
import type { Address, Endpoint, Family } from '../core/net.ts';
import type { Clock, Random } from '../core/ports.ts';
import {
  type Asker,
  type CertificateId,
  type DeviceReference,
  type ExternalId,
  type GrantId,
  type GrantRequest,
  type InnerAddress,
  type MtcUserName,
  NO_LIMITS,
  type Owner,
  type PacketLimits,
  type Protocol,
  type ServerName,
} from '../core/words.ts';
import { isTranslated } from '../dataplane/dataplane.ts';
import type { ReachableBinding } from '../directory/directory.ts';
import type { Allowed } from '../policy/decide.ts';
import type { Place } from './endpoints.ts';
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
  /** The certificate that asked for it, or extended it last; the grant ends where that one is revoked. */
  readonly certificate: CertificateId;
  readonly mtcUser: MtcUserName;
  readonly device: ExternalId;
  /** The identifier the server used: answers repeat it, and never another. */
  readonly reference: DeviceReference;
  /** What decided last: when it was opened or extended, or other limits came in force. */
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
  /** What was granted last, from then on. */
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
  /** What the gate lets it carry: by what decided last, or by the policy that came in force since. */
  readonly limits: PacketLimits;
  /** The mark of the request that opened it. */
  readonly correlator: string;
}

/** The record of a grant that has ended. */
export type EndedRecord = GrantRecord & { readonly endCause: EndCause; readonly endedAtMs: number };

/** How a request may be sent again: the server's key for it, and what it asked. */
export interface Retry {
  readonly key: string;
  readonly request: string;
  readonly atMs: number;
}

/** What is known of a request that was answered with a grant: what it asked, which grant, and which end that had then. */
export interface KeptAnswer {
  readonly request: string;
  readonly grant: GrantId;
  readonly expiresAtMs: number;
}

/** What may be live once only, whatever the application server. */
export type GrantKey = Pick<GrantRecord, 'server' | 'device' | 'family' | 'protocol' | 'devicePort'>;

/** What a decision lets a grant carry. */
export function limitsOf({ packetsPerSecond, bytes }: PacketLimits): PacketLimits {
  return packetsPerSecond === undefined && bytes === undefined ? NO_LIMITS : { packetsPerSecond, bytes };
}

export function sameLimits(a: PacketLimits, b: PacketLimits): boolean {
  return a.packetsPerSecond === b.packetsPerSecond && a.bytes === b.bytes;
}

/** Whether its packets are rewritten. */
export function isRewritten({ inner, devicePort, external }: GrantRecord): boolean {
  return isTranslated({ device: { address: inner.address, port: devicePort }, external });
}

/** A grant in the log: which, whose, and the request that it came from. */
export function namesOf({ id, server, device, correlator }: GrantRecord): Record<string, string> {
  return { grant: id, server, device, correlator };
}

export function ownerOf({ id, mtcUser, device }: GrantRecord): Owner {
  return { grant: id, mtcUser, device };
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

/** The same grant with its end moved to another moment of this boot; UTC moves with it. */
export function withEnd(record: GrantRecord, expiresAtNs: bigint): GrantRecord {
  const laterMs = Number((expiresAtNs - record.expiresAtNs) / 1_000_000n);
  return { ...record, expiresAtNs, expiresAtMs: record.expiresAtMs + laterMs };
}

/** Below this, so that a number stays exact in JSON and SQLite alike. */
const NUMBER_LIMIT = 2 ** 48 - 1;

/** What a record is made from. */
interface Decided {
  readonly id: GrantId;
  readonly gateway: string;
  readonly bootId: string;
  readonly who: Pick<Asker, 'name' | 'certificate' | 'correlator'>;
  readonly ask: GrantRequest;
  readonly policyVersion: string;
  readonly decision: Allowed;
  readonly device: ExternalId;
  readonly binding: Pick<ReachableBinding, 'realm' | 'target'>;
  readonly place: Place;
}

/** The record of a grant that begins now. Member by member: what is spread or left over from a pattern costs ten times as much. */
export function newRecord(decided: Decided, clock: Clock, random: Random): GrantRecord {
  const { who, ask, decision, binding, place } = decided;
  const { durationSeconds, closesAtMs = Number.POSITIVE_INFINITY } = decision;
  const startedAtMs = clock.nowMs();
  const lifeMs = Math.min(durationSeconds * 1000, closesAtMs - startedAtMs); // some time has passed since it was decided
  return {
    id: decided.id,
    number: 1 + random.integer(NUMBER_LIMIT),
    gateway: decided.gateway,
    server: who.name,
    certificate: who.certificate,
    mtcUser: decision.mtcUser,
    device: decided.device,
    reference: ask.device,
    rule: decision.rule,
    policyVersion: decided.policyVersion,
    family: decision.family,
    protocol: ask.protocol,
    inner: { realm: binding.realm, address: binding.target },
    devicePort: ask.devicePort,
    remote: decision.remote,
    remotePort: ask.applicationServer?.port ?? 0,
    external: place.external,
    index: place.index,
    grantedSeconds: durationSeconds,
    startedAtMs,
    expiresAtMs: startedAtMs + lifeMs,
    bootId: decided.bootId,
    expiresAtNs: clock.boottimeNs() + BigInt(lifeMs) * 1_000_000n,
    state: 'live',
    limits: limitsOf(decision),
    correlator: who.correlator,
  };
}
