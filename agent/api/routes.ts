/**
 * What each operation of the grants' contract does: from a request that has
 * passed it (openapi.yaml) to a use case, and from its value to an answer.
 *
 * The use cases are an interface of this file, so that the API knows no
 * adapter, no policy and no store. Nothing here knows HTTP but for status
 * codes and the Location header; nothing here decides.
 *
 * Invariant: an answer holds what the asking server itself said, and the
 * external side of its own grants. There is no way from here to an inner
 * address, since `Grant` has none.
 */

import type { Address, Endpoint, Family, Prefix } from '../core/net.ts';
import { parseAddress } from '../core/net.ts';
import type { Clock } from '../core/ports.ts';
import { REFUSALS, type Refusal, type RefusalReason, type Refuse } from '../core/refusals.ts';
import {
  type Asker,
  type DeviceReference,
  type GrantRequest,
  type PacketLimits,
  type Protocol,
  parseExternalId,
  upperSnake,
  type Wake,
} from '../core/words.ts';
import type { Api, Call, Follow, Operation } from './operation.ts';
import { readPayload } from './payload.ts';

/** A grant as the server that holds it may see it. */
export interface Grant {
  readonly id: string;
  /** The identifier the server used, and no other; absent where that is known no more. */
  readonly device?: DeviceReference;
  readonly externalEndpoint: Endpoint;
  readonly applicationServer: { readonly address: Address | 'all'; readonly port?: number };
  readonly protocol: Protocol;
  readonly devicePort: number;
  readonly status: 'LIVE' | 'HELD' | 'ENDED';
  readonly startedAtMs: number;
  readonly expiresAtMs: number;
  readonly limits: PacketLimits;
  readonly endedAtMs?: number;
  /** A name from the life cycle, such as `endedByServer`. */
  readonly endCause?: string;
}

/** A request that waits for its device, or waited in vain, as its server may see it. */
export interface Wait extends Omit<Grant, 'externalEndpoint' | 'startedAtMs' | 'expiresAtMs' | 'limits' | 'status'> {
  readonly family: Family;
  readonly status: 'WAITING' | 'ENDED';
  readonly requestedAtMs: number;
  readonly waitsUntilMs: number;
}

/** What a server may ask for, at the most; an absent bound does not bind. */
export interface ServerLimits {
  /** Prefixes its packets may come from. */
  readonly sources: readonly Prefix[];
  /** The longest duration any rule grants it; 0: none grants it anything. */
  readonly maxDurationSeconds: number;
  readonly maxTotalSeconds: number;
  readonly grantsPerDevice?: number;
  readonly grantsPerServer?: number;
  readonly requestsPerMinute?: number;
  /** Of one grant. */
  readonly packetsPerSecond?: number;
  readonly bytes?: number;
  readonly liveGrants: number;
  readonly waitingGrants: number;
  readonly requestsInLastMinute: number;
  /** Changes when its grants, or what is decided of it, may have changed without its doing (restart, reload, a desk). */
  readonly generation: string;
}

/** Which grants, how many of them at once, and behind which key they begin; without one at the first. */
interface ListRequest {
  readonly device?: DeviceReference;
  readonly perPage: number;
  readonly seek?: string;
}

/** Some grants of a list. `lastKey` stands for the last of them, and is absent where no more follow. */
export interface Grants {
  readonly grants: readonly (Grant | Wait)[];
  readonly total: number;
  readonly lastKey?: string;
}

/** How a request waits for its device. */
export interface Waits {
  readonly seconds: number;
  /** Absent: nothing is sent to it. */
  readonly wake?: Wake;
}

/** What the API is given. A refusal returned here has been recorded already. */
export interface GrantsUseCases {
  /** `waits`: for how long where the device cannot be reached, and what wakes it; absent: that refuses it. */
  request(who: Asker, ask: GrantRequest, waits?: Waits): Promise<Grant | Wait | Refusal>;
  /** A grant of this server, live or ended, or one that waits. Another server's is `grantNotFound`, as is one that never was. */
  show(who: Asker, grantId: string): Grant | Wait | Refusal;
  /** Moves a grant's end, never to an earlier time. */
  extend(who: Asker, grantId: string, durationSeconds: number): Promise<Grant | Refusal>;
  /** Ends a grant. To end one that has ended is no fault. */
  end(who: Asker, grantId: string): Promise<object | Refusal>;
  /** A page of what waits for this server, then of its live grants, on one device or on all. */
  list(who: Asker, ask: ListRequest): Grants | 'seekUnknown';
  limits(who: Asker): ServerLimits;
  /** Tells of what becomes of its grants until it is ended. */
  follow: (who: Asker) => Follow;
  /** What pushes are signed with; absent where nothing is pushed. */
  readonly signingKey: object | undefined;
}

export const BASE_PATH = '/mobile-terminated-access/v1';

/** The API of grants, for MTC servers. */
export function grantsApi(grants: GrantsUseCases, refuse: Refuse, clock: Clock): Api {
  return {
    ...{ contract: 'openapi.yaml', basePath: BASE_PATH, role: 'server' },
    operations: operations(grants, refuse, clock),
  };
}

/** The operations by their operationId; the server holds the names against the contract at start. */
export function operations(grants: GrantsUseCases, refuse: Refuse, clock: Clock): Record<string, Operation> {
  const refused = (call: Call, { reason, ...facts }: Unreadable) => refuse(reason, { ...call.asked(), ...facts });
  return {
    createGrant: async (call) => {
      const ask = readGrantRequest(call.body as GrantRequestBody);
      if ('reason' in ask) return refused(call, ask);
      const { waits, ...request } = ask;
      const granted = await grants.request(call.who, request, waits);
      if ('reason' in granted) return granted;
      const status = 'waitsUntilMs' in granted ? 202 : 201;
      return { status, body: grantBody(granted), headers: { location: `${BASE_PATH}/grants/${granted.id}` } };
    },

    streamEvents: ({ who }) => ({ status: 200, follow: grants.follow(who) }),

    getSigningKey: (call) =>
      grants.signingKey
        ? { status: 200, body: grants.signingKey }
        : refuse('notFound', { ...call.asked(), why: 'agent.yaml has no reports.signingKey' }),

    getGrant: ({ who, params }) => {
      const shown = grants.show(who, params['grantId'] ?? '');
      return 'reason' in shown ? shown : { status: 200, body: grantBody(shown) };
    },

    endGrant: async ({ who, params }) => {
      const ended = await grants.end(who, params['grantId'] ?? '');
      return 'reason' in ended ? ended : { status: 204 };
    },

    extendGrant: async ({ who, params, body }) => {
      const { durationSeconds } = body as { durationSeconds: number };
      const extended = await grants.extend(who, params['grantId'] ?? '', durationSeconds);
      return 'reason' in extended ? extended : { status: 200, body: grantBody(extended) };
    },

    retrieveGrants: (call) => {
      const { device: named, ...page } = call.body as ListBody;
      const device = named && readDevice(named);
      if (device && 'reason' in device) return refused(call, device);
      const found = grants.list(call.who, { ...page, ...(device && { device }) });
      if (found === 'seekUnknown') return refused(call, SEEK_UNKNOWN);
      const { lastKey, total } = found;
      return {
        status: lastKey === undefined ? 200 : 206,
        body: found.grants.map(grantBody),
        headers: { 'x-total-count': String(total), ...(lastKey !== undefined && { 'content-last-key': lastKey }) },
      };
    },

    getLimits: ({ who }) => {
      const { sources, ...bounds } = grants.limits(who);
      return {
        status: 200,
        body: { ...bounds, sources: sources.map(({ text }) => text), now: new Date(clock.nowMs()).toISOString() },
      };
    },
  };
}

/** Bodies as the contract lets them in. */
interface DeviceBody {
  readonly networkAccessIdentifier?: string;
  readonly phoneNumber?: string;
}

interface ListBody {
  readonly device?: DeviceBody;
  readonly perPage: number;
  readonly seek?: string;
}

interface GrantRequestBody {
  readonly device: DeviceBody;
  readonly applicationServer?: { readonly address: string; readonly port?: number };
  readonly protocol: 'TCP' | 'UDP';
  readonly devicePort: number;
  readonly durationSeconds: number;
  readonly ipFamily?: 'IPV4' | 'IPV6';
  readonly whenUnreachable: 'INDICATE_ERROR' | 'WAIT' | 'SEND_TRIGGER';
  readonly waitSeconds?: number;
  readonly trigger?: { readonly applicationPortId?: number; readonly triggerPayload?: string };
  readonly sink?: string;
}

/** A body that follows the contract and still cannot be served. */
interface Unreadable {
  readonly reason: 'invalidArgument' | 'triggerPayloadInvalid';
  readonly why: string;
  readonly detail?: string;
}

/** From the words of the contract to those of the domain, or why that cannot be. */
function readGrantRequest(body: GrantRequestBody): (GrantRequest & { readonly waits?: Waits }) | Unreadable {
  const wakes = body.whenUnreachable === 'SEND_TRIGGER';
  const waits = wakes || body.whenUnreachable === 'WAIT';
  if (body.waitSeconds !== undefined && !waits)
    return invalid('waitSeconds is only for whenUnreachable WAIT and SEND_TRIGGER');
  if (body.trigger && !wakes) return invalid('trigger is only for whenUnreachable SEND_TRIGGER');
  const { applicationPortId: port, triggerPayload = '' } = body.trigger ?? {};
  const payload = readPayload(triggerPayload);
  if (!payload) return { reason: 'triggerPayloadInvalid', why: 'trigger.triggerPayload is not base64' };
  const device = readDevice(body.device);
  if ('reason' in device) return device;
  const applicationServer = body.applicationServer && readApplicationServer(body.applicationServer);
  if (applicationServer && 'reason' in applicationServer) return applicationServer;
  return {
    device,
    ...(applicationServer ? { applicationServer } : {}),
    protocol: PROTOCOL_OF[body.protocol],
    devicePort: body.devicePort,
    durationSeconds: body.durationSeconds,
    ...(body.ipFamily ? { ipFamily: FAMILY_OF[body.ipFamily] } : {}),
    ...(body.sink === undefined ? {} : { sink: body.sink }),
    ...(waits && {
      waits: {
        seconds: body.waitSeconds ?? WAIT_SECONDS,
        ...(wakes && { wake: { ...(port !== undefined && { port }), payload } }),
      },
    }),
  };
}

/** How long it waits that does not say. */
const WAIT_SECONDS = 3600;

const PROTOCOL_OF = { TCP: 'tcp', UDP: 'udp' } as const satisfies Record<string, Protocol>;
const FAMILY_OF = { IPV4: 'ipv4', IPV6: 'ipv6' } as const satisfies Record<string, Family>;

/** Keeps the identifier as the server wrote it, since answers repeat that one. */
function readDevice({ networkAccessIdentifier, phoneNumber }: DeviceBody): DeviceReference | Unreadable {
  if (phoneNumber !== undefined) return { phoneNumber };
  if (networkAccessIdentifier !== undefined && parseExternalId(networkAccessIdentifier)) {
    return { networkAccessIdentifier };
  }
  return invalid('device.networkAccessIdentifier is not of the form local@domain');
}

function readApplicationServer(body: { address: string; port?: number }): Grant['applicationServer'] | Unreadable {
  const address = body.address === 'all' ? 'all' : parseAddress(body.address);
  if (!address) return invalid('applicationServer.address is neither an IP address nor "all"');
  return { address, ...(body.port === undefined ? {} : { port: body.port }) };
}

function invalid(detail: string): Unreadable {
  return { reason: 'invalidArgument', why: detail, detail };
}

const SEEK_UNKNOWN = invalid('seek is no key of this list, or one of before the gateway was restarted: begin anew');

export function grantBody(grant: Grant | Wait): object {
  const { applicationServer } = grant;
  const server = applicationServer.address;
  return {
    grantId: grant.id,
    ...(grant.device && { device: grant.device }),
    ...('waitsUntilMs' in grant
      ? {
          ipFamily: grant.family.toUpperCase(),
          requestedAt: iso(grant.requestedAtMs),
          waitsUntil: iso(grant.waitsUntilMs),
        }
      : liveBody(grant)),
    applicationServer: {
      address: server === 'all' ? server : server.text,
      ...(applicationServer.port === undefined ? {} : { port: applicationServer.port }),
    },
    protocol: grant.protocol.toUpperCase(),
    devicePort: grant.devicePort,
    status: grant.status,
    ...(grant.endedAtMs === undefined ? {} : { endedAt: iso(grant.endedAtMs) }),
    ...(grant.endCause === undefined ? {} : { endCause: endCauseText(grant.endCause, 'waitsUntilMs' in grant) }),
  };
}

/** What only a grant has that is or was live. */
function liveBody({ externalEndpoint: { address, port }, limits, startedAtMs, expiresAtMs }: Grant): object {
  return {
    externalEndpoint: { address: address.text, port },
    ipFamily: address.family.toUpperCase(),
    startedAt: iso(startedAtMs),
    expiresAt: iso(expiresAtMs),
    ...(limits.packetsPerSecond === undefined && limits.bytes === undefined ? {} : { limits }),
  };
}

/** What waited and was refused has the code that the refusal would have had: the outside learns no more by waiting. */
export function endCauseText(cause: string, waited: boolean): string {
  return waited && cause in REFUSALS ? REFUSALS[cause as RefusalReason].code : upperSnake(cause);
}

/** A time as the APIs write it. */
export function iso(atMs: number): string {
  return new Date(atMs).toISOString();
}
