/** The RADIUS section of agent.yaml, the APNs of realms, and the secrets. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readConfig } from '../../agent/config.ts';
import { parseApn } from '../../agent/core/words.ts';
import { Apns } from '../../agent/directory/apns.ts';
import { loadConfig, loadRadiusClients } from '../../agent/files/operator-files.ts';
import { formatted, issuesOf } from '../issues.ts';

const FILE = '/etc/mtgate/agent.yaml';
const TEXT = `gateway: gw-1
outside: { interface: eth0 }
pools:
  grants: { prefixes: [203.0.113.0/29] }
  egress: { prefixes: [203.0.113.8/29] }
inside:
  - { realm: iot, interface: pgw0, prefixes: [10.20.0.0/16], apns: [IoT.example] }
  - { realm: fleet, interface: pgw1, prefixes: [10.21.0.0/16], apns: [iot.example.mnc001.mcc262.gprs, fleet] }
api:
  listen: 192.0.2.10:8443
  certificate: api.crt
  key: /keys/api.key
  clientCAs: [{ name: mtc-ca, file: ca.crt }]
radius:
  listen: [192.0.2.10:1813, "[fd00:9::5]:1813"]
  clients:
    - { name: pgw-1, addresses: [192.0.2.66, "fd00:9::9/128"], secret: radius/pgw-1, pools: [10.20.4.0/24] }
    - { name: pgw-2, addresses: [192.0.2.128/25], secret: credential:pgw-2 }
`;

function reading(...changes: readonly (readonly [string, string])[]) {
  const text = changes.reduce((changed, [from, to]) => {
    if (!changed.includes(from)) throw new Error(`nothing to change: ${from}`);
    return changed.replace(from, to);
  }, TEXT);
  return readConfig(text, FILE);
}

function configOf(read: ReturnType<typeof readConfig>) {
  if ('issues' in read) throw new Error(issuesOf(read).join('\n'));
  return read;
}

test('clients, where they are heard, and what they may bind', () => {
  const { config, warnings } = configOf(reading());
  expect(warnings).toEqual([]);
  expect(config.radius?.listen).toMatchObject([
    { address: { text: '192.0.2.10' }, port: 1813 },
    { address: { text: 'fd00:9::5' }, port: 1813 },
  ]);
  expect(config.radius?.clients).toMatchObject([
    {
      name: 'pgw-1',
      addresses: [{ text: '192.0.2.66/32' }, { text: 'fd00:9::9/128' }],
      secret: '/etc/mtgate/radius/pgw-1',
      pools: [{ text: '10.20.4.0/24' }],
    },
    {
      name: 'pgw-2',
      addresses: [{ text: '192.0.2.128/25' }],
      secret: 'credential:pgw-2',
      pools: [{ text: '10.20.0.0/16' }, { text: '10.21.0.0/16' }],
    },
  ]);
});

test('without the section nothing is heard', () => {
  const { config } = configOf(readConfig(TEXT.slice(0, TEXT.indexOf('radius:')), FILE));
  expect('radius' in config).toBe(false);
});

test('realms without APNs are told, where RADIUS is heard', () => {
  const { warnings } = configOf(
    reading([', apns: [IoT.example]', ''], [', apns: [iot.example.mnc001.mcc262.gprs, fleet]', '']),
  );
  expect(warnings.map(formatted)).toEqual([
    `${FILE}:14:1: no realm has apns: what RADIUS tells of a device leads to no realm, and binds nothing`,
  ]);
});

test('a client may be the host that listens, and one host may listen on two ports', () => {
  configOf(reading(['192.0.2.66,', '192.0.2.10,'], ['"[fd00:9::5]:1813"', '192.0.2.10:1646']));
});

describe('issues', () => {
  test.each<[string, [string, string][], string[]]>([
    [
      'an address of two clients',
      [['192.0.2.66,', '192.0.2.130,']],
      [`${FILE}:17:34: 192.0.2.130/32 (RADIUS client pgw-1) overlaps 192.0.2.128/25 (RADIUS client pgw-2) in line 18`],
    ],
    [
      'a client, and a listener, among the devices; a client that a device might be',
      [
        ['192.0.2.66,', '10.20.0.9,'],
        ['192.0.2.10:1813', '10.21.0.1:1813'],
        ['192.0.2.128/25', '203.0.113.0/28'],
      ],
      [
        `${FILE}:4:24: 203.0.113.0/29 (the grants pool) overlaps 203.0.113.0/28 (RADIUS client pgw-2) in line 18`,
        `${FILE}:5:24: 203.0.113.8/29 (the egress pool) overlaps 203.0.113.0/28 (RADIUS client pgw-2) in line 18`,
        `${FILE}:15:12: 10.21.0.1/32 (RADIUS is heard there) overlaps 10.21.0.0/16 (realm fleet) in line 8`,
        `${FILE}:17:34: 10.20.0.9/32 (RADIUS client pgw-1) overlaps 10.20.0.0/16 (realm iot) in line 7`,
      ],
    ],
    [
      'a pool of a client that is not inside, or larger than what is',
      [['[10.20.4.0/24]', '[10.20.4.0/24, 10.22.0.0/24, 10.20.0.0/15]']],
      [
        `${FILE}:17:108: 10.22.0.0/24 lies in no realm: expected what is inside, or a part of it`,
        `${FILE}:17:122: 10.20.0.0/15 lies in no realm: expected what is inside, or a part of it`,
      ],
    ],
    [
      'what may stand once',
      [
        ['"[fd00:9::5]:1813"', '192.0.2.10:1813'],
        ['name: pgw-2', 'name: pgw-1'],
        ['gprs, fleet]', 'gprs, IOT.Example]'],
      ],
      [
        `${FILE}:8:103: duplicate APN "iot.example"; it stands in line 7 already`,
        `${FILE}:15:29: duplicate address 192.0.2.10:1813; it stands in line 15 already`,
        `${FILE}:18:15: duplicate RADIUS client "pgw-1"; it stands in line 17 already`,
      ],
    ],
    [
      'what is none',
      [
        ['192.0.2.10:1813', '0.0.0.0:1813'],
        ['192.0.2.128/25', '192.0.2.129/25'],
        ['apns: [IoT.example]', 'apns: [iot_example, iot.gprs]'],
      ],
      [
        `${FILE}:7:69: expected an APN or DNN such as iot.example or iot.example.mnc001.mcc262.gprs, found "iot_example"`,
        `${FILE}:7:82: expected an APN or DNN such as iot.example or iot.example.mnc001.mcc262.gprs, found "iot.gprs"`,
        `${FILE}:15:12: expected one address of this host and a port, such as 192.0.2.10:1813, found "0.0.0.0:1813"`,
        `${FILE}:18:34: expected a prefix: "192.0.2.129/25" has bits set behind its length; the prefix is 192.0.2.128/25`,
      ],
    ],
    [
      'nobody to hear',
      [[TEXT.slice(TEXT.indexOf('    - { name: pgw-1')), '    []\n']],
      [`${FILE}:16:3: expected a list of clients, found an empty one`],
    ],
  ])('%s', (_, changes, issues) => {
    expect(issuesOf(reading(...changes))).toEqual(issues);
  });
});

describe('APNs', () => {
  test('one named whole is matched whole first, one named by its network identifier with any operator or none', () => {
    const apns = new Apns(configOf(reading()).config.inside);
    expect(apns.realmOf('IOT.example')).toBe('iot');
    expect(apns.realmOf('iot.example.mnc002.mcc262.gprs')).toBe('iot');
    expect(apns.realmOf('iot.EXAMPLE.MNC001.mcc262.gprs')).toBe('fleet');
    expect(apns.realmOf('fleet')).toBe('fleet');
    expect(apns.realmOf('fleet.mnc001.mcc262.gprs.mnc001.mcc262.gprs')).toBeUndefined();
    expect(apns.realmOf('other.fleet')).toBeUndefined();
    expect(apns.realmOf('')).toBeUndefined();
  });

  test('their form is that of TS 23.003', () => {
    expect(parseApn('IoT-1.Example')).toBe('iot-1.example');
    expect(parseApn(`${'a'.repeat(62)}.mnc001.mcc262.gprs`)).toHaveLength(81);
    for (const none of [
      '',
      '.',
      'a.',
      '-a',
      'a-',
      'a b',
      'ä',
      '*',
      'gprs',
      'a.gprs',
      'mnc001.mcc262.gprs',
      'a'.repeat(63),
    ])
      expect([none, parseApn(none)]).toEqual([none, undefined]);
  });
});

describe('secrets', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'mtgate-radius-'));
    writeFileSync(join(folder, 'agent.yaml'), TEXT.replace(/\n {4}- \{ name: pgw-2.*/, '').replace('radius/', ''));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const load = (secret: string | Buffer, mode = 0o640) => {
    const file = join(folder, 'pgw-1');
    writeFileSync(file, secret);
    chmodSync(file, mode);
    const warnings: string[] = [];
    const config = loadConfig(join(folder, 'agent.yaml'), () => {});
    return { clients: loadRadiusClients(config, (warning) => warnings.push(warning)), warnings, file };
  };
  const secretOf = (written: string | Buffer) => Buffer.from(load(written).clients[0]?.secret ?? []);

  test('are the octets of the first line', () => {
    const { clients, warnings } = load('sixteen letters!\nand a remark\n');
    expect(clients).toMatchObject([
      { name: 'pgw-1', addresses: [{ text: '192.0.2.66/32' }, { text: 'fd00:9::9/128' }] },
    ]);
    expect(warnings).toEqual([]);
    expect(secretOf('sixteen letters!\n')).toEqual(Buffer.from('sixteen letters!'));
    expect(secretOf('sixteen letters!\r\n')).toEqual(Buffer.from('sixteen letters!'));
    expect(secretOf(' blanks count, all of them ')).toEqual(Buffer.from(' blanks count, all of them '));
    expect(secretOf(Buffer.alloc(16, 0xfe))).toEqual(Buffer.alloc(16, 0xfe));
  });

  test('that are short are told', () => {
    const { warnings, file } = load('fifteen letters\n');
    expect(warnings).toEqual([`${file}: the secret of RADIUS client pgw-1 has 15 octets; expected 16 or more`]);
  });

  test.each<[string, string, number, RegExp]>([
    ['that are missing', '', 0o600, /pgw-1 is empty$/],
    ['whose first line is empty', '\nsixteen letters!\n', 0o600, /pgw-1: the first line is empty$/],
    ['that others may read', 'sixteen letters!', 0o644, /others have rights to this secret \(mode 0644\)/],
  ])('%s are refused', (_, written, mode, message) => {
    expect(() => load(written, mode)).toThrow(
      expect.objectContaining({ code: 'secretInvalid', message: expect.stringMatching(message) }),
    );
  });
});

test('the section that the example shows is one', () => {
  const text = readFileSync(new URL('../../systemd/agent.yaml.example', import.meta.url), 'utf8');
  const spoken = text.replace(/^#radius:.*\n(?:#.*\n)+/m, (section) => section.replaceAll(/^#/gm, ''));
  expect(spoken).not.toBe(text);
  const { config, warnings } = configOf(readConfig(spoken.replace('# apns:', 'apns:'), FILE));
  expect(warnings).toEqual([]);
  expect(config.radius?.clients[0]).toMatchObject({ name: 'pgw-1', secret: 'credential:radius-pgw-1' });
  expect(config.inside[0]?.apns).toEqual(['iot.example']);
});
