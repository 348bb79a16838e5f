/**
 * From outside to the grants pool, over TCP or UDP: what grants carry in, and
 * what they do not. In the order of the gate's checks.
 */
import { address } from '../../../agent/core/net.ts';
import type { Protocol } from '../../../agent/core/words.ts';
import { ip, tcp, udp } from '../../frames.ts';
import { badTransport, FIRST_FRAGMENT, LATER_FRAGMENT, optional, optionalFragment } from './odd.ts';
import type { Row } from './table.ts';
import { trafficOf } from './traffic.ts';
import { devicePort, PORT, type Who } from './world.ts';

export function toGrants(who: Who, protocol: Protocol): readonly Row[] {
  const { knock, arrived, piece } = trafficOf(who, protocol);
  const { server, serverSecond, otherServer, stranger, external, externalNext, externalLast } = who;
  const trailer = Uint8Array.from({ length: 18 }, () => 0xee);
  const padded = (packet: Uint8Array) => Uint8Array.of(...packet, ...trailer);
  const overOther = protocol === 'udp' ? tcp(5000, PORT.one) : udp(5000, PORT.one);
  return [
    ['to a grant, from its server', knock(PORT.one), arrived(PORT.one)],
    ['with hops for one more', knock(PORT.one, { fields: { hops: 2 } }), arrived(PORT.one)],
    ['with all hops there are', knock(PORT.one, { fields: { hops: 255 } }), arrived(PORT.one)],
    [
      'of a traffic class, with congestion met, not to be fragmented',
      knock(PORT.one, { fields: { hops: 3, trafficClass: 0xbb, dontFragment: true } }),
      arrived(PORT.one, { fields: { trafficClass: 3, dontFragment: true } }),
    ],
    ['padded behind its end', padded(knock(PORT.one)), padded(arrived(PORT.one))],
    [
      'from another address of the class, where any will do',
      knock(PORT.any, { peer: serverSecond }),
      arrived(PORT.any, { peer: serverSecond }),
    ],
    [
      'from the other class, to the same endpoint of the device',
      knock(PORT.other, { peer: otherServer }),
      arrived(PORT.any, { peer: otherServer }),
    ],
    [
      'from the port that the grant names',
      knock(PORT.narrow, { peerPort: 7000 }),
      arrived(PORT.narrow, { peerPort: 7000 }),
    ],
    ['to the last endpoint of the pool', knock(PORT.last, { external: externalLast }), arrived(PORT.last)],
    ['to a device of the second realm', knock(PORT.far), arrived(PORT.far, { device: who.farDevice })],
    ...(protocol === 'udp' ? sums(who) : []),

    ...optional(who).map(([what, fields]): Row => [`with ${what}`, knock(PORT.one, { fields }), 'headerOptions']),
    ['a fragment with options', ip(server, external, piece, optionalFragment(who)), 'headerOptions'],
    ['as a first fragment of an odd length', knock(PORT.one, { fields: FIRST_FRAGMENT }), 'fragment'],
    ['as a later fragment', ip(server, external, piece, LATER_FRAGMENT), 'fragment'],
    ['as the last of many', ip(server, external, piece, { fragment: { offset: 0xfff8, more: false } }), 'fragment'],
    ...badTransport(protocol, server, 5000, external, PORT.one),

    ['to a grant that was forgotten', knock(PORT.forgotten), 'noGrant'],
    // In IPv4 it is the later grant's own endpoint.
    ...(who.family === 'IPv4' ? [] : [['whose index a later grant has', knock(PORT.leftover), 'noGrant'] as const]),
    ['to a port nobody was granted', knock(PORT.none), 'noGrant'],
    ['to a port granted over the other transport', ip(server, external, overOther), 'noGrant'],
    ['to a port below the range', knock(PORT.one - 1), 'noGrant'],
    ['to a port above the range', knock(PORT.last + 1), 'noGrant'],
    ['to a port above the range, though a grant is next', knock(PORT.last + 1, { external: externalNext }), 'noGrant'],
    ['to a granted port of another address of the pool', knock(PORT.one, { external: externalLast }), 'noGrant'],
    ...who.poolEnds.map((end): Row => [`to ${end}`, knock(PORT.one, { external: end }), 'noGrant']),
    ['to a port above the range, the hops used up', knock(PORT.last + 1, { fields: { hops: 1 } }), 'noGrant'],

    ['to a grant that ended', knock(PORT.ended), 'grantEnded'],
    ['to a grant that ended, from a stranger', knock(PORT.resting, { peer: stranger }), 'grantEnded'],
    ['from another port than the grant names', knock(PORT.narrow), 'wrongSource'],
    ['from another address of the class', knock(PORT.one, { peer: serverSecond }), 'wrongSource'],
    ['from another class, where any of one will do', knock(PORT.any, { peer: otherServer }), 'wrongSource'],
    ['from no class, where any of one will do', knock(PORT.any, { peer: stranger }), 'wrongSource'],
    [
      'from an impossible source',
      knock(PORT.one, { peer: who.family === 'IPv4' ? '127.0.0.1' : '::1' }),
      'wrongSource',
    ],
    ['from a device, as it says', knock(PORT.any, { peer: who.device }), 'wrongSource'],
    ['from a stranger, the hops used up', knock(PORT.one, { peer: stranger, fields: { hops: 1 } }), 'wrongSource'],
    ['with the hops used up', knock(PORT.one, { fields: { hops: 1 } }), 'hopLimit'],
    ['with no hops at all', knock(PORT.one, { fields: { hops: 0 } }), 'hopLimit'],
  ];
}

/** UDP says "no sum" by a zero, and so never has one (RFC 768). */
function sums(who: Who): readonly Row[] {
  const { knock, arrived } = trafficOf(who, 'udp');
  // A payload that is the sum of the packet without it brings that to zero.
  const without = udp(5000, devicePort(PORT.one), new Uint8Array(2));
  const content = without.bytes(address(who.server), address(who.device)).subarray(6, 8);
  return [
    ['without a sum', knock(PORT.one, { noChecksum: true }), arrived(PORT.one, { noChecksum: true })],
    ['whose sum comes out as zero', knock(PORT.one, { content }), arrived(PORT.one, { content })],
  ];
}
