/** From devices: what grants carry out, and what a device reaches beside them. In the order of the gate's checks. */
import { icmp, ip, raw, spoil, TCP_ACK, tcp, udp } from '../../frames.ts';
import { DEVICE, DEVICE6, leaves, less, ROGUE, type Row, SERVER, SERVER6 } from './table.ts';

export const INSIDE_INGRESS: readonly Row[] = [
  [
    'an answer over UDP',
    ip(DEVICE, SERVER, udp(5683, 5000, 'hello')),
    leaves(ip('203.0.113.1', SERVER, udp(40000, 5000, 'hello'), less)),
  ],
  [
    'an answer over TCP',
    ip(DEVICE, '198.51.100.99', tcp(22, 5000, 'odd', TCP_ACK)),
    leaves(ip('203.0.113.33', '198.51.100.99', tcp(40063, 5000, 'odd', TCP_ACK), less)),
  ],
  [
    'an answer over IPv6',
    ip(DEVICE6, SERVER6, udp(5683, 5000, 'hello')),
    leaves(ip('2001:db8:a::1', SERVER6, udp(40000, 5000, 'hello'), less)),
  ],
  [
    'an answer over IPv6 to the one port',
    ip(DEVICE6, SERVER6, tcp(22, 5000)),
    leaves(ip('2001:db8:a:0:ffff:ffff:ffff:ffff', SERVER6, tcp(40001, 5000), less)),
  ],
  ['an answer on its last hop', ip(DEVICE, SERVER, udp(5683, 5000), { hops: 1 }), 'hopLimit'],
  ['an answer to a neighbour of the granted', ip(DEVICE, '198.51.100.11', udp(5683, 5000)), 'wrongRemote'],
  ['an answer to another port than granted', ip(DEVICE6, SERVER6, tcp(22, 5001)), 'wrongRemote'],
  ['to a stranger: by its own doing', ip(DEVICE, ROGUE, udp(5683, 5000)), 'pass'],
  ['to another server: by its own doing', ip(DEVICE, '198.51.100.129', udp(5683, 5000)), 'pass'],
  ['from another port: by its own doing', ip(DEVICE, SERVER, udp(5684, 5000)), 'pass'],
  ['over the other protocol: by its own doing', ip(DEVICE, SERVER, tcp(5683, 5000)), 'pass'],
  ['of a device of the other realm', ip('10.30.0.2', SERVER, udp(5683, 5000)), 'pass'],

  ['UDP of a grant just ended', ip('10.20.0.3', SERVER, udp(5683, 5000)), 'tombstone'],
  ['the same to another remote', ip('10.20.0.3', '198.51.100.11', udp(5683, 5000)), 'pass'],
  ['TCP of a grant just ended: to the lone-SYN rule', ip('10.20.0.3', SERVER, tcp(22, 5000)), 'pass'],
  ['UDP of a grant long ended', ip('10.20.0.4', SERVER, udp(5683, 5000)), 'pass'],

  ['an answer with options', ip(DEVICE, SERVER, udp(5683, 5000), { options: new Uint8Array(4) }), 'pass'],
  ['an answer in fragments', ip(DEVICE, SERVER, udp(5683, 5000), { fragment: { offset: 0, more: true } }), 'pass'],
  ['a malformed answer', spoil(ip(DEVICE, SERVER, udp(5683, 5000)), 24, 0, 9), 'malformed'],
  ['a malformed packet', spoil(ip(DEVICE, SERVER, udp(5683, 5000)), 2, 0, 29), 'malformed'],

  ['to another device', ip(DEVICE, '10.20.0.9', tcp(1, 22)), 'deviceToDevice'],
  ['to a device of another realm', ip(DEVICE, '10.30.0.9', udp(1, 22)), 'deviceToDevice'],
  ['to another device over IPv6', ip(DEVICE6, 'fd00:20::9', udp(1, 22)), 'deviceToDevice'],
  [
    'a fragment to another device',
    ip(DEVICE, '10.20.0.9', raw(17, 16), { fragment: { offset: 8, more: false } }),
    'deviceToDevice',
  ],
  ['to the gateway: a service', ip(DEVICE, '10.20.0.1', udp(1024, 53)), 'pass'],
  ['to the gateway: no service', ip(DEVICE, '10.20.0.1', tcp(1024, 53)), 'gatewayService'],
  ["to the gateway's outer address: no service", ip(DEVICE, '192.0.2.2', tcp(1024, 443)), 'gatewayService'],
  ["to the gateway's outer address: a service", ip(DEVICE, '192.0.2.2', udp(1024, 53)), 'pass'],
  [
    'to the gateway: a fragment of a service',
    ip(DEVICE, '10.20.0.1', udp(1024, 53, 16), { fragment: { offset: 0, more: true } }),
    'gatewayService',
  ],
  ['to the gateway: echo, which is served', ip(DEVICE, '10.20.0.1', icmp('icmp', 8, 0)), 'pass'],
  ['to the gateway: other ICMP', ip(DEVICE, '10.20.0.1', icmp('icmp', 13, 0)), 'gatewayService'],
  ['to the gateway: echo over IPv6, which is not', ip(DEVICE6, 'fd00:20::1', icmp('icmpv6', 128, 0)), 'gatewayService'],
  ['neighbour solicitation', ip(DEVICE6, 'fd00:20::1', icmp('icmpv6', 135, 0, 16), { hops: 255 }), 'pass'],
  ['neighbour advertisement', ip('fe80::2', 'fe80::1', icmp('icmpv6', 136, 0, 16), { hops: 255 }), 'pass'],
  ['router solicitation', ip('fe80::2', 'fe80::1', icmp('icmpv6', 133, 0), { hops: 255 }), 'pass'],
  ['router advertisement', ip('fe80::2', 'fe80::1', icmp('icmpv6', 134, 0, 8), { hops: 255 }), 'gatewayService'],
  ['from beyond the link', ip(DEVICE6, 'fd00:20::1', icmp('icmpv6', 135, 0, 16), { hops: 254 }), 'gatewayService'],
  ['to a link-local address: no service', ip('fe80::2', 'fe80::1', tcp(1, 22)), 'gatewayService'],
  ['to a link-local address: a service', ip('fe80::2', 'fe80::1', udp(1, 53)), 'pass'],
  ['solicitation to all', ip('fe80::2', 'ff02::1:ff00:1', icmp('icmpv6', 135, 0, 16), { hops: 255 }), 'pass'],
  ['out into the world', ip(DEVICE, ROGUE, tcp(1024, 443)), 'pass'],
];
