/**
 * What the operator sees of grants, devices and bindings, with all that the
 * outside never learns; and how it is written in the answers of the
 * management socket, which the `mtgate` command reads.
 */
import { formatEndpoint, isHost } from '../core/net.ts';
import type { DeviceReference, ExternalId, InnerAddress, PacketLimits, Protocol, ServerName } from '../core/words.ts';
import type { PacketCount } from '../dataplane/dataplane.ts';
import type { Binding } from '../directory/binding.ts';
import type { RegisteredDevice, Source } from '../directory/registry.ts';
import type { Grant, Wait } from './routes.ts';
import type { TriggerDetail } from './trigger-routes.ts';

/** A grant as the operator sees it. */
export interface OperatorGrant extends Grant {
  /** The identifier the server used, as it is kept. */
  readonly device: DeviceReference;
  readonly server: ServerName;
  readonly externalId: ExternalId;
  readonly inner: InnerAddress;
  /** The rule that allowed it. */
  readonly rule: string;
  /** The mark of the request that opened it. */
  readonly correlator: string;
}

/** A request that waits for its device, as the operator sees it. */
export type OperatorWait = Wait & Pick<OperatorGrant, 'device'> & Omit<OperatorGrant, keyof Grant | 'inner'>;

/** What was to wake the device that a request waits or waited for. */
interface Woken {
  /** Absent: nothing, or it is no longer on record. */
  readonly trigger?: TriggerDetail;
}

/** All that is known of one. */
export interface OperatorWaitDetail extends OperatorWait, Woken {
  readonly gateway: string;
  readonly mtcUser: string;
  readonly policyVersion: string;
  /** For how long it was asked for. */
  readonly askedSeconds: number;
  /** Until it waits no more; 0 where it has ended. */
  readonly remainingSeconds: number;
  readonly endText?: string;
}

/** All that is known of one grant. */
export interface OperatorGrantDetail extends OperatorGrant, Woken {
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

/** A binding; one that is over has `untilMs` and a cause. */
export type OperatorBinding = Omit<Binding, 'holder'> & {
  readonly holder: string;
  readonly untilMs?: number;
  readonly cause?: string;
};

export interface OperatorDevice {
  readonly device: RegisteredDevice;
  /** By the rule files in force. */
  readonly mtcUser: string | undefined;
  readonly bindings: readonly OperatorBinding[];
  /** What it held before, the last first. */
  readonly before: readonly OperatorBinding[];
  /** The first of what waits for it and of its live grants, and how many there are in all. */
  readonly grants: readonly (OperatorGrant | OperatorWait)[];
  readonly liveGrants: number;
  readonly waitingGrants: number;
}

/** Some that wait or live. `lastKey` stands for the last of them, and is absent where no more follow. */
export interface OperatorGrants {
  readonly grants: readonly (OperatorGrant | OperatorWait)[];
  readonly total: number;
  readonly lastKey?: string;
}

/** The answer to GET /grants: a page, how many there are in all, and the `after` of the next page, if there is one. */
export interface GrantRows {
  readonly grants: readonly GrantRow[];
  readonly total: number;
  readonly next?: string;
}

/** A grant in the answer to GET /grants, or a request that waits. */
export interface GrantRow {
  readonly grantId: string;
  readonly status: 'waiting' | 'live' | 'held' | 'ended';
  readonly server: string;
  readonly device: string;
  /** One that waits has none, nor the two that follow. */
  readonly realm?: string;
  readonly inner?: string;
  readonly external?: string;
  readonly applicationServer: string;
  readonly protocol: Protocol;
  readonly rule: string;
  readonly correlator: string;
  /** When it began to live, or to wait. */
  readonly startedAt: string;
  /** Until when it lives, or waits. */
  readonly expiresAt: string;
}

/** The answer to GET /grants/{id}. */
export interface GrantDetail extends GrantRow, Woken {
  readonly endedAt?: string;
  readonly endCause?: string;
  readonly endText?: string;
  readonly gateway: string;
  readonly mtcUser: string;
  /** The identifier by which the server named the device. */
  readonly reference: string;
  readonly family: string;
  readonly policyVersion: string;
  /** Of one that waits: asked for. */
  readonly grantedSeconds: number;
  readonly remainingSeconds: number;
  /** One that was never live has none, nor the three that follow. */
  readonly limits?: PacketLimits;
  readonly entry?: number;
  readonly number?: number;
  readonly carried?: Readonly<Record<'in' | 'out', { readonly packets: number; readonly bytes: number }>>;
}

/** A binding in the answer to GET /bindings. */
export interface BindingRow {
  /** A device, or a subscriber that is not registered: `imsi:…`, `msisdn:…`, `session:…`. */
  readonly device: string;
  readonly realm: string;
  /** Or a prefix. */
  readonly address: string;
  /** Where grants lead in a prefix, if that is known. */
  readonly target?: string;
  readonly source: string;
  readonly since: string;
  readonly until?: string;
  readonly cause?: string;
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
  /** What it held before, the last first. */
  readonly before: readonly BindingRow[];
  /** The first of what waits for it and of its live grants; the two that follow are how many there are. */
  readonly grants: readonly GrantRow[];
  readonly liveGrants: number;
  readonly waitingGrants: number;
}

function grantRow(grant: OperatorGrant | OperatorWait): GrantRow {
  const { address, port } = grant.applicationServer;
  const server = address === 'all' ? 'all' : address.text;
  const waits = 'waitsUntilMs' in grant;
  return {
    grantId: grant.id,
    status: STATUS[grant.status],
    server: grant.server,
    device: grant.externalId,
    ...(!waits && {
      realm: grant.inner.realm,
      inner: formatEndpoint({ address: grant.inner.address, port: grant.devicePort }),
      external: formatEndpoint(grant.externalEndpoint),
    }),
    applicationServer: address !== 'all' && port ? formatEndpoint({ address, port }) : server,
    protocol: grant.protocol,
    rule: grant.rule,
    correlator: grant.correlator,
    startedAt: iso(waits ? grant.requestedAtMs : grant.startedAtMs),
    expiresAt: iso(waits ? grant.waitsUntilMs : grant.expiresAtMs),
  };
}

const STATUS = { WAITING: 'waiting', LIVE: 'live', HELD: 'held', ENDED: 'ended' } as const;

export function grantDetail(grant: OperatorGrantDetail | OperatorWaitDetail): GrantDetail {
  const { gateway, mtcUser, policyVersion, remainingSeconds } = grant;
  return {
    ...grantRow(grant),
    ...(grant.endedAtMs !== undefined && { endedAt: iso(grant.endedAtMs) }),
    ...(grant.endCause !== undefined && { endCause: grant.endCause }),
    ...(grant.endText !== undefined && { endText: grant.endText }),
    ...(grant.trigger && { trigger: grant.trigger }),
    reference: Object.values(grant.device).join(),
    ...{ gateway, mtcUser, family: grant.family, policyVersion, remainingSeconds },
    ...('waitsUntilMs' in grant ? { grantedSeconds: grant.askedSeconds } : carriedOf(grant)),
  };
}

function carriedOf({ limits, grantedSeconds, entry, number, carried }: OperatorGrantDetail) {
  return {
    ...{ limits, grantedSeconds, entry, number },
    ...(carried && { carried: { in: counted(carried.in), out: counted(carried.out) } }),
  };
}

export function bindingRow({
  holder,
  realm,
  prefix,
  target,
  source,
  sinceMs,
  untilMs,
  cause,
}: OperatorBinding): BindingRow {
  return {
    device: holder,
    realm,
    address: isHost(prefix) ? prefix.address.text : prefix.text,
    ...(target && !isHost(prefix) && { target: target.text }),
    source,
    since: iso(sinceMs),
    ...(untilMs !== undefined && { until: iso(untilMs) }),
    ...(cause !== undefined && { cause }),
  };
}

export function grantRows({ grants, total, lastKey }: OperatorGrants): GrantRows {
  return { grants: grants.map(grantRow), total, ...(lastKey !== undefined && { next: lastKey }) };
}

export function deviceDetail(found: OperatorDevice): DeviceDetail {
  const { device, mtcUser, bindings, before, grants, liveGrants, waitingGrants } = found;
  const { externalId, ...more } = device;
  return {
    device: externalId,
    ...more,
    ...(mtcUser !== undefined && { mtcUser }),
    bindings: bindings.map(bindingRow),
    before: before.map(bindingRow),
    grants: grants.map(grantRow),
    ...{ liveGrants, waitingGrants },
  };
}

function counted({ packets, bytes }: PacketCount) {
  return { packets: Number(packets), bytes: Number(bytes) };
}

function iso(atMs: number): string {
  return new Date(atMs).toISOString();
}
