/**
 * Flows of addresses that change hands are forgotten, and no other's. The test
 * stands at both ends of a gateway with the base: it writes the devices'
 * packets into a TUN, the kernel tracks and translates them and sends them
 * into another, and what is answered there reaches the device, or does not.
 * What stands in the table is read by the conntrack tool.
 *
 * The whole file runs inside the gateway's namespace: a netlink socket belongs
 * to the namespace that it was opened in.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { address, addressFromBytes, contains, hostPrefix, type Prefix, prefix } from '../../agent/core/net.ts';
import { forgetFlows } from '../../agent/dataplane/conntrack.ts';
import { readFlows, wholeTable } from '../../agent/dataplane/conntrack-message.ts';
import { askInParts, order, SEQUENCE } from '../../agent/dataplane/netlink.ts';
import type { Order } from '../../agent/dataplane/netlink-message.ts';
import { PrefixSet } from '../../agent/dataplane/prefix-set.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { ROOT } from '../child.ts';
import { enter } from '../enter.ts';
import { icmp, ip, TCP_ACK, tcp, udp } from '../frames.ts';
import { Network } from '../network.ts';
import { PLAIN_BASE } from '../rules.ts';
import { EGRESS_POOL, GRANTS_POOL, REALM_PREFIX, SERVER } from '../standard-network.ts';
import { Tun } from '../tun.ts';

const TCP_SYN_ACK = 0x12;
/** Devices in each of two zones: one for both directions, one for the original only. */
const ZONED = '10.20.0.30';
const HALF_ZONED = '10.20.0.31';

let network: Network;
let inside: Tun;
let outside: Tun;
let leave: (() => void) | undefined;

beforeAll(async () => {
  network = Network.create({ namespaces: { gateway: { forwards: true } }, links: [] });
  inside = Tun.open(network, 'gateway', 'inside', 'tun');
  outside = Tun.open(network, 'gateway', 'outside', 'tun');
  const lines = ['link set inside up', 'link set outside up', 'route add default dev outside'];
  for (const to of [REALM_PREFIX.ipv4, REALM_PREFIX.ipv6]) lines.push(`route add ${to} dev inside`);
  await network.run('gateway', ['ip', '-batch', '-'], {
    input: [...lines, 'route add 2001:db8::/32 dev outside'].join('\n'),
  });
  const base = baseRuleset({
    ...PLAIN_BASE,
    outside: 'outside',
    present: ['outside', 'inside'],
    inside: [{ interface: 'inside', prefixes: [prefix(REALM_PREFIX.ipv4), prefix(REALM_PREFIX.ipv6)] }],
    grants: [prefix(GRANTS_POOL.ipv4), prefix(GRANTS_POOL.ipv6)],
    egress: [prefix(EGRESS_POOL.ipv4), prefix(EGRESS_POOL.ipv6)],
    deniedDestinations: [],
    services: [],
    nflogGroup: 100,
  });
  const zones = `table ip zones { chain early { type filter hook prerouting priority -310
    ip saddr ${ZONED} ct zone set 7
    ip saddr ${HALF_ZONED} ct original zone set 8
  }
  }`;
  await network.run('gateway', ['nft', '-f', '-'], { input: `${base}\n${zones}` });
  // A busy machine must not let them end by themselves.
  const lasting = ['udp_timeout', 'udp_timeout_stream', 'icmp_timeout', 'icmpv6_timeout', 'tcp_timeout_syn_sent'];
  await network.run('gateway', ['sysctl', '-q', ...lasting.map((name) => `net.netfilter.nf_conntrack_${name}=900`)]);
  leave = enter(network.name('gateway'));
});
afterAll(async () => {
  leave?.();
  inside?.close();
  outside?.close();
  await network.close();
});
beforeEach(() => network.run('gateway', ['conntrack', '-F']));

type Kind = 'udp' | 'tcp' | 'echo';
const KINDS: readonly Kind[] = ['udp', 'tcp', 'echo'];
interface Flow {
  readonly device: string;
  readonly kind: Kind;
  /** What the outside sees of it, to be answered. */
  readonly seen: Uint8Array;
}

const familyOf = (device: string) => (device.includes(':') ? 'ipv6' : 'ipv4');
const sixteen = (bytes: Uint8Array, at: number) => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);

/** A device begins a flow; it has gone through when this returns. */
function begin(device: string, kind: Kind, port = 4000): Flow {
  const six = device.includes(':');
  const echo = six ? icmp('icmpv6', 128, 0, 'who', port << 16) : icmp('icmp', 8, 0, 'who', port << 16);
  const upper = { udp: udp(port, 53, 'who'), tcp: tcp(port, 443), echo }[kind];
  outside.read();
  inside.write(ip(device, SERVER[familyOf(device)], upper));
  const [seen] = outside.read().filter((bytes) => bytes[six ? 6 : 9] === upper.protocol);
  if (!seen) throw new Error(`the ${kind} of ${device} did not get out`);
  return { device, kind, seen };
}

/** Whether the server's answer to what it sees reaches the device. */
function isAnswered({ device, kind, seen }: Flow): boolean {
  const six = device.includes(':');
  const part = seen.subarray(six ? 40 : 20);
  const from = addressFromBytes(six ? seen.subarray(8, 24) : address(seen.subarray(12, 16).join('.')).bytes).text;
  const port = sixteen(part, 0);
  const id = sixteen(part, 4) << 16;
  const echo = six ? icmp('icmpv6', 129, 0, 'you', id) : icmp('icmp', 0, 0, 'you', id);
  const upper = { udp: udp(53, port, 'you'), tcp: tcp(443, port, '', TCP_SYN_ACK), echo }[kind];
  inside.read();
  outside.write(ip(SERVER[familyOf(device)], from, upper));
  const target = Buffer.from(address(device).bytes.subarray(six ? 0 : 12)).toString('hex');
  return inside.read().some((bytes) => Buffer.from(bytes).toString('hex').includes(target));
}

/** What stands in the table: of each entry protocol, tuples and zone. */
async function tracked(): Promise<string[]> {
  const lists = ['ipv4', 'ipv6'].map((family) => network.run('gateway', ['conntrack', '-L', '-f', family]));
  const lines = (await Promise.all(lists)).flatMap(({ stdout }) => stdout.trim().split('\n'));
  const parts = /(?:^\w+|(?:src|dst|sport|dport|type|code|id|zone(?:-orig)?)=\S+)/g;
  return lines.flatMap((line) => (line === '' ? [] : (line.match(parts) ?? []).join(' '))).sort();
}

const holding = (device: string) => (line: string) => line.split(' ').some((word) => word.endsWith(`=${device}`));

describe('real flows', () => {
  const FORGOTTEN = [
    '10.20.0.2',
    '10.20.3.7',
    '10.20.3.8',
    ZONED,
    HALF_ZONED,
    'fd00:20::2',
    'fd00:20:0:1::5',
    'fd00:20:0:1::6',
    'fd00:20:0:1ab::1',
  ];
  const OTHERS = ['10.20.0.1', '10.20.0.20', '10.20.4.7', 'fd00:20::3', 'fd00:20:0:2::5', 'fd00:20:0:200::1'];
  const PREFIXES = ['10.20.0.2/32', '10.20.3.0/24', `${ZONED}/32`, `${HALF_ZONED}/32`, '10.20.200.0/24'];
  const SIX = ['fd00:20::2/128', 'fd00:20:0:1::/64', 'fd00:20:0:100::/56', 'fd00:20:0:ff00::/64'];

  test('of many addresses and prefixes are cut at once, both ways; those of others go on', async () => {
    const flows = [...FORGOTTEN, ...OTHERS].flatMap((device) => KINDS.map((kind) => begin(device, kind)));
    const isLost = ({ device }: Flow) => FORGOTTEN.includes(device);
    const named = ({ device, kind }: Flow) => `${device} ${kind}`;
    // One direction's zone has no way back: a stream outward, which the server's answers do not belong to.
    const answerable = flows.filter(({ device }) => device !== ZONED);
    expect(answerable.filter((flow) => !isAnswered(flow)).map(named)).toEqual([]);
    const before = await tracked();
    expect(before).toHaveLength(flows.length);

    await forgetFlows([...PREFIXES, ...SIX].map(prefix));

    expect(await tracked()).toEqual(before.filter((line) => !FORGOTTEN.some((device) => holding(device)(line))));
    expect(flows.filter(isAnswered).map(named)).toEqual(flows.filter((flow) => !isLost(flow)).map(named));
    // What is left over of a device's TCP is no new flow.
    inside.write(ip('10.20.0.2', SERVER.ipv4, tcp(4000, 443, 'more', TCP_ACK)));
    expect((await tracked()).filter(holding('10.20.0.2'))).toEqual([]);
  });

  test('are found by each of the four addresses', async () => {
    const add = (...words: string[]) =>
      network.run('gateway', ['conntrack', '-I', '-p', 'udp', '--sport', '1', '--dport', '2', '-t', '900', ...words]);
    const reply = ['--reply-port-src', '2', '--reply-port-dst', '1'];
    await add('-s', '10.1.0.1', '-d', '10.2.0.1', '-r', '10.3.0.1', '-q', '10.4.0.1', ...reply);
    const [entry] = await tracked();
    expect(entry).toBe('udp src=10.1.0.1 dst=10.2.0.1 sport=1 dport=2 src=10.3.0.1 dst=10.4.0.1 sport=2 dport=1');
    await forgetFlows(['10.1.0.0/32', '10.2.0.2/32', '10.0.0.0/16', '::/0'].map(prefix));
    expect(await tracked()).toEqual([entry]);
    for (const found of ['10.1.0.1/32', '10.2.0.0/24', '10.3.0.1/32', '10.4.0.0/14', '0.0.0.0/0']) {
      await forgetFlows([prefix(found)]);
      expect(await tracked(), found).toEqual([]);
      await add('-s', '10.1.0.1', '-d', '10.2.0.1', '-r', '10.3.0.1', '-q', '10.4.0.1', ...reply);
    }
  });

  test('of protocols without ports, in any zone, are found too', async () => {
    const add = (...words: string[]) => network.run('gateway', ['conntrack', '-I', '-t', '900', ...words]);
    await add('-p', '50', '-s', '10.20.0.2', '-d', '198.51.100.1');
    await add('-p', 'gre', '-s', '10.20.0.2', '-d', '198.51.100.1', '--srckey', '1', '--dstkey', '2');
    await add(
      '-p',
      'icmp',
      '-s',
      SERVER.ipv4,
      '-d',
      '10.20.0.2',
      '--icmp-type',
      '8',
      '--icmp-code',
      '0',
      '--icmp-id',
      '1',
    );
    const flow = ['-p', 'udp', '-s', '10.20.0.2', '-d', '198.51.100.1', '--sport', '5', '--dport', '6'];
    await add(...flow);
    await add(...flow, '-w', '9');
    await add('-p', '50', '-s', '10.20.0.3', '-d', '198.51.100.1');
    expect(await tracked()).toHaveLength(6);
    await forgetFlows([prefix('10.20.0.2/32')]);
    expect(await tracked()).toEqual(['unknown src=10.20.0.3 dst=198.51.100.1 src=198.51.100.1 dst=10.20.0.3']);
  });
});

describe('an entry that has ended since it was read', () => {
  const device = '10.20.9.9';

  async function deletions(): Promise<Order[]> {
    const own = new PrefixSet('ipv4', [hostPrefix(address(device))]);
    const all: Order[] = [];
    await askInParts('netfilter', wholeTable('ipv4'), (bytes) => {
      const part = readFlows(bytes, SEQUENCE, own);
      all.push(...part.deletions);
      return part;
    });
    return all;
  }

  test('is gone; and another is not taken for it', async () => {
    for (const port of [4001, 4002, 4003]) begin(device, 'udp', port);
    const orders = await deletions();
    expect(orders).toHaveLength(3);
    await network.run('gateway', ['conntrack', '-D', '-s', device, '-p', 'udp', '--sport', '4001']);
    const [id] = (await deletions()).map(({ body }) => body.subarray(-4));
    const other = orders.filter(({ body }) => Buffer.from(body.subarray(-4)).equals(id ?? Buffer.alloc(0)));
    expect(other).toHaveLength(1);
    // The kernel makes the id of an entry from its place in memory: here, one in another place.
    const spoilt = orders.map((one) =>
      one === other[0] ? { ...one, body: Uint8Array.from(one.body).fill(7, -4) } : one,
    );
    const refused = await order('netfilter', 'the deletion', spoilt);
    expect([...refused.values()].map(({ errno }) => errno)).toEqual([2, 2]); // ENOENT
    expect(await tracked()).toHaveLength(1);
    await forgetFlows([hostPrefix(address(device))]);
    expect(await tracked()).toEqual([]);
  });
});

describe('a full table', () => {
  const COUNT = 50_000;
  const deviceAt = (index: number) => `10.20.${(index >> 8) & 255}.${index & 255}`;

  test('loses all flows of these prefixes and no other, while others begin and end', async () => {
    const prefixes: Prefix[] = Array.from({ length: 256 }, (_, i) => hostPrefix(address(deviceAt(i * 250 + 1))));
    prefixes.push(prefix('10.20.77.0/24'), prefix('10.20.128.0/20'));
    const isOwn = new Set<string>();
    for (let index = 0; index < 65_536; index++) {
      const device = address(deviceAt(index));
      if (prefixes.some((one) => contains(one, device))) isOwn.add(device.text);
    }
    for (let index = 0; index < COUNT; index++)
      inside.write(ip(deviceAt(index), SERVER.ipv4, udp(1_024 + ((index * 7_919) % 60_000), 53)));
    const before = await tracked();
    expect(before.length).toBe(COUNT);
    const sourceOf = (line: string) => / src=(\S+)/.exec(line)?.[1] ?? '';

    let isDone = false;
    let [begun, turns] = [0, 0];
    const others = () => {
      for (let i = 0; i < 5 && begun < 20_000; i++)
        inside.write(ip('10.20.255.255', SERVER.ipv4, udp(10_000 + begun++, 54)));
      turns += 1;
      if (!isDone) setImmediate(others);
    };
    others();
    await forgetFlows(prefixes);
    isDone = true;
    expect(turns).toBeGreaterThan(100); // the loop goes on while the table is read

    const after = new Set(await tracked());
    const lost = before.filter((line) => !after.has(line));
    expect(lost.filter((line) => !isOwn.has(sourceOf(line)))).toEqual([]);
    expect([...after].filter((line) => isOwn.has(sourceOf(line)))).toEqual([]);
    expect(lost.length).toBeGreaterThan(2_000);
  });
});

describe('where it cannot be done', () => {
  test('without the rights: a fault that says whose flows may be left, and why', async () => {
    const text = `
      import { prefix } from '${ROOT}/agent/core/net.ts';
      import { forgetFlows } from '${ROOT}/agent/dataplane/conntrack.ts';
      await forgetFlows(['10.20.0.2/32', '10.20.0.3/32'].map(prefix)).catch(({ code, message }) => console.log(code, message));`;
    const command = [
      'setpriv',
      '--bounding-set',
      '-all',
      '--inh-caps',
      '-all',
      'node',
      '--import',
      'tsx',
      '--input-type=module',
      '-e',
      text,
    ];
    const { stdout } = await network.run('gateway', command);
    expect(stdout).toMatch(/^conntrackFailed tracked flows of 10\.20\.0\.2\/32 and 1 more may be left: .*EPERM/);
  });
});
