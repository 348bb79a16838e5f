/**
 * What is read of the kernel's answers: recorded ones (Linux 6.18), and such
 * as it gives rarely. What must hold of any bytes is in
 * test/property/netlink.test.ts, and that it agrees with iproute2 in
 * test/kernel/netlink.test.ts.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Address, prefix } from '../../agent/core/net.ts';
import { flowText, readFlows, wholeTable } from '../../agent/dataplane/conntrack-message.ts';
import {
  attributeIn,
  encode,
  encodeOrders,
  type Message,
  readAcknowledgements,
  readPart,
  textIn,
} from '../../agent/dataplane/netlink-message.ts';
import { PrefixSet } from '../../agent/dataplane/prefix-set.ts';
import { ALL_LINKS, OUR_BLACKHOLES, readBlackholes, readLinks } from '../../agent/dataplane/rtnetlink.ts';
import { ROOT } from '../child.ts';

const RECORDED = JSON.parse(readFileSync(join(ROOT, 'test/golden/netlink.json'), 'utf8')) as Record<string, string[]>;
const SEQUENCE = 1;

const parts = (name: string) =>
  (RECORDED[name] ?? []).map((hex) => readPart(Uint8Array.from(Buffer.from(hex, 'hex')), SEQUENCE));
const messages = (name: string) => parts(name).flatMap((part) => part.messages);

/** A message of the answer, made here. */
function made(fields: { type: number; flags?: number; sequence?: number; body?: readonly number[] }): Uint8Array {
  const { type, flags = 0, sequence = SEQUENCE, body = [] } = fields;
  const bytes = Buffer.alloc(16 + body.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.writeUInt16LE(flags, 6);
  bytes.writeUInt32LE(sequence, 8);
  bytes.set(body, 16);
  return bytes;
}

const ERROR = 2;
const DONE = 3;
const OVERRUN = 4;
const MULTI = 0x2;
const INTERRUPTED = 0x10;
const CAPPED = 0x100;
const WITH_ATTRIBUTES = 0x200;
const EPERM = [0xff, 0xff, 0xff, 0xff] as const;

describe('a question', () => {
  test('is one message, asked of all', () => {
    const bytes = Buffer.from(encode(OUR_BLACKHOLES, 7));
    expect(bytes.toString('hex')).toBe('1c0000001a000103' + '0700000000000000' + '00000000fe6d000600000000');
  });

  test('for the interfaces leaves their counters out', () => {
    expect(Buffer.from(ALL_LINKS.body).toString('hex')).toBe(`${'00'.repeat(16)}08001d0008000000`);
  });
});

describe('recorded', () => {
  test('interfaces with their addresses, without link-local ones and peers', () => {
    const links = readLinks(messages('links'), messages('addresses'));
    const texts = (list: readonly Address[] = []) => list.map(({ text }) => text);
    expect(
      links.map(({ addresses, shared, ...link }) => ({ ...link, addresses: texts(addresses), shared: texts(shared) })),
    ).toEqual([
      {
        name: 'lo',
        ifindex: 1,
        kind: 'loopback',
        mtu: 65536,
        addresses: ['127.0.0.1', '::1'],
        shared: ['127.255.255.255'],
      },
      {
        name: 'outside',
        ifindex: 3,
        kind: 'ether',
        mtu: 1500,
        virtual: 'veth',
        addresses: ['192.0.2.1', '10.9.0.1', '2001:db8:9::1', '2001:db8::1'],
        shared: ['192.0.2.255', '2001:db8::'],
      },
    ]);
  });

  test('blackholes of both families', () => {
    expect(readBlackholes(messages('routes')).map(({ text }) => text)).toEqual(['203.0.113.0/29', '2001:db8:a::/64']);
  });

  test('one message that is the whole answer', () => {
    const [part] = parts('gen');
    expect(part).toMatchObject({ ended: true, broken: false, messages: [{ type: 0xa0f }] });
    const [{ body } = { body: new Uint8Array() }] = part?.messages ?? [];
    expect(attributeIn(body, 4, 1)).toEqual(Uint8Array.of(0, 0, 0, 4));
    expect(attributeIn(body, 4, 77)).toBeUndefined();
  });

  test('an end that comes by itself', () => {
    expect(parts('chains').map(({ ended, messages }) => ({ ended, messages: messages.length }))).toEqual([
      { ended: false, messages: 2 },
      { ended: true, messages: 0 },
    ]);
    expect(messages('chains').map(({ body }) => textIn(attributeIn(body, 4, 3) ?? new Uint8Array()))).toEqual([
      'x',
      'sampled',
    ]);
  });

  test.each([
    ['errheader', { errno: 22, why: 'Invalid values in header for FIB dump request' }],
    ['notable', { errno: 2, why: 'ipv4: FIB table does not exist' }],
  ])('a refusal: %s', (name, refusal) => {
    expect(parts(name)).toEqual([{ messages: [], ended: true, broken: false, refusal }]);
  });
});

describe('an answer', () => {
  const whole = { messages: [], ended: false, broken: false };

  test.each<[string, Uint8Array, object]>([
    ['of another question', made({ type: DONE, sequence: 2 }), whole],
    ['that says nothing', made({ type: 1 }), whole],
    ['to an order, all being well', made({ type: ERROR, body: [0, 0, 0, 0] }), { ...whole, ended: true }],
    ['that ends without a word', made({ type: DONE }), { ...whole, ended: true }],
    ['changed while it was read', made({ type: DONE, flags: INTERRUPTED }), { ...whole, ended: true, broken: true }],
    ['of which something was lost', made({ type: OVERRUN }), { ...whole, broken: true }],
    [
      'refused without a word',
      made({ type: ERROR, body: [...EPERM, ...new Uint8Array(16)] }),
      { ...whole, ended: true, refusal: { errno: 1, why: '' } },
    ],
    [
      'refused, the question repeated',
      made({
        type: ERROR,
        flags: WITH_ATTRIBUTES,
        body: [...EPERM, 18, ...new Uint8Array(15), 9, 9, 0, 0, 7, 0, 1, 0, 110, 111, 0, 0],
      }),
      { ...whole, ended: true, refusal: { errno: 1, why: 'no' } },
    ],
    [
      'refused, the question left out',
      made({
        type: ERROR,
        flags: WITH_ATTRIBUTES | CAPPED,
        body: [...EPERM, 99, ...new Uint8Array(15), 7, 0, 1, 0, 110, 111, 0, 0],
      }),
      { ...whole, ended: true, refusal: { errno: 1, why: 'no' } },
    ],
  ])('%s', (_, bytes, expected) => {
    expect(readPart(bytes, SEQUENCE)).toEqual(expected);
  });

  test('that was changed in its midst: what came counts for nothing', () => {
    const bytes = Buffer.concat([made({ type: 16, flags: MULTI }), made({ type: 16, flags: MULTI | INTERRUPTED })]);
    expect(readPart(bytes, SEQUENCE)).toMatchObject({ ended: false, broken: true });
  });

  const isDamaged = (what: RegExp) =>
    expect.objectContaining({ code: 'netlinkFailed', message: expect.stringMatching(what) });
  const thrown = (act: () => unknown): unknown => {
    try {
      return act();
    } catch (fault) {
      return fault;
    }
  };

  test.each<[string, () => unknown, RegExp]>([
    ['half a header', () => readPart(new Uint8Array(9), SEQUENCE), /9 bytes, too few for a message/],
    ['a length of nothing', () => readPart(new Uint8Array(16), SEQUENCE), /a message of 0 bytes/],
    ['a length past the end', () => readPart(made({ type: 16 }).fill(0xff, 0, 4), SEQUENCE), /4294967295 bytes/],
    ['an error without a number', () => readPart(made({ type: ERROR }), SEQUENCE), /0 bytes where 4 belong/],
    [
      'an attribute past the end',
      () => attributeIn(Uint8Array.of(9, 0, 1, 0, 5, 5, 5, 5), 0, 1),
      /attribute of 9 bytes/,
    ],
    ['an attribute of no length', () => attributeIn(new Uint8Array(8), 0, 1), /attribute of 0 bytes/],
    ['an interface without a header', () => readLinks([message(16, [1])], []), /1 bytes where 16 belong/],
    [
      'half an address',
      () => readLinks([], [message(20, [2, 0, 0, 0, 1, 0, 0, 0, 6, 0, 2, 0, 10, 9])]),
      /2 bytes where 4 belong/,
    ],
  ])('that contradicts itself: %s', (_, act, what) => {
    expect(thrown(act)).toEqual(isDamaged(what));
  });
});

const message = (type: number, body: readonly number[]): Message => ({
  type,
  flags: 0,
  sequence: SEQUENCE,
  body: Uint8Array.from(body),
});

describe('a route', () => {
  const route = (changes: {
    family?: number;
    table?: number;
    protocol?: number;
    kind?: number;
    rest?: readonly number[];
  }) => {
    const { family = 2, table = 254, protocol = 109, kind = 6, rest = [] } = changes;
    return message(24, [family, 24, 0, 0, table, protocol, 0, kind, 0, 0, 0, 0, 8, 0, 1, 0, 198, 51, 100, 0, ...rest]);
  };
  const read = (changes: Parameters<typeof route>[0]) => readBlackholes([route(changes)]).map(({ text }) => text);

  test('is ours in the main table only, whichever place names the table', () => {
    expect(read({})).toEqual(['198.51.100.0/24']);
    expect(read({ table: 252, rest: [8, 0, 15, 0, 254, 0, 0, 0] })).toEqual(['198.51.100.0/24']);
    expect(read({ table: 100 })).toEqual([]);
    expect(read({ rest: [8, 0, 15, 0, 0, 4, 0, 0] })).toEqual([]);
  });

  test('of another protocol, another kind, or a family without addresses is none of ours', () => {
    expect([read({ protocol: 4 }), read({ kind: 7 }), read({ family: 28 })]).toEqual([[], [], []]);
  });

  test('without a destination leads to all', () => {
    const all = message(24, [10, 0, 0, 0, 254, 109, 0, 6, 0, 0, 0, 0]);
    expect(readBlackholes([all]).map(({ text }) => text)).toEqual(['::/0']);
  });
});

test('a kind of interface that has no name has its number', () => {
  const [link] = readLinks([message(16, [0, 0, 0x39, 3, 5, ...new Uint8Array(11), 6, 0, 3, 0, 120, 0, 0, 0])], []);
  expect(link).toEqual({ name: 'x', ifindex: 5, kind: '[825]', mtu: 0, addresses: [], shared: [] });
});

describe('connection tracking', () => {
  const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  const entries = (family: 'ipv4' | 'ipv6') =>
    Uint8Array.from(Buffer.from(RECORDED[`flows-${family}`]?.[0] ?? '', 'hex'));
  const flows = (family: 'ipv4' | 'ipv6', ...prefixes: string[]) =>
    readFlows(entries(family), SEQUENCE, new PrefixSet(family, prefixes.map(prefix)));
  const texts = (...of: Parameters<typeof flows>) => flows(...of).deletions.map(flowText);

  test('is asked for whole, a family at a time', () => {
    expect(hexOf(encode(wholeTable('ipv4'), 1))).toBe('1400000001010103010000000000000002000000');
    expect(hexOf(wholeTable('ipv6').body)).toBe('0a000000');
  });

  test('is read entry by entry: those with an address in a prefix, whichever of the four', () => {
    expect(texts('ipv4', '0.0.0.0/0')).toEqual([
      '10.20.0.5 -> 198.51.100.10',
      '198.51.100.10 -> 10.20.0.2',
      '127.0.0.2 -> 127.0.0.9',
      '127.0.0.2 -> 127.0.0.7',
      '10.20.0.2 -> 198.51.100.10',
      '10.20.0.3 -> 198.51.100.10',
    ]);
    expect(texts('ipv4', '10.20.0.2/32')).toEqual(['198.51.100.10 -> 10.20.0.2', '10.20.0.2 -> 198.51.100.10']);
    expect(texts('ipv4', '127.0.0.77/32')).toEqual(['127.0.0.2 -> 127.0.0.7']); // translated
    expect(texts('ipv4', '10.20.0.4/31')).toEqual(['10.20.0.5 -> 198.51.100.10']); // a protocol without ports
    expect(texts('ipv4', '10.20.1.0/24', '10.20.0.1/32', '::/0')).toEqual([]);
    expect(texts('ipv6', 'fd00:20:0:7::/64')).toEqual(['fd00:20:0:7::1 -> 2001:db8:51::10']);
    expect(texts('ipv6', '2001:db8:e::1/128', 'fd00:20:0:8::/64')).toEqual(['fd00:20::2 -> 2001:db8:51::10']);
    expect(texts('ipv6', '::/0')).toHaveLength(2);
  });

  test('ends with a message of its own', () => {
    const end = Uint8Array.from(Buffer.from(RECORDED['flows-ipv4']?.[1] ?? '', 'hex'));
    const none = new PrefixSet('ipv4', []);
    expect(readFlows(end, SEQUENCE, none)).toEqual({ deletions: [], ended: true, broken: false });
    expect(readFlows(end, 2, none)).toMatchObject({ ended: false });
    expect(flows('ipv4')).toEqual({ deletions: [], ended: false, broken: false });
  });

  test('an entry is deleted by its tuple, its zone, and its id', () => {
    const address = (to: string) => `${to}1c0002800500010011000000`;
    const [zoned] = flows('ipv4', '10.20.0.3/32').deletions;
    expect(zoned?.type).toBe(0x102);
    expect(hexOf(zoned?.body ?? new Uint8Array())).toBe(
      `02000000${address('34000180140001800800' + '01000a14000308000200c633640a')}060002009c40000006000300003500000600120000070000` +
        '08000c006062610e',
    );
    // A zone of one direction lies within the tuple.
    const [half] = flows('ipv4', '127.0.0.9/32').deletions;
    expect(hexOf(half?.body ?? new Uint8Array())).toBe(
      '020000003c00018014000180080001007f000002080002007f0000091c0002800500010011000000060002000fa0000006000300000900000600030000050000' +
        '08000c00d34d3e6e',
    );
  });

  test.each<[string, (bytes: Uint8Array) => Uint8Array, RegExp]>([
    ['without its tuple', (bytes) => bytes.fill(9, 22, 23), /entry of connection tracking without attribute 1$/],
    ['without a destination', (bytes) => bytes.fill(9, 38, 39), /without attribute 2$/],
    ['without an id', (bytes) => bytes.fill(99, 110, 111), /without attribute 12$/],
    ['with half an address', (bytes) => bytes.fill(6, 28, 29), /an address of 2 bytes$/],
    ['cut off', (bytes) => bytes.subarray(0, 100), /a message of 160 bytes$/],
    ['too short for its family', () => made({ type: 0x100, body: [2] }), /an entry of 1 bytes$/],
  ])('an entry %s is a fault, not one of others', (_, spoil, what) => {
    const own = new PrefixSet('ipv4', [prefix('198.51.100.10/32')]); // the destination
    const bytes = spoil(entries('ipv4').slice(0, 160));
    expect(() => readFlows(bytes, SEQUENCE, own)).toThrow(
      expect.objectContaining({ code: 'netlinkFailed', message: expect.stringMatching(what) }),
    );
  });
});

describe('orders', () => {
  const orders = [1, 2, 3].map((byte) => ({ type: 0x102, body: Uint8Array.of(byte) }));

  test('go over in one piece, each with its number, the last to be answered', () => {
    expect(Buffer.from(encodeOrders(orders)).toString('hex')).toBe(
      '110000000201010001000000000000000100000011000000020101000200000000000000020000001100000002010500030000000000000003000000',
    );
  });

  test('are answered where they are refused, and at their end', () => {
    const error = (sequence: number, errno: number) =>
      made({ type: ERROR, flags: CAPPED, sequence, body: [256 - errno, 0xff, 0xff, 0xff, ...new Uint8Array(16)] });
    const well = made({ type: ERROR, flags: CAPPED, sequence: 3, body: new Array<number>(20).fill(0) });
    expect(readAcknowledgements(error(2, 2), 3)).toEqual({ ended: false, refusals: [[1, { errno: 2, why: '' }]] });
    expect(readAcknowledgements(well, 3)).toEqual({ ended: true, refusals: [] });
    expect(readAcknowledgements(error(3, 16), 3)).toEqual({ ended: true, refusals: [[2, { errno: 16, why: '' }]] });
    expect(readAcknowledgements(error(9, 2), 3)).toEqual({ ended: false, refusals: [] });
  });
});
