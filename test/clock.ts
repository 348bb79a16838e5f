import type { Clock, Log, Random } from '../agent/core/ports.ts';

/** A clock whose hands the test holds. UTC and the boot's clocks move together; a suspend moves all but one. */
export class HandClock implements Clock {
  utcMs = Date.UTC(2026, 0, 1, 12);
  monotonic = 1_000_000_000_000n;
  suspended = 0n;

  nowMs(): number {
    return this.utcMs;
  }

  monotonicNs(): bigint {
    return this.monotonic;
  }

  boottimeNs(): bigint {
    return this.monotonic + this.suspended;
  }

  pass(seconds: number): void {
    this.utcMs += seconds * 1000;
    this.monotonic += BigInt(Math.round(seconds * 1000)) * 1_000_000n;
  }

  suspend(seconds: number): void {
    this.utcMs += seconds * 1000;
    this.suspended += BigInt(Math.round(seconds * 1000)) * 1_000_000n;
  }

  /** The machine boots anew, `seconds` after it went down. */
  reboot(seconds = 1): void {
    this.utcMs += seconds * 1000;
    this.monotonic = 5_000_000_000n;
    this.suspended = 0n;
  }
}

/** The same numbers for the same seed (mulberry32); for tests only. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    integer: (below) => Math.floor(next() * below),
    bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(next() * 256)),
  };
}

/** A log that keeps what it is told. */
export class KeptLog implements Log {
  readonly lines: { level: string; event: string; [field: string]: unknown }[] = [];

  debug(fields: object, event: string): void {
    this.lines.push({ level: 'debug', event, ...fields });
  }
  info(fields: object, event: string): void {
    this.lines.push({ level: 'info', event, ...fields });
  }
  warn(fields: object, event: string): void {
    this.lines.push({ level: 'warn', event, ...fields });
  }
  error(fields: object, event: string): void {
    this.lines.push({ level: 'error', event, ...fields });
  }

  /** The lines of one event. */
  of(event: string) {
    return this.lines.filter((line) => line.event === event);
  }
}
