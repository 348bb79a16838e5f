/** The command as an operator types it; what needs an agent is in test/e2e. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { program, ROOT } from '../child.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function mtgate(...words: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const [file = '', ...args] = program('agent/cli.ts', ...words);
  return new Promise((resolve) =>
    execFile(file, args, { cwd: ROOT }, (error, stdout, stderr) =>
      resolve({ status: error ? Number(error.code) : 0, stdout, stderr }),
    ),
  );
}

const EXPLAIN = ['explain', '--server', 'acme-head-end', '--device', 'm1@meters.acme.example'];

describe.concurrent('mtgate', { timeout: 30_000 }, () => {
  test("check: the example rules are right, and each user's servers are told", async () => {
    const { status, stdout } = await mtgate('check', 'rules');
    expect(stdout).toMatch(
      /^policy [0-9a-f]{16}: \d+ servers, 2 MTC users, \d+ rules\n {2}acme authorises acme-head-end\n/,
    );
    expect(stdout).toMatch(/\n\d+ policy tests passed\n$/);
    expect(status).toBe(0);
  });

  test("check --config: the example agent.yaml, its pool's memory, the rules held against it", async () => {
    const { stdout } = await mtgate('check', 'rules', '--config', 'systemd/agent.yaml.example');
    expect(stdout).toMatch(/^grants pool: 225536 entries, 33 MiB in the kernel\n/m);
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

  test('explain: every step, and the rule that decides', async () => {
    const { status, stdout } = await mtgate(...EXPLAIN, '--port', '5683');
    expect(stdout).toContain('meters-coap');
    expect(status).toBe(0);
    const refused = await mtgate(...EXPLAIN, '--port', '23', '--protocol', 'tcp');
    expect(refused.stdout).toContain('deniedByRule');
  });

  test.each([
    [['explain', '--server', 'acme-head-end', '--device', 'm1', '--port', '5683'], '"m1" is no external identifier'],
    [[...EXPLAIN, '--port', '70000'], 'Expected a whole number from 1 to 65535'],
    [[...EXPLAIN, '--port', '1', '--from', '1.2.3'], '"1.2.3" is no IP address'],
    [['check'], 'name a folder of rule files, or --config'],
    [['denials', '--kind', 'odd'], 'Allowed choices are packet, handshake, request'],
    [['refusals', '--limit', '0'], 'Expected a whole number from 1 to 9999'],
    [['why'], "missing required argument 'id'"],
    [['grants', 'revoke'], "missing required argument 'grantId'"],
    [['frobnicate'], "unknown command 'frobnicate'"],
  ])('wrong words: %j, status 2', async (words, says) => {
    const { status, stderr } = await mtgate(...words);
    expect(stderr).toContain(says);
    expect(status).toBe(2);
  });

  test('no agent: status 3, and what to do', async () => {
    const { status, stderr } = await mtgate('status', '--socket', join(folder, 'nobody.sock'));
    expect(stderr).toMatch(/^no agent answers on .*nobody\.sock\nStart the agent/);
    expect(status).toBe(3);
  });

  test('what others wrote cannot move the cursor', async () => {
    const path = join(folder, 'odd.sock');
    const row = { device: 'm1\u001b[2J@x.example', realm: 'iot', address: '10.20.0.2', source: 'file', since: 'now' };
    const server = createServer((_, response) => response.end(JSON.stringify([row])));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const { stdout } = await mtgate('device', 'list', '--socket', path);
    server.close();
    expect(stdout).toContain('m1\\u{1b}[2J@x.example');
  });
});
