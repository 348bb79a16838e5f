/**
 * Group commit: what is to be written goes to the disk with whatever else has
 * come while the last batch was being committed, and in the same turn of the
 * loop. Nobody waits for a timer: a lone write is committed when its turn
 * ends, and under load a batch is as long as the disk is slow. In the order in
 * which they came; each hears what became of it when its batch is durable, all
 * of a batch in the same turn of the loop.
 */
import { breathe } from './slices.ts';

/** What became of one: whether it changed anything, or why it could not be written. */
export type Written = { readonly changed: boolean } | { readonly fault: string };

/** Makes a batch durable. Rejects where it cannot be known what became of it. */
export type Commit<Write> = (batch: readonly Write[]) => Promise<readonly Written[]>;

interface Waiting<Write> {
  readonly write: Write;
  readonly resolve: (written: Written) => void;
  readonly reject: (fault: unknown) => void;
}

export class Commits<Write> {
  readonly #commit: Commit<Write>;
  #queue: Waiting<Write>[] = [];
  #running: Promise<void> | undefined;

  constructor(commit: Commit<Write>) {
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

/**
 * How a batch is written by what writes one in one transaction, and throws
 * where that fails: one that cannot be written must not take the others with
 * it, so then each is written alone.
 */
export function eachAloneIfNeeded<Write>(
  together: (batch: readonly Write[]) => readonly boolean[],
): (batch: readonly Write[]) => readonly Written[] {
  return (batch) => {
    try {
      return together(batch).map((changed) => ({ changed }));
    } catch (fault) {
      if (batch.length === 1) return [{ fault: (fault as Error).message }];
      return batch.map((one): Written => {
        try {
          return { changed: together([one])[0] ?? false };
        } catch (own) {
          return { fault: (own as Error).message };
        }
      });
    }
  };
}
