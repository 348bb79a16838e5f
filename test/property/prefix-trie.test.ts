/** The trie against a list that is looked through: the same prefixes overlap, whatever came and went. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addressFromBytes, overlaps, type Prefix, prefix } from '../../agent/core/net.ts';
import { PrefixTrie } from '../../agent/directory/prefix-trie.ts';

/** Few first bytes and few last ones, so that prefixes meet. */
const anyPrefix: fc.Arbitrary<Prefix> = fc
  .record({
    head: fc.constantFrom(0xfd, 0xfc, 0x20),
    tail: fc.array(fc.constantFrom(0, 1, 0x80, 0xff), { minLength: 15, maxLength: 15 }),
    length: fc.oneof(fc.constantFrom(48, 56, 64, 128), fc.integer({ min: 0, max: 128 })),
  })
  .map(({ head, tail, length }) => {
    const bytes = Uint8Array.from([head, ...tail]).map(
      (byte, i) => byte & (0xff << Math.max(0, 8 - Math.max(0, length - i * 8))),
    );
    return prefix(`${addressFromBytes(bytes).text}/${length}`);
  });
const ipv4 = fc
  .record({ last: fc.constantFrom(0, 1, 2, 128, 255), length: fc.constantFrom(8, 16, 31, 32) })
  .map(({ last, length }) =>
    length === 32
      ? prefix(`10.20.0.${last}`)
      : prefix(length === 31 ? `10.20.0.${last & ~1}/31` : length === 16 ? '10.20.0.0/16' : '10.0.0.0/8'),
  );

test('finds what overlaps', () => {
  let found = 0;
  fc.assert(
    fc.property(
      fc.array(fc.record({ prefix: fc.oneof(anyPrefix, ipv4), put: fc.boolean() }), { maxLength: 60 }),
      fc.array(fc.oneof(anyPrefix, ipv4), { minLength: 1, maxLength: 10 }),
      (changes, asked) => {
        const tries = { ipv4: new PrefixTrie<string>(), ipv6: new PrefixTrie<string>() };
        const list = new Map<string, Prefix>();
        for (const { prefix: one, put } of changes) {
          if (put) {
            tries[one.family].put(one, one.text);
            list.set(one.text, one);
          } else {
            const there = [...list.values()].at(-1) ?? one;
            tries[there.family].remove(there);
            tries[one.family].remove(one);
            list.delete(there.text);
            list.delete(one.text);
          }
        }
        for (const one of [...asked, ...list.values()]) {
          const expected = [...list.values()].filter((other) => overlaps(other, one)).map(({ text }) => text);
          expect(tries[one.family].overlapping(one).sort()).toEqual(expected.sort());
          found += expected.length;
        }
      },
    ),
    { numRuns: 400 },
  );
  expect(found).toBeGreaterThan(200);
});
