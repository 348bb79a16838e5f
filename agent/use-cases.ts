/**
 * What the two interfaces can do, and what each may see: an MTC server (its
 * own grants, by the identifier it used, never the inside), and the operator
 * (all of it). Between the words of the API and those of the domain.
 */
import type { DenialUseCases } from './api/denial-routes.ts';
import type { DeviceUseCases } from './api/device-routes.ts';
import type { EditionUseCases } from './api/edition-routes.ts';
import { type IdentityPolicy, partyOf } from './api/identity.ts';
import type { ManagementUseCases } from './api/management.ts';
import type { NatUseCases } from './api/nat-routes.ts';
import type { OperatorGrant, OperatorGrantDetail, OperatorWait, OperatorWaitDetail } from './api/operator-rows.ts';
import type { RadiusUseCases } from './api/radius-routes.ts';
import type { Grant, GrantsUseCases, ServerLimits, Wait } from './api/routes.ts';
import type { SinkUseCases } from './api/sink-routes.ts';
import type { PartySources } from './api/sources.ts';
import type { TriggerManagement } from './api/trigger-routes.ts';
import type { UserUseCases } from './api/user-routes.ts';
import type { Config } from './config.ts';
import { AgentError } from './core/errors.ts';
import type { Identities } from './core/identities.ts';
import { contains } from './core/net.ts';
import type { Refusal, Refuse } from './core/refusals.ts';
import { type Asker, referenceOf, type ServerName } from './core/words.ts';
import { type Digest, versionForServer } from './desk/laid-policy.ts';
import type { GrantEvents } from './grant-events.ts';
import type { Bindings } from './grants/bindings.ts';
import type { Extensions } from './grants/extensions.ts';
import type { Grants } from './grants/grants.ts';
import { type Ground, orNotRecorded } from './grants/ground.ts';
import { END_CAUSES, waitEndText } from './grants/lifecycle.ts';
import type { GrantRecord } from './grants/record.ts';
import type { WaitingRequest } from './grants/waiting-request.ts';
import { PageKeys } from './page-keys.ts';
import { explain } from './policy/explain.ts';
import { type AllowRule, identify, type Limits, type Policy } from './policy/policy.ts';
import { mtcUserOf } from './policy/rule-index.ts';
import type { RunningStatus, Status } from './status.ts';

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

export function serverUseCases(
  ground: Ground,
  grants: Grants,
  extensions: Extensions,
  events: Pick<GrantEvents, 'allowed' | 'tellAt' | 'follow'>,
  signingKey: object | undefined,
  digest: Digest,
): GrantsUseCases {
  /** Changes with every start: what a server remembers of us may then be out of date. */
  const startedAs = ground.newId();
  const pages = new Pages(grants);
  const view = (record: GrantRecord | WaitingRequest) => serverView(record, ground.identities);
  const unknown = ({ name: server, correlator }: Asker, id: string): Refusal =>
    ground.refuse('grantNotFound', { why: 'no grant of this server has this id', server, correlator, grant: id });
  return {
    async request(who, ask, waits) {
      const { sink } = ask;
      if (sink !== undefined && !events.allowed(who.name, sink)) {
        const why = `${sink} is not below a sink of ${who.name}`;
        return ground.refuse('sinkNotAllowed', { why, server: who.name, correlator: who.correlator });
      }
      const answer = await (waits === undefined
        ? grants.request(who, ask)
        : grants.requestOrWait(who, ask, waits.seconds, waits.wake));
      if ('reason' in answer) return answer;
      const isThere = grants.live.get(answer.id) ?? grants.waiting.get(answer.id);
      if (sink !== undefined && isThere) events.tellAt(answer.id, sink);
      return view(answer);
    },
    follow: (who) => (tell) => events.follow(who.name, tell),
    signingKey,
    show(who, id) {
      const found = grants.show(who, id) ?? grants.waiting.show(who, id);
      return found ? view(found) : unknown(who, id);
    },
    async extend(who, id, durationSeconds) {
      const answer = await extensions.extend(who, id, durationSeconds);
      return 'reason' in answer ? answer : (view(answer) as Grant);
    },
    async end(who, id) {
      const found = grants.show(who, id) ?? grants.waiting.show(who, id);
      if (!found) return unknown(who, id);
      ground.log.info({ grant: id, server: who.name, correlator: who.correlator }, 'endAsked');
      const refuse: Refuse = (reason, facts) =>
        ground.refuse(reason, { server: who.name, correlator: who.correlator, grant: id, ...facts });
      const end = async () => {
        await grants.giveUp(found, 'endedByServer');
        return {};
      };
      return orNotRecorded(
        refuse,
        end,
        'its packets have stopped; that it ended will be recorded when that can be done',
      );
    },
    list(who, { device, perPage, seek }) {
      return pages.read({ server: who.name, ...(device && { device }) }, perPage, seek, view);
    },
    limits: (who) => ({
      ...limitsOf(grants.policy, who.name),
      liveGrants: grants.live.countOfServer(who.name),
      waitingGrants: grants.waiting.countOfServer(who.name),
      requestsInLastMinute: grants.judge.usageOf(who.name, undefined).requestsInLastMinute,
      generation: `${startedAs}-${versionForServer(grants.policy, who.name, digest)}`,
    }),
  };
}

/** What only main knows of the running agent. */
interface Running {
  readonly reload: () => Promise<object>;
  readonly drain: (draining: boolean) => void;
  readonly status: () => RunningStatus;
}

export function managementUseCases(
  ground: Ground,
  grants: Grants,
  bindings: Bindings,
  others: DenialUseCases &
    EditionUseCases &
    DeviceUseCases &
    NatUseCases &
    RadiusUseCases &
    UserUseCases &
    SinkUseCases &
    TriggerManagement,
  config: Config,
  running: Running,
): ManagementUseCases {
  const { log, directory } = ground;
  const pages = new Pages(grants);
  /** Why there is no such inner address; undefined where there is. */
  const stray = (realm: string, address: Parameters<ManagementUseCases['bind']>[2]) => {
    const known = config.inside.find((one) => one.realm === realm);
    if (!known) return { refused: 'realmUnknown', why: `no realm ${realm} in agent.yaml` };
    if (known.prefixes.some((prefix) => contains(prefix, address))) return undefined;
    return { refused: 'addressNotInRealm', why: `${address.text} is not in ${realm}` };
  };
  return {
    ...others,
    status: (): Status => ({
      gateway: ground.gateway,
      policy: grants.policy.version,
      liveGrants: grants.live.size,
      heldGrants: grants.live.held,
      waitingGrants: grants.waiting.size,
      restingEndpoints: grants.rest.size,
      freeEndpoints: {
        ipv4Tcp: grants.endpoints.available('ipv4', 'tcp'),
        ipv4Udp: grants.endpoints.available('ipv4', 'udp'),
        ipv6: grants.endpoints.available('ipv6', 'udp'),
      },
      bindings: directory.bindings().length,
      ...running.status(),
    }),
    grants({ device: name, server }, limit, after) {
      const device = name === undefined ? undefined : directory.find(referenceOf(name));
      if (name !== undefined && !device) return { refused: 'deviceUnknown', why: `no device ${name} is registered` };
      if (server !== undefined && !grants.policy.servers.has(server as ServerName))
        return { refused: 'serverUnknown', why: `no server ${server} in the rule files` };
      const of = {
        ...(server !== undefined && { server: server as ServerName }),
        ...(name !== undefined && { device: referenceOf(name) }),
      };
      const found = pages.read(of, limit, after, operatorView);
      if (found === 'seekUnknown')
        return { refused: 'afterUnknown', why: 'the agent was restarted meanwhile: list anew' };
      return found;
    },
    grant(id) {
      const trigger = others.triggers?.ofGrant(id);
      const woken = trigger && { trigger };
      const record = grants.find(id);
      if (record) return { ...operatorDetail(record, ground), ...woken };
      const wait = grants.waiting.find(id);
      return wait && { ...operatorWaitDetail(wait, ground), ...woken };
    },
    async revoke(id, byUid) {
      const record = grants.live.get(id) ?? grants.waiting.get(id);
      if (!record) return false;
      log.info({ grant: id, byUid }, 'revokeAsked');
      await grants.giveUp(record, 'revokedByOperator').catch((cause: Error) => {
        const message = `its packets have stopped, and that it ended is not on record yet (${cause.message})`;
        throw new AgentError('storeFailed', message, { cause });
      });
      return true;
    },
    drain(draining, byUid) {
      log.info({ draining, byUid }, 'drainAsked');
      running.drain(draining);
    },
    device(name) {
      const device = directory.named(name);
      if (!device) return undefined;
      const { externalId } = device;
      const of = { device: { networkAccessIdentifier: externalId } };
      const listed = pages.read(of, SHOWN_OF_DEVICE, undefined, operatorView);
      const mtcUser = mtcUserOf(grants.policy, externalId)?.name;
      const before = ground.store.endedBindings(externalId, HELD_BEFORE).map((one) => ({ ...one, holder: externalId }));
      const held = { bindings: directory.bindingsOf(externalId), before };
      const shown = listed === 'seekUnknown' ? [] : listed.grants;
      const liveGrants = grants.list(of, undefined, 1).total;
      const waitingGrants = grants.listWaiting(of, 0, 0).total;
      return { device, mtcUser, ...held, grants: shown, liveGrants, waitingGrants };
    },
    standsFor(name) {
      const digits = name.replace('+', '');
      if (!/^\d{5,15}$/.test(digits)) return '';
      const [msisdn, imsi] = (['msisdn', 'imsi'] as const).map((kind) => ground.identities.hash(kind, digits));
      return `; log and records have it as ${msisdn} (MSISDN) or ${imsi} (IMSI), unless they are kept in clear`;
    },
    servers: () => [...grants.policy.servers.keys()],
    bindings: () => directory.bindings(),
    async bind(device, realm, address, byUid) {
      log.info({ device, realm, address: address.text, byUid }, 'bindAsked');
      return stray(realm, address) ?? bindings.bind(device, { realm, address });
    },
    async unbind(device, realm, address, byUid) {
      log.info({ device, realm, address: address.text, byUid }, 'unbindAsked');
      const holder = directory.holderOf({ realm, address })?.holder;
      if (holder && holder !== device) return { refused: 'notBound', why: `${address.text} is held by ${holder}` };
      return bindings.unbind({ realm, address });
    },
    async reload(byUid) {
      log.info({ byUid }, 'reloadAsked');
      return running.reload();
    },
    explain({ server, device, protocol, port, durationSeconds, from }) {
      const requestAddress = from ?? grants.policy.servers.get(server)?.apiSources[0]?.address;
      if (!requestAddress) return { refused: 'serverUnknown', why: `no server ${server} in the rule files` };
      const { question, decision } = grants.judge.decide(
        { name: server, requestAddress },
        { device: referenceOf(device), protocol, devicePort: port, durationSeconds },
      );
      return { verdict: decision.verdict, lines: explain(grants.policy, question, decision) };
    },
  };
}

/** How many bindings that are over a look at one device shows. */
const HELD_BEFORE = 20;
/** How many grants a look at one device shows; `mtgate grants list --device` lists all. */
const SHOWN_OF_DEVICE = 100;

/**
 * Lists by pages: what waits, then what is live. So one that is granted while
 * the list is read may be in it twice, first waiting, but is not missed. A key
 * stands for a place in the order of the grants, which begins anew with each
 * start of the agent; among those that wait, for the last one.
 */
export class Pages {
  readonly #grants: Grants;
  readonly #keys = new PageKeys();

  constructor(grants: Grants) {
    this.#grants = grants;
  }

  /** A page as `view` shows it: nothing else of a record leaves here. */
  read<View>(
    of: Parameters<Grants['list']>[0],
    limit: number,
    key: string | undefined,
    view: (record: GrantRecord | WaitingRequest) => View,
  ): { grants: View[]; total: number; lastKey?: string } | 'seekUnknown' {
    const from = key === undefined ? { waited: 0 } : this.#keys.open(key);
    if (!from) return 'seekUnknown';
    const waited = this.#grants.listWaiting(of, 'waited' in from ? from.waited : Number.POSITIVE_INFINITY, limit);
    const left = limit - waited.requests.length;
    const live = this.#grants.list(of, 'waited' in from ? undefined : from, Math.max(1, left));
    const total = waited.total + live.total;
    if (left === 0) {
      const more = waited.more || live.records.length > 0;
      return {
        grants: waited.requests.map(view),
        total,
        ...(more && { lastKey: this.#keys.seal({ waited: waited.last }) }),
      };
    }
    const grants = [...waited.requests, ...live.records].map(view);
    return { grants, total, ...(live.next && { lastKey: this.#keys.seal(live.next) }) };
  }
}

/** A device is named to its server as the server named it, or not at all. */
export function serverView(record: GrantRecord | WaitingRequest, identities: Identities): Grant | Wait {
  const { device, ...view } = 'waitsUntilMs' in record ? waitView(record) : grantView(record);
  const named = identities.shown(device);
  return { ...(named && { device: named }), ...view } as Grant | Wait;
}

/** As it is kept. */
type Named = Required<Pick<Grant, 'device'>>;

export const STATUS = { live: 'LIVE', held: 'HELD', ended: 'ENDED' } as const;

function grantView(record: GrantRecord): Grant & Named {
  return {
    ...viewOfBoth(record),
    device: record.reference,
    externalEndpoint: record.external,
    applicationServer: { address: record.remote, ...(record.remotePort > 0 && { port: record.remotePort }) },
    status: STATUS[record.state],
    startedAtMs: record.startedAtMs,
    expiresAtMs: record.expiresAtMs,
    limits: record.limits,
  };
}

function waitView(request: WaitingRequest): Wait & Named {
  const { ask, remote, family, requestedAtMs, waitsUntilMs } = request;
  const port = ask.applicationServer?.port;
  return {
    ...viewOfBoth(request),
    device: ask.device,
    applicationServer: { address: remote, ...(port !== undefined && { port }) },
    status: request.state === 'waiting' ? 'WAITING' : 'ENDED',
    ...{ family, requestedAtMs, waitsUntilMs },
  };
}

function viewOfBoth({ id, protocol, devicePort, endedAtMs, endCause }: GrantRecord | WaitingRequest) {
  return {
    ...{ id, protocol, devicePort },
    ...(endedAtMs !== undefined && { endedAtMs }),
    ...(endCause !== undefined && { endCause }),
  };
}

function operatorView(record: GrantRecord | WaitingRequest): OperatorGrant | OperatorWait {
  const { server, device: externalId, rule, correlator } = record;
  const owned = { server, externalId, rule, correlator };
  return 'waitsUntilMs' in record
    ? { ...waitView(record), ...owned }
    : { ...grantView(record), ...owned, inner: record.inner };
}

export function operatorDetail(record: GrantRecord, { dataplane, clock }: Ground): OperatorGrantDetail {
  const { gateway, mtcUser, policyVersion, family, grantedSeconds, index, number, endCause } = record;
  const held = dataplane.entry(index)?.mapping.number === number;
  const remainingNs = record.state !== 'ended' ? record.expiresAtNs - clock.boottimeNs() : 0n;
  return {
    ...(operatorView(record) as OperatorGrant),
    ...{ gateway, mtcUser, policyVersion, family, grantedSeconds, entry: index, number },
    remainingSeconds: Math.max(0, Number(remainingNs) / 1e9),
    ...(endCause && { endText: END_CAUSES[endCause] }),
    ...(held && { carried: dataplane.carried(index) }),
  };
}

function operatorWaitDetail(request: WaitingRequest, { clock }: Ground): OperatorWaitDetail {
  const { gateway, mtcUser, policyVersion, family, ask, endCause } = request;
  const remainingNs = request.state === 'waiting' ? request.waitsUntilNs - clock.boottimeNs() : 0n;
  return {
    ...(operatorView(request) as OperatorWait),
    ...{ gateway, mtcUser, policyVersion, family, askedSeconds: ask.durationSeconds },
    remainingSeconds: Math.max(0, Number(remainingNs) / 1e9),
    ...(endCause && { endText: waitEndText(endCause) }),
  };
}

const QUOTAS = ['grantsPerDevice', 'grantsPerServer', 'requestsPerMinute', 'packetsPerSecond', 'bytes'] as const;

/** The widest bounds that any allow gives the server; a bound that one of them does not set does not bind. */
function limitsOf(
  policy: Policy,
  server: ServerName,
): Omit<ServerLimits, 'liveGrants' | 'waitingGrants' | 'requestsInLastMinute' | 'generation'> {
  const own = policy.allows.filter(({ match }: AllowRule) => match.servers?.includes(server) ?? true);
  const widest = (bound: keyof Limits) =>
    Math.max(0, ...own.map(({ limits }) => limits[bound] ?? Number.POSITIVE_INFINITY));
  const quotas = QUOTAS.map((bound) => [bound, widest(bound)] as const);
  return {
    sources: policy.servers.get(server)?.sources ?? [],
    maxDurationSeconds: widest('durationSeconds'),
    maxTotalSeconds: widest('totalSeconds'),
    ...Object.fromEntries(quotas.filter(([, value]) => Number.isFinite(value))),
  };
}
