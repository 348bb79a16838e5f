/**
 * The life of a trigger, as a table of legal transitions.
 *
 *            accepted               delivered, sent, expired, recalled, …
 *     none ───────────▶ pending ────────────────────────────────────▶ ended
 *                        │   ▲
 *                        └───┘ replaced, reopened (after a reboot)
 *
 * Nothing leaves `ended`. An attempt to deliver is no state: it is under way in
 * memory, and what is on disk is pending until the outcome is known. So after a
 * kill in the middle of one a device may get a trigger twice, and none is lost.
 *
 * What its server reads of it is `deliveryResult` (TS 29.122 5.7.2.2.3). The
 * store carries the same table, and refers to it by foreign key; a test holds
 * the two equal.
 */
import { REFUSALS, type RefusalReason, type Step } from '../core/refusals.ts';
import type { DeliveryOutcome } from './delivery.ts';

export type TriggerState = 'pending' | 'ended';

/** TS 29.122 5.7.2.2.3. */
export type DeliveryResult =
  | 'SUCCESS'
  | 'UNKNOWN'
  | 'FAILURE'
  | 'TRIGGERED'
  | 'EXPIRED'
  | 'UNCONFIRMED'
  | 'REPLACED'
  | 'TERMINATE';

interface End {
  readonly result: DeliveryResult;
  /** For people. */
  readonly text: string;
}

const OWN_END_CAUSES = {
  delivered: { result: 'SUCCESS', text: 'the device acknowledged it' },
  sent: { result: 'UNCONFIRMED', text: 'it was sent, and the port has no acknowledgement' },
  rejectedByDevice: { result: 'FAILURE', text: 'the device would not have it' },
  expired: { result: 'EXPIRED', text: 'its time was over before it could be delivered' },
  recalledByServer: { result: 'TERMINATE', text: 'the MTC server recalled it' },
  recalledByOperator: { result: 'TERMINATE', text: 'an operator recalled it' },
  grantOver: { result: 'TERMINATE', text: 'the grant request that it was to wake the device for waits no more' },
  certificateRevoked: { result: 'FAILURE', text: 'the certificate that it was asked for with is revoked' },
  ownerChanged: {
    result: 'FAILURE',
    text: 'the device is no longer one of the MTC user that authorised the server',
  },
  clockUncertain: { result: 'UNKNOWN', text: 'the clock stood before the latest time on record' },
  notAccepted: { result: 'UNKNOWN', text: 'the store did not say whether it was recorded, and its server was refused' },
} as const satisfies Record<string, End>;

export type TriggerEndCause = keyof typeof OWN_END_CAUSES | RefusalReason;

/** What its server reads of an end; of one that it would be refused for by now, that it failed. */
export function resultOf(cause: TriggerEndCause): DeliveryResult {
  return cause in REFUSALS ? 'FAILURE' : OWN_END_CAUSES[cause as keyof typeof OWN_END_CAUSES].result;
}

/** What a person reads of it. */
export function endText(cause: TriggerEndCause): string {
  return cause in REFUSALS
    ? `refused when it was to be sent: ${REFUSALS[cause as RefusalReason].title}`
    : OWN_END_CAUSES[cause as keyof typeof OWN_END_CAUSES].text;
}

/** How an attempt ends a trigger; undefined where it is tried again as long as it is valid. */
export const ENDED_BY: Readonly<Record<DeliveryOutcome, keyof typeof OWN_END_CAUSES | undefined>> = {
  acknowledged: 'delivered',
  sent: 'sent',
  rejected: 'rejectedByDevice',
  unanswered: undefined,
  notSent: undefined,
};

/** Where a request is stopped before it is judged; what is pending is beyond. */
const BEFORE_JUDGEMENT: readonly Step[] = ['authentication', 'admission', 'request'];

const END_CAUSES = [
  ...(Object.keys(OWN_END_CAUSES) as TriggerEndCause[]),
  ...(Object.keys(REFUSALS) as RefusalReason[]).filter((reason) => !BEFORE_JUDGEMENT.includes(REFUSALS[reason].step)),
];

export interface Transition {
  readonly from: TriggerState | 'none';
  readonly to: TriggerState;
  readonly cause: TriggerEndCause | 'accepted' | 'replaced' | 'reopened';
}

export const TRANSITIONS: readonly Transition[] = [
  { from: 'none', to: 'pending', cause: 'accepted' },
  { from: 'pending', to: 'pending', cause: 'replaced' },
  { from: 'pending', to: 'pending', cause: 'reopened' },
  ...END_CAUSES.map((cause): Transition => ({ from: 'pending', to: 'ended', cause })),
];
