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
import type { OperatorBinding, OperatorGrant } from '../../agent/api/operator-rows.ts';
import { AgentError } from '../../agent/core/errors.ts';
import { address } from '../../agent/core/net.ts';
import type { Log } from '../../agent/core/ports.ts';
import type { ExternalId, Msisdn, MtcUserName, RealmName, ServerName } from '../../agent/core/words.ts';
import { rangeOf } from '../../agent/directory/binding.ts';
import type { EditionHead } from '../../agent/editions/edition.ts';
import type { Denial } from '../../agent/inspector/denials.ts';
import type { KeptRefusal } from '../../agent/inspector/refusals.ts';
import { until } from '../child.ts';

const folder = mkdtempSync(join(tmpdir(), 'mtgate-management-'));
const path = join(folder, 'management.sock');
const calls: unknown[][] = [];
const lines: object[] = [];
const keep = (fields: object, event: string) => void lines.push({ ...fields, event });
const log: Log = { debug: keep, info: keep, warn: keep, error: keep };
const inner = { realm: 'meters' as RealmName, address: address('192.0.2.33') };

const seen = { seen: 9, inspected: 5, unsampled: 3, lost: 1 };
const inspector = {
  state: 'sees',
  received: 5,
  filtered: 0,
  notOurs: 0,
  damaged: 0,
  deaths: 0,
  blindnesses: 0,
} as const;
const knock: Denial = {
  id: '01JZ8Q4X9T5E2V7M3K6B0N1RWD',
  kind: 'packet',
  reason: 'wrongSource',
  source: '192.0.2.66',
  target: 'udp 203.0.113.1:22314',
  mtcUser: 'acme' as MtcUserName,
  firstMs: 0,
  lastMs: 1000,
  count: 3,
};
const refusal: KeptRefusal = {
  instance: 'urn:uuid:f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
  atMs: 0,
  reason: 'noRuleAllows',
  step: 'rule',
  why: 'no allow matches',
  source: '198.51.100.10',
  target: 'udp/23',
};
/** Who follows the stream, and how they are told. */
const followers = new Set<(rows: readonly Denial[]) => void>();
const grant: OperatorGrant = {
  id: '01JZ8Q4X9T5E2V7M3K6B0N1RWC',
  server: 'acme-head-end' as ServerName,
  device: { phoneNumber: '+12025550142' },
  externalId: 'm1@meters.acme.example' as ExternalId,
  inner,
  rule: 'meters-coap',
  correlator: 'c-1',
  externalEndpoint: { address: address('2001:db8::20'), port: 34_117 },
  applicationServer: { address: address('198.51.100.10'), port: 4000 },
  protocol: 'udp',
  devicePort: 5683,
  status: 'LIVE',
  startedAtMs: 0,
  expiresAtMs: 600_000,
  limits: {},
};
const row = {
  grantId: '01JZ8Q4X9T5E2V7M3K6B0N1RWC',
  status: 'live',
  server: 'acme-head-end',
  device: 'm1@meters.acme.example',
  realm: 'meters',
  inner: '192.0.2.33:5683',
  external: '[2001:db8::20]:34117',
  applicationServer: '198.51.100.10:4000',
  protocol: 'udp',
  rule: 'meters-coap',
  correlator: 'c-1',
  startedAt: '1970-01-01T00:00:00.000Z',
  expiresAt: '1970-01-01T00:10:00.000Z',
};
const binding: OperatorBinding = {
  ...rangeOf(inner.realm, inner.address),
  holder: 'm1@meters.acme.example',
  target: inner.address,
  source: 'file',
  sinceMs: 0,
};
const bindingRow = {
  device: 'm1@meters.acme.example',
  realm: 'meters',
  address: '192.0.2.33',
  source: 'file',
  since: '1970-01-01T00:00:00.000Z',
};

const NO_ENDS = { count: 0, groups: [], grantIds: [] };
const NO_REQUESTS = { looked: 0, sinceMs: 0, isCut: false, changed: 0, groups: [] };
const edition: EditionHead = {
  ...{ number: 3, version: 'v', atMs: 0, by: { uid: 1234, name: 'ann' }, how: 'apply', digest: 'd' },
  ...{ changed: ['rule a added'], confirmByMs: 60_000 },
};
const editionRow = {
  ...{ edition: 3, policy: 'v', at: '1970-01-01T00:00:00.000Z', by: 'ann', byUid: 1234, how: 'apply' },
  ...{ confirmBy: '1970-01-01T00:01:00.000Z', changed: ['rule a added'] },
};

const useCases: ManagementUseCases = {
  standsFor: () => '',
  denials(filter, limit) {
    calls.push(['denials', filter, limit]);
    return [knock];
  },
  account: () => ({ ...seen, inspector }),
  unknownName: () => undefined,
  followDenials(filter, tell) {
    calls.push(['follow', filter]);
    followers.add(tell);
    return () => void followers.delete(tell);
  },
  whoHad(question) {
    calls.push(['whoHad', question]);
    return { candidates: [], notes: ['n'] };
  },
  sinks: () => undefined,
  reportsOf: () => undefined,
  streamCut: () => void calls.push(['streamCut']),
  refusals(filter, limit) {
    calls.push(['refusals', filter, limit]);
    return [refusal];
  },
  why: (id) =>
    id === knock.id
      ? { denial: knock, meaning: 'not for this source', advice: 'look', toPass: ['more sources'] }
      : undefined,
  async diff(of) {
    calls.push(['diff', of]);
    if (of === 9) return { refused: 'editionUnknown', why: 'no edition 9' };
    return {
      digest: 'd',
      inForce: 2,
      policy: 'v',
      isSame: false,
      warnings: [],
      changes: [],
      ends: NO_ENDS,
      requests: NO_REQUESTS,
    };
  },
  async apply(wanted, byUid) {
    calls.push(['apply', wanted, byUid]);
    return wanted.digest === 'd' ? { edition, liveGrants: 1 } : { refused: 'changedMeanwhile', why: 'look again' };
  },
  async confirm(byUid) {
    calls.push(['confirm', byUid]);
    return { edition: { ...edition, confirmed: { atMs: 1_000, by: { uid: byUid, name: 'ann' } } }, liveGrants: 1 };
  },
  history: () => [edition],
  edition: (number) => (number === 3 ? { ...edition, files: [{ file: 'a.yaml', text: 'rules: []' }] } : undefined),
  status: () => ({ version: '0.1.0', liveGrants: 1 }),
  grants(filter, limit, after) {
    calls.push(['grants', filter, limit, after]);
    if (filter.device === 'm9') return { refused: 'deviceUnknown', why: 'no device m9' };
    return { grants: [grant], total: 2, ...(after === undefined && { lastKey: 'k' }) };
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
  users: () => [],
  user: () => undefined,
  async setUserServers(name, servers, byUid) {
    calls.push(['setUserServers', name, servers, byUid]);
    return name === 'acme' ? undefined : { refused: 'mtcUserUnknown', why: `no MTC user ${name}` };
  },
  async setUserPreference(name, written, byUid) {
    calls.push(['setUserPreference', name, written, byUid]);
    return written.devices === '*@*' ? { refused: 'devicesNotOwned', why: 'not its own' } : { id: 'p1' };
  },
  async dropUserPreference(name, id, byUid) {
    calls.push(['dropUserPreference', name, id, byUid]);
    return undefined;
  },
  drain: (draining, byUid) => void calls.push(['drain', draining, byUid]),
  device(name) {
    const device = { externalId: 'm1@meters.acme.example' as ExternalId, msisdn: '12025550142' as Msisdn };
    if (name !== device.externalId) return undefined;
    const registered = { ...device, source: 'import' } as const;
    const counts = { liveGrants: 1, waitingGrants: 0 };
    return { device: registered, mtcUser: 'acme', bindings: [binding], before: [], grants: [grant], ...counts };
  },
  async importDevices(wanted, bytes, _isLeft, byUid) {
    let text = '';
    if (wanted.replace) return { refused: 'importUnderWay', why: 'another import is under way' };
    for await (const chunk of bytes) text += Buffer.from(chunk).toString();
    calls.push(['import', wanted, text, byUid]);
    if (text === 'no rows') return { refused: 'devicesNotImported', why: 'nothing was imported\n1: no' };
    return { rows: 1, added: 1, changed: 0, removed: 0, dryRun: wanted.dryRun, registered: 2 };
  },
  async *exportDevices(format, byUid) {
    calls.push(['export', format, byUid]);
    yield '{"externalId":"m1@a.example"}\n';
    yield '{"externalId":"m2@a.example"}\n';
  },
  async revoke(id, byUid) {
    calls.push(['revoke', id, byUid]);
    return id === 'live';
  },
  radius: () => undefined,
  servers: () => [grant.server],
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
    if (question.port === 2) return { refused: 'serverUnknown', why: 'no server acme' };
    return { verdict: 'refuse', lines: [JSON.stringify(question)] };
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
type Answer = { status: number; body: any };

function ask(method: string, at: string, body?: unknown, more: http.OutgoingHttpHeaders = {}): Promise<Answer> {
  const payload = typeof body === 'string' ? body : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const headers =
      payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
    const request = http.request(
      { socketPath: path, method, path: at, headers: { ...headers, ...more }, agent: false },
      async (response) => {
        let text = '';
        for await (const chunk of response) text += chunk;
        resolve({ status: response.statusCode ?? 0, body: text ? JSON.parse(text) : undefined });
      },
    );
    request.on('error', reject);
    request.end(payload);
  });
}

async function fetchText(at: string): Promise<string> {
  const [response] = (await once(http.get({ socketPath: path, path: at, agent: false }), 'response')) as [
    http.IncomingMessage,
  ];
  let text = '';
  for await (const chunk of response) text += chunk;
  return text;
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
    expect((await ask('GET', '/grants')).body).toEqual({ grants: [row], total: 2, next: 'k' });
    expect((await ask('GET', '/servers')).body).toEqual([grant.server]);
    expect((await ask('GET', '/bindings')).body).toEqual([bindingRow]);
  });

  it('asks for the grants of a device or a server', async () => {
    await ask('GET', '/grants?device=m1%40meters.acme.example&server=acme-head-end');
    expect(calls).toEqual([['grants', { device: 'm1@meters.acme.example', server: 'acme-head-end' }, 100, undefined]]);
  });

  it('reads them by pages', async () => {
    expect((await ask('GET', '/grants?limit=1000&after=k')).body).toEqual({ grants: [row], total: 2 });
    expect(calls).toEqual([['grants', {}, 1000, 'k']]);
  });

  it('sees all of a grant that has ended, and of a device', async () => {
    expect((await ask('GET', `/grants/${grant.id}`)).body).toEqual({
      ...row,
      ...{ status: 'ended', endedAt: '1970-01-01T00:00:01.000Z', endCause: 'expired', endText: 'its time was over' },
      ...{ gateway: 'gw-1', mtcUser: 'acme', policyVersion: '0123', family: 'ipv6', grantedSeconds: 600 },
      ...{ remainingSeconds: 0, entry: 7, number: 99, reference: '+12025550142', limits: {} },
      carried: { in: { packets: 2, bytes: 120 }, out: { packets: 1, bytes: 60 } },
    });
    expect((await ask('GET', '/devices/m1%40meters.acme.example')).body).toEqual({
      device: 'm1@meters.acme.example',
      msisdn: '12025550142',
      source: 'import',
      mtcUser: 'acme',
      bindings: [bindingRow],
      before: [],
      grants: [row],
      liveGrants: 1,
      waitingGrants: 0,
    });
  });

  it('imports rows as they come and exports them; reads why they were not taken when all have come', async () => {
    const importing = (query: string, type: string, text: string) =>
      ask('POST', `/devices/import${query}`, text, { 'content-type': type });
    expect(await importing('?dryRun=true', 'text/csv; charset=utf-8', 'externalId\n')).toEqual({
      status: 200,
      body: { rows: 1, added: 1, changed: 0, removed: 0, dryRun: true, registered: 2 },
    });
    expect(await importing('', 'application/x-ndjson', 'no rows')).toEqual({
      status: 422,
      body: { error: { code: 'devicesNotImported', message: 'nothing was imported\n1: no' } },
    });
    const long = 'x'.repeat(1 << 20);
    expect(await importing('?replace=true', 'text/csv', long)).toMatchObject({
      status: 409,
      body: { error: { code: 'importUnderWay' } },
    });
    expect(await importing('?replace=yes', 'text/csv', 'x')).toMatchObject({ status: 400 });
    expect(await importing('', 'text/html', 'x')).toMatchObject({ status: 415 });
    expect(await importing('', 'application/json', '{}')).toMatchObject({ status: 415 });
    expect((await ask('GET', '/devices/export?format=xml')).status).toBe(400);
    expect(calls).toEqual([
      ['import', { format: 'csv', replace: false, dryRun: true }, 'externalId\n', 1234],
      ['import', { format: 'jsonl', replace: false, dryRun: false }, 'no rows', 1234],
    ]);
    const exported = await fetchText('/devices/export?format=jsonl');
    expect(exported).toBe('{"externalId":"m1@a.example"}\n{"externalId":"m2@a.example"}\n');
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

  it('sees who was turned away, how many packets that stands for, and why', async () => {
    const row = {
      id: knock.id,
      kind: 'packet',
      reason: 'wrongSource',
      source: '192.0.2.66',
      target: 'udp 203.0.113.1:22314',
      mtcUser: 'acme',
      count: 3,
      firstSeen: '1970-01-01T00:00:00.000Z',
      lastSeen: '1970-01-01T00:00:01.000Z',
    };
    const { body } = await ask('GET', '/denials?kind=packet&source=192.0.2.66&limit=7');
    expect(body).toEqual({ packets: { ...seen, inspector }, denials: [row] });
    const { atMs: _, ...told } = refusal;
    expect((await ask('GET', '/refusals?server=acme')).body).toEqual([{ at: '1970-01-01T00:00:00.000Z', ...told }]);
    expect((await ask('GET', `/why/${knock.id}`)).body).toEqual({
      denial: row,
      meaning: 'not for this source',
      advice: 'look',
      toPass: ['more sources'],
    });
    expect(calls).toEqual([
      ['denials', { kind: 'packet', source: '192.0.2.66' }, 7],
      ['refusals', { server: 'acme' }, 100],
    ]);
  });

  it('follows denials as they come; one who does not read is cut, and nobody else', async () => {
    const read: string[] = [];
    const reader = http.get({ socketPath: path, path: '/denials/stream?reason=wrongSource', agent: false }, (answer) =>
      answer.setEncoding('utf8').on('data', (text: string) => read.push(text)),
    );
    const deaf = net.connect(path);
    deaf.on('error', () => {});
    deaf.write('GET /denials/stream HTTP/1.1\r\nhost: x\r\n\r\n');
    await until('both to follow', () => (followers.size === 2 ? true : undefined));
    const cut = () => calls.filter(([what]) => what === 'streamCut').length;
    await until('the deaf one to be cut', () => {
      for (const tell of followers) tell(Array.from({ length: 500 }, () => knock));
      return cut() > 0 ? true : undefined;
    });
    await until('its end', () => (followers.size === 1 ? true : undefined));
    expect(cut()).toBe(1);
    expect(JSON.parse(read.join('').split('\n')[0] ?? '')).toMatchObject({ id: knock.id, count: 3 });
    reader.destroy();
    await until('the other to leave', () => (followers.size === 0 ? true : undefined));
    deaf.destroy();
  });

  it('has a request explained', async () => {
    const question = { server: 'acme', device: 'm1@a.example', protocol: 'udp', port: 5683, durationSeconds: 60 };
    const { body } = await ask('POST', '/explain', question);
    expect(body).toEqual({ verdict: 'refuse', lines: [JSON.stringify(question)] });
    const from = await ask('POST', '/explain', { ...question, from: '192.0.2.1' });
    expect(JSON.parse(from.body.lines[0]).from.text).toBe('192.0.2.1');
    expect(await ask('POST', '/explain', { ...question, port: 2 })).toMatchObject({
      status: 404,
      body: { error: { code: 'serverUnknown', message: 'no server acme' } },
    });
  });

  it.each([
    ['DELETE', '/grants/other', undefined, 404, 'grantNotFound', /no live grant other/],
    ['GET', '/users/nobody', undefined, 404, 'mtcUserUnknown', /no MTC user nobody/],
    ['PUT', '/users/nobody/servers', { servers: [] }, 404, 'mtcUserUnknown', /no MTC user nobody/],
    ['PUT', '/users/acme/servers', { servers: 'all' }, 400, 'invalidArgument', /servers: /],
    ['POST', '/users/acme/preferences', { devices: '*@*', block: true }, 409, 'devicesNotOwned', /not its own/],
    ['POST', '/users/acme/preferences', { devices: 'm', quiet: 1 }, 400, 'invalidArgument', /quiet/],
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
    ['GET', '/denials?kind=odd', undefined, 400, 'invalidArgument', /kind/],
    ['GET', '/denials?limit=0', undefined, 400, 'invalidArgument', /limit/],
    ['GET', '/denials?colour=red', undefined, 400, 'invalidArgument', /colour/],
    ['GET', '/denials/stream?limit=1', undefined, 400, 'invalidArgument', /limit/],
    ['GET', '/refusals?limit=x', undefined, 400, 'invalidArgument', /limit/],
    ['GET', '/why/nothing', undefined, 404, 'idUnknown', /no denial, refusal or grant nothing/],
    ['GET', '/grants?device=m9', undefined, 404, 'deviceUnknown', /m9/],
    ['GET', '/grants?color=red', undefined, 400, 'invalidArgument', /color/],
    ['GET', '/grants?limit=0', undefined, 400, 'invalidArgument', /limit/],
    ['GET', '/grants?limit=1001', undefined, 400, 'invalidArgument', /limit/],
    ['GET', '/grants/other', undefined, 404, 'grantNotFound', /no grant other/],
    ['GET', '/devices/m9', undefined, 404, 'deviceUnknown', /m9/],
    ['POST', '/drain', { draining: 'yes' }, 400, 'invalidArgument', /draining/],
    ['GET', '/policy/diff?of=last', undefined, 400, 'invalidArgument', /of/],
    [
      'GET',
      '/nat/who?address=203.0.113.9&port=1&time=1',
      undefined,
      400,
      'invalidArgument',
      /seconds since 1970 \(9 or 10 digits\), or now; found "1"$/,
    ],
    [
      'GET',
      '/policy/editions/x',
      undefined,
      400,
      'invalidArgument',
      /^number: expected the number of an edition, from 1 on$/,
    ],
    [
      'POST',
      '/policy/apply',
      { digest: 'd', inForce: 1, comment: ' ' },
      400,
      'invalidArgument',
      /^comment: expected a comment of 1 to 500 characters$/,
    ],
    [
      'POST',
      '/users/acme/preferences',
      { devices: 'm', grantsPerDay: { grants: null, zone: 'UTC' } },
      400,
      'invalidArgument',
      /^grantsPerDay\.grants: expected a whole number from 1 to 1000000$/,
    ],
    ['GET', '/policy/diff?of=9', undefined, 409, 'editionUnknown', /no edition 9/],
    ['POST', '/policy/apply', { digest: 'd' }, 400, 'invalidArgument', /inForce/],
    ['POST', '/policy/apply', { digest: 'd', inForce: 2, confirmSeconds: 86_401 }, 400, 'invalidArgument', /confirm/],
    ['POST', '/policy/apply', { digest: 'd', inForce: 2, comment: 'x'.repeat(501) }, 400, 'invalidArgument', /comment/],
    ['POST', '/policy/apply', { digest: 'e', inForce: 2 }, 409, 'changedMeanwhile', /look again/],
    ['POST', '/policy/apply', { digest: 'x'.repeat(20_000), inForce: 2 }, 413, 'invalidArgument', /large/],
    ['GET', '/policy/editions/one', undefined, 400, 'invalidArgument', /number/],
    ['GET', '/policy/editions/1', undefined, 404, 'editionUnknown', /the last hundred are kept/],
    ['GET', '/nothing', undefined, 404, 'notFound', /GET \/nothing/],
    ['PUT', '/status', undefined, 404, 'notFound', /PUT \/status/],
  ])('%s %s %j is declined', async (method, at, body, status, code, message) => {
    const answered = await ask(method, at, body);
    expect([answered.status, answered.body.error.code]).toEqual([status, code]);
    expect(answered.body.error.message).toMatch(message);
  });

  it('sees what would change, applies just that, confirms; who did is known by the socket', async () => {
    expect((await ask('GET', '/policy/diff')).body).toMatchObject({ digest: 'd', inForce: 2, changes: [] });
    await ask('GET', '/policy/diff?of=before');
    await ask('GET', '/policy/diff?of=2');
    const wanted = { digest: 'd', inForce: 2, confirmSeconds: 60, comment: ' why ' };
    expect(await ask('POST', '/policy/apply', wanted)).toEqual({ status: 200, body: { ...editionRow, liveGrants: 1 } });
    expect((await ask('POST', '/policy/confirm', {})).body).toMatchObject({ confirmedBy: 'ann' });
    expect((await ask('GET', '/policy/editions')).body).toEqual([editionRow]);
    const files = [{ file: 'a.yaml', text: 'rules: []' }];
    expect((await ask('GET', '/policy/editions/3')).body).toEqual({ ...editionRow, files });
    expect(calls).toEqual([
      ['diff', undefined],
      ['diff', 'before'],
      ['diff', 2],
      ['apply', { ...wanted, comment: 'why' }, 1234],
      ['confirm', 1234],
    ]);
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
