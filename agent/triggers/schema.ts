/**
 * The tables of triggers.db, and how a file of them is opened, as that of the
 * grants is: WAL with synchronous=FULL, the legal transitions of the life
 * cycle as a foreign key, one connection that writes and one that reads.
 *
 * An older copy of the file, put back, is not found out, as one of the grants
 * is: what it calls pending may have been delivered since. A device then gets
 * a trigger twice, and nothing opens.
 */
import Database from 'better-sqlite3';
import { AgentError } from '../core/errors.ts';
import { TRANSITIONS } from './lifecycle.ts';

const SCHEMA_VERSION = 2;

const SCHEMA = `
CREATE TABLE transitions (
  from_state TEXT NOT NULL, to_state TEXT NOT NULL, cause TEXT NOT NULL,
  PRIMARY KEY (from_state, to_state, cause)
) STRICT, WITHOUT ROWID;

CREATE TABLE triggers (
  id TEXT PRIMARY KEY, gateway TEXT NOT NULL,
  server TEXT NOT NULL, certificate TEXT NOT NULL, correlator TEXT NOT NULL, request_address TEXT NOT NULL,
  reference TEXT NOT NULL, device TEXT NOT NULL, mtc_user TEXT NOT NULL, rule TEXT NOT NULL,
  policy_version TEXT NOT NULL,
  port INTEGER NOT NULL, source_port INTEGER, priority INTEGER NOT NULL, payload BLOB NOT NULL,
  features TEXT, destination TEXT, collection TEXT,
  validity_seconds INTEGER NOT NULL, accepted_at_ms INTEGER NOT NULL, valid_until_ms INTEGER NOT NULL,
  boot_id TEXT NOT NULL, valid_until_ns INTEGER NOT NULL,
  replaced INTEGER NOT NULL, forgotten INTEGER NOT NULL,
  previous_state TEXT NOT NULL, state TEXT NOT NULL, cause TEXT NOT NULL, ended_at_ms INTEGER,
  grant_id TEXT,
  CHECK ((state = 'ended') = (ended_at_ms IS NOT NULL)),
  FOREIGN KEY (previous_state, state, cause) REFERENCES transitions (from_state, to_state, cause)
) STRICT;
CREATE INDEX triggers_pending ON triggers (accepted_at_ms, id) WHERE state = 'pending';
CREATE INDEX triggers_ended ON triggers (ended_at_ms) WHERE state = 'ended';
-- How many a device had of late: what its limit counts, over a restart too.
CREATE INDEX triggers_device ON triggers (device, accepted_at_ms);
CREATE UNIQUE INDEX triggers_grant ON triggers (grant_id) WHERE grant_id IS NOT NULL;
`;

/** What a file of version 1 lacks. */
const ADDED = `
ALTER TABLE triggers ADD COLUMN grant_id TEXT;
CREATE UNIQUE INDEX triggers_grant ON triggers (grant_id) WHERE grant_id IS NOT NULL;
`;

/** @throws AgentError storeInvalid where the file is no database of ours, or of another version */
export function openTriggerDatabase(file: string): Database.Database {
  let db: Database.Database | undefined;
  try {
    db = connectTriggers(file);
    const version = db.pragma('user_version', { simple: true }) as number;
    if (version === 0) create(db);
    else if (version === 1) upgrade(db);
    else if (version !== SCHEMA_VERSION)
      throw new Error(`its version is ${version}, and this mtgate reads ${SCHEMA_VERSION}`);
    if (db.pragma('quick_check(1)', { simple: true }) !== 'ok') throw new Error('it is damaged');
    // At every start, since a newer mtgate may know more causes.
    const insert = db.prepare('INSERT OR IGNORE INTO transitions VALUES (@from, @to, @cause)');
    db.transaction(() => {
      for (const transition of TRANSITIONS) insert.run(transition);
    })();
    return db;
  } catch (cause) {
    db?.close();
    throw new AgentError('storeInvalid', `${file} cannot be used: ${(cause as Error).message}`, { cause });
  }
}

/** One more connection to a file that is open already. */
export function connectTriggers(file: string): Database.Database {
  const db = new Database(file);
  db.pragma('journal_mode = WAL');
  db.pragma('synchronous = FULL');
  db.pragma('foreign_keys = ON');
  return db;
}

function upgrade(db: Database.Database): void {
  db.transaction(() => {
    db.exec(ADDED);
    db.pragma(`user_version = ${SCHEMA_VERSION}`);
  })();
}

function create(db: Database.Database): void {
  if (db.prepare('SELECT 1 FROM sqlite_master').get()) throw new Error('it is a database of another program');
  db.transaction(() => {
    db.exec(SCHEMA);
    db.pragma(`user_version = ${SCHEMA_VERSION}`);
  })();
}
