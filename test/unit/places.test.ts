/** Who may connect: shares of servers, of strangers, of one stranger's address. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { API_LIMITS, type ConnectionLimits, ownPart } from '../../agent/api/limits.ts';
import { type Place, Places } from '../../agent/api/places.ts';
import { neighbourhoodOf, type PartySources, Sources } from '../../agent/api/sources.ts';
import { address, contains, prefix } from '../../agent/core/net.ts';
import type { ServerName } from '../../agent/core/words.ts';

const LIMITS = API_LIMITS.connections;

function sourcesOf(servers: Record<string, readonly string[]>): PartySources {
  const entries = Object.entries(servers);
  return new Map(entries.map(([name, sources]) => [name as ServerName, { apiSources: sources.map(prefix) }]));
}

class Door {
  nowMs = 0;
  servers: PartySources;
  readonly places: Places;
  readonly open: Place[] = [];
  readonly cut: string[] = [];

  constructor(servers: Record<string, readonly string[]>, limits: Partial<ConnectionLimits> = {}) {
    this.servers = sourcesOf(servers);
    this.places = new Places(
      { ...LIMITS, ...limits },
      () => this.servers,
      () => this.nowMs,
    );
  }

  /** One that connects, and whose handshake is over at once unless it stalls. */
  come(from: string, does: 'stalls' | 'ends' | 'resumes' = 'ends'): Place | string {
    const place = this.places.enter(address(from), () => {
      this.cut.push(from);
      (place as Place).leave();
    });
    if (typeof place === 'string') return place;
    if (does !== 'stalls') place.settle(does === 'resumes');
    this.open.push(place);
    return place;
  }

  /** What so many of them are told, in order; those that got in as their party. */
  crowd(count: number, from: string, does?: 'stalls' | 'ends' | 'resumes'): string[] {
    return Array.from({ length: count }, () => {
      const place = this.come(from, does);
      return typeof place === 'string' ? place : place.party;
    });
  }
}

const count = (all: readonly string[], what: string) => all.filter((one) => one === what).length;
const plenty = { all: 1e9, least: 1e9, most: 1e9 };

test('a server has connections and handshakes of its own, whatever others do', () => {
  const door = new Door({ acme: ['198.51.100.0/24'], beta: ['192.0.2.0/24'] });
  const told = door.crowd(10_000, '198.51.100.1');
  expect([count(told, 'acme'), count(told, 'serverHandshakes')]).toEqual([128, 9_872]);
  door.crowd(10_000, '203.0.113.1');
  expect(count(door.crowd(128, '192.0.2.7'), 'beta')).toBe(128);
  door.nowMs += 1_000; // 50 handshakes more, and no places
  expect(count(door.crowd(60, '198.51.100.2'), 'serverPlaces')).toBe(60);
  for (const place of door.open.splice(0, 10)) place.leave();
  expect(count(door.crowd(60, '198.51.100.2'), 'acme')).toBe(10);
});

test('beyond their own parts servers take of the spare ones, as long as there are some', () => {
  const door = new Door(
    { a: ['10.0.0.0/24'], b: ['10.0.1.0/24'], c: ['10.0.2.0/24'] },
    { serverPlaces: { all: 30, least: 1, most: 25 }, sparePlaces: 18, serverHandshakes: plenty },
  );
  expect(count(door.crowd(30, '10.0.0.1'), 'a')).toBe(25);
  expect(count(door.crowd(30, '10.0.1.1'), 'b')).toBe(13);
  expect(count(door.crowd(30, '10.0.2.1'), 'c')).toBe(10);
  for (const place of door.open.filter(({ party }) => party === 'a')) place.leave();
  expect(count(door.crowd(30, '10.0.2.1'), 'c')).toBe(15);
});

test('strangers share a few, and one address of theirs has a part', () => {
  const door = new Door({ acme: ['198.51.100.0/24'] });
  expect(count(door.crowd(1_000, '203.0.113.1'), 'strangers')).toBe(8);
  expect(door.come('203.0.113.1')).toBe('addressHandshakes');
  expect(count(door.crowd(100, '203.0.113.2'), 'strangers')).toBe(8);
  expect(count(door.crowd(100, '203.0.113.3'), 'strangers')).toBe(8);
  expect(count(door.crowd(100, '203.0.113.4'), 'strangers')).toBe(8);
  expect(door.crowd(1, '203.0.113.5')).toEqual(['strangerHandshakes']);
  for (let second = 0; second < 100; second++) {
    door.nowMs += 1_000;
    door.crowd(10, '203.0.113.1');
  }
  expect(door.open.filter(({ stranger }) => stranger)).toHaveLength(24 + 16);
  expect(door.come('203.0.113.1')).toBe('addressPlaces');
  expect(count(door.crowd(100, '203.0.113.6'), 'strangers')).toBe(8);
});

test('strangers that hammer compete with a newcomer by what they may have, not by how often they come', () => {
  const door = new Door({});
  for (let turn = 0; turn < 100; turn++) for (let at = 1; at <= 20; at++) door.come(`203.0.113.${at}`, 'ends');
  for (const place of door.open.splice(0)) place.leave();
  let heard = 0;
  for (let second = 0; second < 20; second++) {
    // 20 times 20 knocks in a second, and in the midst of them one of somebody else.
    for (let knock = 0; knock < 20; knock++) {
      door.nowMs += 50;
      for (let at = 1; at <= 20; at++) door.come(`203.0.113.${at}`);
      if (knock === 5 && typeof door.come('198.51.100.9') !== 'string') heard += 1;
      for (const place of door.open.splice(0)) place.leave();
    }
  }
  expect(heard).toBeGreaterThan(0);
});

test('an IPv6 stranger is its /64', () => {
  const door = new Door({});
  const told = Array.from({ length: 20 }, (_, at) => door.crowd(1, `2001:db8::${(at + 1).toString(16)}`)).flat();
  expect([count(told, 'strangers'), count(told, 'addressHandshakes')]).toEqual([8, 12]);
  expect(door.crowd(1, '2001:db8:0:1::1')).toEqual(['strangers']);
});

test('a handshake that stands still makes room, once it has had its time; one that is over does not', () => {
  const door = new Door({ acme: ['198.51.100.0/24'] }, { serverPlaces: { all: 4, least: 4, most: 4 }, sparePlaces: 0 });
  door.come('198.51.100.1', 'stalls');
  door.nowMs += 100;
  door.come('198.51.100.2', 'stalls');
  door.crowd(2, '198.51.100.3');
  door.nowMs += 800;
  expect(door.crowd(1, '198.51.100.4')).toEqual(['serverPlaces']);
  door.nowMs += 100;
  expect(door.crowd(2, '198.51.100.4')).toEqual(['acme', 'serverPlaces']);
  expect(door.cut).toEqual(['198.51.100.1']);
  door.nowMs += 100;
  expect(door.crowd(1, '198.51.100.4')).toEqual(['acme']);
  door.nowMs += 60_000;
  expect(door.crowd(1, '198.51.100.4')).toEqual(['serverPlaces']);
  expect(door.cut).toEqual(['198.51.100.1', '198.51.100.2']);
});

test('a resumed handshake costs three quarters', () => {
  const door = new Door({ acme: ['198.51.100.0/24'] }, { serverPlaces: { ...plenty, most: 100 }, sparePlaces: 1e9 });
  const burst = () => {
    const told = door.crowd(300, '198.51.100.1', 'resumes');
    for (const place of door.open.splice(0)) place.leave();
    return count(told, 'acme');
  };
  expect(new Set(door.crowd(1, '198.51.100.1'))).toEqual(new Set(['acme']));
  for (const place of door.open.splice(0)) place.leave();
  // 99 are left at once; each resumed one gives a quarter of itself back, down to the last whole one.
  expect(Array.from({ length: 2 }, burst).reduce((a, b) => a + b)).toBe(100 + 31);
});

test('a new policy shares anew; who is there stays', () => {
  const door = new Door({ acme: ['198.51.100.0/24'] }, { sparePlaces: 0, serverHandshakes: plenty });
  door.crowd(128, '198.51.100.1');
  door.nowMs += 1_000; // handshakes enough again
  const names = Array.from({ length: 64 }, (_, at) => [`s${at}`, [`10.0.${at}.0/24`]] as const);
  door.servers = sourcesOf({ acme: ['198.51.100.0/24'], ...Object.fromEntries(names) });
  expect(door.crowd(1, '198.51.100.1')).toEqual(['serverPlaces']);
  const own = ownPart(LIMITS.serverPlaces, 65);
  expect(count(door.crowd(128, '10.0.5.1'), 's5')).toBe(own);
  for (const place of door.open.splice(0, 128 - own + 1)) place.leave();
  expect(count(door.crowd(5, '198.51.100.1'), 'acme')).toBe(1);
  door.servers = sourcesOf({});
  expect(door.crowd(1, '198.51.100.1')).toEqual(['strangers']);
});

test('the longest prefix says whose an address is; servers behind one prefix share', () => {
  const sources = new Sources(
    sourcesOf({
      wide: ['0.0.0.0/0'],
      acme: ['198.51.100.0/22', '2001:db8::/45'],
      beta: ['198.51.100.4/31', '192.0.2.1/32'],
      gamma: ['192.0.2.1/32'],
    }),
  );
  const at = (text: string) => sources.partyAt(address(text));
  expect([at('198.51.101.9'), at('198.51.100.5'), at('198.51.100.6'), at('198.51.104.0')]).toEqual([
    'acme',
    'beta',
    'acme',
    'wide',
  ]);
  expect([at('192.0.2.1'), at('2001:db8:7::1'), at('2001:db8:8::1')]).toEqual(['beta gamma', 'acme', undefined]);
  expect(sources.parties).toBe(4);
});

const someAddress = fc.oneof(
  fc.tuple(fc.constantFrom(10, 192), fc.nat(3), fc.nat(255)).map(([a, b, c]) => `${a}.0.${b}.${c}`),
  fc.tuple(fc.nat(3), fc.nat(255)).map(([a, b]) => `2001:db8:0:${a}::${b.toString(16)}`),
);
const somePrefix = fc.oneof(
  fc.tuple(fc.constantFrom(10, 192), fc.nat(3), fc.integer({ min: 20, max: 30 })).map(([a, b, length]) => {
    const third = length < 24 ? b & (0xff << (24 - length)) : b;
    return `${a}.0.${third}.0/${length}`;
  }),
  fc.nat(3).map((a) => `2001:db8:0:${a}::/64`),
);

test('property: whose an address is, as one would look for it by hand', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.tuple(fc.constantFrom('a', 'b', 'c', 'd'), fc.array(somePrefix, { maxLength: 4 })), {
        selector: ([name]) => name,
      }),
      someAddress,
      (servers, text) => {
        const found = new Sources(sourcesOf(Object.fromEntries(servers))).partyAt(address(text));
        const holding = servers.flatMap(([name, prefixes]) =>
          prefixes.map(prefix).flatMap((one) => (contains(one, address(text)) ? [{ name, length: one.length }] : [])),
        );
        const longest = Math.max(...holding.map(({ length }) => length));
        const names = holding.filter(({ length }) => length === longest).map(({ name }) => name);
        expect(new Set(found?.split(' '))).toEqual(new Set(names));
      },
    ),
  );
});

test('property: whoever comes when, places are bounded, and a server below its part is let in', () => {
  const limits: ConnectionLimits = {
    ...LIMITS,
    serverPlaces: { all: 6, least: 2, most: 5 },
    sparePlaces: 3,
    serverHandshakes: plenty,
    strangerPlaces: 4,
    addressPlaces: 2,
    strangerHandshakes: { perSecond: 2, burst: 5 },
    addressHandshakes: { perSecond: 1, burst: 3 },
  };
  const servers = { a: ['10.0.0.0/24'], b: ['10.0.1.0/24'] };
  const event = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.tuple(
        fc.constant('come'),
        fc.constantFrom('10.0.0.1', '10.0.1.1', '1.1.1.1', '2.2.2.2', '3.3.3.3'),
      ),
    },
    { weight: 2, arbitrary: fc.tuple(fc.constant('leave'), fc.nat(20)) },
    { weight: 1, arbitrary: fc.tuple(fc.constant('pass'), fc.nat(2_000)) },
  );
  fc.assert(
    fc.property(fc.array(event, { maxLength: 120 }), (events) => {
      const door = new Door(servers, limits);
      const held = new Map<Place, string>();
      const of = (from: string) => [...held.values()].filter((one) => one === from).length;
      for (const [what, subject] of events) {
        if (what === 'pass') door.nowMs += subject as number;
        if (what === 'leave') {
          const place = [...held.keys()][subject as number];
          place?.leave();
          place?.leave(); // twice is once
          if (place) held.delete(place);
        }
        if (what !== 'come') continue;
        const from = subject as string;
        const below = from.startsWith('10.') && of(from) < 3;
        const place = door.come(from);
        if (typeof place === 'string') expect(below).toBe(false);
        else held.set(place, from);
        const strangers = ['1.1.1.1', '2.2.2.2', '3.3.3.3'].map(of);
        expect(Math.max(...strangers)).toBeLessThanOrEqual(2);
        expect(strangers.reduce((a, b) => a + b)).toBeLessThanOrEqual(4);
        expect(Math.max(of('10.0.0.1'), of('10.0.1.1'))).toBeLessThanOrEqual(5);
        expect(of('10.0.0.1') + of('10.0.1.1')).toBeLessThanOrEqual(6 + 3);
      }
    }),
  );
});

test('no more addresses are remembered than that matter', () => {
  const door = new Door({}, { strangerHandshakes: { perSecond: 1e9, burst: 1e9 } });
  const stay = door.come('10.255.0.1');
  expect(typeof stay).toBe('object');
  door.crowd(15, '10.255.0.1');
  for (let at = 0; at < 5_000; at++) {
    const place = door.come(`10.0.${at >> 8}.${at & 255}`);
    if (typeof place !== 'string') place.leave();
  }
  expect(door.come('10.255.0.1')).toBe('addressHandshakes'); // connected, so not forgotten
  expect(neighbourhoodOf(address('10.0.0.1'))).not.toBe(neighbourhoodOf(address('10.0.0.2')));
});
