/** When a sink is told of reports: the first at once, the same again not too often, and a flood not as one. */
import { beforeEach, expect, test } from 'vitest';
import type { MtcUserName } from '../../agent/core/words.ts';
import { type DenialFacts, Denials } from '../../agent/inspector/denials.ts';
import { type NewEvent, Outbox, type SinkId, sinkId } from '../../agent/reports/outbox.ts';
import { openOutboxStore } from '../../agent/reports/outbox-store.ts';
import { ReportPushes } from '../../agent/reports/report-pushes.ts';
import { HandClock, KeptLog, seededRandom } from '../clock.ts';
import { IDENTITIES } from '../identities.ts';

const ACME = 'acme' as MtcUserName;
const SIEM = sinkId('mtcUser', 'acme', 'siem');
const READERS = [
  { name: ACME, sinks: [{ name: 'siem', url: 'https://sink.acme.example/', events: ['denials' as const] }] },
];
const CAPS = { eventsPerSink: 1_000, keepMs: 1e9, placesMost: 4 };

let clock: HandClock;
let denials: Denials;
let outbox: Outbox;
let told: { readonly count: number; readonly source: { readonly address: string } }[][];
let pushes: ReportPushes;

beforeEach(() => {
  clock = new HandClock();
  let ids = 0;
  denials = new Denials(clock, () => `row-${++ids}`);
  outbox = new Outbox(
    openOutboxStore(':memory:', new KeptLog(), IDENTITIES),
    clock,
    seededRandom(1),
    new KeptLog(),
    CAPS,
  );
  told = [];
  pushes = begin();
});

/** A start of the agent: what the outbox and the ledger have, they keep. */
function begin(): ReportPushes {
  const send = (_sink: SinkId, { data }: NewEvent) => void told.push(JSON.parse(data).reports);
  const spaces = { isInner: () => false, isExternal: () => true };
  const newId = () => 'event';
  const begun = new ReportPushes({ denials, outbox, send, spaces, body: (one) => one, newId, clock, everySeconds: 60 });
  begun.serve(READERS);
  return begun;
}

const knock = (changes: Partial<DenialFacts> = {}) =>
  denials.add({
    ...{ kind: 'packet', reason: 'wrongSource', source: '192.0.2.66', target: 'udp 203.0.113.1:20000' },
    ...{ mtcUser: ACME, device: 'm1@meters.example', ...changes },
  });
const pass = (seconds: number) => {
  for (let i = 0; i < seconds; i++) {
    clock.pass(1);
    pushes.tick();
  }
};

test('the first at once, the same again after a minute, with its count', () => {
  knock();
  pass(1);
  expect(told).toMatchObject([[{ count: 1 }]]);
  for (let i = 0; i < 30; i++) {
    knock();
    pass(1);
  }
  expect(told).toHaveLength(1);
  pass(31);
  expect(told).toMatchObject([[{ count: 1 }], [{ count: 31 }]]);
  pass(120);
  expect(told).toHaveLength(2); // nothing new
});

test('of another MTC user, of nobody, or of a kind that it does not hear: nothing', () => {
  knock({ mtcUser: 'rival' as MtcUserName });
  knock({ mtcUser: undefined as never });
  knock({ kind: 'request', externalId: 'm1@meters.example' as never });
  pass(5);
  expect(told).toEqual([]);
});

test('a flood of one source, or of many, is one event a second of bounded size, and none is missed', () => {
  for (let i = 0; i < 200; i++) knock({ target: `udp 203.0.113.1:${20_000 + i}` });
  for (let i = 0; i < 300; i++) knock({ source: `198.18.0.${i & 255}`, target: `udp 203.0.113.2:${20_000 + i}` });
  pass(1);
  expect(told).toHaveLength(1);
  expect(told[0]?.length).toBe(100);
  expect(told[0]?.filter(({ source }) => source.address === '192.0.2.66')).toHaveLength(20);
  pass(20);
  expect(told.every((reports) => reports.length <= 100)).toBe(true);
  expect(told.flat()).toHaveLength(500);
});

test('to a sink with a queue nothing is added; later each comes once, as it is by then', () => {
  for (let i = 0; i < 4; i++) outbox.put(SIEM, { id: `${i}`, data: '{}' });
  for (let i = 0; i < 100; i++) {
    knock();
    pass(1);
  }
  expect(told).toEqual([]);
  for (let i = 0; i < 4; i++) for (const one of outbox.take()) outbox.settle(one, { ok: true, status: 204 });
  pass(1);
  expect(told).toMatchObject([[{ count: 100 }]]);
});

test('after a restart comes what was not told, and not what was', () => {
  knock();
  pass(1);
  knock({ source: '192.0.2.67' }); // and the agent dies before the second is over
  pushes = begin();
  pass(1);
  expect(told.slice(1)).toMatchObject([[{ source: { address: '192.0.2.67' } }]]);
});

test('a sink that is new is told from now on', () => {
  pushes.serve([]);
  outbox.retain(new Set());
  knock();
  clock.pass(1);
  pushes.serve(READERS);
  knock({ source: '192.0.2.67' });
  pass(1);
  expect(told).toMatchObject([[{ source: { address: '192.0.2.67' } }]]);
});
