/**
 * The part of the management interface that says how RADIUS accounting goes:
 * who speaks, what became of it, what was dropped.
 */
import type { FastifyInstance } from 'fastify';
import type { DropReason } from '../directory/drops.ts';
import type { Finding } from '../directory/findings.ts';
import { decline } from './declined.ts';

/** The answer to GET /radius. */
export interface RadiusStatus {
  readonly listen: readonly string[];
  /** Sessions that live. */
  readonly sessions: number;
  readonly clients: readonly {
    readonly client: string;
    /** Events in the last whole minute. */
    readonly perMinute: number;
    /** When it was heard of last (UTC); absent: not since the start. */
    readonly lastAt?: string;
  }[];
  /** What became of what was told, since the start. */
  readonly findings: readonly {
    readonly client: string;
    readonly finding: Finding;
    readonly alarmed: boolean;
    readonly count: number;
    readonly meaning: string;
  }[];
  /** What came to nothing, and was not answered; without a client: of strangers. */
  readonly dropped: readonly {
    readonly client?: string;
    readonly reason: DropReason;
    readonly count: number;
    readonly meaning: string;
  }[];
  readonly requests: number;
  readonly repeated: number;
  readonly inProgress: number;
  /** Datagrams that the kernel had no room for. */
  readonly lostInKernel: number;
}

export interface RadiusUseCases {
  /** Undefined: agent.yaml has no `radius`. */
  radius(): RadiusStatus | undefined;
}

export function addRadiusRoutes(app: FastifyInstance, useCases: RadiusUseCases): void {
  app.get('/radius', (_, reply) => {
    const why = 'agent.yaml has no radius: bindings come from the devices file and the management socket';
    return useCases.radius() ?? decline(reply, 404, { refused: 'noRadius', why });
  });
}
