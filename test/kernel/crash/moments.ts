/** Moments as all processes of the harness count them, and the gate with them: microseconds of CLOCK_MONOTONIC. */
export function nowUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

/** A moment in UTC, as the API writes it, on that clock. */
export function momentOf(utc: string): number {
  return nowUs() + (Date.parse(utc) - Date.now()) * 1000;
}

export const MS = 1000;
export const SECOND = 1_000_000;
