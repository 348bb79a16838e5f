/**
 * What the packet tables stand on: who is who in each family, so that one row
 * is asked of both, and one grant of each kind, each behind its own port.
 */
import type { Protocol } from '../../../agent/core/words.ts';
import type { JudgingDataplane } from '../../../agent/dataplane/dataplane.ts';
import { icmp, type Upper } from '../../frames.ts';
import { HOUR, mapping, nowNs, OTHER_CLASS, SECOND, SECOND_REALM } from '../fixture.ts';

export const IPV4 = {
  family: 'IPv4' as 'IPv4' | 'IPv6',
  server: '198.51.100.10',
  /** Of the same class. */
  serverSecond: '198.51.100.11',
  /** Of another, within the prefix of the first. */
  otherServer: '198.51.100.129',
  stranger: '192.0.2.66',
  /** In the pool's first prefix, one whose entries lie before a grant's, and the last of the last prefix. */
  external: '203.0.113.1',
  externalNext: '203.0.113.4',
  externalLast: '203.0.113.33',
  /** The pool's addresses at the ends of its prefixes, without a grant; and the next ones, which are not in it. */
  poolEnds: ['203.0.113.0', '203.0.113.7', '203.0.113.32'],
  besidePool: ['203.0.112.255', '203.0.113.8', '203.0.113.31', '203.0.113.34'],
  device: '10.20.0.2',
  otherDevice: '10.20.0.3',
  /** Of the second realm. */
  farDevice: '10.30.0.2',
  /** The ends of a prefix that a device holds, and their neighbours, which nobody does. */
  prefixEnds: ['10.20.7.0', '10.20.7.255'],
  besidePrefix: ['10.20.6.255', '10.20.8.0'],
  gateway: '10.20.0.1',
  /** The host's outer address. */
  host: '192.0.2.2',
};
export type Who = Readonly<typeof IPV4>;

export const IPV6: Who = {
  family: 'IPv6',
  server: '2001:db8:51::10',
  serverSecond: '2001:db8:51::11',
  otherServer: '2001:db8:51:8000::1',
  stranger: '2001:db8:66::66',
  external: '2001:db8:a::1',
  externalNext: '2001:db8:a::4',
  externalLast: '2001:db8:c::7f',
  poolEnds: [
    '2001:db8:a::',
    '2001:db8:a:0:ffff:ffff:ffff:ffff',
    '2001:db8:b:1000::',
    '2001:db8:b:1fff:ffff:ffff:ffff:ffff',
    '2001:db8:c::40',
  ],
  besidePool: [
    '2001:db8:9:ffff:ffff:ffff:ffff:ffff',
    '2001:db8:a:1::',
    '2001:db8:b:fff:ffff:ffff:ffff:ffff',
    '2001:db8:b:2000::',
    '2001:db8:c::3f',
    '2001:db8:c::80',
  ],
  device: 'fd00:20::2',
  otherDevice: 'fd00:20::3',
  farDevice: 'fd00:30::2',
  prefixEnds: ['fd00:20:0:7::', 'fd00:20:0:7:ffff:ffff:ffff:ffff'],
  besidePrefix: ['fd00:20:0:6:ffff:ffff:ffff:ffff', 'fd00:20:0:8::'],
  gateway: 'fd00:20::1',
  host: '2001:db8:0:1::2',
};
export const FAMILIES: readonly Who[] = [IPV4, IPV6];

/** What lies behind each external port; the device's port is 100 more than its offset. */
export const PORT = {
  one: 40_000, // for the server's one address
  any: 40_001, // for any of its class
  narrow: 40_002, // for its port 7000 only
  ended: 40_003, // ended longer ago than UDP rests
  resting: 40_004, // ended a second ago
  forgotten: 40_005, // opened, ended, forgotten
  leftover: 40_006, // its index is a later grant's by now
  far: 40_008, // to the device of the second realm
  other: 40_009, // for the other class, to the very endpoint of `any`
  none: 40_050, // never granted
  last: 40_063, // of the range, at the pool's last address
} as const;

export const devicePort = (port: number) => port - PORT.one + 100;

const at = (host: string, port: number) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);

export function openGrants(plane: JudgingDataplane, who: Who, protocol: Protocol): void {
  let number = 0;
  const open = (port: number, age: bigint, other: Partial<Parameters<typeof mapping>[0]> = {}) => {
    number += 1;
    const external = at(who.external, port);
    const device = at(who.device, devicePort(port));
    const grant = mapping({ external, device, protocol, remote: who.server, number, slot: number, ...other });
    plane.open(grant, nowNs() - age);
    return grant;
  };
  open(PORT.one, -HOUR);
  open(PORT.any, -HOUR, { remote: 'all' });
  open(PORT.narrow, -HOUR, { remotePort: 7000 });
  open(PORT.ended, 40n * SECOND);
  open(PORT.resting, SECOND);
  open(PORT.far, -HOUR, { device: at(who.farDevice, devicePort(PORT.far)), realm: SECOND_REALM });
  open(PORT.other, -HOUR, {
    device: at(who.device, devicePort(PORT.any)),
    remote: 'all',
    classId: OTHER_CLASS,
  });
  open(PORT.last, -HOUR, { external: at(who.externalLast, PORT.last) });
  // In IPv4 the entries of an address's TCP ports, UDP ports, and the next address follow each other.
  const behind = protocol === 'tcp' ? who.externalNext : who.family === 'IPv4' ? '203.0.113.5' : '2001:db8:a::5';
  const other = protocol === 'tcp' ? 'udp' : 'tcp';
  open(PORT.one, -HOUR, { external: at(behind, PORT.one), device: at(who.otherDevice, 8), protocol: other });
  plane.forget(open(PORT.forgotten, 40n * SECOND));
  // The index of IPv4 is its endpoint's; that of IPv6 may come back with another.
  open(PORT.leftover, SECOND, { slot: 20 });
  const later = who.family === 'IPv4' ? PORT.leftover : PORT.leftover + 1;
  open(later, -HOUR, { external: at(who.external, later), device: at(who.otherDevice, 9), slot: 20 });
}

export const icmpOf = ({ family }: Who) => (family === 'IPv4' ? 'icmp' : 'icmpv6');
export const icmpNumber = ({ family }: Who) => (family === 'IPv4' ? 1 : 58);

export function echo(who: Who): Upper {
  return icmp(icmpOf(who), who.family === 'IPv4' ? 8 : 128, 0, 16);
}

/** Port unreachable, quoting a packet. */
export function unreachable(who: Who, quoted: Uint8Array): Upper {
  return who.family === 'IPv4' ? icmp('icmp', 3, 3, quoted) : icmp('icmpv6', 1, 4, quoted);
}
