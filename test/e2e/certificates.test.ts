/**
 * Certificates in real life: what a revocation, a list that is out of date and
 * a file that is broken do to requests, open connections and live grants.
 * `openssl s_client` holds one connection open and writes HTTP by hand.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { API_PORT, DEVICE_PORT, RULES, TestAgent } from '../agent.ts';
import { type Child, program } from '../child.ts';
import type { Network } from '../network.ts';
import type { Issued } from '../pki.ts';
import { Probe } from '../probe.ts';
import { DEVICE, GATEWAY, standardNetwork } from '../standard-network.ts';

const SHORT_MS = 300;
const RULES_FOR_TWO = RULES.replace('authorises: [head-end]', 'authorises: [head-end, stranger]').replace(
  'servers: [head-end]',
  'servers: [head-end, stranger]',
);

let network: Network;
let agent: TestAgent;
let server: Probe;
let rogue: Probe;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, { rules: RULES_FOR_TWO, autoApply: true });
  agent.ca.crl();
  const yaml = readFileSync(agent.configFile, 'utf8');
  const { certificateFile, crlFile } = agent.ca;
  agent.write('agent.yaml', yaml.replace(`file: ${certificateFile}`, `file: ${certificateFile}, crl: ${crlFile}`));
  await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
    line: /^ready$/,
  });
  server = await Probe.start(network, 'server');
  rogue = await Probe.start(network, 'rogue');
  await agent.start();
});
afterAll(async () => {
  await network.close();
});

/** One connection that stays open for as long as the server lets it. */
function connection(from: string, { certificateFile, keyFile }: Issued): Promise<Child> {
  const command = [
    ...[
      'sh',
      '-c',
      'echo ready; exec "$@"',
      'sh',
      'openssl',
      's_client',
      '-quiet',
      '-crlf',
      '-connect',
      `${GATEWAY.ipv4}:${API_PORT}`,
    ],
    ...['-CAfile', agent.ca.certificateFile, '-cert', certificateFile, '-key', keyFile],
  ];
  return network.spawn(from, command, { line: /^ready$/ });
}

/** The status line of an answer over it; it stands in the line of the body before, which has no end of line. */
async function asks(client: Child): Promise<string> {
  const from = client.lines.length;
  client.say('GET /mobile-terminated-access/v1/limits HTTP/1.1\nHost: gateway\n');
  return (await client.line(/HTTP\/1\.1 \d/, { from })).replace(/^.*HTTP\/1\.1 /, '');
}

/** SIGHUP, and what the agent says to it. */
async function hangup(event: 'reloaded' | 'reloadFailed'): Promise<Record<string, unknown>> {
  const from = agent.daemon.lines.length;
  agent.daemon.kill('SIGHUP');
  return JSON.parse(await agent.daemon.line(new RegExp(`"event":"${event}"`), { from }));
}

async function granted(as: Issued, from: string) {
  const { status, body } = await agent.grant({}, { as, from });
  expect(status).toBe(201);
  return body.externalEndpoint;
}

test('a list that revokes one server: its connection and grant end there and then, the other keeps both', async () => {
  const [kept, revoked] = await Promise.all([connection('server', agent.headEnd), connection('rogue', agent.stranger)]);
  expect([await asks(kept), await asks(revoked)]).toEqual(['200 OK', '200 OK']);
  const own = await granted(agent.headEnd, 'server');
  const other = await granted(agent.stranger, 'rogue');
  expect(await rogue.udp({ to: other })).toMatchObject({ outcome: 'answer' });

  agent.ca.revoke(agent.stranger);
  agent.ca.crl();
  await hangup('reloaded');
  expect(await asks(kept)).toBe('200 OK');
  await revoked.gone();
  expect(await rogue.udp({ to: other, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
  expect(await server.udp({ to: own })).toMatchObject({ outcome: 'answer' });
  expect(agent.logged('grantEnded').at(-1)).toMatchObject({ server: 'stranger', cause: 'certificateRevoked' });
  const { status, body } = await agent.grant({}, { as: agent.stranger, from: 'rogue' });
  expect({ status, body }).toEqual({ status: 0, body: undefined }); // nothing beyond TLS
  await agent.daemon.line(/"step":"authentication".*"event":"refused"/);
  expect(agent.logged('refused').at(-1)).toMatchObject({ reason: 'certificateRevoked' });
});

test('a list that cannot be used: nobody of its CA is heard, live grants go on, and a good list ends that', async () => {
  const kept = await connection('server', agent.headEnd);
  expect(await asks(kept)).toBe('200 OK');
  const [{ externalEndpoint } = { externalEndpoint: undefined }] = await agent.grants();
  if (!externalEndpoint) throw new Error('no live grant');
  rmSync(agent.ca.crlFile);
  await hangup('reloaded');
  expect(agent.logged('crlUnusable').at(-1)).toMatchObject({ cause: expect.stringMatching(/^ENOENT/) });
  expect(await asks(kept)).toBe('503 Service Unavailable');
  writeFileSync(agent.ca.crlFile, '');
  await hangup('reloaded');
  expect(agent.logged('crlUnusable').at(-1)).toMatchObject({
    clientCa: 'mtc-ca',
    file: agent.ca.crlFile,
    cause: 'is empty',
  });
  expect(await asks(kept)).toBe('503 Service Unavailable');
  await agent.daemon.line(/"reason":"revocationUnknown".*"event":"refused"/);
  expect(await server.udp({ to: externalEndpoint })).toMatchObject({ outcome: 'answer' });
  expect((await agent.mtgate('reload')).stdout).toMatch(/^not usable: CRL mtc-ca: is empty$/m);
  const { certificates } = await agent.status();
  expect(certificates).toContainEqual({ name: 'mtc-ca', kind: 'crl', usable: false, daysLeft: 0, why: 'is empty' });
  const page = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  expect(page.stdout).toMatch(/^mtgate_crl_usable\{name="mtc-ca"\} 0$/m);
  expect(page.stdout).toMatch(/^mtgate_certificate_expiry_seconds\{kind="server",name="api"\} 2\d{6}/m);

  agent.ca.crl();
  await hangup('reloaded');
  expect(await asks(kept)).toBe('200 OK');
  expect(agent.logged('crlUsable').at(-1)).toMatchObject({ clientCa: 'mtc-ca' });
});

test('a certificate file that is broken changes nothing, and is named', async () => {
  const kept = await connection('server', agent.headEnd);
  expect(await asks(kept)).toBe('200 OK');
  const policy = async () => (await agent.status()).policy;
  const before = await policy();
  const { certificateFile, certificate } = agent.ca;
  writeFileSync(certificateFile, certificate.slice(0, 200));
  agent.write('rules/rules.yaml', RULES);
  const says = `client CA mtc-ca: ${certificateFile}: a CERTIFICATE in it is cut short`;
  expect(await hangup('reloadFailed')).toMatchObject({ code: 'certificateInvalid', message: says });
  const told = await agent.mtgate('reload');
  expect({ status: told.status, named: told.stderr.includes(says) }).toEqual({ status: 1, named: true });
  expect(await asks(kept)).toBe('200 OK');
  expect(await policy()).toBe(before);
  writeFileSync(certificateFile, certificate);
  agent.write('rules/rules.yaml', RULES_FOR_TWO);
  await hangup('reloaded');
  expect(await asks(kept)).toBe('200 OK');
});

test('a start with a list that is out of date: live grants go on, requests are refused, the log says why', async () => {
  const [{ externalEndpoint } = { externalEndpoint: undefined }] = await agent.grants();
  if (!externalEndpoint) throw new Error('no live grant');
  await agent.daemon.stop('SIGTERM');
  const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000);
  agent.ca.crl({ thisUpdate: hoursAgo(48), nextUpdate: hoursAgo(24) });
  await agent.start();
  expect(agent.logged('crlUnusable')).toMatchObject([
    { cause: expect.stringMatching(/^the list of CN=mtc-ca is valid from .* to .*/) },
  ]);
  expect(await server.udp({ to: externalEndpoint })).toMatchObject({ outcome: 'answer' });
  expect((await agent.grant()).status).toBe(503);
  agent.ca.crl();
  expect((await agent.mtgate('reload')).status).toBe(0);
  expect((await agent.grant()).status).toBe(409);
  await agent.daemon.stop('SIGTERM');
});
