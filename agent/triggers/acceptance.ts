/**
 * Whether a trigger is accepted: what is asked for must be served and recorded,
 * there must be room, and the rules must allow it (trigger-judge.ts). Nothing
 * is evicted: full means refuse.
 */
import { UNRECORDED_MOST } from '../core/not-recorded.ts';
import { askerFacts, type Refuse } from '../core/refusals.ts';
import type { Asker, ExternalId } from '../core/words.ts';
import type { TriggerGround } from './ground.ts';
import type { TriggerQueue } from './queue.ts';
import type { Trigger, TriggerAsk } from './trigger.ts';
import { causeOf, type TriggerJudge } from './trigger-judge.ts';
import type { Unrecorded } from './unrecorded.ts';

/** So many in all; of one server a quarter of them, of one device very few. */
const PENDING_MOST = 131_072;
const PENDING_MOST_OF_SERVER = PENDING_MOST / 4;
const PENDING_MOST_ON_DEVICE = 64;

export class Acceptance {
  readonly #ground: TriggerGround;
  readonly #queue: TriggerQueue;
  readonly #judge: TriggerJudge;
  readonly #unrecorded: Unrecorded;

  constructor(ground: TriggerGround, queue: TriggerQueue, judge: TriggerJudge, unrecorded: Unrecorded) {
    this.#ground = ground;
    this.#queue = queue;
    this.#judge = judge;
    this.#unrecorded = unrecorded;
  }

  /** What a trigger is accepted as. `instead`: the one in whose place it comes. */
  decide(who: Asker, ask: TriggerAsk, refuse: Refuse, instead?: Trigger) {
    const { isServed, sourcePort, notifications, policy, tooManyMisses } = this.#ground;
    if (!isServed(ask.port))
      return refuse('triggerPortNotServed', { why: `port ${ask.port} is not in triggers.ports of agent.yaml` });
    if (ask.sourcePort !== undefined && ask.sourcePort !== sourcePort) {
      const detail = `leave it out, or say ${sourcePort}`;
      return refuse('triggerSourcePortNotServed', { why: `port ${ask.sourcePort} is not triggers.sourcePort`, detail });
    }
    const { destination } = ask.notification ?? {};
    if (destination !== undefined && !notifications.allowed(who.name, destination))
      return refuse('notificationNotAllowed', { why: `no sink of this server is for ${destination.slice(0, 200)}` });
    if (this.#unrecorded.size >= UNRECORDED_MOST)
      return refuse('recordNotWritten', { why: `${this.#unrecorded.size} ends wait to be written` });
    const { device, decision } = this.#judge.decide(who, ask, instead);
    const tooMany = tooManyMisses(who, decision);
    if (tooMany) return refuse('tooManyUnknownDevices', tooMany);
    this.#judge.count(who, decision);
    if (decision.verdict === 'refuse') return refuse(decision.reason, this.#judge.factsOf(who, decision));
    const { mtcUser, rule, validitySeconds } = decision;
    // A device that is allowed is known.
    const { externalId: to } = device as { readonly externalId: ExternalId };
    return { to, mtcUser, rule, validitySeconds, policyVersion: policy().version };
  }

  /** Why there is no room for another trigger; undefined where there is. */
  fullFor({ name }: Asker, device: ExternalId): string | undefined {
    if (this.#queue.size >= PENDING_MOST) return `${this.#queue.size} triggers are pending`;
    const own = this.#queue.countOfServer(name);
    if (own >= PENDING_MOST_OF_SERVER) return `${own} triggers of this server are pending`;
    const there = this.#queue.onDevice(device).length;
    return there >= PENDING_MOST_ON_DEVICE ? `${there} triggers are pending for the device` : undefined;
  }

  /** What is accepted, as it may be kept. Its server may be told again what it said. */
  keptOf(ask: TriggerAsk): TriggerAsk {
    const { identities } = this.#ground;
    identities.remember(ask.device);
    return { ...ask, device: identities.kept(ask.device) };
  }

  /** Refuses with what was asked. `trigger`: the transaction that was to change. */
  refuser(who: Asker, { device, port, validitySeconds, payload, grant }: TriggerAsk, trigger?: string): Refuse {
    return (reason, facts) =>
      this.#ground.refuse(reason, {
        ...askerFacts(who),
        device: this.#ground.identities.told(device),
        to: `trigger/${port}`,
        validitySeconds,
        payloadBytes: payload.length,
        policy: this.#ground.policy().version,
        ...(trigger !== undefined && { trigger }),
        ...(grant === undefined && causeOf(reason)),
        ...facts,
      });
  }
}
