/**
 * The agent's side of a child process: starts it, watches it, starts it again,
 * and hears what it says. Nothing that happens to the child ends the agent.
 *
 * One thing is waited for at a time: whatever its owner waits for of it, or,
 * once it has ended, the next child.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 30_000;
/** A child that lived this long did well: the next pause is short again. */
const LONG_LIFE_MS = 60_000;
/** The last words of a child that are worth a log line. */
const LAST_WORDS = 400;

/** How a child ended; one that could not be started has words alone. */
export interface Death {
  readonly status?: number | null;
  readonly signal?: NodeJS.Signals | null;
  readonly words: string;
  /** When the next is started. */
  readonly againInMs: number;
}

export interface ChildParts<Heard> {
  /** The built file that is run, with its one argument. */
  readonly file: URL;
  readonly argument: string;
  readonly onStart: () => void;
  /** `isLate`: the child that said so has ended since. */
  readonly onMessage: (message: Heard, isLate: boolean) => void;
  /** A child has ended; without `death` it was told to. */
  readonly onEnd: (death?: Death) => void;
  /** Something else went wrong with a child that runs: it was not killed, or did not take a message. */
  readonly onFault: (why: string) => void;
}

export class WatchedChild<Heard, Said extends object = never> {
  readonly #parts: ChildParts<Heard>;
  #child: ChildProcess | undefined;
  #stopped = false;
  #pauseMs = FIRST_PAUSE_MS;
  #startedMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: ChildParts<Heard>) {
    this.#parts = parts;
  }

  /** Of the child that runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  start(): void {
    const child = spawn(process.execPath, [fileURLToPath(this.#parts.file), this.#parts.argument], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.#child = child;
    this.#startedMs = performance.now();
    let words = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      words = (words + text).slice(-LAST_WORDS);
    });
    child.on('message', (message) => this.#parts.onMessage(message as Heard, child !== this.#child));
    // A child that could not be started has no exit, but an error; any other error is followed by its exit.
    child.on('error', (fault) => {
      if (child.pid === undefined) this.#ended(child, { words: fault.message });
      else this.#parts.onFault(fault.message);
    });
    child.once('close', (status, signal) => this.#ended(child, { status, signal, words }));
    this.#parts.onStart();
  }

  say(message: Said): void {
    if (this.#child?.connected) this.#child.send(message, () => {}); // one that has just died: its exit follows
  }

  /** In place of whatever was waited for. */
  wait(ms: number, then: () => void): void {
    clearTimeout(this.#timer);
    if (!this.#stopped) this.#timer = setTimeout(then, ms);
  }

  /** The next is started as if it had died by itself. */
  kill(): void {
    this.#child?.kill('SIGKILL');
  }

  /** For good. A child with something to finish is told so, and killed only when that takes too long. */
  async stop(farewell?: { readonly say: Said; readonly withinMs: number }): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (!child) return;
    const gone = once(child, 'close');
    if (farewell) this.say(farewell.say);
    else this.kill();
    const timer = farewell && setTimeout(() => child.kill('SIGKILL'), farewell.withinMs);
    await gone;
    clearTimeout(timer);
  }

  #ended(child: ChildProcess, how: Omit<Death, 'againInMs'>): void {
    if (this.#child !== child) return; // told already
    this.#child = undefined;
    if (this.#stopped) {
      this.#parts.onEnd();
      return;
    }
    if (performance.now() - this.#startedMs > LONG_LIFE_MS) this.#pauseMs = FIRST_PAUSE_MS;
    this.#parts.onEnd({ ...how, againInMs: this.#pauseMs });
    this.wait(this.#pauseMs, () => this.start());
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
  }
}
