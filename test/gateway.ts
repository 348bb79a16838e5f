/**
 * A gateway without a kernel: the real policy, directory, grants and store
 * (in memory), the twin as its data plane, and a clock that the test holds.
 * It can be stopped and started, in the same boot or after a reboot.
 */

import { createHash } from 'node:crypto';
import { refusalRecorder } from '../agent/api/problem.ts';
import { address, overlaps, type Prefix, prefix } from '../agent/core/net.ts';
import type { Pool } from '../agent/core/pool.ts';
import type {
  Asker,
  CertificateId,
  ExternalId,
  GrantId,
  GrantRequest,
  InnerAddress,
  RealmName,
  ServerName,
} from '../agent/core/words.ts';
import type { GateSetup } from '../agent/dataplane/dataplane.ts';
import { Memory } from '../agent/dataplane/memory.ts';
import { openDesk } from '../agent/desk/desk-store.ts';
import { DeskSwitch } from '../agent/desk/desk-switch.ts';
import type { Places } from '../agent/directory/claimed-ranges.ts';
import type { ListedDevice } from '../agent/directory/devices.ts';
import { Directory } from '../agent/directory/directory.ts';
import { FindingTally } from '../agent/directory/findings.ts';
import { openRegistry, type RegistryStore } from '../agent/directory/registry-store.ts';
import { Sessions } from '../agent/directory/sessions.ts';
import { Bindings, type Followers } from '../agent/grants/bindings.ts';
import { Extensions } from '../agent/grants/extensions.ts';
import { Grants } from '../agent/grants/grants.ts';
import type { Ground, NotReady, Waker } from '../agent/grants/ground.ts';
import { Heartbeat, recover, rememberBindings, rememberSessions } from '../agent/grants/recovery.ts';
import { type GrantStore, openStore } from '../agent/grants/store.ts';
import { compilePolicy } from '../agent/policy/compile.ts';
import type { WalkRealm } from '../agent/policy/packet-walk.ts';
import type { Policy } from '../agent/policy/policy.ts';
import { GrantEvents } from '../agent/use-cases/grant-events.ts';
import { serverView } from '../agent/use-cases/grant-views.ts';
import { HandClock, KeptLog, seededRandom } from './clock.ts';
import { IDENTITIES } from './identities.ts';
import { IDENTIFICATION_KEY, NORMALISE } from './suites/fixture.ts';

export const OUTSIDE_IFINDEX = 2;
export const INSIDE_IFINDEX = 3;
const GRACE_SECONDS = 300;

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/30')],
  ipv6: [prefix('2001:db8:a::/64')],
  portLow: 20_000,
  portCount: 16,
  keyedGrants: 16,
};
const REALM: readonly Prefix[] = [prefix('10.20.0.0/16'), prefix('fd00:20::/48')];

/** A realm that nobody is in. */
const SECOND_REALM: WalkRealm = { realm: 'lab' as RealmName, prefixes: [prefix('10.30.0.0/16')], shared: false };

export const RULES = `
servers:
  head-end: { certificates: [{ uri: "urn:mtc:head-end" }], sources: [198.51.100.0/24, "2001:db8:51::/48"] }
  other: { certificates: [{ uri: "urn:mtc:other" }], sources: [192.0.2.64/26] }
mtcUsers:
  acme: { certificates: [{ uri: "urn:mtc-user:acme" }], devices: ["*@meters.example"], authorises: [head-end], mayAuthorise: ["*"] }
rules:
  - id: meters
    allow: { servers: [head-end], protocols: [udp, tcp], ports: [5683, "7000-7010"], applicationServer: all }
    limits: { durationSeconds: 900, totalSeconds: 3600, grantsPerDevice: 3, requestsPerMinute: 10 }
  - id: no-telnet
    deny: { ports: [23], reason: "telnet is never wanted" }
`;

export const M1 = 'm1@meters.example' as ExternalId;
export const M2 = 'm2@meters.example' as ExternalId;
export const HEAD_END: Asker = {
  name: 'head-end' as ServerName,
  requestAddress: address('198.51.100.10'),
  certificate: 'ca:1' as CertificateId,
  correlator: 'c-1',
};
export const OTHER: Asker = {
  name: 'other' as ServerName,
  requestAddress: address('192.0.2.66'),
  certificate: 'ca:2' as CertificateId,
  correlator: 'c-2',
};

export const inner = (text: string): InnerAddress => ({ realm: 'iot' as RealmName, address: address(text) });

export const DEVICES: readonly ListedDevice[] = [
  { device: { externalId: M1 }, bindings: [inner('10.20.0.2'), inner('fd00:20::2')] },
  { device: { externalId: M2 }, bindings: [] },
];

const digest = (what: string) => createHash('sha256').update(what).digest('hex');

/** What agent.yaml says of the realm's translation. */
export type RealmNat = Pick<WalkRealm, 'nat' | 'shared'>;

export function policyOf(text: string, nat?: RealmNat): Policy {
  const inside = nat ? [{ realm: 'iot' as RealmName, prefixes: REALM, ...nat }, SECOND_REALM] : [];
  const site = { realms: REALM, denied: [], egress: [], pools: [], inside };
  const compiled = compilePolicy([{ file: 'rules.yaml', text }], { digest, ...(nat && { site }) });
  if ('issues' in compiled)
    throw new Error(compiled.issues.map(({ line, message }) => `${line}: ${message}`).join('\n'));
  return compiled.policy;
}

/** A request as a server may make it; what matters to a test is named by it. */
export function ask(changes: Partial<GrantRequest> = {}): GrantRequest {
  return {
    device: { networkAccessIdentifier: M1 },
    protocol: 'udp',
    devicePort: 5683,
    durationSeconds: 600,
    ...changes,
  };
}

/** One client may bind in all of one realm. */
const PLACES: Places = {
  realmOfApn: (apn) => (apn === 'iot.example' ? ('iot' as RealmName) : undefined),
  realmsFor: (_, of) =>
    ['10.20.0.0/16', 'fd00:20::/48'].some((pool) => overlaps(prefix(pool), of)) ? ['iot' as RealmName] : [],
};

export class TestGateway {
  sessions!: Sessions;
  readonly clock = new HandClock();
  readonly log = new KeptLog();
  readonly forgotten: string[] = [];
  /** What staged rules would have done. */
  readonly staged: string[] = [];
  readonly store: GrantStore;
  readonly registry: RegistryStore;
  readonly deskStore = openDesk(':memory:');
  desk!: DeskSwitch;
  /** Set: agent.yaml says something of the realm's translation. */
  nat: RealmNat | undefined;
  /** Set: no grant can be opened. */
  notReady: string | undefined;
  /** Client certificates that are revoked. */
  readonly revoked = new Set<CertificateId>();
  /** Who else is told where devices are. */
  followers: Followers = { lost: () => {}, bound: () => {} };
  /** What wakes devices; none at a start, until there are triggers. */
  waker: Waker | undefined;
  /** Set: the operator wants no new grants. */
  draining: NotReady | undefined;
  memory: Memory;
  directory!: Directory;
  grants!: Grants;
  extensions!: Extensions;
  /** What servers are told without asking; to their followers, since nothing is pushed here. */
  events!: GrantEvents;
  bindings!: Bindings;
  ground!: Ground;
  heartbeat!: Heartbeat;
  #boot = 1;
  #ids = 0;

  constructor(store = openStore(':memory:', IDENTITIES), registry = openRegistry(':memory:', IDENTITIES)) {
    this.store = store;
    this.registry = registry;
    this.memory = this.#bareMetal();
  }

  static async started(rules = RULES, devices = DEVICES): Promise<TestGateway> {
    const gateway = new TestGateway();
    await gateway.start(rules, devices);
    return gateway;
  }

  /** What a start of the agent does, in its order; record and gate stay as they are. */
  async start(rules = RULES, devices = DEVICES): Promise<void> {
    const policy = policyOf(rules, this.nat);
    this.waker = undefined;
    this.directory = new Directory(this.registry);
    this.sessions = new Sessions();
    this.events = new GrantEvents({
      ...{ pushes: undefined, sinks: undefined, clock: this.clock, log: this.log },
      view: (record) => serverView(record, IDENTITIES),
      keepsNumbers: false,
      warnSeconds: 60,
    });
    const ground: Ground = {
      gateway: 'gw-1',
      bootId: `boot-${this.#boot}`,
      pool: POOL,
      dataplane: this.memory,
      store: this.store,
      directory: this.directory,
      registry: this.registry,
      identities: IDENTITIES,
      clock: this.clock,
      random: seededRandom(this.#boot * 1000 + this.#ids),
      log: this.log,
      refuse: refusalRecorder(this.log, seededRandom(1), this.clock),
      metrics: {
        granted: () => {},
        extended: () => {},
        ended: () => {},
        staged: (rule, would, times) => void this.staged.push(`${rule} ${would} ${times}`),
      },
      watcher: this.events,
      waker: () => this.waker,
      revoked: (certificate) => this.revoked.has(certificate),
      newId: () => `grant-${++this.#ids}` as GrantId,
      notReady: () => this.draining ?? (this.notReady ? { reason: 'gatewayNotReady', why: this.notReady } : undefined),
    };
    this.ground = ground;
    this.desk = new DeskSwitch({ store: this.deskStore, digest, log: this.log });
    this.grants = new Grants(ground, this.desk.lay(policy));
    this.desk.enforceOn(this.grants);
    this.extensions = new Extensions(ground, this.grants);
    this.bindings = new Bindings(
      ground,
      this.grants,
      async (freed) => void this.forgotten.push(...freed.map(({ text }) => text)),
      { follow: async () => {}, refill: async () => {} },
      { sessions: this.sessions, places: PLACES, tally: new FindingTally() },
      { lost: (devices) => this.followers.lost(devices), bound: (devices) => this.followers.bound(devices) },
    );
    this.heartbeat = new Heartbeat(ground, this.grants, GRACE_SECONDS);
    await this.registry.replaceFile(devices.map(({ device }) => device));
    await rememberBindings(ground, GRACE_SECONDS);
    await rememberSessions(ground, this.sessions);
    await this.grants.sources.withdraw(this.grants.policy);
    await recover(ground, this.grants);
    await this.bindings.replaceFile(devices);
    await this.grants.sources.admit(this.grants.policy);
    await this.heartbeat.beat();
    await this.grants.countBegun(this.grants.policy);
    await this.grants.waiting.resume();
  }

  /** The machine boots anew: the gate is empty, the clocks begin again. */
  reboot(awaySeconds = 1): void {
    this.#boot += 1;
    this.clock.reboot(awaySeconds);
    this.memory = this.#bareMetal();
  }

  #bareMetal(): Memory {
    const setup: GateSetup = {
      pool: POOL,
      outside: { ifindex: OUTSIDE_IFINDEX, nextHops: {} },
      inside: [
        {
          ifindex: INSIDE_IFINDEX,
          realm: this.store.idOf('realm', 'iot'),
          prefixes: REALM,
          nextHops: {},
          translated: true,
        },
      ],
      own: [{ address: address('10.20.0.1'), on: 'inside' }],
      services: [],
      orphanGraceSeconds: GRACE_SECONDS,
      udpTombstoneSeconds: 30,
      onlyBound: true,
      normalise: NORMALISE,
      identificationKey: IDENTIFICATION_KEY,
    };
    return new Memory(this.clock, setup);
  }
}
