/**
 * What the operator sees of grants, devices and bindings, with all that the
 * outside never learns; and how it is written in the answers of the
 * management socket, which the `mtgate` command reads.
 */
import { formatEndpoint } from '../core/net.ts';
import type { ExternalId, InnerAddress, PacketLimits, Protocol, ServerName } from '../core/words.ts';
import type { PacketCount } from '../dataplane/dataplane.ts';
import type { RegisteredDevice, Source } from '../directory/registry.ts';
import type { Grant } from './routes.ts';

/** A grant as the operator sees it. */
export interface OperatorGrant extends Grant {
  readonly server: ServerName;
  readonly externalId: ExternalId;
  readonly inner: InnerAddress;
  /** The rule that allowed it. */
  readonly rule: string;
  /** The mark of the request that opened it. */
  readonly correlator: string;
}

/** All that is known of one grant. */
export interface OperatorGrantDetail extends OperatorGrant {
  readonly gateway: string;
  readonly mtcUser: string;
  readonly policyVersion: string;
  readonly family: string;
  readonly grantedSeconds: number;
  /** Until its end, by the clock that ends it; 0 where it has ended. */
  readonly remainingSeconds: number;
  /** The place of its entry in the gate, and the number it has there. */
  readonly entry: number;
  readonly number: number;
  readonly endText?: string;
  /** Absent once the gate holds its entry no more (the endpoint's rest is over). */
  readonly carried?: { readonly in: PacketCount; readonly out: PacketCount };
}

export interface OperatorBinding {
  readonly device: ExternalId;
  readonly inner: InnerAddress;
  readonly source: string;
  readonly sinceMs: number;
}

export interface OperatorDevice {
  readonly device: RegisteredDevice;
  /** By the rule files in force. */
  readonly mtcUser: string | undefined;
  readonly bindings: readonly OperatorBinding[];
  /** The first of its live grants, and how many it has in all. */
  readonly grants: readonly OperatorGrant[];
  readonly total: number;
}

/** Some live grants. `lastKey` stands for the last of them, and is absent where no more follow. */
export interface OperatorGrants {
  readonly grants: readonly OperatorGrant[];
  readonly total: number;
  readonly lastKey?: string;
}

/** The answer to GET /grants: a page, how many there are in all, and the `after` of the next page, if there is one. */
export interface GrantRows {
  readonly grants: readonly GrantRow[];
  readonly total: number;
  readonly next?: string;
}

/** A grant in the answer to GET /grants. */
export interface GrantRow {
  readonly grantId: string;
  readonly server: string;
  readonly device: string;
  readonly realm: string;
  readonly inner: string;
  readonly external: string;
  readonly applicationServer: string;
  readonly protocol: Protocol;
  readonly rule: string;
  readonly correlator: string;
  readonly startedAt: string;
  readonly expiresAt: string;
}

/** The answer to GET /grants/{id}. */
export interface GrantDetail extends GrantRow {
  readonly status: 'live' | 'ended';
  readonly endedAt?: string;
  readonly endCause?: string;
  readonly endText?: string;
  readonly gateway: string;
  readonly mtcUser: string;
  /** The identifier by which the server named the device. */
  readonly reference: string;
  readonly family: string;
  readonly policyVersion: string;
  readonly grantedSeconds: number;
  readonly remainingSeconds: number;
  readonly limits: PacketLimits;
  readonly entry: number;
  readonly number: number;
  readonly carried?: Readonly<Record<'in' | 'out', { readonly packets: number; readonly bytes: number }>>;
}

/** A binding in the answer to GET /bindings. */
export interface BindingRow {
  readonly device: string;
  readonly realm: string;
  readonly address: string;
  readonly source: string;
  readonly since: string;
}

/** The answer to GET /devices/{name}. */
export interface DeviceDetail {
  readonly device: string;
  readonly msisdn?: string;
  readonly imsi?: string;
  readonly interfaceId?: string;
  readonly mtcUser?: string;
  /** Who registered it. */
  readonly source: Source;
  readonly attributes?: Readonly<Record<string, string>>;
  readonly bindings: readonly BindingRow[];
  /** The first of them; `liveGrants` is how many there are. */
  readonly grants: readonly GrantRow[];
  readonly liveGrants: number;
}

function grantRow(grant: OperatorGrant): GrantRow {
  const { address, port } = grant.applicationServer;
  const server = address === 'all' ? 'all' : address.text;
  return {
    grantId: grant.id,
    server: grant.server,
    device: grant.externalId,
    realm: grant.inner.realm,
    inner: formatEndpoint({ address: grant.inner.address, port: grant.devicePort }),
    external: formatEndpoint(grant.externalEndpoint),
    applicationServer: address !== 'all' && port ? formatEndpoint({ address, port }) : server,
    protocol: grant.protocol,
    rule: grant.rule,
    correlator: grant.correlator,
    startedAt: iso(grant.startedAtMs),
    expiresAt: iso(grant.expiresAtMs),
  };
}

export function grantDetail(grant: OperatorGrantDetail): GrantDetail {
  const { gateway, mtcUser, family, policyVersion, grantedSeconds, remainingSeconds, entry, number } = grant;
  return {
    ...grantRow(grant),
    status: grant.status === 'LIVE' ? 'live' : 'ended',
    ...(grant.endedAtMs !== undefined && { endedAt: iso(grant.endedAtMs) }),
    ...(grant.endCause !== undefined && { endCause: grant.endCause }),
    ...(grant.endText !== undefined && { endText: grant.endText }),
    reference: Object.values(grant.device).join(),
    limits: grant.limits,
    ...{ gateway, mtcUser, family, policyVersion, grantedSeconds, remainingSeconds, entry, number },
    ...(grant.carried && { carried: { in: counted(grant.carried.in), out: counted(grant.carried.out) } }),
  };
}

export function bindingRow({ device, inner, source, sinceMs }: OperatorBinding): BindingRow {
  return { device, realm: inner.realm, address: inner.address.text, source, since: iso(sinceMs) };
}

export function grantRows({ grants, total, lastKey }: OperatorGrants): GrantRows {
  return { grants: grants.map(grantRow), total, ...(lastKey !== undefined && { next: lastKey }) };
}

export function deviceDetail({ device, mtcUser, bindings, grants, total }: OperatorDevice): DeviceDetail {
  const { externalId, ...more } = device;
  return {
    device: externalId,
    ...more,
    ...(mtcUser !== undefined && { mtcUser }),
    bindings: bindings.map(bindingRow),
    grants: grants.map(grantRow),
    liveGrants: total,
  };
}

function counted({ packets, bytes }: PacketCount) {
  return { packets: Number(packets), bytes: Number(bytes) };
}

function iso(atMs: number): string {
  return new Date(atMs).toISOString();
}
