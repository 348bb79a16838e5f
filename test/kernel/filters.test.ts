/**
 * Filters in the base alone, without a gate: the shipped defaults, one by one,
 * and what drops and allows do to flows. Packets are real; what dropped them
 * is told by counter and by the prefix of the copy.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { GroupMember } from '../../agent/policy/filter-ruleset.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { Capture } from '../capture.ts';
import { program, until } from '../child.ts';
import { ethernet, icmp, ip, raw, udp } from '../frames.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { PLAIN_BASE, policyOf } from '../rules.ts';
import { Session } from '../session.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GATEWAY,
  GRANTS_POOL,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  standardNetwork,
  UPLINK,
} from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const DEFAULTS = readFileSync(new URL('../../rules/defaults.yaml', import.meta.url), 'utf8');
const NFLOG = 100;

let network: Network;
let device: Probe;
let server: Probe;
let rogue: Probe;
let copies: Capture;
let fromDevice: Capture;
let fromWan: Capture;

/** Puts these filters in force, as the agent does. */
async function inForce(filters: string, members: readonly GroupMember[] = []): Promise<void> {
  const policy = policyOf(filters);
  const text = baseRuleset({
    ...PLAIN_BASE,
    outside: OUTSIDE,
    present: [OUTSIDE, INSIDE],
    inside: [{ interface: INSIDE, prefixes: FAMILIES.map((family) => prefix(REALM_PREFIX[family])) }],
    grants: FAMILIES.map((family) => prefix(GRANTS_POOL[family])),
    egress: FAMILIES.map((family) => prefix(EGRESS_POOL[family])),
    deniedDestinations: [prefix('192.0.2.64/26'), prefix('2001:db8:66::/48')],
    services: [],
    nflogGroup: NFLOG,
    filters: policy.filters,
    filterCopiesPerSecond: 500,
    groups: new Map([...policy.deviceGroups.keys()].map((group) => [group, members])),
  });
  const table = 'table inet mtgate\ndelete table inet mtgate\n';
  await network.run('gateway', ['nft', '-f', '-'], { input: table + text });
}

async function packets(id: string): Promise<number> {
  const { stdout } = await network.run('gateway', ['nft', 'list', 'counter', 'inet', 'mtgate', `filter_${id}`]);
  return Number(/packets (\d+)/.exec(stdout)?.[1]);
}

/** A frame from a neighbour of the gateway, with whatever source. */
function send(by: Capture, to: 'inside' | 'outside', packet: Uint8Array): void {
  const frame = ethernet(packet, { etherType: (packet[0] ?? 0) >> 4 === 6 ? 0x86dd : 0x0800 });
  const { mac } = network.link('gateway', to === 'inside' ? INSIDE : OUTSIDE);
  frame.set(Buffer.from(mac.replaceAll(':', ''), 'hex'));
  by.send(frame);
}

beforeAll(async () => {
  network = standardNetwork();
  for (const family of FAMILIES)
    await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', GATEWAY[family]]);
  const echoes = [
    ['server', SERVER],
    ['device', DEVICE],
    ['rogue', ROGUE],
  ] as const;
  for (const [namespace, { ipv4, ipv6 }] of echoes)
    await network.spawn(namespace, program('test/device.ts', '7000', ipv4, ipv6), { line: /^ready$/ });
  [device, server, rogue, copies, fromDevice, fromWan] = await Promise.all([
    Probe.start(network, 'device'),
    Probe.start(network, 'server'),
    Probe.start(network, 'rogue'),
    Capture.start(network, 'gateway', `nflog:${NFLOG}`),
    Capture.start(network, 'device', UPLINK, 'ether proto 0'),
    Capture.start(network, 'wan', UPLINK, 'ether proto 0'),
  ]);
});
afterAll(() => network.close());

describe('the shipped defaults', () => {
  beforeEach(() => inForce(DEFAULTS));

  test.each([
    ['bogons-in', 'ipv4', '10.66.0.1', DEVICE.ipv4],
    ['bogons-in', 'ipv6', 'fc00:66::1', DEVICE.ipv6],
    ['bogons-in', 'ipv6', 'fec0::1', DEVICE.ipv6],
    ['bogons-out', 'ipv4', DEVICE.ipv4, '100.64.0.1'],
    ['bogons-out', 'ipv4', DEVICE.ipv4, '192.168.66.1'],
    ['bogons-out', 'ipv6', DEVICE.ipv6, 'fec0::1'],
    ['bogons-out', 'ipv6', DEVICE.ipv6, '64:ff9b:1::1'],
    ['spoofed-sources', 'ipv4', '240.0.0.1', SERVER.ipv4],
    ['spoofed-sources', 'ipv6', '100::1', SERVER.ipv6],
    ['between-devices', 'ipv4', DEVICE.ipv4, '10.20.66.1'],
    ['between-devices', 'ipv6', DEVICE.ipv6, 'fd00:20::66'],
  ] as const)('%s bites over %s: from %s to %s', async (id, _, from, to) => {
    const before = copies.frames().length;
    const isInward = id === 'bogons-in';
    send(isInward ? fromWan : fromDevice, isInward ? 'outside' : 'inside', ip(from, to, udp(5000, 7000, 'bogus')));
    const copy = await until(`a copy by ${id}`, () => copies.frames()[before]);
    expect(Buffer.from(copy).toString('latin1')).toContain(`mtgate filtered ${id}\0`);
    expect(Buffer.from(copy).includes(Buffer.from(address(from).bytes.subarray(from.includes(':') ? 0 : 12)))).toBe(
      true,
    );
    expect(await packets(id)).toBe(1);
  });

  test.each(FAMILIES)('let pass over %s what is honest', async (family) => {
    expect(await device.udp({ to: { address: SERVER[family], port: 7000 } })).toMatchObject({ outcome: 'answer' });
    expect(await device.tcp({ to: { address: SERVER[family], port: 7000 } })).toMatchObject({ outcome: 'answer' });
  });
});

test('the base drops routing headers, whatever the filters say', async () => {
  await inForce('filters: [{ id: all, allow: { from: inside } }]');
  const wire = await Capture.start(network, 'wan', UPLINK, 'ip6');
  const routed = Uint8Array.of(17, 2, 0, 1, 0, 0, 0, 0, ...address(SERVER.ipv6).bytes);
  const datagram = udp(5000, 7000, 'marker').bytes(address(DEVICE.ipv6), address(SERVER.ipv6));
  send(fromDevice, 'inside', ip(DEVICE.ipv6, SERVER.ipv6, raw(43, Uint8Array.of(...routed, ...datagram))));
  send(fromDevice, 'inside', ip(DEVICE.ipv6, SERVER.ipv6, udp(5000, 7000, 'through')));
  await wire.through(Buffer.from('through'));
  expect(wire.holding(Buffer.from('marker'))).toHaveLength(0);
  await wire.stop();
});

describe.each(FAMILIES)('over %s', (family) => {
  const to = { address: SERVER[family], port: 7000 };

  test.each(['udp', 'tcp'] as const)(
    'a new drop stops a %s flow that runs; its id and counter tell',
    async (protocol) => {
      await inForce('filters: []');
      const session = await Session.open(network, 'device', protocol, to);
      session.say('stream');
      await session.next();
      await inForce(`filters: [{ id: stop, drop: { from: "${SERVER[family]}", protocol: ${protocol} } }]`);
      await session.quiet(); // what streams is the answer
      expect(await packets('stop')).toBeGreaterThan(0);
      await copies.through(Buffer.from('mtgate filtered stop\0'));
      await session.stop();
    },
  );

  test('a drop of what comes in stops the answers', async () => {
    await inForce(`filters: [{ id: in, drop: { from: "${SERVER[family]}", protocol: udp } }]`);
    expect(await device.udp({ to, waitMs: 300 })).toEqual({ outcome: 'silence' });
    expect(await device.tcp({ to })).toMatchObject({ outcome: 'answer' });
    expect(await packets('in')).toBeGreaterThan(0);
  });

  test('an allow outward opens a denied destination, hidden; without it a running flow stops, answers too', async () => {
    const there = { address: ROGUE[family], port: 7000 };
    await inForce('filters: []');
    expect(await device.udp({ to: there, waitMs: 300 })).toEqual({ outcome: 'silence' });
    const allow = `{ id: there, allow: { from: inside, to: "${ROGUE[family]}" } }`;
    await inForce(`filters: [${allow}]`);
    expect(await device.tcp({ to: there })).toMatchObject({ outcome: 'answer' });
    const session = await Session.open(network, 'device', 'udp', there);
    session.say('stream');
    await session.next();
    expect(await packets('there')).toBeGreaterThan(2);
    await inForce(`filters: [${allow}, { id: a, drop: { to: "${ROGUE[family]}", protocol: tcp } }]`);
    expect(await device.tcp({ to: there, waitMs: 300 })).toEqual({ outcome: 'silence' });
    await inForce('filters: []');
    await session.quiet();
    await session.stop();
  });

  test('a standing allow inward lets begin what it names, and the answers out as they are', async () => {
    const direct = { address: DEVICE[family], port: 7000 };
    await inForce('filters: []');
    expect(await server.udp({ to: direct, waitMs: 300 })).toEqual({ outcome: 'silence' });
    const allow = (protocol: string) =>
      `{ id: noc, allow: { from: "${SERVER[family]}", to: inside, protocol: ${protocol}, ports: [7000] }, standing: true }`;
    const asItIs = { source: DEVICE[family], to: SERVER[family] };
    const hide = network.show(asItIs, "the filter opens the device's own address to this one");
    await inForce(`filters: [${allow('udp')}]`);
    expect(await server.udp({ to: direct })).toMatchObject({ outcome: 'answer' });
    expect(await server.tcp({ to: direct, waitMs: 300 })).toEqual({ outcome: 'silence' });
    expect(await rogue.udp({ to: direct, waitMs: 300 })).toEqual({ outcome: 'silence' });
    await inForce(`filters: [${allow('tcp')}]`);
    const session = await Session.open(network, 'server', 'tcp', direct);
    session.say('stream');
    await session.next();
    await inForce('filters: []');
    await session.quiet();
    await session.stop();
    hide();
  });

  test('a staged filter counts and copies, and does nothing', async () => {
    await inForce(`filters: [{ id: perhaps, drop: { to: "${SERVER[family]}" }, stage: true }]`);
    expect(await device.udp({ to })).toMatchObject({ outcome: 'answer' });
    expect(await packets('perhaps')).toBeGreaterThan(0);
    await copies.through(Buffer.from('mtgate staged perhaps\0'));
  });

  test('a group is what its devices are bound to', async () => {
    const filters = `
deviceGroups: { m2: { devices: ["*@m2.example"] } }
filters: [{ id: m2, drop: { from: "group:m2", to: outside } }]
`;
    await inForce(filters, [
      { interface: INSIDE, prefix: prefix(family === 'ipv4' ? '10.20.0.9/32' : 'fd00:20:9::/64') },
    ]);
    expect(await device.udp({ to })).toMatchObject({ outcome: 'answer' });
    const own = prefix(family === 'ipv4' ? `${DEVICE.ipv4}/32` : 'fd00:20::/64');
    await inForce(filters, [{ interface: INSIDE, prefix: own }]);
    expect(await device.udp({ to, waitMs: 300 })).toEqual({ outcome: 'silence' });
    expect(await packets('m2')).toBeGreaterThan(0);
  });

  test('ICMP by its type', async () => {
    const { protocol, types, numbers } = (
      {
        ipv4: { protocol: 'icmp', types: ['timestamp-request', 'info-request'], numbers: [13, 15] },
        ipv6: { protocol: 'icmpv6', types: ['router-renumbering', 'mld2-listener-report'], numbers: [138, 143] },
      } as const
    )[family];
    await inForce(`filters:
  - { id: one, drop: { protocol: ${protocol}, types: [${types[0]}] } }
  - { id: two, drop: { protocol: ${protocol}, types: [${types[1]}] } }
`);
    const [one, two] = numbers;
    for (const number of [one, two, two])
      send(fromDevice, 'inside', ip(DEVICE[family], SERVER[family], icmp(protocol, number, 0, 12)));
    await until('the second counts', async () => (await packets('two')) === 2 || undefined);
    expect(await packets('one')).toBe(1);
  });
});
