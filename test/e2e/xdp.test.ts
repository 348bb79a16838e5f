/**
 * The gate at XDP of one interface, of the other, of both, and in the stack's
 * own place for it (generic): grants are carried, ended and refused as they
 * are at TC, by whichever of the two meets a packet. The stories of
 * agent.test.ts are told there once more with XDP at both; here are those that
 * only XDP has.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { DenialList } from '../../agent/api/denial-routes.ts';
import { call } from '../../agent/cli/client.ts';
import type { Status } from '../../agent/use-cases/status.ts';
import { DEVICE_PORT, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { likeWires } from '../offloads.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import { DEVICE, OUTSIDE, ROGUE, SERVER, standardNetwork } from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const PROTOCOLS = ['udp', 'tcp'] as const;
const SHORT_MS = 300;

const WAYS = [
  { outside: 'xdp', inside: 'xdp' },
  { outside: 'xdp', inside: 'tc' },
  { outside: 'tc', inside: 'xdp' },
  { outside: 'xdp-generic', inside: 'xdp-generic' },
] as const;

describe.each(WAYS)('outside at $outside, inside at $inside', ({ outside, inside }) => {
  let network: Network;
  let agent: TestAgent;
  let device: Child;
  let server: Probe;
  let rogue: Probe;
  let onDevice: Probe;

  beforeAll(async () => {
    network = standardNetwork();
    likeWires(network);
    agent = new TestAgent(network, { outside: `${OUTSIDE}, hook: ${outside}`, inside: `inside, hook: ${inside}` });
    device = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
      line: /^ready$/,
    });
    [server, rogue, onDevice] = await Promise.all([
      Probe.start(network, 'server'),
      Probe.start(network, 'rogue'),
      Probe.start(network, 'device'),
    ]);
    await agent.start();
  });
  afterAll(() => network.close());
  afterEach(async () => {
    for (const grant of await agent.grants()) await agent.curl('DELETE', `/grants/${grant.grantId}`);
  });

  async function status(): Promise<Status> {
    return JSON.parse((await agent.mtgate('status', '--json')).stdout);
  }
  const atXdp = async () => (await status()).packets.atXdp;

  async function granted(protocol: 'udp' | 'tcp', family: 'ipv4' | 'ipv6', more: object = {}) {
    const { status: code, body } = await agent.grant({
      protocol: protocol.toUpperCase(),
      applicationServer: { address: SERVER[family] },
      ...more,
    });
    expect(code).toBe(201);
    return { id: body.grantId, to: body.externalEndpoint };
  }

  test('is what the status says, and why', async () => {
    const { hooks, attachments } = await status();
    expect(hooks).toEqual([
      { interface: 'outside', hook: outside, why: 'as configured' },
      { interface: 'inside', hook: inside, why: 'as configured' },
    ]);
    const kind = { xdp: 'native', 'xdp-generic': 'generic', tc: undefined } as const;
    const wanted = [
      ...(kind[outside] ? [`outsideXdp outside ${kind[outside]}`] : []),
      ...(kind[inside] ? [`insideXdp inside ${kind[inside]}`] : []),
    ];
    expect(attachments.filter((text) => /Xdp/.test(text)).sort()).toEqual(wanted.sort());
    expect(attachments).toHaveLength(4 + wanted.length);
  });

  describe.each(FAMILIES)('over %s', (family) => {
    test.each(PROTOCOLS)('%s is carried both ways, most of it at XDP, until its grant ends', async (protocol) => {
      const { id, to } = await granted(protocol, family);
      // The first packets ask for neighbours, and a SYN has its options looked through: they take the longer way.
      const session = await Session.open(network, 'server', protocol, to, { address: SERVER[family] });
      session.say('first');
      await session.next();
      const before = await atXdp();
      for (let i = 0; i < 60; i++) {
        session.say(`round ${i}`);
        expect(await session.next()).toBe(`round ${i}`);
      }
      expect((await atXdp()) - before).toBeGreaterThan(50);
      session.say('stream');
      await session.next();
      expect((await agent.curl('DELETE', `/grants/${id}`)).status).toBe(204);
      await session.quiet();
      device.say('stop');
      await session.stop();
    });

    test('nobody else gets in, and each attempt is told of', async () => {
      const { to } = await granted('udp', family);
      const text = `rogue ${family}`;
      expect(await rogue.udp({ to, text, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      const unused = { ...to, port: to.port ^ 1 };
      expect(await rogue.udp({ to: unused, text, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      const socket = join(agent.folder, 'mtgate.sock');
      await until('both', async () => {
        const { denials } = await call<DenialList>({ socket }, 'GET', '/denials?limit=5000');
        const own = denials.filter(({ source }) => source === ROGUE[family]).map(({ reason }) => reason);
        return own.includes('wrongSource') && own.includes('noGrant') ? true : undefined;
      });
      expect(device.lines.some((line) => line.includes(text))).toBe(false);
    });

    test('a datagram of many pieces, and a large transfer, arrive whole', async () => {
      const { to } = await granted('udp', family);
      const large = 'f'.repeat(4_000);
      expect(await server.udp({ to, from: { address: SERVER[family] }, text: large })).toMatchObject({
        outcome: 'answer',
        text: large,
      });
      const tcp = await granted('tcp', family);
      const session = await Session.open(network, 'server', 'tcp', tcp.to, { address: SERVER[family] });
      const text = 'x'.repeat(300_000);
      session.say(text);
      await until('the echo of it all', () =>
        session.texts().reduce((sum, part) => sum + part.length, 0) >= text.length ? true : undefined,
      );
      await session.stop();
    });

    test('what a device begins itself goes its own way', async () => {
      const service = await network.spawn('server', program('test/device.ts', '7100', SERVER[family]), {
        line: /^ready$/,
      });
      const text = `begun ${family}`;
      expect(await onDevice.udp({ to: { address: SERVER[family], port: 7100 }, text })).toMatchObject({
        outcome: 'answer',
      });
      await service.stop();
    });
  });

  test('taken away in the midst of a flow, it is missed by no packet, and comes back', async () => {
    const folder = `${agent.bpffs}/links`;
    const links = () => (existsSync(folder) ? readdirSync(folder) : []).filter((name) => name.includes('Xdp'));
    const all = links();
    expect(all.length).toBeGreaterThan(0);
    const { to } = await granted('udp', 'ipv4');
    const session = await Session.open(network, 'server', 'udp', to, { address: SERVER.ipv4 });
    session.say('stream');
    await session.next();
    const from = agent.daemon.lines.length;
    await network.run('gateway', ['sh', '-c', `rm ${all.map((name) => join(folder, name)).join(' ')}`]);
    await agent.daemon.line(/"event":"xdpLost"/, { from });
    await until('all of them', () => (links().length === all.length ? true : undefined));
    const seen = session.received;
    await until('fifty more', () => (session.received > seen + 50 ? true : undefined));
    // The device counts up: a number that is missing was lost on the way.
    const numbers = session.texts().map(Number);
    expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
    expect((await status()).closed).toBe(true);
    expect(agent.logged('gapFound')).toEqual([]);
    device.say('stop');
    await session.stop();
  });

  test('a restart takes over, and loses no packet of a live grant', async () => {
    const { to } = await granted('udp', 'ipv6');
    const session = await Session.open(network, 'server', 'udp', to, { address: SERVER.ipv6 });
    session.say('stream');
    await session.next();
    await agent.daemon.stop('SIGTERM');
    const during = session.received;
    await agent.start();
    await until('fifty more', () => (session.received > during + 50 ? true : undefined));
    const numbers = session.texts().map(Number);
    expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
    device.say('stop');
    await session.stop();
  });
});
