/**
 * What each operation of the MTC user's contract (mtc-user.yaml) does: from a
 * request that has passed it to a use case, and from its value to an answer.
 *
 * Invariant: an answer is about the asker's own devices, and holds neither
 * addresses nor rules nor what a server alone may know: the external endpoint
 * is the server's. There is no way from here to them, since no view has any.
 * A device is named by its external identifier and by nothing else.
 */

import type { Refusal, Refuse } from '../core/refusals.ts';
import { type ExternalId, type MtcUserAsker, type Protocol, parseExternalId } from '../core/words.ts';
import type { WrittenPreference } from '../desk/preference-form.ts';
import type { Answer, Api, Call, Operation } from './operation.ts';
import { endCauseText, iso } from './routes.ts';

/** The servers that an MTC user authorises, as it may see them. */
export interface AuthorisedServers {
  readonly servers: readonly string[];
  readonly mayAuthorise: readonly string[];
  readonly setBy: 'ruleFiles' | 'mtcUser' | 'operator';
  /** UTC; absent where nobody has set them. */
  readonly setAtMs?: number;
  /** Strong entity-tag, in its quotes (RFC 9110 8.8.3). */
  readonly tag: string;
}

export interface KeptPreference extends WrittenPreference {
  readonly id: string;
  readonly setBy: 'mtcUser' | 'operator';
  readonly setAtMs: number;
}

export interface OwnDevice {
  readonly device: ExternalId;
  readonly bound: boolean;
}

/** A grant on a device of the asker's, or a request that waits for one. */
export interface GrantOnDevice {
  readonly id: string;
  readonly server: string;
  readonly device: ExternalId;
  readonly protocol: Protocol;
  readonly devicePort: number;
  readonly status: 'WAITING' | 'LIVE' | 'HELD' | 'ENDED';
  readonly startedAtMs?: number;
  readonly expiresAtMs?: number;
  readonly requestedAtMs?: number;
  readonly waitsUntilMs?: number;
  readonly endedAtMs?: number;
  readonly endCause?: string;
}

interface Listed<Item> {
  readonly items: readonly Item[];
  /** Stands for where they end; absent where no more follow. */
  readonly lastKey?: string;
}

/** What the API is given. A refusal returned here has been recorded already. */
export interface MtcUserUseCases {
  authorisedServers(who: MtcUserAsker): AuthorisedServers | Refusal;
  /** `seen`: the tags of one of which the set must be. */
  setServers(
    who: MtcUserAsker,
    servers: readonly string[],
    seen?: readonly string[],
  ): Promise<AuthorisedServers | Refusal>;
  authorise(who: MtcUserAsker, server: string): Promise<AuthorisedServers | Refusal>;
  withdraw(who: MtcUserAsker, server: string): Promise<object | Refusal>;
  preferences(who: MtcUserAsker): readonly KeptPreference[];
  preference(who: MtcUserAsker, id: string): KeptPreference | Refusal;
  /** `id`: the one in whose place it comes. */
  prefer(who: MtcUserAsker, written: WrittenPreference, id?: string): Promise<KeptPreference | Refusal>;
  drop(who: MtcUserAsker, id: string): Promise<object | Refusal>;
  devices(who: MtcUserAsker, limit: number, after?: string): Listed<OwnDevice> | 'seekUnknown';
  grants(
    who: MtcUserAsker,
    of: { readonly device?: ExternalId },
    limit: number,
    after?: string,
  ): (Listed<GrantOnDevice> & { readonly total: number }) | 'seekUnknown';
  grant(who: MtcUserAsker, id: string): GrantOnDevice | Refusal;
  revoke(who: MtcUserAsker, id: string): Promise<object | Refusal>;
}

export const MTC_USER_BASE_PATH = '/mtc-user/v1';

/** The API of MTC users; `more` are the operations of its contract that others serve (reports). */
export function mtcUserApi(
  useCases: MtcUserUseCases,
  refuse: Refuse,
  more: Readonly<Record<string, Operation<MtcUserAsker>>> = {},
): Api {
  return {
    ...{ contract: 'mtc-user.yaml', basePath: MTC_USER_BASE_PATH, role: 'mtcUser' },
    operations: { ...mtcUserOperations(useCases, refuse), ...more },
  };
}

type UserCall = Call<MtcUserAsker>;

/** The operations by their operationId; the server holds the names against the contract at start. */
export function mtcUserOperations(useCases: MtcUserUseCases, refuse: Refuse): Record<string, Operation<MtcUserAsker>> {
  const wrong = (call: UserCall, detail: string) => refuse('invalidArgument', { ...call.asked(), why: detail, detail });
  const answered = <Value extends object>(value: Value | Refusal, answer: (value: Value) => Answer) =>
    'reason' in value ? (value as Refusal) : answer(value);
  const nothing = (): Answer => ({ status: 204 });
  return {
    getAuthorisedServers: ({ who }) => answered(useCases.authorisedServers(who), serversAnswer),

    setAuthorisedServers: async ({ who, body, headers }) => {
      const { servers } = body as { servers: string[] };
      const match = headers['if-match'];
      return answered(await useCases.setServers(who, servers, tagsOf(match)), serversAnswer);
    },

    authoriseServer: async ({ who, body }) =>
      answered(await useCases.authorise(who, (body as { server: string }).server), serversAnswer),

    withdrawServer: async ({ who, params }) => answered(await useCases.withdraw(who, params['server'] ?? ''), nothing),

    getPreferences: ({ who }) => ({ status: 200, body: useCases.preferences(who).map(preferenceBody) }),

    addPreference: async ({ who, body }) =>
      answered(await useCases.prefer(who, body as WrittenPreference), (kept) => ({
        status: 201,
        body: preferenceBody(kept),
        headers: { location: `${MTC_USER_BASE_PATH}/preferences/${kept.id}` },
      })),

    getPreference: ({ who, params }) =>
      answered(useCases.preference(who, params['preferenceId'] ?? ''), (kept) => ({
        status: 200,
        body: preferenceBody(kept),
      })),

    replacePreference: async ({ who, params, body }) =>
      answered(await useCases.prefer(who, body as WrittenPreference, params['preferenceId'] ?? ''), (kept) => ({
        status: 200,
        body: preferenceBody(kept),
      })),

    dropPreference: async ({ who, params }) =>
      answered(await useCases.drop(who, params['preferenceId'] ?? ''), nothing),

    retrieveDevices: (call) => {
      const { perPage, seek } = call.body as ListBody;
      const found = useCases.devices(call.who, perPage, seek);
      return found === 'seekUnknown' ? wrong(call, SEEK_UNKNOWN) : listAnswer(found, (device) => device);
    },

    retrieveGrantsOnDevices: (call) => {
      const { device: named, perPage, seek } = call.body as ListBody & { readonly device?: string };
      const device = named === undefined ? undefined : parseExternalId(named);
      if (named !== undefined && device === undefined) return wrong(call, 'device is not of the form local@domain');
      const found = useCases.grants(call.who, device === undefined ? {} : { device }, perPage, seek);
      if (found === 'seekUnknown') return wrong(call, SEEK_UNKNOWN);
      return listAnswer(found, grantBody, { 'x-total-count': String(found.total) });
    },

    getGrantOnDevice: ({ who, params }) =>
      answered(useCases.grant(who, params['grantId'] ?? ''), (grant) => ({ status: 200, body: grantBody(grant) })),

    revokeGrantOnDevice: async ({ who, params }) =>
      answered(await useCases.revoke(who, params['grantId'] ?? ''), nothing),
  };
}

interface ListBody {
  readonly perPage: number;
  readonly seek?: string;
}

const SEEK_UNKNOWN = 'seek is no key of this list, or one of before the gateway was restarted: begin anew';

function listAnswer<Item>(
  { items, lastKey }: Listed<Item>,
  bodyOf: (item: Item) => object,
  headers: Readonly<Record<string, string>> = {},
): Answer {
  return {
    status: lastKey === undefined ? 200 : 206,
    body: items.map(bodyOf),
    headers: { ...headers, ...(lastKey !== undefined && { 'content-last-key': lastKey }) },
  };
}

/** The tags of an If-Match; undefined where any will do (RFC 9110 13.1.1). What is no tag matches none. */
function tagsOf(header: string | string[] | undefined): readonly string[] | undefined {
  if (header === undefined || header === '*') return undefined;
  return [header].flat().flatMap((one) => one.split(',').map((tag) => tag.trim()));
}

const SET_BY = { ruleFiles: 'RULE_FILES', mtcUser: 'MTC_USER', operator: 'OPERATOR' } as const;

function serversAnswer({ servers, mayAuthorise, setBy, setAtMs, tag }: AuthorisedServers): Answer {
  const setAt = setAtMs === undefined ? {} : { setAt: iso(setAtMs) };
  return { status: 200, body: { servers, mayAuthorise, setBy: SET_BY[setBy], ...setAt }, headers: { etag: tag } };
}

function preferenceBody({ id, setBy, setAtMs, ...written }: KeptPreference): object {
  return { preferenceId: id, ...written, setBy: SET_BY[setBy], setAt: iso(setAtMs) };
}

function grantBody(grant: GrantOnDevice): object {
  const { id, server, device, protocol, devicePort, status, endCause } = grant;
  const times = { startedAt: 'startedAtMs', expiresAt: 'expiresAtMs', requestedAt: 'requestedAtMs' } as const;
  const further = { waitsUntil: 'waitsUntilMs', endedAt: 'endedAtMs' } as const;
  const told = Object.entries({ ...times, ...further }).flatMap(([name, field]) => {
    const atMs = grant[field];
    return atMs === undefined ? [] : [[name, iso(atMs)] as const];
  });
  return {
    ...{ grantId: id, server, device, protocol: protocol.toUpperCase(), devicePort, status },
    ...Object.fromEntries(told),
    ...(endCause !== undefined && { endCause: endCauseText(endCause, grant.waitsUntilMs !== undefined) }),
  };
}
