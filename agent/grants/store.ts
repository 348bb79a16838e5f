/**
 * The record of everything granted, in SQLite: durable before it is acted on
 * (WAL, synchronous=FULL), so that neither kill -9 nor a power cut leaves a
 * hole without a record.
 *
 * Writes go to a thread of their own, and are committed in groups
 * (core/commits.ts); reads are answered at once, from what is committed. The
 * interface is asynchronous where a commit is waited for: whoever waited looks
 * again at what its decision rested on.
 */
import { dirname, join } from 'node:path';
import type { Identities } from '../core/identities.ts';
import type { ServerName } from '../core/words.ts';
import type { Nas } from '../directory/accounting.ts';
import type { Binding, Change, Holder, Range } from '../directory/binding.ts';
import type { Plan, Session } from '../directory/sessions.ts';
import { inThisThread, inWorker, Writes } from '../sqlite/commit-thread.ts';
import { guarding, openDatabase, orUnusable } from '../sqlite/database.ts';
import { bringOver } from '../sqlite/identity-form.ts';
import {
  type BindingRow,
  bindingOf,
  type EndedBinding,
  endedBindingOf,
  type RestartRow,
  rangeOfRow,
  rebindRows,
  type SessionRow,
  sessionOf,
  type UnboundRow,
} from './binding-rows.ts';
import { type LastUsed, readLastUsed, writeLastUsed } from './last-used.ts';
import type { EndedRecord, GrantRecord, KeptAnswer, Retry } from './record.ts';
import { COLUMNS, changedRow, type Familiar, newRow, type Row, recordOf } from './rows.ts';
import { BROUGHT_OVER, GRANTS_FORM } from './schema.ts';
import type { EndedWait, WaitingRequest } from './waiting-request.ts';
import { type KeptWaitRow, waitEndRow, waitOf, waitRow } from './waiting-rows.ts';
import { type AnswerRow, type Write, writerOn } from './writes.ts';

export interface GrantStore {
  /** Whether it was an older copy when it was opened, and no later `note` has put it in force. */
  readonly isOlder: boolean;
  /** Notes beside it how far it has come, where that has changed: from then on it is the one last used here. */
  note(): Promise<void>;
  /** Writes a new, live grant, and in the same transaction what answers its request if that is sent again. */
  insert(record: GrantRecord, retry?: Retry): Promise<void>;
  /** Writes a request that waits, and in the same transaction what answers it if it is sent again. */
  wait(request: WaitingRequest, retry?: Retry): Promise<void>;
  /** Writes that one that waits is a live grant, which from then on answers for it. Returns whether it still waited. */
  grantWait(record: GrantRecord): Promise<boolean>;
  /** Writes that one ended without a grant. Ending one that does not wait changes nothing. */
  endWait(request: EndedWait): Promise<void>;
  /** Writes until when many wait on the clock of a new boot: all or none. */
  rewait(bootId: string, requests: readonly WaitingRequest[]): Promise<void>;
  /** One that waits, or has ended without a grant. */
  findWait(id: string): WaitingRequest | undefined;
  /** The same, of this server; of another's not even the row is read, as of one that never was. */
  findOwnWait(server: ServerName, id: string): WaitingRequest | undefined;
  /** Those that wait, in the order in which they came; read as they are asked for. */
  waits(): Iterable<WaitingRequest>;
  /** Writes a later end, and what decided it, if the grant lives and its end on record still is `fromNs`. Returns whether so. */
  extend(record: GrantRecord, fromNs: bigint, retry?: Retry): Promise<boolean>;
  /** Writes that it ended, and its end as the gate had it. Ending an ended grant changes nothing. */
  end(record: EndedRecord): Promise<void>;
  /** Writes the ends of many on the clock of a new boot: all or none. */
  reopen(bootId: string, records: readonly Pick<GrantRecord, 'id' | 'expiresAtNs'>[]): Promise<void>;
  /** Writes that it is held, and its end on the clock of this boot. Holding an ended grant changes nothing. */
  hold(record: GrantRecord): Promise<void>;
  /** Writes that one that is held is live again. Returns whether it still was held. */
  resume(record: GrantRecord): Promise<boolean>;
  /** Writes the gate's end, which is the earlier one. Lowering an ended grant changes nothing. */
  lower(record: GrantRecord): Promise<void>;
  /** The answer kept of a server's request with this key, since a time (UTC ms). */
  answerOf(server: ServerName, key: string, sinceMs: number): KeptAnswer | undefined;
  find(id: string): GrantRecord | undefined;
  /** The same, of this server; of another's not even the row is read, as of one that never was. */
  findOwn(server: ServerName, id: string): GrantRecord | undefined;
  /** The grants that live now, in the order in which they came. Each is read when it is asked for, so that much else may happen in between; what has ended by then is left out. */
  live(familiar?: Familiar): Iterable<GrantRecord>;
  /** Grants that ended at or after a time (UTC ms), in that order; read in the same way. */
  endedSince(sinceMs: number, familiar?: Familiar): Iterable<GrantRecord>;
  /** Grants that began at or after a time (UTC ms), live or ended, the newest first; read in the same way. */
  newest(sinceMs: number): Iterable<GrantRecord>;
  /** The latest time in any record (UTC ms): the clock must not stand before it. */
  latestMs(): number;
  /** A small number that stands for a name for ever, and for no other. */
  idOf(kind: 'class' | 'realm', name: string): number;
  /** The same for many names; those that are new are written as one. */
  idsOf(kind: 'class' | 'realm', names: readonly string[]): number[];
  bindings(): Binding[];
  /** Writes that every binding but those of the devices file is to be confirmed. */
  unconfirm(): Promise<void>;
  /** Those that are. */
  unconfirmed(): readonly Range[];
  /** The sessions of accounting that live; read as they are asked for. */
  sessions(): Iterable<Session>;
  /** Those that stopped at or after a time (UTC ms), in that order. */
  stopped(sinceMs: number): readonly { readonly nas: Nas; readonly id: string; readonly atMs: number }[];
  /** When each NAS began anew. */
  restarts(): readonly { readonly nas: Nas; readonly atMs: number }[];
  /** What a holder held, the last first. */
  endedBindings(holder: Holder, limit: number): readonly EndedBinding[];
  /** Writes a change of bindings with what accounting told, and what was confirmed, whole or not at all. */
  rebind(change: Change, told: readonly Plan[], nowMs: number, confirmed?: readonly Range[]): Promise<void>;
  /** Forgets grants and bindings that ended, then answers that were kept and sessions that stopped, before a time each (UTC ms). */
  purge(endedBeforeMs: number, forgottenBeforeMs: number): Promise<void>;
  /** Resolves when all that was to be written is, and the file is closed. */
  close(): Promise<void>;
}

/** Named as a row is. */
const WAIT_COLUMNS = `id, gateway, server, certificate, correlator, request_address AS requestAddress, device,
  mtc_user AS mtcUser, rule, policy_version AS policyVersion, remote, family, protocol, device_port AS devicePort, ask,
  wait_seconds AS waitSeconds, requested_at_ms AS requestedAtMs, waits_until_ms AS waitsUntilMs, boot_id AS bootId,
  CAST(waits_until_ns AS TEXT) AS waitsUntilNs, state, cause, ended_at_ms AS endedAtMs`;

/** Of how many records some are read at once: some milliseconds. */
const PAGE = 512;

/**
 * Opens the database, or makes it. `worker` is the built store-worker; without
 * one the calling thread itself writes, which is right for tests in memory.
 * @throws AgentError storeInvalid where the file is no database of ours, or of another version
 */
export function openStore(file: string, identities: Identities, worker?: URL): GrantStore {
  const db = orUnusable(file, 'storeInvalid', () => openDatabase(file, GRANTS_FORM));
  guarding(file, 'storeFailed')(() => bringOver(db, identities, BROUGHT_OVER));
  const statement = {
    answerOf: db.prepare(`SELECT request, grant_id AS "grant", expires_at_ms AS expiresAtMs FROM answers
      WHERE server = ? AND key = ? AND answered_at_ms > ?`),
    find: db.prepare(`SELECT ${COLUMNS} FROM grants WHERE id = ?`).raw(),
    findOwn: db.prepare(`SELECT ${COLUMNS} FROM grants WHERE id = ? AND server = ?`).raw(),
    // Their places alone are an index of their own, however many have ended; read in this order they share pages.
    findWait: db.prepare(`SELECT ${WAIT_COLUMNS} FROM waits WHERE id = ?`),
    findOwnWait: db.prepare(`SELECT ${WAIT_COLUMNS} FROM waits WHERE id = ? AND server = ?`),
    waits: db.prepare(`SELECT ${WAIT_COLUMNS} FROM waits INDEXED BY waits_waiting
      WHERE state = 'waiting' AND (requested_at_ms, id) > (?, ?) ORDER BY requested_at_ms, id LIMIT ${PAGE}`),
    livePlaces: db.prepare(`SELECT rowid FROM grants INDEXED BY grants_entry WHERE state <> 'ended'`).pluck(),
    live: db
      .prepare(`SELECT ${COLUMNS} FROM grants WHERE rowid BETWEEN ? AND ? AND state <> 'ended' ORDER BY rowid`)
      .raw(),
    endedSince: db
      .prepare(`SELECT ${COLUMNS}, rowid FROM grants WHERE state = 'ended' AND (ended_at_ms, rowid) > (?, ?)
        ORDER BY ended_at_ms, rowid LIMIT ${PAGE}`)
      .raw(),
    newest: db.prepare(`SELECT ${COLUMNS}, rowid FROM grants WHERE rowid < ? ORDER BY rowid DESC LIMIT ${PAGE}`).raw(),
    latest: db
      .prepare(`SELECT max(coalesce((SELECT max(ended_at_ms) FROM grants WHERE state = 'ended'), 0),
      coalesce((SELECT max(max(started_at_ms, expires_at_ms - granted_seconds * 1000)) FROM grants
        INDEXED BY grants_entry WHERE state <> 'ended'), 0),
      coalesce((SELECT max(ended_at_ms) FROM waits WHERE state = 'ended'), 0),
      coalesce((SELECT max(requested_at_ms) FROM waits WHERE state = 'waiting'), 0))`)
      .pluck(),
    idOf: db.prepare('SELECT id FROM ids WHERE kind = ? AND name = ?').pluck(),
    newId: db
      .prepare('INSERT INTO ids SELECT ?, ?, max(coalesce(max(id), 0), ?) + 1 FROM ids WHERE kind = ? RETURNING id')
      .pluck(),
    used: db.prepare(`SELECT count AS batches, coalesce((SELECT max(id) FROM ids WHERE kind = 'class'), 0) AS class,
      coalesce((SELECT max(id) FROM ids WHERE kind = 'realm'), 0) AS realm FROM batches`),
    bindings: db.prepare('SELECT realm, prefix, target, holder, source, since_ms AS sinceMs FROM bindings'),
    unconfirmed: db.prepare('SELECT realm, prefix, NULL AS target FROM bindings WHERE unconfirmed = 1'),
    sessions: db.prepare(`SELECT client, nas, session, imsi, msisdn, external_id AS externalId, holder, ranges,
      last_at_ms AS lastAtMs, heard_ms AS heardMs FROM sessions WHERE stopped_at_ms IS NULL`),
    stopped: db.prepare(`SELECT client, nas, session, stopped_at_ms AS atMs FROM sessions
      WHERE stopped_at_ms >= ? ORDER BY stopped_at_ms`),
    restarts: db.prepare('SELECT client, nas, at_ms AS atMs FROM nas_restarts'),
    endedBindings: db.prepare(`SELECT realm, prefix, target, holder, source, since_ms AS sinceMs,
      until_ms AS untilMs, cause FROM ended_bindings WHERE holder = ? ORDER BY until_ms DESC LIMIT ?`),
  };
  /** Asked for with every grant, and for ever the same. */
  const ids = new Map<string, number>();
  const idInFile = (kind: string, name: string, last: number): number =>
    (statement.idOf.get(kind, name) ?? statement.newId.get(kind, name, last, kind)) as number;
  const idsOf: GrantStore['idsOf'] = (kind, names) => {
    const unknown = names.filter((name) => !ids.has(`${kind} ${name}`));
    if (unknown.length > 0) {
      const give = db.transaction(() => unknown.map((name) => idInFile(kind, name, lastUsed?.[kind] ?? 0)));
      // At once the one that writes: what was read must not be old when the number is given.
      for (const [i, id] of give.immediate().entries()) ids.set(`${kind} ${unknown[i]}`, id);
    }
    return names.map((name) => ids.get(`${kind} ${name}`) as number);
  };
  const writes = new Writes<Write>(file, worker ? inWorker(file, worker) : inThisThread(writerOn(db)));
  const noteFile = file === ':memory:' ? undefined : join(dirname(file), 'last-used.json');
  let lastUsed = noteFile === undefined ? undefined : readLastUsed(noteFile);
  const used = () => statement.used.get() as LastUsed;
  let isOlder = lastUsed !== undefined && used().batches < lastUsed.batches;
  const write = (one: Write): Promise<boolean> => writes.write(one);
  const written = async (one: Write): Promise<void> => void (await write(one));
  const note = async (): Promise<void> => {
    if (noteFile === undefined || lastUsed === undefined) return;
    if (isOlder) await write({ kind: 'overtake', batches: lastUsed.batches + 1 });
    const now = used();
    const isSame = now.batches === lastUsed.batches && now.class === lastUsed.class && now.realm === lastUsed.realm;
    if (!isSame) await writeLastUsed(noteFile, now);
    lastUsed = now;
    isOlder = false;
  };
  return {
    get isOlder() {
      return isOlder;
    },
    note,
    insert: (record, retry) => written({ kind: 'insert', row: newRow(record), answer: answerRow(record, retry) }),
    wait: (request, retry) => {
      const { server, id, waitsUntilMs: expiresAtMs } = request;
      return written({ kind: 'wait', row: waitRow(request), answer: answerRow({ server, id, expiresAtMs }, retry) });
    },
    grantWait: (record) =>
      write({ kind: 'grantWait', id: record.id, expiresAtMs: record.expiresAtMs, row: newRow(record) }),
    endWait: (request) => written({ kind: 'endWait', row: waitEndRow(request) }),
    rewait: (bootId, requests) =>
      written({ kind: 'rewait', bootId, ends: requests.map(({ id, waitsUntilNs }) => ({ id, waitsUntilNs })) }),
    findWait: (id) => {
      const row = statement.findWait.get(id) as KeptWaitRow | undefined;
      return row && waitOf(row);
    },
    findOwnWait: (server, id) => {
      const row = statement.findOwnWait.get(id, server) as KeptWaitRow | undefined;
      return row && waitOf(row);
    },
    *waits() {
      for (let after: [number, string] = [-1, '']; ; ) {
        const rows = statement.waits.all(...after) as KeptWaitRow[];
        for (const row of rows) yield waitOf(row);
        const last = rows.at(-1);
        if (!last || rows.length < PAGE) return;
        after = [last.requestedAtMs, last.id];
      }
    },
    extend: (record, fromNs, retry) =>
      write({ kind: 'extend', row: changedRow(record), fromNs, answer: answerRow(record, retry) }),
    end: (record) => written({ kind: 'end', row: changedRow(record) }),
    reopen: (bootId, records) =>
      written({ kind: 'reopen', bootId, ends: records.map(({ id, expiresAtNs }) => ({ id, expiresAtNs })) }),
    hold: (record) => written({ kind: 'hold', row: changedRow(record) }),
    resume: (record) => write({ kind: 'resume', row: changedRow(record) }),
    lower: (record) => written({ kind: 'lower', row: changedRow(record) }),
    answerOf: (server, key, sinceMs) => statement.answerOf.get(server, key, sinceMs) as KeptAnswer | undefined,
    find: (id) => {
      const row = statement.find.get(id) as Row | undefined;
      return row && recordOf(row);
    },
    findOwn: (server, id) => {
      const row = statement.findOwn.get(id, server) as Row | undefined;
      return row && recordOf(row);
    },
    *live(familiar) {
      const places = Float64Array.from(statement.livePlaces.all() as number[]).sort();
      for (let at = 0, from = places[0]; from !== undefined; from = places[at]) {
        // Where many have ended in between, few are read at once: never much more than lives.
        const end = from + PAGE;
        for (at += 1; at < places.length && (places[at] as number) < end; ) at += 1;
        for (const row of statement.live.all(from, places[at - 1]) as Row[]) yield recordOf(row, familiar);
      }
    },
    *endedSince(sinceMs, familiar) {
      for (let after = [sinceMs - 1, Number.MAX_SAFE_INTEGER]; ; ) {
        const rows = statement.endedSince.all(...after) as Row[];
        for (const row of rows) {
          const record = recordOf(row, familiar);
          after = [record.endedAtMs ?? 0, row.at(-1) as number];
          yield record;
        }
        if (rows.length < PAGE) return;
      }
    },
    *newest(sinceMs) {
      for (let before = Number.MAX_SAFE_INTEGER; ; ) {
        const rows = statement.newest.all(before) as Row[];
        for (const row of rows) {
          const record = recordOf(row);
          if (record.startedAtMs < sinceMs) return;
          before = row.at(-1) as number;
          yield record;
        }
        if (rows.length < PAGE) return;
      }
    },
    latestMs: () => statement.latest.get() as number,
    idOf: (kind, name) => idsOf(kind, [name])[0] as number,
    idsOf,
    bindings: () => Array.from(statement.bindings.iterate() as Iterable<BindingRow>, bindingOf), // all rows at once would double what it takes
    unconfirm: () => written({ kind: 'unconfirm' }),
    unconfirmed: () => (statement.unconfirmed.all() as BindingRow[]).map(rangeOfRow),
    *sessions() {
      for (const row of statement.sessions.all() as SessionRow[]) yield sessionOf(row, identities);
    },
    stopped: (sinceMs) =>
      (statement.stopped.all(sinceMs) as { client: string; nas: string; session: string; atMs: number }[]).map(
        ({ client, nas, session, atMs }) => ({ nas: { client, id: nas }, id: session, atMs }),
      ),
    restarts: () =>
      (statement.restarts.all() as RestartRow[]).map(({ client, nas, atMs }) => ({ nas: { client, id: nas }, atMs })),
    endedBindings: (holder, limit) => (statement.endedBindings.all(holder, limit) as UnboundRow[]).map(endedBindingOf),
    rebind: (change, told, nowMs, confirmed = []) =>
      written({ kind: 'rebind', ...rebindRows(change, told, confirmed, nowMs) }),
    purge: (endedBeforeMs, forgottenBeforeMs) => written({ kind: 'purge', endedBeforeMs, forgottenBeforeMs }),
    async close() {
      await writes.settle();
      if (!isOlder) await note().catch(() => {}); // it lags then, which is allowed
      await writes.close();
      db.close();
    },
  };
}

function answerRow(
  { server, id, expiresAtMs }: Pick<GrantRecord, 'server' | 'id' | 'expiresAtMs'>,
  retry: Retry | undefined,
): AnswerRow | undefined {
  return retry && { ...retry, server, id, expiresAtMs };
}
