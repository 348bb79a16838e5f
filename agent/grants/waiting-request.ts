/**
 * The record of a request that waits for its device (waiting.ts): what was
 * asked and by whom, all that is needed to judge it again, and until when it
 * waits. If it is granted the grant has its id, and this record is gone.
 */
import type { Address, Family } from '../core/net.ts';
import type { Clock } from '../core/ports.ts';
import type {
  Asker,
  CertificateId,
  ExternalId,
  GrantId,
  GrantRequest,
  MtcUserName,
  Protocol,
  ServerName,
} from '../core/words.ts';
import type { Allowed } from '../policy/decide.ts';
import type { WaitEndCause } from './lifecycle.ts';

export interface WaitingRequest {
  readonly id: GrantId;
  readonly gateway: string;
  readonly server: ServerName;
  readonly certificate: CertificateId;
  readonly correlator: string;
  readonly requestAddress: Address;
  /** Its family is settled: a device that is bound in another does not change what was asked. */
  readonly ask: GrantRequest & { readonly ipFamily: Family };
  /** Which device was meant; an identifier may be another's by the time. */
  readonly device: ExternalId;
  /** By what was decided when it was asked. */
  readonly mtcUser: MtcUserName;
  readonly rule: string;
  readonly policyVersion: string;
  readonly remote: Address | 'all';
  readonly family: Family;
  readonly protocol: Protocol;
  readonly devicePort: number;
  readonly waitSeconds: number;
  readonly requestedAtMs: number;
  /** In UTC, and on CLOCK_BOOTTIME of the boot named: same boot, the second counts. */
  readonly waitsUntilMs: number;
  readonly bootId: string;
  readonly waitsUntilNs: bigint;
  readonly state: 'waiting' | 'ended';
  readonly endCause?: WaitEndCause;
  readonly endedAtMs?: number;
}

/** One that has ended without a grant. */
export type EndedWait = WaitingRequest & { readonly endCause: WaitEndCause; readonly endedAtMs: number };

/** What one is made from. */
interface Accepted extends Pick<WaitingRequest, 'id' | 'gateway' | 'bootId' | 'policyVersion' | 'waitSeconds'> {
  readonly who: Asker;
  readonly ask: GrantRequest;
  readonly decision: Allowed;
  readonly device: ExternalId;
}

export function newWait({ who, ask, decision, ...accepted }: Accepted, clock: Clock): WaitingRequest {
  const { mtcUser, rule, family, remote } = decision;
  const { waitSeconds } = accepted;
  const requestedAtMs = clock.nowMs();
  return {
    ...accepted,
    server: who.name,
    certificate: who.certificate,
    correlator: who.correlator,
    requestAddress: who.requestAddress,
    ask: { ...ask, ipFamily: family },
    ...{ mtcUser, rule, remote, family },
    protocol: ask.protocol,
    devicePort: ask.devicePort,
    requestedAtMs,
    waitsUntilMs: requestedAtMs + waitSeconds * 1000,
    waitsUntilNs: clock.boottimeNs() + BigInt(waitSeconds) * 1_000_000_000n,
    state: 'waiting',
  };
}

/** One as it was when it was accepted. */
export function asAccepted({ endCause: _, endedAtMs: __, ...request }: WaitingRequest): WaitingRequest {
  return { ...request, state: 'waiting' };
}

/** Who asked for it, as when it did. */
export function askerOf({ server: name, requestAddress, certificate, correlator }: WaitingRequest): Asker {
  return { name, requestAddress, certificate, correlator };
}

/** One in the log: which, whose, and the request that it is. */
export function namesOfWait({ id, server, device, correlator }: WaitingRequest): Record<string, string> {
  return { grant: id, server, device, correlator };
}
