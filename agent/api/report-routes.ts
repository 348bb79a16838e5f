/**
 * The part of the MTC user's API that tells who was turned away from its
 * devices: by pages, by days, as it happens; and the key that pushes are
 * signed with.
 *
 * Invariant: what leaves is a Report (reports/reports.ts), member by member.
 */
import { parseInstant } from '../core/instants.ts';
import type { Refusal, Refuse } from '../core/refusals.ts';
import { type MtcUserAsker, parseExternalId } from '../core/words.ts';
import {
  byChange,
  csvOf,
  placeOf,
  type Report,
  type ReportFilter,
  type RolledUp,
  readPlace,
} from '../reports/reports.ts';
import type { PublicJwk } from '../reports/signature.ts';
import type { Answer, Call, Operation, StreamEvent } from './operation.ts';
import { iso } from './routes.ts';

export interface ReportUseCases {
  /** All that match, in no order. */
  reports(who: MtcUserAsker, filter: ReportFilter): Report[];
  /** What could not be kept apart. */
  rolledUp(who: MtcUserAsker): readonly RolledUp[];
  /** Of all MTC users together: packets that nobody looked at, and since when. */
  unseen(): { readonly sinceMs: number; readonly unsampled: number; readonly lost: number };
  /** Tells, in batches, of every report that is new or has changed, until it is ended. */
  follow(who: MtcUserAsker, tell: (reports: readonly Report[]) => void): () => void;
  /** Absent where nothing is pushed. */
  readonly signingKey: PublicJwk | undefined;
}

const DAY_MS = 86_400_000;

/** The operations of reports in the MTC user's contract, by their operationId. */
export function reportOperations(useCases: ReportUseCases, refuse: Refuse): Record<string, Operation<MtcUserAsker>> {
  const invalid = (call: Call<MtcUserAsker>, detail: string): Refusal =>
    refuse('invalidArgument', { ...call.asked(), why: detail, detail });
  /** Of a batch that all who follow an MTC user's reports are told. */
  const told = new WeakMap<readonly Report[], readonly StreamEvent[]>();
  const eventsOf = (reports: readonly Report[]): readonly StreamEvent[] => {
    const events = told.get(reports) ?? [...reports].sort(byChange).map(eventOf);
    told.set(reports, events);
    return events;
  };
  return {
    listReports(call) {
      const { query } = call;
      const filter = readFilter(query);
      if (typeof filter === 'string') return invalid(call, filter);
      const limit = readCount(query['perPage']);
      if (limit === undefined) return invalid(call, 'perPage is a whole number from 1 to 1000');
      const seek = query['seek'] === undefined ? undefined : readPlace(String(query['seek']));
      if (query['seek'] !== undefined && !seek) return invalid(call, 'seek is no key of this list');
      // The newest first; what changes while the list is read comes before its place, and is not missed by who follows.
      const found = useCases.reports(call.who, filter).sort((a, b) => byChange(b, a));
      const rest = seek ? found.filter((report) => seek(report) < 0) : found;
      const page = rest.slice(0, limit);
      const last = page.at(-1);
      const { sinceMs, unsampled, lost } = useCases.unseen();
      const body = {
        reports: page.map(reportBody),
        total: found.length,
        ...(last && rest.length > limit && { lastKey: placeOf(last) }),
        rolledUp: useCases.rolledUp(call.who).map(rolledUpBody),
        unseenOfAllUsers: { since: iso(sinceMs), unsampledPackets: unsampled, lostPackets: lost },
      };
      return { status: 200, body };
    },

    reportsOfDay(call) {
      const date = call.params['date'] ?? '';
      const fromMs = parseInstant(`${date}T00:00:00Z`);
      if (fromMs === undefined) return invalid(call, 'date is a day such as 2026-03-29');
      const reports = useCases.reports(call.who, { sinceMs: fromMs, untilMs: fromMs + DAY_MS });
      const ofDay = reports.filter(({ firstSeenMs }) => firstSeenMs >= fromMs).sort(byChange);
      return {
        status: 200,
        text: csvOf(ofDay),
        headers: {
          'content-type': 'text/csv; charset=utf-8; header=present',
          'content-disposition': `attachment; filename="reports-${date}.csv"`,
        },
      };
    },

    streamReports(call): Answer | Refusal {
      const last = call.headers['last-event-id'];
      const place = last === undefined ? undefined : readPlace(String(last));
      if (last !== undefined && !place) return invalid(call, 'Last-Event-ID is no id of this stream');
      return {
        status: 200,
        follow(tell) {
          const end = useCases.follow(call.who, (reports) => tell(eventsOf(reports)));
          if (place) tell(eventsOf(useCases.reports(call.who, {}).filter((report) => place(report) > 0)));
          return end;
        },
      };
    },

    getSigningKey: (call) =>
      useCases.signingKey
        ? { status: 200, body: useCases.signingKey }
        : refuse('notFound', {
            ...call.asked(),
            why: 'agent.yaml has no reports.signingKey',
            detail: 'nothing is pushed, and nothing signed',
          }),
  };
}

function eventOf(report: Report): StreamEvent {
  return { id: placeOf(report), event: 'report', data: JSON.stringify(reportBody(report)) };
}

/** A report as it leaves. */
export function reportBody({ firstSeenMs, lastSeenMs, ...report }: Report): object {
  return { ...report, firstSeen: iso(firstSeenMs), lastSeen: iso(lastSeenMs) };
}

function rolledUpBody({ firstSeenMs, lastSeenMs, ...rest }: RolledUp): object {
  return { ...rest, firstSeen: iso(firstSeenMs), lastSeen: iso(lastSeenMs) };
}

/** Query parameters are texts; or what is wrong with them, for the asker. */
function readFilter({ since, until, reason, device }: Readonly<Record<string, unknown>>): ReportFilter | string {
  const [sinceMs, untilMs] = [since, until].map((time) => (time === undefined ? undefined : readTime(String(time))));
  if (Number.isNaN(sinceMs)) return 'since is a time in UTC such as 2026-03-29T00:30:00Z';
  if (Number.isNaN(untilMs)) return 'until is a time in UTC such as 2026-03-29T00:30:00Z';
  const id = device === undefined ? undefined : parseExternalId(String(device));
  if (device !== undefined && !id) return 'device is an external identifier of the form local@domain';
  return { sinceMs, untilMs, device: id, ...(reason !== undefined && { reason: String(reason) }) };
}

function readTime(text: string): number {
  return /T\d\d:\d\d:\d\d[\d.]*Z$/.test(text) ? (parseInstant(text) ?? Number.NaN) : Number.NaN;
}

function readCount(text: unknown): number | undefined {
  if (text === undefined) return 100;
  const count = /^\d{1,4}$/.test(String(text)) ? Number(text) : 0;
  return count >= 1 && count <= 1000 ? count : undefined;
}
