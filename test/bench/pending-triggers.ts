/**
 * What 100,000 pending triggers cost a start: the real daemon without them,
 * then with them as after a reboot, then killed and started again in the same
 * boot; and that each start has all of them pending. They are written by the
 * store's own writer, for registered devices that have no address, so that
 * they wait.
 */
import { randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { address } from '../../agent/core/net.ts';
import type { CertificateId, ExternalId, MtcUserName, ServerName, TriggerId } from '../../agent/core/words.ts';
import { newUlid, systemClock } from '../../agent/host.ts';
import { openTriggerStore, type TriggerStore } from '../../agent/triggers/store.ts';
import { newTrigger } from '../../agent/triggers/trigger.ts';
import { RULES, TestAgent } from '../agent.ts';
import { type Child, ROOT } from '../child.ts';
import { IDENTITIES } from '../identities.ts';
import type { Network } from '../network.ts';
import { INNER_GATEWAY, SERVER, standardNetwork } from '../standard-network.ts';
import { table } from './figures.ts';
import { holdsOf, longestHold, reading, start } from './scale.ts';

const TRIGGERS = 100_000;
const EACH_DEVICE = 4;
const DEVICES = TRIGGERS / EACH_DEVICE;
/** So many are handed to the store at once. */
const WRITES = 2_000;
const VALIDITY_SECONDS = 86_400;
const PORT = 5_683;

const AGENT_TRIGGERS = `triggers: { sources: [${INNER_GATEWAY.ipv4}], ports: [${PORT}], coapPorts: [${PORT}] }\n`;
const TRIGGER_RULES = `${RULES}
triggers:
  - id: wake
    allow: { servers: [head-end], devices: ["*@meters.example"], ports: [${PORT}] }
    limits: { validitySeconds: ${VALIDITY_SECONDS}, payloadBytes: 64 }
`;
const STARTS = ['without', 'after a reboot', 'same boot, after kill -9'] as const;

interface PendingRow {
  readonly start: (typeof STARTS)[number];
  readonly pending: number;
  readonly startSeconds: number;
  readonly toWithout: number;
  readonly startCpuSeconds: number;
  /** At the worst, from the start of its process until it serves. */
  readonly loopHeldMs: number;
  readonly residentMebibytes: number;
}

export interface PendingResults {
  readonly rows: readonly PendingRow[];
  readonly databaseMegabytes: number;
}

const deviceOf = (i: number) => `d${i % DEVICES}@meters.example` as ExternalId;

export async function measurePendingTriggers(progress: (what: string) => void): Promise<PendingResults> {
  const network = standardNetwork();
  try {
    const listed = Array.from({ length: DEVICES }, (_, i) => `  - externalId: ${deviceOf(i)}`);
    const devices = `devices:\n${listed.join('\n')}\n`;
    const agent = new TestAgent(network, { rules: TRIGGER_RULES, devices, more: AGENT_TRIGGERS });
    const file = join(agent.folder, 'store/triggers.db');
    await (await start(agent)).stop(); // classes and realms have their numbers, the directory is recorded
    const rows: PendingRow[] = [];
    for (const name of STARTS) {
      if (name === 'after a reboot') {
        progress(`triggers: writing ${TRIGGERS}`);
        await written(file);
      }
      progress(`triggers: a start, ${name}`);
      const daemon = await start(agent);
      const { startSeconds, startCpuSeconds, residentMebibytes } = await reading(daemon);
      const pending = await pendingOf(network);
      if (pending !== (name === 'without' ? 0 : TRIGGERS)) throw new Error(`${name}: ${pending} triggers are pending`);
      const toWithout = startSeconds / (rows[0]?.startSeconds ?? startSeconds);
      const loopHeldMs = await heldAtStart(daemon);
      rows.push({ start: name, pending, startSeconds, toWithout, startCpuSeconds, loopHeldMs, residentMebibytes });
      await daemon.stop(name === 'after a reboot' ? 'SIGKILL' : 'SIGTERM');
    }
    return { rows, databaseMegabytes: statSync(file).size / 1e6 };
  } finally {
    await network.close();
  }
}

/** By the daemon's own metrics. */
async function pendingOf(network: Network): Promise<number> {
  const { stdout } = await network.run('gateway', ['curl', '--silent', 'http://127.0.0.1:9464/metrics']);
  return Number(/^mtgate_pending_triggers (\d+)$/m.exec(stdout)?.[1]);
}

async function heldAtStart(daemon: Child): Promise<number> {
  const { time } = JSON.parse(await daemon.line(/"event":"ready"/)) as { time: string };
  return longestHold(await holdsOf(daemon), 0, Date.parse(time));
}

async function written(file: string): Promise<void> {
  const store: TriggerStore = openTriggerStore(
    file,
    IDENTITIES,
    new URL(`file://${ROOT}dist/triggers/store-worker.js`),
  );
  const who = { name: 'head-end' as ServerName, certificate: 'mtc-ca:1' as CertificateId, correlator: randomUUID() };
  const asker = { ...who, role: 'server', requestAddress: address(SERVER.ipv4) } as const;
  for (let from = 0; from < TRIGGERS; from += WRITES) {
    const numbers = Array.from({ length: WRITES }, (_, i) => from + i);
    await Promise.all(numbers.map((i) => store.insert(trigger(i))));
  }
  await store.close();

  function trigger(i: number) {
    const to = deviceOf(i);
    return newTrigger(
      { id: newUlid() as TriggerId, gateway: 'gw-demo', bootId: 'the boot before' },
      asker,
      {
        device: { networkAccessIdentifier: to },
        port: PORT,
        isPriority: i % 10 === 0,
        payload: Buffer.from('read the meter'),
        validitySeconds: VALIDITY_SECONDS,
      },
      { to, mtcUser: 'acme' as MtcUserName, rule: 'wake', policyVersion: 'v1', validitySeconds: VALIDITY_SECONDS },
      systemClock,
    );
  }
}

export function showPendingTriggers({ rows, databaseMegabytes }: PendingResults): string {
  const head = ['a start', 'pending', 'seconds', 'to without', 'its CPU s', 'loop held ms', 'RSS MiB'];
  const lines = rows.map((row) => [
    row.start,
    String(row.pending),
    row.startSeconds.toFixed(1),
    row.toWithout.toFixed(2),
    row.startCpuSeconds.toFixed(1),
    row.loopHeldMs.toFixed(),
    row.residentMebibytes.toFixed(),
  ]);
  return `${table(head, lines)}\ntriggers.db: ${databaseMegabytes.toFixed()} MB, for ${DEVICES} devices`;
}
