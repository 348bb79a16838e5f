/** The management socket: who may have it, what it says, and how it says no. */

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Management, type ManagementUseCases, startManagement } from '../../agent/api/management.ts';
import type { OperatorGrant } from '../../agent/api/operator-rows.ts';
import { AgentError } from '../../agent/core/errors.ts';
import { address } from '../../agent/core/net.ts';
import type { Log } from '../../agent/core/ports.ts';
import type { ExternalId, Msisdn, RealmName, ServerName } from '../../agent/core/words.ts';

const folder = mkdtempSync(join(tmpdir(), 'mtgate-management-'));
const path = join(folder, 'management.sock');
const calls: unknown[][] = [];
const lines: object[] = [];
const keep = (fields: object, event: string) => void lines.push({ ...fields, event });
const log: Log = { debug: keep, info: keep, warn: keep, error: keep };
const inner = { realm: 'meters' as RealmName, address: address('192.0.2.33') };

const grant: OperatorGrant = {
  id: '01JZ8Q4X9T5E2V7M3K6B0N1RWC',
  server: 'acme-head-end' as ServerName,
  device: { phoneNumber: '+12025550142' },
  externalId: 'm1@meters.acme.example' as ExternalId,
  inner,
  rule: 'meters-coap',
  externalEndpoint: { address: address('2001:db8::20'), port: 34_117 },
  applicationServer: { address: address('198.51.100.10'), port: 4000 },
  protocol: 'udp',
  devicePort: 5683,
  status: 'LIVE',
  startedAtMs: 0,
  expiresAtMs: 600_000,
};
const row = {
  grantId: '01JZ8Q4X9T5E2V7M3K6B0N1RWC',
  server: 'acme-head-end',
  device: 'm1@meters.acme.example',
  realm: 'meters',
  inner: '192.0.2.33:5683',
  external: '[2001:db8::20]:34117',
  applicationServer: '198.51.100.10:4000',
  protocol: 'udp',
  rule: 'meters-coap',
  startedAt: '1970-01-01T00:00:00.000Z',
  expiresAt: '1970-01-01T00:10:00.000Z',
};
const binding = { device: 'm1@meters.acme.example' as ExternalId, inner, source: 'file', sinceMs: 0 };
const bindingRow = {
  device: 'm1@meters.acme.example',
  realm: 'meters',
  address: '192.0.2.33',
  source: 'file',
  since: '1970-01-01T00:00:00.000Z',
};

const useCases: ManagementUseCases = {
  status: () => ({ version: '0.1.0', liveGrants: 1 }),
  grants(filter) {
    calls.push(['grants', filter]);
    return filter.device === 'm9' ? { refused: 'deviceUnknown', why: 'no device m9' } : [grant];
  },
  grant(id) {
    if (id !== grant.id) return undefined;
    return {
      ...grant,
      ...{ status: 'ENDED', endedAtMs: 1_000, endCause: 'expired', endText: 'its time was over' },
      ...{ gateway: 'gw-1', mtcUser: 'acme', policyVersion: '0123', family: 'ipv6', grantedSeconds: 600 },
      ...{ remainingSeconds: 0, entry: 7, number: 99 },
      carried: { in: { packets: 2n, bytes: 120n }, out: { packets: 1n, bytes: 60n } },
    };
  },
  drain: (draining, byUid) => void calls.push(['drain', draining, byUid]),
  device(name) {
    const device = { externalId: 'm1@meters.acme.example' as ExternalId, msisdn: '12025550142' as Msisdn };
    return name === 'm1@meters.acme.example' ? { device, bindings: [binding], grants: [grant] } : undefined;
  },
  async revoke(id, byUid) {
    calls.push(['revoke', id, byUid]);
    return id === 'live';
  },
  bindings: () => [binding],
  async bind(device, realm, at, byUid) {
    calls.push(['bind', device, realm, at.text, byUid]);
    return device.startsWith('m9') ? { refused: 'deviceUnknown', why: 'no device m9' } : undefined;
  },
  async unbind(device, realm, at, byUid) {
    calls.push(['unbind', device, realm, at.text, byUid]);
    return undefined;
  },
  async reload() {
    throw new AgentError('rulesInvalid', 'rules.yaml:3:1: no such server', { cause: new Error('the text') });
  },
  explain(question) {
    if (question.port === 1) throw new Error('a defect');
    return { verdict: 'refused', question };
  },
};

let management: Management;
beforeAll(async () => {
  management = await startManagement(path, useCases, () => 1234, log);
});
afterAll(async () => {
  await management.close();
  rmSync(folder, { recursive: true });
});
beforeEach(() => {
  calls.splice(0);
  lines.splice(0);
});

// biome-ignore lint/suspicious/noExplicitAny: answers are looked into freely
function ask(method: string, at: string, body?: unknown): Promise<{ status: number; body: any }> {
  const payload = typeof body === 'string' ? body : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const headers =
      payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
    const request = http.request({ socketPath: path, method, path: at, headers, agent: false }, async (response) => {
      let text = '';
      for await (const chunk of response) text += chunk;
      resolve({ status: response.statusCode ?? 0, body: text ? JSON.parse(text) : undefined });
    });
    request.on('error', reject);
    request.end(payload);
  });
}

describe('the socket', () => {
  it('is for owner and group, whatever the mask', async () => {
    const other = join(folder, 'open.sock');
    const mask = process.umask(0);
    const open = await startManagement(other, useCases, () => 0, log);
    expect(statSync(other).mode & 0o777).toBe(0o660);
    expect(process.umask(mask)).toBe(0);
    await open.close();
    expect(statSync(other, { throwIfNoEntry: false })).toBeUndefined();
  });

  it('is not taken from one who listens', async () => {
    await expect(startManagement(path, useCases, () => 0, log)).rejects.toMatchObject({ code: 'alreadyRunning' });
    expect((await ask('GET', '/status')).status).toBe(200);
  });

  it('is taken from one who is gone', async () => {
    const left = join(folder, 'left.sock');
    // A process that is killed leaves its socket behind.
    const script = `require('net').createServer().listen(${JSON.stringify(left)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script]);
    expect(statSync(left).isSocket()).toBe(true);
    await (await startManagement(left, useCases, () => 0, log)).close();
  });

  it('replaces no other file, and makes no folder', async () => {
    const file = join(folder, 'file');
    writeFileSync(file, 'kept');
    chmodSync(file, 0o600);
    await expect(startManagement(file, useCases, () => 0, log)).rejects.toMatchObject({ code: 'listenFailed' });
    const nowhere = join(folder, 'none', 'management.sock');
    await expect(startManagement(nowhere, useCases, () => 0, log)).rejects.toMatchObject({ code: 'listenFailed' });
  });

  it('closes though someone is connected', async () => {
    const other = join(folder, 'busy.sock');
    const busy = await startManagement(other, useCases, () => 0, log);
    const peer = net.connect(other);
    await once(peer, 'connect');
    await busy.close();
    peer.destroy();
  });
});

describe('an operator', () => {
  it('sees status, grants with their inside, and bindings', async () => {
    expect((await ask('GET', '/status')).body).toEqual({ version: '0.1.0', liveGrants: 1 });
    expect((await ask('GET', '/grants')).body).toEqual([row]);
    expect((await ask('GET', '/bindings')).body).toEqual([bindingRow]);
  });

  it('asks for the grants of a device or a server', async () => {
    await ask('GET', '/grants?device=m1%40meters.acme.example&server=acme-head-end');
    expect(calls).toEqual([['grants', { device: 'm1@meters.acme.example', server: 'acme-head-end' }]]);
  });

  it('sees all of a grant that has ended, and of a device', async () => {
    expect((await ask('GET', `/grants/${grant.id}`)).body).toEqual({
      ...row,
      ...{ status: 'ended', endedAt: '1970-01-01T00:00:01.000Z', endCause: 'expired', endText: 'its time was over' },
      ...{ gateway: 'gw-1', mtcUser: 'acme', policyVersion: '0123', family: 'ipv6', grantedSeconds: 600 },
      ...{ remainingSeconds: 0, entry: 7, number: 99, reference: '+12025550142' },
      carried: { in: { packets: 2, bytes: 120 }, out: { packets: 1, bytes: 60 } },
    });
    expect((await ask('GET', '/devices/m1%40meters.acme.example')).body).toEqual({
      device: 'm1@meters.acme.example',
      msisdn: '12025550142',
      bindings: [bindingRow],
      grants: [row],
    });
  });

  it('drains, and ends that', async () => {
    expect(await ask('POST', '/drain', { draining: true })).toEqual({
      status: 200,
      body: { version: '0.1.0', liveGrants: 1 },
    });
    await ask('POST', '/drain', { draining: false });
    expect(calls).toEqual([
      ['drain', true, 1234],
      ['drain', false, 1234],
    ]);
  });

  it('revokes, binds and unbinds under its own uid', async () => {
    expect((await ask('DELETE', '/grants/live')).status).toBe(204);
    const binding = { device: 'm1@Meters.ACME.example', realm: 'meters', address: '2001:db8:0::1' };
    expect((await ask('POST', '/bindings', binding)).status).toBe(204);
    expect(await ask('DELETE', '/bindings', binding)).toEqual({ status: 204, body: undefined });
    expect(calls).toEqual([
      ['revoke', 'live', 1234],
      ['bind', 'm1@meters.acme.example', 'meters', '2001:db8::1', 1234],
      ['unbind', 'm1@meters.acme.example', 'meters', '2001:db8::1', 1234],
    ]);
  });

  it('has a request explained', async () => {
    const question = { server: 'acme', device: 'm1@a.example', protocol: 'udp', port: 5683, durationSeconds: 60 };
    expect((await ask('POST', '/explain', question)).body).toEqual({ verdict: 'refused', question });
    const from = await ask('POST', '/explain', { ...question, from: '192.0.2.1' });
    expect(from.body.question.from.text).toBe('192.0.2.1');
  });

  it.each([
    ['DELETE', '/grants/other', undefined, 404, 'grantNotFound', /no live grant other/],
    ['POST', '/bindings', { device: 'm9@a.example', realm: 'r', address: '192.0.2.1' }, 409, 'deviceUnknown', /m9/],
    [
      'POST',
      '/bindings',
      { device: 'm9', realm: 'r', address: '192.0.2.1' },
      400,
      'invalidArgument',
      /device: expected local@domain/,
    ],
    [
      'POST',
      '/bindings',
      { device: 'm9@a.example', realm: 'r', address: 'x' },
      400,
      'invalidArgument',
      /address: expected an IP address/,
    ],
    ['POST', '/bindings', { device: 'm9@a.example', address: '192.0.2.1' }, 400, 'invalidArgument', /realm/],
    [
      'POST',
      '/bindings',
      { device: 'm9@a.example', realm: 'r', address: '192.0.2.1', x: 1 },
      400,
      'invalidArgument',
      /"x"/,
    ],
    ['POST', '/bindings', undefined, 400, 'invalidArgument', /body/],
    ['POST', '/bindings', '{', 400, 'invalidArgument', /JSON/],
    [
      'POST',
      '/explain',
      { server: 'a', device: 'b', protocol: 'icmp', port: 0, durationSeconds: 0 },
      400,
      'invalidArgument',
      /protocol.*port.*durationSeconds/,
    ],
    ['GET', '/grants?device=m9', undefined, 404, 'deviceUnknown', /m9/],
    ['GET', '/grants?color=red', undefined, 400, 'invalidArgument', /color/],
    ['GET', '/grants/other', undefined, 404, 'grantNotFound', /no grant other/],
    ['GET', '/devices/m9', undefined, 404, 'deviceUnknown', /m9/],
    ['POST', '/drain', { draining: 'yes' }, 400, 'invalidArgument', /draining/],
    ['GET', '/nothing', undefined, 404, 'notFound', /GET \/nothing/],
    ['PUT', '/status', undefined, 404, 'notFound', /PUT \/status/],
  ])('%s %s %j is declined', async (method, at, body, status, code, message) => {
    const answered = await ask(method, at, body);
    expect([answered.status, answered.body.error.code]).toEqual([status, code]);
    expect(answered.body.error.message).toMatch(message);
  });

  it('is told a fault with its place, its cause and what to do', async () => {
    const { status, body } = await ask('POST', '/reload');
    expect(status).toBe(500);
    expect(body.error).toEqual({
      code: 'rulesInvalid',
      message: 'rules.yaml:3:1: no such server',
      advice: expect.stringContaining('Correct the rule files'),
      cause: 'the text',
    });
    const question = { server: 'a', device: 'b', protocol: 'udp', port: 1, durationSeconds: 1 };
    expect((await ask('POST', '/explain', question)).body.error).toEqual({ code: 'internal', message: 'a defect' });
    expect(lines).toHaveLength(2);
  });
});
