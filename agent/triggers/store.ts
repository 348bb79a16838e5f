/**
 * The record of all triggers, in SQLite: durable before they are acknowledged,
 * so that neither kill -9 nor a power cut loses one. Written by a thread of its
 * own in groups (core/commits.ts); reads are answered at once, from what is
 * committed.
 */
import type { Identities } from '../core/identities.ts';
import type { ExternalId, GrantId, ServerName, TriggerId } from '../core/words.ts';
import { inThisThread, inWorker, Writes } from '../sqlite/commit-thread.ts';
import { guarding, openDatabase, orUnusable } from '../sqlite/database.ts';
import { bringOver } from '../sqlite/identity-form.ts';
import type { TriggerEndCause, TriggerState } from './lifecycle.ts';
import { type KeptTriggerRow, TRIGGER_COLUMNS, triggerOf, triggerRow } from './rows.ts';
import { BROUGHT_OVER, TRIGGERS_FORM } from './schema.ts';
import type { Trigger } from './trigger.ts';
import { type TriggerWrite, triggerWriterOn } from './writes.ts';

/** As much of a pending trigger as its queue needs. */
export interface PendingRow
  extends Pick<
    Trigger,
    'id' | 'server' | 'isPriority' | 'validitySeconds' | 'validUntilMs' | 'validUntilNs' | 'bootId' | 'grant'
  > {
  readonly device: ExternalId;
}

/** Which, for the operator: in one state, of a server or for a device where these are named. */
export interface TriggerFilter {
  readonly state: TriggerState;
  readonly server?: ServerName | undefined;
  readonly device?: ExternalId | undefined;
}

export interface TriggerStore {
  insert(trigger: Trigger): Promise<void>;
  /** Writes another trigger into the transaction. Returns whether the former was still pending. */
  replace(trigger: Trigger): Promise<boolean>;
  /** Ending one that has ended changes nothing. */
  end(id: TriggerId, cause: TriggerEndCause, endedAtMs: number, isForgotten: boolean): Promise<void>;
  /** Its server reads it no more. */
  forget(id: TriggerId): Promise<void>;
  /** Writes until when many are valid on the clock of a new boot: all or none. */
  reopen(bootId: string, ends: readonly Pick<Trigger, 'id' | 'validUntilNs'>[]): Promise<void>;
  find(id: string): Trigger | undefined;
  /** The same, of this server; of another's not even the row is read, as of one that never was. */
  findOwn(server: ServerName, id: string): Trigger | undefined;
  /** The one that belongs to a grant request. */
  ofGrant(id: string): Trigger | undefined;
  /** Those that are pending, in the order in which they came; read as they are asked for. */
  pending(): Iterable<PendingRow>;
  /** Some of a state: pending ones in the order in which they came, ended ones the last first. */
  list(filter: TriggerFilter, limit: number): readonly Trigger[];
  /** How many of a server were accepted for a device since then (UTC ms). */
  countSince(server: ServerName, device: ExternalId, sinceMs: number): number;
  /** The latest time in any record (UTC ms): the clock must not stand before it. */
  latestMs(): number;
  /** Forgets those that ended before a time (UTC ms). */
  purge(endedBeforeMs: number): Promise<void>;
  /** Resolves when all that was to be written is, and the file is closed. */
  close(): Promise<void>;
}

/** So many are read at once: some milliseconds. */
const PAGE = 1_024;

type KeptPending = Omit<PendingRow, 'isPriority' | 'validUntilNs' | 'grant'> & {
  readonly grant: GrantId | null;
  readonly priority: number;
  readonly validUntilNs: string;
  readonly acceptedAtMs: number;
};

/**
 * Opens the database, or makes it. `worker` is the built store-worker; without
 * one the calling thread itself writes, which is right for tests in memory.
 * @throws AgentError storeInvalid where the file is no database of ours, or of another version
 */
export function openTriggerStore(file: string, identities: Identities, worker?: URL): TriggerStore {
  const db = orUnusable(file, 'storeInvalid', () => openDatabase(file, TRIGGERS_FORM));
  guarding(file, 'storeFailed')(() => bringOver(db, identities, BROUGHT_OVER));
  const filtered = '(@server IS NULL OR server = @server) AND (@device IS NULL OR device = @device)';
  const statement = {
    find: db.prepare(`SELECT ${TRIGGER_COLUMNS} FROM triggers WHERE id = ?`),
    findOwn: db.prepare(`SELECT ${TRIGGER_COLUMNS} FROM triggers WHERE id = ? AND server = ?`),
    ofGrant: db.prepare(`SELECT ${TRIGGER_COLUMNS} FROM triggers INDEXED BY triggers_grant WHERE grant_id = ?`),
    pending: db.prepare(`SELECT id, server, device, priority, validity_seconds AS validitySeconds,
      valid_until_ms AS validUntilMs, CAST(valid_until_ns AS TEXT) AS validUntilNs, boot_id AS bootId,
      accepted_at_ms AS acceptedAtMs, grant_id AS "grant" FROM triggers INDEXED BY triggers_pending
      WHERE state = 'pending' AND (accepted_at_ms, id) > (?, ?) ORDER BY accepted_at_ms, id LIMIT ${PAGE}`),
    listPending: db.prepare(`SELECT ${TRIGGER_COLUMNS} FROM triggers WHERE state = 'pending' AND ${filtered}
      ORDER BY accepted_at_ms, id LIMIT @limit`),
    listEnded: db.prepare(`SELECT ${TRIGGER_COLUMNS} FROM triggers WHERE state = 'ended' AND ${filtered}
      ORDER BY ended_at_ms DESC LIMIT @limit`),
    countSince: db
      .prepare(`SELECT count(*) FROM triggers INDEXED BY triggers_device
        WHERE device = ? AND accepted_at_ms > ? AND server = ? AND cause <> 'notAccepted'`)
      .pluck(),
    latest: db
      .prepare(`SELECT max(coalesce((SELECT max(ended_at_ms) FROM triggers WHERE state = 'ended'), 0),
        coalesce((SELECT max(accepted_at_ms) FROM triggers WHERE state = 'pending'), 0))`)
      .pluck(),
  };
  const committer = worker ? inWorker<TriggerWrite>(file, worker) : inThisThread(triggerWriterOn(db));
  const writes = new Writes(file, committer);
  const write = (one: TriggerWrite): Promise<boolean> => writes.write(one);
  const written = async (one: TriggerWrite): Promise<void> => void (await write(one));
  return {
    insert: (trigger) => written({ kind: 'insert', row: triggerRow(trigger) }),
    replace: (trigger) => write({ kind: 'replace', row: triggerRow(trigger) }),
    end: (id, cause, endedAtMs, isForgotten) =>
      written({ kind: 'end', id, cause, endedAtMs, forgotten: Number(isForgotten) }),
    forget: (id) => written({ kind: 'forget', id }),
    reopen: (bootId, ends) =>
      written({ kind: 'reopen', bootId, ends: ends.map(({ id, validUntilNs }) => [id, validUntilNs]) }),
    find: (id) => {
      const row = statement.find.get(id) as KeptTriggerRow | undefined;
      return row && triggerOf(row);
    },
    findOwn: (server, id) => {
      const row = statement.findOwn.get(id, server) as KeptTriggerRow | undefined;
      return row && triggerOf(row);
    },
    ofGrant: (id) => {
      const row = statement.ofGrant.get(id) as KeptTriggerRow | undefined;
      return row && triggerOf(row);
    },
    *pending() {
      for (let after: [number, string] = [-1, '']; ; ) {
        const rows = statement.pending.all(...after) as KeptPending[];
        for (const { priority, validUntilNs, acceptedAtMs: _, grant, ...row } of rows) {
          const isPriority = priority === 1;
          yield { ...row, isPriority, validUntilNs: BigInt(validUntilNs), ...(grant !== null && { grant }) };
        }
        const last = rows.at(-1);
        if (!last || rows.length < PAGE) return;
        after = [last.acceptedAtMs, last.id];
      }
    },
    list: ({ state, server = null, device = null }, limit) => {
      const listed = state === 'pending' ? statement.listPending : statement.listEnded;
      return (listed.all({ server, device, limit }) as KeptTriggerRow[]).map(triggerOf);
    },
    countSince: (server, device, sinceMs) => statement.countSince.get(device, sinceMs, server) as number,
    latestMs: () => statement.latest.get() as number,
    purge: (endedBeforeMs) => written({ kind: 'purge', endedBeforeMs }),
    async close() {
      await writes.settle();
      await writes.close();
      db.close();
    },
  };
}
