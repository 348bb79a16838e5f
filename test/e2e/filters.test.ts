/**
 * Filters on the whole gateway: the agent, its gate and its base. What a drop
 * takes from a grant, what a standing allow opens past the gate, who is in a
 * group, and where all of it is told.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DenialList, DenialRow } from '../../agent/api/denial-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { DEVICE_NAME, DEVICE_PORT, DEVICES, RULES, TestAgent } from '../agent.ts';
import { program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import { DEVICE, GATEWAY, REALM_PREFIX, ROGUE, SERVER, standardNetwork } from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const GROUPS = 'deviceGroups: { second: { devices: ["m2@*"] } }\n';
/** By somebody who holds no grant: a device's answers are a grant's first. */
const NOC = FAMILIES.map(
  (family) =>
    `  - { id: noc-${family}, allow: { from: "${ROGUE[family]}", to: inside, protocol: udp, ports: [${DEVICE_PORT}] }, standing: true }\n`,
).join('');

let network: Network;
let agent: TestAgent;
let device: Probe;
let server: Probe;
let rogue: Probe;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network);
  for (const family of FAMILIES)
    await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', GATEWAY[family]]);
  const echoes = [
    ['server', SERVER],
    ['device', DEVICE],
  ] as const;
  for (const [namespace, { ipv4, ipv6 }] of echoes)
    await network.spawn(namespace, program('test/device.ts', '7000', ipv4, ipv6), { line: /^ready$/ });
  [device, server, rogue] = (await Promise.all(
    (['device', 'server', 'rogue'] as const).map((name) => Probe.start(network, name)),
  )) as [Probe, Probe, Probe];
  await agent.start();
  await agent.daemon.line(/"event":"inspectorSees"/);
});
afterAll(() => network.close());

/** Puts the rules with these filters in force. */
async function apply(filters: string, more = ''): Promise<void> {
  agent.write('rules/rules.yaml', `${RULES}${more}${filters && `filters:\n${filters}`}`);
  const { status, stdout, stderr } = await agent.mtgate('apply', '--yes');
  expect([status, stderr], stdout).toEqual([0, '']);
}

/** The first row that is so; of many denials at once not each is sampled, so the packet is sent until it is seen. */
function row(like: Partial<DenialRow>, knock?: () => Promise<unknown>): Promise<DenialRow> {
  return until(JSON.stringify(like), async () => {
    await knock?.();
    const { denials } = await call<DenialList>({ socket: `${agent.folder}/mtgate.sock` }, 'GET', '/denials?limit=5000');
    return denials.find((one) => Object.entries(like).every(([name, value]) => one[name as keyof DenialRow] === value));
  });
}

test('a drop that is applied ends the grants that it meets, and refuses new ones, by its id', async () => {
  await apply('');
  const { body } = await agent.grant({ applicationServer: { address: SERVER.ipv4 } });
  const session = await Session.open(network, 'server', 'udp', body.externalEndpoint, { address: SERVER.ipv4 });
  session.say('stream');
  await session.next();
  await apply(`  - { id: closed, drop: { from: outside, to: ${DEVICE.ipv4}, protocol: udp } }\n`);
  await session.quiet();
  await session.stop();
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ endCause: 'RULE_CHANGED' });
  const refused = await agent.grant({ applicationServer: { address: SERVER.ipv4 } });
  expect(refused).toMatchObject({ status: 403, body: { code: 'PERMISSION_DENIED' } });
  expect(JSON.stringify(refused.body)).not.toContain('closed');
  expect(await agent.refusal(refused.body)).toMatchObject({ step: 'filter', reason: 'deniedByFilter', rule: 'closed' });
  expect(await agent.grant({ applicationServer: { address: SERVER.ipv6 } })).toMatchObject({ status: 201 });
});

describe.each(FAMILIES)('over %s', (family) => {
  const to = { address: SERVER[family], port: 7000 };
  const direct = { address: DEVICE[family], port: DEVICE_PORT };

  test('what a drop takes stands in the denials, by its id, and in the metrics', async () => {
    await apply(`  - { id: no-${family}, drop: { from: inside, to: "${SERVER[family]}", protocol: tcp } }\n`);
    expect(await device.tcp({ to, waitMs: 300 })).toEqual({ outcome: 'silence' });
    expect(await device.udp({ to })).toMatchObject({ outcome: 'answer' });
    expect(await row({ rule: `no-${family}` })).toMatchObject({ reason: 'filtered', source: DEVICE[family] });
    const { stdout } = await agent.mtgate('denials', '--reason', 'filtered');
    expect(stdout).toContain(`filtered by no-${family}`);
    const page = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
    expect(page.stdout).toMatch(
      new RegExp(`mtgate_filter_packets_total\\{filter="no-${family}",staged="false"\\} [1-9]`),
    );
  });

  test('a standing allow lets begin what it names, past the gate and back; and nothing when it is gone', async () => {
    await apply('');
    expect(await rogue.udp({ to: direct, waitMs: 300 })).toEqual({ outcome: 'silence' });
    const asItIs = { source: DEVICE[family], to: ROGUE[family] };
    const hide = network.show(asItIs, "the filter opens the device's own address to this one");
    await apply(NOC);
    expect(await rogue.udp({ to: direct })).toMatchObject({ outcome: 'answer' });
    expect(await rogue.tcp({ to: direct, waitMs: 300 })).toEqual({ outcome: 'silence' });
    expect(await server.udp({ to: direct, waitMs: 300 })).toEqual({ outcome: 'silence' });
    const knock = () => server.udp({ to: direct, waitMs: 50 });
    await row({ reason: 'realmDestination', source: SERVER[family] }, knock);
    const session = await Session.open(network, 'rogue', 'udp', direct);
    session.say('stream');
    await session.next();
    await apply('');
    await session.quiet();
    await session.stop();
    hide();
  });

  test('an address leaves and enters the groups of filters as it is bound', async () => {
    await apply(`  - { id: second, drop: { from: "group:second", to: outside } }\n`, GROUPS);
    expect(await device.udp({ to })).toMatchObject({ outcome: 'answer' });
    const file = (name: string) => `devices:
  - { externalId: ${DEVICE_NAME}${name === DEVICE_NAME ? `, bindings: [{ realm: iot, address: "${DEVICE[family]}" }]` : ''} }
  - { externalId: m2@meters.example${name === DEVICE_NAME ? '' : `, bindings: [{ realm: iot, address: "${DEVICE[family]}" }]`} }
`;
    agent.write('devices.yaml', file('m2@meters.example'));
    expect(await agent.mtgate('reload')).toMatchObject({ status: 0 });
    expect(await device.udp({ to, waitMs: 300 })).toEqual({ outcome: 'silence' });
    agent.write('devices.yaml', file(DEVICE_NAME));
    expect(await agent.mtgate('reload')).toMatchObject({ status: 0 });
    expect(await device.udp({ to })).toMatchObject({ outcome: 'answer' });
    expect(agent.logged('gapFound')).toEqual([]); // its elements changed on purpose
    agent.write('devices.yaml', DEVICES); // with its addresses of both families
    expect(await agent.mtgate('reload')).toMatchObject({ status: 0 });
  });
});
