/**
 * The tables of the grants' database (mtgate.db): what is committed is on the
 * disk, and the legal transitions of the life cycle are a foreign key.
 */
import type { Form } from '../sqlite/database.ts';
import { keepTransitions, TRANSITION_TABLE } from '../sqlite/transitions.ts';
import { TRANSITIONS } from './lifecycle.ts';

const SCHEMA = `${TRANSITION_TABLE}
CREATE TABLE grants (
  id TEXT PRIMARY KEY, number INTEGER NOT NULL, gateway TEXT NOT NULL,
  server TEXT NOT NULL, certificate TEXT NOT NULL, mtc_user TEXT NOT NULL, device TEXT NOT NULL, reference TEXT NOT NULL,
  rule TEXT NOT NULL, policy_version TEXT NOT NULL,
  family TEXT NOT NULL, protocol TEXT NOT NULL, realm TEXT NOT NULL, inner_address TEXT NOT NULL,
  device_port INTEGER NOT NULL, remote TEXT NOT NULL, remote_port INTEGER NOT NULL,
  external_address TEXT NOT NULL, external_port INTEGER NOT NULL, entry INTEGER NOT NULL,
  granted_seconds INTEGER NOT NULL, started_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL,
  boot_id TEXT NOT NULL, expires_at_ns INTEGER NOT NULL,
  previous_state TEXT NOT NULL, state TEXT NOT NULL, cause TEXT NOT NULL, ended_at_ms INTEGER,
  correlator TEXT NOT NULL, packets_per_second INTEGER, byte_quota INTEGER,
  CHECK ((state = 'ended') = (ended_at_ms IS NOT NULL)),
  FOREIGN KEY (previous_state, state, cause) REFERENCES transitions (from_state, to_state, cause)
) STRICT;
-- Each index costs every grant: these two, and no more. One grant an entry that has not ended, as in the gate.
CREATE UNIQUE INDEX grants_entry ON grants (entry) WHERE state <> 'ended';
CREATE INDEX grants_ended ON grants (ended_at_ms) WHERE state = 'ended';

-- Requests that wait for their device. One that is granted is gone from here, and a grant of the same id.
CREATE TABLE waits (
  id TEXT PRIMARY KEY, gateway TEXT NOT NULL,
  server TEXT NOT NULL, certificate TEXT NOT NULL, correlator TEXT NOT NULL, request_address TEXT NOT NULL,
  device TEXT NOT NULL, mtc_user TEXT NOT NULL, rule TEXT NOT NULL, policy_version TEXT NOT NULL,
  remote TEXT NOT NULL, family TEXT NOT NULL, protocol TEXT NOT NULL, device_port INTEGER NOT NULL, ask TEXT NOT NULL,
  wait_seconds INTEGER NOT NULL, requested_at_ms INTEGER NOT NULL, waits_until_ms INTEGER NOT NULL,
  boot_id TEXT NOT NULL, waits_until_ns INTEGER NOT NULL,
  previous_state TEXT NOT NULL, state TEXT NOT NULL, cause TEXT NOT NULL, ended_at_ms INTEGER,
  CHECK ((state = 'ended') = (ended_at_ms IS NOT NULL)),
  FOREIGN KEY (previous_state, state, cause) REFERENCES transitions (from_state, to_state, cause)
) STRICT, WITHOUT ROWID;
CREATE INDEX waits_waiting ON waits (requested_at_ms, id) WHERE state = 'waiting';
CREATE INDEX waits_ended ON waits (ended_at_ms) WHERE state = 'ended';

-- What requests with an Idempotency-Key were answered: a grant, or a request that waits, and its end at that time.
CREATE TABLE answers (
  server TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
  grant_id TEXT NOT NULL,
  expires_at_ms INTEGER NOT NULL, answered_at_ms INTEGER NOT NULL,
  PRIMARY KEY (server, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_grant ON answers (grant_id);
CREATE INDEX answers_time ON answers (answered_at_ms);

CREATE TABLE ids (
  kind TEXT NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL,
  PRIMARY KEY (kind, name), UNIQUE (kind, id)
) STRICT, WITHOUT ROWID;

-- A holder is a device, or a subscriber that is none (directory/binding.ts).
CREATE TABLE bindings (
  realm TEXT NOT NULL, prefix TEXT NOT NULL, target TEXT, holder TEXT NOT NULL, source TEXT NOT NULL,
  since_ms INTEGER NOT NULL, unconfirmed INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (realm, prefix)
) STRICT, WITHOUT ROWID;

CREATE TABLE ended_bindings (
  realm TEXT NOT NULL, prefix TEXT NOT NULL, target TEXT, holder TEXT NOT NULL, source TEXT NOT NULL,
  since_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL, cause TEXT NOT NULL
) STRICT;
CREATE INDEX ended_bindings_holder ON ended_bindings (holder, until_ms);
CREATE INDEX ended_bindings_time ON ended_bindings (until_ms);

-- Of accounting. A session that has stopped is remembered for a day, so that it never binds again.
CREATE TABLE sessions (
  client TEXT NOT NULL, nas TEXT NOT NULL, session TEXT NOT NULL,
  imsi TEXT, msisdn TEXT, external_id TEXT, holder TEXT, ranges TEXT, last_at_ms INTEGER, heard_ms INTEGER,
  stopped_at_ms INTEGER,
  CHECK ((stopped_at_ms IS NULL) = (ranges IS NOT NULL)),
  PRIMARY KEY (client, nas, session)
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_stopped ON sessions (stopped_at_ms) WHERE stopped_at_ms IS NOT NULL;

CREATE TABLE nas_restarts (
  client TEXT NOT NULL, nas TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (client, nas)
) STRICT, WITHOUT ROWID;
`;

/** What a file of an older version lacks. */
const ADDED = {
  6: `DROP INDEX grants_entry; CREATE UNIQUE INDEX grants_entry ON grants (entry) WHERE state <> 'ended';
    ALTER TABLE bindings ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;`,
};

/** Brings a file to the form in which IMSI and MSISDN are written from now on (sqlite/identity-form.ts). */
export const BROUGHT_OVER = `
UPDATE grants SET reference = kept_reference(reference) WHERE reference LIKE '{"phoneNumber"%';
UPDATE waits SET ask = kept_reference(ask) WHERE ask LIKE '%"phoneNumber"%';
UPDATE answers SET request = compared_reference(request) WHERE request LIKE '%"phoneNumber"%';
UPDATE bindings SET holder = kept_holder(holder) WHERE holder NOT LIKE '%@%';
UPDATE ended_bindings SET holder = kept_holder(holder) WHERE holder NOT LIKE '%@%';
UPDATE sessions SET imsi = kept_text('imsi', imsi), msisdn = kept_text('msisdn', msisdn), holder = kept_holder(holder)
  WHERE holder IS NOT NULL;
`;

/** How many batches have been written: an older copy knows of fewer (last-used.ts). */
const BATCHES = `CREATE TABLE IF NOT EXISTS batches (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO batches VALUES (1, 0)`;

/** How the grants' database is opened, and connected to once more by its writer. */
export const GRANTS_FORM: Form = {
  version: 6,
  schema: SCHEMA,
  added: ADDED,
  synchronous: 'FULL',
  foreignKeys: true,
  onOpen: (db) => {
    db.exec(BATCHES);
    keepTransitions(db, TRANSITIONS);
  },
};
