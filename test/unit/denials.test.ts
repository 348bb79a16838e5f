/** The list of who was turned away: what is one row, what makes room, what is kept, and that counts add up. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { refusalRecorder } from '../../agent/api/problem.ts';
import { REFUSALS, type Refusal, type RefusalReason } from '../../agent/core/refusals.ts';
import type { ExternalId, GrantId, MtcUserName } from '../../agent/core/words.ts';
import { openAccount } from '../../agent/inspector/account.ts';
import { type DenialStore, openDenialStore } from '../../agent/inspector/denial-store.ts';
import { type Denial, type DenialFacts, Denials } from '../../agent/inspector/denials.ts';
import { Ledger } from '../../agent/inspector/ledger.ts';
import { denialUseCases } from '../../agent/use-cases/denials.ts';
import type { Remedies } from '../../agent/use-cases/remedies.ts';
import { until } from '../child.ts';
import { HandClock, KeptLog, seededRandom } from '../clock.ts';
import { IDENTITIES } from '../identities.ts';

const clock = new HandClock();
const log = new KeptLog();
let ids = 0;
let starts = 0;
const newId = () => `row-${++ids}`;
const knock = (changes: Partial<DenialFacts> = {}): DenialFacts => ({
  kind: 'packet',
  reason: 'noGrant',
  source: '192.0.2.66',
  target: 'udp 203.0.113.1:20000',
  ...changes,
});
const ACME = 'acme' as MtcUserName;
const RIVAL = 'rival' as MtcUserName;
/** own is a device of acme's, and has a number; its is rival's. */
const deviceOf = (named: string) => {
  if (named === 'its@b.example') return { mtcUser: RIVAL, externalId: named as ExternalId };
  return named === 'own@a.example' || named === '+491715550107'
    ? { mtcUser: ACME, externalId: 'own@a.example' as ExternalId }
    : undefined;
};
const SMALL = { packet: 3, handshake: 2, request: 2 };
const total = (rows: readonly Denial[], kind = 'packet') =>
  rows.filter((row) => row.kind === kind).reduce((sum, { count }) => sum + count, 0);

const REMEDIES: Remedies = {
  ofRefusal: () => ({ toPass: ['a rule'] }),
  ofDenial: () => ({ toPass: [] }),
  ofGrant: () => undefined,
};

describe('a row', () => {
  test('counts what is alike, from the first time to the last', () => {
    const denials = new Denials(clock, newId);
    const first = denials.add(knock());
    clock.pass(5);
    const again = denials.add(knock());
    expect(again).toEqual({ ...first, count: 2, lastMs: first.firstMs + 5000 });
    expect(denials.get(first.id)).toEqual(again);
    clock.utcMs -= 60_000; // UTC may step back; a row's end does not
    expect(denials.add(knock()).lastMs).toBe(again.lastMs);
    clock.utcMs += 60_000;
  });

  test.each([
    { kind: 'request', reason: 'noRuleAllows' },
    { reason: 'wrongSource' },
    { source: '192.0.2.67' },
    { target: 'udp 203.0.113.1:20001' },
    { mtcUser: 'acme' as MtcUserName },
    { grant: 'G' as GrantId },
  ] as const)('is another one where %j', (changes) => {
    const denials = new Denials(clock, newId);
    expect(denials.add(knock(changes)).id).not.toBe(denials.add(knock()).id);
  });

  test('that concerns an MTC user is of one day, in UTC; one of nobody goes on', () => {
    const denials = new Denials(clock, newId);
    const first = denials.add(knock({ mtcUser: ACME }));
    const nobodys = denials.add(knock());
    clock.pass(86_400);
    expect(denials.add(knock({ mtcUser: ACME })).id).not.toBe(first.id);
    expect(denials.add(knock({ mtcUser: ACME })).count).toBe(2);
    expect(denials.add(knock())).toMatchObject({ id: nobodys.id, count: 2 });
    expect([...denials.ofUser(ACME)].map(({ count }) => count)).toEqual([1, 2]);
    const again = new Denials(clock, newId, denials.list({}, 9));
    expect(again.add(knock({ mtcUser: ACME })).count).toBe(3);
    expect([...again.ofUser(ACME)].map(({ count }) => count)).toEqual([1, 3]);
  });

  test('bears the source port of the last that was counted', () => {
    const denials = new Denials(clock, newId);
    const { id } = denials.add(knock({ sourcePort: 1 }));
    expect(denials.add(knock({ sourcePort: 2 }))).toMatchObject({ id, count: 2, sourcePort: 2 });
    expect(denials.add(knock())).toMatchObject({ id, count: 3, sourcePort: 2 });
  });

  test('that makes room still counts for the MTC user whom it concerned', () => {
    const denials = new Denials(clock, newId, [], SMALL);
    for (let i = 0; i < 5; i++) denials.add(knock({ mtcUser: ACME, source: `192.0.2.${i}` }));
    for (let i = 0; i < 4; i++) denials.add(knock({ source: `192.0.2.${i}` }));
    const mine = [...denials.ofUser(ACME)];
    expect(mine).toMatchObject([{ source: '*', count: 5 }]);
    expect(total(denials.list({}, 99))).toBe(9);
  });

  test('is found by kind, reason, source and MTC user, the newest first', () => {
    const denials = new Denials(clock, newId);
    const tenant = denials.add(knock({ mtcUser: 'acme' as MtcUserName, reason: 'wrongSource' }));
    clock.pass(1);
    const other = denials.add(knock({ source: '192.0.2.67' }));
    clock.pass(1);
    const handshake = denials.add(knock({ kind: 'handshake', reason: 'tlsVersion' }));
    const found = (filter: Parameters<Denials['list']>[0], limit = 9) =>
      denials.list(filter, limit).map(({ id }) => id);
    expect(found({})).toEqual([handshake.id, other.id, tenant.id]);
    expect(found({}, 1)).toEqual([handshake.id]);
    expect(found({ kind: 'packet' })).toEqual([other.id, tenant.id]);
    expect(found({ mtcUser: 'acme' })).toEqual([tenant.id]);
    expect(found({ reason: 'wrongSource' })).toEqual([tenant.id]);
    expect(found({ source: '192.0.2.67' })).toEqual([other.id]);
  });
});

describe('room', () => {
  test('is made by the row that was added to longest ago; its count stays, under its reason', () => {
    const denials = new Denials(clock, newId, [], SMALL);
    const [a, b, c] = ['a', 'b', 'c'].map((source) => denials.add(knock({ source })));
    denials.add(knock({ source: 'a' }));
    denials.add(knock({ source: 'd' }));
    expect([a, b, c].map((row) => denials.get(row?.id ?? '')?.count)).toEqual([2, undefined, 1]);
    denials.add(knock({ source: 'e', reason: 'wrongSource' }));
    expect(denials.list({ source: '*' }, 9)).toMatchObject([{ reason: 'noGrant', target: '*', count: 2 }]);
    expect(total(denials.list({}, 99))).toBe(6);
  });

  test('of one kind is not taken by another', () => {
    const denials = new Denials(clock, newId, [], SMALL);
    const handshake = denials.add(knock({ kind: 'handshake', reason: 'tlsVersion' }));
    for (let i = 0; i < 50; i++) denials.add(knock({ source: `${i}` }));
    expect(denials.get(handshake.id)).toBeDefined();
    expect(denials.size).toBe(SMALL.packet + 1 + 1);
  });

  test('old rows are rolled up too', () => {
    const denials = new Denials(clock, newId);
    denials.add(knock());
    clock.pass(60);
    const young = denials.add(knock({ source: 'b' }));
    denials.rollUpBefore(clock.nowMs());
    expect(denials.list({}, 9).map(({ source, count }) => [source, count])).toEqual(
      expect.arrayContaining([
        ['*', 1],
        ['b', 1],
      ]),
    );
    expect(denials.get(young.id)).toBeDefined();
  });

  test('whatever comes, counts add up, memory is bounded, and the store that takes the changes has the same', () => {
    const step = fc.record({
      source: fc.nat(8).map(String),
      reason: fc.constantFrom('noGrant', 'wrongSource'),
      // The changes are kept, or could not be, or nobody asked.
      after: fc.constantFrom('keep', 'fail', 'nothing'),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const denials = new Denials(clock, newId, [], SMALL);
        const kept = new Map<string, Denial>();
        const keep = () => {
          const changes = denials.changes();
          for (const id of changes.removed) expect(kept.delete(id)).toBe(true);
          for (const row of changes.changed) kept.set(row.id, row);
          denials.wereKept(changes);
        };
        for (const { source, reason, after } of steps) {
          denials.add(knock({ source, reason: reason as 'noGrant' }));
          if (after === 'keep') keep();
          if (after === 'fail') denials.changes();
        }
        keep();
        const rows = denials.list({}, 99);
        expect(total(rows)).toBe(steps.length);
        expect(rows.length).toBeLessThanOrEqual(SMALL.packet + 2);
        expect(new Map(rows.map((row) => [row.id, row]))).toEqual(kept);
        const restarted = new Denials(clock, newId, [...kept.values()], SMALL);
        expect(total(restarted.list({}, 99))).toBe(steps.length);
      }),
    );
  });
});

describe('the account', () => {
  test('adds up while packets are on their way, and leaves out what was before', () => {
    const gate = { sampled: 0n, denied: 0n };
    let received = 0;
    const readings = { during: () => {} };
    const counters = () => {
      const read = { sampled: { packets: gate.sampled }, denied: { noGrant: { packets: gate.denied } } };
      readings.during();
      return read;
    };
    let listening = false; // nothing is received before the account is open
    const packet = () => {
      gate.denied += 1n;
      gate.sampled += 1n;
      received += listening ? 1 : 0;
    };
    gate.denied = 40n;
    gate.sampled = 7n;
    readings.during = packet; // one comes in between any two readings
    const read = openAccount(counters, () => received);
    listening = true;
    for (let i = 0; i < 5; i++) {
      gate.denied += 10n;
      const { seen, inspected, unsampled, lost } = read();
      expect(seen).toBe(inspected + unsampled + lost);
      expect(Math.min(seen, inspected, unsampled, lost)).toBeGreaterThanOrEqual(0);
    }
    readings.during = () => {};
    const settled = read();
    gate.denied += 1n;
    gate.sampled += 1n;
    expect(read()).toEqual({ ...settled, seen: settled.seen + 1, lost: settled.lost + 1 });
    received += 1;
    expect(read()).toEqual({ ...settled, seen: settled.seen + 1, inspected: settled.inspected + 1 });
  });
});

describe('the ledger', () => {
  let folder: string;
  let file: string;
  let store: DenialStore;
  let ledger: Ledger;
  const open = () => {
    store = openDenialStore(file, log, IDENTITIES);
    ledger = new Ledger(store, clock, seededRandom(++starts), log, deviceOf);
  };
  const refusal = (instance: string, reason: RefusalReason = 'noRuleAllows'): Refusal => ({
    reason,
    step: REFUSALS[reason].step,
    instance: `urn:uuid:${instance}`,
    why: 'no allow matches',
    rule: 'r1',
  });
  const rowsOf = (user: MtcUserName) =>
    [...ledger.denials.ofUser(user)].map(({ source, externalId, target, count }) => [
      source,
      externalId,
      target,
      count,
    ]);
  const FACTS = { why: '', server: 'head-end', from: '198.51.100.10', device: 'm1@a.example', to: 'udp/5683' };

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'mtgate-denials-'));
    file = join(folder, 'denials.db');
    log.lines.splice(0);
    open();
  });
  afterEach(() => {
    store.close();
    rmSync(folder, { recursive: true });
  });

  test('keeps rows and refusals over a restart, field by field, and goes on counting in the same row', async () => {
    const row = ledger.denials.add(
      knock({ mtcUser: 'acme' as MtcUserName, device: 'm1@a.example', grant: 'G' as GrantId }),
    );
    ledger.refused(refusal('a'), { ...FACTS, correlator: 'x-1' });
    ledger.refused(refusal('b', 'notFound'), { why: '', remote: '192.0.2.1', method: 'GET', path: '/x' });
    const [b, a] = ledger.refusals({}, 9);
    expect(a).toEqual({
      instance: 'urn:uuid:a',
      atMs: clock.nowMs(),
      reason: 'noRuleAllows',
      step: 'rule',
      why: 'no allow matches',
      rule: 'r1',
      server: 'head-end',
      device: 'm1@a.example',
      source: '198.51.100.10',
      target: 'udp/5683',
      correlator: 'x-1',
    });
    expect(b).toMatchObject({ source: '192.0.2.1', target: 'GET /x' });
    const rows = ledger.denials.list({}, 9);
    await ledger.keep();
    store.close();
    open();
    expect(ledger.denials.list({}, 9)).toEqual(expect.arrayContaining(rows));
    expect(ledger.denials.size).toBe(rows.length);
    expect(
      ledger.denials.add(knock({ mtcUser: 'acme' as MtcUserName, device: 'm1@a.example', grant: 'G' as GrantId })).id,
    ).toBe(row.id);
    expect(ledger.refusals({}, 9)).toEqual([b, a]);
    expect(ledger.refusal('urn:uuid:a')).toEqual(a);
    expect(ledger.refusals({ server: 'head-end', device: 'm1@a.example', reason: 'noRuleAllows' }, 9)).toEqual([a]);
    expect(ledger.refusals({ server: 'nobody' }, 9)).toEqual([]);
  });

  test('lists what waits and what is kept as one, the newest first', async () => {
    ledger.refused(refusal('a'), FACTS);
    await ledger.keep();
    ledger.refused(refusal('b'), FACTS);
    expect(ledger.refusals({ device: 'm1@a.example' }, 9).map(({ instance }) => instance)).toEqual([
      'urn:uuid:b',
      'urn:uuid:a',
    ]);
    expect(ledger.refusals({}, 1).map(({ instance }) => instance)).toEqual(['urn:uuid:b']);
    expect(ledger.refusal('urn:uuid:b')?.rule).toBe('r1');
    expect(ledger.denials.list({ kind: 'request' }, 9)).toMatchObject([{ count: 2, server: 'head-end' }]);
  });

  test('a refusal knows whose device was named, however it was named, and who asked', async () => {
    const asker = { certificate: 'c0'.repeat(32), fromPort: 40_000 };
    ledger.refused(refusal('a'), { ...FACTS, device: '+491715550107', ...asker });
    ledger.refused(refusal('b'), { ...FACTS, device: 'own@a.example' });
    ledger.refused(refusal('c'), FACTS);
    for (let i = 0; i < 3; i++) ledger.refused(refusal('d'), { ...FACTS, device: 'own@a.example' }, 'leftOut');
    const named = { mtcUser: 'acme', externalId: 'own@a.example' };
    const shown = { certificate: asker.certificate, sourcePort: 40_000 };
    const rows = [...ledger.denials.ofUser(ACME)];
    expect(rows).toMatchObject([
      { device: '+491715550107', ...named, ...shown },
      { device: 'own@a.example', ...named },
      { source: '*', count: 3 },
    ]);
    await ledger.keep();
    store.close();
    open();
    expect(ledger.refusal('urn:uuid:a')).toMatchObject({ device: '+491715550107', ...named, ...shown });
    expect(ledger.refusal('urn:uuid:c')).not.toHaveProperty('mtcUser');
    expect([...ledger.denials.ofUser(ACME)]).toEqual(expect.arrayContaining(rows));
  });

  test('the same again counts in its row; what is too much to be told apart, without one', () => {
    ledger.refused(refusal('a', 'serverBusy'), FACTS);
    for (let i = 0; i < 9; i++) ledger.refused(refusal('a', 'serverBusy'), FACTS, 'repeated');
    ledger.refused(refusal('b'), FACTS);
    for (let i = 0; i < 90; i++) ledger.refused(refusal(`${i}`), { ...FACTS, device: `m${i}@a.example` }, 'leftOut');
    expect(ledger.refusals({}, 99).map(({ instance }) => instance)).toEqual(['urn:uuid:b', 'urn:uuid:a']);
    const rows = ledger.denials.list({}, 99).map(({ reason, source, count }) => [reason, source, count]);
    expect(rows.sort()).toEqual([
      ['noRuleAllows', '*', 90],
      ['noRuleAllows', '198.51.100.10', 1],
      ['serverBusy', '198.51.100.10', 10],
    ]);
  });

  test('what is shed in the same second counts on the device that it was for, and on no other', () => {
    const refuse = refusalRecorder(log, seededRandom(1), clock, (...told) => ledger.refused(...told));
    const ask = (device: string, more: object = {}) => refuse('tooManyUnknownDevices', { ...FACTS, device, ...more });
    const first = ask('own@a.example');
    for (let i = 0; i < 3; i++) expect(ask('own@a.example')).toBe(first);
    for (let i = 0; i < 20; i++) expect(ask(`guess${i}@a.example`)).toBe(first);
    for (let i = 0; i < 5; i++) ask('its@b.example');
    ask('own@a.example', { to: 'tcp/22' });
    expect(rowsOf(ACME)).toEqual([
      ['198.51.100.10', 'own@a.example', 'udp/5683', 4],
      ['*', undefined, '*', 1], // it is acme's, and was for another port
    ]);
    expect(rowsOf(RIVAL)).toEqual([['*', undefined, '*', 5]]);
    expect(total(ledger.denials.list({ reason: 'tooManyUnknownDevices' }, 99), 'request')).toBe(30);
  });

  test('a shed refusal of what is nobody’s device is told to nobody, whoever’s the next one is', () => {
    const refuse = refusalRecorder(log, seededRandom(1), clock, (...told) => ledger.refused(...told));
    refuse('tooManyUnknownDevices', FACTS);
    refuse('tooManyUnknownDevices', { ...FACTS, device: 'own@a.example' });
    refuse('serverBusy', { why: '', server: 'head-end', method: 'POST', path: '/a' });
    refuse('serverBusy', { why: '', server: 'head-end', method: 'POST', path: '/b' });
    expect(rowsOf(ACME)).toEqual([['*', undefined, '*', 1]]);
    expect(ledger.denials.list({ reason: 'serverBusy' }, 9)).toMatchObject([{ target: 'POST /a', count: 2 }]);
  });

  test('the ids of rows tell nothing of how many there are', () => {
    const idsOf = (count: number) =>
      Array.from({ length: count }, (_, i) => ledger.denials.add(knock({ source: `t${i}` })).id);
    const found = idsOf(500);
    expect(new Set(found).size).toBe(500);
    // No part of one is the same in two, or grows from one to the next.
    for (const [i, id] of found.entries()) {
      expect(id).toMatch(/^[0-9a-f]{24}$/);
      const next = found[i + 1] ?? '';
      expect(next.slice(0, 10)).not.toBe(id.slice(0, 10));
      expect(next.slice(-10)).not.toBe(id.slice(-10));
    }
    const growing = found.filter((id, i) => i > 0 && id > (found[i - 1] ?? '')).length;
    expect(growing).toBeGreaterThan(150);
    expect(growing).toBeLessThan(350);
  });

  test('a flood is written a slice at a time, all of it, and others are answered in between', async () => {
    for (let i = 0; i < 1000; i++) ledger.denials.add(knock({ source: `s${i}` }));
    let turns = 0;
    const count = () => {
      turns += 1;
      turning = setImmediate(count);
    };
    let turning = setImmediate(count);
    await ledger.keep();
    clearImmediate(turning);
    expect(turns).toBeGreaterThanOrEqual(7);
    store.close();
    open();
    expect(ledger.denials.size).toBe(1000);
  });

  test('forgets refusals of 30 days ago, not their count', async () => {
    ledger.refused(refusal('a'), FACTS);
    await ledger.keep();
    clock.pass(31 * 86_400);
    ledger.refused(refusal('b'), FACTS);
    await ledger.keep();
    ledger.age();
    expect(ledger.refusals({}, 9).map(({ instance }) => instance)).toEqual(['urn:uuid:b']);
    expect(total(ledger.denials.list({}, 9), 'request')).toBe(2);
  });

  test('a disk that takes nothing: said, bounded, tried again, and nobody is held up', async () => {
    let broken = true;
    const failing: DenialStore = {
      ...store,
      write: (changes, refusals) => {
        if (broken) throw new Error('disk full');
        store.write(changes, refusals);
      },
    };
    const slow = new Ledger(failing, clock, seededRandom(++starts), log, deviceOf);
    for (let i = 0; i < 10_002; i++) slow.refused(refusal(`${i}`), FACTS);
    await slow.keep();
    expect(log.of('denialsNotKept')).toMatchObject([{ level: 'error', why: 'disk full' }]);
    expect(slow.givenUp).toBe(2);
    expect(slow.refusal('urn:uuid:1')).toBeUndefined();
    broken = false;
    await slow.keep();
    expect(store.refusal('urn:uuid:2')?.rule).toBe('r1');
    store.close();
    open();
    expect(total(ledger.denials.list({}, 9), 'request')).toBe(10_002);
  });

  test.each([
    ['no database', () => writeFileSync(file, 'no database, and long enough to be none at all')],
    ['of another version', () => writeFileSync(file, spoiled(readFileSync(file), 60, 99))],
    ['damaged within', () => writeFileSync(file, readFileSync(file).fill(0xaa, 4096))],
  ])('a file that is %s is put aside, said, and a new one begun', async (_, spoil) => {
    ledger.refused(refusal('a'), FACTS);
    await ledger.keep();
    store.close();
    spoil();
    open();
    expect(log.of('denialStoreUnusable')).toMatchObject([{ file }]);
    expect(ledger.refusals({}, 9)).toEqual([]);
    expect(readFileSync(`${file}.unusable`).length).toBeGreaterThan(40);
    ledger.refused(refusal('b'), FACTS);
    await ledger.keep();
    expect(store.refusal('urn:uuid:b')).toBeDefined();
  });

  test('where no file can be, the list is in memory', async () => {
    store.close();
    file = join(folder, 'no', 'such', 'folder', 'denials.db');
    open();
    ledger.refused(refusal('a'), FACTS);
    await ledger.keep();
    expect(ledger.refusal('urn:uuid:a')).toBeDefined();
    expect(log.of('denialStoreUnusable').length).toBeGreaterThan(0);
  });

  test('why knows a refusal with or without urn:uuid:, a row by its id, and says what to do', () => {
    const account = () => ({ seen: 0, inspected: 0, unsampled: 0, lost: 0 });
    const inspector = () =>
      ({ state: 'sees', received: 0, filtered: 0, notOurs: 0, damaged: 0, deaths: 0, blindnesses: 0 }) as const;
    const { why } = denialUseCases({
      ledger,
      account,
      inspector,
      streamCut: () => {},
      remedies: REMEDIES,
      identities: IDENTITIES,
      policy: () => ({ servers: new Map(), mtcUsers: new Map() }),
    });
    ledger.refused(refusal('aa'), FACTS);
    expect(why('urn:uuid:aa')).toMatchObject({
      ...{ refusal: { rule: 'r1' }, advice: expect.stringContaining('explain'), toPass: ['a rule'] },
    });
    expect(why('AA')).toEqual(why('urn:uuid:aa'));
    const [request] = ledger.denials.list({}, 1);
    expect(why(request?.id ?? '')).toMatchObject({ denial: request, meaning: REFUSALS.noRuleAllows.title });
    expect(why(ledger.denials.add(knock()).id)).toMatchObject({
      meaning: expect.stringContaining('no grant was ever'),
    });
    const handshake = ledger.denials.add(knock({ kind: 'handshake', reason: 'tlsUnknownCa' }));
    expect(why(handshake.id)).toMatchObject({ meaning: 'the certificate leads to no client CA of agent.yaml' });
    const older = ledger.denials.add(knock({ reason: 'ofAnotherVersion' as 'noGrant' }));
    expect(why(older.id)).toMatchObject({ denial: older, meaning: 'ofAnotherVersion' });
    expect(why('nothing')).toBeUndefined();
  });

  test('who follows is told of each row once in a while, however often it changes, until the end', async () => {
    const account = () => ({ seen: 0, inspected: 0, unsampled: 0, lost: 0 });
    const inspector = () =>
      ({ state: 'sees', received: 0, filtered: 0, notOurs: 0, damaged: 0, deaths: 0, blindnesses: 0 }) as const;
    const { followDenials } = denialUseCases({
      ledger,
      account,
      inspector,
      streamCut: () => {},
      remedies: REMEDIES,
      identities: IDENTITIES,
      policy: () => ({ servers: new Map(), mtcUsers: new Map() }),
    });
    const told: Denial[][] = [];
    const end = followDenials({ reason: 'noGrant' }, (rows) => told.push([...rows]));
    for (let i = 0; i < 100; i++) ledger.denials.add(knock());
    ledger.denials.add(knock({ reason: 'wrongSource' }));
    await until('the first rows', () => told[0]);
    expect(told).toMatchObject([[{ reason: 'noGrant', count: 100 }]]);
    end();
    ledger.denials.add(knock());
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(told).toHaveLength(1);
  });
});

function spoiled(bytes: Buffer, at: number, value: number): Buffer {
  bytes.writeUInt32BE(value, at);
  return bytes;
}
