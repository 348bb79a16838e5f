/**
 * What is to be pushed: a queue for each sink, in order, kept on disk, tried
 * again until it is delivered or given up.
 *
 * Invariants:
 * - in order: of one sink there is one attempt at a time, that of the oldest;
 * - at least once: an event leaves its queue when its receiver has said so;
 *   one whose answer was lost, or was not written down, is sent again, with
 *   the same id;
 * - bounded: of more than there is room for the oldest is given up, as is what
 *   is too old, and what its receiver refuses as it is again and again. Given
 *   up is counted, and told with the next that is delivered;
 * - a sink that does not answer holds up no other: those that ail have a part
 *   of the places and no more, and those that are well go first.
 *
 * What was put is on disk with the end of the turn of the loop: a killed agent
 * has it still. A power cut can take the last moments (outbox-store.ts). Where
 * the disk takes nothing, events wait in memory, as many as there is room for.
 *
 * Pure: given a clock, a source of randomness and a store.
 */
import { type Clock, type Log, monotonicMs, type Random } from '../core/ports.ts';
import type { Outcome, PushFault } from './delivery.ts';

/** A sink of one party: `server head-end events`, `mtcUser acme siem`. */
export type SinkId = string & { readonly sinkId: true };

export function sinkId(role: 'server' | 'mtcUser', party: string, sink: string): SinkId {
  return `${role} ${party} ${sink}` as SinkId;
}

export interface NewEvent {
  /** The same for the same event, whichever sink it goes to and however often. */
  readonly id: string;
  /** The type of the CloudEvent; absent: `data` is sent as it is. */
  readonly type?: string;
  readonly subject?: string;
  /** A place below the sink's own URL; absent: the sink's own. */
  readonly url?: string;
  /** JSON. */
  readonly data: string;
}

export interface QueuedEvent extends NewEvent {
  readonly sink: SinkId;
  /** Its place in the queue: one more with each. */
  readonly number: number;
  /** UTC. */
  readonly madeMs: number;
}

/** What is kept of a queue beside its events. */
export interface QueueRecord {
  readonly sink: SinkId;
  /** The oldest that is not delivered or given up, and the newest; none where the first is behind the last. */
  readonly first: number;
  readonly last: number;
  readonly delivered: number;
  readonly givenUp: number;
  /** Given up, and not told yet. */
  readonly untold: number;
  /** UTC; 0: never. */
  readonly lastSuccessMs: number;
  readonly lastFaultMs: number;
  readonly lastFault?: PushFault;
  /** What was seen then, for the operator. */
  readonly lastWhy?: string;
  /** Of a reader of reports: until when (UTC) it has been told of all, or will be by what waits here; 0: of nothing yet. */
  readonly toldUntilMs: number;
}

export interface OutboxChanges {
  readonly queues: readonly QueueRecord[];
  /** New ones; what lies before a queue's first is deleted. */
  readonly events: readonly QueuedEvent[];
  /** Queues that are no more, with all their events. */
  readonly dropped: readonly SinkId[];
}

export interface OutboxStore {
  /** The queues of before this start. */
  readonly before: readonly QueueRecord[];
  /** Whole or not at all. @throws AgentError outboxNotKept */
  write(changes: OutboxChanges): void;
  /** The oldest event of a sink from a number on. @throws AgentError outboxNotKept */
  oldest(sink: SinkId, from: number): QueuedEvent | undefined;
  /** Where servers want to be told of grants, from the request to the end. @throws AgentError outboxNotKept */
  readonly grantSinks: {
    all(): ReadonlyMap<string, string>;
    keep(grant: string, url: string): void;
    forget(grant: string): void;
  };
  close(): void;
}

interface Queue {
  record: QueueRecord;
  /** Put and not written yet, or not to be written; in order. */
  unwritten: QueuedEvent[];
  /** Failures of the oldest, since it is the oldest. */
  failures: number;
  /** Monotonic. */
  dueMs: number;
  underWay: boolean;
}

/** An event whose turn it is. */
export interface Attempt {
  readonly event: QueuedEvent;
  /** How many were given up since the last that was delivered. */
  readonly untold: number;
}

export interface OutboxCaps {
  readonly eventsPerSink: number;
  readonly keepMs: number;
  readonly placesMost: number;
}

const BACK_OFF_LEAST_MS = 1_000;
const BACK_OFF_MOST_MS = 300_000;
/** The longest that a receiver may ask to be left alone. */
const RETRY_AFTER_MOST_MS = 3_600_000;
/** Statuses of a receiver that will never take this event as it is; it is given up when it has said so this often. */
const NEVER = [400, 405, 406, 411, 413, 414, 415, 422, 431, 501];
const NEVER_MOST = 3;
/** What waits in memory for a disk that takes nothing, of one sink. */
const UNWRITTEN_MOST = 1_000;

export class Outbox {
  readonly #store: OutboxStore;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #log: Log;
  readonly #caps: OutboxCaps;
  readonly #queues = new Map<SinkId, Queue>();
  readonly #changed = new Set<SinkId>();
  readonly #dropped = new Set<SinkId>();
  #underWay = 0;

  constructor(store: OutboxStore, clock: Clock, random: Random, log: Log, caps: OutboxCaps) {
    this.#store = store;
    this.#clock = clock;
    this.#random = random;
    this.#log = log;
    this.#caps = caps;
    for (const record of store.before)
      this.#queues.set(record.sink, { record, unwritten: [], failures: 0, dueMs: 0, underWay: false });
  }

  /** Puts an event behind all others of a sink. On disk with the next `write`. */
  put(sink: SinkId, event: NewEvent): void {
    const queue = this.#queueOf(sink);
    const number = queue.record.last + 1;
    queue.unwritten.push({ ...event, sink, number, madeMs: this.#clock.nowMs() });
    this.#change(queue, { last: number });
    const over = lengthOf(queue.record) - this.#caps.eventsPerSink;
    if (over > 0) this.#giveUp(queue, over);
  }

  /** Keeps what has changed. A disk that takes nothing is tried again with the next. */
  write(): void {
    if (this.#changed.size + this.#dropped.size === 0) return;
    const queues = [...this.#changed].flatMap((sink) => this.#queues.get(sink) ?? []);
    const events = queues.flatMap(({ record, unwritten }) => unwritten.filter(({ number }) => number >= record.first));
    try {
      this.#store.write({ queues: queues.map(({ record }) => record), events, dropped: [...this.#dropped] });
    } catch (fault) {
      this.#log.error({ why: (fault as Error).message }, 'outboxNotKept');
      for (const queue of queues)
        if (queue.unwritten.length > UNWRITTEN_MOST)
          this.#giveUp(queue, queue.record.last + 1 - UNWRITTEN_MOST - queue.record.first);
      return;
    }
    for (const queue of queues) queue.unwritten = [];
    this.#changed.clear();
    this.#dropped.clear();
  }

  /** The events whose turn it is; each is to be settled. */
  take(): Attempt[] {
    const nowMs = this.#nowMs();
    const ready = [...this.#queues.values()]
      .filter((queue) => !queue.underWay && queue.dueMs <= nowMs && lengthOf(queue.record) > 0)
      .sort((a, b) => Number(a.failures > 0) - Number(b.failures > 0) || a.dueMs - b.dueMs);
    const ailing = () => [...this.#queues.values()].filter((one) => one.underWay && one.failures > 0).length;
    const attempts: Attempt[] = [];
    let ailingPlaces = this.#caps.placesMost / 2 - ailing();
    for (const queue of ready) {
      if (this.#underWay >= this.#caps.placesMost || (queue.failures > 0 && ailingPlaces <= 0)) break;
      const event = this.#oldestOf(queue);
      if (!event) continue;
      if (queue.failures > 0) ailingPlaces -= 1;
      queue.underWay = true;
      this.#underWay += 1;
      attempts.push({ event, untold: queue.record.untold });
    }
    return attempts;
  }

  /** What became of an attempt. `undefined`: it has no destination any more. */
  settle({ event: { sink, number }, untold }: Attempt, outcome: Outcome | undefined): void {
    this.#underWay -= 1;
    const queue = this.#queues.get(sink);
    if (!queue) return;
    queue.underWay = false;
    const isOldest = queue.record.first === number;
    if (!outcome) {
      if (isOldest) this.#giveUp(queue, 1);
    } else if (outcome.ok) {
      const { delivered, untold: now } = queue.record;
      const lastSuccessMs = this.#clock.nowMs();
      this.#change(queue, { delivered: delivered + 1, untold: Math.max(0, now - untold), lastSuccessMs });
      if (isOldest) this.#advance(queue, number + 1);
      [queue.failures, queue.dueMs] = [0, this.#nowMs()];
    } else this.#failed(queue, outcome, isOldest);
  }

  /** When something is due, on the monotonic clock in ms; undefined where nothing waits. */
  nextDueMs(): number | undefined {
    let next: number | undefined;
    for (const { record, underWay, dueMs } of this.#queues.values())
      if (!underWay && lengthOf(record) > 0) next = Math.min(next ?? dueMs, dueMs);
    return next;
  }

  /** Forgets the sinks that the rule files have no more. */
  retain(sinks: ReadonlySet<SinkId>): void {
    for (const sink of this.#queues.keys()) {
      if (sinks.has(sink)) continue;
      this.#queues.delete(sink);
      this.#changed.delete(sink);
      this.#dropped.add(sink);
    }
    for (const sink of sinks) this.#queueOf(sink);
  }

  toldUntil(sink: SinkId): number {
    return this.#queues.get(sink)?.record.toldUntilMs ?? 0;
  }

  /** Kept together with what was put in the same turn. */
  tellUntil(sink: SinkId, toldUntilMs: number): void {
    this.#change(this.#queueOf(sink), { toldUntilMs });
  }

  /** How many wait for a sink. */
  lengthOf(sink: SinkId): number {
    const queue = this.#queues.get(sink);
    return queue ? lengthOf(queue.record) : 0;
  }

  /** Of every sink, and in how many ms the next attempt comes. */
  states(): {
    readonly record: QueueRecord;
    readonly length: number;
    readonly failures: number;
    readonly dueInMs: number;
  }[] {
    const nowMs = this.#nowMs();
    return [...this.#queues.values()].map(({ record, failures, dueMs }) => ({
      ...{ record, failures },
      length: lengthOf(record),
      dueInMs: Math.max(0, dueMs - nowMs),
    }));
  }

  #failed(queue: Queue, outcome: Outcome & { readonly ok: false }, isOldest: boolean): void {
    const { fault, why, status = 0, retryAfterMs = 0 } = outcome;
    const nowMs = this.#clock.nowMs();
    queue.failures += 1;
    this.#change(queue, { lastFault: fault, lastWhy: why, lastFaultMs: nowMs });
    const isHopeless = NEVER.includes(status) && queue.failures >= NEVER_MOST;
    if (isOldest && isHopeless) this.#giveUp(queue, 1);
    const most = Math.min(BACK_OFF_LEAST_MS * 2 ** (queue.failures - 1), BACK_OFF_MOST_MS);
    const backOffMs = most / 2 + this.#random.integer(most / 2);
    queue.dueMs = this.#nowMs() + Math.max(backOffMs, Math.min(retryAfterMs, RETRY_AFTER_MOST_MS));
    if (isHopeless) queue.failures = 0;
  }

  /** The oldest that is not too old. */
  #oldestOf(queue: Queue): QueuedEvent | undefined {
    const sinceMs = this.#clock.nowMs() - this.#caps.keepMs;
    while (lengthOf(queue.record) > 0) {
      const event = this.#read(queue);
      if (event && event.madeMs >= sinceMs) return event;
      this.#giveUp(queue, event ? event.number + 1 - queue.record.first : 1);
    }
    return undefined;
  }

  #read({ record: { sink, first }, unwritten }: Queue): QueuedEvent | undefined {
    const here = unwritten.find(({ number }) => number >= first);
    if (here?.number === first) return here;
    try {
      return this.#store.oldest(sink, first) ?? here;
    } catch (fault) {
      this.#log.error({ why: (fault as Error).message }, 'outboxNotKept');
      return here;
    }
  }

  #giveUp(queue: Queue, count: number): void {
    if (count <= 0) return;
    const { first, last, givenUp, untold } = queue.record;
    const gone = Math.min(count, last + 1 - first);
    this.#change(queue, { givenUp: givenUp + gone, untold: untold + gone });
    this.#advance(queue, first + gone);
  }

  #advance(queue: Queue, first: number): void {
    this.#change(queue, { first });
    queue.unwritten = queue.unwritten.filter(({ number }) => number >= first);
  }

  #change(queue: Queue, changes: Partial<QueueRecord>): void {
    queue.record = { ...queue.record, ...changes };
    this.#changed.add(queue.record.sink);
  }

  #queueOf(sink: SinkId): Queue {
    const known = this.#queues.get(sink);
    if (known) return known;
    const none = { delivered: 0, givenUp: 0, untold: 0, lastSuccessMs: 0, lastFaultMs: 0, toldUntilMs: 0 };
    const queue = {
      record: { sink, first: 1, last: 0, ...none },
      unwritten: [],
      failures: 0,
      dueMs: 0,
      underWay: false,
    };
    this.#queues.set(sink, queue);
    this.#dropped.delete(sink);
    return queue;
  }

  #nowMs(): number {
    return monotonicMs(this.#clock);
  }
}

function lengthOf({ first, last }: QueueRecord): number {
  return last + 1 - first;
}
