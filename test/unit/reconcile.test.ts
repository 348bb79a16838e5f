import { describe, expect, test } from 'vitest';
import type { EntryState } from '../../agent/dataplane/dataplane.ts';
import { type Facts, reconcile } from '../../agent/grants/reconcile.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { grantRecord } from '../records.ts';

const SECOND = 1_000_000_000n;

function entry(changes: Partial<EntryState> = {}): EntryState {
  return { index: 3, number: 1, endNs: 600n * SECOND, ...changes };
}

/** What the record says of its ends after the repair, on the boot's clock and in UTC. */
const ends = new Map<string, [bigint, number]>();

function repairs(records: GrantRecord[], entries: EntryState[], changes: Partial<Facts> = {}) {
  const facts: Facts = {
    bootId: 'boot-1',
    nowMs: 101_000,
    nowNs: 100n * SECOND,
    suspendedNs: 0n,
    latestMs: 1000,
    storeIsOlder: false,
    objection: () => undefined,
    bindingConfirmed: () => true,
    ...changes,
  };
  return records.flatMap((record) => {
    const own = entries.find(({ index, number }) => index === record.index && number === record.number);
    const repair = reconcile(record, own, facts);
    if (!repair) return [];
    const { id, expiresAtNs, expiresAtMs } = repair.record;
    ends.set(id, [expiresAtNs, expiresAtMs]);
    return [
      [repair.kind, id, 'cause' in repair ? repair.cause : 'endNs' in repair ? repair.endNs : repair.record.state],
    ];
  });
}

describe('in the same boot', () => {
  test('record and gate agree: nothing to do', () => {
    expect(repairs([grantRecord()], [entry()])).toEqual([]);
  });

  test('the time was over while the agent was away', () => {
    expect(repairs([grantRecord()], [entry()], { nowNs: 600n * SECOND })).toEqual([['endGrant', 'A', 'expired']]);
  });

  test('ended in the gate, and killed before the record was written', () => {
    expect(repairs([grantRecord()], [entry({ endNs: 50n * SECOND })])).toEqual([['endGrant', 'A', 'endedInGate']]);
  });

  test('recorded, and killed before the gate was told', () => {
    expect(repairs([grantRecord()], [])).toEqual([['endGrant', 'A', 'lostInGate']]);
  });

  test("the entry is another grant's", () => {
    expect(repairs([grantRecord()], [entry({ number: 2 })])).toEqual([['endGrant', 'A', 'lostInGate']]);
  });

  test('both live with different ends: the earlier one holds', () => {
    expect(repairs([grantRecord()], [entry({ endNs: 500n * SECOND })])).toEqual([['agree', 'A', 500n * SECOND]]);
    expect(repairs([grantRecord()], [entry({ endNs: 700n * SECOND })])).toEqual([['agree', 'A', 600n * SECOND]]);
  });

  test('an extension that the gate was never told of: the record has the end that the gate had', () => {
    const extended = grantRecord({ expiresAtNs: 900n * SECOND, expiresAtMs: 901_000 });
    expect(repairs([extended], [entry()])).toEqual([['agree', 'A', 600n * SECOND]]);
    expect(ends.get('A')).toEqual([600n * SECOND, 601_000]);
    expect(repairs([extended], [entry()], { nowNs: 700n * SECOND })).toEqual([['endGrant', 'A', 'endedInGate']]);
    expect(ends.get('A')).toEqual([600n * SECOND, 601_000]);
    expect(repairs([extended], [entry()], { objection: () => 'ruleChanged' })).toEqual([
      ['endGrant', 'A', 'ruleChanged'],
    ]);
    expect(ends.get('A')).toEqual([600n * SECOND, 601_000]);
    // Of the gate's clock, which a suspend leaves behind.
    expect(repairs([extended], [entry()], { suspendedNs: 60n * SECOND })).toEqual([['agree', 'A', 600n * SECOND]]);
    expect(ends.get('A')).toEqual([660n * SECOND, 661_000]);
  });

  test("a suspend brings the gate's end down by its length", () => {
    expect(repairs([grantRecord()], [entry()], { suspendedNs: 60n * SECOND })).toEqual([['agree', 'A', 540n * SECOND]]);
    expect(repairs([grantRecord()], [entry()], { suspendedNs: 500n * SECOND })).toEqual([['endGrant', 'A', 'expired']]);
  });

  test('UTC does not count: a clock that jumped ends nothing and prolongs nothing', () => {
    expect(repairs([grantRecord()], [entry()], { nowMs: 9_999_999_999 })).toEqual([]);
    expect(repairs([grantRecord()], [entry()], { nowMs: 0 })).toEqual([]);
  });

  test('what directory or policy object to ends with their cause', () => {
    expect(repairs([grantRecord()], [entry()], { objection: () => 'deviceUnbound' })).toEqual([
      ['endGrant', 'A', 'deviceUnbound'],
    ]);
  });
});

describe('after a reboot', () => {
  const rebooted = { bootId: 'boot-2', nowNs: 5n * SECOND, heartbeatLost: true, bindingConfirmed: () => true };

  test('opened again for what is left by UTC', () => {
    expect(repairs([grantRecord()], [], rebooted)).toEqual([['reopen', 'A', 505n * SECOND]]);
  });

  test('never for longer than it was granted, whatever the clock says', () => {
    const future = grantRecord({ startedAtMs: 1000, expiresAtMs: 9_999_999 });
    expect(repairs([future], [], rebooted)).toEqual([['reopen', 'A', 605n * SECOND]]);
  });

  test('its time is over by UTC', () => {
    expect(repairs([grantRecord()], [], { ...rebooted, nowMs: 601_000 })).toEqual([['endGrant', 'A', 'expired']]);
  });

  test('not where the clock stands before the latest time on record', () => {
    const facts = { ...rebooted, nowMs: 50_000, latestMs: 50_001 };
    expect(repairs([grantRecord()], [], facts)).toEqual([['endGrant', 'A', 'clockUncertain']]);
  });

  test('held where nobody can vouch for the binding, to the end that it would have had', () => {
    const facts = { ...rebooted, bindingConfirmed: () => false };
    expect(repairs([grantRecord()], [], facts)).toEqual([['hold', 'A', 'held']]);
    const [end] = ends.get('A') ?? [];
    repairs([grantRecord()], [], rebooted);
    expect(ends.get('A')?.[0]).toBe(grantRecord().expiresAtNs);
    expect(end).toBeLessThanOrEqual(100n * SECOND + BigInt(grantRecord().grantedSeconds) * SECOND);
  });
});

describe('a binding that nobody can vouch for', () => {
  const unconfirmed = { bindingConfirmed: () => false };
  const held = () => ({ ...grantRecord(), state: 'held' as const });

  test('holds its grant', () => {
    expect(repairs([grantRecord()], [entry()], unconfirmed)).toEqual([['hold', 'A', 'held']]);
  });

  test('leaves one that is held as it is, with a dead entry or none', () => {
    expect(repairs([held()], [entry({ endNs: 1n })], unconfirmed)).toEqual([]);
    expect(repairs([held()], [], unconfirmed)).toEqual([]);
  });

  test('closes one that is held and open in the gate', () => {
    expect(repairs([held()], [entry()], unconfirmed)).toEqual([['hold', 'A', 'held']]);
  });

  test('ends one that is held at its end', () => {
    const late = { ...unconfirmed, nowNs: held().expiresAtNs };
    expect(repairs([held()], [entry({ endNs: 1n })], late)).toEqual([['endGrant', 'A', 'bindingUnconfirmed']]);
  });

  test('once confirmed, gives back the end on record', () => {
    expect(repairs([held()], [entry({ endNs: 1n })])).toEqual([['reopen', 'A', held().expiresAtNs]]);
  });
});
