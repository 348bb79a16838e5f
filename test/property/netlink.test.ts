/** What must hold of reading any bytes as the kernel's answer: it ends, and throws nothing but a fault that says why. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { addressFromBytes, contains, type Family, type Prefix, prefix } from '../../agent/core/net.ts';
import { flowText, readFlows } from '../../agent/dataplane/conntrack-message.ts';
import {
  attributeIn,
  encode,
  type Message,
  readAcknowledgements,
  readPart,
} from '../../agent/dataplane/netlink-message.ts';
import { PrefixSet } from '../../agent/dataplane/prefix-set.ts';
import { readBlackholes, readLinks } from '../../agent/dataplane/rtnetlink.ts';
import { ROOT } from '../child.ts';

const u16 = fc.nat(0xffff);
const types = fc.constantFrom(1, 2, 3, 4, 16, 20, 24);

/** An attribute whose length may be a lie. */
const attribute = fc
  .tuple(fc.nat(20), fc.uint8Array({ maxLength: 20 }), fc.option(fc.nat(40)))
  .map(([type, value, lie]) => {
    const bytes = Buffer.alloc(4 + Math.ceil(value.length / 4) * 4);
    bytes.writeUInt16LE(lie ?? 4 + value.length, 0);
    bytes.writeUInt16LE(type, 2);
    bytes.set(value, 4);
    return bytes;
  });
/** Fixed parts of both address families, of any length, with attributes behind them. */
const body = fc
  .tuple(fc.constantFrom(2, 10, 28), fc.uint8Array({ maxLength: 16 }), fc.array(attribute, { maxLength: 4 }))
  .map(([family, head, attributes]) => Buffer.concat([Uint8Array.of(family), head, ...attributes]));
const message: fc.Arbitrary<Message> = fc.record({ type: types, flags: u16, sequence: fc.constant(1), body });
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.array(fc.tuple(message, fc.option(fc.nat(60))), { maxLength: 4 }).map((all) =>
    Buffer.concat(
      all.map(([{ type, flags, body }, lie]) => {
        const head = Buffer.from(encode({ what: '', type, dump: false, body: new Uint8Array() }, 1));
        head.writeUInt32LE(lie ?? 16 + body.length, 0);
        head.writeUInt16LE(flags, 6);
        return Buffer.concat([head, body, new Uint8Array(-body.length & 3)]);
      }),
    ),
  ),
);

/** Does it, and lets pass a fault that names what contradicts itself. */
function survives(act: () => void): void {
  try {
    act();
  } catch (fault) {
    expect(fault).toBeInstanceOf(AgentError);
    expect(fault).toMatchObject({ code: 'netlinkFailed', message: expect.stringMatching(/contradicts itself: .*\d/) });
  }
}

describe('any bytes', () => {
  test('are read as parts of an answer', () => {
    fc.assert(
      fc.property(bytes, (given) =>
        survives(() => {
          const { messages, refusal } = readPart(given, 1);
          for (const { body } of messages) expect(body.length).toBeLessThanOrEqual(given.length - 16);
          if (refusal) expect(refusal.errno).toBeGreaterThan(0);
        }),
      ),
      { numRuns: 2_000 },
    );
  });

  test('are read as attributes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(70), fc.nat(4), (given, from, type) =>
        survives(() => void attributeIn(given, from, type)),
      ),
    );
  });

  test('are read as interfaces, addresses and routes', () => {
    const some = fc.array(message, { maxLength: 3 });
    fc.assert(
      fc.property(some, some, (links, others) => {
        survives(() => {
          for (const { kind } of readLinks(links, others)) expect(kind).not.toBe('');
        });
        survives(() => {
          for (const { length } of readBlackholes(others)) expect(length).toBeLessThanOrEqual(128);
        });
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('entries of connection tracking', () => {
  const recorded = JSON.parse(readFileSync(join(ROOT, 'test/golden/netlink.json'), 'utf8')) as Record<string, string[]>;
  const all = (family: Family) => new PrefixSet(family, [prefix(family === 'ipv4' ? '0.0.0.0/0' : '::/0')]);
  const golden = (['ipv4', 'ipv6'] as const).map((family) => ({
    family,
    bytes: Buffer.from(recorded[`flows-${family}`]?.[0] ?? '', 'hex'),
  }));
  const spoilt = fc
    .tuple(fc.constantFrom(...golden), fc.array(fc.tuple(fc.nat(2_000), fc.nat(255)), { maxLength: 4 }), fc.nat(2_400))
    .map(([{ family, bytes }, changes, end]) => {
      const copy = Uint8Array.from(bytes);
      for (const [at, byte] of changes) copy[at % copy.length] = byte;
      return { family, bytes: copy.subarray(0, end) };
    });

  test('are read from any bytes, or refused; what is deleted has a tuple and an id', () => {
    const given = fc.oneof(
      spoilt,
      bytes.map((some) => ({ family: 'ipv4' as const, bytes: some })),
    );
    fc.assert(
      fc.property(given, ({ family, bytes }) =>
        survives(() => {
          for (const order of readFlows(bytes, 1, all(family)).deletions) {
            expect(attributeIn(order.body, 4, 1)).toBeDefined();
            expect(attributeIn(order.body, 4, 12)).toBeDefined();
            expect(flowText(order)).toContain(' -> ');
          }
        }),
      ),
      { numRuns: 3_000 },
    );
  });

  test('and acknowledgements too', () => {
    fc.assert(fc.property(bytes, fc.nat(4), (given, count) => survives(() => void readAcknowledgements(given, count))));
  });
});

describe('a set of prefixes', () => {
  /** Few different bits, so that much lies in much. */
  const sparse = (length: number) =>
    fc.array(fc.constantFrom(0, 0, 1, 0x80, 0xff), { minLength: length, maxLength: length });
  const world = fc.constantFrom<Family>('ipv4', 'ipv6').chain((family) => {
    const width = family === 'ipv4' ? 4 : 16;
    const host = sparse(width).map((bytes) => Uint8Array.from(bytes));
    return fc.record({
      family: fc.constant(family),
      prefixes: fc.array(fc.tuple(host, fc.nat(8 * width)), { maxLength: 40 }),
      hosts: fc.array(host, { minLength: 1, maxLength: 20 }),
    });
  });
  const mapped = (bytes: Uint8Array) =>
    addressFromBytes(bytes.length === 16 ? bytes : Uint8Array.of(...new Uint8Array(10), 0xff, 0xff, ...bytes));
  const cut = (bytes: Uint8Array, length: number): Prefix => {
    const kept = bytes.map((byte, i) => byte & (0xff00 >> Math.min(8, Math.max(0, length - 8 * i))) & 0xff);
    return prefix(`${mapped(kept).text}/${length}`);
  };

  test('holds an address as the prefixes themselves do, one by one', () => {
    fc.assert(
      fc.property(world, ({ family, prefixes, hosts }) => {
        const list = prefixes.map(([bytes, length]) => cut(bytes, length));
        const set = new PrefixSet(family, list);
        for (const bytes of hosts) {
          const around = Uint8Array.of(0xaa, ...bytes, 0xaa);
          const host = mapped(bytes);
          fc.pre(host.family === family); // an IPv4-mapped one is read as IPv4
          expect(set.holds(new DataView(around.buffer), 1)).toBe(list.some((one) => contains(one, host)));
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test('is of its family alone', () => {
    const zero = new DataView(new ArrayBuffer(16));
    expect(new PrefixSet('ipv4', [prefix('::/0')]).holds(zero, 0)).toBe(false);
    expect(new PrefixSet('ipv6', [prefix('0.0.0.0/0')]).isEmpty).toBe(true);
  });
});
