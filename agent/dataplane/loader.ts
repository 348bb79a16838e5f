/**
 * From the gate's object file to loaded programs and pinned maps.
 *
 * The maps outlive the agent: load() takes over those that an earlier one
 * left in the same folder. The folder is named after all that gives an index
 * its meaning, the schema of gate.h and the grants pool; with another schema
 * or another pool the gate starts on fresh maps, and the old folders stay
 * until the new gate hangs in the old one's place.
 *
 *   <bpffs>/v1-0123456789ab/MAP
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmdirSync, statfsSync, unlinkSync } from 'node:fs';
import { release } from 'node:os';
import { dirname, join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { entryCount, type Pool } from '../core/pool.ts';
import { BpfObject } from './bpf.ts';
import type { GateSetup } from './dataplane.ts';
import { configBytes, GATE_SCHEMA } from './layout.ts';

const OLDEST_KERNEL = [6, 1] as const;
const BPFFS_MAGIC = 0xcafe4a11;
/** How much of the verifier's text an operator is shown: what it stumbled over stands last. */
const LOG_TAIL = 2000;

/** All maps but .rodata, which belongs to its program. */
const PINNED = [
  'entries',
  'state',
  'ipv6_endpoints',
  'answers',
  'classes',
  'owned',
  'inside',
  'realms',
  'changing',
  'counters',
] as const;

/** @throws AgentError kernelTooOld, libraryMissing, bpffsMissing, gateNotLoaded */
export function load(file: string, bpffs: string, setup: GateSetup): BpfObject {
  requireKernel(release());
  const object = open(file);
  try {
    requireBpffs(bpffs);
    const folder = folderOf(bpffs, setup.pool);
    for (const path of [bpffs, folder]) if (!existsSync(path)) mkdirSync(path, { mode: 0o700 });
    for (const map of PINNED) object.setPinPath(map, join(folder, map));
    object.setMaxEntries('entries', entryCount(setup.pool));
    object.setMaxEntries('answers', entryCount(setup.pool));
    object.setMaxEntries('ipv6_endpoints', Math.max(1, setup.pool.ipv6Grants));
    object.setConstants('.rodata', configBytes(setup));
    object.load();
    return object;
  } catch (cause) {
    const log = object.verifierLog().trimEnd().slice(-LOG_TAIL);
    object.close();
    if (cause instanceof AgentError && cause.code === 'bpffsMissing') throw cause;
    throw new AgentError('gateNotLoaded', `${file}: ${log || String(cause)}`, { cause });
  }
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

function folderOf(bpffs: string, { ipv4, ipv6, portLow, portCount, ipv6Grants }: Pool): string {
  const prefixes = [...ipv4, ...ipv6].map((prefix) => prefix.text);
  const geometry = JSON.stringify({ prefixes, portLow, portCount, ipv6Grants });
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

function requireKernel(version: string): void {
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
