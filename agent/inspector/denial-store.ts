/**
 * Denials and refusals in SQLite, in a file of their own: what an operator
 * asks about afterwards, and nothing that a grant rests on. So this store is
 * the opposite of grants/store.ts: it never stops a start, and what it loses
 * in a power cut are the last seconds (synchronous=NORMAL).
 *
 * A file that cannot be used is put aside (usable-file.ts).
 */
import type Database from 'better-sqlite3';
import type { Identities } from '../core/identities.ts';
import type { Log } from '../core/ports.ts';
import { type Form, guarding, openDatabase, orClosed, present } from '../sqlite/database.ts';
import { bringOver } from '../sqlite/identity-form.ts';
import { openUsable } from '../sqlite/usable-file.ts';
import type { Denial, DenialChanges } from './denials.ts';
import type { KeptRefusal, RefusalFilter } from './refusals.ts';

export interface DenialStore {
  /** The rows of before this start. */
  readonly before: readonly Denial[];
  /** Writes a batch, whole or not at all, and forgets the refusals that are too many. @throws AgentError denialsNotKept */
  write(changes: DenialChanges, refusals: readonly KeptRefusal[]): void;
  /** The newest first. @throws AgentError denialsNotKept */
  refusals(filter: RefusalFilter, limit: number): KeptRefusal[];
  /** So many from before one (undefined: the newest) on, the newest first. @throws AgentError denialsNotKept */
  refusalsBefore(
    number: number | undefined,
    limit: number,
  ): { readonly refusals: KeptRefusal[]; readonly next?: number };
  /** @throws AgentError denialsNotKept */
  refusal(instance: string): KeptRefusal | undefined;
  /** Forgets refusals of before a time (UTC ms); their rows in the list keep counting. @throws AgentError denialsNotKept */
  purge(beforeMs: number): void;
  close(): void;
}

const REFUSALS_MOST = 100_000;

const SCHEMA = `
CREATE TABLE denials (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
  server TEXT, mtc_user TEXT, device TEXT, grant_id TEXT,
  first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, count INTEGER NOT NULL, rule TEXT,
  external_id TEXT, certificate TEXT, source_port INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE refusals (
  number INTEGER PRIMARY KEY, instance TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL,
  reason TEXT NOT NULL, step TEXT NOT NULL, why TEXT NOT NULL, rule TEXT, server TEXT, device TEXT,
  source TEXT NOT NULL, target TEXT NOT NULL, correlator TEXT,
  duration_seconds INTEGER, application_server TEXT, ip_family TEXT, policy TEXT, steps TEXT,
  mtc_user TEXT, external_id TEXT, certificate TEXT, source_port INTEGER
) STRICT;
CREATE INDEX refusals_at ON refusals (at_ms);
`;

/**
 * What each version has more than the one before: what a request asked, and
 * which filter denied; under which policy a request was refused, and how;
 * whose device it named, and what is known of who asked.
 */
const ADDED = {
  2: `ALTER TABLE refusals ADD COLUMN duration_seconds INTEGER;
    ALTER TABLE refusals ADD COLUMN application_server TEXT;
    ALTER TABLE refusals ADD COLUMN ip_family TEXT;
    ALTER TABLE denials ADD COLUMN rule TEXT;`,
  3: `ALTER TABLE refusals ADD COLUMN policy TEXT;
    ALTER TABLE refusals ADD COLUMN steps TEXT;`,
  4: `ALTER TABLE denials ADD COLUMN external_id TEXT;
    ALTER TABLE denials ADD COLUMN certificate TEXT;
    ALTER TABLE denials ADD COLUMN source_port INTEGER;
    ALTER TABLE refusals ADD COLUMN mtc_user TEXT;
    ALTER TABLE refusals ADD COLUMN external_id TEXT;
    ALTER TABLE refusals ADD COLUMN certificate TEXT;
    ALTER TABLE refusals ADD COLUMN source_port INTEGER;`,
};

const FORM: Form = { version: 4, schema: SCHEMA, added: ADDED, synchronous: 'NORMAL' };

/** Brings a file to the form in which MSISDN are written from now on (sqlite/identity-form.ts). */
const BROUGHT_OVER = `
UPDATE denials SET device = kept_name(device) WHERE device GLOB '[+0-9]*';
UPDATE refusals SET device = kept_name(device) WHERE device GLOB '[+0-9]*';
UPDATE refusals SET why = kept_why(why) WHERE why LIKE '%"phoneNumber"%';
`;

type Row = Readonly<Record<string, unknown>>;

export function openDenialStore(file: string, log: Log, identities: Identities): DenialStore {
  const open = (one: string) =>
    orClosed(openDatabase(one, FORM), (db) => {
      bringOver(db, identities, BROUGHT_OVER);
      return storeOn(db, file);
    });
  return openUsable(file, open, log, 'denialStoreUnusable');
}

function storeOn(db: Database.Database, file: string): DenialStore {
  const statement = {
    denials: db.prepare(`SELECT id, kind, reason, source, target, server, mtc_user AS mtcUser, device,
      grant_id AS "grant", first_ms AS firstMs, last_ms AS lastMs, count, rule,
      external_id AS externalId, certificate, source_port AS sourcePort FROM denials`),
    put: db.prepare(`INSERT INTO denials VALUES (@id, @kind, @reason, @source, @target, @server, @mtcUser, @device,
      @grant, @firstMs, @lastMs, @count, @rule, @externalId, @certificate, @sourcePort)
      ON CONFLICT (id) DO UPDATE SET first_ms = excluded.first_ms, last_ms = excluded.last_ms, count = excluded.count,
      source_port = excluded.source_port`),
    remove: db.prepare('DELETE FROM denials WHERE id = ?'),
    refuse: db.prepare(`INSERT OR IGNORE INTO refusals VALUES (NULL, @instance, @atMs, @reason, @step, @why, @rule,
      @server, @device, @source, @target, @correlator, @durationSeconds, @applicationServer, @ipFamily, @policy, @steps,
      @mtcUser, @externalId, @certificate, @sourcePort)`),
    cut: db.prepare(`DELETE FROM refusals WHERE number <= (SELECT max(number) FROM refusals) - ${REFUSALS_MOST}`),
    purge: db.prepare('DELETE FROM refusals WHERE at_ms < ?'),
    refusals: db.prepare(`SELECT * FROM refusals WHERE (@server IS NULL OR server = @server)
      AND (@device IS NULL OR device = @device) AND (@reason IS NULL OR reason = @reason)
      ORDER BY number DESC LIMIT @limit`),
    refusalsBefore: db.prepare('SELECT * FROM refusals WHERE number < ? ORDER BY number DESC LIMIT ?'),
    refusal: db.prepare('SELECT * FROM refusals WHERE instance = ?'),
  };
  const write = db.transaction(({ changed, removed }: DenialChanges, refusals: readonly KeptRefusal[]) => {
    for (const id of removed) statement.remove.run(id);
    for (const row of changed) {
      const { server = null, mtcUser = null, device = null, grant = null, rule = null } = row;
      statement.put.run({ ...row, server, mtcUser, device, grant, rule, ...askedBy(row) });
    }
    for (const refusal of refusals) {
      const { rule = null, server = null, device = null, correlator = null } = refusal;
      const { durationSeconds = null, applicationServer = null, ipFamily = null, policy = null } = refusal;
      const steps = refusal.steps ? JSON.stringify(refusal.steps) : null;
      const { mtcUser = null } = refusal;
      const asked = { durationSeconds, applicationServer, ipFamily, policy, steps, mtcUser };
      statement.refuse.run({ ...refusal, rule, server, device, correlator, ...asked, ...askedBy(refusal) });
    }
    if (refusals.length > 0) statement.cut.run();
  });
  const guarded = guarding(file, 'denialsNotKept');
  return {
    before: (statement.denials.all() as Row[]).map((row) => present(row) as unknown as Denial),
    write: (changes, refusals) => guarded(() => write(changes, refusals)),
    refusals: ({ server = null, device = null, reason = null }, limit) =>
      guarded(() => (statement.refusals.all({ server, device, reason, limit }) as Row[]).map(refusalOf)),
    refusalsBefore: (number = Number.MAX_SAFE_INTEGER, limit) =>
      guarded(() => {
        const rows = statement.refusalsBefore.all(number, limit) as Row[];
        const next = rows.at(-1)?.['number'] as number | undefined;
        return { refusals: rows.map(refusalOf), ...(next !== undefined && rows.length === limit && { next }) };
      }),
    refusal: (instance) =>
      guarded(() => {
        const row = statement.refusal.get(instance) as Row | undefined;
        return row && refusalOf(row);
      }),
    purge: (beforeMs) => void guarded(() => statement.purge.run(beforeMs)),
    close: () => db.close(),
  };
}

/** What is known of who asked for whose device, with what is not there as null. */
function askedBy(row: Pick<Denial, 'externalId' | 'certificate' | 'sourcePort'>) {
  const { externalId = null, certificate = null, sourcePort = null } = row;
  return { externalId, certificate, sourcePort };
}

function refusalOf({ number: _, at_ms: atMs, ...row }: Row): KeptRefusal {
  const {
    duration_seconds: durationSeconds,
    application_server: applicationServer,
    ip_family: ipFamily,
    mtc_user: mtcUser,
    external_id: externalId,
    source_port: sourcePort,
    steps,
    ...rest
  } = row;
  const taken = typeof steps === 'string' ? JSON.parse(steps) : null;
  const asked = { durationSeconds, applicationServer, ipFamily, mtcUser, externalId, sourcePort };
  return present({ ...rest, atMs, ...asked, steps: taken }) as unknown as KeptRefusal;
}
