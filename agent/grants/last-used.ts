/**
 * What was last used on this host, in a small file beside the database: how
 * many batches had been written, and the highest small numbers given (store.ts).
 * A database that knows of fewer is an older copy, put back: what it calls live
 * may have ended since, and who it says holds an address may hold it no more.
 * The numbers are given to no other name, whatever the database says: the gate
 * may still have entries that bear them.
 *
 * Invariant: never ahead of what is durable in the database. It may lag by a
 * moment; whoever puts the whole folder back puts this back too, and is not
 * found out.
 */
import { readFileSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { AgentError } from '../core/errors.ts';

export interface LastUsed {
  readonly batches: number;
  readonly class: number;
  readonly realm: number;
}

const NEVER: LastUsed = { batches: 0, class: 0, realm: 0 };

/** Zeros where nothing was used here yet. @throws AgentError storeInvalid where the file is not ours */
export function readLastUsed(file: string): LastUsed {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return NEVER;
    throw new AgentError('storeInvalid', `${file} cannot be read`, { cause });
  }
  try {
    const found = JSON.parse(text) as LastUsed;
    const isWhole = [found.batches, found.class, found.realm].every(Number.isSafeInteger);
    if (!isWhole) throw new Error('it has no numbers');
    return found;
  } catch (cause) {
    throw new AgentError('storeInvalid', `${file} is not what was written there: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Whole or not at all. @throws AgentError storeFailed */
export async function writeLastUsed(file: string, { batches, class: highestClass, realm }: LastUsed): Promise<void> {
  const next = `${file}.new`;
  try {
    const handle = await open(next, 'w', 0o640);
    try {
      await handle.writeFile(`${JSON.stringify({ batches, class: highestClass, realm })}\n`);
      await handle.datasync();
    } finally {
      await handle.close();
    }
    await rename(next, file);
  } catch (cause) {
    throw new AgentError('storeFailed', `${file}: ${(cause as Error).message}`, { cause });
  }
}
