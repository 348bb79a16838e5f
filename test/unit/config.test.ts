import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { gateSetup, siteOf, spacesOf } from '../../agent/closure/site.ts';
import { type Config, ownSpaces, readConfig } from '../../agent/config.ts';
import { sharedRealms } from '../../agent/core/address-plan.ts';
import { address } from '../../agent/core/net.ts';
import { entryCount, poolMebibytes } from '../../agent/core/pool.ts';
import { walkSite } from '../../agent/files/operator-files.ts';
import { objectionTo } from '../../agent/reports/sink-addresses.ts';
import { guardedSpaces } from '../../agent/use-cases/pushes.ts';
import { formatted, issuesOf } from '../issues.ts';

const FILE = '/etc/mtgate/agent.yaml';
const LEAST = `gateway: gw-1
outside: { interface: eth0 }
pools:
  grants: { prefixes: [203.0.113.0/29] }
  egress: { prefixes: [203.0.113.8/29] }
inside:
  - { realm: iot, interface: pgw0, prefixes: [10.20.0.0/16] }
api:
  listen: 192.0.2.10:8443
  certificate: api.crt
  key: /keys/api.key
  clientCAs: [{ name: mtc-ca, file: ca.crt }]
`;

function reading(...changes: readonly (readonly [string, string])[]) {
  const text = changes.reduce((changed, [from, to]) => {
    if (!changed.includes(from)) throw new Error(`nothing to change: ${from}`);
    return changed.replace(from, to);
  }, LEAST);
  return readConfig(text, FILE);
}

function configOf(read: ReturnType<typeof readConfig>): { config: Config; warnings: string[] } {
  if ('issues' in read) throw new Error(issuesOf(read).join('\n'));
  return { config: read.config, warnings: read.warnings.map(formatted) };
}

test('the least that must be said, and every default', () => {
  const { config, warnings } = configOf(reading());
  expect(warnings).toEqual([]);
  expect(config).toMatchObject({
    gateway: 'gw-1',
    outside: { interface: 'eth0', nextHops: {} },
    pools: { grants: { ipv6: [], portLow: 1024, portCount: 64512, keyedGrants: 65536 } },
    inside: [{ realm: 'iot', interface: 'pgw0', nextHops: {} }],
    services: [],
    api: { certificate: '/etc/mtgate/api.crt', key: '/keys/api.key', minimumTls: '1.3' },
    management: { socket: '/run/mtgate/mtgate.sock' },
    metrics: { listen: { address: { text: '127.0.0.1' }, port: 9464 } },
    store: { directory: '/var/lib/mtgate' },
    rules: { folder: '/etc/mtgate/rules', autoApply: false },
    gate: {
      bpffs: '/sys/fs/bpf/mtgate',
      attach: 'auto',
      memoryMebibytes: 4096,
      sampledDenialsPerSecond: 500,
      orphanGraceSeconds: 300,
      udpTombstoneSeconds: 30,
      onlyBound: true,
    },
    base: { nflogGroup: 100 },
  });
  expect(config.base.deniedDestinations.map(({ text }) => text)).toContain('100.64.0.0/10');
  expect(config.devices).toBeUndefined();
  expect(Object.isFrozen(config.pools.grants.ipv4)).toBe(true);
});

test('the example that is installed has neither issues nor warnings, and its comments show the defaults', () => {
  const text = readFileSync(new URL('../../systemd/agent.yaml.example', import.meta.url), 'utf8');
  const { config, warnings } = configOf(readConfig(text, FILE));
  expect(warnings).toEqual([]);
  const spoken = text
    .replace(/^#(?:radius|triggers|reports):.*\n(?:#.*\n)+/gm, '') // by tests of their own: radius-config, trigger-config, below
    .replace(/^# (?=identities|management|metrics|store|rules|services|gate|natRecord|base| )/gm, '')
    .replace(/ {2}(# )(?=keyedGrants|minimumTls)/g, '  ');
  expect(spoken).not.toBe(text);
  const { base, ...rest } = configOf(readConfig(spoken, FILE)).config;
  expect({ ...rest, base: config.base }).toEqual(config);
  expect({ ...base, deniedDestinations: [] }).toEqual({ ...config.base, deniedDestinations: [] });
});

test('what the example says of reports is right, and shows the defaults', () => {
  const text = readFileSync(new URL('../../systemd/agent.yaml.example', import.meta.url), 'utf8');
  const { reports } = configOf(readConfig(text, FILE)).config;
  const spoken = text.replace(/^#(reports:.*\n(?:# {2}.*\n)+)/m, (_, section: string) => section.replace(/^#/gm, ''));
  expect(configOf(readConfig(spoken, FILE)).config.reports).toEqual({
    ...reports,
    signingKey: 'credential:reports.key',
    sinkCAs: [{ name: 'acme-siem', file: '/etc/mtgate/acme-siem.crt' }],
    resolvers: [expect.objectContaining({ port: 53 })],
    deniedDestinations: [expect.objectContaining({ text: '192.0.2.0/24' })],
  });
});

test('paths are read from the folder of the file, services and next hops as they are written', () => {
  const { config } = configOf(
    reading(
      ['interface: eth0', 'interface: eth0, nextHops: { ipv4: 192.0.2.1, ipv6: "fe80::1" }'],
      [
        'gateway: gw-1',
        'gateway: gw-1\nrules: ../policy\ndevices: devices.yaml\nservices: [udp/53, icmp, icmpv6, tcp/8080]',
      ],
    ),
  );
  expect(config.rules).toEqual({ folder: '/etc/policy', autoApply: false });
  expect(config.devices).toBe('/etc/mtgate/devices.yaml');
  expect(config.outside.nextHops.ipv6?.text).toBe('fe80::1');
  expect(config.services).toEqual([
    { protocol: 'udp', port: 53 },
    { protocol: 'icmp', port: 0 },
    { protocol: 'icmpv6', port: 0 },
    { protocol: 'tcp', port: 8080 },
  ]);
});

test("whether only bound devices speak is the operator's to say", () => {
  const gateOf = (written: string) => reading(['gateway: gw-1', `gateway: gw-1\ngate: ${written}`]);
  expect(configOf(gateOf('{}')).config.gate.onlyBound).toBe(true);
  expect(configOf(gateOf('{ onlyBound: false }')).config.gate.onlyBound).toBe(false);
  expect(issuesOf(gateOf('{ onlyBound: no }'))).toEqual([`${FILE}:2:20: expected one of true, false, found "no"`]);
});

test('rules are a folder, or a mapping that says whether it is applied by itself', () => {
  const rulesOf = (written: string) => reading(['gateway: gw-1', `gateway: gw-1\nrules: ${written}`]);
  expect(configOf(rulesOf('{ autoApply: true }')).config.rules).toEqual({
    folder: '/etc/mtgate/rules',
    autoApply: true,
  });
  expect(configOf(rulesOf('{ folder: /srv/rules, autoApply: false }')).config.rules).toEqual({
    folder: '/srv/rules',
    autoApply: false,
  });
  expect(issuesOf(rulesOf('{ autoApply: yes }'))).toEqual([`${FILE}:2:21: expected one of true, false, found "yes"`]);
  expect(issuesOf(rulesOf('""'))).toEqual([`${FILE}:2:8: expected a path, found nothing`]);
  expect(issuesOf(rulesOf('[a]'))).toEqual([
    `${FILE}:2:1: expected a mapping with the keys folder, autoApply, found a list`,
  ]);
});

test('each client CA has a CRL of its own, or none', () => {
  const { config } = configOf(reading(['file: ca.crt }', 'file: ca.crt, crl: ca.crl }, { name: other, file: b.crt }']));
  expect(config.api.clientCAs).toEqual([
    { name: 'mtc-ca', file: '/etc/mtgate/ca.crt', crl: '/etc/mtgate/ca.crl' },
    { name: 'other', file: '/etc/mtgate/b.crt' },
  ]);
});

test('a key may be a credential of the service; what is read again at a reload may not', () => {
  const { config } = configOf(reading(['key: /keys/api.key', 'key: credential:api.key']));
  expect(config.api.key).toBe('credential:api.key');
  const refused = reading(
    ['key: /keys/api.key', 'key: "credential:../shadow"'],
    ['certificate: api.crt', 'certificate: credential:api.crt'],
  );
  expect(issuesOf(refused)).toEqual([
    `${FILE}:10:16: expected a path, found "credential:api.crt"`,
    `${FILE}:11:8: expected a path, or credential:NAME, found "credential:../shadow"`,
  ]);
});

test("the gateway's own spaces are its pools and realms", () => {
  const { config } = configOf(reading());
  expect(ownSpaces(config).map(({ prefix, owner }) => `${prefix.text} ${owner}`)).toEqual([
    '203.0.113.0/29 the grants pool of agent.yaml',
    '203.0.113.8/29 the egress pool of agent.yaml',
    '10.20.0.0/16 realm iot of agent.yaml',
  ]);
});

describe('without translation', () => {
  const OWN = ['prefixes: [10.20.0.0/16]', 'prefixes: [198.18.0.0/16, "2001:db8:20::/48"], nat: none'] as const;

  test('devices are known outside by the addresses of their realm, and are inside all the same', () => {
    const { config, warnings } = configOf(reading([...OWN]));
    expect(warnings).toEqual([]); // of families without a pool
    expect(config.inside[0]?.nat).toBe('none');
    const { isInner, isExternal } = spacesOf(config);
    const device = address('198.18.0.2');
    expect([isInner(device), isExternal(device), isExternal(address('203.0.113.1'))]).toEqual([true, true, true]);
    const translated = spacesOf(configOf(reading()).config);
    expect([translated.isInner, translated.isExternal].map((is) => is(address('10.20.0.2')))).toEqual([true, false]);
    // No report is pushed to a device.
    expect(objectionTo(address('2001:db8:20::2'), guardedSpaces(config, []))).toBe(
      '2001:db8:20::2 is realm iot of agent.yaml',
    );
  });

  test('the gate is told, and the base hides nothing', () => {
    const { config } = configOf(reading([...OWN]));
    const site = siteOf(config, { links: [], routedByMore: [] });
    const numbers = { realmId: () => 7, identificationKey: 1n };
    expect(gateSetup(config, site, numbers).inside).toMatchObject([{ realm: 7, translated: false }]);
    expect(gateSetup(configOf(reading()).config, site, numbers).inside).toMatchObject([{ translated: true }]);
    expect(walkSite(config).inside).toMatchObject([{ realm: 'iot', nat: 'none', shared: false }]);
  });

  test('no pool is needed, unless a realm is translated', () => {
    const empty = [
      ['[203.0.113.0/29]', '[]'],
      ['[203.0.113.8/29]', '[]'],
    ] as [string, string][];
    const { config } = configOf(reading([...OWN], ...empty));
    expect([entryCount(config.pools.grants), poolMebibytes(config.pools.grants)]).toEqual([65_536, 9]);
    expect(issuesOf(reading(...empty))).toEqual([
      `${FILE}:4:13: expected at least one prefix: realm iot is translated`,
      `${FILE}:5:13: expected at least one prefix: realm iot is translated`,
    ]);
  });

  test("a realm has addresses that are no other realm's", () => {
    const both =
      'prefixes: [198.18.0.0/16], nat: none }\n  - { realm: lab, interface: eth1, prefixes: [198.18.7.0/24] }';
    expect(issuesOf(reading(['prefixes: [10.20.0.0/16] }', both]))).toEqual([
      `${FILE}:8:47: 198.18.7.0/24 (realm lab) overlaps 198.18.0.0/16 (realm iot) in line 7; realm iot has nat: none, and needs addresses that are no other realm's`,
    ]);
  });
});

describe('issues', () => {
  test.each<[string, [string, string][], string[]]>([
    [
      'unknown keys',
      [
        ['outside: {', 'outsied: {'],
        ['key: /keys', 'kee: /keys'],
      ],
      [
        `${FILE}:1:1: "outside" is missing: expected a mapping with the keys interface, nextHops, hook`,
        `${FILE}:2:1: unknown key "outsied"; did you mean "outside"?`,
        `${FILE}:8:1: "key" is missing: expected a path, or credential:NAME`,
        `${FILE}:11:3: unknown key "kee"; did you mean "key"?`,
      ],
    ],
    [
      'overlapping pools',
      [['203.0.113.8/29', '203.0.113.0/28']],
      [`${FILE}:4:24: 203.0.113.0/29 (the grants pool) overlaps 203.0.113.0/28 (the egress pool) in line 5`],
    ],
    [
      'a prefix twice in one pool',
      [['[203.0.113.0/29]', '[203.0.113.0/29, 203.0.113.4/30]']],
      [`${FILE}:4:40: 203.0.113.4/30 (the grants pool) overlaps 203.0.113.0/29 (the grants pool) in line 4`],
    ],
    [
      'a realm within a pool, an API address within a realm',
      [['10.20.0.0/16', '203.0.113.8/30, 192.0.2.0/24']],
      [
        `${FILE}:7:47: 203.0.113.8/30 (realm iot) overlaps 203.0.113.8/29 (the egress pool) in line 5`,
        `${FILE}:9:11: 192.0.2.10/32 (the API listens there) overlaps 192.0.2.0/24 (realm iot) in line 7`,
      ],
    ],
    [
      'spaces that are nobody’s',
      [
        ['10.20.0.0/16', '127.0.0.0/16, 224.1.0.0/16'],
        ['203.0.113.8/29', '"fe80::/64"'],
      ],
      [
        `${FILE}:5:24: fe80::/64 (the egress pool) overlaps the link-local addresses`,
        `${FILE}:7:47: 127.0.0.0/16 (realm iot) overlaps the loopback addresses`,
        `${FILE}:7:61: 224.1.0.0/16 (realm iot) overlaps the multicast addresses`,
      ],
    ],
    [
      'what may stand once',
      [
        [
          'prefixes: [10.20.0.0/16] }',
          'prefixes: [10.20.0.0/16] }\n  - { realm: iot, interface: eth0, prefixes: [10.21.0.0/16] }',
        ],
        ['file: ca.crt }', 'file: ca.crt }, { name: mtc-ca, file: b.crt }'],
        ['gateway: gw-1', 'gateway: gw-1\nservices: [icmp, udp/53, udp/53]'],
      ],
      [
        `${FILE}:2:26: duplicate service udp/53; it stands in line 2 already`,
        `${FILE}:9:14: duplicate realm "iot"; it stands in line 8 already`,
        `${FILE}:9:30: duplicate interface "eth0"; it stands in line 3 already`,
        `${FILE}:14:55: duplicate client CA "mtc-ca"; it stands in line 14 already`,
      ],
    ],
    [
      'ports of which one is none',
      [['[203.0.113.0/29]', '[203.0.113.0/29], ports: 1024-65536']],
      [`${FILE}:4:48: expected a port or a range of ports such as 61616-61631, found "1024-65536"`],
    ],
    [
      'ports',
      [['[203.0.113.0/29]', '[203.0.113.0/29], ports: 30000-20000']],
      [
        `${FILE}:4:48: expected a port or a range of ports such as 61616-61631, found "30000-20000"; the lower port comes first`,
      ],
    ],
    [
      'too many prefixes',
      [['[203.0.113.0/29]', `[${Array.from({ length: 9 }, (_, i) => `198.51.100.${i * 8}/32`).join(', ')}]`]],
      [`${FILE}:4:13: expected at most 8 ipv4 prefixes, found 9; join them to shorter ones`],
    ],
    [
      'an IPv6 pool that is too small',
      [['[203.0.113.0/29]', '["2001:db8:a::/112"]']],
      [`${FILE}:4:13: the ipv6 prefixes hold 65536 addresses; expected 4 for each of 65536 keyedGrants`],
    ],
    [
      'a pool that takes too much memory',
      [
        ['203.0.113.0/29', '198.51.100.0/24'],
        ['gateway: gw-1', 'gateway: gw-1\ngate: { memoryMebibytes: 1000 }'],
      ],
      [
        `${FILE}:5:13: the pool takes 4552 MiB, more than gate.memoryMebibytes (1000); narrow ports, shorten the prefixes, or raise the bound`,
      ],
    ],
    [
      'metrics that the network could read',
      [['gateway: gw-1', 'gateway: gw-1\nmetrics: { listen: 192.0.2.10:9464 }']],
      [`${FILE}:2:20: expected a loopback address and a port, such as 127.0.0.1:9464, found "192.0.2.10:9464"`],
    ],
    [
      'an API for everybody',
      [['192.0.2.10:8443', '0.0.0.0:8443']],
      [`${FILE}:9:11: expected one address of this host and a port, such as 192.0.2.10:8443, found "0.0.0.0:8443"`],
    ],
    [
      'interfaces, next hops and services that are none',
      [
        ['interface: eth0', 'interface: "eth 0", nextHops: { ipv4: "2001:db8::1" }'],
        ['gateway: gw-1', 'gateway: gw-1\nservices: [udp, sctp/5, udp/0]'],
      ],
      [
        `${FILE}:2:12: expected tcp/PORT, udp/PORT, icmp or icmpv6, found "udp"`,
        `${FILE}:2:17: expected tcp/PORT, udp/PORT, icmp or icmpv6, found "sctp/5"`,
        `${FILE}:2:25: expected tcp/PORT, udp/PORT, icmp or icmpv6, found "udp/0"`,
        `${FILE}:3:23: expected the name of a network interface, found "eth 0"`,
        `${FILE}:3:50: expected an ipv4 address, found "2001:db8::1"`,
      ],
    ],
    [
      'values of the gate',
      [['gateway: gw-1', 'gateway: gw-1\ngate: { attach: xdp, orphanGraceSeconds: 1, udpTombstoneSeconds: 500 }']],
      [
        `${FILE}:2:17: expected one of auto, tcx, clsact, found "xdp"`,
        `${FILE}:2:42: expected a whole number from 10 to 86400, found "1"`,
        `${FILE}:2:66: expected a whole number from 1 to 120, found "500"`,
      ],
    ],
  ])('%s', (_, changes, issues) => {
    expect(issuesOf(reading(...changes))).toEqual(issues);
  });
});

test('a family without a pool is allowed, and told', () => {
  const { warnings } = configOf(reading(['[10.20.0.0/16]', '[10.20.0.0/16, "fd00:20::/48"]']));
  expect(warnings).toEqual([
    `${FILE}:4:13: realms have ipv6 addresses but the grants pool has none; no device gets a grant in it`,
    `${FILE}:5:13: realms have ipv6 addresses but the egress pool has none; what devices send by themselves is dropped`,
  ]);
});

test('realms may share addresses, which is told; a realm and anything else may not', () => {
  const second = (prefixes: string): [string, string] => [
    'prefixes: [10.20.0.0/16] }',
    `prefixes: [10.20.0.0/16] }\n  - { realm: fleet, interface: pgw1, prefixes: [${prefixes}] }`,
  ];
  for (const [prefixes, overlap] of [
    ['10.20.0.0/16', '10.20.0.0/16 (realm fleet) overlaps 10.20.0.0/16 (realm iot) in line 7'],
    ['10.30.0.0/16, 10.20.4.0/24', '10.20.4.0/24 (realm fleet) overlaps 10.20.0.0/16 (realm iot) in line 7'],
  ] as const) {
    const { config, warnings } = configOf(reading(second(prefixes)));
    expect([...sharedRealms(config.inside)].sort()).toEqual(['fleet', 'iot']);
    expect(warnings).toEqual([
      expect.stringContaining(
        `${overlap}; grants work in both realms, but what their devices send by themselves is dropped`,
      ),
    ]);
  }
  expect(sharedRealms(configOf(reading(second('10.30.0.0/16'))).config.inside).size).toBe(0);
  expect(issuesOf(reading(second('203.0.113.8/30')))).toEqual([
    `${FILE}:8:49: 203.0.113.8/30 (realm fleet) overlaps 203.0.113.8/29 (the egress pool) in line 5`,
  ]);
});
