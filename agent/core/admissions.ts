/**
 * What may pass from outside to the inside beside the grants: what standing
 * filters of the operator let in. The gate's guard looks up the longest prefix
 * that holds a packet's source, and no other: so each source prefix has, next
 * to its own admissions, those of every wider one.
 */
import { contains, type Prefix } from './net.ts';
import { byFirstAddress } from './overlaps.ts';
import type { Protocol } from './words.ts';

/**
 * Made from the filters of the policy. The gate lets such a packet through to
 * the base, which judges it by the filter itself, keeps track of the flow, and
 * marks its answers (ANSWER_MARK): without that mark none leaves.
 *
 * Fragments, and headers with options, are never admitted.
 */
export interface Admission {
  /**
   * As a filter says it, or everywhere: it may well hold addresses of the inside.
   * A packet that comes from outside with one of these as its source is to be
   * refused by whoever looks it up here, before.
   */
  readonly source: Prefix;
  /** Of the same family, within a prefix of a realm. */
  readonly destination: Prefix;
  /** `any`: every protocol there is. */
  readonly protocol: Protocol | 'icmp' | 'icmpv6' | 'any';
  /** TCP and UDP: destination ports, both ends included; absent: all. */
  readonly ports?: { readonly low: number; readonly high: number } | undefined;
  /** ICMP and ICMPv6: types, 0 to 255; absent: all. */
  readonly types?: readonly number[] | undefined;
}

/** How many the gate has room for at one source prefix, those of wider ones included. */
export const ADMISSIONS_MAX = 16;

/** All that holds for packets from a source for which there is no longer prefix. */
export interface AdmissionTable {
  readonly source: Prefix;
  readonly admissions: readonly Admission[];
}

/** A table for each source prefix, each admission in it once. */
export function admissionTables(list: readonly Admission[]): readonly AdmissionTable[] {
  const own = new Map<string, { prefix: Prefix; admissions: Admission[] }>();
  for (const one of list) {
    const table = own.get(one.source.text) ?? { prefix: one.source, admissions: [] };
    own.set(one.source.text, table);
    table.admissions.push(one);
  }
  // In this order a prefix stands behind those that hold it.
  const holding: { prefix: Prefix; admissions: readonly Admission[] }[] = [];
  return [...own.values()].sort(byFirstAddress).map(({ prefix: source, admissions: itsOwn }) => {
    for (let last = holding.at(-1); last && !contains(last.prefix, source.address); last = holding.at(-1))
      holding.pop();
    const all = [...(holding.at(-1)?.admissions ?? []), ...itsOwn];
    const admissions = [...new Map(all.map((one) => [textOf(one), one])).values()];
    holding.push({ prefix: source, admissions });
    return { source, admissions };
  });
}

/** A source prefix that has more admissions than there is room for. */
export function crowdedSource(tables: readonly AdmissionTable[]): Prefix | undefined {
  return tables.find(({ admissions }) => admissions.length > ADMISSIONS_MAX)?.source;
}

/** The same for what admits the same, whatever source it was said of. */
function textOf({ destination, protocol, ports, types }: Admission): string {
  return JSON.stringify([
    destination.text,
    protocol,
    ports?.low,
    ports?.high,
    types && [...types].sort((a, b) => a - b),
  ]);
}
