/**
 * The log, with the last event of level error kept aside: what `mtgate status`
 * shows first at three in the morning, and nobody has to search the journal for.
 */
import type { EventName } from '../core/events.ts';
import type { Clock, Log } from '../core/ports.ts';

export interface LastFault {
  readonly at: string;
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

export class FaultKeepingLog implements Log {
  last: LastFault | undefined;
  readonly #log: Log;
  readonly #clock: Pick<Clock, 'nowMs'>;

  constructor(log: Log, clock: Pick<Clock, 'nowMs'>) {
    this.#log = log;
    this.#clock = clock;
  }

  debug(fields: object, event: EventName): void {
    this.#log.debug(fields, event);
  }
  info(fields: object, event: EventName): void {
    this.#log.info(fields, event);
  }
  warn(fields: object, event: EventName): void {
    this.#log.warn(fields, event);
  }
  error(fields: object, event: EventName): void {
    this.last = { at: new Date(this.#clock.nowMs()).toISOString(), event, fields: { ...fields } };
    this.#log.error(fields, event);
  }
}
