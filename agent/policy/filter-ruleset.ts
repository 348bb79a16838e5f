/**
 * Filters as rules of the base (ruleset.ts), in nft's words.
 *
 * Every filter has a named counter. Drops stand in one chain, before everything
 * that lets a packet pass, and know no flows. An allow is looked at with every packet of its
 * flow, and turned round with every answer: nothing is remembered of it, so
 * that a filter that is gone has let its last packet through.
 *
 * An end of a filter may be several things, a rule can ask for one: so a
 * filter is as many rules as pairs of its ends.
 */
import type { Family, Prefix } from '../core/net.ts';
import { isHost, overlaps } from '../core/net.ts';
import { ANSWER_MARK, type FilterCopy } from '../core/reasons.ts';
import { type Ends, type Filter, familiesOf, mayBegin, type Side } from './filters.ts';
import { COPIES_AT_ONCE, copied, hex, type Part, quote } from './nft-text.ts';

/** What a device of a group is bound to, by the interface of its realm. */
export interface GroupMember {
  readonly interface: string;
  readonly prefix: Prefix;
}

export interface FilterSetup {
  readonly outside: string;
  readonly inside: readonly { readonly interface: string }[];
  readonly nflogGroup: number;
  readonly filters: readonly Filter[];
  /** How many packets that filters met are copied in a second, of all filters together. */
  readonly filterCopiesPerSecond: number;
  /** Who is in the device groups that filters name. */
  readonly groups: ReadonlyMap<string, readonly GroupMember[]>;
}

/** What filters have counted before this table. */
export type Counted = ReadonlyMap<string, { readonly packets: bigint; readonly bytes: bigint }>;

const FAMILIES = [
  { family: 'ipv4', word: 'ip', type: 'ipv4_addr' },
  { family: 'ipv6', word: 'ip6', type: 'ipv6_addr' },
] as const;
const COPIES = 'filter_copies';
const COUNTER_PREFIX = 'filter_';

/** Counters, sets and chains of their own; none where there is no filter. */
export function filterParts(setup: FilterSetup, counted: Counted): Part[] {
  const { filters, groups, filterCopiesPerSecond: copies } = setup;
  const used = groupsIn(filters);
  return [
    ...filters.map(({ id }): Part => {
      const { packets, bytes } = counted.get(id) ?? { packets: 0n, bytes: 0n };
      return ['counter', `${COUNTER_PREFIX}${id}`, [`packets ${packets} bytes ${bytes}`]];
    }),
    ...(filters.length > 0 && copies > 0
      ? [['limit', COPIES, [`rate ${copies}/second burst ${COPIES_AT_ONCE} packets`]] as const]
      : []),
    ...used.flatMap((group) =>
      FAMILIES.map(({ family, type }): Part => {
        const members = (groups.get(group) ?? []).filter(({ prefix }) => prefix.family === family);
        const elements = members.map((one) => groupElement(group, one)[1]).sort();
        return [
          'set',
          groupSet(group, family),
          [
            `type ifname . ${type}`,
            ...(family === 'ipv6' ? ['flags interval'] : []), // a device has a prefix, or a part of one
            ...(elements.length > 0 ? [`elements = { ${elements.join(', ')} }`] : []),
          ],
        ];
      }),
    ),
    ...filters.flatMap((filter) => ownChains(filter, setup)),
    ['chain', 'drops', dropRules(setup)],
    // A flow begins as it does in the base: TCP with a lone SYN.
    [
      'chain',
      'begin',
      [
        'ct state established ct direction original accept',
        'ct state new meta l4proto != tcp accept',
        'ct state new tcp flags & (fin | syn | rst | ack) == syn accept',
      ],
    ],
  ];
}

/** The device groups that filters name. */
export function groupsIn(filters: readonly Filter[]): string[] {
  return [...new Set(filters.flatMap(({ from, to }) => [from, to].flatMap((ends) => ends?.groups ?? [])))].sort();
}

/** Where the copy and the end of a dropped packet are; and all of a staged filter, which ends nothing. */
function ownChains(filter: Filter, setup: FilterSetup): Part[] {
  const { id, action, staged } = filter;
  if (staged)
    return [
      ['chain', `noted_${id}`, copies('staged', id, setup)],
      ['chain', `staged_${id}`, matches(filter, setup).map((match) => `${match}${counted(id)} goto noted_${id}`)],
    ];
  return action === 'drop' ? [['chain', `filtered_${id}`, [...copies('filtered', id, setup), 'drop']]] : [];
}

/** Drops, and behind them what would have been one: of a packet that is dropped nothing more is said. */
function dropRules(setup: FilterSetup): string[] {
  const drops = setup.filters.filter(({ action }) => action === 'drop');
  return [
    ...drops
      .filter(({ staged }) => !staged)
      .flatMap((filter) =>
        matches(filter, setup).map((match) => `${match}${counted(filter.id)} goto filtered_${filter.id}`),
      ),
    ...drops.filter(({ staged }) => staged).map(({ id }) => `jump staged_${id}`),
  ];
}

/** What begins toward `side`, in a chain where packets go that way. */
export function allowRules(setup: FilterSetup, side: Side): string[] {
  const allows = allowsToward(setup, side);
  const here = `iifname ${quote(setup.outside)} `;
  const guard = side === 'inside' ? here : '';
  return [
    ...allows
      .filter(({ staged }) => !staged)
      .flatMap((filter) =>
        matches(filter, setup, side).map((match) => `${guard}${match}${counted(filter.id)} jump begin`),
      ),
    ...allows.filter(({ staged }) => staged).map(({ id }) => `${guard}ct state new jump staged_${id}`),
  ];
}

/** The answers to what may begin toward `side`, in a chain where packets go the other way. */
export function answerRules(setup: FilterSetup, side: Side): string[] {
  const accept = side === 'inside' ? `meta mark set ${hex(ANSWER_MARK)} accept` : 'accept';
  const guard = side === 'inside' ? '' : `iifname ${quote(setup.outside)} `;
  return allowsToward(setup, side)
    .filter((one) => !one.staged && mayBegin(one))
    .flatMap((filter) => [
      ...matches(filter, setup, side, 'answers').map(
        (match) => `${guard}${match}ct state established ct direction reply ${accept}`,
      ),
      // A device's errors about what was let in (RFC 5508): they show its address, which the peer knows.
      ...(side === 'inside'
        ? matches(filter, setup, side, 'errors').map((match) => `${match}ct state related ct direction reply ${accept}`)
        : []),
    ]);
}

/** The sets' changes when an address leaves, or enters, groups. */
export function groupElement(
  group: string,
  { interface: name, prefix }: GroupMember,
): readonly [set: string, element: string] {
  const shown = isHost(prefix) ? prefix.address.text : prefix.text; // by nft
  return [groupSet(group, prefix.family), `${quote(name)} . ${shown}`];
}

function allowsToward({ filters }: FilterSetup, side: Side): readonly Filter[] {
  const other = side === 'inside' ? 'outside' : 'inside';
  return filters.filter(
    ({ action, from, to }) =>
      action === 'allow' && mayBe(from, other) && mayBe(to, side) && (side === 'outside' || !to?.groups.length),
  );
}

function mayBe(ends: Ends | undefined, side: Side): boolean {
  if (!ends || ends.sides.includes(side) || ends.prefixes.length > 0) return true;
  return side === 'inside' && ends.groups.length > 0;
}

/** Packets as a filter speaks of them; the answers to them; errors about them, of which the filter speaks by their flow. */
type Way = 'packets' | 'answers' | 'errors';

/** The types of answers, by those of requests (RFC 792, 950; RFC 4443). */
const ANSWER_TYPES: Readonly<Record<number, number>> = { 8: 0, 13: 14, 15: 16, 17: 18, 128: 129 };

/** A filter as what rules ask for: each pair of its ends, in each family; turned round for answers. */
function matches(filter: Filter, setup: FilterSetup, toward?: Side, way: Way = 'packets'): string[] {
  const [near, far] = way === 'packets' ? ([SOURCE, DESTINATION] as const) : ([DESTINATION, SOURCE] as const);
  const families = familiesOf(filter);
  const froms = alternatives(filter.from, near, setup, toward && (toward === 'inside' ? 'outside' : 'inside'));
  const tos = alternatives(filter.to, far, setup, toward);
  const said = contentMatch(filter, way);
  const isOfOne = filter.protocol === 'icmp' || filter.protocol === 'icmpv6';
  return froms.flatMap((from) =>
    tos
      .filter((to) => from.family === undefined || to.family === undefined || from.family === to.family)
      .filter((to) => [from.family, to.family].every((family) => family === undefined || families.includes(family)))
      .map((to) => `${isOfOne ? `meta nfproto ${families[0]} ` : ''}${from.text}${to.text}${said}`),
  );
}

const SOURCE = { interface: 'iifname', address: 'saddr', port: 'sport' } as const;
const DESTINATION = { interface: 'oifname', address: 'daddr', port: 'dport' } as const;

interface Alternative {
  readonly text: string;
  readonly family?: Family;
}

/** What an end may be, in a chain where it is known on which side it is, or not. */
function alternatives(
  ends: Ends | undefined,
  at: typeof SOURCE | typeof DESTINATION,
  setup: FilterSetup,
  known?: Side,
): Alternative[] {
  if (!ends || (known && ends.sides.includes(known))) return [{ text: '' }];
  const interfaces = { inside: setup.inside.map((one) => one.interface), outside: [setup.outside] };
  const sides = known ? [] : ends.sides;
  return [
    ...sides.map((side) => ({ text: `${at.interface} { ${interfaces[side].map(quote).join(', ')} } ` })),
    ...FAMILIES.flatMap(({ family, word }): Alternative[] => {
      const prefixes = disjoint(ends.prefixes.filter((prefix) => prefix.family === family)).map(({ text }) => text);
      const groups = known === 'outside' ? [] : ends.groups;
      return [
        ...(prefixes.length > 0 ? [{ family, text: `${word} ${at.address} { ${prefixes.join(', ')} } ` }] : []),
        ...groups.map((group) => ({
          family,
          text: `${at.interface} . ${word} ${at.address} @${groupSet(group, family)} `,
        })),
      ];
    }),
  ];
}

function contentMatch({ protocol, ports, types }: Filter, way: Way): string {
  if (way === 'errors') {
    const flow = protocol === undefined ? '' : `ct original protocol ${protocol} `;
    const port = ports ? `ct original proto-dst ${rangesOf(ports)} ` : '';
    return `meta l4proto { icmp, icmpv6 } ${flow}${port}`;
  }
  if (protocol === undefined) return '';
  if (ports) {
    const { port } = way === 'packets' ? DESTINATION : SOURCE;
    return `${protocol} ${port} ${rangesOf(ports)} `;
  }
  const ofWay = way === 'packets' ? types : types?.flatMap((type) => ANSWER_TYPES[type] ?? []);
  if (ofWay?.length) return `${protocol} type { ${ofWay.join(', ')} } `;
  return `meta l4proto ${protocol} `;
}

/** Without those that lie in another one: nft takes no overlaps. */
function disjoint(prefixes: readonly Prefix[]): Prefix[] {
  const widestFirst = [...prefixes].sort((a, b) => a.length - b.length || (a.text < b.text ? -1 : 1));
  return widestFirst.filter((one, i) => !widestFirst.slice(0, i).some((before) => overlaps(before, one)));
}

function rangesOf(ports: NonNullable<Filter['ports']>): string {
  return `{ ${merged(ports)
    .map(({ low, high }) => (low === high ? `${low}` : `${low}-${high}`))
    .join(', ')} }`;
}

function merged(ranges: NonNullable<Filter['ports']>): { low: number; high: number }[] {
  const joined: { low: number; high: number }[] = [];
  for (const { low, high } of [...ranges].sort((a, b) => a.low - b.low)) {
    const last = joined.at(-1);
    if (last && low <= last.high + 1) last.high = Math.max(last.high, high);
    else joined.push({ low, high });
  }
  return joined;
}

function copies(how: FilterCopy, id: string, setup: FilterSetup): string[] {
  if (setup.filterCopiesPerSecond === 0) return [];
  return [`limit name "${COPIES}" ${copied(`${how} ${id}`, setup)}`];
}

function counted(id: string): string {
  return `counter name "${COUNTER_PREFIX}${id}"`;
}

function groupSet(group: string, family: Family): string {
  return `group_${group}_${family}`;
}
