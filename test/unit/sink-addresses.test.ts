/** Where reports may be sent: a table of spellings, and what holds for every address. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address, addressFromBytes, contains, prefix } from '../../agent/core/net.ts';
import { objectionTo } from '../../agent/reports/sink-addresses.ts';

const OWN = [
  { prefix: prefix('203.0.113.0/28'), owner: 'the grants pool of agent.yaml' },
  { prefix: prefix('2001:db8:a::/64'), owner: 'realm iot of agent.yaml' },
  { prefix: prefix('198.51.100.10/32'), owner: 'an address of this host' },
];

const objection = (text: string) => objectionTo(address(text), OWN);

describe('what is public may be sent to', () => {
  test.each([
    ['192.0.2.1', 'documentation is nobody, and not private'],
    ['198.51.100.11', 'beside the gateway'],
    ['203.0.113.16', 'behind the pool'],
    ['9.255.255.255', 'before 10.0.0.0/8'],
    ['11.0.0.0', 'behind 10.0.0.0/8'],
    ['100.63.255.255', 'before the shared space'],
    ['100.128.0.0', 'behind the shared space'],
    ['172.15.255.255', 'before 172.16.0.0/12'],
    ['172.32.0.0', 'behind 172.16.0.0/12'],
    ['223.255.255.255', 'before multicast'],
    ['::ffff:192.0.2.1', 'IPv4, mapped'],
    ['2001:db8:b::1', 'IPv6 documentation'],
    ['2606:4700::1111', 'IPv6'],
    ['64:ff9b::192.0.2.1', 'public IPv4 by NAT64'],
    ['2001:db8:b::5efe:192.0.2.1', 'public IPv4 by ISATAP'],
  ])('%s: %s', (text) => expect(objection(text)).toBeUndefined());
});

describe('what is not is refused, in every spelling', () => {
  test.each([
    ['0.0.0.0', 'unspecified'],
    ['0.1.2.3', 'unspecified'],
    ['127.0.0.1', 'loopback'],
    ['127.255.0.1', 'loopback'],
    ['10.1.2.3', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.0.1', 'private'],
    ['100.64.0.1', 'shared address space'],
    ['169.254.169.254', 'link-local'],
    ['192.0.0.8', 'a protocol assignment'],
    ['192.88.99.1', 'a 6to4 relay'],
    ['198.19.0.1', 'for benchmarking'],
    ['224.0.0.1', 'multicast'],
    ['255.255.255.255', 'reserved'],
    ['203.0.113.7', 'the grants pool of agent.yaml'],
    ['198.51.100.10', 'an address of this host'],
    ['2001:db8:a::7', 'realm iot of agent.yaml'],
    ['::ffff:127.0.0.1', 'loopback'],
    ['::ffff:7f00:1', 'loopback'],
    ['::ffff:198.51.100.10', 'an address of this host'],
    ['::1', 'no global unicast address'],
    ['::', 'no global unicast address'],
    ['::127.0.0.1', 'no global unicast address'],
    ['::192.0.2.1', 'no global unicast address'],
    ['::ffff:0:10.0.0.1', 'no global unicast address'],
    ['fe80::1', 'no global unicast address'],
    ['fec0::1', 'no global unicast address'],
    ['fd00::1', 'no global unicast address'],
    ['ff02::1', 'no global unicast address'],
    ['100::1', 'no global unicast address'],
    ['5f00::1', 'no global unicast address'],
    ['64:ff9b::10.0.0.1', 'which is private'],
    ['64:ff9b::7f00:1', 'which is loopback'],
    ['64:ff9b::203.0.113.7', 'which is the grants pool of agent.yaml'],
    ['64:ff9b:1::192.0.2.1', 'no global unicast address'],
    ['2002:7f00:1::', '6to4'],
    ['2002:c000:201::1', '6to4'],
    ['2001:0:4136:e378:8000:63bf:3fff:fdd2', 'a protocol assignment'],
    ['2001:20::1', 'a protocol assignment'],
    ['2001:db8:b::5efe:10.0.0.1', 'which is private'],
    ['2001:db8:b::200:5efe:7f00:1', 'which is loopback'],
    ['2001:db8:b::5efe:198.51.100.10', 'which is an address of this host'],
  ])('%s: %s', (text, why) => expect(objection(text)).toContain(why));
});

test('no IPv6 address that is let through holds an IPv4 address that is not, in a known way', () => {
  const refusedIpv4 = fc
    .oneof(
      fc.constantFrom([10], [127], [192, 168], [169, 254], [100, 64], [172, 16], [224], [0], [203, 0, 113, 3]),
      fc.array(fc.nat(255), { minLength: 4, maxLength: 4 }),
    )
    .map((start) => Uint8Array.from([...start, 7, 7, 7].slice(0, 4)))
    .filter((bytes) => objectionTo(address(bytes.join('.')), OWN) !== undefined);
  const ways = fc.constantFrom(
    (v4: readonly number[]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...v4],
    (v4: readonly number[]) => [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, ...v4],
    (v4: readonly number[]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...v4],
    (v4: readonly number[]) => [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, ...v4],
    (v4: readonly number[]) => [0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0, ...v4],
    (v4: readonly number[]) => [0x20, 0x02, ...v4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    (v4: readonly number[]) => [0x20, 0x01, 0, 0, ...v4, 0, 0, 0, 0, ...v4.map((byte) => byte ^ 0xff)],
    (v4: readonly number[]) => [0x20, 0x01, 0x0d, 0xb8, 9, 9, 9, 9, 0, 0, 0x5e, 0xfe, ...v4],
    (v4: readonly number[]) => [0x26, 0x06, 0x47, 0, 9, 9, 9, 9, 2, 0, 0x5e, 0xfe, ...v4],
  );
  fc.assert(
    fc.property(refusedIpv4, ways, (v4, way) => {
      expect(objectionTo(addressFromBytes(Uint8Array.from(way([...v4]))), OWN)).toBeDefined();
    }),
  );
});

test('outside of 2000::/3 and NAT64 no IPv6 address is let through', () => {
  const global = prefix('2000::/3');
  const nat64 = prefix('64:ff9b::/96');
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      const any = addressFromBytes(bytes);
      fc.pre(any.family === 'ipv6' && !contains(global, any) && !contains(nat64, any));
      expect(objectionTo(any, [])).toBeDefined();
    }),
  );
});
