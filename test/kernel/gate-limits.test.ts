/**
 * Limits on wires: what a grant that is offered too much carries, counted
 * where it arrives, by the kernel's own time stamps and counters, within 1 %.
 */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { address, type Family, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { PacketLimits, Protocol } from '../../agent/core/words.ts';
import type { Mapping } from '../../agent/dataplane/dataplane.ts';
import type { Gate } from '../../agent/dataplane/gate.ts';
import { type Child, until } from '../child.ts';
import type { Network } from '../network.ts';
import { DEVICE, INSIDE, SERVER, standardNetwork, UPLINK } from '../standard-network.ts';
import { gateOnWires, HOUR } from './gate-stand.ts';

const DEVICE_PORT = 7000;
const SERVER_PORT = 5000;
const EXTERNAL = { ipv4: '203.0.113.1', ipv6: '2001:db8:a::77' } as const;
const FAMILIES = ['ipv4', 'ipv6'] as const;
const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/29')],
  ipv6: [prefix('2001:db8:a::/64')],
  portLow: 40_000,
  portCount: 64,
  keyedGrants: 8,
};
const PER_SECOND = 1000;

let network: Network;
let gate: Gate;
let number = 0;

beforeAll(() => {
  network = standardNetwork();
  gate = gateOnWires(network, POOL);
});
afterAll(async () => {
  gate.close();
  await network.close();
});
beforeEach(() => gate.heartbeat(process.hrtime.bigint()));

/** The same endpoint for one test after another; the grant before ends. */
function open(family: Family, protocol: Protocol, limits: PacketLimits): Mapping {
  number += 1;
  const external = { address: address(EXTERNAL[family]), port: POOL.portLow };
  const mapping: Mapping = {
    index: indexOfIpv4(POOL, protocol, external) ?? ipv4Entries(POOL) + 1,
    number,
    protocol,
    realm: 1,
    device: { address: address(DEVICE[family]), port: DEVICE_PORT },
    external,
    remote: address(SERVER[family]),
    remotePort: 0,
    classId: 7,
    limits,
  };
  const before = gate.state(mapping.index);
  if (before) gate.end(before.index, before.number, process.hrtime.bigint() - 1_000_000_000n);
  gate.open(mapping, process.hrtime.bigint() + HOUR);
  return mapping;
}

/** Who receives, and by the kernel's clock from when to when how many. */
async function receiver(namespace: 'server' | 'device', family: Family, port: number, mode: 'echo' | 'quiet') {
  const host = (namespace === 'server' ? SERVER : DEVICE)[family];
  return network.spawn(namespace, ['python3', '-u', '-c', RECEIVE, host, String(port), mode], { line: /^ready$/ });
}

interface Received {
  readonly packets: number;
  readonly seconds: number;
}

async function received(child: Child): Promise<Received> {
  child.say('stop');
  const line = await child.line(/^\{/);
  await child.stop();
  return JSON.parse(line) as Received;
}

/** Three times as many as may pass, for some seconds. */
function send(namespace: 'server' | 'device', from: readonly [string, number], to: readonly [string, number]) {
  const ends = [...from, ...to].map(String);
  return network.run(namespace, ['python3', '-c', SEND, ...ends, String(3 * PER_SECOND), '2.5']);
}

/** One second's worth at once, and then the rate. */
function expectRate({ packets, seconds }: Received): void {
  const allowed = PER_SECOND * (1 + seconds);
  expect(seconds).toBeGreaterThan(2);
  expect(packets).toBeGreaterThan(0.99 * allowed);
  expect(packets).toBeLessThan(1.01 * allowed);
}

test('packets a second toward the device', async () => {
  const grant = open('ipv4', 'udp', { packetsPerSecond: PER_SECOND });
  const device = await receiver('device', 'ipv4', DEVICE_PORT, 'quiet');
  await send('server', [SERVER.ipv4, SERVER_PORT], [EXTERNAL.ipv4, POOL.portLow]);
  const arrived = await received(device);
  expectRate(arrived);
  expect(gate.carried(grant.index).in.packets).toBe(BigInt(arrived.packets));
});

test('packets a second from the device', async () => {
  const grant = open('ipv6', 'udp', { packetsPerSecond: PER_SECOND });
  const server = await receiver('server', 'ipv6', SERVER_PORT, 'quiet');
  await send('device', [DEVICE.ipv6, DEVICE_PORT], [SERVER.ipv6, SERVER_PORT]);
  const arrived = await received(server);
  expectRate(arrived);
  expect(gate.carried(grant.index).out.packets).toBe(BigInt(arrived.packets));
});

test('packets a second of both directions together', async () => {
  const grant = open('ipv4', 'udp', { packetsPerSecond: PER_SECOND });
  const device = await receiver('device', 'ipv4', DEVICE_PORT, 'echo');
  const server = await receiver('server', 'ipv4', SERVER_PORT, 'quiet');
  await send('server', [SERVER.ipv4, SERVER_PORT + 1], [EXTERNAL.ipv4, POOL.portLow]);
  const inward = await received(device);
  const { in: carriedIn, out: carriedOut } = gate.carried(grant.index);
  expectRate({ ...inward, packets: Number(carriedIn.packets + carriedOut.packets) });
  expect(carriedIn.packets).toBe(BigInt(inward.packets));
  expect(carriedOut.packets).toBeGreaterThan(500n);
  await server.stop();
});

test.each(FAMILIES)('bytes of a coalesced stream over %s, as they are on the wire', async (family) => {
  // Cut into single packets behind the gate, where they are counted.
  await network.run('gateway', ['ip', 'link', 'set', INSIDE, 'gso_max_segs', '1']);
  const quota = 16_000_000;
  const grant = open(family, 'tcp', { bytes: quota });
  const wire = async () => {
    const { stdout } = await network.run('device', ['cat', '/proc/net/dev']);
    const [, bytes, packets] = new RegExp(`${UPLINK}: *(\\d+) +(\\d+)`).exec(stdout) ?? [];
    return { bytes: Number(bytes), packets: Number(packets) };
  };
  const sink = await network.spawn('device', ['python3', '-u', '-c', SINK, DEVICE[family], String(DEVICE_PORT)], {
    line: /^ready$/,
  });
  const before = await wire();
  const stream = await network.spawn(
    'server',
    ['python3', '-u', '-c', STREAM, EXTERNAL[family], String(POOL.portLow)],
    { line: /^ready$/ },
  );
  const used = await until('the quota to be used up', () => gate.usedUp()[0]);
  expect(used).toEqual({ index: grant.index, number: grant.number });
  const { in: inward, out: outward } = gate.carried(grant.index);
  expect(Number(inward.bytes + outward.bytes)).toBeLessThanOrEqual(quota);
  expect(Number(inward.bytes + outward.bytes)).toBeGreaterThan(0.99 * quota);
  const after = await wire();
  const carried = gate.carried(grant.index).in;
  expect(Math.abs(after.bytes - before.bytes - Number(carried.bytes))).toBeLessThan(0.01 * quota);
  // Had a coalesced packet counted as one, there would be a tenth of them.
  expect(Math.abs(after.packets - before.packets - Number(carried.packets))).toBeLessThan(100);
  await Promise.all([stream.stop('SIGKILL'), sink.stop('SIGKILL')]);
});

const FAMILY = `socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET`;

/** Receives datagrams until told to stop, by the kernel's time stamps (SO_TIMESTAMPNS); as an echo, sends each back. */
const RECEIVE = `
import json, select, socket, struct, sys
s = socket.socket(${FAMILY}, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)
s.setsockopt(socket.SOL_SOCKET, 35, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
packets, first, last = 0, None, None
print('ready')
stopping = False
while True:
  readable, _, _ = select.select([s] if stopping else [s, sys.stdin], [], [], 0 if stopping else None)
  if s in readable:
    data, extra, _, peer = s.recvmsg(2048, 256)
    seconds, nanos = struct.unpack('qq', extra[0][2])
    last = seconds + nanos / 1e9
    first = first or last
    packets += 1
    if sys.argv[3] == 'echo': s.sendto(data, peer)
  elif stopping: break
  else: stopping = True
print(json.dumps({'packets': packets, 'seconds': last - first if packets else 0}))
`;

/** Sends so many a second, what it is late with at once. */
const SEND = `
import socket, sys, time
s = socket.socket(${FAMILY}, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
to, rate, seconds = (sys.argv[3], int(sys.argv[4])), int(sys.argv[5]), float(sys.argv[6])
start, sent = time.monotonic(), 0
while time.monotonic() - start < seconds:
  while sent < (time.monotonic() - start) * rate:
    s.sendto(b'x' * 20, to)
    sent += 1
  time.sleep(0.001)
`;

const SINK = `
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=${FAMILY})
print('ready')
c, _ = s.accept()
while c.recv(1 << 20): pass
`;

const STREAM = `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print('ready')
while True: s.sendall(b'x' * (1 << 20))
`;
