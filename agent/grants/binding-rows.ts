/**
 * Bindings, and the accounting sessions that hold them, as rows of the
 * database and back: plain values only, for the thread that writes.
 */
import type { Identities } from '../core/identities.ts';
import { address, prefix } from '../core/net.ts';
import type { ExternalId, Imsi, Msisdn, RealmName } from '../core/words.ts';
import type { Nas } from '../directory/accounting.ts';
import type { Binding, BindingSource, Change, Holder, Loss, Range } from '../directory/binding.ts';
import type { Plan, Session } from '../directory/sessions.ts';

/** Statements name their parameters so. */
export interface BindingRow {
  readonly realm: string;
  readonly prefix: string;
  readonly target: string | null;
  readonly holder: string;
  readonly source: string;
  readonly sinceMs: number;
}

/** A binding that is over. */
export interface UnboundRow extends BindingRow {
  readonly untilMs: number;
  readonly cause: string;
}

/** A binding that ended, as it is told of a device. */
export interface EndedBinding extends Omit<Binding, 'holder'> {
  readonly untilMs: number;
  readonly cause: Loss['cause'];
}

interface SessionKeyRow {
  readonly client: string;
  readonly nas: string;
  readonly session: string;
}

export interface SessionRow extends SessionKeyRow {
  /** As they are kept: in clear, or what stands for them. */
  readonly imsi: string | null;
  readonly msisdn: string | null;
  readonly externalId: string | null;
  readonly holder: string;
  /** JSON: realm, prefix and target of each. */
  readonly ranges: string;
  readonly lastAtMs: number;
  readonly heardMs: number;
}

/** A session that is over; null: it is not remembered. */
export interface OverRow extends SessionKeyRow {
  readonly stoppedAtMs: number | null;
}

export interface RestartRow {
  readonly client: string;
  readonly nas: string;
  readonly atMs: number;
}

export interface RebindRows {
  readonly unbound: readonly UnboundRow[];
  readonly bound: readonly BindingRow[];
  readonly confirmed: readonly Pick<BindingRow, 'realm' | 'prefix'>[];
  readonly sessions: readonly SessionRow[];
  readonly over: readonly OverRow[];
  readonly restarts: readonly RestartRow[];
}

/** What is written of a change, and of what accounting told with it. */
export function rebindRows(
  { losses, gains }: Change,
  told: readonly Plan[],
  confirmed: readonly Range[],
  nowMs: number,
): RebindRows {
  return {
    unbound: losses.map(({ binding, cause }) => ({ ...bindingRow(binding), untilMs: nowMs, cause })),
    bound: gains.map(bindingRow),
    confirmed: confirmed.map(({ realm, prefix: of }) => ({ realm, prefix: of.text })),
    sessions: told.flatMap(({ put }) => put.map(sessionRow)),
    over: told.flatMap(({ over }) =>
      over.map(({ nas, id, stopped }) => ({ ...keyOf(nas, id), stoppedAtMs: stopped ? nowMs : null })),
    ),
    restarts: told.flatMap(({ restarted }) =>
      restarted ? { client: restarted.nas.client, nas: restarted.nas.id, atMs: restarted.atMs } : [],
    ),
  };
}

function bindingRow({ realm, prefix: of, target, holder, source, sinceMs }: Binding): BindingRow {
  return { realm, prefix: of.text, target: target?.text ?? null, holder, source, sinceMs };
}

export function bindingOf(row: BindingRow): Binding {
  const { holder, source, sinceMs } = row;
  return { ...rangeOfRow(row), holder: holder as Holder, source: source as BindingSource, sinceMs };
}

export function endedBindingOf(row: UnboundRow): EndedBinding {
  const { source, sinceMs, untilMs, cause } = row;
  return {
    ...rangeOfRow(row),
    source: source as BindingSource,
    sinceMs,
    untilMs,
    cause: cause as Loss['cause'],
  };
}

export function rangeOfRow({ realm, prefix: of, target }: Pick<BindingRow, 'realm' | 'prefix' | 'target'>) {
  const range = { realm: realm as RealmName, prefix: prefix(of) };
  if (target === null) return range;
  const base = range.prefix.address;
  return { ...range, target: base.text === target ? base : address(target) }; // most often the same, of which one is enough
}

function sessionRow({ nas, id, subscriber, holder, ranges, lastAtMs, heardMs }: Session): SessionRow {
  const { externalId = null, clear = {} } = subscriber;
  const [imsi, msisdn] = [clear.imsi ?? subscriber.imsi ?? null, clear.msisdn ?? subscriber.msisdn ?? null];
  const held = ranges.map(({ realm, prefix: of, target }) => [realm, of.text, target?.text ?? null]);
  return { ...keyOf(nas, id), imsi, msisdn, externalId, holder, ranges: JSON.stringify(held), lastAtMs, heardMs };
}

export function sessionOf(row: SessionRow, identities: Identities): Session {
  const { client, nas, session: id, externalId, holder, lastAtMs, heardMs } = row;
  const nameOf = (name: string | null) => (name === null || identities.isForeign(name) ? undefined : name);
  const ranges = (JSON.parse(row.ranges) as [string, string, string | null][]).map(([realm, of, target]) =>
    rangeOfRow({ realm, prefix: of, target }),
  );
  return {
    nas: { client, id: nas },
    id,
    subscriber: identities.subscriber({
      imsi: nameOf(row.imsi) as Imsi | undefined,
      msisdn: nameOf(row.msisdn) as Msisdn | undefined,
      externalId: (externalId ?? undefined) as ExternalId | undefined,
    }),
    holder: holder as Holder,
    ranges,
    lastAtMs,
    heardMs,
  };
}

function keyOf({ client, id: nas }: Nas, session: string): SessionKeyRow {
  return { client, nas, session };
}
