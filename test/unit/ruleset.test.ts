import { expect, test } from 'vitest';
import { address, parseEndpoint, prefix } from '../../agent/core/net.ts';
import { type BaseSetup, baseRuleset } from '../../agent/policy/ruleset.ts';
import { PLAIN_BASE, policyOf } from '../rules.ts';

const SETUP: BaseSetup = {
  ...PLAIN_BASE,
  outside: 'eth0',
  present: ['eth0', 'pgw0', 'pgw1'],
  inside: [
    { interface: 'pgw0', prefixes: [prefix('10.20.0.0/16'), prefix('fd00:20::/48')] },
    { interface: 'pgw1', prefixes: [prefix('10.30.0.0/16')] },
  ],
  grants: [prefix('203.0.113.0/29'), prefix('2001:db8:a::/64')],
  egress: [prefix('203.0.113.8/29'), prefix('198.18.0.1/32'), prefix('2001:db8:e::/64')],
  deniedDestinations: [prefix('10.0.0.0/8')],
  services: [
    { protocol: 'udp', port: 53 },
    { protocol: 'icmp', port: 0 },
    { protocol: 'icmpv6', port: 0 },
  ],
  nflogGroup: 100,
};

/** What stands in a chain. */
function rulesOf(text: string, name: string): string[] {
  const [, body = ''] = new RegExp(`\\tchain ${name} \\{\\n([^]*?)\\t\\}\\n`).exec(text) ?? [];
  return body.split('\n').flatMap((line) => line.trim() || []);
}

test('the base reads as it was meant', async () => {
  await expect(baseRuleset(SETUP)).toMatchFileSnapshot('../golden/base.nft');
});

const FILTERED = policyOf(`
deviceGroups: { m2: { devices: ["*@m2.example"] } }
filters:
  - { id: bogons, drop: { from: [10.0.0.0/8, 10.1.0.0/16, "fc00::/7"], to: inside } }
  - { id: smtp, drop: { from: inside, protocol: tcp, ports: [25, 465-587, 500-600] } }
  - { id: m2, drop: { from: "group:m2", to: [192.0.2.0/24] } }
  - { id: later, drop: { protocol: udp }, stage: true }
  - { id: noc-ping, allow: { from: [192.0.2.0/28, "2001:db8:66::/64"], to: inside, protocol: icmp, types: [echo-request] } }
  - { id: noc-snmp, allow: { from: 192.0.2.0/28, to: [10.20.0.0/24, outside], protocol: udp, ports: [161] }, standing: true }
  - { id: vpn, allow: { from: inside, to: 198.51.100.1 } }
  - { id: perhaps, allow: { from: inside, to: 198.51.100.2 }, stage: true }
`);

test('the base with filters reads as it was meant, and goes on counting', async () => {
  const member = { interface: 'pgw0', prefix: prefix('10.20.0.2/32') };
  const text = baseRuleset(
    { ...SETUP, filters: FILTERED.filters, filterCopiesPerSecond: 500, groups: new Map([['m2', [member]]]) },
    new Map([['smtp', { packets: 7n, bytes: 420n }]]),
  );
  await expect(text).toMatchFileSnapshot('../golden/base-with-filters.nft');
});

test('the base with a realm that is not translated reads as it was meant', async () => {
  const [translated, own] = SETUP.inside;
  const inside = [
    { ...translated, nat: undefined },
    { ...own, nat: 'none' },
  ] as BaseSetup['inside'];
  const text = baseRuleset({ ...SETUP, inside, egress: [prefix('203.0.113.8/29')], filterCopiesPerSecond: 500 });
  await expect(text).toMatchFileSnapshot('../golden/base-untranslated.nft');
});

test('the base with caps on flows reads as it was meant', async () => {
  const text = baseRuleset({ ...SETUP, flowsPerDevice: 1_000, filterCopiesPerSecond: 500 });
  const base = baseRuleset({ ...SETUP, filterCopiesPerSecond: 500 });
  expect(text.startsWith(base)).toBe(true);
  await expect(text.slice(base.length)).toMatchFileSnapshot('../golden/flow-caps.nft');
});

test('the base with triggers reads as it was meant', async () => {
  const triggers = {
    sources: [address('10.20.0.1'), address('fd00:20::1')],
    sourcePort: 5683,
    ports: [
      { low: 5690, high: 5690 },
      { low: 61_616, high: 61_631 },
    ],
  };
  const text = baseRuleset({ ...SETUP, triggers, filterCopiesPerSecond: 500 });
  await expect(text).toMatchFileSnapshot('../golden/base-with-triggers.nft');
  const silent = baseRuleset({ ...SETUP, triggers });
  expect(silent).not.toContain('unauthorisedTrigger');
  expect(silent).toContain('goto unauthorised_trigger');
});

test('where the host listens for its management, nothing comes from outside', () => {
  const management = ['192.0.2.10:1813', '[2001:db8::10]:1813'].flatMap((text) => parseEndpoint(text) ?? []);
  const [, input = ''] = baseRuleset({ ...SETUP, management }).split('chain input {');
  expect(input).toContain('iifname "eth0" ip daddr 192.0.2.10 udp dport 1813 counter drop\n');
  expect(input).toContain('iifname "eth0" ip6 daddr 2001:db8::10 udp dport 1813 counter drop\n');
});

test('without sampling nothing is copied, and all is dropped as before', () => {
  const text = baseRuleset({ ...SETUP, filters: FILTERED.filters });
  expect(text).not.toContain('filter_copies');
  expect(text).toContain('chain filtered_smtp {\n\t\tdrop\n');
});

test('devices of realms that share addresses begin nothing; all else of their realms is as for others', () => {
  const [first, second] = SETUP.inside;
  if (!first || !second) throw new RangeError('two realms');
  const text = baseRuleset({ ...SETUP, inside: [{ ...first, shared: true }, second] });
  const closed = 'iifname { "pgw0" } counter drop';
  const outward = rulesOf(text, 'from_inside');
  expect(outward[outward.indexOf('oifname != "eth0" counter drop') + 1]).toBe(closed);
  expect(rulesOf(text, 'from_device').slice(1, 2)).toEqual([closed]);
  expect(rulesOf(text, 'hide').join()).not.toMatch(/10\.20\.0\.0|fd00:20/);
  expect(rulesOf(text, 'hide').join()).toContain('10.30.0.0/16');
});

test('headers are made alike as far as it is wanted', () => {
  const SYN = 'tcp flags & syn == syn goto alike_syn';
  const off = { identification: false, flowLabel: false, trafficClass: false, timestamps: false, mss: false };
  const textOf = (on: Partial<BaseSetup['normalise']>) =>
    baseRuleset({ ...SETUP, normalise: { ...off, hopLimit: 0, ...on } });
  // Never to be agreed upon: it would tell inner addresses.
  expect(rulesOf(textOf({}), 'alike_syn')).toEqual(['reset tcp option mptcp']);
  const farther = textOf({ hopLimit: 200 });
  for (const way of ['outward', 'inward']) {
    expect(rulesOf(farther, `alike_${way}_ipv4`)).toEqual(['ip ttl set 200', SYN]);
    expect(rulesOf(farther, `alike_${way}_ipv6`)).toEqual(['ip6 hoplimit set 200', SYN]);
  }
  const unlabelled = textOf({ flowLabel: true });
  expect(rulesOf(unlabelled, 'alike_outward_ipv6')).toEqual(['ip6 flowlabel != 0 ip6 flowlabel set 0', SYN]);
  expect(rulesOf(unlabelled, 'alike_inward_ipv6')).toEqual([SYN]);
  expect(rulesOf(textOf({ mss: true }), 'alike_syn')).toEqual([
    'reset tcp option mptcp',
    'tcp option maxseg size set rt mtu',
  ]);
});

test('the samples of interfaces that are there are looked at; where there is none, no chain asks for one', () => {
  expect(baseRuleset({ ...SETUP, present: ['pgw1'] })).toContain('hook ingress devices = { "pgw1" }');
  expect(baseRuleset({ ...SETUP, present: [] })).not.toContain('hook ingress');
});

test('a family without an egress pool has no way out, and one without a realm no way in', () => {
  const text = baseRuleset({ ...SETUP, egress: [prefix('203.0.113.8/29')] });
  expect(text).toContain('meta nfproto ipv6 counter drop');
  expect(text).not.toContain('snat ip6');
  expect(text).toContain('iifname "pgw1" meta nfproto ipv6 counter drop');
});
