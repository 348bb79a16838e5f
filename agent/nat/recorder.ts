/**
 * The process that keeps the NAT record: it hears from connection tracking
 * which flows begin and end, has the agent say who held their inner addresses,
 * writes batches, and tells the collector. In a process of its own, since ten
 * thousand flows a second would hold the agent's loop.
 *
 * Invariants. Nothing of the kernel or of the agent waits for it, and what it
 * holds is bounded. What was lost is counted, stands as a gap on record, and is
 * mended by a look at all flows that run: at start, after a loss, once an hour.
 * So a flow that runs is on record, whatever was killed; one that began and
 * ended while nobody heard is not, and the gap says so. It ends with the
 * agent, however that ends, and writes what it has heard first.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseEndpoint, prefix } from '../core/net.ts';
import type { Log } from '../core/ports.ts';
import { wholeTable } from '../dataplane/conntrack-message.ts';
import { type Flow, FlowReader } from '../dataplane/flow-message.ts';
import { askInParts, Events, SEQUENCE } from '../dataplane/netlink.ts';
import { endWithTheAgent } from '../processes/child.ts';
import { openCollector } from './collector.ts';
import type { HeldBy } from './holders.ts';
import type { Mapping } from './mapping.ts';
import { type Begun, type Ended, RecordWriter } from './record-store.ts';
import type { FromRecorder, RecorderSetup, ToRecorder } from './recorder-message.ts';
import { syslogMessage } from './syslog.ts';

/** NFNLGRP_CONNTRACK_NEW, _DESTROY. */
const GROUPS = 0b101;
/** Read before anything else has its turn. */
const EVENTS_A_TURN = 4_000;
/** Events gather for so long, so that a transaction is of many. */
const BATCH_MS = 250;
/** Of those that wait for agent or disk. */
const WAITING_MOST = 200_000;
/** An agent that does not answer for so long does not know. */
const PATIENCE_MS = 10_000;
const OPEN_AGAIN_MS = 1_000;
const LOOK_EVERY_MS = 3_600_000;
/** After a loss: not while more is being lost. */
const LOOK_AGAIN_MS = 5_000;
const PURGE_EVERY_MS = 60_000;
const COUNTS_EVERY_MS = 1_000;
const SHORTENED_EVERY_MS = 24 * 3_600_000;

/** A flow as it was heard, or found. */
interface Heard extends Flow {
  readonly atMs: number;
  /** It began at `atMs` or before, but not before this. */
  readonly sinceMs: number;
  /** Found to run, by a look at all: whoever holds the address by then, since flows of a former holder are deleted. */
  readonly isFound?: boolean;
  /** When it began, once its end has told it. */
  knownMs?: number | undefined;
  /** Who held its inner address, once the agent has said so. */
  held?: HeldBy | undefined;
}

const setup = JSON.parse(process.argv[2] ?? '') as RecorderSetup;
const say = (message: FromRecorder) => process.send?.(message, undefined, {}, () => {});
const logged =
  (level: 'info' | 'warn' | 'error') =>
  (fields: object, event: string): void =>
    void say({ kind: 'log', level, event, fields } as FromRecorder);
const log: Log = { debug: () => {}, info: logged('info'), warn: logged('warn'), error: logged('error') };

const endpoint = setup.syslog && parseEndpoint(setup.syslog.collector);
const collector = endpoint && setup.syslog && openCollector(endpoint, setup.syslog.transport);
const tell = (row: Mapping, ended: boolean) => collector?.send(syslogMessage(setup.gateway, row, ended));

const reader = new FlowReader(setup.egress.map(prefix));
const events = Events.open('netfilter', GROUPS, setup.socketBytes);
const listeningMs = Date.now();
/** Open before anything is written; what is heard until then waits. */
let writer!: RecordWriter;

const counts = { begun: 0, ended: 0, lostInKernel: 0, givenUp: 0, unsent: 0 };
/** All until then was heard. */
let heardUntilMs = listeningMs;
let waiting: Heard[] = [];
let isStopping = false;
let isConnected = true;
/** When all flows are to be looked at; now, at the start. */
let lookAtMs = listeningMs;
/** Why something may be missing that the next look mends. */
let missing: 'notRunning' | 'overrun' | 'notWritten' | undefined = 'notRunning';
/** A look mends: what was heard until now is not all yet. */
let isMending = false;
/** While all flows are looked at: those heard to begin, and to end, meanwhile. */
let meanwhile: { readonly begun: Set<number>; readonly ended: Set<number> } | undefined;

function hear(flow: Heard): void {
  if (waiting.length >= WAITING_MOST) {
    counts.givenUp += 1;
    lose('notWritten');
    return;
  }
  waiting.push(flow);
}

/** Something was lost between when all was heard and now: the record says so, and it is looked at what runs. */
function lose(why: 'overrun' | 'notWritten'): void {
  if (missing !== undefined) return; // known, and about to be mended
  missing = why;
  lookAtMs = Date.now() + LOOK_AGAIN_MS;
  log.warn({ why, sinceMs: heardUntilMs, lostInKernel: counts.lostInKernel, givenUp: counts.givenUp }, 'natEventsLost');
}

function drain(): 'empty' | 'more' | 'lost' {
  const atMs = Date.now();
  const sinceMs = heardUntilMs;
  const outcome = events.read(EVENTS_A_TURN, (bytes) => {
    reader.read(bytes, 0, (flow) => {
      (flow.isEnded ? meanwhile?.ended : meanwhile?.begun)?.add(flow.key);
      hear({ ...flow, atMs: Date.now(), sinceMs: flow.isEnded ? 0 : sinceMs });
    });
  });
  if (outcome === 'lost') {
    counts.lostInKernel = events.lost();
    lose('overrun');
  } else if (outcome === 'empty' && missing === undefined && !isMending) heardUntilMs = atMs;
  return outcome;
}

let questions = 0;
const answers = new Map<number, (held: readonly HeldBy[]) => void>();
const UNKNOWN: HeldBy = { realm: '', device: null };

/**
 * Has the agent say who held the addresses of these flows when they began; once it has gone, nobody knows. A flow of
 * which that is not clear, since its address changed hands at about that time, is the next holder's if it still runs:
 * flows of the former are deleted before there is a next one, so that their ends are here to be read by then.
 */
async function learnHolders(flows: readonly Heard[]): Promise<void> {
  await askHolders(flows);
  const unclear = flows.filter(({ held }) => held?.ifRuns !== undefined);
  if (unclear.length === 0) return;
  while (drain() === 'more');
  const ends = endsIn(waiting);
  for (const flow of unclear) {
    const { realm = '', ifRuns = null } = flow.held ?? {};
    flow.held = ends.has(flow.key) || flow.isEnded ? undefined : { realm, device: ifRuns };
    flow.knownMs ??= ends.get(flow.key);
  }
  await askHolders(unclear);
}

/** When flows that have ended began: with an end the kernel says it, and not with a beginning. */
function endsIn(flows: readonly Heard[]): ReadonlyMap<number, number | undefined> {
  return new Map(flows.flatMap(({ isEnded, key, beganMs }) => (isEnded ? [[key, beganMs]] : [])));
}

async function askHolders(flows: readonly Heard[]): Promise<void> {
  const ends = endsIn(flows);
  const open = flows.filter(({ held }) => held === undefined);
  for (const flow of open) flow.knownMs ??= flow.beganMs ?? ends.get(flow.key);
  if (open.length === 0 || !isConnected) return;
  const spans = new Map(open.map((flow) => [spanKey(flow), { inner: flow.inner, ...beginningOf(flow) }]));
  const asked = [...spans.values()];
  questions += 1;
  const question = questions;
  const answered = new Promise<readonly HeldBy[]>((resolve) => answers.set(question, resolve));
  const [fromMs, toMs] = [asked.map((one) => one.fromMs), asked.map((one) => one.toMs)];
  say({ kind: 'who', question, addresses: asked.map(({ inner }) => inner), fromMs, toMs });
  const said = await Promise.race([answered, sleep(PATIENCE_MS, undefined, { ref: false })]);
  answers.delete(question);
  const bySpan = new Map([...spans.keys()].map((key, i) => [key, said?.[i]]));
  for (const flow of open) {
    const held = bySpan.get(spanKey(flow));
    if (held) flow.held = held;
  }
}

/** An end is heard soon after: where the beginning is not known, it was somebody's then. */
const END_HEARD_MS = 1_000;

/** When a flow began, as far as is known; the kernel says it with an end, and of what runs. */
function beginningOf({ knownMs, endedMs, atMs, sinceMs, isEnded, isFound }: Heard): { fromMs: number; toMs: number } {
  if (isFound) return { fromMs: atMs, toMs: atMs };
  if (knownMs !== undefined) return { fromMs: knownMs, toMs: knownMs };
  if (isEnded) return { fromMs: (endedMs ?? atMs) - END_HEARD_MS, toMs: endedMs ?? atMs };
  return { fromMs: sinceMs, toMs: atMs };
}

function spanKey(flow: Heard): string {
  const { fromMs, toMs } = beginningOf(flow);
  return `${fromMs} ${toMs} ${keyOf(flow.inner)}`;
}

function keyOf(address: Uint8Array): string {
  return Buffer.from(address.buffer, address.byteOffset, address.length).toString('latin1');
}

let flushing: Promise<void> = Promise.resolve();

/** Writes what waits; what cannot be written waits on. */
function flush(): Promise<void> {
  flushing = flushing.then(async () => {
    const batch = waiting;
    const untilMs = heardUntilMs;
    waiting = [];
    await learnHolders(batch);
    const begun = new Set<number>();
    try {
      const happened = batch.flatMap((flow) => rowsOf(flow, flow.held ?? UNKNOWN, begun));
      writer.write(happened, untilMs, tell);
    } catch (fault) {
      log.error({ why: (fault as Error).message }, 'natRecordNotWritten');
      waiting = [...batch, ...waiting];
      await sleep(1_000);
      return;
    }
    for (const { isEnded } of batch) counts[isEnded ? 'ended' : 'begun'] += 1;
  });
  return flushing;
}

/** `begun`: the flows that began in the same batch. */
function rowsOf(flow: Heard, held: HeldBy, begun: Set<number>): (Begun | Ended)[] {
  const { key, atMs, sinceMs, isEnded, endedMs = atMs } = flow;
  if (!isEnded) begun.add(key);
  else if (begun.delete(key) || writer.runs(key)) return [{ key, endedMs, beganMs: flow.beganMs }];
  const row: Begun = {
    ...{ protocol: flow.protocol, external: flow.external, port: flow.port },
    ...{ realm: held.realm, inner: flow.inner, innerPort: flow.innerPort, device: held.device },
    ...{ grant: null, server: null },
    beganMs: flow.beganMs ?? endedMs,
    beganFromMs: flow.beganMs === undefined && sinceMs < endedMs ? sinceMs : null,
    endedMs: isEnded ? endedMs : null,
    endedFromMs: null,
    key: isEnded ? null : key,
  };
  return [row];
}

/** Finds all flows that run, and ends those on record that do not. */
async function look(): Promise<void> {
  await flush();
  const why = missing;
  const sinceMs = heardUntilMs;
  const onRecord = writer.running();
  const seen = new Set<number>();
  const during = { begun: new Set<number>(), ended: new Set<number>() };
  const atMs = Date.now();
  meanwhile = during;
  isMending = why !== undefined;
  missing = undefined; // from here on what is lost is another loss
  lookAtMs = atMs + LOOK_EVERY_MS;
  try {
    for (const family of ['ipv4', 'ipv6'] as const) {
      await askInParts('netfilter', wholeTable(family), (bytes) =>
        reader.read(bytes, SEQUENCE, (flow) => {
          seen.add(flow.key);
          const isKnown = onRecord.has(flow.key) || during.begun.has(flow.key) || during.ended.has(flow.key);
          if (!isKnown) hear({ ...flow, atMs, sinceMs: sinceWhenFound(sinceMs), isFound: true });
        }),
      );
    }
    drain();
    const gone = [...onRecord].filter((key) => !seen.has(key) && !during.ended.has(key) && !during.begun.has(key));
    await flush();
    writer.endUnheard(gone, sinceMs, atMs, (row) => tell(row, true));
    counts.ended += gone.length;
    if (why !== undefined && (why !== 'notRunning' || writer.lastAliveMs !== undefined))
      writer.gap({ fromMs: sinceMs, toMs: atMs, why });
  } catch (fault) {
    missing ??= why;
    throw fault;
  } finally {
    meanwhile = undefined;
    isMending = false;
  }
}

/** Of a record that has just begun, a flow may have run since ever. */
function sinceWhenFound(sinceMs: number): number {
  return writer.lastAliveMs === undefined && sinceMs === listeningMs ? 0 : sinceMs;
}

let shortenedMs = 0;

/** Gives up what is too old or too much, some at a time: what is heard meanwhile is written in between. */
async function purge(): Promise<void> {
  for (;;) {
    const left = writer.purge(setup, Date.now());
    if (left === 'done' || isStopping) return;
    if (left === 'shortened' && Date.now() - shortenedMs > SHORTENED_EVERY_MS) {
      shortenedMs = Date.now();
      log.warn({ keepMebibytes: setup.keepBytes / 2 ** 20 }, 'natRecordShortened');
    }
    drain();
    await new Promise(setImmediate);
  }
}

process.on('message', (message: ToRecorder) => {
  if (message.kind === 'held') answers.get(message.question)?.(message.held);
  else if (message.kind === 'stop') isStopping = true;
  else {
    for (const row of message.begun) tell(row, false);
    if (message.ended.length === 0) return;
    flushing = flushing.then(() => {
      try {
        writer.write(
          message.ended.map((row) => ({ ...row, key: null })),
          heardUntilMs,
          tell,
        );
      } catch (fault) {
        log.error({ why: (fault as Error).message }, 'natRecordNotWritten'); // with the next start they come again
      }
    });
  }
});
endWithTheAgent(() => {
  isConnected = false;
  isStopping = true;
  for (const answer of answers.values()) answer([]);
});

/** Tries until the disk lets it. A file that cannot be opened now stays as it is. */
async function openFile(): Promise<void> {
  let told: string | undefined;
  while (!isStopping) {
    await new Promise((resolve) => process.send?.({ kind: 'opening' } satisfies FromRecorder, undefined, {}, resolve));
    try {
      writer = RecordWriter.open(setup.file, setup.bootId, listeningMs, log);
      heardUntilMs = writer.lastAliveMs ?? listeningMs;
      return;
    } catch (fault) {
      const why = (fault as Error).message;
      if (why !== told) log.error({ why }, 'natRecordNotWritten');
      told = why;
    }
    sayCounts(told);
    for (const againMs = Date.now() + OPEN_AGAIN_MS; Date.now() < againMs && !isStopping; drain())
      await events.wait(BATCH_MS);
  }
  process.exit(0); // what was heard is nowhere to be written to
}

function sayCounts(recordFault: string | undefined): void {
  counts.unsent = collector?.givenUp ?? 0;
  say({ kind: 'counts', counts: { ...counts }, recordFault, collectorFault: collector?.fault });
}

flushing = openFile();
await flushing;
let batchMs = 0;
let countsMs = 0;
let purgeMs = 0;
let looking: Promise<void> | undefined;
let purging: Promise<void> | undefined;
let isReady = false;
while (!isStopping && writer.isOpen) {
  await events.wait(BATCH_MS);
  drain();
  const nowMs = Date.now();
  if (!looking && nowMs >= lookAtMs) {
    looking = look()
      .catch((fault) => {
        log.error({ why: (fault as Error).message, sinceMs: heardUntilMs }, 'natEventsLost');
        lookAtMs = Date.now() + LOOK_AGAIN_MS;
      })
      .finally(() => {
        looking = undefined;
        if (!isReady) say({ kind: 'ready', lastAliveMs: writer.lastAliveMs ?? 0 });
        isReady = true;
      });
  }
  if (nowMs - batchMs >= BATCH_MS) {
    batchMs = nowMs;
    void flush();
  }
  if (nowMs - countsMs >= COUNTS_EVERY_MS) {
    countsMs = nowMs;
    sayCounts(writer.fault);
  }
  if (!purging && nowMs - purgeMs >= PURGE_EVERY_MS) {
    purgeMs = nowMs;
    purging = purge()
      .catch((fault) => log.error({ why: (fault as Error).message }, 'natRecordNotWritten')) // the next may have room
      .finally(() => {
        purging = undefined;
      });
  }
}
if (!writer.isOpen) process.exit(1); // the log says why
await purging;
drain();
await flush();
writer.close();
collector?.close();
process.exit(0);
