/**
 * How fast a NAS is heard: Starts, Interims and Stops through the whole path
 * of the real daemon (socket, codec, rules of the directory, gate, connection
 * tracking, groups, disk, answer), and beside them the codec alone, reading the
 * same datagrams and making the same answers, in turn in one run.
 */
import { address } from '../../agent/core/net.ts';
import { eventOf } from '../../agent/directory/attributes.ts';
import { readRequest, responseTo } from '../../agent/directory/radius.ts';
import { TestAgent } from '../agent.ts';
import { type Child, program } from '../child.ts';
import { SECRET } from '../radius.ts';
import { INSIDE, standardNetwork } from '../standard-network.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { datagramOf, type Order } from './nas.ts';
import { cpuSeconds } from './process-usage.ts';

const SESSIONS = 10_000;
const WINDOW = 512;
const PORT = 1813;
const KINDS = ['start', 'interim', 'stop'] as const;

interface Row {
  readonly kind: Order['kind'];
  readonly wholePerSecond: Figure;
  /** Of the daemon, all its threads. */
  readonly cpuMicroseconds: Figure;
  readonly codecPerSecond: Figure;
  readonly ratio: Figure;
}

export async function measureAccounting(rounds: number, progress: (what: string) => void): Promise<readonly Row[]> {
  const network = standardNetwork();
  try {
    const agent = new TestAgent(network, {
      devices: 'devices: []\n',
      inside: `${INSIDE}, apns: [iot.example]`,
      more: `
radius:
  listen: ["127.0.0.1:${PORT}"]
  clients: [{ name: pgw-1, addresses: [127.0.0.1], secret: radius.secret }]
`,
    });
    agent.write('radius.secret', SECRET.toString(), 0o600);
    agent.write('devices.csv', rowsOf());
    const daemon = await agent.start();
    const { status, stderr } = await agent.mtgate('device', 'import', `${agent.folder}/devices.csv`);
    if (status !== 0) throw new Error(stderr);
    const nas = await network.spawn('gateway', program('test/bench/nas.ts', String(PORT)), { line: /^ready$/ });
    const runs = new Map<Order['kind'], { whole: number; cpu: number; codec: number }[]>(
      KINDS.map((kind) => [kind, []]),
    );
    for (let round = 0; round <= rounds; round++) {
      progress(`accounting: round ${round} of ${rounds}${round === 0 ? ' (not counted)' : ''}`);
      for (const kind of KINDS) {
        const order = { kind, sessions: SESSIONS, round, window: WINDOW };
        const codec = codecAlone(order);
        const cpuBefore = cpuSeconds(daemon.pid);
        const whole = SESSIONS / (await told(nas, order));
        const cpu = ((cpuSeconds(daemon.pid) - cpuBefore) * 1e6) / SESSIONS;
        if (round > 0) runs.get(kind)?.push({ whole, cpu, codec });
      }
    }
    await nas.stop();
    return [...runs].map(([kind, all]) => ({
      kind,
      wholePerSecond: figure(all.map(({ whole }) => whole)),
      cpuMicroseconds: figure(all.map(({ cpu }) => cpu)),
      codecPerSecond: figure(all.map(({ codec }) => codec)),
      ratio: figure(all.map(({ whole, codec }) => whole / codec)),
    }));
  } finally {
    await network.close();
  }
}

async function told(nas: Child, order: Order): Promise<number> {
  const from = nas.lines.length;
  nas.say(JSON.stringify(order));
  const line = await nas.line(/^done /, { from, patienceMs: 300_000 });
  return Number(line.slice('done '.length));
}

function rowsOf(): string {
  const rows = Array.from({ length: SESSIONS }, (_, i) => `d${i}@meters.example,26201${String(i).padStart(10, '0')}\n`);
  return `externalId,imsi\n${rows.join('')}`;
}

/** How many datagrams a second are read and answered where nothing is done with what they say. */
function codecAlone(order: Order): number {
  const datagrams = Array.from({ length: SESSIONS }, (_, i) => datagramOf(order, i, i & 255));
  const source = address('127.0.0.1');
  const from = performance.now();
  for (const datagram of datagrams) {
    const request = readRequest(datagram, SECRET);
    if ('drop' in request) throw new Error(request.drop);
    const event = eventOf(request.attributes, 'pgw-1', source, 0);
    if ('drop' in event) throw new Error(event.drop);
    responseTo(request, SECRET);
  }
  return SESSIONS / ((performance.now() - from) / 1_000);
}

export function showAccounting(rows: readonly Row[]): string {
  return table(
    [`accounting, ${SESSIONS} sessions`, 'whole path/s', 'CPU us each', 'codec alone/s', 'whole : codec'],
    rows.map(({ kind, wholePerSecond, cpuMicroseconds, codecPerSecond, ratio }) => [
      kind,
      show(wholePerSecond, 0),
      show(cpuMicroseconds, 0),
      show(codecPerSecond, 0),
      show(ratio, 4),
    ]),
  );
}
