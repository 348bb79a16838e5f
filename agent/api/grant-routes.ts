/** The part of the management interface that is about grants: lists them, shows one, and ends one. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { type Declined, decline } from './declined.ts';
import {
  grantDetail,
  grantRows,
  type OperatorGrantDetail,
  type OperatorGrants,
  type OperatorWaitDetail,
} from './operator-rows.ts';

/** Names as typed; both must hold where both are given. */
export interface GrantFilter {
  readonly device?: string | undefined;
  readonly server?: string | undefined;
}

export interface GrantUseCases {
  /** A page of the live grants behind a key; those on a device (external identifier or MSISDN) or of a server, if it is named. */
  grants(filter: GrantFilter, limit: number, after?: string): OperatorGrants | Declined;
  /** A grant, live or ended. */
  grant(grantId: string): OperatorGrantDetail | OperatorWaitDetail | undefined;
  /** False: no live grant has this id. */
  revoke(grantId: string, byUid: number): Promise<boolean>;
}

const LIST = z.strictObject({
  device: z.string().optional(),
  server: z.string().optional(),
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
  after: z.string().optional(),
});

export function addGrantRoutes(
  app: FastifyInstance,
  useCases: GrantUseCases,
  uidOf: (request: FastifyRequest) => number,
): void {
  app.get('/grants', (request, reply) => {
    const { limit, after, ...filter } = LIST.parse(request.query);
    const found = useCases.grants(filter, limit, after);
    return 'refused' in found ? decline(reply, 404, found) : grantRows(found);
  });
  app.get<{ Params: { id: string } }>('/grants/:id', (request, reply) => {
    const { id } = request.params;
    const found = useCases.grant(id);
    return found ? grantDetail(found) : decline(reply, 404, unknownGrant(`no grant ${id} on record`));
  });
  app.delete<{ Params: { id: string } }>('/grants/:id', async (request, reply) => {
    const { id } = request.params;
    if (await useCases.revoke(id, uidOf(request))) return reply.code(204).send();
    return decline(reply, 404, unknownGrant(`no live grant ${id}`));
  });
}

function unknownGrant(why: string): Declined {
  return { refused: 'grantNotFound', why };
}
