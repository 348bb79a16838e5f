/**
 * Imports of devices, one at a time, each in a thread of its own
 * (device-import-worker.ts). The bytes go to it as they come, no faster than
 * it takes them. An import that is left (its client went, its thread died, the
 * agent stops) has changed nothing.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { AgentError } from '../core/errors.ts';
import type { Imported } from '../directory/registry-import.ts';
import type { RegistryStore } from '../directory/registry-store.ts';
import type { IdentityKey } from '../files/identity-key.ts';
import type { ImportAnswer, ImportMessage, ImportTask } from './device-import-worker.ts';

/** Some five times what a million devices take. */
const MEMORY_MOST = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 32 };

export class DeviceImports {
  readonly #registry: RegistryStore;
  readonly #folder: string;
  readonly #worker: URL;
  readonly #identityKey: IdentityKey;
  #underWay = false;

  /** `folder` is where registry.db lies, `worker` the built device-import-worker. */
  constructor(registry: RegistryStore, folder: string, worker: URL, identityKey: IdentityKey) {
    this.#registry = registry;
    this.#folder = folder;
    this.#worker = worker;
    this.#identityKey = identityKey;
    this.#forget();
  }

  get underWay(): boolean {
    return this.#underWay;
  }

  /**
   * Imports what the bytes say, unless `mayCommit` says no when all of it is ready.
   * @throws AgentError registryFailed, or what reading the bytes throws
   */
  async run(
    task: Pick<ImportTask, 'order' | 'mtcUsers'>,
    bytes: AsyncIterable<Uint8Array>,
    mayCommit: () => boolean,
  ): Promise<{ readonly imported: Imported; readonly isCommitted: boolean }> {
    this.#underWay = true;
    const file = join(this.#folder, 'registry.db');
    const thread = new ImportThread(this.#worker, {
      ...task,
      file,
      beside: this.#beside,
      identityKey: this.#identityKey,
    });
    try {
      for await (const chunk of bytes) await thread.ask(Uint8Array.from(chunk)); // a copy: its buffer is the socket's
      return await this.#registry.writing(async () => {
        try {
          const imported = (await thread.ask('finish')) as Imported;
          const isCommitted = !('issues' in imported) && mayCommit();
          if (isCommitted) {
            await thread.ask('commit');
            this.#registry.grewBy(imported.added - imported.removed);
          }
          return { imported, isCommitted };
        } finally {
          await thread.end(); // whose lock goes with it
        }
      });
    } finally {
      await thread.end();
      this.#forget();
      this.#underWay = false;
    }
  }

  get #beside(): string {
    return join(this.#folder, 'registry-import.db');
  }

  #forget(): void {
    rmSync(this.#beside, { force: true });
  }
}

class ImportThread {
  readonly #worker: Worker;
  #lastWords: unknown;
  #hasEnded = false;

  constructor(url: URL, task: ImportTask) {
    this.#worker = new Worker(url, { workerData: task, resourceLimits: MEMORY_MOST });
    this.#worker.on('error', (cause) => {
      this.#lastWords = cause; // its exit follows
    });
    this.#worker.once('exit', () => {
      this.#hasEnded = true;
    });
  }

  ask(message: ImportMessage): Promise<ImportAnswer> {
    return new Promise((resolve, reject) => {
      const done = () => this.#worker.off('message', answered).off('exit', ended);
      const answered = (answer: ImportAnswer) => {
        done();
        resolve(answer);
      };
      const ended = () => {
        done();
        const why = (this.#lastWords as Error | undefined)?.message ?? 'its thread has ended';
        reject(new AgentError('registryFailed', `the import failed: ${why}`, { cause: this.#lastWords }));
      };
      if (this.#hasEnded) return ended();
      this.#worker.on('message', answered).on('exit', ended);
      this.#worker.postMessage(message);
    });
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}
