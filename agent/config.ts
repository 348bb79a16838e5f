/**
 * agent.yaml as a frozen Config. Every default and every unit stands here.
 *
 * Pure: it reads text, not files. What only the host can know (whether an
 * interface or an address exists) is asked at start; everything else is
 * judged here, all of it at once, each issue with its place. Address spaces
 * never overlap: an address in two of them would be two things at once.
 */
import { posix } from 'node:path';
import type { z } from 'zod';
import { planIssues, planWarnings, poolOf } from './core/address-plan.ts';
import { type Claim, clashesAmong } from './core/claims.ts';
import { byPlace, type Document, frozen, type Issue, type Path, readDocument } from './core/document.ts';
import * as f from './core/fields.ts';
import {
  contains,
  type Endpoint,
  type Family,
  formatEndpoint,
  type NextHops,
  type Prefix,
  parseAddress,
  parseEndpoint,
  prefix,
} from './core/net.ts';
import type { Owned } from './core/overlaps.ts';
import type { Pool } from './core/pool.ts';
import { apnWarnings, clientPoolIssues, withPools } from './core/radius-plan.ts';
import { type TriggerPlan, triggerIssues, triggerWarnings } from './core/trigger-plan.ts';
import { type Apn, type Normalisation, parseApn, type RealmName, type Service } from './core/words.ts';

/** What devices may not reach by themselves unless the operator says otherwise: addresses that are not public (RFC 6890). */
const NOT_PUBLIC = [
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24'],
  ...['192.168.0.0/16', '198.18.0.0/15', '224.0.0.0/4', '240.0.0.0/4'],
  ...['::/127', '64:ff9b:1::/48', '100::/64', 'fc00::/7', 'fe80::/10', 'ff00::/8'],
].map(prefix);

/** What stands before the name of a credential of the service, where the path of a secret may stand. */
export const CREDENTIAL = 'credential:';

const LOOPBACK = ['127.0.0.0/8', '::1/128'].map(prefix);

/** How many services the gate compares a packet with (GATE_SERVICES_MAX). */
const SERVICES = 16;

/** Where the gate hangs at an interface: XDP means in front of TC, which it leaves the rest to. */
const HOOK_CHOICES = ['auto', 'xdp', 'xdp-generic', 'tc'] as const;
export type HookChoice = (typeof HOOK_CHOICES)[number];

/** A private address space and the interface that leads to its devices. */
interface Realm {
  readonly realm: RealmName;
  readonly interface: string;
  readonly hook: HookChoice;
  readonly prefixes: readonly Prefix[];
  readonly nextHops: NextHops;
  /** The outside knows its devices by their own addresses: neither grants nor what devices begin is translated. */
  readonly nat?: 'none';
  /** What a NAS calls it; matching: directory/apns.ts. */
  readonly apns: readonly Apn[];
}

/** A NAS that tells by RADIUS who holds which address. */
interface RadiusClientEntry {
  readonly name: string;
  /** Where its requests come from. */
  readonly addresses: readonly Prefix[];
  /** A path, or credential:NAME. */
  readonly secret: string;
  /** What it may bind; it lies within the realms. */
  readonly pools: readonly Prefix[];
}

interface ClientCa {
  /** What rule files call it as `issuer`. */
  readonly name: string;
  readonly file: string;
  /** Its revocation lists; without, nothing of this CA is ever revoked. */
  readonly crl?: string;
}

export interface Config {
  /** Names this gateway in every record. */
  readonly gateway: string;
  readonly outside: { readonly interface: string; readonly nextHops: NextHops; readonly hook: HookChoice };
  readonly pools: { readonly grants: Pool; readonly egress: readonly Prefix[] };
  readonly inside: readonly Realm[];
  readonly services: readonly Service[];
  readonly api: {
    readonly listen: Endpoint;
    readonly certificate: string;
    /** A path, or credential:NAME. */
    readonly key: string;
    readonly clientCAs: readonly ClientCa[];
    readonly minimumTls: '1.2' | '1.3';
  };
  /** Without, bindings come from the devices file and the management socket alone. */
  readonly radius?: {
    readonly listen: readonly Endpoint[];
    readonly clients: readonly RadiusClientEntry[];
    /** A session of which nothing is heard for so long is over; absent: it may go on for ever. */
    readonly staleMinutes?: number;
  };
  readonly reports: {
    /** The Ed25519 key that pushes are signed with: a path, or credential:NAME. Without, nothing is pushed. */
    readonly signingKey?: string;
    /** What rule files call as `ca` of a sink; one without is verified by the public CAs. */
    readonly sinkCAs: readonly { readonly name: string; readonly file: string }[];
    /** Who is asked for the addresses of sinks; absent: the resolvers of the host. */
    readonly resolvers?: readonly Endpoint[];
    /** Where nothing is sent to, beside what is not public and what is the gateway's own. */
    readonly deniedDestinations: readonly Prefix[];
    /** What waits for one sink; of more the oldest is given up. */
    readonly eventsPerSink: number;
    /** An event that could not be delivered for so long is given up. */
    readonly keepHours: number;
    /** What comes again and again is told at most so often. */
    readonly everySeconds: number;
    /** A server is told so long before a grant ends; 0: it is not. */
    readonly endWarningSeconds: number;
  };
  /** Without, no device is triggered, and no port of one is a trigger port. */
  readonly triggers?: TriggerPlan;
  readonly identities: {
    /** Whether databases and log hold IMSI and MSISDN as they are; else what stands for them (core/identities.ts). */
    readonly keep: boolean;
    /** The key by which they are hashed: a path, or credential:NAME. Without, the agent makes one in the store's directory. */
    readonly key?: string;
  };
  readonly management: { readonly socket: string };
  readonly metrics: { readonly listen: Endpoint };
  readonly store: { readonly directory: string };
  readonly natRecord: {
    /** Who had which public endpoint is known for so long, where that fits into so much. */
    readonly keepDays: number;
    readonly keepMebibytes: number;
    /** Told of each mapping, by syslog (RFC 5424). */
    readonly syslog?: { readonly collector: Endpoint; readonly transport: 'udp' | 'tcp' };
  };
  /** The folder of the rule files, and whether what lies there is put in force at start and reload, without an `apply`. */
  readonly rules: { readonly folder: string; readonly autoApply: boolean };
  /** The devices file. */
  readonly devices?: string;
  readonly gate: {
    readonly bpffs: string;
    readonly attach: 'auto' | 'tcx' | 'clsact';
    /** The most that the pool may take in the kernel; `check` says what it takes. The agent maps at most 4 GiB. */
    readonly memoryMebibytes: number;
    readonly sampledDenialsPerSecond: number;
    readonly orphanGraceSeconds: number;
    readonly udpTombstoneSeconds: number;
    /** Devices speak only from addresses that are bound. */
    readonly onlyBound: boolean;
    readonly normalise: Normalisation;
  };
  readonly base: {
    readonly nflogGroup: number;
    readonly deniedDestinations: readonly Prefix[];
    /** Flows that a device may have at once; each takes an external port. */
    readonly flowsPerDevice: number;
  };
}

const networkInterface = f.field('the name of a network interface', (text) =>
  /^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/.test(text) ? text : undefined,
);
const listen = f.field('one address of this host and a port, such as 192.0.2.10:8443', listenable);
const apn = f.field('an APN or DNN such as iot.example or iot.example.mnc001.mcc262.gprs', parseApn);
const heard = f.field('one address of this host and a port, such as 192.0.2.10:1813', listenable);
const resolver = f.field('the address of a resolver and its port, such as 192.0.2.53:53', listenable);
const collector = f.field('the address of a syslog collector and its port, such as 192.0.2.60:514', listenable);
const loopback = f.field('a loopback address and a port, such as 127.0.0.1:9464', (text) => {
  const endpoint = listenable(text);
  return endpoint && LOOPBACK.some((prefix) => contains(prefix, endpoint.address)) ? endpoint : undefined;
});
const service = f.field('tcp/PORT, udp/PORT, icmp or icmpv6', (text): Service | undefined => {
  if (text === 'icmp' || text === 'icmpv6') return { protocol: text, port: 0 };
  const [, protocol, port] = /^(\w+)\/(\d+)$/.exec(text) ?? [];
  const [read, number] = [f.protocol.safeParse(protocol).data, f.port.safeParse(port).data];
  return read && number ? { protocol: read, port: number } : undefined;
});

/** So much room a trigger's message has for it (RFC 7252, 4.6: 1,152 bytes, of which 1,024 are payload). */
const COAP_PATH_MOST = 64;
const coapPath = f.field(`a path of at most ${COAP_PATH_MOST} letters such as trigger or mtc/trigger`, (text) =>
  text.length <= COAP_PATH_MOST && /^[\w.~-]+(\/[\w.~-]+)*$/.test(text) ? text.split('/') : undefined,
);

const yesOrNo = (otherwise: 'true' | 'false') =>
  f
    .choice('true', 'false')
    .default(otherwise)
    .transform((word) => word === 'true');

/** The file, key by key; paths are read from the folder it lies in. */
function agentFile(folder: string) {
  const inFolder = (path: string) => (posix.isAbsolute(path) ? path : posix.join(folder, path));
  const isPath = (text: string) => text !== '' && !text.startsWith(CREDENTIAL);
  const path = f.field('a path', (text) => (isPath(text) ? inFolder(text) : undefined));
  const secret = f.field('a path, or credential:NAME', (text) => {
    if (isPath(text)) return inFolder(text);
    return /^credential:[\w.-]+$/.test(text) ? text : undefined;
  });
  const nextHops = f.mapping({ ipv4: hop('ipv4').exactOptional(), ipv6: hop('ipv6').exactOptional() }).default({});
  const prefixes = f.list(f.prefix, 'prefixes');
  const hook = f.choice(...HOOK_CHOICES).default('auto');
  const poolPrefixes = f.list(f.prefix, 'prefixes', 0); // none: core/address-plan.ts says when
  return f.mapping({
    gateway: f.name(),
    outside: f.mapping({ interface: networkInterface, nextHops, hook }),
    pools: f.mapping({
      grants: f.mapping({
        prefixes: poolPrefixes,
        ports: f.ports.default({ low: 1024, high: 65535 }),
        keyedGrants: f.integer(1, 2 ** 24).default(65536),
      }),
      egress: f.mapping({ prefixes: poolPrefixes }),
    }),
    inside: f.list(
      f.mapping({
        realm: f.name<RealmName>(),
        interface: networkInterface,
        prefixes,
        nextHops,
        hook,
        nat: f.choice('none').exactOptional(),
        apns: f.list(apn, 'APNs').default([]),
      }),
      'realms',
    ),
    services: f
      .list(service, 'services', 0)
      .max(SERVICES, { error: `expected at most ${SERVICES} services` })
      .default([]),
    api: f.mapping({
      listen,
      certificate: path,
      key: secret,
      clientCAs: f.list(f.mapping({ name: f.name(), file: path, crl: path.exactOptional() }), 'client CAs'),
      minimumTls: f.choice('1.2', '1.3').default('1.3'),
    }),
    radius: f
      .mapping({
        listen: f.list(heard, 'addresses and ports'),
        staleMinutes: f.integer(1, 10_080).exactOptional(),
        clients: f.list(
          f.mapping({ name: f.name(), addresses: prefixes, secret, pools: prefixes.exactOptional() }),
          'clients',
        ),
      })
      .exactOptional(),
    reports: f
      .mapping({
        signingKey: secret.exactOptional(),
        sinkCAs: f.list(f.mapping({ name: f.name(), file: path }), 'CAs', 0).default([]),
        resolvers: f.list(resolver, 'addresses and ports').exactOptional(),
        deniedDestinations: f.list(f.prefix, 'prefixes', 0).default([]),
        eventsPerSink: f.integer(100, 1_000_000).default(10_000),
        keepHours: f.integer(1, 720).default(72),
        everySeconds: f.integer(1, 3600).default(60),
        endWarningSeconds: f.integer(0, 86_400).default(60),
      })
      .prefault({}),
    triggers: f
      .mapping({
        sources: f.list(f.address, 'addresses'),
        sourcePort: f.port.default(5683),
        ports: f.list(f.ports, 'ports'),
        coapPorts: f.list(f.ports, 'ports', 0).exactOptional(),
        coapPath: coapPath.prefault('trigger'),
      })
      .exactOptional(),
    identities: f.mapping({ keep: yesOrNo('false'), key: secret.exactOptional() }).prefault({}),
    management: f.mapping({ socket: path.default('/run/mtgate/mtgate.sock') }).prefault({}),
    metrics: f.mapping({ listen: loopback.prefault('127.0.0.1:9464') }).prefault({}),
    store: f.mapping({ directory: path.default('/var/lib/mtgate') }).prefault({}),
    natRecord: f
      .mapping({
        keepDays: f.integer(1, 3_650).default(30),
        keepMebibytes: f.integer(16, 1_048_576).default(4_096),
        syslog: f.mapping({ collector, transport: f.choice('udp', 'tcp').default('udp') }).exactOptional(),
      })
      .prefault({}),
    rules: f
      .shortFor(
        'folder',
        f.mapping({
          folder: path.default(inFolder('rules')),
          autoApply: yesOrNo('false'),
        }),
      )
      .prefault({}),
    devices: path.exactOptional(),
    gate: f
      .mapping({
        bpffs: path.default('/sys/fs/bpf/mtgate'),
        attach: f.choice('auto', 'tcx', 'clsact').default('auto'),
        memoryMebibytes: f.integer(1, 4096).default(4096),
        sampledDenialsPerSecond: f.integer(0, 100_000).default(500),
        orphanGraceSeconds: f.integer(10, 86_400).default(300),
        udpTombstoneSeconds: f.integer(1, 120).default(30),
        onlyBound: yesOrNo('true'),
        normalise: f
          .mapping({
            hopLimit: f.integer(0, 254).default(64), // one more where the stack is to cut a packet
            identification: yesOrNo('true'),
            flowLabel: yesOrNo('true'),
            trafficClass: yesOrNo('true'),
            timestamps: yesOrNo('true'),
            mss: yesOrNo('true'),
          })
          .prefault({}),
      })
      .prefault({}),
    base: f
      .mapping({
        nflogGroup: f.integer(1, 65535).default(100),
        deniedDestinations: f.list(f.prefix, 'prefixes', 0).default(NOT_PUBLIC),
        flowsPerDevice: f.integer(1, 64_512).default(1_000),
      })
      .prefault({}),
  });
}
type Written = z.output<ReturnType<typeof agentFile>>;

/** Reads agent.yaml: a Config with what is doubtful in it, or every issue. */
export function readConfig(
  text: string,
  file: string,
): { readonly config: Config; readonly warnings: readonly Issue[] } | { readonly issues: readonly Issue[] } {
  const reading = readDocument(text, file, agentFile(posix.dirname(file)));
  if ('issues' in reading) return reading;
  const { document } = reading;
  const { value } = document;
  const issues = [
    ...planIssues(document),
    ...clashesAmong(claimsOf(document)),
    ...clientPoolIssues(document),
    ...triggerIssues(document, SERVICES),
  ].sort(byPlace);
  if (issues.length > 0) return { issues };
  const pools = { grants: poolOf(value), egress: value.pools.egress.prefixes };
  const { radius, triggers, ...rest } = value;
  const config = {
    ...{ ...rest, pools },
    ...(radius && { radius: { ...radius, clients: withPools(value) } }),
    ...(triggers && { triggers: { coapPorts: triggers.ports, ...triggers } }),
  };
  const warnings = [...planWarnings(document), ...apnWarnings(document), ...triggerWarnings(document)];
  return { config: frozen(config), warnings: warnings.sort(byPlace) };
}

/** The address spaces that are the gateway's own: no server's packets come from there. */
export function ownSpaces(config: Config): readonly Owned[] {
  const { grants, egress } = config.pools;
  return [
    ...[...grants.ipv4, ...grants.ipv6].map((prefix) => ({ prefix, owner: 'the grants pool of agent.yaml' })),
    ...egress.map((prefix) => ({ prefix, owner: 'the egress pool of agent.yaml' })),
    ...config.inside.flatMap(({ realm, prefixes }) =>
      prefixes.map((prefix) => ({ prefix, owner: `realm ${realm} of agent.yaml` })),
    ),
  ];
}

type AgentFile = Document<Written>;

function* claimsOf({ value, locate }: AgentFile): Generator<Claim> {
  const claim = (what: string, path: Path): Claim => ({ key: what, what, place: () => locate(path) });
  yield claim(`interface "${value.outside.interface}"`, ['outside', 'interface']);
  for (const [i, { realm, interface: link, apns }] of value.inside.entries()) {
    yield claim(`realm "${realm}"`, ['inside', i, 'realm']);
    yield claim(`interface "${link}"`, ['inside', i, 'interface']);
    for (const [j, apn] of apns.entries()) yield claim(`APN "${apn}"`, ['inside', i, 'apns', j]);
  }
  for (const [i, endpoint] of value.radius?.listen.entries() ?? [])
    yield claim(`address ${formatEndpoint(endpoint)}`, ['radius', 'listen', i]);
  for (const [i, { name }] of value.radius?.clients.entries() ?? [])
    yield claim(`RADIUS client "${name}"`, ['radius', 'clients', i, 'name']);
  for (const [i, { name }] of value.api.clientCAs.entries())
    yield claim(`client CA "${name}"`, ['api', 'clientCAs', i, 'name']);
  for (const [i, { name }] of value.reports.sinkCAs.entries())
    yield claim(`CA "${name}"`, ['reports', 'sinkCAs', i, 'name']);
  for (const [i, { protocol, port }] of value.services.entries()) {
    yield claim(`service ${port ? `${protocol}/${port}` : protocol}`, ['services', i]);
  }
}

function hop(family: Family) {
  const expected = `an ${family} address`;
  return f.field(expected, (text) => [parseAddress(text)].find((host) => host?.family === family));
}

/** Never the unspecified address: the API must not be offered to devices by oversight. */
function listenable(text: string): Endpoint | undefined {
  const endpoint = parseEndpoint(text);
  return endpoint && endpoint.port > 0 && !['0.0.0.0', '::'].includes(endpoint.address.text) ? endpoint : undefined;
}

/** What devices may say to the gateway: the services, and, to be looked at by the base, answers to triggers. */
export function servicesOf({ services, triggers }: Pick<Config, 'services' | 'triggers'>): readonly Service[] {
  return triggers ? [...services, { protocol: 'udp', port: triggers.sourcePort }] : services;
}
