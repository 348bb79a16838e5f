/**
 * Who had which public endpoint at which time, asked of the real agent: for
 * flows that a device began and for grants, over kills and restarts; and what
 * a syslog collector outside is told of it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DenialList } from '../../agent/api/denial-routes.ts';
import type { NatAnswer, NatRow } from '../../agent/api/nat-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { DEVICE_NAME, DEVICE_PORT, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import { DEVICE, GATEWAY, GRANTS_POOL, SERVER, SERVER_SECOND, standardNetwork } from '../standard-network.ts';

const SERVICE = 7000;
const FAMILIES = ['ipv4', 'ipv6'] as const;
const COLLECTOR = { udp: 5514, tcp: 5601 } as const;

let network: Network;
let agent: TestAgent;
let service: Child;
let device: Probe;
let collector: Child;

beforeAll(async () => {
  network = standardNetwork();
  const collecting = 'the record names inner addresses, and is told to its collector';
  for (const source of [GATEWAY.ipv4, DEVICE.ipv4, DEVICE.ipv6])
    network.show({ source, to: SERVER_SECOND.ipv4 }, collecting);
  agent = new TestAgent(network, {
    more: `natRecord: { syslog: { collector: "${SERVER_SECOND.ipv4}:${COLLECTOR.udp}" } }`,
  });
  collector = await network.spawn(
    'server',
    program('test/collector.ts', 'udp', SERVER_SECOND.ipv4, String(COLLECTOR.udp)),
    { line: /^ready$/ },
  );
  service = await network.spawn('server', program('test/device.ts', String(SERVICE), SERVER.ipv4, SERVER.ipv6), {
    line: /^ready$/,
  });
  await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
    line: /^ready$/,
  });
  device = await Probe.start(network, 'device');
  await agent.start();
  await agent.daemon.line(/"event":"natRecorderReady"/);
});
afterAll(async () => {
  await network.close();
});

interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** What the server saw of a device's text. */
async function seenAs(text: string, from = 0): Promise<Endpoint> {
  const line = await service.line(new RegExp(` ${text}$`), { from });
  const [, address = '', port = ''] = /^\w+ \[?([^\]\s]+?)\]?:(\d+) /.exec(line) ?? [];
  return { address, port: Number(port) };
}

function who({ address, port }: Endpoint, time = 'now', protocol?: 'tcp' | 'udp'): Promise<NatAnswer> {
  const words = { address, port: String(port), time, ...(protocol && { protocol }) };
  return call<NatAnswer>(
    { socket: join(agent.folder, 'mtgate.sock') },
    'GET',
    `/nat/who?${new URLSearchParams(words)}`,
  );
}

/** The one who had it, once it is written. */
function onRecord(
  endpoint: Endpoint,
  time?: string,
  isAsWanted: (row: NatRow) => boolean = () => true,
): Promise<NatRow> {
  return until('a record of it', async () => {
    const { candidates } = await who(endpoint, time);
    return candidates.length === 1 && candidates[0] && isAsWanted(candidates[0]) ? candidates[0] : undefined;
  });
}

const recorderPid = () => Number(agent.logged('natRecorderReady').at(-1)?.['pid']);
const iso = (ms: number) => new Date(ms).toISOString();

describe.each(FAMILIES)('a flow that a device began, %s', (family) => {
  test.each(['udp', 'tcp'] as const)(
    'by %s is known by its endpoint outside, from its beginning to its end',
    async (protocol) => {
      const text = `who ${family} ${protocol}`;
      const beforeMs = Date.now();
      const session = await Session.open(network, 'device', protocol, { address: SERVER[family], port: SERVICE });
      session.say(text);
      const endpoint = await seenAs(text);
      const row = await onRecord(endpoint);
      expect(row).toMatchObject({
        device: DEVICE_NAME,
        protocol,
        realm: 'iot',
        inner: expect.stringContaining(DEVICE[family]),
        external: expect.stringContaining(`:${endpoint.port}`),
        certain: true,
      });
      expect(row.ended).toBeUndefined();
      expect(Date.parse(row.began)).toBeGreaterThanOrEqual(beforeMs - 10);
      expect(Date.parse(row.began)).toBeLessThanOrEqual(Date.now());
      await session.stop();
      await network.run('gateway', ['conntrack', '-D', '-f', family, '-p', protocol, '-s', DEVICE[family]]);
      const ended = await onRecord(endpoint, row.began, (one) => one.ended !== undefined);
      expect(Date.parse(ended.ended ?? '')).toBeGreaterThan(Date.parse(row.began));
      // Behind its end, and before it began, nobody had it.
      await sleep(20);
      expect((await who(endpoint, iso(Date.parse(ended.ended ?? '') + 5))).candidates).toEqual([]);
      expect((await who(endpoint, iso(Date.parse(ended.began) - 5))).candidates).toEqual([]);
      expect((await who(endpoint, row.began, protocol === 'udp' ? 'tcp' : 'udp')).candidates).toEqual([]);
    },
  );
});

test('a granted session is known by its endpoint too, while it lives and after; with the server that it was for', async () => {
  const { body } = await agent.grant();
  const endpoint = body.externalEndpoint;
  const row = await onRecord(endpoint);
  expect(row).toMatchObject({
    ...{ device: DEVICE_NAME, protocol: 'udp', grant: body.grantId, server: 'head-end', certain: true },
    inner: `${DEVICE.ipv4}:${DEVICE_PORT}`,
  });
  await agent.curl('DELETE', `/grants/${body.grantId}`);
  const ended = await onRecord(endpoint, row.began, (one) => one.ended !== undefined);
  expect(ended.grant).toBe(body.grantId);
  await sleep(20);
  expect((await who(endpoint, iso(Date.parse(ended.ended ?? '') + 5))).candidates).toEqual([]);
  await collector.line(
    new RegExp(
      `NATEND .*external="${endpoint.address}" port="${endpoint.port}".*grant="${body.grantId}" server="head-end"`,
    ),
  );
});

test('the command says it to people and to scripts, and what is wrong with a question', async () => {
  expect(await device.udp({ to: { address: SERVER.ipv4, port: SERVICE }, text: 'command' })).toMatchObject({
    outcome: 'answer',
  });
  const { address, port } = await seenAs('command');
  await onRecord({ address, port });
  const ask = (...words: string[]) => agent.mtgate('nat', 'who', ...words);
  const page = await ask(address, String(port), 'now', '--protocol', 'udp');
  expect(page).toMatchObject({
    status: 0,
    stdout: expect.stringMatching(new RegExp(`^device .*\\n${DEVICE_NAME} .* now .*the device +yes`)),
  });
  const asJson = JSON.parse((await ask(address, String(port), 'now', '--json')).stdout) as NatAnswer;
  expect(asJson.candidates).toHaveLength(1);
  const nobody = await ask(GRANTS_POOL.ipv4.replace('0/29', '3'), '1', 'now');
  expect(nobody).toMatchObject({ status: 0, stdout: expect.stringContaining('nobody had 203.0.113.3 port 1 then') });
  expect(await ask('192.0.2.99', '80', 'now')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('notInPool: 192.0.2.99 is in no pool of this gateway'),
  });
  expect(await ask(address, '80', '2020-01-01T00:00:00Z')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/timeNotCovered: the record begins at 20/),
  });
  expect(await ask(address, '80', iso(Date.now() + 3_600_000))).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('timeInFuture'),
  });
  expect(await ask(address, '80', '2020-01-01 00:00:00')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('a time with its zone'),
  });
  expect(await ask(address, 'http', 'now')).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('"http" is not a port'),
  });
  expect(await ask('no-address', '80', 'now')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('expected an IP address'),
  });
});

test('the collector is told of beginning and end: no server of a flow, no IMSI, no MSISDN', async () => {
  const session = await Session.open(network, 'device', 'udp', { address: SERVER.ipv4, port: SERVICE });
  session.say('told');
  const { address, port } = await seenAs('told');
  const begun = await collector.line(new RegExp(`NATBEGIN .*external="${address}" port="${port}"`));
  expect(begun).toMatch(
    /^<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z gw-demo mtgate - NATBEGIN \[mapping@32473 protocol="udp" external="[^"]+" port="\d+" realm="iot" inner="10\.20\.0\.2" innerPort="\d+" device="m1@meters\.example" began="[^"]+" beganFrom="[^"]+"\]$/,
  );
  await session.stop();
  await network.run('gateway', ['conntrack', '-D', '-p', 'udp', '-s', DEVICE.ipv4]);
  const ended = await collector.line(new RegExp(`NATEND .*external="${address}" port="${port}"`));
  expect(ended).toMatch(/began="[^"]+" ended="[^"]+"\]$/);
  const told = collector.lines.join('\n');
  expect(told).not.toContain('491715550100');
  expect(told.replace(/^.*?\[/gm, '').includes(SERVER.ipv4)).toBe(false);
  const file =
    readFileSync(join(agent.folder, 'store/nat.db'), 'latin1') +
    readFileSync(join(agent.folder, 'store/nat.db-wal'), 'latin1');
  expect(file).toContain(DEVICE_NAME);
  expect(file).not.toContain('491715550100');
  expect(file.includes(Buffer.from(SERVER.ipv4.split('.').map(Number)).toString('latin1'))).toBe(false);
});

describe('what runs is on record', () => {
  test.each(['the recorder', 'the agent'])('when %s is killed in the midst of it', async (what) => {
    const before = await Session.open(network, 'device', 'tcp', { address: SERVER.ipv4, port: SERVICE });
    before.say(`before ${what}`);
    const first = await seenAs(`before ${what}`);
    const { began } = await onRecord(first);
    const gone = await Session.open(network, 'device', 'tcp', { address: SERVER.ipv6, port: SERVICE });
    gone.say(`gone ${what}`);
    const ends = await seenAs(`gone ${what}`);
    await onRecord(ends);

    const from = agent.daemon.lines.length;
    const [agentPid] = [agent.daemon.pid];
    const recorder = recorderPid();
    if (what === 'the agent') process.kill(agentPid, 'SIGKILL');
    else process.kill(recorder, 'SIGSTOP'); // deaf, so that what follows is not heard
    await until('an end', () => (what === 'the agent' && isAlive(recorder) ? undefined : true));
    const during = await Session.open(network, 'device', 'udp', { address: SERVER.ipv4, port: SERVICE });
    during.say(`during ${what}`);
    const second = await seenAs(`during ${what}`);
    const knownMs = Date.now();
    await gone.stop();
    await network.run('gateway', ['conntrack', '-D', '-f', 'ipv6', '-s', DEVICE.ipv6]);
    if (what === 'the agent') {
      await agent.start();
      await agent.daemon.line(/"event":"natRecorderReady"/);
    } else {
      process.kill(recorder, 'SIGKILL');
      await agent.daemon.line(/"event":"natRecorderDied"/, { from });
      await agent.daemon.line(/"event":"natRecorderReady"/, { from });
    }

    expect(await onRecord(first)).toMatchObject({ device: DEVICE_NAME, began, certain: true });
    // Begun while nobody heard, and exact all the same: the kernel notes when.
    const found = await onRecord(second, iso(knownMs));
    expect(found).toMatchObject({ device: DEVICE_NAME, certain: true });
    expect(Date.parse(found.began)).toBeLessThanOrEqual(knownMs);
    // Ended while nobody heard: between two times, and the answer says so.
    const { candidates, notes } = await who(ends, iso(knownMs));
    expect(candidates).toMatchObject([
      { device: DEVICE_NAME, ended: expect.any(String), endedFrom: expect.any(String), certain: false },
    ]);
    expect(notes.join()).toMatch(/not all was heard \(notRunning\)/);
    await before.stop();
    await during.stop();
  });

  test('when the agent is stopped and started', async () => {
    const session = await Session.open(network, 'device', 'udp', { address: SERVER.ipv4, port: SERVICE });
    session.say('over a restart');
    const endpoint = await seenAs('over a restart'); // and at once:
    const recorder = recorderPid();
    agent.daemon.kill('SIGTERM');
    await agent.daemon.gone();
    expect(isAlive(recorder)).toBe(false);
    await agent.start();
    await agent.daemon.line(/"event":"natRecorderReady"/);
    expect(await onRecord(endpoint)).toMatchObject({ device: DEVICE_NAME, certain: true });
    await session.stop();
  });

  test('a grant that ended while nobody recorded is on record afterwards', async () => {
    const { body } = await agent.grant({ devicePort: 7002 });
    const from = agent.daemon.lines.length;
    const deaths = await metric('mtgate_nat_recorder_deaths_total');
    process.kill(recorderPid(), 'SIGKILL');
    await agent.daemon.line(/"event":"natRecorderDied"/, { from });
    expect(await metric('mtgate_nat_recorder_deaths_total')).toBe(deaths + 1);
    const endedMs = Date.now();
    await agent.curl('DELETE', `/grants/${body.grantId}`);
    await agent.daemon.line(/"event":"natRecorderReady"/, { from });
    expect(await onRecord(body.externalEndpoint, iso(endedMs - 1), ({ ended }) => ended !== undefined)).toMatchObject({
      grant: body.grantId,
    });
  });
});

test('a device of which nobody knows whose address it had is not guessed: the address is', async () => {
  // The binding ends, and with it the flow; the record keeps the holder of its time.
  const session = await Session.open(network, 'device', 'udp', { address: SERVER.ipv4, port: SERVICE });
  session.say('of m1');
  const endpoint = await seenAs('of m1');
  const { began } = await onRecord(endpoint);
  agent.write(
    'devices.yaml',
    readFileSync(join(agent.folder, 'devices.yaml'), 'utf8')
      .replace(/ {6}- \{ realm: iot, address: 10.*\n/, '')
      .replace(
        '  - externalId: m2@meters.example',
        `  - externalId: m2@meters.example\n    bindings: [{ realm: iot, address: ${DEVICE.ipv4} }]`,
      ),
  );
  expect((await agent.mtgate('reload')).status).toBe(0);
  session.say('of m2');
  const next = await seenAs('of m2');
  expect(next).not.toEqual(endpoint);
  expect(await onRecord(next)).toMatchObject({ device: 'm2@meters.example' });
  expect(await onRecord(endpoint, began, ({ ended }) => ended !== undefined)).toMatchObject({ device: DEVICE_NAME });
  await session.stop();
});

test('many flows at once are all there, and the agent counts them', async () => {
  const countMetric = () => metric('mtgate_nat_flows_total{what="begun"}');
  const before = await countMetric();
  const from = service.lines.length;
  await network.run('device', [process.execPath, '-e', flowsFrom(20_000, 20_900, 'answered')]);
  await until('all flows', async () => ((await countMetric()) >= before + 900 ? true : undefined));
  const seen = service.lines.slice(from).flatMap((line) => /^udp [^:]+:(\d+) .* x$/.exec(line)?.slice(1) ?? []);
  expect(seen).toHaveLength(900);
  const db = new Database(join(agent.folder, 'store/nat.db'), { readonly: true });
  const rows = db.prepare("SELECT port FROM mappings WHERE device LIKE '%@meters.example'").pluck().all() as number[];
  db.close();
  const recorded = new Set(rows);
  expect(seen.filter((port) => !recorded.has(Number(port)))).toEqual([]);
});

test('what is more than a device may have at once is refused, counted, and told of', async () => {
  await network.run('device', [process.execPath, '-e', flowsFrom(30_000, 30_200)]);
  const { denials } = await until('a denial', async () => {
    const list = await call<DenialList>(
      { socket: join(agent.folder, 'mtgate.sock') },
      'GET',
      '/denials?reason=flowCapExceeded',
    );
    return list.denials.length > 0 ? list : undefined;
  });
  expect(denials[0]).toMatchObject({ source: DEVICE.ipv4, target: `udp ${SERVER.ipv4}:${SERVICE}` });
  const { stdout } = await network.run('gateway', ['nft', 'list', 'counters', 'table', 'inet', 'mtgate_flows']);
  const packets = Number(/packets (\d+)/.exec(stdout)?.[1]);
  expect(packets).toBeGreaterThan(50);
  await until(
    'the metric',
    async () => ((await metric('mtgate_flow_cap_packets_total')) === packets ? true : undefined),
    15_000,
  );
});

test('a collector over TCP that goes away and comes back is told what waited', async () => {
  agent.daemon.kill('SIGTERM');
  await agent.daemon.gone();
  // The device has had as many flows as it may have at once.
  await network.run('gateway', ['conntrack', '-D', '-s', DEVICE.ipv4]);
  const yaml = readFileSync(agent.configFile, 'utf8').replace(
    /natRecord:.*/,
    `natRecord: { syslog: { collector: "${SERVER_SECOND.ipv4}:${COLLECTOR.tcp}", transport: tcp } }`,
  );
  agent.write('agent.yaml', yaml);
  await agent.start();
  await agent.daemon.line(/"event":"natCollectorAway"/);
  await agent.daemon.line(/"event":"natRecorderReady"/);
  const flow = async (text: string) => {
    await device.udp({ to: { address: SERVER.ipv4, port: SERVICE }, text });
    return seenAs(text);
  };
  const first = await flow('waits');
  const listen = () =>
    network.spawn('server', program('test/collector.ts', 'tcp', SERVER_SECOND.ipv4, String(COLLECTOR.tcp)), {
      line: /^ready$/,
    });
  const tcp = await listen();
  await tcp.line(new RegExp(`NATBEGIN .*port="${first.port}"`));
  await agent.daemon.line(/"event":"natCollectorBack"/);
  const second = await flow('goes');
  await tcp.line(new RegExp(`NATBEGIN .*port="${second.port}"`));
});

/** A device's program that begins a flow from each of these ports, once that of the one before has gone out, or was answered. */
function flowsFrom(low: number, below: number, next: 'sent' | 'answered' = 'sent'): string {
  return `const { createSocket } = require('node:dgram');
    const from = (port) => { if (port === ${below}) return; const socket = createSocket('udp4');
      const goOn = () => { socket.close(); from(port + 1); };
      if (${next === 'answered'}) socket.once('message', goOn);
      socket.bind(port, () => socket.send('x', ${SERVICE}, '${SERVER.ipv4}', ${next === 'answered'} ? undefined : goOn)); };
    from(${low});`;
}

async function metric(name: string): Promise<number> {
  const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  const line = stdout.split('\n').find((one) => one.startsWith(`${name} `));
  return Number(line?.slice(name.length));
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
