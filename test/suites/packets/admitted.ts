/**
 * What a standing filter of the operator lets in, and its answers: only just
 * that, in the order of the gate's checks. In the world of world.ts.
 */
import type { Admission } from '../../../agent/core/admissions.ts';
import { prefix } from '../../../agent/core/net.ts';
import { icmp, ip, raw, tcp, udp } from '../../frames.ts';
import { FIRST_FRAGMENT, LATER_FRAGMENT, optional } from './odd.ts';
import type { Row } from './table.ts';
import { echo, icmpOf, unreachable, type Who } from './world.ts';

/** Where the filters let in from: an address, and a wider prefix that holds it. */
const FROM = {
  IPv4: {
    near: '192.0.2.66',
    nearPrefix: '192.0.2.66/32',
    far: '192.0.2.67',
    farPrefix: '192.0.2.64/28',
    beside: '192.0.2.80',
    realm: '10.20.0.0/16',
    one: '10.20.0.2/32',
  },
  IPv6: {
    near: '2001:db8:66::66',
    nearPrefix: '2001:db8:66::66/128',
    far: '2001:db8:66::67',
    farPrefix: '2001:db8:66::/64',
    beside: '2001:db8:66:1::1',
    realm: 'fd00:20::/48',
    one: 'fd00:20::2/128',
  },
};

export function admissionsOf(who: Who): readonly Admission[] {
  const { nearPrefix, farPrefix, realm, one } = FROM[who.family];
  const isIpv4 = who.family === 'IPv4';
  return [
    {
      source: prefix(farPrefix),
      destination: prefix(realm),
      protocol: icmpOf(who),
      types: isIpv4 ? [8, 13] : [128, 255],
    },
    { source: prefix(farPrefix), destination: prefix(one), protocol: 'tcp', ports: { low: 22, high: 23 } },
    { source: prefix(nearPrefix), destination: prefix(one), protocol: 'udp' },
    { source: prefix(nearPrefix), destination: prefix(realm), protocol: 'tcp', ports: { low: 65_535, high: 65_535 } },
  ];
}

export function admitted(who: Who): readonly Row[] {
  const { near, far, beside } = FROM[who.family];
  const { device, otherDevice, farDevice, gateway, server, external } = who;
  const type = (number: number) => icmp(icmpOf(who), number, 0, 16);
  const isIpv4 = who.family === 'IPv4';
  const refused = 'realmDestination';
  return [
    ['an echo', ip(far, device, echo(who)), 'pass'],
    ['an echo to another device', ip(far, otherDevice, echo(who)), 'pass'],
    ['another type of the list', ip(far, device, type(isIpv4 ? 13 : 255)), 'pass'],
    ['a type beside it', ip(far, device, type(isIpv4 ? 9 : 129)), refused],
    ['type 0', ip(far, device, type(0)), refused],
    ['an error that quotes the device', ip(far, device, unreachable(who, ip(device, far, udp(1, 2)))), refused],
    ['ICMP without a type', ip(far, device, raw(isIpv4 ? 1 : 58)), refused],
    [
      'ICMP of the other family',
      ip(far, device, raw(isIpv4 ? 58 : 1, Uint8Array.of(isIpv4 ? 128 : 8, 0, 0, 0))),
      refused,
    ],
    ['an echo from a narrower prefix, which has its own', ip(near, device, echo(who)), 'pass'],
    ['an echo from beside', ip(beside, device, echo(who)), refused],
    ['an echo to a device of another realm', ip(far, farDevice, echo(who)), refused],
    ['an echo to the inner gateway', ip(far, gateway, echo(who)), refused],
    ['an echo to a grant', ip(far, external, echo(who)), 'protocolNotCarried'],
    ['an echo from a device, as it says', ip(otherDevice, device, echo(who)), 'spoofedSource'],
    ['an echo as a first fragment', ip(far, device, echo(who), FIRST_FRAGMENT), refused],
    ['an echo as a later fragment', ip(far, device, echo(who), LATER_FRAGMENT), refused],
    ...optional(who).map(
      ([what, fields]): Row => [`an echo with ${what}`, ip(far, device, echo(who), fields), refused],
    ),

    ['TCP to the first port', ip(far, device, tcp(5000, 22)), 'pass'],
    ['TCP to the last port', ip(far, device, tcp(5000, 23)), 'pass'],
    ['TCP below', ip(far, device, tcp(5000, 21)), refused],
    ['TCP above', ip(far, device, tcp(5000, 24)), refused],
    ['TCP from such a port', ip(far, device, tcp(22, 5000)), refused],
    ['TCP to a device that is not named', ip(far, otherDevice, tcp(5000, 22)), refused],
    ['UDP to a port of TCP', ip(far, device, udp(5000, 22)), refused],
    ['TCP cut short', ip(far, device, raw(6, 3)), refused],
    ['TCP as a fragment', ip(far, device, tcp(5000, 22), FIRST_FRAGMENT), refused],
    ['TCP from the narrower prefix', ip(near, device, tcp(5000, 22)), 'pass'],
    ['TCP to what only the narrower prefix may', ip(far, device, tcp(5000, 65_535)), refused],
    ['TCP to the last port of all', ip(near, otherDevice, tcp(5000, 65_535)), 'pass'],
    ['UDP to any port', ip(near, device, udp(5000, 1)), 'pass'],
    ['UDP to any other port', ip(near, device, udp(5000, 65_535)), 'pass'],
    ['UDP with the hops used up', ip(near, device, udp(5000, 1), { hops: 1 }), 'pass'],
    ['GRE', ip(near, device, raw(47, 8)), refused],
    ['from a server', ip(server, device, udp(5000, 1)), refused],
  ];
}

/** Of a filter that asks for no protocol. */
export function anyOf(who: Who): readonly Admission[] {
  const { farPrefix, one } = FROM[who.family];
  return [{ source: prefix(farPrefix), destination: prefix(one), protocol: 'any' }];
}

export function admittedWhole(who: Who): readonly Row[] {
  const { far, beside } = FROM[who.family];
  const { device, otherDevice } = who;
  return [
    ['GRE', ip(far, device, raw(47, 8)), 'pass'],
    ['an echo', ip(far, device, echo(who)), 'pass'],
    ['UDP', ip(far, device, udp(1, 2)), 'pass'],
    ['UDP cut short', ip(far, device, raw(17, 3)), 'realmDestination'],
    ['a fragment', ip(far, device, raw(47, 8), LATER_FRAGMENT), 'realmDestination'],
    ['another device', ip(far, otherDevice, udp(1, 2)), 'realmDestination'],
    ['from beside', ip(beside, device, udp(1, 2)), 'realmDestination'],
  ];
}

/** On their way out, with the mark of the base. */
export function answersWithMark(who: Who): readonly Row[] {
  const { far } = FROM[who.family];
  const { device, farDevice, gateway, host } = who;
  const came = (hops: number) => ip(far, device, udp(5000, 1, 'and more'), { hops });
  const quoted = came(64).subarray(0, who.family === 'IPv4' ? 28 : 48);
  return [
    ['from a device', ip(device, far, udp(1, 5000)), 'pass'],
    ['from a device of the second realm', ip(farDevice, far, udp(1, 5000)), 'pass'],
    ['in fragments', ip(device, far, raw(17, 8), LATER_FRAGMENT), 'pass'],
    [
      "a device's error that quotes what it answers",
      ip(device, far, unreachable(who, came(60))),
      ip(device, far, unreachable(who, quoted), { dontFragment: true, id: 0 }),
    ],
    [
      'an error of its that names a router',
      ip(device, far, icmp(icmpOf(who), who.family === 'IPv4' ? 5 : 127, 0, quoted)),
      'errorNotCarried',
    ],
    ['from the inner gateway', ip(gateway, far, udp(1, 5000)), 'innerLeak'],
    ["the host's error that quotes a device", ip(host, far, unreachable(who, quoted)), 'innerLeak'],
    ["the host's own", ip(host, far, udp(1, 5000)), 'pass'],
  ];
}
