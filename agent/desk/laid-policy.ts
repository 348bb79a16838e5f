/**
 * A policy with the desk laid over it: whom MTC users authorise, and what they
 * want of their devices, in the one value that everything is decided by. Pure.
 *
 * It never allows what the policy alone refuses but for one thing: within
 * `mayAuthorise` an MTC user itself says whom it authorises. Of what it has
 * said for servers that are not there, or that it may not authorise by now,
 * nothing counts, and of others' devices nothing can be said: preferences are
 * asked for by the owner of a device.
 */
import type { MtcUserName, ServerName } from '../core/words.ts';
import { matchesName } from '../policy/patterns.ts';
import type { MtcUser, Policy, Preference } from '../policy/policy.ts';
import type { Authorised, Desk, UserDesk } from './desk.ts';

/** SHA-256 of a text, in hex. */
export type Digest = (text: string) => string;

/** Lays a desk over a policy of rule files; itself where nothing on it counts. */
export function layDesk(policy: Policy, desk: Desk, digest: Digest): Policy {
  const laid = [...desk].filter(([user]) => policy.mtcUsers.has(user));
  if (laid.length === 0) return policy;
  const mtcUsers = new Map(policy.mtcUsers);
  const preferences = new Map<MtcUserName, readonly Preference[]>();
  const versions = new Map<MtcUserName, string>();
  for (const [name, own] of laid) {
    const { user, version } = laidUser(policy, name, own, digest);
    mtcUsers.set(name, user);
    if (own.preferences.length > 0) preferences.set(name, own.preferences);
    versions.set(name, version);
  }
  const all = [...versions].map(([name, version]) => `${name} ${version}`).sort();
  return Object.freeze({
    ...policy,
    version: versionWith(policy.version, all.join(), digest),
    mtcUsers,
    desk: { over: policy, preferences, versions },
    ...(policy.staged && { staged: layDesk(policy.staged, desk, digest) }),
  });
}

/** The policy of the rule files alone. */
export function withoutDesk(policy: Policy): Policy {
  return policy.desk?.over ?? policy;
}

/** By policy, which is another after each change. */
const serverVersions = new WeakMap<Policy, Map<ServerName, string>>();

/**
 * The version of what concerns a server: the rules of the operator, which MTC
 * users authorise it, and what those want of their devices. It is the same
 * after any other change of a desk: nobody learns from it that another said
 * something.
 */
export function versionForServer(policy: Policy, server: ServerName, digest: Digest): string {
  const known = serverVersions.get(policy) ?? new Map<ServerName, string>();
  serverVersions.set(policy, known);
  const made = known.get(server);
  if (made !== undefined) return made;
  const said = [...policy.mtcUsers.values()]
    .filter(({ authorises }) => authorises.includes(server))
    .map(({ name }) => `${name} ${JSON.stringify(wanted(policy.desk?.preferences.get(name) ?? []))}`)
    .sort();
  const version = versionWith(withoutDesk(policy).version, said.join(), digest);
  known.set(server, version);
  return version;
}

/** Whether an MTC user may authorise a server, be it there or not. */
export function mayAuthorise({ mayAuthorise: patterns }: MtcUser, server: string): boolean {
  return patterns.some((pattern) => matchesName(pattern, server));
}

/** The servers that an MTC user may authorise, by name. */
export function authorisable({ servers }: Policy, user: MtcUser): ServerName[] {
  return [...servers.keys()].filter((server) => mayAuthorise(user, server));
}

function effective({ servers }: Policy, user: MtcUser, authorised: Authorised): readonly ServerName[] {
  return Object.freeze(authorised.servers.filter((one) => servers.has(one) && mayAuthorise(user, one)));
}

/** One MTC user under a policy: whom it authorises by then, and the version that its devices have. */
interface LaidUser {
  readonly user: MtcUser;
  readonly version: string;
}

/** Made once for each policy and what was said: where one MTC user changes its mind, the others cost nothing. */
const laidUsers = new WeakMap<Policy, WeakMap<UserDesk, LaidUser>>();

function laidUser(policy: Policy, name: MtcUserName, own: UserDesk, digest: Digest): LaidUser {
  const known = laidUsers.get(policy) ?? new WeakMap<UserDesk, LaidUser>();
  laidUsers.set(policy, known);
  const made = known.get(own);
  if (made) return made;
  const user = policy.mtcUsers.get(name) as MtcUser;
  const laid = {
    user: own.authorised ? Object.freeze({ ...user, authorises: effective(policy, user, own.authorised) }) : user,
    version: versionWith(policy.version, `${name} ${meaningOf(own)}`, digest),
  };
  known.set(own, laid);
  return laid;
}

/** Who said it, and when, decides nothing. */
function meaningOf({ authorised, preferences }: UserDesk): string {
  const servers = authorised && [...authorised.servers].sort();
  return JSON.stringify({ servers, preferences: wanted(preferences) });
}

function wanted(preferences: readonly Preference[]): readonly unknown[] {
  return preferences.map(({ id, devices, block, quietHours, grantsPerDay }) => [
    ...[id, devices.text, block ?? false],
    quietHours ? [quietHours.from, quietHours.to, quietHours.zone, quietHours.days] : [],
    grantsPerDay ? [grantsPerDay.grants, grantsPerDay.zone] : [],
  ]);
}

function versionWith(version: string, said: string, digest: Digest): string {
  return digest(`${version}\n${said}`).slice(0, version.length);
}
