/**
 * In which form a database has IMSI and MSISDN: each file says so, and one
 * that another start wrote otherwise is rewritten before anybody reads it.
 * Where they are not kept any more, nothing of them stays behind, in the pages
 * that have become free and in the log neither: so the file is written anew.
 * Killed in between, it is done again.
 */
import type Database from 'better-sqlite3';
import type { Identities } from '../core/identities.ts';
import type { DeviceReference } from '../core/words.ts';

const TABLE = `CREATE TABLE IF NOT EXISTS identity_form
  (one INTEGER PRIMARY KEY CHECK (one = 1), form TEXT NOT NULL) STRICT`;

/**
 * Rewrites a file by these statements, unless it has the form already. They may
 * use `hashed(kind, text)` and `kept_text(kind, text)`, `kept()`, and, of texts
 * with names in them, `kept_reference(json)` (a device's name, alone or in a
 * JSON array or object; `compared_reference` is hashed always), `kept_holder(text)`
 * `kept_name(text)` and `kept_why(text)`.
 */
export function bringOver(db: Database.Database, identities: Identities, statements: string): void {
  db.exec(TABLE);
  const form = db.prepare('SELECT form FROM identity_form').pluck().get();
  if (form === identities.form) return;
  const functions: Readonly<Record<string, (...of: never[]) => unknown>> = {
    hashed: (kind: 'imsi' | 'msisdn', text: string | null) => text && identities.hash(kind, text),
    kept_text: (kind: 'imsi' | 'msisdn', text: string | null) =>
      text && !identities.keep ? identities.hash(kind, text) : text,
    kept: () => Number(identities.keep),
    kept_reference: (json: string) => JSON.stringify(within(JSON.parse(json), (name) => identities.kept(name))),
    compared_reference: (json: string) => JSON.stringify(within(JSON.parse(json), (name) => identities.compared(name))),
    kept_holder: (text: string) => keptHolder(text, identities),
    kept_name: (text: string) => identities.toldAs(text),
    // Of an earlier mtgate: what another request with the same Idempotency-Key had asked.
    kept_why: (text: string) =>
      text.replace(/"phoneNumber":"(\+?\d+)"/g, (_, number: string) => JSON.stringify(identities.toldAs(number))),
  };
  for (const [name, act] of Object.entries(functions)) db.function(name, { deterministic: true }, act as never);
  db.transaction(() => db.exec(statements)).immediate();
  if (!identities.keep) {
    db.exec('VACUUM');
    db.pragma('wal_checkpoint(TRUNCATE)');
  }
  db.prepare('INSERT OR REPLACE INTO identity_form VALUES (1, ?)').run(identities.form);
}

/** What was JSON with every number that names a device turned into something else. */
function within(value: unknown, turn: (name: DeviceReference) => DeviceReference): unknown {
  if (Array.isArray(value)) return value.map((one) => within(one, turn));
  if (typeof value !== 'object' || value === null) return value;
  if ('phoneNumber' in value) return turn(value as DeviceReference);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, within(one, turn)]));
}

/** `imsi:…` and `msisdn:…` (directory/binding.ts). */
function keptHolder(text: string, identities: Identities): string {
  const [, kind, name] = /^(imsi|msisdn):(\d+)$/.exec(text) ?? [];
  return kind && name && !identities.keep ? `${kind}:${identities.hash(kind as 'imsi' | 'msisdn', name)}` : text;
}
