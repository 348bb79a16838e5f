/**
 * What readers of streams cost those who ask for grants: grants a second of
 * the real daemon with nobody following, and with 100 readers of server-sent
 * events, half of them of an MTC user's reports and half of a server's events;
 * in turn in every round, a ratio is of one round.
 *
 * In both turns the same is told of: packets from elsewhere to 20 granted
 * endpoints are denied, and grants are given back, at a steady rate each. The
 * readers' own work is on this machine too, and so in the ratio.
 */
import { MTC_USER_BASE_PATH } from '../../agent/api/mtc-user-routes.ts';
import { BASE_PATH } from '../../agent/api/routes.ts';
import { API_PORT, TestAgent } from '../agent.ts';
import { type Child, PATIENCE_MS, program } from '../child.ts';
import type { Issued } from '../pki.ts';
import { standardNetwork } from '../standard-network.ts';
import { DEVICES, deviceName } from './client.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { BENCH_RULES, devicesFile, GRANTS_PATH, measure, type Run } from './grants.ts';
import { streamPeer } from './stream-peers.ts';

const READERS_OF_EACH = 50;
const DENIED_A_SECOND = 200;
const ENDED_A_SECOND = 20;
const CONNECTIONS = 64;
/** Of the devices, below those that are asked for. */
const DENIED_PORT = 2_000;

const TURNS = ['no readers', 'readers'] as const;
type Turn = (typeof TURNS)[number];

interface StreamRow {
  readonly name: Turn;
  readonly perSecond: Figure;
  readonly toNone: Figure;
  readonly cpuMicroseconds: Figure;
  readonly p99Ms: Figure;
  readonly loopDelayMs: Figure;
  /** That each reader has heard a second: the least of any reader. */
  readonly eventsPerSecond: { readonly reports: Figure; readonly events: Figure } | undefined;
}

export async function measureStreams(
  rounds: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<readonly StreamRow[]> {
  const network = standardNetwork();
  const agent = new TestAgent(network, { rules: BENCH_RULES, devices: devicesFile(DEVICES), ports: '20000-59999' });
  try {
    const { ca, headEnd, mtcUser } = agent;
    const server = await agent.start();
    const files = ({ certificateFile, keyFile }: Issued) => [ca.certificateFile, certificateFile, keyFile];
    const endpoints: string[] = [];
    for (let i = 0; i < DEVICES; i++) {
      const device = { networkAccessIdentifier: deviceName(i) };
      const { status, body } = await agent.grant({ device, devicePort: DENIED_PORT });
      if (status !== 201) throw new Error(`no grant on ${deviceName(i)}: ${body.title}`);
      endpoints.push(`${body.externalEndpoint.address}:${body.externalEndpoint.port}`);
    }
    const peer = (from: string, ...args: readonly string[]) =>
      network.spawn(from, streamPeer(...args), { line: /^ready$/ });
    await peer('rogue', 'denied', String(DENIED_A_SECOND), ...endpoints);
    await peer('server', 'ends', String(ENDED_A_SECOND), ...files(headEnd));
    const readers = {
      reports: await peer(
        'rogue',
        ...['readers', String(READERS_OF_EACH), `${MTC_USER_BASE_PATH}/reports/stream`, ...files(mtcUser)],
      ),
      events: await peer('server', 'readers', String(READERS_OF_EACH), `${BASE_PATH}/events`, ...files(headEnd)),
    };
    const client = await network.spawn('server', program('test/bench/client.ts', ...files(headEnd)), {
      line: /^ready$/,
    });
    const subject = { name: 'grants', server, port: API_PORT, path: GRANTS_PATH };
    const runs: Record<Turn, Run[]> = { 'no readers': [], readers: [] };
    const heard: { reports: number[]; events: number[] } = { reports: [], events: [] };
    for (let round = 0; round <= rounds; round++) {
      progress(round === 0 ? 'streams: a round to warm up' : `streams: round ${round} of ${rounds}`);
      // Who comes first in a round changes: a daemon that grows slower, or faster, favours none.
      for (const turn of round % 2 === 0 ? TURNS : [...TURNS].reverse()) {
        if (turn === 'readers') await Promise.all(Object.values(readers).map(open));
        const run = await measure(network, client, subject, CONNECTIONS, seconds);
        const least = turn === 'readers' ? [await close(readers.reports), await close(readers.events)] : [];
        if (round === 0) continue;
        runs[turn].push(run);
        if (turn === 'no readers') continue;
        heard.reports.push((least[0] ?? 0) / run.seconds);
        heard.events.push((least[1] ?? 0) / run.seconds);
      }
    }
    return TURNS.map((name) => ({
      name,
      perSecond: figure(runs[name].map(({ perSecond }) => perSecond)),
      toNone: figure(runs[name].map(({ perSecond }, i) => perSecond / (runs['no readers'][i]?.perSecond ?? 0))),
      cpuMicroseconds: figure(runs[name].map(({ cpuMicroseconds }) => cpuMicroseconds)),
      p99Ms: figure(runs[name].map(({ p99Ms }) => p99Ms)),
      loopDelayMs: figure(runs[name].map(({ loopDelayMs = 0 }) => loopDelayMs)),
      eventsPerSecond:
        name === 'readers' ? { reports: figure(heard.reports), events: figure(heard.events) } : undefined,
    }));
  } finally {
    await network.close();
  }
}

async function open(readers: Child): Promise<void> {
  const from = readers.lines.length;
  readers.say('open');
  await readers.line(/^open$/, { from });
}

/** How many events the reader has heard that heard least. @throws Error where one was cut, or heard nothing */
async function close(readers: Child): Promise<number> {
  readers.say('close');
  const from = readers.lines.lastIndexOf('open');
  const line = await readers.line(/^closed /, { from, patienceMs: PATIENCE_MS });
  const least = Math.min(...(JSON.parse(line.slice('closed '.length)) as number[]));
  if (least === 0 || readers.lines.slice(from).includes('a reader was cut'))
    throw new Error('not every reader of a stream has heard all of it');
  return least;
}

export function showStreams(rows: readonly StreamRow[]): string {
  const lines = rows.map(({ name, perSecond, toNone, cpuMicroseconds, p99Ms, loopDelayMs, eventsPerSecond }) => [
    name,
    show(perSecond, 0),
    show(toNone, 2),
    show(cpuMicroseconds, 0),
    show(p99Ms, 1),
    show(loopDelayMs, 1),
    eventsPerSecond ? show(eventsPerSecond.reports, 0) : '',
    eventsPerSecond ? show(eventsPerSecond.events, 0) : '',
  ]);
  const head = ['grants', 'a second', 'to none', 'CPU us each', 'p99 ms', 'loop p99 ms', 'reports/s', 'events/s'];
  return [
    `${READERS_OF_EACH} readers of an MTC user's reports and ${READERS_OF_EACH} of a server's events, over ` +
      `${CONNECTIONS} connections; ${DENIED_A_SECOND} packets denied and ${ENDED_A_SECOND} grants given back a second`,
    table(head, lines),
  ].join('\n');
}
