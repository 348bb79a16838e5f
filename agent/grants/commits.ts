/**
 * Group commit: what is to be written goes to the disk with whatever else has
 * come while the last batch was being committed, and in the same turn of the
 * loop. Nobody waits for a timer: a lone write is committed when its turn
 * ends, and under load a batch is as long as the disk is slow. In the order in
 * which they came; each hears what became of it when its batch is durable, all
 * of a batch in the same turn of the loop.
 */
import { breathe } from './slices.ts';
import type { Write, Written } from './writes.ts';

/** Makes a batch durable. Rejects where it cannot be known what became of it. */
export type Commit = (batch: readonly Write[]) => Promise<readonly Written[]>;

interface Waiting {
  readonly write: Write;
  readonly resolve: (written: Written) => void;
  readonly reject: (fault: unknown) => void;
}

export class Commits {
  readonly #commit: Commit;
  #queue: Waiting[] = [];
  #running: Promise<void> | undefined;

  constructor(commit: Commit) {
    this.#commit = commit;
  }

  write(write: Write): Promise<Written> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ write, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Resolves when all that was to be written is. */
  async settled(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0) {
      await breathe();
      const batch = this.#queue;
      this.#queue = [];
      try {
        const written = await this.#commit(batch.map(({ write }) => write));
        for (const [i, one] of batch.entries()) one.resolve(written[i] as Written);
      } catch (fault) {
        for (const one of batch) one.reject(fault);
      }
    }
    this.#running = undefined;
  }
}
