/**
 * One import into the registry, all or nothing. The rows are gathered beside
 * the registry (a file that nothing rests on), where no two may claim the same
 * identifier; then they are held against what is registered, and taken over in
 * one transaction. All that is wrong is told at once, up to a bound.
 *
 * What the devices file says an import may repeat, but not change.
 */
import type Database from 'better-sqlite3';
import { FOREIGN_HASH, type Identities } from '../core/identities.ts';
import { type DeviceRow, DeviceRows, formatRowIssue, type RowFormat, type RowIssue } from './device-rows.ts';
import type { OwnerOf } from './registry.ts';
import { type Row, rowOf } from './registry-rows.ts';

export interface ImportOrder {
  readonly format: RowFormat;
  /** What was imported before and is not among the rows goes. */
  readonly replace: boolean;
}

/** What came of an import, in devices; with `issues`, nothing. */
export type Imported =
  | { readonly issues: readonly string[]; readonly more: number }
  | { readonly rows: number; readonly added: number; readonly changed: number; readonly removed: number };

const ISSUES_MOST = 100;

const INCOMING = `CREATE TABLE incoming.devices (
  line INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, msisdn TEXT UNIQUE, imsi TEXT UNIQUE,
  interface_id TEXT, attributes TEXT, msisdn_clear TEXT, imsi_clear TEXT
) STRICT`;

/** What of a device an import can change. */
const SAID = ['msisdn', 'imsi', 'interface_id', 'attributes', 'msisdn_clear', 'imsi_clear'] as const;
const differs = `(${SAID.map((column) => `i.${column} IS NOT d.${column}`).join(' OR ')})`;

/** `db` is a connection to the registry, of nobody else; `beside` a file that is made and is of no use afterwards. */
export class Import {
  readonly #db: Database.Database;
  readonly #identities: Identities;
  readonly #replace: boolean;
  readonly #rows: DeviceRows;
  readonly #put: Database.Statement;
  readonly #issues: RowIssue[] = [];
  #more = 0;
  #taken = 0;

  constructor(
    db: Database.Database,
    beside: string,
    { format, replace }: ImportOrder,
    ownerOf: OwnerOf,
    identities: Identities,
  ) {
    this.#db = db;
    this.#identities = identities;
    this.#replace = replace;
    this.#rows = new DeviceRows(format, ownerOf);
    db.prepare('ATTACH ? AS incoming').run(beside);
    db.exec(
      'PRAGMA incoming.journal_mode = OFF; PRAGMA incoming.synchronous = OFF; PRAGMA incoming.cache_size = -65536',
    );
    db.exec(INCOMING);
    this.#put = db.prepare(`INSERT OR IGNORE INTO incoming.devices
      VALUES (@line, @external_id, @msisdn, @imsi, @interface_id, @attributes, @msisdn_clear, @imsi_clear)`);
    db.exec('BEGIN');
  }

  /** Bytes of the rows, as they come. */
  take(bytes: Uint8Array): void {
    for (const read of this.#rows.take(bytes)) this.#gather(read);
  }

  /**
   * No more bytes come. Where nothing is wrong the rows are taken over, in a
   * transaction that stays open: `commit` closes it, and so does the end of
   * the connection, which takes all of it back.
   */
  finish(): Imported {
    for (const read of this.#rows.end()) this.#gather(read);
    this.#db.exec('COMMIT; BEGIN IMMEDIATE');
    for (const [sql, tell] of this.#clashes()) {
      for (const row of this.#db.prepare(sql).iterate() as IterableIterator<Clash>) this.#note(tell(row));
    }
    if (this.#issues.length > 0) {
      const issues = [...this.#issues].sort((a, b) => a.line - b.line).map(formatRowIssue);
      return { issues, more: this.#more };
    }
    return { rows: this.#taken, ...this.#takeOver() };
  }

  commit(): void {
    this.#db.exec('COMMIT');
  }

  #gather(read: DeviceRow | RowIssue): void {
    if ('message' in read) {
      this.#note(read);
      return;
    }
    const { line, device } = read;
    const foreign = (['msisdn', 'imsi'] as const).filter((name) => this.#identities.isForeign(device[name] ?? ''));
    for (const column of foreign) this.#note({ line, column, message: FOREIGN_HASH });
    const row = rowOf(device, this.#identities);
    this.#taken += 1;
    if (this.#put.run({ ...row, line }).changes > 0) return;
    for (const [column, name, what] of IDENTIFIERS) {
      const held = row[name];
      const first = held && this.#db.prepare(`SELECT line FROM incoming.devices WHERE ${name} = ?`).pluck().get(held);
      if (!first) continue;
      const whose = name === 'external_id' ? `${what} ${held}` : what;
      this.#note({ line, column, message: `duplicate ${whose}; it stands in line ${first} already` });
    }
  }

  #note(issue: RowIssue): void {
    if (this.#issues.length < ISSUES_MOST) this.#issues.push(issue);
    else this.#more += 1;
  }

  /** The rows that the registry has no room for, and how each is told. */
  *#clashes(): Generator<[sql: string, (row: Clash) => RowIssue]> {
    yield [
      `SELECT i.line, i.external_id AS value FROM incoming.devices i CROSS JOIN main.devices d USING (external_id)
        WHERE d.source = 'file' AND ${differs} ORDER BY i.line`,
      ({ line, value }) => ({
        line,
        column: 'externalId',
        message: `the devices file says otherwise of ${value}; change it there, or say here what it says`,
      }),
    ];
    const stays = this.#replace
      ? `d.source = 'file'`
      : `(d.source = 'file' OR NOT EXISTS (SELECT 1 FROM incoming.devices o WHERE o.external_id = d.external_id))`;
    for (const [column, name, what] of IDENTIFIERS.slice(1)) {
      yield [
        `SELECT i.line, d.external_id AS holder, d.source
          FROM incoming.devices i CROSS JOIN main.devices d ON d.${name} = i.${name}
          WHERE d.external_id <> i.external_id AND ${stays} ORDER BY i.line`,
        ({ line, holder, source }) => ({
          line,
          column,
          message: `duplicate ${what}; ${holder} has it already, by ${source === 'file' ? 'the devices file' : 'an import'}`,
        }),
      ];
    }
  }

  /** Devices that stay as they are are not written. */
  #takeOver(): { added: number; changed: number; removed: number } {
    const run = (sql: string) => this.#db.prepare(sql).run().changes;
    const removed = this.#replace
      ? run(`DELETE FROM main.devices WHERE source = 'import'
          AND NOT EXISTS (SELECT 1 FROM incoming.devices i WHERE i.external_id = main.devices.external_id)`)
      : 0;
    const changed = run(`DELETE FROM main.devices WHERE source = 'import' AND external_id IN (
      SELECT external_id FROM incoming.devices i CROSS JOIN main.devices d USING (external_id) WHERE ${differs})`);
    const written = run(`INSERT INTO main.devices (external_id, ${SAID.join(', ')}, source)
      SELECT external_id, ${SAID.join(', ')}, 'import' FROM incoming.devices i
      WHERE NOT EXISTS (SELECT 1 FROM main.devices d WHERE d.external_id = i.external_id) ORDER BY external_id`);
    return { added: written - changed, changed, removed };
  }
}

interface Clash {
  readonly line: number;
  readonly value: string;
  readonly holder: string;
  readonly source: string;
}

const IDENTIFIERS: readonly (readonly [column: string, name: keyof Row, what: string])[] = [
  ['externalId', 'external_id', 'external identifier'],
  ['msisdn', 'msisdn', 'MSISDN'],
  ['imsi', 'imsi', 'IMSI'],
];
