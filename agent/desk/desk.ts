/**
 * The desk: what MTC users have said themselves, by their API or through an
 * operator: the servers that each authorises, once it has set them (TR 23.888
 * 5.8.2), and what it wants of its devices (5.3). A frozen value; each change
 * makes the next. Where it is kept: desk-store.ts; how it is laid over the
 * policy: laid-policy.ts.
 *
 * It may hold what the rule files do not let count now (a server that is not
 * there, a device that is another's): that is said, and has no effect.
 */
import type { CertificateId, MtcUserName, ServerName } from '../core/words.ts';
import type { Preference } from '../policy/policy.ts';

/** Who said something: the MTC user, with this certificate, or an operator for it. */
export type Author = { readonly certificate: CertificateId } | { readonly byUid: number };

interface Said {
  readonly by: Author;
  /** UTC. */
  readonly atMs: number;
}

/** Servers that an MTC user authorises, and no others. */
export interface Authorised extends Said {
  readonly servers: readonly ServerName[];
}

export interface SetPreference extends Preference, Said {}

/** What one MTC user has said. */
export interface UserDesk {
  /** Absent: never set; then those of the rule files count. */
  readonly authorised?: Authorised;
  /** By id. */
  readonly preferences: readonly SetPreference[];
}

export type Desk = ReadonlyMap<MtcUserName, UserDesk>;

const NOTHING: UserDesk = { preferences: [] };

export function deskOf(desk: Desk, user: MtcUserName): UserDesk {
  return desk.get(user) ?? NOTHING;
}

export type Change =
  /** `authorised` absent: those of the rule files count again. */
  | { readonly kind: 'authorise'; readonly authorised?: Authorised }
  /** A new preference, or another in the place of the one with its id. */
  | { readonly kind: 'prefer'; readonly preference: SetPreference }
  | { readonly kind: 'drop'; readonly id: string };

/** The desk after a change. */
export function changed(desk: Desk, user: MtcUserName, change: Change): Desk {
  const next = new Map(desk);
  const own = applied(deskOf(desk, user), change);
  if (own.authorised || own.preferences.length > 0) next.set(user, own);
  else next.delete(user);
  return next;
}

export function userDesk(authorised: Authorised | undefined, preferences: readonly SetPreference[]): UserDesk {
  return { preferences, ...(authorised && { authorised }) };
}

function applied({ authorised, preferences }: UserDesk, change: Change): UserDesk {
  switch (change.kind) {
    case 'authorise':
      return userDesk(change.authorised, preferences);
    case 'prefer': {
      const others = preferences.filter(({ id }) => id !== change.preference.id);
      const next = [...others, change.preference].sort((a, b) => (a.id < b.id ? -1 : 1));
      return userDesk(authorised, next);
    }
    case 'drop':
      return userDesk(
        authorised,
        preferences.filter(({ id }) => id !== change.id),
      );
  }
}
