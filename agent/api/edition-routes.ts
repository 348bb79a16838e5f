/**
 * The part of the management interface through which policies come into
 * force: what would change, apply, confirm, roll back, and who did what.
 *
 * An apply names what was shown (the digest of the text, and the edition that
 * it was compared with), so that nothing else is applied. The agent reads the
 * rule files itself: no text comes in by the socket.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { COMMENT_EXPECTED, type Edition, type EditionHead, LONGEST_COMMENT } from '../editions/edition.ts';
import type { Forecast } from '../editions/forecast.ts';
import { type Declined, decline } from './declined.ts';

/** What would change; digest and inForce are what an apply names. */
export interface Diff {
  readonly digest: string;
  /** The edition that it was compared with. */
  readonly inForce: number;
  readonly policy: string;
  /** The edition whose text it is; absent: the rule folder's. */
  readonly of?: number;
  readonly isSame: boolean;
  /** What is doubtful in the files, though it may be put in force. */
  readonly warnings: readonly string[];
  readonly changes: readonly string[];
  readonly ends: Forecast['ends'];
  readonly requests: Forecast['requests'];
}

export interface Wanted {
  readonly digest: string;
  readonly inForce: number;
  readonly of?: number | undefined;
  readonly confirmSeconds?: number | undefined;
  readonly comment?: string | undefined;
}

/** What was put in force, and how many grants live under it. */
export interface Applied {
  readonly edition: EditionHead;
  readonly liveGrants: number;
}

export interface EditionUseCases {
  /** The rule folder, an edition, or the one before against what is in force. @throws AgentError rulesInvalid */
  diff(of?: number | 'before'): Promise<Diff | Declined>;
  apply(wanted: Wanted, byUid: number): Promise<Applied | Declined>;
  confirm(byUid: number): Promise<Applied | Declined>;
  /** The newest first. */
  history(): readonly EditionHead[];
  edition(number: number): Edition | undefined;
}

/** An edition in an answer. */
export interface EditionRow {
  readonly edition: number;
  readonly policy: string;
  readonly at: string;
  readonly by: string;
  readonly byUid?: number;
  readonly how: string;
  /** The edition whose text it is again. */
  readonly of?: number;
  readonly comment?: string;
  /** Until when it is, or was, on trial. */
  readonly confirmBy?: string;
  readonly confirmedAt?: string;
  readonly confirmedBy?: string;
  readonly changed: readonly string[];
}

const EDITION_EXPECTED = 'expected the number of an edition, from 1 on';
const NUMBER = z.coerce
  .number(EDITION_EXPECTED)
  .int(EDITION_EXPECTED)
  .min(1, EDITION_EXPECTED)
  .max(Number.MAX_SAFE_INTEGER);
const EDITION = z.strictObject({ number: NUMBER });
const DIFF = z.strictObject({ of: z.union([z.literal('before'), NUMBER]).optional() });
const APPLY = z.strictObject({
  digest: z.string().max(128),
  inForce: z.int().min(1),
  of: z.int().min(1).optional(),
  confirmSeconds: z.int().min(1).max(86_400).optional(),
  comment: z.string().trim().min(1, COMMENT_EXPECTED).max(LONGEST_COMMENT, COMMENT_EXPECTED).optional(),
});

export function addEditionRoutes(
  app: FastifyInstance,
  useCases: EditionUseCases,
  uidOf: (request: FastifyRequest) => number,
): void {
  app.get('/policy/diff', async (request, reply) => {
    const found = await useCases.diff(DIFF.parse(request.query).of);
    return 'refused' in found ? decline(reply, 409, found) : found;
  });
  app.post('/policy/apply', async (request, reply) => {
    const done = await useCases.apply(APPLY.parse(request.body), uidOf(request));
    return 'refused' in done ? decline(reply, 409, done) : { ...editionRow(done.edition), liveGrants: done.liveGrants };
  });
  app.post('/policy/confirm', async (request, reply) => {
    const done = await useCases.confirm(uidOf(request));
    return 'refused' in done ? decline(reply, 409, done) : { ...editionRow(done.edition), liveGrants: done.liveGrants };
  });
  app.get('/policy/editions', () => useCases.history().map(editionRow));
  app.get<{ Params: { number: string } }>('/policy/editions/:number', (request, reply) => {
    const { number } = EDITION.parse(request.params);
    const found = useCases.edition(number);
    if (found) return { ...editionRow(found), files: found.files };
    const why = `no edition ${number}: the last hundred are kept (mtgate history)`;
    return decline(reply, 404, { refused: 'editionUnknown', why });
  });
}

function editionRow(head: EditionHead): EditionRow {
  const { number, version, atMs, by, how, of, comment, confirmByMs, confirmed, changed } = head;
  const time = (ms: number) => new Date(ms).toISOString();
  return {
    ...{ edition: number, policy: version, at: time(atMs), by: by.name },
    ...(by.uid !== undefined && { byUid: by.uid }),
    how,
    ...(of !== undefined && { of }),
    ...(comment !== undefined && { comment }),
    ...(confirmByMs !== undefined && { confirmBy: time(confirmByMs) }),
    ...(confirmed && { confirmedAt: time(confirmed.atMs), confirmedBy: confirmed.by.name }),
    changed,
  };
}
