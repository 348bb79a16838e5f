import { describe, expect, test } from 'vitest';
import { type Filter, familiesOf } from '../../agent/policy/filters.ts';
import { issuesOf } from '../issues.ts';
import { compiled, policyOf } from '../rules.ts';

const issues = (...filters: string[]) =>
  issuesOf(compiled(`filters:\n${filters.map((one) => `  - ${one}\n`).join('')}`));
const warnings = (...filters: string[]) => {
  const compilation = compiled(`filters:\n${filters.map((one) => `  - ${one}\n`).join('')}`);
  if ('issues' in compilation) throw new Error(issuesOf(compilation).join('\n'));
  return compilation.warnings.map(({ line, message }) => `${line}: ${message}`);
};
const only = (text: string): Filter => {
  const [filter] = policyOf(`filters: [${text}]`).filters;
  if (!filter) throw new RangeError('one filter');
  return filter;
};

describe('a filter', () => {
  test('is read with all it says, one end or a list of them', () => {
    expect(
      only('{ id: a, allow: { from: 192.0.2.0/28, to: [inside], protocol: icmp, types: [echo-request] } }'),
    ).toMatchObject({
      id: 'a',
      action: 'allow',
      from: { sides: [], prefixes: [{ text: '192.0.2.0/28' }], groups: [] },
      to: { sides: ['inside'], prefixes: [], groups: [] },
      protocol: 'icmp',
      types: [8],
      standing: false,
      staged: false,
    });
    expect(only('{ id: a, drop: { from: [any, 192.0.2.1] }, stage: true }')).not.toHaveProperty('from');
    expect(only('{ id: a, drop: { from: [outside, inside], ports: [25, 80-81], protocol: tcp } }')).toMatchObject({
      ports: [
        { low: 25, high: 25 },
        { low: 80, high: 81 },
      ],
    });
  });

  test('counts in the version, wherever it stands and in whatever order', () => {
    const one = '{ id: a, drop: { from: outside, protocol: tcp, ports: [1, 2] } }';
    const two = '{ id: b, drop: { to: [10.0.0.0/8, inside] } }';
    const { version, filters } = policyOf(`filters: [${two}, ${one}]`);
    expect(filters.map(({ id }) => id)).toEqual(['a', 'b']);
    expect(policyOf(`filters: [${one.replace('1, 2', '2, 1')}]`, `filters: [${two}]`).version).toBe(version);
    const others = [['tcp', 'udp'] as const, ['drop', 'allow'] as const, ['outside', 'inside'] as const];
    for (const [said, other] of [...others, ['] } }', '] }, stage: true }'] as const])
      expect(compiled(`filters: [${two}, ${one.replace(said, other)}]`), other).not.toMatchObject({
        policy: { version },
      });
  });

  test('meets the families that protocol and both ends have', () => {
    expect(familiesOf(only('{ id: a, drop: { from: outside } }'))).toEqual(['ipv4', 'ipv6']);
    expect(familiesOf(only('{ id: a, drop: { protocol: icmpv6 } }'))).toEqual(['ipv6']);
    expect(familiesOf(only('{ id: a, drop: { from: [10.0.0.0/8, "fc00::/7"], to: ["fc00::/7"] } }'))).toEqual(['ipv6']);
  });
});

describe('issues', () => {
  test('of one filter, each at its place', () => {
    expect(
      issues(
        '{ id: a, drop: { from: 10.0.0.1/8, to: [elsewhere, "group:x y"] } }',
        '{ id: b, drop: { from: [] }, allow: {} }',
        '{ id: c, drop: { proto: tcp, types: [] }, standing: yes }',
      ),
    ).toEqual([
      'a.yaml:2:28: expected a prefix: "10.0.0.1/8" has bits set behind its length; the prefix is 10.0.0.0/8',
      'a.yaml:2:45: expected inside, outside, any, a prefix, or group:NAME, found "elsewhere"',
      'a.yaml:2:56: expected inside, outside, any, a prefix, or group:NAME, found "group:x y"',
      'a.yaml:3:5: expected exactly one of allow and drop',
      'a.yaml:3:22: expected a list of inside, outside, any, a prefix, or group:NAME, found an empty one',
      'a.yaml:4:22: unknown key "proto"; known here: from, to, protocol, ports, types',
      'a.yaml:4:34: expected a list of ICMP types, found an empty one',
      'a.yaml:4:57: expected true or false, found "yes"',
      'a.yaml:4:57: expected standing with allow only: a drop opens nothing',
    ]);
  });

  test('of what contradicts itself', () => {
    expect(
      issues(
        '{ id: a, drop: { protocol: icmp, ports: [1] } }',
        '{ id: b, drop: { ports: [1] } }',
        '{ id: c, drop: { protocol: udp, types: [echo-request] } }',
        '{ id: d, drop: { protocol: icmp, types: [packet-too-big, echo-reqest] } }',
        '{ id: e, drop: { from: 10.0.0.0/8, to: "fc00::/7" } }',
        '{ id: f, drop: { from: 10.0.0.0/8, protocol: icmpv6 } }',
        '{ id: g, drop: { from: "group:nobody" } }',
        '{ id: a, drop: {} }',
      ),
    ).toEqual([
      'a.yaml:2:38: expected ports with protocol tcp or udp, found icmp',
      'a.yaml:3:22: expected ports with protocol tcp or udp, found no protocol',
      'a.yaml:4:37: expected types with protocol icmp or icmpv6, found udp',
      'a.yaml:5:46: unknown icmp type "packet-too-big"; known here: echo-reply, destination-unreachable, source-quench, redirect, echo-request, router-advertisement, router-solicitation, time-exceeded, parameter-problem, timestamp-request, timestamp-reply, info-request, info-reply, address-mask-request, address-mask-reply',
      'a.yaml:5:62: unknown icmp type "echo-reqest"; did you mean "echo-request"?',
      'a.yaml:6:44: the families contradict each other: no packet is of both (icmp is IPv4, icmpv6 is IPv6)',
      'a.yaml:7:50: the families contradict each other: no packet is of both (icmp is IPv4, icmpv6 is IPv6)',
      'a.yaml:8:28: unknown group "nobody"; known here: none',
      'a.yaml:9:11: duplicate filter id "a"; it stands in line 2 already',
    ]);
  });

  test('of an allow that opens what only a grant may open', () => {
    const said = 'from outside to inside, and only a grant may open that; say standing: true, or from: inside';
    expect(
      issues(
        '{ id: a, allow: {} }',
        '{ id: b, allow: { from: outside, to: 10.20.0.0/16, protocol: tcp } }',
        '{ id: c, allow: { to: inside, protocol: udp, ports: [53] } }',
        '{ id: d, allow: { from: 192.0.2.0/28, to: inside, protocol: tcp }, standing: true }',
        '{ id: e, allow: { from: outside, to: inside, protocol: icmp } }',
        '{ id: f, allow: { from: inside, protocol: tcp } }',
        '{ id: g, allow: { to: outside } }',
        '{ id: h, allow: { from: inside, to: inside } }',
      ),
    ).toEqual([
      `a.yaml:2:14: allow "a" opens any protocol ${said}`,
      `a.yaml:3:14: allow "b" opens tcp ${said}`,
      `a.yaml:4:14: allow "c" opens udp ${said}`,
      'a.yaml:9:41: an allow from inside to inside opens nothing: devices are kept apart',
    ]);
  });

  test('of more filters than a packet should meet', () => {
    const many = Array.from({ length: 258 }, (_, i) => `{ id: f${i}, drop: { from: 10.${i % 200}.0.0/16 } }`);
    expect(issues(...many)).toEqual([
      expect.stringMatching(
        /^a\.yaml:258:11: expected at most 256 filters: the base looks at them one after the other/,
      ),
    ]);
  });
});

test('warnings of what can never match, and of drops that leave no grant', () => {
  expect(
    warnings(
      '{ id: a, drop: { from: outside, to: outside } }',
      '{ id: b, drop: { from: 10.0.0.0/8, to: outside } }',
      '{ id: c, allow: { from: [10.1.0.0/16, 10.2.0.0/16], to: outside, protocol: udp } }',
      '{ id: d, allow: { from: [10.1.0.0/16, 11.0.0.0/8], to: outside, protocol: udp } }',
      '{ id: e, drop: { from: inside, to: outside, protocol: tcp, ports: [25] } }',
      '{ id: f, drop: { protocol: udp } }',
      '{ id: g, drop: { to: inside, protocol: icmp } }',
      '{ id: h, drop: {}, stage: true }',
      '{ id: i, drop: { to: inside, protocol: tcp } }',
      '{ id: j, drop: { from: inside, to: inside } }',
    ),
  ).toEqual([
    '2: drop "a" can never match: from outside to outside nothing is forwarded by the base',
    '4: allow "c" can never match: drop "b" covers it',
    '5: allow "d" can never match: drop "f" covers it',
    '6: drop "e" refuses every tcp grant whose application server names no port: it may use one of these; narrow `to`',
    '7: drop "f" refuses every udp grant: it meets their answers',
    '10: drop "i" refuses every tcp grant: it meets their packets',
  ]);
});
