/**
 * What a request is answered with that is not served: a refusal's problem
 * document (RFC 9457), by whoever found it, or a fault's, without a word of
 * why. Each is recorded, or logged, before it is answered.
 */
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { AgentError } from '../core/errors.ts';
import type { Log, Random } from '../core/ports.ts';
import { REFUSALS, type Refusal, type RefusalFace, type RefusalReason, type Refuse } from '../core/refusals.ts';
import { askedOf } from './asker.ts';
import { REASONS_BY_CODE } from './contract.ts';
import { PROBLEM_TYPE, type Problem, problemOf, problemOfFault, randomInstance } from './problem.ts';

export interface AnswerParts {
  readonly refuse: Refuse;
  readonly random: Random;
  readonly log: Log;
}

export class Answers {
  readonly #parts: AnswerParts;
  readonly #refusalMs: number;

  /** `refusalMs`: how long a refusal that sheds load is held back. */
  constructor(parts: AnswerParts, refusalMs: number) {
    this.#parts = parts;
    this.#refusalMs = refusalMs;
  }

  /** Answers a refusal that is made here and now. */
  refuse(
    request: FastifyRequest,
    reply: FastifyReply,
    reason: RefusalReason,
    facts: Pick<Refusal, 'why' | 'detail'>,
  ): Promise<FastifyReply> {
    return this.answerRefusal(reply, this.#parts.refuse(reason, { ...askedOf(request), ...facts }));
  }

  /** What sheds load is held back, and holds nothing itself: whoever asks on without waiting is slowed down by it. */
  async answerRefusal(reply: FastifyReply, refusal: Refusal): Promise<FastifyReply> {
    const { sheds }: RefusalFace = REFUSALS[refusal.reason];
    if (sheds) await new Promise((resolve) => setTimeout(resolve, this.#refusalMs));
    if (refusal.retryAfterSeconds !== undefined) reply.header('retry-after', String(refusal.retryAfterSeconds));
    return answer(reply, problemOf(refusal));
  }

  /** What Fastify itself found wrong, before an operation was called. */
  async answerFramework(fault: FastifyError, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    // Fastify would close where a body was not read to its end, and the reset that follows may overtake
    // the answer. Kept open, the rest is read and dropped, for as long as requestMs lasts.
    reply.removeHeader('connection');
    const reason = fault.validation ? 'invalidArgument' : REASONS_BY_CODE[fault.code];
    if (!reason) return this.answerFault(fault, request, reply);
    const detail = reason === 'invalidArgument' ? { detail: fault.message } : {};
    return this.refuse(request, reply, reason, { why: fault.message, ...detail });
  }

  /** A fault: told to the operator, and to the asker no more than its instance. */
  answerFault(fault: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const instance = randomInstance(this.#parts.random);
    const code = fault instanceof AgentError ? fault.code : 'internal';
    this.#parts.log.error({ ...askedOf(request), code, instance, err: fault }, 'requestFailed');
    return answer(reply, problemOfFault(instance));
  }
}

/** What every answer carries. */
export function headersOf(request: FastifyRequest): Record<string, string> {
  return { 'cache-control': 'no-store', 'x-correlator': request.id };
}

/** As bytes: to a text Fastify would add a charset, which this type has not (RFC 8259 11). */
function answer(reply: FastifyReply, problem: Problem): FastifyReply {
  return reply
    .code(problem.status)
    .header('content-type', PROBLEM_TYPE)
    .send(Buffer.from(JSON.stringify(problem)));
}
