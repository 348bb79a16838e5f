/**
 * Sends pushes over HTTPS, and guards where to. The one place that connects to
 * what others name.
 *
 * The name is resolved here, once for a connection, and each address judged
 * (sink-addresses.ts); the socket is then connected to the judged address
 * itself. Nothing behind resolves again, follows a redirect or asks for a
 * proxy: Node's agent gets the socket from here and makes none.
 *
 * Invariants: the peer's certificate is verified against the name, always, on
 * every connection, by no less than TLS 1.2; whatever a receiver does, an
 * attempt ends in time and holds one socket and a bounded buffer. What it
 * answers is its status and Retry-After; its body is read, up to a bound, and
 * thrown away. An answer whose header has come counts, however its body ends.
 *
 * Names are resolved by c-ares: getaddrinfo would hold a thread of the pool
 * that the database and the files need, for as long as a name's owner likes.
 */
import { Resolver } from 'node:dns/promises';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { checkServerIdentity, connect, type TLSSocket } from 'node:tls';
import { type Address, type Endpoint, formatEndpoint, parseAddress } from '../core/net.ts';
import type { Owned } from '../core/overlaps.ts';
import type { Destination, Outcome, Post, PushFault } from './delivery.ts';
import { objectionTo } from './sink-addresses.ts';

export interface PostParts {
  /** What is the gateway's own, at this moment. */
  readonly own: () => Iterable<Owned>;
  /** The certificates of the CA files in PEM, by name. */
  readonly cas: ReadonlyMap<string, readonly string[]>;
  /** Which resolvers are asked; absent: those of the host. */
  readonly resolvers?: readonly Endpoint[];
  readonly nowMs: () => number;
}

/** Bounds of one attempt, in ms and bytes. */
export interface PostLimits {
  readonly resolveMs: number;
  /** TCP and TLS, for each address. */
  readonly connectMs: number;
  /** From the request to the end of the answer's header. */
  readonly headerMs: number;
  readonly bodyMs: number;
  readonly bodyBytes: number;
  /** A connection is used again for so long, and then the name is resolved anew. */
  readonly reuseMs: number;
}

const POST_LIMITS: PostLimits = {
  resolveMs: 3_000,
  connectMs: 5_000,
  headerMs: 10_000,
  bodyMs: 2_000,
  bodyBytes: 64 * 1024,
  reuseMs: 60_000,
};
/** So many addresses of one name are tried. */
const ADDRESSES_MOST = 4;
const HEADER_BYTES = 8 * 1024;
/** An idle connection is closed after this. */
const IDLE_MS = 5_000;
/** Statuses that ask for patience (RFC 9110 15.5.9, RFC 6585 4, RFC 9110 15.6.4). */
const BUSY = [408, 425, 429, 503];

class PushFailure extends Error {
  readonly fault: PushFault;

  constructor(fault: PushFault, why: string) {
    super(why);
    this.fault = fault;
  }
}

class StaleConnection extends Error {}

export interface Poster {
  readonly post: Post;
  close(): void;
}

export function openPoster(parts: PostParts, limits: PostLimits = POST_LIMITS): Poster {
  const resolver = new Resolver({ timeout: limits.resolveMs / 2, tries: 2 });
  if (parts.resolvers) resolver.setServers(parts.resolvers.map(formatEndpoint));
  const agents = new Map<string, { readonly agent: Agent; readonly sinceMs: number }>();

  const agentFor = (to: Destination): Agent => {
    const { origin } = new URL(to.url);
    const key = `${origin} ${to.ca ?? ''}`;
    for (const [known, { agent, sinceMs }] of agents) {
      if (parts.nowMs() - sinceMs < limits.reuseMs && parts.nowMs() >= sinceMs) continue;
      agent.destroy();
      agents.delete(known);
    }
    const held = agents.get(key) ?? { agent: guardedAgent(to), sinceMs: parts.nowMs() };
    agents.set(key, held);
    return held.agent;
  };

  /** Node's own agent, which keeps a connection for the next request; but for who makes one. */
  const guardedAgent = (to: Destination): Agent => {
    const agent = new Agent({ keepAlive: true, maxFreeSockets: 1, timeout: IDLE_MS });
    const createConnection = (_: unknown, made: (fault: Error | null, socket?: TLSSocket) => void) => {
      connectTo(to).then((socket) => made(null, socket), made);
    };
    return Object.assign(agent, { createConnection });
  };

  const connectTo = async (to: Destination): Promise<TLSSocket> => {
    const { hostname, port } = new URL(to.url);
    const ca = to.ca === undefined ? undefined : parts.cas.get(to.ca);
    if (to.ca !== undefined && ca === undefined) throw new PushFailure('tlsFailed', `agent.yaml has no CA ${to.ca}`);
    const own = [...parts.own()];
    let failure: unknown = new PushFailure('nameUnknown', `${hostname} has no address`);
    for (const address of (await addressesOf(hostname)).slice(0, ADDRESSES_MOST)) {
      const why = objectionTo(address, own);
      try {
        if (why !== undefined) throw new PushFailure('addressForbidden', why);
        return await connectAt(address, Number(port || 443), hostname, ca);
      } catch (fault) {
        failure = fault;
      }
    }
    throw failure;
  };

  const addressesOf = async (name: string): Promise<Address[]> => {
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    const texts = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    return texts.flatMap((text) => parseAddress(text) ?? []);
  };

  const connectAt = (
    address: Address,
    port: number,
    name: string,
    ca: readonly string[] | undefined,
  ): Promise<TLSSocket> =>
    new Promise((resolve, reject) => {
      const where = formatEndpoint({ address, port });
      const socket = connect({
        host: address.text, // a literal: there is nothing left to resolve
        port,
        servername: name,
        ...(ca && { ca: [...ca] }),
        minVersion: 'TLSv1.2',
        rejectUnauthorized: true, // whatever the environment says
        ALPNProtocols: ['http/1.1'],
        checkServerIdentity: (_, certificate) => checkServerIdentity(name, certificate),
      });
      let isConnected = false;
      const fail = (fault: PushFault, why: string) => {
        clearTimeout(timer);
        socket.destroy();
        reject(new PushFailure(fault, `${where}: ${why}`)); // without effect once it is resolved
      };
      const timer = setTimeout(() => {
        fail(isConnected ? 'tooSlow' : 'unreachable', `no connection within ${limits.connectMs} ms`);
      }, limits.connectMs);
      socket.once('connect', () => {
        isConnected = true;
      });
      socket.on('error', ({ message }) => fail(isConnected ? 'tlsFailed' : 'unreachable', message));
      socket.once('close', () => fail(isConnected ? 'tlsFailed' : 'unreachable', 'closed'));
      socket.once('secureConnect', () => {
        const peer = parseAddress(socket.remoteAddress ?? '');
        if (peer?.text !== address.text) return fail('addressForbidden', `connected to ${peer?.text ?? 'nobody'}`);
        clearTimeout(timer);
        resolve(socket);
      });
    });

  const post: Post = async (to, headers, body) => {
    try {
      const attempt = () => exchange(agentFor(to), to, headers, body, limits, parts.nowMs);
      // A kept connection that its peer has closed meanwhile says nothing of the receiver.
      return await attempt().catch((fault) => (fault instanceof StaleConnection ? attempt() : Promise.reject(fault)));
    } catch (fault) {
      if (fault instanceof PushFailure) return { ok: false, fault: fault.fault, why: fault.message };
      return { ok: false, fault: 'broken', why: (fault as Error).message };
    }
  };
  const close = () => {
    resolver.cancel();
    for (const { agent } of agents.values()) agent.destroy();
  };
  return { post, close };
}

function exchange(
  agent: Agent,
  to: Destination,
  headers: Readonly<Record<string, string>>,
  body: Uint8Array,
  limits: PostLimits,
  nowMs: () => number,
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const sent = request(to.url, {
      agent,
      method: 'POST',
      headers: { ...headers, 'content-length': String(body.length), 'user-agent': 'mtgate' },
      maxHeaderSize: HEADER_BYTES,
    });
    let timer: NodeJS.Timeout | undefined;
    const within = (ms: number, what: string) => {
      clearTimeout(timer);
      timer = setTimeout(() => sent.destroy(new PushFailure('tooSlow', `no ${what} within ${ms} ms`)), ms);
    };
    within(limits.resolveMs * 2 + limits.connectMs * ADDRESSES_MOST, 'connection');
    sent.once('socket', () => within(limits.headerMs, 'answer'));
    sent.once('response', (response) => {
      resolve(outcomeOf(response, nowMs()));
      within(limits.bodyMs, 'end of the answer');
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > limits.bodyBytes) response.destroy();
      });
      response.once('close', () => clearTimeout(timer));
      response.on('error', () => {});
    });
    // After an answer it is of no matter any more.
    sent.on('error', (fault) => {
      clearTimeout(timer);
      const isStale = sent.reusedSocket && (fault as NodeJS.ErrnoException).code === 'ECONNRESET';
      reject(isStale ? new StaleConnection(fault.message) : fault);
    });
    sent.end(body);
  });
}

function outcomeOf({ statusCode = 0, headers }: IncomingMessage, nowMs: number): Outcome {
  if (statusCode >= 200 && statusCode < 300) return { ok: true, status: statusCode };
  const retryAfterMs = readRetryAfter(headers['retry-after'], nowMs);
  const why = `status ${statusCode}`;
  const more = { ok: false, why, status: statusCode, ...(retryAfterMs !== undefined && { retryAfterMs }) } as const;
  if (statusCode >= 300 && statusCode < 400) return { ...more, fault: 'redirected' };
  return { ...more, fault: BUSY.includes(statusCode) ? 'busy' : 'refused' };
}

/** RFC 9110 10.2.3: seconds, or a date. */
function readRetryAfter(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1_000;
  const atMs = Date.parse(text);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs);
}
