/** From outside: what grants carry in, and all that does not come in. In the order of the gate's checks. */
import { icmp, ip, raw, spoil, tcp, udp } from '../../frames.ts';
import { DEVICE, DEVICE6, leaves, less, ROGUE, ROGUE6, type Row, SERVER, SERVER6 } from './table.ts';

export const OUTSIDE_INGRESS: readonly Row[] = [
  [
    'granted UDP',
    ip(SERVER, '203.0.113.1', udp(5000, 40000, 'hello')),
    leaves(ip(SERVER, DEVICE, udp(5000, 5683, 'hello'), less)),
  ],
  [
    'granted TCP, of any address of the class',
    ip('198.51.100.99', '203.0.113.33', tcp(5000, 40063, 'odd')),
    leaves(ip('198.51.100.99', DEVICE, tcp(5000, 22, 'odd'), less)),
  ],
  [
    'granted UDP over IPv6',
    ip(SERVER6, '2001:db8:a::1', udp(5000, 40000, 'hello')),
    leaves(ip(SERVER6, DEVICE6, udp(5000, 5683, 'hello'), less)),
  ],
  [
    'granted TCP over IPv6, from the one port',
    ip(SERVER6, '2001:db8:a:0:ffff:ffff:ffff:ffff', tcp(5000, 40001)),
    leaves(ip(SERVER6, DEVICE6, tcp(5000, 22), less)),
  ],
  [
    'granted to a device of the second realm',
    ip(SERVER, '203.0.113.2', udp(5000, 40000)),
    leaves(ip(SERVER, '10.30.0.2', udp(5000, 5683), less)),
  ],
  [
    'granted UDP without a sum keeps none',
    ip(SERVER, '203.0.113.1', udp(5000, 40000, 'x', { noChecksum: true })),
    leaves(ip(SERVER, DEVICE, udp(5000, 5683, 'x', { noChecksum: true }), less)),
  ],
  [
    'granted, with the last hop but one',
    ip(SERVER, '203.0.113.1', udp(5000, 40000), { hops: 2, dontFragment: true, trafficClass: 0xb8 }),
    leaves(ip(SERVER, DEVICE, udp(5000, 5683), { hops: 1, dontFragment: true, trafficClass: 0xb8 })),
  ],
  ['the last hop', ip(SERVER, '203.0.113.1', udp(5000, 40000), { hops: 1 }), 'hopLimit'],
  ['no hop left', ip(SERVER6, '2001:db8:a::1', udp(5000, 40000), { hops: 0 }), 'hopLimit'],

  ['a neighbour of the granted address', ip('198.51.100.11', '203.0.113.1', udp(5000, 40000)), 'wrongSource'],
  ['a stranger', ip(ROGUE, '203.0.113.1', udp(5000, 40000)), 'wrongSource'],
  ['a stranger to a grant for a whole class', ip(ROGUE, '203.0.113.33', tcp(5000, 40063)), 'wrongSource'],
  ['another server', ip('198.51.100.129', '203.0.113.33', tcp(5000, 40063)), 'wrongSource'],
  ['a stranger over IPv6', ip(ROGUE6, '2001:db8:a::1', udp(5000, 40000)), 'wrongSource'],
  [
    'the granted address from another port',
    ip(SERVER6, '2001:db8:a:0:ffff:ffff:ffff:ffff', tcp(5001, 40001)),
    'wrongSource',
  ],
  ['a stranger on the last hop is a stranger', ip(ROGUE, '203.0.113.1', udp(1, 40000), { hops: 1 }), 'wrongSource'],

  ['an ended grant', ip(SERVER, '203.0.113.3', udp(5000, 40000)), 'grantEnded'],
  ['an ended grant, a stranger', ip(ROGUE, '203.0.113.3', tcp(5000, 40000)), 'grantEnded'],
  ['a port without a grant', ip(SERVER, '203.0.113.1', udp(5000, 40002)), 'noGrant'],
  ['the other protocol', ip(SERVER, '203.0.113.1', tcp(5000, 40000)), 'noGrant'],
  ['below the ports of the pool', ip(SERVER, '203.0.113.1', udp(5000, 39999)), 'noGrant'],
  ['above the ports of the pool', ip(SERVER, '203.0.113.1', udp(5000, 40064)), 'noGrant'],
  ['the last address of the pool', ip(SERVER, '203.0.113.7', udp(5000, 40000)), 'noGrant'],
  ['the first of its second prefix', ip(SERVER, '203.0.113.32', udp(5000, 40000)), 'noGrant'],
  ['IPv6 without a grant', ip(SERVER6, '2001:db8:a::2', udp(5000, 40000)), 'noGrant'],
  ['IPv6, the other protocol', ip(SERVER6, '2001:db8:a::1', tcp(5000, 40000)), 'noGrant'],
  ['IPv6 above the ports', ip(SERVER6, '2001:db8:a::1', udp(5000, 50000)), 'noGrant'],

  [
    'IPv4 options',
    ip(SERVER, '203.0.113.1', udp(5000, 40000), { options: Uint8Array.of(1, 1, 1, 0) }),
    'headerOptions',
  ],
  ...[0, 43, 51, 60, 135, 139, 140].map(
    (extension): Row => [
      `IPv6 extension header ${extension}`,
      ip(SERVER6, '2001:db8:a::1', udp(5000, 40000), { extensions: [extension] }),
      'headerOptions',
    ],
  ),
  [
    'a first fragment',
    ip(SERVER, '203.0.113.1', udp(5000, 40000, 16), { fragment: { offset: 0, more: true } }),
    'fragment',
  ],
  ['a later fragment', ip(SERVER, '203.0.113.1', raw(17, 16), { fragment: { offset: 24, more: false } }), 'fragment'],
  [
    'an IPv6 fragment',
    ip(SERVER6, '2001:db8:a::1', udp(5000, 40000, 16), { fragment: { offset: 0, more: true } }),
    'fragment',
  ],
  [
    'a fragment with options has options',
    ip(SERVER, '203.0.113.1', raw(17, 16), { options: new Uint8Array(4), fragment: { offset: 8, more: true } }),
    'headerOptions',
  ],
  ['ICMP', ip(SERVER, '203.0.113.1', icmp('icmp', 8, 0, 'ping')), 'protocolNotCarried'],
  ['ICMPv6', ip(SERVER6, '2001:db8:a::1', icmp('icmpv6', 128, 0, 'ping')), 'protocolNotCarried'],
  ['ESP', ip(SERVER, '203.0.113.1', raw(50, 32)), 'protocolNotCarried'],
  ['UDP-Lite', ip(SERVER6, '2001:db8:a::1', raw(136, 32)), 'protocolNotCarried'],

  ['an IPv4 header that is too short', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000)), 0, 0x44), 'malformed'],
  ['IPv4 with version 6', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000, 20)), 0, 0x65), 'malformed'],
  ['longer by its header than the frame', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000)), 2, 0, 29), 'malformed'],
  ['shorter by its length than its header', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000)), 2, 0, 19), 'malformed'],
  ['a UDP header cut by the length', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000)), 2, 0, 27), 'malformed'],
  ['a TCP header cut', ip(SERVER, '203.0.113.33', raw(6, 19)), 'malformed'],
  ['a UDP length below its header', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000)), 24, 0, 7), 'malformed'],
  ['a UDP length past the packet', spoil(ip(SERVER, '203.0.113.1', udp(1, 40000)), 24, 0, 9), 'malformed'],
  ['a TCP offset below its header', spoil(ip(SERVER, '203.0.113.33', tcp(1, 40063)), 32, 0x40), 'malformed'],
  ['a TCP offset past the packet', spoil(ip(SERVER, '203.0.113.33', tcp(1, 40063)), 32, 0x60), 'malformed'],
  ['IPv6 with version 4', spoil(ip(SERVER6, '2001:db8:a::1', udp(1, 40000)), 0, 0x40), 'malformed'],
  ['IPv6 longer than the frame', spoil(ip(SERVER6, '2001:db8:a::1', udp(1, 40000)), 4, 0, 9), 'malformed'],
  ['a UDP header cut over IPv6', ip(SERVER6, '2001:db8:a::1', raw(17, 7)), 'malformed'],
  [
    'an IPv4-mapped source on the wire',
    spoil(ip('::1:2:3:4', '2001:db8:a::1', udp(1, 40000)), 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 198, 51, 100, 10),
    'malformed',
  ],
  ['a malformed packet for anybody', spoil(ip(SERVER, '192.0.2.2', udp(1, 2)), 2, 0, 29), 'malformed'],

  ['an inner source', ip(DEVICE, '192.0.2.2', udp(1, 2)), 'spoofedSource'],
  ['an inner source of the second realm', ip('10.30.255.255', '192.0.2.2', udp(1, 2)), 'spoofedSource'],
  ['the inner gateway as source', ip('10.20.0.1', '192.0.2.2', udp(1, 2)), 'spoofedSource'],
  ['an inner IPv6 source', ip(DEVICE6, '2001:db8:0:1::2', udp(1, 2)), 'spoofedSource'],
  ['from inside to inside', ip(DEVICE, '10.20.0.3', udp(1, 2)), 'spoofedSource'],
  ...['0.0.0.0', '0.1.2.3', '127.0.0.1', '224.0.0.1', '239.1.1.1', '255.255.255.255'].map(
    (source): Row => [`source ${source}`, ip(source, '192.0.2.2', udp(1, 2)), 'spoofedSource'],
  ),
  ...['::1', '::', 'ff02::1', 'ff0e::1'].map(
    (source): Row => [`source ${source}`, ip(source, '2001:db8:0:1::2', udp(1, 2)), 'spoofedSource'],
  ),
  ['to a device', ip(ROGUE, DEVICE, tcp(1, 22)), 'realmDestination'],
  ['to a device over IPv6', ip(SERVER6, DEVICE6, tcp(1, 22)), 'realmDestination'],
  ['to the inner gateway', ip(SERVER, '10.20.0.1', icmp('icmp', 8, 0)), 'realmDestination'],
  [
    'a lone later fragment to a device',
    ip(ROGUE, DEVICE, raw(17, 16), { fragment: { offset: 1480, more: false } }),
    'realmDestination',
  ],
  ['options to a device', ip(ROGUE, DEVICE, udp(1, 2), { options: new Uint8Array(8) }), 'realmDestination'],
  ['an extension header to a device', ip(ROGUE6, DEVICE6, udp(1, 2), { extensions: [0] }), 'realmDestination'],

  ['to the gateway', ip(ROGUE, '192.0.2.2', tcp(1, 443)), 'pass'],
  ['to the gateway over IPv6', ip(ROGUE6, '2001:db8:0:1::2', tcp(1, 443)), 'pass'],
  ['to an address beside the pool', ip(SERVER, '203.0.113.8', udp(1, 40000)), 'pass'],
  ['a fragment to anybody else', ip(ROGUE, '192.0.2.2', raw(17, 16), { fragment: { offset: 8, more: true } }), 'pass'],
  ['neighbour solicitation', ip(ROGUE6, 'ff02::1:ff00:2', icmp('icmpv6', 135, 0, 16), { hops: 255 }), 'pass'],
  ['duplicate address detection', ip('::', 'ff02::1:ff00:2', icmp('icmpv6', 135, 0, 16), { hops: 255 }), 'pass'],
  ['router advertisement', ip('fe80::9', 'ff02::1', icmp('icmpv6', 134, 0, 8), { hops: 255 }), 'pass'],
];
