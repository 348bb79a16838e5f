import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Device, ExternalId, Imsi, Msisdn, MtcUserName } from '../../agent/core/words.ts';
import type { RowFormat } from '../../agent/directory/device-rows.ts';
import { Import, type Imported } from '../../agent/directory/registry-import.ts';
import { connectRegistry, openRegistry, type RegistryStore } from '../../agent/directory/registry-store.ts';
import { IDENTITIES } from '../identities.ts';

let folder: string;
let file: string;
let registry: RegistryStore;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-registry-'));
  file = join(folder, 'registry.db');
  registry = openRegistry(file, IDENTITIES);
});
afterEach(() => {
  registry.close();
  rmSync(folder, { recursive: true });
});

const device = (name: string, more: object = {}) => ({ externalId: `${name}@a.example`, ...more }) as unknown as Device;
/** One of the devices file, as it is kept. */
const registered = (
  name: string,
  { msisdn, imsi, ...more }: { msisdn?: string; imsi?: string; attributes?: object },
) => ({
  ...device(name, more),
  ...(msisdn && { msisdn: IDENTITIES.hash('msisdn', msisdn) }),
  ...(imsi && { imsi: IDENTITIES.hash('imsi', imsi) }),
  source: 'file',
});
const all = () => {
  const snapshot = registry.snapshot();
  const devices = [...snapshot.devices()];
  snapshot.close();
  return devices;
};

/** An import as its thread does it. */
async function imported(
  text: string,
  { replace = false, format = 'csv' as RowFormat, commit = true } = {},
): Promise<Imported> {
  const beside = join(folder, 'registry-import.db');
  rmSync(beside, { force: true });
  return registry.writing(async () => {
    const db = connectRegistry(file);
    try {
      const one = new Import(db, beside, { format, replace }, () => 'acme' as MtcUserName, IDENTITIES);
      one.take(new TextEncoder().encode(text));
      const outcome = one.finish();
      if (commit && !('issues' in outcome)) {
        one.commit();
        registry.grewBy(outcome.added - outcome.removed);
      }
      return outcome;
    } finally {
      db.close();
    }
  });
}

describe('the devices file', () => {
  test('its devices are found by each identifier, and go with it; two may change places', async () => {
    await registry.replaceFile([
      device('m1', { msisdn: '4911111', imsi: '001011' }),
      device('m2', { msisdn: '4922222' }),
    ]);
    expect(registry.size).toBe(2);
    const m1 = registered('m1', { msisdn: '4911111', imsi: '001011' });
    expect(registry.byExternalId('m1@a.example' as ExternalId)).toEqual(m1);
    expect(registry.byMsisdn('4911111' as Msisdn)).toEqual(m1);
    expect(registry.byImsi('001011' as Imsi)).toEqual(m1);
    expect(registry.byImsi('001012' as Imsi)).toBeUndefined();
    const changed = [
      device('m1', { msisdn: '4922222' }),
      device('m3', { msisdn: '4911111', attributes: { b: '1', a: '2' } }),
    ];
    await registry.replaceFile(changed);
    expect(all()).toEqual([
      registered('m1', { msisdn: '4922222' }),
      registered('m3', { msisdn: '4911111', attributes: { b: '1', a: '2' } }),
    ]);
  });

  test('a device that was imported meanwhile: nothing is changed', async () => {
    await registry.replaceFile([device('m1')]);
    await imported('externalId,msisdn\nm2@a.example,4922222\n');
    const before = all();
    for (const clashing of [device('m2'), device('m3', { msisdn: '4922222' })])
      await expect(registry.replaceFile([clashing])).rejects.toMatchObject({ code: 'devicesInvalid' });
    expect(all()).toEqual(before);
  });
});

describe('an import', () => {
  test('adds and changes by external identifier; MSISDNs may change places; what stays is not written', async () => {
    expect(await imported('externalId,msisdn\nm1@a.example,4911111\nm2@a.example,4922222\nm3@a.example,\n')).toEqual({
      rows: 3,
      added: 3,
      changed: 0,
      removed: 0,
    });
    expect(
      await imported('externalId,msisdn\nm1@a.example,4922222\nm2@a.example,4911111\nm3@a.example,\nm4@a.example,\n'),
    ).toEqual({ rows: 4, added: 1, changed: 2, removed: 0 });
    expect(registry.byMsisdn('4911111' as Msisdn)?.externalId).toBe('m2@a.example');
    expect(registry.size).toBe(4);
  });

  test('with replace: what was imported and is not there goes, the devices file stays', async () => {
    await registry.replaceFile([device('m0', { msisdn: '4900000' })]);
    await imported('externalId,msisdn\nm1@a.example,4911111\nm2@a.example,4922222\n');
    expect(
      await imported('externalId,msisdn\nm3@a.example,4911111\nm2@a.example,4922222\n', { replace: true }),
    ).toEqual({ rows: 2, added: 1, changed: 0, removed: 1 });
    expect(all().map(({ externalId, source }) => `${externalId} ${source}`)).toEqual([
      'm0@a.example file',
      'm2@a.example import',
      'm3@a.example import',
    ]);
  });

  test('every identifier that is another device’s, in the rows and in the registry, by its line; nothing is changed', async () => {
    await registry.replaceFile([device('f1', { msisdn: '4900001', imsi: '000001' })]);
    await imported('externalId,msisdn,imsi\nm1@a.example,4911111,001011\nm2@a.example,4922222,001012\n');
    const before = all();
    const rows = `externalId,msisdn,imsi
m3@a.example,4911111,000001
m2@a.example,4900001,001012
m4@a.example,4944444,001014
m4@a.example,4955555,001015
m5@a.example,4944444,001014
f1@a.example,,
m6@a.example,4922222,
`;
    expect(await imported(rows)).toEqual({
      issues: [
        '2:msisdn: duplicate MSISDN; m1@a.example has it already, by an import',
        '2:imsi: duplicate IMSI; f1@a.example has it already, by the devices file',
        '3:msisdn: duplicate MSISDN; f1@a.example has it already, by the devices file',
        '5:externalId: duplicate external identifier m4@a.example; it stands in line 4 already',
        '6:msisdn: duplicate MSISDN; it stands in line 4 already',
        '6:imsi: duplicate IMSI; it stands in line 4 already',
        '7:externalId: the devices file says otherwise of f1@a.example; change it there, or say here what it says',
      ],
      more: 0,
    });
    const replaced = await imported(rows, { replace: true });
    expect(('issues' in replaced ? replaced.issues : ['none']).filter((issue) => issue.startsWith('2:msisdn'))).toEqual(
      [],
    );
    expect(all()).toEqual(before);
    const many = await imported(`externalId\n${'nobody\n'.repeat(250)}`);
    expect(many).toMatchObject({ issues: { length: 100 }, more: 150 });
  });

  test('the devices file may be repeated: an export is imported as it is', async () => {
    await registry.replaceFile([device('f1', { msisdn: '4900001', attributes: { model: 'M1' } })]);
    const rows = 'externalId,msisdn,attributes.model\nf1@a.example,+4900001,M1\nm1@a.example,,\n';
    expect(await imported(rows)).toEqual({ rows: 2, added: 1, changed: 0, removed: 0 });
    expect(await imported(rows, { replace: true })).toEqual({ rows: 2, added: 0, changed: 0, removed: 0 });
  });

  test('that is not committed has changed nothing', async () => {
    expect(await imported('externalId\nm1@a.example\n', { commit: false })).toMatchObject({ added: 1 });
    expect(registry.size).toBe(0);
    expect(all()).toEqual([]);
  });
});

test('a snapshot is of one moment, whatever is written meanwhile', async () => {
  await registry.replaceFile([device('m1'), device('m2')]);
  const snapshot = registry.snapshot();
  const devices = snapshot.devices()[Symbol.iterator]();
  expect(devices.next().value).toMatchObject({ externalId: 'm1@a.example' });
  await registry.replaceFile([device('m1')]);
  expect(devices.next().value).toMatchObject({ externalId: 'm2@a.example' });
  expect(devices.next().done).toBe(true);
  snapshot.close();
  expect(registry.size).toBe(1);
});

describe('a file that cannot be used stops the start, and is left as it is', () => {
  test.each([
    [
      'no database',
      'this is no database, but a text of more than a hundred bytes, as SQLite wants its header to be'.repeat(9),
      /not a database/,
    ],
    ['of another version', 3, /its version is 3, and this mtgate reads 2/],
    ['of another program', 0, /of another program/],
  ])('%s', (name, what, message) => {
    const other = join(folder, 'other.db');
    if (typeof what === 'string') writeFileSync(other, what);
    else {
      const db = new Database(other);
      db.exec('CREATE TABLE theirs (a)');
      db.pragma(`user_version = ${what}`);
      db.close();
    }
    const before = readFileSync(other);
    expect(() => openRegistry(other, IDENTITIES), name).toThrow(
      expect.objectContaining({ code: 'registryInvalid', message: expect.stringMatching(message) }),
    );
    expect(readFileSync(other).subarray(100)).toEqual(before.subarray(100));
  });

  test('damaged', async () => {
    await imported(`externalId\n${Array.from({ length: 5_000 }, (_, i) => `m${i}@a.example\n`).join('')}`);
    registry.close();
    const bytes = readFileSync(file);
    bytes.fill(0x5a, 8192, 8192 + 4096);
    writeFileSync(file, bytes);
    expect(() => openRegistry(file, IDENTITIES)).toThrow(expect.objectContaining({ code: 'registryInvalid' }));
    registry = openRegistry(join(folder, 'new.db'), IDENTITIES);
  });
});
