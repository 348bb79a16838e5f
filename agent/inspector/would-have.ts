/**
 * What staged filters would have dropped or let through: a line in the log for
 * each, at most one a minute a filter, with how many copies it stands for. The
 * packets themselves are counted in the base.
 */
import { type Clock, type Log, monotonicMs } from '../core/ports.ts';
import { packetDenial } from './packet-denial.ts';

const LINE_EVERY_MS = 60_000;

export class WouldHave {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #told = new Map<string, { atMs: number; leftOut: number }>();

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
  }

  note(filter: string, bytes: Uint8Array): void {
    const nowMs = monotonicMs(this.#clock);
    const told = this.#told.get(filter);
    if (told && nowMs < told.atMs + LINE_EVERY_MS) {
      told.leftOut += 1;
      return;
    }
    this.#told.set(filter, { atMs: nowMs, leftOut: 0 });
    const { source, target } = packetDenial('filtered', bytes, { ownerOf: () => undefined });
    this.#log.info({ filter, source, target, leftOut: told?.leftOut ?? 0 }, 'filterWouldHave');
  }
}
