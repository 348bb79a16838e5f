/**
 * Whether the packets of a grant are translated. They are, unless the operator
 * says `nat: none`: of a server that is inside the private realm itself, as
 * behind the tunnel of an APN (TS 23.221 B.2.3), and sees inner addresses; or
 * of a realm whose devices are known outside by their own addresses.
 *
 * A packet from outside to a device's own address names no realm: it is told
 * by the address alone, so where two realms share addresses no grant can be
 * without translation.
 */
import type { RealmName, ServerName } from '../core/words.ts';
import type { Policy } from './policy.ts';

type Nat = Pick<Policy, 'servers' | 'untranslatedRealms' | 'sharedRealms'>;

/** How packets of a server's grant toward a realm go; `ambiguous`: not at all. */
export type Translation = 'translated' | 'untranslated' | 'ambiguous';

export function translationOf(policy: Nat, server: ServerName, realm: RealmName): Translation {
  if (untranslatedBy(policy, server, realm) === undefined) return 'translated';
  return policy.sharedRealms.includes(realm) ? 'ambiguous' : 'untranslated';
}

/** Who says that a grant is not to be translated, for operators; undefined where nobody does. `realm` absent: it is not known. */
export function untranslatedBy(policy: Nat, server: ServerName, realm: RealmName | undefined): string | undefined {
  if (policy.servers.get(server)?.nat === 'none') return `server ${server} has nat: none`;
  return realm !== undefined && policy.untranslatedRealms.includes(realm) ? `realm ${realm} has nat: none` : undefined;
}
