/**
 * Endpoints at rest: for 120 s after a grant's end its endpoint stands for
 * nobody, and its keys stay in the gate, where they catch leftovers. Whose it
 * was is kept as long: packets that still knock there concern that device.
 *
 * A grant that rests has a slot, as a live one has (slots.ts); those of a kind
 * stand in a queue, in the order in which their rest ends.
 */
import type { Endpoint } from '../core/net.ts';
import {
  type ExternalId,
  type GrantId,
  type MtcUserName,
  type Owner,
  PROTOCOLS,
  type Protocol,
} from '../core/words.ts';
import type { Dataplane } from '../dataplane/dataplane.ts';
import { type Endpoints, KINDS, type Kind, type Place } from './endpoints.ts';
import { HashIndex } from './hash-index.ts';
import { Interned, TEXTS } from './interned.ts';
import { REST_SECONDS } from './record.ts';
import { hashOfEndpoint, LONG, Slots, WORD } from './slots.ts';

const REST_NS = BigInt(REST_SECONDS) * 1_000_000_000n;

/** A grant that is laid to rest. */
export interface Rested extends Place {
  readonly number: number;
  readonly protocol: Protocol;
}

export class Rest {
  readonly #endpoints: Endpoints;
  readonly #dataplane: Dataplane;
  readonly #slots = new Slots();
  readonly #queues = Object.fromEntries(KINDS.map((kind) => [kind, new Queue(this.#slots)])) as Record<Kind, Queue>;
  readonly #byExternal = new HashIndex((slot) => this.#slots.hashOfEndpoint(slot));
  readonly #mtcUsers = new Interned<MtcUserName>(TEXTS);
  readonly #devices = new Interned<ExternalId>(TEXTS);

  constructor(endpoints: Endpoints, dataplane: Dataplane) {
    this.#endpoints = endpoints;
    this.#dataplane = dataplane;
  }

  get size(): number {
    return KINDS.reduce((sum, kind) => sum + this.#queues[kind].size, 0);
  }

  /** Whose a resting endpoint was; undefined where it does not rest, or no record says whose it was. */
  ownerOf(protocol: Protocol, { address, port }: Endpoint): Owner | undefined {
    const slots = this.#slots;
    const slot = this.#byExternal.find(
      hashOfEndpoint(address, port),
      (one) =>
        slots.word(one, WORD.externalPort) === port &&
        slots.isAddress(one, address) &&
        protocolAt(slots, one) === protocol,
    );
    if (slot < 0 || slots.word(slot, WORD.device) === 0) return undefined;
    return {
      grant: slots.text(slot, 'id') as GrantId,
      mtcUser: this.#mtcUsers.at(slots.word(slot, WORD.terms) - 1),
      device: this.#devices.at(slots.word(slot, WORD.device) - 1),
    };
  }

  /**
   * Lays an endpoint to rest; `elapsedMs` of its rest may have passed before
   * this start, but never more than all of it. `owner` is absent where the
   * gate has it and no record does, and where nothing was translated: a
   * device's own endpoint is whoever's holds the address.
   */
  lay({ index, number, protocol, external }: Rested, owner: Owner | undefined, nowNs: bigint, elapsedMs = 0): void {
    const elapsedNs = BigInt(Math.min(Math.max(elapsedMs, 0), REST_SECONDS * 1000)) * 1_000_000n;
    const slots = this.#slots;
    const slot = slots.take();
    slots.setLong(slot, LONG.expiresAtNs, nowNs + REST_NS - elapsedNs);
    slots.setDouble(slot, LONG.number, number);
    slots.setWord(slot, WORD.index, index);
    slots.setWord(slot, WORD.pair, PROTOCOLS.indexOf(protocol));
    slots.setAddress(slot, external.address);
    slots.setWord(slot, WORD.externalPort, external.port);
    slots.setText(slot, 'id', owner?.grant ?? '');
    slots.setWord(slot, WORD.terms, owner ? this.#mtcUsers.use(owner.mtcUser) + 1 : 0);
    slots.setWord(slot, WORD.device, owner ? this.#devices.use(owner.device) + 1 : 0);
    this.#byExternal.add(slot);
    this.#queues[this.#endpoints.kindOf(protocol, { index })].push(slot);
  }

  /**
   * In how many seconds, at least 1, the first endpoint of a kind may be free:
   * of those at rest, or, where none is, after a whole rest from now.
   */
  secondsUntilFree(kind: Kind, nowNs: bigint): number {
    const { first } = this.#queues[kind];
    const waitNs = first === undefined ? REST_NS : this.#slots.long(first, LONG.expiresAtNs) - nowNs;
    return Math.max(1, Math.ceil(Number(waitNs) / 1e9));
  }

  /** Frees endpoints whose rest is over, so many at the most. Returns whether there are more. */
  release(nowNs: bigint, limit: number): boolean {
    let left = limit;
    for (const kind of KINDS) {
      const queue = this.#queues[kind];
      for (let slot = queue.first; slot !== undefined; slot = queue.first) {
        if (this.#slots.long(slot, LONG.expiresAtNs) > nowNs) break;
        if (left === 0) return true;
        left -= 1;
        this.#free(slot);
        queue.shift();
      }
    }
    return false;
  }

  #free(slot: number): void {
    const slots = this.#slots;
    const index = slots.word(slot, WORD.index);
    // The gate has its keys, and after a reboot nothing.
    const mapping = this.#dataplane.entry(index)?.mapping;
    if (mapping?.number === slots.double(slot, LONG.number)) this.#dataplane.forget(mapping);
    const external = { address: slots.address(slot), port: slots.word(slot, WORD.externalPort) };
    this.#endpoints.free(protocolAt(slots, slot), { index, external });
    this.#byExternal.remove(slot);
    if (slots.word(slot, WORD.device) === 0) return;
    this.#mtcUsers.release(slots.word(slot, WORD.terms) - 1);
    this.#devices.release(slots.word(slot, WORD.device) - 1);
  }
}

/** Slots in the order in which they came. */
class Queue {
  size = 0;
  readonly #slots: Slots;
  #first = 0;
  #last = 0;

  constructor(slots: Slots) {
    this.#slots = slots;
  }

  get first(): number | undefined {
    return this.size > 0 ? this.#first : undefined;
  }

  push(slot: number): void {
    if (this.size === 0) this.#first = slot;
    else this.#slots.setWord(this.#last, WORD.secondAfter, slot);
    this.#last = slot;
    this.size += 1;
  }

  /** The first leaves, and its slot is free. */
  shift(): void {
    const left = this.#first;
    this.#first = this.#slots.word(left, WORD.secondAfter);
    this.size -= 1;
    this.#slots.give(left);
  }
}

function protocolAt(slots: Slots, slot: number): Protocol {
  return PROTOCOLS[slots.word(slot, WORD.pair)] as Protocol;
}
