/**
 * Records as rows of the database, and back. A row is plain
 * values only, so that it can also be handed to another thread.
 */
import { type Address, address } from '../core/net.ts';
import type { CertificateId, DeviceReference, ExternalId, GrantId, PacketLimits, RealmName } from '../core/words.ts';
import type { Binding } from '../directory/binding.ts';
import type { EndCause } from './lifecycle.ts';
import { type GrantRecord, limitsOf } from './record.ts';

/** A row as it is read: the values of COLUMNS, perhaps with more behind them. */
export type Row = readonly (string | number | null)[];

/** What every row begins with, read or written. */
const FIRST_COLUMNS = `id, number, gateway, server, certificate, mtc_user, device, reference, rule, policy_version,
  family, protocol, realm, inner_address, device_port, remote, remote_port, external_address, external_port, entry,
  granted_seconds, started_at_ms, expires_at_ms, boot_id, packets_per_second, byte_quota`;

/** In the order in which `recordOf` takes them. Of whole numbers only the boot's clock needs more than 53 bits: it comes in two. */
export const COLUMNS = `${FIRST_COLUMNS}, expires_at_ns >> 30, expires_at_ns & ${2 ** 30 - 1},
  state, correlator, cause, ended_at_ms`;

/**
 * Texts and addresses that many records share: each is made once, however
 * many records are read with it. What is in memory already is taken from there.
 */
export class Familiar {
  readonly #addresses = new Map<string, Address>();
  readonly #references = new Map<string, DeviceReference>();
  readonly #texts = new Map<string, string>();
  readonly #limits = new Map<string, PacketLimits>();
  /** What stood last in each column: most often it stands there again, and is told by a look. */
  readonly #last: string[] = [];

  constructor(bindings: Iterable<Pick<Binding, 'target'>> = []) {
    for (const { target } of bindings) if (target) this.#addresses.set(target.text, target);
  }

  address(text: string): Address {
    return known(this.#addresses, text, address);
  }

  reference(text: string): DeviceReference {
    return known(this.#references, text, (json) => JSON.parse(json) as DeviceReference);
  }

  limits(packetsPerSecond: number | null, bytes: number | null): PacketLimits {
    const key = `${packetsPerSecond} ${bytes}`;
    const make = () => limitsOf({ packetsPerSecond: packetsPerSecond ?? undefined, bytes: bytes ?? undefined });
    return known(this.#limits, key, make);
  }

  text(column: number, text: string): string {
    if (this.#last[column] === text) return this.#last[column];
    const found = known(this.#texts, text, (same) => same);
    this.#last[column] = found;
    return found;
  }
}

function known<Value>(values: Map<string, Value>, text: string, make: (text: string) => Value): Value {
  const found = values.get(text) ?? make(text);
  values.set(text, found);
  return found;
}

/** The columns of a new grant, in the order of `newRow`; its state and its cause follow from its being new. */
export const NEW_COLUMNS = `${FIRST_COLUMNS}, expires_at_ns, correlator`;

/** A new grant as it is written: values alone, since names with each row would cost as much again. */
export type NewRow = readonly (string | number | bigint | null)[];

/** What may change of a grant on record; statements name their parameters as the record does. */
export interface ChangedRow
  extends Pick<
    GrantRecord,
    | 'id'
    | 'certificate'
    | 'rule'
    | 'policyVersion'
    | 'mtcUser'
    | 'grantedSeconds'
    | 'bootId'
    | 'expiresAtNs'
    | 'expiresAtMs'
  > {
  readonly packetsPerSecond: number | null;
  readonly byteQuota: number | null;
  readonly endCause: EndCause | null;
  readonly endedAtMs: number | null;
}

export function newRow(record: GrantRecord): NewRow {
  const { inner, external, remote } = record;
  return [
    record.id,
    record.number,
    record.gateway,
    record.server,
    record.certificate,
    record.mtcUser,
    record.device,
    JSON.stringify(record.reference),
    record.rule,
    record.policyVersion,
    record.family,
    record.protocol,
    inner.realm,
    inner.address.text,
    record.devicePort,
    remote === 'all' ? remote : remote.text,
    record.remotePort,
    external.address.text,
    external.port,
    record.index,
    record.grantedSeconds,
    record.startedAtMs,
    record.expiresAtMs,
    record.bootId,
    record.limits.packetsPerSecond ?? null,
    record.limits.bytes ?? null,
    record.expiresAtNs,
    record.correlator,
  ];
}

export function changedRow(record: GrantRecord): ChangedRow {
  return {
    id: record.id,
    certificate: record.certificate,
    rule: record.rule,
    policyVersion: record.policyVersion,
    mtcUser: record.mtcUser,
    grantedSeconds: record.grantedSeconds,
    bootId: record.bootId,
    expiresAtNs: record.expiresAtNs,
    expiresAtMs: record.expiresAtMs,
    packetsPerSecond: record.limits.packetsPerSecond ?? null,
    byteQuota: record.limits.bytes ?? null,
    endCause: record.endCause ?? null,
    endedAtMs: record.endedAtMs ?? null,
  };
}

export function recordOf(row: Row, familiar = new Familiar()): GrantRecord {
  const own = (column: number) => row[column] as string;
  const shared = (column: number) => familiar.text(column, row[column] as string);
  const number = (column: number) => row[column] as number;
  const external = own(17);
  const remote = own(15);
  const record: GrantRecord = {
    id: own(0) as GrantId,
    number: number(1),
    gateway: shared(2),
    server: shared(3) as GrantRecord['server'],
    certificate: shared(4) as CertificateId,
    mtcUser: shared(5) as GrantRecord['mtcUser'],
    device: own(6) as ExternalId,
    reference: familiar.reference(own(7)),
    rule: shared(8),
    policyVersion: shared(9),
    family: shared(10) as GrantRecord['family'],
    protocol: shared(11) as GrantRecord['protocol'],
    inner: { realm: shared(12) as RealmName, address: familiar.address(own(13)) },
    devicePort: number(14),
    remote: remote === 'all' ? 'all' : familiar.address(remote),
    remotePort: number(16),
    // Of IPv6 each is another.
    external: {
      address: external.includes(':') ? address(external) : familiar.address(external),
      port: number(18),
    },
    index: number(19),
    grantedSeconds: number(20),
    startedAtMs: number(21),
    expiresAtMs: number(22),
    bootId: shared(23),
    limits: familiar.limits(row[24] as number | null, row[25] as number | null),
    expiresAtNs: (BigInt(number(26)) << 30n) | BigInt(number(27)),
    state: own(28) as GrantRecord['state'],
    correlator: own(29),
  };
  return row[31] === null ? record : { ...record, endCause: own(30) as EndCause, endedAtMs: number(31) };
}
