/**
 * What a power cut leaves. kill -9 keeps the page cache, so it is played: a
 * run of the real store is recorded, with how long its log was when each group
 * of writes was acknowledged; then the log is cut at every frame and within
 * frames, with nothing, with rubbish or with the frames of an earlier round of
 * the log behind the cut, and opened again.
 */

import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import type { ExternalId, GrantId, RealmName } from '../../agent/core/words.ts';
import { rangeOf } from '../../agent/directory/binding.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { type GrantStore, openStore } from '../../agent/grants/store.ts';
import { seededRandom } from '../clock.ts';
import { entriesOf } from '../entries.ts';
import { ask, HEAD_END, RULES, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { grantRecord } from '../records.ts';

const WORKER = new URL('../../dist/grants/store-worker.js', import.meta.url);
/** In memory: what is played is a disk that forgets, not one that is slow. */
const SCRATCH = '/dev/shm/mtgate-power-';

/** What the store writes beside its database. */
const NOTE = 'last-used.json';
const LOG_HEADER = 32;
const FRAME_HEADER = 24;
const SALT_AT = 16;
const PAGE = 4096;
const FRAME = FRAME_HEADER + PAGE;

/** In the database before anything is cut. */
const FIRST = grantRecord({ id: 'first' as GrantId, number: 999_999, index: 999_999, devicePort: 60_000 });
const GROUPS = 16;
const LARGEST_GROUP = 12;
/** Hundreds of files are made and opened. */
const PATIENCE_MS = 60_000;

type Act = (store: GrantStore) => Promise<unknown>;

/** Between two checkpoints: the database as it lay there, the log before and after, and what was acknowledged when. */
interface Phase {
  readonly name: string;
  readonly database: Buffer;
  readonly logBefore: Buffer;
  readonly log: Buffer;
  readonly acknowledged: readonly { readonly transactions: number; readonly length: number; readonly noted: string }[];
}

let folder: string;
let phases: readonly Phase[];
/** What the database holds after so many transactions, and how many those are. */
let states: Map<string, number>;

beforeAll(async () => {
  folder = mkdtempSync(SCRATCH);
  const groups = Array.from({ length: GROUPS }, groupsOf(seededRandom(5)));
  states = await replayed(groups);
  phases = await recorded(groups);
});

afterAll(() => rmSync(folder, { recursive: true }));

describe('the log cut by a power loss', () => {
  test('was long, and was begun anew over an earlier one', () => {
    expect(phases.map(({ name }) => name)).toEqual(['from an empty log', 'over an earlier log']);
    for (const { log } of phases) expect(framesOf(log)).toBeGreaterThan(50);
    expect(states.size).toBeGreaterThan(GROUPS);
  });

  test.each([
    ['every frame', 1, 'nothing'],
    ['every other frame', 2, 'zeros'],
    ['every other frame', 2, 'rubbish'],
  ] as const)(
    'at %s (a step of %i), and %s behind it',
    async (_, step, behind) => {
      for (const phase of phases) {
        for (let frames = 0; frames <= framesOf(phase.log); frames += step) {
          const length = LOG_HEADER + frames * FRAME;
          await opensWith(
            phase,
            phase.database,
            [phase.log.subarray(0, length), tailOf(behind, phase, length)],
            length,
          );
        }
      }
    },
    PATIENCE_MS,
  );

  test(
    'within frames: in their heads, in their pages, one byte short',
    async () => {
      for (const phase of phases) {
        for (let frames = 0; frames < framesOf(phase.log); frames += 5) {
          for (const more of [FRAME_HEADER - 4, FRAME_HEADER + 100 + frames, FRAME - 1]) {
            const length = LOG_HEADER + frames * FRAME + more;
            const left = [phase.log.subarray(0, length), tailOf('nothing', phase, length)];
            await opensWith(phase, phase.database, left, length);
          }
        }
        await opensWith(phase, phase.database, [phase.log.subarray(0, 20)], 20);
      }
    },
    PATIENCE_MS,
  );

  test(
    'in a checkpoint: some pages are in the database, and others are not',
    async () => {
      const random = seededRandom(6);
      for (const phase of phases) {
        const { database, log } = phase;
        const file = join(folder, 'whole.db');
        writeFileSync(file, database);
        writeFileSync(`${file}-wal`, log);
        new Database(file).close(); // the last to close it brings the log in
        const after = readFileSync(file);
        for (let turn = 0; turn < 20; turn++) {
          const torn = Buffer.concat([database, after.subarray(database.length)]);
          for (let at = 0; at < after.length; at += PAGE) {
            if (random.integer(2) === 0) after.copy(torn, at, at, at + PAGE);
          }
          await opensWith(phase, torn, [log], log.length);
        }
      }
    },
    PATIENCE_MS,
  );
});

test('started after the reboot: what was acknowledged is open again, for no longer than it was, and nothing else', async () => {
  const file = join(folder, 'gateway.db');
  rmSync(join(folder, NOTE), { force: true });
  const gateway = new TestGateway(openStore(file, IDENTITIES, WORKER));
  await gateway.start(RULES.replace('grantsPerDevice: 3, requestsPerMinute: 10', 'grantsPerDevice: 9'));
  const database = readFileSync(file);
  const moments: { length: number; live: Map<string, number> }[] = [];
  const random = seededRandom(7);
  for (let turn = 0; turn < 12; turn++) {
    const live = [...gateway.grants.live.all()];
    await Promise.all([
      ...[0, 1].map((i) => gateway.grants.request(HEAD_END, ask({ devicePort: 7000 + ((turn * 2 + i) % 11) }))),
      ...live.slice(0, 2).map((one) => gateway.extensions.extend(HEAD_END, one.id, 700 + random.integer(200))),
      ...live.slice(4).map((one) => gateway.grants.end(one, 'endedByServer')),
    ]);
    gateway.clock.pass(1);
    const left = [...gateway.grants.live.all()].map(({ id, expiresAtMs }) => [id, expiresAtMs] as const);
    moments.push({ length: LOG_HEADER + framesOf(readFileSync(`${file}-wal`)) * FRAME, live: new Map(left) });
  }
  const log = readFileSync(`${file}-wal`);
  await gateway.store.close();
  expect(moments.at(-1)?.live.size).toBeGreaterThan(2);

  for (const { length, live } of moments) {
    writeFileSync(join(folder, 'cut.db'), database);
    writeFileSync(join(folder, 'cut.db-wal'), log.subarray(0, length));
    rmSync(join(folder, 'cut.db-shm'), { force: true });
    rmSync(join(folder, NOTE), { force: true });
    const after = new TestGateway(openStore(join(folder, 'cut.db'), IDENTITIES));
    Object.assign(after.clock, { utcMs: gateway.clock.utcMs });
    after.reboot(60);
    await after.start();
    const open = entriesOf(after.memory).filter(({ endNs }) => endNs > after.clock.monotonicNs());
    const again = [...after.grants.live.all()];
    expect(new Map(again.map(({ id, expiresAtMs }) => [id, expiresAtMs]))).toEqual(live);
    expect(open.map(({ mapping }) => mapping.number).sort()).toEqual(again.map(({ number }) => number).sort());
    for (const { id, index } of again) {
      const leftNs = (after.memory.entry(index)?.endNs ?? 0n) - after.clock.monotonicNs();
      expect(Number(leftNs) / 1e6).toBeLessThanOrEqual((live.get(id) ?? 0) - after.clock.nowMs());
    }
    await after.store.close();
  }
});

/** Opens what is left by the real store, and holds it against what was acknowledged. */
async function opensWith(phase: Phase, database: Buffer, log: readonly Buffer[], length: number): Promise<void> {
  const file = join(folder, 'cut.db');
  for (const end of ['', '-wal', '-shm']) rmSync(`${file}${end}`, { force: true });
  writeFileSync(file, database);
  writeFileSync(`${file}-wal`, Buffer.concat(log));
  const promised = phase.acknowledged.findLast((one) => one.length <= length);
  writeFileSync(join(folder, NOTE), promised?.noted ?? '');
  const store = openStore(file, IDENTITIES);
  expect(store.isOlder, 'it is behind what was noted beside it').toBe(false);
  await store.close();
  const db = new Database(file);
  const sound = db.pragma('integrity_check', { simple: true });
  const transactions = states.get(contentOf(db));
  db.close();
  const what = `${phase.name}, cut at ${length}`;
  expect(sound, what).toBe('ok');
  expect(transactions, `${what}: a state that never was`).toBeDefined();
  expect(transactions, what).toBeGreaterThanOrEqual(promised?.transactions ?? 0);
}

function tailOf(behind: 'nothing' | 'zeros' | 'rubbish', { logBefore }: Phase, length: number): Buffer {
  if (behind === 'zeros') return Buffer.alloc(3 * FRAME);
  if (behind === 'rubbish') return Buffer.from(seededRandom(length).bytes(2 * FRAME + 77));
  return logBefore.subarray(length); // what lay there before is there still
}

/** The frames that belong to the log's present round: those with the salt of its head. */
function framesOf(log: Buffer): number {
  const salt = log.subarray(SALT_AT, SALT_AT + 8);
  let frames = 0;
  for (let at = LOG_HEADER; at + FRAME <= log.length; at += FRAME) {
    if (!log.subarray(at + 8, at + 16).equals(salt)) break;
    frames += 1;
  }
  return frames;
}

function contentOf(db: Database.Database): string {
  const rows = ['grants', 'answers', 'ids', 'bindings'].map((table) =>
    db.prepare(`SELECT * FROM ${table} ORDER BY 1, 2`).raw().all(),
  );
  return JSON.stringify(rows, (_, value) => (typeof value === 'bigint' ? String(value) : value));
}

/** A group of writes that come at once: the first is committed alone, the others together. */
function groupsOf(random: ReturnType<typeof seededRandom>) {
  const live: GrantRecord[] = [];
  let serial = 0;
  const act = (): Act => {
    const dice = random.integer(10);
    const at = random.integer(live.length || 1);
    const record = live[at];
    if (dice < 5 || !record) {
      serial += 1;
      const id = `G${String(serial).padStart(4, '0')}` as GrantId;
      const fresh = grantRecord({ id, number: serial, index: serial, devicePort: serial });
      const retry = random.integer(2) === 0 ? { key: `k${serial}`, request: 'r', atMs: serial } : undefined;
      // Not in this group: of what goes together nothing may rest on another.
      queueMicrotask(() => live.push(fresh));
      return (store) => store.insert(fresh, retry);
    }
    live.splice(at, 1);
    const longer = { ...record, expiresAtMs: record.expiresAtMs + 1000, expiresAtNs: record.expiresAtNs + 1_000n };
    if (dice < 7) {
      queueMicrotask(() => live.push(longer));
      return (store) => store.extend(longer, record.expiresAtNs);
    }
    if (dice < 9)
      return (store) => store.end({ ...record, state: 'ended', endCause: 'endedByServer', endedAtMs: serial });
    const device = `d${serial}@meters.example` as ExternalId;
    const range = rangeOf('iot' as RealmName, address(`10.20.1.${serial % 250}`));
    const gain = { ...range, holder: device, target: range.prefix.address, source: 'management', sinceMs: 1 } as const;
    return (store) => store.rebind({ losses: [], gains: [gain] }, [], serial);
  };
  return (_: unknown, group: number): Act[] => {
    if (group % 8 === 7) return [async (store) => store.idOf('class', `server-${group}`)];
    return Array.from({ length: 1 + random.integer(LARGEST_GROUP) }, act);
  };
}

/** Does the same in memory, one transaction after the other, and notes what is there after each. */
async function replayed(groups: readonly Act[][]): Promise<Map<string, number>> {
  const file = join(folder, 'replayed.db');
  const store = openStore(file, IDENTITIES);
  const reader = new Database(file, { readonly: true });
  await store.insert(FIRST);
  const found = new Map([[contentOf(reader), 0]]);
  for (const [i, [first, ...others]] of groups.entries()) {
    await first?.(store);
    if (others.length > 0) found.set(contentOf(reader), 2 * i + 1);
    for (const one of others) await one(store);
    found.set(contentOf(reader), 2 * i + 2);
  }
  reader.close();
  await store.close();
  rmSync(join(folder, NOTE)); // of this one
  return found;
}

async function recorded(groups: readonly Act[][]): Promise<Phase[]> {
  const file = join(folder, 'run.db');
  const store = openStore(file, IDENTITIES, WORKER);
  await store.insert(FIRST);
  const control = new Database(file);
  const log = () => readFileSync(`${file}-wal`);
  const kept: Phase[] = [];
  for (const [name, checkpoint, from, to] of [
    ['from an empty log', 'TRUNCATE', 0, GROUPS / 2],
    ['over an earlier log', 'PASSIVE', GROUPS / 2, GROUPS],
  ] as const) {
    control.pragma(`wal_checkpoint(${checkpoint})`);
    copyFileSync(file, join(folder, 'checkpointed.db'));
    const logBefore = log();
    const noted = () => readFileSync(join(folder, NOTE), 'utf8');
    await store.note();
    const acknowledged = [{ transactions: 2 * from, length: 0, noted: noted() }];
    for (let group = from; group < to; group++) {
      await Promise.all((groups[group] ?? []).map((act) => act(store)));
      const length = LOG_HEADER + framesOf(log()) * FRAME;
      await store.note();
      acknowledged.push({ transactions: 2 * group + 2, length, noted: noted() });
    }
    const all = log();
    kept.push({
      name,
      database: readFileSync(join(folder, 'checkpointed.db')),
      logBefore,
      log: all.subarray(0, LOG_HEADER + framesOf(all) * FRAME),
      acknowledged,
    });
  }
  control.close();
  await store.close();
  return kept;
}
