/**
 * The gate's packet table, second half: packets that no grant carries. What is
 * malformed or of a kind that the grants pool does not take; what the guards
 * stop, from outside, from a device, and toward the outside; what must pass.
 */
import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { ethernet, filler, type IpFields, icmp, ip, raw, spoil, tcp, type Upper, udp } from '../frames.ts';
import {
  devicePort,
  FAMILIES,
  icmpEcho,
  icmpError,
  LATER_FRAGMENT,
  PASS,
  PORT,
  type Row,
  rig,
  table,
  withGate,
  withGrants,
} from './gate-table.ts';

withGate();

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

/** The same broken packet to somebody else, unless it is the destination that is broken. */
function withDestination(packet: Uint8Array, to: string): Uint8Array {
  const { family, bytes } = address(to);
  if (family === 'ipv4') return spoil(packet, 16, ...bytes.subarray(12));
  const isMapped = address('203.0.113.1').bytes.every((byte, i) => packet[24 + i] === byte);
  return isMapped ? packet : spoil(packet, 24, ...bytes);
}
