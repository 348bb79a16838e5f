/**
 * The command against the real management socket, with real grants behind it
 * (the twin as data plane, a clock in the test's hand).
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Management, startManagement } from '../../agent/api/management.ts';
import type { SinkUseCases } from '../../agent/api/sink-routes.ts';
import { readConfig } from '../../agent/config.ts';
import { prefix } from '../../agent/core/net.ts';
import type { RefusalFacts, Refuse } from '../../agent/core/refusals.ts';
import { openRegistry } from '../../agent/directory/registry-store.ts';
import { type EditionStore, openEditions } from '../../agent/editions/edition-store.ts';
import { PolicySwitch } from '../../agent/editions/policy-switch.ts';
import { compileRules } from '../../agent/files/operator-files.ts';
import { readRuleFolder } from '../../agent/files/rule-folder.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { type DenialStore, openDenialStore } from '../../agent/inspector/denial-store.ts';
import type { InspectorReading } from '../../agent/inspector/inspector.ts';
import { Ledger } from '../../agent/inspector/ledger.ts';
import { openRecordReader } from '../../agent/nat/record-store.ts';
import { sinkId } from '../../agent/reports/outbox.ts';
import { denialUseCases } from '../../agent/use-cases/denials.ts';
import { DeskClerk } from '../../agent/use-cases/desk-clerk.ts';
import { DeviceImports } from '../../agent/use-cases/device-imports.ts';
import { deviceUseCases } from '../../agent/use-cases/devices.ts';
import { editionUseCases } from '../../agent/use-cases/editions.ts';
import { operatorDetail } from '../../agent/use-cases/grant-views.ts';
import { managementUseCases } from '../../agent/use-cases/management.ts';
import { natUseCases } from '../../agent/use-cases/nat.ts';
import { userUseCases } from '../../agent/use-cases/operator-desk.ts';
import { remediesOf } from '../../agent/use-cases/remedies.ts';
import type { RunningStatus } from '../../agent/use-cases/status.ts';
import { ROOT } from '../child.ts';
import { ask, DEVICES, HEAD_END, M1, RULES, TestGateway } from '../gateway.ts';
import { IDENTITIES, keyOf } from '../identities.ts';
import { MTGATE, mtgate, type Said, said } from '../mtgate.ts';
import { digest, policyOf } from '../rules.ts';

/** How one sink fares, and what acme is told. */
const SINKS: SinkUseCases = {
  sinks: () => [
    {
      ...{ role: 'mtcUser', party: 'acme', sink: { name: 'siem', url: 'https://sink.acme.example/' } },
      record: {
        ...{ sink: sinkId('mtcUser', 'acme', 'siem'), first: 3, last: 9, delivered: 1, givenUp: 1, untold: 1 },
        ...{ lastSuccessMs: Date.UTC(2026, 0, 1), lastFaultMs: Date.UTC(2026, 0, 2), toldUntilMs: 0 },
        ...{ lastFault: 'unreachable', lastWhy: '192.0.2.1:443: closed' },
      },
      ...{ length: 7, failures: 2, dueInMs: 1_500 },
    },
  ],
  reportsOf: (name) =>
    name === 'acme'
      ? {
          reports: [
            {
              ...{ id: 'row-1', kind: 'denial', reason: 'wrongSource', firstSeenMs: 0, lastSeenMs: 1_000, count: 3 },
              ...{ source: { address: '192.0.2.66' }, fromInside: false, proven: 'none', device: M1 },
            },
          ],
          rolledUp: [],
        }
      : undefined,
};

let folder: string;
let gateway: TestGateway;
let management: Management;
let running: RunningStatus;
let store: DenialStore;
let ledger: Ledger;
let editions: EditionStore;
let policies: PolicySwitch;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-cli-agent-'));
  const [m1, ...others] = DEVICES;
  if (!m1) throw new Error('no device');
  const registry = openRegistry(join(folder, 'registry.db'), IDENTITIES);
  gateway = new TestGateway(undefined, registry);
  await gateway.start(undefined, [{ ...m1, device: { ...m1.device, msisdn: '491715550100' as never } }, ...others]);
  const reading = readConfig(readFileSync(join(ROOT, 'systemd/agent.yaml.example'), 'utf8'), 'agent.yaml');
  if ('issues' in reading) throw new Error('the example agent.yaml is wrong');
  const { ground, grants, bindings } = gateway;
  store = openDenialStore(join(folder, 'denials.db'), gateway.log, IDENTITIES);
  ledger = new Ledger(store, gateway.clock, ground.random, gateway.log, () => undefined);
  const denials = denialUseCases({
    identities: IDENTITIES,
    ledger,
    account: () => ({ seen: 0, inspected: 0, unsampled: 0, lost: 0 }),
    inspector: () => SEES,
    streamCut: () => {},
    remedies: remediesOf(grants, ledger, (record) => operatorDetail(record, ground)),
    policy: () => grants.policy,
  });
  mkdirSync(join(folder, 'rules'));
  writeFileSync(join(folder, 'rules/rules.yaml'), RULES);
  editions = openEditions(join(folder, 'editions.db'));
  policies = await PolicySwitch.begin({
    store: editions,
    readFolder: () => readRuleFolder({ folder: join(folder, 'rules'), autoApply: false }),
    compile: async (files) => {
      const warnings: string[] = [];
      return { policy: compileRules(files, 'rules', undefined, (warning) => warnings.push(warning)), warnings };
    },
    autoApply: false,
    clock: gateway.clock,
    log: gateway.log,
  });
  policies.enforceBy((policy) => grants.switchPolicy(() => gateway.desk.lay(policy)));
  const ofEditions = editionUseCases({
    ...{ policies, desk: gateway.desk, grants, store: gateway.store, ledger, clock: gateway.clock },
    userName: async (uid) => (uid === 0 ? 'root' : `uid ${uid}`),
  });
  const imports = new DeviceImports(registry, folder, new URL(`file://${ROOT}dist/use-cases/device-import-worker.js`), {
    key: keyOf('tests'),
    keep: false,
  });
  const ofDevices = deviceUseCases({ registry, imports, bindings, grants, log: gateway.log });
  const ofUsers = userUseCases(grants, new DeskClerk(gateway.desk, ground, digest));
  const ofNat = natUseCases({
    pools: { grants: [prefix('203.0.113.0/29')], egress: [prefix('203.0.113.8/29')] },
    ...{ own: [], holder: () => undefined },
    ...{ grants, record: { reading: () => running.natRecord }, reader: openRecordReader(join(folder, 'nat.db')) },
    nowMs: () => Date.now(),
  });
  const operators = {
    ...denials,
    ...ofDevices,
    ...ofEditions,
    ...ofUsers,
    ...ofNat,
    radius: () => undefined,
    ...SINKS,
  };
  const useCases = managementUseCases(ground, grants, bindings, operators, reading.config, {
    reload: async () => ({ policy: grants.policy.version, devices: 2, liveGrants: grants.live.size, unusable: [] }),
    drain: (draining) => {
      gateway.draining = draining ? { reason: 'gatewayDraining', why: 'asked for' } : undefined;
    },
    status: () => ({ ...running, draining: gateway.draining !== undefined }),
    ownUse: ({ text }) => (text === '10.20.0.1' ? '10.20.0.1 is an address of this host (pgw0)' : undefined),
  });
  management = await startManagement(join(folder, 'agent.sock'), useCases, () => 0, gateway.log);
});
afterAll(async () => {
  await management.close();
  store.close();
  editions.close();
  gateway.registry.close();
  rmSync(folder, { recursive: true });
});
afterEach(async () => {
  for (const record of [...gateway.grants.live.all()]) await gateway.grants.end(record, 'endedByServer');
  gateway.draining = undefined;
  running = STANDING;
  gateway.clock.pass(61); // no test has used up another's rate
});

const SEES: InspectorReading = {
  state: 'sees',
  received: 4,
  filtered: 0,
  notOurs: 0,
  damaged: 0,
  deaths: 1,
  blindnesses: 0,
};

const STANDING: RunningStatus = {
  closed: true,
  draining: false,
  registeredDevices: 2,
  interfaces: { outside: 'eth0', inside: [{ realm: 'iot', interface: 'pgw0' }] },
  missingInterfaces: [],
  natRecord: { recording: true, deaths: 0, begun: 7, ended: 5, lostInKernel: 0, givenUp: 0, unsent: 0 },
  wrongSysctls: [],
  attachments: ['outsideIngress eth0 tcx', 'outsideEgress eth0 tcx', 'insideIngress pgw0 tcx'],
  hooks: [{ interface: 'eth0', hook: 'xdp', why: 'its driver has it' }],
  heartbeatAgeSeconds: 0.4,
  orphanGraceSeconds: 300,
  packets: {
    ...{ grantedIn: 1, grantedOut: 2, passed: 3, sampled: 4, errorsCarried: 6, echoesAnswered: 8, atXdp: 0 },
    denied: { noGrant: 5, wrongSource: 12 },
  },
  deniedInLastMinute: 7,
  inspector: SEES,
  certificates: [],
  edition: { number: 7, at: '2026-01-01T12:00:00.000Z', by: 'ann', how: 'apply' },
};
running = STANDING;

const operator = (...words: string[]): Promise<Said> => mtgate(...words, '--socket', join(folder, 'agent.sock'));

async function granted(devicePort = 5683): Promise<GrantRecord> {
  const answer = await gateway.grants.request(HEAD_END, ask({ devicePort }));
  if ('reason' in answer) throw new Error(answer.why);
  return answer;
}

describe('status', () => {
  test('one screen: closed, what hangs where, what was denied; status 0', async () => {
    await granted();
    const { status, stdout } = await operator('status');
    expect(status).toBe(0);
    expect(stdout.split('\n').length).toBeLessThan(25);
    expect(stdout).toMatch(/^gw-1 is closed: gate and base stand\.\n/);
    for (const line of [
      /^live grants +1$/,
      /^new grants +begun$/,
      /^gate +outsideIngress {2}eth0 {2}tcx$/,
      /^ +insideIngress {2}pgw0 {2}tcx$/,
      /^heartbeat +0\.4 s ago/,
      /^denied +7 in the last minute/,
      /^ +12 wrongSource \(a live grant, but not for this source\)$/,
      /^inspector +sees; its child ended 1 time, was blind 0 times$/,
      /^policy +[0-9a-f]{16}, edition 7, by ann \(apply\), 2026-01-01 12:00:00 UTC$/,
      /^last fault +none$/,
    ])
      expect(stdout).toMatch(new RegExp(line.source, 'm'));
    expect(stdout).not.toMatch(/^certificates/m);
    expect(JSON.parse((await operator('status', '--json')).stdout)).toMatchObject({ ...STANDING, liveGrants: 1 });
  });

  test('a gap, dates of certificates, the last fault; status 1', async () => {
    running = {
      ...STANDING,
      closed: false,
      gap: 'the gate does not hang at every interface',
      missingInterfaces: ['there is no interface pgw1'],
      wrongSysctls: ['net/ipv4/ip_forward is 0, not 1'],
      certificates: [
        { name: 'api', kind: 'server', notAfter: '2026-01-31T12:00:00Z', usable: true, daysLeft: 30 },
        { name: 'mtc-ca', kind: 'crl', nextUpdate: '2025-12-31T12:00:00Z', usable: true, daysLeft: -1 },
        {
          name: 'old-ca',
          kind: 'crl',
          nextUpdate: '2026-01-31T12:00:00Z',
          usable: false,
          daysLeft: 0,
          why: 'it is empty',
        },
      ],
      lastFault: { at: '2026-01-01T11:00:00.000Z', event: 'gapFound', fields: { gap: 'gone', stack: 'at …' } },
    };
    const { status, stdout } = await operator('status');
    expect(status).toBe(1);
    expect(stdout).toMatch(/^gw-1 is NOT AS IT SHOULD BE: the gate does not hang at every interface\.\n/);
    expect(stdout).toMatch(/^new grants +none until it is repaired$/m);
    expect(stdout).toMatch(/^certificates +certificate api: 2026-01-31 12:00:00 UTC, 30 days left$/m);
    expect(stdout).toMatch(/^ +CRL mtc-ca: 2025-12-31 12:00:00 UTC, PAST$/m);
    expect(stdout).toMatch(/^ +CRL old-ca: UNUSABLE: it is empty$/m);
    expect(stdout).toMatch(/^ +MISSING: there is no interface pgw1$/m);
    expect(stdout).toMatch(/^kernel +WRONG: net\/ipv4\/ip_forward is 0, not 1$/m);
    expect(stdout).toMatch(/^last fault +2026-01-01 11:00:00 UTC {2}gapFound {2}gap: gone$/m);
    expect((await operator('status', '--json')).status).toBe(1);
  });
});

describe('who was turned away', () => {
  // Some thirty commands, each a process.
  test('one list, each refusal alone, and why; for people and for programs', { timeout: 60_000 }, async () => {
    const packet = {
      kind: 'packet',
      reason: 'wrongSource',
      source: '192.0.2.66',
      target: 'udp 203.0.113.1:22314',
    } as const;
    const row = ledger.denials.add({ ...packet, device: M1 });
    const refusal = gateway.ground.refuse('noRuleAllows', { why: 'no allow matches' });
    ledger.refused(refusal, { why: refusal.why, server: 'head-end', from: '198.51.100.10', device: M1, to: 'udp/23' });

    const { stdout } = await operator('denials');
    expect(stdout).toMatch(/^0 packets denied since the start: .* the inspector: sees$/m);
    expect(stdout).toMatch(new RegExp(`wrongSource +192.0.2.66 +udp 203.0.113.1:22314 +${M1} +${row.id}$`, 'm'));
    expect(JSON.parse((await operator('denials', '--kind', 'packet', '--json')).stdout)).toMatchObject({
      packets: { seen: 0, lost: 0 },
      denials: [{ ...packet, count: 1 }],
    });
    expect((await operator('refusals')).stdout).toMatch(/noRuleAllows +rule +head-end +198.51.100.10/);
    expect(JSON.parse((await operator('refusals', '--json')).stdout)).toMatchObject([{ instance: refusal.instance }]);
    for (const id of [row.id, refusal.instance, refusal.instance.replace('urn:uuid:', '')]) {
      expect((await operator('why', id)).stdout).toMatch(/^what to do +\S/m);
      expect(JSON.parse((await operator('why', id, '--json')).stdout)).toHaveProperty('advice');
    }
    expect(await operator('why', 'nothing')).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^idUnknown: /),
    });
  });
});

describe('a name that is none is not read as nobody', () => {
  test.each([
    [['denials', '--mtc-user', 'acmee'], 'mtcUserUnknown: unknown MTC user "acmee"; did you mean "acme"?'],
    [['denials', '--follow', '--mtc-user', 'foo'], 'mtcUserUnknown: unknown MTC user "foo"; known here: acme'],
    [['refusals', '--server', 'foo'], 'serverUnknown: unknown server "foo"; known here: head-end, other'],
  ])('%j', async (words, says) => {
    expect(await operator(...words)).toEqual({ status: 1, stdout: '', stderr: `${says}\n` });
  });

  test('but what is on record of one who has gone is found', async () => {
    const row = { kind: 'packet', reason: 'noGrant', source: '192.0.2.9', target: 'udp 203.0.113.1:9' } as const;
    const { id } = ledger.denials.add({ ...row, mtcUser: 'gone' as never });
    expect((await operator('denials', '--mtc-user', 'gone')).stdout).toContain(id);
    expect((await operator('denials', '--mtc-user', 'acme', '--source', '2001:DB8::9')).status).toBe(0);
  });
});

describe('reports', () => {
  test('how every sink fares, and what an MTC user is told', async () => {
    const sinks = await operator('reports');
    expect(sinks.stdout).toMatch(/^MTC user acme +siem +7 +1 +1 +2 .* unreachable .*: 192.0.2.1:443: closed$/m);
    const rows = JSON.parse((await operator('reports', 'sinks', '--json')).stdout);
    expect(rows).toMatchObject([{ waiting: 7, nextInSeconds: 2, lastFault: { meaning: 'no connection' } }]);
    const told = await operator('reports', 'user', 'acme');
    expect(told.stdout).toMatch(new RegExp(`denial +wrongSource +3 +192.0.2.66 +none +${M1}`));
    const nobody = await operator('reports', 'user', 'nobody');
    expect(nobody.stderr).toContain('no MTC user nobody in the rule files');
  });
});

describe('why', () => {
  const why = async (id: string) => (await operator('why', id)).stdout;

  test('of a refusal: the steps taken, what would have to change, and what the policy in force would decide', async () => {
    const kept: RefusalFacts[] = [];
    const { refuse } = gateway.ground;
    Object.assign(gateway.ground, {
      refuse: (...[reason, facts]: Parameters<Refuse>) => {
        kept.push(facts);
        return refuse(reason, facts);
      },
    });
    const refusal = await gateway.grants.request(HEAD_END, ask({ devicePort: 5684 }));
    Object.assign(gateway.ground, { refuse });
    if (!('reason' in refusal)) throw new Error('it was granted');
    ledger.refused(refusal, kept[0] as RefusalFacts);
    await ledger.keep(); // from its store it is the same
    const said = await why(refusal.instance);
    expect(said).toMatch(/^steps +yes device +m1@meters.example, bound in ipv4 and ipv6$/m);
    expect(said).toMatch(/^ +no +rule +no allow matches$/m);
    expect(said).toMatch(/^to pass +allow meters \(.*:8\): port 5684 is not in 5683, 7000-7010$/m);
    expect(said).toMatch(/^now +policy ([0-9a-f]{16}): .*: refused, noRuleAllows/m);

    const before = gateway.grants.policy;
    await gateway.grants.switchPolicy(policyOf(RULES.replace('5683,', '5683, 5684,')));
    const later = await why(refusal.instance);
    expect(later).toMatch(/^to pass +nothing: the policy in force would allow it now$/m);
    expect(later).toMatch(/^now +policy [0-9a-f]{16}, another than then: .*: allowed by meters/m);
    await gateway.grants.switchPolicy(before);
  });

  test('of a packet: for which source the grant is, and what another would need', async () => {
    const record = await granted();
    const knock = (source: string, reason: 'wrongSource' | 'grantEnded' = 'wrongSource') =>
      ledger.denials.add({
        ...{ kind: 'packet', reason, source, target: 'udp 203.0.113.1:22314' },
        ...{ device: M1, mtcUser: record.mtcUser, grant: record.id },
      }).id;
    expect(await why(knock('192.0.2.7'))).toMatch(
      /^to pass +grant \S+ is for packets from 198.51.100.10, and this one came from 192.0.2.7\n +`sources` of head-end must have a prefix with 192.0.2.7 \(now: 198.51.100.0\/24, 2001:db8:51::\/48\)$/m,
    );
    expect(await why(knock('198.51.100.99'))).toMatch(
      /^ +head-end must name applicationServer 198.51.100.99 when it asks$/m,
    );
    await gateway.grants.end(record, 'revokedByOperator');
    expect(await why(knock('198.51.100.10', 'grantEnded'))).toMatch(
      /^to pass +grant \S+ ended at \S+Z: an operator revoked it; the server must ask for a new grant$/m,
    );
  });

  test('of a grant: which rule and policy allowed it, and how it ended', async () => {
    const record = await granted();
    const meaning = `meters allowed it under policy ${record.policyVersion}`;
    expect(await why(record.id)).toMatch(new RegExp(`^meaning +${meaning}; it is live$`, 'm'));
    await gateway.grants.end(record, 'endedByServer');
    expect(await why(record.id)).toMatch(/^to pass +nothing: the policy in force would grant it again$/m);
    expect(JSON.parse((await operator('why', record.id, '--json')).stdout)).toMatchObject({
      ...{ grant: { grantId: record.id, rule: 'meters', status: 'ended' }, toPass: [expect.any(String)] },
      ...{
        meaning: expect.stringContaining('the MTC server gave it back'),
        now: { verdict: 'allow', hasChanged: false },
      },
    });
  });
});

describe('grants', () => {
  test('list: a table; by device, MSISDN and server; JSON; none', async () => {
    const { id, external } = await granted();
    const [head, row, ...more] = (await operator('grants')).stdout.trimEnd().split('\n');
    expect(head).toMatch(/^grantId +status +server +device +protocol +inner +external +applicationServer +expiresAt$/);
    expect(row).toContain(`${id}`);
    expect(row).toContain(`10.20.0.2:5683  ${external.address.text}:${external.port}`);
    expect(more).toEqual([]);
    for (const filter of [
      ['--device', M1],
      ['--device', '+491715550100'],
      ['--server', 'head-end', '--device', M1],
    ]) {
      const { stdout } = await operator('grants', 'list', ...filter, '--json');
      expect(JSON.parse(stdout)).toEqual([expect.objectContaining({ grantId: id, rule: 'meters' })]);
    }
    expect((await operator('grants', 'list', '--server', 'other')).stdout).toBe('no live grants, and none that wait\n');
    expect(JSON.parse((await operator('grants', 'list', '--device', 'm2@meters.example', '--json')).stdout)).toEqual(
      [],
    );
  });

  test('list --limit: so many, and how many more there are', async () => {
    const [first] = [await granted(), await granted(7000), await granted(7001)];
    const some = await operator('grants', 'list', '--limit', '1', '--json');
    expect(JSON.parse(some.stdout)).toEqual([expect.objectContaining({ grantId: first.id })]);
    expect(some).toMatchObject({ status: 0, stderr: 'and 2 more\n' });
    expect(await operator('grants', 'list', '--limit', '0')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('--limit: expected a whole number above 0, not "0"'),
    });
  });

  test.each([
    [['--device', 'm7@meters.example'], 'deviceUnknown: no device m7@meters.example is registered'],
    [['--server', 'nobody'], 'serverUnknown: no server nobody in the rule files'],
  ])('list %j: who is not there is said; status 1', async (filter, says) => {
    const { status, stderr } = await operator('grants', 'list', ...filter);
    expect(stderr).toBe(`${says}\n`);
    expect(status).toBe(1);
  });

  test('show: all of a live one, then of the same ended', async () => {
    const record = await granted();
    gateway.clock.pass(2);
    const live = await operator('grants', 'show', record.id);
    expect(live.stdout).toMatch(/^status +live$/m);
    expect(live.stdout).toMatch(new RegExp(`^rule +meters of policy ${record.policyVersion}$`, 'm'));
    expect(live.stdout).toMatch(/^expires +2026-01-01 12:\d\d:\d\d UTC, in 9 min 58 s$/m);
    expect(live.stdout).toMatch(/^to the device +0 packets, 0 bytes$/m);
    await gateway.grants.end(record, 'deviceUnbound');
    const ended = await operator('grants', 'show', record.id);
    expect(ended.stdout).toMatch(/^status +ended: deviceUnbound, the device left its inner address$/m);
    expect(ended.stdout).toMatch(/^to the device +0 packets, 0 bytes$/m); // its endpoint rests
    gateway.clock.pass(121);
    await gateway.grants.sweep();
    const json = await operator('grants', 'show', record.id, '--json');
    expect(JSON.parse(json.stdout)).toMatchObject({
      ...{ grantId: record.id, status: 'ended', endCause: 'deviceUnbound', remainingSeconds: 0, mtcUser: 'acme' },
      ...{ reference: M1, number: record.number, entry: record.index },
    });
    expect(JSON.parse(json.stdout)).not.toHaveProperty('carried');
    const none = await operator('grants', 'show', 'nothing');
    expect(none).toMatchObject({ status: 1, stderr: 'grantNotFound: no grant nothing on record\n' });
  });

  test('revoke: by id, by device, by server; what is not live is said and holds up no other', async () => {
    const [first, second] = [await granted(), await granted(7000)];
    const some = await operator('grants', 'revoke', 'nothing', first.id);
    expect(some).toEqual({ status: 0, stdout: 'ended 1 grant\n', stderr: 'grantNotFound: no live grant nothing\n' });
    expect(gateway.grants.find(first.id)).toMatchObject({ endCause: 'revokedByOperator' });
    const rest = await operator('grants', 'revoke', '--device', M1, '--yes', '--json');
    expect(JSON.parse(rest.stdout)).toEqual({ ended: [second.id] });
    expect(await operator('grants', 'revoke', '--server', 'head-end')).toMatchObject({
      status: 1,
      stdout: 'ended 0 grants\n',
    });
  });

  test('revoke: at a terminal more than one is asked for', async () => {
    await granted();
    await granted(7000);
    const command = `${MTGATE.join(' ')} grants revoke --server head-end --socket ${join(folder, 'agent.sock')}`;
    const answered = (word: string) =>
      said(['sh', '-c', `echo ${word} | script --quiet --return --command '${command}' /dev/null`]);
    const refused = await answered('n');
    expect(refused.stdout).toContain('End 2 grants? Their packets stop at once. [y/N]');
    expect(refused).toMatchObject({ status: 1, stdout: expect.stringContaining('nothing was ended') });
    expect(gateway.grants.live.size).toBe(2);
    expect(await answered('y')).toMatchObject({ status: 0, stdout: expect.stringContaining('ended 2 grants') });
    expect(gateway.grants.live.size).toBe(0);
  });
});

test('device show: identifiers, bindings, grants', async () => {
  const { id } = await granted();
  const { stdout } = await operator('device', 'show', '+491715550100');
  expect(stdout).toMatch(
    /^device +m1@meters\.example\nMSISDN +hash:[0-9a-f]{6}\.[\w-]{22}\nMTC user +acme\nregistered by +the devices file\n\n/,
  );
  expect(stdout).toMatch(/^iot +10\.20\.0\.2 +file/m);
  expect(stdout).toContain(id);
  expect(JSON.parse((await operator('device', 'show', M1, '--json')).stdout)).toMatchObject({
    msisdn: IDENTITIES.hash('msisdn', '491715550100'),
    bindings: [{ address: '10.20.0.2' }, { address: 'fd00:20::2' }],
    grants: [{ grantId: id }],
  });
  expect(await operator('device', 'show', 'm7@meters.example')).toMatchObject({ status: 1 });
});

describe('files that cannot be read or written: which, and status 1, without a stack', () => {
  const onFile = (...words: string[]) => operator('device', ...words, '--format', 'csv');
  test.each([
    ['export', ['export', '--output', '/nonexist/x.csv'], /^\/nonexist\/x\.csv cannot be written: ENOENT: .*\n$/],
    ['import of nothing', ['import', '/nonexist/x.csv'], /^\/nonexist\/x\.csv cannot be read: ENOENT: .*\n$/],
    ['import of a folder', ['import', '/tmp'], /^\/tmp cannot be read: it is a folder\n$/],
  ])('%s', async (_, words, says) => {
    expect(await onFile(...words)).toEqual({ status: 1, stdout: '', stderr: expect.stringMatching(says) });
  });

  test('standard output', async () => {
    const command = `${MTGATE.join(' ')} status --socket ${join(folder, 'agent.sock')}`;
    expect(await said(['sh', '-c', `${command} >/dev/full`])).toEqual({
      status: 1,
      stdout: '',
      stderr: expect.stringMatching(/^standard output cannot be written: ENOSPC.*\n$/),
    });
    expect((await said(['sh', '-c', `${command} frobnicate 2>/dev/full`])).status).toBe(2);
  });
});

describe('explain --live', () => {
  const explained = (...words: string[]) =>
    operator('explain', '--live', '--device', M1, '--port', '5683', '--server', 'head-end', ...words);

  test('a device that has an address', async () => {
    const { status, stdout } = await explained();
    expect(stdout).toMatch(/^head-end to m1@meters\.example, udp port 5683: allowed by meters, /);
    expect(stdout).toMatch(/^ {2}yes binding +10\.20\.0\.2 in iot$/m);
    expect(status).toBe(0);
  });

  test('a device that has none is not told to be allowed what is then refused', async () => {
    await operator('device', 'unbind', 'm2@meters.example', 'iot', '10.20.0.9');
    const { stdout } = await explained('--device', 'm2@meters.example');
    const refusal = await gateway.grants.request(
      HEAD_END,
      ask({ device: { networkAccessIdentifier: 'm2@meters.example' as never } }),
    );
    if (!('reason' in refusal)) throw new Error('it was granted');
    expect(stdout).toMatch(
      new RegExp(
        `^head-end to m2@meters\\.example, udp port 5683: refused, ${refusal.reason} \\(${refusal.why}\\)$`,
        'm',
      ),
    );
    expect(stdout).toMatch(/^ {2}no {2}binding +not bound in ipv4$/m);
    expect(JSON.parse((await explained('--device', 'm2@meters.example', '--json')).stdout)).toMatchObject({
      verdict: 'refuse',
    });
  });

  test('a server that is not there; status 1, as by the files alone', async () => {
    for (const more of [[], ['--from', '192.0.2.1']])
      expect(await explained('--server', 'zz', ...more)).toEqual({
        status: 1,
        stdout: '',
        stderr: 'serverUnknown: no server zz in the rule files\n',
      });
  });
});

test('device bind, list, unbind', async () => {
  const bound = await operator('device', 'bind', 'm2@meters.example', 'iot', '10.20.0.9', '--json');
  expect(JSON.parse(bound.stdout)).toEqual({
    bound: { device: 'm2@meters.example', realm: 'iot', address: '10.20.0.9' },
  });
  expect(await operator('device', 'bind', 'm2@meters.example', 'iot', '10.20.0.1')).toEqual({
    status: 1,
    stdout: '',
    stderr: 'addressOfHost: 10.20.0.1 is an address of this host (pgw0): no device can hold it\n',
  });
  expect((await operator('device')).stdout).toMatch(/^m2@meters\.example +iot +10\.20\.0\.9 +management/m);
  expect((await operator('device', 'unbind', 'm2@meters.example', 'iot', '10.20.0.9')).stdout).toBe(
    'unbound m2@meters.example from 10.20.0.9 in iot\n',
  );
});

test('drain: no new grants, live ones go on; and its end', async () => {
  const { id } = await granted();
  expect(await operator('drain')).toMatchObject({ status: 0, stdout: 'draining: no new grants; 1 live grant to go\n' });
  expect(await gateway.grants.request(HEAD_END, ask({ devicePort: 7000 }))).toMatchObject({
    reason: 'gatewayDraining',
    step: 'gateway',
  });
  expect(gateway.grants.live.get(id)).toBeDefined();
  const status = await operator('status');
  expect(status).toMatchObject({ status: 0, stdout: expect.stringMatching(/^new grants +none: draining/m) });
  expect(JSON.parse((await operator('drain', '--end', '--json')).stdout)).toMatchObject({ draining: false });
  expect(await granted(7000)).toMatchObject({ state: 'live' });
});

test('drain while a grant is being recorded: it is not opened, and its record says why', async () => {
  const asked = gateway.grants.request(HEAD_END, ask());
  gateway.draining = { reason: 'gatewayDraining', why: 'asked for' };
  expect(await asked).toMatchObject({ reason: 'changedWhileDeciding' });
  const causes = [...gateway.store.endedSince(gateway.clock.nowMs())].map(({ endCause }) => endCause);
  expect(causes).toContain('gatewayDraining');
  expect(gateway.grants.live.size).toBe(0);
});

test('reload', async () => {
  expect((await operator('reload')).stdout).toMatch(/^in force: policy [0-9a-f]+, 2 devices, 0 live grants\n$/);
});

describe('rules', () => {
  const write = (text: string) => writeFileSync(join(folder, 'rules/rules.yaml'), text);
  const NARROW = RULES.replace('[5683, "7000-7010"]', '["7000-7010"]').replace(
    'durationSeconds: 900',
    'durationSeconds: 60',
  );
  const inForce = () => policies.inForce.edition;
  afterEach(async () => {
    write(RULES);
    await operator('apply', '--yes');
  });

  test('diff: what changes, which grants would end, which requests would be decided otherwise', async () => {
    const { id } = await granted();
    await granted(7000);
    const refusal = await gateway.ground.refuse('noRuleAllows', {
      ...{ why: 'no allow matches', server: 'head-end', device: M1, from: '198.51.100.10', to: 'udp/7020' },
      durationSeconds: 600,
    });
    ledger.refused(refusal, {
      ...{
        why: refusal.why,
        server: 'head-end',
        device: M1,
        from: '198.51.100.10',
        to: 'udp/7020',
        durationSeconds: 600,
      },
    });
    write(NARROW.replace('7010', '7020'));
    const { status, stdout } = await operator('diff');
    expect(status).toBe(0);
    for (const line of [
      /^edition \d+, in force, against the rule files on disk \(policy [0-9a-f]{16}\):$/,
      /^ {2}rule meters changed: match\.ports: 7000-7020 added; .*; limits\.durationSeconds: 60, was 900$/,
      /^1 live grant would end:$/,
      new RegExp(`^ {2}1 {2}noRuleAllows {2}such as ${id}, head-end to m1@meters\\.example: no allow matches$`),
      /^of [1-9]\d* requests since 2025-12-25 12:\d\d:\d\d UTC, [1-9]\d* would be decided otherwise:$/,
      /^ +\d+ +allowed by meters -> refused, noRuleAllows +such as head-end to m1@meters\.example, udp\/5683, /,
      /^ +\d+ +allowed by meters -> allowed by meters, for a shorter time +such as/,
      /^ +1 +refused, noRuleAllows -> allowed by meters +such as .*, udp\/7020, .*, urn:uuid:/,
    ])
      expect(stdout).toMatch(new RegExp(line.source, 'm'));
    const json = JSON.parse((await operator('diff', '--json')).stdout);
    expect(json).toMatchObject({ isSame: false, ends: { count: 1, grantIds: [id] }, requests: { isCut: false } });
    expect(gateway.grants.live.size).toBe(2); // it only asked
  });

  test('apply: without a terminal only with --yes; on trial; confirm; history; rollback', async () => {
    await granted();
    write(NARROW);
    const { number } = inForce();
    expect(await operator('apply')).toMatchObject({
      status: 1,
      stderr: 'nothing has changed: without a terminal say --yes\n',
    });
    const applied = await operator('apply', '--yes', '--confirm', '1m', '--comment', 'narrower');
    expect(applied.stdout).toMatch(
      new RegExp(`^in force: edition ${number + 1}, policy [0-9a-f]{16}, 0 live grants$`, 'm'),
    );
    expect(applied.stdout).toMatch(
      /^on trial until 2026-01-01 12:\d\d:\d\d UTC: mtgate confirm, or it goes back by itself$/m,
    );
    write(RULES);
    expect(await operator('apply', '--json', '--yes')).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^applyUnderWay: edition \d+ is on trial for another 60 s/),
    });
    expect((await operator('confirm')).stdout).toBe(`edition ${number + 1} is confirmed: it stays in force\n`);
    expect((await operator('confirm')).stderr).toMatch(/^nothingToConfirm: /);
    const [row] = JSON.parse((await operator('history', '--json')).stdout);
    expect(row).toMatchObject({ edition: number + 1, by: 'root', byUid: 0, how: 'apply', comment: 'narrower' });
    expect((await operator('history')).stdout).toMatch(
      new RegExp(`^${number + 1} +[0-9a-f]{16} .* root +apply +confirmed by root +narrower; rule meters changed`, 'm'),
    );
    const show = await operator('history', 'show', `${number + 1}`);
    expect(show.stdout).toMatch(/^changed +rule meters changed: /m);
    expect(show.stdout).toContain(`\n# rules.yaml\n${NARROW.trimEnd()}\n`);
    expect((await operator('rollback', '--yes')).stdout).toMatch(new RegExp(`^in force: edition ${number + 2}, `, 'm'));
    expect(inForce()).toMatchObject({ how: 'rollback', version: expect.stringMatching(/^[0-9a-f]{16}$/) });
    expect((await operator('rollback', '99', '--yes')).stderr).toMatch(/^editionUnknown: no edition 99/);
    expect((await operator('apply', '--yes')).stdout).toMatch(
      /^nothing to do: edition \d+, which is in force, says the same$/m,
    );
  });

  test('apply and rollback with --json: only with --yes, too', async () => {
    write(NARROW);
    await operator('apply', '--yes');
    write(RULES);
    const { number } = inForce();
    for (const command of [['apply'], ['rollback'], ['rollback', `${number - 1}`]])
      expect(await operator(...command, '--json')).toEqual({
        status: 1,
        stdout: '',
        stderr: 'nothing has changed: with --json say --yes\n',
      });
    expect(inForce().number).toBe(number);
    const applied = await operator('rollback', '--json', '--yes');
    expect(JSON.parse(applied.stdout)).toMatchObject({ applied: true, edition: number + 1 });
  });

  test('apply: a terminal is asked', async () => {
    write(NARROW);
    const { number } = inForce();
    const command = `${MTGATE.join(' ')} apply --socket ${join(folder, 'agent.sock')}`;
    const answered = (word: string) =>
      said(['sh', '-c', `echo ${word} | script --quiet --return --command '${command}' /dev/null`]);
    expect(await answered('n')).toMatchObject({
      status: 1,
      stdout: expect.stringContaining('Put this in force? [y/N]'),
    });
    expect(inForce().number).toBe(number);
    expect(await answered('y')).toMatchObject({ status: 0 });
    expect(inForce().number).toBe(number + 1);
  });

  test('invalid files: said with their place, and nothing has changed', async () => {
    write('sevrers: {}');
    const { version } = inForce();
    for (const command of [['diff'], ['apply', '--yes']])
      expect(await operator(...command)).toMatchObject({
        status: 1,
        stderr: expect.stringMatching(/^rulesInvalid: rules\/rules\.yaml:1:1: unknown key "sevrers"/),
      });
    expect(inForce().version).toBe(version);
  });
});

test('history: on trial is the newest alone, whatever time was left to one that was given up', async () => {
  const path = join(folder, 'history.sock');
  const row = { policy: 'p', at: '2026-01-01T12:00:00Z', by: 'root', how: 'apply', changed: [] };
  const confirmBy = new Date(Date.now() + 60_000).toISOString();
  const rows = [4, 3].map((edition) => ({ ...row, edition, confirmBy }));
  const server = createServer((_, response) => response.end(JSON.stringify(rows)));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const { stdout } = await mtgate('history', '--socket', path);
  server.close();
  expect(stdout).toMatch(/^4 .* on trial for \d/m);
  expect(stdout).toMatch(/^3 .* not confirmed/m);
});

test('what others wrote cannot move the cursor, nor turn the direction of reading', async () => {
  const path = join(folder, 'odd.sock');
  const device = 'm1\u001b[2J\u202e\u200b\u009b@x.example';
  const odd = { device, realm: 'iot\n', address: '10.20.0.2', source: 'file', since: 'now' };
  const server = createServer((request, response) => {
    if (request.url === '/bindings') response.end(JSON.stringify([odd]));
    else response.writeHead(404).end(JSON.stringify({ error: { code: 'odd', message: device } }));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const table = await mtgate('device', 'list', '--socket', path);
  const json = await mtgate('device', 'list', '--json', '--socket', path);
  const fault = await mtgate('status', '--socket', path);
  const completed = await mtgate('complete-words', '--', '--socket', path, 'device', 'show', '');
  server.close();
  const shown = 'm1\\u{1b}[2J\\u{202e}\\u{200b}\\u{9b}@x.example';
  expect(table.stdout.split('\n')[1]).toBe(`${shown}  iot\\u{a}  10.20.0.2          file    now`);
  expect(json.stdout).not.toMatch(/[^\n\x20-\x7e]/);
  expect(JSON.parse(json.stdout)).toEqual([odd]);
  expect(fault.stderr).toBe(`odd: ${shown}\n`);
  expect(completed.stdout).toBe('');
});

describe('users', () => {
  test('list and show: whom each authorises, what it wants, who said so', async () => {
    const { stdout } = await operator('users', 'list');
    expect(stdout).toMatch(
      /^mtcUser +servers +setBy +preferences +liveGrants +devices\nacme +head-end +the rule files +0 +0 +\*@meters\.example\n$/,
    );
    expect(JSON.parse((await operator('users', 'list', '--json')).stdout)).toMatchObject([
      { mtcUser: 'acme', servers: ['head-end'], setBy: 'ruleFiles', preferences: 0, liveGrants: 0 },
    ]);
    expect((await operator('users', 'show', 'nobody')).stderr).toContain('no MTC user nobody in the rule files');
  });

  test('authorise and clear: on a user’s behalf, at once, and on record', async () => {
    const grant = await granted();
    expect(await operator('users', 'authorise', 'acme', 'other')).toMatchObject({
      status: 0,
      stdout: 'acme authorises other\n',
    });
    expect(gateway.store.find(grant.id)).toMatchObject({ endCause: 'serverUnauthorised' });
    expect((await operator('users', 'show', 'acme')).stdout).toMatch(
      /authorises +other\nset by +an operator, \S+ \S+.* by uid 0\n/,
    );
    expect(gateway.log.lines.findLast(({ event }) => event === 'deskChanged')).toMatchObject({
      ...{ mtcUser: 'acme', byUid: 0, what: 'serversSet', servers: ['other'] },
    });
    expect(await operator('users', 'authorise', 'acme', 'nobody')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('"nobody" is none that you may authorise'),
    });
    expect((await operator('users', 'clear', 'acme')).stdout).toBe('acme authorises what the rule files say\n');
    expect((await operator('users', 'list')).stdout).toContain('the rule files');
  });

  test('prefer and drop', async () => {
    const night = ['--quiet', '22:00-06:00', '--days', 'sat,sun', '--grants-per-day', '3', '--zone', 'Europe/Berlin'];
    const { stdout } = await operator('users', 'prefer', 'acme', 'm2@meters.example', '--block', ...night);
    const [, id = ''] = /^preference (\S+) of acme holds\n$/.exec(stdout) ?? [];
    expect((await operator('users', 'show', 'acme')).stdout).toContain(
      'nothing; quiet 22:00-06:00 Europe/Berlin on sat sun; 3 grants a day (Europe/Berlin)',
    );
    expect(await operator('users', 'prefer', 'acme', 'm2@meters.example')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('it says nothing'),
    });
    expect((await operator('users', 'prefer', 'acme', '*@*', '--block')).stderr).toContain('encloses');
    const elsewhere = ['--quiet', '22:00-06:00', '--zone', 'Mars/X'];
    expect((await operator('users', 'prefer', 'acme', 'm2@meters.example', ...elsewhere)).stderr).toContain(
      'quietHours.zone is no time zone such as Europe/Berlin',
    );
    expect((await operator('users', 'drop', 'acme', id)).stdout).toBe(`preference ${id} of acme holds no more\n`);
    expect((await operator('users', 'drop', 'acme', id)).status).toBe(1);
    expect((await operator('users', 'show', 'acme')).stdout).toContain('no preferences');
  });

  test('are completed by name', async () => {
    const words = ['complete-words', '--', 'users', 'show', ''];
    const { stdout } = await said([...MTGATE, ...words], { MTGATE_SOCKET: join(folder, 'agent.sock') });
    expect(stdout).toBe('acme\thead-end\n');
  });
});

describe('completion', () => {
  test('bash: commands, options, and what the agent knows, to the right of an @ too', async () => {
    const { id } = await granted();
    const lines = ['mtgate gra', 'mtgate grants sh', 'mtgate grants show ', 'mtgate grants list --device m1@met'];
    const script = [
      `mtgate() { ${MTGATE.join(' ')} "$@"; }`,
      'source <(mtgate completion bash)',
      ...lines.map((line) => `COMP_LINE='${line}' COMP_POINT=${line.length}; _mtgate; echo "\${COMPREPLY[*]}"`),
    ].join('\n');
    const bash = await said(['bash', '--norc', '-c', script], { MTGATE_SOCKET: join(folder, 'agent.sock') });
    expect(bash.stdout.split('\n')).toEqual(['grants', 'show', id, 'meters.example', '']);
  });

  test('of nat who: no inner address, which nobody has outside', async () => {
    const offered = async (...words: string[]) =>
      (await said([...MTGATE, 'complete-words', '--', ...words, ''], { MTGATE_SOCKET: join(folder, 'agent.sock') }))
        .stdout;
    expect(await offered('device', 'unbind', M1, 'iot')).toContain('10.20.0.2');
    expect(await offered('nat', 'who')).toBe('');
  });

  test('without an agent: nothing, silently', async () => {
    const words = ['complete-words', '--', 'grants', 'show', '--socket', join(folder, 'nobody.sock'), ''];
    expect(await mtgate(...words)).toEqual({ status: 0, stdout: '', stderr: '' });
  });
});
