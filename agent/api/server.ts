/**
 * The HTTPS server of the API: mutual TLS, limits, and the way of a request
 * from the wire to an operation of the contract and back.
 *
 * A request passes, in this order: handshake, connection still counts,
 * identity, host and path, body and contract, operation. Each that fails is a
 * refusal with its reason and a problem document (RFC 9457); what throws is a
 * fault, answered 500 without a word of why.
 *
 * Invariants: nothing is answered to a peer whose certificate did not pass the
 * handshake; nothing of a request is looked at, its path included, before its
 * asker is known; every wait has an end and every buffer a size; no input ends
 * the process. (RFC 9110, RFC 9112; RFC 8446 in tls.ts.)
 */
import type { IncomingMessage } from 'node:http';
import type { Server } from 'node:https';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify';
import { AgentError } from '../core/errors.ts';
import { type Endpoint, formatEndpoint } from '../core/net.ts';
import type { Clock, Log, Random } from '../core/ports.ts';
import type { Refusal, RefusalReason, Refuse, TlsReason } from '../core/reasons.ts';
import { Connections } from './connections.ts';
import { addContract, misdirection, Paths, REASONS_BY_CODE, VALIDATION, violation } from './contract.ts';
import type { IdentityPolicy, NotIdentified, ServerIdentity } from './identity.ts';
import { API_LIMITS, type ApiLimits } from './limits.ts';
import { Peers } from './peers.ts';
import {
  bareAnswer,
  PROBLEM_TYPE,
  type Problem,
  problemOf,
  problemOfFault,
  randomInstance,
  randomUuid,
} from './problem.ts';
import { BASE_PATH, type GrantsUseCases, type Operation, operations } from './routes.ts';
import { SparingLog } from './sparing-log.ts';
import { handshakeFailure, type Trust } from './tls.ts';

export interface ApiParts {
  readonly grants: GrantsUseCases;
  /** Whose certificate it is and where it may ask from, by the policy in force at the moment of asking. */
  readonly identity: IdentityPolicy;
  readonly refuse: Refuse;
  /** Told of every handshake that failed, and who began it. */
  readonly refusedHandshake: (reason: TlsReason, remote: string | undefined) => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface ApiServer {
  /** Where it listens; the port as bound. */
  readonly endpoint: Endpoint;
  /** Puts new certificates, CAs and CRLs in force. Connections that still pass go on; sessions of before are not resumed. */
  reload(trust: Trust): void;
  close(): Promise<void>;
}

/**
 * Starts the API. `table` is the operations of routes.ts, unless a test has others.
 * @throws AgentError contractBroken, listenFailed
 */
export async function startApi(
  listen: Endpoint,
  trust: Trust,
  parts: ApiParts,
  limits: Partial<ApiLimits> = {},
  table: Readonly<Record<string, Operation>> = operations(parts.grants, parts.refuse, parts.clock),
): Promise<ApiServer> {
  const api = new Api(trust, parts, { ...API_LIMITS, ...limits });
  await api.start(listen, table);
  return api;
}

/** What is kept of a request between its steps. */
const askers = new WeakMap<FastifyRequest, ServerIdentity>();

class Api implements ApiServer {
  readonly #parts: ApiParts;
  readonly #limits: ApiLimits;
  readonly #app;
  readonly #connections: Connections;
  readonly #paths = new Paths();
  readonly #peers: Peers;
  #endpoint: Endpoint | undefined;

  constructor(trust: Trust, parts: ApiParts, limits: ApiLimits) {
    this.#parts = parts;
    this.#limits = limits;
    this.#peers = new Peers(trust.cas);
    this.#app = Fastify({
      genReqId: (raw) => givenCorrelator(raw) ?? randomUuid(parts.random),
      https: {
        ...trust.context,
        requestCert: true,
        rejectUnauthorized: true,
        handshakeTimeout: limits.handshakeMs,
        headersTimeout: limits.headerMs,
        requestTimeout: limits.requestMs,
        connectionsCheckingInterval: Math.min(1_000, limits.headerMs),
        maxHeaderSize: limits.headerBytes,
        // Node's own answer to a missing Host is a bare 400; ours is in misdirection().
        requireHostHeader: false,
      },
      bodyLimit: limits.bodyBytes,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: limits.idleMs,
      connectionTimeout: limits.idleMs,
      exposeHeadRoutes: false,
      return503OnClosing: false,
      ajv: { customOptions: VALIDATION },
      schemaErrorFormatter: ([first], part) => new Error(violation(first, part)),
      clientErrorHandler: (fault, socket) => this.#answerMalformed(fault, socket),
      frameworkErrors: (fault, request, reply) => this.#answerUnroutable(fault, request, reply),
    });
    const log = new SparingLog(parts.log, parts.clock);
    this.#connections = new Connections(this.#app.server, limits.connectionsPerAddress, (remote) =>
      log.info({ remote, most: limits.connectionsPerAddress }, 'connectionsPerAddressExceeded'),
    );
    this.#watch(this.#app.server, log);
  }

  get endpoint(): Endpoint {
    if (!this.#endpoint) throw new AgentError('internal', 'the API was asked for its endpoint before it listens');
    return this.#endpoint;
  }

  async start(listen: Endpoint, table: Readonly<Record<string, Operation>>): Promise<void> {
    const app = this.#app;
    // Bodies are JSON. Fastify would also take text, and would leave it unchecked.
    app.removeContentTypeParser('text/plain');
    app.addHook('onRoute', (route) => this.#paths.add(route));
    app.addHook('onRequest', (request, reply) => this.#admit(request, reply));
    app.addHook('onSend', async (request, reply) => {
      reply.headers(headersOf(request));
      if (!this.#connections.current(request.raw.socket)) reply.header('connection', 'close');
    });
    app.setErrorHandler<FastifyError>((fault, request, reply) => this.#answerFramework(fault, request, reply));
    await addContract(app, BASE_PATH, table, (operation) => (request, reply) => this.#serve(operation, request, reply));
    try {
      await app.listen({ host: listen.address.text, port: listen.port });
    } catch (cause) {
      await app.close();
      throw new AgentError('listenFailed', `API on ${formatEndpoint(listen)}`, { cause });
    }
    this.#endpoint = { address: listen.address, port: (app.server.address() as { port: number }).port };
  }

  reload({ context, cas }: Trust): void {
    this.#app.server.setSecureContext(context);
    const stillPasses = this.#peers.replace(cas, this.#parts.clock.nowMs());
    this.#parts.log.info(this.#connections.sift(stillPasses), 'certificatesReloaded');
  }

  async close(): Promise<void> {
    const late = setTimeout(() => this.#connections.cut(), this.#limits.closeMs);
    const closed = this.#app.close();
    this.#connections.retire();
    await closed;
    clearTimeout(late);
  }

  #watch(server: Server, log: SparingLog): void {
    const most = this.#limits.connections;
    server.maxConnections = most;
    server.on('drop', (peer) => log.info({ remote: peer?.remoteAddress, most }, 'connectionsExceeded'));
    server.on('tlsClientError', (fault, socket) => {
      const failure = handshakeFailure(fault, socket);
      this.#parts.refusedHandshake(failure.reason, failure.remote);
      log.info(failure, 'tlsRefused');
    });
    // An unknown expectation may be ignored (RFC 9110 10.1.1); Node would answer a bare 417.
    server.on('checkExpectation', (request, response) => server.emit('request', request, response));
  }

  /** Lets a request on to the contract: from a current connection, of a known server, for a path there is. */
  async #admit(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
    const { socket } = request.raw;
    if (!this.#connections.current(socket)) {
      socket.destroy();
      return reply.hijack();
    }
    const who = this.#identify(request);
    if ('reason' in who) return this.#refuse(request, reply, who.reason, { why: who.why });
    askers.set(request, who);

    const wrong = misdirection(request, this.#paths);
    if (!wrong) return undefined;
    if (wrong.allow) reply.header('allow', wrong.allow);
    return this.#refuse(request, reply, wrong.reason, { why: wrong.why, detail: wrong.why });
  }

  #identify(request: FastifyRequest): ServerIdentity | NotIdentified {
    const { identity, clock } = this.#parts;
    return this.#peers.identify(request.raw.socket as TLSSocket, identity, clock.nowMs());
  }

  async #serve(operation: Operation, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const who = askers.get(request);
    if (!who) return this.#answerFault(new AgentError('internal', 'a request without an asker'), request, reply);
    try {
      const params = request.params as Record<string, string>;
      const asker = { ...who, correlator: request.id, ...idempotencyKeyOf(request) };
      const done = await operation({ who: asker, params, body: request.body, asked: askedOf(request) });
      if ('reason' in done) return answerRefusal(reply, done);
      if (done.headers) reply.headers(done.headers);
      return reply.code(done.status).send(done.body);
    } catch (fault) {
      return this.#answerFault(fault, request, reply);
    }
  }

  #refuse(
    request: FastifyRequest,
    reply: FastifyReply,
    reason: RefusalReason,
    facts: Pick<Refusal, 'why' | 'detail'>,
  ): FastifyReply {
    return answerRefusal(reply, this.#parts.refuse(reason, { ...askedOf(request), ...facts }));
  }

  /** What Fastify itself found wrong, before an operation was called. */
  #answerFramework(fault: FastifyError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    // Fastify would close where a body was not read to its end, and the reset that follows may overtake
    // the answer. Kept open, the rest is read and dropped, for as long as requestMs lasts.
    reply.removeHeader('connection');
    const reason = fault.validation ? 'invalidArgument' : REASONS_BY_CODE[fault.code];
    if (!reason) return this.#answerFault(fault, request, reply);
    const detail = reason === 'invalidArgument' ? { detail: fault.message } : {};
    return this.#refuse(request, reply, reason, { why: fault.message, ...detail });
  }

  /** A path that the router cannot read. No hook has run, so identity is judged here, and nobody else catches. */
  #answerUnroutable(fault: Error, request: FastifyRequest, reply: FastifyReply): void {
    reply.headers(headersOf(request));
    try {
      const who = this.#identify(request);
      if ('reason' in who) this.#refuse(request, reply, who.reason, { why: who.why });
      else this.#refuse(request, reply, 'invalidArgument', { why: fault.message, detail: 'the path cannot be read' });
    } catch (another) {
      this.#answerFault(another, request, reply);
    }
  }

  #answerFault(fault: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const instance = randomInstance(this.#parts.random);
    const code = fault instanceof AgentError ? fault.code : 'internal';
    this.#parts.log.error({ ...askedOf(request), code, instance, err: fault }, 'requestFailed');
    return answer(reply, problemOfFault(instance));
  }

  /** What cannot be read as HTTP, or did not come in time, after a handshake that passed. */
  #answerMalformed(fault: Error & { code?: string }, socket: Socket): void {
    const { code = '', message } = fault;
    // A failed handshake comes here too; and what is written must not pass for the answer to another request.
    if (!this.#connections.current(socket) || !this.#connections.answerable(socket) || !socket.writable) {
      socket.destroy();
      return;
    }
    const reason = REASONS_BY_CODE[code] ?? 'invalidArgument';
    const correlator = randomUuid(this.#parts.random);
    const { remoteAddress: remote } = socket;
    const refusal = this.#parts.refuse(reason, { remote, correlator, why: `${code} ${message}` });
    socket.end(bareAnswer(problemOf(refusal), correlator));
    // Not destroyed at once: a reset may overtake the answer.
    setTimeout(() => socket.destroy(), 1_000).unref();
  }
}

/** What every answer carries. */
function headersOf(request: FastifyRequest): Record<string, string> {
  return { 'cache-control': 'no-store', 'x-correlator': request.id };
}

function answerRefusal(reply: FastifyReply, refusal: Refusal): FastifyReply {
  if (refusal.retryAfterSeconds !== undefined) reply.header('retry-after', String(refusal.retryAfterSeconds));
  return answer(reply, problemOf(refusal));
}

/** As bytes: to a text Fastify would add a charset, which this type has not (RFC 8259 11). */
function answer(reply: FastifyReply, problem: Problem): FastifyReply {
  return reply
    .code(problem.status)
    .header('content-type', PROBLEM_TYPE)
    .send(Buffer.from(JSON.stringify(problem)));
}

/** Who asked for what, for the log. */
function askedOf(request: FastifyRequest): Record<string, string> {
  const who = askers.get(request);
  return {
    ...(who ? { server: who.name } : {}),
    remote: request.raw.socket.remoteAddress ?? '',
    method: request.method,
    path: request.url.slice(0, 200),
    correlator: request.id,
  };
}

/** The asker's own mark, if it is one by the contract's pattern; anything else is not repeated. */
function givenCorrelator({ headers }: Pick<IncomingMessage, 'headers'>): string | undefined {
  const mark = headers['x-correlator'];
  return typeof mark === 'string' && /^[a-zA-Z0-9_:;./<>{}-]{1,256}$/.test(mark) ? mark : undefined;
}

/** The key of a request that may be sent again, as the contract lets it in: a structured field's string, or bare. */
function idempotencyKeyOf({ headers }: FastifyRequest): { readonly idempotencyKey?: string } {
  const given = headers['idempotency-key'];
  return typeof given === 'string' ? { idempotencyKey: given.replaceAll('"', '') } : {};
}
