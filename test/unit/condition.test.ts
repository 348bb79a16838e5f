import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { contextOf, type Facts, faultOf, holds, LONGEST_CONDITION } from '../../agent/policy/condition.ts';
import { decide } from '../../agent/policy/decide.ts';
import { explain } from '../../agent/policy/explain.ts';
import { NO_USAGE } from '../../agent/policy/policy.ts';
import type { Question } from '../../agent/policy/question.ts';
import { issuesOf } from '../issues.ts';
import { compiled, policyOf } from '../rules.ts';

const FACTS: Facts = {
  device: { externalId: 'm1@acme.example' as never, attributes: { model: 'M2', hw: '7' } },
  server: 'head-end' as never,
  mtcUser: 'acme' as never,
  protocol: 'udp',
  port: 5683,
  durationSeconds: 600,
  family: 'ipv4',
};
const judged = (text: string, facts: Partial<Facts> = {}) => {
  expect([text, faultOf(text)]).toEqual([text, undefined]);
  return holds({ text }, contextOf({ ...FACTS, ...facts }));
};
const fault = (text: string) => {
  const { at, message } = faultOf(text) ?? { at: -1, message: 'none' };
  return `${at}: ${message}`;
};

describe('a condition', () => {
  test.each([
    'device.attributes.model == "M2"',
    'device.attributes["model"] in ["M1", "M2"]',
    'has(device.attributes.model) && !has(device.attributes.region)',
    'int(device.attributes.hw) >= 7',
    'device.attributes.exists(name, device.attributes[name] == "7")',
    '["m1", "m2"].exists(id, device.externalId.startsWith(id))',
    'size(device.attributes) == 2 && "model" in device.attributes',
    'server.name.endsWith("end") && mtcUser.name.contains("cm")',
    'request.protocol == "udp" && request.port in [5683, 5684] && request.durationSeconds <= 600',
    'request.family == "ipv4" ? request.port > 1024 : false',
    'device.attributes.model.lowerAscii() == "m2"',
    '  true\n  && (1 == 1\n  || false)\n',
  ])('holds: %s', (text) => {
    expect(judged(text)).toBe(true);
  });

  test('does not hold', () => {
    expect(judged('device.attributes.model == "M3"')).toBe(false);
    expect(judged('"constructor" in device.attributes')).toBe(false);
    expect(judged('has(request.family)', { family: undefined })).toBe(false);
  });

  test('that asks for what is not there cannot be judged, unless the rest settles it', () => {
    const { failed } = judged('device.attributes.region == "north"') as { failed: string };
    expect(failed).toBe('its condition cannot be judged: No such key: region at "region"');
    expect(judged('device.attributes.constructor == "x"')).toHaveProperty('failed');
    expect(judged('int(device.attributes.model) > 1')).toHaveProperty('failed');
    expect(judged('request.family == "ipv4"', { family: undefined })).toHaveProperty('failed');
    expect(judged('device.attributes.region == "north" || true')).toBe(true);
  });

  test('is a plain value, and its program is made again from a copy', () => {
    const condition = structuredClone({ text: 'request.port == 5683' });
    expect(holds(condition, contextOf(FACTS))).toBe(true);
    expect(holds(structuredClone(condition), contextOf(FACTS))).toBe(true);
  });
});

describe('what is not taken', () => {
  test('names what is wrong, where, and what to write instead', () => {
    expect(fault('devic.attributes.model == "M2"')).toBe('0: unknown variable "devic"; did you mean "device"?');
    expect(fault('device.atributes.model == "M2"')).toBe(
      '7: unknown member of device "atributes"; did you mean "attributes"?',
    );
    expect(fault('constructor.name == "x"')).toBe(
      '0: unknown variable "constructor"; known here: device, server, mtcUser, request',
    );
    expect(fault('device.attributes.hw == 7')).toBe(
      '0: not a condition in CEL: no such overload: string == int, found "device.attributes.hw == 7"; attributes are texts: compare with "2", or write int(…) around the text',
    );
    expect(fault('request.port')).toBe('0: expected a condition that is true or false, found one that is int');
    expect(fault('device.externalId.startWith("m")')).toBe(
      '0: unknown function "startWith"; did you mean "startsWith"?',
    );
    expect(fault('true &&\n  request.port ==')).toBe('25: not a condition in CEL: Unexpected token: EOF');
    expect(fault('"abc')).toBe('0: not a condition in CEL: Unterminated string, found ""abc"');
  });

  test('regular expressions, and whatever builds texts or lists', () => {
    expect(fault('device.externalId.matches("(a+)+b")')).toBe(
      '0: matches is not taken in conditions; use startsWith, endsWith, contains, ==, or in: a regular expression may take for ever',
    );
    expect(fault('[1].map(x, x) == [1]')).toMatch(/^0: map is not taken in conditions; use all, exists or exists_one$/);
    expect(fault('server.name + "a" == "b"')).toMatch(/^0: \+ is not taken in conditions; compare with the sum/);
    for (const text of [
      '[1].filter(x, x == 1) == [1]',
      '"a,b".split(",") == ["a"]',
      '["a"].join("b") == "a"',
      'cel.bind(x, 1, x == 1)',
      'bytes("a") == b"a"',
      'b"a" == b"a"',
      'dyn(1) == 1',
      'type(1) == int',
      '{"a": 1}.a == 1',
      'timestamp("2026-01-01T00:00:00Z") == timestamp(1)',
      'duration("1s") == duration("1s")',
      '1 * 2 == 2',
      'device.?attributes.hasValue()',
      '{} == {}',
      '"a".substring(1) == "a"',
    ]) {
      expect([text, faultOf(text)]).not.toEqual([text, undefined]);
    }
  });

  test('too many nodes, levels, elements or steps', () => {
    expect(fault(Array(101).fill('true').join(' && '))).toMatch(/more than 200 parts/);
    expect(fault(`${'('.repeat(60)}true${')'.repeat(60)}`)).toMatch(/nested deeper than 24 levels/);
    expect(fault(`${'!'.repeat(200)}true`)).not.toBe('-1: none');
    expect(fault(`request.port in [${Array(65).fill('1').join()}]`)).toMatch(/more than 64 elements/);
    const loop = 'device.attributes.all(a, device.attributes.all(b, a == b))';
    expect(fault(loop)).toBe('0: the condition may take 3171 steps, of at most 2000; loop over less');
    expect(fault('device.attributes.all(a, ["x", "y"].all(b, a != b))')).toBe('-1: none');
    expect(fault('[1, 2].all(x, [x].all(y, y == x))')).toBe('-1: none');
    expect(fault('["a"].all(x, x.all(y, true))')).toMatch(/loops go over a list that is written out/);
    expect(LONGEST_CONDITION).toBeLessThanOrEqual(1024);
  });
});

const PEOPLE = `servers:
  acme: { certificates: [{ uri: "urn:mtc:acme" }], sources: [198.51.100.0/25] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme] }
rules:
`;
const ask = (attributes: Record<string, string>): Question => ({
  server: 'acme' as never,
  device: { externalId: 'm1@acme.example' as never, attributes, boundFamilies: ['ipv4'] },
  protocol: 'udp',
  port: 5683,
  durationSeconds: 600,
  requestAddress: address('198.51.100.7'),
  usage: NO_USAGE,
  nowMs: 'anyTime',
});
const M2 = `  - { id: m2, allow: {}, limits: { durationSeconds: 900 }, when: 'device.attributes.model == "M2"' }\n`;
const ALL = '  - { id: all, allow: { applicationServer: all }, limits: { durationSeconds: 60 } }\n';
const NOT_OLD = `  - { id: not-old, deny: { reason: too old }, when: 'int(device.attributes.hw) < 3' }\n`;
const judge = (rules: string, attributes = {}) => decide(policyOf(PEOPLE + rules), ask(attributes));

describe('a rule with a condition', () => {
  test('that holds counts; one that does not, does not', () => {
    expect(judge(M2, { model: 'M2' })).toMatchObject({ verdict: 'allow', rule: 'm2', durationSeconds: 600 });
    expect(judge(M2, { model: 'M1' })).toMatchObject({ reason: 'noRuleAllows' });
    expect(judge(M2 + ALL, { model: 'M1' })).toMatchObject({ verdict: 'allow', rule: 'all' });
    expect(judge(ALL + NOT_OLD, { hw: '2' })).toMatchObject({
      reason: 'deniedByRule',
      rule: 'not-old',
      why: 'too old',
    });
    expect(judge(ALL + NOT_OLD, { hw: '3' })).toMatchObject({ verdict: 'allow' });
  });

  test('that cannot be judged stops an allow, not the others, and denies where it is a deny', () => {
    expect(judge(M2)).toMatchObject({
      reason: 'conditionFailed',
      step: 'rule',
      rule: 'm2',
      why: 'its condition cannot be judged: No such key: model at "model"',
    });
    expect(judge(M2)).not.toHaveProperty('family');
    expect(judge(M2 + ALL)).toMatchObject({ verdict: 'allow', rule: 'all' });
    expect(judge(ALL + NOT_OLD)).toMatchObject({ reason: 'conditionFailed', rule: 'not-old' });
  });

  test('that looked away is told', () => {
    const [policy, question] = [policyOf(PEOPLE + M2 + ALL), ask({ model: 'M1' })];
    expect(explain(policy, question, decide(policy, question))).toContain(
      '  -   rule              m2: this allow is for when device.attributes.model == "M2"',
    );
  });

  test('is another version with another condition; a policy with one can be cloned', () => {
    const policy = policyOf(PEOPLE + M2);
    expect(policyOf(PEOPLE + M2.replace('"M2"', '"M3"')).version).not.toBe(policy.version);
    expect(policyOf(PEOPLE + M2.replace('M2"\'', 'M2"  \'')).version).toBe(policy.version);
    expect(decide(structuredClone(policy), ask({ model: 'M2' }))).toMatchObject({ verdict: 'allow' });
    expect(policy.readsAttributes).toBe(true);
  });
});

test('a fault is told at its place, however the condition is quoted or folded', () => {
  const rule = (when: string) =>
    `${PEOPLE}  - id: a\n    allow: {}\n    limits: { durationSeconds: 1 }\n    when: ${when}\n`;
  const place = (when: string) => issuesOf(compiled(rule(when))).map((issue) => issue.replace(/: unknown.*/, ''));
  expect(place('true && requst.port == 1')).toEqual(['a.yaml:9:19']);
  expect(place(`'"it''s" == "a" && requst.port == 1'`)).toEqual(['a.yaml:9:30']);
  expect(place('"\\"a\\" == \\"b\\" && requst.port == 1"')).toEqual(['a.yaml:9:30']);
  expect(place('>\n      true\n      && requst.port == 1')).toEqual(['a.yaml:11:10']);
  expect(place('|\n      true\n\n      && requst.port == 1')).toEqual(['a.yaml:12:10']);
  expect(place('true &&\n      requst.port == 1')).toEqual(['a.yaml:10:7']);
});
