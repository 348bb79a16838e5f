/**
 * The agent's side of the process that keeps the NAT record: starts it,
 * watches it, starts it again, answers who held an address, and hands over the
 * grants. Nothing that happens to it, or that it says, ends the agent or holds
 * a grant or a packet up; while nobody records, the record says so.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Log } from '../core/ports.ts';
import { slicesOf } from '../core/slices.ts';
import type { Holders } from './holders.ts';
import { addressOf, type Mapping } from './mapping.ts';
import type { FromRecorder, RecorderCounts, RecorderSetup, ToRecorder } from './recorder-message.ts';

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 30_000;
/** A process that lived this long did well: the next pause is short again. */
const LONG_LIFE_MS = 60_000;
/** It says every second how it does; a first look at a million flows takes a while. */
const SILENT_MS = 30_000;
/** While it opens its file it says nothing: what it does then may be of gigabytes, on a disk that is busy. */
const OPENING_MS = 600_000;
/** What it has heard when it is told to stop, it writes. */
const FAREWELL_MS = 10_000;
/** The last words of a child that are worth a log line. */
const LAST_WORDS = 400;

export interface NatRecordParts {
  readonly setup: RecorderSetup;
  readonly holders: Holders;
  /** Grants that have ended since, as the NAT record has them. */
  readonly endedGrants: (sinceMs: number) => Iterable<Mapping>;
  readonly log: Log;
}

export interface NatRecordReading extends RecorderCounts {
  readonly recording: boolean;
  /** Why it cannot write. */
  readonly fault?: string;
  readonly deaths: number;
}

const NOTHING: RecorderCounts = { begun: 0, ended: 0, lostInKernel: 0, givenUp: 0, unsent: 0 };
/** An end may be on record later than others that came after it: a disk was full. */
const LATE_MS = 3_600_000;

export class NatRecord {
  readonly #parts: NatRecordParts;
  readonly #program: string;
  #child: ChildProcess | undefined;
  #stopped = false;
  #pauseMs = FIRST_PAUSE_MS;
  #startedMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #ready = false;
  #recordFault: string | undefined;
  #deaths = 0;
  /** Of processes before this one, and of this one. */
  #before = NOTHING;
  #counts = NOTHING;
  #collectorFault: string | undefined;

  constructor(parts: NatRecordParts, program = fileURLToPath(new URL('recorder.js', import.meta.url))) {
    this.#parts = parts;
    this.#program = program;
  }

  reading(): NatRecordReading {
    const fault = this.#recordFault;
    const recording = this.#ready && fault === undefined;
    return { ...added(this.#before, this.#counts), recording, ...(fault && { fault }), deaths: this.#deaths };
  }

  start(): void {
    const child = spawn(process.execPath, [this.#program, JSON.stringify(this.#parts.setup)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.#child = child;
    this.#startedMs = performance.now();
    let words = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      words = (words + text).slice(-LAST_WORDS);
    });
    child.on('message', (message) => this.#hear(child, message as FromRecorder));
    // A child that could not be started has no exit, but an error; any other error is followed by its exit.
    child.on('error', (fault) => {
      if (child.pid === undefined) this.#died(child, { words: fault.message });
    });
    child.once('close', (status, signal) => this.#died(child, { status, signal, words }));
    this.#expectWord();
  }

  /** A grant has begun: for the collector. */
  begun(grant: Mapping): void {
    this.#say({ kind: 'grants', begun: [grant], ended: [] });
  }

  ended(grant: Mapping): void {
    this.#say({ kind: 'grants', begun: [], ended: [grant] });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (!child) return;
    const gone = once(child, 'close');
    this.#say({ kind: 'stop' });
    const timer = setTimeout(() => child.kill('SIGKILL'), FAREWELL_MS);
    await gone;
    clearTimeout(timer);
  }

  #say(message: ToRecorder): void {
    if (this.#child?.connected) this.#child.send(message, () => {}); // one that has just died: its exit follows
  }

  #hear(child: ChildProcess, message: FromRecorder): void {
    if (child !== this.#child) return;
    const { log, holders } = this.#parts;
    switch (message.kind) {
      case 'opening':
        this.#expectWord(OPENING_MS);
        break;
      case 'ready':
        this.#ready = true;
        log.info({ pid: child.pid }, 'natRecorderReady');
        void this.#handOver(child, message.lastAliveMs - LATE_MS);
        break;
      case 'who': {
        const { addresses, fromMs, toMs } = message;
        const held = addresses.map((bytes, i) => holders.at(addressOf(bytes), fromMs[i] as number, toMs[i] as number));
        this.#say({ kind: 'held', question: message.question, held });
        break;
      }
      case 'counts': {
        this.#counts = message.counts;
        this.#recordFault = message.recordFault;
        if (message.collectorFault !== undefined && this.#collectorFault === undefined)
          log.warn({ why: message.collectorFault }, 'natCollectorAway');
        if (message.collectorFault === undefined && this.#collectorFault !== undefined)
          log.info({ unsent: message.counts.unsent }, 'natCollectorBack');
        this.#collectorFault = message.collectorFault;
        this.#expectWord();
        break;
      }
      case 'log':
        log[message.level](message.fields, message.event);
    }
  }

  /** Grants that ended while nobody recorded; those that are on record already are left as they are. */
  async #handOver(child: ChildProcess, sinceMs: number): Promise<void> {
    try {
      for await (const ended of slicesOf(this.#parts.endedGrants(sinceMs))) {
        if (child !== this.#child) return;
        this.#say({ kind: 'grants', begun: [], ended });
      }
    } catch (fault) {
      this.#parts.log.error({ why: (fault as Error).message }, 'natRecordNotWritten');
    }
  }

  #expectWord(withinMs = SILENT_MS): void {
    this.#wait(withinMs, () => this.#child?.kill('SIGKILL'));
  }

  #died(child: ChildProcess, how: object): void {
    if (this.#child !== child) return; // told already
    this.#child = undefined;
    this.#ready = false;
    this.#recordFault = undefined;
    this.#before = added(this.#before, this.#counts);
    this.#counts = NOTHING;
    if (this.#stopped) return;
    this.#deaths += 1;
    if (performance.now() - this.#startedMs > LONG_LIFE_MS) this.#pauseMs = FIRST_PAUSE_MS;
    this.#parts.log.warn({ ...how, againInMs: this.#pauseMs }, 'natRecorderDied');
    this.#wait(this.#pauseMs, () => this.start());
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
  }

  #wait(ms: number, then: () => void): void {
    clearTimeout(this.#timer);
    if (!this.#stopped) this.#timer = setTimeout(then, ms);
  }
}

function added(a: RecorderCounts, b: RecorderCounts): RecorderCounts {
  return {
    begun: a.begun + b.begun,
    ended: a.ended + b.ended,
    lostInKernel: a.lostInKernel + b.lostInKernel,
    givenUp: a.givenUp + b.givenUp,
    unsent: a.unsent + b.unsent,
  };
}
