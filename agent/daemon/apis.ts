/**
 * The API over mutual TLS: of servers, of their triggers, of MTC users. Where
 * the outside interface comes later than the agent, so may the address that
 * the API listens on: it is opened when that is there.
 */
import type { ExpiryAlarms } from '../api/expiry.ts';
import { mtcUserApi } from '../api/mtc-user-routes.ts';
import { reportOperations } from '../api/report-routes.ts';
import { grantsApi } from '../api/routes.ts';
import { startApi } from '../api/server.ts';
import { t8Api } from '../api/t8-routes.ts';
import type { Trust } from '../api/tls.ts';
import type { Closure } from '../closure/closure.ts';
import type { Site } from '../closure/site.ts';
import type { Config } from '../config.ts';
import type { ShedReason, TlsReason } from '../core/handshakes.ts';
import type { Log } from '../core/ports.ts';
import { digest } from '../files/operator-files.ts';
import { Extensions } from '../grants/extensions.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import { systemClock, systemRandom } from '../host.ts';
import type { Metrics } from '../metrics.ts';
import type { DeskClerk } from '../use-cases/desk-clerk.ts';
import { identityPolicy } from '../use-cases/identity-policy.ts';
import { mtcUserUseCases } from '../use-cases/mtc-user.ts';
import type { reportUseCases } from '../use-cases/reports.ts';
import { serverUseCases } from '../use-cases/servers.ts';
import { triggerUseCases } from '../use-cases/triggers.ts';
import type { Kept } from './kept.ts';
import type { Telling } from './telling.ts';
import type { Triggering } from './triggering.ts';
import type { TurnedAway } from './turned-away.ts';
import { every, type Stop, TICK_MS } from './upkeep.ts';

interface Parts {
  readonly config: Config;
  readonly trust: () => Trust;
  readonly alarms: ExpiryAlarms;
  readonly closure: Closure;
  readonly ground: Ground;
  readonly grants: Grants;
  readonly kept: Kept;
  readonly turnedAway: TurnedAway;
  readonly telling: Telling;
  readonly triggering: Triggering | undefined;
  readonly clerk: DeskClerk;
  readonly reports: ReturnType<typeof reportUseCases>;
  readonly signingKey: object | undefined;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** @returns how certificates, CAs and revocation lists are put in force that were read again */
export async function serveApis(parts: Parts, stops: Stop[]): Promise<(trust: Trust) => void> {
  const { config, trust, alarms, closure, ground, grants, kept, telling, triggering, metrics, log } = parts;
  const { ledger } = parts.turnedAway;
  const { refuse } = ground;
  const extensions = new Extensions(ground, grants);
  const forServers = serverUseCases(ground, grants, extensions, telling.grantEvents, parts.signingKey, digest);
  const forMtcUsers = mtcUserUseCases(ground, grants, kept.registry, parts.clerk);
  const forTriggers =
    triggering && triggerUseCases(triggering.triggers, telling.notifications, refuse, kept.identities);
  const apis = [
    grantsApi(forServers, refuse, systemClock),
    t8Api(forTriggers, refuse),
    mtcUserApi(forMtcUsers, refuse, reportOperations(parts.reports, refuse)),
  ];
  const apiParts = {
    identity: identityPolicy(grants),
    refuse,
    refusedHandshake: (reason: TlsReason, remote: string | undefined) => {
      metrics.handshakeRefused(reason);
      ledger.refusedHandshake(reason, remote, config.api.listen);
    },
    shedConnection: (reason: ShedReason, remote: string, logged: boolean) => {
      metrics.connectionShed(reason);
      if (logged) ledger.refusedHandshake('tlsShed', remote, config.api.listen);
    },
    streamCut: metrics.streamCut,
    clock: systemClock,
    random: systemRandom,
    log,
  };
  const open = () => startApi(config.api.listen, trust(), apiParts, apis);
  const hasAddress = ({ links }: Site) =>
    links.some(({ addresses }) => addresses.some(({ text }) => text === config.api.listen.address.text));
  let api = closure.site.outside || hasAddress(closure.site) ? await open() : undefined;
  stops.push(
    () => api?.close(),
    every(TICK_MS, log, async () => {
      if (!api && hasAddress(closure.site)) api = await open();
    }),
  );
  return (next) => {
    api?.reload(next);
    alarms.look(next);
  };
}
