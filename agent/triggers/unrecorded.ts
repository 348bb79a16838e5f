/**
 * Triggers that have ended, and the store has not taken it yet. What is here is
 * written with every sweep until the store has it, and that its server is to be
 * told stands on record before that. Nothing leaves before.
 */
import { inSlices } from '../core/slices.ts';
import type { TriggerId } from '../core/words.ts';
import type { TriggerGround } from './ground.ts';
import { resultOf, type TriggerEndCause } from './lifecycle.ts';
import type { Pending } from './queue.ts';
import { type Trigger, transactionOf } from './trigger.ts';

export interface Ended {
  readonly pending: Pending;
  readonly cause: TriggerEndCause;
  readonly endedAtMs: number;
  readonly isForgotten: boolean;
  isTold: boolean;
  /** Its write that is under way. */
  writes?: Promise<void> | undefined;
}

export class Unrecorded {
  readonly #ground: Pick<TriggerGround, 'store' | 'notifications'>;
  readonly #byId = new Map<TriggerId, Ended>();

  constructor(ground: Pick<TriggerGround, 'store' | 'notifications'>) {
    this.#ground = ground;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** Keeps an end until the store has it. */
  keep(ended: Ended): void {
    this.#byId.set(ended.pending.id, ended);
  }

  /** What the store has of a trigger, as it is by now. */
  asItIs(found: Trigger | undefined): Trigger | undefined {
    const ended = found && this.#byId.get(found.id);
    if (!ended) return found;
    const { cause: endCause, endedAtMs, isForgotten } = ended;
    return { ...found, state: 'ended', endCause, endedAtMs, isForgotten };
  }

  /** @throws AgentError storeFailed; it stays here then */
  write(ended: Ended): Promise<void> {
    ended.writes ??= this.#record(ended).finally(() => {
      ended.writes = undefined;
    });
    return ended.writes;
  }

  /** Writes all; one that fails holds up no other. @throws AgentError storeFailed */
  writeAll(): Promise<void> {
    return inSlices([...this.#byId.values()], (ended) => this.write(ended));
  }

  /** First that its server is to be told: killed in between it is told twice, and never not at all. */
  async #record(ended: Ended): Promise<void> {
    const { store, notifications } = this.#ground;
    const { pending, cause, endedAtMs, isForgotten } = ended;
    const { notification } = ended.isTold ? {} : (store.find(pending.id) ?? {});
    if (notification) {
      const body = { transaction: transactionOf(pending.id, notification), result: resultOf(cause) };
      await notifications.notify(pending.server, notification.destination, body);
      ended.isTold = true;
    }
    await store.end(pending.id, cause, endedAtMs, isForgotten);
    this.#byId.delete(pending.id);
  }
}
