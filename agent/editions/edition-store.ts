/**
 * The editions in SQLite, in a file of their own: durable before one is put in
 * force (synchronous=FULL), whole or not at all, the last hundred. Texts that
 * several editions have are kept once.
 *
 * A file that cannot be used fails the start: without it nobody knows which
 * rules were in force, and the folder may hold what nobody has applied yet.
 * `mtgate apply --offline` is the way out: it puts the file aside
 * (`editions.db.unusable`) and makes the folder the first edition of a new one.
 */
import { chownSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { RuleFile } from '../policy/rules.ts';
import { type Form, guarding, openDatabase, orUnusable } from '../sqlite/database.ts';
import type { Edition, EditionHead, How, Who } from './edition.ts';

export interface EditionStore {
  /** The one in force. */
  last(): Edition | undefined;
  edition(number: number): Edition | undefined;
  /** The newest first, without their files. */
  history(limit: number): EditionHead[];
  /** Writes an edition, and forgets the oldest. It is in force from then on. @throws AgentError editionsFailed */
  add(edition: Edition): void;
  /** @throws AgentError editionsFailed */
  confirm(number: number, atMs: number, by: Who): void;
  close(): void;
}

const EDITIONS_MOST = 100;

const SCHEMA = `
CREATE TABLE editions (
  number INTEGER PRIMARY KEY, version TEXT NOT NULL, at_ms INTEGER NOT NULL, by TEXT NOT NULL, how TEXT NOT NULL,
  of_edition INTEGER, comment TEXT, changed TEXT NOT NULL, digest TEXT NOT NULL,
  confirm_by_ms INTEGER, confirmed_at_ms INTEGER, confirmed_by TEXT,
  CHECK ((confirmed_at_ms IS NULL) = (confirmed_by IS NULL))
) STRICT;
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE files (
  edition INTEGER NOT NULL REFERENCES editions (number) ON DELETE CASCADE,
  file TEXT NOT NULL, text INTEGER NOT NULL REFERENCES texts (id),
  PRIMARY KEY (edition, file)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_text ON files (text);
`;

const FORM: Form = {
  version: 1,
  schema: SCHEMA,
  synchronous: 'FULL',
  foreignKeys: true,
  onMade: giveToOwnerOfFolder,
};

interface Row {
  readonly number: number;
  readonly version: string;
  readonly at_ms: number;
  readonly by: string;
  readonly how: How;
  readonly of_edition: number | null;
  readonly comment: string | null;
  readonly changed: string;
  readonly digest: string;
  readonly confirm_by_ms: number | null;
  readonly confirmed_at_ms: number | null;
  readonly confirmed_by: string | null;
}

/** Opens the file, or makes it. @throws AgentError editionsInvalid */
export function openEditions(file: string): EditionStore {
  const db = orUnusable(file, 'editionsInvalid', () => openDatabase(file, FORM));
  const statement = {
    last: db.prepare('SELECT * FROM editions ORDER BY number DESC LIMIT 1'),
    edition: db.prepare('SELECT * FROM editions WHERE number = ?'),
    history: db.prepare('SELECT * FROM editions ORDER BY number DESC LIMIT ?'),
    files: db.prepare(
      'SELECT file, texts.text FROM files JOIN texts ON texts.id = files.text WHERE edition = ? ORDER BY file',
    ),
    // One that was not acknowledged may be there all the same: it never was in force.
    unsay: db.prepare('DELETE FROM editions WHERE number >= ?'),
    add: db.prepare(`INSERT INTO editions VALUES (@number, @version, @atMs, @by, @how, @of, @comment, @changed, @digest,
      @confirmByMs, @confirmedAtMs, @confirmedBy)`),
    text: db.prepare('INSERT OR IGNORE INTO texts (text) VALUES (?)'),
    file: db.prepare('INSERT INTO files SELECT ?, ?, id FROM texts WHERE text = ?'),
    cut: db.prepare(`DELETE FROM editions WHERE number <= ? - ${EDITIONS_MOST}`),
    cutTexts: db.prepare('DELETE FROM texts WHERE id NOT IN (SELECT text FROM files)'),
    confirm: db.prepare('UPDATE editions SET confirmed_at_ms = ?, confirmed_by = ? WHERE number = ?'),
  };
  const whole = (row: unknown): Edition | undefined => {
    if (row === undefined) return undefined;
    const head = headOf(row as Row);
    return { ...head, files: statement.files.all(head.number) as RuleFile[] };
  };
  const add = db.transaction((edition: Edition) => {
    const { by, of = null, comment = null, changed, confirmByMs = null, confirmed, files, ...rest } = edition;
    statement.unsay.run(edition.number);
    statement.add.run({
      ...rest,
      by: JSON.stringify(by),
      of,
      comment,
      changed: JSON.stringify(changed),
      confirmByMs,
      confirmedAtMs: confirmed?.atMs ?? null,
      confirmedBy: confirmed ? JSON.stringify(confirmed.by) : null,
    });
    for (const { file: name, text } of files) {
      statement.text.run(text);
      statement.file.run(edition.number, name, text);
    }
    statement.cut.run(edition.number);
    statement.cutTexts.run();
  });
  const guarded = guarding(file, 'editionsFailed');
  return {
    last: () => guarded(() => whole(statement.last.get())),
    edition: (number) => guarded(() => whole(statement.edition.get(number))),
    history: (limit) => guarded(() => (statement.history.all(limit) as Row[]).map(headOf)),
    add: (edition) => guarded(() => add(edition)),
    confirm: (number, atMs, by) => void guarded(() => statement.confirm.run(atMs, JSON.stringify(by), number)),
    close: () => db.close(),
  };
}

/** Root may make the file, offline; the agent is another user. What SQLite puts beside it follows its owner. */
function giveToOwnerOfFolder(file: string): void {
  if (file === ':memory:' || process.getuid?.() !== 0) return;
  const { uid, gid } = statSync(dirname(file));
  chownSync(file, uid, gid);
}

function headOf(row: Row): EditionHead {
  const { comment, confirm_by_ms: confirmByMs, confirmed_at_ms: confirmedAtMs, confirmed_by: confirmedBy } = row;
  const { number, version, at_ms: atMs, how, of_edition: of, digest } = row;
  return {
    ...{ number, version, atMs, how, digest },
    by: JSON.parse(row.by) as Who,
    changed: JSON.parse(row.changed) as string[],
    ...(of !== null && { of }),
    ...(comment !== null && { comment }),
    ...(confirmByMs !== null && { confirmByMs }),
    ...(confirmedAtMs !== null &&
      confirmedBy !== null && { confirmed: { atMs: confirmedAtMs, by: JSON.parse(confirmedBy) as Who } }),
  };
}
