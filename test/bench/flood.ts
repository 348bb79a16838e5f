/**
 * What a flood that is denied does to granted traffic: ten thousand packets a
 * second of one grant, from one core, while another core sends what nobody was
 * granted into the same interface as fast as it can. Both pass the one queue
 * that a veth usually has; or each core has a queue of its own, as a NIC that
 * spreads flows has them (RSS).
 */
import { availableParallelism } from 'node:os';
import { table } from './figures.ts';
import { ENDED, endpoint, type Gateway, Gateways, type Latency, SERVER, SERVER_PORT, type Way } from './gateways.ts';
import { Generator, type Target } from './generator.ts';

const PER_SECOND = 10_000;
const NOBODY = 1_000;

const ROWS: readonly { readonly name: string; readonly gateway: Gateway; readonly way: Way }[] = [
  { name: 'nftables', gateway: 'nat', way: 'stack' },
  { name: 'gate at TC', gateway: 'gate', way: 'tc' },
  { name: 'gate at XDP', gateway: 'gate', way: 'xdp' },
];

interface FloodRow {
  readonly name: string;
  readonly flooded: boolean;
  /** Of the gateway's outside interface. */
  readonly queues: number;
  /** Of the flood, million packets a second. */
  readonly mpps: number;
  /** Of the granted packets. */
  readonly lost: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

export async function measureFlood(seconds: number, progress: (what: string) => void): Promise<readonly FloodRow[]> {
  const rows: FloodRow[] = [];
  for (const queues of new Set([1, availableParallelism()])) {
    progress(`a flood: ${queues} queues`);
    rows.push(...(await measureWith(queues, seconds, progress)));
  }
  return rows;
}

async function measureWith(
  queues: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<readonly FloodRow[]> {
  const gateways = await Gateways.build(1_000, queues);
  try {
    gateways.hold(1_000);
    const targets: Target[] = [endpoint('ipv4', ENDED)];
    for (let i = 0; i < NOBODY; i++) targets.push(endpoint('ipv4', 1_020_000 + i));
    const cpus = availableParallelism();
    const start = (cpu: number) => Generator.start(gateways.network, 'generator', cpu, targets);
    const [granted, flood] = [await start(0), await start(cpus - 1)];
    const rows: FloodRow[] = [];
    for (const { name, gateway, way } of ROWS) {
      for (const flooded of [false, true]) {
        progress(`a flood: ${name}${flooded ? ', flooded' : ''}`);
        gateways.beat();
        gateways.meet(gateway, way, { seenAtXdp: true });
        const link = gateways.linkTo(gateway);
        const peer = { address: SERVER.ipv4, port: SERVER_PORT };
        await granted.burst({ ...link, peer, first: 0, count: 1, seconds: 0.1, perSecond: PER_SECOND });
        const [before, seen] = [await gateways.arrived(gateway), gateways.latencies(gateway)];
        const [sent, flooding] = await Promise.all([
          granted.burst({ ...link, peer, first: 0, count: 1, seconds, perSecond: PER_SECOND }),
          flooded ? flood.burst({ ...link, peer, first: 1, count: NOBODY, seconds }) : undefined,
        ]);
        const arrived = (await gateways.arrived(gateway)) - before;
        const took = since(gateways.latencies(gateway), seen);
        rows.push({
          ...{ name, flooded, queues, mpps: flooding ? flooding.packets / flooding.coreSeconds / 1e6 : 0 },
          ...{ lost: 1 - arrived / sent.packets, p50Us: quantile(took, 0.5) / 1e3, p99Us: quantile(took, 0.99) / 1e3 },
        });
      }
    }
    return rows;
  } finally {
    await gateways.close();
  }
}

function since(now: readonly Latency[], before: readonly Latency[]): Latency[] {
  const known = new Map(before.map(({ nanoseconds, count }) => [nanoseconds, count]));
  return now.map(({ nanoseconds, count }) => ({ nanoseconds, count: count - (known.get(nanoseconds) ?? 0) }));
}

function quantile(latencies: readonly Latency[], share: number): number {
  const all = latencies.reduce((sum, { count }) => sum + count, 0);
  let reached = 0;
  for (const { nanoseconds, count } of latencies) {
    reached += count;
    if (reached >= all * share) return nanoseconds;
  }
  return Number.NaN;
}

export function showFlood(rows: readonly FloodRow[]): string {
  return table(
    ['one grant, 10,000 packets a second', 'queues', 'flood Mpps', 'lost', 'p50 us', 'p99 us'],
    rows.map(({ name, flooded, queues, mpps, lost, p50Us, p99Us }) => [
      `${name}${flooded ? ', flooded' : ''}`,
      String(queues),
      flooded ? mpps.toFixed(2) : '',
      `${(lost * 100).toFixed(3)} %`,
      p50Us.toFixed(1),
      p99Us.toFixed(1),
    ]),
  );
}
