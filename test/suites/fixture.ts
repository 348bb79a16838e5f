/**
 * What both data planes are tested on: one set-up, one set of grants with a
 * place for each case. Ends and heartbeats lie well away from now, so that
 * nothing here depends on how fast it runs: the kernel's clock cannot be held
 * still. Nor far in the past, since that clock begins when the machine does.
 */
import { type Address, address, parseEndpoint, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { Normalisation, PacketLimits, Protocol } from '../../agent/core/words.ts';
import type { GateSetup, JudgingDataplane, Mapping, Verdict } from '../../agent/dataplane/dataplane.ts';

export interface Interfaces {
  readonly outside: number;
  readonly inside: number;
  readonly secondInside: number;
  /** One that the set-up does not name. */
  readonly other: number;
}

/** A data plane to be tested, new and empty. */
export interface Rig {
  readonly plane: JudgingDataplane;
  readonly interfaces: Interfaces;
  close(): void | Promise<void>;
}
export type MakeRig = (setupOf: (interfaces: Interfaces) => GateSetup) => Rig | Promise<Rig>;

export const REALM = 1;
export const SECOND_REALM = 2;
export const CLASS = 7;
export const OTHER_CLASS = 8;
export const SERVER_PREFIXES: readonly (readonly [string, number])[] = [
  ['198.51.100.0/24', CLASS],
  ['2001:db8:51::/48', CLASS],
  // Within the first, another server's: the longest prefix decides.
  ['198.51.100.128/25', OTHER_CLASS],
  ['2001:db8:51:8000::/49', OTHER_CLASS],
];

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/29'), prefix('203.0.113.32/31')],
  ipv6: [prefix('2001:db8:a::/64'), prefix('2001:db8:b:1000::/52'), prefix('2001:db8:c::40/122')],
  portLow: 40_000,
  portCount: 64,
  keyedGrants: 32,
};
/** The first index of the IPv6 grants. */
const IPV6_INDEX = ipv4Entries(POOL);

/** The way it is where nothing is said. */
export const NORMALISE: Normalisation = {
  hopLimit: 64,
  identification: true,
  flowLabel: true,
  trafficClass: true,
  timestamps: true,
  mss: true,
};
export const IDENTIFICATION_KEY = 0x0123_4567_89ab_cdefn;

/** What a gate is loaded with where the test is about something else. */
export const USUAL = {
  services: [],
  orphanGraceSeconds: 300,
  udpTombstoneSeconds: 30,
  onlyBound: true,
  normalise: NORMALISE,
  identificationKey: IDENTIFICATION_KEY,
} as const satisfies Partial<GateSetup>;

export function setupOf(interfaces: Interfaces): GateSetup {
  return {
    pool: POOL,
    outside: { ifindex: interfaces.outside, nextHops: { ipv4: address('192.0.2.1') } },
    inside: [
      {
        ifindex: interfaces.inside,
        realm: REALM,
        prefixes: [prefix('10.20.0.0/16'), prefix('fd00:20::/48')],
        nextHops: { ipv6: address('fd00:20::9') },
        translated: true,
      },
      {
        ifindex: interfaces.secondInside,
        realm: SECOND_REALM,
        prefixes: [prefix('10.30.0.0/16'), prefix('fd00:30::/48')],
        nextHops: { ipv4: address('10.30.0.9') },
        translated: true,
      },
    ],
    own: [
      { address: address('10.20.0.1'), on: 'inside' },
      { address: address('fd00:20::1'), on: 'inside' },
      { address: address('fe80::1'), on: 'inside' },
      { address: address('192.0.2.2'), on: 'elsewhere' },
      { address: address('2001:db8:0:1::2'), on: 'elsewhere' },
    ],
    services: [
      { protocol: 'udp', port: 53 },
      { protocol: 'tcp', port: 853 },
      { protocol: 'icmp', port: 0 },
      { protocol: 'icmpv6', port: 0 },
    ],
    orphanGraceSeconds: 30,
    udpTombstoneSeconds: 30,
    onlyBound: true,
    normalise: NORMALISE,
    identificationKey: IDENTIFICATION_KEY,
  };
}

export const SECOND = 1_000_000_000n;
export const HOUR = 3600n * SECOND;

/** CLOCK_MONOTONIC, as the kernel counts it. */
export function nowNs(): bigint {
  return process.hrtime.bigint();
}

interface MappingText {
  readonly external: string;
  readonly device: string;
  readonly protocol?: Protocol;
  readonly remote?: string;
  readonly remotePort?: number;
  readonly number?: number;
  readonly realm?: number;
  readonly classId?: number;
  readonly limits?: PacketLimits;
  /** For IPv6, and where nothing is translated: which of the indices. */
  readonly slot?: number;
}

/** A mapping from texts: `external` and `device` as `address:port`. */
export function mapping(text: MappingText): Mapping {
  const external = endpoint(text.external);
  const protocol = text.protocol ?? 'udp';
  const remote: Address | 'all' = text.remote === undefined || text.remote === 'all' ? 'all' : address(text.remote);
  const index =
    external.address.family === 'ipv4' && text.external !== text.device
      ? indexOfIpv4(POOL, protocol, external)
      : IPV6_INDEX + (text.slot ?? 0);
  if (index === undefined) throw new RangeError(`${text.external} is not in the pool`);
  return {
    index,
    number: text.number ?? 1,
    protocol,
    realm: text.realm ?? REALM,
    device: endpoint(text.device),
    external,
    remote,
    remotePort: text.remotePort ?? 0,
    classId: text.classId ?? CLASS,
    limits: text.limits ?? {},
  };
}

/** Who holds what: a device of a full address and one beside it in each family and realm, and each family's device of a prefix. */
export const HELD: readonly (readonly [realm: number, prefix: string])[] = [
  ...['10.20.0.2/32', '10.20.0.3/32', '10.20.7.0/24'].map((text) => [REALM, text] as const),
  ...['fd00:20::2/128', 'fd00:20::3/128', 'fd00:20:0:7::/64'].map((text) => [REALM, text] as const),
  ...['10.30.0.2/32', 'fd00:30::2/128'].map((text) => [SECOND_REALM, text] as const),
];

export function bindDevices(plane: JudgingDataplane): void {
  for (const [realm, text] of HELD) plane.bind(realm, prefix(text));
}

export function addClasses(plane: JudgingDataplane): void {
  for (const [text, classId] of SERVER_PREFIXES) plane.addClass(prefix(text), classId);
}

/** The server's address, of a grant's family. */
export function serverOf({ external }: Mapping): string {
  return external.address.family === 'ipv4' ? '198.51.100.10' : '2001:db8:51::10';
}

/** A verdict in one word: the reason where there is one. */
export function word(verdict: Verdict): string {
  return verdict.verdict === 'drop' ? verdict.reason : verdict.verdict;
}

function endpoint(text: string) {
  const parsed = parseEndpoint(text);
  if (!parsed) throw new RangeError(`"${text}" is no endpoint`);
  return parsed;
}
