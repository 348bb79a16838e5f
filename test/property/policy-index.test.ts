/**
 * The index of rules only prunes: what it leaves out would not have matched,
 * whatever the rules; held against the walk over all of them. Enough rules,
 * over few enough words, that it splits by each of its dimensions.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { PatternIndex } from '../../agent/policy/pattern-index.ts';
import { type DevicePattern, devicesOverlap, matchesDevice, parseDevicePattern } from '../../agent/policy/patterns.ts';
import { type AllowRule, type DenyRule, type Match, NO_USAGE, type Policy } from '../../agent/policy/policy.ts';
import { authorises, candidatesOf, mtcUserOf, standInDevice } from '../../agent/policy/policy-index.ts';
import { mismatchOf, type Question } from '../../agent/policy/question.ts';
import { policyOf } from '../rules.ts';

const BASE = policyOf('servers: { a: { certificates: [{ uri: "urn:a" }], sources: [198.51.100.0/24] } }');
const parsed = (text: string) => parseDevicePattern(text) as DevicePattern;

const local = fc
  .array(fc.constantFrom('a', 'b', '*'), { minLength: 1, maxLength: 4 })
  .map((letters) => letters.join(''));
const domain = fc.constantFrom('*', 'x', '*.x', 'y.x', '*.y.x', 'z.y.x', 'y', '*.y');
const pattern = fc.tuple(local, domain).map(([name, at]) => parsed(`${name}@${at}`));
const group = fc.record(
  { group: fc.constant('g'), devices: fc.array(pattern, { minLength: 1, maxLength: 2 }) },
  { requiredKeys: ['group'] },
);
const ports = fc
  .tuple(fc.integer({ min: 1, max: 40 }), fc.constantFrom(0, 0, 0, 1, 5, 65_000))
  .map(([low, more]) => ({ low, high: Math.min(low + more, 65_535) }));
const list = <Item>(item: fc.Arbitrary<Item>) => fc.array(item, { minLength: 1, maxLength: 3 });
const match: fc.Arbitrary<Match> = fc.record(
  {
    servers: list(fc.constantFrom('a', 'b', 'c')) as fc.Arbitrary<never>,
    devices: list(fc.oneof({ arbitrary: pattern, weight: 5 }, { arbitrary: group, weight: 1 })) as fc.Arbitrary<never>,
    protocols: list(fc.constantFrom('tcp', 'udp')),
    ports: list(ports),
  },
  { requiredKeys: ['servers'] },
);
const id = fc
  .tuple(fc.array(fc.constantFrom('a', 'b'), { minLength: 1, maxLength: 5 }), fc.constantFrom('x', 'y.x', 'z.y.x', 'y'))
  .map(([letters, at]) => `${letters.join('')}@${at}`);
const question: fc.Arbitrary<Question> = fc.record({
  server: fc.constantFrom('a', 'b', 'd') as fc.Arbitrary<never>,
  device: id.map((externalId) => ({ externalId: externalId as never, attributes: {}, boundFamilies: [] })),
  protocol: fc.constantFrom('tcp', 'udp'),
  port: fc.oneof(fc.integer({ min: 1, max: 50 }), fc.constant(65_535)),
  durationSeconds: fc.constant(60),
  requestAddress: fc.constant(address('198.51.100.1')),
  usage: fc.constant(NO_USAGE),
  nowMs: fc.constant('anyTime' as const),
});

function policyWith(matches: readonly Match[]): Policy {
  const place = { file: 'a.yaml', line: 1, column: 1 };
  const limits = { durationSeconds: 60, totalSeconds: 60 };
  const allows = matches.map((one, i): AllowRule => {
    return { id: `r${i}`, place, action: 'allow', match: one, allApplicationServers: false, limits };
  });
  const denies = matches.map((one, i): DenyRule => ({ id: `r${i}`, place, action: 'deny', match: one, reason: 'no' }));
  return { ...BASE, allows, denies };
}

describe('the index of rules', () => {
  test('leaves out nothing that matches, keeps the order, and names none twice', () => {
    const seen = { left: 0, pruned: 0 };
    fc.assert(
      fc.property(
        fc.array(match, { maxLength: 80, size: 'max' }),
        fc.array(question, { minLength: 1, maxLength: 8 }),
        (all, asked) => {
          const policy = policyWith(all);
          for (const one of asked) {
            const near = candidatesOf(policy, one);
            for (const kind of ['allows', 'denies'] as const) {
              const matching = (rules: readonly { readonly match: Match }[]) =>
                rules.filter((rule) => !mismatchOf(rule.match, one));
              expect(matching(near[kind])).toEqual(matching(policy[kind]));
              expect(new Set<object>(near[kind]).size).toBe(near[kind].length);
              seen.left += near[kind].length;
              seen.pruned += policy[kind].length - near[kind].length;
            }
          }
        },
      ),
    );
    expect(seen.pruned).toBeGreaterThan(seen.left / 2); // else it is an index of nothing
  });

  test.each([
    ['ports of one server', (i: number) => `{ servers: [a], ports: [${i + 1}] }`, 3],
    ['ranges of ports', (i: number) => `{ ports: ["${20 * i + 1}-${20 * i + 25}"] }`, 3],
    ['domains', (i: number) => `{ servers: [a], devices: ["*@d${i}.example"] }`, 3],
    ['domains below', (i: number) => `{ devices: ["*@*.d${i}.example"] }`, 3],
    ['beginnings', (i: number) => `{ devices: ["d${i}-*@example"] }`, 3],
    ['ports or domains', (i: number) => (i % 2 ? `{ ports: [${i}] }` : `{ devices: ["*@d${i}.example"] }`), 12],
  ])('of rules that differ in their %s, leaves a few', (_, matchOf, few) => {
    const text = Array.from(
      { length: 1_000 },
      (_, i) => `  - { id: r${i}, allow: ${matchOf(i)}, limits: { durationSeconds: 9 } }`,
    );
    const policy = policyOf(
      `servers: { a: { certificates: [{ uri: "urn:a" }], sources: [198.51.100.0/24] } }\nrules:\n${text.join('\n')}`,
    );
    for (const name of ['m@d7.example', 'm@x.d7.example', 'd77-1@example']) {
      const asked = { server: 'a' as never, device: { externalId: name as never }, port: 77 };
      expect(candidatesOf(policy, asked).allows.length).toBeLessThanOrEqual(few);
    }
  });

  test('finds the MTC user that a walk over all of them finds, and somebody for a device that is not there', () => {
    fc.assert(
      fc.property(fc.array(pattern, { minLength: 1, maxLength: 12 }), id, (patterns, name) => {
        const owned: DevicePattern[] = [];
        for (const one of patterns) if (!owned.some((other) => devicesOverlap(one, other))) owned.push(one);
        const users = owned.map((one, i) => {
          return { name: `u${i}`, certificates: [], devices: [one], authorises: ['a'], mayAuthorise: [] } as never;
        }) as Policy['mtcUsers'] extends ReadonlyMap<string, infer User> ? User[] : never;
        const policy = { ...BASE, mtcUsers: new Map(users.map((user) => [user.name, user])) };
        const found = mtcUserOf(policy, name as never);
        expect(found).toBe(users.find(({ devices }) => devices.some((one) => matchesDevice(one, name))));
        if (found) expect([authorises(found, 'a' as never), authorises(found, 'b' as never)]).toEqual([true, false]);
        expect(mtcUserOf(policy, standInDevice(policy))).toBeDefined();
      }),
    );
  });
});

test('the index of patterns leaves out none that overlaps', () => {
  fc.assert(
    fc.property(fc.array(pattern, { maxLength: 30 }), pattern, (patterns, wanted) => {
      const index = new PatternIndex<DevicePattern[]>(() => []);
      for (const one of patterns) index.at(one).push(one);
      const near = index.overlapping(wanted).flat();
      expect(new Set(near.filter((one) => devicesOverlap(one, wanted)))).toEqual(
        new Set(patterns.filter((one) => devicesOverlap(one, wanted))),
      );
      expect(near.length).toBeLessThanOrEqual(patterns.length);
    }),
  );
});
