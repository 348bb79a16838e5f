/**
 * The registry in SQLite, in a file of its own (`registry.db`): a million
 * devices lie there and not in the agent's memory, and one is found by index
 * in some microseconds, whether it is there or not.
 *
 * What the devices file says is written here, in one transaction; imports come
 * by a connection of their own, in another thread. Those that write take turns
 * (`writing`), so that nobody waits for a lock with the loop in hand.
 *
 * A file that cannot be used fails the start: without it nobody knows which
 * devices were imported, and each would be unknown.
 */
import Database from 'better-sqlite3';
import { AgentError } from '../core/errors.ts';
import type { Identities } from '../core/identities.ts';
import { OneAtATime } from '../core/one-at-a-time.ts';
import type { Device, ExternalId } from '../core/words.ts';
import { connect, type Form, openDatabase, orUnusable } from '../sqlite/database.ts';
import { bringOver } from '../sqlite/identity-form.ts';
import type { DomainIndex } from './owned-devices.ts';
import type { RegisteredDevice, Registry, Source } from './registry.ts';
import {
  ADDED,
  BROUGHT_OVER,
  DOMAIN,
  DOMAIN_INDEX,
  deviceOf,
  FOREIGN,
  type Row,
  rowOf,
  SCHEMA,
  SCHEMA_VERSION,
} from './registry-rows.ts';

export interface RegistryStore extends Registry, DomainIndex {
  /** How many devices are registered. */
  readonly size: number;
  /** Registers the devices of the devices file; those that are there no more go. @throws AgentError devicesInvalid, registryFailed */
  replaceFile(devices: readonly Device[]): Promise<void>;
  /** Nobody else writes meanwhile. */
  writing<Result>(write: () => Promise<Result>): Promise<Result>;
  /** Another connection has added so many devices, or removed them. */
  grewBy(devices: number): void;
  /** All devices as they are now, by external identifier, whatever is written while they are read. To be closed. */
  snapshot(): Snapshot;
  close(): void;
}

export interface Snapshot {
  devices(): Iterable<RegisteredDevice>;
  close(): void;
}

type FullRow = Row & { readonly source: Source };

const FORM: Form = {
  version: SCHEMA_VERSION,
  schema: SCHEMA,
  added: ADDED,
  synchronous: 'FULL',
  onOpen: (db) => void db.exec(DOMAIN_INDEX), // a file of an earlier mtgate has none
};

/** Opens the file, or makes it. @throws AgentError registryInvalid, identityKeyChanged */
export function openRegistry(file: string, identities: Identities): RegistryStore {
  const db = orUnusable(file, 'registryInvalid', () => openDatabase(file, FORM));
  try {
    const lost = db.prepare(FOREIGN).pluck().get({ keyId: identities.keyId });
    if (lost !== undefined) throw keyChanged(file, lost as string, identities);
    bringOver(db, identities, BROUGHT_OVER);
  } catch (fault) {
    db.close();
    throw fault instanceof AgentError ? fault : faultOf(file, fault);
  }
  const statement = {
    has: db.prepare('SELECT 1 FROM devices WHERE external_id = ?').pluck(),
    byExternalId: db.prepare('SELECT * FROM devices WHERE external_id = ?'),
    byMsisdn: db.prepare('SELECT * FROM devices WHERE msisdn = ?'),
    byImsi: db.prepare('SELECT * FROM devices WHERE imsi = ?'),
    nobody: db.prepare(`SELECT 'nobody@nowhere.invalid' AS external_id, 'hash:of.nobody' AS msisdn, NULL AS imsi,
      NULL AS interface_id, '{"model":"M2"}' AS attributes, 'file' AS source, NULL AS msisdn_clear, NULL AS imsi_clear`),
    domainAfter: db.prepare(`SELECT ${DOMAIN} FROM devices WHERE ${DOMAIN} > ? ORDER BY ${DOMAIN} LIMIT 1`).pluck(),
    ofDomain: db
      .prepare(`SELECT external_id FROM devices WHERE ${DOMAIN} = ? AND external_id > ? AND external_id >= ?
        AND external_id < ? ORDER BY external_id LIMIT ?`)
      .pluck(),
    ofFile: db.prepare(`SELECT * FROM devices WHERE source = 'file'`),
    remove: db.prepare(`DELETE FROM devices WHERE external_id = ? AND source = 'file'`),
    put: db.prepare(`INSERT INTO devices
      VALUES (@external_id, @msisdn, @imsi, @interface_id, @attributes, 'file', @msisdn_clear, @imsi_clear)`),
  };
  const guarded = <Result>(act: () => Result): Result => {
    try {
      return act();
    } catch (cause) {
      throw faultOf(file, cause);
    }
  };
  const find = (by: Database.Statement, value: string): RegisteredDevice | undefined =>
    guarded(() => {
      const row = by.get(value) as FullRow | undefined;
      const device = deviceOf(row ?? (statement.nobody.get() as FullRow)); // nobody's takes as long as somebody's
      return row && device;
    });
  const replaceFile = db.transaction((devices: readonly Device[]) => {
    let removed = 0;
    const wanted = new Map(devices.map((device) => [device.externalId as string, rowOf(device, identities)]));
    for (const { source: _, ...row } of statement.ofFile.all() as FullRow[]) {
      // Those that change go first: two of them may have changed places.
      if (isSame(row, wanted.get(row.external_id))) wanted.delete(row.external_id);
      else removed += statement.remove.run(row.external_id).changes;
    }
    for (const row of wanted.values()) statement.put.run(row);
    return wanted.size - removed;
  });
  let size = guarded(() => db.prepare('SELECT count(*) FROM devices').pluck().get() as number);
  const turns = new OneAtATime();
  return {
    get size() {
      return size;
    },
    has: (externalId) => guarded(() => statement.has.get(externalId) !== undefined),
    byExternalId: (externalId) => find(statement.byExternalId, externalId),
    byMsisdn: (msisdn) => find(statement.byMsisdn, identities.hash('msisdn', msisdn)),
    byImsi: (imsi) => find(statement.byImsi, identities.hash('imsi', imsi)),
    domainAfter: (domain) => guarded(() => statement.domainAfter.get(domain) as string | undefined),
    // Identifiers are ASCII: behind all that begin so stands what begins so and goes on with DEL.
    ofDomain: (domain, start, after, limit) =>
      guarded(() => statement.ofDomain.all(domain, after, start, `${start}\x7f`, limit) as ExternalId[]),
    replaceFile: (devices) =>
      turns.inTurn(async () => {
        size += guarded(() => replaceFile.immediate(devices));
      }),
    writing: (write) => turns.inTurn(write),
    grewBy(added) {
      size += added;
    },
    snapshot: () =>
      guarded(() => {
        const reader = file === ':memory:' ? new Database(db.serialize()) : new Database(file, { readonly: true });
        reader.exec('BEGIN');
        const all = reader.prepare('SELECT * FROM devices ORDER BY external_id');
        return {
          *devices() {
            for (const row of all.iterate() as IterableIterator<FullRow>) yield deviceOf(row);
          },
          close: () => void reader.close(),
        };
      }),
    close: () => void db.close(),
  };
}

/** One more connection to a registry that is open already, to write by. */
export function connectRegistry(file: string): Database.Database {
  return connect(file, FORM);
}

function keyChanged(file: string, device: string, { keyId }: Identities): AgentError {
  const why = `the identifiers of imported devices (${device} is one) are hashed by another key than ${keyId}, which is this gateway's now`;
  return new AgentError('identityKeyChanged', `${file}: ${why}`);
}

function faultOf(file: string, cause: unknown): AgentError {
  const { code, message } = cause as Error & { code?: string };
  // What was imported while the devices file was read: looked at once more, it says where.
  if (code?.startsWith('SQLITE_CONSTRAINT'))
    return new AgentError('devicesInvalid', `${file}: a device of the devices file has been imported meanwhile`);
  return new AgentError('registryFailed', `${file}: ${message}`, { cause });
}

function isSame(one: Row, other: Row | undefined): boolean {
  return (
    one.msisdn === other?.msisdn &&
    one.imsi === other.imsi &&
    one.interface_id === other.interface_id &&
    one.attributes === other.attributes &&
    one.msisdn_clear === other.msisdn_clear &&
    one.imsi_clear === other.imsi_clear
  );
}
