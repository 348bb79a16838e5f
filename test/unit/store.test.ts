import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { address } from '../../agent/core/net.ts';
import type { GrantId } from '../../agent/core/words.ts';
import { TRANSITIONS } from '../../agent/grants/lifecycle.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { type GrantStore, openStore } from '../../agent/grants/store.ts';
import { grantRecord } from '../records.ts';

let folder: string;
let file: string;
let store: GrantStore;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-store-'));
  file = join(folder, 'mtgate.db');
  store = openStore(file);
});

afterEach(() => {
  store.close();
  rmSync(folder, { recursive: true });
});

describe('the store', () => {
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
    store.close();
    store = openStore(file);
    expect(store.find(ipv4.id)).toEqual(ipv4);
    expect(store.find(ipv6.id)).toEqual(ipv6);
    expect(store.live()).toHaveLength(2);
    await store.end(ipv4.id, 'endedByServer', 5000);
    expect(store.find(ipv4.id)).toEqual({ ...ipv4, state: 'ended', endCause: 'endedByServer', endedAtMs: 5000 });
    expect(store.endedSince(5000).map(({ id }) => id)).toEqual([ipv4.id]);
    expect(store.endedSince(5001)).toEqual([]);
  });

  test('an end is an end: a second one changes nothing, and nothing re-opens it', async () => {
    const record = grantRecord();
    await store.insert(record);
    await store.end(record.id, 'expired', 5000);
    await store.end(record.id, 'endedByServer', 6000);
    expect(store.find(record.id)).toMatchObject({ endCause: 'expired', endedAtMs: 5000 });
    await expect(store.setEnd(record, 'reopened')).rejects.toThrow('FOREIGN KEY constraint failed');
  });

  test('one live grant a key, and one an entry', async () => {
    await store.insert(grantRecord());
    const twin = grantRecord({ id: 'B' as GrantId, number: 2 });
    await expect(store.insert({ ...twin, index: 8 })).rejects.toThrow('grants.server, grants.device');
    await expect(store.insert({ ...twin, devicePort: 9 })).rejects.toThrow('UNIQUE constraint failed: grants.entry');
  });

  test('says what is due on the clock of this boot', async () => {
    await store.insert(grantRecord({ expiresAtNs: 100n }));
    await store.insert(grantRecord({ id: 'B' as GrantId, number: 2, index: 8, devicePort: 9, expiresAtNs: 200n }));
    expect(store.due('boot-1', 99n)).toEqual([]);
    expect(store.due('boot-1', 150n)).toEqual(['A']);
    expect(store.due('another boot', 900n)).toEqual([]);
  });

  test('a number stands for a name for ever, also after a restart', () => {
    const ids = ['b', 'a', 'c'].map((name) => store.idOf('class', name));
    expect(ids).toEqual([1, 2, 3]);
    expect(store.idOf('realm', 'iot')).toBe(1);
    store.close();
    store = openStore(file);
    expect(store.idOf('class', 'a')).toBe(2);
    expect(store.idOf('class', 'd')).toBe(4);
  });

  test('a change of bindings is written whole or not at all', async () => {
    const inner = { realm: 'iot', address: address('10.20.0.2') } as GrantRecord['inner'];
    const binding = {
      device: 'm1@meters.example' as GrantRecord['device'],
      inner,
      source: 'management',
      sinceMs: 1,
    } as const;
    await store.rebind({ losses: [], gains: [binding] });
    expect(store.bindings()).toEqual([binding]);
    const broken = { ...binding, device: null as never };
    await expect(store.rebind({ losses: [{ ...binding, cause: 'deviceUnbound' }], gains: [broken] })).rejects.toThrow(
      'NOT NULL',
    );
    expect(store.bindings()).toEqual([binding]);
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
    await store.end('A' as GrantId, 'expired', 9000);
    expect(store.latestMs()).toBe(9000);
  });
});

describe('a file that is not ours', () => {
  const refusal = (text: string) =>
    expect.objectContaining({ code: 'storeInvalid', message: expect.stringContaining(text) });
  const opening = (path: string) => {
    try {
      return openStore(path);
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
    expect(opening(join(folder, 'newer'))).toEqual(refusal('its version is 99, and this mtgate reads 2'));
  });

  test('a folder that is not there', () => {
    expect(opening(join(folder, 'nowhere', 'mtgate.db'))).toEqual(refusal('directory does not exist'));
  });
});
