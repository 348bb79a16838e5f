import { expect, test } from 'vitest';
import { ownUse } from '../../agent/closure/site.ts';
import type { Config } from '../../agent/config.ts';
import { address, prefix } from '../../agent/core/net.ts';
import type { ExternalId, MtcUserName, RealmName } from '../../agent/core/words.ts';
import { readDevices } from '../../agent/directory/devices.ts';
import type { Registry } from '../../agent/directory/registry.ts';
import { issuesOf } from '../issues.ts';

const REALMS = [
  { realm: 'iot' as RealmName, prefixes: [prefix('10.20.0.0/16'), prefix('fd00:20::/48')] },
  { realm: 'mpn' as RealmName, prefixes: [prefix('10.20.0.0/16')] },
];
const read = (text: string) => readDevices(text, 'devices.yaml', REALMS);

test('devices with their identifiers and bindings; digits keep their zeros', () => {
  const reading = read(`devices:
  - externalId: m1@Meters.ACME.example
    msisdn: +491715550100
    imsi: 001010123456789
    bindings:
      - { realm: iot, address: 10.20.0.1 }
      - { realm: iot, address: "fd00:20::1" }
  - externalId: m2@meters.acme.example
    bindings: [{ realm: mpn, address: 10.20.0.1 }]
`);
  expect(issuesOf(reading)).toEqual([]);
  expect(reading).toMatchObject({
    devices: [
      {
        device: { externalId: 'm1@meters.acme.example', msisdn: '491715550100', imsi: '001010123456789' },
        bindings: [
          { realm: 'iot', address: { text: '10.20.0.1' } },
          { realm: 'iot', address: { text: 'fd00:20::1' } },
        ],
      },
      { device: { externalId: 'm2@meters.acme.example' }, bindings: [{ realm: 'mpn' }] },
    ],
  });
});

test('attributes are texts by name, as they are written', () => {
  const reading = read(`devices:
  - { externalId: m1@meters.example, attributes: { model: M2, hw_rev: 007, text: " a b " } }
  - { externalId: m2@meters.example, attributes: { "1st": x, region: "", model: [M2], place: ${'x'.repeat(257)} } }
  - { externalId: m3@meters.example, attributes: { ${Array.from({ length: 33 }, (_, i) => `a${i}: x`).join(', ')} } }
`);
  expect(issuesOf(reading).map((issue) => issue.replace(/x{9,}/, 'xxx'))).toEqual([
    'devices.yaml:3:52: expected an attribute name (letters, digits, underscore; a letter first; at most 63), found "1st"',
    'devices.yaml:3:70: expected a text of at most 256 characters, found nothing',
    'devices.yaml:3:74: expected a text of at most 256 characters, found a list',
    'devices.yaml:3:94: expected a text of at most 256 characters, found "xxx…"',
    'devices.yaml:4:38: expected at most 32 attributes',
  ]);
  expect(read('devices: [{ externalId: m1@a.example, attributes: { hw_rev: 007, text: " a b " } }]')).toEqual({
    devices: [{ device: { externalId: 'm1@a.example', attributes: { hw_rev: '007', text: ' a b ' } }, bindings: [] }],
  });
});

test('no devices are devices too', () => {
  expect(read('devices: []\n')).toEqual({ devices: [] });
});

test('what stands for two devices is told, at its second place', () => {
  const reading = read(`devices:
  - { externalId: m1@meters.example, msisdn: "+491715550100", imsi: "001010000000001" }
  - { externalId: m1@METERS.example }
  - { externalId: m2@meters.example, msisdn: "491715550100" }
  - { externalId: m3@meters.example, imsi: 001010000000001 }
`);
  expect(issuesOf(reading)).toEqual([
    'devices.yaml:3:19: duplicate external identifier m1@meters.example; it stands in line 2 already',
    'devices.yaml:4:46: duplicate MSISDN; it stands in line 2 already',
    'devices.yaml:5:44: duplicate IMSI; it stands in line 2 already',
  ]);
});

test('an address has one holder, a device one address of a family, and it lies in its realm', () => {
  const reading = read(`devices:
  - externalId: m1@meters.example
    bindings:
      - { realm: iot, address: 10.20.0.1 }
      - { realm: mpn, address: 10.20.0.9 }
  - externalId: m2@meters.example
    bindings:
      - { realm: iot, address: 10.20.0.1 }
  - externalId: m3@meters.example
    bindings:
      - { realm: mnp, address: 10.20.0.3 }
      - { realm: iot, address: "fd00:21::1" }
`);
  expect(issuesOf(reading)).toEqual([
    'devices.yaml:5:32: duplicate ipv4 address of m1@meters.example; it stands in line 4 already',
    'devices.yaml:8:32: duplicate address 10.20.0.1 in realm iot; it stands in line 4 already',
    'devices.yaml:11:18: unknown realm "mnp"; did you mean "mpn"?',
    'devices.yaml:12:32: fd00:21::1 is not in realm iot (10.20.0.0/16, fd00:20::/48)',
  ]);
});

test('wrong values', () => {
  const reading = read(`devices:
  - { externalId: no identifier, msisdn: "0171555", imsi: 12345, bindings: [{ realm: iot, address: 10.20.0.1/32 }] }
  - { name: m2 }
`);
  expect(issuesOf(reading)).toEqual([
    'devices.yaml:2:19: expected an external identifier such as meter-1@meters.example, found "no identifier"',
    'devices.yaml:2:42: expected an MSISDN: 5 to 15 digits of E.164, such as +491715550100, found something else',
    'devices.yaml:2:59: expected an IMSI: 6 to 15 digits, found something else',
    'devices.yaml:2:100: expected an IP address, found "10.20.0.1/32"',
    'devices.yaml:3:5: "externalId" is missing: expected an external identifier such as meter-1@meters.example',
    'devices.yaml:3:7: unknown key "name"; known here: externalId, msisdn, imsi, mtcUser, interfaceId, attributes, bindings',
  ]);
});

test("an address of the host's own is no device's", () => {
  const text = `devices:
  - { externalId: m1@a.example, bindings: [{ realm: iot, address: 10.20.0.1 }] }
  - { externalId: m2@a.example, bindings: [{ realm: mpn, address: 10.20.0.2 }] }
  - { externalId: m3@a.example, bindings: [{ realm: iot, address: "fd00:20::1" }, { realm: mpn, address: 10.20.0.3 }] }
`;
  const links = [{ name: 'pgw0', addresses: [address('10.20.0.1')] }];
  const triggers = { sources: [address('fd00:20::1')] } as unknown as NonNullable<Config['triggers']>;
  const read = (of: Pick<Config, 'triggers'>, present: typeof links) =>
    issuesOf(readDevices(text, 'devices.yaml', REALMS, { ownUse: (held) => ownUse(of, present, held) }));
  expect(read({ triggers }, links)).toEqual([
    'devices.yaml:2:67: 10.20.0.1 is an address of this host (pgw0): no device can hold it',
    'devices.yaml:4:67: fd00:20::1 is where triggers come from: no device can hold it',
  ]);
  expect(read({}, [])).toEqual([]);
});

test('what imports or the rule files say otherwise is told at its place', () => {
  const registered = (device: string, source: 'file' | 'import') => ({ externalId: device as ExternalId, source });
  const registry: Registry = {
    has: () => true,
    byExternalId: (id) => (id === 'm1@a.example' ? registered(id, 'import') : registered(id, 'file')),
    byMsisdn: (msisdn) => (msisdn === '4922222' ? registered('m9@a.example', 'import') : undefined),
    byImsi: (imsi) => (imsi === '001011' ? registered('m1@a.example', 'import') : undefined),
  };
  const ownerOf = (device: ExternalId) => (device.startsWith('m') ? ('acme' as MtcUserName) : undefined);
  const text = `devices:
  - { externalId: m1@a.example, imsi: 001011 }
  - { externalId: m2@a.example, msisdn: 4922222, mtcUser: acme }
  - { externalId: x3@a.example, mtcUser: acme, interfaceId: 0:0:0:A }
`;
  expect(issuesOf(readDevices(text, 'devices.yaml', REALMS, { registry, ownerOf }))).toEqual([
    'devices.yaml:2:19: external identifier m1@a.example was imported; leave it out here, or out of an import with --replace',
    'devices.yaml:2:39: this IMSI was imported; leave it out here, or out of an import with --replace',
    'devices.yaml:3:41: this MSISDN was imported for m9@a.example; leave it out here, or out of an import with --replace',
    'devices.yaml:4:42: x3@a.example is of no MTC user by the rule files, not of acme',
  ]);
  expect(readDevices(text, 'devices.yaml', REALMS)).toMatchObject({
    devices: [
      {},
      { device: { msisdn: '4922222' } },
      { device: { externalId: 'x3@a.example', interfaceId: '0:0:0:a' } },
    ],
  });
});
