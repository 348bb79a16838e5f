/** The commands that the README shows the MTC user, run against the real API as they stand there. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ROOT } from '../child.ts';
import { M1, M2, Tenants } from '../mtc-user.ts';
import { said } from '../mtgate.ts';

let tenants: Tenants;
let folder = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-readme-'));
  tenants = new Tenants();
  await tenants.start();
  const { certificateFile, keyFile } = tenants.users.acme;
  writeFileSync(join(folder, 'mtc-ca.crt'), tenants.api.ca.certificate);
  copyFileSync(certificateFile, join(folder, 'user.crt'));
  copyFileSync(keyFile, join(folder, 'user.key'));
});
afterAll(async () => {
  await tenants.stop();
  rmSync(folder, { recursive: true });
});

test('each is answered as it says', async () => {
  const grant = await tenants.open('head-end', M1);
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const [, script = ''] = /^```sh mtc-user\n(.*?)^```$/ms.exec(readme) ?? [];
  const commands = script.split('\n').filter((line) => line.startsWith('mtc_user ')).length;
  expect(commands).toBeGreaterThan(10);
  const here = script.replace('https://gateway.example:8443', `https://127.0.0.1:${tenants.api.port}`);
  // Each answer in a line of its own; the first that is refused ends it.
  const commandsOf = `set -euo pipefail; cd ${folder}\n${here.replaceAll(/^mtc_user .*?[^,{|\n]$/gms, (one) => `${one}; echo`)}`;
  const { status, stdout, stderr } = await said(['bash', '-c', commandsOf]);
  expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: '' });
  const [json = '', table] = stdout.split(/^(?=firstSeen,)/m);
  const answers = json.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]));
  const [first, added, set, night, preferences, devices, onDevice, ended, told] = answers;
  expect(first).toMatchObject({ servers: ['head-end'], mayAuthorise: ['head-end', 'tariffs'], setBy: 'RULE_FILES' });
  expect(added).toMatchObject({ servers: ['head-end', 'tariffs'], setBy: 'MTC_USER' });
  expect(set).toMatchObject({ servers: ['head-end'], setBy: 'MTC_USER' });
  expect(night).toMatchObject({ devices: '*@meters.example', grantsPerDay: { grants: 10, zone: 'Europe/Berlin' } });
  expect(preferences).toHaveLength(2);
  expect(preferences[1]).toMatchObject({ devices: M2, block: true });
  expect(devices).toContainEqual({ device: M1, bound: true });
  expect(onDevice).toMatchObject([{ grantId: grant, server: 'head-end', device: M1, status: 'LIVE' }]);
  expect(ended).toMatchObject({ grantId: grant, status: 'ENDED', endCause: 'REVOKED_BY_MTC_USER' });
  expect(told).toMatchObject({ reports: [] });
  expect(table?.split('\r\n')[0]).toMatch(/,reason,count,sourceAddress,/);
  expect(answers).toHaveLength(9);
});
