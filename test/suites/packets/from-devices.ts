/** From a device, and no answer: not to the gateway but for what it serves, not to other devices. */
import { icmp, ip, raw, tcp, udp } from '../../frames.ts';
import { badHeaders, FIRST_FRAGMENT, LATER_FRAGMENT, optional, strangeProtocols } from './odd.ts';
import type { Row } from './table.ts';
import { echo, icmpNumber, icmpOf, type Who } from './world.ts';

export function fromDevices(who: Who): readonly Row[] {
  const { server, device, otherDevice, gateway, host } = who;
  const isIpv4 = who.family === 'IPv4';
  const otherIcmp = isIpv4 ? 58 : 1;
  const echoType = Uint8Array.of(isIpv4 ? 8 : 128, 0, 0, 0, 0, 0, 0, 0);
  const echoReply = icmp(icmpOf(who), isIpv4 ? 0 : 129, 0, 16);
  const strange = strangeProtocols(who);
  return [
    ...strange.map(([what, upper]): Row => [`${what} to a server`, ip(device, server, upper), 'pass']),
    ...badHeaders(who, device, server),

    ['echo to a device', ip(device, otherDevice, echo(who)), 'deviceToDevice'],
    ['echo to a device of another realm', ip(device, who.farDevice, echo(who)), 'deviceToDevice'],
    ['a fragment to a device', ip(device, otherDevice, raw(17, 8), LATER_FRAGMENT), 'deviceToDevice'],
    ...optional(who).map(
      ([what, fields]): Row => [`${what} to a device`, ip(device, otherDevice, udp(1, 2), fields), 'deviceToDevice'],
    ),

    ...ofAll(who).flatMap(([what, all]): Row[] => [
      [`UDP to ${what}`, ip(device, all, udp(5000, 5353)), 'gatewayService'],
      [`TCP to ${what}`, ip(device, all, tcp(5000, 22)), 'gatewayService'],
      [`a fragment to ${what}`, ip(device, all, raw(17, 8), LATER_FRAGMENT), 'gatewayService'],
      [`a service, at ${what}`, ip(device, all, udp(5000, 53)), 'pass'],
    ]),

    ['echo to the gateway', ip(device, gateway, echo(who)), 'pass'],
    ["echo to the host's outer address", ip(device, host, echo(who)), 'pass'],
    ['an echo reply to the gateway', ip(device, gateway, echoReply), 'gatewayService'],
    ["echo of the other family's ICMP", ip(device, gateway, raw(otherIcmp, echoType)), 'gatewayService'],
    ['ICMP without a type to the gateway', ip(device, gateway, raw(icmpNumber(who))), 'gatewayService'],
    [
      'ICMP whose type is in the padding, to the gateway',
      Uint8Array.of(...ip(device, gateway, raw(icmpNumber(who))), ...echoType),
      'gatewayService',
    ],
    ...strange
      .slice(1)
      .map(([what, upper]): Row => [`${what} to the gateway`, ip(device, gateway, upper), 'gatewayService']),
    ['a fragment of echo to the gateway', ip(device, gateway, echo(who), FIRST_FRAGMENT), 'gatewayService'],
    ...optional(who).map(
      ([what, fields]): Row => [`${what} to the gateway`, ip(device, gateway, udp(1, 53), fields), 'gatewayService'],
    ),
  ];
}

/** Where the operator lists no service. */
export function toNoService(who: Who): readonly Row[] {
  const { device, gateway } = who;
  return [
    ['echo', ip(device, gateway, echo(who)), 'gatewayService'],
    ['UDP', ip(device, gateway, udp(5000, 53)), 'gatewayService'],
    ['TCP', ip(device, gateway, tcp(5000, 853)), 'gatewayService'],
  ];
}

/** What the gateway hears, too, though it is not its own address alone. */
function ofAll({ family }: Who): readonly (readonly [what: string, address: string])[] {
  if (family === 'IPv6') return [['all on the link', 'ff02::1'] as const, ['a wider group', 'ff05::2']];
  return [
    ['a multicast group', '224.0.0.251'] as const,
    ['a wider group', '239.255.255.250'],
    ['all', '255.255.255.255'],
  ];
}
