/** On the way out, whoever sent it: no inner address leaves, nor is quoted. */
import { icmp, ip, raw, spoil, tcp, udp } from '../../frames.ts';
import { DEVICE, DEVICE6, ROGUE, ROGUE6, type Row, SERVER, SERVER6 } from './table.ts';

const quote = (packet: Uint8Array) => packet.subarray(0, packet[0] === 0x45 ? 28 : 48);
const innerQuote = quote(ip(SERVER, DEVICE, udp(5000, 5683)));
const innerQuote6 = quote(ip(SERVER6, DEVICE6, udp(5000, 5683)));
const outerQuote = quote(ip(ROGUE, '203.0.113.9', udp(5000, 5683)));
const outerQuote6 = quote(ip(ROGUE6, '2001:db8:e::1', udp(5000, 5683)));

export const OUTSIDE_EGRESS: readonly Row[] = [
  ["the gateway's own", ip('192.0.2.2', ROGUE, tcp(443, 1)), 'pass'],
  ['from the egress pool', ip('203.0.113.9', ROGUE, udp(1024, 53)), 'pass'],
  ['carried', ip('203.0.113.1', SERVER, udp(40000, 5000)), 'pass'],
  ['from a device', ip(DEVICE, ROGUE, udp(1, 2)), 'innerLeak'],
  ['from a device over IPv6', ip(DEVICE6, ROGUE6, udp(1, 2)), 'innerLeak'],
  ['from the inner gateway', ip('10.20.0.1', ROGUE, icmp('icmp', 11, 1, outerQuote)), 'innerLeak'],
  ['a fragment from a device', ip(DEVICE, ROGUE, raw(17, 16), { fragment: { offset: 8, more: true } }), 'innerLeak'],
  ...[3, 4, 5, 11, 12].map(
    (type): Row => [
      `ICMP error ${type} about a device`,
      ip('192.0.2.2', SERVER, icmp('icmp', type, 0, innerQuote)),
      'innerLeak',
    ],
  ),
  ...[1, 2, 3, 4, 127].map(
    (type): Row => [
      `ICMPv6 error ${type} about a device`,
      ip('2001:db8:0:1::2', SERVER6, icmp('icmpv6', type, 0, innerQuote6)),
      'innerLeak',
    ],
  ),
  [
    'an error that quotes a packet of a device',
    ip('192.0.2.2', SERVER, icmp('icmp', 3, 3, quote(ip(DEVICE, SERVER, udp(5683, 5000))))),
    'innerLeak',
  ],
  ['an error about an outer address', ip('192.0.2.2', ROGUE, icmp('icmp', 3, 3, outerQuote)), 'pass'],
  ['an error about an outer IPv6 address', ip('2001:db8:0:1::2', ROGUE6, icmp('icmpv6', 1, 4, outerQuote6)), 'pass'],
  ['no error, though it looks like a quote', ip('192.0.2.2', ROGUE, icmp('icmp', 0, 0, innerQuote)), 'pass'],
  ['no ICMPv6 error', ip('2001:db8:0:1::2', ROGUE6, icmp('icmpv6', 129, 0, innerQuote6)), 'pass'],
  [
    'an error that quotes too little',
    ip('192.0.2.2', ROGUE, icmp('icmp', 3, 3, innerQuote.subarray(0, 19))),
    'malformed',
  ],
  [
    'an ICMPv6 error that quotes too little',
    ip('2001:db8:0:1::2', ROGUE6, icmp('icmpv6', 1, 4, innerQuote6.subarray(0, 39))),
    'malformed',
  ],
  ['an error that quotes no IP', ip('192.0.2.2', ROGUE, icmp('icmp', 3, 3, spoil(outerQuote, 0, 0x55))), 'malformed'],
  [
    'an error behind an extension header',
    ip('2001:db8:0:1::2', ROGUE6, icmp('icmpv6', 1, 4, innerQuote6), { extensions: [60, 0, 43, 60] }),
    'innerLeak',
  ],
  ['no error behind an extension header', ip('2001:db8:0:1::2', ROGUE6, udp(1, 2), { extensions: [60] }), 'pass'],
  [
    'more extension headers than anybody needs',
    ip('2001:db8:0:1::2', ROGUE6, icmp('icmpv6', 1, 4, outerQuote6), { extensions: [60, 60, 60, 60, 60] }),
    'malformed',
  ],
  [
    'the first fragment of an error',
    ip('192.0.2.2', SERVER, icmp('icmp', 3, 4, innerQuote), { fragment: { offset: 0, more: true } }),
    'innerLeak',
  ],
  [
    'the first IPv6 fragment of an error',
    ip('2001:db8:0:1::2', SERVER6, icmp('icmpv6', 2, 0, innerQuote6), { fragment: { offset: 0, more: true } }),
    'innerLeak',
  ],
  [
    'a later fragment, whatever it holds',
    ip('192.0.2.2', SERVER, icmp('icmp', 3, 4, innerQuote), { fragment: { offset: 8, more: true } }),
    'pass',
  ],
  [
    'a later IPv6 fragment',
    ip('2001:db8:0:1::2', SERVER6, icmp('icmpv6', 2, 0, innerQuote6), { fragment: { offset: 8, more: true } }),
    'pass',
  ],
  ['what cannot be read', spoil(ip('192.0.2.2', ROGUE, udp(1, 2)), 2, 0, 29), 'malformed'],
  ['neighbour solicitation', ip('fe80::1', 'ff02::1:ff00:1', icmp('icmpv6', 135, 0, 16), { hops: 255 }), 'pass'],
];
