/**
 * The agent's side of the process that keeps the NAT record: starts it,
 * watches it, starts it again, answers who held an address, and hands over the
 * grants. Nothing that happens to it, or that it says, ends the agent or holds
 * a grant or a packet up; while nobody records, the record says so.
 */
import type { Log } from '../core/ports.ts';
import { slicesOf } from '../core/slices.ts';
import { type Death, WatchedChild } from '../processes/watched-child.ts';
import type { Holders } from './holders.ts';
import { addressOf, type Mapping } from './mapping.ts';
import type { FromRecorder, RecorderCounts, RecorderSetup, ToRecorder } from './recorder-message.ts';

/** It says every second how it does; a first look at a million flows takes a while. */
const SILENT_MS = 30_000;
/** While it opens its file it says nothing: what it does then may be of gigabytes, on a disk that is busy. */
const OPENING_MS = 600_000;
/** What it has heard when it is told to stop, it writes. */
const FAREWELL_MS = 10_000;

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
  readonly #child: WatchedChild<FromRecorder, ToRecorder>;
  #ready = false;
  #recordFault: string | undefined;
  #deaths = 0;
  /** Of processes before this one, and of this one. */
  #before = NOTHING;
  #counts = NOTHING;
  #collectorFault: string | undefined;

  constructor(parts: NatRecordParts, program = new URL('recorder.js', import.meta.url)) {
    this.#parts = parts;
    this.#child = new WatchedChild({
      file: program,
      argument: JSON.stringify(parts.setup),
      onStart: () => this.#expectWord(),
      onMessage: (message, isLate) => {
        if (!isLate) this.#hear(message);
      },
      onEnd: (death) => this.#ended(death),
      onFault: (why) => parts.log.warn({ why }, 'natRecorderFault'),
    });
  }

  reading(): NatRecordReading {
    const fault = this.#recordFault;
    const recording = this.#ready && fault === undefined;
    return { ...added(this.#before, this.#counts), recording, ...(fault && { fault }), deaths: this.#deaths };
  }

  start(): void {
    this.#child.start();
  }

  /** A grant has begun: for the collector. */
  begun(grant: Mapping): void {
    this.#child.say({ kind: 'grants', begun: [grant], ended: [] });
  }

  ended(grant: Mapping): void {
    this.#child.say({ kind: 'grants', begun: [], ended: [grant] });
  }

  async stop(): Promise<void> {
    await this.#child.stop({ say: { kind: 'stop' }, withinMs: FAREWELL_MS });
  }

  #hear(message: FromRecorder): void {
    const { log, holders } = this.#parts;
    switch (message.kind) {
      case 'opening':
        this.#expectWord(OPENING_MS);
        break;
      case 'ready':
        this.#ready = true;
        log.info({ pid: this.#child.pid }, 'natRecorderReady');
        void this.#handOver(message.lastAliveMs - LATE_MS);
        break;
      case 'who': {
        const { addresses, fromMs, toMs } = message;
        const held = addresses.map((bytes, i) => holders.at(addressOf(bytes), fromMs[i] as number, toMs[i] as number));
        this.#child.say({ kind: 'held', question: message.question, held });
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
  async #handOver(sinceMs: number): Promise<void> {
    const { pid } = this.#child;
    try {
      for await (const ended of slicesOf(this.#parts.endedGrants(sinceMs))) {
        if (pid !== this.#child.pid) return;
        this.#child.say({ kind: 'grants', begun: [], ended });
      }
    } catch (fault) {
      this.#parts.log.error({ why: (fault as Error).message }, 'natRecordNotWritten');
    }
  }

  #expectWord(withinMs = SILENT_MS): void {
    this.#child.wait(withinMs, () => this.#child.kill());
  }

  #ended(death?: Death): void {
    this.#ready = false;
    this.#recordFault = undefined;
    this.#before = added(this.#before, this.#counts);
    this.#counts = NOTHING;
    if (!death) return;
    this.#deaths += 1;
    this.#parts.log.warn(death, 'natRecorderDied');
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
