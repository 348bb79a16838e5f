/**
 * Flows that devices begin, in the base: what stands for a device outside, how
 * many flows it may have, and that nobody answers for the egress pool but the
 * devices. The test stands at both ends (tun.ts) and sees every packet.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { addressFromBytes, contains, prefix } from '../../agent/core/net.ts';
import { Base } from '../../agent/dataplane/nftables.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { enter } from '../enter.ts';
import { cut, type IpFields, icmp, ip, sumsHold, TCP_ACK, tcp, udp } from '../frames.ts';
import { Network } from '../network.ts';
import { PLAIN_BASE } from '../rules.ts';
import { EGRESS_POOL, GRANTS_POOL, REALM_PREFIX } from '../standard-network.ts';
import { Tun } from '../tun.ts';

const SECOND_EGRESS = '198.51.100.200/32';
const CAP = 20;
const DEVICE = { ipv4: '10.20.0.2', ipv6: 'fd00:20::2' } as const;
const SERVER = { ipv4: '198.51.100.10', ipv6: '2001:db8:51::10' } as const;
const FAMILIES = ['ipv4', 'ipv6'] as const;

let network: Network;
let inside: Tun;
let outside: Tun;
let leave: (() => void) | undefined;
const base = new Base();

function textFor(egress: readonly string[] = [EGRESS_POOL.ipv4, EGRESS_POOL.ipv6], flowsPerDevice = CAP): string {
  return baseRuleset({
    ...PLAIN_BASE,
    outside: 'outside',
    present: ['outside', 'inside'],
    inside: [{ interface: 'inside', prefixes: [prefix(REALM_PREFIX.ipv4), prefix(REALM_PREFIX.ipv6)] }],
    grants: [prefix(GRANTS_POOL.ipv4), prefix(GRANTS_POOL.ipv6)],
    egress: egress.map(prefix),
    deniedDestinations: [],
    services: [],
    nflogGroup: 100,
    flowsPerDevice,
  });
}

beforeAll(async () => {
  network = Network.create({ namespaces: { gateway: { forwards: true } }, links: [] });
  inside = Tun.open(network, 'gateway', 'inside', 'tun');
  outside = Tun.open(network, 'gateway', 'outside', 'tun');
  const pools = [GRANTS_POOL, EGRESS_POOL].flatMap(({ ipv4, ipv6 }) => [ipv4, ipv6]);
  const lines = [
    ...['link set inside up', 'link set outside up'],
    ...['address add 192.0.2.2/30 dev outside', 'address add 2001:db8:0:1::2/64 dev outside nodad'],
    ...['address add 10.20.0.1/32 dev inside', 'address add fd00:20::1/128 dev inside nodad'],
    ...['route add default dev outside', 'route add 2001:db8::/32 dev outside'],
    ...[REALM_PREFIX.ipv4, REALM_PREFIX.ipv6].map((to) => `route add ${to} dev inside`),
    ...pools.map((pool) => `route add blackhole ${pool}`),
  ];
  await network.run('gateway', ['ip', '-batch', '-'], { input: lines.join('\n') });
  leave = enter(network.name('gateway'));
  await base.apply(textFor());
});
afterAll(async () => {
  leave?.();
  inside?.close();
  outside?.close();
  await network.close();
});
beforeEach(async () => {
  await network.run('gateway', ['conntrack', '-F']);
  await network.run('gateway', ['nft', 'delete table inet mtgate_flows']);
  await base.apply(textFor());
  inside.read();
  outside.read();
});

interface Seen {
  readonly address: string;
  /** Of a ping its identifier. */
  readonly port: number;
  readonly hops: number;
  readonly protocol: number;
  readonly to: string;
}

function seen(bytes: Uint8Array): Seen {
  const six = (bytes[0] ?? 0) >> 4 === 6;
  const text = (at: number) =>
    six ? addressFromBytes(bytes.subarray(at, at + 16)).text : Array.from(bytes.subarray(at, at + 4)).join('.');
  const part = bytes.subarray(six ? 40 : 20);
  const sixteen = (at: number) => ((part[at] ?? 0) << 8) | (part[at + 1] ?? 0);
  const protocol = bytes[six ? 6 : 9] ?? 0;
  return {
    address: text(six ? 8 : 12),
    to: text(six ? 24 : 16),
    port: protocol === 6 || protocol === 17 ? sixteen(0) : sixteen(4),
    hops: bytes[six ? 7 : 8] ?? 0,
    protocol,
  };
}

/** What the outside sees of what a device sends. */
function sent(from: string, to: string, upper = udp(4000, 53, 'who')): Seen[] {
  inside.write(ip(from, to, upper));
  return outside
    .read()
    .map(seen)
    .filter(({ protocol }) => protocol === upper.protocol);
}

const serverAt = (family: 'ipv4' | 'ipv6', i: number) =>
  family === 'ipv4' ? `198.18.${i >> 8}.${i & 255}` : `2001:db8:51::${(i + 1).toString(16)}`;
const begins = (from: string, port: number) =>
  sent(from, SERVER[from.includes(':') ? 'ipv6' : 'ipv4'], udp(port, 53)).length === 1;

describe.each(FAMILIES)('what stands for a device outside, %s', (family) => {
  test('is one address for all its flows, and a port of its own for each, drawn at random', async () => {
    await base.apply(textFor(undefined, 1_000));
    const device = DEVICE[family];
    const flows = Array.from({ length: 300 }, (_, i) => sent(device, serverAt(family, i), udp(4000, 53))).flat();
    expect(flows).toHaveLength(300);
    expect(new Set(flows.map(({ address }) => address)).size).toBe(1); // RFC 4787 REQ-2
    expect(contains(prefix(EGRESS_POOL[family]), addressFromBytes16(flows[0]?.address ?? ''))).toBe(true);
    // RFC 4787 REQ-1 is not kept: one port of a device, 300 mappings.
    const ports = flows.map(({ port }) => port);
    expect(new Set(ports).size).toBeGreaterThan(290); // two of 300 may draw the same, toward other servers
    expect(Math.min(...ports)).toBeGreaterThanOrEqual(1024);
    // Over the whole range (RFC 6056), and in no order: each eighth of the range has some; neighbours are no neighbours.
    const eighths = new Set(ports.map((port) => Math.floor((port - 1024) / 8064)));
    expect(eighths.size).toBe(8);
    const steps = ports.slice(1).filter((port, i) => Math.abs(port - (ports[i] ?? 0)) < 100).length;
    expect(steps).toBeLessThan(20);
  });

  test('does not show the port of the device, be that a low one, nor the number of its ping', async () => {
    await base.apply(textFor(undefined, 1_000));
    const low = Array.from({ length: 60 }, (_, i) => sent(DEVICE[family], serverAt(family, i), udp(500, 500))).flat();
    expect(low).toHaveLength(60);
    expect(low.filter(({ port }) => port < 1024)).toEqual([]);
    const echo = (i: number) =>
      family === 'ipv4' ? icmp('icmp', 8, 0, 'ping', 7 << 16) : icmp('icmpv6', 128, 0, `ping${i}`, 7 << 16);
    const pings = Array.from({ length: 10 }, (_, i) => sent(DEVICE[family], serverAt(family, i), echo(i))).flat();
    expect(new Set(pings.map(({ port }) => port)).size).toBeGreaterThan(8);
  });

  test('is reached by whom the device spoke to, from there, and by nobody else', () => {
    const [flow] = sent(DEVICE[family], SERVER[family]);
    const answered = (from: string, port: number) => {
      inside.read();
      outside.write(ip(from, flow?.address ?? '', udp(port, flow?.port ?? 0, 'you')));
      return inside
        .read()
        .map(seen)
        .filter(({ to }) => to === DEVICE[family]).length;
    };
    expect(answered(SERVER[family], 53)).toBe(1);
    expect(answered(SERVER[family], 54)).toBe(0);
    expect(answered(serverAt(family, 9), 53)).toBe(0);
  });
});

test('of several egress prefixes each device keeps to one address, and each is hidden, after a new base too', async () => {
  const egress = [EGRESS_POOL.ipv4, SECOND_EGRESS, EGRESS_POOL.ipv6];
  await base.apply(textFor(egress));
  const devices = Array.from({ length: 100 }, (_, i) => `10.20.7.${i + 1}`);
  const addressesOf = () =>
    devices.map((device) => sent(device, SERVER.ipv4).concat(sent(device, serverAt('ipv4', 3), tcp(4000, 443))));
  const before = addressesOf();
  await base.apply(textFor([...egress, '198.51.100.201/32']));
  await base.apply(textFor(egress));
  await network.run('gateway', ['conntrack', '-F']);
  const all = before.map((flows, i) => [...flows, ...(addressesOf()[i] ?? [])].map(({ address }) => address));
  expect(all.map((addresses) => new Set(addresses).size)).toEqual(devices.map(() => 1));
  const used = new Set(all.flat());
  expect(
    [...used].filter((one) => egress.some((pool) => contains(prefix(pool), addressFromBytes16(one)))),
  ).toHaveLength(used.size);
  expect(used).toContain('198.51.100.200');
  expect(used.size).toBeGreaterThan(5);
});

interface Headers {
  readonly hops: number;
  readonly trafficClass: number;
  readonly flowLabel: number;
  readonly id: number;
}

function headersOf(bytes: Uint8Array): Headers {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const word = view.getUint32(0);
  return word >>> 28 === 6
    ? { hops: view.getUint8(7), trafficClass: (word >> 20) & 0xff, flowLabel: word & 0xfffff, id: 0 }
    : { hops: view.getUint8(8), trafficClass: (word >> 16) & 0xff, flowLabel: 0, id: view.getUint16(4) };
}

describe.each(FAMILIES)('what the headers of a flow tell, %s', (family) => {
  const device = DEVICE[family];
  const server = SERVER[family];
  const six = family === 'ipv6';
  const protocolAt = six ? 6 : 9;
  const isEcho = (bytes: Uint8Array) => bytes[protocolAt] === (six ? 58 : 1);
  const leaves = (fields: IpFields, upper = udp(4000, 53, 'who')) => {
    inside.write(ip(device, server, upper, fields));
    return outside.read().filter((one) => one[protocolAt] === upper.protocol);
  };

  test('is how far in nobody is, and what no stack and no network wrote', () => {
    const odd = { hops: 33, trafficClass: 0xba, flowLabel: 0xabcde, id: 0x1234, dontFragment: true };
    for (const fields of [odd, { ...odd, hops: 255 }, { ...odd, hops: 2 }])
      expect(leaves(fields).map(headersOf)).toEqual([{ hops: 64, trafficClass: 2, flowLabel: 0, id: 0 }]);
    const [flow] = sent(device, server);
    outside.write(ip(server, flow?.address ?? '', udp(53, flow?.port ?? 0, 'you'), { ...odd, hops: 9 }));
    const [answer] = inside.read().filter((one) => !isEcho(one));
    expect(answer && headersOf(answer)).toMatchObject({ hops: 64, trafficClass: 2 });
    expect(answer && sumsHold(answer)).toBe(true);
  });

  test('is none of the other addresses that a host with multipath TCP has', () => {
    const capable = [30, 12, 1, 0x81, 1, 2, 3, 4, 5, 6, 7, 8] as const; // RFC 8684, 3.1
    const [syn] = leaves({}, tcp(4001, 80, '', 2, { options: [...capable, 1, 3, 3, 7] }));
    expect(syn && [...syn.slice((six ? 40 : 20) + 20)].slice(-16)).toEqual([...Array<number>(13).fill(1), 3, 3, 7]);
    expect(syn && sumsHold(syn)).toBe(true);
  });

  test('is no clock, and no segment that the links do not take', async () => {
    const withOptions = (...own: readonly number[]) =>
      [2, 4, 0x05, 0xb4, 1, 1, ...own, 1, 3, 3, 7, 4, 2, 1, 1] as const;
    const [clock, nothing] = [
      [8, 10, 1, 2, 3, 4, 0, 0, 0, 0],
      [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ] as const;
    const optionsOf = (bytes: Uint8Array | undefined) => [...(bytes ?? []).slice((six ? 40 : 20) + 20)];
    await network.run('gateway', ['ip', 'link', 'set', 'outside', 'mtu', '1400']);
    try {
      const mss = 1400 - (six ? 60 : 40);
      const [, , , ...rest] = withOptions(...nothing);
      const levelled = [2, 4, mss >> 8, mss & 0xff, ...rest.slice(1)];
      const [syn] = leaves({}, tcp(4000, 80, '', 2, { options: withOptions(...clock) }));
      expect(optionsOf(syn)).toEqual(levelled);
      expect(syn && sumsHold(syn)).toBe(true);
      const { address = '', port = 0 } = syn ? seen(syn) : {};
      const accept = { acknowledges: 0x01020305, options: withOptions(...clock) };
      outside.write(ip(server, address, tcp(80, port, '', 2 | TCP_ACK, accept)));
      const [answer] = inside.read().filter((one) => !isEcho(one));
      expect(optionsOf(answer)).toEqual(levelled);
      expect(answer && sumsHold(answer)).toBe(true);
    } finally {
      await network.run('gateway', ['ip', 'link', 'set', 'outside', 'mtu', '1500']);
    }
  });

  test('is no address that routers on the way, or the gateway, have written into options', () => {
    const recorded = Uint8Array.of(7, 7, 8, 10, 66, 66, 66, 0); // record route, full
    const options = six
      ? [{ extensions: [0] }, { extensions: [43] }]
      : [{ options: recorded }, { options: Uint8Array.of(1, 1, 1, 0) }];
    for (const one of options) expect(leaves(one)).toEqual([]);
    const [flow] = sent(device, server);
    inside.read();
    const answer = (fields: IpFields) => ip(server, flow?.address ?? '', udp(53, flow?.port ?? 0, 'you'), fields);
    for (const one of options) outside.write(answer(one));
    expect(inside.read()).toEqual([]);
    outside.write(answer({}));
    expect(inside.read()).toHaveLength(1);
  });
});

test.each([
  ['ipv4', { in: [3, 11, 12], out: [3, 12] }, [3, 4, 5, 11, 12]],
  ['ipv6', { in: [1, 2, 3, 4], out: [1, 2, 4] }, [1, 2, 3, 4]],
] as const)(
  'ICMP errors about a flow pass by kind, %s: of no hops from inside, and no redirects',
  (family, pass, types) => {
    const [device, server] = [DEVICE[family], SERVER[family]];
    const number = family === 'ipv4' ? 1 : 58;
    const word = family === 'ipv4' ? 'icmp' : 'icmpv6';
    const arrived = (tun: Tun) => tun.read().filter((one) => one[family === 'ipv4' ? 9 : 6] === number).length > 0;
    const [flow] = sent(device, server);
    const { address = '', port = 0 } = flow ?? {};
    outside.write(ip(server, address, udp(53, port, 'you')));
    inside.read();
    const wentIn = types.filter((type) => {
      outside.write(
        ip(server, address, icmp(word, type, type === 5 ? 1 : 0, ip(address, server, udp(port, 53, 'who')))),
      );
      return arrived(inside);
    });
    const wentOut = types.filter((type) => {
      inside.write(ip(device, server, icmp(word, type, type === 5 ? 1 : 0, ip(server, device, udp(53, 4000, 'you')))));
      return arrived(outside);
    });
    expect({ in: wentIn, out: wentOut }).toEqual(pass);
  },
);

test('how many devices there are is not told by their identifications: each is drawn by chance', () => {
  const counted = Array.from({ length: 200 }, (_, i) => {
    inside.write(ip(i % 2 ? '10.20.7.3' : DEVICE.ipv4, SERVER.ipv4, udp(4000, 53, 'who'), { id: 500 + i * 3 }));
    return outside.read().map((one) => headersOf(one).id);
  }).flat();
  expect(counted).toHaveLength(200);
  // Two of 200 may be drawn alike, or side by side.
  expect(new Set(counted).size).toBeGreaterThan(190);
  const near = counted.filter((id, i) => counted.slice(i + 1, i + 5).some((next) => Math.abs(next - id) < 20));
  expect(near.length).toBeLessThan(10);
  expect(counted.filter((id) => id < 0x100).length).toBeLessThan(10);
  expect(counted.filter((id) => (id & 0xff) === 0).length).toBeLessThan(10);
});

test('and the pieces of one datagram have the same', () => {
  const whole = ip(DEVICE.ipv4, SERVER.ipv4, udp(4000, 53, 1000), { id: 0x4321 });
  for (const piece of cut(whole, 600)) inside.write(piece);
  const pieces = outside.read();
  expect(pieces).toHaveLength(2);
  const [first, last] = pieces.map((one) => headersOf(one).id);
  expect(first).toBe(last);
  expect(first).not.toBe(0x4321);
});

describe.each(FAMILIES)('the egress pool answers nothing of its own, %s', (family) => {
  const free = family === 'ipv4' ? '203.0.113.15' : '2001:db8:e::15';
  const six = family === 'ipv6';
  const probes = {
    syn: tcp(4000, 80),
    ack: tcp(4000, 80, '', 0x10),
    udp: udp(4000, 33_434, 'traceroute'),
    ping: six ? icmp('icmpv6', 128, 0, 'ping', 1 << 16) : icmp('icmp', 8, 0, 'ping', 1 << 16),
  } as const;

  test.each(Object.keys(probes) as (keyof typeof probes)[])('to a %s, however far it may go', (name) => {
    for (const hops of [64, 2, 1]) outside.write(ip(SERVER[family], free, probes[name], { hops }));
    expect(outside.read()).toEqual([]);
    expect(inside.read()).toEqual([]);
  });

  test('and the way to a device that has spoken shows no hop', async () => {
    const [flow] = sent(DEVICE[family], SERVER[family]);
    const answer = (hops: number) => ip(SERVER[family], flow?.address ?? '', udp(53, flow?.port ?? 0, 'you'), { hops });
    outside.write(answer(1));
    expect([inside.read(), outside.read()]).toEqual([[], []]);
    outside.write(answer(2));
    expect(inside.read().map(seen)).toMatchObject([{ to: DEVICE[family], hops: 64 }]);
    // The control: without that rule the gateway tells that it is there.
    await network.run('gateway', ['nft', 'flush chain inet mtgate early']);
    outside.write(answer(1));
    expect(outside.read().map(seen)).toMatchObject([{ protocol: six ? 58 : 1, to: SERVER[family] }]);
  });

  test('and no device reaches another, or itself, by it: no hairpinning, nor an answer', () => {
    const other = six ? 'fd00:20:0:7::3' : '10.20.7.3';
    const [flow] = sent(other, SERVER[family]);
    inside.read();
    const grant = six ? '2001:db8:a::1' : '203.0.113.1';
    for (const to of [flow?.address ?? '', free, grant])
      for (const from of [DEVICE[family], other])
        for (const upper of [udp(53, flow?.port ?? 0, 'psst'), tcp(4000, flow?.port ?? 0)])
          for (const hops of [64, 1]) inside.write(ip(from, to, upper, { hops }));
    expect([inside.read(), outside.read()]).toEqual([[], []]);
  });
});

describe.each(FAMILIES)('a device has so many flows, %s', (family) => {
  const device = DEVICE[family];
  const other = family === 'ipv4' ? '10.20.7.3' : 'fd00:20:0:7::3';

  test('and no more; those that run go on, and others are not concerned', async () => {
    const ports = Array.from({ length: CAP + 5 }, (_, i) => 4000 + i);
    expect(ports.map((port) => begins(device, port))).toEqual(ports.map((_, i) => i < CAP));
    expect(await base.refusedFlows()).toBe(5);
    // One-way streams: each packet is of a flow that nobody has answered.
    for (let again = 0; again < 30; again++) expect(begins(device, 4000 + (again % CAP))).toBe(true);
    expect(sent(device, SERVER[family], tcp(4000, 443))).toEqual([]);
    expect(begins(other, 4000)).toBe(true);
    expect(await base.refusedFlows()).toBe(6);
  });

  test('one that ends makes room for one', async () => {
    for (let port = 4000; port < 4000 + CAP; port++) begins(device, port);
    expect(begins(device, 5000)).toBe(false);
    await network.run('gateway', ['conntrack', '-D', '-f', family, '-s', device, '-p', 'udp', '--sport', '4003']);
    await expect.poll(() => begins(device, 5001)).toBe(true);
    expect(begins(device, 5002)).toBe(false);
  });

  test('counted over a new base: what runs stays counted', async () => {
    for (let port = 4000; port < 4000 + CAP; port++) begins(device, port);
    await base.apply(textFor());
    expect(begins(device, 5000)).toBe(false);
    expect(begins(device, 4000)).toBe(true);
    expect(await base.refusedFlows()).toBe(1);
    await base.apply(textFor(undefined, CAP + 2)); // another cap counts anew
    expect(begins(device, 5001)).toBe(true);
  });

  test('where more devices speak than can be counted, the next begins nothing', async () => {
    await network.run('gateway', ['nft', 'delete table inet mtgate_flows']);
    await network.run('gateway', ['nft', '-f', '-'], {
      input: textFor().slice(textFor().indexOf('table inet mtgate_flows')).replaceAll('size 1048576', 'size 3'),
    });
    const devices = Array.from({ length: 5 }, (_, i) => (family === 'ipv4' ? `10.20.7.${i}` : `fd00:20:0:${i + 1}::1`));
    expect(devices.map((one) => begins(one, 4000))).toEqual([true, true, true, false, false]);
    expect(await base.refusedFlows()).toBe(2);
    expect(begins(devices[0] ?? '', 4001)).toBe(true);
    expect(begins(devices[4] ?? '', 4001)).toBe(false);
  });
});

test('an IPv6 device is its /64: another address in it does not begin more', () => {
  for (let i = 0; i < CAP; i++) expect(begins(`fd00:20::${(i + 2).toString(16)}`, 4000)).toBe(true);
  expect(begins('fd00:20::fff', 4000)).toBe(false);
  expect(begins('fd00:20:0:1::2', 4000)).toBe(true);
});

test('a base whose caps were taken away, or changed, does not stand', async () => {
  expect(await base.look()).toBe('stands');
  sent(DEVICE.ipv4, SERVER.ipv4);
  await network.run('gateway', ['nft', 'add table inet another']); // so that it is listed
  expect(await base.look()).toBe('stands');
  for (const command of ['flush chain inet mtgate_flows begins', 'delete table inet mtgate_flows']) {
    await network.run('gateway', ['nft', command]);
    expect(await base.look(), command).toBe('baseChanged');
    await base.apply(textFor());
    expect(await base.look()).toBe('stands');
  }
});

function addressFromBytes16(text: string) {
  return prefix(text).address;
}
