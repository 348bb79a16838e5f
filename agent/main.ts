/**
 * The daemon: its parts in the order in which they start, stopped in reverse.
 * It knows all parts and is known by none; the larger ones are put together
 * in daemon/.
 *
 * The order is the order of safety. The pools are blackholes and the base is
 * closed before the gate is attached; record and gate are one again before
 * the first heartbeat; only then is anybody listened to. A start that fails
 * anywhere leaves what stands: closed. So does a stop: granted flows run on
 * in the gate, to their ends, at most orphanGraceSeconds without an agent.
 */
import { isRevoked } from './api/authorities.ts';
import { ExpiryAlarms, timesLeft } from './api/expiry.ts';
import { refusalRecorder } from './api/problem.ts';
import { readTrust } from './api/tls.ts';
import { accountingPlaces, ownUse, recorderSetup } from './closure/site.ts';
import type { FaultCode } from './core/errors.ts';
import type { ExternalId, GrantId } from './core/words.ts';
import { serveApis } from './daemon/apis.ts';
import { closeOff } from './daemon/closed.ts';
import { openKept } from './daemon/kept.ts';
import { serveOperator } from './daemon/operator.ts';
import { readAgain } from './daemon/reload.ts';
import { openTelling } from './daemon/telling.ts';
import { openTriggering } from './daemon/triggering.ts';
import { watchTurnedAway } from './daemon/turned-away.ts';
import { asAgentError, every, logFault, type Stop, TICK_MS } from './daemon/upkeep.ts';
import { readWords, USAGE } from './daemon/words.ts';
import { forgetFlows } from './dataplane/conntrack.ts';
import type { Binding } from './directory/binding.ts';
import { FindingTally } from './directory/findings.ts';
import { AccountingListener } from './directory/listener.ts';
import { Sessions } from './directory/sessions.ts';
import { digest, loadConfig, loadPushMaterial, loadRadiusClients, loadTls } from './files/operator-files.ts';
import { Bindings } from './grants/bindings.ts';
import { Grants } from './grants/grants.ts';
import type { Ground } from './grants/ground.ts';
import { Heartbeat, recover, rememberBindings, rememberSessions } from './grants/recovery.ts';
import { ANSWERS_KEPT_MS } from './grants/retries.ts';
import {
  bootId,
  collectGarbage,
  loopDelay,
  newUlid,
  notifyService,
  openLog,
  systemClock,
  systemRandom,
} from './host.ts';
import { deniedPackets } from './inspector/account.ts';
import { openMetrics } from './metrics.ts';
import { Holders } from './nat/holders.ts';
import { NatRecord } from './nat/nat-record.ts';
import { DeskClerk } from './use-cases/desk-clerk.ts';
import { FaultKeepingLog } from './use-cases/last-fault.ts';
import { mappingOf, wasOpen } from './use-cases/nat.ts';
import { radiusUseCases } from './use-cases/radius.ts';
import { RecentDenials } from './use-cases/recent-denials.ts';
import { reportUseCases } from './use-cases/reports.ts';
import { attachmentText, heartbeatAgeSeconds } from './use-cases/status.ts';

/** How often what was turned away is written to its store. */
const KEEP_MS = 2_000;
/** Ended grants are kept this long, for whoever asks what became of one. */
const RETAIN_ENDED_MS = 30 * 24 * 3_600_000;
/** Ended triggers are kept so long: their servers have been told, or ask within days. */
const RETAIN_TRIGGERS_MS = 7 * 24 * 3_600_000;

/** The status of an end that a restart does not cure (EX_CONFIG of sysexits.h): the unit waits for a person. */
const EX_CONFIG = 78;
/** Faults of such an end: of a file that a person must correct. */
const FAULTS_OF_FILES: readonly FaultCode[] = [
  ...(['configInvalid', 'rulesInvalid', 'devicesInvalid', 'certificateInvalid'] as const),
  ...(['editionsInvalid', 'editionUnfit', 'registryInvalid', 'deskInvalid'] as const),
  ...(['identityKeyInvalid', 'identityKeyChanged'] as const),
];

/** Starts everything; how to stop what has been started is put into `stops` as it goes. */
async function start(
  configFile: string,
  log: FaultKeepingLog,
  linesLeftOut: () => number,
  stops: Stop[],
): Promise<void> {
  const warn = (warning: string) => log.warn({ warning }, 'configurationWarning');
  const config = loadConfig(configFile, warn);
  let trust = readTrust(loadTls(config));
  const pushMaterial = loadPushMaterial(config);
  const { jwk: signingKey } = pushMaterial.key ?? {};
  const alarms = new ExpiryAlarms(log, systemClock);
  alarms.look(trust);

  const kept = await openKept(config, log, warn, stops);
  const { identities, registry, devices, deskStore, desk, policies, folder, store } = kept;
  const { policy } = policies.inForce;
  const { directory, gate, closure } = await closeOff(config, kept, log, (kind) => metrics.gapFound(kind), stops);
  const denied = () => deniedPackets(gate.counters());
  const recent = new RecentDenials(systemClock.monotonicNs(), denied());
  const turnedAway = watchTurnedAway({ config, kept, gate, directory, grants: () => grants, log }, stops);
  const { ledger, inspector, account } = turnedAway;

  /** The operator wants no new grants; not remembered over a restart. */
  let draining = false;
  const sessions = new Sessions();
  const accounted = new FindingTally();
  /** The accounting server, from when it may be heard. */
  let radius: AccountingListener | undefined;
  const ofRadius = radiusUseCases({
    ...{ config, sessions, tally: accounted, clock: systemClock },
    listener: () => radius,
  });
  const metrics = openMetrics({
    radius: ofRadius.radius,
    gate: () => gate.counters(),
    filterPackets: () => closure.filterPackets(),
    refusedFlows: () => closure.refusedFlows(),
    liveGrants: () => grants.live.size,
    heldGrants: () => grants.live.held,
    waitingGrants: () => grants.waiting.size,
    desk: () => {
      const said = [...deskStore.desk.values()];
      const preferences = said.reduce((sum, one) => sum + one.preferences.length, 0);
      return { authorised: said.filter(({ authorised }) => authorised).length, preferences };
    },
    pendingTriggers: () => triggers?.queue.size ?? 0,
    triggersUnderWay: () => triggers?.underWay ?? 0,
    triggerSource: () => triggering?.source(),
    registeredDevices: () => registry.size,
    restingEndpoints: () => grants.rest.size,
    freeEndpoints: (family, protocol) => grants.endpoints.available(family, protocol),
    heartbeatAgeSeconds: () => heartbeatAgeSeconds(gate, systemClock),
    closed: () => closure.gaps.length === 0,
    missingInterfaces: () => closure.site.absent.length,
    wrongSysctls: () => closure.wrongSysctls.length,
    timesLeft: () => timesLeft(trust, systemClock.nowMs()),
    account,
    inspector: () => inspector.reading(),
    natRecord: () => natRecord.reading(),
    refusalsGivenUp: () => ledger.givenUp,
    linesLeftOut,
    sinks: () => pushes?.sinks() ?? [],
    draining: () => draining,
    edition: () => {
      const { number, digest } = policies.inForce.edition;
      const { secondsLeft } = policies;
      return { number, folderDiffers: folder.difference(digest) !== undefined, secondsLeft };
    },
    loopDelay,
  });
  const told = { links: () => closure.site.links, pushed: metrics.pushed };
  const telling = openTelling({ config, kept, material: pushMaterial, ledger, ...told, log }, stops);
  const { pushes, grantEvents, notifications } = telling;
  const holders = new Holders(config.inside, (inner) => directory.holderOf(inner));
  const natFile = kept.file('nat.db');
  const natRecord = new NatRecord({
    setup: recorderSetup(config, natFile, bootId()),
    holders,
    endedGrants: function* (sinceMs) {
      for (const grant of store.endedSince(sinceMs)) if (wasOpen(grant)) yield mappingOf(grant);
    },
    log,
  });

  const ground: Ground = {
    gateway: config.gateway,
    bootId: bootId(),
    pool: config.pools.grants,
    dataplane: gate,
    ...{ store, directory, registry, identities, log, metrics },
    clock: systemClock,
    random: systemRandom,
    refuse: refusalRecorder(log, systemRandom, systemClock, (refusal, facts, how) => {
      metrics.refused(refusal.reason);
      // Behind the answer: whose device it was, and who is told of that, must not be read from how long it takes.
      setImmediate(() => ledger.refused(refusal, facts, how));
    }),
    revoked: (certificate) => isRevoked(certificate, trust.cas),
    newId: () => newUlid() as GrantId,
    notReady: (realm) => {
      const why = closure.objection(realm);
      if (why !== undefined) return { reason: 'gatewayNotReady', why };
      return draining ? { reason: 'gatewayDraining', why: 'the operator wants no new grants' } : undefined;
    },
    watcher: {
      granted: (grant) => grantEvents.granted(grant),
      opened: (grant) => natRecord.begun(mappingOf(grant)),
      ended: (grant) => {
        grantEvents.ended(grant);
        if ('external' in grant) natRecord.ended(mappingOf(grant));
      },
    },
    waker: () => triggering?.waker,
  };
  const grants = new Grants(ground, desk.lay(policy));
  desk.enforceOn(grants);
  policies.enforceBy(async (next) => {
    await closure.switchPolicy(next); // a base that nft does not take: nothing of the policy is in force
    await grants.switchPolicy(() => desk.lay(next));
    pushes?.switchPolicy(next);
  });
  const groups = {
    follow: (verb: 'add' | 'delete', bound: readonly Binding[]) => {
      if (verb === 'delete') holders.lost(bound, systemClock.nowMs());
      return closure.followBindings(verb, bound);
    },
    refill: () => closure.refillGroups(),
  };
  const accounting = { sessions, places: accountingPlaces(config), tally: accounted };
  const triggering = openTriggering({ config, kept, ground, grants, closure, notifications, metrics, log }, stops);
  const triggers = triggering?.triggers;
  const followers = {
    lost: (lost: Iterable<ExternalId>) => triggers?.lost(lost),
    bound: (bound: Iterable<ExternalId>) => triggers?.bound(bound),
  };
  const bindings = new Bindings(ground, grants, forgetFlows, groups, accounting, followers);
  const { orphanGraceSeconds } = config.gate;

  await rememberBindings(ground, orphanGraceSeconds);
  await rememberSessions(ground, sessions);
  await grants.sources.withdraw(policy);
  const recovery = await recover(ground, grants);
  await bindings.replaceFile(devices);
  await grants.sources.admit(policy); // each grant has been judged by this policy
  collectGarbage();
  log.info({ ...recovery, policy: policy.version, gateway: config.gateway }, 'recovered');

  const heartbeat = new Heartbeat(ground, grants, orphanGraceSeconds);
  await heartbeat.beat();
  await grants.countBegun(grants.policy);
  await grants.waiting.resume();
  grantEvents.begin((id) => grants.find(id) ?? grants.waiting.find(id));
  await triggers?.resume();
  inspector.start();
  natRecord.start();
  gate.sample(config.gate.sampledDenialsPerSecond);
  stops.push(
    () => ledger.keep(),
    () => inspector.stop(),
    every(KEEP_MS, log, () => ledger.keep()),
    every(3_600_000, log, () => ledger.age()),
    every(TICK_MS, log, async () => {
      await heartbeat.beat();
      notifyService('working'); // only behind a written heartbeat: a hung agent is to be restarted
    }),
    every(TICK_MS, log, () => grants.sweep()),
    every(TICK_MS, log, () => triggers?.sweep()),
    every(TICK_MS, log, () => store.note()),
    every(TICK_MS, log, () => closure.keep()),
    every(3_600_000, log, () => {
      const nowMs = systemClock.nowMs();
      return store.purge(nowMs - RETAIN_ENDED_MS, nowMs - ANSWERS_KEPT_MS);
    }),
    every(3_600_000, log, () => triggering?.store.purge(systemClock.nowMs() - RETAIN_TRIGGERS_MS)),
    every(TICK_MS, log, () => alarms.look(trust)),
    every(TICK_MS, log, () => policies.keep()),
    every(TICK_MS, log, () => pushes?.tick()),
    every(TICK_MS, log, () => grantEvents.tick(grants.live)),
    every(TICK_MS, log, () => recent.note(systemClock.monotonicNs(), denied())),
    () => natRecord.stop(), // it takes a moment to write what it has heard; the gate hears the agent meanwhile
  );

  radius =
    config.radius &&
    (await AccountingListener.open({
      listen: config.radius.listen,
      clients: loadRadiusClients(config, warn),
      handle: (event) => bindings.account(event),
      log,
      clock: systemClock,
    }));
  const staleMs = (config.radius?.staleMinutes ?? 0) * 60_000;
  stops.push(
    () => radius?.close(),
    every(TICK_MS, log, () => radius?.look()),
    every(60_000, log, async () => {
      if (staleMs > 0) await bindings.endStale(systemClock.nowMs() - staleMs);
    }),
  );

  const { sinceMs } = turnedAway;
  const served = {
    ...{ config, kept, closure, ground, grants, turnedAway, telling, triggering, metrics, log },
    trust: () => trust,
    clerk: new DeskClerk(desk, ground, digest),
    reports: reportUseCases({ denials: ledger.denials, account, sinceMs, spaces: telling.spaces, signingKey }),
  };
  const putInForce = await serveApis({ ...served, alarms, signingKey }, stops);
  const reload = async () => {
    notifyService('reloading');
    try {
      return await readAgain({
        ...{ config, policies, folder, grants, bindings, registry, identities, radius, warn, clock: systemClock, log },
        ownUse: (address) => ownUse(config, closure.site.links, address),
        trusted: (next) => {
          trust = next;
          putInForce(next);
        },
      });
    } finally {
      notifyService('ready');
    }
  };
  process.on('SIGHUP', () => void reload().catch((fault) => logFault(log, fault, 'reloadFailed')));
  await serveOperator(
    {
      ...{ ...served, gate, bindings, recent, natRecord, natFile, radius: ofRadius, reload },
      draining: () => draining,
      drain: (wanted) => {
        draining = wanted;
      },
    },
    stops,
  );
  await policies.keep(); // the first edition is one from here on
  log.info({ gateway: config.gateway, attachments: gate.attachments().map(attachmentText) }, 'ready');
}

async function main(): Promise<void> {
  const words = readWords(process.argv.slice(2));
  if (words === 'help') return void process.stdout.write(USAGE);
  if ('wrong' in words) {
    process.stderr.write(`mtgate: ${words.wrong}\n\n${USAGE}`);
    process.exit(EX_CONFIG);
  }
  const journal = openLog(words.log);
  const log = new FaultKeepingLog(journal.log, systemClock);
  const stops: Stop[] = [];
  let stopping = false;
  const stop = async (signal: string) => {
    stopping = true;
    log.info({ signal }, 'stopping');
    notifyService('stopping');
    for (const part of stops.reverse()) await part();
    log.info({}, 'stopped');
    process.exit(0);
  };
  process.once('SIGTERM', () => void stop('SIGTERM'));
  process.once('SIGINT', () => void stop('SIGINT'));
  await start(words.config, log, journal.leftOut, stops).catch((fault) => {
    if (!stopping) throw fault; // else it is of a part that was stopped under its hands
  });
  if (!stopping) notifyService('ready');
}

main().catch((fault) => {
  const { code, message, advice } = asAgentError(fault);
  process.stderr.write(
    `mtgate: ${code}\n${message}\n${advice}\n${(fault as Error).cause ? `cause: ${String((fault as Error).cause)}\n` : ''}`,
  );
  process.exit(FAULTS_OF_FILES.includes(code) ? EX_CONFIG : 1);
});
