/**
 * The part of the management interface that is about MTC users: whom each
 * authorises and what it wants, who said so and when; an operator may say it
 * for one, which is logged (`deskChanged`, `byUid`).
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { WrittenPreference } from '../desk/preference-form.ts';
import { type Declined, decline } from './declined.ts';

/** Who said something: the MTC user by a certificate, or an operator. */
export type SaidBy = { readonly certificate: string } | { readonly byUid: number };

export interface UserRow {
  readonly mtcUser: string;
  readonly devices: readonly string[];
  /** The servers that count. */
  readonly servers: readonly string[];
  readonly setBy: 'ruleFiles' | 'mtcUser' | 'operator';
  readonly preferences: number;
  readonly liveGrants: number;
}

export interface UserDetail extends Omit<UserRow, 'preferences'> {
  readonly mayAuthorise: readonly string[];
  readonly setAt?: string;
  readonly said?: SaidBy;
  /** What was said and does not count: servers that are not there, or not to be authorised. */
  readonly withoutEffect: readonly string[];
  readonly preferences: readonly (WrittenPreference & {
    readonly id: string;
    readonly setAt: string;
    readonly said: SaidBy;
  })[];
  readonly waitingGrants: number;
}

/** Faults (deskFailed, storeFailed) are thrown as AgentError. */
export interface UserUseCases {
  users(): readonly UserRow[];
  user(name: string): UserDetail | undefined;
  /** `servers` absent: those of the rule files count again. */
  setUserServers(name: string, servers: readonly string[] | undefined, byUid: number): Promise<Declined | undefined>;
  setUserPreference(
    name: string,
    written: WrittenPreference,
    byUid: number,
  ): Promise<Declined | { readonly id: string }>;
  dropUserPreference(name: string, id: string, byUid: number): Promise<Declined | undefined>;
}

const SERVERS = z.strictObject({ servers: z.array(z.string().min(1).max(63)).max(1_000) });
const ZONE = z.string().min(1).max(64);
const GRANTS_EXPECTED = 'expected a whole number from 1 to 1000000';
const PREFERENCE = z.strictObject({
  devices: z.string().max(320),
  block: z.boolean().exactOptional(),
  quietHours: z
    .strictObject({ from: z.string(), to: z.string(), zone: ZONE, days: z.array(z.string()).exactOptional() })
    .exactOptional(),
  grantsPerDay: z
    .strictObject({
      grants: z.int(GRANTS_EXPECTED).min(1, GRANTS_EXPECTED).max(1_000_000, GRANTS_EXPECTED),
      zone: ZONE,
    })
    .exactOptional(),
});

export function addUserRoutes(
  app: FastifyInstance,
  useCases: UserUseCases,
  uidOf: (request: FastifyRequest) => number,
): void {
  const declined = (reply: FastifyReply, no: Declined) =>
    decline(reply, no.refused === 'mtcUserUnknown' ? 404 : 409, no);
  type Named = { Params: { name: string } };
  app.get('/users', () => useCases.users());
  app.get<Named>('/users/:name', (request, reply) => {
    const { name } = request.params;
    return useCases.user(name) ?? declined(reply, unknownUser(name));
  });
  app.put<Named>('/users/:name/servers', async (request, reply) => {
    const { servers } = SERVERS.parse(request.body);
    const refused = await useCases.setUserServers(request.params.name, servers, uidOf(request));
    return refused ? declined(reply, refused) : reply.code(204).send();
  });
  app.delete<Named>('/users/:name/servers', async (request, reply) => {
    const refused = await useCases.setUserServers(request.params.name, undefined, uidOf(request));
    return refused ? declined(reply, refused) : reply.code(204).send();
  });
  app.post<Named>('/users/:name/preferences', async (request, reply) => {
    const done = await useCases.setUserPreference(request.params.name, PREFERENCE.parse(request.body), uidOf(request));
    return 'refused' in done ? declined(reply, done) : done;
  });
  app.delete<{ Params: { name: string; id: string } }>('/users/:name/preferences/:id', async (request, reply) => {
    const { name, id } = request.params;
    const refused = await useCases.dropUserPreference(name, id, uidOf(request));
    return refused ? declined(reply, refused) : reply.code(204).send();
  });
}

export function unknownUser(name: string): Declined {
  return { refused: 'mtcUserUnknown', why: `no MTC user ${name} in the rule files` };
}
