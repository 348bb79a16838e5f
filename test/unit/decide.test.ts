import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { type Decision, decide } from '../../agent/policy/decide.ts';
import { NO_USAGE } from '../../agent/policy/policy.ts';
import type { Question } from '../../agent/policy/question.ts';
import { policyOf } from '../rules.ts';

const PEOPLE = `servers:
  acme: { certificates: [{ uri: "urn:mtc:acme" }], sources: [198.51.100.0/25, "2001:db8:51::/48"] }
  six: { certificates: [{ uri: "urn:mtc:six" }], sources: ["2001:db8:6::/48"] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme, six] }
  none: { devices: ["*@none.example"] }
rules:
`;
const ask = (changes: Partial<Question> = {}): Question => ({
  server: 'acme' as never,
  device: { externalId: 'm1@acme.example' as never, attributes: {}, boundFamilies: ['ipv4', 'ipv6'] },
  protocol: 'udp',
  port: 5683,
  durationSeconds: 600,
  requestAddress: address('198.51.100.7'),
  usage: NO_USAGE,
  nowMs: 'anyTime',
  ...changes,
});
const COAP =
  '  - { id: coap, allow: { protocols: [udp], ports: [5683] }, limits: { durationSeconds: 900, totalSeconds: 1800 } }\n';
const ALL = '  - { id: all, allow: { applicationServer: all }, limits: { durationSeconds: 60 } }\n';
const judge = (rules: string, changes?: Partial<Question>) => decide(policyOf(PEOPLE + rules), ask(changes));
const device = (externalId: string, ...boundFamilies: ('ipv4' | 'ipv6')[]) => ({
  device: { externalId: externalId as never, attributes: {}, boundFamilies },
});

/** What decided, in one line. */
function outcome(decision: Decision): string {
  if (decision.verdict === 'refuse') return [decision.reason, decision.rule].filter(Boolean).join(' by ');
  const remote = decision.remote === 'all' ? 'all' : decision.remote.text;
  return `${decision.rule} ${decision.durationSeconds} s of ${decision.totalSeconds} s, ${decision.family} ${remote}`;
}

describe('who may', () => {
  test('an authorised server with an allow', () => {
    expect(judge(COAP)).toMatchObject({ verdict: 'allow', mtcUser: 'acme' });
    expect(outcome(judge(COAP))).toBe('coap 600 s of 1800 s, ipv4 198.51.100.7');
  });

  test('nobody to a device that is unknown, no one’s, or another’s', () => {
    expect(outcome(judge(COAP, { device: undefined }))).toBe('deviceUnknown');
    expect(outcome(judge(COAP, device('m1@elsewhere.example', 'ipv4')))).toBe('notAuthorisedByMtcUser');
    expect(outcome(judge(COAP, device('m1@none.example', 'ipv4')))).toBe('notAuthorisedByMtcUser');
    expect(outcome(judge(COAP, { server: 'gone' as never }))).toBe('notAuthorisedByMtcUser');
  });

  test('every refusal names its step', () => {
    expect(judge(COAP, { device: undefined })).toMatchObject({ step: 'device' });
    expect(judge(COAP, device('m1@none.example'))).toMatchObject({
      step: 'mtcUser',
      why: 'none does not authorise acme',
    });
    expect(judge(COAP, { port: 1 })).toMatchObject({ step: 'rule', why: 'no allow matches' });
  });
});

describe('rules', () => {
  test('what no rule allows is refused: protocol, port, server, device', () => {
    const narrow = '  - { id: n, allow: { servers: [six], devices: ["t*@*"] }, limits: { durationSeconds: 60 } }\n';
    expect(outcome(judge(COAP, { protocol: 'tcp' }))).toBe('noRuleAllows');
    expect(outcome(judge(COAP, { port: 5684 }))).toBe('noRuleAllows');
    expect(outcome(judge(narrow, device('t1@acme.example', 'ipv4')))).toBe('noRuleAllows');
    expect(outcome(judge(narrow, { server: 'six' as never }))).toBe('noRuleAllows');
    expect(outcome(judge('  []\n'))).toBe('noRuleAllows');
  });

  test('a deny wins over every allow, with its reason', () => {
    const deny = '  - { id: never, deny: { ports: [5000-6000], reason: not these }}\n';
    expect(judge(COAP + ALL + deny)).toMatchObject({ reason: 'deniedByRule', rule: 'never', why: 'not these' });
    expect(outcome(judge(COAP + ALL + deny, { port: 80 }))).toBe('all 60 s of 60 s, ipv4 198.51.100.7');
  });

  test('of several denies the lower id speaks', () => {
    const denies = '  - { id: b, deny: { reason: b }}\n  - { id: a, deny: { reason: a }}\n';
    expect(outcome(judge(COAP + denies))).toBe('deniedByRule by a');
  });

  test('the longest granted duration decides, whole; ties go to the lower id', () => {
    const more = (id: string, seconds: number, total: number) =>
      `  - { id: ${id}, allow: {}, limits: { durationSeconds: ${seconds}, totalSeconds: ${total} } }\n`;
    expect(outcome(judge(more('a', 300, 9000) + more('b', 600, 700)))).toMatch(/^b 600 s of 700 s/);
    expect(outcome(judge(more('b', 900, 9000) + more('a', 700, 700)))).toMatch(/^a 600 s of 700 s/);
    expect(outcome(judge(more('b', 900, 9000) + more('a', 700, 700), { durationSeconds: 800 }))).toMatch(
      /^b 800 s of 9000 s/,
    );
  });

  test('an allow that is stopped does not stop another', () => {
    const tight = '  - { id: a, allow: {}, limits: { durationSeconds: 900, grantsPerDevice: 1 } }\n';
    const wide = '  - { id: b, allow: {}, limits: { durationSeconds: 60 } }\n';
    const usage = { ...NO_USAGE, grantsOnDevice: 1 };
    expect(outcome(judge(tight, { usage }))).toBe('grantsPerDeviceExceeded by a');
    expect(outcome(judge(tight + wide, { usage }))).toMatch(/^b 60 s/);
  });

  test('when none arrives, the allow that came furthest gives the reason; ties go to the lower id', () => {
    const limited = (id: string, limits: string, match = '{}') =>
      `  - { id: ${id}, allow: ${match}, limits: { durationSeconds: 9, ${limits} } }\n`;
    const usage = { grantsOnDevice: 5, grantsOfServer: 5, requestsInLastMinute: 5 };
    const rate = limited('a', 'requestsPerMinute: 5');
    const quota = limited('b', 'grantsPerServer: 5');
    expect(outcome(judge(rate + quota, { usage }))).toBe('grantsPerServerExceeded by b');
    expect(outcome(judge(quota + limited('c', 'grantsPerDevice: 5'), { usage }))).toBe('grantsPerServerExceeded by b');
    expect(
      outcome(judge(COAP + rate.replace('{}', '{ applicationServer: all }'), { usage, applicationServer: 'all' })),
    ).toBe('rateExceeded by a');
  });
});

describe('limits', () => {
  const rule = `  - id: r
    allow: {}
    limits: { durationSeconds: 60, requestsPerMinute: 3, grantsPerDevice: 2, grantsPerServer: 4 }
`;
  test.each<[string, Partial<Question['usage']>]>([
    ['r 60 s of 60 s, ipv4 198.51.100.7', { requestsInLastMinute: 2, grantsOnDevice: 1, grantsOfServer: 3 }],
    ['rateExceeded by r', { requestsInLastMinute: 3, grantsOnDevice: 2 }],
    ['grantsPerDeviceExceeded by r', { grantsOnDevice: 2, grantsOfServer: 4 }],
    ['grantsPerServerExceeded by r', { grantsOfServer: 4 }],
  ])('%s', (expected, usage) => {
    expect(outcome(judge(rule, { usage: { ...NO_USAGE, ...usage } }))).toBe(expected);
  });
});

describe('the application server', () => {
  const at = (text: string) => ({ applicationServer: address(text) });

  test('is an address within the sources', () => {
    expect(outcome(judge(COAP, at('198.51.100.9')))).toMatch(/ipv4 198.51.100.9$/);
    expect(outcome(judge(COAP, at('2001:db8:51::9')))).toMatch(/ipv6 2001:db8:51::9$/);
    expect(outcome(judge(COAP, at('198.51.100.200')))).toBe('applicationServerNotAllowed by coap');
    expect(outcome(judge(COAP, { ...at('2001:db8:51::9'), requestAddress: address('192.0.2.1') }))).toMatch(/ipv6/);
  });

  test('is by default where the request came from, if that is a source of the family', () => {
    const request = (text: string, ...families: ('ipv4' | 'ipv6')[]) =>
      outcome(judge(COAP, { requestAddress: address(text), ...device('m1@acme.example', ...families) }));
    expect(request('198.51.100.7', 'ipv4')).toMatch(/ipv4/);
    expect(request('198.51.100.7', 'ipv6')).toBe('applicationServerRequired by coap');
    expect(request('2001:db8:51::7', 'ipv6')).toMatch(/ipv6/);
    expect(request('2001:db8:51::7', 'ipv4', 'ipv6')).toBe('applicationServerRequired by coap');
    expect(request('192.0.2.1', 'ipv4')).toBe('applicationServerRequired by coap');
    expect(judge(COAP, { requestAddress: address('192.0.2.1') })).toMatchObject({
      family: 'ipv4',
      step: 'applicationServer',
    });
  });

  test('is read as IPv4 where it comes in mapped form', () => {
    expect(outcome(judge(COAP, { requestAddress: address('::ffff:198.51.100.7') }))).toMatch(/ipv4 198.51.100.7$/);
  });

  test('is all only where the rule says so, and where the server has a source of the family', () => {
    expect(outcome(judge(COAP, { applicationServer: 'all' }))).toBe('applicationServerNotAllowed by coap');
    expect(outcome(judge(COAP + ALL, { applicationServer: 'all' }))).toBe('all 60 s of 60 s, ipv4 all');
    expect(outcome(judge(ALL, { applicationServer: 'all', server: 'six' as never }))).toBe(
      'applicationServerNotAllowed by all',
    );
    expect(outcome(judge(ALL, { applicationServer: 'all', server: 'six' as never, ipFamily: 'ipv6' }))).toMatch(
      /ipv6 all$/,
    );
  });

  test('and the family asked for do not contradict each other', () => {
    expect(outcome(judge(COAP, { ...at('198.51.100.9'), ipFamily: 'ipv6' }))).toBe('familyMismatch by coap');
    expect(outcome(judge(COAP, { ...at('198.51.100.9'), ipFamily: 'ipv4' }))).toMatch(/^coap/);
    expect(outcome(judge(COAP, { requestAddress: address('2001:db8:51::7'), ipFamily: 'ipv6' }))).toMatch(/ipv6/);
  });

  test('a device that is bound in no family is not refused here: that is for whoever knows bindings', () => {
    expect(outcome(judge(COAP, { ...device('m1@acme.example'), ...at('198.51.100.9') }))).toMatch(/^coap/);
  });
});

describe('which filters the packets of a grant would pass', () => {
  const inner = [{ realm: 'internet' as never, address: address('10.20.0.2') }];
  const bound = {
    device: { externalId: 'm1@acme.example' as never, attributes: {}, boundFamilies: ['ipv4' as const], inner },
  };
  const given = (filters: string, changes: Partial<Question> = {}) =>
    outcome(judge(`${COAP + ALL}filters: [${filters}]\n`, { ...bound, ...changes })).replace(/ \d.*/, '');

  test.each([
    ['to the device and port', '{ from: outside, to: 10.20.0.0/16, protocol: udp, ports: [5683] }'],
    ['from the server', '{ from: 198.51.100.7 }'],
    ['from the device', '{ from: 10.20.0.2, to: [198.51.0.0/16] }'],
    ['to the server', '{ from: inside, to: 198.51.100.7/32, protocol: udp }'],
    ['to a port that the server may use', '{ from: inside, protocol: udp, ports: [53] }'],
    ['of all', '{}'],
  ])('a drop %s refuses it', (_, drop) => {
    expect(given(`{ id: f, drop: ${drop} }`)).toBe('deniedByFilter by f');
    expect(given(`{ id: f, drop: ${drop}, stage: true }`)).toBe('coap');
  });

  test.each([
    ['to another port', '{ from: outside, to: inside, protocol: udp, ports: [5684] }'],
    ['of another protocol', '{ protocol: tcp }'],
    ['of ICMP', '{ protocol: icmp }'],
    ['to another device', '{ to: 10.20.0.3 }'],
    ['from another server', '{ from: 198.51.100.8 }'],
    ['of the other family', '{ from: "2001:db8::/32" }'],
    ['between devices', '{ from: inside, to: inside }'],
    ['from a source that is the device’s here', '{ from: 10.0.0.0/8, to: 10.0.0.0/8 }'],
  ])('a drop %s does not', (_, drop) => expect(given(`{ id: f, drop: ${drop} }`)).toBe('coap'));

  test('an allow, and a drop of a port that the named server has not, change nothing', () => {
    expect(given('{ id: f, allow: { from: inside } }')).toBe('coap');
    const drop = '{ id: f, drop: { from: inside, protocol: udp, ports: [53] } }';
    expect(given(drop, { applicationServer: address('198.51.100.7'), remotePort: 4000 })).toBe('coap');
    expect(given(drop, { applicationServer: address('198.51.100.7'), remotePort: 53 })).toBe('deniedByFilter by f');
  });

  test('of all a server’s sources one is enough, in the family of the grant', () => {
    const all = { applicationServer: 'all' as const };
    expect(given('{ id: f, drop: { from: 198.51.100.99 } }', all)).toBe('deniedByFilter by f');
    expect(given('{ id: f, drop: { from: "2001:db8:51::1" } }', all)).toBe('all');
  });

  test('where the address is not known, what holds of some devices only refuses nobody', () => {
    const device = {
      device: { externalId: 'm1@acme.example' as never, attributes: {}, boundFamilies: ['ipv4' as const] },
    };
    expect(given('{ id: f, drop: { to: 10.20.0.2 } }', device)).toBe('coap');
    expect(given('{ id: f, drop: { to: inside } }', device)).toBe('deniedByFilter by f');
  });
});

describe('hours', () => {
  const zone = 'zone: Europe/Berlin';
  const at = (utc: string, durationSeconds = 600) => ({ nowMs: Date.parse(utc), durationSeconds });
  const day = `  - { id: day, allow: {}, limits: { durationSeconds: 900 }, hours: { from: "06:00", to: "22:00", ${zone} } }\n`;
  const short = '  - { id: short, allow: {}, limits: { durationSeconds: 120 } }\n';
  const night = `  - { id: night, deny: { reason: no }, hours: { from: "22:00", to: "06:00", ${zone} } }\n`;

  test('an allow grants within them, and at most until they close', () => {
    expect(judge(day, at('2026-01-15T20:59:00Z'))).toMatchObject({
      durationSeconds: 60,
      closesAtMs: Date.UTC(2026, 0, 15, 21),
    });
    expect(judge(day, at('2026-01-15T12:00:00Z'))).toMatchObject({
      durationSeconds: 600,
      closesAtMs: Date.UTC(2026, 0, 15, 21),
    });
    expect(outcome(judge(day, at('2026-01-15T20:59:59.001Z')))).toBe('outsideHours by day');
    expect(judge(day, at('2026-01-15T21:00:00Z'))).toMatchObject({
      reason: 'outsideHours',
      step: 'rule',
      why: 'outside its hours, 06:00-22:00 Europe/Berlin',
    });
    expect(judge(day, at('2026-01-15T21:00:00Z'))).not.toHaveProperty('family');
  });

  test('of the allows the one that gives the longest then decides', () => {
    expect(outcome(judge(day + short, at('2026-01-15T20:59:00Z')))).toMatch(/^short 120 s/);
    expect(outcome(judge(day + short, at('2026-01-15T20:50:00Z')))).toMatch(/^day 600 s/);
    expect(judge(day + short, at('2026-01-15T20:59:00Z'))).not.toHaveProperty('closesAtMs');
    expect(outcome(judge(day + short, at('2026-01-15T21:00:00Z')))).toMatch(/^short 120 s/);
  });

  test('outside them an allow is refused for nothing else, and one that came further speaks', () => {
    const all = { applicationServer: 'all' as const };
    expect(outcome(judge(day + short, { ...at('2026-01-15T21:00:00Z'), ...all }))).toBe(
      'applicationServerNotAllowed by short',
    );
    expect(outcome(judge(day, { ...at('2026-01-15T21:00:00Z'), ...all }))).toBe('outsideHours by day');
  });

  test('a deny refuses within them, and grants end where it begins', () => {
    expect(outcome(judge(short + night, at('2026-01-15T21:00:00Z')))).toBe('deniedByRule by night');
    expect(outcome(judge(short + night, at('2026-01-15T20:59:59.500Z')))).toBe('deniedByRule by night');
    expect(judge(short + night, at('2026-01-15T20:59:00Z'))).toMatchObject({
      durationSeconds: 60,
      closesAtMs: Date.UTC(2026, 0, 15, 21),
    });
    expect(judge(short + night, at('2026-01-15T05:00:00Z'))).toMatchObject({
      durationSeconds: 120,
      closesAtMs: Date.UTC(2026, 0, 15, 21),
    });
  });

  test('in a test without a time every rule is within its own', () => {
    expect(outcome(judge(day))).toMatch(/^day 600 s/);
    expect(outcome(judge(day + night))).toBe('deniedByRule by night');
  });
});

test('the trace has every step of every allow that matches, in order', () => {
  const { trace } = judge(COAP + ALL, { applicationServer: 'all' });
  expect(trace.map(({ step, rule = '', reason = '' }) => [step, rule, reason].join(' ').trim())).toEqual([
    'device',
    'mtcUser',
    'rule all',
    'applicationServer all',
    'filter all',
    'rate all',
    'quota all',
    'rule coap',
    'applicationServer coap applicationServerNotAllowed',
  ]);
});
