/**
 * From a device, over TCP or UDP: what grants carry out, and what only looks
 * like an answer, which the guards then have a say in. In the order of the
 * gate's checks.
 */
import type { Protocol } from '../../../agent/core/words.ts';
import { filler, ip, tcp, udp } from '../../frames.ts';
import { badHeaders, badTransport, FIRST_FRAGMENT, LATER_FRAGMENT, optional } from './odd.ts';
import type { Row } from './table.ts';
import { trafficOf } from './traffic.ts';
import { devicePort, echo, PORT, type Who } from './world.ts';

export function answers(who: Who, protocol: Protocol): readonly Row[] {
  const { answer, sent, piece } = trafficOf(who, protocol);
  const { server, serverSecond, otherServer, stranger, external, device, gateway } = who;
  const isUdp = protocol === 'udp';
  const [service, notOne] = isUdp ? [53, 853] : [853, 53];
  const overOther = isUdp ? tcp(devicePort(PORT.one), 5000) : udp(devicePort(PORT.one), 5000);
  return [
    ['to the server it was granted to', answer(PORT.one), sent(PORT.one)],
    ['with hops for one more', answer(PORT.one, { fields: { hops: 2 } }), sent(PORT.one)],
    [
      'of a traffic class and a flow',
      answer(PORT.one, { fields: { trafficClass: 0xb9, flowLabel: 0x12345 } }),
      sent(PORT.one, { fields: { trafficClass: 1 } }),
    ],
    ['to any address of the class', answer(PORT.any, { peer: serverSecond }), sent(PORT.any, { peer: serverSecond })],
    [
      'to the other class, from the same endpoint',
      answer(PORT.any, { peer: otherServer }),
      sent(PORT.other, { peer: otherServer }),
    ],
    [
      'to the port that the grant names',
      answer(PORT.narrow, { peerPort: 7000 }),
      sent(PORT.narrow, { peerPort: 7000 }),
    ],
    ['from the last endpoint of the pool', answer(PORT.last), sent(PORT.last, { external: who.externalLast })],

    ...optional(who).map(([what, fields]): Row => [`with ${what}`, answer(PORT.one, { fields }), 'pass']),
    ['as a first fragment of an odd length', answer(PORT.one, { fields: FIRST_FRAGMENT }), 'fragment'],
    ['as a later fragment', ip(device, server, piece, LATER_FRAGMENT), 'pass'],
    ...badTransport(protocol, device, devicePort(PORT.one), server, 5000),

    ['to an address outside the class', answer(PORT.one, { peer: stranger }), 'pass'],
    ['to an address of another class', answer(PORT.one, { peer: otherServer }), 'pass'],
    ['to an external endpoint', answer(PORT.one, { peer: external, peerPort: PORT.one }), 'pass'],
    ['from a port without a grant', answer(PORT.none), 'pass'],
    ['from a granted port over the other transport', ip(device, server, overOther), 'pass'],
    ['from a device of the other realm', answer(PORT.far, { device: who.farDevice }), 'addressUnbound'],
    ['after the grant was forgotten', answer(PORT.forgotten), 'pass'],
    ['of a grant whose index a later one has', answer(PORT.leftover), 'pass'],
    ['just after the end', answer(PORT.resting), isUdp ? 'tombstone' : 'pass'],
    ['just after the end, to another address', answer(PORT.resting, { peer: serverSecond }), 'pass'],
    ['long after the end', answer(PORT.ended), 'pass'],
    ['to another port than the grant names', answer(PORT.narrow), 'wrongRemote'],
    ['to another address of the class', answer(PORT.one, { peer: serverSecond }), 'wrongRemote'],
    ['to another one, the hops used up', answer(PORT.one, { peer: serverSecond, fields: { hops: 1 } }), 'wrongRemote'],
    ['with the hops used up', answer(PORT.one, { fields: { hops: 1 } }), 'hopLimit'],
    ['with no hops at all', answer(PORT.one, { fields: { hops: 0 } }), 'hopLimit'],

    ['to a device', answer(PORT.one, { peer: who.otherDevice }), 'deviceToDevice'],
    ['to a device of another realm', answer(PORT.one, { peer: who.farDevice }), 'deviceToDevice'],
    ['to the gateway', answer(PORT.one, { peer: gateway }), 'gatewayService'],
    ["to the host's outer address", answer(PORT.one, { peer: who.host }), 'gatewayService'],
    ['to a service of the gateway', answer(PORT.one, { peer: gateway, peerPort: service }), 'pass'],
    ["to a service at the host's outer address", answer(PORT.one, { peer: who.host, peerPort: service }), 'pass'],
    ['to a service over the other transport', answer(PORT.one, { peer: gateway, peerPort: notOne }), 'gatewayService'],
    [
      'to a service, as a fragment',
      answer(PORT.one, { peer: gateway, peerPort: service, fields: FIRST_FRAGMENT, content: filler(isUdp ? 8 : 4) }),
      'gatewayService',
    ],
  ];
}

/** At the second realm's interface, where the same addresses are other devices. */
export function answersOfSecondRealm(who: Who, protocol: Protocol): readonly Row[] {
  const { answer, sent } = trafficOf(who, protocol);
  return [
    ['from its device', answer(PORT.far, { device: who.farDevice }), sent(PORT.far)],
    ['from a device of the first realm', answer(PORT.one), 'addressUnbound'],
  ];
}

/** While nobody holds the address of `device`, in the order of the gate's checks: what a grant carries is its grant's. */
export function unbound(who: Who, protocol: Protocol): readonly Row[] {
  const { answer, sent, piece } = trafficOf(who, protocol);
  const { device, otherDevice, farDevice, gateway, host, server, stranger, prefixEnds, besidePrefix } = who;
  const service = protocol === 'udp' ? 53 : 853;
  const isUdp = protocol === 'udp';
  return [
    ['an answer', answer(PORT.one), sent(PORT.one)],
    ['an answer to another address', answer(PORT.one, { peer: who.serverSecond }), 'wrongRemote'],
    ['just after the end', answer(PORT.resting), isUdp ? 'tombstone' : 'addressUnbound'],
    ['long after the end', answer(PORT.ended), 'addressUnbound'],
    ['a flow of its own', answer(PORT.none), 'addressUnbound'],
    ['a flow of its own, to a stranger', answer(PORT.one, { peer: stranger }), 'addressUnbound'],
    ['a fragment', ip(device, server, piece, LATER_FRAGMENT), 'addressUnbound'],
    ['an echo', ip(device, stranger, echo(who)), 'addressUnbound'],
    ...optional(who).map(([what, fields]): Row => [`with ${what}`, answer(PORT.one, { fields }), 'addressUnbound']),
    ...badTransport(protocol, device, devicePort(PORT.one), server, 5000),
    ['to a device', answer(PORT.one, { peer: otherDevice }), 'deviceToDevice'],
    ['to the gateway', answer(PORT.one, { peer: gateway }), 'gatewayService'],
    ['to a service of the gateway', answer(PORT.one, { peer: gateway, peerPort: service }), 'addressUnbound'],
    ["to a service at the host's outer address", answer(PORT.one, { peer: host, peerPort: service }), 'addressUnbound'],
    ['an echo to the gateway', ip(device, gateway, echo(who)), 'addressUnbound'],
    ['another device', ip(otherDevice, stranger, udp(1, 2)), 'pass'],
    ['a device of another realm', ip(farDevice, stranger, udp(1, 2)), 'addressUnbound'],
    ['the gateway, as it says', ip(gateway, stranger, udp(1, 2)), 'addressUnbound'],
    ...prefixEnds.map((end): Row => [`${end}, of a prefix that is held`, ip(end, stranger, udp(1, 2)), 'pass']),
    ...besidePrefix.map((end): Row => [`${end}, beside it`, ip(end, stranger, udp(1, 2)), 'addressUnbound']),
  ];
}

/** While the address of `device` is given to another. */
export function changingHands(who: Who, protocol: Protocol): readonly Row[] {
  const { answer, piece } = trafficOf(who, protocol);
  const { device, otherDevice, server, stranger } = who;
  return [
    ['an answer', answer(PORT.one), 'addressChangingHands'],
    ['a fragment of one', ip(device, server, piece, LATER_FRAGMENT), 'addressChangingHands'],
    ['its own flows', ip(device, stranger, echo(who)), 'addressChangingHands'],
    ...badTransport(protocol, device, devicePort(PORT.one), server, 5000).map(
      ([what, packet]): Row => [`an answer ${what}`, packet, 'addressChangingHands'],
    ),
    ...badHeaders(who, device, server),
    ['another device', ip(otherDevice, stranger, udp(1, 2)), 'pass'],
  ];
}

/** The same, toward it. */
export function towardChangingHands(who: Who): readonly Row[] {
  const { device, otherDevice, server, stranger } = who;
  return [
    ['an answer to a flow of its own', ip(stranger, device, udp(53, 40_000)), 'addressChangingHands'],
    ['a later fragment of one', ip(server, device, udp(53, 40_000), LATER_FRAGMENT), 'addressChangingHands'],
    ['an ICMP message', ip(stranger, device, echo(who)), 'addressChangingHands'],
    ['an answer to another device', ip(stranger, otherDevice, udp(53, 40_000)), 'pass'],
  ];
}

/** While the agent is not heard, by the hook they come in at. */
export function unheard(who: Who, protocol: Protocol) {
  const { knock, answer } = trafficOf(who, protocol);
  const { serverSecond, stranger } = who;
  const outside: readonly Row[] = [
    ['to a grant', knock(PORT.one), 'agentLost'],
    ['to a grant, from a stranger', knock(PORT.one, { peer: stranger }), 'agentLost'],
    ['to a grant that ended', knock(PORT.ended), 'grantEnded'],
    ['to a port nobody was granted', knock(PORT.none), 'noGrant'],
  ];
  const inside: readonly Row[] = [
    ['an answer', answer(PORT.one), 'agentLost'],
    ['an answer to another address', answer(PORT.one, { peer: serverSecond }), 'agentLost'],
    ['an answer just after the end', answer(PORT.resting), protocol === 'udp' ? 'tombstone' : 'pass'],
    ['a flow of its own', answer(PORT.one, { peer: stranger }), 'pass'],
  ];
  return { outside, inside };
}
