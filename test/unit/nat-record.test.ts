/** The NAT record without a kernel: what is written, found, given up, answered and told. */
import { ChildProcess } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import Database from 'better-sqlite3';
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { ExternalId, InnerAddress, RealmName } from '../../agent/core/words.ts';
import type { Binding, Holder } from '../../agent/directory/binding.ts';
import { Holders } from '../../agent/nat/holders.ts';
import { bytesOf, type Mapping } from '../../agent/nat/mapping.ts';
import { NatRecord } from '../../agent/nat/nat-record.ts';
import { type Begun, openRecordReader, RecordWriter } from '../../agent/nat/record-store.ts';
import type { RecorderSetup } from '../../agent/nat/recorder-message.ts';
import { framed, syslogMessage } from '../../agent/nat/syslog.ts';
import { answerWho, parseMoment, type WhoAnswer, type WhoGround } from '../../agent/nat/who.ts';
import { KeptLog } from '../clock.ts';

const folder = mkdtempSync(join(tmpdir(), 'mtgate-nat-'));
afterAll(() => rmSync(folder, { recursive: true }));

const LOG = { debug() {}, info() {}, warn() {}, error() {} };
const T0 = Date.parse('2026-01-31T10:00:00Z');
const bytes = (text: string) => bytesOf(address(text));
const EXTERNAL = '203.0.113.9';

function flow(key: number | null, changes: Partial<Mapping> = {}): Begun {
  return {
    ...{ protocol: 17, external: bytes(EXTERNAL), port: 40_000, realm: 'iot', inner: bytes('10.20.0.2') },
    ...{ innerPort: 4000, device: 'm1@meters.example', grant: null, server: null },
    ...{ beganMs: T0, beganFromMs: null, endedMs: null, endedFromMs: null },
    ...changes,
    key,
  };
}

let serial = 0;
let file = '';
let told: [Mapping, boolean][] = [];
const tell = (row: Mapping, ended: boolean) => void told.push([row, ended]);
const open = (bootId = 'boot 1', nowMs = T0) => RecordWriter.open(file, bootId, nowMs, LOG);
const find = (fromMs: number, toMs = fromMs, port = 40_000, at = EXTERNAL) =>
  openRecordReader(file).find(bytes(at), port, fromMs, toMs);
beforeEach(() => {
  serial += 1;
  file = join(folder, `nat-${serial}.db`);
  told = [];
});

describe('the store', () => {
  test('finds who had an endpoint by any moment of its time, over a restart, and tells of beginning and end', () => {
    const writer = open();
    writer.write([flow(1)], T0 + 10, tell);
    writer.close();
    const again = open();
    expect(again.lastAliveMs).toBe(T0 + 10);
    expect([...again.running()]).toEqual([1]);
    again.write([{ key: 1, endedMs: T0 + 5_000 }], T0 + 5_100, tell);
    again.close();
    const { external, inner, ...row } = find(T0 + 100).mappings[0] as Mapping;
    expect(row).toMatchObject({ device: 'm1@meters.example', beganMs: T0, endedMs: T0 + 5_000, innerPort: 4000 });
    expect([[...external], [...inner]]).toEqual([
      [203, 0, 113, 9],
      [10, 20, 0, 2],
    ]);
    for (const atMs of [T0, T0 + 5_000]) expect(find(atMs).mappings).toHaveLength(1);
    for (const atMs of [T0 - 1, T0 + 5_001]) expect(find(atMs).mappings).toEqual([]);
    expect(find(T0 - 1, T0).mappings).toHaveLength(1);
    expect(find(T0, T0, 40_001).mappings).toEqual([]);
    expect(find(T0, T0, 40_000, '203.0.113.10').mappings).toEqual([]);
    expect(told.map(([{ endedMs }, ended]) => [endedMs, ended])).toEqual([
      [null, false],
      [T0 + 5_000, true],
    ]);
  });

  test('takes a flow that is seen twice for one, and one that took the place of another for another', () => {
    const writer = open();
    writer.write([flow(1), flow(1)], T0, tell);
    writer.write([flow(1, { beganMs: T0 + 900 })], T0 + 1_000, tell);
    expect(find(T0 + 2_000).mappings).toHaveLength(1);
    writer.write([flow(1, { innerPort: 4001, beganMs: T0 + 3_000 })], T0 + 3_000, tell);
    expect(find(T0 + 2_000).mappings).toMatchObject([{ innerPort: 4000, endedMs: T0 + 3_000 }]);
    expect(find(T0 + 4_000).mappings).toMatchObject([{ innerPort: 4001, endedMs: null }]);
    writer.write([{ key: 9, endedMs: T0 }], T0 + 4_000, tell); // nobody's end
    writer.close();
  });

  test('corrects a beginning that was heard late by what its end tells', () => {
    const writer = open();
    writer.write([flow(1, { beganMs: T0 + 400, beganFromMs: T0 - 100 })], T0 + 400, tell);
    expect(find(T0).mappings).toMatchObject([{ beganMs: T0 + 400, beganFromMs: T0 - 100 }]);
    writer.write([{ key: 1, endedMs: T0 + 900, beganMs: T0 + 30 }], T0 + 1_000, tell);
    expect(find(T0 + 30).mappings).toMatchObject([{ beganMs: T0 + 30, beganFromMs: null, endedMs: T0 + 900 }]);
    expect(find(T0).mappings).toEqual([]);
    writer.close();
  });

  test('has a grant once, however often it is handed over', () => {
    const writer = open();
    const grant = flow(null, { grant: 'G1', server: 'head-end', endedMs: T0 + 60_000 });
    for (let i = 0; i < 3; i++) writer.write([grant], T0 + 60_000, tell);
    expect(find(T0).mappings).toHaveLength(1);
    expect(told).toHaveLength(1);
    writer.close();
  });

  test('after another boot nothing runs: all of it ended between the last word and now', () => {
    const writer = open('boot 1');
    writer.write([flow(1), flow(2, { port: 40_001 })], T0 + 1_000, tell);
    writer.write([{ key: 2, endedMs: T0 + 2_000 }], T0 + 2_000, tell);
    writer.close();
    const after = open('boot 2', T0 + 90_000);
    expect([...after.running()]).toEqual([]);
    expect(find(T0).mappings).toMatchObject([{ endedFromMs: T0 + 2_000, endedMs: T0 + 90_000 }]);
    expect(find(T0, T0, 40_001).mappings).toMatchObject([{ endedFromMs: null, endedMs: T0 + 2_000 }]);
    after.close();
  });

  test('gives up what has ended for too long, keeps what runs, and says from when on it is whole', () => {
    const writer = open();
    const many = Array.from({ length: 30_000 }, (_, i) =>
      flow(null, { port: 1_024 + i, beganMs: T0 + i, endedMs: T0 + i + 10 }),
    );
    writer.write([flow(7, { port: 1_000 }), ...many], T0 + 60_000, tell);
    expect(find(T0).coveredFromMs).toBe(T0);
    const bounds = { keepMs: 35_000, keepBytes: 2 ** 30 };
    const outcomes: string[] = [];
    do outcomes.push(writer.purge(bounds, T0 + 60_000));
    while (outcomes.at(-1) === 'more');
    expect(outcomes).toEqual(['more', 'done']);
    expect(find(T0).coveredFromMs).toBe(T0 + 25_000);
    expect(find(T0 + 100, T0 + 100, 1_124).mappings).toEqual([]);
    expect(find(T0 + 26_000, T0 + 26_000, 27_024).mappings).toHaveLength(1);
    expect(find(T0 + 26_000, T0 + 26_000, 1_000).mappings).toMatchObject([{ beganMs: T0 }]);
    expect(writer.purge(bounds, T0 + 60_000)).toBe('done');
    writer.close();
  });

  test('gives up the oldest where it takes more room than it may, and says so', () => {
    const writer = open();
    const rows = Array.from({ length: 30_000 }, (_, i) => flow(null, { beganMs: T0 + i, endedMs: T0 + i + 10 }));
    writer.write(rows, T0 + 40_000, tell);
    const bounds = { keepMs: 2 ** 40, keepBytes: 2 ** 20 };
    expect(writer.purge(bounds, T0 + 40_000)).toBe('shortened');
    expect(find(T0 + 100).mappings).toEqual([]);
    // Of what it says that it has it has all.
    const { coveredFromMs } = find(T0);
    expect(coveredFromMs).toBe(T0 + 20_000);
    expect(find(coveredFromMs, T0 + 40_000).mappings).toHaveLength(10_010);
    expect(writer.purge({ ...bounds, keepBytes: 2 ** 30 }, T0 + 40_000)).toBe('done');
    writer.close();
  });

  test('keeps to its size though something ages out each time', () => {
    const writer = open();
    const rows = Array.from({ length: 30_000 }, (_, i) => flow(null, { beganMs: T0 + i, endedMs: T0 + i + 10 }));
    writer.write(rows, T0 + 40_000, tell);
    const bounds = { keepMs: 39_000, keepBytes: 2 ** 20 };
    let outcome: string;
    do outcome = writer.purge(bounds, T0 + 40_000);
    while (outcome === 'more');
    expect(outcome).toBe('shortened');
    expect(find(T0 + 20_000).coveredFromMs).toBeGreaterThan(T0 + 20_000);
    writer.close();
  });

  test('looks for what is too old from the first row on, some at a time, past what runs, and no further than it must', () => {
    const writer = open();
    const many = (count: number, beganMs: number, endedMs: number | null, firstKey: number) =>
      Array.from({ length: count }, (_, i) =>
        flow(endedMs === null ? firstKey + i : null, { port: i % 60_000, beganMs, endedMs }),
      );
    const [old, young, future] = [T0 - 90_000, T0 - 10, T0 + 2 ** 40];
    writer.write(many(20_000, old, null, 1), T0, tell); // they run
    writer.write(many(20_000, future, future, 0), T0, tell); // the clock was wrong
    writer.write(many(100, old, old + 5, 0), T0, tell);
    writer.write(many(40_000, young, young, 0), T0, tell);
    writer.write([flow(null, { port: 61_000, beganMs: old, endedMs: old + 5 })], T0, tell); // told late
    const bounds = { keepMs: 60_000, keepBytes: 2 ** 40 };
    for (let round = 0; round < 2; round++) {
      const outcomes = [1, 2].map(() => writer.purge(bounds, T0));
      while (outcomes.at(-1) === 'more') outcomes.push(writer.purge(bounds, T0));
      expect(outcomes).toEqual(round === 0 ? ['more', 'more', 'more', 'done'] : ['more', 'more', 'done']);
    }
    const db = new Database(file, { readonly: true });
    const count = db.prepare('SELECT count(*) FROM mappings WHERE ended_ms = ?').pluck();
    expect(count.get(old + 5)).toBe(1); // beyond 20,000 that are young
    expect([count.get(future), count.get(young), writer.running().size]).toEqual([20_000, 40_000, 20_000]);
    db.close();
    expect(writer.purge(bounds, T0 + 120_000)).toBe('more'); // by then its neighbours are too old
    while (writer.purge(bounds, T0 + 120_000) !== 'done');
    expect(find(old, old, 61_000).mappings).toEqual([]);
    writer.close();
  });

  test('gives up what has ended among many that run', () => {
    const writer = open();
    const runs = Array.from({ length: 50_000 }, (_, i) => flow(i + 1, { port: i, beganMs: T0 + i }));
    writer.write(runs, T0 + 60_000, tell);
    const ended = Array.from({ length: 50_000 }, (_, i) =>
      flow(null, { port: 61_000, beganMs: T0 + 60_000 + i, endedMs: T0 + 60_001 + i }),
    );
    writer.write(ended, T0 + 120_000, tell);
    expect(writer.purge({ keepMs: 2 ** 40, keepBytes: 2 ** 20 }, T0 + 120_000)).toBe('shortened');
    expect(writer.running().size).toBe(50_000);
    expect(find(T0 + 61_000, T0 + 61_000, 61_000).mappings).toEqual([]);
    writer.close();
  });

  test('is not read whole when it is opened; damage is found where it is met, and that file put aside', () => {
    const writer = open();
    const rows = Array.from({ length: 1_000 }, (_, i) => flow(i + 1, { port: i }));
    writer.write(rows, T0, tell);
    writer.close();
    writeFileSync(file, readFileSync(file).fill(0xaa, 10 * 4_096)); // behind the tables' roots
    const log = new KeptLog();
    const again = RecordWriter.open(file, 'boot 1', T0, log);
    expect(again.isOpen).toBe(true);
    expect(() => again.running()).toThrow(expect.objectContaining({ code: 'natRecordNotWritten' }));
    expect(again.isOpen).toBe(false);
    expect(log.of('natRecordUnusable')).toMatchObject([{ file, putAside: `${file}.unusable` }]);
    const anew = open();
    expect(anew.lastAliveMs).toBeUndefined();
    anew.close();
  });

  test('is looked through in all parts of its index', () => {
    open().close();
    const db = new Database(file);
    db.exec(
      "INSERT INTO mappings VALUES (131070, 6, x'01', 1, '', x'01', 1, NULL, NULL, NULL, 0, NULL, 0, NULL, NULL)",
    );
    db.close();
    const writer = open();
    writer.write(
      Array.from({ length: 5 }, (_, i) => flow(i)),
      T0,
      tell,
    );
    writer.close();
    expect(find(T0).mappings).toHaveLength(5);
  });

  test('is found by the index, whatever it holds', () => {
    open().close();
    const db = new Database(file);
    const plan = db
      .prepare('EXPLAIN QUERY PLAN SELECT * FROM mappings WHERE number >> 17 = 3 AND external = ? AND port = ?')
      .all(bytes(EXTERNAL), 1) as { detail: string }[];
    db.close();
    expect(plan.map(({ detail }) => detail).join()).toMatch(
      /USING INDEX mappings_external \(<expr>=\? AND external=\? AND port=\?\)/,
    );
  });

  test('a file that is none is put aside, and the record goes on in a new one', () => {
    writeFileSync(file, 'no database at all, and long enough to be looked at'.repeat(100));
    const events: string[] = [];
    const writer = RecordWriter.open(file, 'boot 1', T0, { ...LOG, error: (_, event) => void events.push(event) });
    writer.write([flow(1)], T0, tell);
    writer.close();
    expect(events).toEqual(['natRecordUnusable']);
    expect(find(T0).mappings).toHaveLength(1);
  });

  test('before anything was recorded there is nothing to find', () => {
    expect(find(T0)).toEqual({ mappings: [], gaps: [], coveredFromMs: Number.MAX_SAFE_INTEGER, writtenUntilMs: 0 });
  });
});

describe('the watch over the process', () => {
  afterEach(() => {
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  test('a long silence while it opens its file is no death; one that ends never is', async () => {
    const program = join(folder, 'silent.mjs');
    writeFileSync(
      program,
      `process.on('message', () => {});
      process.send({ kind: 'opening' });
      process.send({ kind: 'log', level: 'warn', event: 'natEventsLost', fields: {} });`,
    );
    const kill = vi.spyOn(ChildProcess.prototype, 'kill');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const told = new EventEmitter();
    const log = { ...LOG, warn: (_: object, event: string) => void told.emit(event) };
    const parts = { setup: {} as RecorderSetup, holders: new Holders([], () => undefined), endedGrants: () => [], log };
    const record = new NatRecord(parts, pathToFileURL(program));
    const heard = once(told, 'natEventsLost');
    const died = once(told, 'natRecorderDied');
    record.start();
    await heard;
    vi.advanceTimersByTime(90_000);
    expect(kill).not.toHaveBeenCalled();
    vi.advanceTimersByTime(600_000);
    expect(kill).toHaveBeenCalledWith('SIGKILL');
    await died;
    expect(record.reading()).toMatchObject({ recording: false, deaths: 1 });
    await record.stop();
  });
});

describe('who had it', () => {
  const pools = { grants: [prefix('203.0.113.0/29')], egress: [prefix('203.0.113.8/29'), prefix('2001:db8:e::/64')] };
  const nowMs = T0 + 3_600_000;
  function asked(
    rows: readonly Mapping[],
    changes: Partial<
      WhoGround & {
        gaps: { fromMs: number; toMs: number; why: string }[];
        coveredFromMs: number;
        writtenUntilMs: number;
      }
    > = {},
  ) {
    const { gaps = [], coveredFromMs = T0 - 1_000, writtenUntilMs = nowMs, ...rest } = changes;
    return {
      ...{ pools, own: [], holder: () => undefined, nowMs, recording: true, live: () => [] },
      find: () => ({ mappings: rows, gaps, coveredFromMs, writtenUntilMs }),
      ...rest,
    } satisfies WhoGround;
  }
  const at = (fromMs: number, toMs = fromMs, protocol?: number) => ({
    ...{ address: address(EXTERNAL), port: 40_000, fromMs, toMs },
    ...(protocol !== undefined && { protocol }),
  });

  test('one who had it in all of the time is certain; one of whom that is not known is not', () => {
    const sure = flow(null, { endedMs: T0 + 9_000 });
    const perhaps = flow(null, { device: 'm2@meters.example', beganFromMs: T0 - 500, beganMs: T0 + 4_000 });
    const answer = answerWho(at(T0 + 100, T0 + 1_099), asked([perhaps, sure]));
    expect(answer).toMatchObject({
      candidates: [
        { device: 'm1@meters.example', certain: true },
        { device: 'm2@meters.example', certain: false },
      ],
      notes: [],
    });
    const ended = flow(null, { endedFromMs: T0 + 1_000, endedMs: T0 + 9_000 });
    expect(answerWho(at(T0 + 500), asked([ended]))).toMatchObject({ candidates: [{ certain: true }] });
    expect(answerWho(at(T0 + 5_000), asked([ended]))).toMatchObject({ candidates: [{ certain: false }] });
  });

  test('several candidates are all listed, and the protocol tells them apart', () => {
    const rows = [flow(null), flow(null, { protocol: 6, device: 'm2@meters.example' })];
    expect(answerWho(at(T0), asked(rows))).toMatchObject({ candidates: [{}, {}] });
    expect(answerWho(at(T0, T0, 6), asked(rows))).toMatchObject({ candidates: [{ device: 'm2@meters.example' }] });
  });

  test('a live grant counts, and one that is on record as well counts once', () => {
    const grant = flow(null, { grant: 'G1', server: 's' });
    expect(answerWho(at(T0 + 1), asked([], { live: () => [grant] }))).toMatchObject({ candidates: [{ grant: 'G1' }] });
    expect(answerWho(at(T0 - 1), asked([], { live: () => [grant] }))).toMatchObject({ candidates: [] });
    const ended = { ...grant, endedMs: T0 + 5 };
    expect(answerWho(at(T0 + 1), asked([ended], { live: () => [grant] }))).toMatchObject({
      candidates: [{ endedMs: T0 + 5 }],
    });
  });

  test.each([
    [
      'notInPool',
      { ...at(T0), address: address('203.0.113.99') },
      /203\.0\.113\.99 is in no pool of this gateway: 203\.0\.113\.0\/29, /,
    ],
    ['notInPool', { ...at(T0), address: address('2001:db8:f::1') }, /no pool/],
    ['timeInFuture', at(nowMs + 60_000), /2026-01-31T11:01:00\.000Z is to come/],
    [
      'timeNotCovered',
      at(T0 - 60_000),
      /the record begins at 2026-01-31T09:59:59\.000Z; 2026-01-31T09:59:00\.000Z is before that/,
    ],
  ])('%s where it cannot be said', (refused, question, why) => {
    expect(answerWho(question, asked([]))).toEqual({ refused, why: expect.stringMatching(why) });
  });

  test("of a device's own address: its grants are found, and who holds it is said", () => {
    const own = [prefix('198.18.0.0/24')];
    const of = { ...at(T0 + 500), address: address('198.18.0.9') };
    const held = (sinceMs: number) => asked([], { own, holder: () => ({ device: 'm2@meters.example', sinceMs }) });
    const notesOf = (ground: Parameters<typeof answerWho>[1]) => (answerWho(of, ground) as WhoAnswer).notes[0];
    expect(notesOf(held(T0))).toMatch(/own address.*m2@meters\.example holds it since .*, and so did at that time/);
    expect(notesOf(held(T0 + 501))).toMatch(/m2@meters\.example holds it since .*; who held it at that time/);
    expect(notesOf(asked([], { own }))).toMatch(/nobody holds it now/);
    // Of a server with nat: none it may be any inner address.
    const granted = flow(null, { endedMs: T0 + 9_000 });
    expect(answerWho(of, asked([granted]))).toMatchObject({ candidates: [{ device: granted.device }] });
    expect(answerWho(of, asked([]))).toMatchObject({ refused: 'notInPool' });
  });

  test('what is not known is said', () => {
    const gaps = [{ fromMs: T0, toMs: T0 + 4_000, why: 'overrun' }];
    const notes = (ground: Partial<Parameters<typeof asked>[1]> = {}, question = at(T0 + 1)) => {
      const answer = answerWho(question, asked([], ground));
      return 'notes' in answer ? answer.notes.join() : answer.refused;
    };
    expect(notes()).toBe('');
    expect(notes({ gaps })).toMatch(
      /from 2026-01-31T10:00:00\.000Z to 2026-01-31T10:00:04\.000Z not all was heard \(overrun\)/,
    );
    expect(notes({}, at(nowMs))).toMatch(/ask again in some seconds/);
    expect(notes({ writtenUntilMs: nowMs - 5_000 }, at(nowMs))).toMatch(/ask again in some seconds/);
    const stuck = notes({ writtenUntilMs: T0 }, at(T0 + 60_000));
    expect(stuck).toMatch(/since 2026-01-31T10:00:00\.000Z nothing could be written/);
    expect(stuck).not.toMatch(/ask again/);
    expect(notes({ writtenUntilMs: T0 }, at(T0))).toBe('');
    expect(notes({ recording: false, writtenUntilMs: T0 }, at(nowMs))).toMatch(
      /since 2026-01-31T10:00:00\.000Z nobody records/,
    );
    expect(notes({}, at(T0 - 2_000, T0))).toMatch(/the record is whole from 2026-01-31T09:59:59\.000Z on/);
  });

  test.each([
    ['2026-01-31T10:15:32Z', '2026-01-31T10:15:32.000Z', 999],
    ['2026-01-31 11:15:32+01:00', '2026-01-31T10:15:32.000Z', 999],
    ['2026-01-31t10:15:32.25z', '2026-01-31T10:15:32.250Z', 0],
    ['1769854532', '2026-01-31T10:15:32.000Z', 999],
    ['1769854532.500', '2026-01-31T10:15:32.500Z', 0],
    ['now', new Date(nowMs).toISOString(), 0],
  ])('%s is a time', (text, from, length) => {
    const fromMs = Date.parse(from);
    expect(parseMoment(text, nowMs)).toEqual({ fromMs, toMs: fromMs + length });
  });

  test.each([
    ...['2026-01-31T10:15:32', '2026-01-31', '2026-02-31T25:00:00Z', '10:15', 'yesterday', '17698', ''],
    ...['2026-11-31T00:56:30Z', '2026-02-29 10:15:32+01:00', '2026-01-31T24:00:00Z', '2026-00-10T10:15:32Z'],
  ])('%j is none', (text) => {
    expect(parseMoment(text, nowMs)).toBeUndefined();
  });
});

describe('syslog', () => {
  test('a message says all of it by name, and what others named cannot break it', () => {
    const row = flow(null, { device: 'we"ird]\\@x.example', beganFromMs: 0 });
    expect(syslogMessage('gw 1', row, false)).toBe(
      '<134>1 2026-01-31T10:00:00.000Z gw?1 mtgate - NATBEGIN [mapping@32473 protocol="udp" external="203.0.113.9" port="40000" realm="iot" inner="10.20.0.2" innerPort="4000" device="we\\"ird\\]\\\\@x.example" began="2026-01-31T10:00:00.000Z" beganFrom="1970-01-01T00:00:00.000Z"]',
    );
    const grant = flow(null, {
      external: bytes('2001:db8:a::1'),
      grant: 'G1',
      server: 'head-end',
      device: null,
      endedMs: T0 + 1_500,
    });
    expect(syslogMessage('gw', grant, true)).toBe(
      '<134>1 2026-01-31T10:00:01.500Z gw mtgate - NATEND [mapping@32473 protocol="udp" external="2001:db8:a::1" port="40000" realm="iot" inner="10.20.0.2" innerPort="4000" grant="G1" server="head-end" began="2026-01-31T10:00:00.000Z" ended="2026-01-31T10:00:01.500Z"]',
    );
    expect(framed('äb')).toBe('3 äb');
  });
});

describe('who held an inner address when a flow began', () => {
  const realm = 'iot' as RealmName;
  const realms = [{ realm, prefixes: [prefix('10.20.0.0/16'), prefix('fd00:20::/48')] }];
  const binding = (holder: string, text: string, sinceMs: number): Binding => ({
    realm,
    prefix: prefix(text),
    holder: holder as Holder,
    source: 'management',
    sinceMs,
  });
  const m1 = 'm1@meters.example' as ExternalId;
  const m2 = 'm2@meters.example' as ExternalId;

  test('is who held it then, though another holds it now; a subscriber without a registry is nobody by name', () => {
    let now: Binding | undefined = binding(m1, '10.20.0.2/32', T0);
    const holders = new Holders(realms, ({ address: { text } }: InnerAddress) =>
      text === '10.20.0.2' ? now : undefined,
    );
    const at = (text: string, ms: number, toMs = ms) => holders.at(address(text), ms, toMs);
    expect(at('10.20.0.2', T0 + 1)).toEqual({ realm, device: m1 });
    expect(at('10.20.0.3', T0 + 1)).toEqual({ realm, device: null });
    expect(at('10.99.0.3', T0 + 1)).toEqual({ realm: '', device: null });
    holders.lost([now], T0 + 1_000);
    now = binding(m2, '10.20.0.2/32', T0 + 1_001);
    expect(at('10.20.0.2', T0 + 999)).toEqual({ realm, device: m1 });
    expect(at('10.20.0.2', T0 + 1_002)).toEqual({ realm, device: m2 });
    // Of a flow that began before or after, nobody can tell.
    expect(at('10.20.0.2', T0 + 999, T0 + 1_002)).toEqual({ realm, device: null, ifRuns: m2 });
    expect(at('10.20.0.2', T0 + 900, T0 + 999)).toEqual({ realm, device: m1 });
    holders.lost([now], T0 + 2_000);
    expect(at('10.20.0.2', T0 + 500)).toEqual({ realm, device: null }); // of so long ago the one before is forgotten
    now = binding('imsi:262011234567890', '10.20.0.2/32', T0 + 2_001);
    expect(at('10.20.0.2', T0 + 1_500)).toEqual({ realm, device: m2 });
    expect(at('10.20.0.2', T0 + 2_500)).toEqual({ realm, device: null });
    // Nobody's in between, and of a time that is not remembered nobody can tell.
    now = binding(m1, '10.20.0.2/32', T0 + 3_000);
    expect(at('10.20.0.2', T0 + 2_500)).toEqual({ realm, device: null });
    expect(at('10.20.0.2', T0 + 2_500, T0 + 3_000)).toEqual({ realm, device: m1 });
    // Remembered for a minute: longer than anybody takes to ask.
    holders.lost([], T0 + 70_000);
    now = undefined;
    expect(at('10.20.0.2', T0 + 1_500)).toEqual({ realm, device: null });
  });

  test('is who held the prefix that it lies in', () => {
    const holders = new Holders(realms, () => undefined);
    holders.lost([binding(m1, 'fd00:20:0:1::/64', T0)], T0 + 10);
    expect(holders.at(address('fd00:20:0:1:a::9'), T0 + 5, T0 + 5)).toEqual({ realm, device: m1 });
    expect(holders.at(address('fd00:20:0:2::9'), T0 + 5, T0 + 5)).toEqual({ realm, device: null });
  });
});
