/** On the way out, whoever sent it: no inner address leaves, nor is quoted by an ICMP error. */
import { fold, icmp, ip, raw, spoil, sum, tcp, udp } from '../../frames.ts';
import { badHeaders, FIRST_FRAGMENT, LATER_FRAGMENT, optional } from './odd.ts';
import type { Row } from './table.ts';
import { echo, icmpNumber, icmpOf, PORT, unreachable, type Who } from './world.ts';

export function toOutside(who: Who): readonly Row[] {
  const { server, stranger, external, device, gateway, host } = who;
  const isIpv4 = who.family === 'IPv4';
  const errors = isIpv4 ? [3, 4, 5, 11, 12] : [1, 2, 3, 4, 100, 127];
  const others = isIpv4 ? [0, 2, 6, 8, 10, 13] : [128, 129, 255];
  const quote = (from: string, to: string) => ip(from, to, udp(5000, 5683));
  const outer = quote(server, host);
  const inner = quote(server, device);
  const fixed = isIpv4 ? 20 : 40;
  const quoting = (type: number, quoted: Uint8Array) => ip(host, server, icmp(icmpOf(who), type, 0, quoted));
  const unreached = (quoted: Uint8Array, fields = {}) => ip(host, server, unreachable(who, quoted), fields);
  const far = (hops: number, fields = {}) => ip(server, host, udp(5000, 5683, 'how far?'), { hops, id: 7, ...fields });
  /** What hosts go by: written anew, with a header and eight bytes of what it is about. */
  const anew = (type: number, about: Uint8Array, code = 0) =>
    ip(host, server, icmp(icmpOf(who), type, code, about.subarray(0, fixed + 8)), {
      hops: 64,
      dontFragment: true,
      id: 0,
    });
  const isAnew = (type: number) => (isIpv4 ? [3, 11, 12] : [1, 2, 3, 4]).includes(type);
  const unreachedAnew = (about: Uint8Array) => (isIpv4 ? anew(3, about, 3) : anew(1, about, 4));
  return [
    ['a granted answer', ip(external, server, udp(PORT.one, 5000)), 'pass'],
    ["the host's own", ip(host, server, tcp(443, 5000)), 'pass'],
    ["the host's own, in fragments", ip(host, server, raw(17, 8), LATER_FRAGMENT), 'pass'],
    ['from an address beside the pool', ip(who.besidePool[1] ?? host, stranger, udp(1024, 53)), 'pass'],
    ...optional(who).map(([what, fields]): Row => [`with ${what}`, ip(host, server, udp(1, 2), fields), 'pass']),
    ...badHeaders(who, host, server),

    ["a device's own address", ip(device, server, udp(5683, 5000)), 'innerLeak'],
    ["a device's of the second realm", ip(who.farDevice, server, udp(5683, 5000)), 'innerLeak'],
    ['the inner gateway as source', ip(gateway, server, echo(who)), 'innerLeak'],
    ["a device's own address, in fragments", ip(device, server, raw(17, 8), LATER_FRAGMENT), 'innerLeak'],

    ...errors.map(
      (type): Row => [`ICMP ${type} that quotes a device as destination`, quoting(type, inner), 'innerLeak'],
    ),
    ...errors.map(
      (type): Row => [
        `ICMP ${type} that quotes nothing of the inside`,
        quoting(type, outer),
        isAnew(type) ? anew(type, outer) : 'pass',
      ],
    ),
    ...errors
      .filter(isAnew)
      .map((type): Row => [`ICMP ${type} tells not how far in it is`, quoting(type, far(61)), anew(type, far(64))]),
    ['an error about what came with more hops than others', unreached(far(255)), unreachedAnew(far(64))],
    ['an error behind others', unreached(far(2), isIpv4 ? {} : { extensions: [60] }), unreachedAnew(far(64))],
    [
      'an error about a packet with options, or of pieces',
      unreached(far(64, isIpv4 ? { options: new Uint8Array(8) } : { fragment: { offset: 0, more: true } })),
      unreachedAnew(longer(far(64))),
    ],
    [
      "an error that has a router's address behind its quote (RFC 5837)",
      unreached(Uint8Array.of(...far(64), ...new Uint8Array(128), ...inner.subarray(isIpv4 ? 12 : 8))),
      unreachedAnew(far(64)),
    ],
    ['an error in pieces, the first', unreached(outer, FIRST_FRAGMENT), 'fragment'],
    ['an error that quotes only a header, of nothing inside', unreached(outer.subarray(0, fixed)), 'malformed'],
    ...others.map((type): Row => [`ICMP ${type}, no error, with what would be a quote`, quoting(type, inner), 'pass']),
    ['an error that quotes a device as source', unreached(quote(device, server)), 'innerLeak'],
    ['an error that quotes the inner gateway', unreached(quote(server, gateway)), 'innerLeak'],
    [
      'an error that quotes a device, in the name of an external endpoint',
      ip(external, server, unreachable(who, inner)),
      'innerLeak',
    ],
    ['an error that quotes only a header', unreached(inner.subarray(0, fixed)), 'innerLeak'],
    ['an error that quotes less', unreached(outer.subarray(0, fixed - 1)), 'malformed'],
    ['an error that quotes nothing', unreached(new Uint8Array()), 'malformed'],
    ['an error that quotes another version', unreached(spoil(outer, 0, 0x55)), 'malformed'],
    ['ICMP without a type', ip(host, server, raw(icmpNumber(who))), 'malformed'],
    ['the first fragment of an error', ip(host, server, unreachable(who, inner), FIRST_FRAGMENT), 'innerLeak'],
    ['a later one, whatever it looks like', ip(host, server, unreachable(who, inner), LATER_FRAGMENT), 'pass'],
    ['a later one, too short for a type', ip(host, server, raw(icmpNumber(who)), LATER_FRAGMENT), 'pass'],
    ...optional(who).map(
      ([what, fields]): Row => [
        `an error that quotes a device, behind ${what}`,
        ip(host, server, unreachable(who, inner), fields),
        'innerLeak',
      ],
    ),
  ];
}

/** A header that says eight bytes more than there are: those of the options it had. */
function longer(packet: Uint8Array): Uint8Array {
  if ((packet[0] ?? 0) >> 4 === 6) return spoil(packet, 5, (packet[5] ?? 0) + 8);
  const header = spoil(packet.subarray(0, 20), 3, (packet[3] ?? 0) + 8);
  const made = fold(sum(spoil(header, 10, 0, 0)));
  return Uint8Array.of(...spoil(header, 10, made >> 8, made & 0xff), ...packet.subarray(20));
}
