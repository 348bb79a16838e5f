/** Triggers as rows of the database and back: plain values only, for the thread that writes. */
import { address } from '../core/net.ts';
import type { DeviceReference } from '../core/words.ts';
import type { TriggerEndCause } from './lifecycle.ts';
import type { Trigger } from './trigger.ts';

/** Statements name their parameters so. */
export interface TriggerRow {
  readonly id: string;
  readonly gateway: string;
  readonly server: string;
  readonly certificate: string;
  readonly correlator: string;
  readonly requestAddress: string;
  /** JSON. */
  readonly reference: string;
  readonly device: string;
  readonly mtcUser: string;
  readonly rule: string;
  readonly policyVersion: string;
  readonly port: number;
  readonly sourcePort: number | null;
  readonly priority: number;
  readonly payload: Uint8Array;
  readonly features: string | null;
  readonly destination: string | null;
  readonly collection: string | null;
  readonly validitySeconds: number;
  readonly acceptedAtMs: number;
  readonly validUntilMs: number;
  readonly bootId: string;
  readonly validUntilNs: bigint;
  readonly grant: string | null;
}

/** As it is read: 64 bits come as text. */
export type KeptTriggerRow = Omit<TriggerRow, 'validUntilNs'> & {
  readonly validUntilNs: string;
  readonly replaced: number;
  readonly forgotten: number;
  readonly state: string;
  readonly cause: string;
  readonly endedAtMs: number | null;
};

/** Named as a row is. */
export const TRIGGER_COLUMNS = `id, gateway, server, certificate, correlator, request_address AS requestAddress,
  reference, device, mtc_user AS mtcUser, rule, policy_version AS policyVersion, port, source_port AS sourcePort,
  priority, payload, features, destination, collection, validity_seconds AS validitySeconds,
  accepted_at_ms AS acceptedAtMs, valid_until_ms AS validUntilMs, boot_id AS bootId,
  CAST(valid_until_ns AS TEXT) AS validUntilNs, replaced, forgotten, state, cause, ended_at_ms AS endedAtMs,
  grant_id AS "grant"`;

export function triggerRow(trigger: Trigger): TriggerRow {
  const { id, gateway, server, certificate, correlator, mtcUser, rule, policyVersion, port, payload } = trigger;
  const { validitySeconds, acceptedAtMs, validUntilMs, bootId, validUntilNs } = trigger;
  return {
    ...{ id, gateway, server, certificate, correlator, mtcUser, rule, policyVersion, port, payload },
    ...{ validitySeconds, acceptedAtMs, validUntilMs, bootId, validUntilNs },
    requestAddress: trigger.requestAddress.text,
    reference: JSON.stringify(trigger.device),
    device: trigger.to,
    sourcePort: trigger.sourcePort ?? null,
    priority: Number(trigger.isPriority),
    destination: trigger.notification?.destination ?? null,
    collection: trigger.notification?.collection ?? null,
    features: trigger.features ?? null,
    grant: trigger.grant ?? null,
  };
}

export function triggerOf(row: KeptTriggerRow): Trigger {
  const { requestAddress, reference, device, sourcePort, priority, features, destination, collection, ...more } = row;
  const { replaced, forgotten, cause, endedAtMs, payload, validUntilNs, grant, ...plain } = more;
  const trigger = {
    ...plain,
    requestAddress: address(requestAddress),
    device: JSON.parse(reference) as DeviceReference,
    to: device,
    ...(sourcePort !== null && { sourcePort }),
    isPriority: priority === 1,
    payload: new Uint8Array(payload),
    ...(features !== null && { features }),
    ...(grant !== null && { grant }),
    ...(destination !== null && { notification: { destination, collection: collection ?? '' } }),
    validUntilNs: BigInt(validUntilNs),
    isReplaced: replaced === 1,
    isForgotten: forgotten === 1,
  } as Trigger;
  return endedAtMs === null ? trigger : { ...trigger, endCause: cause as TriggerEndCause, endedAtMs };
}
