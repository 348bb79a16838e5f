/**
 * What must hold of every policy, whatever its rules: held on random rules
 * and random requests. Rule files are written as JSON, which is YAML too.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address, contains } from '../../agent/core/net.ts';
import { type Decision, decide } from '../../agent/policy/decide.ts';
import {
  type DevicePattern,
  devicesOverlap,
  matchesDevice,
  matchesName,
  parseDevicePattern,
  parseNamePattern,
} from '../../agent/policy/patterns.ts';
import type { Question } from '../../agent/policy/question.ts';
import { policyOf } from '../rules.ts';

const SERVERS = {
  a: { certificates: [{ uri: 'urn:a' }], sources: ['198.51.100.0/25', '2001:db8:a::/48'] },
  b: { certificates: [{ uri: 'urn:b' }], sources: ['198.51.100.128/25'] },
};
const USERS = {
  u: { devices: ['*@u.example'], authorises: ['a', 'b'] },
  v: { devices: ['*@v.example'], authorises: ['a'] },
};

const port = fc.integer({ min: 1, max: 6 });
const match = fc.record(
  {
    servers: fc.subarray(['a', 'b'], { minLength: 1 }),
    devices: fc.subarray(['m*@*', '*@u.example', '*1@v.example'], { minLength: 1 }),
    protocols: fc.subarray(['tcp', 'udp'], { minLength: 1 }),
    ports: fc.array(
      fc.tuple(port, port).map(([x, y]) => `${Math.min(x, y)}-${Math.max(x, y)}`),
      { minLength: 1, maxLength: 2 },
    ),
  },
  { requiredKeys: [] },
);
const limit = fc.integer({ min: 1, max: 3 });
const limits = fc.record(
  {
    durationSeconds: fc.integer({ min: 1, max: 5 }),
    grantsPerDevice: limit,
    grantsPerServer: limit,
    requestsPerMinute: limit,
  },
  { requiredKeys: ['durationSeconds'] },
);
const plainAllow = fc.record({
  allow: fc
    .tuple(match, fc.constantFrom({}, { applicationServer: 'all' }))
    .map(([of, server]) => ({ ...of, ...server })),
  limits,
});

/** What narrows a rule: none of it opens anything. */
const hours = fc.record({
  from: fc.constantFrom('00:00', '06:00', '22:00'),
  to: fc.constantFrom('05:00', '12:00', '24:00'),
  zone: fc.constantFrom('UTC', 'Europe/Berlin', 'America/New_York'),
  days: fc.subarray(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'], { minLength: 1 }),
});
const when = fc.constantFrom(
  'request.port > 3',
  'device.attributes.model == "M2"',
  'has(device.attributes.model) && device.attributes.model != "M2"',
  'device.externalId.startsWith("m")',
  'int(device.attributes.model) > 1',
);
const narrowing = fc.record({ hours, when }, { requiredKeys: [] });
const allow = fc.tuple(plainAllow, narrowing).map(([plain, only]) => ({ ...plain, ...only }));
const deny = fc.tuple(match, narrowing).map(([of, only]) => ({ deny: { ...of, reason: 'never' }, ...only }));
const rule = fc.oneof({ arbitrary: allow, weight: 4 }, { arbitrary: deny, weight: 1 });
type Rule = { id: string } & (typeof rule extends fc.Arbitrary<infer Value> ? Value : never);
const rules: fc.Arbitrary<Rule[]> = fc
  .array(rule, { maxLength: 6 })
  .map((list) => list.map((value, i) => ({ id: `r${i}`, ...value })));

/** Most of them shortly before a full hour, at which hours open and close. */
const time = fc.tuple(fc.nat(14 * 24), fc.nat(6_000)).map(([hour, beforeMs]) => Date.UTC(2026, 2, 20, hour) - beforeMs);

const question: fc.Arbitrary<Question> = fc.record({
  server: fc.constantFrom('a', 'b') as fc.Arbitrary<never>,
  device: fc.record({
    externalId: fc.constantFrom('m1@u.example', 't2@u.example', 'm1@v.example') as fc.Arbitrary<never>,
    attributes: fc.constantFrom<Record<string, string>>({}, { model: 'M2' }, { model: '3' }),
    boundFamilies: fc.subarray(['ipv4', 'ipv6'] as const),
  }),
  protocol: fc.constantFrom('tcp', 'udp'),
  port,
  durationSeconds: fc.integer({ min: 1, max: 6 }),
  applicationServer: fc.constantFrom(
    undefined,
    undefined,
    'all' as const,
    address('198.51.100.1'),
    address('198.51.100.200'),
    address('2001:db8:a::1'),
  ),
  requestAddress: fc.constantFrom(
    address('198.51.100.1'),
    address('198.51.100.200'),
    address('2001:db8:a::1'),
    address('192.0.2.1'),
  ),
  ipFamily: fc.constantFrom(undefined, undefined, 'ipv4', 'ipv6'),
  usage: fc.record({ grantsOnDevice: fc.nat(3), grantsOfServer: fc.nat(3), requestsInLastMinute: fc.nat(3) }),
  nowMs: fc.oneof(fc.constant('anyTime' as const), time),
});

const policy = (...files: Rule[][]) =>
  policyOf(
    ...files.map((list, i) =>
      JSON.stringify(i === 0 ? { servers: SERVERS, mtcUsers: USERS, rules: list } : { rules: list }),
    ),
  );

describe('of every policy', () => {
  test('the order of rules, and how they are spread over files, never matters', () => {
    const cases = rules.chain((list) =>
      fc.tuple(fc.constant(list), fc.shuffledSubarray(list, { minLength: list.length }), fc.nat(list.length)),
    );
    fc.assert(
      fc.property(cases, question, ([list, shuffled, cut], asked) => {
        const [one, other] = [policy(list), policy(shuffled.slice(0, cut), shuffled.slice(cut))];
        expect(other.version).toBe(one.version);
        expect(decide(other, asked)).toEqual(decide(one, asked));
      }),
    );
  });

  test('a deny more only ever denies', () => {
    fc.assert(
      fc.property(rules, deny, question, (list, more, asked) => {
        const before = decide(policy(list), asked);
        const after = decide(policy([...list, { id: 'z', ...more }]), asked);
        if (after.verdict === 'refuse' && after.rule === 'z') return;
        // With hours it cuts what is granted where they begin.
        if (more.hours) expect(isNoMore(after, before)).toBe(true);
        else expect(after).toEqual(before);
      }),
    );
  });

  test('an allow with hours or a condition gives no more than without', () => {
    fc.assert(
      fc.property(rules, plainAllow, narrowing, question, (list, plain, only, asked) => {
        const without = decide(policy([...list, { id: 'z', ...plain }]), asked);
        const narrowed = decide(policy([...list, { id: 'z', ...plain, ...only }]), asked);
        expect(isNoMore(narrowed, without)).toBe(true);
      }),
    );
  });

  test('nothing granted outlives the hours of its rule, nor runs into those of a deny', () => {
    fc.assert(
      fc.property(rules, question, (list, asked) => {
        const compiled = policy(list);
        const decision = decide(compiled, asked);
        if (decision.verdict === 'refuse' || asked.nowMs === 'anyTime') return;
        const endMs = asked.nowMs + decision.durationSeconds * 1000;
        const { nowMs } = asked;
        // As a grant that is asked for again at any second of its life would be: never refused by time alone.
        for (const share of [0.25, 0.5, 0.75]) {
          const later = Math.floor(nowMs + (endMs - nowMs) * share);
          const left = Math.floor((endMs - later) / 1000);
          if (left < 1) continue;
          expect(decide(compiled, { ...asked, nowMs: later, durationSeconds: left }).verdict).toBe('allow');
        }
      }),
    );
  });

  test('a group is those whom it names, one by one', () => {
    const pattern = fc.constantFrom('m*@*', '*@u.example', '*1@v.example', 't2@u.example');
    const groups = fc.record({
      devices: fc.array(pattern, { minLength: 1, maxLength: 2 }),
      servers: fc.subarray(['a', 'b'], { minLength: 1 }),
    });
    fc.assert(
      fc.property(groups, plainAllow, question, ({ devices, servers }, plain, asked) => {
        const named = { id: 'z', ...plain, allow: { ...plain.allow, devices, servers } };
        const grouped = { ...named, allow: { ...named.allow, devices: ['group:d'], servers: ['group:s'] } };
        const more = JSON.stringify({ deviceGroups: { d: { devices } }, serverGroups: { s: { servers } } });
        const text = (rule: object) => JSON.stringify({ servers: SERVERS, mtcUsers: USERS, rules: [rule] });
        expect(decide(policyOf(text(grouped), more), asked)).toEqual(decide(policyOf(text(named)), asked));
      }),
    );
  });

  test('an allow more never refuses, nor shortens, what was allowed', () => {
    fc.assert(
      fc.property(rules, allow, question, (list, more, asked) => {
        const before = decide(policy(list), asked);
        const after = decide(policy([...list, { id: 'z', ...more }]), asked);
        if (before.verdict === 'allow') expect(seconds(after)).toBeGreaterThanOrEqual(before.durationSeconds);
      }),
    );
  });

  test('each allow is judged as if it were the only one', () => {
    fc.assert(
      fc.property(fc.array(allow, { minLength: 1, maxLength: 5 }), question, (list, asked) => {
        const named = list.map((value, i) => ({ id: `r${i}`, ...value }));
        const together = decide(policy(named), asked);
        const alone = named.map((only) => decide(policy([only]), asked));
        expect(seconds(together)).toBe(Math.max(...alone.map(seconds)));
        if (together.verdict === 'refuse') expect(alone.map(reasonOf)).toContain(together.reason);
      }),
    );
  });

  test('what is granted is no longer than asked, and for a source of the server', () => {
    fc.assert(
      fc.property(rules, question, (list, asked) => {
        const compiled = policy(list);
        const decision = decide(compiled, asked);
        if (decision.verdict === 'refuse') {
          expect(decision.trace.some(({ reason }) => reason === decision.reason)).toBe(true);
          return;
        }
        const { remote, family, durationSeconds, totalSeconds } = decision;
        expect(durationSeconds).toBeLessThanOrEqual(asked.durationSeconds);
        expect(durationSeconds).toBeLessThanOrEqual(totalSeconds);
        const sources = compiled.servers.get(asked.server)?.sources ?? [];
        if (remote === 'all') expect(sources.some((source) => source.family === family)).toBe(true);
        else expect(sources.some((source) => contains(source, remote)) && remote.family === family).toBe(true);
      }),
    );
  });
});

/** Whether a decision grants nothing that another does not. */
function isNoMore(decision: Decision, than: Decision): boolean {
  return decision.verdict === 'refuse' || seconds(decision) <= seconds(than);
}

function seconds(decision: Decision): number {
  return decision.verdict === 'allow' ? decision.durationSeconds : 0;
}

function reasonOf(decision: Decision): string {
  return decision.verdict === 'refuse' ? decision.reason : 'none';
}

describe('patterns', () => {
  /** Every text over two letters, up to a length: enough for any two patterns as short as ours. */
  const textsUpTo = (length: number): string[] =>
    length === 0
      ? ['']
      : textsUpTo(length - 1).flatMap((text) => (text.length === length - 1 ? [text, `${text}a`, `${text}b`] : [text]));
  const LOCALS = textsUpTo(6).filter((text) => text !== '');
  const DOMAINS = ['a', 'b'].flatMap((x) => [
    x,
    ...['a', 'b'].flatMap((y) => [`${y}.${x}`, `a.${y}.${x}`, `b.${y}.${x}`]),
  ]);

  const local = fc
    .array(fc.constantFrom('a', 'b', '*'), { minLength: 1, maxLength: 3 })
    .map((letters) => letters.join(''));
  const domain = fc.constantFrom('*', 'a', 'b', '*.a', '*.b', 'a.b', 'b.b', '*.a.b', '*.b.a');
  const pattern = fc.tuple(local, domain).map(([x, y]) => parseDevicePattern(`${x}@${y}`) as DevicePattern);

  test('overlap if and only if some identifier matches both', () => {
    fc.assert(
      fc.property(pattern, pattern, (x, y) => {
        const shared = DOMAINS.some((at) =>
          LOCALS.some((id) => matchesDevice(x, `${id}@${at}`) && matchesDevice(y, `${id}@${at}`)),
        );
        expect(devicesOverlap(x, y)).toBe(shared);
        expect(devicesOverlap(y, x)).toBe(shared);
      }),
      { numRuns: 300 },
    );
  });

  test('match as the regular expression of the same meaning does', () => {
    fc.assert(
      fc.property(local, fc.constantFrom(...LOCALS), (text, name) => {
        const parsed = parseNamePattern(text);
        const expected = new RegExp(`^${text.replaceAll('*', '.*')}$`).test(name);
        expect(parsed && matchesName(parsed, name)).toBe(expected);
      }),
    );
  });

  test('that would make a regular expression slow are not', () => {
    const hard = parseDevicePattern(`${'*a'.repeat(30)}@a.example`) as DevicePattern;
    const started = performance.now();
    expect(matchesDevice(hard, `${'a'.repeat(29)}${'b'.repeat(35)}@a.example`)).toBe(false);
    expect(performance.now() - started).toBeLessThan(100);
  });

  test('a star in an identifier is only a star', () => {
    const exact = parseDevicePattern('ab@a.example') as DevicePattern;
    expect(matchesDevice(exact, '*@a.example')).toBe(false);
    expect(matchesDevice(parseDevicePattern('a*@a.example') as DevicePattern, 'a*b@a.example')).toBe(true);
  });
});
