/**
 * The outbox in SQLite, in a file of its own (outbox.db): nothing that a grant
 * rests on. What is written here outlives the agent, killed or not; in a power
 * cut the last seconds can be lost (synchronous=NORMAL). A file that cannot be
 * used is put aside (usable-file.ts).
 */
import type Database from 'better-sqlite3';
import type { Identities } from '../core/identities.ts';
import type { Log } from '../core/ports.ts';
import { type Form, guarding, openDatabase, orClosed, present } from '../sqlite/database.ts';
import { bringOver } from '../sqlite/identity-form.ts';
import { openUsable } from '../sqlite/usable-file.ts';
import type { OutboxChanges, OutboxStore, QueuedEvent, QueueRecord } from './outbox.ts';

const SCHEMA = `
CREATE TABLE queues (
  sink TEXT PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL,
  delivered INTEGER NOT NULL, given_up INTEGER NOT NULL, untold INTEGER NOT NULL,
  last_success_ms INTEGER NOT NULL, last_fault_ms INTEGER NOT NULL, last_fault TEXT, last_why TEXT,
  told_until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
  sink TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, type TEXT, subject TEXT, url TEXT,
  made_ms INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (sink, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE grant_sinks (grant_id TEXT PRIMARY KEY, url TEXT NOT NULL) STRICT, WITHOUT ROWID;
`;

const FORM: Form = { version: 1, schema: SCHEMA, synchronous: 'NORMAL' };

/** Brings a file to the form in which MSISDN are written from now on: what is pushed of a grant says none (grant-events.ts). */
const BROUGHT_OVER = `UPDATE events SET data = json_remove(data, '$.device')
  WHERE NOT kept() AND data LIKE '%"phoneNumber"%'`;

type Row = Readonly<Record<string, unknown>>;

export function openOutboxStore(file: string, log: Log, identities: Identities): OutboxStore {
  const open = (one: string) =>
    orClosed(openDatabase(one, FORM), (db) => {
      bringOver(db, identities, BROUGHT_OVER);
      return storeOn(db, file);
    });
  return openUsable(file, open, log, 'outboxUnusable');
}

function storeOn(db: Database.Database, file: string): OutboxStore {
  const statement = {
    queues: db.prepare(`SELECT sink, first, last, delivered, given_up AS givenUp, untold,
      last_success_ms AS lastSuccessMs, last_fault_ms AS lastFaultMs, last_fault AS lastFault, last_why AS lastWhy,
      told_until_ms AS toldUntilMs FROM queues`),
    queue: db.prepare(`INSERT OR REPLACE INTO queues VALUES
      (@sink, @first, @last, @delivered, @givenUp, @untold, @lastSuccessMs, @lastFaultMs, @lastFault, @lastWhy,
      @toldUntilMs)`),
    put: db.prepare(
      'INSERT OR REPLACE INTO events VALUES (@sink, @number, @id, @type, @subject, @url, @madeMs, @data)',
    ),
    passed: db.prepare('DELETE FROM events WHERE sink = @sink AND number < @first'),
    oldest: db.prepare(`SELECT sink, number, id, type, subject, url, made_ms AS madeMs, data
      FROM events WHERE sink = ? AND number >= ? ORDER BY number LIMIT 1`),
    dropQueue: db.prepare('DELETE FROM queues WHERE sink = ?'),
    dropEvents: db.prepare('DELETE FROM events WHERE sink = ?'),
    grantSinks: db.prepare('SELECT grant_id, url FROM grant_sinks').raw(),
    keepGrantSink: db.prepare('INSERT OR REPLACE INTO grant_sinks VALUES (?, ?)'),
    forgetGrantSink: db.prepare('DELETE FROM grant_sinks WHERE grant_id = ?'),
  };
  const write = db.transaction(({ queues, events, dropped }: OutboxChanges) => {
    for (const sink of dropped) {
      statement.dropQueue.run(sink);
      statement.dropEvents.run(sink);
    }
    for (const event of events) {
      const { type = null, subject = null, url = null } = event;
      statement.put.run({ ...event, type, subject, url });
    }
    for (const record of queues) {
      const { lastFault = null, lastWhy = null } = record;
      statement.queue.run({ ...record, lastFault, lastWhy });
      statement.passed.run({ sink: record.sink, first: record.first });
    }
  });
  const guarded = guarding(file, 'outboxNotKept');
  return {
    before: (statement.queues.all() as Row[]).map((row) => present(row) as unknown as QueueRecord),
    write: (changes) => guarded(() => write(changes)),
    oldest: (sink, from) =>
      guarded(() => {
        const row = statement.oldest.get(sink, from) as Row | undefined;
        return row && (present(row) as unknown as QueuedEvent);
      }),
    grantSinks: {
      all: () => new Map(statement.grantSinks.all() as [string, string][]),
      keep: (grant, url) => void guarded(() => statement.keepGrantSink.run(grant, url)),
      forget: (grant) => void guarded(() => statement.forgetGrantSink.run(grant)),
    },
    close: () => db.close(),
  };
}
