/**
 * From the gate's object file to loaded programs, and maps that fit the
 * configuration.
 *
 * The maps outlive the agent: load() takes over those that an earlier one
 * left in the same folder, but brings up to date what follows from the
 * configuration alone. The folder is named after all that gives an index its
 * meaning, the schema of gate.h and the grants pool; with another schema or
 * another pool the gate starts on fresh maps, and the old folders stay until
 * the new gate hangs in the old one's place.
 *
 *   <bpffs>/v2-0123456789ab/MAP
 */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmdirSync, statfsSync, unlinkSync } from 'node:fs';
import { release } from 'node:os';
import { dirname, join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { contains, hostPrefix, prefix } from '../core/net.ts';
import { entryCount, ipv6Endpoints, type Pool } from '../core/pool.ts';
import type { Programs } from './attachment.ts';
import { type BpfMap, BpfObject, type Mapped, possibleCpus } from './bpf.ts';
import type { GateSetup } from './dataplane.ts';
import { bucketsFor, EntryTable } from './entry-table.ts';
import { ENTRY, GATE_SCHEMA, LAYOUT, OWNERS } from './layout.ts';
import {
  answerKeyOf,
  configBytes,
  endpointKeyOf,
  insideBytes,
  ownerBytes,
  prefixKey,
  routeBytes,
  u32,
} from './map-values.ts';
import { pin } from './tc.ts';

const OLDEST_KERNEL = [6, 1] as const;
const BPFFS_MAGIC = 0xcafe4a11;
/** How much of the verifier's text an operator is shown: what it stumbled over stands last. */
const LOG_TAIL = 2000;

/** All maps that the next program goes on with: what a packet has to do with no other, or the configuration says, is not among them. */
const PINNED = [
  'entries',
  'state',
  'endpoints',
  'answers',
  'classes',
  'owned',
  'admissions',
  'bound',
  'changing',
  'counters',
  'used_up',
  'fragments',
] as const;

/** In the tries an IPv6 prefix such as ::/0 holds the mapped form of all IPv4 too, but for this entry, which means none. */
export const ALL_IPV4 = prefix('0.0.0.0/0');
export const NONE = 0;
const LINK_LOCAL = prefix('fe80::/10');
const SECOND_NS = 1_000_000_000n;

/** Words of struct gate_state. */
export const STATE = Object.fromEntries(
  Object.entries(LAYOUT.gate_state.fields).map(([field, offset]) => [field, offset / 8]),
) as Readonly<Record<keyof typeof LAYOUT.gate_state.fields, number>>;

/** The gate in the kernel, within this process's reach. */
export interface Loaded {
  readonly programs: Programs;
  readonly maps: ReturnType<typeof mapsOf>;
  /** From what packets show to the entry of their grant. */
  readonly endpoints: EntryTable;
  readonly answers: EntryTable;
  /** The entries, as bytes and as words. */
  readonly bytes: Uint8Array;
  readonly words: BigUint64Array;
  readonly state: BigUint64Array;
  /** Pins what is not pinned in that folder; returns how many maps that were. */
  pinTo(folder: string): number;
  /** Nothing of this may be touched after it. */
  close(): void;
}

/** @throws AgentError kernelTooOld, libraryMissing, bpffsMissing, gateNotLoaded */
export function load(file: string, bpffs: string, setup: GateSetup): Loaded {
  const object = loadObject(file, bpffs, setup);
  const releases: (() => void)[] = [];
  const close = () => {
    for (const release of releases) release();
    object.close();
  };
  try {
    const loaded = withinReach(object, setup, (mapped) => releases.push(() => mapped.release()), close);
    settle(loaded, setup);
    return loaded;
  } catch (cause) {
    close(); // it is tried again each second
    throw cause;
  }
}

function withinReach(
  object: BpfObject,
  { pool }: GateSetup,
  held: (mapped: Mapped) => void,
  close: () => void,
): Loaded {
  const mapped = (name: string, length: number) => {
    const made = object.mapped(name, length);
    held(made);
    return made.memory;
  };
  const entries = mapped('entries', entryCount(pool) * LAYOUT.gate_entry.size);
  const state = new BigUint64Array(mapped('state', LAYOUT.gate_state.size));
  const table = (name: string, keys: number) => mapped(name, bucketsFor(keys) * LAYOUT.gate_bucket.size);
  const endpoints = table('endpoints', ipv6Endpoints(pool));
  const answers = table('answers', entryCount(pool));
  const [bytes, words] = [new Uint8Array(entries), new BigUint64Array(entries)];
  // What is in the tables was put there by the seed that stands beside them.
  if (state[STATE.seed] === 0n) Atomics.store(state, STATE.seed, randomBytes(8).readBigUInt64LE() | 1n);
  const seed = Atomics.load(state, STATE.seed);
  const keyAt = (keyOf: (entry: Uint8Array) => Uint8Array) => (index: number) => {
    const at = index * LAYOUT.gate_entry.size;
    const isEmpty = words[(at + ENTRY.number) / 8] === 0n;
    return isEmpty ? undefined : keyOf(bytes.subarray(at, at + LAYOUT.gate_entry.size));
  };
  return {
    programs: {
      outsideIngress: object.programFd('gate_outside_ingress'),
      outsideEgress: object.programFd('gate_outside_egress'),
      insideIngress: object.programFd('gate_inside_ingress'),
      insideIngressBare: object.programFd('gate_inside_ingress_bare'),
      insideEgress: object.programFd('gate_inside_egress'),
      insideEgressBare: object.programFd('gate_inside_egress_bare'),
      outsideXdp: object.programFd('gate_outside_xdp'),
      insideXdp: object.programFd('gate_inside_xdp'),
    },
    maps: mapsOf(object),
    endpoints: new EntryTable(endpoints, seed, keyAt(endpointKeyOf)),
    answers: new EntryTable(answers, seed, keyAt(answerKeyOf)),
    bytes,
    words,
    state,
    pinTo: (folder) => pinMissing(object, folder),
    close,
  };
}

/** Pins what is pinned there no more; how many that were. */
function pinMissing(object: BpfObject, folder: string): number {
  const missing = PINNED.filter((map) => !existsSync(join(folder, map)));
  if (missing.length === 0) return 0;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  for (const map of missing) pin(object.mapFd(map), join(folder, map));
  return missing.length;
}

function mapsOf(object: BpfObject) {
  const target = LAYOUT.gate_target.size;
  return {
    classes: object.map('classes', LAYOUT.gate_prefix.size, 4),
    owned: object.map('owned', LAYOUT.gate_prefix.size, 4),
    admissions: object.map('admissions', LAYOUT.gate_prefix.size, LAYOUT.gate_admissions.size),
    inside: object.map('inside', 4, LAYOUT.gate_inside.size),
    realms: object.map('realms', 4, LAYOUT.gate_route.size),
    bound: object.map('bound', LAYOUT.gate_inner.size, 1),
    changing: object.map('changing', LAYOUT.gate_inner.size, 1),
    counters: object.map('counters', 4, LAYOUT.gate_count.size * possibleCpus()),
    usedUp: object.map('used_up', 0, target),
  };
}

/**
 * Brings the maps up to date with the configuration, while another gate may
 * be at work on them: it adds before it removes, and leaves the heartbeat,
 * who is bound and what is changing hands alone.
 */
function settle({ maps, state }: Loaded, setup: GateSetup): void {
  Atomics.store(state, STATE.orphan_grace, BigInt(setup.orphanGraceSeconds) * SECOND_NS);
  Atomics.store(state, STATE.tombstone, BigInt(setup.udpTombstoneSeconds) * SECOND_NS);
  replace(maps.owned, ownedPrefixes(setup));
  const allIpv4 = prefixKey(ALL_IPV4);
  if (!maps.classes.lookup(allIpv4)) maps.classes.update(allIpv4, u32(NONE));
  const there = setup.inside.flatMap((one) => (one.ifindex === undefined ? [] : { ...one, ifindex: one.ifindex }));
  for (const one of there) {
    maps.realms.update(u32(one.realm), routeBytes(one));
    maps.inside.update(u32(one.ifindex), insideBytes(one));
  }
  Atomics.add(state, STATE.classes_changed, 1n);
}

/** Addresses that were changing hands when an earlier agent died are heard again; their grants ended before that. */
export function hearAll({ maps, state }: Loaded): void {
  replace(maps.changing, []);
  Atomics.store(state, STATE.changing, 0n);
}

type Pair = readonly [key: Uint8Array, value: Uint8Array];

function replace(map: BpfMap, wanted: readonly Pair[]): void {
  for (const [key, value] of wanted) map.update(key, value);
  for (const key of map.keys()) if (!wanted.some(([one]) => Buffer.compare(one, key) === 0)) map.remove(key);
}

/** Link-local addresses are no one's: each link has its own, and the gate knows them by their prefix. */
function ownedPrefixes({ inside, own }: GateSetup): readonly Pair[] {
  const realms = inside.flatMap(({ prefixes, realm, translated }) =>
    prefixes.map((one): Pair => [prefixKey(one), ownerBytes(translated ? OWNERS.realm : OWNERS.seen, realm)]),
  );
  const host = own
    .filter(({ address }) => !contains(LINK_LOCAL, address))
    .map(
      ({ address, on }): Pair => [
        prefixKey(hostPrefix(address)),
        ownerBytes(on === 'inside' ? OWNERS.gateway : OWNERS.host),
      ],
    );
  return [[prefixKey(ALL_IPV4), u32(NONE)], ...realms, ...host];
}

function loadObject(file: string, bpffs: string, setup: GateSetup): BpfObject {
  prepare(bpffs);
  const object = open(file);
  try {
    const folder = folderOf(bpffs, setup.pool);
    if (!existsSync(folder)) mkdirSync(folder, { mode: 0o700 });
    for (const map of PINNED) object.setPinPath(map, join(folder, map));
    object.setMaxEntries('entries', entryCount(setup.pool));
    object.setMaxEntries('answers', bucketsFor(entryCount(setup.pool)));
    object.setMaxEntries('endpoints', bucketsFor(ipv6Endpoints(setup.pool)));
    object.setConstants('.rodata', configBytes(setup));
    object.load();
    return object;
  } catch (cause) {
    const log = object.verifierLog().trimEnd().slice(-LOG_TAIL);
    object.close();
    throw new AgentError('gateNotLoaded', `${file}: ${log || String(cause)}`, { cause });
  }
}

/** Makes the folder of the gate where there is none: it can be locked before anything in it is touched. */
export function prepare(bpffs: string): void {
  requireKernel(release());
  requireBpffs(bpffs);
  if (!existsSync(bpffs)) mkdirSync(bpffs, { mode: 0o700 });
}

/** Removes the maps of other schemas and pools. The gate that used them must be gone. */
export function removeOtherFolders(bpffs: string, pool: Pool): void {
  for (const name of readdirSync(bpffs)) {
    const path = join(bpffs, name);
    if (!/^v\d+-/.test(name) || path === folderOf(bpffs, pool)) continue;
    for (const map of readdirSync(path)) unlinkSync(join(path, map));
    rmdirSync(path);
  }
}

/** Where the maps of a pool are pinned. */
export function folderOf(bpffs: string, { ipv4, ipv6, portLow, portCount, keyedGrants }: Pool): string {
  const prefixes = [...ipv4, ...ipv6].map((prefix) => prefix.text);
  const geometry = JSON.stringify({ prefixes, portLow, portCount, keyedGrants });
  return join(bpffs, `v${GATE_SCHEMA}-${createHash('sha256').update(geometry).digest('hex').slice(0, 12)}`);
}

function open(file: string): BpfObject {
  try {
    return new BpfObject(file);
  } catch (cause) {
    if (cause instanceof AgentError && cause.code === 'libraryMissing') throw cause;
    throw new AgentError('gateNotLoaded', `${file} cannot be read as a BPF object`, { cause });
  }
}

export function requireKernel(version: string): void {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [oldestMajor, oldestMinor] = OLDEST_KERNEL;
  if (major < oldestMajor || (major === oldestMajor && minor < oldestMinor))
    throw new AgentError('kernelTooOld', `this is Linux ${version}`);
}

/** Looked at before anything is made there: below a missing mount Node would try for ever. */
function requireBpffs(path: string): void {
  const mount = existsSync(path) ? path : dirname(path);
  if (!existsSync(mount) || statfsSync(mount).type !== BPFFS_MAGIC)
    throw new AgentError('bpffsMissing', `${mount} is no BPF file system`);
}
