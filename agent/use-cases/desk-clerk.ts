/**
 * Who takes what is said at the desk (desk/desk-switch.ts): an MTC user by its
 * API (mtc-user.ts), or an operator for it (operator-desk.ts), both held to the
 * same bounds.
 */
import type { AuthorisedServers, KeptPreference } from '../api/mtc-user-routes.ts';
import type { RefusalReason } from '../core/refusals.ts';
import { type MtcUserName, parseExternalId, type ServerName } from '../core/words.ts';
import type { Author, Authorised, Change, SetPreference } from '../desk/desk.ts';
import type { DeskSwitch, Made, Standing } from '../desk/desk-switch.ts';
import { authorisable, mayAuthorise } from '../desk/laid-policy.ts';
import { readPreference, type WrittenPreference, writtenPreference } from '../desk/preference-form.ts';
import type { Ground } from '../grants/ground.ts';
import { encloses } from '../policy/patterns.ts';

/** So many preferences an MTC user may have. */
const PREFERENCES_MOST = 1_000;

/** Why nothing was changed. */
export interface Wrong {
  readonly reason: RefusalReason;
  readonly why: string;
  readonly detail?: string;
}

/** What can be said at the desk, whoever says it. Nothing is changed where an answer is `Wrong`. */
export class DeskClerk {
  readonly #desk: DeskSwitch;
  readonly #ground: Pick<Ground, 'clock' | 'newId'>;
  readonly #digest: (text: string) => string;

  constructor(desk: DeskSwitch, ground: Pick<Ground, 'clock' | 'newId'>, digest: (text: string) => string) {
    this.#desk = desk;
    this.#ground = ground;
    this.#digest = digest;
  }

  servers(user: MtcUserName): AuthorisedServers | undefined {
    const standing = this.#desk.standing(user);
    return standing && this.#serversView(standing);
  }

  /** As it was said; absent where nobody has set them. */
  authorised(user: MtcUserName): Authorised | undefined {
    return this.#desk.standing(user)?.own.authorised;
  }

  preferences(user: MtcUserName): readonly SetPreference[] {
    return this.#desk.standing(user)?.own.preferences ?? [];
  }

  /** `seen`: the tags of one of which the set must be. */
  setServers(user: MtcUserName, by: Author, servers: readonly string[], seen?: readonly string[]) {
    return this.#setServers(user, by, (standing) => {
      if (seen && !seen.includes(this.#serversView(standing).tag))
        return { reason: 'serversChanged', why: `it is ${this.#serversView(standing).tag} now` };
      const stray = servers.find((server) => !isAuthorisable(standing, server));
      return stray === undefined ? servers : notAuthorisable(standing, stray);
    });
  }

  authorise(user: MtcUserName, by: Author, server: string) {
    return this.#setServers(
      user,
      by,
      (standing) => {
        if (!isAuthorisable(standing, server)) return notAuthorisable(standing, server);
        return rawServers(standing).includes(server as ServerName) ? undefined : [...rawServers(standing), server];
      },
      server,
    );
  }

  withdraw(user: MtcUserName, by: Author, server: string) {
    return this.#setServers(
      user,
      by,
      (standing) => {
        const servers = rawServers(standing);
        return servers.includes(server as ServerName) ? servers.filter((one) => one !== server) : undefined;
      },
      server,
    );
  }

  /** Those of the rule files count again. */
  async clearServers(user: MtcUserName, by: Author): Promise<Wrong | undefined> {
    const done = await this.#desk.change<Wrong>(user, by, ({ own }) => own.authorised && made({ kind: 'authorise' }));
    return done && 'reason' in done ? done : undefined;
  }

  /** `id`: the one in whose place it comes. */
  async prefer(
    user: MtcUserName,
    by: Author,
    written: WrittenPreference,
    id?: string,
  ): Promise<KeptPreference | Wrong> {
    const read = readPreference(written);
    if ('wrong' in read) return { reason: 'invalidArgument', why: read.wrong, detail: read.wrong };
    const preference: SetPreference = { ...read, id: id ?? this.#ground.newId(), by, atMs: this.#ground.clock.nowMs() };
    const done = await this.#desk.change<Wrong>(user, by, ({ own, user: { devices } }) => {
      if (id !== undefined && !own.preferences.some((one) => one.id === id)) return noPreference(id);
      if (id === undefined && own.preferences.length >= PREFERENCES_MOST)
        return { reason: 'preferencesExhausted', why: `${own.preferences.length} preferences` };
      if (!devices.some((pattern) => encloses(pattern, preference.devices)))
        return { reason: 'devicesNotOwned', why: `no pattern of it encloses ${preference.devices.text}` };
      // What is replaced took more, not less: only what comes in its place can end anything.
      const device = parseExternalId(preference.devices.text);
      const isOne = device !== undefined && !device.includes('*');
      return { change: { kind: 'prefer', preference }, ...(isOne && { only: { device } }) };
    });
    if (!done) return GONE;
    return 'reason' in done ? done : preferenceView(preference);
  }

  async drop(user: MtcUserName, by: Author, id: string): Promise<Wrong | undefined> {
    const done = await this.#desk.change<Wrong>(user, by, ({ own }) =>
      own.preferences.some((one) => one.id === id) ? made({ kind: 'drop', id }) : noPreference(id),
    );
    return done && 'reason' in done ? done : undefined;
  }

  /** `wanted`: the set that is to be; undefined where it is so already. */
  async #setServers(
    user: MtcUserName,
    by: Author,
    wanted: (standing: Standing) => readonly string[] | Wrong | undefined,
    only?: string,
  ): Promise<AuthorisedServers | Wrong> {
    const done = await this.#desk.change<Wrong>(user, by, (standing) => {
      const servers = wanted(standing);
      if (!servers || 'reason' in servers) return servers;
      const set = [...new Set(servers)].sort() as ServerName[];
      const change: Change = {
        kind: 'authorise',
        authorised: { servers: set, by, atMs: this.#ground.clock.nowMs() },
      };
      return { change, ...(only !== undefined && { only: { server: only as ServerName } }) };
    });
    if (done && 'reason' in done) return done;
    return this.servers(user) ?? GONE;
  }

  #serversView(standing: Standing): AuthorisedServers {
    const { policy, user, own } = standing;
    const may = authorisable(policy, user).sort();
    const servers = rawServers(standing).filter((server) => may.includes(server));
    const { authorised } = own;
    const view = {
      servers: [...servers].sort(),
      mayAuthorise: may,
      setBy: authorised ? authorName(authorised.by) : 'ruleFiles',
      ...(authorised && { setAtMs: authorised.atMs }),
    } as const;
    return { ...view, tag: `"${this.#digest(JSON.stringify(view)).slice(0, 20)}"` };
  }
}

/** It is in the rule files no more. */
export const GONE: Wrong = { reason: 'certificateUnknown', why: 'the rule files have no such MTC user any more' };

function made(change: Change): Made {
  return { change };
}

/** As it was said, or as the rule files begin with. */
function rawServers({ own, user }: Standing): readonly ServerName[] {
  return own.authorised?.servers ?? user.authorises;
}

function isAuthorisable({ policy, user }: Standing, server: string): boolean {
  return policy.servers.has(server as ServerName) && mayAuthorise(user, server);
}

function notAuthorisable({ policy, user }: Standing, server: string): Wrong {
  const known = policy.servers.has(server as ServerName);
  const why = known ? `mayAuthorise of ${user.name} does not admit ${server}` : `no server ${server}`;
  return { reason: 'serverNotAuthorisable', why, detail: `${JSON.stringify(server)} is none that you may authorise` };
}

export function noPreference(id: string): Wrong {
  return { reason: 'preferenceNotFound', why: `no preference ${id} of this MTC user` };
}

function authorName(by: Author): 'mtcUser' | 'operator' {
  return 'byUid' in by ? 'operator' : 'mtcUser';
}

export function preferenceView(preference: SetPreference): KeptPreference {
  const { id, by, atMs } = preference;
  return { id, ...writtenPreference(preference), setBy: authorName(by), setAtMs: atMs };
}
