/**
 * The management interface: HTTP on a Unix socket, for the `mtgate` command
 * and consoles of this host. Who may connect is decided by the file's mode
 * (0660: root and the group) and by the folder it lies in; who did what is
 * known by the peer's credentials, which the kernel vouches for.
 *
 * This is the operator's side: it shows inner addresses and rules, and its
 * errors say what to do. Nothing of it is reachable from a network.
 *
 * Invariants: a socket on which someone listens is never taken over; the file
 * is never open to more than its mode, not even between bind and chmod.
 */
import { once } from 'node:events';
import { lstatSync, unlinkSync } from 'node:fs';
import http from 'node:http';
import { connect, type Socket } from 'node:net';
import Fastify, { type FastifyInstance } from 'fastify';
import { z } from 'zod';
import { AgentError } from '../core/errors.ts';
import { type Address, parseAddress } from '../core/net.ts';
import type { Log } from '../core/ports.ts';
import {
  type ExternalId,
  PROTOCOLS,
  type Protocol,
  parseExternalId,
  type RealmName,
  type ServerName,
} from '../core/words.ts';
import { addDenialRoutes, type DenialUseCases } from './denial-routes.ts';
import { addDeviceRoutes, type DeviceUseCases } from './device-routes.ts';
import { addEditionRoutes, type EditionUseCases } from './edition-routes.ts';
import { addNatRoutes, type NatUseCases } from './nat-routes.ts';
import {
  bindingRow,
  deviceDetail,
  grantDetail,
  grantRows,
  type OperatorBinding,
  type OperatorDevice,
  type OperatorGrantDetail,
  type OperatorGrants,
  type OperatorWaitDetail,
} from './operator-rows.ts';
import { addRadiusRoutes, type RadiusUseCases } from './radius-routes.ts';
import { addSinkRoutes, type SinkUseCases } from './sink-routes.ts';
import { addTriggerRoutes, type TriggerManagement } from './trigger-routes.ts';
import { addUserRoutes, type UserUseCases } from './user-routes.ts';

/** The operator asked for what cannot be done: a name, and a sentence for a person. */
interface Declined {
  readonly refused: string;
  readonly why: string;
}

interface ExplainQuestion {
  readonly server: ServerName;
  /** External identifier or MSISDN, as typed. */
  readonly device: string;
  readonly protocol: Protocol;
  readonly port: number;
  readonly durationSeconds: number;
  /** Where the request would come from. */
  readonly from?: Address;
}

/** Names as typed; both must hold where both are given. */
export interface GrantFilter {
  readonly device?: string | undefined;
  readonly server?: string | undefined;
}

/** What the socket serves; `byUid` is who asked. Faults (rulesInvalid, storeFailed) are thrown as AgentError. */
export interface ManagementUseCases
  extends DenialUseCases,
    EditionUseCases,
    DeviceUseCases,
    NatUseCases,
    RadiusUseCases,
    TriggerManagement,
    UserUseCases,
    SinkUseCases {
  status(): object;
  /** A page of the live grants behind a key; those on a device (external identifier or MSISDN) or of a server, if it is named. */
  grants(filter: GrantFilter, limit: number, after?: string): OperatorGrants | Declined;
  /** A grant, live or ended. */
  grant(grantId: string): OperatorGrantDetail | OperatorWaitDetail | undefined;
  /** False: no live grant has this id. */
  revoke(grantId: string, byUid: number): Promise<boolean>;
  /** Whether grants are begun and extended at all; live ones go on. Until it is said otherwise, or the agent starts anew. */
  drain(draining: boolean, byUid: number): void;
  device(name: string): OperatorDevice | undefined;
  /** What the log and the records call a subscriber that is named by digits; nothing of other names. */
  standsFor(name: string): string;
  /** The MTC servers of the rule files. */
  servers(): readonly ServerName[];
  bindings(): readonly OperatorBinding[];
  bind(device: ExternalId, realm: RealmName, address: Address, byUid: number): Promise<Declined | undefined>;
  unbind(device: ExternalId, realm: RealmName, address: Address, byUid: number): Promise<Declined | undefined>;
  /** Reads devices and certificates anew, with autoApply the rules too; says what is in force now. */
  reload(byUid: number): Promise<object>;
  /** Every step of a request's way, the rule that decided, and why. */
  explain(question: ExplainQuestion): { readonly verdict: string; readonly lines: readonly string[] } | Declined;
}

export interface Management {
  close(): Promise<void>;
}

const MODE_MASK = 0o117;

/**
 * Listens on a Unix socket. `peerUid` reads the peer's credentials (SO_PEERCRED).
 * @throws AgentError alreadyRunning where someone listens there, listenFailed where it cannot be made
 */
export async function startManagement(
  path: string,
  useCases: ManagementUseCases,
  peerUid: (socket: Socket) => number,
  log: Log,
): Promise<Management> {
  const server = http.createServer();
  const app = Fastify({
    bodyLimit: 16_384,
    exposeHeadRoutes: false,
    serverFactory: (handler) => server.on('request', handler),
  });
  answerErrors(app, log);
  addRoutes(app, useCases, peerUid);
  await app.ready();
  await removeStale(path);
  // listen() binds before it returns, so the mask covers the making of the file and nothing else.
  const mask = process.umask(MODE_MASK);
  try {
    server.listen(path);
  } finally {
    process.umask(mask);
  }
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw new AgentError('listenFailed', `management socket ${path}`, { cause });
  }
  return {
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
      await app.close();
    },
  };
}

const PORT = z.int().min(1).max(65_535);
const ADDRESS = z.string().transform((text, issue) => parseAddress(text) ?? complain(issue, 'an IP address'));
const EXTERNAL_ID = z.string().transform((text, issue) => parseExternalId(text) ?? complain(issue, 'local@domain'));

const BINDING = z.strictObject({
  device: EXTERNAL_ID,
  realm: z
    .string()
    .min(1)
    .transform((name) => name as RealmName),
  address: ADDRESS,
});

const LIST = z.strictObject({
  device: z.string().optional(),
  server: z.string().optional(),
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
  after: z.string().optional(),
});

const DRAIN = z.strictObject({ draining: z.boolean() });

const QUESTION = z.strictObject({
  server: z
    .string()
    .min(1)
    .transform((name) => name as ServerName),
  device: z.string().min(1),
  protocol: z.enum(PROTOCOLS as [Protocol, ...Protocol[]]),
  port: PORT,
  durationSeconds: z.int().min(1),
  from: ADDRESS.optional(),
});

function complain(issue: z.core.$RefinementCtx, expected: string): never {
  issue.addIssue({ code: 'custom', message: `expected ${expected}` });
  return z.NEVER;
}

function addRoutes(app: FastifyInstance, useCases: ManagementUseCases, uidOf: (socket: Socket) => number): void {
  app.get('/status', () => useCases.status());

  app.post('/drain', (request) => {
    const { draining } = DRAIN.parse(request.body);
    useCases.drain(draining, uidOf(request.raw.socket));
    return useCases.status();
  });

  app.get('/grants', (request, reply) => {
    const { limit, after, ...filter } = LIST.parse(request.query);
    const found = useCases.grants(filter, limit, after);
    return 'refused' in found ? reply.code(404).send(errorBody(found.refused, found.why)) : grantRows(found);
  });
  app.get<{ Params: { id: string } }>('/grants/:id', (request, reply) => {
    const { id } = request.params;
    const found = useCases.grant(id);
    return found ? grantDetail(found) : reply.code(404).send(errorBody('grantNotFound', `no grant ${id} on record`));
  });
  app.delete<{ Params: { id: string } }>('/grants/:id', async (request, reply) => {
    const { id } = request.params;
    if (await useCases.revoke(id, uidOf(request.raw.socket))) return reply.code(204).send();
    return reply.code(404).send(errorBody('grantNotFound', `no live grant ${id}`));
  });

  app.get<{ Params: { name: string } }>('/devices/:name', (request, reply) => {
    const { name } = request.params;
    const found = useCases.device(name);
    return found
      ? deviceDetail(found)
      : reply.code(404).send(errorBody('deviceUnknown', `no device ${name} is registered${useCases.standsFor(name)}`));
  });
  app.get('/servers', () => useCases.servers());
  app.get('/bindings', () => useCases.bindings().map(bindingRow));
  app.post('/bindings', async (request, reply) => {
    const { device, realm, address } = BINDING.parse(request.body);
    const declined = await useCases.bind(device, realm, address, uidOf(request.raw.socket));
    return declined ? reply.code(409).send(errorBody(declined.refused, declined.why)) : reply.code(204).send();
  });
  // A client must say the length of this body itself: Node's does so for POST alone.
  app.delete('/bindings', async (request, reply) => {
    const { device, realm, address } = BINDING.parse(request.body);
    const declined = await useCases.unbind(device, realm, address, uidOf(request.raw.socket));
    return declined ? reply.code(409).send(errorBody(declined.refused, declined.why)) : reply.code(204).send();
  });

  app.post('/reload', (request) => useCases.reload(uidOf(request.raw.socket)));
  app.post('/explain', (request, reply) => {
    const { from, ...question } = QUESTION.parse(request.body);
    const explained = useCases.explain({ ...question, ...(from ? { from } : {}) });
    return 'refused' in explained ? reply.code(404).send(errorBody(explained.refused, explained.why)) : explained;
  });

  addDenialRoutes(app, useCases);
  addNatRoutes(app, useCases);
  addRadiusRoutes(app, useCases);
  addTriggerRoutes(app, useCases, (request) => uidOf(request.raw.socket));
  addUserRoutes(app, useCases, (request) => uidOf(request.raw.socket));
  addSinkRoutes(app, useCases);
  addDeviceRoutes(app, useCases, (request) => uidOf(request.raw.socket));
  addEditionRoutes(app, useCases, (request) => uidOf(request.raw.socket));
}

/** Every answer that is not 2xx. */
export interface ErrorBody {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly advice?: string;
    readonly cause?: string;
  };
}

function errorBody(code: string, message: string, more: { advice?: string; cause?: string } = {}): ErrorBody {
  return { error: { code, message, ...more } };
}

function answerErrors(app: FastifyInstance, log: Log): void {
  app.setNotFoundHandler((request, reply) =>
    reply.code(404).send(errorBody('notFound', `${request.method} ${request.url}: there is no such thing here`)),
  );
  app.setErrorHandler((fault, request, reply) => {
    if (fault instanceof z.ZodError) {
      const places = fault.issues.map(({ path, message }) => [path.join('.') || 'body', message].join(': '));
      return reply.code(400).send(errorBody('invalidArgument', places.join('; ')));
    }
    if (fault instanceof AgentError) {
      const { code, message, advice, cause } = fault;
      log.warn({ code, message, method: request.method, path: request.url }, 'managementFailed');
      const more = cause instanceof Error ? { advice, cause: cause.message } : { advice };
      return reply.code(500).send(errorBody(code, message, more));
    }
    const { statusCode, message, stack } = fault as Error & { statusCode?: number };
    // What Fastify itself refuses (a body that is no JSON) carries a status below 500.
    if (statusCode !== undefined && statusCode < 500) {
      return reply.code(statusCode).send(errorBody('invalidArgument', message));
    }
    log.error({ code: 'internal', message, stack, method: request.method, path: request.url }, 'managementFailed');
    return reply.code(500).send(errorBody('internal', message));
  });
}

/** Removes the socket of an agent that is gone; leaves everything else where it is. */
async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw new AgentError('listenFailed', `management socket ${path}: a file is there already`);
  const probe = connect(path);
  try {
    await once(probe, 'connect');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ECONNREFUSED') {
      throw new AgentError('listenFailed', `management socket ${path}`, { cause });
    }
    unlinkSync(path);
    return;
  } finally {
    probe.destroy();
  }
  throw new AgentError('alreadyRunning', `someone listens on the management socket ${path}`);
}
