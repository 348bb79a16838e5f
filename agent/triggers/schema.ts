/**
 * The tables of triggers.db: what is committed is on the disk, and the legal
 * transitions of the life cycle are a foreign key.
 *
 * An older copy of the file, put back, is not found out, as one of the grants
 * is: what it calls pending may have been delivered since. A device then gets
 * a trigger twice, and nothing opens.
 */
import type { Form } from '../sqlite/database.ts';
import { keepTransitions, TRANSITION_TABLE } from '../sqlite/transitions.ts';
import { TRANSITIONS } from './lifecycle.ts';

const SCHEMA = `${TRANSITION_TABLE}
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

/** What a file of an older version lacks. */
const ADDED = {
  2: `ALTER TABLE triggers ADD COLUMN grant_id TEXT;
    CREATE UNIQUE INDEX triggers_grant ON triggers (grant_id) WHERE grant_id IS NOT NULL;`,
};

/** Brings a file to the form in which MSISDN are written from now on (sqlite/identity-form.ts). */
export const BROUGHT_OVER = `UPDATE triggers SET reference = kept_reference(reference) WHERE reference LIKE '{"phoneNumber"%'`;

/** How triggers.db is opened, and connected to once more by its writer. */
export const TRIGGERS_FORM: Form = {
  version: 2,
  schema: SCHEMA,
  added: ADDED,
  synchronous: 'FULL',
  foreignKeys: true,
  onOpen: (db) => keepTransitions(db, TRANSITIONS),
};
