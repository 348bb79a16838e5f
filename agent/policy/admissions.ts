/**
 * What standing filters let begin from outside, as the gate is told it: without
 * an admission no packet passes its guard of the inside. The base judges each
 * packet by the filter itself; an admission is never narrower than that.
 */
import { type Family, overlaps, type Prefix, prefix } from '../core/net.ts';
import type { Ends, Filter, FilterProtocol } from './filters.ts';
import { familiesOf } from './filters.ts';

/** In the shape of the data plane's own. */
interface AdmittedFlow {
  readonly source: Prefix;
  /** Within a prefix of a realm. */
  readonly destination: Prefix;
  readonly protocol: FilterProtocol | 'any';
  readonly ports?: { readonly low: number; readonly high: number };
  readonly types?: readonly number[];
}

const EVERYWHERE: Readonly<Record<Family, Prefix>> = { ipv4: prefix('0.0.0.0/0'), ipv6: prefix('::/0') };

/** `realms`: the prefixes of all realms of agent.yaml. */
export function admissionsOf(filters: readonly Filter[], realms: readonly Prefix[]): AdmittedFlow[] {
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

function contentsOf({ ports, types, ...filter }: Filter): Omit<AdmittedFlow, 'source' | 'destination'>[] {
  const protocol = filter.protocol ?? 'any';
  if (ports) return ports.map((range) => ({ protocol, ports: range }));
  return [{ protocol, ...(types && { types }) }];
}

function ofFamily(prefixes: readonly Prefix[], family: Family): readonly Prefix[] {
  return prefixes.filter((one) => one.family === family);
}
