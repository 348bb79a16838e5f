/**
 * How soon a grant, and its end, is true: the first packet after a 201 must
 * pass, also where the same server has knocked at the endpoint before; and
 * after the answer to an end none may leave the gateway any more. Seen from
 * outside, by an MTC server that sends and a device that listens.
 */
import { API_PORT, TestAgent } from '../agent.ts';
import { type Child, program, until } from '../child.ts';
import { DEVICE, GATEWAY, standardNetwork, UPLINK } from '../standard-network.ts';
import { DEVICES, FIRST_PORT } from './client.ts';
import { quantile, table } from './figures.ts';
import { BENCH_RULES, deviceAddress, devicesFile } from './grants.ts';
import type { Done, Order } from './prompt-client.ts';
import type { Came } from './sink.ts';

const BEGUN = 10_000;
const ENDED = 500;
const PORTS: readonly [number, number] = [20_000, 23_999];
/** All of the grants pool. */
const POOL = Array.from({ length: 8 }, (_, i) => `203.0.113.${i}`);

export interface Promptness {
  readonly begun: number;
  readonly firstPassed: number;
  readonly firstPassedAfterKnock: number;
  readonly ended: number;
  /** Datagrams that were sent after the answer to an end, and came. */
  readonly cameOfSentLater: number;
  /** The last datagram at the device, in milliseconds after the answer at the server; below 0: before it. */
  readonly lastCameMs: { readonly median: number; readonly p99: number; readonly worst: number };
}

export async function measurePromptness(progress: (what: string) => void): Promise<Promptness> {
  const network = standardNetwork();
  try {
    const agent = new TestAgent(network, {
      rules: BENCH_RULES,
      devices: devicesFile(DEVICES),
      ports: `${PORTS[0]}-${PORTS[1]}`,
    });
    await agent.start();
    for (let i = 0; i < DEVICES; i++) {
      if (deviceAddress(i) !== DEVICE.ipv4)
        await network.run('device', ['ip', 'address', 'add', `${deviceAddress(i)}/32`, 'dev', UPLINK]);
    }
    const sinkPorts = String((2 * BEGUN) / DEVICES);
    const sink = await network.spawn('device', program('test/bench/sink.ts', String(FIRST_PORT), sinkPorts), {
      line: /^ready$/,
    });
    const { ca, headEnd } = agent;
    const identity = [ca.certificateFile, headEnd.certificateFile, headEnd.keyFile];
    const client = await network.spawn('server', program('test/bench/prompt-client.ts', ...identity), {
      line: /^ready$/,
    });
    const carryOut = async (order: Pick<Order, 'what' | 'grants' | 'knock'>): Promise<Done> => {
      const from = client.lines.length;
      const to = { host: GATEWAY.ipv4, port: API_PORT, path: '/mobile-terminated-access/v1/grants' };
      client.say(JSON.stringify({ ...to, ...order }));
      const line = await client.line(/^done /, { from, patienceMs: 300_000 });
      return JSON.parse(line.slice('done '.length)) as Done;
    };
    const firstPassed = async (knock?: Order['knock']) => {
      const { labels } = await carryOut({ what: 'begin', grants: BEGUN, ...(knock && { knock }) });
      const came = await settled(sink, 'begun-');
      return labels.filter((label) => came[label]).length;
    };

    progress(`promptness: ${BEGUN} first packets`);
    const passed = await firstPassed();
    progress(`promptness: ${BEGUN} first packets after a knock`);
    const passedAfterKnock = await firstPassed({ addresses: POOL, ports: PORTS });
    progress(`promptness: ${ENDED} ends under a stream`);
    const { labels, answeredMs } = await carryOut({ what: 'end', grants: ENDED });
    const came = await settled(sink, 'ended-');
    const ends = labels.map((label, i) => ({ came: came[label], answeredMs: answeredMs[i] ?? 0 }));
    const missing = ends.filter((end) => !end.came).length;
    if (missing > 0) throw new Error(`of ${missing} streams nothing came at all: nothing can be said of their ends`);
    const late = ends.map(({ came, answeredMs }) => (came?.lastCameMs ?? 0) - answeredMs).sort((a, b) => a - b);
    return {
      begun: BEGUN,
      firstPassed: passed,
      firstPassedAfterKnock: passedAfterKnock,
      ended: ENDED,
      cameOfSentLater: ends.filter(({ came, answeredMs }) => (came?.lastSentMs ?? 0) > answeredMs).length,
      lastCameMs: { median: quantile(late, 0.5), p99: quantile(late, 0.99), worst: late.at(-1) ?? 0 },
    };
  } finally {
    await network.close();
  }
}

/** What has come, once nothing more comes. */
async function settled(sink: Child, beginning: string): Promise<Record<string, Came>> {
  let before = '';
  return until('nothing more to come', async () => {
    const from = sink.lines.length;
    sink.say(beginning);
    const line = await sink.line(/^came /, { from });
    if (line === before) return JSON.parse(line.slice('came '.length)) as Record<string, Came>;
    before = line;
    return undefined;
  });
}

export function showPromptness(result: Promptness): string {
  const { begun, firstPassed, firstPassedAfterKnock, ended, cameOfSentLater, lastCameMs } = result;
  const { median, p99, worst } = lastCameMs;
  return table(
    ['how soon it is true', 'seen'],
    [
      ['first packet after the 201 passed', `${firstPassed} of ${begun}`],
      ['the same after a knock at its endpoint', `${firstPassedAfterKnock} of ${begun}`],
      [`sent after the answer to an end and came, of ${ended} streams`, String(cameOfSentLater)],
      [
        'last packet at the device after that answer, ms',
        `p50 ${median.toFixed(2)}, p99 ${p99.toFixed(2)}, worst ${worst.toFixed(2)}`,
      ],
    ],
  );
}
