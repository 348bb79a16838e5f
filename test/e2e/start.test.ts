/**
 * What an operator reads when the agent does not start: what is wrong, where,
 * and what to do. It ends with status 78 where files must be corrected first
 * (the unit then does not try again), else with 1; what stands is closed.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEVICES, RULES, TestAgent } from '../agent.ts';
import { ROOT, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { DEVICE, GATEWAY, REALM_PREFIX, standardNetwork } from '../standard-network.ts';

let network: Network;
let agent: TestAgent;
let yaml: string;

beforeAll(() => {
  network = standardNetwork();
  agent = new TestAgent(network);
  yaml = readFileSync(agent.configFile, 'utf8');
});
afterAll(async () => {
  await network.close();
});

/** Starts with agent.yaml changed in one place; resolves with what it said when it ended. */
async function startWith(from: string | RegExp, to: string): Promise<{ status: number; stderr: string }> {
  const changed = yaml.replace(from, to);
  expect(changed).not.toBe(yaml);
  const file = join(agent.folder, 'changed.yaml');
  writeFileSync(file, changed);
  return network.run('gateway', [process.execPath, join(ROOT, 'dist/main.js'), '--config', file], { mayFail: true });
}

describe('it does not start', () => {
  test.each<[string, string | RegExp, string, string | RegExp]>([
    [
      'an unknown key',
      'gateway: gw-demo',
      'gateway: gw-demo\nsampling: 5',
      /configInvalid\n.*changed\.yaml:3:1: .*sampling/,
    ],
    [
      'pools that overlap',
      '203.0.113.8/29',
      '203.0.113.0/28',
      /configInvalid\n.*changed\.yaml:5:24: 203\.0\.113\.0\/29 \(the grants pool\) overlaps/,
    ],
    [
      'an interface without Ethernet header',
      'interface: outside',
      'interface: lo',
      'interfaceUnsuitable\noutside cannot be lo: its frames are of kind loopback\n',
    ],
    [
      'no BPF file system',
      /bpffs: [^,]*/,
      'bpffs: /proc/mtgate',
      'bpffsMissing\n/proc is no BPF file system\nMount it',
    ],
    ['an address that is not on this host', `listen: ${GATEWAY.ipv4}`, 'listen: 192.0.2.9', 'listenFailed\n'],
    [
      'a certificate file that is not there',
      /certificate: \S+/,
      'certificate: nowhere.pem',
      /certificateInvalid\n.*nowhere\.pem: ENOENT/,
    ],
    ['no devices file', 'devices: devices.yaml', 'devices: nowhere.yaml', /devicesInvalid\n.*nowhere\.yaml: ENOENT/],
    [
      'no folder of rules',
      /store: .*\nrules: .*/,
      'store: { directory: none }\nrules: nowhere',
      /rulesInvalid\n.*nowhere: ENOENT/,
    ],
  ])('%s', async (_, from, to, says) => {
    const { status, stderr } = await startWith(from, to);
    expect(stderr).toMatch(says);
    expect(status).toBe(/(config|rules|devices|certificate)Invalid/.test(stderr) ? 78 : 1);
  });

  test("a key that is not the certificate's", async () => {
    const { stderr } = await startWith(/key: \S+/, `key: ${agent.stranger.keyFile}`);
    expect(stderr).toMatch(/^mtgate: certificateInvalid\n/);
  });

  test('a policy test that fails', async () => {
    agent.write('rules/rules.yaml', RULES.replace('expect: { allow: meters }', 'expect: { refuse: noRuleAllows }'));
    const { stderr } = await startWith('directory: store', 'directory: fresh');
    expect(stderr).toMatch(
      /rulesInvalid\n.*rules\.yaml:\d+:\d+: test "the head end may reach a meter": expected .*noRuleAllows/,
    );
    agent.write('rules/rules.yaml', RULES);
  });

  test('two devices of one MSISDN', async () => {
    agent.write('devices.yaml', `${DEVICES}    msisdn: "+491715550100"\n`);
    const { stderr } = await startWith('gw-demo', 'gw-1');
    expect(stderr).toMatch(/devicesInvalid\n.*devices\.yaml:9:\d+: duplicate MSISDN/);
    agent.write('devices.yaml', DEVICES);
  });

  test('a database that is none', async () => {
    const folder = join(agent.folder, 'broken');
    await network.run('gateway', ['mkdir', '-p', folder]);
    writeFileSync(join(folder, 'mtgate.db'), 'not a database at all, but long enough to look at\n'.repeat(50));
    const { stderr } = await startWith('directory: store', 'directory: broken');
    expect(stderr).toMatch(/storeInvalid\n.*mtgate\.db cannot be used: file is not a database\nRestore/);
  });

  test('a second agent, on the same store or on the same gate; the first one goes on', async () => {
    await agent.start();
    const sameStore = await startWith('gw-demo', 'gw-2');
    expect(sameStore).toMatchObject({ status: 1, stderr: expect.stringMatching(/^mtgate: alreadyRunning\n.*store/) });
    const sameGate = await startWith('directory: store', 'directory: another');
    expect(sameGate).toMatchObject({ status: 1, stderr: expect.stringMatching(/^mtgate: alreadyRunning\n.*bpf/) });
    expect((await agent.grant()).status).toBe(201);
    await agent.daemon.stop('SIGTERM');
  });
});

test('where a start failed late, the gateway is closed', async () => {
  const { stderr } = await startWith(`listen: ${GATEWAY.ipv4}`, 'listen: 192.0.2.9');
  expect(stderr).toContain('listenFailed');
  await network.run('wan', ['ip', 'route', 'replace', REALM_PREFIX.ipv4, 'via', GATEWAY.ipv4]);
  const server = await Probe.start(network, 'server');
  const silent = { outcome: 'silence' };
  expect(await server.udp({ to: { address: DEVICE.ipv4, port: 7000 }, waitMs: 300 })).toEqual(silent);
  expect(await server.udp({ to: { address: '203.0.113.1', port: 20_000 }, waitMs: 300 })).toEqual(silent);
});

test('both pools are blackholes, and those of an earlier configuration are not any more', async () => {
  const holes = async () => {
    const shown = await Promise.all(
      ['-4', '-6'].map((family) => network.run('gateway', ['ip', family, 'route', 'show', 'type', 'blackhole'])),
    );
    return new Set(
      shown.flatMap(({ stdout }) => Array.from(stdout.matchAll(/blackhole (\S+)/g), ([, prefix]) => prefix)),
    );
  };
  await network.run('gateway', ['ip', 'route', 'add', 'blackhole', '198.18.7.0/24']); // somebody else's
  await agent.start();
  const both = ['203.0.113.0/29', '203.0.113.8/29', '2001:db8:a::/64', '2001:db8:e::/64'];
  expect(await holes()).toEqual(new Set(['198.18.7.0/24', ...both]));
  await agent.daemon.stop('SIGTERM');
  await startWith(
    new RegExp(`203.0.113.8/29(.*)\n([^]*)listen: ${GATEWAY.ipv4}`),
    '203.0.113.16/29$1\n$2listen: 192.0.2.9',
  );
  expect(await holes()).toEqual(new Set(['198.18.7.0/24', '203.0.113.0/29', '203.0.113.16/29', ...both.slice(2)]));
});

test('stopped by SIGINT it ends with status 0, and says so', async () => {
  await agent.start();
  await agent.daemon.stop('SIGINT');
  expect(agent.daemon.status).toBe(0);
  // It may be gone before its last line has been read.
  await until('its last word', () => (agent.logged('stopped').length > 0 ? true : undefined));
});
