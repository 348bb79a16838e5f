/**
 * Triggers: asked for, decided, recorded, delivered, ended (TS 23.682 5.2.1,
 * as TS 29.122 DeviceTriggering puts it to a server). Which are accepted:
 * acceptance.ts; which goes next: queue.ts; how they are sent: sending.ts; what
 * of an end is not on record yet: unrecorded.ts.
 *
 * Invariants:
 * - durable before it is accepted; its end, and that its server is to be told
 *   of it, are on record before it is gone from the queue's file;
 * - a trigger ends at the end of its validity, on the clock of the boot, and
 *   over a reboot by UTC where that can be believed;
 * - nothing is evicted: full means refuse;
 * - it can be replaced and recalled until a device has it;
 * - one that belongs to a grant request is on record before that is, and sent
 *   only when that is too. Killed in between, or before its recall is on record,
 *   it ends at the next start, since its request does not wait.
 */
import { type Accepted, onThisBoot } from '../core/boot-time.ts';
import { notRecorded } from '../core/not-recorded.ts';
import { OneAtATimeByKey } from '../core/one-at-a-time.ts';
import { askerFacts, type Refusal, type Refuse } from '../core/refusals.ts';
import { breathe, faultsOf, inSlices, SLICE, slicesOf } from '../core/slices.ts';
import type { Asker, ExternalId, GrantId, TriggerId } from '../core/words.ts';
import { Acceptance } from './acceptance.ts';
import type { TriggerGround } from './ground.ts';
import { resultOf, type TriggerEndCause } from './lifecycle.ts';
import { type Pending, TriggerQueue } from './queue.ts';
import { Sending } from './sending.ts';
import type { PendingRow } from './store.ts';
import { Timetable } from './timetable.ts';
import { namesOfTrigger, newTrigger, replaced, type Trigger, type TriggerAsk } from './trigger.ts';
import { TriggerJudge } from './trigger-judge.ts';
import { type Ended, Unrecorded } from './unrecorded.ts';

type RecallCause = 'recalledByServer' | 'recalledByOperator' | 'grantOver';

export class Triggers {
  readonly queue = new TriggerQueue();
  readonly #ground: TriggerGround;
  readonly #sending: Sending;
  readonly #ending: Timetable<TriggerId>;
  readonly #unrecorded: Unrecorded;
  readonly #acceptance: Acceptance;
  /** Changes of one trigger come one after the other. */
  readonly #changes = new OneAtATimeByKey<string>();

  constructor(ground: TriggerGround) {
    this.#ground = ground;
    const judge = new TriggerJudge(ground, this.queue);
    this.#unrecorded = new Unrecorded(ground);
    this.#acceptance = new Acceptance(ground, this.queue, judge, this.#unrecorded);
    this.#ending = new Timetable(ground.clock.boottimeNs());
    this.#sending = new Sending(ground, this.queue, judge, (pending, cause) => this.#end(pending, cause));
  }

  get underWay(): number {
    return this.#sending.underWay;
  }

  /**
   * Accepts a trigger: durable when this resolves, and tried at once where the
   * device is bound; one that belongs to a grant request from `begin` on.
   */
  async accept(who: Asker, ask: TriggerAsk): Promise<Trigger | Refusal> {
    const { store, clock, log, newId, gateway, bootId, metrics, directory } = this.#ground;
    const refuse = this.#acceptance.refuser(who, ask);
    const judged = this.#acceptance.decide(who, ask, refuse);
    if ('reason' in judged) return judged;
    const full = this.#acceptance.fullFor(who, judged.to);
    if (full !== undefined) return refuse('triggersExhausted', { why: full, rule: judged.rule });
    const device = directory.find(ask.device);
    const isBound = device !== undefined && directory.factsOf(device).inner.length > 0;
    if (judged.validitySeconds === 0 && !isBound)
      return refuse('deviceAbsent', { why: 'not bound, and the trigger does not wait', rule: judged.rule });

    const trigger = newTrigger({ id: newId(), gateway, bootId }, who, this.#acceptance.keptOf(ask), judged, clock);
    const pending = pendingOf(trigger);
    this.#put(pending, trigger.validUntilNs);
    try {
      await store.insert(trigger);
    } catch (fault) {
      // It may be on record all the same: then it ends there, now or with a later sweep.
      await this.#end(pending, 'notAccepted', { isForgotten: true, isTold: true });
      return notRecorded(refuse, fault);
    }
    metrics.triggerAccepted();
    log.info({ ...namesOfTrigger(trigger), rule: trigger.rule, until: trigger.validUntilMs }, 'triggerAccepted');
    if (ask.grant === undefined) this.#release(pending);
    return trigger;
  }

  /** A grant request is on record: what is to wake its device may be sent. */
  begin(grant: GrantId): void {
    const pending = this.queue.ofGrant(grant);
    if (pending) this.#release(pending);
  }

  /** A grant request waits no more: what is pending of it is recalled. Fails never: it ends on record with a later sweep. */
  over(grant: GrantId): void {
    const pending = this.queue.ofGrant(grant);
    if (!pending) return;
    this.recall(pending.id, 'grantOver').catch((fault: Error) => {
      this.#ground.log.error({ trigger: pending.id, grant, message: fault.message }, 'triggerFailed');
    });
  }

  #release(pending: Pending): void {
    pending.isBlocked = false;
    this.#sending.due([pending.device]);
  }

  /** Puts another trigger into a server's transaction, for the same device; the former is sent no more. */
  replace(who: Asker, id: string, ask: TriggerAsk): Promise<Trigger | Refusal> {
    return this.#changes.inTurn(id, () => this.#replace(who, id, ask));
  }

  async #replace(who: Asker, id: string, ask: TriggerAsk): Promise<Trigger | Refusal> {
    const { store, clock, log, bootId } = this.#ground;
    const refuse = this.#acceptance.refuser(who, ask, id);
    const former = this.show(who, id);
    if (!former) return refuse('triggerNotFound', { why: 'no transaction of this server has this id' });
    const judged = this.#acceptance.decide(who, ask, refuse, former);
    if ('reason' in judged) return judged;
    if (judged.to !== former.to) {
      const detail = 'a transaction stays with its device; for another begin a new one';
      return refuse('invalidArgument', { why: `it is for ${former.to}`, detail });
    }
    const pending = this.queue.get(id);
    const isOver = () => pending === undefined || this.queue.get(id) !== pending;
    const over = () => this.#overFor(refuse, this.show(who, id) ?? former);
    if (!pending) return over();
    pending.isBlocked = true;
    try {
      await this.#sending.stop(pending.id, pending.device);
      if (isOver()) return over();
      const trigger = replaced(former, who, this.#acceptance.keptOf(ask), judged, bootId, clock);
      // Its time may be over meanwhile: that it has ended is written behind this, and holds.
      if (!(await store.replace(trigger)) || isOver()) return over();
      this.#put({ ...pendingOf(trigger), isBlocked: false }, trigger.validUntilNs);
      log.info({ ...namesOfTrigger(trigger), rule: trigger.rule, until: trigger.validUntilMs }, 'triggerReplaced');
      return trigger;
    } catch (fault) {
      return notRecorded(refuse, fault);
    } finally {
      pending.isBlocked = false;
      this.#sending.due([pending.device]);
    }
  }

  /**
   * Ends a transaction of a server, which reads it no more: what is pending is
   * recalled, and returned as it ended; undefined where nothing was.
   */
  async remove(who: Asker, id: string): Promise<Trigger | undefined | Refusal> {
    const { store, refuse, log } = this.#ground;
    const facts = { ...askerFacts(who), trigger: id };
    const found = this.show(who, id);
    if (!found) return refuse('triggerNotFound', { why: 'no transaction of this server has this id', ...facts });
    log.info({ trigger: id, server: who.name, correlator: who.correlator }, 'recallAsked');
    try {
      const recalled = await this.recall(id, 'recalledByServer');
      if (!recalled) await store.forget(found.id);
      return recalled;
    } catch (fault) {
      return notRecorded((reason, more) => refuse(reason, { ...facts, ...more }), fault);
    }
  }

  /** Recalls what is pending; undefined where it is not. @throws AgentError storeFailed; it is sent no more all the same */
  recall(id: string, cause: RecallCause): Promise<Trigger | undefined> {
    return this.#changes.inTurn(id, async () => {
      const pending = this.queue.get(id);
      if (!pending) return undefined;
      pending.isBlocked = true;
      await this.#sending.stop(pending.id, pending.device);
      if (this.queue.get(id) !== pending) return undefined; // the device had it
      const isByServer = cause === 'recalledByServer';
      const ended = this.#take(pending, cause, { isForgotten: isByServer, isTold: isByServer });
      this.#sending.due([pending.device]);
      await this.#unrecorded.write(ended);
      return this.find(id);
    });
  }

  /** A trigger, pending or ended, whoever's it is. */
  find(id: string): Trigger | undefined {
    return this.#unrecorded.asItIs(this.#ground.store.find(id));
  }

  /** The one that belongs to a grant request, pending or ended. */
  ofGrant(grant: string): Trigger | undefined {
    const found = this.#ground.store.ofGrant(grant);
    return found && this.find(found.id);
  }

  /** A server's own, unless it has deleted the transaction. What belongs to a grant request is none. */
  show({ name }: Pick<Asker, 'name'>, id: string): Trigger | undefined {
    const found = this.#unrecorded.asItIs(this.#ground.store.findOwn(name, id));
    return found && !found.isForgotten && found.grant === undefined ? found : undefined;
  }

  /** All that is pending of a server, in the order in which it came; read in slices, as they are asked for. */
  async *pendingOf({ name }: Pick<Asker, 'name'>): AsyncGenerator<readonly Trigger[]> {
    for await (const ids of slicesOf([...this.queue.ofServer(name)].sort()))
      yield ids.flatMap((id) => {
        const one = this.show({ name }, id);
        return one?.state === 'pending' ? [one] : []; // it may have ended since
      });
  }

  /** Devices may have got an address: what is pending for them is due. */
  bound(devices: Iterable<ExternalId>): void {
    this.#sending.due(devices);
  }

  /** Devices lose an address, now: nothing more goes there. */
  lost(devices: Iterable<ExternalId>): void {
    this.#sending.lost(devices);
  }

  /** What is due: triggers whose time is over, ends that the store did not take, devices to be tried again. */
  async sweep(): Promise<void> {
    const over = this.#ending.take(this.#ground.clock.boottimeNs()).flatMap((id) => this.queue.get(id) ?? []);
    const faults = await faultsOf([
      this.#unrecorded.writeAll(),
      inSlices(over, async (pending) => {
        await this.#sending.stop(pending.id, pending.device);
        if (this.queue.get(pending.id) === pending) await this.#end(pending, 'expired');
      }),
    ]);
    this.#sending.sweep();
    if (faults.length > 0) throw faults[0];
  }

  /** At a start: what is pending on record is pending again, to the same end, and due where its device is bound. */
  async resume(): Promise<void> {
    const { store, clock, bootId, requests } = this.#ground;
    const nowMs = clock.nowMs();
    const isClockUncertain = nowMs < store.latestMs();
    const moved: Pick<Trigger, 'id' | 'validUntilNs'>[] = [];
    const ended: [Pending, TriggerEndCause][] = [];
    let looked = 0;
    for (const row of store.pending()) {
      const { bootId: ofBoot, validUntilMs: _, ...kept } = row; // the queue keeps no more than it needs
      const isOfBoot = ofBoot === bootId;
      const validUntilNs = isOfBoot ? row.validUntilNs : onThisBoot(acceptedOf(row), nowMs, clock.boottimeNs());
      const pending = { ...kept, validUntilNs, isBlocked: false, attempts: 0 };
      this.#put(pending, validUntilNs);
      if (!isOfBoot && isClockUncertain) ended.push([pending, 'clockUncertain']);
      else if (row.grant !== undefined && !requests.waits(row.grant)) ended.push([pending, 'grantOver']);
      else if (validUntilNs <= clock.boottimeNs()) ended.push([pending, 'expired']);
      else if (!isOfBoot) moved.push({ id: row.id, validUntilNs });
      looked += 1;
      if (looked % SLICE === 0) await breathe();
    }
    if (moved.length > 0) await store.reopen(bootId, moved);
    await inSlices(ended, ([pending, cause]) => this.#end(pending, cause));
    this.#sending.due([...this.queue.devices()]);
  }

  /** Gives up what is under way; it stays pending. */
  close(): Promise<void> {
    return this.#sending.close();
  }

  #put(pending: Pending, untilNs: bigint): void {
    this.queue.put(pending);
    if (pending.validitySeconds > 0) this.#ending.put(pending.id, untilNs);
    else this.#ending.remove(pending.id); // it has one attempt, however long that takes
  }

  #overFor(refuse: Refuse, { endCause }: Trigger): Refusal {
    const result = endCause && resultOf(endCause);
    const isSent = result === 'SUCCESS' || result === 'UNCONFIRMED' || result === 'FAILURE';
    const why = endCause ? `it ended: ${endCause}` : 'it is not pending';
    return refuse(isSent ? 'triggerDelivered' : 'triggerOver', { why });
  }

  /** Ends one; what the store does not take is written with a later sweep. */
  async #end(pending: Pending, cause: TriggerEndCause, how = { isForgotten: false, isTold: false }): Promise<void> {
    await this.#unrecorded.write(this.#take(pending, cause, how)).catch((fault: Error) => {
      this.#ground.log.error({ trigger: pending.id, message: fault.message }, 'triggerFailed');
    });
    const isThere = cause === 'delivered' || cause === 'sent';
    if (isThere && pending.grant !== undefined) this.#ground.requests.woken(pending.device);
  }

  /** Takes one out of the queue for good; what is returned is still to be written. */
  #take(pending: Pending, cause: TriggerEndCause, how: Pick<Ended, 'isForgotten' | 'isTold'>): Ended {
    const { clock, log, metrics } = this.#ground;
    const { id, server, device, attempts } = pending;
    const ended: Ended = { pending, cause, endedAtMs: clock.nowMs(), ...how };
    this.queue.remove(id);
    this.#ending.remove(id);
    this.#unrecorded.keep(ended);
    metrics.triggerEnded(cause);
    log.info({ trigger: id, server, device, cause, attempts }, 'triggerEnded');
    return ended;
  }
}

function pendingOf({ id, server, to, isPriority, validitySeconds, validUntilNs, grant }: Trigger): Pending {
  const pending = { id, server, device: to, isPriority, validitySeconds, validUntilNs, isBlocked: true, attempts: 0 };
  return grant === undefined ? pending : { ...pending, grant };
}

function acceptedOf({ validUntilMs: untilMs, validitySeconds: seconds }: PendingRow): Accepted {
  return { untilMs, seconds };
}
