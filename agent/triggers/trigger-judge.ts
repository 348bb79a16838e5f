/**
 * What the policy in force says of a trigger that is asked for, and of one that
 * is to be sent. Puts the question together; decides nothing itself
 * (policy/decide-trigger.ts), and changes nothing but the count of requests.
 */
import { RequestRates } from '../core/rates.ts';
import { type RefusalFacts, type RefusalReason, TRIGGER_CAUSES } from '../core/refusals.ts';
import type { Asker, Device, ExternalId, ServerName } from '../core/words.ts';
import { decideTrigger, type TriggerDecision } from '../policy/decide-trigger.ts';
import { factsOf } from '../policy/explain.ts';
import { NO_TRIGGER_USAGE, type TriggerUsage } from '../policy/policy.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import type { TriggerQuestion } from '../policy/question.ts';
import type { TriggerGround } from './ground.ts';
import type { TriggerQueue } from './queue.ts';
import type { Trigger, TriggerAsk } from './trigger.ts';

const HOUR_MS = 3_600_000;
/** Who is asked about where nobody was found: "no such device" must not answer sooner than "not yours". */
const NOBODY = { externalId: 'nobody@nowhere.invalid' as ExternalId };

/** It is only not yet: hours open again, and owners have quiet hours. */
const NOT_YET: readonly RefusalReason[] = ['outsideHours', 'unwanted'];

export interface Judged {
  readonly device: Device | undefined;
  readonly decision: TriggerDecision;
}

export class TriggerJudge {
  readonly #ground: TriggerGround;
  readonly #queue: TriggerQueue;
  readonly #rates = new RequestRates();

  constructor(ground: TriggerGround, queue: TriggerQueue) {
    this.#ground = ground;
    this.#queue = queue;
  }

  /** What is decided of a trigger that a server asks for; `instead` is what it takes the place of. */
  decide(who: Asker, ask: TriggerAsk, instead?: Trigger): Judged {
    const device = this.#ground.directory.find(ask.device);
    const usage = instead ? this.#rateOnly(who.name) : this.#usageOf(who.name, (device ?? NOBODY).externalId);
    return { device, decision: this.#decide(who.name, ask, device, usage) };
  }

  /** Counts one, unless its rate is what it was refused for. */
  count(who: Asker, decision: TriggerDecision): void {
    if (decision.verdict === 'allow' || decision.reason !== 'triggerRateExceeded')
      this.#rates.add(who.name, this.#ground.clock.monotonicNs());
  }

  /** Why a trigger may not be sent now: for ever, or (`notYet`) as it is at the moment. */
  objection(trigger: Trigger): RefusalReason | 'certificateRevoked' | 'ownerChanged' | 'notYet' | undefined {
    const { directory, revoked, requests, policy } = this.#ground;
    // It is recalled when the end of its request is on record; if that is lost by a kill, both wait again.
    if (trigger.grant !== undefined && !requests.waits(trigger.grant)) return 'notYet';
    if (revoked(trigger.certificate)) return 'certificateRevoked';
    // The word of a new owner is for what is asked for from then on.
    if (mtcUserOf(policy(), trigger.to)?.name !== trigger.mtcUser) return 'ownerChanged';
    const device = directory.find({ networkAccessIdentifier: trigger.to });
    const decision = this.#decide(trigger.server, trigger, device, NO_TRIGGER_USAGE);
    if (decision.verdict === 'allow') return undefined;
    return NOT_YET.includes(decision.reason) ? 'notYet' : decision.reason;
  }

  /** What is told of a decision to refuse, beside its reason. */
  factsOf(who: Asker, refused: TriggerDecision & { readonly verdict: 'refuse' }): RefusalFacts {
    const { reason, rule } = refused;
    const { clock } = this.#ground;
    const limit =
      reason === 'triggerRateExceeded'
        ? this.#ground.policy().triggerAllows.find(({ id }) => id === rule)?.limits.perMinute
        : undefined;
    return {
      ...factsOf(refused),
      ...(limit !== undefined && {
        retryAfterSeconds: this.#rates.secondsUntilBelow(limit, who.name, clock.monotonicNs()),
      }),
    };
  }

  #decide(server: ServerName, ask: TriggerAsk, device: Device | undefined, usage: TriggerUsage): TriggerDecision {
    const { clock, directory, policy } = this.#ground;
    const facts = directory.factsOf(device ?? NOBODY);
    const question: TriggerQuestion = {
      server,
      device: device && facts,
      protocol: 'udp',
      port: ask.port,
      durationSeconds: ask.validitySeconds,
      payloadBytes: ask.payload.length,
      isCut: ask.grant !== undefined,
      usage,
      nowMs: clock.nowMs(),
    };
    return decideTrigger(policy(), question);
  }

  #usageOf(server: ServerName, device: ExternalId): TriggerUsage {
    const { store, clock } = this.#ground;
    const pending = this.#queue.onDevice(device).filter((one) => one.server === server);
    // What is being written is not on record yet; a moment long it may count twice.
    const unwritten = pending.filter(({ isBlocked, attempts }) => isBlocked && attempts === 0).length;
    const recorded = store.countSince(server, device, clock.nowMs() - HOUR_MS);
    return {
      ...this.#rateOnly(server),
      pendingOnDevice: pending.length,
      pendingOfServer: this.#queue.countOfServer(server),
      triggersOnDeviceInLastHour: recorded + unwritten,
    };
  }

  #rateOnly(server: ServerName): TriggerUsage {
    const triggersInLastMinute = this.#rates.inLastMinute(server, this.#ground.clock.monotonicNs());
    return { ...NO_TRIGGER_USAGE, triggersInLastMinute };
  }
}

/** The members of a refusal that a trigger was asked for. */
export function causeOf(reason: RefusalReason): Pick<RefusalFacts, 'members'> {
  const cause = TRIGGER_CAUSES[reason];
  return cause === undefined ? {} : { members: { cause } };
}
