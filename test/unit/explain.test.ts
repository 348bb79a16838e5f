import { expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { decide } from '../../agent/policy/decide.ts';
import { describeAuthorised, explain } from '../../agent/policy/explain.ts';
import { NO_USAGE } from '../../agent/policy/policy.ts';
import { runPolicyTests } from '../../agent/policy/policy-tests.ts';
import type { Question } from '../../agent/policy/question.ts';
import { formatted } from '../issues.ts';
import { policyOf } from '../rules.ts';

const RULES = `servers:
  zeta: { certificates: [{ uri: "urn:zeta" }], sources: ["2001:db8:6::/48"] }
  acme: { certificates: [{ uri: "urn:acme" }], sources: [198.51.100.0/25] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [zeta, acme] }
rules:
  - { id: coap, allow: { servers: [acme, zeta], protocols: [udp], ports: [5683] }, limits: { durationSeconds: 900, requestsPerMinute: 3 } }
  - { id: mqtt, allow: { ports: [8883] }, limits: { durationSeconds: 60 } }
  - { id: telnet, deny: { ports: [23], reason: never } }
`;
const ask = (changes: Partial<Question> = {}): Question => ({
  server: 'acme' as never,
  device: { externalId: 'm1@acme.example' as never, attributes: {}, boundFamilies: ['ipv4'] },
  protocol: 'udp',
  port: 5683,
  durationSeconds: 600,
  requestAddress: address('198.51.100.7'),
  usage: NO_USAGE,
  nowMs: 'anyTime',
  ...changes,
});
const told = (changes?: Partial<Question>) => {
  const [policy, question] = [policyOf(RULES), ask(changes)];
  return explain(policy, question, decide(policy, question));
};

test('an allow, step by step, and the rules that looked away', () => {
  expect(told()).toEqual([
    'acme to m1@acme.example, udp port 5683: allowed by coap, for 600 s, 900 s with extensions',
    '  yes device            m1@acme.example, bound in ipv4',
    '  yes mtcUser           acme authorises acme',
    '  yes rule              coap: matches, for 600 s of the 600 s asked for',
    '  yes applicationServer coap: 198.51.100.7, ipv4',
    '  yes filter            coap: no drop filter meets its packets',
    '  yes rate              coap: 0 requests in the last minute',
    '  yes quota             coap: 0 live grants on the device, 0 in all',
    '  -   rule              telnet: this deny is for the ports 23',
    '  -   rule              mqtt: this allow is for the ports 8883',
  ]);
});

test('of very many rules those are shown that came nearest, the others are counted', () => {
  const many = Array.from(
    { length: 1_000 },
    (_, i) => `  - { id: x${i}, allow: { ports: [${i + 6_000}], protocols: [tcp] }, limits: { durationSeconds: 9 } }`,
  );
  const [policy, question] = [policyOf(`${RULES}${many.join('\n')}`), ask()];
  const lines = explain(policy, question, decide(policy, question));
  expect(lines).toHaveLength(29);
  expect(lines.slice(8, 11)).toEqual([
    '  -   rule              telnet: this deny is for the ports 23',
    '  -   rule              mqtt: this allow is for the ports 8883',
    '  -   rule              x0: this allow is for the protocols tcp',
  ]);
  expect(lines.at(-1)).toBe('  -   rule              982 others');
});

test('a refusal names its reason, its rule, and the step that stopped it', () => {
  expect(told({ port: 23 }).slice(0, 4)).toEqual([
    'acme to m1@acme.example, udp port 23: refused by telnet, deniedByRule (never)',
    '  yes device            m1@acme.example, bound in ipv4',
    '  yes mtcUser           acme authorises acme',
    '  no  rule              telnet: never',
  ]);
  expect(told({ usage: { ...NO_USAGE, requestsInLastMinute: 3 } })).toContain(
    '  no  rate              coap: 3 requests in the last minute, of 3',
  );
  expect(told({ device: undefined })).toEqual([
    'acme to an unknown device, udp port 5683: refused, deviceUnknown (the directory knows no such device)',
    '  no  device            the directory knows no such device',
  ]);
});

test('whom each MTC user authorises', () => {
  expect(describeAuthorised(policyOf(RULES))).toEqual([{ mtcUser: 'acme', servers: ['acme', 'zeta'] }]);
});

test('policy tests that fail are told at their place, with what was found', () => {
  const request = (more: string) =>
    `{ device: m1@acme.example, protocol: udp, port: 5683, durationSeconds: 1000, ${more} }`;
  const policy = policyOf(
    RULES,
    `tests:
  - { name: passes, request: ${request('server: acme')}, expect: { allow: coap } }
  - { name: passes in its own family, request: ${request('server: zeta')}, expect: { allow: coap, durationSeconds: 900 } }
  - { name: wrong rule, request: ${request('server: acme')}, expect: { allow: mqtt } }
  - { name: wrong duration, request: ${request('server: acme')}, expect: { allow: coap, durationSeconds: 1000 } }
  - { name: wrong reason, request: ${request('server: acme, from: 192.0.2.1')}, expect: { refuse: deniedByRule } }
  - { name: no refusal, request: ${request('server: acme')}, expect: { refuse: noRuleAllows } }
  - { name: usage counts, request: ${request('server: acme')}, usage: { requestsInLastMinute: 3 }, expect: { refuse: rateExceeded } }
`,
  );
  expect(runPolicyTests(policy).map(formatted)).toEqual([
    'b.yaml:4:5: test "wrong rule": expected allow mqtt, found allow coap',
    'b.yaml:5:5: test "wrong duration": expected allow coap for 1000 s, found allow coap for 900 s',
    'b.yaml:6:5: test "wrong reason": expected refuse deniedByRule, found refuse applicationServerRequired (none named, and 192.0.2.1 is not an ipv4 address within the server\'s sources)',
    'b.yaml:7:5: test "no refusal": expected refuse noRuleAllows, found allow coap',
  ]);
});
