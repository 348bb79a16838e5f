/**
 * The gate on wires: attached by TCX and by clsact, taken over by the next
 * agent without losing a packet.
 */
import { release } from 'node:os';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { Interfaces as SomeInterfaces } from '../../agent/dataplane/attachment.ts';
import type { GateSetup, Mapping } from '../../agent/dataplane/dataplane.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { Capture } from '../capture.ts';
import { type Child, program, until } from '../child.ts';
import { within } from '../enter.ts';
import { ethernet, ip, tcp, udp } from '../frames.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import {
  DEVICE,
  GATEWAY,
  INNER_GATEWAY,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  SERVER,
  SERVER_PREFIX,
  standardNetwork,
  UPLINK,
  UPSTREAM,
} from '../standard-network.ts';
import { USUAL } from '../suites/fixture.ts';
import { GATE_OBJECT } from './gate-stand.ts';

type Interfaces = Required<SomeInterfaces>;
const SECOND = 1_000_000_000n;
const HOUR = 3600n * SECOND;
const [major = 0, minor = 0] = release().split('.').map(Number);
const HAS_TCX = major > 6 || (major === 6 && minor >= 6);
const KINDS = HAS_TCX ? (['tcx', 'clsact'] as const) : (['clsact'] as const);
const FAMILIES = ['ipv4', 'ipv6'] as const;

const DEVICE_PORT = 7000;
const EXTERNAL = { ipv4: '203.0.113.1', ipv6: '2001:db8:a::77' } as const;
const EXTERNAL_PORT = 40_000;
const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/29')],
  ipv6: [prefix('2001:db8:a::/64')],
  portLow: EXTERNAL_PORT,
  portCount: 64,
  keyedGrants: 8,
};

function interfacesOf(network: Network): Interfaces {
  const at = (name: string) => ({ name, ifindex: network.link('gateway', name).ifindex });
  return { outside: at(OUTSIDE), inside: [at(INSIDE)] };
}

function setupOf({ outside, inside }: Interfaces, other: Partial<GateSetup> & { nextHops?: boolean } = {}): GateSetup {
  const { nextHops = true, ...rest } = other;
  const ipv4 = address(UPSTREAM.ipv4);
  const ipv6 = address(UPSTREAM.ipv6);
  return {
    pool: POOL,
    outside: { ifindex: outside.ifindex, nextHops: nextHops ? { ipv4, ipv6 } : {} },
    inside: inside.map(({ ifindex }) => ({
      ifindex,
      realm: 1,
      prefixes: [prefix(REALM_PREFIX.ipv4), prefix(REALM_PREFIX.ipv6)],
      nextHops: nextHops ? { ipv4: address(DEVICE.ipv4), ipv6: address(DEVICE.ipv6) } : {},
      translated: true,
    })),
    own: [
      ...FAMILIES.map((family) => ({ address: address(INNER_GATEWAY[family]), on: 'inside' as const })),
      ...FAMILIES.map((family) => ({ address: address(GATEWAY[family]), on: 'elsewhere' as const })),
    ],
    ...USUAL,
    ...rest,
  };
}

function mappingOf(family: (typeof FAMILIES)[number], protocol: 'tcp' | 'udp', number: number): Mapping {
  const external = { address: address(EXTERNAL[family]), port: EXTERNAL_PORT };
  return {
    index: indexOfIpv4(POOL, protocol, external) ?? ipv4Entries(POOL) + number,
    number,
    protocol,
    realm: 1,
    device: { address: address(DEVICE[family]), port: DEVICE_PORT },
    external,
    remote: address(SERVER[family]),
    remotePort: 0,
    classId: 7,
    limits: {},
  };
}
const MAPPINGS = FAMILIES.flatMap((family, i) => [
  mappingOf(family, 'udp', 2 * i + 1),
  mappingOf(family, 'tcp', 2 * i + 2),
]);

/** As main does it, up to the heartbeat. */
function confirm(gate: Gate): void {
  for (const family of FAMILIES) gate.addClass(prefix(SERVER_PREFIX[family]), 7);
  gate.heartbeat(process.hrtime.bigint());
}

function denials(gate: Gate): Record<string, number> {
  const moved = Object.entries(gate.counters().denied).filter(([, { packets }]) => packets > 0n);
  return Object.fromEntries(moved.map(([reason, { packets }]) => [reason, Number(packets)]));
}

function granting(family: (typeof FAMILIES)[number], protocol: 'tcp' | 'udp'): Mapping {
  const found = MAPPINGS.find((one) => one.external.address.family === family && one.protocol === protocol);
  if (!found) throw new RangeError(`no grant of ${protocol} over ${family}`);
  return found;
}

describe.each(KINDS)('on wires, by %s', (kind) => {
  let network: Network;
  let bpffs: string;
  let interfaces: Interfaces;
  let server: Probe;
  let device: Child;
  const gates: Gate[] = [];

  /** A gate as a starting agent makes it. */
  const start = (setup = setupOf(interfaces), mode: 'auto' | 'tcx' | 'clsact' = kind): Gate =>
    within(network, 'gateway', () => {
      const gate = Gate.load({ object: GATE_OBJECT, bpffs, setup });
      gates.push(gate);
      confirm(gate);
      gate.attach(mode, interfaces);
      return gate;
    });
  const attachments = (gate: Gate) => within(network, 'gateway', () => gate.attachments());
  const granted = (family: (typeof FAMILIES)[number]) => ({ address: EXTERNAL[family], port: EXTERNAL_PORT });

  beforeAll(async () => {
    network = standardNetwork();
    bpffs = `${network.bpffs()}/mtgate`;
    interfaces = interfacesOf(network);
    const echo = program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6);
    [device, server] = await Promise.all([
      network.spawn('device', echo, { line: /^ready$/ }),
      Probe.start(network, 'server'),
    ]);
    for (const family of FAMILIES)
      await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX[family], 'via', GATEWAY[family]]);
    for (const mapping of MAPPINGS) start().open(mapping, process.hrtime.bigint() + HOUR);
  });
  afterAll(async () => {
    for (const gate of gates) gate.close();
    await network.close();
  });

  test.each([true, false])('carries TCP and UDP both ways, next hops given: %s', async (nextHops) => {
    const gate = start(setupOf(interfaces, { nextHops }));
    for (const family of FAMILIES) {
      expect(await server.udp({ to: granted(family), text: 'udp' })).toMatchObject({ outcome: 'answer', text: 'udp' });
      expect(await server.tcp({ to: granted(family), text: 'tcp' })).toMatchObject({ outcome: 'answer', text: 'tcp' });
    }
    expect(denials(gate)).toEqual({});
    expect(attachments(gate)).toEqual(
      (['outsideEgress', 'insideEgress', 'insideIngress', 'outsideIngress'] as const).map((hook) => ({
        hook,
        interface: hook.startsWith('inside') ? interfaces.inside[0] : interfaces.outside,
        kind,
        programId: expect.any(Number),
      })),
    );
  });

  test('is taken over without losing a packet, entries and all', async () => {
    let gate = start();
    const before = MAPPINGS.map(({ index }) => gate.entry(index));
    const { index } = granting('ipv4', 'udp');
    const arrived = (at: Gate) => at.carried(index).in.packets;
    const carriedBefore = arrived(gate);
    const flood = await network.spawn('server', ['node', '-e', FLOOD, EXTERNAL.ipv4, String(EXTERNAL_PORT)], {
      line: /^ready$/,
    });
    for (let i = 0; i < 10; i++) {
      gate = start(setupOf(interfaces, { nextHops: i % 2 === 0 }));
      // Where the kernel has both, the kind changes under way too.
      if (HAS_TCX) gate = start(setupOf(interfaces), kind === 'tcx' ? 'clsact' : 'tcx');
    }
    gate = start();
    flood.say('stop');
    const sent = BigInt((await flood.line(/^sent /)).slice(5));
    await flood.stop();
    expect(sent).toBeGreaterThan(1000n);
    await until('the last packets', () => (arrived(gate) - carriedBefore >= sent ? true : undefined));
    expect(arrived(gate) - carriedBefore).toBe(sent);
    expect(MAPPINGS.map(({ index }) => gate.entry(index))).toEqual(before);
    expect(new Set(attachments(gate).map((one) => one.kind))).toEqual(new Set([kind]));
  });

  test.each(FAMILIES)('carries a bulk transfer unchanged over %s, and counts it as on the wire', async (family) => {
    const gate = start();
    const megabytes = 4;
    const { index } = granting(family, 'tcp');
    const before = gate.carried(index).in;
    const command = ['node', '-e', BULK, EXTERNAL[family], String(EXTERNAL_PORT), String(megabytes)];
    const { stdout } = await network.run('server', command);
    expect(stdout.trim()).toBe('same');
    const { packets, bytes } = gate.carried(index).in;
    const headers = family === 'ipv4' ? 54n : 74n; // without timestamps: the gate takes them out of SYNs
    const least = BigInt(Math.ceil((megabytes << 20) / (family === 'ipv4' ? 1460 : 1440)));
    expect(packets - before.packets).toBeGreaterThanOrEqual(least);
    expect(bytes - before.bytes).toBeGreaterThanOrEqual(BigInt(megabytes << 20) + least * headers);
    expect(bytes - before.bytes).toBeLessThan(BigInt(megabytes << 20) + 2n * least * headers);
  });

  test.each(FAMILIES)('carries datagrams that were sent as one over %s', async (family) => {
    const gate = start();
    const { index } = granting(family, 'udp');
    const before = gate.carried(index).in;
    const name = `one-of-five-${family}-${kind}`;
    const segment = name.padEnd(1000, '.');
    await network.run('server', ['python3', '-c', SEGMENTED, EXTERNAL[family], String(EXTERNAL_PORT), segment, '5']);
    const received = () => device.lines.filter((line) => line.startsWith('udp') && line.includes(name));
    await until('five datagrams', () => (received().length >= 5 ? true : undefined));
    expect(received()).toHaveLength(5);
    const { packets, bytes } = gate.carried(index).in;
    const headers = family === 'ipv4' ? 42 : 62;
    expect([packets - before.packets, bytes - before.bytes]).toEqual([5n, BigInt(5 * (1000 + headers))]);
  });

  test('a sampled denial reaches no stack and draws no answer, with no table at all', async () => {
    const gate = start();
    gate.sample(1_000_000);
    for (const family of FAMILIES) {
      const marker = granted(family);
      const to = { address: INNER_GATEWAY[family], port: 9 };
      expect(await server.udp({ to, marker })).toEqual({ outcome: 'silence' });
      expect(await server.tcp({ to, marker })).toEqual({ outcome: 'silence' });
    }
    gate.sample(0);
    const { denied, sampled } = gate.counters();
    expect(denied.realmDestination.packets).toBeGreaterThanOrEqual(4n);
    expect(sampled.packets).toBe(denied.realmDestination.packets);
    const hide = network.show({ source: INNER_GATEWAY.ipv4, to: SERVER.ipv4 }, 'the gate is taken away on purpose');
    within(network, 'gateway', () => gate.detach());
    // Without the gate the stack answers: the silence was the gate's doing.
    const to = { address: INNER_GATEWAY.ipv4, port: 9 };
    await until(
      'the stack to answer',
      async () => (await server.udp({ to, waitMs: 300 })).outcome === 'refused' || undefined,
    );
    hide();
  });

  test('frames that no socket sends', async () => {
    const gate = start();
    const { mac } = network.link('gateway', OUTSIDE);
    const wire = await Capture.start(network, 'wan', UPLINK, 'less 1');
    const toGateway = (frame: Uint8Array) =>
      wire.send(Uint8Array.of(...mac.split(':').map((byte) => Number.parseInt(byte, 16)), ...frame.subarray(6)));
    const knock = ip(SERVER.ipv4, EXTERNAL.ipv4, udp(5000, EXTERNAL_PORT, 'priority'));
    const before = gate.counters();
    const moved = (reason: 'malformed' | 'realmDestination') =>
      gate.counters().denied[reason].packets - before.denied[reason].packets;

    toGateway(ethernet(knock, { vlan: 0 }));
    await device.line(/^udp .* priority$/);
    toGateway(ethernet(ip(SERVER.ipv4, DEVICE.ipv4, udp(5000, DEVICE_PORT, 'bypass')), { vlan: 0 }));
    await until('a denial', () => (moved('realmDestination') === 1n ? true : undefined));
    for (const packet of [knock, ip(SERVER.ipv6, EXTERNAL.ipv6, tcp(1, 2))]) {
      toGateway(ethernet(packet.subarray(0, 19)));
      toGateway(ethernet(packet.subarray(0, 0), { etherType: packet === knock ? 0x0800 : 0x86dd }));
    }
    await until('four denials', () => (moved('malformed') === 4n ? true : undefined));

    // Two tags, of which the stack would take off both: a way around the gate for whatever is within.
    const twice = [
      [0, 0],
      [0x6000, 0],
      [0, 0, 0],
      [0, 100],
    ];
    for (const vlan of twice)
      toGateway(ethernet(ip(SERVER.ipv4, DEVICE.ipv4, udp(5000, DEVICE_PORT, 'tagged twice')), { vlan }));
    await until('as many denials', () => (moved('malformed') === 4n + BigInt(twice.length) ? true : undefined));

    // Another interface's: passed on, and nobody's here.
    toGateway(ethernet(ip(SERVER.ipv4, DEVICE.ipv4, udp(5000, DEVICE_PORT, 'tagged')), { vlan: 100 }));
    toGateway(ethernet(ip(SERVER.ipv4, EXTERNAL.ipv4, udp(5000, EXTERNAL_PORT, 'marker'))));
    await device.line(/^udp .* marker$/);
    expect(moved('realmDestination')).toBe(1n);
    expect(device.lines.filter((line) => /bypass|tagged/.test(line))).toEqual([]);
    await wire.stop();
  });
});

/** Sends numbered datagrams as fast as it can until told to stop, then says how many left. */
const FLOOD = `
const socket = require('node:dgram').createSocket('udp4');
let sent = 0, go = true;
const step = () => {
  if (!go) return console.log('sent ' + sent);
  socket.send('stop', process.argv[2], process.argv[1], (error) => { if (!error) sent++; setImmediate(step); });
};
process.stdin.on('data', () => { go = false; });
socket.bind(0, () => { console.log('ready'); step(); });
`;

/** Sends megabytes to an echo, and compares what comes back. */
const BULK = `
const { connect } = require('node:net');
const { createHash, randomBytes } = require('node:crypto');
const bytes = randomBytes(Number(process.argv[3]) << 20);
const hash = (b) => createHash('sha256').update(b).digest('hex');
const socket = connect(Number(process.argv[2]), process.argv[1], () => socket.write(bytes));
const parts = []; let length = 0;
socket.on('data', (part) => {
  parts.push(part); length += part.length;
  if (length < bytes.length) return;
  console.log(hash(Buffer.concat(parts)) === hash(bytes) ? 'same' : 'different');
  socket.destroy();
});
`;

/** Hands the kernel one big datagram to cut into segments (UDP_SEGMENT), which it does behind the gate. */
const SEGMENTED = `
import socket, sys
host, port, segment, count = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), int(sys.argv[4])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, len(segment))
s.sendto(segment * count, (host, port))
`;
