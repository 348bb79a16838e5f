/** What is to be pushed: order, at least once, back-off, bounds, restarts; by a clock that the test holds. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Outcome } from '../../agent/reports/delivery.ts';
import { Outbox, type OutboxStore, sinkId } from '../../agent/reports/outbox.ts';
import { openOutboxStore } from '../../agent/reports/outbox-store.ts';
import { HandClock, KeptLog, seededRandom } from '../clock.ts';
import { IDENTITIES } from '../identities.ts';

const A = sinkId('mtcUser', 'acme', 'siem');
const B = sinkId('server', 'head-end', 'events');
const CAPS = { eventsPerSink: 5, keepMs: 3_600_000, placesMost: 4 };
const OK: Outcome = { ok: true, status: 204 };
const DOWN: Outcome = { ok: false, fault: 'unreachable', why: 'refused' };

let folder: string;
let clock: HandClock;
let log: KeptLog;
const stores: OutboxStore[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-outbox-'));
  clock = new HandClock();
  log = new KeptLog();
});
afterEach(() => {
  for (const store of stores.splice(0)) store.close();
  rmSync(folder, { recursive: true, force: true });
});

function open(caps: Partial<typeof CAPS> = {}): Outbox {
  const store = openOutboxStore(join(folder, 'outbox.db'), log, IDENTITIES);
  stores.push(store);
  return new Outbox(store, clock, seededRandom(7), log, { ...CAPS, ...caps });
}

const event = (id: string) => ({ id, type: 'mtgate.test.v1', data: `{"id":"${id}"}` });
const put = (outbox: Outbox, sink: typeof A, ...ids: readonly string[]) => {
  for (const id of ids) outbox.put(sink, event(id));
  outbox.write();
};
/** The ids of what is taken, each settled so. */
const round = (outbox: Outbox, outcome: Outcome | undefined = OK) =>
  outbox.take().map((attempt) => {
    outbox.settle(attempt, outcome);
    return attempt.event.id;
  });
const state = (outbox: Outbox, sink = A) => outbox.states().find(({ record }) => record.sink === sink);

describe('a queue', () => {
  test('goes out in order, one at a time', () => {
    const outbox = open();
    put(outbox, A, '1', '2', '3');
    const [first, ...others] = outbox.take();
    expect(first?.event).toMatchObject({ id: '1', number: 1, sink: A, madeMs: clock.utcMs });
    expect(others).toEqual([]);
    expect(outbox.take()).toEqual([]); // until the first is settled
    if (first) outbox.settle(first, OK);
    expect([round(outbox), round(outbox), round(outbox)]).toEqual([['2'], ['3'], []]);
    expect(state(outbox)).toMatchObject({ length: 0, record: { delivered: 3, givenUp: 0 } });
  });

  test('comes again later and later, up to five minutes, and never past another', () => {
    const outbox = open({ keepMs: 1e12 });
    put(outbox, A, '1', '2');
    const waits: number[] = [];
    for (let i = 0; i < 14; i++) {
      expect(round(outbox, DOWN)).toEqual(['1']);
      const dueInMs = state(outbox)?.dueInMs ?? 0;
      waits.push(dueInMs);
      clock.pass((dueInMs - 1) / 1000);
      expect(outbox.take()).toEqual([]);
      clock.pass(0.001);
    }
    for (const [i, wait] of waits.entries()) {
      const most = Math.min(1_000 * 2 ** i, 300_000);
      expect(wait).toBeGreaterThanOrEqual(most / 2);
      expect(wait).toBeLessThanOrEqual(most);
    }
    expect(new Set(waits.map((wait) => wait % 1_000)).size).toBeGreaterThan(5); // jitter
    expect([round(outbox), round(outbox)]).toEqual([['1'], ['2']]); // and after a success at once
  });

  test('leaves a receiver alone for as long as it asks, up to an hour', () => {
    const outbox = open({ keepMs: 1e12 });
    put(outbox, A, '1');
    round(outbox, { ok: false, fault: 'busy', why: 'status 429', status: 429, retryAfterMs: 120_000 });
    expect(state(outbox)?.dueInMs).toBe(120_000);
    clock.pass(120);
    round(outbox, { ok: false, fault: 'busy', why: 'status 503', status: 503, retryAfterMs: 9e9 });
    expect(state(outbox)?.dueInMs).toBe(3_600_000);
    clock.pass(3600);
    round(outbox, { ok: false, fault: 'busy', why: 'status 503', status: 503, retryAfterMs: 0 });
    expect(state(outbox)?.dueInMs).toBeGreaterThanOrEqual(2_000); // no sooner than by itself
  });

  test('is not moved by a step of UTC', () => {
    const outbox = open({ keepMs: 1e12 });
    put(outbox, A, '1');
    round(outbox, DOWN);
    clock.utcMs += 86_400_000;
    expect(outbox.take()).toEqual([]);
  });

  test('gives up the oldest when it is full, and the next that is delivered says how many', () => {
    const outbox = open();
    put(outbox, A, '1', '2', '3', '4', '5', '6', '7');
    const [attempt] = outbox.take();
    expect(attempt).toMatchObject({ untold: 2, event: { id: '3', number: 3 } });
    if (attempt) outbox.settle(attempt, DOWN); // not delivered: not told
    clock.pass(1);
    const [again] = outbox.take();
    expect(again?.untold).toBe(2);
    if (again) outbox.settle(again, OK);
    expect(outbox.take()[0]?.untold).toBe(0);
    expect(state(outbox)).toMatchObject({ record: { givenUp: 2, delivered: 1 } });
  });

  test('may give up what is under way; what comes of it then moves nothing', () => {
    const outbox = open();
    put(outbox, A, '1');
    const [attempt] = outbox.take();
    put(outbox, A, '2', '3', '4', '5', '6');
    expect(state(outbox)).toMatchObject({ length: 5, record: { givenUp: 1 } });
    if (attempt) outbox.settle(attempt, OK);
    expect(round(outbox)).toEqual(['2']);
  });

  test('gives up what is too old', () => {
    const outbox = open();
    put(outbox, A, '1', '2');
    clock.pass(1800);
    put(outbox, A, '3');
    clock.pass(1801);
    expect(outbox.take()[0]).toMatchObject({ event: { id: '3' }, untold: 2 });
  });

  test.each([400, 413, 415, 422])('gives up what is refused three times with %i', (status) => {
    const outbox = open();
    put(outbox, A, '1', '2');
    for (let i = 0; i < 3; i++) {
      expect(round(outbox, { ok: false, fault: 'refused', why: '', status })).toEqual(['1']);
      clock.pass(10);
    }
    expect(outbox.take()[0]).toMatchObject({ event: { id: '2' }, untold: 1 });
  });

  test.each([401, 403, 404, 410, 500, 502])('does not give up what is refused with %i', (status) => {
    const outbox = open();
    put(outbox, A, '1', '2');
    for (let i = 0; i < 5; i++) {
      expect(round(outbox, { ok: false, fault: 'refused', why: '', status })).toEqual(['1']);
      clock.pass(60);
    }
  });

  test('gives up what has no destination any more', () => {
    const outbox = open();
    put(outbox, A, '1', '2');
    const [gone] = outbox.take();
    if (gone) outbox.settle(gone, undefined);
    expect(outbox.take()[0]).toMatchObject({ event: { id: '2' }, untold: 1 });
  });
});

describe('sinks', () => {
  test('do not wait for each other', () => {
    const outbox = open();
    put(outbox, A, 'a1', 'a2');
    put(outbox, B, 'b1', 'b2');
    const [slow] = outbox.take(); // a1 and b1; a1 never comes back
    expect(slow?.event.id).toBe('a1');
    outbox.settle(
      { ...(slow as NonNullable<typeof slow>), event: { ...(slow as NonNullable<typeof slow>).event, sink: B } },
      OK,
    );
    expect(round(outbox)).toEqual(['b2']);
  });

  test('that ail have half of the places, however many they are', () => {
    const outbox = open({ placesMost: 4 });
    const ailing = Array.from({ length: 9 }, (_, i) => sinkId('mtcUser', `u${i}`, 'siem'));
    for (const sink of ailing) put(outbox, sink, `${sink} 1`);
    for (let taken = outbox.take(); taken.length > 0; taken = outbox.take())
      for (const attempt of taken) outbox.settle(attempt, DOWN);
    clock.pass(2);
    expect(outbox.take()).toHaveLength(2);
    put(outbox, A, 'a1');
    put(outbox, B, 'b1');
    expect(outbox.take().map(({ event: { id } }) => id)).toEqual(['a1', 'b1']);
  });

  test('that the rule files have no more are forgotten, with what waits', () => {
    const outbox = open();
    put(outbox, A, '1');
    put(outbox, B, '1');
    outbox.retain(new Set([B]));
    outbox.write();
    expect(outbox.states().map(({ record }) => record.sink)).toEqual([B]);
    expect(
      open()
        .states()
        .map(({ record }) => record.sink),
    ).toEqual([B]);
  });
});

describe('a restart', () => {
  test('finds what was put, in order, with its id, and what was under way again', () => {
    const before = open();
    put(before, A, '1', '2');
    put(before, B, '1');
    before.take();
    const outbox = open();
    expect(outbox.take().map(({ event: { sink, id, number } }) => [sink, id, number])).toEqual([
      [A, '1', 1],
      [B, '1', 1],
    ]);
  });

  test('finds nothing that was delivered, and goes on counting', () => {
    const before = open();
    put(before, A, '1', '2', '3', '4', '5', '6');
    round(before);
    before.write();
    const outbox = open();
    expect(state(outbox)).toMatchObject({ record: { delivered: 1, givenUp: 1, lastSuccessMs: clock.utcMs } });
    put(outbox, A, '7');
    expect(outbox.take()[0]?.event).toMatchObject({ id: '3', number: 3 });
    expect(state(outbox)).toMatchObject({ record: { last: 7 } });
  });

  test('tells the gap that was not told before it', () => {
    const before = open();
    put(before, A, '1', '2', '3', '4', '5', '6');
    expect(open().take()[0]).toMatchObject({ untold: 1 });
  });
});

describe('a disk that takes nothing', () => {
  test('lets events go out of memory, in order, and is tried again', () => {
    const outbox = open({ eventsPerSink: 5_000 });
    put(outbox, A, '1');
    const store = stores[0] as OutboxStore;
    const write = store.write;
    Object.assign(store, {
      write: () => {
        throw new Error('no space left');
      },
    });
    put(outbox, A, '2', '3');
    expect(log.of('outboxNotKept')).toHaveLength(1);
    expect([round(outbox), round(outbox)]).toEqual([['1'], ['2']]);
    put(outbox, A, ...Array.from({ length: 1_500 }, (_, i) => `more ${i}`));
    expect(state(outbox)).toMatchObject({ length: 1_000, record: { givenUp: 501 } });
    Object.assign(store, { write });
    outbox.write();
    expect(state(open({ eventsPerSink: 5_000 }))).toMatchObject({ length: 1_000 });
  });
});

test('whatever happens, each sink gets its events in order, none twice without a restart, none lost but those counted', () => {
  const acts = fc.array(
    fc.oneof(
      fc.record({ act: fc.constant('put' as const), sink: fc.constantFrom(A, B) }),
      fc.record({ act: fc.constant('round' as const), ok: fc.boolean() }),
      fc.record({ act: fc.constant('pass' as const), seconds: fc.integer({ min: 1, max: 400 }) }),
      fc.record({ act: fc.constant('restart' as const) }),
    ),
    { maxLength: 60 },
  );
  fc.assert(
    fc.property(acts, (all) => {
      rmSync(join(folder, 'outbox.db'), { force: true });
      for (const store of stores.splice(0)) store.close();
      for (const end of ['', '-wal', '-shm']) rmSync(join(folder, `outbox.db${end}`), { force: true });
      let outbox = open();
      const made = new Map([
        [A, 0],
        [B, 0],
      ]);
      const got = new Map<string, number[]>([
        [A, []],
        [B, []],
      ]);
      for (const one of all) {
        if (one.act === 'put') {
          made.set(one.sink, (made.get(one.sink) ?? 0) + 1);
          put(outbox, one.sink, String(made.get(one.sink)));
        } else if (one.act === 'pass') clock.pass(one.seconds);
        else if (one.act === 'restart') outbox = open();
        else
          for (const attempt of outbox.take()) {
            if (one.ok) got.get(attempt.event.sink)?.push(Number(attempt.event.id));
            outbox.settle(attempt, one.ok ? OK : DOWN);
            outbox.write();
          }
      }
      for (const sink of [A, B]) {
        const numbers = got.get(sink) ?? [];
        expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
        const record = state(outbox, sink)?.record;
        if (made.get(sink)) expect(record?.last).toBe(made.get(sink));
        expect(numbers.length + (record?.givenUp ?? 0) + (state(outbox, sink)?.length ?? 0)).toBe(made.get(sink));
      }
    }),
    { numRuns: 60 },
  );
});
