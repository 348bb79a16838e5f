/**
 * What many live grants cost: the real daemon, started on databases of
 * 100,000 and a million of them. The records are written by the store's own
 * writer; the first start finds them as after a reboot, the gate empty, and
 * opens every one again; the second finds record and gate agreeing.
 *
 * And the rate of new grants beside 100 live ones and beside 100,000: two
 * daemons asked in turn, a ratio is of one round.
 *
 * How long the loop was held is measured in the daemon itself, by a timer that
 * should come every few milliseconds and says how late it was at the worst.
 */
import { randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { address } from '../../agent/core/net.ts';
import { identitiesBy } from '../../agent/files/identity-key.ts';
import { loadConfig, loadDevices, loadIdentityKey, loadPolicy } from '../../agent/files/operator-files.ts';
import { Endpoints } from '../../agent/grants/endpoints.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { openStore } from '../../agent/grants/store.ts';
import { newUlid, systemClock, systemRandom } from '../../agent/host.ts';
import { RULES as AGENT_RULES, API_PORT, TestAgent } from '../agent.ts';
import { type Child, PATIENCE_MS, program, ROOT } from '../child.ts';
import type { Network } from '../network.ts';
import { grantRecord } from '../records.ts';
import { SERVER, standardNetwork } from '../standard-network.ts';
import { DEVICES as NAMED } from './client.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { devicesFile, GRANTS_PATH, measure, type Run } from './grants.ts';
import { cpuSeconds, residentMebibytes } from './process-usage.ts';

const SIZES = [100_000, 1_000_000] as const;
const FEW = 100;
const MANY = 100_000;
const CONNECTIONS = 64;
const GRANTS_PER_DEVICE = 20;
/** The pool has a few more endpoints than there are grants; where new ones are asked for, enough for those. */
const POOL_ADDRESSES = 8;
const SPARE = 1.02;
const RATE_PORTS = 40_000;
const FIRST_PORT = 1_024;
/** So many records are handed to the store at once. */
const WRITES = 2_000;
/** A daemon that has just started tidies up for a while. */
const SETTLED_MS = 10_000;
const START_PATIENCE_MS = 60 * PATIENCE_MS;
const DAY_SECONDS = 86_400;

export const RULES = AGENT_RULES.replace('"7000-7999"', '"1024-65535"').replace(
  'durationSeconds: 900, totalSeconds: 3600',
  `durationSeconds: ${DAY_SECONDS}, totalSeconds: ${DAY_SECONDS}`,
);

interface StartRow {
  readonly live: number;
  readonly found: 'after a reboot' | 'same boot';
  /** Record and gate made one, and all of the start, with reading of the files. */
  readonly reconcileSeconds: number;
  readonly startSeconds: number;
  /** Of all threads, until it serves. */
  readonly startCpuSeconds: number;
  readonly loopHeldMs: number;
  /** With what is mapped, once the start's garbage is gone. */
  readonly residentMebibytes: number;
}

export type StartReading = Omit<StartRow, 'live' | 'found'>;

export interface ScaleResults {
  readonly starts: readonly StartRow[];
  readonly fewPerSecond: Figure;
  readonly manyPerSecond: Figure;
  readonly manyToFew: Figure;
}

export async function measureScale(
  rounds: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<ScaleResults> {
  const starts: StartRow[] = [];
  for (const live of SIZES) {
    const network = standardNetwork();
    try {
      const agent = await prepared(network, live, Math.ceil((live / POOL_ADDRESSES / 2) * SPARE), progress);
      for (const found of ['after a reboot', 'same boot'] as const) {
        progress(`scale: ${live} grants, ${found}`);
        const daemon = await start(agent);
        starts.push({ live, found, ...(await reading(daemon)) });
        await daemon.stop();
      }
    } finally {
      await network.close();
    }
  }
  return { starts, ...(await measureRates(rounds, seconds, progress)) };
}

/** An agent whose files, database and directory hold so many live grants, of a boot before this one. */
export async function prepared(
  network: Network,
  live: number,
  ports: number,
  progress: (what: string) => void,
): Promise<TestAgent> {
  progress(`scale: writing ${live} grants`);
  const devices = Math.ceil(live / GRANTS_PER_DEVICE);
  const agent = new TestAgent(network, {
    rules: RULES,
    devices: devicesFile(NAMED + devices),
    ports: `1024-${1_023 + ports}`,
  });
  const first = await start(agent); // the directory is recorded, classes and realms have their numbers
  await first.stop();

  const config = loadConfig(agent.configFile, () => {});
  const policy = loadPolicy(config.rules.folder, config, () => {});
  const listed = loadDevices(config).slice(NAMED);
  const endpoints = new Endpoints(config.pools.grants, systemRandom);
  const store = openStore(
    join(config.store.directory, 'mtgate.db'),
    identitiesBy(loadIdentityKey(config)),
    new URL(`file://${ROOT}dist/grants/store-worker.js`),
  );
  for (let from = 0; from < live; from += WRITES) {
    const numbers = Array.from({ length: Math.min(WRITES, live - from) }, (_, i) => from + i);
    await Promise.all(numbers.map((i) => store.insert(record(i))));
  }
  await store.close();
  return agent;

  function record(i: number): GrantRecord {
    const protocol = i % 2 === 0 ? 'udp' : 'tcp';
    const { device, bindings } = listed[i % devices] ?? {};
    const [inner] = bindings ?? [];
    const place = endpoints.allocate('ipv4', protocol);
    if (!device || !inner || !place) throw new Error('the bench asks for more than there is');
    const startedAtMs = systemClock.nowMs() - 1_000;
    return grantRecord({
      ...place,
      id: newUlid() as GrantRecord['id'],
      number: i + 1,
      gateway: config.gateway,
      device: device.externalId,
      reference: { networkAccessIdentifier: device.externalId },
      policyVersion: policy.version,
      protocol,
      inner,
      devicePort: FIRST_PORT + Math.floor(i / devices),
      remote: address(SERVER.ipv4),
      grantedSeconds: DAY_SECONDS,
      startedAtMs,
      expiresAtMs: startedAtMs + DAY_SECONDS * 1_000,
      bootId: 'the boot before',
      correlator: randomUUID(),
    });
  }
}

/** Runs within the daemon: notes each time the loop came late, and tells at SIGUSR2. */
const PROBE = `
import { isMainThread } from 'node:worker_threads';
if (isMainThread && process.argv[1]?.endsWith('/dist/main.js')) {
  const holds = [];
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    if (now - last > 10) holds.push({ endedAtMs: Date.now(), ms: now - last - 5 });
    last = now;
  }, 5).unref();
  process.on('SIGUSR2', () => console.log(JSON.stringify({ holds, event: 'held' })));
  console.log('{"event":"probing"}');
}`;

/** Starts the daemon; resolves when it serves. */
export async function start(agent: TestAgent): Promise<Child> {
  const command = [process.execPath, join(ROOT, 'dist/main.js'), '--config', agent.configFile];
  const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(PROBE)}` };
  const daemon = await agent.network.spawn('gateway', command, { line: /"event":"probing"/ }, { env });
  await daemon.line(/"event":"ready"/, { patienceMs: START_PATIENCE_MS });
  return daemon;
}

/** When a process began, by the wall clock. */
function startedAtMs({ pid }: Child): number {
  return statSync(`/proc/${pid}`).ctimeMs;
}

/** What a start took, and holds now. */
export async function reading(daemon: Child): Promise<StartReading> {
  const event = async <Fields>(name: string) =>
    JSON.parse(await daemon.line(new RegExp(`"event":"${name}"`))) as Fields;
  const { tookMs, time } = await event<{ tookMs: number; time: string }>('recovered');
  const readyAtMs = Date.parse((await event<{ time: string }>('ready')).time);
  const holds = await holdsOf(daemon);
  const recoveredAtMs = Date.parse(time);
  const beganAtMs = recoveredAtMs - tookMs;
  const startCpuSeconds = cpuSeconds(daemon.pid);
  await delay(SETTLED_MS);
  return {
    reconcileSeconds: tookMs / 1_000,
    startSeconds: (readyAtMs - startedAtMs(daemon)) / 1_000,
    startCpuSeconds,
    loopHeldMs: longestHold(holds, beganAtMs, recoveredAtMs),
    residentMebibytes: residentMebibytes(daemon.pid),
  };
}

interface Hold {
  readonly endedAtMs: number;
  readonly ms: number;
}

/** When the daemon's loop came late, since its start. */
export async function holdsOf(daemon: Child): Promise<readonly Hold[]> {
  const told = daemon.line(/"event":"held"/, { from: daemon.lines.length });
  process.kill(daemon.pid, 'SIGUSR2');
  return (JSON.parse(await told) as { holds: Hold[] }).holds;
}

export function longestHold(holds: readonly Hold[], fromMs: number, toMs: number): number {
  const meanwhile = holds.filter(({ endedAtMs, ms }) => endedAtMs - ms >= fromMs && endedAtMs <= toMs);
  return Math.max(0, ...meanwhile.map(({ ms }) => ms));
}

async function measureRates(rounds: number, seconds: number, progress: (what: string) => void) {
  const networks = [standardNetwork(), standardNetwork()];
  try {
    const clients: { client: Child; server: Child }[] = [];
    for (const [i, live] of [FEW, MANY].entries()) {
      const network = networks[i] as Network;
      const agent = await prepared(network, live, RATE_PORTS, progress);
      const { ca, headEnd } = agent;
      const identity = [ca.certificateFile, headEnd.certificateFile, headEnd.keyFile];
      const client = await network.spawn('server', program('test/bench/client.ts', ...identity), { line: /^ready$/ });
      clients.push({ client, server: await start(agent) });
    }
    const runs: Run[][] = [[], []];
    for (let round = 0; round <= rounds; round++) {
      progress(round === 0 ? 'scale: a round of grants to warm up' : `scale: grants, round ${round} of ${rounds}`);
      for (const [i, { client, server }] of clients.entries()) {
        const subject = { name: `${i}`, server, port: API_PORT, path: GRANTS_PATH };
        const run = await measure(networks[i] as Network, client, subject, CONNECTIONS, seconds);
        if (round > 0) runs[i]?.push(run);
      }
    }
    const [few = [], many = []] = runs.map((of) => of.map(({ perSecond }) => perSecond));
    return {
      fewPerSecond: figure(few),
      manyPerSecond: figure(many),
      manyToFew: figure(many.map((perSecond, round) => perSecond / (few[round] ?? 0))),
    };
  } finally {
    for (const network of networks) await network.close();
  }
}

export function showScale({ starts, fewPerSecond, manyPerSecond, manyToFew }: ScaleResults): string {
  const head = ['a start of the daemon', 'reconcile s', 'start s', 'its CPU s', 'loop held ms', 'RSS MiB'];
  const lines = starts.map((row) => [
    `${row.live} live, ${row.found}`,
    row.reconcileSeconds.toFixed(2),
    row.startSeconds.toFixed(1),
    row.startCpuSeconds.toFixed(1),
    row.loopHeldMs.toFixed(0),
    row.residentMebibytes.toFixed(0),
  ]);
  return `${table(head, lines)}

Grants a second over ${CONNECTIONS} connections: ${show(fewPerSecond, 0)} beside ${FEW} live, ${show(manyPerSecond, 0)} beside ${MANY}: ${show(manyToFew, 2)} of that.`;
}
