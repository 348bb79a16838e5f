/**
 * The address plan of agent.yaml: pools, realms and the API's address, and
 * what would make an address two things at once or the gate too large. An
 * overlap is an error here, so that nothing behind has to wonder which of two
 * meanings a packet's address has. Of two realms it is a warning: a device's
 * address counts together with its realm, and each realm has its interface.
 * Not where nothing is translated: what comes from outside then says no realm.
 */
import type { Document, Issue, Path } from './document.ts';
import { type Endpoint, type Family, hostPrefix, overlaps, type Prefix, prefix, sizeOf } from './net.ts';
import { type Owned, overlapsAmong } from './overlaps.ts';
import { type Pool, poolMebibytes } from './pool.ts';

/** The part of agent.yaml that gives addresses a meaning, as written. */
export interface AddressPlan {
  readonly pools: {
    readonly grants: {
      readonly prefixes: readonly Prefix[];
      readonly ports: { readonly low: number; readonly high: number };
      readonly keyedGrants: number;
    };
    readonly egress: { readonly prefixes: readonly Prefix[] };
  };
  readonly inside: readonly Inside[];
  readonly api: { readonly listen: Endpoint };
  readonly radius?: {
    readonly listen: readonly Endpoint[];
    readonly clients: readonly { readonly name: string; readonly addresses: readonly Prefix[] }[];
  };
  readonly gate: { readonly memoryMebibytes: number };
}

interface Inside {
  readonly realm: string;
  readonly prefixes: readonly Prefix[];
  readonly nat?: 'none';
}

const FAMILIES: readonly Family[] = ['ipv4', 'ipv6'];

/** What no pool, no realm and no source of packets can be. */
export const SPECIAL: readonly Owned[] = [
  ...['0.0.0.0/8', '::/128'].map((text) => ({ prefix: prefix(text), owner: 'the unspecified addresses' })),
  ...['127.0.0.0/8', '::1/128'].map((text) => ({ prefix: prefix(text), owner: 'the loopback addresses' })),
  ...['169.254.0.0/16', 'fe80::/10'].map((text) => ({ prefix: prefix(text), owner: 'the link-local addresses' })),
  ...['224.0.0.0/4', 'ff00::/8'].map((text) => ({ prefix: prefix(text), owner: 'the multicast addresses' })),
];
/** How many prefixes of a family the gate compares a destination with (GATE_POOLS_MAX). */
const POOL_PREFIXES = 8;
/** Drawing an IPv6 address at random ends soon when at most a quarter of them is taken. */
const ADDRESSES_PER_IPV6_GRANT = 4n;

/** The grants pool of a plan. */
export function poolOf({ pools: { grants } }: AddressPlan): Pool {
  return {
    ipv4: ofFamily('ipv4', grants.prefixes),
    ipv6: ofFamily('ipv6', grants.prefixes),
    portLow: grants.ports.low,
    portCount: grants.ports.high - grants.ports.low + 1,
    keyedGrants: grants.keyedGrants,
  };
}

/** What is wrong with a plan. */
export function planIssues(plan: Document<AddressPlan>): Issue[] {
  return [
    ...overlapsOf(plan).flatMap(({ issue, of }) => (of === 'realms' ? [] : issue)),
    ...specialIssues(plan),
    ...emptyPools(plan),
    ...poolIssues(plan),
  ];
}

/** A prefix of the file, what it is for, and where it stands. */
interface Space extends Owned {
  readonly what: string;
  readonly path: Path;
}

/** The realms that have an address in common with another one. */
export function sharedRealms(inside: readonly Inside[]): ReadonlySet<string> {
  const spaces = inside.flatMap(({ realm, prefixes }) => prefixes.map((prefix) => ({ prefix, owner: realm })));
  return new Set(overlapsAmong(spaces).flatMap(({ inner, outer }) => [inner.owner, outer.owner]));
}

const isRealm = ({ path: [top] }: Space) => top === 'inside';

/** An overlap; of two realms and nothing else it may be. */
interface Overlap {
  readonly issue: Issue;
  readonly of: 'realms' | 'any';
}

/** Every overlap. */
function overlapsOf({ value, locate }: Document<AddressPlan>): Overlap[] {
  const spaces = spacesOf(value);
  const overlaps = overlapsAmong(spaces);
  // API and RADIUS may have one address, and a client may be this host: each kind is held against the spaces by itself
  for (const kind of managementOf(value)) {
    const own = new Set<Space>(kind);
    const isOwn = ({ inner, outer }: { inner: Space; outer: Space }) => own.has(inner) || own.has(outer);
    overlaps.push(...overlapsAmong([...spaces, ...kind]).filter(isOwn));
  }
  return overlaps.map(({ inner, outer }) => {
    const there = `${outer.prefix.text} (${outer.what}) in line ${locate(outer.path).line}`;
    const message = `${inner.prefix.text} (${inner.what}) overlaps ${there}`;
    const ofRealms = isRealm(inner) && isRealm(outer) && inner.what !== outer.what;
    const own = ofRealms && [outer, inner].find(({ path }) => value.inside[path[1] as number]?.nat === 'none');
    const advice = own ? `; ${own.what} has nat: none, and needs addresses that are no other realm's` : '';
    const issue = { ...locate(inner.path), message: `${message}${advice}` };
    return { issue, of: ofRealms && !own ? 'realms' : 'any' };
  });
}

/** What lies on the management side, and so in no pool and no realm: where the agent listens, and RADIUS clients. */
function managementOf({ api, radius }: AddressPlan): Space[][] {
  const listeners = radius?.listen.map(({ address }, i) => ({
    ...space(hostPrefix(address), 'RADIUS is heard there', ['radius', 'listen', i]),
    owner: 'radius', // two ports of one address are no overlap
  }));
  const clients = radius?.clients.flatMap(({ name, addresses }, i) =>
    addresses.map((prefix, j) => ({
      ...space(prefix, `RADIUS client ${name}`, ['radius', 'clients', i, 'addresses', j]),
      owner: `radius client ${i}`,
    })),
  );
  return [
    [space(hostPrefix(api.listen.address), 'the API listens there', ['api', 'listen'])],
    listeners ?? [],
    clients ?? [],
  ];
}

function specialIssues({ value, locate }: Document<AddressPlan>): Issue[] {
  return spacesOf(value).flatMap(({ prefix, what, path }) =>
    SPECIAL.filter((reserved) => overlaps(reserved.prefix, prefix)).map(({ owner }) => ({
      ...locate(path),
      message: `${prefix.text} (${what}) overlaps ${owner}`,
    })),
  );
}

function space(prefix: Prefix, what: string, path: Path): Space {
  return { prefix, what, path, owner: path.join('.') };
}

function spacesOf({ pools, inside }: AddressPlan): Space[] {
  return [
    ...pools.grants.prefixes.map((prefix, i) => space(prefix, 'the grants pool', ['pools', 'grants', 'prefixes', i])),
    ...pools.egress.prefixes.map((prefix, i) => space(prefix, 'the egress pool', ['pools', 'egress', 'prefixes', i])),
    ...inside.flatMap(({ realm, prefixes }, i) =>
      prefixes.map((prefix, j) => space(prefix, `realm ${realm}`, ['inside', i, 'prefixes', j])),
    ),
  ];
}

/** Only where nothing is translated there may be no pool. */
function emptyPools({ value: { pools, inside }, locate }: Document<AddressPlan>): Issue[] {
  const hidden = inside.findIndex(({ nat }) => nat !== 'none');
  if (hidden < 0) return [];
  return (['grants', 'egress'] as const)
    .filter((pool) => pools[pool].prefixes.length === 0)
    .map((pool) => ({
      ...locate(['pools', pool, 'prefixes']),
      message: `expected at least one prefix: realm ${inside[hidden]?.realm} is translated`,
    }));
}

function poolIssues({ value, locate }: Document<AddressPlan>): Issue[] {
  const pool = poolOf(value);
  const { memoryMebibytes } = value.gate;
  const messages: string[] = [];
  for (const family of FAMILIES) {
    if (pool[family].length <= POOL_PREFIXES) continue;
    messages.push(
      `expected at most ${POOL_PREFIXES} ${family} prefixes, found ${pool[family].length}; join them to shorter ones`,
    );
  }
  const addresses = pool.ipv6.reduce((sum, prefix) => sum + sizeOf(prefix), 0n);
  if (pool.ipv6.length > 0 && addresses < BigInt(pool.keyedGrants) * ADDRESSES_PER_IPV6_GRANT) {
    const wanted = `expected ${ADDRESSES_PER_IPV6_GRANT} for each of ${pool.keyedGrants} keyedGrants`;
    messages.push(`the ipv6 prefixes hold ${addresses} addresses; ${wanted}`);
  }
  const mebibytes = poolMebibytes(pool);
  if (mebibytes > memoryMebibytes) {
    const cure = 'narrow ports, shorten the prefixes, or raise the bound';
    messages.push(`the pool takes ${mebibytes} MiB, more than gate.memoryMebibytes (${memoryMebibytes}); ${cure}`);
  }
  return messages.map((message) => ({ ...locate(['pools', 'grants', 'prefixes']), message }));
}

/** Nothing wrong, but with consequences: devices of a family without a pool, realms that share addresses. */
export function planWarnings(plan: Document<AddressPlan>): Issue[] {
  const shared = overlapsOf(plan).flatMap(({ issue, of }) =>
    of === 'realms' ? { ...issue, message: `${issue.message}; ${SHARED}` } : [],
  );
  return [...shared, ...poolWarnings(plan)];
}

const SHARED = 'grants work in both realms, but what their devices send by themselves is dropped';

function poolWarnings({ value, locate }: Document<AddressPlan>): Issue[] {
  const consequences = { grants: 'no device gets a grant in it', egress: 'what devices send by themselves is dropped' };
  const translated = value.inside.filter(({ nat }) => nat !== 'none');
  const used = FAMILIES.filter((family) => translated.some(({ prefixes }) => ofFamily(family, prefixes).length > 0));
  return (['grants', 'egress'] as const).flatMap((pool) =>
    used
      .filter((family) => ofFamily(family, value.pools[pool].prefixes).length === 0)
      .map((family) => ({
        ...locate(['pools', pool, 'prefixes']),
        message: `realms have ${family} addresses but the ${pool} pool has none; ${consequences[pool]}`,
      })),
  );
}

function ofFamily(family: Family, prefixes: readonly Prefix[]): Prefix[] {
  return prefixes.filter((prefix) => prefix.family === family);
}
