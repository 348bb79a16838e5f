/**
 * Carries events from the outbox to their sinks: writes what was put, sends
 * what is due, comes back when more is.
 *
 * Where a sink is, is asked at each attempt: what the rule files do not name
 * any more is sent nowhere.
 */
import { type Clock, type Log, monotonicMs } from '../core/ports.ts';
import { envelopeOf } from './cloud-event.ts';
import { type Destination, type Outcome, type Post, PUSH_FAULTS } from './delivery.ts';
import type { Attempt, NewEvent, Outbox, QueuedEvent, SinkId } from './outbox.ts';
import { type SigningKey, signedHeaders } from './signature.ts';

export interface CourierParts {
  readonly outbox: Outbox;
  readonly gateway: string;
  readonly key: SigningKey;
  readonly post: Post;
  /** Where an event goes now; undefined where it may go nowhere any more. */
  readonly destinationOf: (event: QueuedEvent) => Destination | undefined;
  readonly pushed: (outcome: Outcome) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/** The longest that a timer is set for: what is due later is looked at again. */
const LOOK_MS = 60_000;
/** What is under way at a stop has this long; it is sent again by the next start. */
const CLOSE_MS = 1_000;

export class Courier {
  readonly #parts: CourierParts;
  #isWoken = false;
  #isClosed = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #underWay = new Set<Promise<void>>();

  constructor(parts: CourierParts) {
    this.#parts = parts;
    this.#wake();
  }

  /** Has an event pushed; it is on disk at the end of this turn of the loop. */
  send(sink: SinkId, event: NewEvent): void {
    this.#parts.outbox.put(sink, event);
    this.#wake();
  }

  /** Keeps what has changed otherwise, and sends what is due. */
  look(): void {
    this.#wake();
  }

  /** Begins nothing more, waits a moment for what is under way, and keeps what is left. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    let late: NodeJS.Timeout | undefined;
    const enough = new Promise((resolve) => {
      late = setTimeout(resolve, CLOSE_MS);
    });
    await Promise.race([Promise.all(this.#underWay), enough]);
    clearTimeout(late);
    this.#parts.outbox.write();
  }

  #wake(): void {
    if (this.#isWoken || this.#isClosed) return;
    this.#isWoken = true;
    setImmediate(() => {
      this.#isWoken = false;
      if (!this.#isClosed) this.#work();
    });
  }

  #work(): void {
    const { outbox, clock } = this.#parts;
    outbox.write();
    for (const attempt of outbox.take()) {
      const carried = this.#carry(attempt).finally(() => {
        this.#underWay.delete(carried);
        this.#wake();
      });
      this.#underWay.add(carried);
    }
    clearTimeout(this.#timer);
    const dueMs = outbox.nextDueMs();
    if (dueMs === undefined) return;
    const inMs = dueMs - monotonicMs(clock);
    this.#timer = setTimeout(() => this.#wake(), Math.min(Math.max(inMs, 1), LOOK_MS)).unref();
  }

  async #carry(attempt: Attempt): Promise<void> {
    const { outbox, gateway, key, post, destinationOf, pushed, clock, log } = this.#parts;
    const { event, untold } = attempt;
    const to = destinationOf(event);
    if (!to) {
      outbox.settle(attempt, undefined);
      return;
    }
    const { contentType, body } = envelopeOf(event, gateway, untold);
    const bytes = Buffer.from(body);
    const headers = signedHeaders(key, { url: to.url, contentType, body: bytes }, clock.nowMs());
    const outcome = await post(to, headers, bytes);
    pushed(outcome);
    outbox.settle(attempt, outcome);
    const { sink, id } = event;
    if (outcome.ok) log.debug({ sink, id, status: outcome.status }, 'pushed');
    else {
      const { fault, why } = outcome;
      log.warn({ sink, id, fault, meaning: PUSH_FAULTS[fault], why }, 'pushFailed');
    }
  }
}
