/**
 * The daemon: its parts in the order in which they start, stopped in reverse.
 * It knows all parts and is known by none.
 *
 * The order is the order of safety. The pools are blackholes and the base is
 * closed before the gate is attached; record and gate are one again before
 * the first heartbeat; only then is anybody listened to. A start that fails
 * anywhere leaves what stands: closed. So does a stop: granted flows run on
 * in the gate, to their ends, at most orphanGraceSeconds without an agent.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isRevoked } from './api/authorities.ts';
import { ExpiryAlarms, timesLeft } from './api/expiry.ts';
import { servePages } from './api/loopback.ts';
import { startManagement } from './api/management.ts';
import { mtcUserApi } from './api/mtc-user-routes.ts';
import { refusalRecorder } from './api/problem.ts';
import { reportBody, reportOperations } from './api/report-routes.ts';
import { grantsApi } from './api/routes.ts';
import { startApi } from './api/server.ts';
import { t8Api } from './api/t8-routes.ts';
import { readTrust, type Trust } from './api/tls.ts';
import { Closure, type GapKind } from './closure.ts';
import { AgentError, type FaultCode } from './core/errors.ts';
import type { ShedReason, TlsReason } from './core/handshakes.ts';
import { SELF_TEST } from './core/reasons.ts';
import { covers } from './core/trigger-plan.ts';
import {
  type ExternalId,
  type GrantId,
  type InnerAddress,
  type MtcUserName,
  type RealmName,
  referenceOf,
  type TriggerId,
} from './core/words.ts';
import { forgetFlows } from './dataplane/conntrack.ts';
import { Gate } from './dataplane/gate.ts';
import { links, missingBlackholes, setBlackholes } from './dataplane/iproute.ts';
import { Base } from './dataplane/nftables.ts';
import { denialUseCases } from './denial-use-cases.ts';
import { openDesk } from './desk/desk-store.ts';
import { DeskSwitch } from './desk/desk-switch.ts';
import { DeviceImports } from './device-imports.ts';
import { deviceUseCases } from './device-use-cases.ts';
import { type Binding, rangeOf } from './directory/binding.ts';
import { Directory } from './directory/directory.ts';
import { FindingTally } from './directory/findings.ts';
import { AccountingListener } from './directory/listener.ts';
import { openRegistry } from './directory/registry-store.ts';
import { Sessions } from './directory/sessions.ts';
import { editionUseCases } from './edition-use-cases.ts';
import { openEditions } from './editions/edition-store.ts';
import { PolicySwitch } from './editions/policy-switch.ts';
import {
  compileRulesApart,
  digest,
  loadConfig,
  loadDevices,
  loadIdentityKey,
  loadPushMaterial,
  loadRadiusClients,
  loadTls,
} from './files.ts';
import { GrantEvents } from './grant-events.ts';
import { Bindings } from './grants/bindings.ts';
import { Extensions } from './grants/extensions.ts';
import { Grants } from './grants/grants.ts';
import type { Ground, Waker } from './grants/ground.ts';
import { Heartbeat, recover, rememberBindings, rememberSessions } from './grants/recovery.ts';
import { ANSWERS_KEPT_MS } from './grants/retries.ts';
import { openStore } from './grants/store.ts';
import {
  bootId,
  collectGarbage,
  lockFolder,
  loopDelay,
  newUlid,
  notifyService,
  openLog,
  peerUid,
  sendMarked,
  systemClock,
  systemRandom,
  userName,
} from './host.ts';
import { identitiesBy } from './identity-key.ts';
import { deniedPackets, openAccount } from './inspector/account.ts';
import { openDenialStore } from './inspector/denial-store.ts';
import { Inspector } from './inspector/inspector.ts';
import { Ledger } from './inspector/ledger.ts';
import { packetDenial, type Whose } from './inspector/packet-denial.ts';
import { WouldHave } from './inspector/would-have.ts';
import { FaultKeepingLog } from './last-fault.ts';
import { openMetrics } from './metrics.ts';
import { DeskClerk, mtcUserUseCases } from './mtc-user-use-cases.ts';
import { Holders } from './nat/holders.ts';
import { NatRecord } from './nat/nat-record.ts';
import { openRecordReader } from './nat/record-store.ts';
import { mappingOf, natUseCases, wasOpen } from './nat-use-cases.ts';
import { mtcUserOf } from './policy/rule-index.ts';
import { baseRuleset } from './policy/ruleset.ts';
import { keepingLast } from './policy-compiler.ts';
import { guardedSpaces, Pushes } from './pushes.ts';
import { radiusUseCases } from './radius-use-cases.ts';
import { RecentDenials } from './recent-denials.ts';
import { readAgain } from './reload.ts';
import { remediesOf } from './remedies.ts';
import { reportUseCases } from './report-use-cases.ts';
import { openOutboxStore } from './reports/outbox-store.ts';
import { openPoster } from './reports/post.ts';
import { FolderWatch, readRuleFolder } from './rule-folder.ts';
import {
  accountingPlaces,
  admissions,
  baseSetup,
  type GateNumbers,
  gatePlaces,
  gateSetup,
  grantsPrefixes,
  ownAddressAt,
  poolPrefixes,
  recorderSetup,
  type Site,
  siteOf,
  spacesOf,
  triggeredAt,
} from './site.ts';
import { attachmentText, heartbeatAgeSeconds, runningStatus } from './status.ts';
import { wrongSysctls } from './sysctls.ts';
import { triggerManagement, triggerUseCases } from './trigger-use-cases.ts';
import type { Notifications } from './triggers/ground.ts';
import { openTriggerStore } from './triggers/store.ts';
import { openDelivery } from './triggers/trigger-source.ts';
import { Triggers } from './triggers/triggers.ts';
import { asAgentError, every, logFault, type Stop } from './upkeep.ts';
import { identityPolicy, managementUseCases, operatorDetail, serverUseCases, serverView } from './use-cases.ts';
import { userUseCases } from './user-use-cases.ts';
import { requestsIn, wakerBy } from './wakes.ts';

/** How often what is due is done, and the closure is looked at. */
const TICK_MS = 1_000;
/** How often what was turned away is written to its store. */
const KEEP_MS = 2_000;
/** Without a heartbeat for this long the agent is not well: one is due every second. */
const AILING_SECONDS = 10;
/** Ended grants are kept this long, for whoever asks what became of one. */
const RETAIN_ENDED_MS = 30 * 24 * 3_600_000;
/** Ended triggers are kept so long: their servers have been told, or ask within days. */
const RETAIN_TRIGGERS_MS = 7 * 24 * 3_600_000;

/** The status of an end that a restart does not cure (EX_CONFIG of sysexits.h): the unit waits for a person. */
const FILES_INVALID = 78;
const INVALID_FILES: readonly FaultCode[] = [
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
  const alarms = new ExpiryAlarms(log, systemClock);
  alarms.look(trust);

  mkdirSync(config.store.directory, { recursive: true, mode: 0o750 });
  lockFolder(config.store.directory);
  const identityKey = loadIdentityKey(config);
  const identities = identitiesBy(identityKey);
  const registry = openRegistry(join(config.store.directory, 'registry.db'), identities);
  stops.push(() => registry.close());
  const devices = loadDevices(config, { registry, identities });
  const importWorker = new URL('device-import-worker.js', import.meta.url);
  const imports = new DeviceImports(registry, config.store.directory, importWorker, identityKey);
  const editions = openEditions(join(config.store.directory, 'editions.db'));
  stops.push(() => editions.close());
  const deskStore = openDesk(join(config.store.directory, 'desk.db'));
  stops.push(() => deskStore.close());
  const desk = new DeskSwitch({ store: deskStore, digest, log });
  const policyWorker = new URL('policy-worker.js', import.meta.url);
  const compile = keepingLast(async (files, where) => {
    const checked = await compileRulesApart(files, where, config, policyWorker);
    for (const warning of checked.warnings) warn(warning);
    return checked;
  });
  const policies = await PolicySwitch.begin({
    store: editions,
    readFolder: () => readRuleFolder(config.rules),
    compile: (files, edition) => compile(files, edition === undefined ? config.rules.folder : `edition-${edition}`),
    autoApply: config.rules.autoApply,
    clock: systemClock,
    log,
  });
  const { policy } = policies.inForce;
  const folder = new FolderWatch(config.rules, () => Number(systemClock.monotonicNs() / 1_000_000n));
  const worker = new URL('grants/store-worker.js', import.meta.url);
  const store = openStore(join(config.store.directory, 'mtgate.db'), identities, worker);
  stops.push(() => store.close());

  const site = siteOf(config, await links());
  const unsuitable = site.absent.find(({ code }) => code === 'interfaceUnsuitable'); // waiting would not mend it
  if (unsuitable) throw new AgentError(unsuitable.code, unsuitable.why);
  // Before anything is touched that may be another agent's. Where no gate can be, the base closes all the same.
  const noGate = faultOf(() => {
    Gate.prepare(config.gate.bpffs);
    lockFolder(config.gate.bpffs);
  });
  if (noGate instanceof AgentError && noGate.code === 'alreadyRunning') throw noGate;
  await setBlackholes(poolPrefixes(config));
  const base = new Base();
  await registry.replaceFile(devices.map(({ device }) => device));
  const directory = new Directory(registry);
  // Until it is known who holds what, the groups of filters hold all that may.
  const listed = devices.flatMap(({ device, bindings }) =>
    bindings.map(({ realm, address }) => ({ holder: device.externalId, ...rangeOf(realm, address) })),
  );
  const mayBeBound = {
    policy,
    get bound() {
      return [...store.bindings(), ...listed];
    },
    attributesOf: directory.attributesOf,
  };
  await base.apply(baseRuleset(baseSetup(config, site, mayBeBound), await base.counted()));
  if (noGate !== undefined) throw noGate;
  const numbers: GateNumbers = {
    realmId: (realm: RealmName) => store.idOf('realm', realm),
    identificationKey: Buffer.from(systemRandom.bytes(8)).readBigUInt64LE(),
  };
  const gate = Gate.load({
    object: fileURLToPath(new URL('dataplane/gate.bpf.o', import.meta.url)),
    bpffs: config.gate.bpffs,
    setup: gateSetup(config, site, numbers),
  });
  stops.push(() => gate.close());
  gate.admissions(admissions(config, policy));
  gate.attach(config.gate.attach, gatePlaces(config, site));
  const gapFound = (kind: GapKind) => metrics.gapFound(kind);
  const hosts = { links, missingBlackholes, setBlackholes, wrongSysctls };
  const held = {
    get bound() {
      return directory.bindings();
    },
    attributesOf: directory.attributesOf,
  };
  const closure = new Closure({ config, numbers, gate, base, directory: held, ...hosts, log, gapFound }, site, policy);
  const denied = () => deniedPackets(gate.counters());
  const recent = new RecentDenials(systemClock.monotonicNs(), denied());
  const heartbeatAge = () => heartbeatAgeSeconds(gate, systemClock);
  const denialStore = openDenialStore(join(config.store.directory, 'denials.db'), log, identities);
  stops.push(() => denialStore.close());
  const deviceOf = (named: string) => {
    const device = directory.find(referenceOf(named));
    const mtcUser = device && mtcUserOf(grants.policy, device.externalId)?.name;
    return device && mtcUser && { mtcUser, externalId: device.externalId };
  };
  const ledger = new Ledger(denialStore, systemClock, systemRandom, log, deviceOf);
  const tenants = {
    holderOf: (inner: InnerAddress) => directory.holderOf(inner),
    mtcUserOf: (device: ExternalId) => mtcUserOf(grants.policy, device)?.name,
  };
  const whose: Whose = {
    ownerOf: (protocol, external, from) => grants.ownerOf(protocol, external, from),
    triggeredAt: triggeredAt(config, tenants),
    ownAddressAt: ownAddressAt(config, tenants),
  };
  const wouldHave = new WouldHave(systemClock, log);
  const inspector = new Inspector({
    nflogGroup: config.base.nflogGroup,
    saw: (reason, bytes, filter) => {
      ledger.denials.add(packetDenial(reason, bytes, whose, filter));
    },
    wouldHave: (filter, bytes) => wouldHave.note(filter, bytes),
    sendTest: () => sendMarked(SELF_TEST.mark),
    log,
  });
  const startedAtMs = systemClock.nowMs();
  const account = openAccount(
    () => gate.counters(),
    () => inspector.reading().received,
  );

  /** The operator wants no new grants; not remembered over a restart. */
  let draining = false;
  const sessions = new Sessions();
  const accounted = new FindingTally();
  /** The accounting server, from when it may be heard. */
  let radius: AccountingListener | undefined;
  const ofRadius = radiusUseCases({
    ...{ config, sessions },
    listener: () => radius,
    tally: accounted,
    clock: systemClock,
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
    registeredDevices: () => registry.size,
    restingEndpoints: () => grants.rest.size,
    freeEndpoints: (family, protocol) => grants.endpoints.available(family, protocol),
    heartbeatAgeSeconds: heartbeatAge,
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
  const spaces = spacesOf(config);
  const outboxStore = pushMaterial.key && openOutboxStore(join(config.store.directory, 'outbox.db'), log, identities);
  const poster = openPoster({
    own: () => guardedSpaces(config, closure.site.links),
    cas: pushMaterial.cas,
    ...(config.reports.resolvers && { resolvers: config.reports.resolvers }),
    nowMs: () => Number(systemClock.monotonicNs() / 1_000_000n),
  });
  const pushes =
    outboxStore &&
    new Pushes(
      {
        ...{ config, store: outboxStore, key: pushMaterial.key, post: poster.post, pushed: metrics.pushed },
        ...{ denials: ledger.denials, spaces, reportBody, newId: newUlid },
        clock: systemClock,
        random: systemRandom,
        log,
      },
      policy,
    );
  stops.push(
    () => outboxStore?.close(),
    () => pushes?.close(),
    () => poster.close(),
  );
  const grantEvents = new GrantEvents({
    ...{ pushes, sinks: outboxStore?.grantSinks, clock: systemClock, log },
    view: (record) => serverView(record, identities),
    keepsNumbers: identities.keep,
    warnSeconds: config.reports.endWarningSeconds,
  });
  const holders = new Holders(config.inside, (inner) => directory.holderOf(inner));
  const natFile = join(config.store.directory, 'nat.db');
  const natReader = openRecordReader(natFile);
  const natRecord = new NatRecord({
    setup: recorderSetup(config, natFile, bootId()),
    holders,
    endedGrants: function* (sinceMs) {
      for (const grant of store.endedSince(sinceMs)) if (wasOpen(grant)) yield mappingOf(grant);
    },
    log,
  });
  let waker: Waker | undefined;
  const ground: Ground = {
    gateway: config.gateway,
    bootId: bootId(),
    pool: config.pools.grants,
    dataplane: gate,
    store,
    directory,
    registry,
    identities,
    clock: systemClock,
    random: systemRandom,
    log,
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
    metrics,
    watcher: {
      granted: (grant) => grantEvents.granted(grant),
      opened: (grant) => natRecord.begun(mappingOf(grant)),
      ended: (grant) => {
        grantEvents.ended(grant);
        if ('external' in grant) natRecord.ended(mappingOf(grant));
      },
    },
    waker: () => waker,
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
  const delivery = openDelivery(config, { clock: systemClock, random: systemRandom, log });
  const triggerWorker = new URL('triggers/store-worker.js', import.meta.url);
  const triggerStore =
    delivery && openTriggerStore(join(config.store.directory, 'triggers.db'), identities, triggerWorker);
  const notifications: Notifications = {
    allowed: (server, url) => pushes?.allowed(server, url) ?? false,
    notify: async (server, url, body) => pushes?.notify(server, url, { id: newUlid(), data: JSON.stringify(body) }),
  };
  const triggers =
    delivery &&
    triggerStore &&
    new Triggers({
      ...{ gateway: ground.gateway, bootId: ground.bootId, clock: systemClock, log, metrics, directory, identities },
      requests: requestsIn(grants.waiting),
      ...{ store: triggerStore, delivery, notifications, refuse: ground.refuse, revoked: ground.revoked },
      isServed: (port) => covers(config.triggers?.ports ?? [], port),
      sourcePort: delivery.sourcePort,
      policy: () => grants.policy,
      tooManyMisses: (who, decision) => grants.judge.tooManyMisses(who, decision),
      notReady: (realm) => closure.objection(realm),
      newId: () => newUlid() as TriggerId,
    });
  waker = triggers && config.triggers && wakerBy(triggers, config.triggers);
  stops.push(
    () => triggerStore?.close(),
    () => delivery?.close(),
    () => triggers?.close(),
  );
  const followers = {
    lost: (devices: Iterable<ExternalId>) => triggers?.lost(devices),
    bound: (devices: Iterable<ExternalId>) => triggers?.bound(devices),
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
    every(3_600_000, log, () => triggerStore?.purge(systemClock.nowMs() - RETAIN_TRIGGERS_MS)),
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

  const { jwk: signingKey } = pushMaterial.key ?? {};
  const forServers = serverUseCases(ground, grants, new Extensions(ground, grants), grantEvents, signingKey, digest);
  const clerk = new DeskClerk(desk, ground, digest);
  const forMtcUsers = mtcUserUseCases(ground, grants, registry, clerk);
  const ofReports = reportUseCases({ denials: ledger.denials, account, sinceMs: startedAtMs, spaces, signingKey });
  const ofTriggers = triggers && triggerUseCases(triggers, notifications, ground.refuse, identities);
  const apis = [
    grantsApi(forServers, ground.refuse, systemClock),
    t8Api(ofTriggers, ground.refuse),
    mtcUserApi(forMtcUsers, ground.refuse, reportOperations(ofReports, ground.refuse)),
  ];
  const apiParts = {
    identity: identityPolicy(grants),
    refuse: ground.refuse,
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
  const openApi = () => startApi(config.api.listen, trust, apiParts, apis);
  // Where the outside interface comes later than the agent, so may the address that the API listens on.
  const hasAddress = ({ links }: Site) =>
    links.some(({ addresses }) => addresses.some(({ text }) => text === config.api.listen.address.text));
  let api = site.outside || hasAddress(site) ? await openApi() : undefined;
  stops.push(
    () => api?.close(),
    every(TICK_MS, log, async () => {
      if (!api && hasAddress(closure.site)) api = await openApi();
    }),
  );

  const trusted = (next: Trust) => {
    trust = next;
    api?.reload(trust);
    alarms.look(trust);
  };
  const reload = async () => {
    notifyService('reloading');
    try {
      return await readAgain({
        ...{ config, policies, folder, grants, bindings, registry, identities, trusted, warn },
        radius,
        clock: systemClock,
        log,
      });
    } finally {
      notifyService('ready');
    }
  };
  process.on('SIGHUP', () => void reload().catch((fault) => logFault(log, fault, 'reloadFailed')));
  const denials = denialUseCases({
    ...{ ledger, account, identities },
    inspector: () => inspector.reading(),
    streamCut: metrics.streamCut,
    remedies: remediesOf(grants, ledger, (record) => operatorDetail(record, ground)),
  });
  const ofDevices = deviceUseCases({ registry, imports, bindings, grants, log });
  const ofEditions = editionUseCases({ policies, desk, grants, store, ledger, clock: systemClock, userName });
  const ofSinks = {
    sinks: () => pushes?.sinks(),
    reportsOf: (name: string) =>
      grants.policy.mtcUsers.has(name as MtcUserName) ? ofReports.all(name as MtcUserName) : undefined,
  };
  const ofNat = natUseCases({
    pools: { grants: grantsPrefixes(config), egress: config.pools.egress },
    ...{ grants, record: natRecord, reader: natReader, nowMs: () => systemClock.nowMs() },
  });
  const shown = triggers && triggerStore && { triggers: triggerManagement(triggers, triggerStore, directory, log) };
  const management = await startManagement(
    config.management.socket,
    managementUseCases(
      ground,
      grants,
      bindings,
      {
        ...{ ...denials, ...ofDevices, ...ofEditions, ...ofRadius },
        ...{ ...ofSinks, ...shown, ...userUseCases(grants, clerk), ...ofNat },
      },
      config,
      {
        reload,
        drain: (wanted) => {
          draining = wanted;
        },
        status: () =>
          runningStatus(
            {
              config,
              closure,
              gate,
              inspector,
              natRecord,
              recent,
              trust,
              draining,
              registry,
              policies,
              folder,
              fault: log.last,
            },
            systemClock,
          ),
      },
    ),
    peerUid,
    log,
  );
  stops.push(() => management.close());
  const pages = await servePages(config.metrics.listen, {
    metrics: () => metrics.text(),
    ailing: () => {
      const age = heartbeatAge();
      return age > AILING_SECONDS ? `no heartbeat for ${age.toFixed()} s` : undefined;
    },
    notReady: () => ground.notReady()?.why,
  });
  stops.push(() => pages.close());
  await policies.keep(); // the first edition is one from here on
  log.info({ gateway: config.gateway, attachments: gate.attachments().map(attachmentText) }, 'ready');
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      config: { type: 'string', default: '/etc/mtgate/agent.yaml' },
      log: { type: 'string', default: 'info' },
    },
  });
  const journal = openLog(values.log);
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
  await start(values.config, log, journal.leftOut, stops).catch((fault) => {
    if (!stopping) throw fault; // else it is of a part that was stopped under its hands
  });
  if (!stopping) notifyService('ready');
}

main().catch((fault) => {
  const { code, message, advice } = asAgentError(fault);
  process.stderr.write(
    `mtgate: ${code}\n${message}\n${advice}\n${(fault as Error).cause ? `cause: ${String((fault as Error).cause)}\n` : ''}`,
  );
  process.exit(INVALID_FILES.includes(code) ? FILES_INVALID : 1);
});

function faultOf(work: () => void): unknown {
  try {
    work();
  } catch (fault) {
    return fault;
  }
  return undefined;
}
