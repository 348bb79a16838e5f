/**
 * ICMP about granted flows: which errors are carried, and what is left of
 * them; what a packet that does not fit is answered; who may be pinged.
 */
import { describe, expect, test } from 'vitest';
import { prefix } from '../../../agent/core/net.ts';
import { PROTOCOL_NUMBERS, type Protocol } from '../../../agent/core/words.ts';
import type { GateSetup, Hook, JudgingDataplane } from '../../../agent/dataplane/dataplane.ts';
import { cut, ethernet, filler, icmp, ip, raw, spoil, sumsHold } from '../../frames.ts';
import { type Interfaces, type MakeRig, setupOf, word } from '../fixture.ts';
import { standing } from './table.ts';
import { trafficOf } from './traffic.ts';
import { echo, icmpOf, openGrants, PORT, type Who } from './world.ts';

/** Of each family, types by what they mean; those that grants carry, and how. */
const TYPES = {
  IPv4: { unreachable: 3, tooBig: 3, exceeded: 11, parameter: 12, never: [4, 5] },
  IPv6: { unreachable: 1, tooBig: 2, exceeded: 3, parameter: 4, never: [100, 127] },
} as const;
const ROUTER = { IPv4: '192.0.2.1', IPv6: '2001:db8:0:1::1' } as const;
const INNER_ROUTER = { IPv4: '10.20.0.200', IPv6: 'fd00:20::200' } as const;
const LONG = filler(64);

type Ask = (hook: Hook, packet: Uint8Array) => Uint8Array | string;

function asking(rig: () => { plane: JudgingDataplane; interfaces: Interfaces }): Ask {
  return (hook, packet) => {
    const { plane, interfaces } = rig();
    const verdict = plane.judge(
      hook,
      hook === 'insideIngress' ? interfaces.inside : interfaces.outside,
      ethernet(packet),
    );
    return 'bytes' in verdict ? verdict.bytes.subarray(14) : word(verdict);
  };
}

/** What an ICMP error keeps of a packet: the header and eight bytes. */
const kept = (packet: Uint8Array) => packet.subarray(0, (packet[0] as number) >> 4 === 6 ? 48 : 28);

export function describeErrors(make: MakeRig, who: Who, protocol: Protocol): void {
  const { knock, arrived, answer, sent } = trafficOf(who, protocol);
  const types = TYPES[who.family];
  const isIpv4 = who.family === 'IPv4';
  const error = (from: string, to: string, type: number, code: number, quoted: Uint8Array, rest = 0, hops = 60) =>
    ip(from, to, icmp(icmpOf(who), type, code, quoted, rest), { hops });
  /** As the gate writes one. */
  const made = (from: string, to: string, type: number, code: number, quoted: Uint8Array, rest = 0) =>
    ip(from, to, icmp(icmpOf(who), type, code, quoted, rest), { hops: 64, dontFragment: true, id: 0 });
  const router = ROUTER[who.family];
  const out = sent(PORT.one, { content: LONG });

  describe('errors', () => {
    const rig = standing(make, (plane) => openGrants(plane, who, protocol));
    const ask = asking(rig);

    test.each([
      ['unreachable', types.unreachable, 1, 0],
      ['too big', types.tooBig, isIpv4 ? 4 : 0, 1280],
      ['hops used up', types.exceeded, 0, 0],
      ['parameter problem', types.parameter, 0, isIpv4 ? 0x14000000 : 6],
    ] as const)('from a router outside arrive at the device, about its own packet: %s', (_, type, code, rest) => {
      const arrivedAt = ask('outsideIngress', error(router, who.external, type, code, out, rest)) as Uint8Array;
      const own = kept(
        ip(who.device, who.server, trafficUpper(protocol, answer(PORT.one, { content: LONG }), isIpv4), {
          hops: 64,
          dontFragment: true,
          id: 0,
        }),
      );
      expect(arrivedAt).toEqual(made(router, who.device, type, code, own, rest));
      expect(sumsHold(arrivedAt)).toBe(true);
    });

    test.each([
      ['unreachable', types.unreachable, isIpv4 ? 3 : 4, 0],
      ['too big', types.tooBig, isIpv4 ? 4 : 0, 1400],
      ['parameter problem', types.parameter, 0, isIpv4 ? 0x08000000 : 40],
    ] as const)(
      'from the device, and from a router before it, leave as the external endpoint: %s',
      (_, type, code, rest) => {
        for (const [from, port] of [
          [who.device, PORT.one],
          [INNER_ROUTER[who.family], PORT.any],
        ] as const) {
          const came = arrived(port, { content: LONG });
          const left = ask('insideIngress', error(from, who.server, type, code, came, rest));
          const told = made(
            who.external,
            who.server,
            type,
            code,
            kept(knock(port, { content: LONG, fields: { hops: 64 } })),
            rest,
          );
          expect(left).toEqual(told);
          expect(sumsHold(left as Uint8Array)).toBe(true);
        }
      },
    );

    test('keep nothing else: no length of the quote, no extension, no more of the packet', () => {
      const quoted = Uint8Array.of(...arrived(PORT.one, { content: filler(200) }), ...filler(60));
      const rest = isIpv4 ? 0x0020_0000 : 0x2000_0000; // RFC 4884: 32 units
      const left = ask('insideIngress', error(who.device, who.server, types.unreachable, 1, quoted, rest));
      const said = kept(knock(PORT.one, { content: filler(200), fields: { hops: 64 } }));
      expect(left).toEqual(made(who.external, who.server, types.unreachable, 1, said));
    });

    test('from inside that show where hops are used up never leave', () => {
      for (const from of [who.device, INNER_ROUTER[who.family]])
        expect(ask('insideIngress', error(from, who.server, types.exceeded, 0, arrived(PORT.one)))).toBe(
          'errorNotCarried',
        );
    });

    test('of kinds that nothing needs are not carried', () => {
      for (const type of types.never) {
        expect(ask('outsideIngress', error(router, who.external, type, 0, out))).toBe('errorNotCarried');
        expect(ask('insideIngress', error(who.device, who.server, type, 0, arrived(PORT.one)))).toBe('errorNotCarried');
      }
    });

    test.each([
      ['quotes a packet of another address', () => sent(PORT.one, { external: who.externalNext })],
      ['quotes a port that nobody was granted', () => sent(PORT.none)],
      ['quotes a grant that ended', () => sent(PORT.ended)],
      ['quotes a packet to a stranger', () => sent(PORT.one, { peer: who.stranger })],
      ['quotes a packet to another address of the class', () => sent(PORT.one, { peer: who.serverSecond })],
      ['quotes a packet to another port than the grant names', () => sent(PORT.narrow, { peerPort: 7001 })],
      ['quotes a packet toward the device', () => knock(PORT.one)],
      ['quotes another protocol', () => ip(who.external, who.server, raw(47, 16))],
      ['quotes the other transport', () => spoil(sent(PORT.one), isIpv4 ? 9 : 6, protocol === 'udp' ? 6 : 17)],
      ['quotes less than eight bytes of it', () => kept(sent(PORT.one)).subarray(0, -1)],
      ['quotes nothing', () => new Uint8Array()],
      ['quotes another version', () => spoil(sent(PORT.one), 0, isIpv4 ? 0x65 : 0x45)],
      ['quotes a later piece', () => cut(sent(PORT.one, { content: LONG }), 16)[1] as Uint8Array],
    ] as const)('from outside that %s are not carried', (_, quoted) => {
      expect(ask('outsideIngress', error(router, who.external, types.unreachable, 1, quoted()))).toBe(
        'errorNotCarried',
      );
    });

    test('from outside whose sum is wrong, or whose source cannot be, are not believed', () => {
      const sound = error(router, who.external, types.unreachable, 1, out);
      expect(ask('outsideIngress', spoil(sound, sound.length - 1, 0xaa))).toBe('errorNotCarried');
      expect(ask('outsideIngress', error(who.device, who.external, types.unreachable, 1, out))).toBe('errorNotCarried');
      const loopback = isIpv4 ? '127.0.0.1' : '::1';
      expect(ask('outsideIngress', error(loopback, who.external, types.unreachable, 1, out))).toBe('errorNotCarried');
      expect(ask('outsideIngress', error(router, who.external, types.unreachable, 1, out, 0, 1))).toBe('hopLimit');
    });

    test('from inside that are not to who sent it, or come from another device, are not carried', () => {
      const quoted = arrived(PORT.one);
      const to = (host: string, from: string = who.device) => error(from, host, types.unreachable, 1, quoted);
      expect(ask('insideIngress', to(who.serverSecond))).toBe('errorNotCarried');
      expect(ask('insideIngress', to(who.server, who.otherDevice))).toBe('errorNotCarried');
      expect(ask('insideIngress', spoil(to(who.server), to(who.server).length - 1, 0xaa))).toBe('errorNotCarried');
    });

    test("from inside about anything else are the base's, as before", () => {
      for (const quoted of [arrived(PORT.ended), arrived(PORT.none), ip(who.stranger, who.device, raw(17, 16))])
        expect(ask('insideIngress', error(who.device, who.server, types.unreachable, 1, quoted))).toBe('pass');
    });

    test('quoting a first piece, or IP options, are carried as about the packet', () => {
      const [first] = cut(sent(PORT.one, { content: LONG }), 16);
      expect(
        ask('outsideIngress', error(router, who.external, types.unreachable, 1, first as Uint8Array)),
      ).toBeInstanceOf(Uint8Array);
      if (!isIpv4) return;
      const options = sent(PORT.one, { content: LONG, fields: { options: Uint8Array.of(7, 7, 4, 0, 0, 0, 0, 0) } });
      const whole = ask('outsideIngress', error(router, who.external, types.unreachable, 1, options)) as Uint8Array;
      expect(whole.length).toBe(20 + 8 + 28);
      expect(sumsHold(whole)).toBe(true);
    });

    test('are ten at once for each grant, and then no more than ten a second', () => {
      const message = error(router, who.external, types.unreachable, 1, sent(PORT.far));
      const said = Array.from({ length: 14 }, () => ask('outsideIngress', message));
      expect(said.slice(0, 10).every((one) => one instanceof Uint8Array)).toBe(true);
      expect(said.slice(-1)).toEqual(['icmpRateExceeded']);
      // Another grant has its own.
      expect(
        ask(
          'outsideIngress',
          error(
            router,
            who.external,
            types.unreachable,
            1,
            sent(PORT.last, { external: who.externalLast }).map((byte) => byte),
          ),
        ),
      ).not.toBe('icmpRateExceeded');
    });

    test('are counted as what they are', () => {
      const { plane } = rig();
      const before = plane.counters().errorsCarried.packets;
      ask(
        'insideIngress',
        error(who.device, who.server, types.unreachable, 1, arrived(PORT.narrow, { peerPort: 7000 })),
      );
      expect(plane.counters().errorsCarried.packets - before).toBe(1n);
    });
  });

  describe('what does not fit', () => {
    const narrow = (interfaces: Interfaces): GateSetup => {
      const setup = setupOf(interfaces);
      return {
        ...setup,
        outside: { ...setup.outside, mtu: 1300 },
        inside: setup.inside.map((one) => ({ ...one, mtu: 1290 })),
      };
    };
    const rig = standing(make, (plane) => openGrants(plane, who, protocol), narrow);
    const ask = asking(rig);
    const headers = (isIpv4 ? 20 : 40) + (protocol === 'udp' ? 8 : 20);
    const sized = (size: number) => filler(size - headers);
    const tooBig = (mtu: number) => (isIpv4 ? ([3, 4, mtu] as const) : ([2, 0, mtu] as const));

    test('is told to its sender outside, in the name of the endpoint that it sent to', () => {
      const fields = { dontFragment: true };
      const exact = ask('outsideIngress', knock(PORT.one, { content: sized(1290), fields }));
      expect(exact).toEqual(arrived(PORT.one, { content: sized(1290), fields }));
      const came = knock(PORT.one, { content: sized(1291), fields });
      const told = ask('outsideIngress', came) as Uint8Array;
      expectTold(told, who.external, who.server, came, tooBig(1290));
    });

    test('is told to the device, in the name of its peer', () => {
      const exact = ask('insideIngress', answer(PORT.one, { content: sized(1300) }));
      expect(exact).toEqual(sent(PORT.one, { content: sized(1300) }));
      const came = answer(PORT.one, { content: sized(1301) });
      expectTold(ask('insideIngress', came) as Uint8Array, who.server, who.device, came, tooBig(1300));
    });

    test('is not told of what would not have been carried', () => {
      const fields = { dontFragment: true };
      const content = sized(1400);
      expect(ask('outsideIngress', knock(PORT.none, { content, fields }))).toBe('noGrant');
      expect(ask('outsideIngress', knock(PORT.one, { content, fields, peer: who.stranger }))).toBe('wrongSource');
      expect(ask('outsideIngress', knock(PORT.ended, { content, fields }))).toBe('grantEnded');
    });

    test('is told ten times at once, and then in silence', () => {
      const came = knock(PORT.any, { content: sized(1400), fields: { dontFragment: true } });
      const said = Array.from({ length: 14 }, () => ask('outsideIngress', came));
      expect(said.slice(0, 10).every((one) => one instanceof Uint8Array)).toBe(true);
      expect(said.slice(-1)).toEqual(['packetTooBig']);
    });

    if (isIpv4)
      test('and may be cut goes to the stack, translated, with a hop for it', () => {
        const { plane, interfaces } = rig();
        const came = ethernet(knock(PORT.one, { content: sized(1400) }));
        const bytes = ethernet(arrived(PORT.one, { content: sized(1400), fields: { hops: 65 } }));
        expect(plane.judge('outsideIngress', interfaces.outside, came)).toEqual({ verdict: 'cut', bytes });
      });

    function expectTold(
      told: Uint8Array,
      from: string,
      to: string,
      about: Uint8Array,
      [type, code, mtu]: readonly [number, number, number],
    ): void {
      const size = headers;
      const quoted = Uint8Array.from(about.subarray(0, size));
      // Its transport's sum is what a kernel would make it that completes it (answers.h).
      const at = size - (protocol === 'udp' ? 2 : 4);
      const quote = told.subarray((isIpv4 ? 20 : 40) + 8);
      quoted.set(quote.subarray(at, at + 2), at);
      expect(told).toEqual(made(from, to, type, code, quoted, mtu));
      expect(sumsHold(told)).toBe(true);
    }
  });

  if (protocol !== 'udp') return;
  describe('echo to an external address', () => {
    const rig = standing(make, (plane) => {
      openGrants(plane, who, protocol);
      const [source, destination] = isIpv4
        ? ['198.51.100.0/24', '203.0.113.0/29']
        : ['2001:db8:51::/48', '2001:db8:a::/64'];
      const types = [isIpv4 ? 8 : 128];
      plane.admissions([
        { source: prefix(source as string), destination: prefix(destination as string), protocol: icmpOf(who), types },
      ]);
    });
    const ask = asking(rig);
    const reply = icmp(icmpOf(who), isIpv4 ? 0 : 129, 0, 16);

    test('is answered in its name where a filter lets it in, whether a grant is there or not', () => {
      for (const host of [who.external, who.poolEnds[0] as string]) {
        const answered = ask('outsideIngress', ip(who.server, host, echo(who), { hops: 9 }));
        expect(answered).toEqual(ip(host, who.server, reply, { hops: 64 }));
      }
      expect(rig().plane.counters().echoesAnswered.packets).toBe(2n);
    });

    test('is not from elsewhere, to elsewhere, or of another kind', () => {
      expect(ask('outsideIngress', ip(who.stranger, who.external, echo(who)))).toBe('protocolNotCarried');
      expect(ask('outsideIngress', ip(who.server, who.externalLast, echo(who)))).toBe('protocolNotCarried');
      const other = icmp(icmpOf(who), isIpv4 ? 13 : 130, 0, 16);
      expect(ask('outsideIngress', ip(who.server, who.external, other))).toBe('protocolNotCarried');
    });

    test('is not where it says that it comes from the inside, or from nowhere', () => {
      const { plane } = rig();
      const all = prefix(isIpv4 ? '0.0.0.0/0' : '::/0');
      const pool = prefix(isIpv4 ? '203.0.113.0/29' : '2001:db8:a::/64');
      plane.admissions([{ source: all, destination: pool, protocol: icmpOf(who), types: [isIpv4 ? 8 : 128] }]);
      const nowhere = isIpv4 ? ['0.0.0.0', '127.0.0.1', '224.0.0.5', '255.255.255.255'] : ['::', '::1', 'ff02::1'];
      for (const source of [who.device, who.gateway, ...nowhere])
        expect(ask('outsideIngress', ip(source, who.external, echo(who)))).toBe('spoofedSource');
      expect(ask('outsideIngress', ip(who.stranger, who.external, echo(who)))).toBeInstanceOf(Uint8Array);
    });

    test('is at a rate', () => {
      const said = Array.from({ length: 14 }, () =>
        ask('outsideIngress', ip(who.otherServer, who.external, echo(who))),
      );
      expect(said.slice(-1)).toEqual(['icmpRateExceeded']);
    });
  });
}

/** The transport part of a packet, as it stands in it. */
function trafficUpper(protocol: Protocol, packet: Uint8Array, isIpv4: boolean) {
  return raw(PROTOCOL_NUMBERS[protocol], packet.subarray(isIpv4 ? 20 : 40));
}
