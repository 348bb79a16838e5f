/**
 * The gate's packet table, first half: packets of grants, asked of the
 * program in the kernel by BPF_PROG_TEST_RUN. Every way in which a packet to
 * or from a grant can be refused has a row, in IPv4 and IPv6, TCP and UDP.
 *
 * What one packet cannot show (segmentation, next hops, priority tags) is in
 * gate-attach.test.ts, on wires.
 */
import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../../agent/core/words.ts';
import { ethernet, type IpFields, ip, raw, spoil, tcp, udp } from '../frames.ts';
import {
  carried,
  counted,
  denied,
  devicePort,
  FAMILIES,
  icmpEcho,
  judge,
  LATER_FRAGMENT,
  open,
  PASS,
  PORT,
  REALM,
  type Row,
  rig,
  SECOND,
  table,
  withGate,
  withGrants,
} from './gate-table.ts';

withGate();

const TRANSPORTS = { udp, tcp } as const;

/** Places in a transport header, and what to write there, so that its length says nonsense. */
function badLengths(protocol: Protocol): readonly (readonly [string, number, ...number[]])[] {
  if (protocol === 'udp')
    return [
      ['with a UDP length of 7', 4, 0, 7],
      ['with a UDP length past the end', 4, 0, 14],
    ];
  return [
    ['with a TCP header of 16 bytes', 12, 4 << 4],
    ['with a TCP header past the end', 12, 15 << 4],
  ];
}
const CASES = (['IPv4', 'IPv6'] as const).flatMap((family) =>
  (['udp', 'tcp'] as const).map((protocol) => ({ family, protocol })),
);

describe.each(CASES)('$family $protocol', ({ family, protocol }) => {
  const who = FAMILIES[family];
  const make = TRANSPORTS[protocol];
  const part = make(5000, PORT.one, 'hello').bytes(address(who.server), address(who.external));
  const inPieces = (bytes: Uint8Array) => raw(PROTOCOL_NUMBERS[protocol], bytes);
  const knock = (port: number, other: { from?: string; fromPort?: number; to?: string; fields?: IpFields } = {}) =>
    ip(other.from ?? who.server, other.to ?? who.external, make(other.fromPort ?? 5000, port, 'hello'), other.fields);
  const answer = (port: number, other: { to?: string; toPort?: number; fields?: IpFields } = {}) =>
    ip(who.device, other.to ?? who.server, make(devicePort(port), other.toPort ?? 5000, 'well?'), other.fields);
  const arrived = (port: number, from: string = who.server, fromPort = 5000, hops = 63) =>
    ip(from, who.device, make(fromPort, devicePort(port), 'hello'), { hops });
  const sent = (port: number, to: string = who.server, toPort = 5000) =>
    ip(who.external, to, make(port, toPort, 'well?'), { hops: 63 });

  withGrants(who, protocol);

  describe('from outside', () => {
    table('outsideIngress', [
      ['to a grant, from its server', knock(PORT.one), arrived(PORT.one)],
      ['with hops for one more', knock(PORT.one, { fields: { hops: 2 } }), arrived(PORT.one, who.server, 5000, 1)],
      [
        'from another address of the class, where any will do',
        knock(PORT.any, { from: who.serverSecond }),
        arrived(PORT.any, who.serverSecond),
      ],
      [
        'from the port that the grant names',
        knock(PORT.narrow, { fromPort: 7000 }),
        arrived(PORT.narrow, who.server, 7000),
      ],
      ['to the last endpoint of the pool', knock(PORT.last, { to: who.externalSecond }), arrived(PORT.last)],
      ['from another port than the grant names', knock(PORT.narrow), 'wrongSource'],
      ['from another address of the class', knock(PORT.one, { from: who.serverSecond }), 'wrongSource'],
      ['from outside the class, where any of it will do', knock(PORT.any, { from: who.rogue }), 'wrongSource'],
      ['to a grant that ended', knock(PORT.ended), 'grantEnded'],
      ['to a grant that was forgotten', knock(PORT.forgotten), 'noGrant'],
      ['to a port nobody was granted', knock(PORT.one + 50), 'noGrant'],
      ['to a port below the range', knock(PORT.one - 1), 'noGrant'],
      ['to a port above the range', knock(PORT.last + 1), 'noGrant'],
      ['to a granted port of another address of the pool', knock(PORT.one, { to: who.externalSecond }), 'noGrant'],
      ['with the hops used up', knock(PORT.one, { fields: { hops: 1 } }), 'hopLimit'],
      ['with no hops at all', knock(PORT.one, { fields: { hops: 0 } }), 'hopLimit'],
      ['as a first fragment', knock(PORT.one, { fields: { fragment: { offset: 0, more: true } } }), 'fragment'],
      ['as a later fragment', ip(who.server, who.external, inPieces(part), LATER_FRAGMENT), 'fragment'],
      ['cut within the transport header', ip(who.server, who.external, inPieces(part.subarray(0, 7))), 'malformed'],
      ['that ends with the IP header', ip(who.server, who.external, inPieces(part.subarray(0, 0))), 'malformed'],
      ...badLengths(protocol).map(
        ([name, ...spoilt]): Row => [name, ip(who.server, who.external, inPieces(spoil(part, ...spoilt))), 'malformed'],
      ),
    ]);
  });

  describe('from a device', () => {
    const leftover = protocol === 'udp' ? 'tombstone' : 'pass';
    table('insideIngress', [
      ['to the server it was granted to', answer(PORT.one), sent(PORT.one)],
      ['to any address of the class', answer(PORT.any, { to: who.serverSecond }), sent(PORT.any, who.serverSecond)],
      ['to the port that the grant names', answer(PORT.narrow, { toPort: 7000 }), sent(PORT.narrow, who.server, 7000)],
      ['to another port than the grant names', answer(PORT.narrow), 'wrongRemote'],
      ['to another address of the class', answer(PORT.one, { to: who.serverSecond }), 'wrongRemote'],
      ['to an address outside the class', answer(PORT.one, { to: who.elsewhere }), 'pass'],
      ['from a port without a grant', answer(PORT.one + 50), 'pass'],
      ['just after the end', answer(PORT.resting), leftover],
      ['just after the end, to another address', answer(PORT.resting, { to: who.serverSecond }), 'pass'],
      ['long after the end', answer(PORT.ended), 'pass'],
      ['after the grant was forgotten', answer(PORT.forgotten), 'pass'],
      ['with the hops used up', answer(PORT.one, { fields: { hops: 1 } }), 'hopLimit'],
      ['as a fragment', answer(PORT.one, { fields: { fragment: { offset: 0, more: true } } }), 'pass'],
      ['as a later fragment', ip(who.device, who.server, inPieces(part), LATER_FRAGMENT), 'pass'],
      ['cut within the transport header', ip(who.device, who.server, inPieces(part.subarray(0, 7))), 'malformed'],
      ['to a device', answer(PORT.one, { to: who.otherDevice }), 'deviceToDevice'],
      ['to the gateway', answer(PORT.one, { to: who.gateway }), 'gatewayService'],
      ["to an address of the host's on another side", answer(PORT.one, { to: who.host }), 'gatewayService'],
      [
        'to a service of the gateway',
        answer(PORT.one, { to: who.gateway, toPort: protocol === 'udp' ? 53 : 853 }),
        'pass',
      ],
      [
        'to the port of a service over the other transport',
        answer(PORT.one, { to: who.gateway, toPort: protocol === 'udp' ? 853 : 53 }),
        'gatewayService',
      ],
      [
        'to a service, as a fragment',
        answer(PORT.one, {
          to: who.gateway,
          toPort: protocol === 'udp' ? 53 : 853,
          fields: { fragment: { offset: 0, more: true } },
        }),
        'gatewayService',
      ],
    ]);

    test('whose address is changing hands', () => {
      rig.plane.setChanging(REALM, address(who.device), true);
      expect(judge('insideIngress', answer(PORT.one))).toEqual(denied('addressChangingHands'));
      expect(judge('insideIngress', ip(who.device, who.elsewhere, icmpEcho(family)))).toEqual(
        denied('addressChangingHands'),
      );
      expect(judge('insideIngress', ip(who.otherDevice, who.elsewhere, udp(1, 2)))).toEqual(PASS);
      rig.plane.setChanging(REALM, address(who.device), false);
      expect(judge('insideIngress', answer(PORT.one)).verdict).toBe('redirect');
    });

    test('at an interface that is none of the inside', () => {
      expect(judge('insideIngress', answer(PORT.one), rig.interfaces.other)).toEqual(PASS);
    });
  });

  test.each([0n, 1n])('an agent that was not heard of for long, last at %d', (last) => {
    rig.plane.heartbeat(last === 0n ? 0n : process.hrtime.bigint() - 301n * SECOND);
    expect(judge('outsideIngress', knock(PORT.one))).toEqual(denied('agentLost'));
    expect(judge('insideIngress', answer(PORT.one))).toEqual(denied('agentLost'));
    expect(judge('insideIngress', answer(PORT.one, { to: who.serverSecond }))).toEqual(denied('agentLost'));
    rig.plane.heartbeat(process.hrtime.bigint());
    expect(judge('outsideIngress', knock(PORT.one)).verdict).toBe('redirect');
  });

  test('a grant that ends stops at once, both ways', () => {
    const mapping = open(who, protocol, PORT.one + 9, process.hrtime.bigint() + 3600n * SECOND);
    expect(judge('outsideIngress', knock(PORT.one + 9)).verdict).toBe('redirect');
    expect(rig.plane.end(mapping.index, mapping.number, process.hrtime.bigint() - SECOND / 10n)).toBe(true);
    expect(judge('outsideIngress', knock(PORT.one + 9))).toEqual(denied('grantEnded'));
    expect(judge('insideIngress', answer(PORT.one + 9))).toEqual(protocol === 'udp' ? denied('tombstone') : PASS);
    rig.plane.forget(mapping);
  });

  test('what it carries is counted for the grant', () => {
    const mapping = open(who, protocol, PORT.one + 8, process.hrtime.bigint() + 3600n * SECOND);
    judge('outsideIngress', knock(PORT.one + 8));
    judge('outsideIngress', knock(PORT.one + 8));
    judge('insideIngress', answer(PORT.one + 8));
    const length = BigInt(ethernet(knock(PORT.one)).length);
    expect(rig.plane.carried(mapping.index)).toEqual({
      in: { packets: 2n, bytes: 2n * length },
      out: { packets: 1n, bytes: length },
    });
    rig.plane.end(mapping.index, mapping.number, 1n);
    rig.plane.forget(mapping);
  });
});

describe('checksums', () => {
  const who = FAMILIES.IPv4;
  withGrants(who, 'udp');

  test('UDP over IPv4 without one stays without', () => {
    const none = { noChecksum: true };
    const sent = ip(who.server, who.external, udp(5000, PORT.one, 'hello', none));
    const became = ip(who.server, who.device, udp(5000, devicePort(PORT.one), 'hello', none), { hops: 63 });
    expect(judge('outsideIngress', sent)).toEqual(carried(became));
  });

  test('come out right wherever the sum carries over', () => {
    for (let word = 0; word <= 0xffff; word += 257) {
      const payload = Uint8Array.of(word >> 8, word & 0xff);
      const sent = ip(who.server, who.external, udp(5000, PORT.one, payload));
      const became = ip(who.server, who.device, udp(5000, devicePort(PORT.one), payload), { hops: 63 });
      expect(judge('outsideIngress', sent)).toEqual(carried(became));
    }
  });
});

describe('samples', () => {
  const knock = ip(FAMILIES.IPv4.rogue, FAMILIES.IPv4.external, udp(1, PORT.one + 40));
  const leak = ip(FAMILIES.IPv4.device, FAMILIES.IPv4.server, udp(1, 2));

  test('one an interval, and none where that is off', () => {
    rig.plane.sample(1);
    const before = rig.plane.counters();
    const verdicts = Array.from({ length: 20 }, () => judge('outsideIngress', knock));
    rig.plane.sample(0);
    expect(verdicts.filter((one) => one.verdict === 'drop' && one.sampled)).toHaveLength(1);
    expect(counted(before)).toEqual({ noGrant: `20 of ${20 * 42}`, sampled: '1 of 42' });
    expect(judge('outsideIngress', knock)).toEqual(denied('noGrant'));
  });

  test('never of what would leave', () => {
    rig.plane.sample(1_000_000);
    expect(judge('outsideEgress', leak)).toEqual(denied('innerLeak'));
    rig.plane.sample(0);
  });
});
