/**
 * Datagrams in pieces, through grants, one packet after the other: in order
 * they arrive as one that was never cut; out of it, or laid over each other,
 * nothing more of them passes.
 */
import { beforeEach, expect, test } from 'vitest';
import type { Protocol } from '../../../agent/core/words.ts';
import type { Hook, JudgingDataplane } from '../../../agent/dataplane/dataplane.ts';
import { cut, ethernet, fold, fragment, ip, raw, spoil, sum, tcp, udp } from '../../frames.ts';
import { type MakeRig, nowNs, SECOND, word } from '../fixture.ts';
import { standing } from './table.ts';
import { trafficOf } from './traffic.ts';
import { echo, openGrants, PORT, type Who } from './world.ts';

const LONG = 'it was cut on its way, and is put together where it arrives; '.repeat(3);
const CUTS = [48, 96] as const;

export function describePieces(make: MakeRig, who: Who, protocol: Protocol): void {
  const rig = standing(make, (plane) => openGrants(plane, who, protocol));
  const { knock, arrived, answer, sent } = trafficOf(who, protocol);
  const isIpv4 = who.family === 'IPv4';
  /** Each test has datagrams of its own. */
  let id = 0x4000;
  beforeEach(() => {
    id += 8;
  });

  const ask = (hook: Hook, packet: Uint8Array) => {
    const { plane, interfaces } = rig();
    const verdict = plane.judge(
      hook,
      hook === 'insideIngress' ? interfaces.inside : interfaces.outside,
      ethernet(packet),
    );
    return verdict.verdict === 'redirect' ? verdict.bytes.subarray(14) : word(verdict);
  };
  const askAll = (hook: Hook, packets: readonly Uint8Array[]) => packets.map((packet) => ask(hook, packet));
  /** The pieces of a packet, as those of a datagram of their own. */
  const pieces = (packet: Uint8Array, own = id, cuts: readonly number[] = CUTS) =>
    cut(packet, ...cuts).map((piece) => identified(piece, own));
  const inward = (fields = {}) => knock(PORT.one, { content: LONG, fields });

  test('from outside arrive as those of the packet that arrives whole', () => {
    expect(askAll('outsideIngress', pieces(inward()))).toEqual(pieces(arrived(PORT.one, { content: LONG })));
  });

  test('from a device leave as those of the packet that leaves whole, of one number that is not its own', () => {
    const fields = { dontFragment: false };
    const left = askAll('insideIngress', pieces(answer(PORT.one, { content: LONG, fields })));
    const number = identification(left[0] as Uint8Array);
    expect(number).not.toBe(id);
    expect(left).toEqual(pieces(sent(PORT.one, { content: LONG, fields }), number));
  });

  test('of two grants and of one number leave by two numbers, of one grant and two numbers by two', () => {
    const first = (port: number, peer: string, own: number) => {
      const packet = answer(port, { content: LONG, peer, fields: { dontFragment: false } });
      return identification(ask('insideIngress', pieces(packet, own)[0] as Uint8Array) as Uint8Array);
    };
    const numbers = [
      first(PORT.one, who.server, id),
      first(PORT.any, who.otherServer, id),
      ...[1, 2, 3, 4].map((more) => first(PORT.one, who.server, id + more)),
    ];
    expect(new Set(numbers).size).toBe(numbers.length);
  });

  test('of two datagrams may come between each other', () => {
    const [one, two] = [pieces(inward()), pieces(inward(), id + 1)];
    const both = one.flatMap((piece, i) => [piece, two[i] as Uint8Array]);
    expect(askAll('outsideIngress', both).every((outcome) => typeof outcome === 'object')).toBe(true);
  });

  test('may have the same number again once the last has passed', () => {
    for (let again = 0; again < 2; again++)
      expect(askAll('outsideIngress', pieces(inward())).every((outcome) => typeof outcome === 'object')).toBe(true);
  });

  test('without their first do not pass', () => {
    const [, second, third] = pieces(inward()) as [Uint8Array, Uint8Array, Uint8Array];
    expect(askAll('outsideIngress', [second, third])).toEqual(['fragment', 'fragment']);
    const [, late] = pieces(answer(PORT.one, { content: LONG })) as [Uint8Array, Uint8Array];
    expect(ask('insideIngress', late)).toBe('pass'); // to the base, where no first will ever come
  });

  test('out of their order wait for nobody: what came early is lost, and its datagram with it', () => {
    const [first, second, third] = pieces(inward()) as [Uint8Array, Uint8Array, Uint8Array];
    expect(ask('outsideIngress', first)).toBeInstanceOf(Uint8Array);
    expect(ask('outsideIngress', third)).toBe('fragment');
    expect(ask('outsideIngress', second)).toBeInstanceOf(Uint8Array);
  });

  test.each([
    ['the first again', (all: Uint8Array[]) => all[0]],
    ['another first', (all: Uint8Array[]) => identified(cut(inward(), 56)[0] as Uint8Array, numberOf(all))],
    ['the second again', (all: Uint8Array[]) => all[1]],
    [
      'one that begins in the second',
      (all: Uint8Array[]) => fragment(headerOf(all[1] as Uint8Array), 56, true, new Uint8Array(40), numberOf(all)),
    ],
  ])('laid over each other end their datagram: %s', (_, over) => {
    const all = pieces(inward());
    expect(askAll('outsideIngress', all.slice(0, 2)).every((outcome) => typeof outcome === 'object')).toBe(true);
    expect(ask('outsideIngress', over(all) as Uint8Array)).toBe('fragment');
    expect(ask('outsideIngress', all[2] as Uint8Array)).toBe('fragment');
  });

  test.each([
    ...(protocol === 'tcp' ? [['shorter than its transport header', 16] as const] : []),
    ['that ends between two units of eight', protocol === 'udp' ? 12 : 28],
  ] as const)('a first one %s does not pass, either way', (_, length) => {
    for (const [hook, packet] of [
      ['outsideIngress', inward()],
      ['insideIngress', answer(PORT.one, { content: LONG })],
    ] as const) {
      const content = packet.subarray(isIpv4 ? 20 : 40);
      expect(ask(hook, fragment(headerOf(packet), 0, true, content.subarray(0, length), id))).toBe('fragment');
    }
  });

  test('that would reach past the longest datagram do not pass', () => {
    const header = headerOf(inward());
    expect(ask('outsideIngress', fragment(header, 65_528, false, new Uint8Array(8), id))).toBe('fragment');
  });

  test('of no grant, of another sender and of an ended grant do not pass, and open nothing for their rest', () => {
    for (const [packet, reason] of [
      [knock(PORT.none, { content: LONG }), 'noGrant'],
      [knock(PORT.one, { content: LONG, peer: who.stranger }), 'wrongSource'],
      [knock(PORT.ended, { content: LONG }), 'grantEnded'],
    ] as const)
      expect(askAll('outsideIngress', pieces(packet))).toEqual([reason, 'fragment', 'fragment']);
  });

  test('stop with their grant, in the middle of a datagram', () => {
    const { plane } = rig();
    const entry = [...plane.states()].find(({ index }) => plane.entry(index)?.mapping.external.port === PORT.any);
    const { index, number, endNs } = entry as { index: number; number: number; endNs: bigint };
    const all = pieces(knock(PORT.any, { content: LONG }));
    expect(ask('outsideIngress', all[0] as Uint8Array)).toBeInstanceOf(Uint8Array);
    plane.end(index, number, nowNs() - SECOND);
    expect(ask('outsideIngress', all[1] as Uint8Array)).toBe('grantEnded');
    plane.resume(index, number, endNs);
    expect(ask('outsideIngress', all[1] as Uint8Array)).toBeInstanceOf(Uint8Array);
  });

  test('count as the packets they are', () => {
    const { plane } = rig();
    const before = plane.counters().grantedIn;
    const all = pieces(inward());
    askAll('outsideIngress', all);
    const after = plane.counters().grantedIn;
    expect(after.packets - before.packets).toBe(3n);
    expect(after.bytes - before.bytes).toBe(BigInt(all.reduce((bytes, { length }) => bytes + 14 + length, 0)));
  });

  test('of what no grant carries go to the base from inside, and nowhere from outside', () => {
    const message = ip(who.device, who.stranger, echo(who));
    expect(askAll('insideIngress', pieces(message, id, [16]))).toEqual(['pass', 'pass']);
    const own = ip(who.device, who.stranger, protocol === 'udp' ? udp(7, 8, LONG) : tcp(7, 8, LONG));
    expect(askAll('insideIngress', pieces(own))).toEqual(['pass', 'pass', 'pass']);
    expect(askAll('outsideIngress', pieces(ip(who.server, who.external, raw(47, LONG))))).toEqual(
      Array(3).fill('fragment'),
    );
  });

  if (!isIpv4) {
    test('a fragment that is a whole packet passes as it is (RFC 6946), and may come again', () => {
      const whole = (packet: Uint8Array, own: number) =>
        fragment(packet.subarray(0, 40), 0, false, packet.subarray(40), own);
      for (let again = 0; again < 2; again++)
        expect(ask('outsideIngress', whole(knock(PORT.one), id))).toEqual(whole(arrived(PORT.one), id));
    });

    test('one whose header is cut, or stands behind others, does not pass', () => {
      const [first] = pieces(inward()) as [Uint8Array];
      const isCut = spoil(first.subarray(0, 44), 4, 0, 4);
      expect(ask('outsideIngress', isCut)).toBe('fragment');
      const fields = { extensions: [60], fragment: { offset: 0, more: true } };
      expect(ask('outsideIngress', knock(PORT.one, { content: LONG, fields }))).toBe('headerOptions');
    });
  }

  test("of a UDP grant that has just ended are its tombstone's", () => {
    const packet = answer(PORT.resting, { content: LONG, fields: { dontFragment: false } });
    expect(ask('insideIngress', pieces(packet)[0] as Uint8Array)).toBe(protocol === 'udp' ? 'tombstone' : 'pass');
  });

  test('are refused for the limits of their grant, each by itself', () => {
    const { plane } = rig();
    const [{ index, number } = { index: 0, number: 0 }] = entriesAt(plane, PORT.last);
    const all = pieces(knock(PORT.last, { content: LONG, external: who.externalLast }));
    plane.limit(index, number, { packetsPerSecond: 2 });
    expect(askAll('outsideIngress', all).map((outcome) => (typeof outcome === 'string' ? outcome : 'carried'))).toEqual(
      ['carried', 'carried', 'packetRateExceeded'],
    );
    plane.limit(index, number, {});
  });

  function entriesAt(plane: JudgingDataplane, port: number) {
    return [...plane.states()].filter(({ index }) => plane.entry(index)?.mapping.external.port === port);
  }

  function headerOf(packet: Uint8Array): Uint8Array {
    const header = Uint8Array.from(packet.subarray(0, isIpv4 ? 20 : 40));
    if (isIpv4) header.set([id >> 8, id & 0xff], 4);
    else header[6] = protocol === 'udp' ? 17 : 6;
    return header;
  }

  function numberOf(all: Uint8Array[]): number {
    return identification(all[0] as Uint8Array);
  }

  function identification(piece: Uint8Array): number {
    const view = new DataView(piece.buffer, piece.byteOffset);
    return isIpv4 ? view.getUint16(4) : view.getUint32(44);
  }

  function identified(piece: Uint8Array, number: number): Uint8Array {
    const copy = Uint8Array.from(piece);
    const view = new DataView(copy.buffer);
    if (!isIpv4) view.setUint32(44, number);
    else {
      view.setUint16(4, number);
      view.setUint16(10, 0);
      view.setUint16(10, fold(sum(copy.subarray(0, 20))));
    }
    return copy;
  }
}
