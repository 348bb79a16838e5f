/**
 * The desk in SQLite, in a file of its own (`desk.db`): durable before a change
 * counts (synchronous=FULL), whole or not at all.
 *
 * A file that cannot be used fails the start: without it nobody knows which
 * servers an MTC user has withdrawn, and to do without would let them in again.
 * Nothing in it is skipped: a row that cannot be read is damage.
 */
import { existsSync, renameSync, rmSync } from 'node:fs';
import Database from 'better-sqlite3';
import { AgentError } from '../core/errors.ts';
import type { MtcUserName, ServerName } from '../core/words.ts';
import { type Author, type Authorised, type Change, changed, type Desk, type SetPreference, userDesk } from './desk.ts';
import { readPreference, type WrittenPreference, writtenPreference } from './preference-form.ts';

export interface DeskStore {
  /** What was said up to now. */
  readonly desk: Desk;
  /** Writes a change; it is said from then on. @throws AgentError deskFailed; then it is not */
  write(user: MtcUserName, change: Change): void;
  close(): void;
}

const SCHEMA_VERSION = 1;

const SCHEMA = `
CREATE TABLE authorised (
  mtc_user TEXT PRIMARY KEY, servers TEXT NOT NULL, by TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE preferences (
  mtc_user TEXT NOT NULL, id TEXT NOT NULL, preference TEXT NOT NULL, by TEXT NOT NULL, at_ms INTEGER NOT NULL,
  PRIMARY KEY (mtc_user, id)
) STRICT, WITHOUT ROWID;
`;

interface Row {
  readonly mtc_user: MtcUserName;
  readonly by: string;
  readonly at_ms: number;
}
type AuthorisedRow = Row & { readonly servers: string };
type PreferenceRow = Row & { readonly id: string; readonly preference: string };

/** Opens the file, or makes it. @throws AgentError deskInvalid */
export function openDesk(file: string): DeskStore {
  let db: Database.Database | undefined;
  try {
    db = openDatabase(file);
    return storeOn(db, file, readDesk(db));
  } catch (cause) {
    db?.close();
    throw new AgentError('deskInvalid', `${file} cannot be used: ${(cause as Error).message}`, { cause });
  }
}

function storeOn(db: Database.Database, file: string, read: Desk): DeskStore {
  let desk = read;
  const statement = {
    authorise: db.prepare('INSERT OR REPLACE INTO authorised VALUES (?, ?, ?, ?)'),
    clear: db.prepare('DELETE FROM authorised WHERE mtc_user = ?'),
    prefer: db.prepare('INSERT OR REPLACE INTO preferences VALUES (?, ?, ?, ?, ?)'),
    drop: db.prepare('DELETE FROM preferences WHERE mtc_user = ? AND id = ?'),
  };
  const run = (user: MtcUserName, change: Change) => {
    switch (change.kind) {
      case 'authorise': {
        if (!change.authorised) return statement.clear.run(user);
        const { servers, by, atMs } = change.authorised;
        return statement.authorise.run(user, JSON.stringify(servers), JSON.stringify(by), atMs);
      }
      case 'prefer': {
        const { preference } = change;
        const { id, by, atMs } = preference;
        const written = JSON.stringify(writtenPreference(preference));
        return statement.prefer.run(user, id, written, JSON.stringify(by), atMs);
      }
      case 'drop':
        return statement.drop.run(user, change.id);
    }
  };
  return {
    get desk() {
      return desk;
    },
    write(user, change) {
      try {
        run(user, change); // one statement: whole or not at all
      } catch (cause) {
        throw new AgentError('deskFailed', `${file}: ${(cause as Error).message}`, { cause });
      }
      desk = changed(desk, user, change);
    },
    close: () => void db.close(),
  };
}

function readDesk(db: Database.Database): Desk {
  const authorised = new Map<MtcUserName, Authorised>();
  for (const row of rowsOf<AuthorisedRow>(db, 'SELECT * FROM authorised'))
    authorised.set(row.mtc_user, { servers: serversOf(row), by: authorOf(row), atMs: row.at_ms });
  const preferences = new Map<MtcUserName, SetPreference[]>();
  for (const row of rowsOf<PreferenceRow>(db, 'SELECT * FROM preferences ORDER BY mtc_user, id')) {
    const preference = readPreference(JSON.parse(row.preference) as WrittenPreference);
    if ('wrong' in preference) throw new Error(`preference ${row.id} of ${row.mtc_user}: ${preference.wrong}`);
    const own = preferences.get(row.mtc_user) ?? [];
    preferences.set(row.mtc_user, own);
    own.push({ ...preference, id: row.id, by: authorOf(row), atMs: row.at_ms });
  }
  const users = new Set([...authorised.keys(), ...preferences.keys()]);
  return new Map([...users].map((user) => [user, userDesk(authorised.get(user), preferences.get(user) ?? [])]));
}

function rowsOf<Kind extends Row>(db: Database.Database, statement: string): Iterable<Kind> {
  return db.prepare(statement).iterate() as IterableIterator<Kind>;
}

function serversOf({ servers, mtc_user }: AuthorisedRow): ServerName[] {
  const read: unknown = JSON.parse(servers);
  if (!Array.isArray(read) || read.some((one) => typeof one !== 'string'))
    throw new Error(`the servers of ${mtc_user} are no list of names`);
  return read as ServerName[];
}

function authorOf({ by }: Row): Author {
  return JSON.parse(by) as Author;
}

function openDatabase(file: string): Database.Database {
  if (file === ':memory:') return create(new Database(file));
  if (!existsSync(file)) {
    // Made beside it and put in place whole: an empty file there is never a new desk, but one that lost what it held.
    const beside = `${file}.new`;
    rmSync(beside, { force: true });
    create(new Database(beside)).close();
    renameSync(beside, file);
  }
  const db = new Database(file);
  try {
    const version = db.pragma('user_version', { simple: true }) as number;
    if (version !== SCHEMA_VERSION)
      throw new Error(
        version === 0
          ? 'it is empty, or a database of another program'
          : `its version is ${version}, and this mtgate reads ${SCHEMA_VERSION}`,
      );
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    if (db.pragma('integrity_check(1)', { simple: true }) !== 'ok') throw new Error('it is damaged');
    return db;
  } catch (fault) {
    db.close();
    throw fault;
  }
}

function create(db: Database.Database): Database.Database {
  db.pragma('synchronous = FULL');
  db.transaction(() => {
    db.exec(SCHEMA);
    db.pragma(`user_version = ${SCHEMA_VERSION}`);
  })();
  return db;
}
