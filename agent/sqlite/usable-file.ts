/**
 * Databases that nothing rests on. One whose content is of no use to this
 * mtgate (database.ts, `isUnfit`) is put aside whole, and a new one begun. What
 * may pass by itself, such as a full disk, says nothing of the content: the
 * file is left as it is, for the next start.
 *
 * Invariant: what was put aside is never written over, and what had not been
 * taken over from the log goes with it. For that there are so many names; with
 * all of them taken, the file stays where it is.
 */
import { existsSync, renameSync } from 'node:fs';
import type { EventName } from '../core/events.ts';
import type { Log } from '../core/ports.ts';
import { isUnfit } from './database.ts';

/** Of one file. They may be large, and nobody may be looking. */
const ASIDE_MOST = 5;

/** For what never stops a start: opens a file, a new one in its place, or one in memory for as long as the agent runs. */
export function openUsable<Opened>(file: string, open: (file: string) => Opened, log: Log, event: EventName): Opened {
  try {
    return openOrBeginAnew(file, open, log, event);
  } catch (cause) {
    log.error({ file, why: (cause as Error).message, kept: 'inMemory' }, event);
    return open(':memory:');
  }
}

/** Opens a file, or a new one in its place. @throws Error of what may pass by itself, and the file is as it was */
export function openOrBeginAnew<Opened>(
  file: string,
  open: (file: string) => Opened,
  log: Log,
  event: EventName,
): Opened {
  try {
    return open(file);
  } catch (cause) {
    if (!isUnfit(cause)) throw cause;
    const why = (cause as Error).message;
    log.error({ file, why, putAside: putAside(file, why) }, event);
    return open(file);
  }
}

/**
 * Makes room for a new file, which no connection may be open to; returns where
 * it is now. The log goes first: one that is left beside a new file is deleted
 * by SQLite.
 * @throws Error where there is no name for it
 */
export function putAside(file: string, why: string): string {
  const names = Array.from({ length: ASIDE_MOST }, (_, i) => `${file}.unusable${i === 0 ? '' : `.${i + 1}`}`);
  const aside = names.find((name) => !existsSync(name) && !existsSync(`${name}-wal`));
  if (aside === undefined)
    throw new Error(`${why}; and ${names.join(', ')} are there already: look at them, move them`);
  for (const end of ['-wal', '-shm', ''])
    if (existsSync(`${file}${end}`)) renameSync(`${file}${end}`, `${aside}${end}`);
  return aside;
}
