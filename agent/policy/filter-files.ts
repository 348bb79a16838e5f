/**
 * Filters as they stand in rule files: their schema, what is wrong with them
 * beside it, and the compiled form. What they mean stands in filters.ts.
 */
import type { z } from 'zod';
import type { Issue, Path, Place } from '../core/document.ts';
import * as f from '../core/fields.ts';
import { encloses, type Prefix, parsePrefix } from '../core/net.ts';
import {
  type Ends,
  FILTER_PROTOCOLS,
  type Filter,
  familiesOf,
  ICMP_TYPES,
  mayBegin,
  SIDES,
  type Side,
} from './filters.ts';

/** The base looks at filters one after the other: with many of them every packet takes longer. */
const FILTERS_MOST = 256;

const GROUP = 'group:';
const EXPECTED = `inside, outside, any, a prefix, or ${GROUP}NAME`;

type WrittenEnd = Side | 'any' | { readonly prefix: Prefix } | { readonly group: string };

const end = f.field(
  EXPECTED,
  (text): WrittenEnd | undefined => {
    const word = [...SIDES, 'any' as const].find((one) => one === text);
    if (word) return word;
    if (text.startsWith(GROUP)) {
      const group = f.name().safeParse(text.slice(GROUP.length)).data;
      return group === undefined ? undefined : { group };
    }
    const prefix = parsePrefix(text);
    return typeof prefix === 'string' ? undefined : { prefix };
  },
  {},
  (text) => {
    const prefix = parsePrefix(text);
    const looksLikeOne = /^[0-9a-fA-F:.]+(\/\d*)?$/.test(text);
    return `expected ${looksLikeOne && typeof prefix === 'string' ? `a prefix: ${prefix}` : `${EXPECTED}, found "${text}"`}`;
  },
);
const ends = f.oneOrMore(end, EXPECTED);

const match = {
  from: ends.exactOptional(),
  to: ends.exactOptional(),
  protocol: f.choice(...FILTER_PROTOCOLS).exactOptional(),
  ports: f.list(f.ports, 'ports').exactOptional(),
  types: f.list(f.text, 'ICMP types').exactOptional(),
};

/** A filter, key by key. */
export const filter = f
  .mapping({
    id: f.name(),
    allow: f.mapping(match).exactOptional(),
    drop: f.mapping(match).exactOptional(),
    standing: f.flag.exactOptional(),
    stage: f.flag.exactOptional(),
  })
  .refine(...f.exactlyOne('allow', 'drop'))
  .refine((written) => !('drop' in written && 'standing' in written), {
    error: 'expected standing with allow only: a drop opens nothing',
    path: ['standing'],
    when: f.isMapping,
  })
  .meta({ oneOf: [{ required: ['allow'] }, { required: ['drop'] }] });

export type WrittenFilter = z.output<typeof filter>;

/** A filter with the way back to its text. */
interface FilterEntry {
  readonly name: string;
  readonly value: WrittenFilter;
  locate(...path: Path): Place;
}

/** What groups mean. */
export interface FilterGroups {
  /** The names of the device groups. */
  readonly devices: ReadonlySet<string>;
  /** Where the packets of each server group come from. */
  readonly servers: ReadonlyMap<string, readonly Prefix[]>;
}

/** All that is wrong with filters whose files are right; unless all are, a group may stand in another. */
export function filterIssues(written: readonly FilterEntry[], groups: FilterGroups, allRead: boolean): Issue[] {
  const tooMany = written
    .slice(FILTERS_MOST, FILTERS_MOST + 1)
    .map(({ locate }) => ({ ...locate('id'), message: TOO_MANY }));
  return [...tooMany, ...written.flatMap((entry) => [...issuesOf(entry, groups, allRead)])];
}

const TOO_MANY = `expected at most ${FILTERS_MOST} filters: the base looks at them one after the other, with every packet; join some by lists of prefixes and ports`;

function* issuesOf(entry: FilterEntry, groups: FilterGroups, allRead: boolean): Generator<Issue> {
  const { name, value, locate } = entry;
  const action = value.allow ? 'allow' : 'drop';
  const said = value[action] ?? {};
  const { protocol, ports, types } = said;
  const at = (key: keyof typeof said, message: string): Issue => ({ ...locate(action, key), message });

  if (ports && protocol !== 'tcp' && protocol !== 'udp')
    yield at('ports', `expected ports with protocol tcp or udp, found ${protocol ?? 'no protocol'}`);
  if (types && protocol !== 'icmp' && protocol !== 'icmpv6')
    yield at('types', `expected types with protocol icmp or icmpv6, found ${protocol ?? 'no protocol'}`);
  else if (types && protocol) {
    const known = Object.keys(ICMP_TYPES[protocol as 'icmp']);
    for (const [i, type] of types.entries())
      if (!known.includes(type))
        yield { ...locate(action, 'types', i), message: f.unknownWord(`${protocol} type`, type, known) };
  }
  let isKnown = true;
  for (const key of ['from', 'to'] as const)
    for (const [i, one] of (said[key] ?? []).entries()) {
      if (typeof one === 'string' || !('group' in one)) continue;
      if (groups.devices.has(one.group) || groups.servers.has(one.group)) continue;
      isKnown = false;
      const known = [...groups.devices, ...groups.servers.keys()];
      if (allRead) yield { ...locate(action, key, i), message: f.unknownWord('group', one.group, known) };
    }
  if (!isKnown) return;

  const compiled = filterOf(entry, groups);
  if (familiesOf(compiled).length === 0 && ![compiled.from, compiled.to].some(isNowhere))
    yield at(
      protocol?.startsWith('icmp') ? 'protocol' : 'to',
      'the families contradict each other: no packet is of both (icmp is IPv4, icmpv6 is IPv6)',
    );
  if (compiled.action === 'drop') return;
  const { from, to } = compiled;
  if (isOnly(from, 'inside') && isOnly(to, 'inside')) {
    yield at('to', 'an allow from inside to inside opens nothing: devices are kept apart');
    return;
  }
  // Wherever it may lead: whether a prefix is inside, agent.yaml knows, and it may change.
  const isInward = !isOnly(from, 'inside') && !isOnly(to, 'outside');
  if (isInward && to && to.groups.length > 0)
    yield at(
      'to',
      'expected prefixes where an allow leads inside, found a device group: the gate must know it by itself',
    );
  if (isInward && (protocol === undefined || protocol === 'tcp' || protocol === 'udp') && !value.standing) {
    const what = protocol ?? 'any protocol';
    yield {
      ...locate(action),
      message: `allow "${name}" opens ${what} from outside to inside, and only a grant may open that; say standing: true, or from: inside`,
    };
  }
}

/** A server group may have no server. */
function isNowhere(ends: Ends | undefined): boolean {
  return ends !== undefined && ends.sides.length + ends.prefixes.length + ends.groups.length === 0;
}

/** Whether nothing but that side is meant, by its name or by groups of its devices. */
function isOnly(ends: Ends | undefined, side: Side): boolean {
  if (!ends || ends.prefixes.length > 0) return false;
  if (side === 'outside' && ends.groups.length > 0) return false;
  return ends.sides.every((one) => one === side);
}

/** The compiled form; what its groups mean is known by now. */
export function filterOf({ name, value, locate }: FilterEntry, groups: FilterGroups): Filter {
  const { standing = false, stage = false } = value;
  const action = value.allow ? 'allow' : 'drop';
  const { from, to, protocol, ports, types } = value.allow ?? value.drop ?? {};
  const ofIcmp = protocol === 'icmp' || protocol === 'icmpv6' ? ICMP_TYPES[protocol] : {};
  return {
    id: name,
    place: locate(),
    action,
    ...endsOf('from', from, groups),
    ...endsOf('to', to, groups),
    ...(protocol && { protocol }),
    ...(ports && { ports }),
    ...(types && { types: types.flatMap((type) => ofIcmp[type] ?? []) }),
    standing,
    staged: stage,
  };
}

function endsOf(
  key: 'from' | 'to',
  written: readonly WrittenEnd[] | undefined,
  { devices, servers }: FilterGroups,
): { from?: Ends; to?: Ends } {
  if (!written || written.includes('any')) return {};
  const sides = SIDES.filter((side) => written.includes(side));
  if (sides.length === SIDES.length) return {};
  const groups = written.flatMap((one) => (typeof one === 'object' && 'group' in one ? one.group : []));
  const prefixes = written.flatMap((one) => (typeof one === 'object' && 'prefix' in one ? one.prefix : []));
  const sources = groups.flatMap((group) => servers.get(group) ?? []);
  return {
    [key]: { sides, prefixes: [...prefixes, ...sources], groups: groups.filter((group) => devices.has(group)) },
  };
}

/** What is right, but surely not meant. */
export function filterWarnings(filters: readonly Filter[]): Issue[] {
  return filters.flatMap((filter) => {
    const doubt = doubtOf(filter, filters);
    return doubt === undefined ? [] : { ...filter.place, message: `${filter.action} "${filter.id}" ${doubt}` };
  });
}

function doubtOf(filter: Filter, all: readonly Filter[]): string | undefined {
  const { from, to, action } = filter;
  if (isOnly(from, 'outside') && isOnly(to, 'outside'))
    return 'can never match: from outside to outside nothing is forwarded by the base';
  if ([from, to].some(isNowhere)) return 'can never match: its group has no server';
  if (action === 'allow') {
    if (!mayBegin(filter))
      return 'can never match: such messages begin no flow, and those of a flow that runs pass anyway';
    const drop = all.find((one) => one.action === 'drop' && !one.staged && covers(one, filter));
    return drop && `can never match: drop "${drop.id}" covers it`;
  }
  if (filter.staged || (filter.protocol !== undefined && filter.protocol !== 'tcp' && filter.protocol !== 'udp'))
    return undefined;
  const what = `every ${filter.protocol ? `${filter.protocol} ` : ''}grant`;
  const isEvery = (one: Ends | undefined, side: Side) => !one || one.sides.includes(side);
  if (isEvery(from, 'inside') && isEvery(to, 'outside')) {
    if (!filter.ports) return `refuses ${what}: it meets their answers`;
    return `refuses ${what} whose application server names no port: it may use one of these; narrow \`to\``;
  }
  if (isEvery(from, 'outside') && isEvery(to, 'inside') && !filter.ports)
    return `refuses ${what}: it meets their packets`;
  return undefined;
}

/** Whether every packet that the inner one meets is met by the outer one. */
function covers(outer: Filter, inner: Filter): boolean {
  if (outer.protocol !== undefined && outer.protocol !== inner.protocol) return false;
  const { ports, types } = outer;
  const hasPort = (port: { low: number; high: number }) =>
    ports?.some(({ low, high }) => low <= port.low && port.high <= high) ?? true;
  if (ports && !(inner.ports ?? [{ low: 0, high: 65_535 }]).every(hasPort)) return false;
  if (types && !(inner.types?.every((type) => types.includes(type)) ?? false)) return false;
  return coversEnds(outer.from, inner.from) && coversEnds(outer.to, inner.to);
}

function coversEnds(outer: Ends | undefined, inner: Ends | undefined): boolean {
  if (!outer) return true;
  if (!inner) return false;
  const { sides, prefixes, groups } = outer;
  return (
    inner.sides.every((side) => sides.includes(side)) &&
    inner.groups.every((group) => groups.includes(group) || sides.includes('inside')) &&
    inner.prefixes.every((one) => prefixes.some((prefix) => encloses(prefix, one)))
  );
}
