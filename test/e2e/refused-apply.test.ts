/**
 * An apply that the kernel does not take: nft as it is, but that it can be made
 * to refuse, as it does where the kernel has no memory.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEVICE_PORT, RULES, TestAgent } from '../agent.ts';
import { program } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { DEVICE, standardNetwork } from '../standard-network.ts';

const SAYS = 'Error: Could not process rule: Cannot allocate memory';

let network: Network;
let agent: TestAgent;
let server: Probe;
/** While this file is there, nft takes nothing. */
let refusing: string;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network);
  refusing = join(agent.folder, 'refusing');
  const nft = `#!/bin/sh\n[ -e ${refusing} ] && [ "$1" = -f ] && { echo "${SAYS}" >&2; exit 1; }\nexec /usr/sbin/nft "$@"\n`;
  mkdirSync(join(agent.folder, 'tools'));
  writeFileSync(join(agent.folder, 'tools/nft'), nft, { mode: 0o755 });
  await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4), { line: /^ready$/ });
  server = await Probe.start(network, 'server');
  await agent.start({ PATH: `${join(agent.folder, 'tools')}:${process.env['PATH']}` });
});
afterAll(() => network.close());

const write = (text: string) => agent.write('rules/rules.yaml', text);
const edition = async () => JSON.parse((await agent.mtgate('status', '--json')).stdout).edition;

test('what is doubtful is told before it is applied', async () => {
  write(RULES.replace('tests:', '  - { id: never, deny: { devices: ["*@nowhere.example"], reason: none } }\ntests:'));
  const { stdout } = await agent.mtgate('diff');
  expect(stdout).toMatch(/^warning: .*rules\.yaml:\d+:\d+: /m);
});

test('a base that nft refuses: what was in force is, whatever was asked; and is again by itself', async () => {
  const { body } = await agent.grant();
  expect(body).toMatchObject({ status: 'LIVE' });
  const before = await edition();
  const from = agent.daemon.lines.length;
  writeFileSync(refusing, '');
  const filtered = `${RULES}filters: [{ id: rogue, drop: { from: 192.0.2.66 } }]\n`;
  write(filtered);
  expect(await agent.mtgate('apply', '--yes')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('the base was not applied: Error: Could not process rule: Cannot allocate memory'),
  });
  await agent.daemon.line(/"event":"notGoneBack"/, { from });
  expect(await server.udp({ to: body.externalEndpoint })).toMatchObject({ outcome: 'answer' });
  expect(await agent.mtgate('apply', '--yes')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^applyUnderWay: edition \d+ is being gone back from/),
  });
  rmSync(refusing);
  await agent.daemon.line(/"event":"policyWentBack"/, { from });
  expect(await edition()).toMatchObject({ how: 'wentBack', number: before.number + 2 });
  expect(await server.udp({ to: body.externalEndpoint })).toMatchObject({ outcome: 'answer' });
  expect((await agent.curl('DELETE', `/grants/${body.grantId}`)).status).toBe(204);
});
