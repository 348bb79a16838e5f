/**
 * Sends what is pending: to each device one trigger at a time, the next when
 * what became of the one before is known. A device is due when it is bound,
 * when it gets a trigger while it is bound, and again, after an attempt that
 * came to nothing, later and later.
 *
 * Invariants:
 * - a trigger is sent only while the policy in force, the directory and the
 *   revocation lists let it, looked at in the turn in which it is sent;
 * - nothing is sent to an address that is being taken from its device: `lost`
 *   gives up what is under way in the same turn (design, law 9);
 * - no more is under way than whoever delivers has room for.
 */
import { breathe, SLICE } from '../core/slices.ts';
import type { ExternalId, TriggerId } from '../core/words.ts';
import type { DeliveryOutcome } from './delivery.ts';
import type { TriggerGround } from './ground.ts';
import { ENDED_BY, type TriggerEndCause } from './lifecycle.ts';
import type { Pending, TriggerQueue } from './queue.ts';
import { Timetable } from './timetable.ts';
import { namesOfTrigger, type Trigger } from './trigger.ts';
import type { TriggerJudge } from './trigger-judge.ts';

/** Until it is tried again, after the first attempt that came to nothing; twice as long after each further one. */
const RETRY_SECONDS = 30;
const RETRY_SECONDS_MOST = 1_800;

/** An attempt that is under way. */
interface Attempt {
  readonly id: TriggerId;
  readonly abort: AbortController;
  /** Resolves when what became of it is known, and has been seen to. */
  done: Promise<void>;
  /** The device became due meanwhile. */
  again: boolean;
}

/** Ends one, durably. Fails never: what the store does not take is written later. */
type End = (pending: Pending, cause: TriggerEndCause) => Promise<void>;

export class Sending {
  readonly #ground: TriggerGround;
  readonly #queue: TriggerQueue;
  readonly #judge: TriggerJudge;
  readonly #end: End;
  /** In the order in which they became due. */
  readonly #due = new Set<ExternalId>();
  readonly #underWay = new Map<ExternalId, Attempt>();
  readonly #retries: Timetable<ExternalId>;
  /** Attempts on a device that came to nothing, one after the other. */
  readonly #failed = new Map<ExternalId, number>();
  #isPumping = false;
  #isClosed = false;

  constructor(ground: TriggerGround, queue: TriggerQueue, judge: TriggerJudge, end: End) {
    this.#ground = ground;
    this.#queue = queue;
    this.#judge = judge;
    this.#end = end;
    this.#retries = new Timetable(ground.clock.boottimeNs());
  }

  /** How many attempts are under way. */
  get underWay(): number {
    return this.#underWay.size;
  }

  /** Devices may have got an address, or a trigger. */
  due(devices: Iterable<ExternalId>): void {
    for (const device of devices) {
      if (this.#queue.onDevice(device).length === 0) continue;
      const attempt = this.#underWay.get(device);
      if (attempt) attempt.again = true;
      else this.#due.add(device);
      this.#retries.remove(device);
      this.#failed.delete(device);
    }
    void this.#pump();
  }

  /** Devices lose an address: what is under way to them is given up. */
  lost(devices: Iterable<ExternalId>): void {
    for (const device of devices) this.#underWay.get(device)?.abort.abort();
  }

  /** Gives up the attempt on one trigger, if there is one. What it led to before has been seen to when this resolves. */
  async stop(id: TriggerId, device: ExternalId): Promise<void> {
    const attempt = this.#underWay.get(device);
    if (attempt?.id !== id) return;
    attempt.abort.abort();
    await attempt.done;
  }

  /** What is due to be tried again. */
  sweep(): void {
    for (const device of this.#retries.take(this.#ground.clock.boottimeNs()))
      if (!this.#underWay.has(device)) this.#due.add(device);
    void this.#pump();
  }

  /** Gives up all that is under way; it stays pending. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const { abort } of this.#underWay.values()) abort.abort();
    await Promise.all([...this.#underWay.values()].map(({ done }) => done));
  }

  /** Begins with what is due, as far as there is room. */
  async #pump(): Promise<void> {
    if (this.#isPumping) return;
    this.#isPumping = true;
    let begun = 0;
    for (const device of this.#due) {
      if (this.#isClosed || this.#ground.delivery.room <= 0) break;
      this.#due.delete(device);
      this.#begin(device);
      begun += 1;
      if (begun % SLICE === 0) await breathe();
    }
    this.#isPumping = false;
  }

  #begin(device: ExternalId): void {
    const pending = this.#queue.first(device);
    if (!pending || this.#underWay.has(device)) return;
    const attempt: Attempt = {
      id: pending.id,
      abort: new AbortController(),
      done: Promise.resolve(),
      again: false,
    };
    this.#underWay.set(device, attempt);
    attempt.done = this.#try(pending, attempt.abort.signal)
      .catch((fault: Error) => {
        this.#ground.log.error({ trigger: pending.id, device, message: fault.message }, 'triggerFailed');
        return 'later' as const;
      })
      .then((next) => {
        this.#underWay.delete(device);
        if (next === 'next' || attempt.again) this.due([device]);
        else if (next === 'later') this.#putOff(device);
        else void this.#pump(); // there is room again
      });
  }

  /** One attempt; and when the device is due again: at once, later, or with its next binding. */
  async #try(pending: Pending, signal: AbortSignal): Promise<'next' | 'later' | 'bound'> {
    const { store, directory, log, metrics } = this.#ground;
    const trigger = store.find(pending.id);
    if (trigger?.state !== 'pending') {
      this.#queue.remove(pending.id);
      return 'next';
    }
    const isOnce = pending.validitySeconds === 0;
    const isTried = isOnce && pending.attempts > 0; // and given up, since its device lost the address
    const objection = isTried ? 'notYet' : this.#judge.objection(trigger);
    if (objection === 'notYet' && !isOnce) return 'later';
    if (objection) {
      await this.#end(pending, objection === 'notYet' ? 'expired' : objection);
      return 'next';
    }
    const device = directory.find({ networkAccessIdentifier: trigger.to });
    const inner = device ? directory.factsOf(device).inner : [];
    if (inner.length === 0 && !isOnce) return 'bound';
    const outcome = await this.#deliver(trigger, inner, signal);
    pending.attempts += 1;
    pending.lastOutcome = outcome;
    metrics.triggerTried(outcome);
    const cause = ENDED_BY[outcome] ?? (isOnce ? 'expired' : undefined);
    log[cause ? 'info' : 'debug']({ ...namesOfTrigger(trigger), outcome, attempts: pending.attempts }, 'triggerTried');
    // Who gave it up sees to it, unless the device has it all the same.
    if (signal.aborted && ENDED_BY[outcome] === undefined) return 'later';
    if (!cause) return 'later';
    await this.#end(pending, cause);
    return 'next';
  }

  /** To the first of a device's addresses that it can be sent to. */
  async #deliver(
    { port, sourcePort, payload }: Trigger,
    inner: ReturnType<TriggerGround['directory']['factsOf']>['inner'],
    signal: AbortSignal,
  ): Promise<DeliveryOutcome> {
    const { delivery, notReady, log } = this.#ground;
    for (const one of inner) {
      if (signal.aborted) break;
      if (notReady(one.realm) !== undefined) continue;
      const to = { inner: one, port, ...(sourcePort !== undefined && { sourcePort }) };
      const outcome = await delivery.deliver(to, payload, signal).catch((fault: Error): DeliveryOutcome => {
        log.error({ message: fault.message }, 'triggerFailed');
        return 'notSent';
      });
      if (outcome !== 'notSent') return outcome;
    }
    return 'notSent';
  }

  #putOff(device: ExternalId): void {
    if (this.#queue.onDevice(device).length === 0) {
      this.#failed.delete(device);
      return;
    }
    const failed = this.#failed.get(device) ?? 0;
    this.#failed.set(device, failed + 1);
    const seconds = Math.min(RETRY_SECONDS * 2 ** failed, RETRY_SECONDS_MOST);
    this.#retries.put(device, this.#ground.clock.boottimeNs() + BigInt(seconds) * 1_000_000_000n);
    void this.#pump();
  }
}
