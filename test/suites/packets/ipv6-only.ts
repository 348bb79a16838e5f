/**
 * What only IPv6 has: neighbour discovery, by which a link works at all,
 * link-local addresses, chains of extension headers.
 */
import { address } from '../../../agent/core/net.ts';
import { type IpFields, icmp, ip, raw, tcp, udp } from '../../frames.ts';
import type { Row } from './table.ts';
import { echo, IPV6, icmpNumber, unreachable } from './world.ts';

const { server, device, gateway, host, stranger } = IPV6;
const [, nobody = ''] = IPV6.besidePrefix;
const ON_LINK: IpFields = { hops: 255 };
const NEIGHBOUR = icmp('icmpv6', 135, 0, 24);
const ADVERTISEMENT = icmp('icmpv6', 136, 0, 24);
const ROUTER_SOLICITATION = icmp('icmpv6', 133, 0);
const ROUTER_ADVERTISEMENT = icmp('icmpv6', 134, 0, 8);
const REDIRECT = icmp('icmpv6', 137, 0, 32);
const IN_A_FRAGMENT: IpFields = { extensions: [0, 60], fragment: { offset: 0, more: true } };
const REPORT = icmp('icmpv6', 143, 0, 20);
/** Behind a router alert. */
const ONE_HOP: IpFields = { extensions: [0], hops: 1 };
const ICMPV6 = icmpNumber(IPV6);

export const FROM_OUTSIDE: readonly Row[] = [
  ['neighbour solicitation', ip('fe80::1', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour solicitation from a global address', ip(stranger, 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour solicitation, unicast', ip('fe80::1', host, NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour advertisement', ip('fe80::1', 'fe80::2', ADVERTISEMENT, ON_LINK), 'pass'],
  ['router advertisement', ip('fe80::1', 'ff02::1', ROUTER_ADVERTISEMENT, ON_LINK), 'pass'],
  ['duplicate address detection', ip('::', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
  ['a multicast report', ip('::', 'ff02::16', REPORT, { extensions: [0], hops: 1 }), 'pass'],
  ['from nowhere to beyond the link', ip('::', 'ff0e::16', REPORT, { extensions: [0], hops: 1 }), 'spoofedSource'],
];

/** Also where the operator lists no service. */
export const NEIGHBOURS_FROM_DEVICES: readonly Row[] = [
  ['neighbour solicitation', ip('fe80::2', 'ff02::1:ff00:1', NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour solicitation from a global address', ip(device, gateway, NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour solicitation, link-local', ip('fe80::2', 'fe80::1', NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour advertisement', ip('fe80::2', 'fe80::1', ADVERTISEMENT, ON_LINK), 'pass'],
  ['router solicitation', ip('fe80::2', 'ff02::2', ROUTER_SOLICITATION, ON_LINK), 'pass'],
  ['router solicitation to the gateway', ip('fe80::2', 'fe80::1', ROUTER_SOLICITATION, ON_LINK), 'pass'],
  ['router advertisement to the gateway', ip('fe80::2', 'fe80::1', ROUTER_ADVERTISEMENT, ON_LINK), 'gatewayService'],
  ['redirect to the gateway', ip('fe80::2', 'fe80::1', REDIRECT, ON_LINK), 'gatewayService'],
  ['solicitation from beyond the link', ip(device, gateway, NEIGHBOUR, { hops: 254 }), 'gatewayService'],
  ['no service at a link-local address', ip('fe80::2', 'fe80::1', tcp(5000, 22)), 'gatewayService'],
  ['nor at the last of them', ip('fe80::2', 'febf:ffff::1', tcp(5000, 22)), 'gatewayService'],
  ['the address behind the last of them', ip(device, 'fec0::1', tcp(5000, 22)), 'pass'],
];

/** From addresses that nobody holds, as those of the link are, but for what the link needs. */
export const FROM_UNBOUND: readonly Row[] = [
  ['neighbour solicitation', ip(nobody, gateway, NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour advertisement', ip(nobody, gateway, ADVERTISEMENT, ON_LINK), 'pass'],
  ['neighbour advertisement to all', ip(nobody, 'ff02::1', ADVERTISEMENT, ON_LINK), 'pass'],
  ['duplicate address detection', ip('::', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
  ['router solicitation from nowhere', ip('::', 'ff02::2', ROUTER_SOLICITATION, ON_LINK), 'pass'],
  ["neighbour solicitation to the host's outer address", ip(nobody, host, NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour solicitation beyond the link', ip(nobody, stranger, NEIGHBOUR, ON_LINK), 'addressUnbound'],
  ['neighbour solicitation to a wider scope', ip('fe80::2', 'ff05::1', NEIGHBOUR, ON_LINK), 'addressUnbound'],
  ['solicitation with a hop fewer', ip('fe80::2', 'ff02::2', ROUTER_SOLICITATION, { hops: 254 }), 'addressUnbound'],
  ['router advertisement', ip('fe80::2', 'ff02::1', ROUTER_ADVERTISEMENT, ON_LINK), 'addressUnbound'],
  ['a multicast report', ip('fe80::2', 'ff02::16', REPORT, ONE_HOP), 'pass'],
  ['a multicast report from nowhere', ip('::', 'ff02::16', REPORT, ONE_HOP), 'pass'],
  ['a multicast report of version 1', ip('fe80::2', 'ff05::1:3', icmp('icmpv6', 131, 0, 20), ONE_HOP), 'pass'],
  ['a multicast listener is done', ip('fe80::2', 'ff02::2', icmp('icmpv6', 132, 0, 20), ONE_HOP), 'pass'],
  ['a multicast query', ip('fe80::2', 'ff02::1', icmp('icmpv6', 130, 0, 20), ONE_HOP), 'addressUnbound'],
  ['an echo dressed as a report', ip('fe80::2', 'ff02::1', icmp('icmpv6', 128, 0, 20), ONE_HOP), 'addressUnbound'],
  ['UDP dressed as a report', ip('fe80::2', 'ff02::1', udp(5000, 53), ONE_HOP), 'addressUnbound'],
  ['a report without its type', ip('fe80::2', 'ff02::16', raw(ICMPV6), ONE_HOP), 'addressUnbound'],
  ['a report for more hops', ip('fe80::2', 'ff02::16', REPORT, { extensions: [0], hops: 2 }), 'addressUnbound'],
  ['a report behind two headers', ip('fe80::2', 'ff02::16', REPORT, { extensions: [0, 0], hops: 1 }), 'addressUnbound'],
  ['a report without a router alert', ip('fe80::2', 'ff02::16', REPORT, { hops: 1 }), 'addressUnbound'],
  ['a report to one address', ip('fe80::2', stranger, REPORT, ONE_HOP), 'addressUnbound'],
  ['a report from an address of the realm', ip(nobody, 'ff02::16', REPORT, ONE_HOP), 'addressUnbound'],
  ['a service at a link-local address', ip('fe80::2', 'fe80::1', udp(5000, 53)), 'addressUnbound'],
  ['a service, to all on the link', ip('fe80::2', 'ff02::1', udp(5000, 53)), 'addressUnbound'],
  ['an echo at a link-local address', ip('fe80::2', 'fe80::1', echo(IPV6)), 'addressUnbound'],
];

/** Where unbound addresses may speak, too. */
export const FROM_ANYBODY: readonly Row[] = [
  ['a service at a link-local address', ip('fe80::2', 'fe80::1', udp(5000, 53)), 'pass'],
  ['a service, to all on the link', ip('fe80::2', 'ff02::1', udp(5000, 53)), 'pass'],
  ['a multicast query', ip('fe80::2', 'ff02::1', icmp('icmpv6', 130, 0, 20), ONE_HOP), 'gatewayService'],
  ['what is no service, to all on the link', ip('fe80::2', 'ff02::1', udp(5000, 5353)), 'gatewayService'],
];

const inner = unreachable(IPV6, ip(server, device, udp(5000, 5683)));

/** The error behind one extension header of a length of its own, in the units of its kind. */
function behind(header: number, units: number, bytes: number): Uint8Array {
  const extension = new Uint8Array(bytes);
  extension.set([ICMPV6, units]);
  return ip(host, server, raw(header, Uint8Array.of(...extension, ...inner.bytes(address(host), address(server)))));
}

export const TO_OUTSIDE: readonly Row[] = [
  ['neighbour solicitation', ip('fe80::1', 'ff02::1:ff00:2', NEIGHBOUR, ON_LINK), 'pass'],
  ['neighbour advertisement', ip(host, 'fe80::2', ADVERTISEMENT, ON_LINK), 'pass'],
  ['a multicast report', ip('fe80::1', 'ff02::16', REPORT, { extensions: [0], hops: 1 }), 'pass'],
  ['an inner quote behind four headers', ip(host, server, inner, { extensions: [0, 60, 43, 60] }), 'innerLeak'],
  ['an inner quote behind a fragment header and others', ip(host, server, inner, IN_A_FRAGMENT), 'innerLeak'],
  ['an inner quote behind options of 24 bytes', behind(60, 2, 24), 'innerLeak'],
  ['an inner quote behind an authentication header of 24 bytes', behind(51, 4, 24), 'innerLeak'],
  ['five extension headers', ip(host, server, inner, { extensions: [0, 60, 43, 60, 60] }), 'malformed'],
  ['an extension header that is cut', ip(host, server, raw(60, Uint8Array.of(ICMPV6, 0))), 'malformed'],
  ['an extension header longer than the frame', ip(host, server, raw(60, Uint8Array.of(ICMPV6, 9, 0, 0))), 'malformed'],
];
