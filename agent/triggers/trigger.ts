/**
 * The record of a trigger: what was asked and by whom, all that is needed to
 * judge it again when it is sent, and until when it is valid.
 */
import type { Address } from '../core/net.ts';
import type { Clock } from '../core/ports.ts';
import type {
  Asker,
  CertificateId,
  ExternalId,
  GrantId,
  MtcUserName,
  ServerName,
  TriggerId,
  TriggerNotification,
  TriggerRequest,
} from '../core/words.ts';
import { type DeliveryResult, resultOf, type TriggerEndCause, type TriggerState } from './lifecycle.ts';

/** What is asked for, by a server or for its grant request. */
export interface TriggerAsk extends TriggerRequest {
  /** The grant request that it wakes the device for; then it is no transaction of its server. */
  readonly grant?: GrantId;
}

export interface Trigger extends TriggerAsk {
  readonly id: TriggerId;
  readonly gateway: string;
  readonly server: ServerName;
  readonly certificate: CertificateId;
  readonly correlator: string;
  readonly requestAddress: Address;
  /** Which device was meant; an identifier may be another's by the time. */
  readonly to: ExternalId;
  /** By what was decided when it was asked, or replaced. */
  readonly mtcUser: MtcUserName;
  readonly rule: string;
  readonly policyVersion: string;
  readonly acceptedAtMs: number;
  /** In UTC, and on CLOCK_BOOTTIME of the boot named: same boot, the second counts. */
  readonly validUntilMs: number;
  readonly bootId: string;
  readonly validUntilNs: bigint;
  readonly isReplaced: boolean;
  /** Its server has deleted the transaction: it reads it no more. */
  readonly isForgotten: boolean;
  readonly state: TriggerState;
  readonly endCause?: TriggerEndCause;
  readonly endedAtMs?: number;
}

/** What of it is decided, and by what. */
type Decided = Pick<Trigger, 'to' | 'mtcUser' | 'rule' | 'policyVersion' | 'validitySeconds'>;

export function newTrigger(
  place: Pick<Trigger, 'id' | 'gateway' | 'bootId'>,
  who: Asker,
  ask: TriggerAsk,
  decided: Decided,
  clock: Clock,
): Trigger {
  return {
    ...ask,
    ...place,
    ...decided,
    server: who.name,
    certificate: who.certificate,
    correlator: who.correlator,
    requestAddress: who.requestAddress,
    acceptedAtMs: clock.nowMs(),
    ...validity(decided.validitySeconds, clock),
    isReplaced: false,
    isForgotten: false,
    state: 'pending',
  };
}

/** The same transaction with another trigger in it, valid from now on. */
export function replaced(
  former: Trigger,
  who: Asker,
  ask: TriggerAsk,
  decided: Decided,
  bootId: string,
  clock: Clock,
): Trigger {
  const { id, gateway } = former;
  const { acceptedAtMs } = former;
  return { ...newTrigger({ id, gateway, bootId }, who, ask, decided, clock), acceptedAtMs, isReplaced: true };
}

function validity(seconds: number, clock: Clock): Pick<Trigger, 'validUntilMs' | 'validUntilNs'> {
  return {
    validUntilMs: clock.nowMs() + seconds * 1000,
    validUntilNs: clock.boottimeNs() + BigInt(seconds) * 1_000_000_000n,
  };
}

/** The URI of a transaction, as its server knows it. */
export function transactionOf(id: TriggerId, { collection }: TriggerNotification): string {
  return `${collection}/${id}`;
}

/** TS 29.122 5.7.2.2.3. */
export function deliveryResultOf({ endCause, isReplaced }: Trigger): DeliveryResult {
  if (endCause !== undefined) return resultOf(endCause);
  return isReplaced ? 'REPLACED' : 'TRIGGERED';
}

/** One in the log: which, whose, for which device. */
export function namesOfTrigger({ id, grant, server, to, port, correlator }: Trigger): Record<string, string | number> {
  return { trigger: id, ...(grant !== undefined && { grant }), server, device: to, port, correlator };
}
