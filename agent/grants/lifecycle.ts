/**
 * The life of a grant, as a table of legal transitions.
 *
 *                      held (or lowered, or held anew after a reboot)
 *                        ┌──┐
 *                        ▼  │      the same, and bindingUnconfirmed
 *                       held ─────────────────────────────────────────┐
 *                  held ▲  │ confirmed                                ▼
 *            granted    │  ▼    expired, endedByServer, revokedByOperator, …
 *     none ───────────▶ live ─────────────────────────────────────────▶ ended
 *      │                │  ▲                                              ▲
 *      │                └──┘ extended, reopened (after a reboot), lowered │
 *      │                  ▲  (to the gate's end, where that is sooner)    │
 *      │ accepted         │ granted                                       │
 *      └───────────▶ waiting ─────────────────────────────────────────────┘
 *                     │  ▲      waitedTooLong, endedByServer, …, and what it
 *                     └──┘      was refused for when its device was bound
 *                     reopened
 *
 * One that is held keeps its endpoint, its key and its end; the gate has it
 * closed, since the agent was away and nobody knows who holds the inner address
 * by now (design, law 1). Nothing leaves `ended`. The store carries the same table and refers to it
 * by foreign key, so that no statement can write a step that is not here; a
 * test holds the two equal.
 */
import { REFUSALS, type RefusalReason, type Step } from '../core/refusals.ts';

export type GrantState = 'live' | 'held' | 'ended';

/** Why a grant ended; each cause has its own name, for logs and reports. */
export const END_CAUSES = {
  expired: 'its time was over',
  endedByServer: 'the MTC server gave it back',
  revokedByOperator: 'an operator revoked it',
  revokedByMtcUser: 'the MTC user revoked it',
  deviceUnbound: 'the device left its inner address',
  addressReassigned: 'the inner address was given to another device',
  certificateRevoked: 'the certificate that it was asked for with is revoked',
  serverUnauthorised: 'the MTC user no longer authorises the server',
  ownerChanged: 'the device is no longer one of the MTC user that authorised the server',
  unwanted: 'the MTC user does not want it any more',
  ruleChanged: "the operator's rules no longer allow it",
  natChanged: 'nat: none was set or taken away, so its endpoint is another one now',
  quotaUsed: 'the bytes that its rule allows were used up',
  quotaUncertain: 'the host booted anew, and how much of its byte quota was used is not known',
  bindingUnconfirmed: 'the agent was away for too long, and nothing has told since who holds the inner address',
  recordOutdated: 'the database is an older copy, and it may have ended since',
  clockUncertain: 'the clock stands before the latest time on record',
  endedInGate: 'the gate had ended it before the record was written',
  lostInGate: 'the gate no longer had it',
  poolChanged: 'its external endpoint is no longer in the grants pool',
  gateFault: 'the gate could not open it',
  storeFault: 'the store did not say whether it was recorded',
  gatewayDraining: 'draining began while it was recorded, and it was not opened',
} as const;

export type EndCause = keyof typeof END_CAUSES;

/** Why a request waits no more, beside what it was refused for when its device was bound. */
const OWN_WAIT_END_CAUSES = {
  waitedTooLong: 'the device had no address before its time was over',
  endedByServer: END_CAUSES.endedByServer,
  revokedByOperator: END_CAUSES.revokedByOperator,
  revokedByMtcUser: END_CAUSES.revokedByMtcUser,
  certificateRevoked: END_CAUSES.certificateRevoked,
  ownerChanged: END_CAUSES.ownerChanged,
  recordOutdated: END_CAUSES.recordOutdated,
  clockUncertain: END_CAUSES.clockUncertain,
} as const;

export type WaitEndCause = keyof typeof OWN_WAIT_END_CAUSES | RefusalReason;

/** What a person reads of it. */
export function waitEndText(cause: WaitEndCause): string {
  return cause in REFUSALS
    ? `refused when the device was bound: ${REFUSALS[cause as RefusalReason].title}`
    : OWN_WAIT_END_CAUSES[cause as keyof typeof OWN_WAIT_END_CAUSES];
}

/** Where a request is stopped before it is judged, or that is for no grant; one that waits is beyond. */
const BEFORE_JUDGEMENT: readonly Step[] = ['authentication', 'admission', 'request', 'desk'];

const WAIT_END_CAUSES = [
  ...(Object.keys(OWN_WAIT_END_CAUSES) as WaitEndCause[]),
  ...(Object.keys(REFUSALS) as RefusalReason[]).filter((reason) => !BEFORE_JUDGEMENT.includes(REFUSALS[reason].step)),
];

export interface Transition {
  readonly from: GrantState | 'none' | 'waiting';
  readonly to: GrantState | 'waiting';
  readonly cause:
    | EndCause
    | WaitEndCause
    | 'accepted'
    | 'granted'
    | 'extended'
    | 'reopened'
    | 'lowered'
    | 'held'
    | 'confirmed';
}

export const TRANSITIONS: readonly Transition[] = [
  { from: 'none', to: 'live', cause: 'granted' },
  { from: 'none', to: 'waiting', cause: 'accepted' },
  { from: 'waiting', to: 'live', cause: 'granted' },
  { from: 'waiting', to: 'waiting', cause: 'reopened' },
  ...WAIT_END_CAUSES.map((cause): Transition => ({ from: 'waiting', to: 'ended', cause })),
  { from: 'live', to: 'live', cause: 'extended' },
  { from: 'live', to: 'live', cause: 'reopened' },
  { from: 'live', to: 'live', cause: 'lowered' },
  { from: 'live', to: 'held', cause: 'held' },
  { from: 'held', to: 'held', cause: 'held' },
  { from: 'held', to: 'held', cause: 'lowered' },
  { from: 'held', to: 'live', cause: 'confirmed' },
  ...(Object.keys(END_CAUSES) as EndCause[]).flatMap((cause): Transition[] =>
    (['live', 'held'] as const).map((from) => ({ from, to: 'ended', cause })),
  ),
];
