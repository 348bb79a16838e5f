/**
 * Floods against the real daemon: of connections that say nothing or stall, of
 * handshakes, of requests. Meanwhile one server's grants go on, each over a
 * connection of its own; what was too much is counted; memory stays within what
 * the limits add up to; and afterwards all is as before.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { API_LIMITS } from '../../agent/api/limits.ts';
import { API_PORT, DEVICE_NAME, TestAgent } from '../agent.ts';
import { type Child, PATIENCE_MS, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import type { Issued } from '../pki.ts';
import { GATEWAY, SERVER, SERVER_SECOND, standardNetwork, UPLINK } from '../standard-network.ts';

/** Any: none of them is a server's. */
const STRANGERS = Array.from({ length: 12 }, (_, at) => `192.0.2.${70 + at}`);
const RULES = `
servers:
  head-end:
    certificates: [{ uri: "urn:mtc:head-end", issuer: mtc-ca }]
    sources: [${SERVER.ipv4}/32]
  flooder:                        # as good a server as the other, until today
    certificates: [{ uri: "urn:mtc:stranger", issuer: mtc-ca }]
    sources: [${SERVER_SECOND.ipv4}/32]
mtcUsers:
  acme:
    certificates: [{ uri: "urn:mtc-user:acme", issuer: mtc-ca }]
    devices: ["*@meters.example"]
    authorises: [head-end, flooder]
    mayAuthorise: ["*"]
rules:
  - id: meters
    allow: { servers: [head-end], devices: ["*@meters.example"], ports: ["7000-7999"] }
    limits: { durationSeconds: 900, totalSeconds: 3600 }
  - id: some-meters
    allow: { servers: [flooder], devices: ["*@meters.example"], ports: ["7000-7999"] }
    limits: { durationSeconds: 900, totalSeconds: 3600, requestsPerMinute: 500 }
`;
/** A grant is answered within this: as long as the API lets a request wait for its turn. */
const ANSWER_MS = API_LIMITS.requests.waitMs * (PATIENCE_MS / 10_000);
const FLOOD_MS = 4_000;

let network: Network;
let agent: TestAgent;
let flooder: Issued;
let nextPort = 7_001;

beforeAll(async () => {
  network = standardNetwork();
  for (const address of STRANGERS) await network.run('rogue', ['ip', 'address', 'add', `${address}/26`, 'dev', UPLINK]);
  agent = new TestAgent(network, { rules: RULES });
  flooder = agent.stranger;
  await agent.start();
});
afterAll(async () => {
  await network.close();
});

/** One grant over a connection of its own, as curl sees it. */
async function ask(): Promise<{ status: number; ms: number }> {
  const body = { device: { networkAccessIdentifier: DEVICE_NAME }, protocol: 'UDP', durationSeconds: 60 };
  nextPort += 1;
  const { certificateFile, keyFile } = agent.headEnd;
  const { stdout } = await network.run(
    'server',
    [
      ...['curl', '--silent', '--max-time', '10', '--cacert', agent.ca.certificateFile, '--interface', SERVER.ipv4],
      ...['--cert', certificateFile, '--key', keyFile, '--json', JSON.stringify({ ...body, devicePort: nextPort })],
      ...['--output', '/dev/null', '--write-out', '%{http_code} %{time_total}'],
      `https://${GATEWAY.ipv4}:${API_PORT}/mobile-terminated-access/v1/grants`,
    ],
    { mayFail: true },
  );
  const [status = 0, seconds = 0] = stdout.split(' ').map(Number);
  return { status, ms: seconds * 1_000 };
}

/** Asks for grants for as long as a flood goes on; each must be granted in time. */
async function grantsGoOn(): Promise<void> {
  let granted = 0;
  for (const end = performance.now() + FLOOD_MS; performance.now() < end; granted += 1) {
    const { status, ms } = await ask();
    expect(status).toBe(201);
    expect(ms).toBeLessThan(ANSWER_MS);
  }
  expect(granted).toBeGreaterThan(5);
}

function flood(namespace: string, mode: string, count: number, ...more: string[]): Promise<Child> {
  const command = program('test/flood.ts', mode, GATEWAY.ipv4, String(API_PORT), String(count), ...more);
  return network.spawn(namespace, command, { line: /^ready$/ });
}

/** What a flood has seen, once that is enough. */
async function saw(child: Child, enough: (seen: Record<string, number>) => boolean): Promise<Record<string, number>> {
  return until('the flood to have seen enough', () => {
    const last = child.lines.at(-1) ?? '';
    const seen = last.startsWith('{') ? (JSON.parse(last) as Record<string, number>) : {};
    return enough(seen) ? seen : undefined;
  });
}

/** The sum of a metric, of those of its labels that are named. */
async function metric(name: string, label = ''): Promise<number> {
  const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  const lines = stdout.split('\n').filter((line) => line.startsWith(name) && line.includes(label));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

/** Of the daemon, in MiB: what it has, or has had at most. */
function memory(what: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${agent.daemon.pid}/status`, 'utf8');
  return Number(new RegExp(`${what}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024;
}

test('grants go on through floods of connections, handshakes and requests', async () => {
  for (let at = 0; at < 20; at++) expect((await ask()).status).toBe(201);
  const before = memory('VmRSS');

  // 10,000 connections of strangers that say nothing, or begin a handshake and stall.
  const crowd = await flood('rogue', 'connections', 10_000, ...STRANGERS);
  await grantsGoOn();
  const { tried = 0 } = await saw(crowd, ({ tried = 0, closed = 0 }) => tried >= 10_000 && closed > 1_000);
  expect(await metric('mtgate_connections_shed_total')).toBeGreaterThan(tried / 4);
  await crowd.stop('SIGKILL');

  // Handshakes of strangers without a certificate, and of a server that makes a connection a request.
  const strangers = await flood('rogue', 'handshakes', 64, '-', '-', ...STRANGERS);
  const files = [flooder.certificateFile, flooder.keyFile, SERVER_SECOND.ipv4];
  const hasty = await flood('server', 'handshakes', 300, ...files);
  await grantsGoOn();
  expect(await metric('mtgate_connections_shed_total', 'server')).toBeGreaterThan(0);
  await Promise.all([strangers.stop('SIGKILL'), hasty.stop('SIGKILL')]);

  // Requests: as many as the server may have connections, each with several at once, and more than its rule allows.
  const greedy = await flood('server', 'requests', API_LIMITS.connections.serverPlaces.most, ...files);
  await grantsGoOn();
  const seen = await saw(greedy, (seen) => (seen['429'] ?? 0) > 100);
  expect(seen['retryAfter']).toBeGreaterThan(100);
  expect(Object.keys(seen).filter((status) => /^5/.test(status))).toEqual([]);
  await greedy.stop('SIGKILL');
  expect(await metric('mtgate_refusals_total', 'rateExceeded')).toBeGreaterThan(100);

  // Every place taken, with a full request each, and what the loop had in hand: 100 KiB a place.
  const { serverPlaces, sparePlaces, strangerPlaces } = API_LIMITS.connections;
  const placesMiB = (serverPlaces.all + sparePlaces + strangerPlaces) / 10;
  expect(memory('VmHWM')).toBeLessThan(before + placesMiB);

  // Lines are few, whatever came.
  const seconds = (3 * FLOOD_MS + 30_000) / 1_000;
  expect(agent.logged('connectionShed').length).toBeLessThan(20 * seconds);
  expect(agent.logged('refused').length).toBeLessThan(60 * seconds);
  const [shed] = agent.logged('connectionShed');
  expect(shed).toMatchObject({ reason: expect.stringMatching(/^(address|stranger)/), remote: expect.any(String) });

  // And a stranger is heard again: its handshake passes, and it is told that it is none.
  const heard = await until('a stranger to be heard', async () => {
    const { status, body } = await agent.grant({}, { from: 'rogue', as: flooder });
    return status === 0 ? undefined : { status, code: body.code };
  });
  expect(heard).toEqual({ status: 403, code: 'PERMISSION_DENIED' });
  expect((await ask()).status).toBe(201);
  const { stdout } = await agent.mtgate('denials', '--json');
  expect(stdout).toContain('tlsShed');
}, 60_000);
