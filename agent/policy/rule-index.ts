/**
 * Which rules can match a request, out of ten thousand, and whose a device
 * is, out of two thousand MTC users: what keeps the cost of a decision flat.
 *
 * It only prunes. Every rule that matches is among the candidates, in the
 * order in which the policy has them; whether one of them does, `mismatchOf`
 * says. A member of a rule that nothing is known of here counts as "any".
 *
 * A tree: a node splits its rules by that of servers, devices and ports which
 * leaves the fewest in the worst place, and keeps apart those that say nothing
 * of it; so ten thousand rules that differ in one of the three are told apart
 * by that one. A rule stands in every place that it names. The places of a
 * policy are bounded: a split that would take more is not made, and costs the
 * decision time, not the agent its memory.
 *
 * Built on first use, once for each policy, or before (`indexing`).
 */
import type { ExternalId, PortRange, ServerName } from '../core/words.ts';
import { patternsOf } from './groups.ts';
import { PatternIndex } from './pattern-index.ts';
import { type DevicePattern, matchesDevice } from './patterns.ts';
import type { AllowRule, DenyRule, Match, MtcUser, Policy, TriggerAllow } from './policy.ts';

/** What of a request prunes. */
interface Asked {
  readonly server: ServerName;
  readonly device?: { readonly externalId: ExternalId } | undefined;
  readonly port: number;
}

interface Candidates<Allow> {
  readonly denies: readonly DenyRule[];
  readonly allows: readonly Allow[];
}

interface PolicyIndex {
  readonly denies: Node;
  readonly allows: Node;
  readonly triggerDenies: Node;
  readonly triggerAllows: Node;
  readonly ownerOf: (externalId: ExternalId) => MtcUser | undefined;
  /** A device that would be somebody's. */
  readonly standIn: ExternalId;
}

/** So few rules are looked at one after the other. */
const FEW = 8;
/** So many places a rule may take, in the mean. */
const PLACES_MOST = 32;

/** So many rules are sorted in one turn. */
const TURN = 512;

const indices = new WeakMap<Policy, PolicyIndex>();
/** Whom each MTC user authorises. */
const authorised = new WeakMap<MtcUser, ReadonlySet<ServerName>>();

/** The rules that can match, each kind in its order. */
export function candidatesOf(policy: Policy, asked: Asked): Candidates<AllowRule> {
  const { denies, allows } = indexOf(policy);
  return { denies: rulesAt(policy.denies, denies, asked), allows: rulesAt(policy.allows, allows, asked) };
}

/** The same of the rules on triggers. */
export function triggerCandidatesOf(policy: Policy, asked: Asked): Candidates<TriggerAllow> {
  const { triggerDenies, triggerAllows } = indexOf(policy);
  return {
    denies: rulesAt(policy.triggerDenies, triggerDenies, asked),
    allows: rulesAt(policy.triggerAllows, triggerAllows, asked),
  };
}

/** The MTC user that owns a device. */
export function mtcUserOf(policy: Policy, externalId: ExternalId): MtcUser | undefined {
  const owner = indexOf(policy).ownerOf(externalId);
  return owner && policy.desk ? policy.mtcUsers.get(owner.name) : owner;
}

/** Which of the users owns a device. Patterns of two users never overlap, so there is at most one. */
export function ownerAmong<User extends Pick<MtcUser, 'devices'>>(
  users: Iterable<User>,
): (externalId: ExternalId) => User | undefined {
  const owned = new PatternIndex<{ readonly pattern: DevicePattern; readonly user: User }[]>(() => []);
  for (const user of users) {
    for (const pattern of user.devices) owned.at(pattern).push({ pattern, user });
  }
  return (externalId) => {
    for (const slot of owned.matching(externalId)) {
      for (const { pattern, user } of slot) if (matchesDevice(pattern, externalId)) return user;
    }
    return undefined;
  };
}

export function authorises(user: MtcUser, server: ServerName): boolean {
  return authorisedBy(user).has(server);
}

function authorisedBy(user: MtcUser): ReadonlySet<ServerName> {
  const known = authorised.get(user);
  if (known) return known;
  const servers = new Set(user.authorises);
  authorised.set(user, servers);
  return servers;
}

/**
 * An identifier that stands for a device that is not there: somebody's, so
 * that looking for its MTC user takes the same way to the end.
 */
export function standInDevice(policy: Policy): ExternalId {
  return indexOf(policy).standIn;
}

/** Builds a policy's index before it is first asked, stopping every few milliseconds for whoever else must come in. */
export function* indexing(policy: Policy): Generator<undefined> {
  if (!indices.has(policy)) indices.set(policy, yield* build(policy));
}

/** A desk that is laid over a policy changes no rule, nor whose a device is. */
function indexOf(policy: Policy): PolicyIndex {
  const ruled = policy.desk?.over ?? policy;
  for (const _ of indexing(ruled)); // all at once
  return indices.get(ruled) as PolicyIndex;
}

function* build({ denies, allows, triggerDenies, triggerAllows, mtcUsers }: Policy): Generator<undefined, PolicyIndex> {
  const ownerOf = ownerAmong(mtcUsers.values());
  yield;
  for (const user of mtcUsers.values()) authorisedBy(user);
  yield;
  const [first] = [...mtcUsers.values()].flatMap(({ devices }) => devices.slice(0, 1));
  return {
    denies: yield* treeOf(denies),
    allows: yield* treeOf(allows),
    triggerDenies: yield* treeOf(triggerDenies),
    triggerAllows: yield* treeOf(triggerAllows),
    ownerOf,
    standIn: (first ? oneOf(first) : 'nobody@nowhere.invalid') as ExternalId,
  };
}

/** An identifier that matches. */
function oneOf({ local, domain, subdomains }: DevicePattern): string {
  const base = domain === '' ? 'invalid' : domain;
  return `${local.text.replaceAll('*', 'x')}@${subdomains ? 'x.' : ''}${base}`;
}

/** Numbers of rules, or a split: those of each place, and those that say nothing of what it splits by. */
type Node = readonly number[] | Split;

interface Split {
  readonly by: Lookup;
  readonly rest: Node;
}

/** The nodes of the places that a request can be in. */
type Lookup = (asked: Asked) => readonly (Place | undefined)[];

interface Place {
  readonly numbers: number[];
  node: Node;
}

/** One of the three that rules are split by. */
interface Dimension {
  /** In how many places a rule would stand; undefined: it says nothing of it. */
  places(match: Match): number | undefined;
  /** Puts rules into their places. */
  sort(numbers: readonly number[], matches: readonly Match[]): Generator<undefined, Sorted>;
}

interface Sorted {
  readonly places: Iterable<Place>;
  readonly by: Lookup;
}

const SERVERS: Dimension = {
  places: ({ servers }) => servers?.length,
  *sort(numbers, matches) {
    const places = new Map<ServerName, Place>();
    for (const number of numbers) {
      if (number % TURN === 0) yield;
      for (const server of matches[number]?.servers ?? []) put(placeAt(places, server), number);
    }
    return { places: places.values(), by: ({ server }) => [places.get(server)] };
  },
};

const DEVICES: Dimension = {
  places: (match) => fixedDevices(match)?.length,
  *sort(numbers, matches) {
    const places = new PatternIndex(newPlace);
    for (const number of numbers) {
      if (number % TURN === 0) yield;
      for (const pattern of fixedDevices(matches[number] ?? {}) ?? []) put(places.at(pattern), number);
    }
    return {
      places: places.slots(),
      by: ({ device }) => (device ? places.matching(device.externalId) : []),
    };
  },
};

const PORTS: Dimension = {
  places: ({ ports }) => ports?.reduce((sum, range) => sum + blocksOf(range).length, 0),
  *sort(numbers, matches) {
    const places = new Map<number, Place>();
    for (const number of numbers) {
      if (number % TURN === 0) yield;
      for (const range of matches[number]?.ports ?? []) {
        for (const block of blocksOf(range)) put(placeAt(places, block), number);
      }
    }
    return { places: places.values(), by: ({ port }) => blocksAround(port).map((block) => places.get(block)) };
  },
};

const DIMENSIONS: readonly Dimension[] = [SERVERS, DEVICES, PORTS];

function* treeOf(rules: readonly { readonly match: Match }[]): Generator<undefined, Node> {
  const matches = rules.map(({ match }) => match);
  const room = { places: PLACES_MOST * rules.length };
  return yield* split([...rules.keys()], DIMENSIONS, matches, room);
}

function* split(
  numbers: readonly number[],
  dimensions: readonly Dimension[],
  matches: readonly Match[],
  room: { places: number },
): Generator<undefined, Node> {
  if (numbers.length <= FEW) return numbers;
  let best: (Sorted & { dimension: Dimension; rest: number[]; worst: number; taken: number }) | undefined;
  for (const dimension of dimensions) {
    const counts = numbers.map((number) => dimension.places(matches[number] ?? {}));
    const taken = counts.reduce<number>((sum, count) => sum + (count ?? 0), 0);
    if (taken > room.places) continue;
    const rest = numbers.filter((_, i) => counts[i] === undefined);
    yield;
    const sorted = yield* dimension.sort(
      numbers.filter((_, i) => counts[i] !== undefined),
      matches,
    );
    const places = [...sorted.places];
    const worst = rest.length + places.reduce((most, place) => Math.max(most, place.numbers.length), 0);
    if (worst < (best?.worst ?? numbers.length)) best = { ...sorted, places, dimension, rest, worst, taken };
  }
  if (!best) return numbers;
  const { dimension, by, rest, taken } = best;
  room.places -= taken;
  const others = dimensions.filter((one) => one !== dimension);
  for (const place of best.places) place.node = yield* split(place.numbers, others, matches, room);
  return { by, rest: yield* split(rest, others, matches, room) };
}

function rulesAt<Rule>(rules: readonly Rule[], tree: Node, asked: Asked): readonly Rule[] {
  const numbers: number[] = [];
  gather(tree, asked, numbers);
  if (numbers.length === 0) return [];
  numbers.sort((a, b) => a - b);
  const found: Rule[] = [];
  for (const [i, number] of numbers.entries()) if (number !== numbers[i - 1]) found.push(rules[number] as Rule);
  return found;
}

function gather(node: Node, asked: Asked, numbers: number[]): void {
  if ('by' in node) {
    for (const place of node.by(asked)) if (place) gather(place.node, asked, numbers);
    gather(node.rest, asked, numbers);
    return;
  }
  for (const number of node) numbers.push(number);
}

/** Undefined where a device of any name can be meant. */
function fixedDevices({ devices }: Match): readonly DevicePattern[] | undefined {
  if (!devices) return undefined;
  const patterns: DevicePattern[] = [];
  for (const selector of devices) {
    const fixed = patternsOf(selector);
    if (!fixed) return undefined;
    patterns.push(...fixed);
  }
  return patterns;
}

/**
 * A range as the largest aligned blocks that make it up, at most thirty. The
 * blocks are numbered as the nodes of a heap: 1 is all ports, 65536 + p the
 * one port p.
 */
function blocksOf({ low, high }: PortRange): number[] {
  const blocks: number[] = [];
  let [left, right] = [low + 65_536, high + 65_537];
  for (; left < right; left >>= 1, right >>= 1) {
    if (left & 1) blocks.push(left++);
    if (right & 1) blocks.push(--right);
  }
  return blocks;
}

function blocksAround(port: number): number[] {
  const blocks: number[] = [];
  for (let block = port + 65_536; block > 0; block >>= 1) blocks.push(block);
  return blocks;
}

function newPlace(): Place {
  return { numbers: [], node: [] };
}

function placeAt<Key>(places: Map<Key, Place>, key: Key): Place {
  const known = places.get(key);
  if (known) return known;
  const place = newPlace();
  places.set(key, place);
  return place;
}

/** A rule stands in a place once. */
function put({ numbers }: Place, number: number): void {
  if (numbers.at(-1) !== number) numbers.push(number);
}
