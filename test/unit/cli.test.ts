/** The command as an operator types it: what it says of files, and what it says when nobody answers. */
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MTGATE, mtgate, said } from '../mtgate.ts';

let folder: string;
/** Answers, but is no agent. */
let stranger: Server;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-cli-'));
  stranger = createServer((_, response) => response.end('<html>')).listen(join(folder, 'stranger.sock'));
  await once(stranger, 'listening');
  const locked = createServer().listen(join(folder, 'locked.sock'));
  await once(locked, 'listening');
  locked.unref();
  chmodSync(join(folder, 'locked.sock'), 0);
});
afterAll(() => {
  stranger.close();
  rmSync(folder, { recursive: true });
});

const SERVER = 'acme-head-end';
const EXPLAIN = ['explain', '--server', SERVER, '--device', 'm1@meters.acme.example'];

/** Whoever may do all may use every socket: give that up first. */
const AS_ANYBODY = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-dac_override,-dac_read_search', '--'] : [];

/** Each command that asks the agent. */
const ASKING: string[][] = [
  ['status'],
  ['drain'],
  ['drain', '--end'],
  ['reload'],
  ['diff'],
  ['apply', '--yes'],
  ['confirm'],
  ['rollback', '3'],
  ['history'],
  ['history', 'show', '3'],
  ['grants', 'list'],
  ['grants', 'show', '01M86C3MNB6MH6MFDTWNJ2S086'],
  ['grants', 'revoke', '01M86C3MNB6MH6MFDTWNJ2S086'],
  ['grants', 'revoke', '--server', SERVER],
  ['device', 'list'],
  ['device', 'show', 'm1@meters.acme.example'],
  ['device', 'bind', 'm1@meters.acme.example', 'iot', '10.20.0.2'],
  ['device', 'unbind', 'm1@meters.acme.example', 'iot', '10.20.0.2'],
  [...EXPLAIN, '--port', '5683', '--live'],
  ['denials'],
  ['denials', '--follow'],
];

describe.concurrent('mtgate', { timeout: 30_000 }, () => {
  test("check: the example rules are right, and each user's servers are told", async () => {
    const { status, stdout } = await mtgate('check', 'rules');
    expect(stdout).toMatch(
      /^policy [0-9a-f]{16}: \d+ servers, 2 MTC users, \d+ rules\n1 trigger rule\n4 filters\n {2}acme authorises acme-head-end\n/,
    );
    expect(stdout).toMatch(/\n {2}group field-meters: devices \*@meters\.acme\.example with model M2 or M3\n/);
    expect(stdout).toMatch(/\n\d+ policy tests passed\n$/);
    expect(status).toBe(0);
  });

  test('check --json: the same for programs', async () => {
    const { stdout } = await mtgate('check', 'rules', '--json');
    expect(JSON.parse(stdout)).toMatchObject({
      policy: expect.stringMatching(/^[0-9a-f]{16}$/),
      mtcUsers: expect.arrayContaining([{ mtcUser: 'acme', servers: [SERVER] }]),
      warnings: [],
    });
  });

  test("check --config: the example agent.yaml, its pool's memory, the rules held against it", async () => {
    const { stdout } = await mtgate('check', 'rules', '--config', 'systemd/agent.yaml.example');
    expect(stdout).toMatch(/^grants pool: 225536 entries, 33 MiB in the kernel\n/m);
  });

  describe('check --config: who sees inner addresses, and which realm is known outside by its own', () => {
    let asked: string[];
    beforeAll(() => {
      const own = mkdtempSync(join(folder, 'untranslated-'));
      const server = (name: string, more = '') =>
        `  ${name}: { certificates: [{ uri: "urn:${name}", issuer: mtc-ca }], sources: [198.51.100.${name.length}/32]${more} }\n`;
      writeFileSync(join(own, 'a.yaml'), `servers:\n${server('tunnel', ', nat: none')}${server('other')}`);
      const config = join(mkdtempSync(join(folder, 'agent-')), 'agent.yaml');
      const example = readFileSync('systemd/agent.yaml.example', 'utf8').replace(/^devices:.*$/m, '');
      writeFileSync(config, example.replace('interface: pgw0', 'interface: pgw0\n    nat: none'));
      asked = ['check', own, '--config', config];
    });

    test('for people', async () => {
      const { stdout } = await mtgate(...asked);
      expect(stdout).toContain('\n  not translated: tunnel sees inner addresses (nat: none)\n');
      expect(stdout).toContain(
        '\nnot translated: realm iot (nat: none), known outside as 10.20.0.0/16, fd00:20::/48\n',
      );
    });

    test('for programs', async () => {
      const { stdout } = await mtgate(...asked, '--json');
      expect(JSON.parse(stdout)).toMatchObject({ seeInside: ['tunnel'], untranslatedRealms: ['iot'] });
    });
  });

  test('check: all files that cannot be read are told', async () => {
    const broken = mkdtempSync(join(folder, 'unreadable-'));
    writeFileSync(join(broken, 'latin-1.yaml'), Buffer.from('rules: []\n# caf\xe9\n', 'latin1'));
    mkdirSync(join(broken, 'folder.yaml'));
    const { status, stderr } = await mtgate('check', broken);
    expect(stderr.replaceAll(`${broken}/`, '').split('\n').slice(0, 2)).toEqual([
      'folder.yaml: is a folder, and no rule file: move it out of the folder',
      'latin-1.yaml:2:6: not UTF-8 at byte 15; save the file as UTF-8',
    ]);
    expect(status).toBe(1);
  });

  test('check: each error at its place, status 1', async () => {
    writeFileSync(
      join(folder, 'broken.yaml'),
      'rules:\n  - id: a\n    allow: { servers: [nobody] }\n    limits: { durationSeconds: 0 }\n',
    );
    const { status, stderr } = await mtgate('check', folder);
    expect(stderr).toMatch(/broken\.yaml:4:\d+: .*\nCorrect the rule files/);
    expect(status).toBe(1);
  });

  test('apply --offline --json: only with --yes', async () => {
    const own = mkdtempSync(join(folder, 'offline-'));
    mkdirSync(join(own, 'rules'));
    writeFileSync(join(own, 'rules/a.yaml'), 'rules: []\n');
    const example = readFileSync('systemd/agent.yaml.example', 'utf8');
    const config = join(own, 'agent.yaml');
    writeFileSync(
      config,
      `${example.replace(/^(devices|rules|store):.*$/gm, '')}\nstore: { directory: ${own}/store }\n`,
    );
    const offline = ['apply', '--offline', '--json', '--config', config];
    expect(await mtgate(...offline)).toEqual({
      status: 1,
      stdout: '',
      stderr: 'nothing has changed: with --json say --yes\n',
    });
    expect(JSON.parse((await mtgate(...offline, '--yes')).stdout)).toMatchObject({ applied: true, edition: 1 });
  });

  test('explain: every step, and the rule that decides', async () => {
    const { status, stdout } = await mtgate(...EXPLAIN, '--port', '5683');
    expect(stdout).toContain('meters-coap');
    expect(status).toBe(0);
    const refused = await mtgate(...EXPLAIN, '--port', '23', '--protocol', 'tcp', '--json');
    expect(JSON.parse(refused.stdout)).toMatchObject({ verdict: 'refuse' });
    expect(refused.stdout).toContain('deniedByRule');
  });

  test('explain: the rule files that are named count, whatever agent.yaml is named beside them', async () => {
    const own = mkdtempSync(join(folder, 'explain-'));
    writeFileSync(
      join(own, 'a.yaml'),
      'servers:\n  other: { certificates: [{ uri: "urn:other", issuer: mtc-ca }], sources: [198.51.100.9] }\n',
    );
    const config = join(mkdtempSync(join(folder, 'agent-')), 'agent.yaml');
    writeFileSync(config, readFileSync('systemd/agent.yaml.example', 'utf8').replace(/^devices:.*$/m, ''));
    const request = ['explain', '--device', 'm1@meters.acme.example', '--port', '5683', '--config', config];
    const packet = ['explain', 'packet', '--from', '192.0.2.1', '--to', 'm1@meters.acme.example', '--config', config];
    expect(await mtgate(...request, '--rules', own, '--server', 'other')).toMatchObject({ status: 0, stderr: '' });
    expect(await mtgate(...packet, '--rules', own, '--granted-to', 'other', '--port', '5683')).toMatchObject({
      status: 0,
      stderr: '',
    });
    const nobody = { status: 1, stdout: '', stderr: 'serverUnknown: no server zz in the rule files\n' };
    expect(await mtgate(...request, '--rules', own, '--server', 'zz')).toEqual(nobody);
    expect(await mtgate(...packet, '--rules', own, '--granted-to', 'zz', '--port', '1')).toEqual(nobody);
    const says = /^there is no folder .*\/rules: name that of the rule files by --rules, or agent\.yaml by --config\n$/;
    expect(await mtgate(...request, '--server', 'zz')).toEqual({
      status: 1,
      stdout: '',
      stderr: expect.stringMatching(says),
    });
  });

  test.each([
    [
      [...EXPLAIN, '--port', '5683', '--live', '--rules', 'rules'],
      '--live asks the running agent: it takes no --rules',
    ],
    [[...EXPLAIN, '--port', '5683', '--live', '--config', 'agent.yaml'], '--live asks the running agent'],
    [['explain', '--server', SERVER, '--device', 'm1', '--port', '5683'], '"m1" is no external identifier'],
    [[...EXPLAIN, '--port', '70000'], 'Expected a whole number from 1 to 65535'],
    [[...EXPLAIN, '--port', '1', '--from', '1.2.3'], '"1.2.3" is no IP address'],
    [[...EXPLAIN], "required option '--port <port>' not specified"],
    [['check'], 'name a folder of rule files, or --config'],
    [['denials', '--reason', 'wrongSorce'], 'unknown reason "wrongSorce"; did you mean "wrongSource"?'],
    [['denials', '--follow', '--reason', 'foo'], '--reason: unknown reason "foo"'],
    [['denials', '--source', 'foo'], 'Expected an IP address, or unknown.'],
    [['refusals', '--reason', 'noRuleAllow'], 'unknown reason "noRuleAllow"; did you mean "noRuleAllows"?'],
    [['denials', '--kind', 'odd'], 'Allowed choices are packet, handshake, request'],
    [['refusals', '--limit', '0'], 'Expected a whole number from 1 to 9999'],
    [['why'], "missing required argument 'id'"],
    [['grants', 'list', 'all'], 'too many arguments'],
    [['grants', 'show'], "missing required argument 'grantId'"],
    [['grants', 'revoke'], 'name grants by their ids, or by --device and --server'],
    [['grants', 'revoke', 'one', '--server', SERVER], 'name grants by their ids, or by --device and --server'],
    [['device', 'show'], "missing required argument 'device'"],
    [['device', 'bind', 'm1@a.example', 'iot'], "missing required argument 'address'"],
    [['device', 'unbind', 'm1@a.example'], "missing required argument 'realm'"],
    [['device', 'list', '--color'], "unknown option '--color'"],
    [['status', 'now'], 'too many arguments'],
    [['drain', '--for', '10'], "unknown option '--for'"],
    [['reload', 'rules'], 'too many arguments'],
    [['apply', '--confirm', 'soon'], 'Expected a time from 1s to 24h, such as 60s or 5m'],
    [['apply', '--confirm', '25h'], 'Expected a time from 1s to 24h'],
    [['apply', '--offline', '--confirm', '60s'], '--confirm goes with a running agent'],
    [['rollback', 'last'], 'Expected the number of an edition'],
    [['history', 'show', 'x'], 'Expected the number of an edition'],
    [['apply', '--comment', ' '], 'Expected a comment of 1 to 500 characters'],
    [['apply', '--offline', '--comment', 'x'.repeat(501)], 'Expected a comment of 1 to 500 characters'],
    [['rollback', '--comment', 'x'.repeat(501)], 'Expected a comment of 1 to 500 characters'],
    [['users', 'prefer', 'acme', 'm1@a.example', '--days', 'sat', '--block'], '--days goes with --quiet'],
    [['users', 'prefer', 'acme', 'm1@a.example', '--zone', 'UTC', '--block'], '--zone goes with --quiet or'],
    [['users', 'prefer', 'acme', 'm1@a.example', '--quiet', '22:00-06:00-07:00'], 'Expected two times of the day'],
    [['users', 'prefer', 'acme', 'm1@a.example', '--quiet', '22:00'], 'Expected two times of the day'],
    [['users', 'prefer', 'acme', 'm1@a.example', '--grants-per-day', 'x'], 'Expected a whole number from 1 to 1000000'],
    [['doctor', '--fix'], "unknown option '--fix'"],
    [['completion', 'csh'], 'Allowed choices are bash, zsh, fish'],
    [['frobnicate'], "unknown command 'frobnicate'"],
  ])('wrong words: %j, status 2', async (words, says) => {
    const { status, stderr } = await mtgate(...words);
    expect(stderr).toContain(says);
    expect(status).toBe(2);
  });

  test.each(ASKING)('no agent: status 3, and what to do: %s %s', async (...words) => {
    const { status, stderr } = await mtgate(...words, '--socket', join(folder, 'nobody.sock'));
    expect(stderr).toMatch(/^no agent answers on .*nobody\.sock\nStart the agent/);
    expect(status).toBe(3);
  });

  test.each(ASKING)('a socket without permission: status 4, and what to do: %s %s', async (...words) => {
    const { status, stderr } = await said([
      ...AS_ANYBODY,
      ...MTGATE,
      ...words,
      '--socket',
      join(folder, 'locked.sock'),
    ]);
    expect(stderr).toMatch(/^you may not use .*locked\.sock\nBecome root, or join the group that owns it/);
    expect(status).toBe(4);
  });

  test('who answers and is no agent is taken for none', async () => {
    const { status, stderr } = await mtgate('status', '--socket', join(folder, 'stranger.sock'));
    expect(stderr).toMatch(/^no agent answers on /);
    expect(status).toBe(3);
  });

  test('--help: what there is, and how each ends', async () => {
    const { status, stdout } = await mtgate('--help');
    for (const name of ['status', 'drain', 'reload', 'grants', 'device', 'doctor', 'check', 'explain', 'completion'])
      expect(stdout).toMatch(new RegExp(`^ {2}${name}\\b`, 'm'));
    expect(stdout).toMatch(/^ {2}4 {2}you may not use the socket/m);
    expect(stdout).not.toContain('complete-words');
    expect(status).toBe(0);
    expect((await mtgate('grants', 'revoke', '--help')).stdout).toMatch(/Examples:\n {2}mtgate grants revoke/);
  });

  test('check: a device that holds the address from which triggers come', async () => {
    const own = mkdtempSync(join(folder, 'agent-'));
    writeFileSync(
      join(own, 'devices.yaml'),
      'devices: [{ externalId: m1@meters.acme.example, bindings: [{ realm: iot, address: 10.20.0.1 }] }]\n',
    );
    const example = readFileSync('systemd/agent.yaml.example', 'utf8');
    writeFileSync(join(own, 'agent.yaml'), `${example}\ntriggers: { sources: [10.20.0.1], ports: [5690] }\n`);
    const { status, stderr } = await mtgate('check', 'rules', '--config', join(own, 'agent.yaml'));
    expect(stderr).toMatch(/devices\.yaml:1:\d+: 10\.20\.0\.1 is where triggers come from: no device can hold it\n/);
    expect(status).toBe(1);
  });

  test('doctor: what agent.yaml says and this host has not', async () => {
    const config = join(mkdtempSync(join(folder, 'agent-')), 'agent.yaml');
    const example = readFileSync('systemd/agent.yaml.example', 'utf8');
    const more = 'triggers: { sources: [10.20.0.1], ports: [5690] }\ngate: { bpffs: /nonexist/of/mtgate }\n';
    writeFileSync(config, `${example.replace(/^devices:.*$/m, '')}\n${more}`);
    const { stdout } = await mtgate('doctor', '--config', config, '--socket', join(folder, 'nobody.sock'), '--json');
    expect(JSON.parse(stdout)).toEqual(
      expect.arrayContaining([
        { name: 'bpffs', level: 'bad', found: '/nonexist/of is not there', advice: expect.stringMatching(/^Mount it/) },
        {
          ...{ name: 'trigger sources', level: 'bad', found: '10.20.0.1 is no address of this host' },
          advice: expect.stringContaining('ip address add'),
        },
      ]),
    );
  });

  test('doctor: a row for each thing, whatever is wrong; status 1 where something is bad', async () => {
    const none = join(folder, 'none.yaml');
    const asked = ['doctor', '--config', none, '--socket', join(folder, 'nobody.sock')];
    const { status, stdout } = await mtgate(...asked, '--json');
    const rows: { name: string; level: string; found: string; advice?: string }[] = JSON.parse(stdout);
    expect(rows).toContainEqual(
      expect.objectContaining({ name: 'node', level: 'ok', found: `Node ${process.version}` }),
    );
    expect(rows).toContainEqual(expect.objectContaining({ name: 'agent.yaml', level: 'bad' }));
    expect(rows).toContainEqual(expect.objectContaining({ name: 'agent', level: 'warn' }));
    for (const row of rows) if (row.level === 'bad' || row.level === 'warn') expect(row.advice).toMatch(/\S/);
    expect(status).toBe(1);
    expect((await mtgate(...asked)).stdout).toMatch(/^bad +agent\.yaml +.*none\.yaml.*\n(.*\n)*What to do:\n/m);
  });
});
