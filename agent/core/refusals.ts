/**
 * Refusals: requests that were not granted, each with its reason from the one
 * table here. The API, the log and the counters name them by it.
 *
 * The API server answers by this table: HTTP status, CAMARA `code` (CAMARA
 * Commonalities, error responses) and 3GPP `cause` (TS 29.122 5.2.6). Two
 * reasons that share a face toward the outside (`deviceUnknown` and
 * `notAuthorisedByMtcUser`) must stay equal in all three, and in the title:
 * a server must not learn that a device exists.
 *
 * Some refusals shed load, and come when there is too much of it: of such (one
 * reason, one asker) at most one a second is written down, and the others of
 * that second repeat it, `instance` included. All are counted.
 */
import type { Asker } from './words.ts';

/** The steps of a request's way, in order; `desk` is what an MTC user says itself. Every refusal names the one that stopped it. */
export type Step =
  | 'gateway'
  | 'authentication'
  | 'admission'
  | 'request'
  | 'device'
  | 'mtcUser'
  | 'rule'
  | 'preference'
  | 'trigger'
  | 'applicationServer'
  | 'filter'
  | 'rate'
  | 'existing'
  | 'quota'
  | 'binding'
  | 'endpoint'
  | 'commit'
  | 'record'
  | 'desk';

export interface RefusalFace {
  readonly step: Step;
  readonly status: number;
  readonly code: string;
  readonly cause?: string;
  /** What the asking server reads. No rule, no inner address, no other tenant. */
  readonly title: string;
  /** When to ask again, where that is the same for every refusal of the kind. */
  readonly retryAfterSeconds?: number;
  /** It sheds load. */
  readonly sheds?: true;
  /** Whoever is refused so is nobody who is known here, and is told nothing: its connection is cut. */
  readonly silent?: true;
}

export const REFUSALS = {
  gatewayNotReady: {
    step: 'gateway',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway opens no grants at the moment',
    retryAfterSeconds: 5,
  },
  gatewayDraining: {
    step: 'gateway',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway opens no grants at the moment',
    retryAfterSeconds: 60,
  },
  triggersUnavailable: {
    step: 'gateway',
    status: 501,
    code: 'NOT_IMPLEMENTED',
    cause: 'SERVICEUNAVAILABLE',
    title: 'This gateway sends no triggers',
  },
  certificateUnknown: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'The client certificate belongs to nobody who is known here',
    silent: true,
  },
  certificateAmbiguous: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'The client certificate matches more than one holder',
    silent: true,
  },
  certificateExpired: {
    step: 'authentication',
    status: 401,
    code: 'UNAUTHENTICATED',
    title: 'The client certificate is not valid at this time',
    silent: true,
  },
  certificateWrongUse: {
    step: 'authentication',
    status: 401,
    code: 'UNAUTHENTICATED',
    title: 'The client certificate is not for client authentication',
    silent: true,
  },
  certificateRevoked: {
    step: 'authentication',
    status: 401,
    code: 'UNAUTHENTICATED',
    title: 'The client certificate is revoked',
    silent: true,
  },
  revocationUnknown: {
    step: 'authentication',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway cannot tell at the moment whether the client certificate is revoked',
  },
  sourceNotAllowed: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'Requests of this client do not come from this address',
  },
  wrongRole: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'This API is not for this client',
  },
  scsAsIdForeign: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'INVSCSID',
    title: 'scsAsId must be the name of the MTC server that asks',
  },
  serverBusy: {
    step: 'admission',
    status: 429,
    code: 'TOO_MANY_REQUESTS',
    title: 'You have as many requests under way as you may',
    retryAfterSeconds: 1,
    sheds: true,
  },
  gatewayBusy: {
    step: 'admission',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway has too much to do at the moment',
    retryAfterSeconds: 2,
    sheds: true,
  },
  invalidArgument: {
    step: 'request',
    status: 400,
    code: 'INVALID_ARGUMENT',
    cause: 'INVALID_MSG_FORMAT',
    title: 'The request does not follow the API',
  },
  bodyTooLarge: {
    step: 'request',
    status: 413,
    code: 'INVALID_ARGUMENT',
    cause: 'INVALID_MSG_FORMAT',
    title: 'The request body is too large',
  },
  requestTooSlow: {
    step: 'request',
    status: 408,
    code: 'REQUEST_TIMEOUT',
    title: 'The request took too long to arrive',
  },
  headerTooLarge: {
    step: 'request',
    status: 431,
    code: 'INVALID_ARGUMENT',
    cause: 'INVALID_MSG_FORMAT',
    title: "The request's header is too large",
  },
  unsupportedMediaType: {
    step: 'request',
    status: 415,
    code: 'UNSUPPORTED_MEDIA_TYPE',
    title: 'The request body is of another media type than this operation takes',
  },
  methodNotAllowed: {
    step: 'request',
    status: 405,
    code: 'METHOD_NOT_ALLOWED',
    title: 'This resource has no such method',
  },
  notFound: { step: 'request', status: 404, code: 'NOT_FOUND', title: 'There is no such resource' },
  sinkNotAllowed: {
    step: 'request',
    status: 422,
    code: 'INVALID_SINK',
    title: 'The sink does not lie below one that the operator has on file for you',
  },
  grantNotFound: { step: 'request', status: 404, code: 'NOT_FOUND', title: 'There is no such grant' },
  triggerNotFound: { step: 'request', status: 404, code: 'NOT_FOUND', title: 'There is no such transaction' },
  triggerPayloadInvalid: {
    step: 'request',
    status: 400,
    code: 'INVALID_ARGUMENT',
    cause: 'INVPAYLOAD',
    title: 'triggerPayload is not base64',
  },
  triggerPortNotServed: {
    step: 'request',
    status: 400,
    code: 'OUT_OF_RANGE',
    cause: 'PARAMETER_OUT_OF_RANGE',
    title: 'applicationPortId is no port that this gateway sends triggers to',
  },
  triggerSourcePortNotServed: {
    step: 'request',
    status: 400,
    code: 'OUT_OF_RANGE',
    cause: 'PARAMETER_OUT_OF_RANGE',
    title: 'appSrcPortId is not the port that this gateway sends triggers from',
  },
  notificationNotAllowed: {
    step: 'request',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'NOTAUTHORIZED',
    title: 'notificationDestination is within none of the sinks that are registered for this MTC server',
  },
  idempotencyKeyReused: {
    step: 'request',
    status: 422,
    code: 'IDEMPOTENCY_KEY_REUSED',
    title: 'This Idempotency-Key was used for another request',
  },
  idempotencyKeyInUse: {
    step: 'request',
    status: 409,
    code: 'IDEMPOTENCY_KEY_IN_USE',
    title: 'A request with this Idempotency-Key is under way',
    retryAfterSeconds: 1,
  },
  deviceUnknown: {
    step: 'device',
    status: 404,
    code: 'IDENTIFIER_NOT_FOUND',
    cause: 'UE_NOT_FOUND',
    title: 'There is no such device for this MTC server',
  },
  notAuthorisedByMtcUser: {
    step: 'mtcUser',
    status: 404,
    code: 'IDENTIFIER_NOT_FOUND',
    cause: 'UE_NOT_FOUND',
    title: 'There is no such device for this MTC server',
  },
  tooManyUnknownDevices: {
    step: 'device',
    status: 429,
    code: 'TOO_MANY_REQUESTS',
    title: 'Too many requests in this minute for devices that are not there for this MTC server',
    sheds: true,
  },
  triggerPort: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: 'This port of devices takes device triggers and nothing else',
  },
  deniedByRule: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this",
  },
  noRuleAllows: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this",
  },
  conditionFailed: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this",
  },
  outsideHours: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this",
  },
  triggerPayloadTooLarge: {
    step: 'trigger',
    status: 400,
    code: 'OUT_OF_RANGE',
    cause: 'INVPAYLOAD',
    title: 'The payload is larger than your triggers may be',
  },
  triggerValidityTooLong: {
    step: 'trigger',
    status: 400,
    code: 'OUT_OF_RANGE',
    cause: 'INVPERIOD',
    title: 'The validity period is longer than your triggers may wait',
  },
  unwanted: {
    step: 'preference',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: 'The owner of the device does not want this now',
  },
  applicationServerRequired: {
    step: 'applicationServer',
    status: 422,
    code: 'APPLICATION_SERVER_REQUIRED',
    title: 'Name the application server by an address of this family within your sources',
  },
  applicationServerNotAllowed: {
    step: 'applicationServer',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'The application server is not within your sources',
  },
  deniedByFilter: {
    step: 'filter',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this",
  },
  familyMismatch: {
    step: 'applicationServer',
    status: 422,
    code: 'FAMILY_MISMATCH',
    title: 'ipFamily and applicationServer contradict each other',
  },
  rateExceeded: {
    step: 'rate',
    status: 429,
    code: 'TOO_MANY_REQUESTS',
    title: 'Too many requests in this minute',
    sheds: true,
  },
  triggerRateExceeded: {
    step: 'rate',
    status: 429,
    code: 'TOO_MANY_REQUESTS',
    cause: 'RATEEXCEEDED',
    title: 'Too many triggers in this minute',
    sheds: true,
  },
  alreadyExists: {
    step: 'existing',
    status: 409,
    code: 'ALREADY_EXISTS',
    title: 'Such a grant is live, or waits for its device, already',
  },
  grantWaits: {
    step: 'existing',
    status: 409,
    code: 'GRANT_WAITING',
    title: 'The grant has not begun: it waits for its device',
  },
  grantHeld: {
    step: 'existing',
    status: 409,
    code: 'GRANT_HELD',
    title: 'The grant is held until it is confirmed where the device is',
  },
  grantEnded: { step: 'existing', status: 409, code: 'GRANT_ENDED', title: 'The grant has ended; ask for a new one' },
  lifetimeExhausted: {
    step: 'existing',
    status: 409,
    code: 'LIFETIME_EXHAUSTED',
    title: 'The grant has been extended for as long as it may live; ask for a new one',
  },
  triggerDelivered: {
    step: 'existing',
    status: 409,
    code: 'CONFLICT',
    cause: 'ORIGINALMESSAGESENT',
    title: 'The trigger has been sent; ask for a new one',
  },
  triggerOver: {
    step: 'existing',
    status: 409,
    code: 'CONFLICT',
    cause: 'REPLACEFAIL',
    title: 'The trigger is no longer pending; ask for a new one',
  },
  triggersExhausted: {
    step: 'binding',
    status: 503,
    code: 'UNAVAILABLE',
    cause: 'TEMPORARYERROR',
    title: 'As many triggers are pending as may',
    retryAfterSeconds: 60,
  },
  grantsPerDeviceExceeded: {
    step: 'quota',
    status: 429,
    code: 'QUOTA_EXCEEDED',
    cause: 'QUOTA_EXCEEDED',
    title: 'You hold as many grants on this device as you may',
  },
  grantsPerServerExceeded: {
    step: 'quota',
    status: 429,
    code: 'QUOTA_EXCEEDED',
    cause: 'QUOTA_EXCEEDED',
    title: 'You hold as many grants as you may',
  },
  triggersPerDeviceExceeded: {
    step: 'quota',
    status: 429,
    code: 'QUOTA_EXCEEDED',
    cause: 'QUOTAEXCEEDED',
    title: 'This device had as many of your triggers in the last hour as it may',
  },
  pendingPerDeviceExceeded: {
    step: 'quota',
    status: 429,
    code: 'QUOTA_EXCEEDED',
    cause: 'QUOTAEXCEEDED',
    title: 'As many of your triggers are pending for this device as may',
  },
  pendingPerServerExceeded: {
    step: 'quota',
    status: 429,
    code: 'QUOTA_EXCEEDED',
    cause: 'QUOTAEXCEEDED',
    title: 'As many of your triggers are pending as may',
  },
  deviceUnreachable: {
    step: 'binding',
    status: 409,
    code: 'DEVICE_UNREACHABLE',
    cause: 'UE_TEMPORARILY_NOT_REACHABLE',
    title: 'The device has no address of this family at the moment',
  },
  deviceAbsent: {
    step: 'binding',
    status: 409,
    code: 'DEVICE_UNREACHABLE',
    cause: 'TEMPORARYERROR',
    title: 'The device has no address at the moment, and a trigger with validityPeriod 0 does not wait',
  },
  addressUnknown: {
    step: 'binding',
    status: 409,
    code: 'DEVICE_UNREACHABLE',
    cause: 'UE_TEMPORARILY_NOT_REACHABLE',
    title: 'The device has a prefix, and it is not known which address in it to reach',
  },
  waitingExhausted: {
    step: 'binding',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'As many requests wait for their devices as may',
  },
  addressesShared: {
    step: 'endpoint',
    status: 422,
    code: 'SERVICE_NOT_APPLICABLE',
    title: 'The device cannot be reached without translation, which is how grants of this server are given',
  },
  endpointsExhausted: {
    step: 'endpoint',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'All external endpoints are in use or at rest',
  },
  changedWhileDeciding: {
    step: 'commit',
    status: 409,
    code: 'CONFLICT',
    title: 'Something this grant rests on changed while it was decided; ask again',
    retryAfterSeconds: 1,
  },
  recordNotWritten: {
    step: 'record',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway cannot keep its records at the moment',
    retryAfterSeconds: 5,
  },
  serverNotAuthorisable: {
    step: 'desk',
    status: 403,
    code: 'SERVER_NOT_AUTHORISABLE',
    title: 'This is no server that you may authorise',
  },
  devicesNotOwned: {
    step: 'desk',
    status: 403,
    code: 'DEVICES_NOT_YOURS',
    title: 'Not all of these devices would be yours',
  },
  serversChanged: {
    step: 'desk',
    status: 412,
    code: 'PRECONDITION_FAILED',
    title: 'The servers that you authorise are not those that you have seen',
  },
  preferenceNotFound: { step: 'desk', status: 404, code: 'NOT_FOUND', title: 'There is no such preference' },
  preferencesExhausted: {
    step: 'desk',
    status: 429,
    code: 'QUOTA_EXCEEDED',
    cause: 'QUOTA_EXCEEDED',
    title: 'You have as many preferences as you may',
  },
} as const satisfies Record<string, RefusalFace>;

export type RefusalReason = keyof typeof REFUSALS;

/**
 * The `cause` of a refusal where a trigger was asked for, and TS 29.368 6.4.9
 * has a word of its own for it; of all others it is that of their face.
 */
export const TRIGGER_CAUSES: Partial<Readonly<Record<RefusalReason, string>>> = {
  deviceUnknown: 'INVEXTID',
  notAuthorisedByMtcUser: 'INVEXTID',
  deniedByRule: 'NOTAUTHORIZED',
  noRuleAllows: 'NOTAUTHORIZED',
  conditionFailed: 'NOTAUTHORIZED',
  outsideHours: 'NOTAUTHORIZED',
  tooManyUnknownDevices: 'RATEEXCEEDED',
  recordNotWritten: 'TEMPORARYERROR',
};

/** A request that was not granted: a value, never an exception. */
export interface Refusal {
  readonly reason: RefusalReason;
  readonly step: Step;
  /** Random id of this refusal; the outside sees it, `mtgate why` takes it. */
  readonly instance: string;
  /** For the operator's log only. */
  readonly why: string;
  /** The rule that decided, where one did. For the operator only. */
  readonly rule?: string;
  /** What the asking server may know beside the title: fields and words of its own request. */
  readonly detail?: string;
  /** Members added to the problem document (RFC 9457 3.2), such as the grantId of a conflict. */
  readonly members?: Readonly<Record<string, string>>;
  /** When asking again may help, in whole seconds from now, at least 1 (RFC 9110 10.2.3). */
  readonly retryAfterSeconds?: number;
}

/** What is known of a refusal beside its reason; all of it goes to the operator's log. */
export interface RefusalFacts extends Partial<Pick<Refusal, 'rule' | 'detail' | 'members' | 'retryAfterSeconds'>> {
  readonly why: string;
  /** Who asked for what: server, request address, device … */
  readonly [fact: string]: unknown;
}

/** Who asked, as facts of a refusal: where from, and with which certificate. */
export function askerFacts(who: Asker): Record<string, unknown> {
  return {
    server: who.name,
    correlator: who.correlator,
    from: who.requestAddress.text,
    ...(who.requestPort !== undefined && { fromPort: who.requestPort }),
    ...(who.fingerprint !== undefined && { certificate: who.fingerprint }),
  };
}

/** Makes a refusal: gives it its instance, records it, counts it. Every refusal comes from here. */
export type Refuse = (reason: RefusalReason, facts: RefusalFacts) => Refusal;
