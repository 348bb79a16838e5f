/**
 * Who was turned away: packets (the gate's denials), handshakes and requests
 * in one list with one vocabulary of reasons. What is alike in everything but
 * time is one row with a count.
 *
 * Invariants: a row's counts only grow; memory is bounded, whatever is thrown
 * at the gateway, and a flood of one kind takes no room from another; the
 * counts of a kind and reason add up for ever, since a row that makes room, or
 * has grown old, is rolled up into the one row of its reason, and of the MTC
 * user whom it concerns. Whom it concerns is part of a row, as it was when the
 * packet or request came; a row that concerns somebody is of one day (UTC), so
 * that what they are told of a day adds up.
 *
 * Pure: given a clock and a source of ids. What has changed since it was last
 * kept can be asked for, and is asked for again if it could not be kept.
 */

import type { TlsReason } from '../core/handshakes.ts';
import type { Clock } from '../core/ports.ts';
import type { PacketReason } from '../core/reasons.ts';
import type { RefusalReason } from '../core/refusals.ts';
import type { ExternalId, GrantId, MtcUserName } from '../core/words.ts';

export const DENIAL_KINDS = ['packet', 'handshake', 'request'] as const;
export type DenialKind = (typeof DENIAL_KINDS)[number];

/** What makes a row one row. */
export interface DenialFacts {
  readonly kind: DenialKind;
  readonly reason: PacketReason | TlsReason | RefusalReason;
  /** An address; `unknown` where none could be read, `*` in a row of rolled-up ones. */
  readonly source: string;
  /** `udp 203.0.113.1:22314` of a packet; of a request, what was asked for. */
  readonly target: string;
  /** The MTC server that asked; of a request only. */
  readonly server?: string;
  /** Whose device it concerns: of a packet, whose endpoint it was for; of a request, whose device was named. */
  readonly mtcUser?: MtcUserName;
  /** That device; of a request, as it was named. */
  readonly device?: string;
  /** Of a request for a device that is somebody's: its external identifier, however it was named. */
  readonly externalId?: ExternalId;
  /** The client certificate that was shown: its SHA-256, in hex. */
  readonly certificate?: string;
  readonly grant?: GrantId;
  /** The filter that dropped a packet. */
  readonly rule?: string;
  /** Of the last that was counted; another port makes no other row. */
  readonly sourcePort?: number;
}

export interface Denial extends DenialFacts {
  readonly id: string;
  readonly firstMs: number;
  readonly lastMs: number;
  readonly count: number;
}

export interface DenialFilter {
  readonly kind?: DenialKind | undefined;
  readonly reason?: string | undefined;
  readonly source?: string | undefined;
  readonly mtcUser?: string | undefined;
}

/** What is to be written, and what is to be deleted. */
export interface DenialChanges {
  readonly changed: readonly Denial[];
  readonly removed: readonly string[];
}

const ROWS_MOST: Readonly<Record<DenialKind, number>> = { packet: 10_000, handshake: 2_000, request: 5_000 };
/** What stands for source and target of a row of rolled-up ones. */
export const ROLLED_UP = '*';
const DAY_MS = 86_400_000;

export class Denials {
  readonly #clock: Clock;
  readonly #newId: () => string;
  readonly #most: Readonly<Record<DenialKind, number>>;
  /** By what makes a row one row; the one that was added to longest ago is the first. */
  readonly #rows: Readonly<Record<DenialKind, Map<string, Denial>>> = {
    packet: new Map(),
    handshake: new Map(),
    request: new Map(),
  };
  /** One for each kind, reason and MTC user, at the most. */
  readonly #rolledUp = new Map<string, Denial>();
  readonly #byId = new Map<string, Denial>();
  /** The ids of those that concern an MTC user. */
  readonly #byUser = new Map<MtcUserName, Set<string>>();
  readonly #unkept = new Set<string>();
  /** What the store has, and what it still has although it is rolled up. */
  readonly #kept = new Set<string>();
  readonly #removed = new Set<string>();
  readonly #watchers = new Set<(row: Denial) => void>();

  /** `rows` are those of before this start. */
  constructor(clock: Clock, newId: () => string, rows: readonly Denial[] = [], most = ROWS_MOST) {
    this.#clock = clock;
    this.#newId = newId;
    this.#most = most;
    for (const row of [...rows].sort((a, b) => a.lastMs - b.lastMs)) {
      this.#mapOf(row).set(keyOf(row, row.firstMs), row);
      this.#remember(row);
      this.#kept.add(row.id);
    }
  }

  get size(): number {
    return this.#byId.size;
  }

  add(facts: DenialFacts): Denial {
    const rows = this.#rows[facts.kind];
    const now = this.#clock.nowMs();
    const before = rows.get(keyOf(facts, now));
    const { sourcePort = before?.sourcePort } = facts;
    const last = { lastMs: Math.max(before?.lastMs ?? now, now), ...(sourcePort !== undefined && { sourcePort }) };
    const row = before
      ? { ...before, ...last, count: before.count + 1 }
      : { ...facts, id: this.#newId(), count: 1, firstMs: now, lastMs: now };
    this.#put(rows, row);
    for (const oldest of rows.values()) {
      if (rows.size <= this.#most[facts.kind]) break;
      this.#rollUp(oldest);
    }
    return row;
  }

  /** One more of a reason, without a row of its own. */
  count(kind: DenialKind, reason: DenialFacts['reason'], mtcUser?: MtcUserName): void {
    const nowMs = this.#clock.nowMs();
    this.#addRolledUp({ kind, reason, ...(mtcUser && { mtcUser }), count: 1, firstMs: nowMs, lastMs: nowMs });
  }

  get(id: string): Denial | undefined {
    return this.#byId.get(id);
  }

  /** The newest first. */
  list(filter: DenialFilter, limit: number): Denial[] {
    const found = [...this.#byId.values()].filter((row) => matches(filter, row));
    return found.sort((a, b) => b.lastMs - a.lastMs).slice(0, limit);
  }

  /** All that concerns an MTC user, in no order. */
  *ofUser(mtcUser: MtcUserName): Generator<Denial> {
    for (const id of this.#byUser.get(mtcUser) ?? []) {
      const row = this.#byId.get(id);
      if (row) yield row;
    }
  }

  /** Tells of every row that is new or has changed, until it is ended. */
  watch(tell: (row: Denial) => void): () => void {
    this.#watchers.add(tell);
    return () => void this.#watchers.delete(tell);
  }

  /** Rolls up what nothing was added to since a time (UTC ms). */
  rollUpBefore(timeMs: number): void {
    for (const kind of DENIAL_KINDS)
      for (const row of [...this.#rows[kind].values()]) if (row.lastMs < timeMs) this.#rollUp(row);
  }

  /**
   * What has changed since it was last kept: all that was rolled up, so that
   * whoever keeps it has the same counts, and of other rows `most`.
   */
  changes(most = Number.POSITIVE_INFINITY): DenialChanges {
    const changed = [...this.#rolledUp.values()].filter(({ id }) => this.#unkept.has(id));
    const all = changed.length + most;
    for (const id of this.#unkept) {
      if (changed.length >= all) break;
      const row = this.#byId.get(id);
      if (row && row.source !== ROLLED_UP) changed.push(row);
    }
    return { changed, removed: [...this.#removed] };
  }

  /** These changes are kept now. Only right in the same turn of the loop in which they were asked for. */
  wereKept({ changed, removed }: DenialChanges): void {
    for (const { id } of changed) {
      this.#unkept.delete(id);
      this.#kept.add(id);
    }
    for (const id of removed) this.#removed.delete(id);
  }

  #rollUp(row: Denial): void {
    this.#rows[row.kind].delete(keyOf(row, row.firstMs));
    this.#byId.delete(row.id);
    if (row.mtcUser) this.#byUser.get(row.mtcUser)?.delete(row.id);
    this.#unkept.delete(row.id);
    if (this.#kept.delete(row.id)) this.#removed.add(row.id);
    this.#addRolledUp(row);
  }

  #addRolledUp({
    kind,
    reason,
    mtcUser,
    count,
    firstMs,
    lastMs,
  }: Pick<Denial, 'kind' | 'reason' | 'mtcUser' | 'count' | 'firstMs' | 'lastMs'>): void {
    const facts: DenialFacts = { kind, reason, source: ROLLED_UP, target: ROLLED_UP, ...(mtcUser && { mtcUser }) };
    const before = this.#rolledUp.get(keyOf(facts, firstMs));
    this.#put(this.#rolledUp, {
      ...facts,
      id: before?.id ?? this.#newId(),
      count: count + (before?.count ?? 0),
      firstMs: Math.min(firstMs, before?.firstMs ?? firstMs),
      lastMs: Math.max(lastMs, before?.lastMs ?? lastMs),
    });
  }

  #put(rows: Map<string, Denial>, row: Denial): void {
    const key = keyOf(row, row.firstMs);
    rows.delete(key);
    rows.set(key, row);
    this.#remember(row);
    this.#unkept.add(row.id);
    for (const tell of this.#watchers) tell(row);
  }

  #remember(row: Denial): void {
    this.#byId.set(row.id, row);
    if (!row.mtcUser) return;
    const ids = this.#byUser.get(row.mtcUser) ?? new Set();
    this.#byUser.set(row.mtcUser, ids.add(row.id));
  }

  #mapOf(row: Denial): Map<string, Denial> {
    return row.source === ROLLED_UP ? this.#rolledUp : this.#rows[row.kind];
  }
}

export function matches({ kind, reason, source, mtcUser }: DenialFilter, row: Denial): boolean {
  return (
    (kind === undefined || row.kind === kind) &&
    (reason === undefined || row.reason === reason) &&
    (source === undefined || row.source === source) &&
    (mtcUser === undefined || row.mtcUser === mtcUser)
  );
}

function keyOf(facts: DenialFacts, firstMs: number): string {
  const { kind, reason, source, target, server, mtcUser, device, externalId, certificate, grant, rule } = facts;
  const day = mtcUser !== undefined && source !== ROLLED_UP ? Math.floor(firstMs / DAY_MS) : null;
  return JSON.stringify([
    kind,
    reason,
    source,
    target,
    server,
    mtcUser,
    device,
    externalId,
    certificate,
    grant,
    rule,
    day,
  ]);
}
