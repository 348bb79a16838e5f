/**
 * What standing filters let begin from outside, as the gate is told it: without
 * an admission no packet passes its guard of the inside. The base judges each
 * packet by the filter itself; an admission is never narrower than that.
 */
import { type Admission, admissionTables, crowdedSource } from '../core/admissions.ts';
import { type Family, overlaps, type Prefix, prefix } from '../core/net.ts';
import { type Ends, type Filter, familiesOf } from './filters.ts';

const EVERYWHERE: Readonly<Record<Family, Prefix>> = { ipv4: prefix('0.0.0.0/0'), ipv6: prefix('::/0') };

/** `realms`: the prefixes of all realms of agent.yaml. */
export function admissionsOf(filters: readonly Filter[], realms: readonly Prefix[]): Admission[] {
  return filters
    .filter(({ action, staged }) => action === 'allow' && !staged)
    .flatMap((filter) =>
      familiesOf(filter).flatMap((family) =>
        sourcesOf(filter.from, family).flatMap((source) =>
          destinationsOf(filter.to, ofFamily(realms, family)).flatMap((destination) =>
            contentsOf(filter).map((content) => ({ source, destination, ...content })),
          ),
        ),
      ),
    );
}

/** Who may ping external addresses: an allow that names them, since "inside" does not mean them. `pool`: the grants pool. */
export function echoAdmissionsOf(filters: readonly Filter[], pool: readonly Prefix[]): Admission[] {
  const naming = filters.flatMap((filter) => {
    const { protocol, to } = filter;
    const isIcmp = protocol === 'icmp' || protocol === 'icmpv6';
    return isIcmp && to && to.prefixes.length > 0 ? { ...filter, to: { ...to, sides: [] } } : [];
  });
  return admissionsOf(naming, pool);
}

/** Of filters in the order of their ids, the first for which the gate has no room, and the source where it has none. */
export function uncontained(
  filters: readonly Filter[],
  realms: readonly Prefix[],
): { readonly filter: Filter; readonly source: Prefix } | undefined {
  for (const [i, filter] of filters.entries()) {
    const source = crowdedSource(admissionTables(admissionsOf(filters.slice(0, i + 1), realms)));
    if (source) return { filter, source };
  }
  return undefined;
}

function sourcesOf(from: Ends | undefined, family: Family): readonly Prefix[] {
  if (!from || from.sides.includes('outside')) return [EVERYWHERE[family]];
  return ofFamily(from.prefixes, family);
}

/** What of the realms is meant: a whole one, or the part that is the narrower of the two. Groups are never (filter-files.ts). */
function destinationsOf(to: Ends | undefined, realms: readonly Prefix[]): readonly Prefix[] {
  if (!to || to.sides.includes('inside')) return realms;
  return to.prefixes.flatMap((one) =>
    realms.filter((realm) => overlaps(one, realm)).map((realm) => (one.length > realm.length ? one : realm)),
  );
}

function contentsOf({ ports, types, ...filter }: Filter): Omit<Admission, 'source' | 'destination'>[] {
  const protocol = filter.protocol ?? 'any';
  if (ports) return ports.map((range) => ({ protocol, ports: range }));
  return [{ protocol, ...(types && { types }) }];
}

function ofFamily(prefixes: readonly Prefix[], family: Family): readonly Prefix[] {
  return prefixes.filter((one) => one.family === family);
}
