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

/** A row as it is written: statements name their parameters as the record does. */
export interface GrantRow extends Omit<GrantRecord, 'reference' | 'inner' | 'external' | 'remote' | 'index' | 'state'> {
  readonly reference: string;
  readonly realm: string;
  readonly innerAddress: string;
  readonly remote: string;
  readonly externalAddress: string;
  readonly externalPort: number;
  readonly entry: number;
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

export function rowOf(record: GrantRecord): GrantRow {
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
