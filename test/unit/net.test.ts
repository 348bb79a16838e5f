import fc from 'fast-check';
import { Address6 } from 'ip-address';
import { describe, expect, test } from 'vitest';
import {
  address,
  addressAt,
  addressFromBytes,
  addressFromIpv4,
  contains,
  formatEndpoint,
  hostPrefix,
  mappedLength,
  offsetIn,
  overlaps,
  parseAddress,
  parseEndpoint,
  parsePrefix,
  prefix,
  prefixOf,
  sizeOf,
} from '../../agent/core/net.ts';
import { overlapsAmong } from '../../agent/core/overlaps.ts';

describe('an address', () => {
  test.each([
    ['192.0.2.1', 'ipv4', '192.0.2.1'],
    ['::ffff:192.0.2.1', 'ipv4', '192.0.2.1'],
    ['::FFFF:c000:201', 'ipv4', '192.0.2.1'],
    ['2001:DB8:0:0:0:0:0:1', 'ipv6', '2001:db8::1'],
    ['2001:db8:0:1:0:0:0:1', 'ipv6', '2001:db8:0:1::1'],
    ['::', 'ipv6', '::'],
  ])('%s has one spelling (RFC 5952)', (text, family, canonical) => {
    expect(parseAddress(text)).toMatchObject({ family, text: canonical });
  });

  test('of IPv6 is spelt as the library that reads it would', () => {
    const byte = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(255) });
    const isMapped = (bytes: readonly number[]) => bytes.slice(0, 12).join() === '0,0,0,0,0,0,0,0,0,0,255,255';
    fc.assert(
      fc.property(fc.array(byte, { minLength: 16, maxLength: 16 }), (bytes) => {
        fc.pre(!isMapped(bytes));
        expect(addressFromBytes(Uint8Array.from(bytes)).text).toBe(Address6.fromByteArray(bytes).correctForm());
      }),
      { numRuns: 1000 },
    );
  });

  test.each([
    '',
    '192.0.2',
    '192.0.2.256',
    '192.0.2.01',
    '0x7f.0.0.1',
    '3221225985',
    '192.0.2.1/32',
    ' 192.0.2.1',
    'fe80::1%eth0',
    '2001:db8::1::',
    '[::1]',
    'example',
  ])('"%s" is none', (text) => {
    expect(parseAddress(text)).toBeUndefined();
    expect(() => address(text)).toThrow(RangeError);
  });

  test('comes back from its 16 bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
        const made = addressFromBytes(bytes);
        expect(made.bytes).toEqual(bytes);
        expect(parseAddress(made.text)).toEqual(made);
      }),
    );
    expect(() => addressFromBytes(new Uint8Array(4))).toThrow('an address has 16 bytes, not 4');
  });

  test('of IPv4 comes from its four octets, and is the one of its mapped form', () => {
    const octets = Uint8Array.of(192, 0, 2, 1);
    expect(addressFromIpv4(octets)).toEqual(address('192.0.2.1'));
    expect(addressFromIpv4([...octets])).toEqual(addressFromBytes(address('::ffff:192.0.2.1').bytes));
    expect(() => addressFromIpv4(new Uint8Array(16))).toThrow('an IPv4 address has 4 octets, not 16');
  });
});

describe('a prefix', () => {
  test.each([
    ['198.51.100.0/24', '198.51.100.0/24', 256n],
    ['192.0.2.1', '192.0.2.1/32', 1n],
    ['0.0.0.0/0', '0.0.0.0/0', 2n ** 32n],
    ['2001:DB8::/32', '2001:db8::/32', 2n ** 96n],
    ['2001:db8::1', '2001:db8::1/128', 1n],
    ['::/0', '::/0', 2n ** 128n],
  ])('%s', (text, canonical, size) => {
    expect(prefix(text).text).toBe(canonical);
    expect(sizeOf(prefix(text))).toBe(size);
  });

  test.each([
    ['198.51.100.1/24', '"198.51.100.1/24" has bits set behind its length; the prefix is 198.51.100.0/24'],
    ['198.51.100.0/33', '"198.51.100.0/33": the length goes up to 32'],
    ['198.51.100.0/08', '"198.51.100.0/08": "/08" is not a length'],
    ['198.51.100.0/24/1', '"198.51.100.0/24/1" is not a prefix such as 198.51.100.0/24 or 2001:db8::/32'],
    ['::ffff:198.51.100.0/120', '"::ffff:198.51.100.0/120": write IPv4 prefixes without ::ffff:'],
    ['2001:db8::1/64', '"2001:db8::1/64" has bits set behind its length; the prefix is 2001:db8::/64'],
  ])('%s is none', (text, why) => {
    expect(parsePrefix(text)).toBe(why);
    expect(() => prefix(text)).toThrow(why);
  });

  test('holds its addresses and no others, never across families', () => {
    expect(contains(prefix('198.51.100.0/25'), address('198.51.100.127'))).toBe(true);
    expect(contains(prefix('198.51.100.0/25'), address('198.51.100.128'))).toBe(false);
    expect(contains(prefix('::/0'), address('198.51.100.1'))).toBe(false);
    expect(contains(prefix('0.0.0.0/0'), address('2001:db8::1'))).toBe(false);
    expect(hostPrefix(address('2001:db8::1')).text).toBe('2001:db8::1/128');
    expect(mappedLength(prefix('198.51.100.0/24'))).toBe(120);
  });

  test('counts its addresses from its first one', () => {
    fc.assert(
      fc.property(anyPrefix, fc.bigInt(0n, 2n ** 128n), (of, n) => {
        const offset = n % sizeOf(of);
        const host = addressAt(of, offset);
        expect(contains(of, host)).toBe(true);
        expect(offsetIn(of, host)).toBe(offset);
      }),
    );
    expect(() => addressAt(prefix('192.0.2.0/30'), 4n)).toThrow('192.0.2.0/30 has no address number 4');
  });
});

describe('an endpoint', () => {
  test.each(['192.0.2.1:80', '[2001:db8::1]:65535', '192.0.2.1:0'])('%s', (text) => {
    const endpoint = parseEndpoint(text);
    expect(endpoint && formatEndpoint(endpoint)).toBe(text);
  });

  test.each([
    '192.0.2.1',
    '192.0.2.1:65536',
    '192.0.2.1:080',
    '2001:db8::1:80',
    '[192.0.2.1]:80',
    '[::1]',
    ':80',
    'host:80',
  ])('%s is none', (text) => {
    expect(parseEndpoint(text)).toBeUndefined();
  });
});

/** Short lengths and few bits, so that prefixes meet. */
const anyPrefix = fc
  .record({ family: fc.constantFrom('ipv4', 'ipv6'), bits: fc.nat(15), length: fc.nat(4), more: fc.nat(3) })
  .map(({ family, bits, length, more }) => {
    const kept = bits & (0xf0 >> length) & 0xf;
    return prefix(
      family === 'ipv4'
        ? `${kept << 4}.0.0.0/${length}`
        : more === 0
          ? '::/0'
          : `${(kept << 12).toString(16)}::/${length}`,
    );
  });

test('a prefix of an address and a length is the one of their text, or neither is one', () => {
  const host = fc.oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }).map((octets) => octets.join('.')),
    anyPrefix.map(({ address: { text } }) => text),
    fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => addressFromBytes(bytes).text),
  );
  fc.assert(
    fc.property(host, fc.nat(140), (text, length) => {
      const parsed = parsePrefix(`${text}/${length}`);
      expect(prefixOf(address(text), length)).toEqual(typeof parsed === 'string' ? undefined : parsed);
    }),
  );
  for (const text of ['128.0.0.0/1', '0.0.0.0/0', '10.0.0.1/32', '::/0', '8000::/1', '2001:db8::1/128'])
    expect(prefixOf(prefix(text).address, prefix(text).length)).toEqual(prefix(text));
});

test('overlaps of many owners are those that comparing each with each finds', () => {
  const owned = fc.record({ prefix: anyPrefix, owner: fc.constantFrom('a', 'b', 'c') });
  fc.assert(
    fc.property(fc.array(owned, { maxLength: 12 }), (items) => {
      const found = overlapsAmong(items);
      for (const { inner, outer } of found) {
        expect(inner.owner).not.toBe(outer.owner);
        expect(overlaps(inner.prefix, outer.prefix)).toBe(true);
      }
      const clash = items.filter((one) =>
        items.some((other) => other.owner !== one.owner && overlaps(one.prefix, other.prefix)),
      );
      const inners = new Set(found.map(({ inner }) => inner));
      const outers = new Set(found.map(({ outer }) => outer));
      expect(clash.length > 0).toBe(found.length > 0);
      // Whatever clashes is told: as the inner one, or as one that encloses an inner one of another owner.
      for (const one of clash) {
        const enclosing = [...inners].some((inner) => inner.owner !== one.owner && overlaps(inner.prefix, one.prefix));
        expect(inners.has(one) || outers.has(one) || enclosing).toBe(true);
      }
    }),
  );
});
