/** What a policy would change, told before it is in force. The real grants, store and ledger; the clock is the test's. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { refusalRecorder } from '../../agent/api/problem.ts';
import { address } from '../../agent/core/net.ts';
import type { ExternalId, MtcUserName } from '../../agent/core/words.ts';
import { forecast } from '../../agent/editions/forecast.ts';
import { type DenialStore, openDenialStore } from '../../agent/inspector/denial-store.ts';
import { Ledger } from '../../agent/inspector/ledger.ts';
import type { KeptRefusal } from '../../agent/inspector/refusals.ts';
import { KeptLog, seededRandom } from '../clock.ts';
import { ask, HEAD_END, M1, OTHER, policyOf, RULES, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';

let folder: string;
let gateway: TestGateway;
let denials: DenialStore;
let ledger: Ledger;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-forecast-'));
  gateway = await TestGateway.started();
  denials = openDenialStore(join(folder, 'denials.db'), gateway.log, IDENTITIES);
  ledger = new Ledger(denials, gateway.clock, seededRandom(1), gateway.log, () => undefined);
  // As main has it: what is refused is kept.
  const { clock } = gateway;
  Object.assign(gateway.ground, {
    refuse: refusalRecorder(new KeptLog(), seededRandom(2), clock, (refusal, facts, how) =>
      ledger.refused(refusal, facts, how),
    ),
  });
});
afterEach(() => {
  denials.close();
  rmSync(folder, { recursive: true });
});

const told = (rules: string, refusals: Iterable<KeptRefusal> | undefined = undefined) =>
  forecast(
    policyOf(rules),
    gateway.grants,
    {
      grants: (sinceMs) => gateway.store.newest(sinceMs),
      refusals: (sinceMs) => refusals ?? ledger.newest(sinceMs),
    },
    gateway.clock,
  );
const groupsOf = async (rules: string) =>
  (await told(rules)).requests.groups.map(({ from, to, count }) => `${count}: ${from} -> ${to}`);

test('the same rules change nothing, whatever usage there was when a request was refused', async () => {
  for (const devicePort of [5683, 7000, 7001, 7002, 23]) await gateway.grants.request(HEAD_END, ask({ devicePort }));
  await gateway.grants.request(OTHER, ask());
  const { ends, requests } = await told(RULES);
  expect(ends).toEqual({ count: 0, groups: [], grantIds: [] });
  expect(requests).toMatchObject({ looked: 6, isCut: false, changed: 0, groups: [] });
});

test('what was refused for all that it asked is asked again: family, application server, duration', async () => {
  const who = { ...HEAD_END, requestAddress: address('198.51.100.10') };
  await gateway.grants.request(who, ask({ devicePort: 7100, ipFamily: 'ipv6' })); // names no IPv6 address
  await gateway.grants.request(
    who,
    ask({ devicePort: 7100, applicationServer: { address: address('2001:db8:51::1') } }),
  );
  await gateway.grants.request(who, ask({ devicePort: 7100, applicationServer: { address: 'all' } }));
  await gateway.grants.request(who, ask({ devicePort: 7100, durationSeconds: 9_999 }));
  const wider = RULES.replace('"7000-7010"', '"7000-7199"').replace(', applicationServer: all', '');
  expect(await groupsOf(wider)).toEqual([
    '2: refused, noRuleAllows -> allowed by meters',
    '1: refused, noRuleAllows -> refused, applicationServerNotAllowed by meters',
    '1: refused, noRuleAllows -> refused, applicationServerRequired by meters',
  ]);
});

test('grants: those that would end, each reason with an example; requests of ended ones count too', async () => {
  const first = await gateway.grants.request(HEAD_END, ask());
  const second = await gateway.grants.request(HEAD_END, ask({ devicePort: 7000 }));
  if ('reason' in first || 'reason' in second) throw new Error('refused');
  await gateway.grants.end(second, 'endedByServer');
  const denied = `${RULES}  - id: none\n    deny: { devices: ["${M1}"], reason: "moved" }\n`;
  const { ends, requests } = await told(denied);
  expect(ends).toEqual({
    count: 1,
    groups: [
      {
        ...{ reason: 'deniedByRule', rule: 'none', count: 1 },
        example: { grantId: first.id, server: 'head-end', device: M1, why: 'moved' },
      },
    ],
    grantIds: [first.id],
  });
  expect(requests.groups).toMatchObject([
    { from: 'allowed by meters', to: 'refused, deniedByRule by none', count: 2, example: { id: second.id } },
  ]);
  expect(gateway.grants.live.size).toBe(1);
});

test('of the last seven days, at most a hundred thousand, and it says where it stopped', async () => {
  await gateway.grants.request(HEAD_END, ask({ devicePort: 23 }));
  gateway.clock.pass(8 * 86_400);
  expect((await told(RULES)).requests).toMatchObject({ looked: 0, sinceMs: gateway.clock.nowMs() - 7 * 86_400_000 });

  const nowMs = gateway.clock.nowMs();
  const many = function* (): Generator<KeptRefusal> {
    for (let i = 0; i < 100_001; i++)
      yield {
        ...{
          instance: `urn:uuid:${i}`,
          atMs: nowMs - i,
          reason: 'deniedByRule',
          step: 'rule',
          why: '',
          server: 'head-end',
        },
        ...{ device: M1, source: '198.51.100.10', target: `tcp/${i % 100}`, durationSeconds: 60 },
      };
  };
  const { requests } = await told(RULES.replace('ports: [23]', 'ports: [24]'), many());
  expect(requests).toMatchObject({ looked: 100_000, isCut: true, sinceMs: nowMs - 99_999, changed: 2_000 });
});

test('what waits to be written, and what is written, are told once each, the newest first; others are not asked again', async () => {
  for (let i = 0; i < 600; i++) {
    gateway.clock.pass(1);
    await gateway.grants.request(OTHER, ask({ devicePort: 8_000 + i }));
    if (i === 598) await ledger.keep();
  }
  gateway.ground.refuse('grantNotFound', { why: 'not its own', server: 'other' });
  const kept = [...ledger.newest(0)];
  expect(kept.slice(1).map(({ target }) => target)).toEqual(Array.from({ length: 600 }, (_, i) => `udp/${8_599 - i}`));
  expect((await told(RULES)).requests.looked).toBe(600);
});

test.each([
  [1, ['policy', 'steps', 'duration_seconds', 'application_server', 'ip_family']],
  [2, ['policy', 'steps']],
  [3, []],
])('a file of denials of version %i goes on, with what it has', (version, added) => {
  denials.close();
  const file = join(folder, 'older.db');
  openDenialStore(file, gateway.log, IDENTITIES).close();
  const db = new Database(file);
  const asker = ['external_id', 'certificate', 'source_port'];
  for (const column of [...added, 'mtc_user', ...asker]) db.exec(`ALTER TABLE refusals DROP COLUMN ${column}`);
  for (const column of asker) db.exec(`ALTER TABLE denials DROP COLUMN ${column}`);
  if (version === 1) db.exec('ALTER TABLE denials DROP COLUMN rule');
  db.exec(`INSERT INTO refusals (number, instance, at_ms, reason, step, why, server, device, source, target)
    VALUES (1, 'urn:uuid:1', 5, 'noRuleAllows', 'rule', 'why', 's', 'd', 'x', 'udp/1');
    PRAGMA user_version = ${version}`);
  db.close();
  denials = openDenialStore(file, gateway.log, IDENTITIES);
  const before = { instance: 'urn:uuid:1', atMs: 5, reason: 'noRuleAllows', step: 'rule', why: 'why' } as const;
  expect(denials.refusals({}, 9)).toEqual([{ ...before, server: 's', device: 'd', source: 'x', target: 'udp/1' }]);
  const next = {
    ...before,
    instance: 'urn:uuid:2',
    source: 'x',
    target: 'udp/1',
    durationSeconds: 60,
    ipFamily: 'ipv6',
    policy: '0123456789abcdef',
    steps: ['no rule no allow matches'],
    mtcUser: 'acme' as MtcUserName,
    externalId: 'm1@meters.example' as ExternalId,
    certificate: 'c0',
    sourcePort: 40_000,
  };
  denials.write({ changed: [], removed: [] }, [next]);
  expect(denials.refusal('urn:uuid:2')).toEqual(next);
  expect(gateway.log.of('denialStoreUnusable')).toEqual([]);
});
