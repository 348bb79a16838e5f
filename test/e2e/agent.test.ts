/**
 * The whole way, on real packets: the daemon on the gateway, curl as MTC
 * server, real programs as devices. One agent for all tests of a kind of
 * attachment; what a test leaves it takes away.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { address, contains, prefix } from '../../agent/core/net.ts';
import { DEVICE_NAME, DEVICE_PORT, RULES, TestAgent } from '../agent.ts';
import { Capture } from '../capture.ts';
import { type Child, PATIENCE_MS, program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { likeWires } from '../offloads.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GATEWAY,
  INNER_GATEWAY,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  SERVER_SECOND,
  standardNetwork,
  UPLINK,
} from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
/** UDP that is to meet silence is followed by a datagram that is answered; so silence is known at once. */
const SHORT_MS = 300;

/** The last is also what the packets of hosts on wires meet where a driver has XDP. */
const WAYS = [{ attach: 'tcx' }, { attach: 'clsact' }, { attach: 'tcx', xdp: true }] as const;

describe.each(WAYS)('the gate attached by %o', ({ attach, ...more }) => {
  const xdp = 'xdp' in more;
  let network: Network;
  let agent: TestAgent;
  let device: Child;
  let server: Probe;
  let rogue: Probe;

  beforeAll(async () => {
    network = standardNetwork();
    if (xdp) likeWires(network);
    const hook = xdp ? ', hook: xdp' : '';
    agent = new TestAgent(network, { attach, outside: `${OUTSIDE}${hook}`, inside: `${INSIDE}${hook}` });
    device = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
      line: /^ready$/,
    });
    server = await Probe.start(network, 'server');
    rogue = await Probe.start(network, 'rogue');
    await agent.start();
  });
  afterAll(async () => {
    await network.close();
  });
  afterEach(async () => {
    for (const grant of await agent.grants()) await agent.curl('DELETE', `/grants/${grant.grantId}`);
  });

  const applicationServer = (family: 'ipv4' | 'ipv6') => ({ address: SERVER[family] });
  /** A granted endpoint, and the grant's id. */
  async function granted(
    changes: Record<string, unknown> = {},
  ): Promise<{ id: string; to: { address: string; port: number } }> {
    const { status, body } = await agent.grant(changes);
    expect(body).toMatchObject({ status: 'LIVE' });
    expect(status).toBe(201);
    return { id: body.grantId, to: body.externalEndpoint };
  }
  const live = async () => JSON.parse((await agent.mtgate('grants', '--json')).stdout) as unknown[];

  test('is what the status says', async () => {
    const { stdout } = await agent.mtgate('status', '--json');
    const { attachments, closed, liveGrants } = JSON.parse(stdout);
    expect(attachments.sort()).toEqual([
      `insideEgress inside ${attach}`,
      `insideIngress inside ${attach}`,
      ...(xdp ? ['insideXdp inside native'] : []),
      `outsideEgress outside ${attach}`,
      `outsideIngress outside ${attach}`,
      ...(xdp ? ['outsideXdp outside native'] : []),
    ]);
    expect({ closed, liveGrants }).toEqual({ closed: true, liveGrants: 0 });
  });

  describe.each(FAMILIES)('over %s', (family) => {
    test('direct contact is blocked, even where a route leads to the device', async () => {
      await network.run('wan', ['ip', 'route', 'replace', REALM_PREFIX[family], 'via', GATEWAY[family]]);
      const to = { address: DEVICE[family], port: DEVICE_PORT };
      expect(await server.udp({ to, text: 'direct', waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      expect(await server.tcp({ to, text: 'direct', waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      const own = { address: INNER_GATEWAY[family], port: 22 };
      expect(await server.udp({ to: own, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      expect(device.lines.some((line) => line.includes('direct'))).toBe(false);
    });

    test.each(['udp', 'tcp'] as const)('a %s grant opens one way to the device, for one address', async (protocol) => {
      const text = `granted ${family} ${protocol}`;
      const { to } = await granted({ protocol: protocol.toUpperCase(), applicationServer: applicationServer(family) });
      expect(await server[protocol]({ to, from: { address: SERVER[family] }, text })).toMatchObject({
        outcome: 'answer',
        text,
      });
      expect(await rogue[protocol]({ to, text: `rogue ${text}`, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      const second = { address: SERVER_SECOND[family] };
      expect(await server[protocol]({ to, from: second, text: `second ${text}`, waitMs: SHORT_MS })).toEqual({
        outcome: 'silence',
      });
      expect(device.lines.some((line) => /rogue|second/.test(line))).toBe(false);
    });

    test('the first packet after the answer passes, also after a knock before the grant', async () => {
      // Whatever endpoint will be drawn, somebody has knocked there: connection tracking must not have kept it.
      const first = await granted({ applicationServer: applicationServer(family) });
      expect(await server.udp({ to: { ...first.to, port: first.to.port ^ 1 }, waitMs: SHORT_MS })).toEqual({
        outcome: 'silence',
      });
      const from = { address: SERVER[family], port: 41_000 };
      expect(await server.udp({ to: first.to, from, text: 'first' })).toMatchObject({
        outcome: 'answer',
        text: 'first',
      });
      await agent.curl('DELETE', `/grants/${first.id}`);
      expect(await server.udp({ to: first.to, from, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
      const next = await granted({ applicationServer: applicationServer(family) });
      expect(await server.udp({ to: next.to, from, text: 'next' })).toMatchObject({ outcome: 'answer', text: 'next' });
    });

    test.each(['udp', 'tcp'] as const)('giving a grant back stops a running %s session', async (protocol) => {
      const { id, to } = await granted({
        protocol: protocol.toUpperCase(),
        applicationServer: applicationServer(family),
      });
      const session = await Session.open(network, 'server', protocol, to, { address: SERVER[family] });
      session.say('stream');
      await session.next();
      expect((await agent.curl('DELETE', `/grants/${id}`)).status).toBe(204);
      await session.quiet();
      await session.stop();
    });

    test('a large TCP transfer arrives whole, with all offloads on', async () => {
      const { to } = await granted({ protocol: 'TCP', applicationServer: applicationServer(family) });
      const text = Array.from({ length: 60_000 }, (_, i) => i).join(' ');
      const session = await Session.open(network, 'server', 'tcp', to, { address: SERVER[family] });
      session.say(text);
      const echo = await until('the echo of it all', () => session.texts()[0]);
      expect(echo).toBe(text);
      await session.stop();
    });
  });

  test('what a device begins itself comes from the egress pool, and its inner address is nowhere on the wire', async () => {
    const capture = await Capture.start(network, 'wan', UPLINK);
    const service = await network.spawn('server', program('test/device.ts', '7100', SERVER.ipv4, SERVER.ipv6), {
      line: /^ready$/,
    });
    const onDevice = await Probe.start(network, 'device');
    for (const family of FAMILIES) {
      const { to } = await granted({ protocol: 'TCP', applicationServer: applicationServer(family) });
      expect(await server.tcp({ to, from: { address: SERVER[family] } })).toMatchObject({ outcome: 'answer' });
      expect(await onDevice.udp({ to: { address: SERVER[family], port: 7100 }, text: `out ${family}` })).toMatchObject({
        outcome: 'answer',
      });
      const seen = await service.line(new RegExp(`out ${family}$`));
      const from = /^udp \[?([^\]\s]+?)\]?:\d+ /.exec(seen)?.[1] ?? '';
      expect(contains(prefix(EGRESS_POOL[family]), address(from))).toBe(true);
      // A closed port of the device: its ICMP error quotes what it received.
      const closed = await granted({ devicePort: 7999, applicationServer: applicationServer(family) });
      await server.udp({ to: closed.to, from: { address: SERVER[family] }, waitMs: SHORT_MS });
      await network.run('wan', ['ip', 'route', 'replace', REALM_PREFIX[family], 'via', GATEWAY[family]]);
    }
    const marker = 'the end of it';
    await server.udp({ to: { address: GATEWAY.ipv4, port: 9 }, text: marker, waitMs: SHORT_MS });
    await capture.through(new TextEncoder().encode(marker));
    expect(capture.frames().length).toBeGreaterThan(10);
    for (const family of FAMILIES) {
      const { bytes } = address(DEVICE[family]);
      expect(capture.holding(family === 'ipv4' ? bytes.subarray(12) : bytes)).toEqual([]);
    }
    await Promise.all([capture.stop(), service.stop(), onDevice.stop()]);
  });

  test('an address that is given to another device ends the grants toward it, there and then', async () => {
    const bind = await agent.mtgate('device', 'bind', 'm2@meters.example', 'iot', '10.20.0.9');
    expect(bind).toMatchObject({ status: 0, stdout: 'bound m2@meters.example to 10.20.0.9 in iot\n' });
    const { id } = await granted({ device: { networkAccessIdentifier: 'm2@meters.example' } });
    expect(await agent.mtgate('device', 'unbind', 'm2@meters.example', 'iot', '10.20.0.9')).toMatchObject({
      status: 0,
    });
    expect((await agent.curl('GET', `/grants/${id}`)).body).toMatchObject({
      status: 'ENDED',
      endCause: 'DEVICE_UNBOUND',
    });
    const taken = await agent.mtgate('device', 'bind', 'm2@meters.example', 'iot', DEVICE.ipv4);
    expect(taken.status).toBe(1);
    expect(taken.stderr).toContain(`addressBoundByFile: the devices file binds it to ${DEVICE_NAME}`);
    const stray = await agent.mtgate('device', 'bind', 'm2@meters.example', 'iot', '192.168.1.1');
    expect(stray.stderr).toContain('addressNotInRealm');
  });

  test("the tracked flows of an address that changes hands are cut: they are not the next device's", async () => {
    const service = await network.spawn('server', program('test/device.ts', '7200', SERVER.ipv4), { line: /^ready$/ });
    await network.run('device', ['ip', 'address', 'add', '10.20.0.9/32', 'dev', UPLINK]);
    await agent.mtgate('device', 'bind', 'm2@meters.example', 'iot', '10.20.0.9');
    const begun = { address: SERVER.ipv4, port: 7200 };
    const session = await Session.open(network, 'device', 'tcp', begun, { address: '10.20.0.9' });
    session.say('stream');
    await session.next();
    expect(await agent.mtgate('device', 'unbind', 'm2@meters.example', 'iot', '10.20.0.9')).toMatchObject({
      status: 0,
    });
    await session.quiet();
    const { stdout } = await network.run('gateway', ['conntrack', '-L']);
    expect(stdout).not.toContain('=10.20.0.9 ');
    await session.stop();
    await service.stop();
  });

  test('an operator revokes a grant, and explains what was decided', async () => {
    const { id, to } = await granted();
    expect(await agent.mtgate('grants', 'revoke', id)).toMatchObject({ status: 0 });
    expect(await server.udp({ to, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
    expect((await agent.curl('GET', `/grants/${id}`)).body).toMatchObject({ endCause: 'REVOKED_BY_OPERATOR' });
    expect((await agent.mtgate('grants', 'revoke', id)).stderr).toContain('grantNotFound');
    const explained = await agent.mtgate(
      'explain',
      '--live',
      '--server',
      'head-end',
      '--device',
      DEVICE_NAME,
      '--port',
      '23',
    );
    expect(explained.stdout).toContain('noRuleAllows');
  });

  test('who has no certificate, or is authorised by nobody, is refused with the reason in the log', async () => {
    expect(await agent.grant({}, { as: null })).toMatchObject({
      status: 0,
      complaint: expect.stringMatching(/reset by peer|closed|empty reply/i), // and no word of why
    });
    await agent.daemon.line(/"event":"tlsRefused"/); // the handshake's end is not the client's
    expect(agent.logged('tlsRefused').at(-1)).toMatchObject({ reason: 'tlsNoCertificate', remote: SERVER.ipv4 });
    const { status, body } = await agent.grant({}, { as: agent.stranger, from: 'rogue' });
    expect({ status, code: body.code }).toEqual({ status: 404, code: 'IDENTIFIER_NOT_FOUND' });
    expect(await agent.refusal(body)).toMatchObject({
      reason: 'notAuthorisedByMtcUser',
      step: 'mtcUser',
      server: 'stranger',
      from: ROGUE.ipv4,
    });
    const elsewhere = await agent.grant({}, { as: agent.headEnd, from: 'rogue' });
    expect(elsewhere).toMatchObject({ status: 403, body: { code: 'PERMISSION_DENIED' } });
    expect(await agent.refusal(elsewhere.body)).toMatchObject({ reason: 'sourceNotAllowed' });
  });

  test('rules that are invalid are not put in force; valid ones end what they no longer allow', async () => {
    const { id, to } = await granted();
    agent.write('rules/rules.yaml', RULES.replace('servers: [head-end]', 'servers: [nobody]'));
    const refused = await agent.mtgate('apply', '--yes');
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/rules\.yaml:17:24: unknown server "nobody"/);
    expect(await server.udp({ to })).toMatchObject({ outcome: 'answer' });
    const moved = RULES.replace('"7000-7999"', '"7500-7999"').replace(`port: ${DEVICE_PORT}`, 'port: 7500');
    agent.write('rules/rules.yaml', moved);
    expect(await agent.mtgate('apply', '--yes')).toMatchObject({ status: 0 });
    expect(await server.udp({ to, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
    expect((await agent.curl('GET', `/grants/${id}`)).body).toMatchObject({ endCause: 'RULE_CHANGED' });
    agent.write('rules/rules.yaml', RULES);
    expect(await agent.mtgate('apply', '--yes')).toMatchObject({ status: 0 });
  });

  test('nft flush ruleset: still closed, live grants go on, and the base comes back', async () => {
    const { to } = await granted();
    await network.run('gateway', ['nft', 'flush', 'ruleset']);
    expect(await server.udp({ to })).toMatchObject({ outcome: 'answer' });
    expect(await rogue.udp({ to, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
    for (const family of FAMILIES) {
      await network.run('wan', ['ip', 'route', 'replace', REALM_PREFIX[family], 'via', GATEWAY[family]]);
      const direct = { address: DEVICE[family], port: DEVICE_PORT };
      expect(await server.udp({ to: direct, text: 'flushed', waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });
    }
    expect(device.lines.some((line) => line.includes('flushed'))).toBe(false);
    await agent.daemon.line(/"event":"gapFound"/);
    await until('the base', async () => {
      const { status } = await network.run('gateway', ['nft', 'list', 'table', 'inet', 'mtgate'], { mayFail: true });
      return status === 0 ? true : undefined;
    });
  });

  test('a gate that somebody took away: no grant until it hangs again, and it does', async () => {
    const { to } = await granted();
    const gone = attach === 'tcx' ? `rm ${agent.bpffs}/links/outsideIngress-*` : 'tc filter del dev outside ingress';
    const from = agent.daemon.lines.length;
    await network.run('gateway', ['sh', '-c', gone]);
    await agent.daemon.line(/"gap":"the gate does not hang.*"event":"gapFound"/, { from });
    await agent.daemon.line(/"event":"gapRepaired"/, { from });
    expect(await server.udp({ to, text: 'again' })).toMatchObject({ outcome: 'answer', text: 'again' });
    expect(await agent.grants()).toHaveLength(1);
  });

  test('metrics say what was carried and refused', async () => {
    const { to } = await granted();
    await server.udp({ to });
    const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
    expect(stdout).toMatch(/^mtgate_packets_total\{verdict="grantedIn"\} [1-9]/m);
    expect(stdout).toMatch(/^mtgate_live_grants 1$/m);
    expect(stdout).toMatch(/^mtgate_closed 1$/m);
    expect(stdout).toMatch(/^mtgate_streams_cut_total 0$/m);
    for (const of of ['p99', 'worst'])
      expect(stdout).toMatch(new RegExp(`^mtgate_loop_delay_seconds\\{of="${of}"\\} \\d`, 'm'));
    expect(stdout).toMatch(/^mtgate_denied_packets_total\{reason="wrongSource"\} \d+$/m);
  });

  test('killed with kill -9: live grants go on to their end and no further, and a restart knows them', async () => {
    const long = await granted({ devicePort: 7001, durationSeconds: 600 });
    const ended = await granted({ devicePort: 7002 });
    await agent.curl('DELETE', `/grants/${ended.id}`);
    // Long enough for two sessions to be opened on a busy machine: eight seconds, or more on one that asks for patience.
    const durationSeconds = Math.ceil(PATIENCE_MS / 1_400);
    const short = await granted({ durationSeconds });
    const tcp = await granted({ protocol: 'TCP', durationSeconds });
    const sessions = await Promise.all([
      Session.open(network, 'server', 'udp', short.to),
      Session.open(network, 'server', 'tcp', tcp.to),
    ]);
    for (const session of sessions) session.say('stream');
    await Promise.all(sessions.map((session) => session.next()));
    await agent.daemon.stop('SIGKILL');
    await Promise.all(sessions.map((session) => session.next()));
    await Promise.all(sessions.map((session) => session.quiet(300)));
    await Promise.all(sessions.map((session) => session.stop()));
    expect(await server.udp({ to: short.to, waitMs: SHORT_MS })).toEqual({ outcome: 'silence' });

    await agent.start();
    expect(agent.logged('recovered')[0]).toMatchObject({ live: 1, ended: 2, reopened: 0, strayEntriesEnded: 0 });
    const onPort = await network.spawn('device', program('test/device.ts', '7001', DEVICE.ipv4), { line: /^ready$/ });
    expect(await server.udp({ to: long.to, text: 'after' })).toMatchObject({ outcome: 'answer', text: 'after' });
    await onPort.stop();
    const causes = await Promise.all(
      [short, tcp, ended].map(async ({ id }) => (await agent.curl('GET', `/grants/${id}`)).body.endCause),
    );
    expect(causes).toEqual(['EXPIRED', 'EXPIRED', 'ENDED_BY_SERVER']);
    expect(await live()).toHaveLength(1);
  });

  test('stopped in order, it leaves the gateway closed, and a restart loses no packet of a live grant', async () => {
    const { to } = await granted();
    const session = await Session.open(network, 'server', 'udp', to);
    session.say('stream');
    await session.next();
    await agent.daemon.stop('SIGTERM');
    const during = session.received;
    await agent.start();
    expect(session.received).toBeGreaterThan(during);
    // The device counts up: a number that is missing was lost on the way.
    const numbers = session.texts().map(Number);
    expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
    await session.stop();
  });
});
