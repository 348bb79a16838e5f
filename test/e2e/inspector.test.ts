/**
 * Who knocked: real packets that the gate denies, refused handshakes and
 * refused requests, as the operator sees them.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DenialList, DenialRow, RefusalRow, WhyAnswer } from '../../agent/api/denial-routes.ts';
import { call } from '../../agent/cli/client.ts';
import { API_PORT, DEVICE_NAME, TestAgent } from '../agent.ts';
import { until } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe } from '../probe.ts';
import { GATEWAY, INSIDE, ROGUE, SERVER, standardNetwork, UPSTREAM } from '../standard-network.ts';

const SHORT_MS = 100;

let network: Network;
let agent: TestAgent;
let rogue: Probe;

beforeAll(async () => {
  network = standardNetwork();
  agent = new TestAgent(network);
  rogue = await Probe.start(network, 'rogue');
  await agent.start();
  await agent.daemon.line(/"event":"inspectorSees"/);
});
afterAll(() => network.close());

/** Asked on the socket itself, which costs no process; the command is tried where it says so. */
const ask = <Answer>(path: string, of = agent) => call<Answer>({ socket: `${of.folder}/mtgate.sock` }, 'GET', path);
const list = (of = agent) => ask<DenialList>('/denials?limit=5000', of);

/** The first row that is as it should be. */
function row(like: Partial<DenialRow>, of = agent): Promise<DenialRow> {
  return until(JSON.stringify(like), async () => {
    const { denials } = await list(of);
    return denials.find((one) => Object.entries(like).every(([name, value]) => one[name as keyof DenialRow] === value));
  });
}

async function knock(to: { address: string; port: number }): Promise<void> {
  expect(await rogue.udp({ to, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
}

/** The process that reads the packets. */
function readers(of: TestAgent): number[] {
  const children = execFileSync('ps', ['--ppid', String(of.daemon.pid), '-o', 'pid=,args='], { encoding: 'utf8' });
  return children
    .split('\n')
    .filter((line) => line.includes('inspector/nflog.js'))
    .map((line) => Number.parseInt(line, 10));
}

describe('a knock', () => {
  test.each(['ipv4', 'ipv6'] as const)(
    'at a live %s endpoint is put down to its device, grant and MTC user',
    async (family) => {
      const { body } = await agent.grant({ applicationServer: { address: SERVER[family] } });
      const { address, port } = body.externalEndpoint;
      const target = `udp ${family === 'ipv4' ? address : `[${address}]`}:${port}`;
      await knock(body.externalEndpoint);
      const seen = await row({ target });
      expect(seen).toMatchObject({
        kind: 'packet',
        reason: 'wrongSource',
        source: ROGUE[family],
        count: 1,
        mtcUser: 'acme',
        device: DEVICE_NAME,
        grant: body.grantId,
      });
      await knock(body.externalEndpoint);
      expect(await row({ target, count: 2 })).toMatchObject({ id: seen.id, firstSeen: seen.firstSeen });

      await agent.curl('DELETE', `/grants/${body.grantId}`);
      await knock(body.externalEndpoint);
      expect(await row({ target, reason: 'grantEnded' })).toMatchObject({
        mtcUser: 'acme',
        grant: body.grantId,
        count: 1,
      });

      const why = await ask<WhyAnswer>(`/why/${seen.id}`);
      expect(why).toMatchObject({ meaning: 'a live grant, but not for this source', denial: { target } });
    },
  );

  test('where no grant ever was concerns nobody', async () => {
    await knock({ address: '203.0.113.3', port: 29_999 });
    const seen = await row({ target: 'udp 203.0.113.3:29999' });
    expect(seen).toMatchObject({ reason: 'noGrant', source: ROGUE.ipv4 });
    expect(Object.keys(seen)).not.toContain('mtcUser');
  });

  test('at an endpoint that rested through a restart is still put down to its grant', async () => {
    const { body } = await agent.grant();
    await agent.curl('DELETE', `/grants/${body.grantId}`);
    await agent.daemon.stop('SIGTERM');
    await agent.start();
    await agent.daemon.line(/"event":"inspectorSees"/);
    await knock(body.externalEndpoint);
    const { address, port } = body.externalEndpoint;
    expect(await row({ target: `udp ${address}:${port}` })).toMatchObject({ grant: body.grantId, mtcUser: 'acme' });
  });

  test('shows while one watches', async () => {
    const command = [process.execPath, 'dist/cli.js', 'denials', '--follow', '--source', ROGUE.ipv4];
    const socket = ['--socket', `${agent.folder}/mtgate.sock`];
    const line = /packet noGrant 192\.0\.2\.66 -> udp 203\.0\.113\.4:29000 - [\w-]+$/;
    let told = false;
    const follower = network.spawn('gateway', [...command, ...socket], { line }).finally(() => {
      told = true;
    });
    while (!told) await knock({ address: '203.0.113.4', port: 29_000 }); // whenever it begins to watch
    const following = await follower;
    await agent.daemon.stop('SIGTERM');
    await following.gone();
    await agent.start();
    await agent.daemon.line(/"event":"inspectorSees"/);
    expect(following.errors).toMatch(/the agent on .* ended the stream\nStart the agent/);
  });
});

describe('one list', () => {
  test('a refused handshake and a refused request stand beside the packets, and why works after a restart', async () => {
    await agent.grant({}, { as: null });
    const handshake = await row({ kind: 'handshake', reason: 'tlsNoCertificate' });
    expect(handshake).toMatchObject({ source: SERVER.ipv4, target: `tcp ${GATEWAY.ipv4}:${API_PORT}` });
    const { body } = await agent.grant({ devicePort: 23 });
    const request = await row({ kind: 'request', reason: 'noRuleAllows' });
    expect(request).toMatchObject({ source: SERVER.ipv4, server: 'head-end', device: DEVICE_NAME, target: 'udp/23' });
    expect((await ask<DenialList>('/denials?kind=handshake')).denials.every(({ kind }) => kind === 'handshake')).toBe(
      true,
    );

    await agent.daemon.stop('SIGTERM');
    await agent.start();
    const known = { reason: 'noRuleAllows', step: 'rule', server: 'head-end', device: DEVICE_NAME, target: 'udp/23' };
    const refusals = await ask<RefusalRow[]>('/refusals?server=head-end&reason=noRuleAllows');
    expect(refusals.find(({ instance }) => instance === body.instance)).toMatchObject(known);
    expect(await ask<WhyAnswer>(`/why/${body.instance}`)).toMatchObject({
      refusal: { ...known, why: expect.any(String) },
    });
    expect(await ask<WhyAnswer>(`/why/${body.instance.replace('urn:uuid:', '')}`)).toMatchObject({ refusal: known });
    expect(await ask<WhyAnswer>(`/why/${handshake.id}`)).toMatchObject({
      denial: { id: handshake.id, count: handshake.count },
    });
  });

  test('is printed as tables for people', async () => {
    const { stdout } = await agent.mtgate('denials', '--kind', 'handshake');
    expect(stdout).toMatch(
      /^\d+ packets denied since the start: \d+ inspected, \d+ not sampled, \d+ lost; the inspector: sees$/m,
    );
    expect(stdout).toMatch(/^lastSeen +count +kind +reason +source +target +whose +id$/m);
    const [, id = ''] = / tlsNoCertificate .* ([\w-]+)$/m.exec(stdout) ?? [];
    expect((await agent.mtgate('why', id)).stdout).toMatch(/^meaning +the client sent no certificate$/m);
    const refusals = await agent.mtgate('refusals', '--device', DEVICE_NAME);
    expect(refusals.stdout).toMatch(
      / noRuleAllows +rule +head-end +198\.51\.100\.10 +m1@meters\.example +udp\/23 +urn:uuid:/,
    );
    const unknown = await agent.mtgate('why', 'nothing');
    expect(unknown).toMatchObject({ status: 1, stderr: expect.stringContaining('idUnknown') });
  });
});

describe('the account', () => {
  const BURST = 400;
  const burst = () =>
    network.run('rogue', ['bash', '-c', `for i in $(seq ${BURST}); do echo > /dev/udp/203.0.113.5/20000; done`]);

  test('adds up at every moment of a burst, and after it', async () => {
    const before = (await list()).packets;
    let over = false;
    const sent = burst().finally(() => {
      over = true;
    });
    while (!over) {
      const { seen, inspected, unsampled, lost } = (await list()).packets;
      expect(seen).toBe(inspected + unsampled + lost);
      expect(Math.min(inspected, unsampled, lost)).toBeGreaterThanOrEqual(0);
    }
    await sent;
    const after = await until('nothing to be on its way', async () => {
      const { packets } = await list();
      return packets.lost === before.lost ? packets : undefined;
    });
    expect(after.seen - before.seen).toBeGreaterThanOrEqual(BURST);
    expect(after.unsampled).toBeGreaterThan(before.unsampled);
    const { count } = await row({ target: 'udp 203.0.113.5:20000' });
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThanOrEqual(after.inspected - before.inspected);
    const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
    const metric = (part: string) =>
      Number(new RegExp(`^mtgate_denied_packets_account\\{part="${part}"\\} (\\d+)$`, 'm').exec(stdout)?.[1]);
    expect(metric('seen')).toBe(metric('inspected') + metric('unsampled') + metric('lost'));
    expect(metric('seen')).toBeGreaterThanOrEqual(after.seen);
  });

  test('counts what came while the child was dead as lost', async () => {
    const before = (await list()).packets;
    const [reader] = readers(agent);
    process.kill(reader as number, 'SIGSTOP');
    await knock({ address: '203.0.113.5', port: 20_001 });
    const from = agent.daemon.lines.length;
    process.kill(reader as number, 'SIGKILL');
    const { packets } = await list();
    expect(packets.lost - before.lost).toBe(1);
    expect(packets.seen).toBe(packets.inspected + packets.unsampled + packets.lost);
    await agent.daemon.line(/"event":"inspectorSees"/, { from });
  });
});

describe('the child', () => {
  test('killed with kill -9 is started again, counted, and sees again', async () => {
    const [reader] = readers(agent);
    const { deaths } = (await list()).packets.inspector;
    const from = agent.daemon.lines.length;
    process.kill(reader as number, 'SIGKILL');
    await agent.daemon.line(/"signal":"SIGKILL".*"event":"inspectorDied"/, { from });
    await agent.daemon.line(/"event":"inspectorSees"/, { from });
    expect((await list()).packets.inspector).toMatchObject({ state: 'sees', deaths: deaths + 1 });
    await knock({ address: '203.0.113.6', port: 20_002 });
    expect(await row({ target: 'udp 203.0.113.6:20002' })).toMatchObject({ reason: 'noGrant', count: 1 });
  });

  test('that is blind is found out, and started again until it sees', async () => {
    const { deaths, blindnesses } = (await list()).packets.inspector;
    const from = agent.daemon.lines.length;
    const drop =
      'table inet blinding { chain c { type filter hook output priority -400; meta mark 0xd00000ff drop\n }\n }';
    await network.run('gateway', ['nft', drop]);
    process.kill(readers(agent)[0] as number, 'SIGKILL'); // the next one tests itself at once
    await agent.daemon.line(/"why":"the self-test's packet did not come back","event":"inspectorBlind"/, { from });
    await network.run('gateway', ['nft', 'delete table inet blinding']);
    await agent.daemon.line(/"event":"inspectorSees"/, { from });
    expect((await list()).packets.inspector).toMatchObject({
      state: 'sees',
      deaths: deaths + 2,
      blindnesses: blindnesses + 1,
    });
  });

  test('outlives an interface that is deleted, and ends with the agent, also by kill -9', async () => {
    const [reader] = readers(agent);
    await network.run('gateway', ['ip', 'link', 'add', 'spare', 'type', 'veth', 'peer', 'name', 'spare2']);
    await network.run('gateway', ['ip', 'link', 'delete', 'spare']);
    await network.run('gateway', ['ip', 'link', 'set', INSIDE, 'down']);
    await network.run('gateway', ['ip', 'link', 'set', INSIDE, 'up']);
    await knock({ address: '203.0.113.6', port: 20_003 });
    expect(await row({ target: 'udp 203.0.113.6:20003' })).toMatchObject({ count: 1 });
    expect(readers(agent)).toEqual([reader]);

    await agent.daemon.stop('SIGKILL');
    await until('the end of the child', () => (existsSync(`/proc/${reader}`) ? undefined : true));
    await agent.start();
    await agent.daemon.line(/"event":"inspectorSees"/);
  });

  test('a self-test that cannot be sent is said, and nothing else suffers', async () => {
    const { blindnesses } = (await list()).packets.inspector;
    const from = agent.daemon.lines.length;
    // Without the loopback's address and without a route there is no way to send it.
    await network.run('gateway', ['ip', 'link', 'set', 'lo', 'down']);
    await network.run('gateway', ['ip', 'address', 'flush', 'dev', 'lo']);
    await network.run('gateway', ['ip', 'route', 'delete', 'default']);
    process.kill(readers(agent)[0] as number, 'SIGKILL');
    const blind = /"why":"the self-test's packet could not be sent: ENETUNREACH","event":"inspectorBlind"/;
    await agent.daemon.line(blind, { from });
    await network.run('gateway', ['ip', 'link', 'set', 'lo', 'up']);
    await network.run('gateway', ['ip', 'route', 'add', 'default', 'via', UPSTREAM.ipv4]);
    await knock({ address: '203.0.113.6', port: 20_004 });
    expect(await row({ target: 'udp 203.0.113.6:20004' })).toMatchObject({ count: 1 });
    expect((await list()).packets.inspector).toMatchObject({ state: 'blind', blindnesses: blindnesses + 1 });
  });
});

test('a denial store that is damaged is put aside, and the agent starts', async () => {
  await agent.daemon.stop('SIGTERM');
  agent.write('store/denials.db', 'this is no database, and long enough to be none');
  await agent.start();
  expect(agent.logged('denialStoreUnusable')).toHaveLength(1);
  expect(readFileSync(`${agent.folder}/store/denials.db.unusable`, 'utf8')).toContain('this is no database');
  expect((await agent.grant({ devicePort: 7100 })).status).toBe(201);
  expect(await ask<RefusalRow[]>('/refusals')).toEqual([]);
});

test("two agents in two namespaces: neither sees the other's", async () => {
  const other = standardNetwork();
  try {
    const second = new TestAgent(other);
    await second.start();
    await second.daemon.line(/"event":"inspectorSees"/);
    const seen = (await list()).packets.seen;
    await other.run('rogue', ['bash', '-c', 'echo > /dev/udp/203.0.113.1/20007']);
    await row({ target: 'udp 203.0.113.1:20007' }, second);
    expect((await list()).denials.some(({ target }) => target === 'udp 203.0.113.1:20007')).toBe(false);
    expect((await list()).packets.seen).toBe(seen);
  } finally {
    await other.close();
  }
});
