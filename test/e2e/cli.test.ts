/** The operator's command against the real daemon: draining, what one grant carried, the state of the host. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEVICE_NAME, DEVICE_PORT, RULES, TestAgent } from '../agent.ts';
import { program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { DEVICE, SERVER, standardNetwork } from '../standard-network.ts';

let network: Network;
let agent: TestAgent;
let server: Probe;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network);
  await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4), { line: /^ready$/ });
  server = await Probe.start(network, 'server');
  await agent.start();
});
afterAll(async () => {
  await network.close();
});

test('drain: live grants go on, none is begun; a reload keeps it, a restart does not', async () => {
  const live = (await agent.grant()).body;
  const from = { address: SERVER.ipv4 };
  expect(await agent.mtgate('drain')).toMatchObject({ status: 0, stdout: expect.stringMatching(/^draining: /) });
  const refused = await agent.grant({ devicePort: 7001 });
  expect(refused).toMatchObject({ status: 503, body: { code: 'UNAVAILABLE' } });
  expect(await agent.refusal(refused.body)).toMatchObject({ reason: 'gatewayDraining' });
  expect(await server.udp({ to: live.externalEndpoint, from, text: 'drained' })).toMatchObject({ text: 'drained' });

  expect(await agent.mtgate('reload')).toMatchObject({ status: 0 });
  expect(await agent.grant({ devicePort: 7001 })).toMatchObject({ status: 503 });
  expect(JSON.parse((await agent.mtgate('status', '--json')).stdout)).toMatchObject({ closed: true, draining: true });
  const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  expect(stdout).toMatch(/^mtgate_draining 1$/m);

  expect(await agent.mtgate('drain', '--end')).toMatchObject({ status: 0 });
  expect(await agent.grant({ devicePort: 7001 })).toMatchObject({ status: 201 });
  await agent.mtgate('drain');
  await agent.daemon.stop();
  await agent.start();
  expect(await agent.grant({ devicePort: 7002 })).toMatchObject({ status: 201 });
});

test('show: what a grant carried, both ways, while it lives and while its endpoint rests', async () => {
  const { body } = await agent.grant({ devicePort: DEVICE_PORT, protocol: 'TCP' });
  const from = { address: SERVER.ipv4 };
  expect(await server.tcp({ to: body.externalEndpoint, from })).toMatchObject({ outcome: 'answer' });
  const shown = async () => JSON.parse((await agent.mtgate('grants', 'show', body.grantId, '--json')).stdout);
  const live = await shown();
  expect(live).toMatchObject({ status: 'live', device: DEVICE_NAME, rule: 'meters', server: 'head-end' });
  expect(live.carried.in.packets).toBeGreaterThan(2);
  expect(live.carried.out.bytes).toBeGreaterThan(100);
  expect(await agent.mtgate('grants', 'revoke', '--device', DEVICE_NAME)).toMatchObject({
    status: 0,
    stdout: expect.stringMatching(/^ended [2-9] grants\n$/),
  });
  const ended = await shown();
  expect(ended).toMatchObject({ status: 'ended', endCause: 'revokedByOperator', endText: 'an operator revoked it' });
  expect(ended.carried.in.packets).toBeGreaterThanOrEqual(live.carried.in.packets);
});

test('limits: those of the rules in force hold for a live grant, and are shown; used up, it ends within a second or two', async () => {
  const { body } = await agent.grant({ devicePort: DEVICE_PORT });
  expect(body).not.toHaveProperty('limits');
  const from = { address: SERVER.ipv4 };
  expect(await server.udp({ to: body.externalEndpoint, from, text: 'free' })).toMatchObject({ text: 'free' });
  agent.write(
    'rules/rules.yaml',
    RULES.replace('totalSeconds: 3600', 'totalSeconds: 3600, packetsPerSecond: 500, bytes: 1kB'),
  );
  expect(await agent.mtgate('apply', '--yes')).toMatchObject({ status: 0 });
  const limits = { packetsPerSecond: 500, bytes: 1000 };
  expect(await agent.curl('GET', `/grants/${body.grantId}`)).toMatchObject({ body: { status: 'LIVE', limits } });
  expect((await agent.mtgate('grants', 'show', body.grantId)).stdout).toMatch(
    /^may carry +500 packets a second; 1000 bytes in all, \d\d used$/m,
  );

  expect(await server.udp({ to: body.externalEndpoint, from, text: 'x'.repeat(400) })).toMatchObject({
    outcome: 'answer',
  });
  expect(await server.udp({ to: body.externalEndpoint, from, waitMs: 100, text: 'x'.repeat(400) })).toEqual({
    outcome: 'silence',
  });
  const ended = await until('its end', async () => {
    const shown = await agent.curl('GET', `/grants/${body.grantId}`);
    return shown.body.status === 'ENDED' ? shown.body : undefined;
  });
  expect(ended).toMatchObject({ endCause: 'QUOTA_USED', limits });
  agent.write('rules/rules.yaml', RULES);
  expect(await agent.mtgate('apply', '--yes')).toMatchObject({ status: 0 });
});

test('status: denials of the last minute; a gap is status 1, and the last fault', async () => {
  const to = { address: '203.0.113.3', port: 20_001 };
  await server.udp({ to, waitMs: 100 });
  const status = () => agent.status();
  expect((await status()).deniedInLastMinute).toBeGreaterThan(0);
  expect((await agent.mtgate('status')).stdout).toMatch(/^ +[1-9]\d* noGrant \(/m);
  await network.run('gateway', ['nft', 'flush', 'ruleset']);
  // Before the inspector finds that its rule is gone as well, which is a fault of its own.
  const gap = await until('the gap as the last fault', async () => {
    const { lastFault } = await status();
    return lastFault?.event === 'gapFound' ? lastFault : undefined;
  });
  expect(gap).toMatchObject({ fields: { gap: expect.stringContaining('nftables base') } });
  await agent.daemon.line(/"event":"gapRepaired"/);
  await until('closed again', async () => (await status()).closed || undefined);
});

test('doctor: on this gateway all that the agent needs is there', async () => {
  const { stdout } = await agent.mtgate('doctor', '--config', agent.configFile, '--json');
  const rows: { name: string; level: string; found: string }[] = JSON.parse(stdout);
  const levelOf = (name: string) => rows.filter((row) => row.name === name).map(({ level }) => level);
  for (const name of ['kernel', 'nft', 'ip', 'libbpf', 'libpcap', 'base', 'agent.yaml', 'bpffs', 'agent'])
    expect([name, ...levelOf(name)]).toEqual([name, 'ok']);
  expect(levelOf('interface')).toEqual(['ok', 'ok']);
  expect(levelOf('API certificate')).not.toContain('bad');
});
