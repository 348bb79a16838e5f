/**
 * When an MTC user's sinks are told of its reports: the first of a kind within
 * a second, the same again at most every so many seconds, with its count. So
 * that a flood is not passed on as one:
 *
 * - a sink gets one event a second at the most, of as many reports as one may
 *   hold; of one source some at a time;
 * - while a sink has a queue, nothing is added to it: what changes is told as
 *   it is by then. Of an hour that a sink was down, each report comes once.
 *
 * A report is a state, not a step: whoever gets it twice has lost nothing, and
 * its count is what counts. What was not told yet is found again after a
 * restart: a sink's queue bears the time until which its reader knows all.
 *
 * Pure: given a clock.
 */
import type { Clock } from '../core/ports.ts';
import type { Sink } from '../core/sinks.ts';
import type { MtcUserName } from '../core/words.ts';
import type { Denial, Denials } from '../inspector/denials.ts';
import { type NewEvent, type Outbox, type SinkId, sinkId } from './outbox.ts';
import { byChange, type Report, reportOf, type Spaces } from './reports.ts';

export interface ReportPushParts {
  readonly denials: Pick<Denials, 'watch' | 'ofUser' | 'get'>;
  readonly outbox: Pick<Outbox, 'lengthOf' | 'toldUntil' | 'tellUntil'>;
  readonly send: (sink: SinkId, event: NewEvent) => void;
  readonly spaces: Spaces;
  /** A report as it is sent. */
  readonly body: (report: Report) => object;
  readonly newId: () => string;
  readonly clock: Clock;
  readonly everySeconds: number;
}

/** An MTC user and its sinks. */
export interface Reader {
  readonly name: MtcUserName;
  readonly sinks?: readonly Sink[];
}

/** What a sink is to be told. */
interface Tail {
  readonly user: MtcUserName;
  sink: Sink;
  /** Rows that have changed, by id, and since when. */
  readonly changed: Map<string, number>;
  /** When each was told last, within the time in which it is not told again. */
  readonly told: Map<string, number>;
}

const REPORTS_EVENT = 'mtgate.reports.v1';
/** Reports in one event. */
const REPORTS_MOST = 100;
/** Of one source, in one event. */
const OF_SOURCE_MOST = 20;
/** With so many events waiting, a sink is told nothing more. */
const QUEUE_MOST = 4;

const EVENTS_OF = { denial: 'denials', refusal: 'refusals' } as const;

export class ReportPushes {
  readonly #parts: ReportPushParts;
  readonly #tails = new Map<SinkId, Tail>();
  readonly #ofUser = new Map<MtcUserName, Tail[]>();

  constructor(parts: ReportPushParts) {
    this.#parts = parts;
    parts.denials.watch((row) => {
      if (row.mtcUser === undefined) return;
      for (const tail of this.#ofUser.get(row.mtcUser) ?? []) this.#note(tail, row.id);
    });
  }

  /** Whom there is to tell, by the policy in force. Who is new is told from now on; who was told before, from there on. */
  serve(readers: Iterable<Reader>): void {
    const { denials, outbox, clock } = this.#parts;
    const before = new Set(this.#tails.keys());
    this.#ofUser.clear();
    for (const { name, sinks = [] } of readers) {
      for (const sink of sinks) {
        const id = sinkId('mtcUser', name, sink.name);
        const known = this.#tails.get(id);
        const tail = known ?? { user: name, sink, changed: new Map(), told: new Map() };
        tail.sink = sink;
        before.delete(id);
        this.#tails.set(id, tail);
        this.#ofUser.set(name, [...(this.#ofUser.get(name) ?? []), tail]);
        if (known) continue;
        const sinceMs = outbox.toldUntil(id) || clock.nowMs();
        for (const row of denials.ofUser(name)) if (row.lastMs >= sinceMs) tail.changed.set(row.id, row.lastMs);
        outbox.tellUntil(id, sinceMs);
      }
    }
    for (const id of before) this.#tails.delete(id);
  }

  /** Tells what is due; to be called once a second. */
  tick(): void {
    for (const [id, tail] of this.#tails) if (tail.changed.size > 0) this.#tell(id, tail);
  }

  #note({ changed }: Tail, id: string): void {
    if (!changed.has(id)) changed.set(id, this.#parts.clock.nowMs());
  }

  #tell(id: SinkId, tail: Tail): void {
    const { outbox, send, newId, body, clock } = this.#parts;
    if (outbox.lengthOf(id) >= QUEUE_MOST) return;
    const nowMs = clock.nowMs();
    const reports = this.#due(tail, nowMs);
    if (reports.length > 0) {
      const data = JSON.stringify({ mtcUser: tail.user, reports: reports.sort(byChange).map(body) });
      send(id, { id: newId(), type: REPORTS_EVENT, subject: tail.user, data });
    }
    outbox.tellUntil(id, Math.min(nowMs, ...tail.changed.values()));
  }

  /** Takes what is due out of what has changed. */
  #due({ user, sink, changed, told }: Tail, nowMs: number): Report[] {
    const { denials, spaces, everySeconds } = this.#parts;
    const againMs = nowMs - everySeconds * 1_000;
    for (const [id, atMs] of told) if (atMs <= againMs || atMs > nowMs) told.delete(id);
    const ofSource = new Map<string, number>();
    const due: Report[] = [];
    for (const id of changed.keys()) {
      if (due.length >= REPORTS_MOST) break;
      if (told.has(id)) continue;
      const row: Denial | undefined = denials.get(id);
      const report = row && reportOf(row, user, spaces);
      if (!report || !sink.events.includes(EVENTS_OF[report.kind])) {
        changed.delete(id);
        continue;
      }
      const count = (ofSource.get(row.source) ?? 0) + 1;
      if (count > OF_SOURCE_MOST) continue;
      ofSource.set(row.source, count);
      changed.delete(id);
      told.set(id, nowMs);
      due.push(report);
    }
    return due;
  }
}
