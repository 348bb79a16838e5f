import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { address } from '../../agent/core/net.ts';
import type { GrantId, Imsi } from '../../agent/core/words.ts';
import { type Binding, NO_CHANGE, rangeOf } from '../../agent/directory/binding.ts';
import type { Plan, Session } from '../../agent/directory/sessions.ts';
import { type EndCause, TRANSITIONS } from '../../agent/grants/lifecycle.ts';
import type { EndedRecord, GrantRecord } from '../../agent/grants/record.ts';
import { type GrantStore, openStore } from '../../agent/grants/store.ts';
import { IDENTITIES } from '../identities.ts';
import { grantRecord } from '../records.ts';

const ended = (record: GrantRecord, endCause: EndCause, endedAtMs: number): EndedRecord => ({
  ...record,
  state: 'ended',
  endCause,
  endedAtMs,
});

let folder: string;
let file: string;
let store: GrantStore;

const WORKER = new URL('../../dist/grants/store-worker.js', import.meta.url);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-store-'));
  file = join(folder, 'mtgate.db');
});

afterEach(async () => {
  await store?.close();
  rmSync(folder, { recursive: true });
});

describe.each([
  ['a thread of its own', WORKER],
  ['this thread', undefined],
])('the store, written by %s', (_, worker) => {
  beforeEach(() => {
    store = openStore(file, IDENTITIES, worker);
  });

  test('keeps every field of a record, over a restart', async () => {
    const ipv4 = grantRecord({ expiresAtNs: 2n ** 61n + 1n });
    const ipv6 = grantRecord({
      id: 'B' as GrantId,
      number: 2 ** 48 - 1,
      index: 7,
      family: 'ipv6',
      remote: 'all',
      inner: { ...ipv4.inner, address: address('fd00:20::2') },
      reference: { phoneNumber: '+491700000001' },
    });
    await store.insert(ipv4);
    await store.insert(ipv6);
    await store.close();
    store = openStore(file, IDENTITIES, worker);
    expect(store.find(ipv4.id)).toEqual(ipv4);
    expect(store.find(ipv6.id)).toEqual(ipv6);
    expect([...store.live()]).toHaveLength(2);
    await store.end(ended(ipv4, 'endedByServer', 5000));
    expect(store.find(ipv4.id)).toEqual({ ...ipv4, state: 'ended', endCause: 'endedByServer', endedAtMs: 5000 });
    expect([...store.endedSince(5000)].map(({ id }) => id)).toEqual([ipv4.id]);
    expect([...store.endedSince(5001)]).toEqual([]);
  });

  test('an end is an end: a second one changes nothing, and nothing re-opens it', async () => {
    const record = grantRecord();
    await store.insert(record);
    await store.end(ended(record, 'expired', 5000));
    await store.end(ended(record, 'endedByServer', 6000));
    expect(store.find(record.id)).toMatchObject({ endCause: 'expired', endedAtMs: 5000 });
    await expect(store.reopen('boot-2', [record])).rejects.toThrow('FOREIGN KEY constraint failed');
  });

  test('extends from the end that was read, and what lives only', async () => {
    const record = grantRecord();
    const longer = { ...record, rule: 'other', policyVersion: 'v2', grantedSeconds: 900, expiresAtMs: 901_000 };
    const extended = { ...longer, expiresAtNs: 900_000_000_000n };
    await store.insert(record);
    expect(await store.extend(extended, record.expiresAtNs - 1n)).toBe(false);
    expect(store.find(record.id)).toEqual(record);
    expect(await store.extend(extended, record.expiresAtNs)).toBe(true);
    expect(await store.extend(extended, record.expiresAtNs)).toBe(false);
    expect(store.find(record.id)).toEqual(extended);
    await store.lower(record);
    expect(store.find(record.id)).toEqual(record);
    await store.end(ended(record, 'expired', 5000));
    expect(await store.extend(extended, record.expiresAtNs)).toBe(false);
    await store.lower({ ...record, expiresAtNs: 1n });
    expect(store.find(record.id)).toEqual(ended(record, 'expired', 5000));
  });

  test('an end is written as the gate had it, whatever an extension has written before', async () => {
    const record = grantRecord();
    await store.insert(record);
    await store.extend({ ...record, rule: 'other', expiresAtNs: 900_000_000_000n }, record.expiresAtNs);
    await store.end(ended(record, 'endedByServer', 5000));
    expect(store.find(record.id)).toEqual(ended(record, 'endedByServer', 5000));
  });

  describe('what a request was answered', () => {
    const record = grantRecord();
    const retry = { key: 'k', request: 'r', atMs: 1000 };
    const answer = (key = 'k', sinceMs = 0) => store.answerOf(record.server, key, sinceMs);
    const kept = { request: 'r', grant: record.id, expiresAtMs: record.expiresAtMs };

    test('is durable with its grant, over a kill: both or neither', async () => {
      await store.insert(record, retry);
      const twin = grantRecord({ id: 'B' as GrantId, number: 2 });
      await expect(store.insert(twin, { ...retry, key: 'twin' })).rejects.toThrow('UNIQUE');
      // Another process reads what a kill would leave: this one has closed nothing.
      const other = openStore(file, IDENTITIES);
      expect(other.answerOf(record.server, 'k', 0)).toEqual(kept);
      expect(other.find(record.id)).toEqual(record);
      expect(other.answerOf(record.server, 'twin', 0)).toBeUndefined();
      await other.close();
    });

    test("is one server's, and of a time", async () => {
      await store.insert(record, retry);
      expect(store.answerOf('other' as GrantRecord['server'], 'k', 0)).toBeUndefined();
      expect(answer('K')).toBeUndefined();
      expect(answer('k', 999)).toEqual(kept);
      expect(answer('k', 1000)).toBeUndefined();
    });

    test('of an extension is kept only if it was written, and stands beside the first one', async () => {
      await store.insert(record, retry);
      const longer = { ...record, expiresAtMs: 901_000, expiresAtNs: 900_000_000_000n };
      await store.extend(longer, 1n, { ...retry, key: 'k2' });
      expect(answer('k2')).toBeUndefined();
      await store.extend(longer, record.expiresAtNs, { ...retry, key: 'k2' });
      expect(answer('k2')).toEqual({ ...kept, expiresAtMs: 901_000 });
      expect(answer()).toEqual(kept);
    });

    test('is taken back when the end comes down below what it promised', async () => {
      await store.insert(record, retry);
      const longer = { ...record, expiresAtMs: 901_000, expiresAtNs: 900_000_000_000n };
      await store.extend(longer, record.expiresAtNs, { ...retry, key: 'k2' });
      await store.lower(record);
      expect(answer('k2')).toBeUndefined();
      expect(answer()).toEqual(kept);
      await store.end(ended({ ...record, expiresAtMs: 1000 }, 'gateFault', 1000));
      expect(answer()).toBeUndefined();
    });

    test('outlives an end, but for one that says that the gate never had the grant', async () => {
      await store.insert(record, retry);
      await store.end(ended(record, 'endedByServer', 5000));
      expect(answer()).toEqual(kept);
      const next = grantRecord({ id: 'B' as GrantId, number: 2 });
      await store.insert(next, { ...retry, key: 'k2' });
      await store.end(ended(next, 'lostInGate', 5000));
      expect(answer('k2')).toBeUndefined();
    });

    test('gives way to a later one, and is purged by its time, or with its grant', async () => {
      await store.insert(record, retry);
      await store.end(ended(record, 'endedByServer', 5000));
      const next = grantRecord({ id: 'B' as GrantId, number: 2 });
      await store.insert(next, { ...retry, request: 'another', atMs: 2000 });
      expect(answer('k', 1500)).toMatchObject({ request: 'another', grant: 'B' });
      await store.purge(0, 2000);
      expect(answer()).toBeDefined();
      await store.purge(0, 2001);
      expect(answer()).toBeUndefined();
      await store.end(ended(next, 'endedByServer', 5000));
      await store.insert(grantRecord({ id: 'C' as GrantId, number: 3 }), retry);
      await store.purge(5001, 0);
      expect([store.find('A'), store.find('B'), store.find('C')?.id]).toEqual([undefined, undefined, 'C']);
      await store.end(ended(grantRecord({ id: 'C' as GrantId, number: 3 }), 'endedByServer', 6000));
      await store.purge(6001, 0);
      expect(answer()).toBeUndefined();
    });
  });

  test('one live grant an entry', async () => {
    await store.insert(grantRecord());
    const twin = grantRecord({ id: 'B' as GrantId, number: 2, devicePort: 9 });
    await expect(store.insert(twin)).rejects.toThrow('UNIQUE constraint failed: grants.entry');
  });

  test('reads while much else is written: what lives all the while once, in the order in which it came', async () => {
    const records = Array.from({ length: 1200 }, (_, i) =>
      grantRecord({ id: `G${i}` as GrantId, number: i + 1, index: (i * 7) % 1200, devicePort: i + 1 }),
    );
    await Promise.all(records.map((record) => store.insert(record)));
    expect([...store.live()]).toEqual(records);
    const seen: GrantRecord[] = [];
    for (const record of store.live()) {
      seen.push(record);
      if (record.index % 2 === 0) await store.end(ended(record, 'expired', 5000 + (record.index % 3)));
    }
    expect(seen).toEqual(records);
    const since = [...store.endedSince(5001)];
    expect(since.map(({ endedAtMs }) => endedAtMs)).toEqual([...Array(200).fill(5001), ...Array(200).fill(5002)]);
    expect(new Set(since.map(({ id }) => id)).size).toBe(400);
    expect([...store.live()]).toEqual(records.filter(({ index }) => index % 2 === 1));
  });

  test('a number stands for a name for ever, also after a restart', async () => {
    expect(store.idOf('class', 'b')).toBe(1);
    expect(store.idsOf('class', ['a', 'b', 'c', 'a'])).toEqual([2, 1, 3, 2]);
    expect(store.idOf('realm', 'iot')).toBe(1);
    await store.close();
    store = openStore(file, IDENTITIES, worker);
    expect(store.idOf('class', 'a')).toBe(2);
    expect(store.idOf('class', 'd')).toBe(4);
  });

  test('a change of bindings is written whole or not at all', async () => {
    const holder = 'm1@meters.example' as GrantRecord['device'];
    const binding: Binding = {
      ...rangeOf('iot' as GrantRecord['inner']['realm'], address('10.20.0.2')),
      holder,
      target: address('10.20.0.2'),
      source: 'accounting',
      sinceMs: 1,
    };
    const nas = { client: 'pgw-1', id: 'ggsn' };
    const subscriber = {
      imsi: IDENTITIES.hash('imsi', '262010000000001') as Imsi,
      msisdn: undefined,
      externalId: undefined,
    };
    const session: Session = {
      ...{ nas, id: 's1', subscriber, holder },
      ranges: [{ realm: binding.realm, prefix: binding.prefix, target: address('10.20.0.2') }],
      ...{ lastAtMs: 5, heardMs: 6 },
    };
    const plan = (more: Partial<Plan>): Plan => ({ finding: 'applied', change: NO_CHANGE, put: [], over: [], ...more });
    await store.rebind({ losses: [], gains: [binding] }, [plan({ put: [session] })], 10);
    expect([store.bindings(), [...store.sessions()]]).toEqual([[binding], [session]]);
    const losses = [{ binding, cause: 'deviceUnbound' as const }];
    const over = [{ nas, id: 's1', stopped: true }];
    const broken = { ...binding, holder: null as never };
    await expect(store.rebind({ losses, gains: [broken] }, [plan({ over })], 11)).rejects.toThrow('NOT NULL');
    expect([store.bindings(), [...store.sessions()], store.stopped(0)]).toEqual([[binding], [session], []]);

    await store.rebind({ losses, gains: [] }, [plan({ over, restarted: { nas, atMs: 9 } })], 12);
    expect([store.bindings(), [...store.sessions()]]).toEqual([[], []]);
    expect(store.stopped(12)).toEqual([{ nas, id: 's1', atMs: 12 }]);
    expect(store.stopped(13)).toEqual([]);
    expect(store.restarts()).toEqual([{ nas, atMs: 9 }]);
    const { holder: _, ...held } = binding;
    expect(store.endedBindings(holder, 5)).toEqual([{ ...held, untilMs: 12, cause: 'deviceUnbound' }]);
    await store.purge(13, 13);
    expect([store.stopped(0), store.endedBindings(holder, 5)]).toEqual([[], []]);
  });

  test('holds the same transitions as the life cycle, and no other can be written', () => {
    const db = new Database(file);
    const rows = db.prepare('SELECT from_state AS "from", to_state AS "to", cause FROM transitions').all();
    expect(new Set(rows.map((row) => JSON.stringify(row)))).toEqual(
      new Set(TRANSITIONS.map(({ from, to, cause }) => JSON.stringify({ from, to, cause }))),
    );
    db.close();
  });

  test('knows the latest time on record', async () => {
    expect(store.latestMs()).toBe(0);
    await store.insert(grantRecord({ startedAtMs: 1000 }));
    expect(store.latestMs()).toBe(1000);
    const extended = grantRecord({ grantedSeconds: 300, expiresAtMs: 802_000, expiresAtNs: 801_000_000_000n });
    await store.extend(extended, grantRecord().expiresAtNs);
    expect(store.latestMs()).toBe(502_000);
    await store.end(ended(extended, 'expired', 900_000));
    expect(store.latestMs()).toBe(900_000);
  });
});

describe('writes that come together', () => {
  const grants = (count: number) =>
    Array.from({ length: count }, (_, i) =>
      grantRecord({ id: `G${i}` as GrantId, number: i + 1, index: i, devicePort: i + 1 }),
    );

  test('one that cannot be written fails alone', async () => {
    store = openStore(file, IDENTITIES, WORKER);
    const [first, second, third, ...rest] = grants(50) as [GrantRecord, GrantRecord, GrantRecord, ...GrantRecord[]];
    const twin = { ...third, index: second.index };
    const outcomes = await Promise.allSettled([first, second, twin, ...rest].map((record) => store.insert(record)));
    expect(outcomes.map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'rejected',
      ...rest.map(() => 'fulfilled'),
    ]);
    expect(outcomes[2]).toMatchObject({
      reason: { code: 'storeFailed', message: /UNIQUE constraint failed: grants.entry/ },
    });
    expect([...store.live()]).toHaveLength(49);
  });

  test('what was begun before a close is durable after it, and nothing is written later', async () => {
    store = openStore(file, IDENTITIES, WORKER);
    const begun = grants(20).map((record) => store.insert(record));
    const closed = store.close();
    await expect(store.insert(grantRecord())).rejects.toMatchObject({ code: 'storeFailed', message: /is closed/ });
    await Promise.all([...begun, closed]);
    store = openStore(file, IDENTITIES);
    expect([...store.live()]).toHaveLength(20);
  });

  test('a thread that dies fails what it was given, says why, and is replaced', async () => {
    store = openStore(file, IDENTITIES, new URL('data:text/javascript,throw new Error("no disk today")'));
    const failed = await Promise.allSettled(grants(2).map((record) => store.insert(record)));
    expect(failed).toMatchObject(
      [0, 1].map(() => ({ reason: { code: 'storeFailed', cause: { message: 'no disk today' } } })),
    );
    expect([...store.live()]).toEqual([]);
  });
});

describe('a file that is not ours', () => {
  const refusal = (text: string) =>
    expect.objectContaining({ code: 'storeInvalid', message: expect.stringContaining(text) });
  const opening = (path: string) => {
    try {
      return openStore(path, IDENTITIES);
    } catch (fault) {
      expect(fault).toBeInstanceOf(AgentError);
      return fault;
    }
  };

  test('no database', () => {
    writeFileSync(join(folder, 'text'), 'this is not a database, and long enough to show it\n'.repeat(20));
    expect(opening(join(folder, 'text'))).toEqual(refusal('file is not a database'));
  });

  test('a database of another program is left as it is', () => {
    const other = new Database(join(folder, 'other'));
    other.exec('CREATE TABLE theirs (x)');
    other.close();
    expect(opening(join(folder, 'other'))).toEqual(refusal('it is a database of another program'));
  });

  test('a newer version', () => {
    const newer = new Database(join(folder, 'newer'));
    newer.pragma('user_version = 99');
    newer.close();
    expect(opening(join(folder, 'newer'))).toEqual(refusal('its version is 99, and this mtgate reads 6'));
  });

  test('the version before is brought up to date, and keeps what it has', async () => {
    const file = join(folder, 'before');
    const record = grantRecord();
    const first = openStore(file, IDENTITIES);
    await first.insert(record);
    await first.close();
    const old = new Database(file);
    old.exec(`DROP INDEX grants_entry; CREATE UNIQUE INDEX grants_entry ON grants (entry) WHERE state = 'live';
      ALTER TABLE bindings DROP COLUMN unconfirmed; PRAGMA user_version = 5`);
    old.close();
    const store = openStore(file, IDENTITIES);
    await store.hold({ ...record, state: 'held' });
    expect([...store.live()]).toMatchObject([{ id: record.id, state: 'held' }]);
    expect(await store.resume(record)).toBe(true);
    expect(await store.resume(record)).toBe(false);
    expect(store.find(record.id)).toMatchObject({ state: 'live' });
    expect(store.unconfirmed()).toEqual([]);
    await store.close();
  });

  test('a folder that is not there', () => {
    expect(opening(join(folder, 'nowhere', 'mtgate.db'))).toEqual(refusal('directory does not exist'));
  });
});
