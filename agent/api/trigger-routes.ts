/**
 * The part of the management interface that shows triggers, with what the
 * outside never learns of them, and recalls those that are pending.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { type Declined, decline } from './declined.ts';

/** A trigger as the operator sees it in a list. */
export interface TriggerRow {
  readonly triggerId: string;
  readonly state: 'pending' | 'ended';
  /** What its server reads of it (TS 29.122). */
  readonly deliveryResult: string;
  readonly server: string;
  readonly device: string;
  readonly port: number;
  readonly priority: boolean;
  readonly acceptedAt: string;
  readonly validUntil: string;
  /** Since the start of the agent. */
  readonly attempts: number;
  /** The grant request that it wakes the device for. */
  readonly grantId?: string;
}

export interface TriggerDetail extends TriggerRow {
  /** The identifier that its server used. */
  readonly reference: string;
  readonly mtcUser: string;
  readonly rule: string;
  readonly policyVersion: string;
  readonly payloadBytes: number;
  readonly validitySeconds: number;
  readonly destination?: string;
  /** What became of the last attempt since the start. */
  readonly lastOutcome?: string;
  readonly endedAt?: string;
  readonly endCause?: string;
  readonly endText?: string;
  readonly correlator: string;
  readonly gateway: string;
}

export interface TriggerList {
  readonly triggers: readonly TriggerRow[];
  /** All that are pending, whoever's. */
  readonly pending: number;
}

/** Names as typed; both must hold where both are given. */
interface TriggerFilter {
  readonly server?: string | undefined;
  readonly device?: string | undefined;
  readonly ended: boolean;
  readonly limit: number;
}

/** Absent members: this gateway sends no triggers. */
export interface TriggerManagement {
  readonly triggers?: {
    list(filter: TriggerFilter): TriggerList | Declined;
    show(id: string): TriggerDetail | undefined;
    /** The one that belongs to a grant, or to a request that waits. */
    ofGrant(grantId: string): TriggerDetail | undefined;
    /** False: none is pending of this id. */
    recall(id: string, byUid: number): Promise<boolean>;
  };
}

const LIST = z.strictObject({
  server: z.string().optional(),
  device: z.string().optional(),
  ended: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true'),
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
});

export function addTriggerRoutes(
  app: FastifyInstance,
  { triggers }: TriggerManagement,
  uidOf: (request: FastifyRequest) => number,
): void {
  const none: Declined = { refused: 'noTriggers', why: 'agent.yaml has no triggers: this gateway sends none' };
  const unknown = (why: string): Declined => ({ refused: 'triggerNotFound', why });
  app.get('/triggers', (request, reply) => {
    const filter = LIST.parse(request.query);
    if (!triggers) return decline(reply, 404, none);
    const found = triggers.list(filter);
    return 'refused' in found ? decline(reply, 404, found) : found;
  });
  app.get<{ Params: { id: string } }>('/triggers/:id', (request, reply) => {
    if (!triggers) return decline(reply, 404, none);
    const { id } = request.params;
    return triggers.show(id) ?? decline(reply, 404, unknown(`no trigger ${id} on record`));
  });
  app.delete<{ Params: { id: string } }>('/triggers/:id', async (request, reply) => {
    if (!triggers) return decline(reply, 404, none);
    const { id } = request.params;
    if (await triggers.recall(id, uidOf(request))) return reply.code(204).send();
    return decline(reply, 404, unknown(`no pending trigger ${id}`));
  });
}
