import { expect, test } from 'vitest';
import { prefix } from '../../agent/core/net.ts';
import type { RealmName } from '../../agent/core/words.ts';
import type { WalkSite } from '../../agent/policy/packet-walk.ts';
import { runPolicyTests } from '../../agent/policy/policy-tests.ts';
import { formatted, issuesOf } from '../issues.ts';
import { compiled, policyOf, policyWithin } from '../rules.ts';

const RULES = `servers:
  acme: { certificates: [{ uri: "urn:mtc:acme" }], sources: [198.51.100.0/25, "2001:db8:51::/48"] }
  other: { certificates: [{ uri: "urn:mtc:other" }], sources: [198.51.101.0/24] }
mtcUsers: { acme: { devices: ["*@acme.example"], authorises: [acme] } }
deviceGroups: { m2: { devices: ["m2@*"] }, old: { attributes: { model: [M1] } } }
filters:
  - { id: bogons, drop: { from: inside, to: [100.64.0.0/10] } }
  - { id: m2, drop: { from: "group:m2", protocol: tcp } }
  - { id: old, drop: { from: "group:old", to: outside, protocol: udp, ports: [9] } }
  - { id: noc, allow: { from: [192.0.2.0/28, "2001:db8:c::/48"], to: inside, protocol: udp, ports: [161] }, standing: true }
  - { id: noc-ping, allow: { from: [192.0.2.0/28], to: 10.20.0.0/24, protocol: icmp, types: [echo-request, destination-unreachable] } }
  - { id: there, allow: { from: inside, to: 10.99.0.0/16 } }
  - { id: later, drop: { to: 203.0.113.99 }, stage: true }
`;
const SITE: WalkSite = {
  realms: ['10.20.0.0/16', 'fd00:20::/48'].map(prefix),
  denied: [prefix('10.0.0.0/8')],
  egress: ['ipv4'],
  pools: ['203.0.113.0/29', '203.0.113.8/29'].map(prefix),
};
const GIVEN = 'given: [{ server: acme, device: m1@acme.example, protocol: udp, port: 5683 }]';

/** What each test says of its packet, where it expects what nothing gives. */
function found(packet: string, rest = '', site?: WalkSite): string {
  const policy = policyOf(`${RULES}tests: [{ name: t, packet: { ${packet} }, ${rest}expect: { drop: innerLeak } }]\n`);
  const [issue] = runPolicyTests(policy, site);
  return /expected drop innerLeak, found (.*?) \(/.exec(issue?.message ?? '')?.[1] ?? 'nothing';
}

test.each([
  ['from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5683', 'drop noGrant'],
  [`from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5683, ${GIVEN}`, 'pass grant'],
  [`from: "2001:db8:51::1", to: m1@acme.example, protocol: udp, port: 5683, ${GIVEN}`, 'pass grant'],
  [`from: 198.51.100.200, to: m1@acme.example, protocol: udp, port: 5683, ${GIVEN}`, 'drop wrongSource'],
  [`from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5684, ${GIVEN}`, 'drop noGrant'],
  [`from: 198.51.100.7, to: m2@acme.example, protocol: udp, port: 5683, ${GIVEN}`, 'drop noGrant'],
  ['from: 198.51.100.7, to: m1@acme.example, protocol: icmp, type: echo-request', 'drop protocolNotCarried'],
  [`from: m1@acme.example, to: 198.51.100.7, protocol: udp, sourcePort: 5683, port: 9, ${GIVEN}`, 'pass grant'],
  [`from: m1@acme.example, to: 198.51.100.7, protocol: udp, sourcePort: 5684, port: 9, ${GIVEN}`, 'pass base'],
  ['from: 198.51.100.7, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop realmDestination'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: udp, port: 161', 'allow noc'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: udp, port: 162', 'drop realmDestination'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: icmp, type: echo-request', 'allow noc-ping'],
  ['from: 192.0.2.1, to: "inside:10.20.1.2", protocol: icmp, type: echo-request', 'drop realmDestination'],
  ['from: 127.0.0.1, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop spoofedSource'],
  ['from: 0.0.0.5, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop spoofedSource'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: icmp, type: destination-unreachable', 'drop base'],
  ['from: "inside:10.20.0.2", to: 0.0.0.5, protocol: udp, port: 1', 'pass base'],
  ['from: "inside:10.20.0.2", to: 0.0.0.0, protocol: udp, port: 1', 'drop base'],
  ['from: "inside:10.20.0.2", to: 100.64.0.1, protocol: udp, port: 1', 'drop bogons'],
  ['from: "inside:10.20.0.2", to: m1@acme.example, protocol: udp, port: 1', 'drop deviceToDevice'],
  ['from: m2@acme.example, to: 198.51.100.7, protocol: tcp, port: 1', 'drop m2'],
  ['from: m1@acme.example, to: 198.51.100.7, protocol: tcp, port: 1', 'pass base'],
  ['from: m1@acme.example, to: 203.0.113.99, protocol: tcp, port: 1', 'pass base'],
  ['from: m1@acme.example, to: 198.51.100.7, protocol: icmp, type: echo-request', 'pass base'],
  ['from: m1@acme.example, to: 198.51.100.7, protocol: icmp, type: timestamp-request', 'drop base'],
  ['from: m1@acme.example, to: "2001:db8::1", protocol: icmpv6, type: packet-too-big', 'drop base'],
])('{ %s }: %s', (packet, outcome) => expect(found(packet)).toBe(outcome));

test.each([
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop unauthorisedTrigger'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: tcp, port: 161', 'drop unauthorisedTrigger'],
  ['from: 203.0.113.200, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop unauthorisedTrigger'],
  ['from: 127.0.0.1, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop spoofedSource'],
  ['from: 10.20.0.9, to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop spoofedSource'],
  ['from: "inside:10.20.0.3", to: "inside:10.20.0.2", protocol: udp, port: 161', 'drop unauthorisedTrigger'],
  [`from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5683, ${GIVEN}`, 'drop noGrant'],
  [`from: m1@acme.example, to: 198.51.100.7, protocol: udp, sourcePort: 5683, port: 9, ${GIVEN}`, 'drop base'],
  ['from: "inside:10.20.0.2", to: 198.51.100.7, protocol: udp, sourcePort: 5684, port: 161', 'pass base'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: icmp, type: echo-request', 'allow noc-ping'],
])('where 161 and 5683 take triggers: %s: %s', (packet, outcome) => {
  const site: WalkSite = {
    ...SITE,
    triggerPorts: [
      { low: 161, high: 161 },
      { low: 5683, high: 5683 },
    ],
  };
  const text = `${RULES}tests: [{ name: t, packet: { ${packet} }, expect: { drop: innerLeak } }]\n`;
  const [issue] = runPolicyTests(policyWithin({ site }, text), site);
  expect(issue?.message).toContain(`found ${outcome} (`);
});

test.each([
  ['{ from: any, to: inside }', 'drop base'], // let on by the gate, dropped by the host before any filter
  ['{ from: 192.0.2.1, to: inside }', 'drop unauthorisedTrigger'],
])('a link-local source at a trigger port, where there is an allow %s: %s', (allow, outcome) => {
  const site: WalkSite = { ...SITE, triggerPorts: [{ low: 161, high: 161 }] };
  const packet = 'from: "fe80::5", to: "inside:fd00:20::2", protocol: udp, port: 161';
  const text = `
filters: [{ id: one, allow: ${allow}, standing: true }]
tests: [{ name: t, packet: { ${packet} }, expect: { drop: innerLeak } }]
`;
  const [issue] = runPolicyTests(policyWithin({ site }, text), site);
  expect(issue?.message).toContain(`found ${outcome} (`);
});

test.each([
  ['from: 203.0.113.200, to: "inside:10.20.0.2", protocol: tcp, port: 22', 'drop unsolicited'],
  ['from: 127.0.0.1, to: "inside:10.20.0.2", protocol: tcp, port: 22', 'drop spoofedSource'],
  ['from: 192.0.2.1, to: "inside:10.20.0.2", protocol: icmp, type: echo-request', 'allow noc-ping'],
  ['from: "inside:fd00:20::2", to: "2001:db8::1", protocol: udp, port: 1', 'pass base'], // no IPv6 egress pool
  ['from: m1@acme.example, to: "2001:db8::1", protocol: udp, port: 1', 'pass base'],
  ['from: "inside:10.20.0.2", to: 10.98.0.1, protocol: udp, port: 1', 'drop base'],
  [`from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5683, ${GIVEN}`, 'pass grant'],
])('in a realm with nat: none: %s: %s', (packet, outcome) => {
  const inside = [{ realm: 'iot' as RealmName, prefixes: SITE.realms, nat: 'none', shared: false }] as const;
  const site: WalkSite = { ...SITE, inside };
  const text = `${RULES}tests: [{ name: t, packet: { ${packet} }, expect: { drop: innerLeak } }]\n`;
  const [issue] = runPolicyTests(policyWithin({ site }, text), site);
  expect(issue?.message).toContain(`found ${outcome} (`);
});

test('each server has a grant of its own for the same device and port', () => {
  const one = (server: string) => `{ server: ${server}, device: m1@acme.example, protocol: udp, port: 5683 }`;
  const packet = 'from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5683';
  expect(found(`${packet}, given: [${one('other')}, ${one('acme')}]`)).toBe('pass grant');
  expect(found(`${packet}, given: [${one('other')}]`)).toBe('drop wrongSource');
});

test('a drop that meets what a grant would carry refuses it', () => {
  const packet = 'from: 198.51.100.7, to: m1@acme.example, protocol: udp, port: 5683, sourcePort: 9';
  expect(found(`${packet}, ${GIVEN}`)).toBe('pass grant');
  expect(found(`${packet}, ${GIVEN}`, 'attributes: { model: M1 }, ')).toBe('drop old');
});

test('a test that says so is of the staged filters, too', () => {
  const packet = 'from: m1@acme.example, to: 203.0.113.99, protocol: tcp, port: 1';
  expect(found(packet, 'stage: true, ')).toBe('drop later');
});

test('what agent.yaml says counts where it is known', () => {
  const from = (end: string, to: string) => found(`from: "${end}", to: "${to}", protocol: udp, port: 1`, '', SITE);
  expect(from('inside:10.20.0.2', '198.51.100.7')).toBe('pass base');
  expect(from('inside:10.21.0.2', '198.51.100.7')).toBe('drop base');
  expect(from('inside:10.20.0.2', '10.98.0.1')).toBe('drop base');
  expect(from('inside:10.20.0.2', '10.99.0.1')).toBe('allow there');
  expect(from('inside:fd00:20::2', '2001:db8::1')).toBe('drop base');
  expect(from('10.20.0.9', 'inside:10.20.0.2')).toBe('drop spoofedSource');
});

test('what is wrong with a test of a packet', () => {
  const tests = `tests:
  - { name: a, packet: { from: 1.2.3, to: outside, protocol: gre }, expect: { drop: base } }
  - { name: b, packet: { from: m1@acme.example, to: 192.0.2.1, protocol: udp, port: 1 }, expect: { refuse: noRuleAllows } }
  - { name: c, request: { server: acme, device: m1@acme.example, protocol: udp, port: 1, durationSeconds: 1 }, expect: { pass: base } }
  - { name: d, expect: { pass: base } }
`;
  expect(issuesOf(compiled(`${RULES}${tests}`)).map((line) => line.replace(/^a\.yaml:/, ''))).toEqual([
    '15:32: expected an address outside, inside:ADDRESS, or a device such as m1@meters.example, found "1.2.3"',
    '15:43: expected an address outside, inside:ADDRESS, or a device such as m1@meters.example, found "outside"',
    '15:62: expected one of tcp, udp, icmp, icmpv6, found "gre"',
    '16:90: expected no refuse, durationSeconds with packet',
    '17:112: expected no drop, pass with request',
    '18:5: expected exactly one of request, packet and trigger',
  ]);
  const more = `tests:
  - { name: a, packet: { from: 192.0.2.1, to: 192.0.2.2, protocol: icmp, port: 1 }, expect: { drop: bogon } }
  - { name: b, packet: { from: m1@acme.example, to: "2001:db8::1", protocol: icmp, type: echo }, expect: { allow: bogons } }
  - { name: c, packet: { from: m1@acme.example, to: 192.0.2.2, protocol: udp, type: x, given: [{ server: acne, device: a@b, protocol: udp, port: 1 }] }, expect: { drop: later } }
`;
  expect(issuesOf(compiled(`${RULES}${more}`)).map((line) => line.replace(/^a\.yaml:\d+:\d+: /, ''))).toEqual([
    'expected one end inside: what is forwarded elsewhere is not judged here',
    '"type" is missing: icmp has types',
    'expected no port: icmp has types',
    'unknown drop filter or reason "bogon"; did you mean "bogons"?',
    'the families contradict each other',
    'unknown icmp type "echo"; known here: echo-reply, destination-unreachable, source-quench, redirect, echo-request, router-advertisement, router-solicitation, time-exceeded, parameter-problem, timestamp-request, timestamp-reply, info-request, info-reply, address-mask-request, address-mask-reply',
    'unknown allow filter "bogons"; known here: noc, noc-ping, there',
    '"port" is missing: udp has ports',
    'expected no type: udp has ports',
    'unknown server "acne"; did you mean "acme"?',
    'filter "later" is staged; a test of it says stage: true, too',
  ]);
});

test('a test that fails says what was found, and why', () => {
  const policy = policyOf(
    `${RULES}tests: [{ name: t, packet: { from: m1@acme.example, to: 100.64.0.1, protocol: udp, port: 1 }, expect: { pass: base } }]\n`,
  );
  expect(runPolicyTests(policy).map(formatted)).toEqual([
    'a.yaml:14:9: test "t": expected pass base, found drop bogons (drop bogons: any protocol from inside to 100.64.0.0/10)',
  ]);
});
