/**
 * What a data plane promises the rest of the agent (dataplane.ts), as one
 * suite for both: the gate in the kernel and its twin in memory. Here, what
 * the calls do; what becomes of each kind of packet stands in packets.ts.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { hostPrefix, prefix } from '../../agent/core/net.ts';
import { DENIAL_REASONS } from '../../agent/core/reasons.ts';
import type { Hook, JudgingDataplane, Mapping, Verdict } from '../../agent/dataplane/dataplane.ts';
import { until } from '../child.ts';
import { entriesOf } from '../entries.ts';
import { ethernet, ip, tcp, udp } from '../frames.ts';
import {
  addClasses,
  bindDevices,
  CLASS,
  HELD,
  HOUR,
  type MakeRig,
  mapping,
  nowNs,
  OTHER_CLASS,
  REALM,
  type Rig,
  SECOND,
  SECOND_REALM,
  SERVER_PREFIXES,
  serverOf,
  setupOf,
  word,
} from './fixture.ts';
import { describePackets } from './packets.ts';

const V4 = mapping({ external: '203.0.113.1:40000', device: '10.20.0.2:5683', remote: '198.51.100.10' });
const V6 = mapping({
  external: '[2001:db8:a::99]:40001',
  device: '[fd00:20::2]:5683',
  remote: '2001:db8:51::10',
  number: 2,
  slot: 3,
});

export function describeDataplane(name: string, make: MakeRig): void {
  describe(`data plane: ${name}`, () => {
    let rig: Rig;
    let plane: JudgingDataplane;

    beforeEach(async () => {
      rig = await make(setupOf);
      plane = rig.plane;
    });
    afterEach(() => rig.close());

    const judge = (hook: Hook, packet: Uint8Array): Verdict =>
      plane.judge(hook, hook === 'insideIngress' ? rig.interfaces.inside : rig.interfaces.outside, ethernet(packet));
    const knock = (on: Mapping, from = serverOf(on)) =>
      word(judge('outsideIngress', ip(from, on.external.address.text, udp(5000, on.external.port, 'knock'))));
    const answer = (on: Mapping, to = serverOf(on)) =>
      word(judge('insideIngress', ip(on.device.address.text, to, udp(on.device.port, 5000, 'answer'))));
    const ready = () => {
      addClasses(plane);
      bindDevices(plane);
      plane.heartbeat(nowNs());
    };

    describe.each([
      ['IPv4', V4],
      ['IPv6', V6],
    ])('a grant over %s', (_, grant) => {
      beforeEach(ready);

      test('is not there before it is opened', () => {
        expect(plane.entry(grant.index)).toBeUndefined();
        expect(entriesOf(plane)).toEqual([]);
        expect(knock(grant)).toBe('noGrant');
        expect(answer(grant)).toBe('pass');
      });

      test('carries both ways while it lives', () => {
        const end = nowNs() + HOUR;
        plane.open(grant, end);
        expect(plane.entry(grant.index)).toEqual({ mapping: grant, endNs: end });
        expect(entriesOf(plane)).toEqual([{ mapping: grant, endNs: end }]);
        expect(knock(grant)).toBe('redirect');
        expect(answer(grant)).toBe('redirect');
      });

      test('cannot be opened over while it lives, and is not changed by the attempt', () => {
        const end = nowNs() + HOUR;
        plane.open(grant, end);
        const second = { ...grant, number: 99, device: { ...grant.device, port: 1 } };
        expect(() => plane.open(second, end + HOUR)).toThrow(AgentError);
        expect(plane.entry(grant.index)).toEqual({ mapping: grant, endNs: end });
        expect(knock(grant)).toBe('redirect');
        expect(answer(grant)).toBe('redirect');
      });

      test('ends at once, both ways, and stays as a tombstone', () => {
        plane.open(grant, nowNs() + HOUR);
        const end = nowNs() - SECOND / 10n;
        expect(plane.end(grant.index, grant.number, end)).toBe(true);
        expect(plane.entry(grant.index)).toEqual({ mapping: grant, endNs: end });
        expect(knock(grant)).toBe('grantEnded');
        expect(answer(grant)).toBe('tombstone');
      });

      test('never lives longer by being ended', () => {
        const end = nowNs() + HOUR;
        plane.open(grant, end);
        expect(plane.end(grant.index, grant.number, end + HOUR)).toBe(true);
        expect(plane.entry(grant.index)?.endNs).toBe(end);
        plane.end(grant.index, grant.number, end - HOUR - SECOND);
        expect(plane.end(grant.index, grant.number, end)).toBe(true);
        expect(plane.entry(grant.index)?.endNs).toBe(end - HOUR - SECOND);
      });

      test('is extended from the end that was read, and goes on with all it had', () => {
        const end = nowNs() + HOUR;
        plane.open(grant, end);
        knock(grant);
        expect(plane.extend(grant.index, grant.number, end, end + HOUR)).toBe(true);
        expect(plane.entry(grant.index)).toEqual({ mapping: grant, endNs: end + HOUR });
        expect(plane.carried(grant.index).in.packets).toBe(1n);
        expect(knock(grant)).toBe('redirect');
        expect(answer(grant)).toBe('redirect');
      });

      test('is not extended from another end, in the name of another, or where nothing is', () => {
        const end = nowNs() + HOUR;
        plane.open(grant, end);
        expect(plane.extend(grant.index, grant.number, end - 1n, end + HOUR)).toBe(false);
        expect(plane.extend(grant.index, grant.number, end + 1n, end + HOUR)).toBe(false);
        expect(plane.extend(grant.index, grant.number + 1, end, end + HOUR)).toBe(false);
        expect(plane.extend(grant.index + 1, grant.number, end, end + HOUR)).toBe(false);
        expect(plane.extend(grant.index + 1, 0, 0n, end)).toBe(false);
        expect(plane.entry(grant.index)?.endNs).toBe(end);
      });

      test('that is dead is not revived', () => {
        const end = nowNs() - SECOND;
        plane.open(grant, nowNs() + HOUR);
        plane.end(grant.index, grant.number, end);
        expect(plane.extend(grant.index, grant.number, end, nowNs() + HOUR)).toBe(false);
        expect(plane.entry(grant.index)?.endNs).toBe(end);
        expect(knock(grant)).toBe('grantEnded');
        plane.forget(grant);
        expect(plane.extend(grant.index, grant.number, 0n, nowNs() + HOUR)).toBe(false);
        expect(knock(grant)).toBe('noGrant');
      });

      test('that is dead goes on where it is resumed, with all it had', () => {
        const end = nowNs() + HOUR;
        plane.open(grant, end);
        knock(grant);
        plane.end(grant.index, grant.number, nowNs() - SECOND);
        expect(knock(grant)).toBe('grantEnded');
        expect(plane.resume(grant.index, grant.number + 1, end)).toBe(false);
        expect(plane.resume(grant.index + 1, grant.number, end)).toBe(false);
        expect(knock(grant)).toBe('grantEnded');
        expect(plane.resume(grant.index, grant.number, end)).toBe(true);
        expect(plane.entry(grant.index)).toEqual({ mapping: grant, endNs: end });
        expect(plane.carried(grant.index).in.packets).toBe(1n);
        expect(knock(grant)).toBe('redirect');
        expect(answer(grant)).toBe('redirect');
        plane.forget(grant);
        expect(plane.resume(grant.index, grant.number, end)).toBe(false);
      });

      test('is not ended in the name of another', () => {
        plane.open(grant, nowNs() + HOUR);
        expect(plane.end(grant.index, grant.number + 1, nowNs() - SECOND)).toBe(false);
        expect(plane.end(grant.index + 1, grant.number, nowNs() - SECOND)).toBe(false);
        expect(knock(grant)).toBe('redirect');
      });

      test('forgotten, leaves nothing', () => {
        plane.open(grant, nowNs() + HOUR);
        plane.end(grant.index, grant.number, nowNs() - SECOND);
        plane.forget(grant);
        expect(plane.entry(grant.index)).toBeUndefined();
        expect(entriesOf(plane)).toEqual([]);
        expect(knock(grant)).toBe('noGrant');
        expect(answer(grant)).toBe('pass');
      });

      test('opened again under a new number, is the new one in all', () => {
        plane.open(grant, nowNs() + HOUR);
        knock(grant);
        plane.end(grant.index, grant.number, nowNs() - SECOND);
        const next = { ...grant, number: 1000, device: { ...grant.device, port: 7777 } };
        plane.open(next, nowNs() + HOUR);
        expect(plane.end(grant.index, grant.number, nowNs() - SECOND)).toBe(false);
        expect(plane.carried(grant.index).in.packets).toBe(0n);
        expect(knock(grant)).toBe('redirect');
        expect(answer(next)).toBe('redirect');
        // The old answer's key is a leftover now: it opens nothing, and is no tombstone of this grant.
        expect(answer(grant)).toBe('pass');
        // Forgetting the old one takes back what is still its own, and no more.
        plane.forget(grant);
        expect(knock(grant)).toBe('redirect');
        expect(answer(next)).toBe('redirect');
        expect(plane.entry(grant.index)?.mapping).toEqual(next);
      });

      test('counts what it carried since it was opened', () => {
        plane.open(grant, nowNs() + HOUR);
        expect(plane.carried(grant.index)).toEqual({ in: none, out: none });
        knock(grant);
        knock(grant);
        answer(grant);
        knock(grant, grant === V6 ? '2001:db8:66::66' : '192.0.2.66');
        const headers = 14 + (grant === V6 ? 40 : 20) + 8;
        expect(plane.carried(grant.index)).toEqual({
          in: { packets: 2n, bytes: BigInt(2 * (headers + 'knock'.length)) },
          out: { packets: 1n, bytes: BigInt(headers + 'answer'.length) },
        });
      });

      test('is refused both ways while the agent is not heard', () => {
        plane.open(grant, nowNs() + HOUR);
        plane.heartbeat(nowNs() - 31n * SECOND);
        expect(knock(grant)).toBe('agentLost');
        expect(answer(grant)).toBe('agentLost');
        plane.heartbeat(nowNs() - 10n * SECOND);
        expect(knock(grant)).toBe('redirect');
      });

      describe('with limits', () => {
        const headers = 14 + (grant === V6 ? 40 : 20) + 8;
        const inward = headers + 'knock'.length;
        const outward = headers + 'answer'.length;
        /** The next token comes a second later. */
        const once = { packetsPerSecond: 1 };

        test('carries as many packets at once as it may in a second, of both directions, and no more', () => {
          plane.open({ ...grant, limits: { packetsPerSecond: 2 } }, nowNs() + HOUR);
          expect(plane.entry(grant.index)?.mapping.limits).toEqual({ packetsPerSecond: 2 });
          expect([knock(grant), answer(grant)]).toEqual(Array(2).fill('redirect'));
          expect([knock(grant), answer(grant)]).toEqual(Array(2).fill('packetRateExceeded'));
          expect(plane.carried(grant.index)).toEqual({
            in: { packets: 1n, bytes: BigInt(inward) },
            out: { packets: 1n, bytes: BigInt(outward) },
          });
          expect(plane.usedUp()).toEqual([]);
        });

        test('carries again when the time has come', async () => {
          plane.open({ ...grant, limits: { packetsPerSecond: 20 } }, nowNs() + HOUR);
          // A machine that stands still meanwhile may earn a token or two.
          const first = Array.from({ length: 60 }, () => knock(grant));
          expect(first.slice(0, 20)).toEqual(Array(20).fill('redirect'));
          expect(first).toContain('packetRateExceeded');
          await until('a token', () => (knock(grant) === 'redirect' ? true : undefined));
        });

        test('carries bytes of both directions up to the last, then says once that they are used up', () => {
          const bytes = 2 * inward + outward;
          plane.open({ ...grant, limits: { bytes } }, nowNs() + HOUR);
          expect([knock(grant), answer(grant), knock(grant)]).toEqual(Array(3).fill('redirect'));
          expect(plane.usedUp()).toEqual([]);
          expect([knock(grant), answer(grant), knock(grant)]).toEqual(Array(3).fill('byteQuotaExceeded'));
          expect(plane.carried(grant.index)).toEqual({
            in: { packets: 2n, bytes: BigInt(2 * inward) },
            out: { packets: 1n, bytes: BigInt(outward) },
          });
          expect(plane.usedUp()).toEqual([{ index: grant.index, number: grant.number }]);
          expect(knock(grant)).toBe('byteQuotaExceeded');
          expect(plane.usedUp()).toEqual([]);
        });

        test('of the bytes that are left a smaller packet may have some', () => {
          plane.open({ ...grant, limits: { bytes: outward + inward - 1 } }, nowNs() + HOUR);
          expect([answer(grant), answer(grant), knock(grant)]).toEqual([
            'redirect',
            'byteQuotaExceeded',
            'byteQuotaExceeded',
          ]);
          plane.limit(grant.index, grant.number, { bytes: outward + inward });
          expect([answer(grant), knock(grant)]).toEqual(['byteQuotaExceeded', 'redirect']);
        });

        test('is refused for its rate before its bytes, and for anything else before both', () => {
          plane.open({ ...grant, limits: { ...once, bytes: 1 } }, nowNs() + HOUR);
          expect([knock(grant), knock(grant)]).toEqual(['byteQuotaExceeded', 'packetRateExceeded']);
          expect(knock(grant, grant === V6 ? '2001:db8:66::66' : '192.0.2.66')).toBe('wrongSource');
          plane.heartbeat(nowNs() - 31n * SECOND);
          expect([knock(grant), answer(grant)]).toEqual(['agentLost', 'agentLost']);
        });

        test('what is refused otherwise uses nothing up', () => {
          plane.open({ ...grant, limits: { ...once, bytes: inward } }, nowNs() + HOUR);
          knock(grant, grant === V6 ? '2001:db8:66::66' : '192.0.2.66');
          expect(knock(grant)).toBe('redirect');
        });

        test('takes other limits while it lives, what was used counting toward them', () => {
          plane.open(grant, nowNs() + HOUR);
          expect([knock(grant), knock(grant)]).toEqual(['redirect', 'redirect']);
          expect(plane.limit(grant.index, grant.number + 1, { bytes: 1 })).toBe(false);
          expect(knock(grant)).toBe('redirect');
          expect(plane.limit(grant.index, grant.number, { bytes: 3 * inward })).toBe(true);
          expect(knock(grant)).toBe('byteQuotaExceeded');
          expect(plane.limit(grant.index, grant.number, { packetsPerSecond: 1, bytes: 4 * inward })).toBe(true);
          expect(plane.entry(grant.index)?.mapping.limits).toEqual({ packetsPerSecond: 1, bytes: 4 * inward });
          expect([knock(grant), knock(grant)]).toEqual(['redirect', 'packetRateExceeded']);
          expect(plane.limit(grant.index, grant.number, {})).toBe(true);
          expect([knock(grant), knock(grant)]).toEqual(['redirect', 'redirect']);
        });

        test('ended and opened again, has used nothing', () => {
          const limits = { ...once, bytes: inward };
          plane.open({ ...grant, limits }, nowNs() + HOUR);
          knock(grant);
          expect(knock(grant)).toBe('packetRateExceeded');
          plane.limit(grant.index, grant.number, { bytes: inward });
          expect(knock(grant)).toBe('byteQuotaExceeded');
          plane.end(grant.index, grant.number, nowNs() - SECOND);
          const next = { ...grant, number: 1000, limits };
          plane.open(next, nowNs() + HOUR);
          expect(knock(grant)).toBe('redirect');
          plane.limit(next.index, next.number, { bytes: inward });
          expect(knock(grant)).toBe('byteQuotaExceeded');
          expect(plane.usedUp()).toEqual([grant, next].map(({ index, number }) => ({ index, number })));
        });

        test('holds the widest limits there are', () => {
          const widest = { packetsPerSecond: 10_000_000, bytes: 1e12 };
          plane.open({ ...grant, limits: widest }, nowNs() + HOUR);
          expect(plane.entry(grant.index)?.mapping.limits).toEqual(widest);
          expect([knock(grant), answer(grant)]).toEqual(['redirect', 'redirect']);
        });
      });

      test("is not heard of while its device's address changes hands", () => {
        const own = hostPrefix(grant.device.address);
        plane.open(grant, nowNs() + HOUR);
        plane.setChanging(REALM, own, true);
        plane.setChanging(REALM, own, true);
        expect(answer(grant)).toBe('addressChangingHands');
        plane.setChanging(REALM, own, false);
        expect(answer(grant)).toBe('redirect');
        // The same address of another realm is another device's.
        plane.setChanging(SECOND_REALM, own, true);
        expect(answer(grant)).toBe('redirect');
      });

      test('is not heard of while a prefix changes hands that holds the address', () => {
        const wide = prefix(grant === V4 ? '10.20.0.0/28' : 'fd00:20::/64');
        const beside = prefix(grant === V4 ? '10.20.0.16/28' : 'fd00:20:0:1::/64');
        plane.open(grant, nowNs() + HOUR);
        plane.setChanging(REALM, beside, true);
        expect(answer(grant)).toBe('redirect');
        plane.setChanging(REALM, wide, true);
        plane.setChanging(REALM, beside, false);
        expect(answer(grant)).toBe('addressChangingHands');
        plane.setChanging(REALM, wide, false);
        expect(answer(grant)).toBe('redirect');
      });

      test('is carried whether its device is bound or not: bindings are for what answers no grant', () => {
        plane.open(grant, nowNs() + HOUR);
        plane.unbind(REALM, hostPrefix(grant.device.address));
        expect([knock(grant), answer(grant)]).toEqual(['redirect', 'redirect']);
        plane.end(grant.index, grant.number, nowNs() - 40n * SECOND);
        expect(answer(grant)).toBe('addressUnbound');
      });
    });

    test('an entry without a heartbeat ever is refused', () => {
      addClasses(plane);
      expect(plane.lastHeartbeat()).toBe(0n);
      plane.open(V4, nowNs() + HOUR);
      expect(knock(V4)).toBe('agentLost');
      plane.heartbeat(123n);
      expect(plane.lastHeartbeat()).toBe(123n);
    });

    test('nothing is carried to a realm that the set-up does not have: entries outlive the one they were made under', () => {
      ready();
      const elsewhere = mapping({ external: '203.0.113.1:40000', device: '10.99.0.2:100', realm: 99 });
      plane.open(elsewhere, nowNs() + HOUR);
      expect(knock(elsewhere)).toBe('noGrant');
    });

    test('the grant that took an answer over keeps it when the earlier one is forgotten', () => {
      ready();
      plane.open(V4, nowNs() + HOUR);
      plane.end(V4.index, V4.number, nowNs() - SECOND);
      const successor = mapping({ external: '203.0.113.2:40009', device: '10.20.0.2:5683', number: 2 });
      plane.open(successor, nowNs() + HOUR);
      expect(answer(V4)).toBe('redirect');
      plane.forget(V4);
      expect(answer(V4)).toBe('redirect');
      plane.forget(successor);
      expect(answer(V4)).toBe('pass');
    });

    test('TCP and UDP of one port are two grants, and so are two realms', () => {
      ready();
      const overTcp = mapping({ external: '203.0.113.1:40000', device: '10.20.0.2:5683', protocol: 'tcp', number: 2 });
      const elsewhere = mapping({
        external: '203.0.113.3:40000',
        device: '10.30.0.2:5683',
        realm: SECOND_REALM,
        number: 3,
      });
      plane.open(V4, nowNs() + HOUR);
      plane.open(overTcp, nowNs() + HOUR);
      plane.open(elsewhere, nowNs() + HOUR);
      plane.end(V4.index, V4.number, nowNs() - SECOND);
      expect(knock(V4)).toBe('grantEnded');
      expect(knock(elsewhere)).toBe('redirect');
      const syn = ip('198.51.100.10', '203.0.113.1', tcp(5000, 40000));
      expect(word(judge('outsideIngress', syn))).toBe('redirect');
      expect(
        entriesOf(plane)
          .map(({ mapping: { number } }) => number)
          .sort(),
      ).toEqual([1, 2, 3]);
      // Realm 2's device, from realm 1's interface, is nobody's answer, and nobody there.
      expect(answer(elsewhere)).toBe('addressUnbound');
    });

    test('classes: the longest prefix stands, removed ones stand no more', () => {
      ready();
      expect(new Map(plane.classes())).toEqual(new Map(SERVER_PREFIXES));
      const all = { ...V4, remote: 'all' } as const;
      plane.open(all, nowNs() + HOUR);
      expect(knock(all, '198.51.100.127')).toBe('redirect');
      expect(knock(all, '198.51.100.128')).toBe('wrongSource');
      plane.removeClass(prefix('198.51.100.128/25'));
      expect(knock(all, '198.51.100.128')).toBe('redirect');
      expect(answer(all, '198.51.100.128')).toBe('redirect');
      plane.removeClass(prefix('198.51.100.0/24'));
      expect(knock(all, '198.51.100.128')).toBe('wrongSource');
      expect(answer(all)).toBe('pass');
      plane.removeClass(prefix('198.51.100.0/24'));
      plane.addClass(prefix('198.51.100.0/24'), OTHER_CLASS);
      expect(knock(all)).toBe('wrongSource');
      plane.addClass(prefix('198.51.100.0/24'), CLASS);
      expect(knock(all)).toBe('redirect');
    });

    describe('bindings', () => {
      const speak = (from: string) =>
        word(judge('insideIngress', ip(from, from.includes(':') ? '2001:db8:66::66' : '192.0.2.66', udp(5000, 53))));
      const bound = () => [...plane.bindings()].map(({ realm, prefix: { text } }) => `${realm} ${text}`).sort();

      test('are those that were made, each once, until they are undone', () => {
        expect(bound()).toEqual([]);
        bindDevices(plane);
        bindDevices(plane);
        expect(bound()).toEqual(HELD.map(([realm, text]) => `${realm} ${text}`).sort());
        plane.unbind(REALM, prefix('fd00:20:0:7::/64'));
        plane.unbind(REALM, prefix('10.20.0.2/32'));
        plane.unbind(REALM, prefix('10.20.0.2/32'));
        plane.unbind(REALM, prefix('10.99.0.0/24')); // of nobody
        plane.unbind(SECOND_REALM, prefix('10.20.0.3/32')); // of the other realm
        expect(bound()).toEqual(
          HELD.filter(([, text]) => !['fd00:20:0:7::/64', '10.20.0.2/32'].includes(text))
            .map(([realm, text]) => `${realm} ${text}`)
            .sort(),
        );
        expect([...plane.bindings()].find(({ prefix: { text } }) => text === '10.20.7.0/24')).toEqual({
          realm: REALM,
          prefix: prefix('10.20.7.0/24'),
        });
      });

      test('who holds an address speaks from it, and no longer', () => {
        expect([speak('10.20.0.2'), speak('fd00:20::2')]).toEqual(['addressUnbound', 'addressUnbound']);
        plane.bind(SECOND_REALM, prefix('10.20.0.2/32'));
        expect(speak('10.20.0.2')).toBe('addressUnbound');
        plane.bind(REALM, prefix('10.20.0.2/32'));
        plane.bind(REALM, prefix('fd00:20:0:7::/64'));
        expect([speak('10.20.0.2'), speak('10.20.0.3')]).toEqual(['pass', 'addressUnbound']);
        expect([speak('fd00:20:0:7::2'), speak('fd00:20:0:7:ffff::2')]).toEqual(['pass', 'pass']);
        expect([speak('fd00:20:0:6::2'), speak('fd00:20::2')]).toEqual(['addressUnbound', 'addressUnbound']);
        plane.unbind(REALM, prefix('10.20.0.2/32'));
        plane.unbind(REALM, prefix('fd00:20:0:7::/64'));
        expect([speak('10.20.0.2'), speak('fd00:20:0:7::2')]).toEqual(['addressUnbound', 'addressUnbound']);
      });

      test('have eight lengths of a family at once; one more changes nothing', () => {
        const lengths = [9, 16, 20, 24, 28, 29, 31, 32];
        for (const length of lengths) plane.bind(REALM, prefix(`10.0.0.0/${length}`));
        for (const length of [1, 47, 48, 63, 64, 65, 127, 128]) plane.bind(REALM, prefix(`8000::/${length}`));
        const all = bound();
        expect(all).toHaveLength(16);
        expect(() => plane.bind(REALM, prefix('10.20.0.0/30'))).toThrow(AgentError);
        expect(() => plane.bind(REALM, prefix('fd00:20::/56'))).toThrow(AgentError);
        expect(bound()).toEqual(all);
        expect([speak('10.20.0.2'), speak('10.128.0.1'), speak('fd00::1')]).toEqual(['pass', 'addressUnbound', 'pass']);
        plane.unbind(REALM, prefix('10.0.0.0/9'));
        plane.unbind(REALM, prefix('8000::/1'));
        expect([speak('10.20.0.2'), speak('fd00:20::2')]).toEqual(['addressUnbound', 'addressUnbound']);
        plane.bind(REALM, prefix('10.20.0.0/30'));
        plane.bind(REALM, prefix('fd00:20::/56'));
        expect([speak('10.20.0.2'), speak('10.20.0.4')]).toEqual(['pass', 'addressUnbound']);
        expect([speak('fd00:20::2'), speak('fd00:20:0:100::2')]).toEqual(['pass', 'addressUnbound']);
      });

      test('more than one call to the kernel brings are all found', () => {
        const many = Array.from({ length: 5000 }, (_, i) => `10.20.${i >> 8}.${i & 255}/32`);
        for (const text of many) plane.bind(REALM, prefix(text));
        expect(bound()).toEqual(many.map((text) => `${REALM} ${text}`).sort());
      });
    });

    describe('admissions', () => {
      const to = (destination: string) => ({ destination: prefix(destination), protocol: 'udp' }) as const;
      const ping = (from: string, device = '10.20.0.2') =>
        word(judge('outsideIngress', ip(from, device, udp(5000, 53))));

      test('are those said last, and nothing else', () => {
        expect(ping('192.0.2.66')).toBe('realmDestination');
        plane.admissions([
          { source: prefix('192.0.2.64/26'), ...to('10.20.0.2/32') },
          { source: prefix('198.51.100.0/24'), ...to('10.20.0.0/16') },
        ]);
        expect([ping('192.0.2.66'), ping('198.51.100.1')]).toEqual(['pass', 'pass']);
        plane.admissions([
          { source: prefix('198.51.100.0/24'), ...to('10.20.0.3/32') },
          { source: prefix('198.51.100.7/32'), ...to('10.20.0.2/32') },
        ]);
        expect(ping('192.0.2.66')).toBe('realmDestination');
        expect([ping('198.51.100.1'), ping('198.51.100.1', '10.20.0.3')]).toEqual(['realmDestination', 'pass']);
        expect([ping('198.51.100.7'), ping('198.51.100.7', '10.20.0.3')]).toEqual(['pass', 'pass']);
        plane.admissions([]);
        expect([ping('198.51.100.7'), ping('198.51.100.7', '10.20.0.3')]).toEqual(Array(2).fill('realmDestination'));
      });

      test('of an IPv6 source, however short, are for no IPv4 packet', () => {
        plane.admissions([{ source: prefix('::/0'), destination: prefix('fd00:20::/48'), protocol: 'any' }]);
        expect(ping('192.0.2.66')).toBe('realmDestination');
        expect(ping('2001:db8:66::66', 'fd00:20::2')).toBe('pass');
      });

      test('of one source are sixteen, those of wider ones included; one more changes nothing', () => {
        const many = (count: number, source: string, low: number) =>
          Array.from({ length: count }, (_, i) => ({
            source: prefix(source),
            destination: prefix('10.20.0.2/32'),
            protocol: 'udp' as const,
            ports: { low: low + i, high: low + i },
          }));
        const sixteen = [...many(10, '192.0.2.0/24', 53), ...many(6, '192.0.2.64/26', 100)];
        plane.admissions([...sixteen, ...many(10, '192.0.2.64/26', 53)]); // once more the same
        const last = ip('192.0.2.66', '10.20.0.2', udp(5000, 105));
        expect([ping('192.0.2.66'), word(judge('outsideIngress', last))]).toEqual(['pass', 'pass']);
        expect(() => plane.admissions([...sixteen, ...many(1, '192.0.2.64/26', 200)])).toThrow(AgentError);
        expect([ping('192.0.2.66'), word(judge('outsideIngress', last))]).toEqual(['pass', 'pass']);
      });
    });

    test('an IPv6 prefix holds no IPv4 source, however short it is', () => {
      plane.heartbeat(nowNs());
      plane.addClass(prefix('::/0'), CLASS);
      const all = { ...V4, remote: 'all' } as const;
      plane.open(all, nowNs() + HOUR);
      expect(knock(all)).toBe('wrongSource');
      expect(new Map(plane.classes())).toEqual(new Map([['::/0', CLASS]]));
    });

    test('counters: each packet once, with the bytes of its frame', () => {
      ready();
      plane.open(V4, nowNs() + HOUR);
      knock(V4);
      answer(V4);
      knock(V4, '192.0.2.66');
      knock(V6);
      judge('outsideIngress', ip('192.0.2.66', '192.0.2.2', udp(1, 2)));
      judge('outsideEgress', ip('192.0.2.2', '192.0.2.66', udp(1, 2)));
      judge('outsideEgress', ip('10.20.0.2', '192.0.2.66', udp(1, 2)));
      const { denied, ...carried } = plane.counters();
      const one = (bytes: number) => ({ packets: 1n, bytes: BigInt(bytes) });
      expect(carried).toEqual({
        grantedIn: one(47),
        grantedOut: one(48),
        passed: one(42),
        sampled: none,
        errorsCarried: none,
        echoesAnswered: none,
        atXdp: expect.anything(),
      });
      const expected = { wrongSource: one(47), noGrant: one(67), innerLeak: one(42) };
      expect(denied).toEqual({ ...Object.fromEntries(DENIAL_REASONS.map((reason) => [reason, none])), ...expected });
    });

    test('of the denials at ingress a bounded sample goes on', () => {
      ready();
      const denial = () => judge('outsideIngress', ip('192.0.2.66', '203.0.113.1', udp(1, 40000)));
      expect(denial()).toEqual({ verdict: 'drop', reason: 'noGrant', sampled: false });
      plane.sample(1);
      expect(denial()).toEqual({ verdict: 'drop', reason: 'noGrant', sampled: true });
      expect(denial()).toEqual({ verdict: 'drop', reason: 'noGrant', sampled: false });
      expect(plane.counters().sampled.packets).toBe(1n);
      expect(plane.counters().denied.noGrant.packets).toBe(3n);
      plane.sample(0);
      expect(denial()).toMatchObject({ sampled: false });
    });

    test('of the denials of a tenth of a second all go on, even at once; of one source an eighth of them', () => {
      ready();
      plane.sample(200);
      const knock = (source: string) => judge('outsideIngress', ip(source, '203.0.113.1', udp(7, 40000)));
      const isSampled = (verdict: Verdict) => verdict.verdict === 'drop' && verdict.sampled;
      const floods = Array.from({ length: 8 }, () => isSampled(knock('192.0.2.66')));
      expect(floods.slice(0, 3)).toEqual([true, true, true]);
      expect(floods.at(-1)).toBe(false);
      expect(['192.0.2.67', '192.0.2.67', '192.0.2.68'].map((source) => isSampled(knock(source)))).toEqual([
        true,
        true,
        true,
      ]);
    });

    test('what is stopped on its way out is never sampled: it would go on', () => {
      ready();
      plane.sample(1000);
      const leak = ip('10.20.0.2', '192.0.2.66', udp(1, 2));
      expect(judge('outsideEgress', leak)).toEqual({ verdict: 'drop', reason: 'innerLeak', sampled: false });
    });
  });

  describe(`packets: ${name}`, () => describePackets(make));
}

const none = { packets: 0n, bytes: 0n };
