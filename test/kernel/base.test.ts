/**
 * The base alone, without a gate: closed toward the inside, and devices begin
 * flows of their own, hidden behind the egress pool.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address, contains, prefix } from '../../agent/core/net.ts';
import { type BaseSetup, baseRuleset } from '../../agent/policy/ruleset.ts';
import { type Child, program } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { PLAIN_BASE } from '../rules.ts';
import { Session } from '../session.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GRANTS_POOL,
  INNER_GATEWAY,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  standardNetwork,
} from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const SETUP: BaseSetup = {
  ...PLAIN_BASE,
  outside: OUTSIDE,
  present: [OUTSIDE, INSIDE],
  inside: [{ interface: INSIDE, prefixes: FAMILIES.map((family) => prefix(REALM_PREFIX[family])) }],
  grants: FAMILIES.map((family) => prefix(GRANTS_POOL[family])),
  egress: FAMILIES.map((family) => prefix(EGRESS_POOL[family])),
  deniedDestinations: [prefix('192.0.2.64/26'), prefix('2001:db8:66::/48')],
  services: [{ protocol: 'udp', port: 53 }],
  nflogGroup: 100,
};

let network: Network;
let service: Child;
let onDevice: Child;
let device: Probe;
let server: Probe;

beforeAll(async () => {
  network = standardNetwork();
  await network.run('gateway', ['nft', '-f', '-'], { input: baseRuleset(SETUP) });
  // The server knows a way to the inside: it must be the gateway that closes it.
  for (const family of FAMILIES) {
    const via = (
      await network.run('wan', ['ip', '-json', family === 'ipv4' ? '-4' : '-6', 'route', 'show', GRANTS_POOL[family]])
    ).stdout;
    const { gateway } = JSON.parse(via)[0] as { gateway: string };
    await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', gateway]);
  }
  service = await network.spawn('server', program('test/device.ts', '7000', SERVER.ipv4, SERVER.ipv6), {
    line: /^ready$/,
  });
  onDevice = await network.spawn('device', program('test/device.ts', '7000', DEVICE.ipv4, DEVICE.ipv6), {
    line: /^ready$/,
  });
  await network.spawn('rogue', program('test/device.ts', '7000', ROGUE.ipv4, ROGUE.ipv6), { line: /^ready$/ });
  await network.spawn('gateway', program('test/device.ts', '53', INNER_GATEWAY.ipv4, INNER_GATEWAY.ipv6), {
    line: /^ready$/,
  });
  device = await Probe.start(network, 'device');
  server = await Probe.start(network, 'server');
});
afterAll(() => network.close());

describe.each(FAMILIES)('over %s', (family) => {
  test.each(['udp', 'tcp'] as const)(
    'a device reaches out by %s, and is seen as an address of the egress pool',
    async (protocol) => {
      const text = `out ${family} ${protocol}`;
      expect(await device[protocol]({ to: { address: SERVER[family], port: 7000 }, text })).toMatchObject({
        outcome: 'answer',
      });
      const seen = await service.line(new RegExp(`${text}$`));
      const from = /^\w+ \[?([^\]\s]+?)\]?:\d+ /.exec(seen)?.[1] ?? '';
      expect(contains(prefix(EGRESS_POOL[family]), address(from))).toBe(true);
    },
  );

  test.each(['udp', 'tcp'] as const)('what the outside begins by %s does not reach the device', async (protocol) => {
    const text = `in ${family} ${protocol}`;
    expect(await server[protocol]({ to: { address: DEVICE[family], port: 7000 }, text, waitMs: 400 })).toEqual({
      outcome: 'silence',
    });
    expect(onDevice.lines.some((line) => line.includes(text))).toBe(false);
  });

  test('a listed destination is closed to devices', async () => {
    expect(await device.udp({ to: { address: ROGUE[family], port: 7000 }, waitMs: 400 })).toEqual({
      outcome: 'silence',
    });
  });

  test('on the gateway a device reaches the listed service, and nothing else', async () => {
    const gateway = INNER_GATEWAY[family];
    expect(await device.udp({ to: { address: gateway, port: 53 } })).toMatchObject({ outcome: 'answer' });
    expect(await device.udp({ to: { address: gateway, port: 54 }, waitMs: 400 })).toEqual({ outcome: 'silence' });
    expect(await device.tcp({ to: { address: gateway, port: 53 }, waitMs: 400 })).toEqual({ outcome: 'silence' });
  });

  test('a TCP flow that did not begin here does not go on: its leftovers are no new flow', async () => {
    const session = await Session.open(network, 'device', 'tcp', { address: SERVER[family], port: 7000 });
    session.say('stream');
    await session.next();
    await network.run('gateway', ['conntrack', '-F']);
    await session.quiet();
    await session.stop();
  });
});

describe('in a realm with nat: none', () => {
  beforeAll(async () => {
    for (const family of FAMILIES)
      network.show(
        { source: DEVICE[family], to: SERVER[family] },
        'devices of this realm speak with their own addresses',
      );
    // Without an egress pool: no flow of its devices needs one.
    const inside = SETUP.inside.map((one) => ({ ...one, nat: 'none' as const }));
    const input = baseRuleset({ ...SETUP, inside, egress: [], filterCopiesPerSecond: 500 });
    await network.run('gateway', ['nft', '-f', '-'], { input: `delete table inet mtgate\n${input}` });
    await network.run('gateway', ['conntrack', '-F']);
  });

  describe.each(FAMILIES)('over %s', (family) => {
    test.each(['udp', 'tcp'] as const)('a device reaches out by %s with its own address', async (protocol) => {
      const text = `own ${family} ${protocol}`;
      expect(await device[protocol]({ to: { address: SERVER[family], port: 7000 }, text })).toMatchObject({
        outcome: 'answer',
      });
      const seen = await service.line(new RegExp(`${text}$`));
      expect(/^\w+ \[?([^\]\s]+?)\]?:\d+ /.exec(seen)?.[1]).toBe(DEVICE[family]);
    });

    test.each(['udp', 'tcp'] as const)('what the outside begins by %s is unsolicited', async (protocol) => {
      const before = await unsolicited();
      const text = `unsolicited ${family} ${protocol}`;
      expect(await server[protocol]({ to: { address: DEVICE[family], port: 7000 }, text, waitMs: 400 })).toEqual({
        outcome: 'silence',
      });
      expect(onDevice.lines.some((line) => line.includes(text))).toBe(false);
      expect(await unsolicited()).toBeGreaterThan(before);
    });

    test('a packet that ends at the gateway is not answered', async () => {
      const knock = () => server.tcp({ to: { address: DEVICE[family], port: 7000 }, waitMs: 400 });
      const via = family === 'ipv4' ? '198.51.100.1' : '2001:db8:51::1';
      const spent = ['route', 'add', DEVICE[family], 'via', via, 'hoplimit', '2'];
      await network.run('server', ['ip', ...spent]);
      expect(await knock()).toEqual({ outcome: 'silence' }); // an error would be `refused`
      await network.run('server', ['ip', 'route', 'delete', DEVICE[family]]);
      // The realm's route goes with its interface; what is left leads outside, or nowhere.
      const interfaceIs = (state: string) => network.run('gateway', ['ip', 'link', 'set', INSIDE, state]);
      await interfaceIs('down');
      expect(await knock()).toEqual({ outcome: 'silence' });
      await interfaceIs('up');
      const lost = ['address', 'replace', `${INNER_GATEWAY.ipv6}/48`, 'dev', INSIDE, 'nodad'];
      await network.run('gateway', ['ip', ...lost]);
    });

    test('a listed destination is closed to devices', async () => {
      expect(await device.udp({ to: { address: ROGUE[family], port: 7000 }, waitMs: 400 })).toEqual({
        outcome: 'silence',
      });
    });
  });

  /** How many packets the base has dropped as such. */
  async function unsolicited(): Promise<number> {
    const { stdout } = await network.run('gateway', ['nft', 'list', 'chain', 'inet', 'mtgate', 'unsolicited']);
    return Number(/counter packets (\d+)/.exec(stdout)?.[1]);
  }
});
