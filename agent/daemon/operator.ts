/** What the operator has of the running agent: the management socket, metrics and health. */
import { servePages } from '../api/loopback.ts';
import { startManagement } from '../api/management.ts';
import type { Trust } from '../api/tls.ts';
import type { Closure } from '../closure/closure.ts';
import { grantsPrefixes, ownHolder, ownPrefixes, ownUse } from '../closure/site.ts';
import type { Config } from '../config.ts';
import type { Address } from '../core/net.ts';
import type { MtcUserName } from '../core/words.ts';
import type { Gate } from '../dataplane/gate.ts';
import type { Bindings } from '../grants/bindings.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import { peerUid, systemClock, userName } from '../host.ts';
import type { Metrics } from '../metrics.ts';
import type { NatRecord } from '../nat/nat-record.ts';
import { openRecordReader } from '../nat/record-store.ts';
import { denialUseCases } from '../use-cases/denials.ts';
import type { DeskClerk } from '../use-cases/desk-clerk.ts';
import { deviceUseCases } from '../use-cases/devices.ts';
import { editionUseCases } from '../use-cases/editions.ts';
import { operatorDetail } from '../use-cases/grant-views.ts';
import type { FaultKeepingLog } from '../use-cases/last-fault.ts';
import { managementUseCases } from '../use-cases/management.ts';
import { natUseCases } from '../use-cases/nat.ts';
import { userUseCases } from '../use-cases/operator-desk.ts';
import type { radiusUseCases } from '../use-cases/radius.ts';
import type { RecentDenials } from '../use-cases/recent-denials.ts';
import { remediesOf } from '../use-cases/remedies.ts';
import type { reportUseCases } from '../use-cases/reports.ts';
import { heartbeatAgeSeconds, runningStatus } from '../use-cases/status.ts';
import { triggerManagement } from '../use-cases/triggers.ts';
import type { Kept } from './kept.ts';
import type { Telling } from './telling.ts';
import type { Triggering } from './triggering.ts';
import type { TurnedAway } from './turned-away.ts';
import type { Stop } from './upkeep.ts';

/** Without a heartbeat for this long the agent is not well: one is due every second. */
const AILING_SECONDS = 10;

interface Parts {
  readonly config: Config;
  readonly kept: Kept;
  readonly closure: Closure;
  readonly gate: Gate;
  readonly ground: Ground;
  readonly grants: Grants;
  readonly bindings: Bindings;
  readonly turnedAway: TurnedAway;
  readonly recent: RecentDenials;
  readonly telling: Telling;
  readonly triggering: Triggering | undefined;
  readonly natRecord: NatRecord;
  readonly natFile: string;
  readonly radius: ReturnType<typeof radiusUseCases>;
  readonly reports: ReturnType<typeof reportUseCases>;
  readonly clerk: DeskClerk;
  readonly trust: () => Trust;
  readonly draining: () => boolean;
  readonly drain: (wanted: boolean) => void;
  readonly reload: () => Promise<object>;
  readonly metrics: Metrics;
  readonly log: FaultKeepingLog;
}

export async function serveOperator(parts: Parts, stops: Stop[]): Promise<void> {
  const { config, kept, closure, gate, ground, grants, bindings, natRecord, triggering, metrics, log } = parts;
  const { registry, imports, identities, desk, policies, folder, store } = kept;
  const { ledger, inspector, account } = parts.turnedAway;
  const others = {
    ...denialUseCases({
      ...{ ledger, account, identities, policy: () => grants.policy },
      inspector: () => inspector.reading(),
      streamCut: metrics.streamCut,
      remedies: remediesOf(grants, ledger, (record) => operatorDetail(record, ground)),
    }),
    ...deviceUseCases({ registry, imports, bindings, grants, log }),
    ...editionUseCases({ policies, desk, grants, store, ledger, clock: systemClock, userName }),
    ...parts.radius,
    sinks: () => parts.telling.pushes?.sinks(),
    reportsOf: (name: string) =>
      grants.policy.mtcUsers.has(name as MtcUserName) ? parts.reports.all(name as MtcUserName) : undefined,
    ...(triggering && {
      triggers: triggerManagement(triggering.triggers, triggering.store, ground.directory, () => grants.policy, log),
    }),
    ...userUseCases(grants, parts.clerk),
    ...natUseCases({
      pools: { grants: grantsPrefixes(config), egress: config.pools.egress },
      own: ownPrefixes(config),
      holder: (address) => ownHolder(config, ground.directory, address),
      ...{ grants, record: natRecord, reader: openRecordReader(parts.natFile), nowMs: () => systemClock.nowMs() },
    }),
  };
  const status = () => {
    const shown = { config, closure, gate, inspector, natRecord, registry, policies, folder };
    const { recent, trust, draining } = parts;
    return runningStatus({ ...shown, recent, trust: trust(), draining: draining(), fault: log.last }, systemClock);
  };
  const ofHost = (address: Address) => ownUse(config, closure.site.links, address);
  const running = { reload: parts.reload, drain: parts.drain, status, ownUse: ofHost };
  const useCases = managementUseCases(ground, grants, bindings, others, config, running);
  const management = await startManagement(config.management.socket, useCases, peerUid, log);
  stops.push(() => management.close());
  const pages = await servePages(config.metrics.listen, {
    metrics: () => metrics.text(),
    ailing: () => {
      const age = heartbeatAgeSeconds(gate, systemClock);
      return age > AILING_SECONDS ? `no heartbeat for ${age.toFixed()} s` : undefined;
    },
    notReady: () => ground.notReady()?.why,
  });
  stops.push(() => pages.close());
}
