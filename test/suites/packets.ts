/**
 * What becomes of each kind of packet, as one table for both data planes: at
 * which hook it comes, what it is, and what the gate says; each row in IPv4
 * and in IPv6, those of grants over TCP and over UDP. Every early exit of
 * gate.bpf.c that one packet can take has a row. The order of the checks is
 * part of it: a packet with two faults is named by the first.
 *
 * What one packet cannot show (segmentation, next hops, priority tags, frames
 * cut within the IP header) is in test/kernel, on wires.
 */
import { afterEach, beforeEach, describe, test } from 'vitest';
import { address, hostPrefix } from '../../agent/core/net.ts';
import { ANSWER_MARK, OWN_MARK } from '../../agent/core/reasons.ts';
import type { Protocol } from '../../agent/core/words.ts';
import { HOOKS, type JudgingDataplane } from '../../agent/dataplane/dataplane.ts';
import { ethernet, filler, ip, spoil, udp } from '../frames.ts';
import { type MakeRig, nowNs, REALM, SECOND, setupOf } from './fixture.ts';
import { admissionsOf, admitted, admittedWhole, answersWithMark, anyOf } from './packets/admitted.ts';
import {
  answers,
  answersOfSecondRealm,
  changingHands,
  towardChangingHands,
  unbound,
  unheard,
} from './packets/answers.ts';
import { describeErrors } from './packets/errors.ts';
import { fromDevices, toNoService } from './packets/from-devices.ts';
import { fromOutside, toPool } from './packets/from-outside.ts';
import * as ipv6Only from './packets/ipv6-only.ts';
import { describePieces } from './packets/pieces.ts';
import { expectOutcome, standing, table } from './packets/table.ts';
import { toGrants } from './packets/to-grants.ts';
import { toOutside } from './packets/to-outside.ts';
import { trafficOf } from './packets/traffic.ts';
import { describeUntranslated } from './packets/untranslated.ts';
import { FAMILIES, IPV4, IPV6, openGrants, PORT, unreachable, type Who } from './packets/world.ts';

const GRANTED = FAMILIES.flatMap((who) => (['udp', 'tcp'] as const).map((protocol) => ({ who, protocol })));

export function describePackets(make: MakeRig): void {
  describe.each(GRANTED)('grants over $who.family, $protocol', ({ who, protocol }) =>
    describeGrants(make, who, protocol),
  );
  describe.each(FAMILIES)('beside grants over $family', (who) => describeGuards(make, who));
  describe('what is not IP, or not of this interface', () => describeOthers(make));
}

function describeGrants(make: MakeRig, who: Who, protocol: Protocol): void {
  const open = (plane: JudgingDataplane) => openGrants(plane, who, protocol);
  const rig = standing(make, open);
  const { knock, arrived, answer, sent } = trafficOf(who, protocol);

  describe('from outside', () => table(rig, 'outsideIngress', toGrants(who, protocol)));
  describe('from a device', () => table(rig, 'insideIngress', answers(who, protocol)));
  describe('from the second realm', () => {
    table(rig, 'insideIngress', answersOfSecondRealm(who, protocol), 'secondInside');
  });
  describe('while an address changes hands', () => {
    const set = (changing: boolean) => rig().plane.setChanging(REALM, hostPrefix(address(who.device)), changing);
    beforeEach(() => set(true));
    afterEach(() => set(false));
    table(rig, 'insideIngress', changingHands(who, protocol));
    table(rig, 'insideEgress', towardChangingHands(who));
  });
  describe('while nobody holds an address', () => {
    const own = hostPrefix(address(who.device));
    beforeEach(() => rig().plane.unbind(REALM, own));
    afterEach(() => rig().plane.bind(REALM, own));
    table(rig, 'insideIngress', unbound(who, protocol));
  });
  describe.each([
    ['never, whatever the grace', () => 0n, 1_000_000_000],
    ['not for longer than the grace', () => nowNs() - 31n * SECOND, 30],
  ])('with an agent that was heard %s', (_, last, orphanGraceSeconds) => {
    const { outside, inside } = unheard(who, protocol);
    const alone = standing(make, open, (interfaces) => ({ ...setupOf(interfaces), orphanGraceSeconds }));
    beforeEach(() => alone().plane.heartbeat(last()));
    table(alone, 'outsideIngress', outside);
    table(alone, 'insideIngress', inside);
  });

  describe('with an interface of a realm that is not there', () => {
    const alone = standing(make, open, (interfaces) => {
      const setup = setupOf(interfaces);
      return {
        ...setup,
        inside: setup.inside.map((one) => (one.realm === REALM ? { ...one, ifindex: undefined } : one)),
      };
    });
    const { device, farDevice, server } = who;
    table(alone, 'outsideIngress', [
      ['to a grant of it', knock(PORT.one), 'noGrant'],
      ['to a device of it', ip(server, device, udp(1, 2)), 'realmDestination'],
      ['to a grant of another realm', knock(PORT.far), arrived(PORT.far, { device: farDevice })],
    ]);
    table(alone, 'insideIngress', [['an answer from where it was', answer(PORT.one), 'pass']]);
  });

  describe('in pieces', () => describePieces(make, who, protocol));
  describe('ICMP', () => describeErrors(make, who, protocol));
  describe('without translation', () => describeUntranslated(make, who, protocol));

  test('sums come out right wherever they carry over', () => {
    for (let word = 0; word <= 0xffff; word += 257) {
      const content = Uint8Array.of(word >> 8, word & 0xff);
      const frame = (send: typeof knock) => ethernet(send(PORT.one, { content, fields: { id: word } }));
      expectOutcome(rig(), 'outsideIngress', frame(knock), frame(arrived));
      const hidden = ethernet(sent(PORT.one, { content }));
      expectOutcome(rig(), 'insideIngress', frame(answer), hidden);
    }
  });
}

function describeGuards(make: MakeRig, who: Who): void {
  const isIpv6 = who === IPV6;
  const rig = standing(make, (plane) => openGrants(plane, who, 'udp'));

  describe('from outside', () => {
    table(rig, 'outsideIngress', [...toPool(who), ...fromOutside(who), ...(isIpv6 ? ipv6Only.FROM_OUTSIDE : [])]);
  });
  describe('from a device', () => {
    const { NEIGHBOURS_FROM_DEVICES, FROM_UNBOUND } = ipv6Only;
    const also = isIpv6 ? [...NEIGHBOURS_FROM_DEVICES, ...FROM_UNBOUND] : [];
    table(rig, 'insideIngress', [...fromDevices(who), ...also]);
  });
  describe('from a device that is not bound, where such may speak', () => {
    const open = standing(
      make,
      (plane) => {
        for (const { realm, prefix } of [...plane.bindings()]) plane.unbind(realm, prefix);
      },
      (interfaces) => ({ ...setupOf(interfaces), onlyBound: false }),
    );
    const { NEIGHBOURS_FROM_DEVICES, FROM_ANYBODY } = ipv6Only;
    const also = isIpv6 ? [...NEIGHBOURS_FROM_DEVICES, ...FROM_ANYBODY] : [];
    table(open, 'insideIngress', [...fromDevices(who), ...also]);
  });
  describe('toward the outside', () => {
    table(rig, 'outsideEgress', [...toOutside(who), ...(isIpv6 ? ipv6Only.TO_OUTSIDE : [])]);
  });
  describe('from outside, with filters', () => {
    const open = standing(make, (plane) => {
      openGrants(plane, who, 'udp');
      plane.admissions(FAMILIES.flatMap(admissionsOf));
    });
    table(open, 'outsideIngress', admitted(who));
    table(open, 'insideIngress', fromDevices(who));
  });
  describe('from outside, with a filter that is for every protocol', () => {
    const open = standing(make, (plane) => plane.admissions(FAMILIES.flatMap(anyOf)));
    table(open, 'outsideIngress', admittedWhole(who));
  });
  describe('toward the outside, as the base marks answers', () => {
    table(rig, 'outsideEgress', answersWithMark(who), 'inside', ANSWER_MARK);
    const { device, server } = who;
    const tooBig = ip(device, server, unreachable(who, ip(server, device, udp(5000, 5683, 2000), { hops: 60 })));
    table(rig, 'outsideEgress', [['what the gate itself answers', tooBig, 'pass']], 'inside', OWN_MARK);
  });
  describe('while an address changes hands, so that every hook looks', () => {
    const set = (changing: boolean) => rig().plane.setChanging(REALM, hostPrefix(address(who.device)), changing);
    beforeEach(() => set(true));
    afterEach(() => set(false));
    test.each(HOOKS)('%s: another version than the ether type says', (hook) => {
      const sound = ip(who.server, who.external, udp(5000, PORT.one, 'hello, whoever you are'));
      const etherType = isIpv6 ? 0x86dd : 0x0800;
      for (const version of isIpv6 ? [0x40, 0x45, 0x50] : [0x65, 0x55, 0x05])
        expectOutcome(rig(), hook, ethernet(spoil(sound, 0, version), { etherType }), 'malformed');
    });
  });
  describe('from a device, to a gateway that serves nothing', () => {
    const silent = standing(make, undefined, (interfaces) => ({ ...setupOf(interfaces), services: [] }));
    table(silent, 'insideIngress', [...toNoService(who), ...(isIpv6 ? ipv6Only.NEIGHBOURS_FROM_DEVICES : [])]);
  });
}

function describeOthers(make: MakeRig): void {
  const rig = standing(make, (plane) => openGrants(plane, IPV4, 'udp'));
  const { answer } = trafficOf(IPV4, 'udp');

  test.each([
    ['ARP', ethernet(filler(28), { etherType: 0x0806 })],
    ['LLDP', ethernet(filler(40), { etherType: 0x88cc })],
    ['a VLAN of its own', ethernet(answer(PORT.one), { vlan: 100 })],
    ['what would be IPv4, as ARP', ethernet(answer(PORT.one), { etherType: 0x0806 })],
  ])('%s passes everywhere', (_, frame) => {
    for (const hook of HOOKS) expectOutcome(rig(), hook, frame, 'pass');
  });

  describe('from an interface of no realm', () => {
    table(
      rig,
      'insideIngress',
      [
        ['an answer', answer(PORT.one), 'pass'],
        ['to a device', answer(PORT.one, { peer: IPV4.otherDevice }), 'pass'],
      ],
      'other',
    );
  });
}
