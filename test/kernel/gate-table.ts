/**
 * What the packet tables stand on: who is who in each family, one grant of
 * each kind behind its own port, and the table itself. A row is a packet and
 * what must become of it: a reason, `pass`, or the packet that it turns into,
 * byte by byte. Each row also holds the counters to it: one exit, one count.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { DenialReason } from '../../agent/core/reasons.ts';
import type { Protocol } from '../../agent/core/words.ts';
import type { GateCounters, GateSetup, Hook, Mapping, Verdict } from '../../agent/dataplane/dataplane.ts';
import { ethernet, type IpFields, icmp, type Upper } from '../frames.ts';
import type { Interfaces, Rig } from '../suites/fixture.ts';
import { gateStand, type Stand } from './gate-stand.ts';

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/30'), prefix('203.0.113.8/31')],
  ipv6: [prefix('2001:db8:a::/64'), prefix('2001:db8:b:1000::/52')],
  portLow: 40_000,
  portCount: 64,
  ipv6Grants: 16,
};
export const REALM = 3;
const CLASS = 7;

function setupOf(interfaces: Interfaces): GateSetup {
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
export const FAMILIES = {
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
export const PORT = {
  one: 40_000, // for the server's one address
  any: 40_001, // for any of its class
  narrow: 40_002, // for its port 7000 only
  ended: 40_003, // ended an hour ago
  resting: 40_004, // ended a second ago
  forgotten: 40_005, // opened, ended, forgotten
  leftover: 40_006, // its index belongs to a later grant by now
  last: 40_063, // of the range
} as const;

let stand: Stand;
/** The gate of the test file at work, with the classes of `server` in both families. */
export let rig: Rig;

/** Loads the gate for a test file. */
export function withGate(): void {
  beforeAll(async () => {
    stand = gateStand();
    rig = await stand.make(setupOf);
    for (const text of ['198.51.100.0/24', '2001:db8:51::/48']) rig.plane.addClass(prefix(text), CLASS);
  });
  afterAll(async () => {
    await rig.close();
    await stand.close();
  });
}

let number = 0;
/** A later fragment. */
export const LATER_FRAGMENT: IpFields = { fragment: { offset: 64, more: false } };
export const SECOND = 1_000_000_000n;
export const devicePort = (port: number) => port - PORT.one + 100;

export function open(who: Who, protocol: Protocol, port: number, end: bigint, other: Partial<Mapping> = {}): Mapping {
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
export function withGrants(who: Who, protocol: Protocol): void {
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

export function judge(hook: Hook, packet: Uint8Array, ifindex?: number): Verdict {
  const at = hook === 'insideIngress' ? rig.interfaces.inside : rig.interfaces.outside;
  return rig.plane.judge(hook, ifindex ?? at, ethernet(packet));
}

export const denied = (reason: DenialReason): Verdict => ({ verdict: 'drop', reason, sampled: false });
export const PASS: Verdict = { verdict: 'pass' };
export const carried = (packet: Uint8Array): Verdict => ({ verdict: 'redirect', bytes: ethernet(packet) });

/** A row: the packet, and a reason, `pass`, or the packet it becomes. */
export type Row = readonly [name: string, packet: Uint8Array, expected: DenialReason | 'pass' | Uint8Array];

export function table(hook: Hook, rows: readonly Row[]): void {
  test.each(rows)('%s', (_, packet, expected) => {
    const verdict = expected === 'pass' ? PASS : typeof expected === 'string' ? denied(expected) : carried(expected);
    const before = rig.plane.counters();
    expect(judge(hook, packet)).toEqual(verdict);
    expect(counted(before)).toEqual(expectedCounts(hook, expected, ethernet(packet).length));
  });
}

/** The counters that moved, by how many packets and bytes. */
export function counted(before: GateCounters): Record<string, string> {
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

export function icmpEcho(family: keyof typeof FAMILIES): Upper {
  return family === 'IPv4' ? icmp('icmp', 8, 0, 16) : icmp('icmpv6', 128, 0, 16);
}

/** Port unreachable, quoting a packet. */
export function icmpError(family: keyof typeof FAMILIES, quoted: Uint8Array): Upper {
  return family === 'IPv4' ? icmp('icmp', 3, 3, quoted) : icmp('icmpv6', 1, 4, quoted);
}
