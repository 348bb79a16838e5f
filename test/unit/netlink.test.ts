/**
 * What is read of the kernel's answers: recorded ones (Linux 6.18), and such
 * as it gives rarely. What must hold of any bytes is in
 * test/property/netlink.test.ts, and that it agrees with iproute2 in
 * test/kernel/netlink.test.ts.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { attributeIn, encode, type Message, readPart, textIn } from '../../agent/dataplane/netlink-message.ts';
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
    expect(links.map(({ addresses, ...link }) => ({ ...link, addresses: addresses.map(({ text }) => text) }))).toEqual([
      { name: 'lo', ifindex: 1, kind: 'loopback', addresses: ['127.0.0.1', '::1'] },
      {
        name: 'outside',
        ifindex: 3,
        kind: 'ether',
        addresses: ['192.0.2.1', '10.9.0.1', '2001:db8:9::1', '2001:db8::1'],
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
  expect(link).toEqual({ name: 'x', ifindex: 5, kind: '[825]', addresses: [] });
});
