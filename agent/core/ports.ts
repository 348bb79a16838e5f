/**
 * What the pure core is given from outside: a clock, a source of randomness,
 * a log. Everything that decides takes these as values, so that a test can
 * hold the hands of the clock and the dice.
 */
import type { EventName } from './events.ts';

/**
 * Three clocks, all of the host.
 * `monotonicNs` is CLOCK_MONOTONIC, the one the gate compares ends with; it
 * stands still while the host is suspended. `boottimeNs` is CLOCK_BOOTTIME,
 * which does not: their difference grows by each suspend. `nowMs` is UTC and
 * may jump.
 */
export interface Clock {
  nowMs(): number;
  monotonicNs(): bigint;
  boottimeNs(): bigint;
}

/** To measure how long something takes, and what is due: whole milliseconds that no change of the time of day moves. */
export function monotonicMs(clock: Pick<Clock, 'monotonicNs'>): number {
  return Number(clock.monotonicNs() / 1_000_000n);
}

/** A cryptographic source (RFC 6056, 3.3: ports must not be predictable). */
export interface Random {
  /** A whole number from 0 up to, and without, `below` (at most 2^48). */
  integer(below: number): number;
  bytes(count: number): Uint8Array;
}

/** Fields first, then the event's fixed name (events.ts): one line a fact. */
export interface Log {
  debug(fields: object, event: EventName): void;
  info(fields: object, event: EventName): void;
  warn(fields: object, event: EventName): void;
  error(fields: object, event: EventName): void;
}
