/**
 * What a million registered devices cost: an import of them by the command
 * into the real daemon, a second one that changes nothing, an export; then a
 * start with them and 300,000 bindings, and how fast one is found.
 */

import { createWriteStream, statSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { address } from '../../agent/core/net.ts';
import type { ExternalId, Msisdn, RealmName } from '../../agent/core/words.ts';
import { type Binding, rangeOf } from '../../agent/directory/binding.ts';
import { openRegistry } from '../../agent/directory/registry-store.ts';
import { openStore } from '../../agent/grants/store.ts';
import { TestAgent } from '../agent.ts';
import { ROOT } from '../child.ts';
import { IDENTITIES } from '../identities.ts';
import { standardNetwork } from '../standard-network.ts';
import { table } from './figures.ts';
import { peakMebibytes } from './process-usage.ts';
import { holdsOf, longestHold, reading, type StartReading, start as startAgent } from './scale.ts';

const DEVICES = 1_000_000;
const BINDINGS = 300_000;
const SLICE = 10_000;
const LOOKED_UP = 100_000;

interface Transfer {
  readonly what: string;
  readonly seconds: number;
  readonly loopHeldMs: number;
  readonly peakMebibytes: number;
}

export interface RegistryResults {
  readonly rowsMegabytes: number;
  readonly databaseMegabytes: number;
  readonly transfers: readonly Transfer[];
  readonly start: StartReading;
  readonly lookUpMicroseconds: { readonly found: number; readonly notFound: number };
}

const name = (i: number) => `d${i}@meters.example` as ExternalId;

function* rows(): Generator<string> {
  yield 'externalId,msisdn,imsi,attributes.model,attributes.region\n';
  for (let i = 0; i < DEVICES; i++) {
    const number = String(i).padStart(9, '0');
    yield `${name(i)},+4917${number},00101${number}0,M${i % 7},region-${i % 50}\n`;
  }
}

export async function measureRegistry(progress: (what: string) => void): Promise<RegistryResults> {
  const network = standardNetwork();
  try {
    const agent = new TestAgent(network);
    const file = join(agent.folder, 'devices.csv');
    await pipeline(Readable.from(rows()), createWriteStream(file));
    const daemon = await startAgent(agent);
    const transfers: Transfer[] = [];
    for (const [what, ...words] of [
      ['import', 'import', file],
      ['the same again', 'import', file, '--replace'],
      ['export', 'export', '--output', join(agent.folder, 'export.csv')],
    ] as const) {
      progress(`registry: ${what}`);
      const [from, fromMs] = [performance.now(), Date.now()];
      const { status, stderr } = await agent.mtgate('device', ...words);
      if (status !== 0) throw new Error(stderr);
      const seconds = (performance.now() - from) / 1_000;
      const loopHeldMs = longestHold(await holdsOf(daemon), fromMs, Date.now());
      transfers.push({ what, seconds, loopHeldMs, peakMebibytes: peakMebibytes(daemon.pid) });
    }
    await daemon.stop();

    progress(`registry: ${BINDINGS} bindings, and a start`);
    const folder = join(agent.folder, 'store');
    const store = openStore(
      join(folder, 'mtgate.db'),
      IDENTITIES,
      new URL(`file://${ROOT}dist/grants/store-worker.js`),
    );
    for (let from = 0; from < BINDINGS; from += SLICE) {
      const gains = Array.from({ length: SLICE }, (_, i) => bindingOf(from + i));
      await store.rebind({ losses: [], gains }, [], Date.now());
    }
    await store.close();
    const again = await startAgent(agent);
    const start = await reading(again);
    await again.stop();
    const databaseMegabytes = statSync(join(folder, 'registry.db')).size / 1e6;
    const lookUpMicroseconds = lookUp(join(folder, 'registry.db'));
    return { rowsMegabytes: statSync(file).size / 1e6, databaseMegabytes, transfers, start, lookUpMicroseconds };
  } finally {
    await network.close();
  }
}

/** Beside the addresses of the devices file; the realm of the network has 65,536 of IPv4, so IPv6. */
function bindingOf(i: number): Binding {
  const held = address(`fd00:20::${(i >> 16) + 1}:${(i & 0xffff).toString(16)}`);
  const range = rangeOf('iot' as RealmName, held);
  return { ...range, holder: name(i * 3), target: held, source: 'accounting', sinceMs: Date.now() };
}

/** By MSISDN, which takes two searches, in no order. */
function lookUp(file: string): RegistryResults['lookUpMicroseconds'] {
  const registry = openRegistry(file, IDENTITIES);
  const each = (prefix: string) => {
    const from = performance.now();
    for (let i = 0; i < LOOKED_UP; i++) {
      const number = String((i * 7_919) % DEVICES).padStart(9, '0');
      registry.byMsisdn(`${prefix}${number}` as Msisdn);
    }
    return ((performance.now() - from) * 1_000) / LOOKED_UP;
  };
  each('4917');
  const found = { found: each('4917'), notFound: each('4918') };
  registry.close();
  return found;
}

export function showRegistry({
  rowsMegabytes,
  databaseMegabytes,
  transfers,
  start,
  lookUpMicroseconds,
}: RegistryResults) {
  const head = [`${DEVICES} devices (${rowsMegabytes.toFixed()} MB of CSV)`, 'seconds', 'loop held ms', 'peak RSS MiB'];
  const lines = transfers.map(({ what, seconds, loopHeldMs, peakMebibytes: peak }) => [
    what,
    seconds.toFixed(1),
    loopHeldMs.toFixed(),
    peak.toFixed(),
  ]);
  const { found, notFound } = lookUpMicroseconds;
  return [
    table(head, lines),
    `registry.db: ${databaseMegabytes.toFixed()} MB; found by MSISDN in ${found.toFixed(1)} us, not found in ${notFound.toFixed(1)} us`,
    `a start with them and ${BINDINGS} bindings: ${start.startSeconds.toFixed(1)} s, ` +
      `CPU ${start.startCpuSeconds.toFixed(1)} s, then ${start.residentMebibytes.toFixed()} MiB`,
  ].join('\n');
}
