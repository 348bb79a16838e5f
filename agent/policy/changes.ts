/**
 * Two policies, compared in meaning: which servers, MTC users, rules, filters and tests
 * came, went or say something else. Order and spread over files are no
 * meaning, nor is a comment.
 *
 * A member is compared by its text, whatever it is, so that what the language
 * learns later is compared too; a list is a set, and what came into it and
 * what left it is told.
 */
import type { Policy } from './policy.ts';

export interface PolicyChange {
  readonly kind: 'server' | 'MTC user' | 'rule' | 'trigger rule' | 'filter' | 'test';
  readonly name: string;
  readonly what: 'added' | 'removed' | 'changed';
  /** Of what was changed, a member each: `limits.durationSeconds: 900, was 600`. */
  readonly members: readonly string[];
}

/** From one policy to another, section by section, by name. */
export function changesBetween(from: Policy, to: Policy): PolicyChange[] {
  const before = sectionsOf(from);
  return sectionsOf(to).flatMap(({ kind, items }, i) => changesOf(kind, before[i]?.items ?? new Map(), items));
}

/** A change in a line: `rule meters changed: ports 7000 added`. */
export function inWords({ kind, name, what, members }: PolicyChange): string {
  return [`${kind} ${name} ${what}`, ...(members.length > 0 ? [members.join('; ')] : [])].join(': ');
}

interface Section {
  readonly kind: PolicyChange['kind'];
  readonly items: ReadonlyMap<string, object>;
}

function sectionsOf(policy: Policy): readonly Section[] {
  const { servers, mtcUsers, allows, denies, triggerAllows, triggerDenies, filters } = policy;
  const tests = [...policy.tests, ...policy.triggerTests, ...policy.packetTests];
  return [
    { kind: 'server', items: servers },
    { kind: 'MTC user', items: mtcUsers },
    { kind: 'rule', items: new Map([...allows, ...denies].map((rule) => [rule.id, rule])) },
    { kind: 'trigger rule', items: new Map([...triggerAllows, ...triggerDenies].map((rule) => [rule.id, rule])) },
    { kind: 'filter', items: new Map(filters.map((filter) => [filter.id, filter])) },
    { kind: 'test', items: new Map(tests.map((test) => [test.name, test])) },
  ];
}

function changesOf(
  kind: PolicyChange['kind'],
  from: ReadonlyMap<string, object>,
  to: ReadonlyMap<string, object>,
): PolicyChange[] {
  const names = [...new Set([...from.keys(), ...to.keys()])].sort();
  return names.flatMap((name): PolicyChange[] => {
    const [before, after] = [from.get(name), to.get(name)];
    if (!before) return [{ kind, name, what: 'added', members: [] }];
    if (!after) return [{ kind, name, what: 'removed', members: [] }];
    if (isWrittenAlike(before, after)) return []; // most are, and this is cheap
    const members = membersBetween(leavesOf(before), leavesOf(after));
    return members.length > 0 ? [{ kind, name, what: 'changed', members }] : [];
  });
}

/** Whether two say the same in the same words and order, wherever they stand; what does not may mean the same yet. */
function isWrittenAlike(a: unknown, b: unknown): boolean {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return a === b;
  if ('text' in a && 'text' in b) return a.text === b.text;
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  const [one, other] = [a, b] as Readonly<Record<string, unknown>>[];
  return keys.every((key) => key === 'place' || isWrittenAlike(one?.[key], other?.[key]));
}

/** What is at the end of a path of keys: a value's text, or the texts of a list. */
type Leaf = string | ReadonlySet<string>;

/** What a thing is called by, and where it stands, are no part of what it says. */
const UNSAID = new Set(['place', 'id', 'name']);

function leavesOf(value: object, path = '', leaves = new Map<string, Leaf>()): Map<string, Leaf> {
  for (const [key, member] of Object.entries(value)) {
    if (path === '' && UNSAID.has(key)) continue;
    const at = path === '' ? key : `${path}.${key}`;
    if (Array.isArray(member)) leaves.set(at, new Set(member.map(textOf)));
    else if (isPlain(member)) leavesOf(member, at, leaves);
    else if (member !== undefined && typeof member !== 'function') leaves.set(at, textOf(member));
  }
  return leaves;
}

/** A mapping of members, and no value with a text of its own (address, prefix, pattern). */
function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !('text' in value) && !ArrayBuffer.isView(value);
}

function textOf(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value);
  if ('text' in value) return String(value.text);
  if ('low' in value && 'high' in value)
    return value.low === value.high ? `${value.low}` : `${value.low}-${value.high}`;
  const members = [...leavesOf(value)].map(
    ([name, leaf]) => `${name} ${typeof leaf === 'string' ? leaf : [...leaf].join(' ')}`,
  );
  return members.sort().join(' ');
}

function membersBetween(from: ReadonlyMap<string, Leaf>, to: ReadonlyMap<string, Leaf>): string[] {
  const names = [...new Set([...from.keys(), ...to.keys()])];
  return names.flatMap((name) => {
    const [before, after] = [from.get(name), to.get(name)];
    if (before instanceof Set && after instanceof Set) return setBetween(name, before, after);
    const [was, is] = [before, after].map((leaf) => (leaf instanceof Set ? [...leaf].join(', ') : leaf));
    if (was === is) return [];
    if (was === undefined) return [`${name}: ${is}, was not said`];
    return [is === undefined ? `${name}: not said, was ${was}` : `${name}: ${is}, was ${was}`];
  });
}

function setBetween(name: string, from: ReadonlySet<string>, to: ReadonlySet<string>): string[] {
  const added = [...to].filter((text) => !from.has(text));
  const removed = [...from].filter((text) => !to.has(text));
  const words = (texts: readonly string[], what: string) =>
    texts.length > 0 ? [`${name}: ${texts.join(', ')} ${what}`] : [];
  return [...words(added, 'added'), ...words(removed, 'removed')];
}
