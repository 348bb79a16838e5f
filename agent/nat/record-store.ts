/**
 * The NAT record in SQLite, in a file of its own (nat.db). The recorder's
 * process writes it, in batches; the agent reads it through a connection of
 * its own. No grant and no flow rests on it: what a power cut takes are the
 * last seconds (synchronous=NORMAL), and a file whose content is of no use is
 * put aside (usable-file.ts).
 *
 * Thousands of rows a second are appended, and found by an endpoint that is
 * drawn at random. One index over all of them would touch a page of its own
 * for each; so it begins with a number that rises every 131,072 rows: what is
 * written lies together, what is oldest goes together, and a question is a
 * look for each of those, a few hundred.
 */
import { existsSync } from 'node:fs';
import type Database from 'better-sqlite3';
import type { Log } from '../core/ports.ts';
import { connect, type Form, guarding, isDamage, openDatabase, orClosed } from '../sqlite/database.ts';
import { openOrBeginAnew, putAside } from '../sqlite/usable-file.ts';
import type { Found, Gap, Mapping } from './mapping.ts';

/** What a flow that began is written with, and found by when it ends; no row of a flow that has ended has one. */
export interface Begun extends Mapping {
  readonly key: number | null;
}

export interface Ended {
  readonly key: number;
  readonly endedMs: number;
  /** Where it is known by now exactly. */
  readonly beganMs?: number | undefined;
}

const SHIFT = 17;
/** Rows that are given up in one transaction. */
const AT_ONCE = 20_000;
/** So many rows that are given up are worth a look at the size. */
const WORTH_IT = 2_000;

const SCHEMA = `
CREATE TABLE mappings (
  number INTEGER PRIMARY KEY, protocol INTEGER NOT NULL, external BLOB NOT NULL, port INTEGER NOT NULL,
  realm TEXT NOT NULL, inner BLOB NOT NULL, inner_port INTEGER NOT NULL, device TEXT, grant_id TEXT, server TEXT,
  began_ms INTEGER NOT NULL, began_from_ms INTEGER, ended_ms INTEGER, ended_from_ms INTEGER, flow INTEGER
) STRICT;
CREATE INDEX mappings_external ON mappings (number >> ${SHIFT}, external, port);
CREATE UNIQUE INDEX mappings_flow ON mappings (flow) WHERE flow IS NOT NULL;
CREATE UNIQUE INDEX mappings_grant ON mappings (grant_id) WHERE grant_id IS NOT NULL;
CREATE TABLE gaps (from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, why TEXT NOT NULL) STRICT;
CREATE TABLE state (
  one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT, alive_ms INTEGER, covered_from_ms INTEGER
) STRICT;
INSERT INTO state VALUES (1, NULL, NULL, NULL);
`;

/** Unchecked: to read 4 GiB takes a minute, in which nobody hears connection tracking. Damage is found where it is met. */
const FORM: Form = { version: 1, schema: SCHEMA, synchronous: 'NORMAL', unchecked: true };

const COLUMNS = `protocol, external, port, realm, inner, inner_port AS innerPort, device, grant_id AS "grant", server,
  began_ms AS beganMs, began_from_ms AS beganFromMs, ended_ms AS endedMs, ended_from_ms AS endedFromMs`;

/** What the writer is to keep, at the most. */
export interface Bounds {
  readonly keepMs: number;
  readonly keepBytes: number;
}

/** Rows that lie together, in the order in which they were written. */
interface Slice {
  /** The last of them; null: there are none. */
  readonly to: number | null;
  readonly oldestMs: number;
  readonly rows: number;
}

export class RecordWriter {
  readonly #db: Database.Database;
  readonly #guarded: ReturnType<typeof guarding>;
  readonly #statements: ReturnType<typeof writing>;
  /** When this was last written, before it was opened now; undefined: never. */
  readonly lastAliveMs: number | undefined;
  /** Why the last batch is not on record. */
  #fault: string | undefined;
  /** The row up to which was looked for what is too old; undefined: enough for this time. */
  #agedUntil: number | undefined = 0;

  private constructor(db: Database.Database, file: string, bootId: string, nowMs: number, log: Log) {
    this.#db = db;
    const guarded = guarding(file, 'natRecordNotWritten');
    this.#guarded = (act) => guarded(() => this.#orPutAside(file, act, log));
    this.#statements = writing(db);
    const before = this.#statements.state.get() as { bootId: string | null; aliveMs: number | null };
    this.lastAliveMs = before.aliveMs ?? undefined;
    // Of another boot nothing runs any more: it ended when the host did, at the latest known time or a little later.
    if (before.bootId !== null && before.bootId !== bootId) this.#statements.endAll.run(nowMs, before.aliveMs);
    this.#statements.begin.run(bootId, nowMs);
  }

  /** @throws Error of what may pass by itself, such as a full disk: the file is as it was, and may be opened later */
  static open(file: string, bootId: string, nowMs: number, log: Log): RecordWriter {
    const open = (one: string) =>
      orClosed(openDatabase(one, FORM), (db) => new RecordWriter(db, one, bootId, nowMs, log));
    return openOrBeginAnew(file, open, log, 'natRecordUnusable');
  }

  /**
   * Writes what happened, in its order, and that all until `nowMs` is written. To `told` come the rows that are new,
   * and those that have ended.
   * @throws AgentError natRecordNotWritten where nothing of it is written
   */
  write(happened: readonly (Begun | Ended)[], nowMs: number, told: (row: Mapping, ended: boolean) => void): void {
    const rows: [Mapping, boolean][] = [];
    const { end, put, find, alive } = this.#statements;
    const ended = (key: number, endedMs: number, beganMs: number | null = null) =>
      end.get({ key, endedMs, endedFromMs: null, beganMs }) as Mapping | undefined;
    const written = this.#db.transaction(() => {
      for (const one of happened) {
        if ('protocol' in one) {
          if (one.key !== null) {
            const before = find.get(one.key) as Mapping | undefined;
            if (before && isSame(before, one)) continue; // a dump saw it first
            if (before) rows.push([ended(one.key, one.beganMs) as Mapping, true]); // its end was not told
          }
          if (put.run(one).changes > 0) rows.push([one, one.endedMs !== null]);
        } else {
          const row = ended(one.key, one.endedMs, one.beganMs);
          if (row) rows.push([row, true]);
        }
      }
      alive.run(nowMs);
    });
    try {
      this.#guarded(written);
      this.#fault = undefined;
    } catch (fault) {
      this.#fault = (fault as Error).message;
      throw fault;
    }
    for (const [row, ended] of rows) told(row, ended);
  }

  get fault(): string | undefined {
    return this.#fault;
  }

  /** Not any more where the file turned out to be damaged: it was put aside, and the next process has a new one. */
  get isOpen(): boolean {
    return this.#db.open;
  }

  #orPutAside<Result>(file: string, act: () => Result, log: Log): Result {
    try {
      return act();
    } catch (cause) {
      if (isDamage(cause)) {
        this.#db.close();
        const why = (cause as Error).message;
        log.error({ file, why, putAside: putAside(file, why) }, 'natRecordUnusable');
      }
      throw cause;
    }
  }

  /** Whether a flow is on record as one that runs. */
  runs(key: number): boolean {
    return this.#guarded(() => this.#statements.find.get(key) !== undefined);
  }

  /** The flows on record as running. */
  running(): Set<number> {
    return this.#guarded(() => new Set(this.#statements.running.all() as number[]));
  }

  /** Ends flows of which it is only known that they ended between two times. */
  endUnheard(keys: Iterable<number>, fromMs: number, toMs: number, told: (row: Mapping) => void): void {
    const rows: Mapping[] = [];
    this.#guarded(() =>
      this.#db.transaction(() => {
        for (const key of keys) {
          const times = { endedMs: toMs, endedFromMs: fromMs, beganMs: null };
          const row = this.#statements.end.get({ key, ...times }) as Mapping | undefined;
          if (row) rows.push(row);
        }
      })(),
    );
    for (const row of rows) told(row);
  }

  gap({ fromMs, toMs, why }: Gap): void {
    this.#guarded(() => this.#statements.gap.run(fromMs, toMs, why));
  }

  /**
   * Gives up some of the oldest, where they are older than they may be, or more; returns whether there may be more to
   * give up. Rows stand as they were written, so that the look ends where 20,000 in a row are too young: a look at all
   * of them takes seconds. What was written later than its time says goes with its neighbours.
   */
  purge(bounds: Bounds, nowMs: number): 'done' | 'more' | 'shortened' {
    return this.#guarded(() => {
      if (this.#agedUntil !== undefined && this.#ageOut(nowMs - bounds.keepMs, nowMs)) return 'more';
      if (this.#shorten(bounds.keepBytes)) return 'shortened';
      this.#agedUntil = 0;
      return 'done';
    });
  }

  /** Returns whether there may be more behind. */
  #ageOut(beforeMs: number, nowMs: number): boolean {
    const from = this.#agedUntil ?? 0;
    const { to, oldestMs, rows } = this.#statements.slice.get(from) as Slice;
    // Of a time to come: written when the clock was wrong, and no word on what is behind.
    const mayBeOld = to !== null && (oldestMs < beforeMs || oldestMs > nowMs);
    if (mayBeOld) this.#giveUp(from, to, beforeMs);
    this.#agedUntil = mayBeOld && rows === AT_ONCE ? to : undefined;
    return this.#agedUntil !== undefined;
  }

  /** Returns whether it gave up anything. */
  #shorten(keepBytes: number): boolean {
    const pragma = (name: string) => this.#db.pragma(name, { simple: true }) as number;
    if ((pragma('page_count') - pragma('freelist_count')) * pragma('page_size') <= keepBytes) return false;
    let given = 0;
    // The oldest may be flows that run for long: then it takes more of what was written to find so many that have ended.
    for (let rows = AT_ONCE; given < WORTH_IT; rows *= 2) {
      const cut = this.#statements.at.get(rows) as { number: number; beganMs: number } | undefined;
      if (cut === undefined) break; // hardly anything but what runs
      given += this.#giveUp(0, cut.number, cut.beganMs);
    }
    return given > 0;
  }

  /** Of the rows behind a number, up to another. */
  #giveUp(from: number, to: number, beforeMs: number): number {
    return this.#db.transaction(() => {
      const { changes } = this.#statements.purge.run({ from, to, beforeMs });
      this.#statements.purgeGaps.run(beforeMs);
      if (changes > 0) this.#statements.cover.run(beforeMs);
      return changes;
    })();
  }

  close(): void {
    this.#db.close();
  }
}

function writing(db: Database.Database) {
  return {
    state: db.prepare('SELECT boot_id AS bootId, alive_ms AS aliveMs FROM state'),
    begin: db.prepare(`UPDATE state SET boot_id = ?, covered_from_ms = coalesce(covered_from_ms, ?)`),
    alive: db.prepare('UPDATE state SET alive_ms = ?'),
    cover: db.prepare('UPDATE state SET covered_from_ms = max(covered_from_ms, ?)'),
    endAll: db.prepare('UPDATE mappings SET ended_ms = ?, ended_from_ms = ?, flow = NULL WHERE flow IS NOT NULL'),
    put: db.prepare(`INSERT OR IGNORE INTO mappings VALUES (NULL, @protocol, @external, @port, @realm, @inner,
      @innerPort, @device, @grant, @server, @beganMs, @beganFromMs, @endedMs, @endedFromMs, @key)`),
    end: db.prepare(`UPDATE mappings SET began_ms = coalesce(@beganMs, began_ms),
      began_from_ms = CASE WHEN @beganMs IS NULL THEN began_from_ms END,
      ended_ms = max(coalesce(@beganMs, began_ms), @endedMs), ended_from_ms = @endedFromMs, flow = NULL
      WHERE flow = @key RETURNING ${COLUMNS}`),
    find: db.prepare(`SELECT ${COLUMNS} FROM mappings WHERE flow = ?`),
    running: db.prepare('SELECT flow FROM mappings WHERE flow IS NOT NULL').pluck(),
    gap: db.prepare('INSERT INTO gaps VALUES (?, ?, ?)'),
    at: db.prepare('SELECT number, began_ms AS beganMs FROM mappings ORDER BY number LIMIT 1 OFFSET ?'),
    slice: db.prepare(`SELECT max(number) AS "to", min(began_ms) AS oldestMs, count(*) AS rows
      FROM (SELECT number, began_ms FROM mappings WHERE number > ? ORDER BY number LIMIT ${AT_ONCE})`),
    purge: db.prepare(`DELETE FROM mappings WHERE number IN (SELECT number FROM mappings
      WHERE number > @from AND number <= @to AND ended_ms < @beforeMs ORDER BY number LIMIT ${AT_ONCE})`),
    purgeGaps: db.prepare('DELETE FROM gaps WHERE to_ms < ?'),
  };
}

function isSame(a: Mapping, b: Mapping): boolean {
  const equal = (one: Uint8Array, other: Uint8Array) => Buffer.compare(one, other) === 0;
  return (
    a.innerPort === b.innerPort && a.protocol === b.protocol && equal(a.inner, b.inner) && equal(a.external, b.external)
  );
}

/** What may be asked. */
export interface RecordReader {
  /** Who had an endpoint in a span. @throws AgentError natRecordNotRead */
  find(external: Uint8Array, port: number, fromMs: number, toMs: number): Found;
}

/** A connection beside the writer's for each question: they are rare, and the file is the recorder's to make and to put aside. */
export function openRecordReader(file: string): RecordReader {
  const guarded = guarding(file, 'natRecordNotRead');
  return {
    find: (external, port, fromMs, toMs) =>
      guarded(() => {
        if (!existsSync(file)) return NOTHING_YET;
        const db = connect(file, { synchronous: 'NORMAL' });
        try {
          return findIn(db, external, port, fromMs, toMs);
        } finally {
          db.close();
        }
      }),
  };
}

const NOTHING_YET: Found = { mappings: [], gaps: [], coveredFromMs: Number.MAX_SAFE_INTEGER, writtenUntilMs: 0 };

function findIn(db: Database.Database, external: Uint8Array, port: number, fromMs: number, toMs: number): Found {
  const ends = db.prepare(`SELECT min(number) >> ${SHIFT} AS first, max(number) >> ${SHIFT} AS last FROM mappings`);
  const find = db.prepare(`SELECT ${COLUMNS} FROM mappings WHERE number >> ${SHIFT} = ? AND external = ? AND port = ?
    AND coalesce(began_from_ms, began_ms) <= ? AND (ended_ms IS NULL OR ended_ms >= ?)`);
  const gaps = db.prepare('SELECT from_ms AS fromMs, to_ms AS toMs, why FROM gaps WHERE from_ms <= ? AND to_ms >= ?');
  const state = db.prepare('SELECT covered_from_ms AS coveredFromMs, alive_ms AS writtenUntilMs FROM state');
  const { first, last } = ends.get() as { first: number | null; last: number | null };
  const mappings: Mapping[] = [];
  for (let part = first ?? 0; part <= (last ?? -1); part++)
    mappings.push(...(find.all(part, external, port, toMs, fromMs) as Mapping[]));
  const { coveredFromMs, writtenUntilMs } = state.get() as Record<string, number | null>;
  return {
    ...{ mappings, gaps: gaps.all(toMs, fromMs) as Gap[] },
    coveredFromMs: coveredFromMs ?? Number.MAX_SAFE_INTEGER,
    writtenUntilMs: writtenUntilMs ?? 0,
  };
}
