/**
 * The record of everything granted, in SQLite: durable before it is acted on
 * (WAL, synchronous=FULL), so that neither kill -9 nor a power cut leaves a
 * hole without a record. Only this file knows SQL.
 *
 * The interface is asynchronous, since a commit is something to wait for:
 * whoever waited looks again at what its decision rested on.
 */
import Database from 'better-sqlite3';
import { AgentError } from '../core/errors.ts';
import { address } from '../core/net.ts';
import type {
  CertificateId,
  DeviceReference,
  ExternalId,
  GrantId,
  InnerAddress,
  RealmName,
  ServerName,
} from '../core/words.ts';
import { type Binding, type Change, touched } from '../directory/directory.ts';
import { type EndCause, TRANSITIONS } from './lifecycle.ts';
import type { EndedRecord, GrantRecord, KeptAnswer, Retry } from './record.ts';

export interface GrantStore {
  /** Writes a new, live grant, and in the same transaction what answers its request if that is sent again. */
  insert(record: GrantRecord, retry?: Retry): Promise<void>;
  /** Writes a later end, and what decided it, if the grant lives and its end on record still is `fromNs`. Returns whether so. */
  extend(record: GrantRecord, fromNs: bigint, retry?: Retry): Promise<boolean>;
  /** Writes that it ended, and its end as the gate had it. Ending an ended grant changes nothing. */
  end(record: EndedRecord): Promise<void>;
  /** Writes its end on the clock of a new boot. */
  reopen(record: GrantRecord): Promise<void>;
  /** Writes the gate's end, which is the earlier one. Lowering an ended grant changes nothing. */
  lower(record: GrantRecord): Promise<void>;
  /** The answer kept of a server's request with this key, since a time (UTC ms). */
  answerOf(server: ServerName, key: string, sinceMs: number): KeptAnswer | undefined;
  find(id: string): GrantRecord | undefined;
  live(): GrantRecord[];
  /** Grants that ended at or after a time (UTC ms). */
  endedSince(sinceMs: number): GrantRecord[];
  /** Live grants whose end on this boot's clock has passed. */
  due(bootId: string, nowNs: bigint): GrantId[];
  /** The latest time in any record (UTC ms): the clock must not stand before it. */
  latestMs(): number;
  /** A small number that stands for a name for ever, and for no other. */
  idOf(kind: 'class' | 'realm', name: string): number;
  bindings(): Binding[];
  /** Writes a change of bindings, whole or not at all. */
  rebind(change: Change): Promise<void>;
  /** Forgets grants that ended, and answers that were kept, before a time each (UTC ms). */
  purge(endedBeforeMs: number, answeredBeforeMs: number): Promise<void>;
  close(): void;
}

const SCHEMA_VERSION = 2;

const SCHEMA = `
CREATE TABLE transitions (
  from_state TEXT NOT NULL, to_state TEXT NOT NULL, cause TEXT NOT NULL,
  PRIMARY KEY (from_state, to_state, cause)
) STRICT, WITHOUT ROWID;

CREATE TABLE grants (
  id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, gateway TEXT NOT NULL,
  server TEXT NOT NULL, certificate TEXT NOT NULL, mtc_user TEXT NOT NULL, device TEXT NOT NULL, reference TEXT NOT NULL,
  rule TEXT NOT NULL, policy_version TEXT NOT NULL,
  family TEXT NOT NULL, protocol TEXT NOT NULL, realm TEXT NOT NULL, inner_address TEXT NOT NULL,
  device_port INTEGER NOT NULL, remote TEXT NOT NULL, remote_port INTEGER NOT NULL,
  external_address TEXT NOT NULL, external_port INTEGER NOT NULL, entry INTEGER NOT NULL,
  granted_seconds INTEGER NOT NULL, started_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL,
  boot_id TEXT NOT NULL, expires_at_ns INTEGER NOT NULL,
  previous_state TEXT NOT NULL, state TEXT NOT NULL, cause TEXT NOT NULL, ended_at_ms INTEGER,
  correlator TEXT NOT NULL,
  CHECK ((state = 'ended') = (ended_at_ms IS NOT NULL)),
  FOREIGN KEY (previous_state, state, cause) REFERENCES transitions (from_state, to_state, cause)
) STRICT;
-- One live grant a key, and one an entry: also held by the database itself.
CREATE UNIQUE INDEX grants_key ON grants (server, device, family, protocol, device_port) WHERE state = 'live';
CREATE UNIQUE INDEX grants_entry ON grants (entry) WHERE state = 'live';
CREATE INDEX grants_due ON grants (expires_at_ns) WHERE state = 'live';
CREATE INDEX grants_ended ON grants (ended_at_ms) WHERE state = 'ended';
CREATE INDEX grants_started ON grants (started_at_ms);

-- What requests with an Idempotency-Key were answered: a grant, and its end at that time.
CREATE TABLE answers (
  server TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
  grant_id TEXT NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
  expires_at_ms INTEGER NOT NULL, answered_at_ms INTEGER NOT NULL,
  PRIMARY KEY (server, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_grant ON answers (grant_id);
CREATE INDEX answers_time ON answers (answered_at_ms);

CREATE TABLE ids (
  kind TEXT NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL,
  PRIMARY KEY (kind, name), UNIQUE (kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE bindings (
  realm TEXT NOT NULL, address TEXT NOT NULL, device TEXT NOT NULL, source TEXT NOT NULL, since_ms INTEGER NOT NULL,
  PRIMARY KEY (realm, address)
) STRICT, WITHOUT ROWID;
`;

/** What may change of a live grant, as the record has it. */
const AS_IN_RECORD = `certificate = @certificate, rule = @rule, policy_version = @policyVersion, mtc_user = @mtcUser, granted_seconds = @grantedSeconds,
  boot_id = @bootId, expires_at_ns = @expiresAtNs, expires_at_ms = @expiresAtMs`;

type Row = Record<string, string | bigint | null>;

/**
 * Opens the database, or makes it.
 * @throws AgentError storeInvalid where the file is no database of ours, or of a newer mtgate
 */
export function openStore(file: string): GrantStore {
  const db = openDatabase(file);
  const statement = {
    insert: db.prepare(`INSERT INTO grants VALUES (
      @id, @number, @gateway, @server, @certificate, @mtcUser, @device, @reference, @rule, @policyVersion, @family, @protocol,
      @realm, @innerAddress, @devicePort, @remote, @remotePort, @externalAddress, @externalPort, @entry,
      @grantedSeconds, @startedAtMs, @expiresAtMs, @bootId, @expiresAtNs, 'none', 'live', 'granted', NULL,
      @correlator)`),
    extend: db.prepare(`UPDATE grants SET previous_state = state, cause = 'extended', ${AS_IN_RECORD}
      WHERE id = @id AND state = 'live' AND expires_at_ns = @fromNs`),
    end: db.prepare(`UPDATE grants SET previous_state = state, state = 'ended', cause = @endCause,
      ended_at_ms = @endedAtMs, ${AS_IN_RECORD} WHERE id = @id AND state <> 'ended'`),
    reopen: db.prepare(`UPDATE grants SET previous_state = state, cause = 'reopened', ${AS_IN_RECORD} WHERE id = @id`),
    lower: db.prepare(`UPDATE grants SET previous_state = state, cause = 'lowered', ${AS_IN_RECORD}
      WHERE id = @id AND state <> 'ended'`),
    keepAnswer: db.prepare('INSERT OR REPLACE INTO answers VALUES (@server, @key, @request, @id, @expiresAtMs, @atMs)'),
    // An end that comes down takes back what promised more. A grant that the gate never had was promised to nobody.
    withdrawAnswers: db.prepare(`DELETE FROM answers
      WHERE grant_id = @id AND (expires_at_ms > @expiresAtMs OR @endCause = 'lostInGate')`),
    answerOf: db.prepare(`SELECT request, grant_id AS "grant", expires_at_ms AS expiresAtMs FROM answers
      WHERE server = ? AND key = ? AND answered_at_ms > ?`),
    find: db.prepare('SELECT * FROM grants WHERE id = ?').safeIntegers(),
    live: db.prepare(`SELECT * FROM grants WHERE state = 'live'`).safeIntegers(),
    endedSince: db
      .prepare(`SELECT * FROM grants WHERE state = 'ended' AND ended_at_ms >= ? ORDER BY ended_at_ms`)
      .safeIntegers(),
    due: db.prepare(`SELECT id FROM grants WHERE state = 'live' AND boot_id = ? AND expires_at_ns <= ?`).pluck(),
    latest: db
      .prepare(`SELECT max(coalesce((SELECT max(started_at_ms) FROM grants), 0),
      coalesce((SELECT max(ended_at_ms) FROM grants WHERE state = 'ended'), 0),
      coalesce((SELECT max(expires_at_ms - granted_seconds * 1000) FROM grants WHERE state = 'live'), 0))`)
      .pluck(),
    idOf: db.prepare('SELECT id FROM ids WHERE kind = ? AND name = ?').pluck(),
    newId: db
      .prepare('INSERT INTO ids SELECT ?, ?, coalesce(max(id), 0) + 1 FROM ids WHERE kind = ? RETURNING id')
      .pluck(),
    bindings: db.prepare('SELECT device, realm, address, source, since_ms AS sinceMs FROM bindings'),
    bind: db.prepare('INSERT INTO bindings VALUES (@realm, @address, @device, @source, @sinceMs)'),
    unbind: db.prepare('DELETE FROM bindings WHERE realm = @realm AND address = @address'),
    purge: db.prepare(`DELETE FROM grants WHERE state = 'ended' AND ended_at_ms < ?`),
    purgeAnswers: db.prepare('DELETE FROM answers WHERE answered_at_ms < ?'),
  };
  /** Asked for with every grant, and for ever the same. */
  const ids = new Map<string, number>();
  const rebind = db.transaction((change: Change) => {
    for (const { inner } of touched(change)) statement.unbind.run(bindingKey(inner));
    for (const { device, inner, source, sinceMs } of change.gains) {
      statement.bind.run({ device, source, sinceMs, ...bindingKey(inner) });
    }
  });
  const keepAnswer = ({ server, id, expiresAtMs }: GrantRecord, retry: Retry | undefined) =>
    retry && statement.keepAnswer.run({ server, id, expiresAtMs, ...retry });
  const withdrawAnswers = ({ id, expiresAtMs }: GrantRecord, endCause?: EndCause) =>
    statement.withdrawAnswers.run({ id, expiresAtMs, endCause });
  const insert = db.transaction((record: GrantRecord, retry?: Retry) => {
    statement.insert.run(rowOf(record));
    keepAnswer(record, retry);
  });
  const extend = db.transaction((record: GrantRecord, fromNs: bigint, retry?: Retry) => {
    const isExtended = statement.extend.run({ ...rowOf(record), fromNs }).changes > 0;
    if (isExtended) keepAnswer(record, retry);
    return isExtended;
  });
  const end = db.transaction((record: EndedRecord) => {
    if (statement.end.run(rowOf(record)).changes > 0) withdrawAnswers(record, record.endCause);
  });
  const lower = db.transaction((record: GrantRecord) => {
    if (statement.lower.run(rowOf(record)).changes > 0) withdrawAnswers(record);
  });
  const purge = db.transaction((endedBeforeMs: number, answeredBeforeMs: number) => {
    statement.purgeAnswers.run(answeredBeforeMs);
    statement.purge.run(endedBeforeMs);
  });
  const run = async <Result>(write: () => Result): Promise<Result> => {
    try {
      return write();
    } catch (cause) {
      throw new AgentError('storeFailed', `${file}: ${(cause as Error).message}`, { cause });
    }
  };
  return {
    insert: (record, retry) => run(() => insert(record, retry)),
    extend: (record, fromNs, retry) => run(() => extend(record, fromNs, retry)),
    end: (record) => run(() => end(record)),
    reopen: (record) => run(() => void statement.reopen.run(rowOf(record))),
    lower: (record) => run(() => lower(record)),
    answerOf: (server, key, sinceMs) => statement.answerOf.get(server, key, sinceMs) as KeptAnswer | undefined,
    find: (id) => {
      const row = statement.find.get(id) as Row | undefined;
      return row && recordOf(row);
    },
    live: () => (statement.live.all() as Row[]).map(recordOf),
    endedSince: (sinceMs) => (statement.endedSince.all(sinceMs) as Row[]).map(recordOf),
    due: (bootId, nowNs) => statement.due.all(bootId, nowNs) as GrantId[],
    latestMs: () => statement.latest.get() as number,
    idOf: (kind, name) => {
      const key = `${kind} ${name}`;
      const id = ids.get(key) ?? ((statement.idOf.get(kind, name) ?? statement.newId.get(kind, name, kind)) as number);
      ids.set(key, id);
      return id;
    },
    bindings: () => (statement.bindings.all() as BindingRow[]).map(bindingOf),
    rebind: (change) => run(() => rebind(change)),
    purge: (endedBeforeMs, answeredBeforeMs) => run(() => purge(endedBeforeMs, answeredBeforeMs)),
    close: () => db.close(),
  };
}

function openDatabase(file: string): Database.Database {
  let db: Database.Database | undefined;
  try {
    db = new Database(file);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    db.pragma('foreign_keys = ON');
    const version = db.pragma('user_version', { simple: true }) as number;
    if (version === 0) create(db);
    else if (version !== SCHEMA_VERSION) {
      throw new Error(`its version is ${version}, and this mtgate reads ${SCHEMA_VERSION}`);
    }
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

function create(db: Database.Database): void {
  if (db.prepare('SELECT 1 FROM sqlite_master').get()) throw new Error('it is a database of another program');
  db.transaction(() => {
    db.exec(SCHEMA);
    db.pragma(`user_version = ${SCHEMA_VERSION}`);
  })();
}

interface BindingRow extends Omit<Binding, 'inner'> {
  readonly realm: RealmName;
  readonly address: string;
}

function bindingOf({ realm, address: text, ...rest }: BindingRow): Binding {
  return { ...rest, inner: { realm, address: address(text) } };
}

function bindingKey(inner: InnerAddress) {
  return { realm: inner.realm, address: inner.address.text };
}

function rowOf(record: GrantRecord): Record<string, unknown> {
  const { inner, external, remote, reference, index, state: _, ...rest } = record;
  return {
    ...rest,
    reference: JSON.stringify(reference),
    realm: inner.realm,
    innerAddress: inner.address.text,
    remote: remote === 'all' ? 'all' : remote.text,
    externalAddress: external.address.text,
    externalPort: external.port,
    entry: index,
  };
}

function recordOf(row: Row): GrantRecord {
  const text = (column: string) => row[column] as string;
  const number = (column: string) => Number(row[column]);
  const ended = row['ended_at_ms'] !== null;
  return {
    id: text('id') as GrantId,
    number: number('number'),
    gateway: text('gateway'),
    server: text('server') as GrantRecord['server'],
    certificate: text('certificate') as CertificateId,
    mtcUser: text('mtc_user') as GrantRecord['mtcUser'],
    device: text('device') as ExternalId,
    reference: JSON.parse(text('reference')) as DeviceReference,
    rule: text('rule'),
    policyVersion: text('policy_version'),
    family: text('family') as GrantRecord['family'],
    protocol: text('protocol') as GrantRecord['protocol'],
    inner: { realm: text('realm') as RealmName, address: address(text('inner_address')) },
    devicePort: number('device_port'),
    remote: text('remote') === 'all' ? 'all' : address(text('remote')),
    remotePort: number('remote_port'),
    external: { address: address(text('external_address')), port: number('external_port') },
    index: number('entry'),
    grantedSeconds: number('granted_seconds'),
    startedAtMs: number('started_at_ms'),
    expiresAtMs: number('expires_at_ms'),
    bootId: text('boot_id'),
    expiresAtNs: row['expires_at_ns'] as bigint,
    state: text('state') as GrantRecord['state'],
    correlator: text('correlator'),
    ...(ended && { endCause: text('cause') as EndCause, endedAtMs: number('ended_at_ms') }),
  };
}
