/**
 * The gate's packet table: what it does with one packet, asked of the program
 * in the kernel by BPF_PROG_TEST_RUN. Every early exit of the three programs
 * has a row, in IPv4 and IPv6. A packet that is carried is compared byte by
 * byte with the one it must become, sums included.
 *
 * What one packet cannot show (segmentation, next hops, priority tags) is in
 * gate-attach.test.ts, on wires.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { DenialReason } from '../../agent/core/reasons.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../../agent/core/words.ts';
import type { GateSetup, Hook, Mapping, Verdict } from '../../agent/dataplane/dataplane.ts';
import { ethernet, filler, type IpFields, icmp, ip, raw, spoil, tcp, type Upper, udp } from '../frames.ts';
import { type GateRig, makeGateRig, type RigInterfaces } from '../gate-rig.ts';

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/30'), prefix('203.0.113.8/31')],
  ipv6: [prefix('2001:db8:a::/64'), prefix('2001:db8:b:1000::/52')],
  portLow: 40_000,
  portCount: 64,
  ipv6Grants: 16,
};
const REALM = 3;
const CLASS = 7;

function setupOf(interfaces: RigInterfaces): GateSetup {
  return {
    pool: POOL,
    outside: { ifindex: interfaces.outside, nextHops: {} },
    inside: [
      {
        ifindex: interfaces.inside,
        realm: REALM,
        prefixes: [prefix('10.20.0.0/16'), prefix('fd00:20::/48')],
        nextHops: { ipv4: address('10.20.0.9'), ipv6: address('fd00:20::9') },
      },
    ],
    own: [
      { address: address('10.20.0.1'), on: 'inside' },
      { address: address('fd00:20::1'), on: 'inside' },
      { address: address('192.0.2.2'), on: 'elsewhere' },
      { address: address('2001:db8:0:1::2'), on: 'elsewhere' },
    ],
    services: [
      { protocol: 'udp', port: 53 },
      { protocol: 'tcp', port: 853 },
      { protocol: 'icmp', port: 0 },
      { protocol: 'icmpv6', port: 0 },
    ],
    orphanGraceSeconds: 300,
    udpTombstoneSeconds: 30,
  };
}

/** Who is who, in a family. */
const FAMILIES = {
  IPv4: {
    server: '198.51.100.10',
    serverSecond: '198.51.100.11',
    rogue: '192.0.2.66',
    /** In the pool's first prefix, and in its second: the slots go on. */
    external: '203.0.113.1',
    externalSecond: '203.0.113.9',
    device: '10.20.0.2',
    otherDevice: '10.20.0.3',
    gateway: '10.20.0.1',
    host: '192.0.2.2',
    elsewhere: '192.0.2.99',
  },
  IPv6: {
    server: '2001:db8:51::10',
    serverSecond: '2001:db8:51::11',
    rogue: '2001:db8:66::66',
    external: '2001:db8:a::1',
    externalSecond: '2001:db8:b:1fff::9',
    device: 'fd00:20::2',
    otherDevice: 'fd00:20::3',
    gateway: 'fd00:20::1',
    host: '2001:db8:0:1::2',
    elsewhere: '2001:db8:99::1',
  },
} as const;
type Who = (typeof FAMILIES)[keyof typeof FAMILIES];

/** What lies behind each external port of `external`; the device's port is 100 more than the offset. */
const PORT = {
  one: 40_000, // for the server's one address
  any: 40_001, // for any of its class
  narrow: 40_002, // for its port 7000 only
  ended: 40_003, // ended an hour ago
  resting: 40_004, // ended a second ago
  forgotten: 40_005, // opened, ended, forgotten
  leftover: 40_006, // its index belongs to a later grant by now
  last: 40_063, // of the range
} as const;

let rig: GateRig;
let number = 0;
const SECOND = 1_000_000_000n;
const devicePort = (port: number) => port - PORT.one + 100;

function open(who: Who, protocol: Protocol, port: number, end: bigint, other: Partial<Mapping> = {}): Mapping {
  number += 1;
  const external = { address: address(who.external), port };
  const mapping: Mapping = {
    index: indexOfIpv4(POOL, protocol, other.external ?? external) ?? ipv4Entries(POOL) + (number % POOL.ipv6Grants),
    number,
    protocol,
    realm: REALM,
    device: { address: address(who.device), port: devicePort(port) },
    external,
    remote: address(who.server),
    remotePort: 0,
    classId: CLASS,
    ...other,
  };
  rig.plane.open(mapping, end);
  return mapping;
}

/** Opens one grant of each kind for a while, and takes them back. */
function withGrants(who: Who, protocol: Protocol): void {
  const opened: Mapping[] = [];
  beforeAll(() => {
    const now = process.hrtime.bigint();
    const hour = 3600n * SECOND;
    rig.plane.heartbeat(now);
    opened.push(
      open(who, protocol, PORT.one, now + hour),
      open(who, protocol, PORT.any, now + hour, { remote: 'all' }),
      open(who, protocol, PORT.narrow, now + hour, { remotePort: 7000 }),
      open(who, protocol, PORT.ended, now > hour ? now - hour : 1n),
      open(who, protocol, PORT.resting, now - SECOND),
      open(who, protocol, PORT.last, now + hour, {
        external: { address: address(who.externalSecond), port: PORT.last },
      }),
    );
    rig.plane.forget(open(who, protocol, PORT.forgotten, now - hour > 0n ? now - hour : 1n));
    if (who === FAMILIES.IPv6) {
      const { index } = open(who, protocol, PORT.leftover, now - hour > 0n ? now - hour : 1n);
      const device = { address: address(who.otherDevice), port: 9 };
      const external = { address: address(who.external), port: PORT.leftover + 1 };
      opened.push(open(who, protocol, PORT.leftover + 1, now + hour, { index, external, device }));
    }
  });
  afterAll(() => {
    for (const mapping of opened) {
      rig.plane.end(mapping.index, mapping.number, 1n);
      rig.plane.forget(mapping);
    }
  });
}

function judge(hook: Hook, packet: Uint8Array, ifindex?: number): Verdict {
  const at = hook === 'insideIngress' ? rig.interfaces.inside : rig.interfaces.outside;
  return rig.plane.judge(hook, ifindex ?? at, ethernet(packet));
}

const denied = (reason: DenialReason): Verdict => ({ verdict: 'drop', reason, sampled: false });
const PASS: Verdict = { verdict: 'pass' };
const carried = (packet: Uint8Array): Verdict => ({ verdict: 'redirect', bytes: ethernet(packet) });

/** A row: the packet, and a reason, `pass`, or the packet it becomes. */
type Row = readonly [name: string, packet: Uint8Array, expected: DenialReason | 'pass' | Uint8Array];

function table(hook: Hook, rows: readonly Row[]): void {
  test.each(rows)('%s', (_, packet, expected) => {
    const verdict = expected === 'pass' ? PASS : typeof expected === 'string' ? denied(expected) : carried(expected);
    const before = rig.plane.counters();
    expect(judge(hook, packet)).toEqual(verdict);
    expect(counted(before)).toEqual(expectedCounts(hook, expected, ethernet(packet).length));
  });
}

/** The counters that moved, by how many packets and bytes. */
function counted(before: ReturnType<GateRig['plane']['counters']>): Record<string, string> {
  const flat = ({ denied: reasons, ...others }: typeof before) => Object.entries({ ...others, ...reasons });
  const old = new Map(flat(before));
  return Object.fromEntries(
    flat(rig.plane.counters()).flatMap(([name, { packets, bytes }]) => {
      const was = old.get(name) ?? { packets: 0n, bytes: 0n };
      return packets === was.packets ? [] : [[name, `${packets - was.packets} of ${bytes - was.bytes}`]];
    }),
  );
}

/** One exit, one counter; what leaves by the egress hook was counted where it came in. */
function expectedCounts(hook: Hook, expected: Row[2], length: number): Record<string, string> {
  if (expected === 'pass' && hook === 'outsideEgress') return {};
  const granted = hook === 'outsideIngress' ? 'grantedIn' : 'grantedOut';
  const name = expected === 'pass' ? 'passed' : typeof expected === 'string' ? expected : granted;
  return { [name]: `1 of ${length}` };
}

beforeAll(() => {
  rig = makeGateRig(setupOf);
  for (const text of ['198.51.100.0/24', '2001:db8:51::/48']) rig.plane.addClass(prefix(text), CLASS);
});
afterAll(() => rig.close());

const TRANSPORTS = { udp, tcp } as const;
const LATER_FRAGMENT: IpFields = { fragment: { offset: 64, more: false } };

/** Places in a transport header, and what to write there, so that its length says nonsense. */
function badLengths(protocol: Protocol): readonly (readonly [string, number, ...number[]])[] {
  if (protocol === 'udp')
    return [
      ['with a UDP length of 7', 4, 0, 7],
      ['with a UDP length past the end', 4, 0, 14],
    ];
  return [
    ['with a TCP header of 16 bytes', 12, 4 << 4],
    ['with a TCP header past the end', 12, 15 << 4],
  ];
}
const CASES = (['IPv4', 'IPv6'] as const).flatMap((family) =>
  (['udp', 'tcp'] as const).map((protocol) => ({ family, protocol })),
);

describe.each(CASES)('$family $protocol', ({ family, protocol }) => {
  const who = FAMILIES[family];
  const make = TRANSPORTS[protocol];
  const part = make(5000, PORT.one, 'hello').bytes(address(who.server), address(who.external));
  const inPieces = (bytes: Uint8Array) => raw(PROTOCOL_NUMBERS[protocol], bytes);
  const knock = (port: number, other: { from?: string; fromPort?: number; to?: string; fields?: IpFields } = {}) =>
    ip(other.from ?? who.server, other.to ?? who.external, make(other.fromPort ?? 5000, port, 'hello'), other.fields);
  const answer = (port: number, other: { to?: string; toPort?: number; fields?: IpFields } = {}) =>
    ip(who.device, other.to ?? who.server, make(devicePort(port), other.toPort ?? 5000, 'well?'), other.fields);
  const arrived = (port: number, from: string = who.server, fromPort = 5000, hops = 63) =>
    ip(from, who.device, make(fromPort, devicePort(port), 'hello'), { hops });
  const sent = (port: number, to: string = who.server, toPort = 5000) =>
    ip(who.external, to, make(port, toPort, 'well?'), { hops: 63 });

  withGrants(who, protocol);

  describe('from outside', () => {
    table('outsideIngress', [
      ['to a grant, from its server', knock(PORT.one), arrived(PORT.one)],
      ['with hops for one more', knock(PORT.one, { fields: { hops: 2 } }), arrived(PORT.one, who.server, 5000, 1)],
      [
        'from another address of the class, where any will do',
        knock(PORT.any, { from: who.serverSecond }),
        arrived(PORT.any, who.serverSecond),
      ],
      [
        'from the port that the grant names',
        knock(PORT.narrow, { fromPort: 7000 }),
        arrived(PORT.narrow, who.server, 7000),
      ],
      ['to the last endpoint of the pool', knock(PORT.last, { to: who.externalSecond }), arrived(PORT.last)],
      ['from another port than the grant names', knock(PORT.narrow), 'wrongSource'],
      ['from another address of the class', knock(PORT.one, { from: who.serverSecond }), 'wrongSource'],
      ['from outside the class, where any of it will do', knock(PORT.any, { from: who.rogue }), 'wrongSource'],
      ['to a grant that ended', knock(PORT.ended), 'grantEnded'],
      ['to a grant that was forgotten', knock(PORT.forgotten), 'noGrant'],
      ['to a port nobody was granted', knock(PORT.one + 50), 'noGrant'],
      ['to a port below the range', knock(PORT.one - 1), 'noGrant'],
      ['to a port above the range', knock(PORT.last + 1), 'noGrant'],
      ['to a granted port of another address of the pool', knock(PORT.one, { to: who.externalSecond }), 'noGrant'],
      ['with the hops used up', knock(PORT.one, { fields: { hops: 1 } }), 'hopLimit'],
      ['with no hops at all', knock(PORT.one, { fields: { hops: 0 } }), 'hopLimit'],
      ['as a first fragment', knock(PORT.one, { fields: { fragment: { offset: 0, more: true } } }), 'fragment'],
      ['as a later fragment', ip(who.server, who.external, inPieces(part), LATER_FRAGMENT), 'fragment'],
      ['cut within the transport header', ip(who.server, who.external, inPieces(part.subarray(0, 7))), 'malformed'],
      ['that ends with the IP header', ip(who.server, who.external, inPieces(part.subarray(0, 0))), 'malformed'],
      ...badLengths(protocol).map(
        ([name, ...spoilt]): Row => [name, ip(who.server, who.external, inPieces(spoil(part, ...spoilt))), 'malformed'],
      ),
    ]);
  });

  describe('from a device', () => {
    const leftover = protocol === 'udp' ? 'tombstone' : 'pass';
    table('insideIngress', [
      ['to the server it was granted to', answer(PORT.one), sent(PORT.one)],
      ['to any address of the class', answer(PORT.any, { to: who.serverSecond }), sent(PORT.any, who.serverSecond)],
      ['to the port that the grant names', answer(PORT.narrow, { toPort: 7000 }), sent(PORT.narrow, who.server, 7000)],
      ['to another port than the grant names', answer(PORT.narrow), 'wrongRemote'],
      ['to another address of the class', answer(PORT.one, { to: who.serverSecond }), 'wrongRemote'],
      ['to an address outside the class', answer(PORT.one, { to: who.elsewhere }), 'pass'],
      ['from a port without a grant', answer(PORT.one + 50), 'pass'],
      ['just after the end', answer(PORT.resting), leftover],
      ['just after the end, to another address', answer(PORT.resting, { to: who.serverSecond }), 'pass'],
      ['long after the end', answer(PORT.ended), 'pass'],
      ['after the grant was forgotten', answer(PORT.forgotten), 'pass'],
      ['with the hops used up', answer(PORT.one, { fields: { hops: 1 } }), 'hopLimit'],
      ['as a fragment', answer(PORT.one, { fields: { fragment: { offset: 0, more: true } } }), 'pass'],
      ['as a later fragment', ip(who.device, who.server, inPieces(part), LATER_FRAGMENT), 'pass'],
      ['cut within the transport header', ip(who.device, who.server, inPieces(part.subarray(0, 7))), 'malformed'],
      ['to a device', answer(PORT.one, { to: who.otherDevice }), 'deviceToDevice'],
      ['to the gateway', answer(PORT.one, { to: who.gateway }), 'gatewayService'],
      ["to an address of the host's on another side", answer(PORT.one, { to: who.host }), 'gatewayService'],
      [
        'to a service of the gateway',
        answer(PORT.one, { to: who.gateway, toPort: protocol === 'udp' ? 53 : 853 }),
        'pass',
      ],
      [
        'to the port of a service over the other transport',
        answer(PORT.one, { to: who.gateway, toPort: protocol === 'udp' ? 853 : 53 }),
        'gatewayService',
      ],
      [
        'to a service, as a fragment',
        answer(PORT.one, {
          to: who.gateway,
          toPort: protocol === 'udp' ? 53 : 853,
          fields: { fragment: { offset: 0, more: true } },
        }),
        'gatewayService',
      ],
    ]);

    test('whose address is changing hands', () => {
      rig.plane.setChanging(REALM, address(who.device), true);
      expect(judge('insideIngress', answer(PORT.one))).toEqual(denied('addressChangingHands'));
      expect(judge('insideIngress', ip(who.device, who.elsewhere, icmpEcho(family)))).toEqual(
        denied('addressChangingHands'),
      );
      expect(judge('insideIngress', ip(who.otherDevice, who.elsewhere, udp(1, 2)))).toEqual(PASS);
      rig.plane.setChanging(REALM, address(who.device), false);
      expect(judge('insideIngress', answer(PORT.one)).verdict).toBe('redirect');
    });

    test('at an interface that is none of the inside', () => {
      expect(judge('insideIngress', answer(PORT.one), rig.interfaces.other)).toEqual(PASS);
    });
  });

  test.each([0n, 1n])('an agent that was not heard of for long, last at %d', (last) => {
    rig.plane.heartbeat(last === 0n ? 0n : process.hrtime.bigint() - 301n * SECOND);
    expect(judge('outsideIngress', knock(PORT.one))).toEqual(denied('agentLost'));
    expect(judge('insideIngress', answer(PORT.one))).toEqual(denied('agentLost'));
    expect(judge('insideIngress', answer(PORT.one, { to: who.serverSecond }))).toEqual(denied('agentLost'));
    rig.plane.heartbeat(process.hrtime.bigint());
    expect(judge('outsideIngress', knock(PORT.one)).verdict).toBe('redirect');
  });

  test('a grant that ends stops at once, both ways', () => {
    const mapping = open(who, protocol, PORT.one + 9, process.hrtime.bigint() + 3600n * SECOND);
    expect(judge('outsideIngress', knock(PORT.one + 9)).verdict).toBe('redirect');
    expect(rig.plane.end(mapping.index, mapping.number, process.hrtime.bigint() - SECOND / 10n)).toBe(true);
    expect(judge('outsideIngress', knock(PORT.one + 9))).toEqual(denied('grantEnded'));
    expect(judge('insideIngress', answer(PORT.one + 9))).toEqual(protocol === 'udp' ? denied('tombstone') : PASS);
    rig.plane.forget(mapping);
  });

  test('what it carries is counted for the grant', () => {
    const mapping = open(who, protocol, PORT.one + 8, process.hrtime.bigint() + 3600n * SECOND);
    judge('outsideIngress', knock(PORT.one + 8));
    judge('outsideIngress', knock(PORT.one + 8));
    judge('insideIngress', answer(PORT.one + 8));
    const length = BigInt(ethernet(knock(PORT.one)).length);
    expect(rig.plane.carried(mapping.index)).toEqual({
      in: { packets: 2n, bytes: 2n * length },
      out: { packets: 1n, bytes: length },
    });
    rig.plane.end(mapping.index, mapping.number, 1n);
    rig.plane.forget(mapping);
  });
});

const NEIGHBOUR = icmp('icmpv6', 135, 0, 20 + 4);
const ADVERTISEMENT = icmp('icmpv6', 136, 0, 20 + 4);
const ROUTER_ADVERTISEMENT = icmp('icmpv6', 134, 0, 8);
const ROUTER_SOLICITATION = icmp('icmpv6', 133, 0);
const ON_LINK: IpFields = { hops: 255 };
const FIRST_FRAGMENT: IpFields = { fragment: { offset: 0, more: true } };

describe.each(['IPv4', 'IPv6'] as const)('%s', (family) => {
  const who = FAMILIES[family];
  const isIpv4 = family === 'IPv4';
  const sound = ip(who.server, who.external, udp(5000, PORT.one, 'hello'));
  const strangeProtocols: readonly (readonly [string, Upper])[] = [
    ['echo', icmpEcho(family)],
    ['an ICMP error', icmpError(family, sound)],
    ['GRE', raw(47, 8)],
    ['ESP', raw(50, 8)],
    ['UDP-Lite', raw(136, 8)],
  ];
  const badHeaders: readonly (readonly [string, Uint8Array])[] = isIpv4
    ? [
        ['of version 5', spoil(sound, 0, 0x55)],
        ['with an IPv4 header of 16 bytes', spoil(sound, 0, 0x44)],
        ['shorter than its header', spoil(sound, 2, 0, 19)],
        ['longer than the frame', spoil(sound, 2, 0, sound.length + 1)],
      ]
    : [
        ['of version 4', spoil(sound, 0, 0x40)],
        ['longer than the frame', spoil(sound, 4, 0, sound.length - 40 + 1)],
        ['with a mapped source', spoil(sound, 8, ...address('198.51.100.10').bytes)],
        ['with a mapped destination', spoil(sound, 24, ...address('203.0.113.1').bytes)],
      ];
  const optional: readonly (readonly [string, IpFields])[] = isIpv4
    ? [['IPv4 options', { options: Uint8Array.of(7, 7, 4, 0, 0, 0, 0, 0) }]]
    : [0, 43, 60, 51, 135, 139, 140].map((header) => [`extension header ${header}`, { extensions: [header] }]);

  withGrants(who, 'udp');

  describe('from outside, to the grants pool', () => {
    table('outsideIngress', [
      ...strangeProtocols.map(
        ([name, upper]): Row => [name, ip(who.server, who.external, upper), 'protocolNotCarried'],
      ),
      ...optional.map(
        ([name, fields]): Row => [name, ip(who.server, who.external, udp(5000, PORT.one), fields), 'headerOptions'],
      ),
      ...badHeaders.map(([name, packet]): Row => [name, packet, 'malformed']),
      ['from an impossible source', ip(isIpv4 ? '127.0.0.1' : '::1', who.external, udp(5000, PORT.one)), 'wrongSource'],
      ['from a device, as it says', ip(who.device, who.external, udp(5000, PORT.one)), 'wrongSource'],
    ]);

    test('trailing bytes of a padded frame stay', () => {
      const trailer = filler(6);
      const padded = Uint8Array.of(...ethernet(sound), ...trailer);
      const became = ip(who.server, who.device, udp(5000, devicePort(PORT.one), 'hello'), { hops: 63 });
      expect(rig.plane.judge('outsideIngress', rig.interfaces.outside, padded)).toEqual({
        verdict: 'redirect',
        bytes: Uint8Array.of(...ethernet(became), ...trailer),
      });
    });
  });

  describe('from outside, elsewhere', () => {
    const impossible = isIpv4
      ? ['0.0.0.0', '0.1.2.3', '127.0.0.1', '127.255.0.1', '224.0.0.1', '239.1.2.3', '255.255.255.255']
      : ['::1', '::', 'ff02::1', 'ff0e::99'];
    table('outsideIngress', [
      ['to the host', ip(who.rogue, who.host, tcp(5000, 443)), 'pass'],
      ['to somewhere else', ip(who.rogue, who.elsewhere, udp(5000, 5001)), 'pass'],
      ['a fragment to somewhere else', ip(who.rogue, who.elsewhere, raw(17, 8), LATER_FRAGMENT), 'pass'],
      ['echo to the host', ip(who.rogue, who.host, icmpEcho(family)), 'pass'],
      ['a cut transport header to somewhere else', ip(who.rogue, who.elsewhere, raw(6, 3)), 'pass'],
      [
        'from a neighbour of the reserved range, which is unicast',
        ip(isIpv4 ? '240.0.0.1' : '2001:db8::1', who.host, udp(1, 2)),
        'pass',
      ],
      ...impossible.map((source): Row => [`from ${source}`, ip(source, who.host, udp(5000, 5001)), 'spoofedSource']),
      ['from a device, as it says', ip(who.device, who.host, udp(5000, 5001)), 'spoofedSource'],
      ['from the inner gateway, as it says', ip(who.gateway, who.host, udp(5000, 5001)), 'spoofedSource'],
      ['a fragment from a device, as it says', ip(who.device, who.host, raw(17, 8), LATER_FRAGMENT), 'spoofedSource'],
      ['to a device', ip(who.server, who.device, udp(5000, 5683)), 'realmDestination'],
      ['to the inner gateway', ip(who.server, who.gateway, icmpEcho(family)), 'realmDestination'],
      ['a fragment to a device', ip(who.server, who.device, raw(17, 8), LATER_FRAGMENT), 'realmDestination'],
      ...optional.map(
        ([name, fields]): Row => [
          `${name} to a device`,
          ip(who.server, who.device, udp(1, 2), fields),
          'realmDestination',
        ],
      ),
      ['a cut transport header to a device', ip(who.server, who.device, raw(6, 3)), 'realmDestination'],
      ...badHeaders.map(([name, packet]): Row => [name, withDestination(packet, who.host), 'malformed']),
    ]);
  });

  describe('from a device, and no answer', () => {
    const error = icmpError(family, ip(who.server, who.device, udp(5000, 5683)));
    table('insideIngress', [
      ['to somewhere', ip(who.device, who.elsewhere, tcp(5000, 443)), 'pass'],
      ['to an external endpoint', ip(who.device, who.external, udp(5000, PORT.one)), 'pass'],
      ['a fragment to somewhere', ip(who.device, who.elsewhere, raw(17, 8), LATER_FRAGMENT), 'pass'],
      ...optional.map(
        ([name, fields]): Row => [`${name} to somewhere`, ip(who.device, who.elsewhere, udp(1, 2), fields), 'pass'],
      ),
      ['echo to somewhere', ip(who.device, who.elsewhere, icmpEcho(family)), 'pass'],
      ['an ICMP error about a granted packet', ip(who.device, who.server, error), 'pass'],
      ['echo to a device', ip(who.device, who.otherDevice, icmpEcho(family)), 'deviceToDevice'],
      ['a fragment to a device', ip(who.device, who.otherDevice, raw(17, 8), LATER_FRAGMENT), 'deviceToDevice'],
      ...optional.map(
        ([name, fields]): Row => [
          `${name} to a device`,
          ip(who.device, who.otherDevice, udp(1, 2), fields),
          'deviceToDevice',
        ],
      ),
      ['echo to the gateway', ip(who.device, who.gateway, icmpEcho(family)), 'pass'],
      [
        'an echo reply to the gateway',
        ip(who.device, who.gateway, icmp(isIpv4 ? 'icmp' : 'icmpv6', isIpv4 ? 0 : 129, 0)),
        'gatewayService',
      ],
      ['an ICMP error to the gateway', ip(who.device, who.gateway, error), 'gatewayService'],
      [
        "the other family's ICMP to the gateway",
        ip(who.device, who.gateway, raw(isIpv4 ? 58 : 1, 8)),
        'gatewayService',
      ],
      ['ICMP without a type to the gateway', ip(who.device, who.gateway, raw(isIpv4 ? 1 : 58)), 'gatewayService'],
      ['GRE to the gateway', ip(who.device, who.gateway, raw(47, 8)), 'gatewayService'],
      ['a fragment to the gateway', ip(who.device, who.gateway, udp(5000, 53), FIRST_FRAGMENT), 'gatewayService'],
      ...optional.map(
        ([name, fields]): Row => [
          `${name} to the gateway`,
          ip(who.device, who.gateway, udp(1, 53), fields),
          'gatewayService',
        ],
      ),
      ...badHeaders.map(([name, packet]): Row => [name, packet, 'malformed']),
    ]);
  });

  describe('toward the outside', () => {
    const kind = isIpv4 ? 'icmp' : 'icmpv6';
    const errors = isIpv4 ? [3, 4, 5, 11, 12] : [1, 2, 3, 4, 100, 127];
    const harmless = ip(who.elsewhere, who.host, udp(5000, 5001));
    const inner = ip(who.server, who.device, udp(5000, 5683));
    const quoting = (type: number, quoted: Uint8Array) => ip(who.host, who.server, icmp(kind, type, 0, quoted));
    table('outsideEgress', [
      ['a granted answer', ip(who.external, who.server, udp(PORT.one, 5000)), 'pass'],
      ["the host's own", ip(who.host, who.server, tcp(443, 5000)), 'pass'],
      ["the host's own, in fragments", ip(who.host, who.server, raw(17, 8), LATER_FRAGMENT), 'pass'],
      [
        "an echo reply of the host's, a later fragment",
        ip(who.host, who.server, raw(isIpv4 ? 1 : 58, Uint8Array.of(3, 0)), LATER_FRAGMENT),
        'pass',
      ],
      ['an echo reply', ip(who.host, who.server, icmp(kind, isIpv4 ? 0 : 129, 0, inner)), 'pass'],
      ["a device's own address", ip(who.device, who.server, udp(5683, 5000)), 'innerLeak'],
      ['the inner gateway as source', ip(who.gateway, who.server, icmpEcho(family)), 'innerLeak'],
      ["a device's own address, in fragments", ip(who.device, who.server, raw(17, 8), LATER_FRAGMENT), 'innerLeak'],
      ...errors.map(
        (type): Row => [`ICMP ${type} that quotes a device as destination`, quoting(type, inner), 'innerLeak'],
      ),
      [
        'an error that quotes a device as source',
        quoting(isIpv4 ? 11 : 3, ip(who.device, who.server, udp(1, 2))),
        'innerLeak',
      ],
      [
        'an error that quotes the inner gateway',
        quoting(isIpv4 ? 3 : 1, ip(who.server, who.gateway, udp(1, 2))),
        'innerLeak',
      ],
      [
        'an error in the name of an external endpoint that quotes a device',
        ip(who.external, who.server, icmpError(family, inner)),
        'innerLeak',
      ],
      [
        'the first fragment of such an error',
        ip(who.host, who.server, icmp(kind, isIpv4 ? 3 : 1, 0, inner), FIRST_FRAGMENT),
        'innerLeak',
      ],
      ...errors.map((type): Row => [`ICMP ${type} that quotes nothing of the inside`, quoting(type, harmless), 'pass']),
      ['an error without a quote', quoting(isIpv4 ? 3 : 1, new Uint8Array()), 'malformed'],
      ['an error with a cut quote', quoting(isIpv4 ? 3 : 1, inner.subarray(0, isIpv4 ? 19 : 39)), 'malformed'],
      ['an error that quotes another version', quoting(isIpv4 ? 3 : 1, spoil(harmless, 0, 0x50)), 'malformed'],
      ['ICMP without a type', ip(who.host, who.server, raw(isIpv4 ? 1 : 58)), 'malformed'],
      ...optional.map(
        ([name, fields]): Row => [
          `an error that quotes a device, behind ${name}`,
          ip(who.host, who.server, icmpError(family, inner), fields),
          'innerLeak',
        ],
      ),
      ...optional.map(
        ([name, fields]): Row => [`${name}, harmless`, ip(who.host, who.server, udp(1, 2), fields), 'pass'],
      ),
      ...badHeaders.map(([name, packet]): Row => [name, packet, 'malformed']),
    ]);
  });
});

describe('IPv6 by itself', () => {
  const who = FAMILIES.IPv6;
  withGrants(who, 'udp');

  describe('from outside', () => {
    table('outsideIngress', [
      ['an endpoint whose index a later grant has', ip(who.server, who.external, udp(5000, PORT.leftover)), 'noGrant'],
      ['neighbour solicitation', ip('fe80::1', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
      ['neighbour solicitation, unicast', ip('fe80::1', who.host, NEIGHBOUR, ON_LINK), 'pass'],
      ['duplicate address detection', ip('::', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
      ['neighbour advertisement', ip('fe80::1', 'fe80::2', ADVERTISEMENT, ON_LINK), 'pass'],
      ['router advertisement', ip('fe80::1', 'ff02::1', ROUTER_ADVERTISEMENT, ON_LINK), 'pass'],
      ['a multicast report', ip('::', 'ff02::16', icmp('icmpv6', 143, 0, 20), { extensions: [0], hops: 1 }), 'pass'],
    ]);
  });

  describe('from a device', () => {
    table('insideIngress', [
      ['a grant whose index a later one has', ip(who.device, who.server, udp(devicePort(PORT.leftover), 5000)), 'pass'],
      ['neighbour solicitation', ip('fe80::2', 'ff02::1:ff00:1', NEIGHBOUR, ON_LINK), 'pass'],
      ['neighbour solicitation from a global address', ip(who.device, who.gateway, NEIGHBOUR, ON_LINK), 'pass'],
      ['neighbour solicitation, link-local', ip('fe80::2', 'fe80::1', NEIGHBOUR, ON_LINK), 'pass'],
      ['neighbour advertisement', ip('fe80::2', 'fe80::1', ADVERTISEMENT, ON_LINK), 'pass'],
      ['router solicitation', ip('fe80::2', 'ff02::2', ROUTER_SOLICITATION, ON_LINK), 'pass'],
      ['router solicitation to the gateway', ip('fe80::2', 'fe80::1', ROUTER_SOLICITATION, ON_LINK), 'pass'],
      [
        'router advertisement to the gateway',
        ip('fe80::2', 'fe80::1', ROUTER_ADVERTISEMENT, ON_LINK),
        'gatewayService',
      ],
      ['redirect to the gateway', ip('fe80::2', 'fe80::1', icmp('icmpv6', 137, 0, 32), ON_LINK), 'gatewayService'],
      [
        'neighbour solicitation from beyond the link',
        ip(who.device, who.gateway, NEIGHBOUR, { hops: 254 }),
        'gatewayService',
      ],
      ['a link-local service that is listed', ip('fe80::2', 'fe80::1', udp(5000, 53)), 'pass'],
      ['a link-local service that is not', ip('fe80::2', 'fe80::1', tcp(5000, 22)), 'gatewayService'],
    ]);
  });

  describe('toward the outside', () => {
    const inner = icmpError('IPv6', ip(who.server, who.device, udp(5000, 5683)));
    table('outsideEgress', [
      ['neighbour solicitation', ip('fe80::1', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
      ['neighbour advertisement', ip(who.host, 'fe80::2', ADVERTISEMENT, ON_LINK), 'pass'],
      [
        'a multicast report',
        ip('fe80::1', 'ff02::16', icmp('icmpv6', 143, 0, 20), { extensions: [0], hops: 1 }),
        'pass',
      ],
      [
        'an inner quote behind four extension headers',
        ip(who.host, who.server, inner, { extensions: [0, 60, 43, 60] }),
        'innerLeak',
      ],
      ['five extension headers', ip(who.host, who.server, inner, { extensions: [0, 60, 43, 60, 60] }), 'malformed'],
      ['extension headers without an end', ip(who.host, who.server, raw(60, Uint8Array.of(58, 0))), 'malformed'],
    ]);
  });
});

describe('what is not IP, or not of this interface', () => {
  const granted = ip(FAMILIES.IPv4.device, FAMILIES.IPv4.server, udp(100, 5000));
  const frames: readonly (readonly [string, Uint8Array])[] = [
    ['ARP', ethernet(filler(28), { etherType: 0x0806 })],
    ['a VLAN of its own', ethernet(granted, { vlan: 100 })],
    ['LLDP', ethernet(filler(40), { etherType: 0x88cc })],
  ];
  test.each(frames)('%s passes everywhere', (_, frame) => {
    const { inside, outside } = rig.interfaces;
    expect(rig.plane.judge('outsideIngress', outside, frame)).toEqual(PASS);
    expect(rig.plane.judge('insideIngress', inside, frame)).toEqual(PASS);
    expect(rig.plane.judge('outsideEgress', outside, frame)).toEqual(PASS);
  });
});

describe('checksums', () => {
  const who = FAMILIES.IPv4;
  withGrants(who, 'udp');

  test('UDP over IPv4 without one stays without', () => {
    const none = { noChecksum: true };
    const sent = ip(who.server, who.external, udp(5000, PORT.one, 'hello', none));
    const became = ip(who.server, who.device, udp(5000, devicePort(PORT.one), 'hello', none), { hops: 63 });
    expect(judge('outsideIngress', sent)).toEqual(carried(became));
  });

  test('come out right wherever the sum carries over', () => {
    for (let word = 0; word <= 0xffff; word += 257) {
      const payload = Uint8Array.of(word >> 8, word & 0xff);
      const sent = ip(who.server, who.external, udp(5000, PORT.one, payload));
      const became = ip(who.server, who.device, udp(5000, devicePort(PORT.one), payload), { hops: 63 });
      expect(judge('outsideIngress', sent)).toEqual(carried(became));
    }
  });
});

describe('samples', () => {
  const knock = ip(FAMILIES.IPv4.rogue, FAMILIES.IPv4.external, udp(1, PORT.one + 40));
  const leak = ip(FAMILIES.IPv4.device, FAMILIES.IPv4.server, udp(1, 2));

  test('one an interval, and none where that is off', () => {
    rig.plane.sample(1);
    const before = rig.plane.counters();
    const verdicts = Array.from({ length: 20 }, () => judge('outsideIngress', knock));
    rig.plane.sample(0);
    expect(verdicts.filter((one) => one.verdict === 'drop' && one.sampled)).toHaveLength(1);
    expect(counted(before)).toEqual({ noGrant: `20 of ${20 * 42}`, sampled: '1 of 42' });
    expect(judge('outsideIngress', knock)).toEqual(denied('noGrant'));
  });

  test('never of what would leave', () => {
    rig.plane.sample(1_000_000);
    expect(judge('outsideEgress', leak)).toEqual(denied('innerLeak'));
    rig.plane.sample(0);
  });
});

function icmpEcho(family: keyof typeof FAMILIES): Upper {
  return family === 'IPv4' ? icmp('icmp', 8, 0, 16) : icmp('icmpv6', 128, 0, 16);
}

/** Port unreachable, quoting a packet. */
function icmpError(family: keyof typeof FAMILIES, quoted: Uint8Array): Upper {
  return family === 'IPv4' ? icmp('icmp', 3, 3, quoted) : icmp('icmpv6', 1, 4, quoted);
}

/** The same broken packet to somebody else, unless it is the destination that is broken. */
function withDestination(packet: Uint8Array, to: string): Uint8Array {
  const { family, bytes } = address(to);
  if (family === 'ipv4') return spoil(packet, 16, ...bytes.subarray(12));
  const isMapped = address('203.0.113.1').bytes.every((byte, i) => packet[24 + i] === byte);
  return isMapped ? packet : spoil(packet, 24, ...bytes);
}
