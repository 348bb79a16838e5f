/**
 * What can be odd about a packet, in either family: fragments, options,
 * protocols that no grant carries, headers that contradict the frame. A table
 * asks for those that it is about, between the two addresses that it means.
 *
 * A frame cut within the IP header is not among them: the kernel's test run
 * takes none. gate-load.test.ts sends one on a wire.
 */
import { address } from '../../../agent/core/net.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../../../agent/core/words.ts';
import { type IpFields, ip, raw, spoil, tcp, type Upper, udp } from '../../frames.ts';
import type { Row } from './table.ts';
import { echo, PORT, unreachable, type Who } from './world.ts';

/** Of a length that no first piece has (a multiple of 8 it is not). */
export const FIRST_FRAGMENT: IpFields = { fragment: { offset: 0, more: true } };
export const LATER_FRAGMENT: IpFields = { fragment: { offset: 64, more: false } };

/** IPv4 options, and each of IPv6's extension headers. */
export function optional({ family }: Who): readonly (readonly [what: string, fields: IpFields])[] {
  if (family === 'IPv4') return [['options', { options: Uint8Array.of(7, 7, 4, 0, 0, 0, 0, 0) }]];
  return [0, 43, 51, 60, 135, 139, 140].map((header) => [`extension header ${header}`, { extensions: [header] }]);
}

/** A fragment that has options too. */
export function optionalFragment({ family }: Who): IpFields {
  return family === 'IPv4'
    ? { ...LATER_FRAGMENT, options: new Uint8Array(4) }
    : { ...LATER_FRAGMENT, extensions: [60] };
}

export function strangeProtocols(who: Who): readonly (readonly [what: string, upper: Upper])[] {
  return [
    ['echo', echo(who)],
    ['an ICMP error', unreachable(who, ip(who.server, who.external, udp(5000, PORT.one, 'hello')))],
    ['GRE', raw(47, 8)],
    ['ESP', raw(50, 8)],
    ['UDP-Lite', raw(136, 8)],
  ];
}

/** IP headers that cannot be read. */
export function badHeaders({ family }: Who, from: string, to: string): readonly Row[] {
  const sound = ip(from, to, udp(5000, PORT.one, 'hello'));
  if (family === 'IPv4')
    return [
      ['of version 5', spoil(sound, 0, 0x55), 'malformed'],
      ['with an IPv4 header of 16 bytes', spoil(sound, 0, 0x44), 'malformed'],
      ['shorter than its header', spoil(sound, 2, 0, 19), 'malformed'],
      ['longer than the frame', spoil(sound, 2, 0, sound.length + 1), 'malformed'],
    ];
  return [
    ['longer than the frame', spoil(sound, 4, 0, sound.length - 40 + 1), 'malformed'],
    ['with a mapped source', spoil(sound, 8, ...address('198.51.100.10').bytes), 'malformed'],
    ['with a mapped destination', spoil(sound, 24, ...address('203.0.113.1').bytes), 'malformed'],
  ];
}

/** Transport headers that cannot be read, between two endpoints that a grant joins. */
export function badTransport(protocol: Protocol, from: string, fromPort: number, to: string, toPort: number) {
  const make = { udp, tcp }[protocol];
  const part = make(fromPort, toPort, 'hey').bytes(address(from), address(to));
  const fixed = part.length - 3;
  const packet = (bytes: Uint8Array) => ip(from, to, raw(PROTOCOL_NUMBERS[protocol], bytes));
  const cut = packet(part.subarray(0, fixed - 1));
  const rows: readonly Row[] = [
    ['that ends with the IP header', packet(part.subarray(0, 0)), 'malformed'],
    ['cut within the transport header', cut, 'malformed'],
    ['cut there by its length, though the frame goes on', Uint8Array.of(...cut, ...part.subarray(fixed)), 'malformed'],
  ];
  const lengths: readonly Row[] =
    protocol === 'udp'
      ? [
          ['with a UDP length of 7', packet(spoil(part, 4, 0, 7)), 'malformed'],
          ['with a UDP length past the end', packet(spoil(part, 4, 0, 12)), 'malformed'],
        ]
      : [
          ['with a TCP header of 16 bytes', packet(spoil(part, 12, 4 << 4)), 'malformed'],
          ['with a TCP header past the end', packet(spoil(part, 12, 6 << 4)), 'malformed'],
        ];
  return [...rows, ...lengths];
}
