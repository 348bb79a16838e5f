/**
 * Devices in SQLite: the schema of `registry.db`, and a device as its row.
 *
 * The table is its own index of external identifiers; MSISDN and IMSI have one
 * each, and are one device's by them, whatever is written. Both are what
 * stands for them (core/identities.ts); as they are they stand beside it only
 * where they are kept.
 */
import { type Identities, isHashed } from '../core/identities.ts';
import type { Attributes, Device } from '../core/words.ts';
import type { RegisteredDevice, Source } from './registry.ts';

export const SCHEMA_VERSION = 2;

export const SCHEMA = `
CREATE TABLE devices (
  external_id TEXT PRIMARY KEY, msisdn TEXT UNIQUE, imsi TEXT UNIQUE, interface_id TEXT, attributes TEXT,
  source TEXT NOT NULL CHECK (source IN ('file', 'import')), msisdn_clear TEXT, imsi_clear TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_of_file ON devices (source) WHERE source = 'file';
`;

/** What a file of an older version lacks. */
export const ADDED = {
  2: 'ALTER TABLE devices ADD COLUMN msisdn_clear TEXT; ALTER TABLE devices ADD COLUMN imsi_clear TEXT;',
};

/** Brings a file to the form in which it is written from now on; `hashed(kind, text)` and `kept()` are functions of the connection. */
export const BROUGHT_OVER = `UPDATE devices SET
  msisdn_clear = CASE WHEN kept() THEN coalesce(msisdn_clear, CASE WHEN msisdn NOT GLOB 'hash:*' THEN msisdn END) END,
  imsi_clear = CASE WHEN kept() THEN coalesce(imsi_clear, CASE WHEN imsi NOT GLOB 'hash:*' THEN imsi END) END,
  msisdn = hashed('msisdn', coalesce(msisdn_clear, msisdn)), imsi = hashed('imsi', coalesce(imsi_clear, imsi))`;

/** An imported device whose MSISDN or IMSI is a hash by another key than the one named: nobody finds it. */
export const FOREIGN = `SELECT external_id FROM devices WHERE source = 'import'
  AND ((msisdn GLOB 'hash:*' AND msisdn NOT GLOB 'hash:' || @keyId || '.*' AND msisdn_clear IS NULL)
    OR (imsi GLOB 'hash:*' AND imsi NOT GLOB 'hash:' || @keyId || '.*' AND imsi_clear IS NULL)) LIMIT 1`;

/** The domain of a device, and an index by it: an MTC user's devices are found by their domains. */
export const DOMAIN = "substr(external_id, instr(external_id, '@') + 1)";
export const DOMAIN_INDEX = `CREATE INDEX IF NOT EXISTS devices_by_domain ON devices (${DOMAIN}, external_id)`;

/** What is said of a device; attributes as JSON, in the order of their names. */
export interface Row {
  readonly external_id: string;
  readonly msisdn: string | null;
  readonly imsi: string | null;
  readonly interface_id: string | null;
  readonly attributes: string | null;
  readonly msisdn_clear: string | null;
  readonly imsi_clear: string | null;
}

export function rowOf(device: Device, identities: Identities): Row {
  const { externalId, msisdn, imsi, interfaceId, attributes = {} } = device;
  const clear = (name: string | undefined) => (identities.keep && name && !isHashed(name) ? name : null);
  const names = Object.keys(attributes).sort();
  return {
    external_id: externalId,
    msisdn: msisdn ? identities.hash('msisdn', msisdn) : null,
    imsi: imsi ? identities.hash('imsi', imsi) : null,
    interface_id: interfaceId ?? null,
    attributes: names.length > 0 ? JSON.stringify(attributes, names) : null,
    msisdn_clear: clear(msisdn),
    imsi_clear: clear(imsi),
  };
}

export function deviceOf(row: Row & { readonly source: Source }): RegisteredDevice {
  const { external_id: externalId, interface_id: interfaceId, attributes, source } = row;
  const [msisdn, imsi] = [row.msisdn_clear ?? row.msisdn, row.imsi_clear ?? row.imsi];
  return {
    externalId,
    ...(msisdn !== null && { msisdn }),
    ...(imsi !== null && { imsi }),
    ...(interfaceId !== null && { interfaceId }),
    ...(attributes !== null && { attributes: JSON.parse(attributes) as Attributes }),
    source,
  } as RegisteredDevice;
}
