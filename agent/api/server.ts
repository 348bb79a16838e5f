/**
 * The HTTPS server of the APIs: mutual TLS, limits, and the way of a request
 * from the wire to an operation of its contract and back.
 *
 * A request passes, in this order: a place for its connection, handshake,
 * connection still counts, identity, its party's part of what is under way,
 * host, API and path, body and contract, its party's turn, operation. Each that
 * fails behind the handshake is a refusal with its reason and a problem
 * document (RFC 9457); what throws is a fault, answered 500 without a word of
 * why.
 *
 * Invariants: nothing is answered to a peer whose certificate proves nothing, or
 * belongs to nobody: behind the handshake, which is the same for all of them,
 * the connection is cut; nothing of a request is looked at, its path included, before its
 * asker is known; every wait has an end and every buffer a size; no input ends
 * the process. (RFC 9110, RFC 9112; RFC 8446 in tls.ts.)
 */
import type { Server } from 'node:https';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify';
import { AgentError } from '../core/errors.ts';
import type { ShedReason, TlsReason } from '../core/handshakes.ts';
import { type Endpoint, formatEndpoint } from '../core/net.ts';
import { type Clock, type Log, monotonicMs, type Random } from '../core/ports.ts';
import { REFUSALS, type Refusal, type RefusalFace, type Refuse } from '../core/refusals.ts';
import { Admission } from './admission.ts';
import { Answers, headersOf } from './answers.ts';
import { askedOf, askerOf, givenCorrelator } from './asker.ts';
import { Connections } from './connections.ts';
import {
  addContracts,
  MERGE_PATCH,
  misdirection,
  mistyped,
  Paths,
  REASONS_BY_CODE,
  VALIDATION,
  violation,
} from './contract.ts';
import { type IdentityPolicy, type NotIdentified, type PeerIdentity, partyOf } from './identity.ts';
import { API_LIMITS, type ApiLimits } from './limits.ts';
import type { Answer, Api, Follow, Operation } from './operation.ts';
import { Peers } from './peers.ts';
import { Places } from './places.ts';
import { bareAnswer, problemOf, randomUuid } from './problem.ts';
import { SparingLog } from './sparing-log.ts';
import { Streams } from './streams.ts';
import { type HandshakeFailure, handshakeFailure, type Trust, unproved } from './tls.ts';

export interface ApiParts {
  /** Whose certificate it is and where it may ask from, by the policy in force at the moment of asking. */
  readonly identity: IdentityPolicy;
  readonly refuse: Refuse;
  /** Told of every handshake that failed, and who began it. */
  readonly refusedHandshake: (reason: TlsReason, remote: string | undefined) => void;
  /** Told of every reader of a stream that did not keep up. */
  readonly streamCut: () => void;
  /** Told of every connection that was shed; `logged` are few. */
  readonly shedConnection: (reason: ShedReason, remote: string, logged: boolean) => void;
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
 * Starts the server of these APIs.
 * @throws AgentError contractBroken, listenFailed
 */
export async function startApi(
  listen: Endpoint,
  trust: Trust,
  parts: ApiParts,
  apis: readonly Api[],
  limits: Partial<ApiLimits> = {},
): Promise<ApiServer> {
  const server = new ApisServer(trust, parts, apis, { ...API_LIMITS, ...limits });
  await server.start(listen);
  return server;
}

/** Whether nothing is told. */
function isSilent({ reason }: NotIdentified): boolean {
  return (REFUSALS[reason] as RefusalFace).silent === true;
}

/** How often is looked who has waited, or been waited for, too long. */
const SWEEP_MS = 250;
/** The kernel's queue of connections that are not accepted yet: as long as a flood may hold others up, and no longer. */
const BACKLOG = 1_024;

class ApisServer implements ApiServer {
  readonly #parts: ApiParts;
  readonly #apis: readonly Api[];
  readonly #limits: ApiLimits;
  readonly #app;
  readonly #connections: Connections;
  readonly #admission: Admission;
  readonly #answers: Answers;
  readonly #streams: Streams;
  readonly #sweeping: NodeJS.Timeout;
  readonly #tlsLog: SparingLog;
  readonly #paths = new Paths();
  readonly #peers: Peers;
  #endpoint: Endpoint | undefined;

  constructor(trust: Trust, parts: ApiParts, apis: readonly Api[], limits: ApiLimits) {
    this.#parts = parts;
    this.#apis = apis;
    this.#limits = limits;
    this.#peers = new Peers(trust.cas);
    this.#tlsLog = new SparingLog(parts.log, parts.clock);
    this.#answers = new Answers(parts, limits.requests.refusalMs);
    this.#app = Fastify({
      genReqId: (raw) => givenCorrelator(raw) ?? randomUuid(parts.random),
      https: {
        ...trust.context,
        requestCert: true,
        rejectUnauthorized: false, // #isKnown does
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
      frameworkErrors: (fault, request, reply) => void this.#answerUnroutable(fault, request, reply),
    });
    const nowMs = () => monotonicMs(parts.clock);
    const { parties } = parts.identity;
    const shedLog = new SparingLog(parts.log, parts.clock);
    const shed = (reason: ShedReason, remote: string) =>
      parts.shedConnection(reason, remote, shedLog.info({ reason, remote }, 'connectionShed'));
    const places = new Places(limits.connections, parties, nowMs);
    this.#connections = new Connections(this.#app.server, limits, places, nowMs, shed, (socket) =>
      this.#isKnown(socket),
    );
    this.#admission = new Admission(limits.requests, () => parties().size, nowMs);
    this.#streams = new Streams(limits.streams, () => parties().size, parts.streamCut);
    this.#sweeping = setInterval(() => {
      this.#admission.sweep();
      this.#connections.sweep();
    }, SWEEP_MS).unref();
    this.#watch(this.#app.server);
  }

  get endpoint(): Endpoint {
    if (!this.#endpoint) throw new AgentError('internal', 'the API was asked for its endpoint before it listens');
    return this.#endpoint;
  }

  async start(listen: Endpoint): Promise<void> {
    const app = this.#app;
    // Bodies are JSON. Fastify would also take text, and would leave it unchecked.
    app.removeContentTypeParser('text/plain');
    app.addContentTypeParser(MERGE_PATCH, { parseAs: 'string' }, app.getDefaultJsonParser('error', 'error'));
    app.addHook('onRoute', (route) => this.#paths.add(route));
    app.decorateRequest('asker', null);
    // Hooks that call back: each promise would cost every request a round of the loop's smallest wheel.
    app.addHook('onRequest', (request, reply, done) => {
      const refused = this.#admit(request, reply);
      if (refused) refused.catch(done);
      else done();
    });
    app.addHook('onSend', (request, reply, payload, done) => {
      reply.headers(headersOf(request));
      if (!this.#connections.current(request.raw.socket)) reply.header('connection', 'close');
      done(null, payload);
    });
    app.setErrorHandler<FastifyError>((fault, request, reply) => this.#answers.answerFramework(fault, request, reply));
    await addContracts(app, this.#apis, ({ operations }, id) => {
      const operation = operations[id] as Operation<unknown>; // its role's asker is what it gets: #admit has seen to it
      return (request, reply) => this.#serve(operation, request, reply);
    });
    try {
      await app.listen({ host: listen.address.text, port: listen.port, backlog: BACKLOG });
    } catch (cause) {
      clearInterval(this.#sweeping);
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
    this.#streams.close();
    this.#connections.retire();
    await closed;
    clearTimeout(late);
    clearInterval(this.#sweeping);
  }

  #watch(server: Server): void {
    server.on('tlsClientError', (fault, socket) => this.#refuseHandshake(handshakeFailure(fault, socket)));
    // An unknown expectation may be ignored (RFC 9110 10.1.1); Node would answer a bare 417.
    server.on('checkExpectation', (request, response) => server.emit('request', request, response));
  }

  #refuseHandshake(failure: HandshakeFailure): void {
    this.#parts.refusedHandshake(failure.reason, failure.remote);
    this.#tlsLog.info(failure, 'tlsRefused');
  }

  /** Whether a peer whose handshake is over is somebody. Else it is told nothing, whatever it lacks; the operator is. */
  #isKnown(socket: TLSSocket): boolean {
    const failure = unproved(socket);
    if (failure) {
      this.#refuseHandshake(failure);
      return false;
    }
    const { identity, clock, refuse, log } = this.#parts;
    const remote = socket.remoteAddress ?? '';
    try {
      const who = this.#peers.identify(socket, identity, clock.nowMs());
      if (!('reason' in who) || !isSilent(who)) return true;
      refuse(who.reason, { why: who.why, remote, to: 'TLS handshake' });
    } catch (err) {
      // Nobody above this would catch it, and the process lives on.
      log.error({ err, remote }, 'identificationFailed');
    }
    return false;
  }

  /** Lets a request on to the contract: of a known party that has not its part already, for a path that there is for its role. */
  #admit(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> | undefined {
    const who = this.#identify(request);
    if ('reason' in who) return this.#refuseNobody(who, request, reply);
    request.asker = who;
    const party = partyOf(who);
    if (!this.#admission.enter(party)) {
      const why = `${this.#admission.underWay(party)} requests of ${party} are under way`;
      return this.#answers.refuse(request, reply, 'serverBusy', { why });
    }
    this.#connections.whenOver(request.raw, () => this.#admission.leave(party));

    const other = this.#apis.find(({ basePath, role }) => role !== who.role && isUnder(basePath, request));
    if (other)
      return this.#answers.refuse(request, reply, 'wrongRole', { why: `${other.basePath} is for role ${other.role}` });
    const wrong = misdirection(request, this.#paths);
    if (wrong?.allow) reply.header('allow', wrong.allow);
    if (wrong) return this.#answers.refuse(request, reply, wrong.reason, { why: wrong.why, detail: wrong.why });
    const mistype = mistyped(request);
    return mistype === undefined
      ? undefined
      : this.#answers.refuse(request, reply, 'unsupportedMediaType', { why: mistype, detail: mistype });
  }

  /** Who is known is told why; who is not any more, nothing. */
  async #refuseNobody(who: NotIdentified, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    if (!isSilent(who)) return this.#answers.refuse(request, reply, who.reason, { why: who.why });
    this.#parts.refuse(who.reason, { ...askedOf(request), why: who.why });
    this.#connections.turnAway(request.raw.socket);
    return reply.hijack();
  }

  #identify(request: FastifyRequest): PeerIdentity | NotIdentified {
    const { identity, clock } = this.#parts;
    return this.#peers.identify(request.raw.socket as TLSSocket, identity, clock.nowMs());
  }

  async #serve(operation: Operation<unknown>, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const who = request.asker;
    if (!who)
      return this.#answers.answerFault(new AgentError('internal', 'a request without an asker'), request, reply);
    const turn = this.#admission.turn(partyOf(who));
    if (turn !== true && !(await turn)) {
      const why = `its turn did not come within ${this.#limits.requests.waitMs} ms`;
      return this.#answers.refuse(request, reply, 'gatewayBusy', { why });
    }
    let done: Answer | Refusal;
    try {
      if (request.raw.socket.destroyed) return reply.hijack(); // nothing is done for who has gone while it waited
      const params = request.params as Record<string, string>;
      const query = request.query as Record<string, unknown>;
      const { body, headers } = request;
      done = await operation({
        who: askerOf(who, request),
        params,
        query,
        headers,
        body,
        asked: () => askedOf(request),
      });
    } catch (fault) {
      return this.#answers.answerFault(fault, request, reply);
    } finally {
      this.#admission.done();
    }
    if ('reason' in done) return this.#answers.answerRefusal(reply, done);
    if (done.follow) return this.#stream(who, done.follow, request, reply);
    if (done.headers) reply.headers(done.headers);
    if (done.pieces) return this.#sendPieces(done.pieces, request, reply.code(done.status));
    return reply.code(done.status).send(done.text ?? done.body);
  }

  /** A fault in the middle cuts the connection: what was sent so far is not to be taken for the whole. */
  #sendPieces(pieces: AsyncIterable<string>, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const { log } = this.#parts;
    const body = Readable.from(pieces, { objectMode: false });
    body.once('error', (err) => log.error({ ...askedOf(request), err }, 'requestFailed'));
    return reply.type('application/json; charset=utf-8').send(body);
  }

  async #stream(
    who: PeerIdentity,
    follow: Follow,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const party = partyOf(who);
    if (!this.#streams.hasRoom(party)) {
      const why = `${party} has as many streams as it may`;
      return this.#answers.refuse(request, reply, 'serverBusy', { why });
    }
    const passes = () => {
      const now = this.#identify(request);
      return !('reason' in now) && partyOf(now) === party;
    };
    reply.hijack();
    this.#streams.begin({ party, response: reply.raw, passes }, headersOf(request), follow);
    return reply;
  }

  /** A path that the router cannot read. No hook has run, so identity is judged here, and nobody else catches. */
  async #answerUnroutable(fault: Error, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    reply.headers(headersOf(request));
    try {
      const who = this.#identify(request);
      if ('reason' in who) await this.#refuseNobody(who, request, reply);
      else {
        const detail = 'the path cannot be read';
        await this.#answers.refuse(request, reply, 'invalidArgument', { why: fault.message, detail });
      }
    } catch (another) {
      this.#answers.answerFault(another, request, reply);
    }
  }

  /** What cannot be read as HTTP, or did not come in time, after a handshake that passed. */
  #answerMalformed(fault: Error & { code?: string }, socket: Socket): void {
    const { code = '', message } = fault;
    if (code === 'HPE_PAUSED') this.#connections.cutUnread(socket);
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

/** Whether a request is one to an API: by the route that was found for it, however its path was written; else by the path. */
function isUnder(basePath: string, { is404, routeOptions, url }: FastifyRequest): boolean {
  const path = is404 ? url.replace(/^https?:\/\/[^/]*/i, '') : (routeOptions.url ?? '');
  return path.startsWith(basePath) && /^([/?#]|$)/.test(path.slice(basePath.length));
}
