/**
 * Interfaces inside that are no plain NIC: a VLAN (where the kernel has none,
 * a macvlan: another interface stacked on a NIC), a bridge, a TUN, whose
 * frames have no Ethernet header; and realms of the same addresses.
 *
 * BPF_PROG_TEST_RUN knows Ethernet frames only, so for the TUN the rows of
 * the packet table go through a real one, with a TAP as the outside: what the
 * gate counts and what comes out of the TAP is what the table says.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address, hostPrefix, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4 } from '../../agent/core/pool.ts';
import type { GateCounters, Mapping } from '../../agent/dataplane/dataplane.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { type Child, program } from '../child.ts';
import { within } from '../enter.ts';
import { entriesOf } from '../entries.ts';
import { ethernet } from '../frames.ts';
import { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { PLAIN_BASE } from '../rules.ts';
import { addClasses, bindDevices, nowNs, setupOf, USUAL } from '../suites/fixture.ts';
import { answers } from '../suites/packets/answers.ts';
import { fromDevices } from '../suites/packets/from-devices.ts';
import type { Row } from '../suites/packets/table.ts';
import { toGrants } from '../suites/packets/to-grants.ts';
import { FAMILIES, openGrants } from '../suites/packets/world.ts';
import { Tun } from '../tun.ts';
import { BOTH_POOL, EXTERNAL, GATE_OBJECT, HOUR } from './gate-stand.ts';

/** Which counters moved, and by how many bytes. */
function moved(before: GateCounters, after: GateCounters): Record<string, bigint> {
  const flat = ({ denied, ...others }: GateCounters) => Object.entries({ ...others, ...denied });
  const old = new Map(flat(before));
  return Object.fromEntries(
    flat(after).flatMap(([name, { packets, bytes }]) => {
      const was = old.get(name);
      return packets === was?.packets ? [] : [[name, bytes - (was?.bytes ?? 0n)]];
    }),
  );
}

describe('a TUN inside', () => {
  let network: Network;
  let device: Tun;
  let wire: Tun;
  let bpffs: string;
  const gates: Gate[] = [];

  beforeAll(async () => {
    // It forwards nothing: what the gate passes on ends in the stack.
    network = Network.create({ namespaces: { gateway: {} }, links: [] });
    bpffs = network.bpffs();
    device = Tun.open(network, 'gateway', 'tun0', 'tun');
    wire = Tun.open(network, 'gateway', 'outside', 'tap');
    const commands = [
      'address add 192.0.2.2/24 dev outside',
      'address add 2001:db8:0:1::2/64 dev outside nodad',
      'address add 10.20.0.1/16 dev tun0',
      'address add fd00:20::1/48 dev tun0 nodad',
      'link set outside up',
      'link set tun0 up',
      'route add default via 192.0.2.1',
      'route add default via 2001:db8:0:1::1',
      ...['192.0.2.1', '2001:db8:0:1::1'].map((hop) => `neigh add ${hop} lladdr 02:00:00:00:00:01 dev outside`),
    ];
    await network.run('gateway', ['ip', '-batch', '-'], { input: commands.join('\n') });
  });
  afterAll(async () => {
    for (const gate of gates) gate.close();
    device.close();
    wire.close();
    await network.close();
  });

  const GRANTED = FAMILIES.flatMap((who) => (['udp', 'tcp'] as const).map((protocol) => ({ who, protocol })));
  describe.each(GRANTED)('over $who.family, $protocol', ({ who, protocol }) => {
    let gate: Gate;

    beforeAll(() => {
      const at = (name: string) => network.link('gateway', name).ifindex;
      const interfaces = { outside: at('outside'), inside: at('tun0'), secondInside: 4000, other: 4001 };
      within(network, 'gateway', () => {
        gate = Gate.load({ object: GATE_OBJECT, bpffs: `${bpffs}/gate`, setup: setupOf(interfaces) });
        gates.push(gate);
        for (const { mapping } of entriesOf(gate)) {
          gate.end(mapping.index, mapping.number, 1n);
          gate.forget(mapping);
        }
        addClasses(gate);
        bindDevices(gate);
        openGrants(gate, who, protocol);
        gate.attach('auto', {
          outside: { name: 'outside', ifindex: interfaces.outside },
          inside: [{ name: 'tun0', ifindex: interfaces.inside, bare: true }],
        });
      });
    });

    /** Not what the kernel says of itself, whenever it likes: to a multicast group of IPv6. */
    const isSent = (one: Uint8Array, at: number) => (one[at] ?? 0) >> 4 !== 6 || one[at + 24] !== 0xff;

    /** What a packet does: the counters it moves, by bytes, and what of it comes out of the other end. */
    const through = (from: Tun, to: Tun, packet: Uint8Array) => {
      gate.heartbeat(nowNs());
      to.read();
      const before = gate.counters();
      from.write(packet);
      const out = to.read().filter((one) => isSent(one, to === wire ? 14 : 0));
      return { moved: moved(before, gate.counters()), out: out.map((one) => Buffer.from(one)) };
    };

    // A TUN takes no other IP version at all.
    const isTaken = ([, packet]: Row) => [4, 6].includes((packet[0] ?? 0) >> 4);
    const rows = [...answers(who, protocol), ...(protocol === 'udp' ? fromDevices(who) : [])].filter(isTaken);
    test.each(rows)('from the device: %s', (_, packet, outcome) => {
      const seen = through(device, wire, packet);
      if (typeof outcome === 'string') {
        expect(seen.moved).toEqual({ [outcome === 'pass' ? 'passed' : outcome]: BigInt(packet.length) });
        return;
      }
      expect(seen.moved).toEqual({ grantedOut: BigInt(packet.length + 14) });
      expect(seen.out).toHaveLength(1);
      expect(seen.out[0]?.subarray(0, 6)).toEqual(Buffer.from('020000000001', 'hex'));
      expect(seen.out[0]?.subarray(12)).toEqual(Buffer.from(ethernet(outcome).subarray(12)));
    });

    const carried = toGrants(who, protocol).filter(
      ([what, , outcome]) => typeof outcome !== 'string' && !/other realm|second realm/.test(what),
    );
    test.each(carried)('to the device: %s', (_, packet, outcome) => {
      const seen = through(wire, device, ethernet(packet));
      expect(seen.moved).toEqual({ grantedIn: BigInt(packet.length + 14) });
      expect(seen.out).toEqual([Buffer.from(outcome as Uint8Array)]);
    });
  });
});

const FAMILY_NAMES = ['ipv4', 'ipv6'] as const;
const DEVICE = { ipv4: '10.20.0.2', ipv6: 'fd00:20::2' } as const;
const SERVER = { ipv4: '198.51.100.10', ipv6: '2001:db8:51::10' } as const;
const REALM = ['10.20.0.0/16', 'fd00:20::/48'].map(prefix);
const REALMS = [
  { realm: 1, interface: 'trunk.100', device: 'meters' },
  { realm: 2, interface: 'br0', device: 'trackers' },
] as const;

describe('a VLAN and a bridge inside, realms of the same addresses', () => {
  let network: Network;
  let gate: Gate;
  let server: Probe;
  const echoes = new Map<string, Child>();

  beforeAll(async () => {
    const end = (namespace: string, name: string, addresses: readonly string[] = []) => ({
      namespace,
      interface: name,
      addresses,
    });
    network = Network.create({
      namespaces: { server: {}, gateway: { forwards: true }, meters: {}, trackers: {} },
      links: [
        [
          end('server', 'eth0', ['198.51.100.10/24', '2001:db8:51::10/64']),
          end('gateway', 'outside', ['198.51.100.1/24', '2001:db8:51::1/64']),
        ],
        [end('gateway', 'trunk'), end('meters', 'trunk')],
        [end('gateway', 'port'), end('trackers', 'eth0')],
      ],
    });
    const batch = (namespace: string, ...lines: readonly string[]) =>
      network.run(namespace, ['ip', '-batch', '-'], { input: lines.join('\n') });
    const addresses = (name: string, host: number) =>
      [`10.20.0.${host}/16`, `fd00:20::${host}/48 nodad`].map((one) => `address add ${one} dev ${name}`);
    const add = ['ip', 'link', 'add', 'link', 'trunk', 'name', 'trunk.100', 'type'];
    const { status } = await network.run('gateway', [...add, 'vlan', 'id', '100'], { mayFail: true });
    const hasVlan = status === 0;
    if (hasVlan) await network.run('meters', [...add, 'vlan', 'id', '100']);
    else await network.run('gateway', [...add, 'macvlan']);
    const trunk = hasVlan ? 'trunk.100' : 'trunk';
    const ways = [`route add default via 10.20.0.1`, `route add default via fd00:20::1`];
    await batch('server', ...['203.0.113.0/30', '10.20.0.0/16'].map((to) => `route add ${to} via 198.51.100.1`));
    await batch('server', 'route add 2001:db8:a::/64 via 2001:db8:51::1');
    await batch('gateway', 'link set trunk.100 up');
    await batch('gateway', 'link add br0 type bridge', 'link set port master br0', 'link set br0 up');
    await batch('gateway', ...addresses('trunk.100', 1), ...addresses('br0', 1));
    await batch('meters', `link set ${trunk} up`, ...addresses(trunk, 2), ...ways);
    await batch('trackers', ...addresses('eth0', 2), ...ways);

    const at = (name: string) => ({ name, ifindex: network.link('gateway', name).ifindex });
    const inside = REALMS.map((one) => at(one.interface));
    await network.run('gateway', ['nft', '-f', '-'], {
      input: baseRuleset({
        ...PLAIN_BASE,
        outside: 'outside',
        inside: REALMS.map((one) => ({ interface: one.interface, prefixes: REALM, shared: true })),
        present: ['outside', 'trunk.100', 'br0'],
        grants: [...BOTH_POOL.ipv4, ...BOTH_POOL.ipv6],
        egress: [prefix('203.0.113.8/29')],
        deniedDestinations: [],
        services: [{ protocol: 'udp', port: 53 }],
        nflogGroup: 100,
      }),
    });
    within(network, 'gateway', () => {
      const setup = {
        pool: BOTH_POOL,
        outside: { ifindex: at('outside').ifindex, nextHops: {} },
        inside: inside.map(({ ifindex }, i) => ({
          ifindex,
          realm: i + 1,
          prefixes: REALM,
          nextHops: {},
          translated: true,
        })),
        own: ['10.20.0.1', 'fd00:20::1'].map((one) => ({ address: address(one), on: 'inside' as const })),
        ...USUAL,
        services: [{ protocol: 'udp' as const, port: 53 }],
      };
      gate = Gate.load({ object: GATE_OBJECT, bpffs: `${network.bpffs()}/gate`, setup });
      for (const source of ['198.51.100.0/24', '2001:db8:51::/48']) gate.addClass(prefix(source), 7);
      gate.heartbeat(nowNs());
      gate.attach('auto', { outside: at('outside'), inside });
    });
    for (const { realm } of REALMS) {
      for (const family of FAMILY_NAMES) {
        gate.open(grant(family, realm), nowNs() + HOUR);
        gate.bind(realm, hostPrefix(address(DEVICE[family])));
      }
    }
    for (const { device } of REALMS) {
      const echo = program('test/device.ts', '7000', ...Object.values(DEVICE));
      echoes.set(device, await network.spawn(device, echo, { line: /^ready$/ }));
    }
    server = await Probe.start(network, 'server');
  });
  afterAll(async () => {
    gate?.close();
    await network.close();
  });

  function grant(family: (typeof FAMILY_NAMES)[number], realm: number): Mapping {
    const external = { address: address(EXTERNAL[family]), port: BOTH_POOL.portLow + realm };
    return {
      index: indexOfIpv4(BOTH_POOL, 'udp', external) ?? 2 * 4 * BOTH_POOL.portCount + realm,
      number: 10 * realm + (family === 'ipv4' ? 4 : 6),
      protocol: 'udp',
      realm,
      device: { address: address(DEVICE[family]), port: 7000 },
      external,
      remote: address(SERVER[family]),
      remotePort: 0,
      classId: 7,
      limits: {},
    };
  }

  describe.each(FAMILY_NAMES)('over %s', (family) => {
    test.each(REALMS)(
      'a grant leads to the device of its realm, by $interface, and back',
      async ({ realm, device }) => {
        const to = { address: EXTERNAL[family], port: BOTH_POOL.portLow + realm };
        const text = `to ${device} over ${family}`;
        expect(await server.udp({ to, text })).toMatchObject({ outcome: 'answer', text });
        const seen = [...echoes].filter(([, { lines }]) => lines.some((line) => line.endsWith(text)));
        expect(seen.map(([name]) => name)).toEqual([device]);
      },
    );

    test.each(REALMS)('a device behind $interface begins nothing, outward or with the gateway', async ({ device }) => {
      const probe = await Probe.start(network, device);
      expect(await probe.udp({ to: { address: SERVER[family], port: 7000 }, waitMs: 300 })).toEqual({
        outcome: 'silence',
      });
      const own = { address: family === 'ipv4' ? '10.20.0.1' : 'fd00:20::1', port: 53 };
      expect(await probe.udp({ to: own, waitMs: 300 })).toEqual({ outcome: 'silence' });
      await probe.stop();
    });
  });

  test('what is closed stays closed there', async () => {
    expect(await server.udp({ to: { address: DEVICE.ipv4, port: 7000 }, text: 'direct', waitMs: 300 })).toEqual({
      outcome: 'silence',
    });
    const trunk = network.link('gateway', 'trunk').ifindex;
    expect(within(network, 'gateway', () => gate.attachments()).map((one) => one.interface.ifindex)).not.toContain(
      trunk,
    );
    for (const { lines } of echoes.values()) expect(lines.some((line) => line.includes('direct'))).toBe(false);
  });
});
