/**
 * Which rules can match a request: a tree over many of them.
 *
 * It only prunes. Every rule that matches is among those it finds; whether one
 * of them does, `mismatchOf` says. A member of a rule that nothing is known of
 * here counts as "any".
 *
 * A node splits its rules by that of servers, devices and ports which
 * leaves the fewest in the worst place, and keeps apart those that say nothing
 * of it; so ten thousand rules that differ in one of the three are told apart
 * by that one. A rule stands in every place that it names. The places of a
 * tree are bounded: a split that would take more is not made, and costs the
 * decision time, not the agent its memory.
 */
import type { ExternalId, PortRange, ServerName } from '../core/words.ts';
import { patternsOf } from './groups.ts';
import { PatternIndex } from './pattern-index.ts';
import type { DevicePattern } from './patterns.ts';
import type { Match } from './policy.ts';

/** What of a request prunes. */
export interface Asked {
  readonly server: ServerName;
  readonly device?: { readonly externalId: ExternalId } | undefined;
  readonly port: number;
}

/** So few rules are looked at one after the other. */
const FEW = 8;
/** So many places a rule may take, in the mean. */
const PLACES_MOST = 32;

/** So many rules are sorted in one turn. */
const TURN = 512;

/** Numbers of rules, or a split: those of each place, and those that say nothing of what it splits by. */
export type RuleTree = readonly number[] | Split;

interface Split {
  readonly by: Lookup;
  readonly rest: RuleTree;
}

/** The nodes of the places that a request can be in. */
type Lookup = (asked: Asked) => readonly (Place | undefined)[];

interface Place {
  readonly numbers: number[];
  node: RuleTree;
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

export function* treeOf(rules: readonly { readonly match: Match }[]): Generator<undefined, RuleTree> {
  const matches = rules.map(({ match }) => match);
  const room = { places: PLACES_MOST * rules.length };
  return yield* split([...rules.keys()], DIMENSIONS, matches, room);
}

function* split(
  numbers: readonly number[],
  dimensions: readonly Dimension[],
  matches: readonly Match[],
  room: { places: number },
): Generator<undefined, RuleTree> {
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

/** The rules that can match, in their order. */
export function rulesAt<Rule>(rules: readonly Rule[], tree: RuleTree, asked: Asked): readonly Rule[] {
  const numbers: number[] = [];
  gather(tree, asked, numbers);
  if (numbers.length === 0) return [];
  numbers.sort((a, b) => a - b);
  const found: Rule[] = [];
  for (const [i, number] of numbers.entries()) if (number !== numbers[i - 1]) found.push(rules[number] as Rule);
  return found;
}

function gather(node: RuleTree, asked: Asked, numbers: number[]): void {
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
