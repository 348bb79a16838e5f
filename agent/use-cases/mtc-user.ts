/**
 * What an MTC user can do by its API, and what it may see: its own devices,
 * what reaches them, and the desk (desk/desk-switch.ts). An operator can say
 * the same for it, by the management socket (mtc-users.ts); both come
 * through `DeskClerk`, so that both are held to the same bounds.
 */
import type { AuthorisedServers, GrantOnDevice, KeptPreference, MtcUserUseCases } from '../api/mtc-user-routes.ts';
import { AgentError } from '../core/errors.ts';
import { orNotRecorded } from '../core/not-recorded.ts';
import type { Refusal, RefusalFacts, RefusalReason, Refuse } from '../core/refusals.ts';
import {
  type ExternalId,
  type MtcUserAsker,
  type MtcUserName,
  parseExternalId,
  type ServerName,
} from '../core/words.ts';
import type { Author, Authorised, Change, SetPreference } from '../desk/desk.ts';
import type { DeskSwitch, Made, Standing } from '../desk/desk-switch.ts';
import { authorisable, mayAuthorise } from '../desk/laid-policy.ts';
import { readPreference, type WrittenPreference, writtenPreference } from '../desk/preference-form.ts';
import { devicesMatching, type Pattern } from '../directory/owned-devices.ts';
import type { RegistryStore } from '../directory/registry-store.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { WaitingRequest } from '../grants/waiting-request.ts';
import { encloses, fixedStart, matchesDevice } from '../policy/patterns.ts';
import type { MtcUser } from '../policy/policy.ts';
import { mtcUserOf } from '../policy/rule-index.ts';
import { STATUS } from './grant-views.ts';
import { DevicePageKeys } from './page-keys.ts';
import { Pages } from './pages.ts';

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
const GONE: Wrong = { reason: 'certificateUnknown', why: 'the rule files have no such MTC user any more' };

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

function noPreference(id: string): Wrong {
  return { reason: 'preferenceNotFound', why: `no preference ${id} of this MTC user` };
}

function authorName(by: Author): 'mtcUser' | 'operator' {
  return 'byUid' in by ? 'operator' : 'mtcUser';
}

function preferenceView(preference: SetPreference): KeptPreference {
  const { id, by, atMs } = preference;
  return { id, ...writtenPreference(preference), setBy: authorName(by), setAtMs: atMs };
}

/** What packets have stopped for may not be on record yet. */
const STOPPED = 'it is in force, and packets have stopped; what that ended will be recorded when that can be done';

export function mtcUserUseCases(
  ground: Ground,
  grants: Grants,
  registry: Pick<RegistryStore, 'domainAfter' | 'ofDomain'>,
  clerk: DeskClerk,
): MtcUserUseCases {
  const pages = new Pages(grants);
  const deviceKeys = new DevicePageKeys();
  const refuserOf = ({ name, correlator, requestAddress }: MtcUserAsker): Refuse => {
    const asked = { mtcUser: name, correlator, from: requestAddress.text };
    return (reason, facts) => ground.refuse(reason, { ...asked, ...facts });
  };
  const told = <Value extends object>(who: MtcUserAsker, value: Value | Wrong | undefined): Value | Refusal => {
    const wrong = value ?? GONE;
    if (!('reason' in wrong)) return value as Value;
    const { reason, ...facts } = wrong as Wrong;
    return refuserOf(who)(reason, facts as RefusalFacts);
  };
  /** Changes the desk; what cannot be kept changes nothing, and may be asked for again. */
  const change = async <Value extends object>(
    who: MtcUserAsker,
    act: (by: Author) => Promise<Value | Wrong>,
  ): Promise<Value | Refusal> => {
    const refuse = refuserOf(who);
    const by = { certificate: who.certificate };
    try {
      return await orNotRecorded(refuse, async () => told(who, await act(by)), STOPPED);
    } catch (fault) {
      if (!(fault instanceof AgentError) || fault.code !== 'deskFailed') throw fault;
      return refuse('recordNotWritten', { why: fault.message, detail: 'nothing has changed' });
    }
  };
  const owned = (record: GrantRecord | WaitingRequest | undefined, who: MtcUserAsker) =>
    record?.mtcUser === who.name ? record : undefined;
  const find = (who: MtcUserAsker, id: string) => owned(grants.find(id), who) ?? owned(grants.waiting.find(id), who);
  const unknown = (who: MtcUserAsker, id: string) =>
    refuserOf(who)('grantNotFound', { why: 'no grant on a device of this MTC user has this id', grant: id });
  return {
    authorisedServers: (who) => told(who, clerk.servers(who.name)),
    setServers: (who, servers, seen) => change(who, (by) => clerk.setServers(who.name, by, servers, seen)),
    authorise: (who, server) => change(who, (by) => clerk.authorise(who.name, by, server)),
    withdraw: (who, server) => change(who, (by) => clerk.withdraw(who.name, by, server)),
    preferences: ({ name }) => clerk.preferences(name).map(preferenceView),
    preference(who, id) {
      const found = clerk.preferences(who.name).find((one) => one.id === id);
      return told(who, found ? preferenceView(found) : noPreference(id));
    },
    prefer: (who, written, id) => change(who, (by) => clerk.prefer(who.name, by, written, id)),
    drop: (who, id) => change(who, async (by) => (await clerk.drop(who.name, by, id)) ?? {}),
    devices({ name }, limit, after) {
      const user = grants.policy.mtcUsers.get(name);
      const from = after === undefined ? undefined : deviceKeys.open(name, after);
      if (after !== undefined && !from) return 'seekUnknown';
      const found = devicesMatching(patternsOf(user), registry, limit, from);
      const items = found.devices.map((device) => ({
        device,
        bound: ground.directory.familiesOf(device).length > 0,
      }));
      return { items, ...(found.last && { lastKey: deviceKeys.seal(name, found.last) }) };
    },
    grants(who, { device }, limit, after) {
      const { name } = who;
      if (device !== undefined && mtcUserOf(grants.policy, device)?.name !== name) return { items: [], total: 0 };
      const of = device === undefined ? { mtcUser: name } : { device: { networkAccessIdentifier: device } };
      // What a former owner's word granted on the device is about to end, and is not the new one's to see.
      const found = pages.read(of, limit, after, (one) => owned(one, who) && grantOnDevice(one));
      if (found === 'seekUnknown') return found;
      const { grants: read, total: all, lastKey } = found;
      const items = read.flatMap((one) => one ?? []);
      const total = all - (read.length - items.length);
      return { items, total, ...(lastKey !== undefined && { lastKey }) };
    },
    grant(who, id) {
      const found = find(who, id);
      return found ? grantOnDevice(found) : unknown(who, id);
    },
    async revoke(who, id) {
      const found = find(who, id);
      if (!found) return unknown(who, id);
      ground.log.info({ grant: id, mtcUser: who.name, correlator: who.correlator }, 'revokeAsked');
      const revoke = async () => {
        await grants.giveUp(found, 'revokedByMtcUser');
        return {};
      };
      return orNotRecorded(refuserOf(who), revoke, STOPPED);
    },
  };
}

function patternsOf(user: MtcUser | undefined): Pattern[] {
  return (user?.devices ?? []).map((pattern) => ({
    start: fixedStart(pattern.local.text),
    domain: pattern.domain,
    subdomains: pattern.subdomains,
    matches: (device) => matchesDevice(pattern, device),
  }));
}

/** As the owner of the device may see it: nothing of where it is reached, nor by which rule. */
function grantOnDevice(record: GrantRecord | WaitingRequest): GrantOnDevice {
  const { id, server, device, protocol, devicePort, endedAtMs, endCause } = record;
  const ended = {
    ...(endedAtMs !== undefined && { endedAtMs }),
    ...(endCause !== undefined && { endCause }),
  };
  const both = { ...{ id, server, device: device as ExternalId, protocol, devicePort }, ...ended };
  if ('waitsUntilMs' in record) {
    const { requestedAtMs, waitsUntilMs, state } = record;
    return { ...both, status: state === 'waiting' ? 'WAITING' : 'ENDED', requestedAtMs, waitsUntilMs };
  }
  const { startedAtMs, expiresAtMs, state } = record;
  return { ...both, status: STATUS[state], startedAtMs, expiresAtMs };
}
