/**
 * The part of the management interface that tells who was turned away: the
 * list, the same as it changes, each refusal, and everything known of one.
 *
 * The stream is NDJSON, a row a line. Invariant: a reader that does not keep
 * up is cut, and never makes the agent grow.
 */
import type { ServerResponse } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { Account } from '../inspector/account.ts';
import { DENIAL_KINDS, type Denial, type DenialFilter } from '../inspector/denials.ts';
import type { InspectorReading } from '../inspector/inspector.ts';
import type { KeptRefusal, RefusalFilter } from '../inspector/refusals.ts';
import { type Declined, decline } from './declined.ts';
import { type GrantDetail, grantDetail, type OperatorGrantDetail } from './operator-rows.ts';

/** Everything known of one denial or refusal; the texts are for people. */
export type Explanation = Meaning &
  ({ readonly denial: Denial } | { readonly refusal: KeptRefusal } | { readonly grant: OperatorGrantDetail });

/** What it means, and what to do; what would have to change for it to pass, and what would be decided now. */
interface Meaning {
  readonly meaning: string;
  readonly advice: string;
  /** The nearest first; empty where nothing can be computed. */
  readonly toPass: readonly string[];
  readonly now?: PolicyNow;
}

/** What the policy in force decides; absent where it is no request for a grant. */
export interface PolicyNow {
  readonly policy: string;
  /** It is not the policy that decided then; absent where that was not kept. */
  readonly hasChanged?: boolean;
  readonly verdict: 'allow' | 'refuse';
  readonly why: string;
}

export interface DenialUseCases {
  denials(filter: DenialFilter, limit: number): readonly Denial[];
  /** How many packets that list stands for. */
  account(): Account & { readonly inspector: InspectorReading };
  /** Tells, in batches, of every row that is new or has changed, until it is ended. */
  followDenials(filter: DenialFilter, tell: (rows: readonly Denial[]) => void): () => void;
  /** A reader of the stream was cut. */
  streamCut(): void;
  refusals(filter: RefusalFilter, limit: number): readonly KeptRefusal[];
  /**
   * Who is named and is not in the rule files: where nothing was found, "nobody" would be read as that all is well.
   * What is on record of one who has gone is still found.
   */
  unknownName(named: {
    readonly mtcUser?: string | undefined;
    readonly server?: string | undefined;
  }): Declined | undefined;
  /** Of a refusal by its instance, of a row or a grant by its id. */
  why(id: string): Explanation | undefined;
}

/** A denial in the answer to GET /denials. */
export type DenialRow = Omit<Denial, 'firstMs' | 'lastMs'> & { readonly firstSeen: string; readonly lastSeen: string };

/** The answer to GET /denials. */
export interface DenialList {
  readonly packets: ReturnType<DenialUseCases['account']>;
  readonly denials: readonly DenialRow[];
}

/** A refusal in the answer to GET /refusals. */
export type RefusalRow = Omit<KeptRefusal, 'atMs'> & { readonly at: string };

/** The answer to GET /why/:id. */
export type WhyAnswer = Meaning &
  ({ readonly denial: DenialRow } | { readonly refusal: RefusalRow } | { readonly grant: GrantDetail });

/** What a reader may leave unread. */
const UNREAD_BYTES = 1 << 20;

const LIMIT = z.coerce.number().int().min(1).max(9_999).default(100);
const FILTER = {
  kind: z.enum(DENIAL_KINDS).optional(),
  reason: z.string().optional(),
  source: z.string().optional(),
  mtcUser: z.string().optional(),
};
const LIST = z.strictObject({ ...FILTER, limit: LIMIT });
const STREAM = z.strictObject(FILTER);
const REFUSALS = z.strictObject({
  server: z.string().optional(),
  device: z.string().optional(),
  reason: z.string().optional(),
  limit: LIMIT,
});

export function addDenialRoutes(app: FastifyInstance, useCases: DenialUseCases): void {
  app.get('/denials', (request, reply) => {
    const { limit, ...filter } = LIST.parse(request.query);
    const denials = useCases.denials(filter, limit).map(denialRow);
    const unknown = denials.length === 0 ? useCases.unknownName(filter) : undefined;
    if (unknown) return decline(reply, 404, unknown);
    return { packets: useCases.account(), denials } satisfies DenialList;
  });
  app.get('/denials/stream', (request, reply) => {
    const filter = STREAM.parse(request.query);
    const unknown = useCases.unknownName(filter);
    if (unknown && useCases.denials(filter, 1).length === 0) return decline(reply, 404, unknown);
    reply.hijack();
    stream(reply.raw, filter, useCases);
  });
  app.get('/refusals', (request, reply) => {
    const { limit, ...filter } = REFUSALS.parse(request.query);
    const refusals = useCases.refusals(filter, limit).map(refusalRow);
    const unknown = refusals.length === 0 ? useCases.unknownName({ server: filter.server }) : undefined;
    return unknown ? decline(reply, 404, unknown) : refusals;
  });
  app.get<{ Params: { id: string } }>('/why/:id', (request, reply) => {
    const { id } = request.params;
    const found = useCases.why(id);
    if (found) return whyAnswer(found);
    const why = `no denial, refusal or grant ${id}: it never was, was rolled up, or is older than 30 days`;
    return decline(reply, 404, { refused: 'idUnknown', why });
  });
}

function stream(response: ServerResponse, filter: DenialFilter, useCases: DenialUseCases): void {
  response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' });
  response.flushHeaders();
  const end = useCases.followDenials(filter, (rows) => {
    for (const row of rows) response.write(`${JSON.stringify(denialRow(row))}\n`);
    if (response.writableLength <= UNREAD_BYTES) return;
    useCases.streamCut();
    response.destroy();
  });
  response.once('close', end);
}

function denialRow({ firstMs, lastMs, ...row }: Denial): DenialRow {
  return { ...row, firstSeen: new Date(firstMs).toISOString(), lastSeen: new Date(lastMs).toISOString() };
}

function refusalRow({ atMs, ...refusal }: KeptRefusal): RefusalRow {
  return { at: new Date(atMs).toISOString(), ...refusal };
}

function whyAnswer(found: Explanation): WhyAnswer {
  if ('denial' in found) return { ...found, denial: denialRow(found.denial) };
  if ('refusal' in found) return { ...found, refusal: refusalRow(found.refusal) };
  return { ...found, grant: grantDetail(found.grant) };
}
