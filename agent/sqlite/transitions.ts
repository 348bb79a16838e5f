/**
 * The legal transitions of a life cycle as a table: rows refer to it by a
 * foreign key, so that no statement can write a step that is not legal.
 */
import type Database from 'better-sqlite3';

/** Rows say (previous_state, state, cause). */
export const TRANSITION_TABLE = `
CREATE TABLE transitions (
  from_state TEXT NOT NULL, to_state TEXT NOT NULL, cause TEXT NOT NULL,
  PRIMARY KEY (from_state, to_state, cause)
) STRICT, WITHOUT ROWID;
`;

interface Transition {
  readonly from: string;
  readonly to: string;
  readonly cause: string;
}

/** Puts in those that are not there: at every start, since a newer mtgate may know more causes. */
export function keepTransitions(db: Database.Database, transitions: readonly Transition[]): void {
  const insert = db.prepare('INSERT OR IGNORE INTO transitions VALUES (@from, @to, @cause)');
  db.transaction(() => {
    for (const transition of transitions) insert.run(transition);
  })();
}
