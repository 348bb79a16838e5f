/**
 * Endpoints at rest: for 120 s after a grant's end its endpoint stands for
 * nobody, and its keys stay in the gate, where they catch leftovers. Whose it
 * was is kept as long: packets that still knock there concern that device.
 */
import type { Endpoint, Family } from '../core/net.ts';
import { endpointKey, type Owner, type Protocol } from '../core/words.ts';
import type { Dataplane, Mapping } from '../dataplane/dataplane.ts';
import type { Endpoints } from './endpoints.ts';
import { REST_SECONDS } from './record.ts';

const REST_NS = BigInt(REST_SECONDS) * 1_000_000_000n;

export class Rest {
  readonly #endpoints: Endpoints;
  readonly #dataplane: Dataplane;
  /** In the order in which their rest ends. */
  #resting: { readonly mapping: Mapping; readonly untilNs: bigint }[] = [];
  readonly #owners = new Map<string, Owner>();

  constructor(endpoints: Endpoints, dataplane: Dataplane) {
    this.#endpoints = endpoints;
    this.#dataplane = dataplane;
  }

  get size(): number {
    return this.#resting.length;
  }

  /** Whose a resting endpoint was; undefined where it does not rest, or no record says whose it was. */
  ownerOf(protocol: Protocol, external: Endpoint): Owner | undefined {
    return this.#owners.get(endpointKey(protocol, external));
  }

  /**
   * Lays an endpoint to rest; `elapsedMs` of its rest may have passed before
   * this start, but never more than all of it. `owner` is absent where the
   * gate has it and no record does.
   */
  lay(mapping: Mapping, owner: Owner | undefined, nowNs: bigint, elapsedMs = 0): void {
    if (owner) this.#owners.set(endpointKey(mapping.protocol, mapping.external), owner);
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
      this.#owners.delete(endpointKey(mapping.protocol, mapping.external));
      this.#dataplane.forget(mapping);
      this.#endpoints.free(mapping.protocol, mapping);
    }
  }
}
