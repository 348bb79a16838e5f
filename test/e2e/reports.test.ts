/**
 * "The MTC user can be given the details of the source" (TR 23.888 5.8.2): by
 * its API, by a stream, and by pushes to receivers that behave and that do not.
 */
import { createHash, createPublicKey, generateKeyPairSync, verify } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { type CloudEvent, HTTP } from 'cloudevents';
import { httpbis } from 'http-message-signatures';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { API_PORT, DEVICE_NAME, RULES, TestAgent } from '../agent.ts';
import { until } from '../child.ts';
import type { Network } from '../network.ts';
import type { Issued } from '../pki.ts';
import { Probe } from '../probe.ts';
import { DNS_PORT, type Mode, RECEIVER_PORT, Receiver } from '../receiver.ts';
import { DEVICE, GATEWAY, ROGUE, SERVER, standardNetwork } from '../standard-network.ts';

const NAME = 'sink.acme.example';
const sink = (path: string, name = NAME) => `{ url: "https://${name}:${RECEIVER_PORT}${path}", ca: partner }`;
const MODES: readonly Mode[] = ['hang', 'drip', 'redirect', 'short', 'long', 'flood', 'garbage'];
const SINKS = [
  ...MODES.map((mode) => `      ${mode}: ${sink(`/${mode}`)}`),
  `      siem: ${sink('/siem?tenant=7')}`,
  `      wrong-name: ${sink('/wrong-name', 'other.acme.example')}`,
  `      public-ca: { url: "https://${NAME}:${RECEIVER_PORT}/public-ca" }`,
  `      device: ${sink('/device', 'device.acme.example')}`,
  `      gateway: ${sink('/gateway', 'gateway.acme.example')}`,
  `      mapped: ${sink('/mapped', 'mapped.acme.example')}`,
  `      changing: ${sink('/changing', 'changing.acme.example')}`,
].join('\n');
const WITH_SINKS = RULES.replace('    mayAuthorise: ["*"]', `    mayAuthorise: ["*"]\n    sinks:\n${SINKS}`).replace(
  '  stranger:',
  `    sinks: { events: ${sink('/head-end')} }\n  stranger:`,
);

let network: Network;
let agent: TestAgent;
let receiver: Receiver;
let rogue: Probe;
let acme: Issued;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, { rules: WITH_SINKS });
  const { privateKey } = generateKeyPairSync('ed25519');
  agent.write('signing.key', privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 0o600);
  const { certificateFile } = agent.ca;
  appendFileSync(
    agent.configFile,
    `
reports:
  signingKey: signing.key
  sinkCAs: [{ name: partner, file: ${certificateFile} }]
  resolvers: ["${SERVER.ipv4}:${DNS_PORT}"]
  everySeconds: 1
`,
  );
  acme = agent.ca.issue({ name: 'acme', usage: ['clientAuth'], san: ['URI:urn:mtc-user:acme'] });
  const names = [NAME, 'device.acme.example', 'gateway.acme.example', 'mapped.acme.example', 'changing.acme.example'];
  const own = agent.ca.issue({ name: 'sink', usage: ['serverAuth'], san: names.map((name) => `DNS:${name}`) });
  receiver = await Receiver.start(network, 'server', SERVER.ipv4, own);
  await receiver.set({
    names: {
      [NAME]: [SERVER.ipv4],
      'other.acme.example': [SERVER.ipv4],
      'device.acme.example': [DEVICE.ipv4, DEVICE.ipv6],
      'gateway.acme.example': [GATEWAY.ipv4],
      'mapped.acme.example': ['64:ff9b::a14:2', '::1'],
      'changing.acme.example': [SERVER.ipv4],
    },
    paths: Object.fromEntries(MODES.map((mode) => [`/${mode}`, mode])),
  });
  rogue = await Probe.start(network, 'rogue');
  // Whatever the environment says of proxies and of verification is not heeded.
  const proxy = `http://${SERVER.ipv4}:1`;
  const env = { HTTPS_PROXY: proxy, https_proxy: proxy, NODE_TLS_REJECT_UNAUTHORIZED: '0', NODE_USE_ENV_PROXY: '1' };
  await agent.start(env);
  await agent.daemon.line(/"event":"inspectorSees"/);
});
afterAll(() => network.close());

interface Reported {
  readonly id: string;
  readonly reason: string;
  readonly count: number;
  readonly [member: string]: unknown;
}

/** Everything that came to a path, report by report. */
const pushed = (path: string): Reported[] =>
  receiver.received(path).flatMap(({ body }) => (JSON.parse(body) as { data: { reports: Reported[] } }).data.reports);

/** The API of the MTC user, by curl. */
async function ask(path: string, options: readonly string[] = [], as: Issued = acme) {
  const { stdout } = await network.run(
    'server',
    [
      ...['curl', '--silent', '--show-error', '--max-time', '10', '--write-out', '\n%{http_code} %{content_type}'],
      ...['--cacert', agent.ca.certificateFile, '--cert', as.certificateFile, '--key', as.keyFile, ...options],
      `https://${GATEWAY.ipv4}:${API_PORT}/mtc-user/v1${path}`,
    ],
    { mayFail: true },
  );
  const at = stdout.lastIndexOf('\n');
  const [status, type] = stdout.slice(at + 1).split(' ');
  return { status: Number(status), type, text: stdout.slice(0, at) };
}
const reports = async (query = '') =>
  JSON.parse((await ask(`/reports${query}`)).text) as { reports: Reported[]; total: number; lastKey?: string };

/** A server that acme does not authorise asks for acme's device. */
const tryUnauthorised = (port = 7000) => agent.grant({ devicePort: port }, { as: agent.stranger, from: 'rogue' });

const faultsOf = (name: string) => agent.logged('pushFailed').filter(({ sink: id }) => id === `mtcUser acme ${name}`);
const fault = (name: string) => until(`a fault of ${name}`, () => faultsOf(name)[0], 40_000);

describe('an unauthorised server', () => {
  test('appears at the sink of the MTC user with the details of the source, signed', async () => {
    const { status } = await tryUnauthorised();
    expect(status).toBe(404);
    const [first] = await until('a push', () => {
      const all = receiver.received('/siem?tenant=7');
      return all.length > 0 ? all : undefined;
    });
    const { headers, body } = first as NonNullable<typeof first>;
    const event = HTTP.toEvent({ headers: { ...headers }, body }) as CloudEvent<unknown>;
    expect(event.validate()).toBe(true);
    const der = Buffer.from(agent.stranger.certificate.replace(/-----[^-]+-----/g, ''), 'base64');
    expect(event).toMatchObject({
      type: 'mtgate.reports.v1',
      source: 'urn:mtgate:gateway:gw-demo',
      subject: 'acme',
      sequence: '0000000000000001',
      data: {
        mtcUser: 'acme',
        reports: [
          {
            kind: 'refusal',
            reason: 'notAuthorisedByMtcUser',
            source: { address: ROGUE.ipv4, port: expect.any(Number) },
            proven: 'tls',
            protocol: 'udp',
            devicePort: 7000,
            device: DEVICE_NAME,
            server: 'stranger',
            certificate: createHash('sha256').update(der).digest('hex'),
            count: 1,
          },
        ],
      },
    });

    const jwk = JSON.parse((await ask('/signing-key')).text) as { kid: string };
    const key = createPublicKey({ key: jwk as never, format: 'jwk' });
    const url = `https://${NAME}:${RECEIVER_PORT}/siem?tenant=7`;
    const keyLookup = async ({ keyid }: { keyid?: string }) => {
      expect(keyid).toBe(jwk.kid);
      return { algs: ['ed25519'], verify: async (data: Buffer, by: Buffer) => verify(null, data, key, by) };
    };
    expect(await httpbis.verifyMessage({ keyLookup }, { method: 'POST', url, headers: { ...headers } })).toBe(true);
    const digest = createHash('sha256').update(body).digest('base64');
    expect(headers['content-digest']).toBe(`sha-256=:${digest}:`);
  });

  test('is in the list, the table of the day and the stream', async () => {
    const stream = network.launch('server', [
      ...['curl', '--silent', '--no-buffer', '--cacert', agent.ca.certificateFile],
      ...['--cert', acme.certificateFile, '--key', acme.keyFile, '--header', 'Last-Event-ID: 0-'],
      `https://${GATEWAY.ipv4}:${API_PORT}/mtc-user/v1/reports/stream`,
    ]);
    await stream.line(/^data: .*"devicePort":7000/); // of before, since it asked
    await tryUnauthorised(7001);
    await stream.line(/^data: .*"devicePort":7001/);
    await stream.stop();

    const listed = (await reports()).reports;
    expect(listed).toMatchObject([{ devicePort: 7001 }, { devicePort: 7000 }]); // the newest first
    expect(await reports(`?device=${DEVICE_NAME}&reason=notAuthorisedByMtcUser&perPage=1`)).toMatchObject({
      reports: [{ devicePort: 7001 }],
      total: 2,
      lastKey: expect.any(String),
    });
    expect((await reports('?device=m2@meters.example')).total).toBe(0);

    const today = new Date().toISOString().slice(0, 10);
    const table = await ask(`/reports/by-day/${today}`);
    expect(table.type).toContain('text/csv');
    expect(table.text.split('\r\n')[0]).toMatch(/^firstSeen,lastSeen,kind,reason,count/);
    expect(table.text).toContain(`,${ROGUE.ipv4},`);
    expect((await ask('/reports/by-day/2026-13-01')).status).toBe(400);
    expect((await ask('/reports', [], agent.headEnd)).status).toBe(403);
  });
});

test('a packet to a live endpoint from elsewhere is told without proof, and without an inner address', async () => {
  const { body } = await agent.grant();
  const { address, port } = body.externalEndpoint;
  await rogue.udp({ to: { address, port }, from: { port: 40_123 }, waitMs: 100 });
  const told = await until('the denial', () => pushed('/siem?tenant=7').find(({ reason }) => reason === 'wrongSource'));
  expect(told).toMatchObject({
    kind: 'denial',
    source: { address: ROGUE.ipv4, port: 40_123 },
    proven: 'none',
    externalEndpoint: { address, port },
    device: DEVICE_NAME,
    grantId: body.grantId,
  });
  expect(JSON.stringify(told)).not.toContain(DEVICE.ipv4);
});

describe('a server', () => {
  test('is told of the end of its grants at its sink, or where the request said, and while it listens', async () => {
    const stream = network.launch('server', [
      ...['curl', '--silent', '--no-buffer', '--cacert', agent.ca.certificateFile],
      ...['--cert', agent.headEnd.certificateFile, '--key', agent.headEnd.keyFile],
      `https://${GATEWAY.ipv4}:${API_PORT}/mobile-terminated-access/v1/events`,
    ]);
    await stream.line(/^retry: /);
    const named = `https://${NAME}:${RECEIVER_PORT}/head-end/7`;
    const { body: first } = await agent.grant({ devicePort: 7201 });
    const { body: second } = await agent.grant({ devicePort: 7202, sink: named });
    for (const { grantId } of [first, second]) await agent.curl('DELETE', `/grants/${grantId}`);
    await stream.line(new RegExp(`^data: .*${second.grantId}.*ENDED_BY_SERVER`));
    await stream.stop();
    const event = (path: string) => until(`an event at ${path}`, () => receiver.received(path)[0]);
    expect(JSON.parse((await event('/head-end')).body)).toMatchObject({
      id: `${first.grantId}.ended`,
      type: 'mtgate.grant.ended.v1',
      data: { grantId: first.grantId, status: 'ENDED', endCause: 'ENDED_BY_SERVER' },
    });
    expect(JSON.parse((await event('/head-end/7')).body)).toMatchObject({ id: `${second.grantId}.ended` });
    expect(receiver.received('/head-end')).toHaveLength(1);

    const refused = await agent.grant({ devicePort: 7203, sink: `https://${NAME}:${RECEIVER_PORT}/siem` });
    expect([refused.status, refused.body.code]).toEqual([422, 'INVALID_SINK']);
  });
});

describe('a sink', () => {
  test.each([
    ['device', 'addressForbidden', DEVICE.ipv6],
    ['gateway', 'addressForbidden', GATEWAY.ipv4],
    ['mapped', 'addressForbidden', '::1'],
    ['wrong-name', 'tlsFailed', 'altnames'],
    ['public-ca', 'tlsFailed', ''],
    ['redirect', 'redirected', '307'],
    ['garbage', 'broken', ''],
    ['hang', 'tooSlow', 'answer'],
    ['drip', 'tooSlow', 'answer'],
  ])('%s: %s', async (name, expected, why) => {
    expect(await fault(name)).toMatchObject({ fault: expected, why: expect.stringContaining(why) });
  });

  test('that redirects is not followed', () => {
    expect(receiver.received('/redirected')).toEqual([]);
  });

  test.each(['short', 'long', 'flood'])(
    'that lies about its length (%s) has taken what it said that it took',
    async (name) => {
      await until(`what came to ${name}`, () => receiver.received(`/${name}`)[0]);
      expect(faultsOf(name)).toEqual([]);
    },
  );

  test('whose name leads inside from now on is not connected any more', async () => {
    await until('a push', () => receiver.received('/changing')[0]);
    const { length } = receiver.received('/changing');
    await receiver.set({ names: { 'changing.acme.example': [DEVICE.ipv4] } });
    await until(
      'the end of the kept connection',
      async () => {
        await tryUnauthorised(7002);
        return faultsOf('changing')[0];
      },
      90_000,
    );
    expect(faultsOf('changing')[0]).toMatchObject({ fault: 'addressForbidden' });
    expect(receiver.received('/changing').length).toBeGreaterThanOrEqual(length);
  }, 120_000);

  test('that was down gets everything, in order, at least once, killed agent or not', async () => {
    await receiver.set({ paths: { '/siem?tenant=7': 'down' } });
    const before = receiver.received('/siem?tenant=7').length;
    await tryUnauthorised(7100);
    await until('an attempt', () => receiver.received('/siem?tenant=7').length > before || undefined);
    await agent.daemon.stop('SIGKILL');
    await agent.start();
    await tryUnauthorised(7101);
    await receiver.set({ paths: { '/siem?tenant=7': 'ok' } });
    const later = () => receiver.received('/siem?tenant=7').slice(before);
    await until(
      'all of it',
      () => {
        const ports = later().flatMap(({ body }) => body.match(/"devicePort":\d+/g) ?? []);
        return (ports.includes('"devicePort":7100') && ports.includes('"devicePort":7101')) || undefined;
      },
      60_000,
    );
    const events = later().map(({ body }) => JSON.parse(body) as { id: string; sequence: string });
    const sequences = events.map(({ sequence }) => Number(sequence));
    expect(sequences).toEqual([...sequences].sort((a, b) => a - b));
    const ids = new Map(events.map(({ id, sequence }) => [sequence, id]));
    for (const { id, sequence } of events) expect(ids.get(sequence)).toBe(id); // the same event, the same id
  }, 120_000);
});
