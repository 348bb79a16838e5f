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
import { ulid } from 'ulid';
import { startManagement } from './api/management.ts';
import { refusalRecorder } from './api/problem.ts';
import { startApi } from './api/server.ts';
import { AgentError, type FaultCode } from './core/errors.ts';
import { contains } from './core/net.ts';
import type { Log } from './core/ports.ts';
import type { GrantId } from './core/words.ts';
import type { Attachment } from './dataplane/attachment.ts';
import { forgetFlows } from './dataplane/conntrack.ts';
import type { GateCounters, PacketCount } from './dataplane/dataplane.ts';
import { Gate } from './dataplane/gate.ts';
import { links, setBlackholes } from './dataplane/iproute.ts';
import { Base } from './dataplane/nftables.ts';
import { Directory } from './directory/directory.ts';
import { loadConfig, loadDevices, loadPolicy, loadTls } from './files.ts';
import { Bindings } from './grants/bindings.ts';
import { Grants } from './grants/grants.ts';
import type { Ground } from './grants/ground.ts';
import { Heartbeat, recover } from './grants/recovery.ts';
import { openStore } from './grants/store.ts';
import { bootId, forwards, lockFolder, notifyService, openLog, peerUid, systemClock, systemRandom } from './host.ts';
import { openMetrics, serveMetrics } from './metrics.ts';
import { identify } from './policy/policy.ts';
import { baseRuleset } from './policy/ruleset.ts';
import { baseSetup, gateSetup, interfacesOf } from './site.ts';
import { managementUseCases, serverUseCases } from './use-cases.ts';

/** How often what is due is done, and the base is looked at. */
const TICK_MS = 1_000;
/** Ended grants are kept this long, for whoever asks what became of one. */
const RETAIN_ENDED_MS = 30 * 24 * 3_600_000;

/** The status of an end that a restart does not cure (EX_CONFIG of sysexits.h): the unit waits for a person. */
const FILES_INVALID = 78;
const INVALID_FILES: readonly FaultCode[] = ['configInvalid', 'rulesInvalid', 'devicesInvalid', 'certificateInvalid'];

/** A part that was started, and how it is stopped. */
type Stop = () => void | Promise<void>;

async function start(configFile: string, log: Log): Promise<Stop[]> {
  const stops: Stop[] = [];
  const warn = (warning: string) => log.warn({ warning }, 'configurationWarning');
  const config = loadConfig(configFile, warn);
  const policy = loadPolicy(config.rules, config, warn);
  const devices = loadDevices(config);
  const tls = loadTls(config);

  mkdirSync(config.store.directory, { recursive: true, mode: 0o750 });
  lockFolder(config.store.directory);
  const store = openStore(join(config.store.directory, 'mtgate.db'));
  stops.push(() => store.close());

  const here = await links();
  const interfaces = interfacesOf(config, here);
  await setBlackholes([...config.pools.grants.ipv4, ...config.pools.grants.ipv6, ...config.pools.egress]);
  const base = new Base(baseRuleset(baseSetup(config)));
  await base.apply();
  Gate.prepare(config.gate.bpffs);
  lockFolder(config.gate.bpffs);
  const gate = Gate.load({
    object: fileURLToPath(new URL('dataplane/gate.bpf.o', import.meta.url)),
    bpffs: config.gate.bpffs,
    setup: gateSetup(config, interfaces, here, (realm) => store.idOf('realm', realm)),
  });
  stops.push(() => gate.close());
  gate.attach(config.gate.attach, interfaces);
  for (const family of ['ipv4', 'ipv6'] as const) {
    if (!forwards(family)) log.warn({ family }, 'forwardingOff'); // device-initiated flows need it
  }

  /** Why the gateway is not as it should be, if it is not: then no grant is opened. */
  let gap: string | undefined;
  const lookForGap = async () => {
    // The outside has two hooks, each inside interface one.
    if (gate.attachments().length < 2 + interfaces.inside.length) return 'the gate does not hang at every interface';
    return (await base.stands()) ? undefined : 'the nftables base does not stand as it was applied';
  };
  const metrics = openMetrics({
    gate: () => gate.counters(),
    liveGrants: () => grants.live.size,
    restingEndpoints: () => grants.rest.size,
    freeEndpoints: (family, protocol) => grants.endpoints.available(family, protocol),
    heartbeatAgeSeconds: () => Number(systemClock.monotonicNs() - gate.lastHeartbeat()) / 1e9,
    closed: () => gap === undefined,
  });
  const record = refusalRecorder(log, systemRandom);
  const directory = new Directory();
  const ground: Ground = {
    gateway: config.gateway,
    bootId: bootId(),
    pool: config.pools.grants,
    dataplane: gate,
    store,
    directory,
    clock: systemClock,
    random: systemRandom,
    log,
    refuse: (reason, facts) => {
      metrics.refused(reason);
      return record(reason, facts);
    },
    newId: () => ulid() as GrantId,
    notReady: () => gap,
    metrics,
  };
  const grants = new Grants(ground, policy);
  const bindings = new Bindings(ground, grants, forgetFlows);
  const { orphanGraceSeconds } = config.gate;

  directory.setDevices(devices.map(({ device }) => device));
  directory.apply({ losses: [], gains: store.bindings() });
  grants.withdrawSources();
  const recovery = await recover(ground, grants, orphanGraceSeconds);
  await bindings.replaceFile(devices);
  await grants.switchPolicy(policy);
  log.info({ ...recovery, policy: policy.version, gateway: config.gateway }, 'recovered');

  const heartbeat = new Heartbeat(ground, grants, orphanGraceSeconds);
  await heartbeat.beat();
  gate.sample(config.gate.sampledDenialsPerSecond);
  stops.push(
    every(TICK_MS, log, async () => {
      await heartbeat.beat();
      notifyService('working'); // only behind a written heartbeat: a hung agent is to be restarted
    }),
    every(TICK_MS, log, () => grants.sweep()),
    every(TICK_MS, log, async () => {
      gap = await lookForGap();
      if (!gap) return;
      log.error({ gap }, 'gapFound');
      metrics.gapFound();
      await base.apply();
      gate.attach(config.gate.attach, interfaces);
      gap = await lookForGap();
      log.info({ gap }, 'gapRepaired');
    }),
    every(3_600_000, log, () => store.purge(systemClock.nowMs() - RETAIN_ENDED_MS)),
  );

  const api = await startApi(config.api.listen, tls, {
    grants: serverUseCases(ground, grants),
    identity: {
      identify: (facts) => identify(grants.policy, facts),
      sourceAllowed: (server, from) =>
        grants.policy.servers.get(server)?.apiSources.some((source) => contains(source, from)) ?? false,
    },
    refuse: ground.refuse,
    clock: systemClock,
    random: systemRandom,
    log,
  });
  stops.push(() => api.close());

  const readAgain = async () => {
    // All is read and checked before any of it is put in force.
    const next = { policy: loadPolicy(config.rules, config, warn), devices: loadDevices(config), tls: loadTls(config) };
    api.reload(next.tls);
    await bindings.replaceFile(next.devices);
    await grants.switchPolicy(next.policy);
    log.info({ policy: next.policy.version }, 'reloaded');
    return { policy: next.policy.version, devices: next.devices.length, liveGrants: grants.live.size };
  };
  const reload = async () => {
    notifyService('reloading');
    try {
      return await readAgain();
    } finally {
      notifyService('ready');
    }
  };
  process.on('SIGHUP', () => void reload().catch((fault) => logFault(log, fault, 'reloadFailed')));
  const management = await startManagement(
    config.management.socket,
    managementUseCases(ground, grants, bindings, config, {
      reload,
      status: () => ({
        closed: gap ?? 'yes',
        attachments: gate.attachments().map(shown),
        heartbeatAgeSeconds: Number(systemClock.monotonicNs() - gate.lastHeartbeat()) / 1e9,
        packets: packetsOf(gate.counters()),
      }),
    }),
    peerUid,
    log,
  );
  stops.push(() => management.close());
  const page = await serveMetrics(metrics, config.metrics.listen);
  stops.push(() => void page.close());
  log.info({ gateway: config.gateway, attachments: gate.attachments().map(shown) }, 'ready');
  return stops;
}

/** An attachment in a word: `outsideIngress outside tcx`. */
const shown = ({ hook, interface: link, kind }: Attachment) => `${hook} ${link.name} ${kind}`;

/** Counts as a person wants them: packets only, and of denials only those that happened. */
function packetsOf({ denied, ...others }: GateCounters) {
  const packets = (counts: Readonly<Record<string, PacketCount>>) =>
    Object.fromEntries(Object.entries(counts).map(([name, { packets: number }]) => [name, Number(number)]));
  const happened = Object.entries(packets(denied)).filter(([, number]) => number > 0);
  return { ...packets(others), denied: Object.fromEntries(happened) };
}

/** Does something again and again, never twice at once; what it throws is logged and does not end it. */
function every(periodMs: number, log: Log, act: () => Promise<void>): Stop {
  let timer: NodeJS.Timeout;
  let running: Promise<void> = Promise.resolve();
  let stopped = false;
  const arm = () => {
    timer = setTimeout(() => {
      running = act()
        .catch((fault) => logFault(log, fault, 'tickFailed'))
        .then(() => (stopped ? undefined : arm()));
    }, periodMs);
  };
  arm();
  return async () => {
    stopped = true;
    clearTimeout(timer);
    await running;
  };
}

function logFault(log: Log, fault: unknown, event: string): void {
  const { code, message, advice } = asAgentError(fault);
  log.error({ code, message, advice, cause: String((fault as Error).cause ?? '') }, event);
}

function asAgentError(fault: unknown): AgentError {
  return fault instanceof AgentError ? fault : new AgentError('internal', String(fault), { cause: fault });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      config: { type: 'string', default: '/etc/mtgate/agent.yaml' },
      log: { type: 'string', default: 'info' },
    },
  });
  const log = openLog(values.log);
  const stops = await start(values.config, log);
  notifyService('ready');
  const stop = async (signal: string) => {
    log.info({ signal }, 'stopping');
    notifyService('stopping');
    for (const part of stops.reverse()) await part();
    log.info({}, 'stopped');
    process.exit(0);
  };
  process.once('SIGTERM', () => void stop('SIGTERM'));
  process.once('SIGINT', () => void stop('SIGINT'));
}

main().catch((fault) => {
  const { code, message, advice } = asAgentError(fault);
  process.stderr.write(
    `mtgate: ${code}\n${message}\n${advice}\n${(fault as Error).cause ? `cause: ${String((fault as Error).cause)}\n` : ''}`,
  );
  process.exit(INVALID_FILES.includes(code) ? FILES_INVALID : 1);
});
