/**
 * How the gate comes to hang at XDP and not: both modes, one in place of the
 * other, what an interface refuses and why, what others have there. TC hangs
 * behind it whatever becomes of it. And that the kernel goes on to look after
 * the neighbours that XDP sends to.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import type { XdpMode } from '../../agent/dataplane/tc.ts';
import { Capture } from '../capture.ts';
import { within } from '../enter.ts';
import { Network } from '../network.ts';
import { likeWires } from '../offloads.ts';
import { DEVICE, INSIDE, OUTSIDE, SERVER, standardNetwork, UPLINK } from '../standard-network.ts';
import { USUAL } from '../suites/fixture.ts';
import { GATE_OBJECT, gateOnWires, HOUR, MAPPING, POOL } from './gate-stand.ts';

let network: Network;
const gates: Gate[] = [];

beforeAll(async () => {
  const end = (namespace: string, name: string) => ({ namespace, interface: name, addresses: [] });
  network = Network.create({
    namespaces: { gateway: {}, other: {} },
    links: [
      [end('gateway', 'outside'), end('other', 'far-outside')],
      [end('gateway', 'inside'), end('other', 'far-inside')],
    ],
  });
  const links = ['add link inside name over type macvlan', 'set over up', 'add br0 type bridge', 'set br0 up'];
  for (const words of links) await network.run('gateway', ['ip', 'link', ...words.split(' ')]);
});
afterAll(async () => {
  for (const gate of gates) gate.close();
  await network.close();
});

async function at(name: string) {
  const { stdout } = await network.run('gateway', ['ip', '-json', 'link', 'show', 'dev', name]);
  const [{ ifindex }] = JSON.parse(stdout) as [{ ifindex: number }];
  return { name, ifindex };
}

/** A gate, as an agent of its own has it, at the gateway's outside and another interface inside. */
async function load(inside = 'inside') {
  const [one, other] = [await at('outside'), await at(inside)];
  const gate = within(network, 'gateway', () =>
    Gate.load({
      object: GATE_OBJECT,
      bpffs: `${network.bpffs()}/mtgate`,
      setup: {
        pool: POOL,
        outside: { ifindex: one.ifindex, nextHops: {} },
        inside: [
          { ifindex: other.ifindex, realm: 1, prefixes: [prefix('10.20.0.0/16')], nextHops: {}, translated: true },
        ],
        own: [],
        ...USUAL,
      },
    }),
  );
  gates.push(gate);
  /** Attaches it; returns what hangs at XDP, in words. */
  const attach = (outsideMode?: XdpMode, insideMode?: XdpMode): string[] => {
    within(network, 'gateway', () =>
      gate.attach('auto', {
        outside: { ...one, ...(outsideMode && { xdp: outsideMode }) },
        inside: [{ ...other, ...(insideMode && { xdp: insideMode }) }],
      }),
    );
    return within(network, 'gateway', () => gate.attachments())
      .filter(({ hook }) => hook.endsWith('Xdp'))
      .map(({ hook, interface: { name }, kind }) => `${hook} ${name} ${kind}`)
      .sort();
  };
  const atTc = () => within(network, 'gateway', () => gate.attachments()).filter(({ hook }) => !hook.endsWith('Xdp'));
  return { gate, attach, atTc };
}

/** What iproute2 sees of XDP at an interface. */
async function shown(name: string): Promise<string> {
  const { stdout } = await network.run('gateway', ['ip', '-details', 'link', 'show', 'dev', name]);
  return /\bxdp(generic)?\/?id|prog\/xdp( id|generic)?|\bxdpgeneric\b|\bxdp\b/.exec(stdout)?.[0] ?? '';
}

describe('the gate', () => {
  let one: Awaited<ReturnType<typeof load>>;
  beforeAll(async () => {
    one = await load();
  });
  beforeEach(() => {
    one.attach();
  });

  test('hangs at XDP of the interfaces where it is wanted, and at TC of all', async () => {
    expect(one.attach()).toEqual([]);
    expect(one.attach('native', 'native')).toEqual(['insideXdp inside native', 'outsideXdp outside native']);
    expect(one.atTc()).toHaveLength(4);
    expect(await shown('outside')).not.toBe('');
    expect(one.attach('native')).toEqual(['outsideXdp outside native']);
    expect(one.attach()).toEqual([]);
    expect(await shown('outside')).toBe('');
    expect(one.atTc()).toHaveLength(4);
    expect(one.gate.xdpRefusals()).toEqual([]);
  });

  test('goes from one mode to the other', () => {
    expect(one.attach('native')).toEqual(['outsideXdp outside native']);
    expect(one.attach('generic')).toEqual(['outsideXdp outside generic']);
    expect(one.attach('native')).toEqual(['outsideXdp outside native']);
  });

  test('cannot be switched off by whoever has no hand on its pin', async () => {
    one.attach('native');
    const off = await network.run('gateway', ['ip', 'link', 'set', 'dev', 'outside', 'xdp', 'off'], { mayFail: true });
    expect(off.status).not.toBe(0);
    expect(within(network, 'gateway', () => one.gate.xdpLost())).toEqual([]);
  });

  test('leaves an interface to TC that another XDP program has, and says so', async () => {
    const other = await load();
    other.attach('native');
    expect(one.attach('native', 'native')).toEqual(['insideXdp inside native']);
    expect(one.gate.xdpRefusals()).toEqual([{ interface: 'outside', why: 'another XDP program hangs there' }]);
    expect(one.atTc()).toHaveLength(4);
    expect(within(network, 'gateway', () => one.gate.xdpLost())).toEqual([]);
    other.attach();
    expect(one.attach('native')).toEqual(['outsideXdp outside native']);
    expect(one.gate.xdpRefusals()).toEqual([]);
  });
});

test.each(['br0', 'over'])('a driver without XDP (%s) is told, and has TC; generic it can be', async (name) => {
  const one = await load(name);
  expect(one.attach(undefined, 'native')).toEqual([]);
  expect(one.gate.xdpRefusals()).toEqual([{ interface: name, why: 'its driver has no XDP of its own' }]);
  expect(one.atTc()).toHaveLength(4);
  expect(one.attach(undefined, 'generic')).toEqual([`insideXdp ${name} generic`]);
  one.attach();
});

describe('a neighbour', () => {
  let wires: Network;
  let gate: Gate;
  beforeAll(async () => {
    wires = standardNetwork();
    likeWires(wires);
    gate = gateOnWires(wires, POOL, 'xdp');
    gate.open({ ...MAPPING, protocol: 'udp', index: POOL.portCount }, process.hrtime.bigint() + HOUR);
    const settings = `/proc/sys/net/ipv4/neigh/${INSIDE}`; // as quick as it can be told
    const orders = [`echo 1 > ${settings}/delay_first_probe_time`, `echo 100 > ${settings}/retrans_time_ms`];
    await wires.run('gateway', ['sh', '-ec', orders.join('\n')]);
  });
  afterAll(async () => {
    gate.close();
    await wires.close();
  });

  test('of which nothing has been heard for long is asked for, as with what the stack sends', async () => {
    const before = gate.counters();
    const device = await wires.spawn('device', ['python3', '-u', '-c', RECEIVE, '80'], { line: /^ready$/ });
    // Whoever had the address before.
    const former = ['ip', 'neighbour', 'replace', DEVICE.ipv4, 'lladdr', '02:00:00:00:00:77', 'dev', INSIDE];
    await wires.run('gateway', [...former, 'nud', 'stale']);
    await wires.spawn('server', ['python3', '-c', STREAM, '203.0.113.0', '40000'], { line: /^ready$/ });
    await device.line(/^came$/);
    const { grantedIn, atXdp } = gate.counters();
    const [carried, early] = [grantedIn.packets - before.grantedIn.packets, atXdp.packets - before.atXdp.packets];
    expect(carried - early).toBeGreaterThan(0n); // what the stack was shown, and then asked about
    expect(early).toBeGreaterThan((carried * 9n) / 10n);
  });
});

describe.each(['tc', 'xdp'] as const)('the router that a packet leaves by, from %s', (where) => {
  const ROUTER = '192.0.2.9'; // in no connected prefix
  const MAC = '020000000099';

  test.each([
    ['given, where routes say another', { nextHops: { ipv4: address(ROUTER) } }, []],
    [
      'of a rule that looks at the source',
      { nextHops: {}, routedByMore: ['ipv4'] },
      [
        `ip route add default via ${ROUTER} dev ${OUTSIDE} onlink table 100`,
        'ip rule add from 203.0.113.0/30 table 100',
      ],
    ],
  ] as const)('is the one %s', async (_, ways, orders) => {
    const wires = standardNetwork();
    likeWires(wires);
    const neighbour = `ip neighbour replace ${ROUTER} lladdr ${MAC.replace(/..(?!$)/g, '$&:')} dev ${OUTSIDE} nud permanent`;
    for (const order of [neighbour, ...orders]) await wires.run('gateway', order.split(' '));
    const gate = gateOnWires(wires, POOL, where, ways);
    try {
      gate.open({ ...MAPPING, protocol: 'udp', index: POOL.portCount }, process.hrtime.bigint() + HOUR);
      const wire = await Capture.start(wires, 'wan', UPLINK, 'udp');
      await wires.run('device', ['python3', '-c', SEND, SERVER.ipv4, '80', '3']);
      const frames = await wire.through(Buffer.from('number 2'));
      expect(frames.map((frame) => Buffer.from(frame.subarray(0, 6)).toString('hex'))).toEqual([MAC, MAC, MAC]);
      expect(gate.counters().grantedOut.packets).toBe(3n);
      await wire.stop();
    } finally {
      gate.close();
      await wires.close();
    }
  });
});

/** So many datagrams from a port of its own, numbered. */
const SEND = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', int(sys.argv[2])))
for i in range(int(sys.argv[3])): s.sendto(b'number %d' % i, (sys.argv[1], 9))
`;

/** Some fifty datagrams a second, for as long as it lives. */
const STREAM = `
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print('ready', flush=True)
while True:
  s.sendto(b'x' * 20, (sys.argv[1], int(sys.argv[2])))
  time.sleep(0.02)
`;

/** Says when the first has come. */
const RECEIVE = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', int(sys.argv[1])))
print('ready')
s.recv(100)
print('came')
s.recv(1 << 16)
`;
