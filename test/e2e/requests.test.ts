/** Extensions and requests that are sent again, by the daemon and on real packets. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type Body, DEVICE_PORT, TestAgent } from '../agent.ts';
import { program } from '../child.ts';
import type { Network } from '../network.ts';
import { Session } from '../session.ts';
import { DEVICE, standardNetwork, UPLINK } from '../standard-network.ts';

const QUIET_MS = 300;

let network: Network;
let agent: TestAgent;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network);
  await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4), { line: /^ready$/ });
  await agent.start();
});
afterAll(async () => {
  await network.close();
});
afterEach(async () => {
  for (const grant of await agent.grants()) await agent.curl('DELETE', `/grants/${grant.grantId}`);
});

test('running flows go on past the first end without a gap, and stop at the second', async () => {
  const flows = await Promise.all(
    (['udp', 'tcp'] as const).map(async (protocol) => {
      const { body } = await agent.grant({ protocol: protocol.toUpperCase(), durationSeconds: 5 });
      const session = await Session.open(network, 'server', protocol, body.externalEndpoint);
      session.say('stream');
      await session.next();
      return { grant: body, session };
    }),
  );
  const seconds = await Promise.all(
    flows.map(async ({ grant }) => {
      const { status, body } = await agent.curl('POST', `/grants/${grant.grantId}/extend`, {
        body: { durationSeconds: 8 },
      });
      expect(body).toMatchObject({ grantId: grant.grantId, status: 'LIVE' });
      expect(status).toBe(200);
      expect(Date.parse(body.expiresAt)).toBeGreaterThan(Date.parse(grant.expiresAt));
      return Date.parse(body.expiresAt);
    }),
  );
  const lasts = Math.min(...seconds);
  await Promise.all(
    flows.map(async ({ grant, session }) => {
      while (Date.now() <= Date.parse(grant.expiresAt)) await session.next();
      await session.next();
      await session.quiet(QUIET_MS);
      // They went on to the second end, but for a tick of the gate's clock.
      expect(Date.now() - QUIET_MS).toBeGreaterThan(lasts - 200);
      // The device counts up: a number that is missing was lost on the way.
      const numbers = session.texts().map(Number);
      expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
      await session.stop();
      const ended = await agent.curl('POST', `/grants/${grant.grantId}/extend`, { body: { durationSeconds: 5 } });
      expect(ended).toMatchObject({ status: 409, body: { code: 'GRANT_ENDED', endCause: 'EXPIRED' } });
    }),
  );
});

/** The log's line of a grant; it may be read later than the answer. */
async function said(event: string, { grantId }: Body): Promise<unknown> {
  return JSON.parse(await agent.daemon.line(new RegExp(`"${grantId}".*"event":"${event}"`)));
}

test('a request sent again after kill -9 has the same answer, and one mark goes with it all', async () => {
  const headers = { 'Idempotency-Key': '"0b7a5c1e"', 'x-correlator': 'one-id' };
  const first = await agent.grant({}, { headers });
  expect(first.status).toBe(201);
  expect(await said('grantOpened', first.body)).toMatchObject({ correlator: 'one-id' });
  await agent.daemon.stop('SIGKILL');
  await agent.start();

  expect(await agent.grant({}, { headers })).toEqual(first);
  expect(await agent.grant({ devicePort: 7001 }, { headers })).toMatchObject({
    status: 422,
    body: { code: 'IDEMPOTENCY_KEY_REUSED' },
  });
  const { stdout } = await agent.mtgate('grants', '--json');
  expect(JSON.parse(stdout)).toEqual([expect.objectContaining({ grantId: first.body.grantId, correlator: 'one-id' })]);

  await agent.curl('DELETE', `/grants/${first.body.grantId}`);
  expect(await said('grantEnded', first.body)).toMatchObject({ correlator: 'one-id' });
  expect(await agent.grant({}, { headers })).toEqual(first);
  expect(await agent.grants()).toEqual([]);
});

test('a request waits for its device over kill -9, and is granted the moment it is bound', async () => {
  const m2 = { networkAccessIdentifier: 'm2@meters.example' };
  const at = '10.20.0.9';
  await network.run('device', ['ip', 'address', 'add', `${at}/32`, 'dev', UPLINK]);
  const listener = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), at), {
    line: /^ready$/,
  });
  const headers = { 'Idempotency-Key': '"waits"' };
  const wait = { device: m2, whenUnreachable: 'WAIT', waitSeconds: 600 };

  expect(await agent.grant({ device: m2 })).toMatchObject({ status: 409, body: { code: 'DEVICE_UNREACHABLE' } });
  const accepted = await agent.grant(wait, { headers });
  expect(accepted).toMatchObject({ status: 202, body: { device: m2, status: 'WAITING', devicePort: DEVICE_PORT } });
  expect(accepted.body).not.toHaveProperty('externalEndpoint');
  const { grantId } = accepted.body;
  expect(await agent.grant(wait)).toMatchObject({ status: 409, body: { code: 'ALREADY_EXISTS', grantId } });

  await agent.daemon.stop('SIGKILL');
  await agent.start();
  expect(await agent.grant(wait, { headers })).toEqual(accepted);
  expect((await agent.curl('GET', `/grants/${grantId}`)).body).toEqual(accepted.body);
  expect(await agent.grants()).toEqual([accepted.body]);
  const [row] = JSON.parse((await agent.mtgate('grants', 'list', '--json')).stdout);
  expect(row).toMatchObject({ grantId, status: 'waiting', device: m2.networkAccessIdentifier });
  expect((await agent.mtgate('grants', 'show', grantId)).stdout).toMatch(/^status +waiting$/m);
  const extend = await agent.curl('POST', `/grants/${grantId}/extend`, { body: { durationSeconds: 5 } });
  expect(extend).toMatchObject({ status: 409, body: { code: 'GRANT_WAITING' } });

  await agent.mtgate('device', 'bind', m2.networkAccessIdentifier, 'iot', at);
  const { body } = await agent.curl('GET', `/grants/${grantId}`);
  expect(body).toMatchObject({ grantId, status: 'LIVE', device: m2 });
  const session = await Session.open(network, 'server', 'udp', body.externalEndpoint);
  session.say('stream');
  await session.next();
  expect(await agent.grant(wait, { headers })).toMatchObject({ status: 201, body });

  await agent.mtgate('device', 'unbind', m2.networkAccessIdentifier, 'iot', at);
  await session.quiet(QUIET_MS);
  await session.stop();

  const second = await agent.grant(wait);
  expect(second.status).toBe(202);
  expect((await agent.mtgate('grants', 'revoke', second.body.grantId)).stdout).toBe('ended 1 grant\n');
  expect((await agent.curl('GET', `/grants/${second.body.grantId}`)).body).toMatchObject({
    status: 'ENDED',
    endCause: 'REVOKED_BY_OPERATOR',
  });
  await listener.stop();
});
