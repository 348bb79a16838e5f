/** The fixture itself: what other tests prove with it is worth no more than this. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { Capture } from '../capture.ts';
import { Child, program } from '../child.ts';
import { ethernet, ip, udp } from '../frames.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import {
  DEVICE,
  GATEWAY,
  GRANTS_POOL,
  OUTSIDE,
  SERVER,
  SERVER_SECOND,
  standardNetwork,
  UPLINK,
} from '../standard-network.ts';

const BPFFS = 0xcafe4a11;

describe('the standard network', () => {
  let network: Network;
  let server: Probe;
  let device: Child;

  beforeAll(async () => {
    network = standardNetwork();
    network.show({}, 'no gate stands on this gateway');
    device = await network.spawn('device', program('test/device.ts', '7000', DEVICE.ipv4, DEVICE.ipv6), {
      line: /^ready$/,
    });
    server = await Probe.start(network, 'server');
  });
  afterAll(() => network.close());

  test.each(['ipv4', 'ipv6'] as const)(
    'a server reaches the gateway, and hears that nobody listens, over %s',
    async (family) => {
      const to = { address: GATEWAY[family], port: 7 };
      expect(await server.udp({ to })).toEqual({ outcome: 'refused', error: 'ECONNREFUSED' });
      expect(await server.tcp({ to })).toEqual({ outcome: 'refused', error: 'ECONNREFUSED' });
    },
  );

  test.each(['ipv4', 'ipv6'] as const)(
    'without a gate, a route leads straight to the device over %s',
    async (family) => {
      const route = family === 'ipv4' ? ['10.20.0.0/16', GATEWAY.ipv4] : ['fd00:20::/48', GATEWAY.ipv6];
      await network.run('wan', ['ip', 'route', 'add', route[0] as string, 'via', route[1] as string]);
      const to = { address: DEVICE[family], port: 7000 };
      expect(await server.udp({ to, text: 'one' })).toMatchObject({ outcome: 'answer', text: 'one' });
      const from = { address: SERVER_SECOND[family], port: 5000 };
      expect(await server.tcp({ to, from, text: 'two' })).toEqual({ outcome: 'answer', text: 'two', localPort: 5000 });
      expect(await device.line(new RegExp(`${SERVER_SECOND[family]}.* two$`))).toMatch(/^tcp /);
      // A stream runs until its way is cut.
      for (const protocol of ['tcp', 'udp'] as const) {
        const session = await Session.open(network, 'server', protocol, to);
        session.say('stream');
        await session.next();
        await network.run('wan', ['ip', 'route', 'add', 'blackhole', SERVER[family]]);
        await session.quiet();
        await network.run('wan', ['ip', 'route', 'delete', 'blackhole', SERVER[family]]);
        session.say('stop');
        await session.stop();
      }
    },
  );

  test('silence is told from refusal, and a marker proves it early', async () => {
    await network.run('gateway', ['ip', 'route', 'add', 'blackhole', GRANTS_POOL.ipv4]);
    const to = { address: '203.0.113.1', port: 7000 };
    const started = performance.now();
    const marker = { address: DEVICE.ipv4, port: 7000 };
    expect(await server.udp({ to, marker, waitMs: 5000 })).toEqual({ outcome: 'silence' });
    expect(await server.tcp({ to, marker, waitMs: 5000 })).toEqual({ outcome: 'silence' });
    expect(performance.now() - started).toBeLessThan(2000);
  });

  test('a capture sees what is on the wire, and puts on it what no socket would', async () => {
    const capture = await Capture.start(network, 'gateway', OUTSIDE, 'udp port 2');
    const rogue = await Capture.start(network, 'rogue', UPLINK);
    const frame = ethernet(ip(SERVER.ipv4, GATEWAY.ipv4, udp(1, 2, 'forged source')));
    frame.set(Buffer.from(network.link('wan', 'rogue').mac.replaceAll(':', ''), 'hex'));
    rogue.send(frame);
    await capture.through(Buffer.from('forged source'));
    expect(capture.holding(address(SERVER.ipv4).bytes.subarray(12))).toHaveLength(1);
    expect(capture.holding(address(DEVICE.ipv4).bytes.subarray(12))).toHaveLength(0);
  });

  test('a bpffs of its own, seen inside a namespace too', async () => {
    const folder = network.bpffs();
    expect(statfsSync(folder).type).toBe(BPFFS);
    await network.run('gateway', ['mkdir', `${folder}/here`]);
    expect(existsSync(`${folder}/here`)).toBe(true);
  });
});

test('a network leaves nothing behind', async () => {
  const network = standardNetwork();
  const names = ['server', 'gateway'].map((namespace) => `/run/netns/${network.name(namespace)}`);
  const folder = network.bpffs();
  const child = await network.spawn('device', program('test/device.ts', '7000', DEVICE.ipv4), {
    listens: 'tcp',
    port: 7000,
  });
  expect(names.every((name) => existsSync(name))).toBe(true);
  await network.close();
  expect(child.running).toBe(false);
  expect(names.some((name) => existsSync(name))).toBe(false);
  expect(existsSync(folder)).toBe(false);
  expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(folder);
});

test.each(['SIGINT', 'SIGTERM'] as const)('%s takes the network away too', async (signal) => {
  const maker = new Child(program('test/standard-network.ts'));
  const name = (await maker.line(/^mtgate-/)).trim();
  expect(existsSync(`/run/netns/${name}`)).toBe(true);
  await maker.stop(signal);
  expect(existsSync(`/run/netns/${name}`)).toBe(false);
});

test('what a killed run left is taken away by the next', async () => {
  const maker = new Child(program('test/standard-network.ts'));
  const name = (await maker.line(/^mtgate-/)).trim();
  await maker.stop('SIGKILL');
  expect(existsSync(`/run/netns/${name}`)).toBe(true);
  await standardNetwork().close();
  expect(existsSync(`/run/netns/${name}`)).toBe(false);
  expect(execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' })).not.toContain(name);
});
