/**
 * Grants that are not translated: the device's own endpoint is the external
 * one, for this server and for nobody else; in a realm whose addresses the
 * outside knows, and toward a server that is meant to see inner ones.
 */
import { describe, expect, test } from 'vitest';
import { prefix } from '../../../agent/core/net.ts';
import { ANSWER_MARK, LET_IN_MARK } from '../../../agent/core/reasons.ts';
import type { Protocol } from '../../../agent/core/words.ts';
import type { GateSetup, JudgingDataplane } from '../../../agent/dataplane/dataplane.ts';
import { cut, ethernet, filler, icmp, ip, tcp, udp } from '../../frames.ts';
import { HOUR, type Interfaces, type MakeRig, mapping, nowNs, OTHER_CLASS, SECOND, setupOf } from '../fixture.ts';
import { type Row, standing, table } from './table.ts';
import { trafficOf } from './traffic.ts';
import { devicePort, icmpOf, openGrants, PORT, unreachable, type Who } from './world.ts';

export function describeUntranslated(make: MakeRig, who: Who, protocol: Protocol): void {
  const { answer } = trafficOf(who, protocol);
  const own = who.device;
  const host = (address: string, port: number) =>
    address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
  const open = (plane: JudgingDataplane) => {
    openGrants(plane, who, protocol);
    const granted = (port: number, age: bigint, slot: number, other: Partial<Parameters<typeof mapping>[0]> = {}) => {
      const endpoint = host(own, port);
      const text = { external: endpoint, device: endpoint, protocol, number: 100 + slot, slot, remote: who.server };
      plane.open(mapping({ ...text, ...other }), nowNs() - age);
    };
    granted(7100, -HOUR, 24);
    granted(7100, -HOUR, 25, { classId: OTHER_CLASS, remote: who.otherServer });
    granted(7101, SECOND, 26);
    granted(7102, -HOUR, 27, { remotePort: 7000 });
  };
  const upper = (from: number, to: number, content: string | number | Uint8Array = 'hello') =>
    protocol === 'udp' ? udp(from, to, content) : tcp(from, to, content);
  const toDevice = (port: number, { peer = who.server, peerPort = 5000, hops = 57 } = {}) =>
    ip(peer, own, upper(peerPort, port), { hops });
  const fromDevice = (port: number, { peer = who.server, hops = 61, id = 0x1234 } = {}) =>
    ip(own, peer, upper(port, 5000), { hops, dontFragment: true, id });
  const about = ip(who.server, own, upper(5000, 7100));

  const rows: readonly Row[] = [
    ['to its own endpoint, from the granted server', toDevice(7100), toDevice(7100, { hops: 64 })],
    [
      'to the same, from another server that was granted it',
      toDevice(7100, { peer: who.otherServer }),
      toDevice(7100, { peer: who.otherServer, hops: 64 }),
    ],
    ['from another address of the class', toDevice(7100, { peer: who.serverSecond }), 'wrongSource'],
    ['from another port than the grant names', toDevice(7102), 'wrongSource'],
    ['from a stranger', toDevice(7100, { peer: who.stranger }), 'realmDestination'],
    ['to a port that nobody was granted', toDevice(7103), 'realmDestination'],
    ['to a port whose grant is translated', toDevice(devicePort(PORT.one)), 'realmDestination'],
    ['to a grant that has ended', toDevice(7101), 'realmDestination'],
    ['with the hops used up', toDevice(7100, { hops: 1 }), 'hopLimit'],
    ['as if from the device', ip(who.otherDevice, own, upper(5000, 7100)), 'spoofedSource'],
    [
      'an error about what it sent',
      ip(who.stranger, own, unreachable(who, fromDevice(7100)), { hops: 50 }),
      ip(who.stranger, own, icmp(icmpOf(who), ...codes(who), quote(fromDevice(7100, { hops: 64 }))), {
        ...{ hops: 64, dontFragment: true, id: 0 },
      }),
    ],
    [
      'an error about what it did not send',
      ip(who.stranger, own, unreachable(who, fromDevice(7103))),
      'realmDestination',
    ],
  ];
  const answers: readonly Row[] = [
    ['to the granted server, with its own address', fromDevice(7100), fromDevice(7100, { hops: 64, id: 0 })],
    ['to another address of the class', fromDevice(7100, { peer: who.serverSecond }), 'wrongRemote'],
    ['just after the end', fromDevice(7101), protocol === 'udp' ? 'tombstone' : 'pass'],
    [
      'an error about what came',
      ip(own, who.server, unreachable(who, about)),
      ip(own, who.server, icmp(icmpOf(who), ...codes(who), quote(about)), { dontFragment: true, id: 0 }),
    ],
  ];

  describe.each([
    ['a realm whose addresses are hidden', true],
    ['a realm whose addresses are known', false],
  ])('in %s', (_, translated) => {
    const setup = (interfaces: Interfaces): GateSetup => {
      const all = setupOf(interfaces);
      return { ...all, inside: all.inside.map((one) => ({ ...one, translated })) };
    };
    const rig = standing(make, open, setup);
    // A known address may be answered: what the gate does not carry there, the base judges.
    const seenRows = rows.map(
      ([what, packet, outcome]): Row => [
        what,
        packet,
        !translated && outcome === 'realmDestination' ? 'pass' : outcome,
      ],
    );
    describe('from outside', () => table(rig, 'outsideIngress', seenRows));
    describe('from the device', () => table(rig, 'insideIngress', answers));
    describe('toward the outside', () => {
      const letOut: Row[] = [
        ['what was granted, by its mark', fromDevice(7100), 'pass'],
        ["the device's own flows, by the base's mark", fromDevice(9), 'pass'],
        ['the gateway of the realm, with that mark', ip(who.gateway, who.server, udp(1, 2)), 'innerLeak'],
      ];
      table(rig, 'outsideEgress', letOut, 'inside', ANSWER_MARK);
      table(rig, 'outsideEgress', [
        ["the device's own flows, where no base has let them out", fromDevice(9), 'innerLeak'],
        ['the gateway of the realm', ip(who.gateway, who.server, udp(1, 2)), 'innerLeak'],
      ]);
    });
    describe('from outside, as if from the inside', () => {
      table(rig, 'outsideIngress', [['a device', ip(own, who.host, udp(1, 2)), 'spoofedSource']]);
    });

    test('pieces follow their first', () => {
      const { plane, interfaces } = rig();
      const whole = ip(who.server, own, upper(5000, 7100, filler(64)), { hops: 57 });
      const arrived = ip(who.server, own, upper(5000, 7100, filler(64)), { hops: 64 });
      const seen = cut(whole, 32, 64).map((piece) =>
        plane.judge('outsideIngress', interfaces.outside, ethernet(piece)),
      );
      expect(seen).toEqual(cut(arrived, 32, 64).map((piece) => ({ verdict: 'redirect', bytes: ethernet(piece) })));
    });

    test('a filter goes on letting in what no grant is for', () => {
      const { plane, interfaces } = rig();
      const [from, to] = who.family === 'IPv4' ? ['0.0.0.0/0', '10.20.0.0/16'] : ['::/0', 'fd00:20::/48'];
      const ports = { low: 7103, high: 7103 };
      plane.admissions([{ source: prefix(from as string), destination: prefix(to as string), protocol, ports }]);
      const judged = [toDevice(7103), toDevice(7101)].map((packet) =>
        plane.judge('outsideIngress', interfaces.outside, ethernet(packet)),
      );
      plane.admissions([]);
      const closed = { verdict: 'drop', reason: 'realmDestination', sampled: false };
      expect(judged).toEqual([{ verdict: 'pass' }, translated ? closed : { verdict: 'pass' }]);
    });

    test('nothing from outside gets in to known addresses that neither gate nor base let in', () => {
      const { plane, interfaces } = rig();
      const frame = ethernet(toDevice(7103));
      const at = (mark: number, from: number) => plane.judge('insideEgress', interfaces.inside, frame, mark, from);
      const closed = { verdict: 'drop', reason: 'realmDestination', sampled: false };
      expect(at(0, interfaces.outside)).toEqual(translated ? { verdict: 'pass' } : closed);
      expect(at(ANSWER_MARK, interfaces.outside)).toEqual(translated ? { verdict: 'pass' } : closed);
      expect(at(LET_IN_MARK, interfaces.outside)).toEqual({ verdict: 'pass' });
      expect(at(0, 0)).toEqual({ verdict: 'pass' }); // the gateway's own
      expect(at(0, interfaces.secondInside)).toEqual({ verdict: 'pass' }); // the base's to judge
    });

    test('grants that are translated go on beside them', () => {
      const { plane, interfaces } = rig();
      expect(plane.judge('insideIngress', interfaces.inside, ethernet(answer(PORT.one))).verdict).toBe('redirect');
    });
  });

  function codes({ family }: Who): readonly [number, number] {
    return family === 'IPv4' ? [3, 3] : [1, 4];
  }

  /** What an error keeps of a packet. */
  function quote(packet: Uint8Array): Uint8Array {
    return packet.subarray(0, who.family === 'IPv4' ? 28 : 48);
  }
}
