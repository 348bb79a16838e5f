/**
 * How many requests each server has made in the last minute, exactly: the
 * times of those that were not refused for their rate. A server that goes on
 * hammering is heard again as soon as the old ones are a minute old.
 */
import type { ServerName } from './words.ts';

const WINDOW_MS = 60_000;

/** Times in order; those before `head` are older than the window. */
interface Times {
  values: number[];
  head: number;
}

export class RequestRates {
  readonly #times = new Map<ServerName, Times>();

  /** Requests in the minute before `nowNs` (CLOCK_MONOTONIC). */
  inLastMinute(server: ServerName, nowNs: bigint): number {
    const times = this.#times.get(server);
    if (!times) return 0;
    const oldest = Number(nowNs / 1_000_000n) - WINDOW_MS;
    while (times.head < times.values.length && (times.values[times.head] as number) <= oldest) times.head += 1;
    // Cut the old ones off when they are the larger half: each is moved once at most.
    if (times.head * 2 > times.values.length) {
      times.values = times.values.slice(times.head);
      times.head = 0;
    }
    return times.values.length - times.head;
  }

  /** In how many seconds, at least 1, a server will have made fewer than `limit` requests in the last minute. */
  secondsUntilBelow(limit: number, server: ServerName, nowNs: bigint): number {
    const count = this.inLastMinute(server, nowNs);
    const times = this.#times.get(server);
    // The one that must be older than a minute, and with it all before it.
    const last = times?.values[times.head + count - limit];
    const waitMs = last === undefined ? 0 : last + WINDOW_MS - Number(nowNs / 1_000_000n);
    return Math.max(1, Math.ceil(waitMs / 1000));
  }

  /** Counts a request. */
  add(server: ServerName, nowNs: bigint): void {
    const nowMs = Number(nowNs / 1_000_000n);
    const times = this.#times.get(server);
    if (times) times.values.push(nowMs);
    else this.#times.set(server, { values: [nowMs], head: 0 });
  }
}
