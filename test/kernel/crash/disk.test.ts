/**
 * A disk that takes nothing, by the daemon as it runs: full, or failing to
 * sync. Nothing opens that is not on record, what ends is closed first, live
 * grants go on, and it goes on by itself when the disk does.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { prefix } from '../../../agent/core/net.ts';
import { entryCount } from '../../../agent/core/pool.ts';
import { DEVICE_PORT, TestAgent } from '../../agent.ts';
import { program, ROOT, until } from '../../child.ts';
import type { Network } from '../../network.ts';
import { Probe } from '../../probe.ts';
import { DEVICE, GRANTS_POOL, standardNetwork } from '../../standard-network.ts';
import { keptByTheDead, liveEntries } from './kept.ts';

const ENTRIES = entryCount({
  ipv4: [prefix(GRANTS_POOL.ipv4)],
  ipv6: [prefix(GRANTS_POOL.ipv6)],
  portLow: 20_000,
  portCount: 100,
  keyedGrants: 65_536,
});
const NOT_WRITTEN = { status: 503, body: { code: 'UNAVAILABLE' } };

let network: Network;
let agent: TestAgent;
let store: string;
let server: Probe;

beforeEach(async () => {
  network = standardNetwork();
  store = network.disk(4);
  agent = new TestAgent(network, { store, ports: '20000-20099' });
  await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4), { line: /^ready$/ });
  server = await Probe.start(network, 'server');
});
afterEach(() => network.close());

async function granted(devicePort: number) {
  const { status, body } = await agent.grant({ devicePort });
  expect(status).toBe(201);
  return body;
}

const natRecord = async () => (await agent.mtgate('status')).stdout;
const show = async (id: string) => (await agent.curl('GET', `/grants/${id}`)).body;
const extend = (id: string) => agent.curl('POST', `/grants/${id}/extend`, { body: { durationSeconds: 900 } });
const openPorts = () =>
  liveEntries(agent.bpffs, ENTRIES)
    .map(({ mapping }) => mapping.device.port)
    .sort();

/** By the records of the agent that was killed. */
const livePorts = () =>
  keptByTheDead(store)
    .records.filter(({ state }) => state === 'live')
    .map(({ devicePort }) => devicePort)
    .sort();

/** What must hold while nothing can be written, of one grant that goes on and two that are ended now. */
async function holdsOut(): Promise<{ goesOn: string; ended: string; revoked: string; instance: string }> {
  const [goesOn, ended, revoked] = [await granted(DEVICE_PORT), await granted(7001), await granted(7002)];
  await breakDisk();

  const refused = await agent.grant({ devicePort: 7003 });
  expect(refused).toMatchObject(NOT_WRITTEN);
  expect(await agent.refusal(refused.body)).toMatchObject({ reason: 'recordNotWritten', step: 'record' });
  expect(await extend(goesOn.grantId)).toMatchObject(NOT_WRITTEN);
  expect(await agent.curl('DELETE', `/grants/${ended.grantId}`)).toMatchObject({
    status: 503,
    body: { code: 'UNAVAILABLE', detail: expect.stringContaining('its packets have stopped') },
  });
  const revoke = await agent.mtgate('grants', 'revoke', revoked.grantId);
  expect(revoke.status).toBe(1);
  expect(revoke.stderr).toMatch(/storeFailed: its packets have stopped.*Look at the disk/s);

  expect(openPorts()).toEqual([DEVICE_PORT]);
  expect(await show(ended.grantId)).toMatchObject({ status: 'ENDED', endCause: 'ENDED_BY_SERVER' });
  expect(await show(goesOn.grantId)).toMatchObject({ status: 'LIVE', expiresAt: goesOn.expiresAt });
  expect(await server.udp({ to: goesOn.externalEndpoint, text: 'on' })).toMatchObject({ outcome: 'answer' });
  await agent.daemon.line(/"code":"storeFailed".*"event":"tickFailed"/);
  const metrics = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  expect(metrics.stdout).toMatch(/^mtgate_refusals_total\{.*recordNotWritten.*\} [1-9]/m);
  return {
    goesOn: goesOn.grantId,
    ended: ended.grantId,
    revoked: revoked.grantId,
    instance: refused.body.instance,
  };
}

let breakDisk: () => Promise<void>;

describe('a disk that is full', () => {
  const filler = () => join(store, 'filler');

  test('nothing opens, what ends is closed, and when there is room it goes on and records what it could not', async () => {
    breakDisk = async () => {
      const fd = openSync(filler(), 'w');
      for (const size of [4096, 1]) {
        try {
          for (;;) writeSync(fd, Buffer.alloc(size));
        } catch {} // full
      }
      closeSync(fd);
    };
    await agent.start();
    const { goesOn, ended, revoked, instance } = await holdsOut();
    await agent.daemon.line(/"event":"denialsNotKept"/);
    await until(
      'that the NAT record says that it is none',
      async () => (await natRecord()).includes('NOT RECORDING: ') || undefined,
    );

    rmSync(filler());
    await until('a grant', async () => ((await agent.grant({ devicePort: 7004 })).status === 201 ? true : undefined));
    expect((await agent.curl('DELETE', `/grants/${ended}`)).status).toBe(204);
    expect((await extend(goesOn)).status).toBe(200);
    await until('the refusal in its file', async () => {
      const kept = readFileSync(join(store, 'denials.db-wal'));
      return kept.includes(instance) || undefined;
    });
    await until('that it records again', async () => (await natRecord()).includes('  recording; ') || undefined);
    await agent.daemon.stop('SIGKILL');
    const records = new Map(keptByTheDead(store).records.map((record) => [record.id as string, record]));
    expect(records.get(ended)).toMatchObject({ endCause: 'endedByServer' });
    expect(records.get(revoked)).toMatchObject({ endCause: 'revokedByOperator' });
    await agent.start();
    expect(agent.logged('recovered')).toMatchObject([{ live: 2, ended: 0, strayEntriesEnded: 0 }]);
    expect((await agent.mtgate('why', instance)).stdout).toContain('cannot keep its records');
  });
});

describe('a disk that fails to sync', () => {
  test('what was not durable was not acknowledged, and does not come back; what was, is there after kill -9', async () => {
    const library = join(agent.folder, 'failing-sync.so');
    const control = join(agent.folder, 'sync-fails');
    const log = join(agent.folder, 'sync.log');
    const source = join(ROOT, 'test/kernel/crash/failing-sync.c');
    execFileSync('cc', ['-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', library, source, '-ldl']);
    const env = { LD_PRELOAD: library, SYNC_FOLDER: store, SYNC_FAILS: control, SYNC_LOG: log };
    breakDisk = async () => writeFileSync(control, '');
    await agent.start(env);
    const { goesOn, ended, revoked } = await holdsOut();
    const calls = readFileSync(log, 'utf8').split('\n');
    expect(calls).toContain('fsync EIO'); // which of the two SQLite calls is its build's choice

    // Killed with the disk still failing: what the page cache kept of refused writes must not pass for a record.
    await agent.daemon.stop('SIGKILL');
    expect(livePorts()).not.toContain(7003);
    rmSync(control);
    await agent.start(env);
    expect(openPorts()).toEqual([DEVICE_PORT]);
    for (const id of [ended, revoked]) expect(await show(id)).toMatchObject({ status: 'ENDED' });
    expect(await show(goesOn)).toMatchObject({ status: 'LIVE' });

    // And once more, this time it recovers by itself.
    writeFileSync(control, '');
    expect(await extend(goesOn)).toMatchObject(NOT_WRITTEN);
    rmSync(control);
    const after = await granted(7006);
    expect((await extend(goesOn)).status).toBe(200);

    // Killed in the moment of the refusal: nothing was written since.
    writeFileSync(control, '');
    expect(await agent.grant({ devicePort: 7005 })).toMatchObject(NOT_WRITTEN);
    await agent.daemon.stop('SIGKILL');
    rmSync(control);
    expect(livePorts()).toEqual([DEVICE_PORT, 7006]);
    await agent.start(env);
    expect(await show(after.grantId)).toMatchObject({ status: 'LIVE', expiresAt: after.expiresAt });
    expect(openPorts()).toEqual([DEVICE_PORT, 7006]);
  });
});
