/**
 * Devices in SQLite: the schema of `registry.db`, and a device as its row.
 *
 * The table is its own index of external identifiers; MSISDN and IMSI have one
 * each, and are one device's by them, whatever is written.
 */
import type { Attributes, Device } from '../core/words.ts';
import type { RegisteredDevice, Source } from './registry.ts';

export const SCHEMA_VERSION = 1;

export const SCHEMA = `
CREATE TABLE devices (
  external_id TEXT PRIMARY KEY, msisdn TEXT UNIQUE, imsi TEXT UNIQUE, interface_id TEXT, attributes TEXT,
  source TEXT NOT NULL CHECK (source IN ('file', 'import'))
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_of_file ON devices (source) WHERE source = 'file';
`;

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
}

export function rowOf({ externalId, msisdn, imsi, interfaceId, attributes = {} }: Device): Row {
  const names = Object.keys(attributes).sort();
  return {
    external_id: externalId,
    msisdn: msisdn ?? null,
    imsi: imsi ?? null,
    interface_id: interfaceId ?? null,
    attributes: names.length > 0 ? JSON.stringify(attributes, names) : null,
  };
}

export function deviceOf(row: Row & { readonly source: Source }): RegisteredDevice {
  const { external_id: externalId, msisdn, imsi, interface_id: interfaceId, attributes, source } = row;
  return {
    externalId,
    ...(msisdn !== null && { msisdn }),
    ...(imsi !== null && { imsi }),
    ...(interfaceId !== null && { interfaceId }),
    ...(attributes !== null && { attributes: JSON.parse(attributes) as Attributes }),
    source,
  } as RegisteredDevice;
}
