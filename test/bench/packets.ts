/**
 * What the gate costs a packet: carried by a grant, and denied, at TC and at
 * XDP, beside plain forwarding, nftables and the limits of XDP, on the same
 * core, in the same rounds.
 *
 * A round measures every row once, one after the other, and a row's ratio is
 * taken to another row of its own round: what slows the machine down for a
 * while slows both. Rates are of packets seen where they end up, not of
 * packets sent. Phases differ by how many grants are held; those that are hit
 * lie evenly among them.
 */
import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Family } from '../../agent/core/net.ts';
import type { PacketLimits } from '../../agent/core/words.ts';
import { type Figure, figure, show, table } from './figures.ts';
import {
  device,
  ENDED,
  endpoint,
  type Gateway,
  Gateways,
  ownPort,
  SERVER,
  SERVER_PORT,
  STRANGER,
  type Way,
} from './gateways.ts';
import { Generator, type Target } from './generator.ts';

const HELD = [1_000, 100_000, 1_000_000] as const;
const FEW = 1_000;
const MANY = 60_000;
/** What nftables' map has: of a million it takes minutes. */
const FORWARDED = 100_000;

interface Row {
  readonly name: string;
  readonly gateway: Gateway;
  readonly way: Way;
  readonly family: Family;
  readonly held: number;
  /** Which of the generator's targets. */
  readonly targets: string;
  readonly source?: string;
  /** From the devices to the server. */
  readonly outward?: boolean;
  readonly denied?: boolean;
  /** What the grants may carry meanwhile. */
  readonly limits?: PacketLimits;
}

/** So much that nothing is refused. */
const WIDE: PacketLimits = { packetsPerSecond: 10_000_000, bytes: 1e12 };

const FAMILIES = ['ipv4', 'ipv6'] as const;
const text = (count: number) => (count >= 1_000_000 ? `${count / 1e6}M` : `${count / 1e3}k`);

/** What carries, with so many held and so many of them hit. */
function carrying(family: Family, held: number, hit: number): Row[] {
  const what = `${family}, ${text(held)} held, ${text(hit)} hit`;
  const to = (kind: string) => ({ family, held, targets: `${kind} ${family} ${hit} of ${held}` });
  const nat: Row[] =
    family === 'ipv4' && held <= FORWARDED
      ? [{ name: `nftables DNAT, ${what}`, gateway: 'nat', way: 'stack', ...to('endpoint') }]
      : [];
  return [
    { name: `plain forwarding, ${what}`, gateway: 'plain', way: 'stack', ...to('device') },
    ...nat,
    { name: `gate at TC, ${what}`, gateway: 'gate', way: 'tc', ...to('endpoint') },
    { name: `gate at XDP, ${what}`, gateway: 'gate', way: 'xdp', ...to('endpoint') },
  ];
}

/** The other way: what devices answer. */
function answering(family: Family, held: number, hit: number): Row[] {
  const rows = carrying(family, held, hit).filter(({ gateway }) => gateway !== 'nat'); // which answers what it tracks
  const targets = `device ${family} ${hit} of ${held}`;
  return rows.map((row) => ({ ...row, name: `${row.name}, outward`, targets, outward: true }));
}

const few = (family: Family, kind: string) => ({ family, held: FEW, targets: `${kind} ${family} ${FEW} of ${FEW}` });
const LIMITS: readonly Row[] = [
  { name: 'bare XDP redirect', gateway: 'shortest', way: 'redirect', ...few('ipv4', 'device') },
  { name: 'raw XDP drop', gateway: 'shortest', way: 'drop', denied: true, ...few('ipv4', 'device') },
];

const WITH_LIMITS: readonly Row[] = (['tc', 'xdp'] as const).map((way) => ({
  ...{ name: `gate at ${way.toUpperCase()} with limits, ipv4, 1k held, 1k hit`, gateway: 'gate', way },
  ...{ limits: WIDE, ...few('ipv4', 'endpoint') },
}));
const BARE: readonly Row[] = FAMILIES.flatMap((family) =>
  (['tc', 'xdp'] as const).map(
    (way): Row => ({
      ...{ name: `gate at ${way.toUpperCase()}, nothing made alike, ${family}, 1k held, 1k hit`, gateway: 'bare', way },
      ...few(family, 'endpoint'),
    }),
  ),
);
/** Flows that devices begin: connection tracking, the base, and headers made alike or not. */
const BEGUN: readonly Row[] = FAMILIES.flatMap((family) =>
  (['gate', 'bare'] as const).map((gateway): Row => {
    const alike = gateway === 'bare' ? ', nothing made alike' : '';
    const name = `the base${alike}, ${family}, 1k flows of devices, outward`;
    return { name, gateway, way: 'tc', outward: true, ...few(family, 'own') };
  }),
);
/** Denied packets: what nobody was granted, what ended, what another source sends. */
function denying(family: Family): Row[] {
  const at = (way: Way): Row[] => [
    {
      name: `gate at ${way.toUpperCase()}, denied, ${family}: unknown port`,
      gateway: 'gate',
      way,
      ...few(family, 'nobody'),
    },
    { name: `gate at ${way.toUpperCase()}, denied, ${family}: ended`, gateway: 'gate', way, ...few(family, 'ended') },
    {
      ...{ name: `gate at ${way.toUpperCase()}, denied, ${family}: unknown source`, gateway: 'gate', way },
      ...{ source: STRANGER[family], ...few(family, 'endpoint') },
    },
  ];
  return [...at('tc'), ...at('xdp')].map((row) => ({ ...row, denied: true }));
}

const ROWS: readonly Row[] = HELD.flatMap((held) => [
  ...FAMILIES.flatMap((family) =>
    [FEW, ...(held > MANY ? [MANY] : [])].flatMap((hit) => [
      ...carrying(family, held, hit),
      ...(held === 100_000 ? [] : answering(family, held, hit)),
    ]),
  ),
  ...(held === FEW
    ? [
        ...LIMITS,
        ...WITH_LIMITS,
        ...BARE,
        ...BEGUN,
        { name: 'nftables, denied', gateway: 'nat', way: 'stack', denied: true, ...few('ipv4', 'nobody') } as const,
        ...FAMILIES.flatMap(denying),
      ]
    : []),
]);

interface PacketRow {
  readonly name: string;
  readonly held: number;
  readonly family: Family;
  readonly way: Way;
  /** Million packets a second, and nanoseconds of the core a packet, generator and receiver included. */
  readonly mpps: Figure;
  readonly nanoseconds: Figure;
  readonly toPlain: Figure;
  /** Sent, and neither arrived nor denied: share of the worst run. */
  readonly lost: number;
}

export interface Packets {
  readonly rows: readonly PacketRow[];
  readonly goals: readonly Goal[];
}

export async function measurePackets(
  rounds: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<Packets> {
  progress('gateways');
  const gateways = await Gateways.build(FORWARDED);
  try {
    const places = new Map<string, { readonly first: number; readonly count: number }>();
    const targets: Target[] = [];
    for (const { targets: name } of ROWS) {
      if (places.has(name)) continue;
      const list = targetsOf(name);
      places.set(name, { first: targets.length, count: list.length });
      for (const target of list) targets.push(target);
    }
    const cpu = availableParallelism() - 1;
    const senders: Senders = {
      inward: await Generator.start(gateways.network, 'generator', cpu, targets),
      outward: await Generator.start(gateways.network, 'sink', cpu, targets),
    };
    const runs = new Map<string, Run[]>(ROWS.map((row) => [row.name, []]));
    for (const held of HELD) {
      progress(`packets: ${held} grants of each family`);
      gateways.hold(held);
      const rows = ROWS.filter((row) => row.held === held);
      const once = (row: Row, long: number) =>
        measure(gateways, senders, row, places.get(row.targets) ?? { first: 0, count: 1 }, long);
      for (const row of rows) await once(row, 0.2); // to warm up
      for (let round = 1; round <= rounds; round++) {
        progress(`packets: round ${round} of ${rounds}`);
        for (const row of rows) runs.get(row.name)?.push(await once(row, seconds));
      }
    }
    return { rows: ROWS.map((row) => summarise(row, runs)), goals: goalsOf(runs) };
  } finally {
    await gateways.close();
  }
}

/** By its name: `endpoint ipv4 1000 of 100000`. */
function targetsOf(name: string): Target[] {
  const [kind, familyName, hitText, , heldText] = name.split(' ');
  const family = familyName as Family;
  const [hit, held] = [Number(hitText), Number(heldText)];
  const numbers = Array.from({ length: hit }, (_, i) => ENDED + Math.floor((i * held) / hit));
  if (kind === 'device') return numbers.map((i) => device(family, i));
  if (kind === 'own') return numbers.map((i) => ownPort(family, i));
  if (kind === 'endpoint') return numbers.map((i) => endpoint(family, i));
  if (kind === 'ended') return Array.from({ length: hit }, (_, i) => endpoint(family, i % ENDED));
  // Behind the last grant there ever is.
  return Array.from({ length: hit }, (_, i) => endpoint(family, 1_020_000 + i));
}

interface Run {
  readonly perSecond: number;
  readonly lost: number;
}

type Senders = Readonly<Record<'inward' | 'outward', Generator>>;

async function measure(
  gateways: Gateways,
  senders: Senders,
  row: Row,
  { first, count }: { readonly first: number; readonly count: number },
  seconds: number,
): Promise<Run> {
  const { gateway, way, family, denied, limits, outward = false, source = SERVER[family] } = row;
  gateways.beat();
  gateways.meet(gateway, way, { outward });
  if (limits) gateways.limit(count, limits);
  const counted = () => (denied ? gateways.denied(gateway) : gateways.arrived(gateway, outward));
  const before = await counted();
  const sent = await senders[outward ? 'outward' : 'inward'].burst({
    ...gateways.linkTo(gateway, outward),
    peer: { address: source, port: SERVER_PORT },
    isOutward: outward,
    first,
    count,
    seconds,
  });
  await delay(20); // what is still queued between the namespaces
  const packets = (await counted()) - before;
  if (limits) gateways.limit(count, {});
  return { perSecond: packets / sent.coreSeconds, lost: 1 - packets / sent.packets };
}

type Runs = ReadonlyMap<string, readonly Run[]>;

/** One row's rate in times of another's, by round. */
function ratio(runs: Runs, name: string, beside: string): Figure {
  const other = runs.get(beside) ?? [];
  return figure((runs.get(name) ?? []).map(({ perSecond }, round) => perSecond / (other[round]?.perSecond ?? 0)));
}

function summarise({ name, held, family, way, targets, outward }: Row, runs: Runs): PacketRow {
  const own = runs.get(name) ?? [];
  const hit = Number(targets.split(' ')[2]);
  const plain = `plain forwarding, ${family}, ${text(held)} held, ${text(hit)} hit${outward ? ', outward' : ''}`;
  return {
    ...{ name, held, family, way },
    mpps: figure(own.map(({ perSecond }) => perSecond / 1e6)),
    nanoseconds: figure(own.map(({ perSecond }) => 1e9 / perSecond)),
    toPlain: ratio(runs, name, plain),
    lost: Math.max(...own.map(({ lost }) => lost)),
  };
}

interface Goal {
  readonly what: string;
  readonly least: number;
  readonly seen: Figure;
}

function goalsOf(runs: Runs): Goal[] {
  const at = (where: string, held = '1k', hit = '1k') => `gate at ${where}, ipv4, ${held} held, ${hit} hit`;
  const plain = (held = '1k', hit = '1k') => `plain forwarding, ipv4, ${held} held, ${hit} hit`;
  const nat = 'nftables DNAT, ipv4, 1k held, 1k hit';
  const denied = 'gate at XDP, denied, ipv4: unknown port';
  const goal = (what: string, least: number, name: string, beside: string) => ({
    ...{ what, least, seen: ratio(runs, name, beside) },
  });
  return [
    goal('XDP to plain forwarding, 1k', 1.8, at('XDP'), plain()),
    goal('XDP to plain forwarding, 1M held, 60k hit', 1.2, at('XDP', '1M', '60k'), plain('1M', '60k')),
    goal('XDP to nftables DNAT, 1k', 3.5, at('XDP'), nat),
    goal('XDP to bare XDP redirect, 1k', 0.7, at('XDP'), 'bare XDP redirect'),
    goal('TC to plain forwarding, 1k', 1, at('TC'), plain()),
    goal('TC to nftables DNAT, 1k', 1.6, at('TC'), nat),
    goal('TC to plain forwarding, 1M held, 1k hit', 0.9, at('TC', '1M'), plain('1M')),
    goal('TC to plain forwarding, 1M held, 60k hit', 0.9, at('TC', '1M', '60k'), plain('1M', '60k')),
    goal('XDP deny to raw XDP drop', 0.5, denied, 'raw XDP drop'),
    goal('XDP deny to nftables deny', 4, denied, 'nftables, denied'),
    goal('XDP over IPv6 to IPv4, 1k', 0.5, at('XDP').replace('ipv4', 'ipv6'), at('XDP')),
  ];
}

export function showPackets({ rows, goals }: Packets): string {
  const all = table(
    ['UDP with 18 bytes, one core for all', 'Mpps', 'ns a packet', 'to plain forwarding', 'lost'],
    rows.map(({ name, mpps, nanoseconds, toPlain, lost }) => [
      name,
      show(mpps, 2),
      show(nanoseconds, 0),
      show(toPlain, 2),
      `${(lost * 100).toFixed(1)} %`,
    ]),
  );
  const reached = table(
    ['goal', 'at least', 'seen', ''],
    goals.map(({ what, least, seen }) => [
      what,
      String(least),
      show(seen, 2),
      seen.median >= least ? 'reached' : 'NOT',
    ]),
  );
  return `${all}\n\n${reached}`;
}
