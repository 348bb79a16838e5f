/** The triggers of agent.yaml: what is said, what may not be, what is doubtful, and what becomes of it. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { baseSetup, gateSetup, siteOf, triggeredAt } from '../../agent/closure/site.ts';
import { readConfig } from '../../agent/config.ts';
import { address } from '../../agent/core/net.ts';
import { sourceFaults } from '../../agent/core/trigger-plan.ts';
import type { ExternalId, MtcUserName, RealmName } from '../../agent/core/words.ts';
import type { Holder } from '../../agent/directory/binding.ts';
import { formatted, issuesOf } from '../issues.ts';
import { policyOf } from '../rules.ts';

const FILE = '/etc/mtgate/agent.yaml';
const TEXT = `gateway: gw-1
outside: { interface: eth0 }
pools:
  grants: { prefixes: [203.0.113.0/29] }
  egress: { prefixes: [203.0.113.8/29] }
inside:
  - { realm: iot, interface: pgw0, prefixes: [10.20.0.0/16] }
services: [udp/53]
api:
  listen: 192.0.2.10:8443
  certificate: api.crt
  key: /keys/api.key
  clientCAs: [{ name: mtc-ca, file: ca.crt }]
radius:
  listen: [192.0.2.11:1813]
  clients: [{ name: pgw-1, addresses: [192.0.2.66], secret: radius/pgw-1 }]
`;
const APNS: readonly [string, string] = ['prefixes: [10.20.0.0/16] }', 'prefixes: [10.20.0.0/16], apns: [iot] }'];

function reading(triggers: string, ...changes: readonly (readonly [string, string])[]) {
  const text = [APNS, ...changes].reduce((changed, [from, to]) => {
    if (!changed.includes(from)) throw new Error(`nothing to change: ${from}`);
    return changed.replace(from, to);
  }, TEXT);
  return readConfig(`${text}triggers: { ${triggers} }\n`, FILE);
}

function configOf(read: ReturnType<typeof readConfig>) {
  if ('issues' in read) throw new Error(issuesOf(read).join('\n'));
  return { config: read.config, warnings: read.warnings.map(formatted) };
}

test('what this host lacks of the sources', () => {
  const { config } = configOf(reading('sources: [10.20.0.1, "fd00:20::1"], ports: [5690]'));
  const { triggers, inside } = config;
  if (!triggers) throw new Error('no triggers');
  const links = (...all: [string, ...string[]][]) =>
    all.map(([name, ...texts]) => ({ name, addresses: texts.map((text) => address(text)) }));
  expect(sourceFaults(triggers, links(['pgw0', '10.20.0.1', 'fd00:20::1'], ['eth0', 'fd00:20::1']), inside)).toEqual(
    [],
  );
  expect(sourceFaults(triggers, links(['pgw0', '10.20.0.2'], ['eth0', 'fd00:20::1']), inside)).toEqual([
    { source: '10.20.0.1', isMissing: true, why: '10.20.0.1 is no address of this host' },
    { source: 'fd00:20::1', isMissing: false, why: 'fd00:20::1 is of eth0, which is no inside interface' },
  ]);
});

test('the least that must be said, and every default', () => {
  const { config, warnings } = configOf(reading('sources: [10.20.0.1], ports: [5690, 6000-6003]'));
  expect(warnings).toEqual([]);
  const ports = [
    { low: 5690, high: 5690 },
    { low: 6000, high: 6003 },
  ];
  expect(config.triggers).toEqual({
    sources: [address('10.20.0.1')],
    sourcePort: 5683,
    ports,
    coapPorts: ports,
    coapPath: ['trigger'],
  });
  expect(configOf(readConfig(TEXT, FILE)).config.triggers).toBeUndefined();
});

test('some ports, or all, by plain UDP; a longer path', () => {
  const { config } = configOf(
    reading('sources: [10.20.0.1], ports: [5690-5699], coapPorts: [5692], coapPath: mtc/wake'),
  );
  expect(config.triggers).toMatchObject({ coapPorts: [{ low: 5692, high: 5692 }], coapPath: ['mtc', 'wake'] });
  const none = configOf(reading('sources: [10.20.0.1], ports: [5690], coapPorts: []'));
  expect(none.config.triggers?.coapPorts).toEqual([]);
});

test('what may not be, each with its place', () => {
  const issues = (triggers: string, ...changes: readonly (readonly [string, string])[]) =>
    issuesOf(reading(triggers, ...changes)).map((text) => text.replace(`${FILE}:`, ''));
  expect(issues('sources: [203.0.113.1, 203.0.113.9], ports: [5690]')).toEqual([
    '17:23: 203.0.113.1 is in the grants pool: expected an address of this host toward the devices',
    '17:36: 203.0.113.9 is in the egress pool: expected an address of this host toward the devices',
    '17:36: expected at most one ipv4 address: devices trust one',
  ]);
  expect(issues('sources: [192.0.2.10, "::1"], ports: [5690]')).toEqual([
    '17:23: 192.0.2.10 is where the API listens: expected an address of this host toward the devices',
    '17:35: ::1 is one of the loopback addresses: expected an address of this host toward the devices',
  ]);
  expect(issues('sources: [192.0.2.11], ports: [5690]')).toEqual([
    '17:23: 192.0.2.11 is where RADIUS is heard: expected an address of this host toward the devices',
  ]);
  expect(issues('sources: [10.20.0.1], sourcePort: 53, ports: [5690], coapPorts: [5689-5690]')).toEqual([
    '17:47: udp/53 is one of services: expected a port of its own',
    '17:78: 5689-5690 is not within triggers.ports',
  ]);
  const services = Array.from({ length: 16 }, (_, i) => `udp/${100 + i}`).join(', ');
  expect(issues('sources: [10.20.0.1], ports: [5690]', ['[udp/53]', `[${services}]`])).toEqual([
    '17:1: with triggers expected at most 15 services: the answers of devices take the place of one',
  ]);
  expect(issues('sources: [], ports: [0], coapPath: "/a b"')).toEqual([
    '17:13: expected a list of addresses, found an empty one',
    '17:34: expected a port or a range of ports such as 61616-61631, found "0"',
    '17:48: expected a path of at most 64 letters such as trigger or mtc/trigger, found "/a b"',
  ]);
  expect(issues('sources: [10.20.0.1]')).toEqual(['17:1: "ports" is missing: expected a list of ports']);
});

test('what is doubtful', () => {
  const { warnings } = configOf(
    reading('sources: [10.20.0.1], ports: [61616-61631]', [
      'services: [udp/53]',
      '  - { realm: other, interface: pgw1, prefixes: [10.20.4.0/24, "fd00:20::/48"] }\nservices: [udp/53]',
    ]),
  );
  expect(warnings.filter((text) => text.includes(':18:')).map((text) => text.replace(/^.*?:18:\d+: /, ''))).toEqual([
    'realm "other" shares addresses with another one: no trigger reaches its devices',
    'realm "iot" shares addresses with another one: no trigger reaches its devices',
    'realms have ipv6 addresses but no source is one: no trigger reaches a device by ipv6',
    'devices choose source ports from 32768 on: what they begin from a trigger port is dropped',
  ]);
});

test('the example of agent.yaml is one that is taken', () => {
  const example = readFileSync(new URL('../../systemd/agent.yaml.example', import.meta.url), 'utf8');
  const spoken = example.replace(/^#(triggers:.*\n(?:#.*\n)+)/m, (section) => section.replace(/^#/gm, ''));
  expect(spoken).not.toBe(example);
  const { config, warnings } = configOf(readConfig(spoken, FILE));
  expect(warnings).toEqual([]);
  expect(config.triggers).toMatchObject({ sourcePort: 5683, coapPath: ['trigger'] });
});

test('the gate lets devices speak to the source port; what answers a trigger is the base to see', () => {
  const { config } = configOf(reading('sources: [10.20.0.1], ports: [5690]'));
  const site = siteOf(config, { links: [], routedByMore: [] });
  expect(gateSetup(config, site, { realmId: () => 1, identificationKey: 1n }).services).toEqual([
    { protocol: 'udp', port: 53 },
    { protocol: 'udp', port: 5683 },
  ]);
  const ground = { policy: policyOf('filters: []'), bound: [], attributesOf: () => ({}) };
  expect(baseSetup(config, site, ground)).toMatchObject({
    services: [{ protocol: 'udp', port: 53 }],
    triggers: { sourcePort: 5683, ports: [{ low: 5690, high: 5690 }] },
  });
});

test('whose trigger port it is: by who holds the address, if one realm has it', () => {
  const whose = (triggers: string, ...changes: readonly (readonly [string, string])[]) =>
    triggeredAt(configOf(reading(triggers, ...changes)).config, {
      holderOf: ({ realm, address: { text } }) =>
        realm === ('iot' as RealmName) && text === '10.20.0.2'
          ? { holder: 'm1@meters.example' as ExternalId }
          : text === '10.20.0.3'
            ? { holder: 'imsi:262010000000009' as Holder }
            : undefined,
      mtcUserOf: (device) => (device.startsWith('m1') ? ('acme' as MtcUserName) : undefined),
    });
  const at = whose('sources: [10.20.0.1], ports: [5690]');
  const to = (text: string, port = 5690) => ({ address: address(text), port });
  expect(at(to('10.20.0.2'))).toEqual({ device: 'm1@meters.example', mtcUser: 'acme' });
  expect(at(to('10.20.0.3'))).toEqual({});
  expect(at(to('10.20.0.4'))).toEqual({});
  expect(at(to('10.20.0.2', 5691))).toBeUndefined();
  expect(at(to('198.51.100.7'))).toBeUndefined(); // a device's own way outside
  expect(at(to('10.20.0.1'))).toBeUndefined(); // the source itself
  const shared = whose('sources: [10.20.0.1], ports: [5690]', [
    'services: [udp/53]',
    '  - { realm: other, interface: pgw1, prefixes: [10.20.0.0/24] }\nservices: [udp/53]',
  ]);
  expect(shared(to('10.20.0.2'))).toEqual({});
});
