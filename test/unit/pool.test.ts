import { expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { entryCount, indexOfIpv4, ipv4Addresses, ipv4Entries, ipv4Slots, type Pool } from '../../agent/core/pool.ts';

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/30'), prefix('198.51.100.8/31')],
  ipv6: [prefix('2001:db8:a::/64')],
  portLow: 20_000,
  portCount: 100,
  keyedGrants: 50,
};
const at = (host: string, port: number) => ({ address: address(host), port });

test('IPv4 endpoints take the indices from 0, IPv6 ones those behind', () => {
  expect(ipv4Slots(POOL)).toBe(6);
  expect(ipv4Entries(POOL)).toBe(1200);
  expect(entryCount(POOL)).toBe(1250);
  // Whatever the pool: a rule file may ask for grants that are not translated.
  expect(entryCount({ ...POOL, ipv6: [] })).toBe(1250);
  expect(entryCount({ ...POOL, ipv4: [] })).toBe(50);
});

test('an index is slot, then protocol, then port (gate.h)', () => {
  expect(indexOfIpv4(POOL, 'tcp', at('203.0.113.0', 20_000))).toBe(0);
  expect(indexOfIpv4(POOL, 'udp', at('203.0.113.0', 20_000))).toBe(100);
  expect(indexOfIpv4(POOL, 'tcp', at('203.0.113.1', 20_099))).toBe(299);
  expect(indexOfIpv4(POOL, 'udp', at('198.51.100.9', 20_099))).toBe(1199);
});

test('what is not in the pool has no index', () => {
  expect(indexOfIpv4(POOL, 'tcp', at('203.0.113.4', 20_000))).toBeUndefined();
  expect(indexOfIpv4(POOL, 'tcp', at('203.0.113.0', 19_999))).toBeUndefined();
  expect(indexOfIpv4(POOL, 'tcp', at('203.0.113.0', 20_100))).toBeUndefined();
  expect(indexOfIpv4(POOL, 'tcp', at('2001:db8:a::1', 20_000))).toBeUndefined();
});

test('the addresses stand in the order of their slots', () => {
  const addresses = ipv4Addresses(POOL);
  expect(addresses.map(({ text }) => text)).toEqual([
    ...['203.0.113.0', '203.0.113.1', '203.0.113.2', '203.0.113.3'],
    ...['198.51.100.8', '198.51.100.9'],
  ]);
  for (const [slot, host] of addresses.entries())
    expect(indexOfIpv4(POOL, 'tcp', { address: host, port: 20_000 })).toBe(slot * 200);
});
