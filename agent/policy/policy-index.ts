/**
 * Which rules of a policy can match a request, out of ten thousand
 * (rule-tree.ts), and whose a device is, out of two thousand MTC users: what
 * keeps the cost of a decision flat.
 *
 * Built on first use, once for each policy, or before (`indexing`).
 */
import type { ExternalId, ServerName } from '../core/words.ts';
import { PatternIndex } from './pattern-index.ts';
import { type DevicePattern, matchesDevice } from './patterns.ts';
import type { AllowRule, DenyRule, MtcUser, Policy, TriggerAllow } from './policy.ts';
import { type Asked, type RuleTree, rulesAt, treeOf } from './rule-tree.ts';

interface Candidates<Allow> {
  readonly denies: readonly DenyRule[];
  readonly allows: readonly Allow[];
}

interface PolicyIndex {
  readonly denies: RuleTree;
  readonly allows: RuleTree;
  readonly triggerDenies: RuleTree;
  readonly triggerAllows: RuleTree;
  readonly ownerOf: (externalId: ExternalId) => MtcUser | undefined;
  /** A device that would be somebody's. */
  readonly standIn: ExternalId;
}

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
