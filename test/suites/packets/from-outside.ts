/**
 * From outside, what no grant carries: kinds that the grants pool does not
 * take, and what the guards say of all else.
 */
import { icmp, ip, raw, tcp, udp } from '../../frames.ts';
import { badHeaders, LATER_FRAGMENT, optional, strangeProtocols } from './odd.ts';
import type { Row } from './table.ts';
import { echo, icmpOf, PORT, type Who } from './world.ts';

/** Sources that no packet has, and their unicast neighbours, which some packet may have. */
const IMPOSSIBLE = {
  IPv4: {
    sources: ['0.0.0.0', '0.1.2.3', '127.0.0.1', '127.255.0.1', '224.0.0.1', '239.255.255.255', '255.255.255.255'],
    neighbours: ['1.0.0.0', '126.255.255.255', '128.0.0.1', '223.255.255.255', '240.0.0.1', '255.255.255.254'],
  },
  IPv6: {
    sources: ['::1', '::', 'ff00::', 'ff02::1', 'ff0e::99'],
    neighbours: ['::2', '2001:db8::1', 'fec0::1'],
  },
};

export function toPool(who: Who): readonly Row[] {
  const { server, external } = who;
  return [
    ...strangeProtocols(who).map(
      ([what, upper]): Row => [
        what,
        ip(server, external, upper),
        what === 'an ICMP error' ? 'errorNotCarried' : 'protocolNotCarried',
      ],
    ),
    ...badHeaders(who, server, external),
  ];
}

export function fromOutside(who: Who): readonly Row[] {
  const { server, stranger, device, otherDevice, gateway, host } = who;
  const { sources, neighbours } = IMPOSSIBLE[who.family];
  return [
    ['to the host', ip(stranger, host, tcp(5000, 443)), 'pass'],
    ...who.besidePool.map((to): Row => [`to ${to}, beside the pool`, ip(server, to, udp(5000, PORT.one)), 'pass']),
    ['a fragment to the host', ip(stranger, host, raw(17, 8), LATER_FRAGMENT), 'pass'],
    ['echo to the host', ip(stranger, host, echo(who)), 'pass'],
    ['a cut transport header to the host', ip(stranger, host, raw(6, 3)), 'pass'],
    ...badHeaders(who, stranger, host),

    ...sources.map((source): Row => [`from ${source}`, ip(source, host, udp(5000, 5001)), 'spoofedSource']),
    ...neighbours.map((source): Row => [`from ${source}`, ip(source, host, udp(5000, 5001)), 'pass']),
    ['from a device, as it says', ip(device, host, udp(5000, 5001)), 'spoofedSource'],
    ['from a device of the second realm, as it says', ip(who.farDevice, host, udp(5000, 5001)), 'spoofedSource'],
    ['from the inner gateway, as it says', ip(gateway, host, udp(5000, 5001)), 'spoofedSource'],
    ['from a device to a device, as it says', ip(device, otherDevice, udp(5000, 5001)), 'spoofedSource'],
    ['a fragment from a device, as it says', ip(device, host, raw(17, 8), LATER_FRAGMENT), 'spoofedSource'],

    ['to a device', ip(server, device, udp(5000, 5683)), 'realmDestination'],
    ['to a device of the second realm', ip(stranger, who.farDevice, tcp(5000, 22)), 'realmDestination'],
    ['to the inner gateway', ip(server, gateway, echo(who)), 'realmDestination'],
    ['a fragment to a device', ip(server, device, raw(17, 8), LATER_FRAGMENT), 'realmDestination'],
    ...optional(who).map(
      ([what, fields]): Row => [`${what} to a device`, ip(server, device, udp(1, 2), fields), 'realmDestination'],
    ),
    ['a cut transport header to a device', ip(server, device, raw(6, 3)), 'realmDestination'],
    ['an ICMP error to a device', ip(server, device, icmp(icmpOf(who), 3, 0, 28)), 'realmDestination'],
  ];
}
