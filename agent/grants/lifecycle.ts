/**
 * The life of a grant, as a table of legal transitions.
 *
 *            granted            expired, endedByServer, revokedByOperator, …
 *     none ───────────▶ live ─────────────────────────────────────────▶ ended
 *                       │  ▲
 *                       └──┘ extended, reopened (after a reboot), lowered (to
 *                            the gate's end, where that is the earlier one)
 *
 * Nothing leaves `ended`. The store carries the same table and refers to it
 * by foreign key, so that no statement can write a step that is not here; a
 * test holds the two equal.
 */

export type GrantState = 'live' | 'ended';

/** Why a grant ended; each cause has its own name, for logs and reports. */
export const END_CAUSES = {
  expired: 'its time was over',
  endedByServer: 'the MTC server gave it back',
  revokedByOperator: 'an operator revoked it',
  deviceUnbound: 'the device left its inner address',
  addressReassigned: 'the inner address was given to another device',
  certificateRevoked: 'the certificate that it was asked for with is revoked',
  serverUnauthorised: 'the MTC user no longer authorises the server',
  ruleChanged: "the operator's rules no longer allow it",
  quotaUsed: 'the bytes that its rule allows were used up',
  quotaUncertain: 'the host booted anew, and how much of its byte quota was used is not known',
  bindingUnconfirmed: 'the agent was away for too long to know who holds the inner address',
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

export interface Transition {
  readonly from: GrantState | 'none';
  readonly to: GrantState;
  readonly cause: EndCause | 'granted' | 'extended' | 'reopened' | 'lowered';
}

export const TRANSITIONS: readonly Transition[] = [
  { from: 'none', to: 'live', cause: 'granted' },
  { from: 'live', to: 'live', cause: 'extended' },
  { from: 'live', to: 'live', cause: 'reopened' },
  { from: 'live', to: 'live', cause: 'lowered' },
  ...(Object.keys(END_CAUSES) as EndCause[]).map((cause): Transition => ({ from: 'live', to: 'ended', cause })),
];
