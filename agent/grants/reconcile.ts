/**
 * After a start: what must change so that a record and the gate say the same.
 *
 * Of kernel and record the earlier end wins (design, law 2). In the same boot
 * the gate's entries are still there, on the same clock: a record whose entry
 * is dead, empty or another grant's ends; an entry without a live record
 * ends (recovery.ts). After a reboot the gate is empty and UTC counts: a record
 * whose end has not come is opened again for what is left, never for longer
 * than it was granted, and not at all where the clock stands before the latest
 * time on record, the records are an older copy, or it has a byte quota, whose use only the gate counted. Where the agent was away so long that the gate gave up
 * (`agentLost`), nobody has heard whether addresses changed hands: a grant
 * ends unless its binding is confirmed.
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
  /** Whether the heartbeat had run out: too long ago, or never in this boot. */
  readonly heartbeatLost: boolean;
  /** Why a grant may not live on, by directory and policy as they are now; undefined where it may. */
  readonly objection: (record: GrantRecord) => EndCause | undefined;
  /** Whether the device is known to hold the inner address even if nobody listened for a while. */
  readonly bindingConfirmed: (record: GrantRecord) => boolean;
}

export type Repair =
  | { readonly kind: 'endGrant'; readonly record: GrantRecord; readonly cause: EndCause }
  /** After a reboot: open until `endNs`. */
  | { readonly kind: 'reopen'; readonly record: GrantRecord; readonly endNs: bigint }
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
  if (!own) return { kind: 'reopen', record, endNs: reopenedEnd(record, facts) };
  if (own.endNs !== endNs) return { kind: 'agree', record: agreed, endNs: sooner ? own.endNs : endNs };
  return undefined;
}

function reasonToEnd(record: GrantRecord, own: EntryState | undefined, facts: Facts): EndCause | undefined {
  if (record.bootId === facts.bootId) {
    if (record.expiresAtNs - facts.suspendedNs <= facts.nowNs) return 'expired';
    if (!own) return 'lostInGate';
    if (own.endNs <= facts.nowNs) return 'endedInGate';
  } else {
    if (facts.storeIsOlder) return 'recordOutdated';
    if (facts.nowMs < facts.latestMs) return 'clockUncertain';
    if (record.expiresAtMs <= facts.nowMs) return 'expired';
    if (record.limits.bytes !== undefined) return 'quotaUncertain';
  }
  const objection = facts.objection(record);
  if (objection) return objection;
  if (facts.heartbeatLost && !facts.bindingConfirmed(record)) return 'bindingUnconfirmed';
  return undefined;
}

function reopenedEnd(record: GrantRecord, facts: Facts): bigint {
  const leftMs = Math.min(record.expiresAtMs - facts.nowMs, record.grantedSeconds * 1000);
  return facts.nowNs + BigInt(leftMs) * 1_000_000n;
}
