/**
 * `whenUnreachable: SEND_TRIGGER` on the whole gateway: a device that sleeps in
 * the family asked for is woken over the other by a trigger, attaches, and the
 * grant is live; over kill -9 at each stage too.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TriggerDetail, TriggerList } from '../../agent/api/trigger-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { DEVICE_PORT, DEVICES, RULES, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Session } from '../session.ts';
import { INNER_GATEWAY, standardNetwork, UPLINK } from '../standard-network.ts';

const COAP = 7101;
const M2 = { name: 'm2@meters.example', ipv4: '10.20.0.9', ipv6: 'fd00:20::9' };
const M3 = { name: 'm3@meters.example', ipv4: '10.20.0.10', ipv6: 'fd00:20::10' };
const M4 = { name: 'm4@meters.example', ipv4: '10.20.0.11', ipv6: 'fd00:20::11' };
const WAKE = `
triggers:
  - { id: wake, allow: { servers: [head-end], ports: [${COAP}] }, limits: { validitySeconds: 300 } }
`;

let network: Network;
let agent: TestAgent;
let onDevice: Child;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, {
    rules: `${RULES}${WAKE}`,
    devices: `${DEVICES}  - externalId: ${M3.name}\n  - externalId: ${M4.name}\n`,
    more: `triggers: { sources: [${INNER_GATEWAY.ipv4}, "${INNER_GATEWAY.ipv6}"], ports: [${COAP}], coapPorts: [${COAP}] }\n`,
  });
  const all = [M2, M3, M4].flatMap(({ ipv4, ipv6 }) => [ipv4, ipv6]);
  for (const address of all) {
    const prefix = address.includes(':') ? `${address}/128` : `${address}/32`;
    await network.run('device', [
      'ip',
      'address',
      'add',
      prefix,
      'dev',
      UPLINK,
      ...(address.includes(':') ? ['nodad'] : []),
    ]);
  }
  await agent.start();
  [onDevice] = await Promise.all([
    network.spawn('device', program('test/coap-device.ts', String(COAP), ...all), { line: /^ready$/ }),
    network.spawn('device', program('test/device.ts', String(DEVICE_PORT), ...all), { line: /^ready$/ }),
  ]);
});
afterAll(() => network.close());

const bind = async ({ name }: typeof M2, address: string) => {
  const { status, stderr } = await agent.mtgate('device', 'bind', name, 'iot', address);
  expect(status, stderr).toBe(0);
};
const wakes = (device: typeof M2, more: object = {}, headers: Record<string, string> = {}) =>
  agent.grant(
    { device: { networkAccessIdentifier: device.name }, ipFamily: 'IPV4', whenUnreachable: 'SEND_TRIGGER', ...more },
    { headers },
  );
const grant = async (id: string) => (await agent.curl('GET', `/grants/${id}`)).body;
/** The trigger of a grant, when it has ended. */
const ended = (grantId: string): Promise<TriggerDetail> =>
  until(`the trigger of ${grantId} has ended`, async () => {
    const socket = `${agent.folder}/mtgate.sock`;
    const { triggers } = await call<TriggerList>({ socket }, 'GET', '/triggers?ended=true');
    return triggers.find((one) => one.grantId === grantId) as TriggerDetail | undefined;
  });
const passes = async ({ externalEndpoint }: { externalEndpoint: { address: string; port: number } }) => {
  const session = await Session.open(network, 'server', 'udp', externalEndpoint);
  session.say('stream');
  await session.next();
  await session.stop();
};

test('a device bound in IPv6 alone gets a trigger, binds IPv4 on it, and the grant is live', async () => {
  await bind(M2, M2.ipv6);
  const trigger = { triggerPayload: Buffer.from('attach').toString('base64') };
  const accepted = await wakes(M2, { trigger });
  expect(accepted).toMatchObject({ status: 202, body: { status: 'WAITING', ipFamily: 'IPV4' } });
  const { grantId } = accepted.body;
  await onDevice.line(new RegExp(`^coap ${INNER_GATEWAY.ipv6} 5683 POST /trigger attach$`));
  const { triggerId, deliveryResult } = await ended(grantId);
  expect(deliveryResult).toBe('SUCCESS');
  expect(await grant(grantId)).toMatchObject({ status: 'WAITING' });

  await bind(M2, M2.ipv4);
  const live = await grant(grantId);
  expect(live).toMatchObject({ grantId, status: 'LIVE' });
  await passes(live);
  expect((await agent.mtgate('grants', 'show', grantId)).stdout).toMatch(
    new RegExp(`^woken by +trigger ${triggerId}: SUCCESS, the device acknowledged it$`, 'm'),
  );
  expect((await agent.mtgate('triggers', 'list', '--ended')).stdout).toMatch(new RegExp(`${grantId}$`, 'm'));

  const again = await wakes(M2, { devicePort: DEVICE_PORT + 1 });
  expect([again.status, again.body.status]).toEqual([201, 'LIVE']);
});

test('kill -9 when it was accepted, and when the device was woken: one trigger, and the grant is live', async () => {
  const headers = { 'Idempotency-Key': '"wakes"' };
  const accepted = await wakes(M3, {}, headers);
  expect(accepted.status).toBe(202);
  const { grantId } = accepted.body;
  await agent.daemon.stop('SIGKILL');
  await agent.start();
  expect(await wakes(M3, {}, headers)).toEqual(accepted);

  const from = onDevice.lines.length;
  await bind(M3, M3.ipv6);
  await onDevice.line(new RegExp(`^coap ${INNER_GATEWAY.ipv6} 5683 POST /trigger $`), { from }); // empty
  expect(await ended(grantId)).toMatchObject({ deliveryResult: 'SUCCESS' });
  await agent.daemon.stop('SIGKILL');
  await agent.start();
  await bind(M3, M3.ipv4);
  const live = await grant(grantId);
  expect(live).toMatchObject({ grantId, status: 'LIVE' });
  await passes(live);
  expect(onDevice.lines.slice(from)).toHaveLength(1);
  expect((await agent.mtgate('triggers', 'list', '--device', M3.name)).stdout).toBe('no triggers are pending\n');
});

test('given up: its trigger is recalled, and the device that binds then is not woken', async () => {
  const { body } = await wakes(M4);
  expect((await agent.curl('DELETE', `/grants/${body.grantId}`)).status).toBe(204);
  expect(await ended(body.grantId)).toMatchObject({ deliveryResult: 'TERMINATE' });
  const from = onDevice.lines.length;
  await bind(M4, M4.ipv6);
  // What it is asked for next is delivered, and nothing before it.
  const second = await wakes(M4, { trigger: { triggerPayload: Buffer.from('second').toString('base64') } });
  await onDevice.line(/ second$/, { from });
  expect(onDevice.lines.slice(from)).toHaveLength(1);
  await agent.curl('DELETE', `/grants/${second.body.grantId}`);
});

test('a port that takes no triggers refuses the request, and nothing waits', async () => {
  const trigger = { applicationPortId: 7102 };
  expect(await wakes(M4, { trigger, devicePort: DEVICE_PORT + 2 })).toMatchObject({
    status: 400,
    body: { code: 'OUT_OF_RANGE', cause: 'PARAMETER_OUT_OF_RANGE' },
  });
  await agent.curl('GET', '/limits').then(({ body }) => expect(body).toMatchObject({ waitingGrants: 0 }));
});
