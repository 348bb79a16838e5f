/** The management socket's answer to who had a public endpoint at a time. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { formatEndpoint, parseAddress } from '../core/net.ts';
import { addressOf, type Mapping, protocolName } from '../nat/mapping.ts';
import { parseMoment, type WhoAnswer, type WhoQuestion, type WhoRefusal } from '../nat/who.ts';
import { decline } from './declined.ts';

export interface NatUseCases {
  /** Faults (natRecordNotRead) are thrown as AgentError. */
  whoHad(question: WhoQuestion): WhoAnswer | WhoRefusal;
}

/** Who may have had it; times in UTC. */
export interface NatRow {
  readonly device?: string;
  readonly protocol: string;
  readonly external: string;
  readonly realm: string;
  readonly inner: string;
  /** A granted session; without, the device began it. */
  readonly grant?: string;
  readonly server?: string;
  readonly began: string;
  /** Where it is not known, it may have begun since. */
  readonly beganFrom?: string;
  /** Absent: it still runs. */
  readonly ended?: string;
  readonly endedFrom?: string;
  /** Whether it is known to have been there in all of the time asked for. */
  readonly certain: boolean;
}

export interface NatAnswer {
  readonly candidates: readonly NatRow[];
  readonly notes: readonly string[];
}

const PROTOCOLS = { tcp: [6], udp: [17] } as const;

const QUESTION = z.strictObject({
  address: z.string().transform((text, issue) => {
    const address = parseAddress(text);
    if (address) return address;
    issue.addIssue({ code: 'custom', message: `expected an IP address, found "${text}"` });
    return z.NEVER;
  }),
  port: z.coerce.number('expected a port from 0 to 65535').int().min(0).max(65_535),
  time: z.string(),
  protocol: z.enum(['tcp', 'udp']).optional(),
});

export function addNatRoutes(app: FastifyInstance, useCases: NatUseCases): void {
  app.get('/nat/who', (request, reply) => {
    const { address, port, time, protocol } = QUESTION.parse(request.query);
    const moment = parseMoment(time, Date.now());
    if (!moment) {
      const expected = 'a time with its zone such as 2026-01-31T10:15:32Z or 2026-01-31T11:15:32+01:00';
      const why = `time: expected ${expected}, seconds since 1970 (9 or 10 digits), or now; found "${time}"`;
      return decline(reply, 400, { refused: 'invalidArgument', why });
    }
    const number = protocol && PROTOCOLS[protocol][0];
    const answer = useCases.whoHad({ address, port, ...moment, ...(number !== undefined && { protocol: number }) });
    if ('refused' in answer) return decline(reply, 404, answer);
    return { candidates: answer.candidates.map(natRow), notes: answer.notes } satisfies NatAnswer;
  });
}

function natRow(row: Mapping & { readonly certain: boolean }): NatRow {
  const endpoint = (address: Uint8Array, port: number) => formatEndpoint({ address: addressOf(address), port });
  const at = (ms: number) => new Date(ms).toISOString();
  const { device, grant, server, beganFromMs, endedMs, endedFromMs } = row;
  return {
    ...(device !== null && { device }),
    protocol: protocolName(row.protocol),
    external: endpoint(row.external, row.port),
    realm: row.realm,
    inner: endpoint(row.inner, row.innerPort),
    ...(grant !== null && { grant }),
    ...(server !== null && { server }),
    began: at(row.beganMs),
    ...(beganFromMs !== null && { beganFrom: at(beganFromMs) }),
    ...(endedMs !== null && { ended: at(endedMs) }),
    ...(endedFromMs !== null && { endedFrom: at(endedFromMs) }),
    certain: row.certain,
  };
}
