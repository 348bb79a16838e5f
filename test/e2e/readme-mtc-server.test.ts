/**
 * What the README shows the programmer of an MTC server, run as it stands there
 * from the server's place in the network: the commands, and the client.
 */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { API_PORT, DEVICE_NAME } from '../agent.ts';
import { program, ROOT, until } from '../child.ts';
import { SERVICE, sinkUrl, TriggeringGateway } from '../device-triggering.ts';
import type { Network } from '../network.ts';
import { Session } from '../session.ts';
import { DEVICE, GATEWAY, standardNetwork } from '../standard-network.ts';

const README = readFileSync(join(ROOT, 'README.md'), 'utf8');
/** A block of the page, at the gateway of the test. */
function block(language: string): string {
  const [, text = ''] = new RegExp(`^\`\`\`${language} mtc-server\\n(.*?)^\`\`\`$`, 'ms').exec(README) ?? [];
  return text
    .replaceAll('https://gateway.example:8443', `https://${GATEWAY.ipv4}:${API_PORT}`)
    .replaceAll('https://head-end.example/triggers', sinkUrl('/head-end/triggers'));
}

let network: Network;
let gateway: TriggeringGateway;
let folder: string;
beforeAll(async () => {
  network = standardNetwork();
  const place = `bindings: [{ realm: iot, address: ${DEVICE.ipv4} }]`;
  const devices = `devices: [{ externalId: ${DEVICE_NAME}, ${place} }, { externalId: m2@meters.example }]\n`;
  gateway = new TriggeringGateway(network, devices);
  folder = network.folder();
  const { ca, headEnd } = gateway.agent;
  copyFileSync(ca.certificateFile, join(folder, 'mtc-ca.crt'));
  copyFileSync(headEnd.certificateFile, join(folder, 'head-end.crt'));
  copyFileSync(headEnd.keyFile, join(folder, 'head-end.key'));
  await gateway.start();
});
afterAll(() => network.close());

test('each command is answered as it says', async () => {
  const script = block('sh');
  expect(script.split('\n').filter((line) => line.startsWith('mtc ')).length).toBeGreaterThan(9);
  // Each answer in a line of its own; the first that is refused ends it.
  const told = script.replaceAll(/^mtc .*?(\$api|\$t8)\S*$/gms, (one) => `${one}; echo`);
  const { stdout, stderr } = await network.run('server', [
    ...['bash', '-c', `set -euo pipefail; cd ${folder}\n${told}`],
  ]);
  expect(stderr).toBe('');
  const answers = stdout.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]));
  const [limits, granted, extended, ended, waiting, triggered, pending, changed, recalled] = answers;
  expect(limits).toMatchObject({ maxDurationSeconds: 900 });
  expect(granted).toMatchObject({
    status: 'LIVE',
    devicePort: SERVICE,
    externalEndpoint: { port: expect.any(Number) },
  });
  expect(extended).toMatchObject({ grantId: granted.grantId, status: 'LIVE' });
  expect(Date.parse(extended.expiresAt)).toBeGreaterThan(Date.parse(granted.expiresAt) + 500_000);
  expect(ended).toMatchObject({ grantId: granted.grantId, status: 'ENDED', endCause: 'ENDED_BY_SERVER' });
  expect(waiting).toMatchObject({ status: 'WAITING' });
  expect(triggered).toMatchObject({ externalId: 'm2@meters.example', deliveryResult: 'TRIGGERED' });
  expect(pending).toMatchObject([{ self: triggered.self }]);
  expect(changed).toMatchObject({ self: triggered.self, priority: 'PRIORITY', deliveryResult: 'REPLACED' });
  expect(recalled).toMatchObject({ self: triggered.self, deliveryResult: 'TERMINATE' });
  expect(answers).toHaveLength(9);
});

test('the client keeps a way to the device open beyond its first end, and gives it back', async () => {
  writeFileSync(join(folder, 'reach.mjs'), block('js'));
  const device = await network.spawn('device', program('test/device.ts', String(SERVICE), DEVICE.ipv4), {
    line: /^ready$/,
  });
  const run = `cd ${folder} && exec ${process.execPath} reach.mjs 4`;
  const client = await network.spawn('server', ['sh', '-c', run], { line: / until / });
  const [address = '', port, , firstEnd = ''] = (client.lines[0] as string).split(' ');
  const session = await Session.open(network, 'server', 'udp', { address, port: Number(port) });
  session.say('before');
  await device.line(/before$/);
  await until('its first end to pass', () => (Date.now() > Date.parse(firstEnd) + 500 ? true : undefined));
  session.say('after');
  await device.line(/after$/);
  expect(client.lines).toHaveLength(1); // the same grant, extended
  const live = async () => (await gateway.agent.grants()).filter(({ status }) => status === 'LIVE');
  expect(await live()).toMatchObject([{ externalEndpoint: { address, port: Number(port) } }]);
  await client.stop('SIGTERM');
  expect(client.errors).toBe('');
  expect(await live()).toEqual([]);
});

test('the client asks again, as Retry-After says, while the gateway opens nothing', async () => {
  const drained = await gateway.agent.mtgate('drain');
  expect(drained.status, drained.stderr).toBe(0);
  const client = network.launch('server', ['sh', '-c', `cd ${folder} && exec ${process.execPath} reach.mjs 4`]);
  await until('a refusal', () => client.errors.includes('503 UNAVAILABLE') || undefined);
  expect((await gateway.agent.grant()).status).toBe(503);
  expect(client.running).toBe(true);
  await client.stop('SIGKILL');
  const refused = gateway.agent.logged('refused').filter(({ reason }) => reason === 'gatewayDraining');
  expect(refused).toHaveLength(2); // and not again and again
});
