/**
 * `npm run demo`: the main job on real packets, step by step, each with what
 * was seen and a mark. Exit code 1 if any step fails. `--keep` leaves it
 * running and says what to play with; `--ggsn` tells another story instead,
 * beside a real user plane (ggsn.ts).
 */
import { join } from 'node:path';
import { address, contains, formatEndpoint, prefix } from '../../agent/core/net.ts';
import { API_PORT, DEVICE_NAME, DEVICE_PORT, TestAgent } from '../agent.ts';
import { Capture } from '../capture.ts';
import { program, ROOT, until } from '../child.ts';
import { Probe } from '../probe.ts';
import { Session } from '../session.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GATEWAY,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  standardNetwork,
  UPLINK,
} from '../standard-network.ts';
import { ggsnDemo } from './ggsn.ts';
import { answer, must, Steps, say, silence, status } from './steps.ts';

const PICTURE = `
  MTC server ${SERVER.ipv4} ─┐             ┌──────────────────────┐
                           ├─ internet ──┤ gateway: mtgate      ├── device ${DEVICE_NAME}
  rogue      ${ROGUE.ipv4}    ─┘             │ grants 203.0.113.0/29 │   ${DEVICE.ipv4}, TCP and UDP port ${DEVICE_PORT}
                                         │ egress 203.0.113.8/29 │
                                         └──────────────────────┘
  Each is a network namespace of its own; the packets are real.
`;

/** How long silence is listened to. */
const SILENCE_MS = 700;

if (process.argv.includes('--ggsn')) process.exit(await ggsnDemo());

const steps = new Steps();

say(PICTURE);
const network = standardNetwork();
const agent = new TestAgent(network);
const device = await network.spawn('device', program('test/device.ts', String(DEVICE_PORT), DEVICE.ipv4, DEVICE.ipv6), {
  line: /^ready$/,
});
const server = await Probe.start(network, 'server');
const rogue = await Probe.start(network, 'rogue');
// The whole outside knows a way to the inside: it must be the gateway that closes it.
await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX.ipv4, 'via', GATEWAY.ipv4]);
await agent.start();
const wire = await Capture.start(network, 'wan', UPLINK);

const direct = { address: DEVICE.ipv4, port: DEVICE_PORT };
let id = '';
let to = { address: '', port: 0 };
const shown = () => formatEndpoint({ address: address(to.address), port: to.port });
const ask = async (changes = {}) => {
  const reply = await agent.grant(changes);
  status(reply, 201);
  id = reply.body.grantId;
  to = reply.body.externalEndpoint;
};

await steps.take('Direct contact with the device is blocked', async () => {
  await silence(server.udp({ to: direct, text: 'direct', waitMs: SILENCE_MS }));
  await silence(server.tcp({ to: direct, text: 'direct', waitMs: SILENCE_MS }));
  must(!device.lines.some((line) => line.includes('direct')), 'the device saw it');
  return `UDP and TCP to ${DEVICE.ipv4}:${DEVICE_PORT}: silence, although a route leads there; the device saw nothing`;
});

await steps.take('A scanner of the grants pool gets silence', async () => {
  const ports = [22, 80, 443, 20_000, 20_001, 25_000];
  for (const port of ports) await silence(rogue.tcp({ to: { address: '203.0.113.1', port }, waitMs: 150 }));
  await silence(rogue.udp({ to: { address: '203.0.113.2', port: 20_000 }, waitMs: SILENCE_MS }));
  return `${ports.length} TCP ports and a UDP port: no SYN-ACK, no reset, no ICMP`;
});

await steps.take('Without a certificate, TLS refuses', async () => {
  const { status: was, complaint } = await agent.grant({}, { as: null });
  must(was === 0 && /reset by peer|closed|empty reply/i.test(complaint), `saw HTTP ${was} ${complaint}`);
  return complaint;
});

await steps.take('A server that is known, but authorised by nobody, is refused', async () => {
  const reply = await agent.grant({}, { as: agent.stranger, from: 'rogue' });
  status(reply, 404);
  const line = await agent.refusal(reply.body);
  must(line['reason'] === 'notAuthorisedByMtcUser', `the log says ${JSON.stringify(line)}`);
  return `outside: "${reply.body.title}"; in the agent's log: ${line['reason']} (${line['why']})`;
});

await steps.take('The authorised server asks, and the device answers through the external endpoint', async () => {
  await ask();
  await answer(server.udp({ to, text: 'hello, meter' }), 'hello, meter');
  return `201, and the first packet after it: ${shown()} → ${DEVICE.ipv4}:${DEVICE_PORT} → "hello, meter"`;
});

await steps.take('The same endpoint from the rogue address: silence', async () => {
  await silence(rogue.udp({ to, text: 'rogue', waitMs: SILENCE_MS }));
  must(!device.lines.some((line) => line.includes('rogue')), 'the device saw it');
  return 'nothing came back, and nothing reached the device';
});

await steps.take('Also after a knock before the grant, the first packet passes', async () => {
  const from = { address: SERVER.ipv4, port: 40_404 };
  await agent.curl('DELETE', `/grants/${id}`);
  await silence(server.udp({ to, from, waitMs: SILENCE_MS }));
  await ask();
  await answer(server.udp({ to, from, text: 'knocked before' }), 'knocked before');
  return `knocked from port ${from.port}, refused; granted; from the same port: an answer at once`;
});

await steps.take('The device reaches out by itself, hidden behind the egress pool', async () => {
  const service = await network.spawn('server', program('test/device.ts', '7100', SERVER.ipv4), { line: /^ready$/ });
  const onDevice = await Probe.start(network, 'device');
  await answer(onDevice.tcp({ to: { address: SERVER.ipv4, port: 7100 }, text: 'reading 42' }), 'reading 42');
  const from = /^tcp ([\d.]+):/.exec(await service.line(/reading 42$/))?.[1] ?? '';
  must(contains(prefix(EGRESS_POOL.ipv4), address(from)), `the server saw ${from}`);
  await Promise.all([service.stop(), onDevice.stop()]);
  return `the server saw ${from}, of the egress pool`;
});

await steps.take('Its inner address is nowhere on the outside wire', async () => {
  await server.udp({ to: { address: GATEWAY.ipv4, port: 9 }, text: 'end of capture', waitMs: SILENCE_MS });
  const frames = await wire.through(new TextEncoder().encode('end of capture'));
  // Frames that the outside itself sent there (the first step) carry it; none may come from the gateway.
  const { mac } = network.link('gateway', 'outside');
  const source = Buffer.from(mac.replaceAll(':', ''), 'hex');
  const ours = frames.filter((frame) => source.equals(frame.subarray(6, 12)));
  const inner = Buffer.from(address(DEVICE.ipv4).bytes.subarray(12));
  must(ours.length > 10, `only ${ours.length} frames were captured`);
  must(!ours.some((frame) => Buffer.from(frame).includes(inner)), 'it was seen');
  return `${ours.length} frames of the gateway captured and searched, headers and content`;
});

await steps.take('Given back: a running TCP transfer and a running UDP exchange stop', async () => {
  const udp = { id, to };
  await ask({ protocol: 'TCP' });
  const sessions = [
    await Session.open(network, 'server', 'udp', udp.to),
    await Session.open(network, 'server', 'tcp', to),
  ];
  for (const session of sessions) session.say('stream');
  await Promise.all(sessions.map((session) => session.next()));
  for (const one of [udp.id, id]) status(await agent.curl('DELETE', `/grants/${one}`), 204);
  await Promise.all(sessions.map((session) => session.quiet()));
  const counts = sessions.map((session) => session.received);
  await Promise.all(sessions.map((session) => session.stop()));
  return `both were streaming (${counts.join(' and ')} messages), both fell silent with the 204`;
});

await steps.take('Its time is over, with the agent killed (kill -9): they stop all the same', async () => {
  await ask({ durationSeconds: 5 });
  const udp = to;
  await ask({ durationSeconds: 5, protocol: 'TCP' });
  const sessions = [
    await Session.open(network, 'server', 'udp', udp),
    await Session.open(network, 'server', 'tcp', to),
  ];
  for (const session of sessions) session.say('stream');
  await agent.daemon.stop('SIGKILL');
  await Promise.all(sessions.map((session) => session.next()));
  const begun = performance.now();
  await Promise.all(sessions.map((session) => session.quiet(400)));
  await Promise.all(sessions.map((session) => session.stop()));
  return `they ran on without an agent, and stopped by themselves ${((performance.now() - begun) / 1000).toFixed(1)} s later`;
});

await steps.take('Restarted: live grants are still live, ended ones stay ended', async () => {
  await agent.start();
  await ask();
  const kept = to;
  await ask({ devicePort: DEVICE_PORT + 1 });
  status(await agent.curl('DELETE', `/grants/${id}`), 204);
  await agent.daemon.stop('SIGKILL');
  await answer(server.udp({ to: kept, text: 'nobody home' }), 'nobody home');
  await agent.start();
  await answer(server.udp({ to: kept, text: 'back again' }), 'back again');
  const { body } = await agent.curl('GET', `/grants/${id}`);
  must(body.status === 'ENDED', `the ended grant is ${body.status}`);
  await silence(server.udp({ to, waitMs: SILENCE_MS }));
  to = kept;
  const [recovered] = agent.logged('recovered');
  return `the agent says: ${recovered?.['live']} live, ${recovered?.['ended']} ended while it was away; the ended one: ${body.endCause}`;
});

await steps.take('nft flush ruleset: still closed', async () => {
  await network.run('gateway', ['nft', 'flush', 'ruleset']);
  await silence(server.udp({ to: direct, text: 'flushed', waitMs: SILENCE_MS }));
  await silence(rogue.udp({ to, text: 'flushed', waitMs: SILENCE_MS }));
  must(!device.lines.some((line) => line.includes('flushed')), 'the device saw it');
  await answer(server.udp({ to, text: 'still granted' }), 'still granted');
  await agent.daemon.line(/"event":"gapFound"/);
  const table = ['nft', 'list', 'table', 'inet', 'mtgate'];
  await until(
    'the base',
    async () => (await network.run('gateway', table, { mayFail: true })).status === 0 || undefined,
  );
  return 'nothing got in, the live grant went on, and the agent put its base back';
});

const exitCode = steps.end();

if (process.argv.includes('--keep')) {
  // Given back, so that the command below is not told that such a grant is live already.
  for (const { grantId } of await agent.grants()) await agent.curl('DELETE', `/grants/${grantId}`);
  const inside = (namespace: string) => network.inside(namespace, []).slice(0, 2).join(' ');
  const { certificateFile, keyFile } = agent.headEnd;
  const body = JSON.stringify({
    device: { networkAccessIdentifier: DEVICE_NAME },
    protocol: 'UDP',
    devicePort: DEVICE_PORT,
    durationSeconds: 600,
  });
  say(`
It stays up until Ctrl-C. To play with it, as root:
  # ask for a grant, as the MTC server
  ${inside('server')} curl --silent --cacert ${agent.ca.certificateFile} --cert ${certificateFile} --key ${keyFile} \\
    --json '${body}' https://${GATEWAY.ipv4}:${API_PORT}/mobile-terminated-access/v1/grants
  # send the device a datagram through the endpoint that the answer names
  ${inside('server')} bash -c 'exec 3<>/dev/udp/203.0.113.X/PORT; echo hello >&3; head -1 <&3'
  # the operator's side
  ${inside('gateway')} node ${join(ROOT, 'dist/cli.js')} status --socket ${join(agent.folder, 'mtgate.sock')}
  ${inside('gateway')} node ${join(ROOT, 'dist/cli.js')} grants --socket ${join(agent.folder, 'mtgate.sock')}
  # rule files, devices file, agent.yaml, certificates
  ls ${agent.folder}`);
  await new Promise((resolve) => process.once('SIGINT', resolve));
}
await network.close();
process.exit(exitCode);
