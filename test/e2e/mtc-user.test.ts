/**
 * The MTC user's word on real packets: what it withdraws, blocks or revokes
 * stops there and then, both ways, in flows that run; what others have goes on.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { DEVICE_NAME, DEVICE_PORT, RULES, TestAgent } from '../agent.ts';
import { type Child, program, ROOT } from '../child.ts';
import type { Network } from '../network.ts';
import { Session } from '../session.ts';
import { DEVICE, ROGUE, SERVER, standardNetwork } from '../standard-network.ts';

const TWO = RULES.replace('authorises: [head-end]', 'authorises: [head-end, stranger]').replace(
  'servers: [head-end]',
  'servers: [head-end, stranger]',
);

let network: Network;
let agent: TestAgent;
let device: Child;
beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, { rules: TWO });
  device = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
    line: /^ready$/,
  });
  await agent.start();
});
afterAll(() => network.close());

interface Flow {
  readonly id: string;
  readonly session: Session;
}
let flows: Flow[] = [];
afterEach(async () => {
  for (const { id, session } of flows) {
    await agent.asMtcUser('DELETE', `/grants/${id}`);
    await session.stop();
  }
  flows = [];
  expect((await agent.asMtcUser('PUT', '/authorised-servers', { servers: ['head-end', 'stranger'] })).status).toBe(200);
});

/** A flow from a server through a grant of its own, in which the device speaks without being asked. */
async function running(server: 'head-end' | 'stranger', protocol: 'udp' | 'tcp'): Promise<Flow> {
  const [as, from, source] =
    server === 'head-end'
      ? ([agent.headEnd, 'server', SERVER.ipv4] as const)
      : ([agent.stranger, 'rogue', ROGUE.ipv4] as const);
  const { status, body } = await agent.grant(
    { protocol: protocol.toUpperCase(), applicationServer: { address: source } },
    { as, from },
  );
  expect(status, JSON.stringify(body)).toBe(201);
  const session = await Session.open(network, from, protocol, body.externalEndpoint, { address: source });
  session.say('stream');
  await session.next();
  const flow = { id: body.grantId, session };
  flows.push(flow);
  return flow;
}

/** Nothing of these comes any more, either way, while the other goes on. */
async function stopped(gone: readonly Flow[], goesOn: Flow): Promise<void> {
  for (const { session } of gone) await session.quiet();
  for (const { session } of gone) session.say('late');
  goesOn.session.say('in time');
  await device.line(/in time/);
  await goesOn.session.next();
  expect(device.lines.filter((line) => line.includes('late'))).toEqual([]);
}

const endOf = async ({ id }: Flow) => (await agent.asMtcUser('GET', `/grants/${id}`)).body;

describe('what runs through a grant stops there and then, both ways', () => {
  test('when the MTC user withdraws the server: all that it has; what another server has goes on', async () => {
    const gone = [await running('head-end', 'udp'), await running('head-end', 'tcp')];
    const goesOn = await running('stranger', 'udp');
    expect((await agent.asMtcUser('DELETE', '/authorised-servers/head-end')).status).toBe(204);
    await stopped(gone, goesOn);
    for (const flow of gone)
      expect(await endOf(flow)).toMatchObject({ status: 'ENDED', endCause: 'SERVER_UNAUTHORISED' });
    expect(await endOf(goesOn)).toMatchObject({ status: 'LIVE' });
    expect(await agent.grant()).toMatchObject({ status: 404, body: { code: 'IDENTIFIER_NOT_FOUND' } });
  });

  test('when the MTC user revokes it', async () => {
    const [gone, goesOn] = [await running('head-end', 'tcp'), await running('stranger', 'tcp')];
    expect((await agent.asMtcUser('DELETE', `/grants/${gone.id}`)).status).toBe(204);
    await stopped([gone], goesOn);
    expect(await endOf(gone)).toMatchObject({ endCause: 'REVOKED_BY_MTC_USER' });
  });

  test('when the MTC user blocks the device, which outlives a restart', async () => {
    const gone = [await running('head-end', 'udp'), await running('stranger', 'tcp')];
    const set = await agent.asMtcUser<{ preferenceId: string }>('POST', '/preferences', {
      devices: DEVICE_NAME,
      block: true,
    });
    expect(set.status).toBe(201);
    for (const { session } of gone) await session.quiet();
    for (const flow of gone) expect(await endOf(flow)).toMatchObject({ status: 'ENDED', endCause: 'UNWANTED' });
    const unwanted = { status: 403, body: { title: 'The owner of the device does not want this now' } };
    expect(await agent.grant()).toMatchObject(unwanted);
    await agent.daemon.stop();
    await agent.start();
    expect(await agent.grant()).toMatchObject(unwanted);
    expect((await agent.asMtcUser('DELETE', `/preferences/${set.body.preferenceId}`)).status).toBe(204);
    expect((await agent.grant()).status).toBe(201);
    for (const { grantId } of await agent.grants()) await agent.curl('DELETE', `/grants/${grantId}`);
  });
});

test('a desk that cannot be read stops the start, and says how to go on: no withdrawal is forgotten', async () => {
  await agent.asMtcUser('DELETE', '/authorised-servers/head-end');
  await agent.daemon.stop();
  const desk = `${agent.folder}/store/desk.db`;
  await network.run('gateway', ['cp', desk, `${desk}.whole`]);
  await network.run('gateway', ['dd', 'if=/dev/urandom', `of=${desk}`, 'bs=4096', 'count=2', 'conv=notrunc']);
  const command = [process.execPath, `${ROOT}dist/main.js`, '--config', agent.configFile];
  const { status, stderr } = await network.run('gateway', command, { mayFail: true });
  expect(stderr).toMatch(/deskInvalid\n.*desk\.db cannot be used.*\nRestore desk\.db from a copy/);
  expect(status).toBe(78);
  await network.run('gateway', ['mv', `${desk}.whole`, desk]);
  await agent.start();
  expect((await agent.grant()).status).toBe(404);
});
