/**
 * What the policy in force says of a request, and of a grant that is there,
 * which may stay open or not: puts the question together from who asks, the
 * directory, and what the server holds and has asked for already. Decides
 * nothing itself (policy/decide.ts), and changes nothing but the count of
 * requests.
 */
import { RequestRates } from '../core/rates.ts';
import type { RefusalFacts, Step } from '../core/refusals.ts';
import { slicesOf } from '../core/slices.ts';
import type { Asker, ExternalId, GrantRequest, ServerName } from '../core/words.ts';
import { type Decision, decide } from '../policy/decide.ts';
import type { TriggerDecision } from '../policy/decide-trigger.ts';
import { factsOf } from '../policy/explain.ts';
import { NO_USAGE, type Policy, type Usage, versionFor } from '../policy/policy.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import type { Question } from '../policy/question.ts';
import { wouldHave } from '../policy/staged.ts';
import { translationOf } from '../policy/translation.ts';
import type { BegunToday } from './begun.ts';
import type { Ground } from './ground.ts';
import type { EndCause } from './lifecycle.ts';
import type { LiveGrants } from './live.ts';
import { type GrantRecord, isRewritten, limitsOf, sameLimits } from './record.ts';

/**
 * A server whose list of devices is out of date asks once a second for one
 * that has gone, without being held up; to go through the million numbers of
 * one block takes eleven days, in every minute of which the operator's list of
 * refusals names it.
 */
const MISSES_PER_MINUTE = 60;

/** What is held and asked for. */
interface Holdings {
  readonly live: LiveGrants;
  /** Grants whose record is being written: they count, too. */
  readonly opening: Counted;
  /** And requests that wait for their device. */
  readonly waiting: Counted;
  readonly begun: BegunToday;
}

/** What counts against the quotas of a server. */
interface Counted {
  countOfServer(server: ServerName): number;
  countOnDevice(server: ServerName, device: ExternalId): number;
}

/** Who is asked about where nobody was found. */
const NOBODY = { externalId: 'nobody@nowhere.invalid' as ExternalId };

export class Judge {
  policy: Policy;
  readonly #ground: Ground;
  readonly #rates = new RequestRates();
  /** Requests for devices that are not there for their server, whether they exist or not. */
  readonly #misses = new RequestRates();
  readonly #live: LiveGrants;
  readonly #opening: Counted;
  readonly #waiting: Counted;
  readonly #begun: BegunToday;

  constructor(ground: Ground, { live, opening, waiting, begun }: Holdings, policy: Policy) {
    this.#ground = ground;
    this.#live = live;
    this.#opening = opening;
    this.#waiting = waiting;
    this.#begun = begun;
    this.policy = policy;
  }

  /** What would be decided now, and how; nothing is asked for. */
  decide(
    who: Pick<Asker, 'name' | 'requestAddress'>,
    ask: GrantRequest,
    usageOf = (device: ExternalId | undefined) => this.usageOf(who.name, device),
  ): { readonly question: Question; readonly decision: Decision } {
    const question = this.#question(who, ask, usageOf);
    return { question, decision: decide(this.policy, question) };
  }

  #question(
    who: Pick<Asker, 'name' | 'requestAddress'>,
    ask: GrantRequest,
    usageOf: (device: ExternalId | undefined) => Usage,
  ): Question {
    const { directory, clock } = this.#ground;
    // Looked at whether there is a device or not: "no such device" must not answer sooner than "not yours".
    const device = directory.find(ask.device);
    const facts = directory.factsOf(device ?? NOBODY);
    const usage = usageOf((device ?? NOBODY).externalId);
    return {
      server: who.name,
      device: device && facts,
      protocol: ask.protocol,
      port: ask.devicePort,
      durationSeconds: ask.durationSeconds,
      applicationServer: ask.applicationServer?.address,
      remotePort: ask.applicationServer?.port,
      requestAddress: who.requestAddress,
      ipFamily: ask.ipFamily,
      usage,
      begunToday:
        device && ((zone) => this.#begun.of(mtcUserOf(this.policy, device.externalId)?.name, device.externalId, zone)),
      nowMs: clock.nowMs(),
    };
  }

  /** The same for a grant that is there, as if it were asked for again as it stands. */
  again(
    record: GrantRecord,
    durationSeconds: number,
    usage: Usage,
    policy = this.policy,
  ): { readonly question: Question; readonly decision: Decision } {
    const { directory, clock } = this.#ground;
    const device = directory.find({ networkAccessIdentifier: record.device }) ?? { externalId: record.device };
    const { externalId, attributes, boundFamilies } = directory.factsOf(device);
    const question: Question = {
      server: record.server,
      device: { externalId, attributes, boundFamilies, inner: [record.inner] },
      protocol: record.protocol,
      port: record.devicePort,
      durationSeconds,
      applicationServer: record.remote,
      remotePort: record.remotePort || undefined,
      requestAddress: record.remote === 'all' ? record.external.address : record.remote,
      ipFamily: record.family,
      usage,
      nowMs: clock.nowMs(),
    };
    return { question, decision: decide(policy, question) };
  }

  /**
   * Why a grant may not be (or stay) open, by directory, revocation lists and
   * policy as they are now; where nothing objects, the grant with the limits
   * that it has now, and when it closes.
   */
  standing(record: GrantRecord): Standing {
    const { directory, revoked } = this.#ground;
    if (revoked(record.certificate)) return { objection: 'certificateRevoked', record };
    if (!directory.holds(record.device, record.inner)) return { objection: 'deviceUnbound', record };
    if (this.hasOtherOwner(record)) return { objection: 'ownerChanged', record };
    if (this.isTranslatedOtherwise(record)) return { objection: 'natChanged', record };
    // What is said of a device changes without the rules; they alone are judged once.
    const policyVersion = versionFor(this.policy, record.mtcUser);
    if (policyVersion === record.policyVersion && !this.policy.readsAttributes) return { record };
    const { decision } = this.again(record, record.grantedSeconds, NO_USAGE);
    if (decision.verdict === 'refuse') {
      return { objection: OBJECTIONS[decision.step] ?? 'ruleChanged', record };
    }
    const { closesAtMs } = decision;
    if (sameLimits(record.limits, decision)) return { record, closesAtMs };
    const limited = { rule: decision.rule, policyVersion, limits: limitsOf(decision) };
    return { record: { ...record, ...limited }, closesAtMs };
  }

  /**
   * Whether the rule files have taken a device from the MTC user by whose word
   * something was granted on it, or waits for it. A new owner's word is for what
   * is asked for from then on: what was there before is not its own, and it could
   * neither see nor end it.
   */
  hasOtherOwner({ device, mtcUser }: Pick<GrantRecord, 'device' | 'mtcUser'>, policy = this.policy): boolean {
    return mtcUserOf(policy, device)?.name !== mtcUser;
  }

  /** Whether a grant would have another endpoint if it were given now. */
  isTranslatedOtherwise(record: GrantRecord, policy = this.policy): boolean {
    const now = translationOf(policy, record.server, record.inner.realm);
    return now !== (isRewritten(record) ? 'translated' : 'untranslated');
  }

  /** Tells what staged rules would have decided, where that is something else; `about` says of what. */
  tellStaged(question: Question, decision: Decision, about: object): void {
    const { log, metrics } = this.#ground;
    const otherwise = wouldHave(this.policy, question, decision);
    if (!otherwise) return;
    const { would, decision: staged } = otherwise;
    metrics.staged(staged.rule ?? '', would, 1);
    log.info({ ...about, would, rule: staged.rule, staged: told(staged), decided: told(decision) }, 'wouldHave');
  }

  /** How many live grants staged rules would end: counted by rule, and told once for each. */
  async tellStagedEnds(): Promise<void> {
    const { log, metrics } = this.#ground;
    const { policy } = this;
    if (!policy.staged) return;
    const ends = new Map<string, number>();
    for await (const records of slicesOf(this.#live.all())) {
      for (const record of records) {
        const { question, decision } = this.again(record, record.grantedSeconds, NO_USAGE);
        const otherwise = wouldHave(policy, question, decision);
        if (otherwise?.would !== 'refuse') continue;
        const rule = otherwise.decision.rule ?? '';
        ends.set(rule, (ends.get(rule) ?? 0) + 1);
      }
    }
    for (const [rule, grants] of ends) {
      metrics.staged(rule, 'end', grants);
      log.info({ would: 'end', rule, grants, liveGrants: this.#live.size }, 'wouldHave');
    }
  }

  /** What a policy would say of a request if nobody held or had asked for anything. */
  asIfFirst(policy: Policy, who: Pick<Asker, 'name' | 'requestAddress'>, ask: GrantRequest): Decision {
    return decide(
      policy,
      this.#question(who, ask, () => NO_USAGE),
    );
  }

  /** What a server holds, in all and on a device, and how much it has asked for. */
  usageOf(server: ServerName, device: ExternalId | undefined): Usage {
    this.#live.pass(this.#ground.clock.boottimeNs());
    const holders = [this.#live, this.#opening, this.#waiting];
    const sum = (count: (of: Counted) => number) => holders.reduce((all, of) => all + count(of), 0);
    return {
      grantsOnDevice: device ? sum((of) => of.countOnDevice(server, device)) : 0,
      grantsOfServer: sum((of) => of.countOfServer(server)),
      requestsInLastMinute: this.#rates.inLastMinute(server, this.#ground.clock.monotonicNs()),
    };
  }

  /** Counts a request, unless its rate is what it was refused for. */
  count(who: Asker, decision: Decision): void {
    if (decision.verdict === 'allow' || decision.reason !== 'rateExceeded') {
      this.#rates.add(who.name, this.#ground.clock.monotonicNs());
    }
  }

  /**
   * What a request for a device that is not there for its server is told once
   * it has made too many of them; undefined for all others. "No such device"
   * and "not yours" are one here as everywhere, so a server that guesses names
   * learns no more from the bound than from the answers within it. For the
   * devices that are its own it goes on being heard.
   */
  tooManyMisses(who: Asker, decision: Decision | TriggerDecision): RefusalFacts | undefined {
    if (decision.verdict === 'allow') return undefined;
    if (decision.reason !== 'deviceUnknown' && decision.reason !== 'notAuthorisedByMtcUser') return undefined;
    const nowNs = this.#ground.clock.monotonicNs();
    const count = this.#misses.inLastMinute(who.name, nowNs);
    if (count < MISSES_PER_MINUTE) {
      this.#misses.add(who.name, nowNs);
      return undefined;
    }
    const retryAfterSeconds = this.#misses.secondsUntilBelow(MISSES_PER_MINUTE, who.name, nowNs);
    return { why: `${count} such requests in the last minute; this one: ${decision.why}`, retryAfterSeconds };
  }

  /** What is told of a decision to refuse, beside its reason. */
  factsOf(who: Asker, refused: Decision & { readonly verdict: 'refuse' }): RefusalFacts {
    const { reason, rule } = refused;
    const limit =
      reason === 'rateExceeded'
        ? this.policy.allows.find(({ id }) => id === rule)?.limits.requestsPerMinute
        : undefined;
    const nowNs = this.#ground.clock.monotonicNs();
    return {
      ...factsOf(refused),
      ...(limit !== undefined && { retryAfterSeconds: this.#rates.secondsUntilBelow(limit, who.name, nowNs) }),
    };
  }
}

/** Why a grant ends that would be refused now, by the step that would refuse it; else the rules have changed. */
const OBJECTIONS: Partial<Record<Step, EndCause>> = {
  device: 'serverUnauthorised',
  mtcUser: 'serverUnauthorised',
  preference: 'unwanted',
};

/** What is said of a grant that is there: why it may not stay open; else what it may carry, and when it closes. */
interface Standing {
  readonly objection?: EndCause;
  readonly record: GrantRecord;
  readonly closesAtMs?: number | undefined;
}

/** A decision in the words of a policy test. */
function told(decision: Decision): string {
  if (decision.verdict === 'refuse') return `refuse ${decision.reason} (${decision.why})`;
  return `allow ${decision.rule} for ${decision.durationSeconds} s`;
}
