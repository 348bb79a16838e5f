/**
 * Interfaces that come and go under a running agent: what lies behind one that
 * is not there is closed, what lies behind the others goes on, and it opens
 * again when it is back.
 *
 * The device has a second address in a second realm, behind an interface of
 * its own, which the tests take away and bring back.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEVICE_PORT, DEVICES, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import { DEVICE, GATEWAY, OUTSIDE, SERVER, standardNetwork, UPSTREAM } from '../standard-network.ts';

const SECOND = { interface: 'pgw1', realm: 'fleet', device: 'm2@meters.example', address: '10.30.0.2' } as const;
const TO_SECOND = { device: { networkAccessIdentifier: SECOND.device } };

let network: Network;
let agent: TestAgent;
let device: Child;
let server: Probe;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, {
    devices: `${DEVICES}    bindings: [{ realm: ${SECOND.realm}, address: ${SECOND.address} }]\n`,
  });
  const yaml = readFileSync(agent.configFile, 'utf8');
  const realm = `  - { realm: ${SECOND.realm}, interface: ${SECOND.interface}, prefixes: [10.30.0.0/16] }\n`;
  agent.write('agent.yaml', yaml.replace(/\napi:/, `\n${realm}api:`));
  await network.run('device', ['ip', 'address', 'add', `${SECOND.address}/32`, 'dev', 'lo']);
  await network.run('device', ['ip', 'rule', 'add', 'from', SECOND.address, 'table', '30']);
  device = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, SECOND.address), {
    line: /^ready$/,
  });
  server = await Probe.start(network, 'server');
  await agent.start();
});
afterAll(async () => {
  await network.close();
});

const inGateway = (...words: readonly string[]) => network.run('gateway', ['ip', ...words]);
const status = () => agent.status();
const logLine = (event: string, from: number) => agent.daemon.line(new RegExp(`"event":"${event}"`), { from });

/** The second realm's link, up and with its routes; `index` to give it a certain one. */
async function makeSecond(...index: readonly string[]): Promise<void> {
  await inGateway(
    'link',
    'add',
    'made',
    ...index,
    'type',
    'veth',
    'peer',
    'name',
    'eth1',
    'netns',
    network.name('device'),
  );
  await network.run('device', ['ip', 'link', 'set', 'eth1', 'up']);
  await network.run('device', ['ip', 'route', 'replace', 'default', 'dev', 'eth1', 'table', '30']);
  await network.run('device', ['sysctl', '-q', 'net.ipv4.conf.eth1.rp_filter=0']);
  await inGateway('link', 'set', 'made', 'name', SECOND.interface);
  await bringUp(SECOND.interface, '10.30.0.1/16');
}

async function bringUp(name: string, address: string): Promise<void> {
  await inGateway('link', 'set', name, 'up');
  await inGateway('address', 'replace', address, 'dev', name);
  // The device's default route has no next hop: for it the gateway stands for all addresses.
  await network.run('device', [
    'ip',
    'neigh',
    'replace',
    SERVER.ipv4,
    'lladdr',
    network.link('gateway', name).mac,
    'dev',
    'eth1',
  ]);
}

async function granted(changes: Record<string, unknown> = {}) {
  const { status, body } = await agent.grant(changes);
  expect({ status, body }).toMatchObject({ status: 201 });
  return { id: body.grantId, to: body.externalEndpoint };
}

const ask = (to: { address: string; port: number }, text: string, waitMs?: number) =>
  server.udp({ to, from: { address: SERVER.ipv4 }, text, ...(waitMs !== undefined && { waitMs }) });

test('it starts without an interface of a realm: no grant toward that realm, and others as ever', async () => {
  expect(agent.logged('interfaceMissing')).toMatchObject([
    { interface: SECOND.interface, realm: SECOND.realm, why: `there is no interface ${SECOND.interface}` },
  ]);
  expect(await status()).toMatchObject({
    closed: true,
    missingInterfaces: [`there is no interface ${SECOND.interface}`],
  });
  const refused = await agent.grant(TO_SECOND);
  expect(refused).toMatchObject({ status: 503, body: { code: 'UNAVAILABLE' } });
  expect(await agent.refusal(refused.body)).toMatchObject({
    reason: 'gatewayNotReady',
    why: `there is no interface ${SECOND.interface}`,
  });
  const { id, to } = await granted();
  expect(await ask(to, 'first realm')).toMatchObject({ outcome: 'answer' });
  await agent.curl('DELETE', `/grants/${id}`);
});

let second: Awaited<ReturnType<typeof granted>>;

test('an interface that comes, and one that goes: no packet of another realm is lost', async () => {
  const { id, to } = await granted();
  const session = await Session.open(network, 'server', 'udp', to, { address: SERVER.ipv4 });
  session.say('stream');
  await session.next();

  let from = agent.daemon.lines.length;
  await makeSecond();
  await logLine('interfaceAppeared', from);
  await until('all attachments', async () => ((await status()).attachments.length === 6 ? true : undefined));
  expect((await status()).missingInterfaces).toEqual([]);
  second = await granted(TO_SECOND);
  expect(await ask(second.to, 'it came')).toMatchObject({ outcome: 'answer' });
  expect(device.lines.some((line) => line.includes(`${SECOND.address}:${DEVICE_PORT} it came`))).toBe(true);

  from = agent.daemon.lines.length;
  await inGateway('link', 'delete', SECOND.interface);
  await logLine('interfaceMissing', from);
  expect(await agent.grant({ ...TO_SECOND, devicePort: 7001 })).toMatchObject({ status: 503 });

  await session.next();
  const numbers = session.texts().map(Number);
  expect(numbers.length).toBeGreaterThan(100);
  expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
  await session.stop();
  await agent.curl('DELETE', `/grants/${id}`);
});

test('its number taken by another interface: nothing of the grant goes there', async () => {
  await makeSecond();
  await until('the interface', async () => ((await status()).missingInterfaces.length === 0 ? true : undefined));
  const { ifindex } = network.link('gateway', SECOND.interface);
  let from = agent.daemon.lines.length;
  await inGateway('link', 'delete', SECOND.interface);
  await inGateway('link', 'add', 'foreign', 'index', String(ifindex), 'type', 'veth', 'peer', 'name', 'other');
  await inGateway('link', 'set', 'foreign', 'up');
  await inGateway('address', 'add', '10.30.0.1/16', 'dev', 'foreign');
  await logLine('interfaceMissing', from);
  const noGrant = () => metric('mtgate_denied_packets_total{reason="noGrant"}');
  const before = await noGrant();
  expect(await ask(second.to, 'strayed', 300)).toEqual({ outcome: 'silence' });
  expect(await noGrant()).toBe(before + 1);
  expect((await status()).attachments.filter((one) => one.includes('insideIngress'))).toHaveLength(1);
  from = agent.daemon.lines.length;
  await inGateway('link', 'delete', 'foreign');
});

test('back under another number: the grant of before goes on', async () => {
  const from = agent.daemon.lines.length;
  await makeSecond();
  await logLine('gateRebuilt', from);
  await until('the way', async () => ((await ask(second.to, 'back', 300)).outcome === 'answer' ? true : undefined));
});

test('renamed, and renamed back', async () => {
  let from = agent.daemon.lines.length;
  await inGateway('link', 'set', SECOND.interface, 'down');
  await inGateway('link', 'set', SECOND.interface, 'name', 'renamed');
  await bringUp('renamed', '10.30.0.1/16');
  await logLine('interfaceMissing', from);
  expect(await ask(second.to, 'to a stranger', 300)).toEqual({ outcome: 'silence' });
  expect(device.lines.some((line) => line.includes('to a stranger'))).toBe(false);
  from = agent.daemon.lines.length;
  await inGateway('link', 'set', 'renamed', 'down');
  await inGateway('link', 'set', 'renamed', 'name', SECOND.interface);
  await bringUp(SECOND.interface, '10.30.0.1/16');
  await logLine('interfaceAppeared', from);
  await until('the way', async () =>
    (await ask(second.to, 'back again', 300)).outcome === 'answer' ? true : undefined,
  );
});

test("an address that the host gets is the host's: it is no device's to reach", async () => {
  const from = agent.daemon.lines.length;
  await inGateway('address', 'add', '192.0.2.200/32', 'dev', 'lo');
  await logLine('gateRebuilt', from);
  const gatewayService = () => metric('mtgate_denied_packets_total{reason="gatewayService"}');
  const before = await gatewayService();
  const onDevice = await Probe.start(network, 'device');
  expect(await onDevice.udp({ to: { address: '192.0.2.200', port: 9 }, waitMs: 300 })).toEqual({ outcome: 'silence' });
  expect(await gatewayService()).toBe(before + 1);
  await onDevice.stop();
});

test('without the outside: nothing is granted; with it again, what lives goes on', async () => {
  let from = agent.daemon.lines.length;
  await away();
  await logLine('interfaceMissing', from);
  expect((await status()).missingInterfaces).toEqual([`there is no interface ${OUTSIDE}`]);
  from = agent.daemon.lines.length;
  await back();
  await logLine('interfaceAppeared', from);
  await until('the way', async () => ((await ask(second.to, 'outside', 300)).outcome === 'answer' ? true : undefined));
  expect(await agent.curl('DELETE', `/grants/${second.id}`)).toMatchObject({ status: 204 });
});

test('it starts without the outside, and serves when it is there', async () => {
  await agent.daemon.stop('SIGTERM');
  await away();
  await agent.start();
  expect(agent.logged('interfaceMissing')).toMatchObject([{ interface: OUTSIDE }]);
  expect((await status()).attachments.every((one) => one.startsWith('inside'))).toBe(true);
  await back();
  const served = async () => {
    const reply = await agent.grant();
    return reply.status === 201 ? reply : undefined;
  };
  // Several looks of a second each, which wait for nft and ip.
  const answer = await until('an answer of the API', served, 30_000);
  expect(await ask(answer.body.externalEndpoint, 'served')).toMatchObject({ outcome: 'answer' });
  expect((await status()).attachments).toHaveLength(6);
});

/** The outside interface under another name, its addresses gone with it. */
async function away(): Promise<void> {
  await inGateway('link', 'set', OUTSIDE, 'down');
  await inGateway('address', 'flush', 'dev', OUTSIDE);
  await inGateway('link', 'set', OUTSIDE, 'name', 'elsewhere');
}

async function back(): Promise<void> {
  await inGateway('link', 'set', 'elsewhere', 'name', OUTSIDE);
  await inGateway('link', 'set', OUTSIDE, 'up');
  await inGateway('address', 'add', `${GATEWAY.ipv4}/30`, 'dev', OUTSIDE);
  await inGateway('route', 'replace', 'default', 'via', UPSTREAM.ipv4);
}

async function metric(name: string): Promise<number> {
  const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  return Number(
    stdout
      .split('\n')
      .find((line) => line.startsWith(`${name} `))
      ?.slice(name.length + 1),
  );
}
