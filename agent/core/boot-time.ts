/** Moments on a clock of the boot (ports.ts), which counts nanoseconds, and what is left until one in UTC. */

/** The moment so many milliseconds after `nowNs`; one that is past already is now. */
export function momentIn(leftMs: number, nowNs: bigint): bigint {
  return nowNs + BigInt(Math.max(0, Math.floor(leftMs))) * 1_000_000n;
}

/** Until when something was accepted, in UTC, and for how long. */
export interface Accepted {
  readonly untilMs: number;
  readonly seconds: number;
}

/** Until when it lasts on this boot's clock: over a reboot UTC counts, and never more is left than it was accepted for. */
export function onThisBoot({ untilMs, seconds }: Accepted, nowMs: number, nowNs: bigint): bigint {
  return momentIn(Math.min(untilMs - nowMs, seconds * 1000), nowNs);
}
