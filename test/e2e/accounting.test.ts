/**
 * Devices come and go: radclient tells in the name of a PGW who holds an
 * address, and the real daemon follows. What ran for the former holder, granted
 * or begun by himself, over TCP or UDP, never reaches the next one, in either
 * direction, from the moment that the NAS is answered.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Body, DEVICE_PORT, TestAgent } from '../agent.ts';
import { Capture } from '../capture.ts';
import { program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Session } from '../session.ts';
import { DEVICE, SERVER, standardNetwork, UPLINK } from '../standard-network.ts';

const M1 = { id: 'm1@meters.example', imsi: '262010000000001' };
const M2 = { id: 'm2@meters.example', imsi: '262010000000002' };
const SECRET = 'a secret of the tests';
const PORT = 1813;
/** The least that there is. */
const GRACE_SECONDS = 10;
const DEVICES = `
devices:
  - { externalId: ${M1.id}, imsi: "${M1.imsi}" }
  - { externalId: ${M2.id}, imsi: "${M2.imsi}" }
`;

let network: Network;
let agent: TestAgent;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, {
    devices: DEVICES,
    more: `
radius:
  listen: ["127.0.0.1:${PORT}"]
  clients: [{ name: pgw-1, addresses: [127.0.0.1], secret: radius.secret }]
`,
  });
  agent.write('radius.secret', `${SECRET}\n`, 0o600);
  const echoes = [
    ['device', DEVICE],
    ['server', SERVER],
  ] as const;
  for (const [namespace, { ipv4 }] of echoes)
    await network.spawn(namespace, program('test/device.ts', String(DEVICE_PORT), ipv4), { line: /^ready$/ });
  await agent.start();
});
afterAll(() => network.close());

/** Tells one event; answers whether the agent said that it is carried out. */
async function tell(
  kind: 'Start' | 'Interim-Update' | 'Stop' | 'Accounting-On',
  session: string,
  { imsi }: { readonly imsi: string },
  { secret = SECRET, address = DEVICE.ipv4 as string } = {},
): Promise<boolean> {
  const attributes = [
    ...[`Acct-Status-Type = ${kind}`, `Acct-Session-Id = "${session}"`, 'NAS-Identifier = "ggsn"'],
    ...[`3GPP-IMSI = "${imsi}"`, `Framed-IP-Address = ${address}`],
  ];
  const command = ['radclient', '-x', '-r', '1', '-t', '3', `127.0.0.1:${PORT}`, 'acct', secret];
  const { stdout } = await network.run('gateway', command, { input: `${attributes.join('\n')}\n`, mayFail: true });
  return stdout.includes('Received Accounting-Response');
}

const grantOn = async (id: string, changes: Record<string, unknown> = {}) =>
  agent.grant({ device: { networkAccessIdentifier: id }, ...changes });
const radius = async () => JSON.parse((await agent.mtgate('radius', 'status', '--json')).stdout);
const countOf = async (finding: string): Promise<number> =>
  (await radius()).findings.find((one: { finding: string }) => one.finding === finding)?.count ?? 0;

let serial = 0;
/** A session name that was never used. */
const fresh = () => `s${++serial}`;

beforeEach(async () => {
  expect(await tell('Accounting-On', 'none', M1)).toBe(true);
});

test('without a session a device cannot be reached; with one it can, until it stops', async () => {
  expect(await grantOn(M1.id)).toMatchObject({ status: 409, body: { code: 'DEVICE_UNREACHABLE' } });
  const session = fresh();
  expect(await tell('Start', session, M1)).toBe(true);
  const { status, body } = await grantOn(M1.id);
  expect(status).toBe(201);
  expect(await tell('Stop', session, M1)).toBe(true);
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({
    status: 'ENDED',
    endCause: 'DEVICE_UNBOUND',
  });
  const { stdout } = await agent.mtgate('device', 'show', M1.id);
  expect(stdout).toMatch(/holds no address\n\nheld before\n.*\niot +10\.20\.0\.2 +accounting .*deviceUnbound/);
});

describe.each(['with a Stop', 'without one'])('the address goes to the next device, %s', (how) => {
  test('and nothing of the former one crosses over', async () => {
    const [first, second] = [fresh(), fresh()];
    await tell('Start', first, M1);
    const granted = await Promise.all(
      ['UDP', 'TCP'].map(async (protocol) => (await grantOn(M1.id, { protocol })).body),
    );
    const to = { address: SERVER.ipv4, port: DEVICE_PORT };
    const running = await Promise.all([
      ...(['udp', 'tcp'] as const).map((protocol, i) =>
        Session.open(network, 'server', protocol, (granted[i] as Body).externalEndpoint),
      ),
      // Begun by the device itself.
      ...(['udp', 'tcp'] as const).map((protocol) => Session.open(network, 'device', protocol, to)),
    ]);
    for (const one of running) {
      one.say('stream');
      await one.next();
    }

    if (how === 'with a Stop') await tell('Stop', first, M1);
    expect(await tell('Start', second, M2)).toBe(true);
    // From here on the address is m2's: not one packet of what ran may come in, or go out.
    const [inner, outer] = await Promise.all([
      Capture.start(network, 'device', UPLINK, `ip src ${SERVER.ipv4} and dst ${DEVICE.ipv4}`),
      Capture.start(network, 'wan', UPLINK, `ip dst ${SERVER.ipv4}`),
    ]);
    const sent = await Capture.start(network, 'server', UPLINK, `ip src ${SERVER.ipv4} and udp`);
    // What the device itself sends over UDP would be a flow of m2; all else can only be m1's.
    for (const [i, one] of running.entries()) if (i !== 2) one.say('still there?');
    // The server's end of m1's own flow goes on talking: a hundred packets that must not arrive.
    await until('the server to go on', () => (sent.frames().length > 100 ? true : undefined));
    expect(inner.frames()).toEqual([]);
    expect(outer.frames()).toEqual([]);
    for (const { grantId } of granted) {
      const { body } = await agent.curl('GET', `/grants/${grantId}`);
      expect(body.endCause).toBe(how === 'with a Stop' ? 'DEVICE_UNBOUND' : 'ADDRESS_REASSIGNED');
    }
    await Promise.all([...running, inner, outer, sent].map((one) => one.stop()));

    const { body } = await grantOn(M2.id);
    const again = await Session.open(network, 'server', 'udp', body.externalEndpoint);
    again.say('hello m2');
    expect(await again.next()).toBe('hello m2');
    await again.stop();
  });
});

test('a Start that takes, an Interim that would, a forged address: alarmed, and counted', async () => {
  const [first, second] = [fresh(), fresh()];
  await tell('Start', first, M1);
  const before = await countOf('addressTaken');
  await tell('Start', second, M2);
  expect(await countOf('addressTaken')).toBe(before + 1);
  expect(agent.logged('accountingAlarm').at(-1)).toMatchObject({ finding: 'addressTaken', session: second });
  expect(await tell('Interim-Update', fresh(), M1)).toBe(true);
  expect(await countOf('interimOfOthers')).toBe(1);
  expect(await tell('Stop', first, M1)).toBe(true);
  expect(await tell('Start', fresh(), M1, { address: '192.0.2.99' })).toBe(true);
  expect(await countOf('outsidePools')).toBe(1);
  expect((await grantOn(M2.id)).status).toBe(201);
  expect((await grantOn(M1.id)).status).toBe(409);
});

test('with a wrong secret nobody is answered, nothing changes, and it is counted', async () => {
  expect(await tell('Start', fresh(), M1, { secret: 'another secret' })).toBe(false);
  expect((await grantOn(M1.id)).status).toBe(409);
  expect((await radius()).dropped).toContainEqual(
    expect.objectContaining({ client: 'pgw-1', reason: 'wrongAuthenticator' }),
  );
});

test('what is bound outlives the agent; a stopped session is remembered', async () => {
  const [first, second] = [fresh(), fresh()];
  await tell('Start', first, M1);
  await tell('Stop', first, M1);
  await tell('Start', second, M2);
  const { body } = await grantOn(M2.id);
  await agent.daemon.stop('SIGKILL');
  await agent.start();
  expect(await tell('Start', first, M1)).toBe(true);
  expect(await countOf('sessionStopped')).toBe(1);
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ status: 'LIVE' });
  await tell('Stop', second, M2);
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ endCause: 'DEVICE_UNBOUND' });
});

test('an agent that was away for too long holds the grant until an Interim vouches for its address', async () => {
  await agent.daemon.stop('SIGTERM');
  const configured = readFileSync(agent.configFile, 'utf8');
  agent.write('agent.yaml', configured.replace('attach: auto', `attach: auto, orphanGraceSeconds: ${GRACE_SECONDS}`));
  await agent.start();
  const session = fresh();
  await tell('Start', session, M1);
  const { body } = await grantOn(M1.id);
  const flow = await Session.open(network, 'server', 'udp', body.externalEndpoint);
  flow.say('before');
  expect(await flow.next()).toBe('before');
  const statusIs = async (status: string) => {
    const shown = await agent.curl('GET', `/grants/${body.grantId}`);
    return shown.body.status === status ? shown.body : undefined;
  };

  agent.daemon.kill('SIGSTOP');
  await until('the gate to give up on the agent', () => knocked(flow), (GRACE_SECONDS + 5) * 1000);
  agent.daemon.kill('SIGCONT');
  await until('the grant to be held', () => statusIs('HELD'));
  const before = flow.received;
  for (let i = 0; i < 20; i++) flow.say('held');
  expect((await agent.mtgate('status')).stdout).toMatch(/live grants +1, of which 1 HELD/);
  expect(flow.received).toBe(before);

  expect(await tell('Interim-Update', session, M1)).toBe(true);
  expect(await statusIs('LIVE')).toMatchObject({ expiresAt: body.expiresAt, externalEndpoint: body.externalEndpoint });
  flow.say('after');
  expect(await flow.next()).toBe('after');
  await flow.stop();
});

/** Sends, and says whether nothing has come back since. */
async function knocked(flow: Session): Promise<true | undefined> {
  const before = flow.received;
  flow.say('still there?');
  await new Promise((resolve) => setTimeout(resolve, 300)); // an echo takes a millisecond
  return flow.received === before ? true : undefined;
}
