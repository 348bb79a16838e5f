/**
 * Who commits the batches of a store (core/commits.ts): a thread of its own,
 * so that the agent's loop never waits for the disk, or the calling thread
 * itself, which is right for tests in memory.
 */
import { parentPort, Worker, workerData } from 'node:worker_threads';
import { type Commit, Commits, type Written } from '../core/commits.ts';
import { AgentError } from '../core/errors.ts';

export interface Committer<Write> {
  readonly commit: Commit<Write>;
  close(): Promise<unknown>;
}

export function inThisThread<Write>(write: (batch: readonly Write[]) => readonly Written[]): Committer<Write> {
  return { commit: async (batch) => write(batch), close: async () => {} };
}

/**
 * `url` is the built worker of the store, which calls `serveBatches`. A worker
 * that dies takes its batch with it, of which nobody knows what became: that
 * fails (AgentError storeFailed), and the next has a new worker.
 */
export function inWorker<Write>(file: string, url: URL): Committer<Write> {
  let worker: Worker | undefined;
  let lastWords: unknown;
  const start = (): Worker => {
    const started = new Worker(url, { workerData: file });
    started.on('error', (cause) => {
      lastWords = cause; // its exit follows
    });
    started.unref(); // what keeps the agent alive is what it serves, and a batch under way
    return started;
  };
  const commit: Commit<Write> = (batch) =>
    new Promise((resolve, reject) => {
      worker ??= start();
      const here = worker;
      const done = () => here.off('message', answered).off('exit', ended).unref();
      const answered = (written: readonly Written[]) => {
        done();
        resolve(written);
      };
      const ended = () => {
        done();
        worker = undefined;
        reject(new AgentError('storeFailed', `${file}: the thread that writes has ended`, { cause: lastWords }));
      };
      here.on('message', answered).on('exit', ended).ref();
      here.postMessage(batch);
    });
  return { commit, close: async () => worker?.terminate() };
}

/** What a store writes: in groups, durable when it is acknowledged. */
export class Writes<Write> {
  readonly #file: string;
  readonly #committer: Committer<Write>;
  readonly #commits: Commits<Write>;
  #isClosed = false;

  constructor(file: string, committer: Committer<Write>) {
    this.#file = file;
    this.#committer = committer;
    this.#commits = new Commits(committer.commit);
  }

  /** Returns whether it changed anything. @throws AgentError storeFailed */
  async write(one: Write): Promise<boolean> {
    if (this.#isClosed) throw new AgentError('storeFailed', `${this.#file} is closed`);
    const written = await this.#commits.write(one);
    if ('fault' in written) throw new AgentError('storeFailed', `${this.#file}: ${written.fault}`);
    return written.changed;
  }

  /** Takes nothing more; resolves when all that was to be written is. */
  async settle(): Promise<void> {
    this.#isClosed = true;
    await this.#commits.settled();
  }

  /** To be called when all is settled. */
  async close(): Promise<void> {
    await this.#committer.close();
  }
}

/** In the worker: a message is a batch, its answer what became of each; batches come one at a time. */
export function serveBatches<Write>(writerOn: (file: string) => (batch: readonly Write[]) => readonly Written[]): void {
  const write = writerOn(workerData as string);
  parentPort?.on('message', (batch: readonly Write[]) => parentPort?.postMessage(write(batch)));
}
