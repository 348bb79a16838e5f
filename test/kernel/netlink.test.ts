/**
 * What the agent reads of the kernel by itself agrees with what iproute2 and
 * nft say: interfaces, addresses, blackholes, and whether the base stands.
 *
 * The whole file runs inside the gateway's namespace: a netlink socket belongs
 * to the namespace that it was opened in.
 */
import { release } from 'node:os';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address, type Prefix, parseAddress, prefix } from '../../agent/core/net.ts';
import { featuresOf, readTakesTags } from '../../agent/dataplane/ethtool.ts';
import { host, links, missingBlackholes, setBlackholes } from '../../agent/dataplane/iproute.ts';
import { ALL_FAMILIES, readFamily } from '../../agent/dataplane/netdev.ts';
import { ask } from '../../agent/dataplane/netlink.ts';
import { Base } from '../../agent/dataplane/nftables.ts';
import type { Link } from '../../agent/dataplane/rtnetlink.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { enter } from '../enter.ts';
import { Network } from '../network.ts';
import { switchNapiOn } from '../offloads.ts';
import { PLAIN_BASE } from '../rules.ts';
import { Tun } from '../tun.ts';

let network: Network;
let tun: Tun;
let leave: (() => void) | undefined;

beforeAll(async () => {
  const end = (namespace: string, name: string, ...addresses: string[]) => ({
    namespace,
    interface: name,
    addresses,
  });
  network = Network.create({
    namespaces: { gateway: {}, other: {} },
    links: [
      [end('gateway', 'outside', '192.0.2.2/24', '2001:db8:0:1::2/64'), end('other', 'peer', '192.0.2.1/24')],
      [end('gateway', 'many'), end('gateway', 'many-far')],
    ],
  });
  tun = Tun.open(network, 'gateway', 'tun0', 'tun');
  await batch(
    'link set tun0 up',
    'address add 10.20.0.1 peer 10.20.0.2/32 dev tun0',
    'address add fd00:20::1 peer fd00:20::2/128 dev tun0 nodad',
    'link add link outside name outside.1 type macvlan',
    'link set outside.1 up',
    'link add br0 type bridge',
    'address add 198.51.100.1/24 dev br0', // not up
    'address add 169.254.7.7/16 scope link dev br0',
    'address add 192.0.2.77/32 scope host dev lo',
    'address add 2001:db8::ffff:1/128 dev lo nodad preferred_lft 0',
    ...Array.from({ length: 300 }, (_, i) => `address add 10.7.${i >> 8}.${i & 255}/16 dev many`),
    ...Array.from({ length: 200 }, (_, i) => `address add 2001:db8:7::${i.toString(16)}/64 dev many nodad`),
  );
  leave = enter(network.name('gateway'));
});
afterAll(async () => {
  leave?.();
  tun?.close();
  await network.close();
});

function batch(...lines: readonly string[]) {
  return network.run('gateway', ['ip', '-batch', '-'], { input: lines.join('\n') });
}

async function shown<T>(...words: readonly string[]): Promise<T[]> {
  return JSON.parse((await network.run('gateway', ['ip', '-json', ...words])).stdout || '[]') as T[];
}

function atLeast(major: number, minor: number): boolean {
  const [own = 0, ownMinor = 0] = release().split('.').map(Number);
  return own > major || (own === major && ownMinor >= minor);
}

/** In one order: that of addresses is the kernel's own matter. Without what ip does not show. */
function flat(all: readonly Link[]): object[] {
  return all.map(({ addresses, shared: _shared, takesFrames: _takes, ...link }) => ({
    ...link,
    addresses: addresses.map(({ text }) => text).sort(),
  }));
}

describe('interfaces', () => {
  type Shown = {
    ifname: string;
    ifindex: number;
    link_type: string;
    mtu: number;
    addr_info: { local: string; scope: string }[];
    linkinfo?: { info_kind?: string };
  };
  const byIproute = async (): Promise<Link[]> =>
    (await shown<Shown>('-details', 'address', 'show')).map(
      ({ ifname, ifindex, link_type, mtu, addr_info, linkinfo }) => ({
        ...(linkinfo?.info_kind && { virtual: linkinfo.info_kind }),
        name: ifname,
        ifindex,
        kind: link_type,
        mtu,
        addresses: addr_info.flatMap(({ local, scope }) => (scope === 'link' ? [] : (parseAddress(local) ?? []))),
      }),
    );

  test('are what ip shows: names, kinds, addresses, of this namespace', async () => {
    const found = await links();
    expect(flat(found)).toEqual(flat(await byIproute()));
    const kinds = Object.fromEntries(found.map(({ name, kind }) => [name, kind]));
    expect(kinds).toMatchObject({ lo: 'loopback', outside: 'ether', 'outside.1': 'ether', br0: 'ether', tun0: 'none' });
    expect(Object.keys(kinds)).not.toContain('peer');
    const of = (name: string) => found.find((one) => one.name === name)?.addresses.map(({ text }) => text);
    expect([of('tun0'), of('br0'), of('outside.1')]).toEqual([['10.20.0.1', 'fd00:20::1'], ['198.51.100.1'], []]);
    expect(of('many')).toHaveLength(500);
  });

  test('take redirected frames where the kernel says so: a veth does once its other end has NAPI', async () => {
    if (!atLeast(6, 3)) return expect((await links()).every(({ takesFrames }) => takesFrames === undefined)).toBe(true);
    const takes = async () => (await links()).flatMap(({ name, takesFrames }) => (takesFrames ? name : []));
    const before = await takes();
    expect(before).not.toContain('many');
    switchNapiOn('many-far');
    expect((await takes()).filter((name) => !before.includes(name))).toEqual(['many']);
  });

  test('say whether their hardware takes VLAN tags out of frames', async () => {
    const family = readFamily(await ask('generic', ALL_FAMILIES), 'ethtool');
    const all = await links();
    const takesTags = async (name: string) => {
      const ifindex = all.find((one) => one.name === name)?.ifindex ?? 0;
      return readTakesTags(await ask('generic', featuresOf(family ?? 0, ifindex)));
    };
    expect([await takesTags('many'), await takesTags('br0'), await takesTags('lo')]).toEqual([true, false, false]);
    // Of those made of software it is not asked: they hand on what they were handed.
    const asked = (await host(['lo', 'many'])).links.filter((one) => one.takesTags !== undefined);
    expect(asked.map(({ name, takesTags: takes }) => [name, takes])).toEqual([['lo', false]]);
  });

  test('and rules say whether routes are chosen by more than the destination', async () => {
    const routedByMore = async () => (await host([])).routedByMore;
    expect(await routedByMore()).toEqual([]);
    await batch('rule add to 198.51.100.0/24 table 100', 'rule add fwmark 7 table 100');
    expect(await routedByMore()).toEqual([]);
    await batch('rule add from 203.0.113.0/24 table 100');
    expect(await routedByMore()).toEqual(['ipv4']);
    await network.run('gateway', ['ip', '-6', 'rule', 'add', 'ipproto', '6', 'table', '100']);
    expect(await routedByMore()).toEqual(['ipv4', 'ipv6']);
    await batch('rule delete from 203.0.113.0/24 table 100', 'rule add tos 0x10 table 100');
    expect(await routedByMore()).toEqual(['ipv4', 'ipv6']);
  });

  test('that come and go are followed', async () => {
    await batch('link add gone type bridge', 'link set gone name come');
    expect((await links()).map(({ name }) => name)).toContain('come');
    await batch('link delete come');
    expect(flat(await links())).toEqual(flat(await byIproute()));
  });

  test('are read as of one moment, while addresses come and go', async () => {
    const stable = (await links()).find(({ name }) => name === 'many')?.addresses.length;
    const line = (verb: string, i: number) => `address ${verb} 10.8.${i >> 8}.${i & 255}/32 dev many-far`;
    const lines = Array.from({ length: 1_000 }, (_, i) => [line('add', i), line('delete', i)]).flat();
    let changing = true;
    const done = batch(...lines).finally(() => {
      changing = false;
    });
    const seen: (number | undefined | string)[] = [];
    while (changing) {
      const found = await links().catch((fault) => String(fault));
      if (typeof found === 'string') expect(found).toMatch(/changed each time while it was read/);
      else seen.push(found.find(({ name }) => name === 'many')?.addresses.length);
    }
    await done;
    seen.push((await links()).find(({ name }) => name === 'many')?.addresses.length); // on a slow machine, the only one
    expect([...new Set(seen)]).toEqual([stable]);
  });
});

describe('blackholes', () => {
  const POOLS = ['203.0.113.0/29', '203.0.113.8/29', '2001:db8:a::/64', '2001:db8:e::/64'].map(prefix);
  const texts = (all: readonly Prefix[]) => all.map(({ text }) => text);
  const missing = async () => texts(await missingBlackholes(POOLS));

  beforeAll(async () => {
    // A routing table that is not small, and what looks like ours and is not.
    await batch(
      ...Array.from({ length: 15_000 }, (_, i) => `route add 100.${i >> 8}.${i & 255}.0/24 via 192.0.2.1`),
      ...Array.from({ length: 5_000 }, (_, i) => `route add 2001:db8:f:${i.toString(16)}::/64 dev outside.1`),
      'route add blackhole 203.0.113.0/29 proto 109 table 100',
      'route add blackhole 203.0.113.8/29 proto static',
      'route add unreachable 2001:db8:a::/64 proto 109',
      'route add 2001:db8:e::/64 dev outside proto 109',
    );
  });

  test('are missing until they are set, whatever else leads there', async () => {
    expect(await missing()).toEqual(texts(POOLS));
    await batch('route delete blackhole 203.0.113.8/29', 'route delete unreachable 2001:db8:a::/64');
    await batch('route delete 2001:db8:e::/64 dev outside');
    await setBlackholes(POOLS);
    expect(await missing()).toEqual([]);
    type Shown = { dst: string; table?: string };
    const all = await shown<Shown>('route', 'show', 'table', 'all', 'type', 'blackhole', 'proto', '109');
    expect(all.filter(({ table }) => table === undefined).map(({ dst }) => dst)).toEqual(texts(POOLS));
  });

  test('of an earlier configuration are taken back; a more specific route hides none', async () => {
    await batch('route add blackhole 198.51.100.128/25 proto 109', 'route add 203.0.113.1/32 via 192.0.2.1');
    await setBlackholes(POOLS);
    expect(await missing()).toEqual([]);
    expect(await shown('route', 'show', '198.51.100.128/25')).toEqual([]);
  });

  test.each(POOLS)('$text is missing when somebody took it', async ({ text }) => {
    await batch(`route delete blackhole ${text} proto 109`);
    expect(await missing()).toEqual([text]);
    await batch(`route add unreachable ${text} proto 109`);
    expect(await missing()).toEqual([text]);
    await batch(`route delete unreachable ${text} proto 109`);
    await setBlackholes(POOLS);
    expect(await missing()).toEqual([]);
  });
});

describe('the base', () => {
  const path = process.env['PATH'] ?? '';
  const base = new Base();
  const text = baseRuleset({
    ...PLAIN_BASE,
    outside: 'outside',
    present: ['outside', 'tun0', 'br0'],
    inside: ['tun0', 'br0'].map((name) => ({ interface: name, prefixes: [prefix('10.20.0.0/16')] })),
    grants: ['203.0.113.0/29', '2001:db8:a::/64'].map(prefix),
    egress: [prefix('203.0.113.8/29')],
    deniedDestinations: [],
    services: [],
    nflogGroup: 100,
    triggers: { sources: [address('10.20.0.1')], sourcePort: 5683, ports: [{ low: 5690, high: 5690 }] },
  });
  const nft = (...words: readonly string[]) => network.run('gateway', ['nft', ...words]);

  beforeAll(async () => {
    await base.apply(text);
    expect(await base.look()).toBe('stands');
  });
  afterAll(() => {
    process.env['PATH'] = path;
  });

  const restore = () =>
    network.run('gateway', ['nft', '-f', '-'], { input: `table inet mtgate\ndelete table inet mtgate\n${text}` });

  /** A look while no tool can be run. */
  async function lookByItself(): Promise<string> {
    process.env['PATH'] = '/nowhere';
    try {
      return await base.look().catch(({ code }) => code);
    } finally {
      process.env['PATH'] = path;
    }
  }

  test('stands without a tool, as long as nobody has changed anything', async () => {
    expect(await lookByItself()).toBe('stands');
    await network.run('other', ['nft', 'add table ip another']); // another namespace
    await batch('address add 198.51.100.2/24 dev br0');
    expect(await lookByItself()).toBe('stands');
  });

  test('stands while packets of devices fill the sets that are theirs', async () => {
    const counted = 'limit rate over 10/second burst 50 packets timeout 1h';
    await nft(`add element inet mtgate trigger_answers_ipv4 { 10.20.0.2 ${counted}, 10.20.0.3 ${counted} }`);
    expect((await nft('list', 'set', 'inet', 'mtgate', 'trigger_answers_ipv4')).stdout).toContain('10.20.0.3');
    expect(await lookByItself()).toBe('libraryMissing');
    expect(await base.look()).toBe('stands');
    await nft('flush', 'set', 'inet', 'mtgate', 'trigger_answers_ipv4');
    expect(await base.look()).toBe('stands');
  });

  test('stands while others change what is theirs: listed once after each change', async () => {
    await nft('add table inet another; add chain inet another input');
    expect(await lookByItself()).toBe('libraryMissing');
    expect(await base.look()).toBe('stands');
    expect(await lookByItself()).toBe('stands');
    await nft('delete table inet another');
    expect(await lookByItself()).toBe('libraryMissing');
    expect(await base.look()).toBe('stands');
  });

  test.each([
    ['baseChanged', 'flush chain inet mtgate toward_inside'],
    ['baseChanged', 'delete chain inet mtgate input'],
    ['baseChanged', 'add element inet mtgate denied_ipv4 { 198.51.100.0/24 }'],
    ['baseChanged', 'insert rule inet mtgate toward_inside accept'],
    ['baseMissing', 'delete table inet mtgate'],
    ['baseMissing', 'flush ruleset'],
  ])('is found %s after %s, and stands again once restored', async (outcome, command) => {
    await nft(command);
    expect(await base.look()).toBe(outcome);
    expect(await base.look()).toBe(outcome);
    await restore();
    expect(await base.look()).toBe('stands');
    expect(await lookByItself()).toBe('stands');
  });

  test('flushed and restored between two looks is listed again, and stands', async () => {
    await nft('flush ruleset');
    await restore();
    expect(await lookByItself()).toBe('libraryMissing');
    expect(await base.look()).toBe('stands');
  });

  test('without a hook that the kernel took out is found changed, with no generation to tell', async () => {
    const listed = async () => (await nft('--stateless', 'list', 'table', 'inet', 'mtgate')).stdout;
    const before = await listed();
    await batch('link delete br0'); // up to Linux 6.15 its hook goes with it, later it stays by name
    expect(await base.look()).toBe((await listed()) === before ? 'stands' : 'baseChanged');
  });
});

describe('a question that the kernel refuses', () => {
  const route = (...header: readonly number[]) => ({
    what: 'a route',
    type: 26,
    dump: true,
    body: Uint8Array.from([...header, 0, 0, 0, 0]),
  });

  test.each([
    [
      'at once',
      route(2, 8, 0, 0, 254, 0, 0, 0),
      /^a route cannot be read from the kernel: EINVAL Invalid values in header/,
    ],
    ['while it is answered', route(2, 0, 0, 0, 77, 0, 0, 0), /: ENOENT ipv4: FIB table does not exist$/],
    [
      'with a fault of ours',
      { what: 'nothing', type: 9_999, dump: false, body: new Uint8Array(4) },
      /^nothing .*: ENOTSUP$/,
    ],
  ])('%s: a fault that says so', async (_, question, message) => {
    await expect(ask('route', question)).rejects.toMatchObject({
      code: 'netlinkFailed',
      message: expect.stringMatching(message),
    });
  });
});
