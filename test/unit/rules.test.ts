import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { prefix } from '../../agent/core/net.ts';
import { identify } from '../../agent/policy/certificate-holders.ts';
import { compilePolicy } from '../../agent/policy/compile.ts';
import { sourceClasses } from '../../agent/policy/policy.ts';
import { mtcUserOf } from '../../agent/policy/policy-index.ts';
import { runPolicyTests } from '../../agent/policy/policy-tests.ts';
import { ruleFile } from '../../agent/policy/rule-schema.ts';
import { formatted, issuesOf } from '../issues.ts';
import { compiled, digest, policyOf } from '../rules.ts';

const BASE = `servers:
  acme: { certificates: [{ uri: "urn:mtc:acme" }], sources: [198.51.100.0/25] }
  other: { certificates: [{ uri: "urn:mtc:other" }], sources: [198.51.100.128/25] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme] }
rules:
  - { id: coap, allow: { servers: [acme], protocols: [udp], ports: [5683] }, limits: { durationSeconds: 900 } }
`;
const issues = (...texts: string[]) => issuesOf(compiled(texts));

test('the examples compile without a warning, and pass their own tests', () => {
  const folder = new URL('../../rules/', import.meta.url);
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.yaml'))
    .map((file) => ({ file, text: readFileSync(new URL(file, folder), 'utf8') }));
  const compilation = compilePolicy(files, { digest, authorities: ['mtc-ca'] });
  if ('issues' in compilation) throw new Error(issuesOf(compilation).join('\n'));
  expect(compilation.warnings).toEqual([]);
  expect(compilation.policy.tests.length).toBeGreaterThan(8);
  expect(runPolicyTests(compilation.policy).map(formatted)).toEqual([]);
});

test('what editors check is what we read', async () => {
  const schema = JSON.stringify(z.toJSONSchema(ruleFile, { io: 'input' }), null, 2);
  await expect(`${schema}\n`).toMatchFileSnapshot('../../rules/rules.schema.json');
});

describe('a policy', () => {
  test('fills in what is left out, and is frozen', () => {
    const policy = policyOf(BASE);
    expect(policy.servers.get('acme' as never)?.apiSources.map(({ text }) => text)).toEqual(['198.51.100.0/25']);
    expect(policy.mtcUsers.get('acme' as never)?.mayAuthorise.map(({ text }) => text)).toEqual(['acme']);
    expect(policy.allows).toMatchObject([
      { id: 'coap', allApplicationServers: false, limits: { durationSeconds: 900, totalSeconds: 900 } },
    ]);
    expect(policy.allows[0]?.place).toEqual({ file: 'a.yaml', line: 7, column: 5 });
    expect(Object.isFrozen(policy.allows[0]?.match.ports)).toBe(true);
    expect(Object.isFrozen(policy.servers.get('acme' as never)?.sources)).toBe(true);
  });

  test('has one version for one meaning, however spread over files and ordered', () => {
    const [servers = '', rest = ''] = BASE.split(/(?=mtcUsers)/);
    const { version } = policyOf(BASE);
    expect(version).toMatch(/^[0-9a-f]{16}$/);
    expect(policyOf(rest, servers).version).toBe(version);
    expect(
      policyOf(`# said otherwise\n${BASE.replace('sources: [198.51.100.0/25]', 'sources: ["198.51.100.0/25"]')}`)
        .version,
    ).toBe(version);
    expect(policyOf(BASE.replace('[5683]', '[5683-5683]')).version).toBe(version);
    expect(policyOf(BASE.replace('[5683]', '[5684]')).version).not.toBe(version);
    expect(policyOf(BASE.replace('id: coap', 'id: coaps')).version).not.toBe(version);
  });

  test('has another version for another attribute, group or limit', () => {
    const grouped = (attributes: string, limits = '') =>
      policyOf(`${BASE}  - { id: g, allow: { devices: ["group:g"] }, limits: { durationSeconds: 9${limits} } }
deviceGroups: { g: { attributes: ${attributes} } }
`).version;
    const versions = [
      grouped('{ text: [a] }'),
      grouped('{ text: [a, b] }'),
      grouped('{ text: [a], place: [b] }'),
      grouped('{ text: [a], place: [c] }'),
      grouped('{ text: [a] }', ', bytes: 10MB'),
      grouped('{ text: [a] }', ', packetsPerSecond: 50'),
    ];
    expect(new Set(versions).size).toBe(versions.length);
    expect(grouped('{ text: [b, a] }')).toBe(versions[1]);
    expect(grouped('{ text: [a] }', ', bytes: 10000000')).toBe(versions[4]);
  });

  test('bears limits that the gate keeps', () => {
    const limits = 'durationSeconds: 900, packetsPerSecond: 50, bytes: 2GB';
    expect(policyOf(BASE.replace('durationSeconds: 900', limits)).allows[0]?.limits).toEqual({
      durationSeconds: 900,
      totalSeconds: 900,
      packetsPerSecond: 50,
      bytes: 2_000_000_000,
    });
  });

  test('knows the owner of a device', () => {
    const policy = policyOf(BASE);
    expect(mtcUserOf(policy, 'm1@acme.example' as never)?.name).toBe('acme');
    expect(mtcUserOf(policy, 'm1@north.acme.example' as never)).toBeUndefined();
  });

  test('gives every source prefix once, for the gate', () => {
    expect(sourceClasses(policyOf(BASE)).map(({ prefix, server }) => `${prefix.text} ${server}`)).toEqual([
      '198.51.100.0/25 acme',
      '198.51.100.128/25 other',
    ]);
  });
});

describe('a certificate', () => {
  const KEY = 'ab'.repeat(32);
  const policy = policyOf(`servers:
  one: { certificates: [{ uri: "urn:one", issuer: ca-1 }, { uri: "urn:one", issuer: ca-2 }], sources: [192.0.2.1] }
  two: { certificates: [{ sha256: "${KEY.toUpperCase().replace(/(..)(?=.)/g, '$1:')}" }, { uri: "urn:two" }], sources: [192.0.2.2] }
mtcUsers:
  user: { certificates: [{ uri: "urn:user", issuer: ca-1 }], devices: ["*@*"], authorises: [one] }
`);
  const who = (uris: string[], issuer?: string, spkiSha256 = '') => identify(policy, { uris, issuer, spkiSha256 });

  test('is known by URI and issuer, or by its key', () => {
    expect(who(['urn:one'], 'ca-1')).toEqual({ role: 'server', name: 'one' });
    expect(who(['urn:x', 'urn:one'], 'ca-2')).toEqual({ role: 'server', name: 'one' });
    expect(who([], 'ca-3', KEY)).toEqual({ role: 'server', name: 'two' });
    expect(who(['urn:two'], 'ca-3')).toEqual({ role: 'server', name: 'two' });
    expect(who(['urn:user'], 'ca-1')).toEqual({ role: 'mtcUser', name: 'user' });
  });

  test('of another CA, or of nobody, is unknown', () => {
    expect(who(['urn:one'], 'ca-3')).toBe('certificateUnknown');
    expect(who(['urn:one'])).toBe('certificateUnknown');
    expect(who(['urn:ONE'], 'ca-1')).toBe('certificateUnknown');
    expect(who([])).toBe('certificateUnknown');
  });

  test('that fits two is nobody’s', () => {
    expect(who(['urn:one', 'urn:user'], 'ca-1')).toBe('certificateAmbiguous');
    expect(who(['urn:one'], 'ca-1', KEY)).toBe('certificateAmbiguous');
  });
});

describe('issues', () => {
  test('unknown keys and wrong values, of all files', () => {
    expect(
      issues(
        `servers:
  acme:
    certificate: [{ uri: "urn:mtc:acme" }]
    sources: [198.51.100.1/24]
`,
        `rules:
  - id: a
    allow: { server: [acme], ports: [0], protocols: [sctp], hour: {} }
    limits: { durationSeconds: 10m, bytes: 10MiB }
  - { id: b, deny: { ports: [23] } }
`,
      ),
    ).toEqual([
      'a.yaml:2:3: "certificates" is missing: expected a list of certificates',
      'a.yaml:3:5: unknown key "certificate"; did you mean "certificates"?',
      'a.yaml:4:15: expected a prefix: "198.51.100.1/24" has bits set behind its length; the prefix is 198.51.100.0/24',
      'b.yaml:3:14: unknown key "server"; did you mean "servers"?',
      'b.yaml:3:38: expected a port or a range of ports such as 61616-61631, found "0"',
      'b.yaml:3:54: expected one of tcp, udp, found "sctp"',
      'b.yaml:3:61: unknown key "hour"; known here: servers, devices, protocols, ports, applicationServer',
      'b.yaml:4:32: expected a whole number from 1 to 2592000, found "10m"',
      'b.yaml:4:44: expected a size such as 500kB, 10MB or 2GB (powers of 1000), or a number of bytes; at most 1TB, found "10MiB"',
      'b.yaml:5:14: "reason" is missing: expected a text',
    ]);
  });

  test('shapes that are no rule, certificate or test', () => {
    expect(
      issues(`servers:
  a: { certificates: [{ issuer: x }, { uri: "urn:a", sha256: "00" }, { uri: a b }], sources: [192.0.2.1] }
  b: { certificates: [{ sha256: "${'00'.repeat(32)}", issuer: x }], sources: [192.0.2.2] }
rules:
  - { id: a, limits: { durationSeconds: 1 } }
  - { id: b, allow: {}, deny: { reason: no }, limits: { durationSeconds: 1 } }
  - { id: c, allow: {} }
  - { id: d, deny: { reason: no }, limits: { durationSeconds: 1 } }
  - { id: e, allow: { servers: [] }, limits: { durationSeconds: 60, totalSeconds: 30 } }
tests:
  - name: x
    request: { server: a, device: m1@a.example, protocol: udp, port: 1, durationSeconds: 1 }
    expect: { refuse: deviceUnknown }
  - name: y
    request: { server: a, device: m1@a.example, protocol: udp, port: 1, durationSeconds: 1 }
    expect: { allow: a, refuse: noRuleAllows }
  - name: z
    request: { server: a, device: m1@a.example, protocol: udp, port: 1, durationSeconds: 1 }
    expect: { refuse: noRuleAllows, durationSeconds: 1 }
`),
    ).toEqual([
      'a.yaml:2:23: expected exactly one of uri and sha256',
      'a.yaml:2:38: expected exactly one of uri and sha256',
      'a.yaml:2:62: expected the SHA-256 of a public key (SubjectPublicKeyInfo): 64 hex digits, found "00"',
      'a.yaml:2:77: expected a URI such as urn:mtc:acme:head-end, found "a b"',
      'a.yaml:3:23: expected issuer with uri only: a public key needs none',
      'a.yaml:5:5: expected exactly one of allow and deny',
      'a.yaml:6:5: expected exactly one of allow and deny',
      'a.yaml:6:47: expected no limits with deny',
      'a.yaml:7:5: "limits" is missing: an allow says at least durationSeconds',
      'a.yaml:8:36: expected no limits with deny',
      'a.yaml:9:23: expected a list of servers, found an empty one',
      'a.yaml:9:83: expected totalSeconds to be at least durationSeconds',
      'a.yaml:13:23: expected one of notAuthorisedByMtcUser, triggerPort, deniedByRule, noRuleAllows, conditionFailed, outsideHours, triggerPayloadTooLarge, triggerValidityTooLong, applicationServerRequired, applicationServerNotAllowed, deniedByFilter, familyMismatch, rateExceeded, triggerRateExceeded, grantsPerDeviceExceeded, grantsPerServerExceeded, triggersPerDeviceExceeded, pendingPerDeviceExceeded, pendingPerServerExceeded, found "deviceUnknown"',
      'a.yaml:16:5: expected exactly one of allow, refuse, drop and pass',
      'a.yaml:19:54: expected durationSeconds with allow only',
    ]);
  });

  test('names that nothing bears', () => {
    expect(
      issues(
        BASE,
        `mtcUsers:
  b: { devices: ["*@b.example"], authorises: [acne] }
rules:
  - { id: b, allow: { servers: [acme, acmee] }, limits: { durationSeconds: 1 } }
  - { id: c, deny: { servers: [nobody], reason: no } }
tests:
  - name: x
    request: { server: othr, device: m1@a.example, protocol: udp, port: 1, durationSeconds: 1 }
    expect: { allow: c }
`,
      ),
    ).toEqual([
      'b.yaml:2:47: unknown server "acne"; did you mean "acme"?',
      'b.yaml:4:39: unknown server "acmee"; did you mean "acme"?',
      'b.yaml:5:32: unknown server "nobody"; known here: acme, other',
      'b.yaml:8:24: unknown server "othr"; did you mean "other"?',
      'b.yaml:9:22: unknown allow rule "c"; known here: coap, b',
    ]);
  });

  test('names, certificates and keys that two bear, in one file or several', () => {
    const key = '0f'.repeat(32);
    expect(
      issues(
        BASE,
        `servers:
  acme: { certificates: [{ uri: "urn:mtc:other" }, { sha256: ${key} }], sources: [192.0.2.1] }
mtcUsers:
  acme: { devices: ["*@b.example"], certificates: [{ sha256: ${key} }, { uri: "urn:mtc:acme" }] }
rules:
  - { id: coap, deny: { reason: no } }
tests:
  - { name: x, request: { server: acme, device: m1@a.example, protocol: udp, port: 1, durationSeconds: 1 }, expect: { refuse: deniedByRule } }
  - { name: x, request: { server: acme, device: m1@a.example, protocol: udp, port: 1, durationSeconds: 1 }, expect: { refuse: deniedByRule } }
`,
      ),
    ).toEqual([
      'b.yaml:2:3: duplicate server "acme"; it stands in a.yaml:2 already',
      'b.yaml:2:26: duplicate certificate urn:mtc:other; it stands in a.yaml:3 already',
      'b.yaml:4:3: duplicate MTC user "acme"; it stands in a.yaml:5 already',
      'b.yaml:4:52: duplicate public key 0f0f0f0f0f0f0f0f…; it stands in line 2 already',
      'b.yaml:4:130: duplicate certificate urn:mtc:acme; it stands in a.yaml:2 already',
      'b.yaml:6:11: duplicate rule id "coap"; it stands in a.yaml:7 already',
      'b.yaml:9:13: duplicate test "x"; it stands in line 8 already',
    ]);
  });

  test('a URI is one certificate per CA', () => {
    const two = `servers:
  a: { certificates: [{ uri: "urn:x", issuer: ca-1 }], sources: [192.0.2.1] }
  b: { certificates: [{ uri: "urn:x", issuer: ca-2 }], sources: [192.0.2.2] }
`;
    expect(issuesOf(compiled(two, { authorities: ['ca-1', 'ca-2'] }))).toEqual([]);
    expect(issuesOf(compiled(two.replace('ca-2', 'ca-1')))).toEqual([
      'a.yaml:3:23: duplicate certificate urn:x of ca-1; it stands in line 2 already',
    ]);
    expect(issuesOf(compiled(two.replace(', issuer: ca-2', ''), { authorities: ['ca-1'] }))).toEqual([
      'a.yaml:3:23: duplicate certificate urn:x of ca-1; it stands in line 2 already',
    ]);
  });

  test('issuers are CAs of agent.yaml, and named once there are two', () => {
    const text = BASE.replace('{ uri: "urn:mtc:other" }', '{ uri: "urn:mtc:other", issuer: mtc-aa }');
    expect(issuesOf(compiled(text, { authorities: ['mtc-ca'] }))).toEqual([
      'a.yaml:3:59: unknown client CA "mtc-aa"; did you mean "mtc-ca"?',
    ]);
    expect(issuesOf(compiled(text, { authorities: ['mtc-aa', 'mtc-bb'] }))).toEqual([
      'a.yaml:2:26: "issuer" is missing: agent.yaml trusts more than one CA (mtc-aa, mtc-bb)',
    ]);
    expect(issuesOf(compiled(BASE, { authorities: ['mtc-ca'] }))).toEqual([]);
  });

  test("sources of two servers, and the gateway's own spaces", () => {
    const text = `servers:
  b: { certificates: [{ uri: "urn:b" }], sources: [198.51.100.64/26, 10.20.1.0/24, 203.0.113.0/24, "2001:db8::/32"] }
  c: { certificates: [{ uri: "urn:c" }], sources: [192.0.2.0/28, 192.0.2.4/30, "2001:db8:1::/48"] }
`;
    const ownSpaces = [
      { prefix: prefix('10.20.0.0/16'), owner: 'realm iot of agent.yaml' },
      { prefix: prefix('203.0.113.0/29'), owner: 'the grants pool of agent.yaml' },
    ];
    expect(issuesOf(compiled([BASE, text], { ownSpaces }))).toEqual([
      'b.yaml:2:52: 198.51.100.64/26 (server b) overlaps 198.51.100.0/25 (server acme) in a.yaml:2',
      'b.yaml:2:70: 10.20.1.0/24 (server b) overlaps 10.20.0.0/16 (realm iot of agent.yaml)',
      'b.yaml:2:84: 203.0.113.0/24 (server b) overlaps 203.0.113.0/29 (the grants pool of agent.yaml)',
      'b.yaml:3:80: 2001:db8:1::/48 (server c) overlaps 2001:db8::/32 (server b) in line 2',
    ]);
  });

  test('sources that no packet can have', () => {
    const text = `servers:
  b: { certificates: [{ uri: "urn:b" }], sources: [127.0.0.1/32, "fe80::/10"] }
`;
    expect(issuesOf(compiled([BASE, text]))).toEqual([
      'b.yaml:2:52: 127.0.0.1/32 (server b) overlaps 127.0.0.0/8 (the loopback addresses)',
      'b.yaml:2:66: fe80::/10 (server b) overlaps fe80::/10 (the link-local addresses)',
    ]);
  });

  test('device patterns of two MTC users', () => {
    expect(
      issues(
        BASE,
        `mtcUsers:
  b: { devices: ["m1@ACME.example", "*@*.acme.example", "*@b.example", "t-*@b.example"] }
  c: { devices: ["*@north.acme.example", "t*@*"] }
  d: { devices: ["m@@d.example", "m*", "*@d.*.example", "*@d*.example"] }
`,
      ).slice(0, 4),
    ).toEqual([
      'b.yaml:4:18: expected a device pattern such as *@*.meters.example, found "m@@d.example"',
      'b.yaml:4:34: expected a device pattern such as *@*.meters.example, found "m*"',
      'b.yaml:4:40: expected a device pattern such as *@*.meters.example, found "*@d.*.example"',
      'b.yaml:4:57: expected a device pattern such as *@*.meters.example, found "*@d*.example"',
    ]);
    expect(
      issues(
        BASE,
        `mtcUsers:
  b: { devices: ["m1@ACME.example", "*@*.acme.example", "x*@b.example", "t-*@b.example"] }
  c: { devices: ["*@north.acme.example", "t*@*"] }
`,
      ),
    ).toEqual([
      'b.yaml:2:18: "m1@acme.example" (MTC user b) overlaps "*@acme.example" (MTC user acme) in a.yaml:5: a device has one MTC user',
      'b.yaml:3:18: "*@north.acme.example" (MTC user c) overlaps "*@*.acme.example" (MTC user b) in line 2: a device has one MTC user',
      'b.yaml:3:42: "t*@*" (MTC user c) overlaps "*@acme.example" (MTC user acme) in a.yaml:5: a device has one MTC user',
      'b.yaml:3:42: "t*@*" (MTC user c) overlaps "*@*.acme.example" (MTC user b) in line 2: a device has one MTC user',
      'b.yaml:3:42: "t*@*" (MTC user c) overlaps "t-*@b.example" (MTC user b) in line 2: a device has one MTC user',
    ]);
  });

  test('what an MTC user may not authorise', () => {
    expect(issues(BASE.replace('authorises: [acme]', 'authorises: [acme, other], mayAuthorise: ["ac*", "x"]'))).toEqual(
      ['a.yaml:5:59: "other" is not within mayAuthorise (ac*, x)'],
    );
  });
});

test('an allow that nothing authorises is told, and compiles', () => {
  const compilation = compiled(`${BASE}  - { id: dead, allow: { servers: [other] }, limits: { durationSeconds: 1 } }
  - { id: far, allow: { devices: ["*@b.example"] }, limits: { durationSeconds: 1 } }
  - { id: fine, allow: { devices: ["m*@*"] }, limits: { durationSeconds: 1 } }
`);
  expect('warnings' in compilation && compilation.warnings.map(formatted)).toEqual([
    'a.yaml:8:5: allow "dead" can never match: no MTC user authorises its servers for its devices',
    'a.yaml:8:5: allow "dead" is wide: it opens more than 1024 ports; name those that are needed',
    'a.yaml:9:5: allow "far" can never match: no MTC user authorises its servers for its devices',
    'a.yaml:9:5: allow "far" is wide: it opens more than 1024 ports; name those that are needed',
    'a.yaml:10:5: allow "fine" is wide: it opens more than 1024 ports; name those that are needed',
  ]);
});
