/**
 * What a policy would change if it were put in force now: which live grants
 * would end, and which requests of the last days would be decided otherwise.
 *
 * Each request is put to both policies, the one in force and the other, as the
 * directory is now and as if its server held and had asked for nothing else:
 * so a difference is the policies' own. What is not reconstructed is usage
 * (rates, quotas), and of a grant what was asked beyond what was granted.
 *
 * Done in slices of some milliseconds, and within bounds: nobody is held up,
 * however much there is.
 */
import type { Clock } from '../core/ports.ts';
import { breathe } from '../core/slices.ts';
import type { Grants } from '../grants/grants.ts';
import { END_CAUSES } from '../grants/lifecycle.ts';
import type { GrantRecord } from '../grants/record.ts';
import { type KeptRefusal, requestOf } from '../inspector/refusals.ts';
import type { Decision } from '../policy/decide.ts';
import { NO_USAGE, type Policy, versionFor } from '../policy/policy.ts';

const DAYS = 7;
const REQUESTS_MOST = 100_000;
/** Of each list; counts are of all. */
const ROWS_MOST = 100;
const SLICE_NS = 4_000_000n;

/** Live grants that would end for the same reason. */
export interface EndGroup {
  readonly reason: string;
  readonly rule?: string;
  readonly count: number;
  readonly example: {
    readonly grantId: string;
    readonly server: string;
    readonly device: string;
    readonly why: string;
  };
}

/** Requests that were decided in one way, and would be in another. */
export interface RequestGroup {
  readonly from: string;
  readonly to: string;
  readonly count: number;
  readonly example: PastRequest;
}

export interface Forecast {
  readonly ends: { readonly count: number; readonly groups: readonly EndGroup[]; readonly grantIds: readonly string[] };
  readonly requests: {
    /** How many were put to both, since when; cut: there are older ones within the days that count. */
    readonly looked: number;
    readonly sinceMs: number;
    readonly isCut: boolean;
    readonly changed: number;
    readonly groups: readonly RequestGroup[];
  };
}

/** A request of the last days: of a grant (its id), or of a refusal (its instance). */
export interface PastRequest {
  readonly id: string;
  readonly atMs: number;
  readonly server: string;
  readonly device: string;
  readonly target: string;
}

interface Asked extends PastRequest {
  decide(policy: Policy): Decision;
  /** The same for requests that cannot be decided differently. */
  readonly key: string;
}

/** Where the requests of the past are kept, each the newest first. */
export interface Past {
  grants(sinceMs: number): Iterable<GrantRecord>;
  refusals(sinceMs: number): Iterable<KeptRefusal>;
}

export async function forecast(policy: Policy, grants: Grants, past: Past, clock: Clock): Promise<Forecast> {
  const pace = pacer(clock);
  return {
    ends: await endsUnder(policy, grants, pace),
    requests: await requestsUnder(policy, grants, past, clock, pace),
  };
}

async function endsUnder(policy: Policy, { live, judge }: Grants, pace: Pace): Promise<Forecast['ends']> {
  const groups = new Map<string, EndGroup>();
  const grantIds: string[] = [];
  let count = 0;
  for (const record of live.all()) {
    if (pace.isOver()) await pace.rest();
    if (record.policyVersion === versionFor(policy, record.mtcUser)) continue; // it decides the same, of the same owners
    const end = endUnder(policy, record, judge);
    if (!end) continue;
    const { reason, rule, why } = end;
    const { id: grantId, server, device } = record;
    count += 1;
    if (grantIds.length < ROWS_MOST) grantIds.push(grantId);
    const key = `${reason} ${rule}`;
    const former = groups.get(key);
    if (former) groups.set(key, { ...former, count: former.count + 1 });
    else groups.set(key, { reason, ...(rule && { rule }), count: 1, example: { grantId, server, device, why } });
  }
  return { count, groups: largest(groups), grantIds };
}

/** Why a live grant would end; undefined where it would not. */
function endUnder(
  policy: Policy,
  record: GrantRecord,
  judge: Grants['judge'],
): { readonly reason: string; readonly rule?: string; readonly why: string } | undefined {
  if (judge.hasOtherOwner(record, policy)) return { reason: 'ownerChanged', why: END_CAUSES.ownerChanged };
  if (judge.isTranslatedOtherwise(record, policy)) return { reason: 'natChanged', why: END_CAUSES.natChanged };
  const { decision } = judge.again(record, record.grantedSeconds, NO_USAGE, policy);
  return decision.verdict === 'refuse' ? decision : undefined;
}

async function requestsUnder(
  policy: Policy,
  grants: Grants,
  past: Past,
  clock: Clock,
  pace: Pace,
): Promise<Forecast['requests']> {
  const sinceMs = clock.nowMs() - DAYS * 86_400_000;
  const groups = new Map<string, RequestGroup>();
  /** What becomes of a request, by all that it asks: servers ask for the same again and again. */
  const known = new Map<string, { readonly from: string; readonly to: string } | undefined>();
  let [looked, changed] = [0, 0];
  let oldestMs = clock.nowMs();
  for (const asked of newestFirst(grants, past, sinceMs)) {
    if (pace.isOver()) await pace.rest();
    if (looked === REQUESTS_MOST) return { looked, sinceMs: oldestMs, isCut: true, changed, groups: largest(groups) };
    looked += 1;
    oldestMs = asked.atMs;
    if (!known.has(asked.key)) known.set(asked.key, difference(asked.decide(grants.policy), asked.decide(policy)));
    const other = known.get(asked.key);
    if (!other) continue;
    changed += 1;
    const key = `${other.from} ${other.to}`;
    const former = groups.get(key);
    const { id, atMs, server, device, target } = asked;
    if (former) groups.set(key, { ...former, count: former.count + 1 });
    else groups.set(key, { ...other, count: 1, example: { id, atMs, server, device, target } });
  }
  return { looked, sinceMs, isCut: false, changed, groups: largest(groups) };
}

/** Both kinds as one, by their time. */
function* newestFirst(grants: Grants, past: Past, sinceMs: number): Generator<Asked> {
  const granted = past.grants(sinceMs)[Symbol.iterator]();
  const refused = past.refusals(sinceMs)[Symbol.iterator]();
  let [grant, refusal] = [granted.next(), refused.next()];
  while (!grant.done || !refusal.done) {
    if (!grant.done && (refusal.done || grant.value.startedAtMs >= refusal.value.atMs)) {
      yield ofGrant(grant.value, grants);
      grant = granted.next();
    } else if (!refusal.done) {
      const asked = ofRefusal(refusal.value, grants);
      if (asked) yield asked;
      refusal = refused.next();
    }
  }
}

function ofGrant(record: GrantRecord, { judge }: Grants): Asked {
  const { id, startedAtMs: atMs, server, device, protocol, devicePort, grantedSeconds, family, remote } = record;
  const target = `${protocol}/${devicePort}`;
  const place = remote === 'all' ? remote : remote.text;
  return {
    ...{ id, atMs, server, device, target },
    key: ['grant', server, device, target, grantedSeconds, family, place].join(' '),
    decide: (policy) => judge.again(record, grantedSeconds, NO_USAGE, policy).decision,
  };
}

/** Undefined where it is no request for a grant, or not all of it was kept. */
function ofRefusal(refusal: KeptRefusal, { judge }: Grants): Asked | undefined {
  const { instance, atMs, server, device, target, source, durationSeconds, applicationServer, ipFamily } = refusal;
  const asked = requestOf(refusal);
  if (!asked || !server || !device) return undefined;
  return {
    ...{ id: instance, atMs, server, device, target },
    key: ['refusal', server, device, target, durationSeconds, applicationServer, ipFamily, source].join(' '),
    decide: (policy) => judge.asIfFirst(policy, asked.who, asked.ask),
  };
}

/** Both decisions in words, where they are not the same. */
function difference(now: Decision, then: Decision): { readonly from: string; readonly to: string } | undefined {
  const [from, to] = [inWords(now), inWords(then)];
  if (from !== to) return { from, to };
  if (now.verdict !== 'allow' || then.verdict !== 'allow' || now.durationSeconds === then.durationSeconds)
    return undefined;
  return { from, to: `${to}, ${then.durationSeconds < now.durationSeconds ? 'for a shorter time' : 'for longer'}` };
}

function inWords(decision: Decision): string {
  if (decision.verdict === 'allow') return `allowed by ${decision.rule}`;
  return `refused, ${decision.reason}${decision.rule === undefined ? '' : ` by ${decision.rule}`}`;
}

function largest<Group extends { readonly count: number }>(groups: ReadonlyMap<string, Group>): Group[] {
  return [...groups.values()].sort((a, b) => b.count - a.count).slice(0, ROWS_MOST);
}

interface Pace {
  /** Whether the loop has been held for long enough. */
  isOver(): boolean;
  rest(): Promise<void>;
}

function pacer(clock: Clock): Pace {
  let began = clock.monotonicNs();
  return {
    isOver: () => clock.monotonicNs() - began > SLICE_NS,
    async rest() {
      await breathe();
      began = clock.monotonicNs();
    },
  };
}
