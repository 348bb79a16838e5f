/** What must hold of reading any bytes as the kernel's answer: it ends, and throws nothing but a fault that says why. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { attributeIn, encode, type Message, readPart } from '../../agent/dataplane/netlink-message.ts';
import { readBlackholes, readLinks } from '../../agent/dataplane/rtnetlink.ts';

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
