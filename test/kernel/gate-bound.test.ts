/**
 * Only bound devices speak, on wires: the gate before the base, a real device
 * behind them, and a server that tells what reached it. Nothing of an address
 * that nobody holds leaves, from the moment it is taken out; what makes the
 * link work goes on.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { address, hostPrefix, prefix } from '../../agent/core/net.ts';
import type { Gate } from '../../agent/dataplane/gate.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { type Child, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { PLAIN_BASE } from '../rules.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GRANTS_POOL,
  INNER_GATEWAY,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  SERVER,
  standardNetwork,
  UPLINK,
} from '../standard-network.ts';
import { gateOnWires, POOL } from './gate-stand.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const REALM = 1;
const OTHER_REALM = 2;
const PORT = 7000;
/** In a prefix that one device may hold whole, and beside it. */
const PREFIX = 'fd00:20:0:7::/64';
const WITHIN = ['fd00:20:0:7::a', 'fd00:20:0:7:dead:beef:0:1'];
const BESIDE = 'fd00:20:0:8::a';
/** A device that begins a flow and goes on, whatever becomes of it: a number every 5 ms. */
const STREAM = `
import itertools, socket, sys, time
host, to, port = sys.argv[1:]
one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
one.bind((host, 0))
print("ready", flush=True)
for number in itertools.count():
    one.sendto(b"number %d" % number, (to, int(port)))
    time.sleep(0.005)
`;

/** One echo request; says whether it was answered. */
const PING = `
import socket, struct, sys, time
to, wait, own = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
six = ":" in to
one = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) if six else socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
if own: one.bind((own[0], 0))
request = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0x6d74, 1)
if not six: request = struct.pack("!BBHHH", 8, 0, 0xffff - (0x800 + 0x6d74 + 1), 0x6d74, 1)
one.sendto(request, (to, 0))
end = time.monotonic() + wait
while time.monotonic() < end:
    one.settimeout(max(0.001, end - time.monotonic()))
    try: data = one.recv(2048)
    except TimeoutError: break
    reply = data if six else data[20:]
    if reply[0] == (129 if six else 0) and reply[4:6] == b"mt":
        print("answer")
        sys.exit()
print("silence")
`;

let network: Network;
let gate: Gate;
let service: Child;
let device: Probe;

beforeAll(async () => {
  network = standardNetwork();
  gate = gateOnWires(network, POOL);
  await network.run('gateway', ['nft', '-f', '-'], {
    input: baseRuleset({
      ...PLAIN_BASE,
      outside: OUTSIDE,
      present: [OUTSIDE, INSIDE],
      inside: [{ interface: INSIDE, prefixes: FAMILIES.map((family) => prefix(REALM_PREFIX[family])) }],
      grants: FAMILIES.map((family) => prefix(GRANTS_POOL[family])),
      egress: FAMILIES.map((family) => prefix(EGRESS_POOL[family])),
      deniedDestinations: [],
      services: [],
      nflogGroup: 100,
    }),
  });
  for (const host of [...WITHIN, BESIDE])
    await network.run('device', ['ip', 'address', 'add', `${host}/128`, 'dev', UPLINK, 'nodad', 'preferred_lft', '0']);
  const echo = program('test/device.ts', String(PORT), SERVER.ipv4, SERVER.ipv6);
  service = await network.spawn('server', echo, { line: /^ready$/ });
  device = await Probe.start(network, 'device');
});
afterAll(async () => {
  gate?.close();
  await network.close();
});
beforeEach(() => gate.heartbeat(process.hrtime.bigint()));
afterEach(() => {
  for (const { realm, prefix: held } of [...gate.bindings()]) gate.unbind(realm, held);
  for (const family of FAMILIES) gate.bind(REALM, hostPrefix(address(DEVICE[family])));
});

const denied = () => gate.counters().denied.addressUnbound.packets;
const own = (family: (typeof FAMILIES)[number]) => hostPrefix(address(DEVICE[family]));

/** What a device gets to hear that begins a flow of each kind, to the family's server. */
async function begin(from: string, waitMs: number): Promise<Record<'udp' | 'tcp' | 'ping', string>> {
  const to = from.includes(':') ? SERVER.ipv6 : SERVER.ipv4;
  const question = { to: { address: to, port: PORT }, from: { address: from }, waitMs };
  const [udp, tcp, ping] = await Promise.all([
    device.udp(question),
    device.tcp(question),
    network.run('device', ['python3', '-c', PING, to, String(waitMs / 1000), from]),
  ]);
  return { udp: udp.outcome, tcp: tcp.outcome, ping: ping.stdout.trim() };
}
const speaks = async (...hosts: readonly string[]) => {
  for (const host of hosts) expect([host, await begin(host, 5000)]).toEqual([host, EVERYTHING]);
};
/** The silence is the gate's: a datagram, a SYN and an echo are denied. */
const isSilent = async (...hosts: readonly string[]) => {
  for (const host of hosts) {
    const before = denied();
    expect([host, await begin(host, 300)]).toEqual([host, NOTHING]);
    expect(denied() - before).toBeGreaterThanOrEqual(3n);
  }
};
const EVERYTHING = { udp: 'answer', tcp: 'answer', ping: 'answer' };
const NOTHING = { udp: 'silence', tcp: 'silence', ping: 'silence' };

describe.each(FAMILIES)('over %s', (family) => {
  const [from, to] = [DEVICE[family], SERVER[family]];

  test('a device begins flows while it is bound, and none while it is not', async () => {
    const before = denied();
    await speaks(from);
    expect(denied()).toBe(before);

    gate.unbind(REALM, own(family));
    const arrived = service.lines.length;
    await isSilent(from);
    // Held in another realm, the same address is another device's.
    gate.bind(OTHER_REALM, own(family));
    await isSilent(from);
    expect(service.lines.slice(arrived)).toEqual([]);
    gate.bind(REALM, own(family));
    await speaks(from);
  });

  test('a flow that runs is cut at once, and goes on when its address is held again', async () => {
    const stream = await network.spawn('device', ['python3', '-c', STREAM, from, to, String(PORT)], {
      line: /^ready$/,
    });
    const numbers = () => service.lines.flatMap((line) => /number (\d+)$/.exec(line)?.[1] ?? []).map(Number);
    /** All that reached the server before this, as it told: what comes behind, over the other family, is told later. */
    const arrived = async () => {
      const other = family === 'ipv4' ? 'ipv6' : 'ipv4';
      const lines = service.lines.length;
      const to = { address: SERVER[other], port: PORT };
      expect(await device.udp({ to, text: 'behind' })).toMatchObject({ outcome: 'answer' });
      await service.line(/behind$/, { from: lines });
      return numbers();
    };
    const already = numbers().length;
    await until('a running flow', () => (numbers().length > already + 20 ? true : undefined));
    const before = denied();
    gate.unbind(REALM, own(family));
    await until('the first of it that is denied', () => (denied() > before ? true : undefined));
    const seen = await arrived();
    await until('forty of it', () => (denied() >= before + 40n ? true : undefined));
    expect(await arrived()).toEqual(seen);

    gate.bind(REALM, own(family));
    await until('the rest', () => (numbers().length > seen.length ? true : undefined));
    // What was sent meanwhile is lost, no packet late.
    const next = numbers()[seen.length] ?? 0;
    expect(next).toBeGreaterThan((seen.at(-1) ?? 0) + 39);
    await stream.stop();
  });
});

test('who holds a prefix speaks from all of it, and from nothing beside it', async () => {
  await isSilent(...WITHIN);
  gate.bind(REALM, prefix(PREFIX));
  await speaks(...WITHIN);
  await isSilent(BESIDE);
  gate.unbind(REALM, prefix(PREFIX));
  await isSilent(...WITHIN);
});

test('a device that holds nothing finds its gateway, and is found by it', async () => {
  for (const { realm, prefix: held } of [...gate.bindings()]) gate.unbind(realm, held);
  const forget = (namespace: string, link: string) =>
    network.run(namespace, ['ip', '-6', 'neigh', 'flush', 'dev', link], { mayFail: true });
  const found = async (namespace: string, link: string, host: string) =>
    JSON.parse(
      (await network.run(namespace, ['ip', '-json', '-6', 'neigh', 'show', host, 'dev', link])).stdout,
    ) as readonly { readonly lladdr?: string; readonly state: readonly string[] }[];
  await forget('device', UPLINK);
  await forget('gateway', INSIDE);
  await isSilent(DEVICE.ipv6);
  await until('the gateway, found', async () =>
    (await found('device', UPLINK, INNER_GATEWAY.ipv6)).some(({ lladdr }) => lladdr) ? true : undefined,
  );
  await forget('gateway', INSIDE);
  await network.run('gateway', ['python3', '-c', PING, DEVICE.ipv6, '0.1']);
  await until('the device, found', async () =>
    (await found('gateway', INSIDE, DEVICE.ipv6)).some(({ lladdr }) => lladdr) ? true : undefined,
  );
});
