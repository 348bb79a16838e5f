/**
 * A long-running child of a test: started, awaited until it is ready, talked
 * to line by line, stopped. Ready is something seen (a line it printed, a
 * socket it listens on), never a time slept: a sleep is too short on a busy
 * machine and too long on every other.
 *
 * The kernel kills a child whose test died (PR_SET_PDEATHSIG), so that even
 * `kill -9` of a run leaves nothing behind that holds its interfaces.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The folder that package.json stands in. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** How long a test waits for what must come; on a machine that says so (PATIENCE), a multiple of that. */
export const PATIENCE_MS = 20_000 * Number(process.env['PATIENCE'] ?? 1);

/** What tells that a child is at work: a line on its standard output, or a socket of its network namespace. */
export type Ready = { readonly line: RegExp } | { readonly listens: 'tcp' | 'udp'; readonly port: number };

/** The environment's word for the folder of compiled programs, where a run has one (programs.ts). */
export const COMPILED = 'COMPILED_PROGRAMS';

/** The command that runs one of our TypeScript programs, path from the root. */
export function program(path: string, ...args: readonly string[]): string[] {
  const compiled = join(process.env[COMPILED] ?? '', path.replace(/ts$/, 'js'));
  if (process.env[COMPILED] && existsSync(compiled)) return [process.execPath, compiled, ...args];
  return [process.execPath, '--import', 'tsx', `${ROOT}${path}`, ...args];
}

/** Asks again until the answer is a value. @throws Error that names `what` when patience ends */
export async function until<T>(
  what: string,
  look: () => T | undefined | Promise<T | undefined>,
  patienceMs = PATIENCE_MS,
): Promise<T> {
  for (const end = performance.now() + patienceMs; ; ) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`waited ${patienceMs} ms in vain for ${what}`);
    await delay(5);
  }
}

export class Child {
  /** Every line of standard output so far. */
  readonly lines: string[] = [];
  /** All of standard error so far. */
  errors = '';
  readonly pid: number;
  readonly #name: string;
  readonly #process: ChildProcess;
  #hear: ((line: string) => void) | undefined;

  constructor(command: readonly string[], options: { readonly env?: Readonly<Record<string, string>> } = {}) {
    this.#name = command.join(' ');
    this.#process = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
      cwd: ROOT,
      env: { ...process.env, ...options.env },
      stdio: 'pipe',
    });
    if (this.#process.pid === undefined) throw new Error(`cannot start: ${this.#name}`);
    this.pid = this.#process.pid;
    const { stdin, stdout, stderr } = this.#process;
    if (stdout)
      createInterface({ input: stdout }).on('line', (line) => (this.#hear ? this.#hear(line) : this.lines.push(line)));
    stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text;
    });
    // Writing to a child that has just died is not the test's failure; that it died is, and shows elsewhere.
    stdin?.on('error', () => {});
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** What it ended with; undefined while it runs, and where a signal killed it. */
  get status(): number | undefined {
    return this.#process.exitCode ?? undefined;
  }

  /** From now on every line goes there at once, and is not kept. */
  hear(listener: (line: string) => void): void {
    this.#hear = listener;
  }

  /** A line for its standard input. */
  say(line: string): void {
    this.#process.stdin?.write(`${line}\n`);
  }

  /** The first line that matches, from the given one on (default: all it ever printed). */
  async line(match: RegExp, options: { readonly from?: number; readonly patienceMs?: number } = {}): Promise<string> {
    const wanted = () => this.lines.slice(options.from ?? 0).find((line) => match.test(line));
    const seen = await until(`${match} of ${this.#name}`, () => wanted() ?? this.#ifDead(), options.patienceMs).catch(
      (cause: unknown) => {
        throw new Error(`no line ${match} of ${this.#name}\n${this.lines.join('\n')}\n${this.errors}`, { cause });
      },
    );
    return seen;
  }

  async ready(sign: Ready, patienceMs = PATIENCE_MS): Promise<this> {
    if ('line' in sign) await this.line(sign.line, { patienceMs });
    else {
      const what = `${this.#name} to listen on ${sign.listens}/${sign.port}\n${this.errors}`;
      await until(what, () => (listens(this.pid, sign.listens, sign.port) ? true : this.#ifDead()), patienceMs);
    }
    return this;
  }

  /** Resolves when it is gone. */
  async gone(): Promise<void> {
    if (this.running) await once(this.#process, 'exit');
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.kill(signal);
    await this.gone();
  }

  /** For moments that cannot wait. */
  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    if (this.running) this.#process.kill(signal);
  }

  #ifDead(): undefined {
    if (!this.running) throw new Error(`${this.#name} has exited\n${this.lines.join('\n')}\n${this.errors}`);
  }
}

/** Whether any process in the namespace of this one has a socket bound to the port (and, TCP, listening). */
function listens(pid: number, protocol: 'tcp' | 'udp', port: number): boolean {
  const bound = port.toString(16).toUpperCase().padStart(4, '0');
  const state = protocol === 'tcp' ? '0A' : '07';
  return [protocol, `${protocol}6`].some((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, 'latin1')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .some(([, local, , is]) => local?.endsWith(`:${bound}`) && is === state),
  );
}
