/** What the management interface answers where it does not do what it was asked. */
import type { FastifyReply } from 'fastify';

/** The operator asked for what cannot be done: a name, and a sentence for a person. */
export interface Declined {
  readonly refused: string;
  readonly why: string;
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

export function errorBody(code: string, message: string, more: { advice?: string; cause?: string } = {}): ErrorBody {
  return { error: { code, message, ...more } };
}

export function decline(reply: FastifyReply, status: number, { refused, why }: Declined): FastifyReply {
  return reply.code(status).send(errorBody(refused, why));
}
