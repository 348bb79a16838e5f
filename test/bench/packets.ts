/**
 * What the gate costs a packet: carried by a grant, and denied, beside plain
 * forwarding and nftables DNAT on the same core, in the same rounds.
 *
 * A round measures every row once, one after the other, and a row's ratio is
 * taken to plain forwarding of its own round: what slows the machine down for
 * a while slows both. Rates are of packets seen where they end up, not of
 * packets sent.
 */
import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { PacketLimits } from '../../agent/core/words.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { device, endpoint, type Gateway, Gateways, SERVER } from './gateways.ts';
import { Generator } from './generator.ts';

const FEW = 1_000;
const MANY = 100_000;
/** Endpoints that no grant has, to be denied. */
const NOBODY = 10_000;

/** Targets lie in one row: all devices, all endpoints that have a grant, some that have none. */
const TO_DEVICES = 0;
const TO_ENDPOINTS = MANY;
const TO_NOBODY = 2 * MANY;

interface Row {
  readonly name: string;
  readonly gateway: Gateway;
  readonly first: number;
  readonly count: number;
  /** The row that it is compared with. */
  readonly beside: string;
  readonly denied?: boolean;
  /** What the grants may carry meanwhile. */
  readonly limits?: PacketLimits;
}

/** So much that nothing is refused. */
const WIDE: PacketLimits = { packetsPerSecond: 10_000_000, bytes: 1e12 };

const deny = { first: TO_NOBODY, count: NOBODY, beside: `plain forwarding, ${FEW} devices`, denied: true } as const;

const ROWS: readonly Row[] = [
  ...[FEW, MANY].flatMap((count): Row[] => {
    const beside = `plain forwarding, ${count} devices`;
    return [
      { name: beside, gateway: 'plain', first: TO_DEVICES, count, beside },
      { name: `nftables DNAT, ${count} grants`, gateway: 'nat', first: TO_ENDPOINTS, count, beside },
      { name: `gate, ${count} grants`, gateway: 'gate', first: TO_ENDPOINTS, count, beside },
      { name: `gate, ${count} grants with limits`, gateway: 'gate', first: TO_ENDPOINTS, count, beside, limits: WIDE },
    ];
  }),
  { name: 'nftables, denied', gateway: 'nat', ...deny },
  { name: 'gate, denied', gateway: 'gate', ...deny },
];

interface PacketRow {
  readonly name: string;
  /** Million packets a second, and nanoseconds of the core a packet, generator and receiver included. */
  readonly mpps: Figure;
  readonly nanoseconds: Figure;
  readonly toPlain: Figure;
  /** Sent, and neither arrived nor denied: share of the worst run. */
  readonly lost: number;
}

export async function measurePackets(rounds: number, seconds: number, progress: (what: string) => void) {
  progress(`three gateways with ${MANY} grants`);
  const gateways = await Gateways.build(MANY);
  try {
    const indices = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);
    const generator = await Generator.start(gateways.network, 'generator', availableParallelism() - 1, [
      ...indices(0, MANY).map(device),
      ...indices(0, MANY).map(endpoint),
      ...indices(MANY, NOBODY).map(endpoint),
    ]);
    const once = (row: Row) => measure(gateways, generator, row, seconds);
    progress('packets: a round to warm up');
    for (const row of ROWS) await once(row);
    const runs = new Map<string, Run[]>(ROWS.map((row) => [row.name, []]));
    for (let round = 1; round <= rounds; round++) {
      progress(`packets: round ${round} of ${rounds}`);
      for (const row of ROWS) runs.get(row.name)?.push(await once(row));
    }
    return ROWS.map((row) => summarise(row, runs.get(row.name) ?? [], runs.get(row.beside) ?? []));
  } finally {
    await gateways.close();
  }
}

interface Run {
  readonly perSecond: number;
  readonly lost: number;
}

async function measure(gateways: Gateways, generator: Generator, row: Row, seconds: number): Promise<Run> {
  const { gateway, first, count, limits } = row;
  const counted = () => (row.denied && gateway !== 'plain' ? gateways.denied(gateway) : gateways.arrived(gateway));
  gateways.beat();
  if (gateway === 'gate' && !row.denied) gateways.limit(count, limits ?? {});
  const before = await counted();
  const sent = await generator.burst({ ...gateways.generatorLink(gateway), source: SERVER, first, count, seconds });
  await delay(20); // what is still queued between the namespaces
  const packets = (await counted()) - before;
  return { perSecond: packets / sent.coreSeconds, lost: 1 - packets / sent.packets };
}

function summarise({ name }: Row, runs: readonly Run[], plain: readonly Run[]): PacketRow {
  return {
    name,
    mpps: figure(runs.map(({ perSecond }) => perSecond / 1e6)),
    nanoseconds: figure(runs.map(({ perSecond }) => 1e9 / perSecond)),
    toPlain: figure(runs.map(({ perSecond }, round) => perSecond / (plain[round]?.perSecond ?? 0))),
    lost: Math.max(...runs.map(({ lost }) => lost)),
  };
}

export function showPackets(rows: readonly PacketRow[]): string {
  const text = table(
    ['64-byte UDP, one core for all', 'Mpps', 'ns a packet', 'to plain forwarding', 'lost'],
    rows.map(({ name, mpps, nanoseconds, toPlain, lost }) => [
      name,
      show(mpps, 2),
      show(nanoseconds, 0),
      show(toPlain, 2),
      `${(lost * 100).toFixed(1)} %`,
    ]),
  );
  return `${text}\nEach gateway knows ${MANY} devices; the packets go to as many of them, at random, as the row says.`;
}
