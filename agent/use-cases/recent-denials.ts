/**
 * How many packets were denied within the last minute. The gate counts from
 * its beginning; this keeps what its count was in the minute that has passed,
 * one look a second, and no more.
 */
const MINUTE_NS = 60_000_000_000n;

export class RecentDenials {
  /** The looks of the last minute, oldest first. */
  #looks: { readonly atNs: bigint; readonly total: bigint }[] = [];

  constructor(nowNs: bigint, total: bigint) {
    this.note(nowNs, total);
  }

  /** Keeps what the count is at this moment. */
  note(nowNs: bigint, total: bigint): void {
    this.#looks = [...this.#within(nowNs), { atNs: nowNs, total }];
  }

  /** Since the oldest look that is no older than a minute; less where the agent is younger than that. */
  inLastMinute(nowNs: bigint, total: bigint): number {
    return Number(total - (this.#within(nowNs)[0]?.total ?? total));
  }

  #within(nowNs: bigint) {
    return this.#looks.filter(({ atNs }) => atNs >= nowNs - MINUTE_NS);
  }
}
