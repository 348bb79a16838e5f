/**
 * Rule files against the real daemon: nothing is live until it is applied,
 * what is on trial goes back by itself (after kill -9 too), and there is a way
 * out where the agent does not start.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEVICE_PORT, RULES, TestAgent } from '../agent.ts';
import { program, ROOT } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { DEVICE, standardNetwork } from '../standard-network.ts';

const OTHER_PORT = 8000;
const WIDE = RULES.replace('"7000-7999"', `"7000-7999", ${OTHER_PORT}`);
const NARROW = RULES.replace('"7000-7999"', '"7500-7999"').replace(`port: ${DEVICE_PORT}`, 'port: 7500');

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

const write = (text: string) => agent.write('rules/rules.yaml', text);
/** The status of a request that only WIDE allows; what it was granted is given back. */
async function wideIsLive(): Promise<boolean> {
  const { status, body } = await agent.grant({ devicePort: OTHER_PORT });
  if (status === 201) await agent.curl('DELETE', `/grants/${body.grantId}`);
  else expect({ status, code: body.code }).toEqual({ status: 403, code: 'PERMISSION_DENIED' });
  return status === 201;
}
const edition = async () => (await agent.status()).edition;
const metrics = async () =>
  (await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics'])).stdout;

test('an edited file is not live, whatever is read again, until it is applied', async () => {
  expect(await edition()).toMatchObject({ number: 1, how: 'start', by: 'start' });
  write(WIDE);
  const reload = await agent.mtgate('reload');
  expect(reload.status).toBe(0);
  expect(reload.stdout).toMatch(/^rule files on disk differ from edition 1: mtgate diff, mtgate apply$/m);
  expect(await wideIsLive()).toBe(false);
  expect(await metrics()).toMatch(/^mtgate_policy_folder_differs 1$/m);
  expect((await agent.mtgate('status')).stdout).toMatch(/^ +rule files on disk differ from edition 1: /m);

  const diff = await agent.mtgate('diff');
  expect(diff.stdout).toMatch(/^ {2}rule meters changed: match\.ports: 8000 added$/m);
  expect(diff.stdout).toMatch(
    /refused, noRuleAllows -> allowed by meters +such as head-end to m1@meters\.example, udp\/8000/,
  );
  expect(await wideIsLive()).toBe(false);
  expect(await agent.mtgate('apply', '--yes')).toMatchObject({ status: 0 });
  expect(await wideIsLive()).toBe(true);
  expect(await metrics()).toMatch(/^mtgate_policy_edition 2$/m);
  const [last] = JSON.parse((await agent.mtgate('history', '--json')).stdout);
  expect(last).toMatchObject({ edition: 2, by: 'root', byUid: 0, how: 'apply' });
});

test('a grant that is not allowed any more ends with the apply; a failing test stops it, a rollback takes it back', async () => {
  const { body } = await agent.grant();
  write(RULES.replace('"7000-7999"', '"7500-7999"'));
  const failing = await agent.mtgate('apply', '--yes');
  expect(failing).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/test "the head end may reach a meter": exp/),
  });
  expect(await server.udp({ to: body.externalEndpoint })).toMatchObject({ outcome: 'answer' });
  write(NARROW);
  const applied = await agent.mtgate('apply', '--yes');
  expect(applied.stdout).toMatch(/^1 live grant would end:\n {2}1 {2}noRuleAllows /m);
  expect(await server.udp({ to: body.externalEndpoint, waitMs: 300 })).toEqual({ outcome: 'silence' });
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ endCause: 'RULE_CHANGED' });
  expect(await agent.mtgate('rollback', '--yes')).toMatchObject({ status: 0 });
  expect(await edition()).toMatchObject({ number: 4, how: 'rollback' });
  expect(await wideIsLive()).toBe(true);
});

test('on trial: no other is applied; confirmed it stays, unconfirmed it goes back in time, and its grants end', async () => {
  write(RULES);
  expect(await agent.mtgate('apply', '--yes', '--confirm', '1h')).toMatchObject({ status: 0 });
  write(NARROW);
  expect((await agent.mtgate('apply', '--yes')).stderr).toMatch(/^applyUnderWay: edition 5 is on trial/);
  expect(await metrics()).toMatch(/^mtgate_policy_confirm_seconds_left 3\d{3}/m);
  expect(await agent.mtgate('confirm')).toMatchObject({ status: 0 });

  write(WIDE);
  const from = agent.daemon.lines.length;
  expect(await agent.mtgate('apply', '--yes', '--confirm', '2s')).toMatchObject({ status: 0 });
  const { status, body } = await agent.grant({ devicePort: OTHER_PORT });
  expect(status).toBe(201);
  await agent.daemon.line(/"left":6.*"event":"policyWentBack"/, { from, patienceMs: 5_000 });
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ endCause: 'RULE_CHANGED' });
  expect(await wideIsLive()).toBe(false);
  expect((await agent.mtgate('confirm')).stderr).toMatch(/^nothingToConfirm/);
});

test('killed while on trial, the agent starts with the edition before, loudly', async () => {
  expect(await agent.mtgate('apply', '--yes', '--confirm', '1h')).toMatchObject({ status: 0 });
  const { body } = await agent.grant({ devicePort: OTHER_PORT });
  expect(body).toMatchObject({ status: 'LIVE' });
  await agent.daemon.stop('SIGKILL');
  await agent.start();
  expect(agent.logged('policyWentBack')).toMatchObject([{ level: 'error', edition: 9, left: 8, asEdition: 7 }]);
  expect((await agent.curl('GET', `/grants/${body.grantId}`)).body).toMatchObject({ endCause: 'RULE_CHANGED' });
  expect(await wideIsLive()).toBe(false);
  expect(await edition()).toMatchObject({ number: 9, how: 'wentBack', folder: expect.stringContaining('differ') });
});

test('an edition that does not fit agent.yaml any more, damaged editions: no start, and a way out', async () => {
  const offline = ['apply', '--offline', '--yes', '--config', agent.configFile];
  expect((await agent.mtgate(...offline)).stderr).toMatch(/^another agent holds .*store\nStop the other agent first/);
  await agent.daemon.stop();
  const yaml = readFileSync(agent.configFile, 'utf8');
  writeFileSync(agent.configFile, yaml.replace('name: mtc-ca', 'name: other-ca'));
  const start = () =>
    network.run('gateway', [process.execPath, join(ROOT, 'dist/main.js'), '--config', agent.configFile], {
      mayFail: true,
    });
  const unfit = await start();
  expect(unfit.stderr).toMatch(
    /^mtgate: editionUnfit\nedition 9, which is in force.*\nedition-9\/rules\.yaml:\d+:\d+: unknown client CA "mtc-ca"/,
  );
  expect(unfit.stderr).toContain('mtgate apply --offline');
  expect(unfit.status).toBe(78);
  write(WIDE.replaceAll('mtc-ca', 'other-ca'));
  expect((await agent.mtgate(...offline)).stdout).toMatch(
    /edition 9 does not fit any more\n(?:.*\n)*edition 10 is in force from the next/,
  );
  await agent.start();
  expect(await edition()).toMatchObject({ number: 10, how: 'offline', by: 'root' });
  expect(await wideIsLive()).toBe(true);

  await agent.daemon.stop();
  const file = join(agent.folder, 'store/editions.db');
  writeFileSync(file, readFileSync(file).fill(0x55, 0, 4_096));
  const damaged = await start();
  expect(damaged.stderr).toMatch(/^mtgate: editionsInvalid\n.*editions\.db cannot be used: /);
  expect(damaged.status).toBe(78);
  expect((await agent.mtgate(...offline)).stdout).toMatch(
    /cannot be used: .*: it will be put aside\nedition 1 is in force/,
  );
  expect(existsSync(`${file}.unusable`)).toBe(true);
  await agent.start();
  expect(await edition()).toMatchObject({ number: 1, how: 'offline' });
});
