/** What an operator sees of MTC users, and may say for them: between the desk and the management interface. */
import { type UserDetail, type UserRow, type UserUseCases, unknownUser } from '../api/user-routes.ts';
import type { MtcUserName } from '../core/words.ts';
import { writtenPreference } from '../desk/preference-form.ts';
import type { Grants } from '../grants/grants.ts';
import type { DeskClerk, Wrong } from './desk-clerk.ts';

export function userUseCases(grants: Grants, clerk: DeskClerk): UserUseCases {
  const rowOf = (name: MtcUserName): UserRow => {
    const { servers = [], setBy = 'ruleFiles' } = clerk.servers(name) ?? {};
    return {
      mtcUser: name,
      devices: (grants.policy.mtcUsers.get(name)?.devices ?? []).map(({ text }) => text),
      ...{ servers, setBy },
      preferences: clerk.preferences(name).length,
      liveGrants: grants.live.countOfMtcUser(name),
    };
  };
  const known = (name: string) => (grants.policy.mtcUsers.has(name as MtcUserName) ? (name as MtcUserName) : undefined);
  return {
    users: () => [...grants.policy.mtcUsers.keys()].map(rowOf),
    user(name) {
      const user = known(name);
      return user && detailOf(user, rowOf(user), grants, clerk);
    },
    async setUserServers(name, servers, byUid) {
      const user = known(name);
      if (!user) return unknownUser(name);
      const done = servers
        ? await clerk.setServers(user, { byUid }, servers)
        : await clerk.clearServers(user, { byUid });
      return declined(done);
    },
    async setUserPreference(name, written, byUid) {
      const user = known(name);
      if (!user) return unknownUser(name);
      const done = await clerk.prefer(user, { byUid }, written);
      return declined(done) ?? { id: 'id' in done ? done.id : '' };
    },
    async dropUserPreference(name, id, byUid) {
      const user = known(name);
      return user ? declined(await clerk.drop(user, { byUid }, id)) : unknownUser(name);
    },
  };
}

function detailOf(user: MtcUserName, row: UserRow, grants: Grants, clerk: DeskClerk): UserDetail {
  const { mayAuthorise = [] } = clerk.servers(user) ?? {};
  const authorised = clerk.authorised(user);
  return {
    ...row,
    mayAuthorise,
    ...(authorised && { setAt: utc(authorised.atMs), said: authorised.by }),
    withoutEffect: (authorised?.servers ?? []).filter((server) => !row.servers.includes(server)),
    preferences: clerk.preferences(user).map((preference) => ({
      id: preference.id,
      ...writtenPreference(preference),
      setAt: utc(preference.atMs),
      said: preference.by,
    })),
    waitingGrants: grants.waiting.page({ mtcUser: user }, 0, 0).total,
  };
}

function declined(done: object | Wrong | undefined) {
  return done && 'reason' in done ? { refused: done.reason, why: done.detail ?? done.why } : undefined;
}

function utc(atMs: number): string {
  return new Date(atMs).toISOString();
}
