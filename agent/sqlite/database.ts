/**
 * How a database file of the agent is opened, whoever's it is: made, or of the
 * version that this mtgate reads, or brought up to it; whole; in WAL, so that
 * several connections may be open at once, and what one commits the others see.
 * (The desk has its own way: there an empty file is never a new one.)
 */
import { existsSync } from 'node:fs';
import Database from 'better-sqlite3';
import { AgentError, type FaultCode } from '../core/errors.ts';

/** How a connection commits. */
export interface Mode {
  /** FULL: what is committed is on the disk. NORMAL: a power cut can take the last of it. */
  readonly synchronous: 'FULL' | 'NORMAL';
  readonly foreignKeys?: true;
}

/** What a file holds. */
export interface Form extends Mode {
  readonly version: number;
  readonly schema: string;
  /** What a file of an older version lacks, by the version that it is with it; older ones than these say cannot be read. */
  readonly added?: Readonly<Record<number, string>>;
  /** Of a file too large to be read whole at every start. */
  readonly unchecked?: true;
  /** What is done with a file that has just been made, before anything is in it. */
  readonly onMade?: (file: string) => void;
  /** What is put in at every start that is not there yet. */
  readonly onOpen?: (db: Database.Database) => void;
}

/** A connection: the first, or one more to a file that is open already. */
export function connect(file: string, mode: Mode): Database.Database {
  return configured(new Database(file), mode);
}

/** What a file holds can be used neither now nor later. */
class UnfitFile extends Error {}

/** Whether SQLite found pages that are no pages of a database. */
export function isDamage(cause: unknown): boolean {
  return cause instanceof Database.SqliteError && /^SQLITE_(CORRUPT|NOTADB)(_|$)/.test(cause.code);
}

/**
 * Whether what a file holds was in the way, and will be: damaged, another
 * program's, of a version that is not read, of tables that are not these
 * (SQLITE_ERROR). A full disk, rights, or a lock may pass.
 */
export function isUnfit(cause: unknown): boolean {
  const isOfOthers = cause instanceof Database.SqliteError && cause.code === 'SQLITE_ERROR';
  return isOfOthers || isDamage(cause) || cause instanceof UnfitFile;
}

/** Opens a file, or makes it. @throws Error that says why it cannot be used */
export function openDatabase(file: string, form: Form): Database.Database {
  const isMade = form.onMade !== undefined && !existsSync(file);
  return orClosed(new Database(file), (db) => {
    if (isMade) form.onMade?.(file);
    configured(db, form);
    bringUp(db, form);
    if (!form.unchecked && db.pragma('quick_check(1)', { simple: true }) !== 'ok') throw new UnfitFile('it is damaged');
    form.onOpen?.(db);
    return db;
  });
}

/** Makes something of a connection, which is closed where that fails. */
export function orClosed<Made>(db: Database.Database, make: (db: Database.Database) => Made): Made {
  try {
    return make(db);
  } catch (cause) {
    db.close();
    throw cause;
  }
}

/** Acts on a file that is open; what fails is a fault of this code, with the file's name. */
export function guarding(file: string, code: FaultCode): <Result>(act: () => Result) => Result {
  return (act) => {
    try {
      return act();
    } catch (cause) {
      throw new AgentError(code, `${file}: ${(cause as Error).message}`, { cause });
    }
  };
}

/** The same for what opens it. */
export function orUnusable<Result>(file: string, code: FaultCode, open: () => Result): Result {
  try {
    return open();
  } catch (cause) {
    throw new AgentError(code, `${file} cannot be used: ${(cause as Error).message}`, { cause });
  }
}

/** A row without what is not there. */
export function present(row: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null));
}

function configured(db: Database.Database, { synchronous, foreignKeys }: Mode): Database.Database {
  db.pragma('journal_mode = WAL');
  db.pragma(`synchronous = ${synchronous}`);
  if (foreignKeys) db.pragma('foreign_keys = ON');
  return db;
}

function bringUp(db: Database.Database, { version, schema, added = {} }: Form): void {
  const found = db.pragma('user_version', { simple: true }) as number;
  if (found === version) return;
  const lacking = Array.from({ length: Math.max(0, version - found) }, (_, i) => added[found + 1 + i]);
  if (found !== 0 && (lacking.length === 0 || lacking.includes(undefined)))
    throw new UnfitFile(`its version is ${found}, and this mtgate reads ${version}`);
  if (found === 0 && db.prepare('SELECT 1 FROM sqlite_master').get())
    throw new UnfitFile('it is a database of another program');
  db.transaction(() => {
    db.exec(found === 0 ? schema : lacking.join('\n'));
    db.pragma(`user_version = ${version}`);
  })();
}
