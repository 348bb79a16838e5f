/**
 * Endpoints at rest: for 120 s after a grant's end its endpoint stands for
 * nobody, and its keys stay in the gate, where they catch leftovers.
 */
import type { Family } from '../core/net.ts';
import type { Protocol } from '../core/words.ts';
import type { Dataplane, Mapping } from '../dataplane/dataplane.ts';
import type { Endpoints } from './endpoints.ts';
import { REST_SECONDS } from './record.ts';

const REST_NS = BigInt(REST_SECONDS) * 1_000_000_000n;

export class Rest {
  readonly #endpoints: Endpoints;
  readonly #dataplane: Dataplane;
  /** In the order in which their rest ends. */
  #resting: { readonly mapping: Mapping; readonly untilNs: bigint }[] = [];

  constructor(endpoints: Endpoints, dataplane: Dataplane) {
    this.#endpoints = endpoints;
    this.#dataplane = dataplane;
  }

  get size(): number {
    return this.#resting.length;
  }

  /** Lays an endpoint to rest; `elapsedMs` of its rest may have passed before this start, but never more than all of it. */
  lay(mapping: Mapping, nowNs: bigint, elapsedMs = 0): void {
    const elapsedNs = BigInt(Math.min(Math.max(elapsedMs, 0), REST_SECONDS * 1000)) * 1_000_000n;
    this.#resting.push({ mapping, untilNs: nowNs + REST_NS - elapsedNs });
  }

  /**
   * In how many seconds, at least 1, the first endpoint of a kind may be free:
   * of those at rest, or, where none is, after a whole rest from now.
   */
  secondsUntilFree(family: Family, protocol: Protocol, nowNs: bigint): number {
    const first = this.#resting.find(
      ({ mapping }) =>
        mapping.external.address.family === family && (family === 'ipv6' || mapping.protocol === protocol),
    );
    const waitNs = first ? first.untilNs - nowNs : REST_NS;
    return Math.max(1, Math.ceil(Number(waitNs) / 1e9));
  }

  /** Frees the endpoints whose rest is over. */
  release(nowNs: bigint): void {
    const over = this.#resting.findIndex((one) => one.untilNs > nowNs);
    const rested = this.#resting.splice(0, over === -1 ? this.#resting.length : over);
    for (const { mapping } of rested) {
      this.#dataplane.forget(mapping);
      this.#endpoints.free(mapping.protocol, mapping);
    }
  }
}
