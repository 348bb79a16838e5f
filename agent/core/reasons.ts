/**
 * The one vocabulary of reasons. A refusal is a request that was not granted,
 * a denial a packet that did not pass; both name their reason from here, in
 * the API, the log, the counters and (denials) the packet mark.
 *
 * REFUSALS is read by the API server: HTTP status, CAMARA `code` (CAMARA
 * Commonalities, error responses) and 3GPP `cause` (TS 29.122 5.2.6). Two
 * reasons that share a face toward the outside (`deviceUnknown` and
 * `notAuthorisedByMtcUser`) must stay equal in all three, and in the title:
 * a server must not learn that a device exists.
 *
 * DENIALS is read by the gate: numbers are those of `enum reason` in gate.h,
 * held equal by a test.
 */

/** The steps of a request's way, in order. Every refusal names the one that stopped it. */
export type Step =
  | 'gateway'
  | 'authentication'
  | 'request'
  | 'device'
  | 'mtcUser'
  | 'rule'
  | 'applicationServer'
  | 'rate'
  | 'existing'
  | 'quota'
  | 'binding'
  | 'endpoint'
  | 'commit';

interface RefusalFace {
  readonly step: Step;
  readonly status: number;
  readonly code: string;
  readonly cause?: string;
  /** What the asking server reads. No rule, no inner address, no other tenant. */
  readonly title: string;
}

export const REFUSALS = {
  gatewayNotReady: {
    step: 'gateway',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway opens no grants at the moment',
  },
  gatewayDraining: {
    step: 'gateway',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway opens no grants at the moment',
  },
  certificateUnknown: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'The client certificate belongs to no known MTC server',
  },
  certificateAmbiguous: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'The client certificate matches more than one MTC server',
  },
  certificateExpired: {
    step: 'authentication',
    status: 401,
    code: 'UNAUTHENTICATED',
    title: 'The client certificate is not valid at this time',
  },
  certificateWrongUse: {
    step: 'authentication',
    status: 401,
    code: 'UNAUTHENTICATED',
    title: 'The client certificate is not for client authentication',
  },
  sourceNotAllowed: {
    step: 'authentication',
    status: 403,
    code: 'PERMISSION_DENIED',
    title: 'Requests of this MTC server do not come from this address',
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
    title: 'The request body must be application/json',
  },
  methodNotAllowed: {
    step: 'request',
    status: 405,
    code: 'METHOD_NOT_ALLOWED',
    title: 'This resource has no such method',
  },
  notFound: { step: 'request', status: 404, code: 'NOT_FOUND', title: 'There is no such resource' },
  notSupported: {
    step: 'request',
    status: 422,
    code: 'NOT_SUPPORTED',
    title: 'This gateway does not support that yet',
  },
  grantNotFound: { step: 'request', status: 404, code: 'NOT_FOUND', title: 'There is no such grant' },
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
  deniedByRule: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this grant",
  },
  noRuleAllows: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this grant",
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
  familyMismatch: {
    step: 'applicationServer',
    status: 422,
    code: 'FAMILY_MISMATCH',
    title: 'ipFamily and applicationServer contradict each other',
  },
  rateExceeded: { step: 'rate', status: 429, code: 'TOO_MANY_REQUESTS', title: 'Too many requests in this minute' },
  alreadyExists: { step: 'existing', status: 409, code: 'ALREADY_EXISTS', title: 'Such a grant is live already' },
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
  deviceUnreachable: {
    step: 'binding',
    status: 409,
    code: 'DEVICE_UNREACHABLE',
    cause: 'UE_TEMPORARILY_NOT_REACHABLE',
    title: 'The device has no address of this family at the moment',
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
  },
} as const satisfies Record<string, RefusalFace>;

export type RefusalReason = keyof typeof REFUSALS;

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
}

/** What is known of a refusal beside its reason; all of it goes to the operator's log. */
export interface RefusalFacts extends Partial<Pick<Refusal, 'rule' | 'detail' | 'members'>> {
  readonly why: string;
  /** Who asked for what: server, request address, device … */
  readonly [fact: string]: unknown;
}

/** Makes a refusal: gives it its instance, records it, counts it. Every refusal comes from here. */
export type Refuse = (reason: RefusalReason, facts: RefusalFacts) => Refusal;

/** Why a packet did not pass, by the gate's number; the text is for operators. */
export const DENIALS = {
  noGrant: { number: 1, text: 'grants pool, and no grant was ever open there' },
  grantEnded: { number: 2, text: 'the grant of this endpoint has ended' },
  wrongSource: { number: 3, text: 'a live grant, but not for this source' },
  agentLost: { number: 4, text: 'the agent has not been heard for orphanGraceSeconds' },
  malformed: { number: 5, text: 'headers cut short or contradicting their lengths' },
  headerOptions: { number: 6, text: 'IPv4 options or IPv6 extension headers' },
  hopLimit: { number: 7, text: 'TTL or hop limit used up' },
  fragment: { number: 8, text: 'a fragment' },
  protocolNotCarried: { number: 9, text: 'neither TCP nor UDP' },
  spoofedSource: { number: 10, text: 'an inner or multicast source, seen from outside' },
  realmDestination: { number: 11, text: 'addressed to the inside, from outside' },
  innerLeak: { number: 12, text: 'would have carried an inner address outside' },
  gatewayService: { number: 13, text: 'a device addressed the gateway itself' },
  deviceToDevice: { number: 14, text: 'a device addressed another device' },
  wrongRemote: { number: 15, text: "a device's answer to another address than the granted one" },
  tombstone: { number: 16, text: 'a leftover of a grant that has just ended' },
  addressChangingHands: { number: 17, text: 'the inner address is being given to another device' },
} as const satisfies Record<string, { number: number; text: string }>;

export type DenialReason = keyof typeof DENIALS;

export const DENIAL_REASONS = Object.keys(DENIALS) as readonly DenialReason[];

/** The denial a gate number stands for, or undefined. */
export function denialOfNumber(number: number): DenialReason | undefined {
  return DENIAL_REASONS.find((reason) => DENIALS[reason].number === number);
}
