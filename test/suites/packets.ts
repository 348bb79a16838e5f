/**
 * What becomes of each kind of packet, as a table: at which hook it comes,
 * what it is, and what the gate says. Every early exit of gate.bpf.c has a
 * row here, and each row of what is carried shows the whole packet as it must
 * leave, sums included. The order of the checks is part of it: a packet with
 * two faults is named by the first.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import type { Hook, JudgingDataplane } from '../../agent/dataplane/dataplane.ts';
import { ethernet, ip, sumsHold, udp } from '../frames.ts';
import { addClasses, HOUR, mapping, nowNs, OTHER_CLASS, type Rig, SECOND } from './fixture.ts';
import { INSIDE_INGRESS } from './packets/inside-ingress.ts';
import { OUTSIDE_EGRESS } from './packets/outside-egress.ts';
import { OUTSIDE_INGRESS } from './packets/outside-ingress.ts';
import { DEVICE, ENDED, GRANTS, LONG_ENDED, leaves, less, type Outcome, SERVER } from './packets/table.ts';

export function describePackets(rig: () => Rig): void {
  describe('packets', () => {
    beforeEach(() => {
      const { plane } = rig();
      addClasses(plane);
      plane.heartbeat(nowNs());
      for (const grant of Object.values(GRANTS)) plane.open(grant, nowNs() + HOUR);
      for (const grant of Object.values(ENDED)) plane.open(grant, nowNs() - SECOND);
      plane.open(LONG_ENDED, nowNs() - 40n * SECOND);
    });

    const look = (hook: Hook, ifindex: (rig: Rig) => number) => (_: string, packet: Uint8Array, outcome: Outcome) =>
      expectVerdict(rig().plane, hook, ifindex(rig()), ethernet(packet), outcome);

    test.each(OUTSIDE_INGRESS)(
      'outside ingress: %s',
      look('outsideIngress', ({ interfaces }) => interfaces.outside),
    );
    test.each(INSIDE_INGRESS)(
      'inside ingress: %s',
      look('insideIngress', ({ interfaces }) => interfaces.inside),
    );
    test.each(OUTSIDE_EGRESS)(
      'outside egress: %s',
      look('outsideEgress', ({ interfaces }) => interfaces.outside),
    );

    test('the second realm answers through its own interface', () => {
      const packet = ip('10.30.0.2', SERVER, udp(5683, 5000));
      const { plane, interfaces } = rig();
      const outcome = leaves(ip('203.0.113.2', SERVER, udp(40000, 5000), less));
      expectVerdict(plane, 'insideIngress', interfaces.secondInside, ethernet(packet), outcome);
    });

    test('what comes on an interface of no realm is not ours', () => {
      const { plane, interfaces } = rig();
      expectVerdict(plane, 'insideIngress', interfaces.other, ethernet(ip(DEVICE, SERVER, udp(5683, 5000))), 'pass');
      expectVerdict(plane, 'insideIngress', interfaces.other, ethernet(ip(DEVICE, '10.20.0.9', udp(1, 2))), 'pass');
    });

    test.each<Hook>(['outsideIngress', 'insideIngress', 'outsideEgress'])('%s: what is not IP is not ours', (hook) => {
      const { plane, interfaces } = rig();
      const ifindex = hook === 'insideIngress' ? interfaces.inside : interfaces.outside;
      const packet = ip(DEVICE, '203.0.113.1', udp(5000, 40000));
      expectVerdict(plane, hook, ifindex, ethernet(packet, { vlan: 5 }), 'pass');
      expectVerdict(plane, hook, ifindex, ethernet(packet, { etherType: 0x0806 }), 'pass');
    });

    test('padding behind the packet is left as it is', () => {
      const { plane, interfaces } = rig();
      const padding = Uint8Array.from({ length: 18 }, () => 0xee);
      const padded = (packet: Uint8Array) => Uint8Array.of(...packet, ...padding);
      const arrives = ethernet(padded(ip(SERVER, '203.0.113.1', udp(5000, 40000))));
      const outcome = leaves(padded(ip(SERVER, DEVICE, udp(5000, 5683), less)));
      expectVerdict(plane, 'outsideIngress', interfaces.outside, arrives, outcome);
    });

    test('a UDP sum that comes out as zero is sent as all ones', () => {
      // The payload is chosen so that the sum toward the device is zero.
      const { plane, interfaces } = rig();
      const payload = payloadForSum(0xffff, (word) => ip(SERVER, DEVICE, udp(5000, 5683, word), less));
      const outcome = leaves(ip(SERVER, DEVICE, udp(5000, 5683, payload), less));
      const arrives = ethernet(ip(SERVER, '203.0.113.1', udp(5000, 40000, payload)));
      expectVerdict(plane, 'outsideIngress', interfaces.outside, arrives, outcome);
    });

    test('addresses on both sides of a class are two servers', () => {
      const { plane, interfaces } = rig();
      const other = mapping({
        external: '203.0.113.4:40000',
        device: '10.20.0.2:5683',
        classId: OTHER_CLASS,
        number: 20,
      });
      plane.open(other, nowNs() + HOUR);
      const answer = (to: string, through: string) =>
        expectVerdict(
          plane,
          'insideIngress',
          interfaces.inside,
          ethernet(ip(DEVICE, to, udp(5683, 5000))),
          leaves(ip(through, to, udp(40000, 5000), less)),
        );
      answer(SERVER, '203.0.113.1');
      answer('198.51.100.200', '203.0.113.4');
    });
  });
}

function expectVerdict(
  plane: JudgingDataplane,
  hook: Hook,
  ifindex: number,
  frame: Uint8Array,
  outcome: Outcome,
): void {
  const verdict = plane.judge(hook, ifindex, frame);
  if (outcome === 'pass') expect(verdict).toEqual({ verdict: 'pass' });
  else if (typeof outcome === 'string') expect(verdict).toEqual({ verdict: 'drop', reason: outcome, sampled: false });
  else {
    if (verdict.verdict !== 'redirect') expect.fail(`not carried, but: ${JSON.stringify(verdict)}`);
    expect(hex(verdict.bytes)).toBe(hex(ethernet(outcome.leaves)));
    expect(sumsHold(verdict.bytes.subarray(14))).toBe(true);
  }
}

/** The two-byte payload with which the UDP sum of a packet is the one wanted. */
function payloadForSum(wanted: number, build: (word: Uint8Array) => Uint8Array): Uint8Array {
  for (let word = 0; word < 0x10000; word++) {
    const payload = Uint8Array.of(word >> 8, word & 0xff);
    const packet = build(payload);
    if (((packet[26] ?? 0) << 8) + (packet[27] ?? 0) === wanted) return payload;
  }
  throw new RangeError('no payload has that sum');
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
