/** Who may use the API, by the policy in force: whose a certificate is, and where it may ask from. */
import { type IdentityPolicy, partyOf } from '../api/identity.ts';
import type { PartySources } from '../api/sources.ts';
import { contains } from '../core/net.ts';
import type { Grants } from '../grants/grants.ts';
import { identify } from '../policy/certificate-holders.ts';
import type { Policy } from '../policy/policy.ts';

/** Whose a certificate is and where it may ask from, by the policy in force when it is asked. */
export function identityPolicy(grants: Grants): IdentityPolicy {
  return {
    identify: (facts) => identify(grants.policy, facts),
    sourceAllowed(who, from) {
      const sources = sourcesOf(grants.policy).get(partyOf(who))?.apiSources;
      return sources?.some((source) => contains(source, from)) ?? who.role === 'mtcUser'; // of a user that names none: from anywhere
    },
    parties: () => sourcesOf(grants.policy),
  };
}

/** By policy, so that whoever shares by it sees at once that it is another. */
const SOURCES = new WeakMap<Policy, PartySources>();

function sourcesOf(policy: Policy): PartySources {
  const { desk } = policy; // it says nothing of addresses: who shares goes on as it did
  if (desk) return sourcesOf(desk.over);
  const known = SOURCES.get(policy);
  if (known) return known;
  const users = [...policy.mtcUsers.values()].filter(({ certificates }) => certificates.length > 0);
  const sources = new Map([
    ...[...policy.servers].map(
      ([name, { apiSources }]) => [partyOf({ role: 'server', name }), { apiSources }] as const,
    ),
    ...users.flatMap(({ name, apiSources }) =>
      apiSources ? ([[partyOf({ role: 'mtcUser', name }), { apiSources }]] as const) : [],
    ),
  ]);
  SOURCES.set(policy, sources);
  return sources;
}
