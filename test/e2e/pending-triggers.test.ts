/**
 * Thousands of triggers that are pending when the agent is killed, while they
 * come and while they are delivered: none that was accepted is lost.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { T8_BASE_PATH } from '../../agent/api/t8-routes.ts';
import type { TriggerList } from '../../agent/api/trigger-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { API_PORT } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import { COAP, TriggeringGateway, triggering } from '../device-triggering.ts';
import type { Network } from '../network.ts';
import { DEVICE, GATEWAY, INSIDE, standardNetwork } from '../standard-network.ts';

const TRIGGERS = 2_000;
const PER_DEVICE = 5;
const DEVICES = Array.from({ length: TRIGGERS / PER_DEVICE }, (_, i) => ({
  name: `m${i}@meters.example`,
  address: `10.20.${8 + (i >> 8)}.${i & 255}`,
}));
/** All at once would be more than one server may have under way. */
const AT_ONCE = 32;
const PATIENCE_MS = 120_000;

let network: Network;
let gateway: TriggeringGateway;
let onDevices: Child;
beforeAll(async () => {
  network = standardNetwork();
  gateway = new TriggeringGateway(network, devicesFile(false));
  // One host is all devices: their addresses lead there, as to a user plane.
  await network.run('device', ['ip', 'route', 'add', 'local', '10.20.8.0/22', 'dev', 'lo']);
  await network.run('gateway', ['ip', 'route', 'add', '10.20.8.0/22', 'via', DEVICE.ipv4, 'dev', INSIDE]);
  await gateway.start();
  const addresses = DEVICES.map(({ address }) => address);
  onDevices = await network.spawn('device', program('test/coap-device.ts', String(COAP), ...addresses), {
    line: /^ready$/,
  });
});
afterAll(() => network.close());

function devicesFile(isBound: boolean): string {
  const place = (address: string) => (isBound ? `, bindings: [{ realm: iot, address: ${address} }]` : '');
  const lines = DEVICES.map(({ name, address }) => `  - { externalId: ${name}${place(address)} }\n`);
  return `devices:\n${lines.join('')}`;
}

const textOf = (i: number) => `trigger-${i}-of-all`;

/** One curl that asks for all of these, on connections that it keeps. */
function post(first: number, count: number): Child {
  const { headEnd, ca, folder } = gateway.agent;
  const each = Array.from({ length: count }, (_, i) => {
    const { name } = DEVICES[(first + i) % DEVICES.length] as (typeof DEVICES)[number];
    const body = JSON.stringify(triggering(textOf(first + i), { externalId: name }));
    return [
      `url = "https://${GATEWAY.ipv4}:${API_PORT}${T8_BASE_PATH}/head-end/transactions"`,
      `cacert = "${ca.certificateFile}"`,
      `cert = "${headEnd.certificateFile}"`,
      `key = "${headEnd.keyFile}"`,
      `json = ${JSON.stringify(body)}`,
      'output = "/dev/null"',
      `write-out = "%{http_code} ${textOf(first + i)} %header{location}\\n"`,
    ].join('\n');
  });
  const file = join(folder, `post-${first}`);
  writeFileSync(file, each.join('\nnext\n'));
  const command = ['curl', '--no-progress-meter', '--config', file, '--parallel', '--parallel-max', String(AT_ONCE)];
  return network.launch('server', command);
}

/** What was accepted: the id, by the payload. */
const accepted = ({ lines }: Child) =>
  new Map(
    lines.flatMap((line) => {
      const [, text, id] = /^201 (\S+) \S+\/(\S+)$/.exec(line) ?? [];
      return text !== undefined && id !== undefined ? [[text, id] as const] : [];
    }),
  );
const socket = () => `${gateway.agent.folder}/mtgate.sock`;
const pending = async () => (await call<TriggerList>({ socket: socket() }, 'GET', '/triggers?limit=1')).pending;
const stateOf = async (id: string) =>
  (await call<{ state: string }>({ socket: socket() }, 'GET', `/triggers/${id}`)).state;
const came = () => onDevices.lines.flatMap((line) => / POST \/trigger (\S+)$/.exec(line)?.[1] ?? []);

async function killed(): Promise<void> {
  await gateway.agent.daemon.stop('SIGKILL');
  await gateway.agent.start();
}

test('none is lost, whenever the agent is killed', async () => {
  const first = post(0, TRIGGERS);
  await until('half of them', () => (accepted(first).size > TRIGGERS / 2 ? true : undefined), PATIENCE_MS);
  await killed();
  await first.stop('SIGKILL');
  const known = accepted(first);
  for (const id of known.values()) expect(await stateOf(id)).toBe('pending');
  const rest = TRIGGERS - (await pending());
  const second = post(TRIGGERS, rest);
  await until('the rest', () => (accepted(second).size === rest ? true : undefined), PATIENCE_MS);
  for (const [text, id] of accepted(second)) known.set(text, id);

  await killed();
  expect(await pending()).toBe(TRIGGERS);
  gateway.agent.write('devices.yaml', devicesFile(true));
  const reloaded = await gateway.agent.mtgate('reload');
  expect(reloaded.status, reloaded.stderr).toBe(0);
  await until('a third of them delivered', () => (came().length > TRIGGERS / 3 ? true : undefined), PATIENCE_MS);
  await killed();
  await until('all to be over', async () => ((await pending()) === 0 ? true : undefined), PATIENCE_MS);

  const times = new Map<string, number>();
  for (const text of came()) times.set(text, (times.get(text) ?? 0) + 1);
  expect([...known.keys()].filter((text) => !times.has(text))).toEqual([]);
  expect(times.size).toBe(TRIGGERS);
  // What was under way when it was killed comes again: one of each device, at most.
  const twice = [...times.values()].filter((count) => count > 1);
  expect(twice.length).toBeLessThanOrEqual(DEVICES.length);
  expect(twice.every((count) => count === 2)).toBe(true);
}, 300_000);
