/**
 * The RADIUS section of agent.yaml against the realms: what its clients may
 * bind lies inside, and what they tell must lead to a realm.
 */
import type { Document, Issue } from './document.ts';
import { encloses, type Prefix } from './net.ts';
import type { Apn } from './words.ts';

interface Client {
  readonly pools?: readonly Prefix[];
}

/** The part of agent.yaml that this is about, as written. */
interface RadiusPlan<Written extends Client> {
  readonly radius?: { readonly clients: readonly Written[] };
  readonly inside: readonly { readonly prefixes: readonly Prefix[]; readonly apns: readonly Apn[] }[];
}

/** The clients; one that is not told what it may bind may bind whatever is inside. */
export function withPools<Written extends Client>({ radius, inside }: RadiusPlan<Written>) {
  const all = inside.flatMap(({ prefixes }) => prefixes);
  return (radius?.clients ?? []).map((client) => ({ ...client, pools: client.pools ?? all }));
}

/** The pools of clients that are not inside. */
export function clientPoolIssues({ value: { radius, inside }, locate }: Document<RadiusPlan<Client>>): Issue[] {
  const realms = inside.flatMap(({ prefixes }) => prefixes);
  const holds = (pool: Prefix) => realms.some((realm) => encloses(realm, pool));
  return (radius?.clients ?? []).flatMap(({ pools = [] }, i) =>
    pools.flatMap((pool, j) => {
      const message = `${pool.text} lies in no realm: expected what is inside, or a part of it`;
      return holds(pool) ? [] : [{ ...locate(['radius', 'clients', i, 'pools', j]), message }];
    }),
  );
}

export function apnWarnings({ value: { radius, inside }, locate }: Document<RadiusPlan<Client>>): Issue[] {
  if (!radius || inside.some(({ apns }) => apns.length > 0)) return [];
  const message = 'no realm has apns: what RADIUS tells of a device leads to no realm, and binds nothing';
  return [{ ...locate(['radius']), message }];
}
