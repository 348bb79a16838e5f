import { expect, test } from 'vitest';
import { changesBetween, inWords } from '../../agent/policy/changes.ts';
import { policyOf } from '../rules.ts';

const BASE = `
servers:
  head-end: { certificates: [{ uri: "urn:mtc:head-end" }], sources: [198.51.100.0/24] }
  other: { certificates: [{ uri: "urn:mtc:other" }], sources: [192.0.2.64/26] }
mtcUsers:
  acme: { devices: ["*@meters.example"], authorises: [head-end], mayAuthorise: ["*"] }
rules:
  - id: meters
    allow: { servers: [head-end], ports: [5683, "7000-7010"] }
    limits: { durationSeconds: 900 }
  - id: no-telnet
    deny: { ports: [23], reason: "never" }
tests:
  - { name: t, request: { server: head-end, device: a@meters.example, protocol: udp, port: 5683, durationSeconds: 9 }, expect: { allow: meters } }
`;
const changed = (...edits: readonly (readonly [string, string])[]) =>
  changesBetween(policyOf(BASE), policyOf(edits.reduce((text, [from, to]) => text.replace(from, to), BASE))).map(
    inWords,
  );

test('order, spread over files, comments and notation are no change', () => {
  const [head = '', tail = ''] = BASE.split('rules:');
  expect(changesBetween(policyOf(BASE), policyOf(`# later\nrules:${tail}`, head))).toEqual([]);
  expect(changed(['[5683, "7000-7010"]', '["7000-7010", "5683-5683"]'])).toEqual([]);
});

test('what came, went, and says something else', () => {
  expect(
    changed(
      ['  other:', '  third: { certificates: [{ uri: "urn:mtc:third" }], sources: [192.0.2.0/26] }\n  other:'],
      ['sources: [198.51.100.0/24]', 'sources: [198.51.100.0/25]'],
      ['authorises: [head-end]', 'authorises: [head-end, other]'],
      ['durationSeconds: 900', 'durationSeconds: 600, grantsPerDevice: 2'],
      ['5683, "7000', '"7000'],
      ['id: no-telnet', 'id: no-ssh'],
      ['port: 5683', 'port: 7000'],
    ),
  ).toEqual([
    'server head-end changed: sources: 198.51.100.0/25 added; sources: 198.51.100.0/24 removed; apiSources: 198.51.100.0/25 added; apiSources: 198.51.100.0/24 removed',
    'server third added',
    'MTC user acme changed: authorises: other added',
    'rule meters changed: match.ports: 5683 removed; limits.durationSeconds: 600, was 900; limits.totalSeconds: 600, was 900; limits.grantsPerDevice: 2, was not said',
    'rule no-ssh added',
    'rule no-telnet removed',
    'test t changed: request.port: 7000, was 5683',
  ]);
});

test('a rule that allowed and now denies, a certificate that is another', () => {
  expect(
    changed(
      [
        'allow: { servers: [head-end], ports: [5683, "7000-7010"] }\n    limits: { durationSeconds: 900 }',
        'deny: { reason: stop }',
      ],
      ['"urn:mtc:other"', '"urn:mtc:new"'],
      ['expect: { allow: meters }', 'expect: { refuse: deniedByRule }'],
    ),
  ).toEqual([
    'server other changed: certificates: uri urn:mtc:new added; certificates: uri urn:mtc:other removed',
    expect.stringMatching(/^rule meters changed: action: deny, was allow; .*reason: stop, was not said$/),
    'test t changed: expect.allow: not said, was meters; expect.refuse: deniedByRule, was not said',
  ]);
});
