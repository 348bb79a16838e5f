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
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { z } from 'zod';
import { AgentError } from '../core/errors.ts';
import type { Address } from '../core/net.ts';
import type { Log } from '../core/ports.ts';
import { PROTOCOLS, type Protocol, type ServerName } from '../core/words.ts';
import { ADDRESS, addBindingRoutes, type BindingUseCases } from './binding-routes.ts';
import { type Declined, decline, errorBody } from './declined.ts';
import { addDenialRoutes, type DenialUseCases } from './denial-routes.ts';
import { addDeviceRoutes, type DeviceUseCases } from './device-routes.ts';
import { addEditionRoutes, type EditionUseCases } from './edition-routes.ts';
import { addGrantRoutes, type GrantUseCases } from './grant-routes.ts';
import { addNatRoutes, type NatUseCases } from './nat-routes.ts';
import { addRadiusRoutes, type RadiusUseCases } from './radius-routes.ts';
import { addSinkRoutes, type SinkUseCases } from './sink-routes.ts';
import { addTriggerRoutes, type TriggerManagement } from './trigger-routes.ts';
import { addUserRoutes, type UserUseCases } from './user-routes.ts';

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

/** What the socket serves; `byUid` is who asked. Faults (rulesInvalid, storeFailed) are thrown as AgentError. */
export interface ManagementUseCases
  extends GrantUseCases,
    BindingUseCases,
    DenialUseCases,
    EditionUseCases,
    DeviceUseCases,
    NatUseCases,
    RadiusUseCases,
    TriggerManagement,
    UserUseCases,
    SinkUseCases {
  status(): object;
  /** Whether grants are begun and extended at all; live ones go on. Until it is said otherwise, or the agent starts anew. */
  drain(draining: boolean, byUid: number): void;
  /** The MTC servers of the rule files. */
  servers(): readonly ServerName[];
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

function addRoutes(app: FastifyInstance, useCases: ManagementUseCases, peerUid: (socket: Socket) => number): void {
  const uidOf = (request: FastifyRequest) => peerUid(request.raw.socket);
  app.get('/status', () => useCases.status());

  app.post('/drain', (request) => {
    const { draining } = DRAIN.parse(request.body);
    useCases.drain(draining, uidOf(request));
    return useCases.status();
  });

  app.get('/servers', () => useCases.servers());
  app.post('/reload', (request) => useCases.reload(uidOf(request)));
  app.post('/explain', (request, reply) => {
    const { from, ...question } = QUESTION.parse(request.body);
    const explained = useCases.explain({ ...question, ...(from ? { from } : {}) });
    return 'refused' in explained ? decline(reply, 404, explained) : explained;
  });

  addGrantRoutes(app, useCases, uidOf);
  addBindingRoutes(app, useCases, uidOf);
  addDenialRoutes(app, useCases);
  addNatRoutes(app, useCases);
  addRadiusRoutes(app, useCases);
  addTriggerRoutes(app, useCases, uidOf);
  addUserRoutes(app, useCases, uidOf);
  addSinkRoutes(app, useCases);
  addDeviceRoutes(app, useCases, uidOf);
  addEditionRoutes(app, useCases, uidOf);
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
