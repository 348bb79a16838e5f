/**
 * Databases that nothing rests on, and that never stop a start: a file that
 * cannot be used is put aside (`NAME.unusable`; the one put aside before makes
 * room) and a new one begun; where even that fails, it is kept in memory for
 * as long as the agent runs.
 */
import { renameSync, rmSync } from 'node:fs';
import { AgentError } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import type { Log } from '../core/ports.ts';

/** Opens a file, a new one in its place, or `:memory:`. */
export function openUsable<Opened>(file: string, open: (file: string) => Opened, log: Log, event: EventName): Opened {
  const places = [() => open(file), () => open(putAside(file)), () => open(':memory:')];
  for (const attempt of places) {
    try {
      return attempt();
    } catch (cause) {
      log.error({ file, why: (cause as Error).message }, event);
    }
  }
  throw new AgentError('internal', 'SQLite opens no database in memory');
}

/** Makes room for a new file; returns its name. */
function putAside(file: string): string {
  for (const end of ['-wal', '-shm']) rmSync(`${file}${end}`, { force: true });
  renameSync(file, `${file}.unusable`);
  return file;
}
