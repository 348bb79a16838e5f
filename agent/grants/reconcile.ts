/**
 * After a start: what must change so that a record and the gate say the same.
 *
 * Of kernel and record the earlier end wins (design, law 2). In the same boot
 * the gate's entries are still there, on the same clock: a record whose entry
 * is dead, empty or another grant's ends; an entry without a live record
 * ends (recovery.ts). After a reboot the gate is empty and UTC counts: a record
 * whose end has not come is opened again for what is left, never for longer
 * than it was granted, and not at all where the clock stands before the latest
 * time on record, the records are an older copy, or it has a byte quota, whose
 * use only the gate counted. Where the agent was away so long that the gate
 * gave up (`agentLost`), nobody has heard whether addresses changed hands: a
 * grant is held unless its binding is confirmed, and one that is held goes on
 * to be, to the end that it had.
 *
 * Pure: facts in, a change out; each record is judged alone, in any order.
 */
import type { EntryState } from '../dataplane/dataplane.ts';
import type { EndCause } from './lifecycle.ts';
import { type GrantRecord, withEnd } from './record.ts';

export interface Facts {
  readonly bootId: string;
  readonly nowMs: number;
  /** On the gate's clock, and how far the records' clock is ahead of it. */
  readonly nowNs: bigint;
  readonly suspendedNs: bigint;
  /** The latest time in any record (UTC ms). */
  readonly latestMs: number;
  /** Whether the records are an older copy: what ended since they do not know. */
  readonly storeIsOlder: boolean;
  /** Why a grant may not live on, by directory and policy as they are now; undefined where it may. */
  readonly objection: (record: GrantRecord) => EndCause | undefined;
  /** Whether somebody has vouched for whose the inner address is since the heartbeat ran out, if it did. */
  readonly bindingConfirmed: (record: GrantRecord) => boolean;
}

export type Repair =
  | { readonly kind: 'endGrant'; readonly record: GrantRecord; readonly cause: EndCause }
  /** After a reboot, or held until now: open until `endNs`. */
  | { readonly kind: 'reopen'; readonly record: GrantRecord; readonly endNs: bigint }
  /** Closed, with its end as it stands in the record given here. */
  | { readonly kind: 'hold'; readonly record: GrantRecord }
  /** Both are live with different ends: the earlier one holds for both, and stands in the record given here. */
  | { readonly kind: 'agree'; readonly record: GrantRecord; readonly endNs: bigint };

/** What must change of a live record and its own entry, which is absent where the gate has none of that number; undefined where they agree. */
export function reconcile(record: GrantRecord, own: EntryState | undefined, facts: Facts): Repair | undefined {
  const cause = reasonToEnd(record, own, facts);
  const endNs = record.expiresAtNs - facts.suspendedNs;
  // An extension that was recorded, and killed before the gate was told: it never had that end.
  const sooner = own && own.endNs < endNs;
  const agreed = sooner ? withEnd(record, own.endNs + facts.suspendedNs) : record;
  if (cause) return { kind: 'endGrant', record: agreed, cause };
  const { state, bootId } = record;
  const isNewBoot = bootId !== facts.bootId;
  if (!facts.bindingConfirmed(record)) {
    if (isNewBoot) {
      const expiresAtNs = reopenedEnd(record, facts) + facts.suspendedNs;
      return { kind: 'hold', record: { ...record, state: 'held', bootId: facts.bootId, expiresAtNs } };
    }
    const isClosed = state === 'held' && (!own || own.endNs <= facts.nowNs);
    return isClosed ? undefined : { kind: 'hold', record: { ...(state === 'held' ? record : agreed), state: 'held' } };
  }
  if (state === 'held' || !own)
    return { kind: 'reopen', record, endNs: isNewBoot ? reopenedEnd(record, facts) : endNs };
  if (own.endNs !== endNs) return { kind: 'agree', record: agreed, endNs: sooner ? own.endNs : endNs };
  return undefined;
}

function reasonToEnd(record: GrantRecord, own: EntryState | undefined, facts: Facts): EndCause | undefined {
  if (record.bootId === facts.bootId) {
    const isHeld = record.state === 'held'; // then the gate has it closed, or not at all
    if (record.expiresAtNs - facts.suspendedNs <= facts.nowNs) return isHeld ? 'bindingUnconfirmed' : 'expired';
    if (!own && !isHeld) return 'lostInGate';
    if (own && !isHeld && own.endNs <= facts.nowNs) return 'endedInGate';
  } else {
    if (facts.storeIsOlder) return 'recordOutdated';
    if (facts.nowMs < facts.latestMs) return 'clockUncertain';
    if (record.expiresAtMs <= facts.nowMs) return record.state === 'held' ? 'bindingUnconfirmed' : 'expired';
    if (record.limits.bytes !== undefined) return 'quotaUncertain';
  }
  return facts.objection(record);
}

function reopenedEnd(record: GrantRecord, facts: Facts): bigint {
  const leftMs = Math.min(record.expiresAtMs - facts.nowMs, record.grantedSeconds * 1000);
  return facts.nowNs + BigInt(leftMs) * 1_000_000n;
}
