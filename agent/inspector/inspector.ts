/**
 * The agent's side of the child that reads denied packets: starts it, watches
 * it, starts it again, and counts. Nothing that happens to the child, or that
 * it says, ends the agent or holds a grant up.
 *
 * That nothing is seen can mean that nothing was denied, or that the inspector
 * is blind. So it sees to it: when the child is ready and every half minute
 * one marked packet of our own must come back through base, kernel and child.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Log } from '../core/ports.ts';
import { isOfBase, type PacketReason, SELF_TEST } from '../core/reasons.ts';
import type { ChildMessage } from './child-message.ts';

const READY_MS = 10_000;
const TEST_EVERY_MS = 30_000;
const TEST_MS = 3_000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 30_000;
/** A child that lived this long did well: the next pause is short again. */
const LONG_LIFE_MS = 60_000;
/** The last words of a child that are worth a log line. */
const LAST_WORDS = 400;

export interface InspectorParts {
  readonly nflogGroup: number;
  /** Told of every denied packet that arrives, in its order. */
  readonly saw: (reason: PacketReason, bytes: Uint8Array, filter?: string) => void;
  /** Told of every packet that arrives because a staged filter would have met it. */
  readonly wouldHave: (filter: string, bytes: Uint8Array) => void;
  /** Sends the packet of the self-test; says why it could not. */
  readonly sendTest: () => string | undefined;
  readonly log: Log;
}

export interface InspectorReading {
  /** `sees`: the last self-test passed. */
  readonly state: 'starting' | 'sees' | 'blind';
  /** Packets that the gate denied, received from all children so far. */
  readonly received: number;
  /** Packets that the base met: its filters, or would have, and its guard of trigger ports. */
  readonly filtered: number;
  /** What came over the group and was not ours, or could not be read. */
  readonly notOurs: number;
  readonly damaged: number;
  readonly deaths: number;
  /** Self-tests that failed. */
  readonly blindnesses: number;
}

export class Inspector {
  readonly #parts: InspectorParts;
  readonly #counts = { received: 0, filtered: 0, notOurs: 0, damaged: 0, deaths: 0, blindnesses: 0 };
  #state: InspectorReading['state'] = 'starting';
  #child: ChildProcess | undefined;
  #stopped = false;
  #pauseMs = FIRST_PAUSE_MS;
  #startedMs = 0;
  /** The one thing waited for: ready, the test's packet, the next test, or the next child. */
  #timer: NodeJS.Timeout | undefined;
  #testing = false;

  constructor(parts: InspectorParts) {
    this.#parts = parts;
  }

  reading(): InspectorReading {
    return { state: this.#state, ...this.#counts };
  }

  start(): void {
    const { nflogGroup, log } = this.#parts;
    const file = fileURLToPath(new URL('nflog.js', import.meta.url));
    const child = spawn(process.execPath, [file, String(nflogGroup)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.#child = child;
    this.#startedMs = performance.now();
    let words = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      words = (words + text).slice(-LAST_WORDS);
    });
    child.on('message', (message) => this.#hear(child, message as ChildMessage));
    // A child that could not be started has no exit, but an error; any other error is followed by its exit.
    child.on('error', (fault) => {
      if (child.pid === undefined) this.#died(child, { why: fault.message });
      else log.warn({ why: fault.message }, 'inspectorChildFault');
    });
    child.once('close', (status, signal) => this.#died(child, { status, signal, words }));
    this.#wait(READY_MS, () => this.#blind('the child did not become ready'));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (!child) return;
    const gone = once(child, 'close');
    child.kill('SIGKILL'); // it holds nothing that is worth a farewell
    await gone;
  }

  #hear(child: ChildProcess, message: ChildMessage): void {
    if (message === 'ready') {
      this.#parts.log.info({ pid: child.pid }, 'inspectorReady');
      this.#test();
      return;
    }
    this.#counts.notOurs += message.notOurs;
    this.#counts.damaged += message.damaged;
    for (const { reason, filter, bytes } of message.packets) {
      if (reason === SELF_TEST.name) this.#passed();
      else if (reason === 'staged' || isOfBase(reason)) {
        this.#counts.filtered += 1; // the base's copies: the gate has not counted them
        if (reason === 'staged') this.#parts.wouldHave(filter ?? '', bytes);
        else this.#parts.saw(reason, bytes, filter);
      } else {
        this.#counts.received += 1;
        this.#parts.saw(reason, bytes);
      }
    }
  }

  #test(): void {
    this.#testing = true;
    const unsent = this.#parts.sendTest();
    if (unsent === undefined) {
      this.#wait(TEST_MS, () => this.#blind("the self-test's packet did not come back"));
      return;
    }
    // Not the child's fault, and perhaps it sees: it goes on.
    this.#testing = false;
    this.#report(`the self-test's packet could not be sent: ${unsent}`);
    this.#wait(TEST_EVERY_MS, () => this.#test());
  }

  #passed(): void {
    if (!this.#testing) return; // one that comes late
    this.#testing = false;
    if (this.#state !== 'sees') this.#parts.log.info({}, 'inspectorSees');
    this.#state = 'sees';
    this.#wait(TEST_EVERY_MS, () => this.#test());
  }

  #blind(why: string): void {
    this.#report(why);
    this.#child?.kill('SIGKILL');
  }

  #report(why: string): void {
    this.#state = 'blind';
    this.#counts.blindnesses += 1;
    this.#parts.log.error({ why }, 'inspectorBlind');
  }

  #died(child: ChildProcess, how: object): void {
    if (this.#child !== child) return; // told already
    this.#child = undefined;
    this.#testing = false;
    if (this.#stopped) return;
    if (this.#state === 'sees') this.#state = 'starting';
    this.#counts.deaths += 1;
    if (performance.now() - this.#startedMs > LONG_LIFE_MS) this.#pauseMs = FIRST_PAUSE_MS;
    this.#parts.log.warn({ ...how, againInMs: this.#pauseMs }, 'inspectorDied');
    this.#wait(this.#pauseMs, () => this.start());
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
  }

  #wait(ms: number, then: () => void): void {
    clearTimeout(this.#timer);
    if (!this.#stopped) this.#timer = setTimeout(then, ms);
  }
}
