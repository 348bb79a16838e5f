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
 *
 * HANDSHAKES is why a TLS handshake with the API failed: nobody is known yet
 * then, so it is neither of the two, but it stands in the same list.
 *
 * Some refusals shed load, and come when there is too much of it: of such (one
 * reason, one asker) at most one a second is written down, and the others of
 * that second repeat it, `instance` included. All are counted.
 */

/** The steps of a request's way, in order. Every refusal names the one that stopped it. */
export type Step =
  | 'gateway'
  | 'authentication'
  | 'admission'
  | 'request'
  | 'device'
  | 'mtcUser'
  | 'rule'
  | 'applicationServer'
  | 'filter'
  | 'rate'
  | 'existing'
  | 'quota'
  | 'binding'
  | 'endpoint'
  | 'commit'
  | 'record';

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
  certificateRevoked: {
    step: 'authentication',
    status: 401,
    code: 'UNAUTHENTICATED',
    title: 'The client certificate is revoked',
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
    title: 'Requests of this MTC server do not come from this address',
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
  conditionFailed: {
    step: 'rule',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this grant",
  },
  outsideHours: {
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
  deniedByFilter: {
    step: 'filter',
    status: 403,
    code: 'PERMISSION_DENIED',
    cause: 'OPERATION_PROHIBITED',
    title: "The operator's rules do not allow this grant",
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
  alreadyExists: { step: 'existing', status: 409, code: 'ALREADY_EXISTS', title: 'Such a grant is live already' },
  grantEnded: { step: 'existing', status: 409, code: 'GRANT_ENDED', title: 'The grant has ended; ask for a new one' },
  lifetimeExhausted: {
    step: 'existing',
    status: 409,
    code: 'LIFETIME_EXHAUSTED',
    title: 'The grant has been extended for as long as it may live; ask for a new one',
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
    retryAfterSeconds: 1,
  },
  recordNotWritten: {
    step: 'record',
    status: 503,
    code: 'UNAVAILABLE',
    title: 'The gateway cannot keep its records at the moment',
    retryAfterSeconds: 5,
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
  /** When asking again may help, in whole seconds from now, at least 1 (RFC 9110 10.2.3). */
  readonly retryAfterSeconds?: number;
}

/** What is known of a refusal beside its reason; all of it goes to the operator's log. */
export interface RefusalFacts extends Partial<Pick<Refusal, 'rule' | 'detail' | 'members' | 'retryAfterSeconds'>> {
  readonly why: string;
  /** Who asked for what: server, request address, device … */
  readonly [fact: string]: unknown;
}

/** Makes a refusal: gives it its instance, records it, counts it. Every refusal comes from here. */
export type Refuse = (reason: RefusalReason, facts: RefusalFacts) => Refusal;

/** Why a packet did not pass, by the gate's number; the texts are for operators: what it means, and what to do. */
export const DENIALS = {
  noGrant: {
    number: 1,
    text: 'grants pool, and no grant was ever open there',
    advice: 'Somebody tries addresses. Nothing to do, unless it is a server of yours that holds an old endpoint.',
  },
  grantEnded: {
    number: 2,
    text: 'the grant of this endpoint has ended',
    advice: 'The server sends on after its grant: it should ask anew, or earlier. The log line grantEnded says why.',
  },
  wrongSource: {
    number: 3,
    text: 'a live grant, but not for this source',
    advice: 'If the source is the server itself, it has another exit: list it in sources, or name applicationServer.',
  },
  agentLost: {
    number: 4,
    text: 'the agent has not been heard for orphanGraceSeconds',
    advice: 'Look why the agent stood still: its log and `mtgate status`.',
  },
  malformed: {
    number: 5,
    text: 'headers cut short or contradicting their lengths',
    advice: 'A broken or hostile sender; if many sources send it, look at the path (MTU, offloads).',
  },
  headerOptions: {
    number: 6,
    text: 'IPv4 options or IPv6 extension headers',
    advice: 'Nothing: grants carry plain packets. A server that needs options cannot be served.',
  },
  hopLimit: {
    number: 7,
    text: 'TTL or hop limit used up',
    advice: 'A traceroute, or a routing loop: see whether one source and destination come again and again.',
  },
  fragment: {
    number: 8,
    text: 'a fragment',
    advice: 'The sender must stay below the path MTU: grants carry no fragments.',
  },
  protocolNotCarried: {
    number: 9,
    text: 'neither TCP nor UDP',
    advice: 'Nothing: grants are for TCP and UDP (a ping of an endpoint ends here).',
  },
  spoofedSource: {
    number: 10,
    text: 'an inner or multicast source, seen from outside',
    advice: 'Find where it enters: the upstream router should filter such sources (BCP 38).',
  },
  realmDestination: {
    number: 11,
    text: 'addressed to the inside, from outside',
    advice:
      'Somebody outside knows or guesses inner addresses, and a route leads them here: look at the upstream router.',
  },
  innerLeak: {
    number: 12,
    text: 'would have carried an inner address outside',
    advice: 'Something on this host sends from inside addresses: look at its services and routes.',
  },
  gatewayService: {
    number: 13,
    text: 'a device addressed the gateway itself',
    advice: 'If devices need it, list it under services in agent.yaml; otherwise look at the device.',
  },
  deviceToDevice: {
    number: 14,
    text: 'a device addressed another device',
    advice: 'Look at the device: devices are kept apart.',
  },
  wrongRemote: {
    number: 15,
    text: "a device's answer to another address than the granted one",
    advice: 'Look at the device, and at whom it answers.',
  },
  tombstone: {
    number: 16,
    text: 'a leftover of a grant that has just ended',
    advice: 'Nothing: it ends by itself.',
  },
  addressChangingHands: {
    number: 17,
    text: 'the inner address is being given to another device',
    advice: 'Nothing: it lasts for a moment. If it stays, look for bindings that cannot be recorded (the log).',
  },
  packetRateExceeded: {
    number: 18,
    text: 'a live grant, but more packets a second than its rule allows',
    advice: 'If the application needs more, raise packetsPerSecond of the rule; otherwise look at who sends so much.',
  },
  byteQuotaExceeded: {
    number: 19,
    text: 'a live grant, but its bytes are used up',
    advice: 'The grant ends within a second (quotaUsed). If the application needs more, raise bytes of the rule.',
  },
  addressUnbound: {
    number: 20,
    text: 'from an inner address that no device holds',
    advice:
      'A device that is not bound (yet): see `mtgate device`. If devices may speak unbound, set gate.onlyBound to false.',
  },
} as const satisfies Record<string, { number: number; text: string; advice: string }>;

export type DenialReason = keyof typeof DENIALS;

export const DENIAL_REASONS = Object.keys(DENIALS) as readonly DenialReason[];

/** The denial a gate number stands for, or undefined. */
export function denialOfNumber(number: number): DenialReason | undefined {
  return DENIAL_REASONS.find((reason) => DENIALS[reason].number === number);
}

/** The denial of this name, or undefined. */
function denialOfName(name: string): DenialReason | undefined {
  return Object.hasOwn(DENIALS, name) ? (name as DenialReason) : undefined;
}

/** Why the base dropped a packet, where it says so; beside the gate's reasons, and without a number of its. */
export const BASE_DENIALS = {
  filtered: {
    text: "a drop of the operator's filters: `rule` says which",
    advice: 'Nothing, if it was meant; `mtgate explain packet` shows what would let it pass.',
  },
} as const;

/** Why a packet did not pass, whoever dropped it. */
export type PacketReason = DenialReason | keyof typeof BASE_DENIALS;

/** How a filter can have met a copied packet: it was dropped, or would have been. */
export const FILTER_COPIES = ['filtered', 'staged'] as const;
export type FilterCopy = (typeof FILTER_COPIES)[number];

/**
 * The mark by which the base tells the gate (gate.h) that a device's packet
 * answers a flow that a filter allowed from outside: it may show its address.
 */
export const ANSWER_MARK = 0xa0000000;

/** The mark of a packet that is handed on to be looked at (gate.h): this, with the reason's number. */
export const DENIAL_MARK = 0xd0000000;
/** A packet of our own, sent and dropped on this host to see whether the inspector sees: no denial's number. */
export const SELF_TEST = { name: 'selfTest', mark: DENIAL_MARK + 0xff } as const;
/** What the base writes before a copied packet: this, with the reason's name, or a FilterCopy and the filter's id. */
export const DENIAL_PREFIX = 'mtgate ';

/** What a copied packet's prefix says of it, or undefined where it is none of ours. */
export function readPrefix(
  prefix: string,
): { readonly reason: DenialReason | FilterCopy | typeof SELF_TEST.name; readonly filter?: string } | undefined {
  if (!prefix.startsWith(DENIAL_PREFIX)) return undefined;
  const [name = '', filter] = prefix.slice(DENIAL_PREFIX.length).split(' ');
  const copy = FILTER_COPIES.find((one) => one === name);
  if (copy) return filter ? { reason: copy, filter } : undefined;
  const reason = name === SELF_TEST.name ? name : denialOfName(name);
  return reason && filter === undefined ? { reason } : undefined;
}

/** Why a handshake failed; the texts are for operators. */
export const HANDSHAKES = {
  tlsNoCertificate: {
    text: 'the client sent no certificate',
    advice: 'A stranger, or a server that is not set up: it needs a certificate of a client CA in agent.yaml.',
  },
  tlsCertificateExpired: {
    text: 'the client certificate, or one above it, is not valid at this time',
    advice: 'Have it renewed; if every client fails so, look at the clock of this host.',
  },
  tlsUnknownCa: {
    text: 'the certificate leads to no client CA of agent.yaml',
    advice: 'If the server is yours, add its CA to api.clientCAs, or have it send its intermediates.',
  },
  tlsRevoked: { text: 'the certificate is revoked', advice: 'Nothing; or have a new one issued.' },
  tlsRevocationUnknown: {
    text: 'no valid revocation list for a CA of the chain',
    advice: 'Put the current CRL in place and reload: until then its clients are refused.',
  },
  tlsWrongUse: {
    text: 'the certificate is not for client authentication',
    advice: 'Have one issued with the extended key usage clientAuth.',
  },
  tlsVersion: {
    text: 'the client speaks an older TLS only',
    advice: 'Have the client renewed, or set api.minimumTls to 1.2.',
  },
  tlsTimeout: {
    text: 'the handshake was not finished in time',
    advice: 'A stalled or hostile client, or a path that loses packets (MTU).',
  },
  tlsShed: {
    text: 'closed before the handshake: this address, or its server, has its share already',
    advice:
      'A flood, or a server that makes a connection a request: see mtgate_connections_shed_total. Few are listed here.',
  },
  tlsAborted: { text: 'the client broke off', advice: 'Often a port scan; if it is a server of yours, read its log.' },
  tlsOther: { text: 'the handshake failed in another way', advice: 'The log line tlsRefused has the words of TLS.' },
} as const satisfies Record<string, { text: string; advice: string }>;

export type TlsReason = keyof typeof HANDSHAKES;

/**
 * Why a connection was closed that nobody had told to go. Before its
 * handshake, whose share was used up: of connections (`places`) or of
 * handshakes a second, of a server (by the address), of all strangers
 * together, or of one stranger's address. In it: it stood still, and made room
 * for a newer one (`overtaken`). After it: too many requests at once
 * (`pipelined`), an answer that was not read in time, a stranger's time.
 */
export type ShedReason =
  | 'serverPlaces'
  | 'serverHandshakes'
  | 'strangerPlaces'
  | 'strangerHandshakes'
  | 'addressPlaces'
  | 'addressHandshakes'
  | 'overtaken'
  | 'pipelined'
  | 'answerUnread'
  | 'strangerTime';
