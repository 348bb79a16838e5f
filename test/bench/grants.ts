/**
 * What a grant costs: the real daemon, asked over mutual TLS by a real client
 * through the gateway's own interface, beside a bare server that only echoes
 * JSON over the same TLS. Every grant is decided, recorded durably (SQLite,
 * synchronous=FULL: on the disk before it is answered) and opened in the gate.
 *
 * Echo and daemon are asked in turn, by one connection and by many, in every
 * round; a ratio is always of one round. What the disk itself takes for a
 * durable write stands beside it, since no grant can be faster.
 */
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { RULES as AGENT_RULES, API_PORT, TestAgent } from '../agent.ts';
import { type Child, PATIENCE_MS, program } from '../child.ts';
import type { Network } from '../network.ts';
import { GATEWAY, REALM_PREFIX, standardNetwork } from '../standard-network.ts';
import { type Asked, type Asking, DEVICES, deviceName, FIRST_PORT, PORTS } from './client.ts';
import { echoAt } from './echo.ts';
import { type Figure, figure, quantile, show, table } from './figures.ts';
import { cpuSeconds, peakMebibytes } from './process-usage.ts';

const ECHO_PORT = 8444;
export const GRANTS_PATH = '/mobile-terminated-access/v1/grants';
const CONNECTIONS = [1, 64] as const;
const SYNCS = 100;

/** The tests' rules, for every port that is asked for. */
export const BENCH_RULES = AGENT_RULES.replace('"7000-7999"', `"1024-${FIRST_PORT + PORTS - 1}"`);

export interface Subject {
  readonly name: string;
  readonly server: Child;
  readonly port: number;
  readonly path: string;
}

interface GrantRow {
  readonly name: string;
  readonly connections: number;
  readonly perSecond: Figure;
  readonly toEcho: Figure;
  readonly cpuMicroseconds: Figure;
  readonly medianMs: Figure;
  readonly p99Ms: Figure;
  /** How late the daemon's loop was, by its own metrics; the echo has none. */
  readonly loopDelayMs: Figure | undefined;
  readonly peakMebibytes: number;
}

export interface GrantResults {
  readonly rows: readonly GrantRow[];
  /** Opened in all, by the daemon's own log. */
  readonly granted: number;
  /** One append with fdatasync, where the records lie. */
  readonly syncMilliseconds: Figure;
}

export async function measureGrants(
  rounds: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<GrantResults> {
  progress(`the daemon with ${DEVICES} devices, and an echo beside it`);
  const network = standardNetwork();
  const agent = new TestAgent(network, { rules: BENCH_RULES, devices: devicesFile(DEVICES), ports: '20000-59999' });
  try {
    const { ca, headEnd } = agent;
    const identity = [ca.certificateFile, headEnd.certificateFile, headEnd.keyFile];
    const subjects = await startServers(network, agent);
    const client = await network.spawn('server', program('test/bench/client.ts', ...identity), { line: /^ready$/ });
    const cases = CONNECTIONS.flatMap((connections) =>
      subjects.map((subject) => ({ subject, connections, runs: [] as Run[] })),
    );
    for (let round = 0; round <= rounds; round++) {
      progress(round === 0 ? 'grants: a round to warm up' : `grants: round ${round} of ${rounds}`);
      for (const { subject, connections, runs } of cases) {
        const run = await measure(network, client, subject, connections, seconds);
        if (round > 0) runs.push(run);
      }
    }
    const rows = cases.map(({ subject, connections, runs }) => {
      const echoRuns = cases.find((one) => one.subject.name === 'echo' && one.connections === connections)?.runs ?? [];
      return summarise(subject, connections, runs, echoRuns);
    });
    return { rows, granted: agent.logged('grantOpened').length, syncMilliseconds: timeSyncs(agent.folder) };
  } finally {
    await network.close();
  }
}

/** The daemon, and the echo with a certificate of the same kind. */
async function startServers(network: Network, agent: TestAgent): Promise<readonly Subject[]> {
  const daemon = await agent.start();
  const own = agent.ca.issue({ name: 'echo', usage: ['serverAuth'], san: [`IP:${GATEWAY.ipv4}`] });
  const files = { ca: agent.ca.certificateFile, certificate: own.certificateFile, key: own.keyFile };
  const listens = { listens: 'tcp', port: ECHO_PORT } as const;
  const echo = await network.spawn('gateway', echoAt(GATEWAY.ipv4, ECHO_PORT, files), listens);
  return [
    { name: 'echo', server: echo, port: ECHO_PORT, path: '/' },
    { name: 'grants', server: daemon, port: API_PORT, path: GRANTS_PATH },
  ];
}

/** Where the i-th device is. */
export function deviceAddress(i: number): string {
  const base = REALM_PREFIX.ipv4.split('.').slice(0, 2).join('.');
  return `${base}.${1 + (i >> 8)}.${i & 255}`;
}

/** So many devices, each with an address. */
export function devicesFile(count: number): string {
  const lines = Array.from(
    { length: count },
    (_, i) => `  - { externalId: ${deviceName(i)}, bindings: [{ realm: iot, address: ${deviceAddress(i)} }] }`,
  );
  return `devices:\n${lines.join('\n')}\n`;
}

export interface Run extends Asked {
  readonly perSecond: number;
  readonly loopDelayMs: number | undefined;
  readonly cpuMicroseconds: number;
}

/** Asks one server over so many connections, for so long. */
export async function measure(
  network: Network,
  client: Child,
  subject: Subject,
  connections: number,
  seconds: number,
): Promise<Run> {
  const { name, server, port, path } = subject;
  const from = client.lines.length;
  const asking: Asking = { host: GATEWAY.ipv4, port, path, connections, seconds };
  client.say(JSON.stringify(asking));
  await client.line(/^open$/, { from });
  const isDaemon = name === 'grants';
  if (isDaemon) await loopDelay(network); // what was before is not of this run
  const cpuBefore = cpuSeconds(server.pid);
  client.say('go');
  const line = await client.line(/^done /, { from, patienceMs: PATIENCE_MS + seconds * 1000 });
  const asked = JSON.parse(line.slice('done '.length)) as Asked;
  if (asked.refused > 0) throw new Error(`${name} refused ${asked.refused} requests, the first:\n${asked.refusal}`);
  const cpu = cpuSeconds(server.pid) - cpuBefore;
  return {
    ...asked,
    perSecond: asked.granted / asked.seconds,
    cpuMicroseconds: (cpu / asked.granted) * 1e6,
    loopDelayMs: isDaemon ? await loopDelay(network) : undefined,
  };
}

/** How late the daemon was for what was due, at the 99th of a hundred, since it was last asked; in milliseconds. */
async function loopDelay(network: Network): Promise<number> {
  const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  return Number(/^mtgate_loop_delay_seconds\{of="p99"\} (\S+)$/m.exec(stdout)?.[1]) * 1000;
}

function summarise(subject: Subject, connections: number, runs: readonly Run[], echo: readonly Run[]): GrantRow {
  return {
    name: subject.name,
    connections,
    perSecond: figure(runs.map(({ perSecond }) => perSecond)),
    toEcho: figure(runs.map(({ perSecond }, round) => perSecond / (echo[round]?.perSecond ?? 0))),
    cpuMicroseconds: figure(runs.map(({ cpuMicroseconds }) => cpuMicroseconds)),
    medianMs: figure(runs.map(({ medianMs }) => medianMs)),
    p99Ms: figure(runs.map(({ p99Ms }) => p99Ms)),
    loopDelayMs: subject.name === 'grants' ? figure(runs.map(({ loopDelayMs = 0 }) => loopDelayMs)) : undefined,
    peakMebibytes: peakMebibytes(subject.server.pid),
  };
}

/** What the disk takes to make one page durable. */
function timeSyncs(folder: string): Figure {
  const page = Buffer.alloc(4096, 1);
  const fd = openSync(join(folder, 'sync'), 'w');
  const times = Array.from({ length: SYNCS }, () => {
    const start = performance.now();
    writeSync(fd, page);
    fdatasyncSync(fd);
    return performance.now() - start;
  }).sort((a, b) => a - b);
  closeSync(fd);
  const [median, low, high] = [0.5, 0.05, 0.95].map((share) => quantile(times, share)) as [number, number, number];
  return { median, low, high };
}

export function showGrants({ rows, granted, syncMilliseconds }: GrantResults): string {
  const lines = rows.map((row) => [
    `${row.name}, ${row.connections} connection${row.connections > 1 ? 's' : ''}`,
    show(row.perSecond, 0),
    show(row.toEcho, 2),
    show(row.cpuMicroseconds, 0),
    show(row.medianMs, 2),
    show(row.p99Ms, 2),
    row.loopDelayMs ? show(row.loopDelayMs, 1) : '',
    row.peakMebibytes.toFixed(0),
  ]);
  const head = [
    ...['mutual TLS, kept alive', 'a second', 'to echo', 'CPU us each', 'p50 ms', 'p99 ms', 'loop p99 ms', 'peak MiB'],
  ];
  return `${table(head, lines)}
${granted} grants were opened. One append with fdatasync on this disk: ${show(syncMilliseconds, 2)} ms (5 % to 95 %).`;
}
