/** Devices in bulk by the command, against the real daemon: what is registered, and what follows for grants. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEVICES, RULES, TestAgent } from '../agent.ts';
import { type Child, ROOT, until } from '../child.ts';
import type { Network } from '../network.ts';
import { standardNetwork } from '../standard-network.ts';

const COUNT = 2_000;
const GRANTED = 150;
const WHEN = RULES.replace('    limits:', `    when: 'device.attributes.model == "M2"'\n    limits:`).replace(
  /tests:.*/s,
  '',
);

let network: Network;
let agent: TestAgent;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network, { rules: WHEN });
  await agent.start();
});
afterAll(async () => {
  await network.close();
});

const file = (name: string) => join(agent.folder, name);
const name = (i: number) => `d${i}@meters.example`;
const msisdn = (i: number) => `+4917${String(i).padStart(8, '0')}`;
const imsi = (i: number) => `00101${String(i).padStart(10, '0')}`;
const row = (i: number, model = 'M2') => `${name(i)},${msisdn(i)},${imsi(i)},acme,${model}\n`;
const numbers = Array.from({ length: COUNT }, (_, i) => i);
/** The rows of all but those left out; `models` says what of some is otherwise. */
const rows = (models: Readonly<Record<number, string>> = {}, without: readonly number[] = []) =>
  `externalId,msisdn,imsi,mtcUser,attributes.model\n${numbers
    .filter((i) => !without.includes(i))
    .map((i) => row(i, models[i]))
    .join('')}`;
const importing = (text: string | Uint8Array, ...words: string[]) => {
  writeFileSync(file('devices.csv'), text);
  return agent.mtgate('device', 'import', file('devices.csv'), ...words);
};
const exported = async (format: string) => (await agent.mtgate('device', 'export', '--format', format)).stdout;
const registered = async () => JSON.parse((await agent.mtgate('status', '--json')).stdout).registeredDevices;
const granted = async (i: number) => {
  const { status, body } = await agent.grant({ device: { phoneNumber: msisdn(i) } });
  expect({ status, code: body.code }).toEqual({ status: 201 });
  return body.grantId;
};
const endOf = async (grantId: string) => (await agent.curl('GET', `/grants/${grantId}`)).body.endCause;

test('imported devices are found by each identifier, and granted by MSISDN; a claim of their attributes counts at once', async () => {
  const dry = await importing(rows(), '--dry-run');
  expect(dry.stdout).toBe(`would import ${COUNT} devices: ${COUNT} added, 0 changed, 0 removed, 0 as they were\n`);
  expect(await registered()).toBe(2);
  const first = await importing(rows());
  expect(first.stdout).toBe(
    `imported ${COUNT} devices: ${COUNT} added, 0 changed, 0 removed, 0 as they were; ${COUNT + 2} registered\n`,
  );
  expect(first.stderr).toMatch(/^100 % {2}0\.1 MB, 2001 rows sent; the agent checks and writes them\n$/);
  expect(agent.logged('devicesImported')).toMatchObject([
    { rows: COUNT, added: COUNT, registered: COUNT + 2, byUid: 0 },
  ]);
  for (const known of [name(7), msisdn(7), imsi(7)]) {
    const shown = JSON.parse((await agent.mtgate('device', 'show', known, '--json')).stdout);
    expect(shown).toMatchObject({ device: name(7), imsi: imsi(7), mtcUser: 'acme', source: 'import' });
  }
  const metrics = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  expect(metrics.stdout).toMatch(new RegExp(`^mtgate_registered_devices ${COUNT + 2}$`, 'm'));

  await agent.mtgate('device', 'bind', name(GRANTED), 'iot', '10.20.0.9');
  const grantId = await granted(GRANTED);
  const second = await importing(rows({ [GRANTED]: 'M1' }), '--json');
  expect(JSON.parse(second.stdout)).toMatchObject({ rows: COUNT, added: 0, changed: 1, removed: 0, dryRun: false });
  expect(await endOf(grantId)).toBe('RULE_CHANGED');
  expect(await agent.grant({ device: { phoneNumber: msisdn(GRANTED) } })).toMatchObject({ status: 403 });
  expect(await importing(rows())).toMatchObject({ status: 0 });
});

test('a device that is gone with --replace holds no address and no grant', async () => {
  const grantId = await granted(GRANTED);
  const replaced = await importing(rows({}, [GRANTED]), '--replace');
  expect(replaced.stdout).toMatch(/: 0 added, 0 changed, 1 removed, 1999 as they were; 2001 registered$/m);
  expect(await endOf(grantId)).toBe('DEVICE_UNBOUND');
  expect((await agent.mtgate('device', 'list')).stdout).not.toContain('10.20.0.9');
  expect(await agent.mtgate('device', 'show', name(GRANTED))).toMatchObject({
    status: 1,
    stderr: `deviceUnknown: no device ${name(GRANTED)} is registered\n`,
  });
  const { status, body } = await agent.grant({ device: { phoneNumber: msisdn(GRANTED) } });
  expect({ status, code: body.code }).toEqual({ status: 404, code: 'IDENTIFIER_NOT_FOUND' });
  expect(await importing(rows())).toMatchObject({ status: 0 });
});

test('what is exported is imported as it was, in both formats', async () => {
  for (const format of ['csv', 'jsonl']) {
    const output = file(`export.${format}`);
    expect(await agent.mtgate('device', 'export', '--output', output)).toMatchObject({ status: 0 });
    expect(statSync(output).mode & 0o777).toBe(0o600);
    expect(readFileSync(output, 'utf8')).toBe(await exported(format));
    const again = await agent.mtgate('device', 'import', output, '--replace', '--json');
    expect(JSON.parse(again.stdout)).toMatchObject({ rows: COUNT + 2, added: 0, changed: 0, removed: 0 });
    expect(await exported(format)).toBe(readFileSync(output, 'utf8'));
  }
});

test('what is wrong is told all at once, by line and column, and nothing is changed', async () => {
  const before = await exported('csv');
  const wrong = await importing(`externalId,msisdn,mtcUser
new1@meters.example,${msisdn(1)},
new2@meters.example,+491715550100,
new3@meters.example,,globex
m1@meters.example,,
nobody,,
`);
  expect(wrong).toMatchObject({ status: 1, stdout: '' });
  expect(wrong.stderr.slice(wrong.stderr.indexOf('devicesNotImported'))).toBe(`devicesNotImported: nothing was imported
2:msisdn: duplicate MSISDN ${msisdn(1).slice(1)}; ${name(1)} has it already, by an import
3:msisdn: duplicate MSISDN 491715550100; m1@meters.example has it already, by the devices file
4:mtcUser: new3@meters.example is of acme by the rule files, not of globex
5:externalId: the devices file says otherwise of m1@meters.example; change it there, or say here what it says
6:externalId: expected an external identifier such as meter-1@meters.example, found "nobody"
`);
  const latin = await importing(Buffer.from('externalId,attributes.place\nnew4@meters.example,Köln\n', 'latin1'));
  expect(latin.stderr).toMatch(/^2: not UTF-8; save the file as UTF-8$/m);
  const many = await importing(`externalId\n${'nobody\n'.repeat(150)}`);
  expect(many.stderr).toMatch(/^101:externalId: .*\nand 50 more$/m);
  expect(await importing('externalId\n', '--format', 'xml')).toMatchObject({ status: 2 });
  expect(await agent.mtgate('device', 'import', file('none.csv'))).toMatchObject({ status: 2 });
  expect(await exported('csv')).toBe(before);
});

test('the devices file and imports do not register the same: a reload that would changes nothing', async () => {
  const before = await exported('csv');
  agent.write('devices.yaml', `${DEVICES}  - { externalId: m3@meters.example, msisdn: "${msisdn(3)}" }\n`);
  const clash = await agent.mtgate('reload');
  expect(clash.status).toBe(1);
  expect(clash.stderr).toContain(`MSISDN ${msisdn(3).slice(1)} was imported for ${name(3)}; leave it out here`);
  agent.write('devices.yaml', `${DEVICES}    mtcUser: globex\n`);
  expect((await agent.mtgate('reload')).stderr).toContain(
    'm2@meters.example is of acme by the rule files, not of globex',
  );
  expect(await exported('csv')).toBe(before);
  agent.write('devices.yaml', DEVICES);
  expect(await agent.mtgate('reload')).toMatchObject({ status: 0 });
});

/** An import that has begun and does not come to its end. */
async function begun(): Promise<Child> {
  const command = [process.execPath, join(ROOT, 'dist/cli.js'), 'device', 'import', '-', '--format', 'csv'];
  const child = network.launch('gateway', [...command, '--replace', '--socket', file('mtgate.sock')]);
  child.say(rows({ 1: 'M9' }).trimEnd());
  await until('rows of an import', () => existsSync(file('store/registry-import.db')) || undefined);
  return child;
}

test('an import that is left, or cut by kill -9 of the agent, has changed nothing; one at a time', async () => {
  const before = await exported('csv');
  const left = await begun();
  const second = await importing(rows({ 1: 'M8' }));
  expect(second.stderr).toMatch(/^importUnderWay: another import is under way/m);
  await left.stop('SIGINT');
  await until('the end of an import', () => !existsSync(file('store/registry-import.db')) || undefined);
  expect(await exported('csv')).toBe(before);

  const cut = await begun();
  await agent.daemon.stop('SIGKILL');
  await cut.gone();
  expect(cut.errors).toMatch(/^the agent on .* broke off/m);
  await agent.start();
  expect(existsSync(file('store/registry-import.db'))).toBe(false);
  expect(await exported('csv')).toBe(before);
  expect(await importing(rows({ 1: 'M8' }))).toMatchObject({ status: 0 });
});
