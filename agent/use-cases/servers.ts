/**
 * What an MTC server can do, and what it may see: its own grants, by the
 * identifier it used, never the inside. Between the words of the API and those
 * of the domain.
 */
import type { Grant, GrantsUseCases, ServerLimits } from '../api/routes.ts';
import { orNotRecorded } from '../core/not-recorded.ts';
import type { Refusal, Refuse } from '../core/refusals.ts';
import type { Asker, ServerName } from '../core/words.ts';
import { type Digest, versionForServer } from '../desk/laid-policy.ts';
import type { Extensions } from '../grants/extensions.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { WaitingRequest } from '../grants/waiting-request.ts';
import type { AllowRule, Limits, Policy } from '../policy/policy.ts';
import type { GrantEvents } from './grant-events.ts';
import { serverView } from './grant-views.ts';
import { Pages } from './pages.ts';

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
