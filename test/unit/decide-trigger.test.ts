/** Rules on triggers: who may send which, step by step. */
import { describe, expect, test } from 'vitest';
import type { ExternalId, MtcUserName, ServerName } from '../../agent/core/words.ts';
import { changesBetween, inWords } from '../../agent/policy/changes.ts';
import { decideTrigger } from '../../agent/policy/decide-trigger.ts';
import { type DevicePattern, parseDevicePattern } from '../../agent/policy/patterns.ts';
import { NO_TRIGGER_USAGE, type Policy, type TriggerUsage } from '../../agent/policy/policy.ts';
import type { TriggerQuestion } from '../../agent/policy/question.ts';
import { policyOf } from '../rules.ts';

const PEOPLE = `
servers:
  head-end: { certificates: [{ uri: "urn:mtc:head-end" }], sources: [198.51.100.0/25] }
  other: { certificates: [{ uri: "urn:mtc:other" }], sources: [198.51.100.128/25] }
mtcUsers:
  acme: { devices: ["*@meters.example"], authorises: [head-end] }
`;
const WAKE = `
triggers:
  - id: wake
    allow: { servers: [head-end], ports: [5683] }
    limits: { validitySeconds: 3600, payloadBytes: 32, perMinute: 60, perDevicePerHour: 4, pendingPerDevice: 2, pendingPerServer: 100 }
`;

interface Changes extends Partial<Omit<TriggerQuestion, 'usage' | 'device'>> {
  readonly usage?: Partial<TriggerUsage>;
  readonly device?: string | undefined;
  readonly model?: string;
}

function question({ usage, model, ...changes }: Changes = {}): TriggerQuestion {
  const device = 'device' in changes ? changes.device : 'm1@meters.example';
  const attributes = { ...(model !== undefined && { model }) };
  return {
    server: 'head-end' as ServerName,
    protocol: 'udp',
    port: 5683,
    durationSeconds: 60,
    payloadBytes: 8,
    nowMs: 'anyTime',
    ...changes,
    device:
      device === undefined ? undefined : { externalId: device as ExternalId, attributes, boundFamilies: ['ipv4'] },
    usage: { ...NO_TRIGGER_USAGE, ...usage },
  };
}

const decided = (rules: string, changes: Changes = {}) => decideTrigger(policyOf(PEOPLE, rules), question(changes));
const word = (rules: string, changes: Changes = {}) => {
  const decision = decided(rules, changes);
  return decision.verdict === 'allow' ? `allow ${decision.rule}` : `${decision.step} ${decision.reason}`;
};

describe('a trigger', () => {
  test('that is allowed takes every step, in order', () => {
    const decision = decided(WAKE);
    expect(decision).toMatchObject({ verdict: 'allow', rule: 'wake', mtcUser: 'acme' });
    expect(decision.trace.map(({ step }) => step)).toEqual(['device', 'mtcUser', 'rule', 'trigger', 'rate', 'quota']);
  });

  test.each([
    [{ device: undefined }, 'device deviceUnknown'],
    [{ device: 'm1@other.example' }, 'mtcUser notAuthorisedByMtcUser'],
    [{ server: 'other' as ServerName }, 'mtcUser notAuthorisedByMtcUser'],
    [{ port: 5684 }, 'rule noRuleAllows'],
    [{ payloadBytes: 33 }, 'trigger triggerPayloadTooLarge'],
    [{ durationSeconds: 3601 }, 'trigger triggerValidityTooLong'],
    [{ usage: { triggersInLastMinute: 60 } }, 'rate triggerRateExceeded'],
    [{ usage: { triggersOnDeviceInLastHour: 4 } }, 'quota triggersPerDeviceExceeded'],
    [{ usage: { pendingOnDevice: 2 } }, 'quota pendingPerDeviceExceeded'],
    [{ usage: { pendingOfServer: 100 } }, 'quota pendingPerServerExceeded'],
  ])('%o is refused at the step %s', (changes, expected) => {
    expect(word(WAKE, changes)).toBe(expected);
  });

  test('is allowed up to each limit, and by no rule on grants', () => {
    const usage = { triggersInLastMinute: 59, triggersOnDeviceInLastHour: 3, pendingOnDevice: 1, pendingOfServer: 99 };
    expect(word(WAKE, { payloadBytes: 32, durationSeconds: 3600, usage })).toBe('allow wake');
    const grants = 'rules: [{ id: a, allow: { servers: [head-end], ports: [5683] }, limits: { durationSeconds: 60 } }]';
    expect(word(grants)).toBe('rule noRuleAllows');
  });

  test('has the largest payload there is where its rule says nothing of it', () => {
    const rule = WAKE.replace('payloadBytes: 32, ', '');
    expect([1024, 1025].map((payloadBytes) => word(rule, { payloadBytes }))).toEqual([
      'allow wake',
      'trigger triggerPayloadTooLarge',
    ]);
  });

  test('is denied by a deny, whatever allows it; one with hours within them, one with a condition where it holds', () => {
    const deny = (rest: string) => `${WAKE}\n  - { id: no, deny: { ports: [5683], reason: not now }, ${rest} }`;
    expect(decided(deny('stage: false'))).toMatchObject({ reason: 'deniedByRule', rule: 'no', why: 'not now' });
    const night = deny('hours: { from: 22:00, to: 05:00, zone: UTC }');
    expect(word(night, { nowMs: Date.UTC(2026, 0, 15, 23) })).toBe('rule deniedByRule');
    expect(word(night, { nowMs: Date.UTC(2026, 0, 15, 12) })).toBe('allow wake');
    const old = deny('when: device.attributes.model == "M1"');
    expect(word(old, { model: 'M1' })).toBe('rule deniedByRule');
    expect(word(old, { model: 'M2' })).toBe('allow wake');
    expect(word(old)).toBe('rule conditionFailed');
  });

  test('of two allows each is judged alone: the one that arrives decides, else the one that came furthest', () => {
    const more = `${WAKE}
  - { id: big, allow: { servers: [head-end], ports: [5683] }, limits: { validitySeconds: 10, payloadBytes: 100 } }`;
    expect(word(more, { payloadBytes: 64, durationSeconds: 10 })).toBe('allow big');
    expect(word(more)).toBe('allow wake');
    expect(decided(more, { payloadBytes: 64 })).toMatchObject({ reason: 'triggerValidityTooLong', rule: 'big' });
    expect(decided(more, { usage: { pendingOnDevice: 2 } })).toMatchObject({ reason: 'pendingPerDeviceExceeded' });
  });

  test('that the owner does not want now is unwanted, which is not unauthorised', () => {
    const policy = policyOf(PEOPLE, WAKE);
    const devices = parseDevicePattern('*@meters.example') as DevicePattern;
    const preferences = new Map([['acme' as MtcUserName, [{ id: 'p1', devices, block: true as const }]]]);
    const laid: Policy = { ...policy, desk: { over: policy, preferences, versions: new Map() } };
    expect(decideTrigger(laid, question())).toMatchObject({ step: 'preference', reason: 'unwanted', rule: 'wake' });
  });

  test('one that is for a grant request is cut to what the rules allow most, and refused for no validity', () => {
    const two = `${WAKE}
  - { id: brief, allow: { servers: [head-end], ports: [5683] }, limits: { validitySeconds: 10, payloadBytes: 100 } }`;
    const cut = (changes: Changes) => decided(two, { isCut: true, ...changes });
    expect(cut({ durationSeconds: 7200 })).toMatchObject({ rule: 'wake', validitySeconds: 3600 });
    expect(cut({ durationSeconds: 7200, payloadBytes: 33 })).toMatchObject({ rule: 'brief', validitySeconds: 10 });
    expect(cut({ durationSeconds: 5 })).toMatchObject({ rule: 'brief', validitySeconds: 5 }); // a tie: by id
    expect(word(two, { durationSeconds: 7200 })).toBe('trigger triggerValidityTooLong');
  });

  test('a condition reads validity and port as it reads those of a grant', () => {
    const rule = WAKE.replace(
      '    limits',
      '    when: request.durationSeconds <= 60 && request.port == 5683\n    limits',
    );
    expect(word(rule)).toBe('allow wake');
    expect(word(rule, { durationSeconds: 61 })).toBe('rule noRuleAllows');
  });
});

describe('trigger rules', () => {
  test('count in the version of a policy, and their order does not', () => {
    const two = `${WAKE}\n  - { id: a, deny: { ports: [7], reason: no } }`;
    const swapped = `triggers:\n  - { id: a, deny: { ports: [7], reason: no } }\n${WAKE.replace('triggers:', '')}`;
    const versions = ['triggers: []', WAKE, WAKE.replace('3600', '3601'), two].map(
      (rules) => policyOf(PEOPLE, rules).version,
    );
    expect(new Set(versions).size).toBe(4);
    expect(policyOf(PEOPLE, swapped).version).toBe(versions[3]);
  });

  test('that changed are told in words', () => {
    const changes = changesBetween(policyOf(PEOPLE, WAKE), policyOf(PEOPLE, WAKE.replace('3600', '60')));
    expect(changes.map(inWords)).toEqual(['trigger rule wake changed: limits.validitySeconds: 60, was 3600']);
  });

  test('that are staged allow nothing yet', () => {
    const policy = policyOf(PEOPLE, WAKE.replace('id: wake', 'id: wake\n    stage: true'));
    expect(decideTrigger(policy, question())).toMatchObject({ reason: 'noRuleAllows' });
    expect(policy.staged && decideTrigger(policy.staged, question())).toMatchObject({ rule: 'wake' });
  });
});
