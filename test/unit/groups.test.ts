import { describe, expect, test } from 'vitest';
import { decide } from '../../agent/policy/decide.ts';
import { isInGroup } from '../../agent/policy/groups.ts';
import { NO_USAGE } from '../../agent/policy/policy.ts';
import { formatted, issuesOf } from '../issues.ts';
import { compiled, policyOf } from '../rules.ts';

const PEOPLE = `servers:
  acme-1: { certificates: [{ uri: "urn:1" }], sources: [198.51.100.1/32] }
  acme-2: { certificates: [{ uri: "urn:2" }], sources: [198.51.100.2/32] }
  other: { certificates: [{ uri: "urn:3" }], sources: [198.51.100.3/32] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme-1, acme-2, other] }
deviceGroups:
  m2: { devices: ["m*@acme.example"], attributes: { model: [M2, M3], region: [north] } }
  named: { devices: ["t*@*"] }
  any-m2: { attributes: { model: [M2] } }
serverGroups:
  acme: { servers: ["acme-*"] }
  nobody: { servers: [none] }
rules:
`;
const ALLOW = (of: string) => `  - { id: a, allow: { ${of} }, limits: { durationSeconds: 60 } }\n`;

function verdict(rules: string, server: string, device: string, attributes: Record<string, string> = {}): string {
  const policy = policyOf(PEOPLE + rules);
  const source = policy.servers.get(server as never)?.sources[0];
  if (!source) throw new Error(`no server ${server}`);
  return decide(policy, {
    server: server as never,
    device: { externalId: device as never, attributes, boundFamilies: ['ipv4'] },
    protocol: 'udp',
    port: 1,
    durationSeconds: 60,
    requestAddress: source.address,
    usage: NO_USAGE,
    nowMs: 'anyTime',
  }).verdict;
}

describe('a group of devices', () => {
  const group = policyOf(`${PEOPLE}  []\n`).deviceGroups.get('m2');
  const has = (externalId: string, attributes: Record<string, string>) =>
    group && isInGroup(group, { externalId: externalId as never, attributes });

  test('has those whose name matches and whose every attribute has one of the values', () => {
    expect(has('m1@acme.example', { model: 'M3', region: 'north', more: 'x' })).toBe(true);
    expect(has('t1@acme.example', { model: 'M3', region: 'north' })).toBe(false);
    expect(has('m1@acme.example', { model: 'M3', region: 'south' })).toBe(false);
    expect(has('m1@acme.example', { model: 'm3', region: 'north' })).toBe(false);
    expect(has('m1@acme.example', { region: 'north' })).toBe(false);
    expect(has('m1@acme.example', {})).toBe(false);
  });

  test('does not take what every object has for an attribute', () => {
    const odd = policyOf(
      `${PEOPLE}  []\n`.replace('{ attributes: { model: [M2] } }', '{ attributes: { constructor: [x] } }'),
    ).deviceGroups.get('any-m2');
    expect(odd && isInGroup(odd, { externalId: 'm1@acme.example' as never, attributes: {} })).toBe(false);
  });

  test('stands in a rule beside patterns', () => {
    const rule = ALLOW('devices: ["group:m2", "x@acme.example"]');
    expect(verdict(rule, 'acme-1', 'm1@acme.example', { model: 'M2', region: 'north' })).toBe('allow');
    expect(verdict(rule, 'acme-1', 'm1@acme.example')).toBe('refuse');
    expect(verdict(rule, 'acme-1', 'x@acme.example')).toBe('allow');
    const deny = `${ALLOW('')}  - { id: d, deny: { devices: ["group:any-m2"], reason: no } }\n`;
    expect(verdict(deny, 'acme-1', 't1@acme.example', { model: 'M2' })).toBe('refuse');
    expect(verdict(deny, 'acme-1', 't1@acme.example', { model: 'M1' })).toBe('allow');
  });
});

describe('a group of servers', () => {
  test('is the names that match', () => {
    expect(policyOf(`${PEOPLE}  []\n`).serverGroups.get('acme')).toEqual(['acme-1', 'acme-2']);
    const rule = ALLOW('servers: ["group:acme", acme-1]');
    expect(policyOf(PEOPLE + rule).allows[0]?.match.servers).toEqual(['acme-1', 'acme-2']);
    expect(verdict(rule, 'acme-2', 'm1@acme.example')).toBe('allow');
    expect(verdict(rule, 'other', 'm1@acme.example')).toBe('refuse');
  });

  test('that nobody is in allows nobody, and denies nobody', () => {
    expect(verdict(ALLOW('servers: ["group:nobody"]'), 'other', 'm1@acme.example')).toBe('refuse');
    const deny = `${ALLOW('')}  - { id: d, deny: { servers: ["group:nobody"], reason: no } }\n`;
    expect(verdict(deny, 'other', 'm1@acme.example')).toBe('allow');
  });
});

test('names of groups that are none, of the other kind, or borne twice', () => {
  const rules = `${PEOPLE}${ALLOW('servers: ["group:acmee", "group:m2"], devices: ["group:m22", "group:acme", "group:M2"]')}`;
  expect(issuesOf(compiled(rules.replace('"group:M2"', '"*@*"')))).toEqual([
    'a.yaml:15:33: unknown group of servers "acmee"; did you mean "acme"?',
    'a.yaml:15:48: "m2" is no group of servers',
    'a.yaml:15:71: unknown group of devices "m22"; did you mean "m2"?',
    'a.yaml:15:84: "acme" is no group of devices',
  ]);
  expect(issuesOf(compiled(rules))).toEqual([
    'a.yaml:15:98: expected a device pattern such as *@*.meters.example, or group:NAME, found "group:M2"',
  ]);
  expect(issuesOf(compiled(`${PEOPLE}  []\n`.replace('nobody:', 'named:')))).toEqual([
    'a.yaml:13:3: duplicate group "named"; it stands in line 9 already',
  ]);
  expect(issuesOf(compiled(`${PEOPLE}  []\n`.replace('{ devices: ["t*@*"] }', '{}')))).toEqual([
    'a.yaml:9:3: expected devices, or attributes, or both: a group without them would be every device',
  ]);
});

test('an allow for groups that no MTC user has is told', () => {
  const compilation = compiled(
    `${PEOPLE}${ALLOW('devices: ["group:far"]')}`.replace('"t*@*"', '"t*@far.example"').replace('named', 'far'),
  );
  expect('warnings' in compilation && compilation.warnings.map(formatted)).toEqual([
    'a.yaml:13:3: group "nobody" has no server',
    'a.yaml:15:5: allow "a" can never match: no MTC user authorises its servers for its devices',
    'a.yaml:15:5: allow "a" is wide: it opens more than 1024 ports; name those that are needed',
  ]);
});
