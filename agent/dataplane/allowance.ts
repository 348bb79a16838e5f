/**
 * What a grant may still carry, in the twin (memory.ts): a bucket of tokens,
 * one a packet, that holds one second's worth and fills at the rate; and a sum
 * of bytes. The gate keeps the same as one word each (limits.h).
 */
import type { PacketLimits } from '../core/words.ts';

const SECOND_NS = 1_000_000_000n;

export class Allowance {
  limits: PacketLimits;
  /** How long the bucket takes until it is full, and since when: a second at the most, whatever the rate. */
  #wantsNs = 0n;
  #sinceNs = 0n;

  constructor(limits: PacketLimits) {
    this.limits = limits;
  }

  /** Takes a token; false where there is none. */
  takesPacket(nowNs: bigint): boolean {
    const { packetsPerSecond } = this.limits;
    if (packetsPerSecond === undefined) return true;
    const filledNs = nowNs - this.#sinceNs;
    const wantsNs = (this.#wantsNs > filledNs ? this.#wantsNs - filledNs : 0n) + SECOND_NS / BigInt(packetsPerSecond);
    if (wantsNs > SECOND_NS) return false;
    this.#wantsNs = wantsNs;
    this.#sinceNs = nowNs;
    return true;
  }

  /** Whether so many bytes more may be carried, when so many have been. */
  hasRoomFor(bytes: number, used: bigint): boolean {
    return this.limits.bytes === undefined || used + BigInt(bytes) <= BigInt(this.limits.bytes);
  }
}
