/** How accounting goes, for the operator: what the listener, the sessions and the tally of findings know of it. */
import type { RadiusUseCases } from '../api/radius-routes.ts';
import type { Config } from '../config.ts';
import { formatEndpoint } from '../core/net.ts';
import type { Clock } from '../core/ports.ts';
import { DROPS } from '../directory/drops.ts';
import { FINDINGS, type FindingTally, isAlarmed } from '../directory/findings.ts';
import type { AccountingListener } from '../directory/listener.ts';
import type { Sessions } from '../directory/sessions.ts';

interface Parts {
  readonly config: Config;
  readonly listener: () => Pick<AccountingListener, 'bound' | 'reading'> | undefined;
  readonly tally: FindingTally;
  readonly sessions: Pick<Sessions, 'size'>;
  readonly clock: Clock;
}

export function radiusUseCases({ config, listener, tally, sessions, clock }: Parts): RadiusUseCases {
  return {
    radius() {
      const server = listener();
      if (!server) return undefined;
      const reading = server.reading();
      const nowMs = clock.nowMs();
      const counts = tally.counts();
      const clients = (config.radius?.clients ?? []).map(({ name: client }) => {
        const last = counts.filter((one) => one.client === client).map(({ lastMs }) => lastMs);
        const lastAt = last.length > 0 ? new Date(Math.max(...last)).toISOString() : undefined;
        return { client, perMinute: tally.inLastMinute(client, nowMs), ...(lastAt !== undefined && { lastAt }) };
      });
      return {
        listen: server.bound.map(formatEndpoint),
        sessions: sessions.size,
        clients,
        findings: counts.map(({ client, finding, count }) => ({
          ...{ client, finding, count },
          alarmed: isAlarmed(finding),
          meaning: FINDINGS[finding],
        })),
        dropped: reading.dropped.map(({ client, reason, count }) => ({
          ...(client !== undefined && { client }),
          ...{ reason, count, meaning: DROPS[reason] },
        })),
        requests: reading.received,
        repeated: reading.repeated,
        inProgress: reading.inProgress,
        lostInKernel: reading.lostInKernel,
      };
    },
  };
}
