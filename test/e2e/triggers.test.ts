/**
 * Triggers on the whole gateway, agent, gate and base: a device has them from
 * the gateway's one source, and nothing else reaches its trigger port.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DenialList, DenialRow } from '../../agent/api/denial-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { DEVICE_NAME, RULES, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import {
  DEVICE,
  GATEWAY,
  INNER_GATEWAY,
  INSIDE,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  standardNetwork,
} from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const SOURCE_PORT = 5683;
/** Of the device: one that serves CoAP, one that is difficult, and one that takes plain UDP. */
const [COAP, DIFFICULT, PLAIN] = [7001, 7002, 7010];
/** Of the device, and no trigger port until the agent is started anew. */
const LATER = 7020;
const triggers = (ports: readonly number[]) =>
  `triggers: { sources: [${INNER_GATEWAY.ipv4}, "${INNER_GATEWAY.ipv6}"], ports: [${ports.join(', ')}], coapPorts: [${COAP}, ${DIFFICULT}] }\n`;
const TRIGGERS = triggers([COAP, DIFFICULT, PLAIN]);

let network: Network;
let agent: TestAgent;
let onDevice: Child;
let plain: Child;
let sender: Child;
let device: Probe;
let rogue: Probe;
let server: Probe;
let host: Probe;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, { more: TRIGGERS });
  for (const family of FAMILIES)
    await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', GATEWAY[family]]);
  const { ipv4, ipv6 } = DEVICE;
  await agent.start();
  [onDevice, plain, sender] = await Promise.all([
    network.spawn('device', program('test/coap-device.ts', String(COAP), ipv4, ipv6), { line: /^ready$/ }),
    network.spawn('device', program('test/device.ts', String(PLAIN), ipv4, ipv6), { line: /^ready$/ }),
    network.spawn('gateway', program('test/trigger-sender.ts', agent.configFile), { line: /^ready$/ }),
    network.spawn('server', program('test/device.ts', '7000', SERVER.ipv4, SERVER.ipv6), { line: /^ready$/ }),
  ]);
  [device, rogue, server, host] = (await Promise.all(
    (['device', 'rogue', 'server', 'gateway'] as const).map((name) => Probe.start(network, name)),
  )) as [Probe, Probe, Probe, Probe];
  await agent.daemon.line(/"event":"inspectorSees"/);
});
afterAll(() => network.close());

let number = 0;
/** What became of a trigger. */
async function deliver(to: string, port: number, payload: string): Promise<string> {
  number += 1;
  const from = sender.lines.length;
  sender.say(`${number} ${to} ${port} ${payload}`);
  return (await sender.line(new RegExp(`^${number} `), { from })).split(' ')[1] ?? '';
}

async function received(): Promise<number> {
  const from = sender.lines.length;
  sender.say('reading');
  return JSON.parse((await sender.line(/^reading /, { from })).slice('reading '.length)).received;
}

function row(like: Partial<DenialRow>, knock: () => Promise<unknown>): Promise<DenialRow> {
  return until(JSON.stringify(like), async () => {
    await knock();
    const { denials } = await call<DenialList>({ socket: `${agent.folder}/mtgate.sock` }, 'GET', '/denials?limit=5000');
    return denials.find((one) => Object.entries(like).every(([name, value]) => one[name as keyof DenialRow] === value));
  });
}

describe.each(FAMILIES)('over %s', (family) => {
  const here = DEVICE[family];
  const source = `${INNER_GATEWAY[family]} ${SOURCE_PORT}`;
  const trigger = { address: here, port: COAP };

  test('a CoAP device gets a trigger from the one source; what it says of it is what became of it', async () => {
    expect(await deliver(here, COAP, `report-${family}`)).toBe('acknowledged');
    await onDevice.line(new RegExp(`^coap ${source} POST /trigger report-${family}$`));
    expect(await deliver(here, COAP, 'late')).toBe('acknowledged');
    expect(await deliver(here, COAP, '4.04')).toBe('rejected');
    expect(await deliver(here, COAP, '5.03')).toBe('rejected');
  });

  test('a device that is silent is sent it again, and its reset is heard', async () => {
    const from = onDevice.lines.length;
    expect(await deliver(here, DIFFICULT, 'report')).toBe('rejected');
    expect(onDevice.lines.slice(from)).toEqual([`silent ${source}`, `reset ${source}`]);
  });

  test('over plain UDP it is sent, and no more is said', async () => {
    expect(await deliver(here, PLAIN, `plain-${family}`)).toBe('sent');
    await plain.line(new RegExp(`^udp \\S+:${SOURCE_PORT} \\S+ plain-${family}$`));
  });

  test('nobody outside reaches a trigger port, and who tried is told with the device and its MTC user', async () => {
    const before = onDevice.lines.length;
    const knock = () => rogue.udp({ to: trigger, text: 'forged', waitMs: 100 });
    expect(await rogue.tcp({ to: trigger, waitMs: 300 })).toEqual({ outcome: 'silence' });
    const found = await row({ reason: 'unauthorisedTrigger', source: ROGUE[family] }, knock);
    expect(found).toMatchObject({ kind: 'packet', device: DEVICE_NAME, mtcUser: 'acme' });
    const { stdout } = await agent.mtgate('denials', '--reason', 'unauthorisedTrigger');
    expect(stdout).toContain(ROGUE[family]);
    expect(onDevice.lines.length).toBe(before);
  });

  test('nor by a standing allow', async () => {
    const noc = `filters:\n  - { id: noc, allow: { from: "${SERVER[family]}", to: inside, protocol: udp }, standing: true }\n`;
    agent.write('rules/rules.yaml', `${RULES}${noc}`);
    const applied = await agent.mtgate('apply', '--yes');
    expect(applied.status, applied.stderr).toBe(0);
    expect(`${applied.stdout}${applied.stderr}`).toContain('allow "noc" leads to no device there');
    const before = [onDevice, plain].map(({ lines }) => lines.length);
    const knock = () => server.udp({ to: { address: here, port: PLAIN }, text: 'forged', waitMs: 100 });
    expect(await row({ reason: 'unauthorisedTrigger', source: SERVER[family] }, knock)).toMatchObject({
      device: DEVICE_NAME,
      mtcUser: 'acme',
    });
    expect([onDevice, plain].map(({ lines }) => lines.length)).toEqual(before);
    agent.write('rules/rules.yaml', RULES);
    expect((await agent.mtgate('apply', '--yes')).status).toBe(0);
  });

  test('nor another program of the gateway', async () => {
    expect(await host.udp({ to: { address: here, port: PLAIN }, waitMs: 300 })).toMatchObject({
      outcome: expect.stringMatching(/silence|refused/),
    });
    expect(plain.lines.some((line) => line.endsWith(' probe'))).toBe(false);
  });

  test('nobody reaches the source port but devices that answer', async () => {
    const to = { address: INNER_GATEWAY[family], port: SOURCE_PORT };
    const before = await received();
    for (const one of [rogue, device, host]) await one.udp({ to, waitMs: 200 });
    expect(await received()).toBe(before);
  });

  test('a device begins nothing from its trigger port: what answered would come to it', async () => {
    const to = { address: SERVER[family], port: 7000 };
    expect(await device.udp({ to, from: { address: here, port: 7009 } })).toMatchObject({ outcome: 'answer' });
    await plain.stop();
    expect(await device.udp({ to, from: { address: here, port: PLAIN }, waitMs: 300 })).toEqual({ outcome: 'silence' });
    plain = await network.spawn('device', program('test/device.ts', String(PLAIN), DEVICE.ipv4, DEVICE.ipv6), {
      line: /^ready$/,
    });
  });
});

test('a device that floods the source port breaks nothing: little of it arrives, and others are served', async () => {
  const before = await received();
  const flooded = onDevice.lines.length;
  sender.say(`flood ${DEVICE.ipv4} ${DIFFICULT} flood`);
  await onDevice.line(/^flooded$/, { from: flooded });
  expect(await deliver(DEVICE.ipv6, COAP, 'in between')).toBe('acknowledged');
  expect((await received()) - before).toBeLessThan(2_000);
  expect(agent.logged('gapFound')).toEqual([]);
});

test('a grant for a trigger port is refused, and one that is there ends when its port becomes one', async () => {
  for (const protocol of ['UDP', 'TCP']) {
    const refused = await agent.grant({ protocol, devicePort: COAP, applicationServer: { address: SERVER.ipv4 } });
    expect(refused).toMatchObject({ status: 403, body: { code: 'PERMISSION_DENIED' } });
    expect(await agent.refusal(refused.body)).toMatchObject({ step: 'rule', reason: 'triggerPort' });
  }
  const { status, body } = await agent.grant({ devicePort: LATER, applicationServer: { address: SERVER.ipv4 } });
  expect(status).toBe(201);
  await agent.daemon.stop();
  const config = readFileSync(agent.configFile, 'utf8');
  agent.write('agent.yaml', config.replace(TRIGGERS, triggers([COAP, DIFFICULT, PLAIN, LATER])));
  await agent.start();
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ endCause: 'RULE_CHANGED' });
});

test('a source that this host has not is told at the start, before any trigger fails', async () => {
  expect(agent.logged('triggerSourceMissing')).toEqual([]);
  await agent.daemon.stop();
  const { ipv6: source } = INNER_GATEWAY;
  await network.run('gateway', ['ip', 'address', 'del', `${source}/48`, 'dev', INSIDE]);
  await agent.start();
  const why = `${source} is no address of this host`;
  expect(agent.logged('triggerSourceMissing')).toMatchObject([{ level: 'warn', source, why }]);
  expect((await agent.mtgate('doctor', '--config', agent.configFile)).stdout).toContain(why);
});
