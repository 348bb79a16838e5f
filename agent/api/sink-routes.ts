/** The part of the management interface that tells how pushes fare, and what an MTC user sees. */
import type { FastifyInstance } from 'fastify';
import { PUSH_FAULTS } from '../reports/delivery.ts';
import type { QueueRecord } from '../reports/outbox.ts';
import type { Report, RolledUp } from '../reports/reports.ts';
import { decline } from './declined.ts';
import { reportBody } from './report-routes.ts';
import { unknownUser } from './user-routes.ts';

/** A sink and its queue, as they are kept. */
export interface SinkState {
  readonly role: 'server' | 'mtcUser';
  readonly party: string;
  readonly sink: { readonly name: string; readonly url: string };
  readonly record: QueueRecord;
  readonly length: number;
  /** Failures in a row, and when the next attempt comes. */
  readonly failures: number;
  readonly dueInMs: number;
}

export interface SinkUseCases {
  /** Undefined: agent.yaml has no key to sign with, and nothing is pushed. */
  sinks(): readonly SinkState[] | undefined;
  /** What an MTC user is told, the newest first; undefined: there is no such MTC user. */
  reportsOf(
    mtcUser: string,
  ): { readonly reports: readonly Report[]; readonly rolledUp: readonly RolledUp[] } | undefined;
}

/** A sink in the answer to GET /sinks. */
export interface SinkRow {
  readonly of: string;
  readonly sink: string;
  readonly url: string;
  readonly waiting: number;
  readonly delivered: number;
  readonly givenUp: number;
  readonly failures: number;
  readonly nextInSeconds?: number;
  readonly lastSuccess?: string;
  readonly lastFault?: { readonly at: string; readonly fault: string; readonly meaning: string; readonly why: string };
}

export function addSinkRoutes(app: FastifyInstance, useCases: SinkUseCases): void {
  app.get('/sinks', (_, reply) => {
    const why = 'nothing is pushed: agent.yaml has no reports.signingKey';
    return useCases.sinks()?.map(sinkRow) ?? decline(reply, 404, { refused: 'noPushes', why });
  });
  app.get<{ Params: { name: string } }>('/reports/:name', ({ params: { name } }, reply) => {
    const found = useCases.reportsOf(name);
    if (!found) return decline(reply, 404, unknownUser(name));
    return { reports: found.reports.map(reportBody), rolledUp: found.rolledUp };
  });
}

function sinkRow({ role, party, sink, record, length, failures, dueInMs }: SinkState): SinkRow {
  const { delivered, givenUp, lastSuccessMs, lastFaultMs, lastFault: fault, lastWhy: why = '' } = record;
  return {
    of: `${role === 'server' ? 'server' : 'MTC user'} ${party}`,
    ...{ sink: sink.name, url: sink.url, waiting: length, delivered, givenUp, failures },
    ...(failures > 0 && { nextInSeconds: Math.ceil(dueInMs / 1000) }),
    ...(lastSuccessMs > 0 && { lastSuccess: new Date(lastSuccessMs).toISOString() }),
    ...(fault && { lastFault: { at: new Date(lastFaultMs).toISOString(), fault, meaning: PUSH_FAULTS[fault], why } }),
  };
}
