/**
 * After a start: what must change so that record and gate say the same.
 *
 * Of kernel and record the earlier end wins (design, law 2). In the same boot
 * the gate's entries are still there, on the same clock: a record whose entry
 * is dead, empty or another grant's ends; an entry without a live record
 * ends. After a reboot the gate is empty and UTC counts: a record whose end
 * has not come is opened again for what is left, never for longer than it was
 * granted, and not at all where the clock stands before the latest time on
 * record, or the records are an older copy. Where the agent was away so long that the gate gave up
 * (`agentLost`), nobody has heard whether addresses changed hands: a grant
 * ends unless its binding is confirmed.
 *
 * Pure: facts in, changes out; the order of the changes does not matter.
 */
import type { Entry } from '../dataplane/dataplane.ts';
import type { EndCause } from './lifecycle.ts';
import { type GrantRecord, withEnd } from './record.ts';

export interface Facts {
  readonly records: Iterable<GrantRecord>;
  readonly entries: Iterable<Entry>;
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
  /** The gate has it open and no record says so. */
  | { readonly kind: 'endEntry'; readonly index: number; readonly number: number }
  | { readonly kind: 'endGrant'; readonly record: GrantRecord; readonly cause: EndCause }
  /** After a reboot: open until `endNs`. */
  | { readonly kind: 'reopen'; readonly record: GrantRecord; readonly endNs: bigint }
  /** Both are live with different ends: the earlier one holds for both, and stands in the record given here. */
  | { readonly kind: 'agree'; readonly record: GrantRecord; readonly endNs: bigint };

export function reconcile(facts: Facts): Repair[] {
  const live = new Map<number, Entry>();
  for (const entry of facts.entries) live.set(entry.mapping.index, entry);
  const repairs: Repair[] = [];
  for (const record of facts.records) {
    const entry = live.get(record.index);
    const own = entry?.mapping.number === record.number ? entry : undefined;
    if (own) live.delete(record.index);
    repairs.push(...repairsOf(record, own, facts));
  }
  for (const { mapping, endNs } of live.values()) {
    if (endNs > facts.nowNs) repairs.push({ kind: 'endEntry', index: mapping.index, number: mapping.number });
  }
  return repairs;
}

function* repairsOf(record: GrantRecord, entry: Entry | undefined, facts: Facts): Generator<Repair> {
  const cause = reasonToEnd(record, entry, facts);
  const endNs = record.expiresAtNs - facts.suspendedNs;
  // An extension that was recorded, and killed before the gate was told: it never had that end.
  const sooner = entry && entry.endNs < endNs;
  const agreed = sooner ? withEnd(record, entry.endNs + facts.suspendedNs) : record;
  if (cause) yield { kind: 'endGrant', record: agreed, cause };
  else if (!entry) yield { kind: 'reopen', record, endNs: reopenedEnd(record, facts) };
  else if (entry.endNs !== endNs) yield { kind: 'agree', record: agreed, endNs: sooner ? entry.endNs : endNs };
}

function reasonToEnd(record: GrantRecord, entry: Entry | undefined, facts: Facts): EndCause | undefined {
  if (record.bootId === facts.bootId) {
    if (record.expiresAtNs - facts.suspendedNs <= facts.nowNs) return 'expired';
    if (!entry) return 'lostInGate';
    if (entry.endNs <= facts.nowNs) return 'endedInGate';
  } else {
    if (facts.storeIsOlder) return 'recordOutdated';
    if (facts.nowMs < facts.latestMs) return 'clockUncertain';
    if (record.expiresAtMs <= facts.nowMs) return 'expired';
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
