/**
 * Log lines that anybody can cause, without a certificate: failed handshakes,
 * connections that are shed. Only so many are written in a second; what was
 * left out is counted in the next line, so that the log neither fills a disk
 * nor lies.
 */
import type { EventName } from '../core/events.ts';
import type { Clock, Log } from '../core/ports.ts';

const LINES_PER_SECOND = 20;

export class SparingLog {
  readonly #log: Log;
  readonly #clock: Clock;
  #second = 0;
  #lines = 0;
  #leftOut = 0;

  constructor(log: Log, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
  }

  /** Whether it was written. */
  info(fields: object, event: EventName): boolean {
    const now = Math.floor(this.#clock.nowMs() / 1_000);
    if (now !== this.#second) {
      this.#second = now;
      this.#lines = 0;
    }
    this.#lines += 1;
    if (this.#lines > LINES_PER_SECOND) {
      this.#leftOut += 1;
      return false;
    }
    this.#log.info(this.#leftOut > 0 ? { ...fields, leftOut: this.#leftOut } : fields, event);
    this.#leftOut = 0;
    return true;
  }
}
