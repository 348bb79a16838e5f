import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address, contains, formatEndpoint, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { Protocol } from '../../agent/core/words.ts';
import { Endpoints, type Place } from '../../agent/grants/endpoints.ts';
import { seededRandom } from '../clock.ts';

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/31'), prefix('198.18.0.7/32')],
  ipv6: [prefix('2001:db8:a::/120')],
  portLow: 20_000,
  portCount: 4,
  keyedGrants: 10,
};
const CAPACITY = 3 * 4;

describe('allocation of external endpoints', () => {
  test('gives each IPv4 endpoint once, at its own index, and then says it is full', () => {
    const endpoints = new Endpoints(POOL, seededRandom(1));
    const places = Array.from({ length: CAPACITY }, () => endpoints.allocate('ipv4', 'udp') as Place);
    expect(new Set(places.map(({ external }) => formatEndpoint(external))).size).toBe(CAPACITY);
    for (const { external, index } of places) expect(indexOfIpv4(POOL, 'udp', external)).toBe(index);
    expect(endpoints.allocate('ipv4', 'udp')).toBeUndefined();
    expect(endpoints.allocate('ipv4', 'tcp')).toBeDefined();
  });

  test('IPv6 endpoints lie in the pool, one address a grant, at indices behind the IPv4 ones', () => {
    const endpoints = new Endpoints(POOL, seededRandom(2));
    const places = Array.from({ length: 10 }, () => endpoints.allocate('ipv6', 'tcp') as Place);
    expect(new Set(places.map(({ external }) => external.address.text)).size).toBe(10);
    for (const { external, index } of places) {
      expect(contains(POOL.ipv6[0] as never, external.address)).toBe(true);
      expect(external.port).toBeGreaterThanOrEqual(20_000);
      expect(external.port).toBeLessThan(20_004);
      expect(index).toBeGreaterThanOrEqual(ipv4Entries(POOL));
    }
    expect(endpoints.allocate('ipv6', 'udp')).toBeUndefined();
  });

  test('a place that the store names is not given again until it is freed', () => {
    const endpoints = new Endpoints(POOL, seededRandom(3));
    const taken = new Endpoints(POOL, seededRandom(9)).allocate('ipv4', 'tcp') as Place;
    expect(endpoints.take('tcp', taken, true)).toBe(true);
    expect(endpoints.take('tcp', taken, true)).toBe(false);
    const rest = Array.from({ length: CAPACITY - 1 }, () => endpoints.allocate('ipv4', 'tcp') as Place);
    expect(rest.some(({ index }) => index === taken.index)).toBe(false);
    endpoints.free('tcp', taken);
    expect(endpoints.allocate('ipv4', 'tcp')).toEqual(taken);
  });

  test('a place outside the pool is not taken', () => {
    const endpoints = new Endpoints(POOL, seededRandom(4));
    const place = endpoints.allocate('ipv4', 'tcp') as Place;
    const other = new Endpoints({ ...POOL, portLow: 30_000 }, seededRandom(4));
    expect(other.take('tcp', place, true)).toBe(false);
    expect(other.available('ipv4', 'tcp')).toBe(CAPACITY);
  });

  test('a place without translation is any of those behind the IPv4 pool, of which IPv6 takes too', () => {
    const endpoints = new Endpoints(POOL, seededRandom(6));
    const device = { address: address('10.20.0.2'), port: 5683 };
    const own = Array.from({ length: 6 }, () => endpoints.allocateOwn(device) as Place);
    const ipv6 = Array.from({ length: 4 }, () => endpoints.allocate('ipv6', 'tcp') as Place);
    expect(own.every(({ external }) => external === device)).toBe(true);
    expect([...own, ...ipv6].map(({ index }) => index - ipv4Entries(POOL)).sort()).toEqual([...Array(10).keys()]);
    expect([endpoints.allocateOwn(device), endpoints.allocate('ipv6', 'udp')]).toEqual([undefined, undefined]);
    expect(endpoints.available('ipv4', 'udp')).toBe(CAPACITY);
    endpoints.free('udp', own[0] as Place);
    expect(endpoints.allocateOwn(device)).toEqual(own[0]);
  });

  test('what the store says of it is taken as that, and as nothing else', () => {
    const endpoints = new Endpoints({ ...POOL, ipv4: [] }, seededRandom(7));
    const device = { address: address('2001:db8:20::2'), port: 5683 };
    expect(endpoints.take('udp', { index: 3, external: device }, true)).toBe(false); // in no pool
    expect(endpoints.take('udp', { index: 3, external: device }, false)).toBe(true);
    expect(endpoints.take('tcp', { index: 3, external: device }, false)).toBe(false);
    expect(endpoints.take('tcp', { index: 4, external: device }, false)).toBe(true); // another server's
    expect(endpoints.take('tcp', { index: 10, external: device }, false)).toBe(false);
    const inPool = { index: 0, external: { address: address('203.0.113.0'), port: 20_000 } };
    expect(new Endpoints(POOL, seededRandom(7)).take('tcp', inPool, false)).toBe(false);
    expect(endpoints.kindOf('udp', { index: 3 })).toBe('keyed');
    expect(new Endpoints(POOL, seededRandom(7)).kindOf('udp', { index: 3 })).toBe('ipv4 udp');
  });

  test('draws from all of the pool: no endpoint is favoured', () => {
    const seen = new Map<number, number>();
    for (let seed = 0; seed < 1200; seed++) {
      const place = new Endpoints(POOL, seededRandom(seed * 7919)).allocate('ipv4', 'tcp') as Place;
      seen.set(place.index, (seen.get(place.index) ?? 0) + 1);
    }
    expect(seen.size).toBe(CAPACITY);
    for (const count of seen.values()) expect(count).toBeGreaterThan(50); // 100 expected of each
  });

  test('whatever the order of draws and returns, nothing is given twice or lost', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.nat(), fc.constantFrom<Protocol>('tcp', 'udp')), { maxLength: 60 }),
        (steps) => {
          const endpoints = new Endpoints(POOL, seededRandom(5));
          const held: { protocol: Protocol; place: Place }[] = [];
          for (const [draw, which, protocol] of steps) {
            const place = draw ? endpoints.allocate('ipv4', protocol) : undefined;
            if (place) {
              expect(held.some((one) => one.place.index === place.index)).toBe(false);
              held.push({ protocol, place });
            } else if (held.length > 0) {
              const [one] = held.splice(which % held.length, 1);
              if (one) endpoints.free(one.protocol, one.place);
            }
          }
          const inUse = (protocol: Protocol) => held.filter((one) => one.protocol === protocol).length;
          expect(endpoints.available('ipv4', 'tcp')).toBe(CAPACITY - inUse('tcp'));
          expect(endpoints.available('ipv4', 'udp')).toBe(CAPACITY - inUse('udp'));
        },
      ),
    );
  });
});
