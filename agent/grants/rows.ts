/**
 * Records and bindings as rows of the database, and back. A row is plain
 * values only, so that it can also be handed to another thread.
 */
import { address } from '../core/net.ts';
import type { CertificateId, DeviceReference, ExternalId, GrantId, InnerAddress, RealmName } from '../core/words.ts';
import type { Binding } from '../directory/directory.ts';
import type { EndCause } from './lifecycle.ts';
import type { GrantRecord } from './record.ts';

/** A row as it is read: columns by their names. */
export type Row = Record<string, string | bigint | null>;

/** The columns of a new grant, in the order of `newRow`; its state and its cause follow from its being new. */
export const NEW_COLUMNS = `id, number, gateway, server, certificate, mtc_user, device, reference, rule, policy_version,
  family, protocol, realm, inner_address, device_port, remote, remote_port, external_address, external_port, entry,
  granted_seconds, started_at_ms, expires_at_ms, boot_id, expires_at_ns, correlator`;

/** A new grant as it is written: values alone, since names with each row would cost as much again. */
export type NewRow = readonly (string | number | bigint)[];

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
  readonly endCause: EndCause | null;
  readonly endedAtMs: number | null;
}

export interface BindingRow extends Omit<Binding, 'inner'> {
  readonly realm: RealmName;
  readonly address: string;
}

export function bindingOf({ realm, address: text, ...rest }: BindingRow): Binding {
  return { ...rest, inner: { realm, address: address(text) } };
}

export function bindingKey(inner: InnerAddress) {
  return { realm: inner.realm, address: inner.address.text };
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
    endCause: record.endCause ?? null,
    endedAtMs: record.endedAtMs ?? null,
  };
}

export function recordOf(row: Row): GrantRecord {
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
