/**
 * The requests that wait, as they are asked for: by id, by what they are for,
 * in pages, and by when their time is over. What becomes of them: waiting.ts.
 */
import type { ExternalId, GrantId, MtcUserName, ServerName } from '../core/words.ts';
import type { GrantKey } from './record.ts';
import type { WaitingRequest } from './waiting-request.ts';

/** Which: of a server, or for a device, or both; or for the devices of an MTC user; all, where none is named. */
export interface Selection {
  readonly mtcUser?: MtcUserName | undefined;
  readonly server?: ServerName | undefined;
  readonly device?: ExternalId | undefined;
}

/** Some of a list, the place of the last of them, whether more wait, and how many there are in all. */
export interface WaitingPage {
  readonly requests: readonly WaitingRequest[];
  readonly last: number;
  readonly more: boolean;
  readonly total: number;
}

export const NO_WAITING: WaitingPage = { requests: [], last: 0, more: false, total: 0 };

export class WaitingList {
  /** In the order in which they came. */
  readonly #byId = new Map<GrantId, WaitingRequest>();
  readonly #ofServer = new Map<ServerName, Set<WaitingRequest>>();
  readonly #ofMtcUser = new Map<MtcUserName, Set<WaitingRequest>>();
  readonly #onDevice = new Map<ExternalId, Set<WaitingRequest>>();
  /** Where each stands in a list. */
  readonly #places = new WeakMap<WaitingRequest, number>();
  #last = 0;
  /** By the second of the boot's clock in which they end. */
  readonly #ending = new Map<number, Set<WaitingRequest>>();
  /** The first second whose requests may not have ended. */
  #second: number;

  constructor(nowNs: bigint) {
    this.#second = secondOf(nowNs);
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: string): WaitingRequest | undefined {
    return this.#byId.get(id as GrantId);
  }

  all(): Iterable<WaitingRequest> {
    return this.#byId.values();
  }

  onDevice(device: ExternalId): Iterable<WaitingRequest> {
    return this.#onDevice.get(device) ?? [];
  }

  ofMtcUser(mtcUser: MtcUserName): Iterable<WaitingRequest> {
    return this.#ofMtcUser.get(mtcUser) ?? [];
  }

  /** Those for which something waits. */
  devices(): Iterable<ExternalId> {
    return this.#onDevice.keys();
  }

  withKey(key: GrantKey, nowNs: bigint): WaitingRequest | undefined {
    for (const one of this.onDevice(key.device)) {
      const isSame = one.server === key.server && one.family === key.family && one.protocol === key.protocol;
      if (isSame && one.devicePort === key.devicePort && !isOver(one, nowNs)) return one;
    }
    return undefined;
  }

  countOfServer(server: ServerName): number {
    return this.#ofServer.get(server)?.size ?? 0;
  }

  countOnDevice(server: ServerName, device: ExternalId): number {
    let count = 0;
    for (const one of this.onDevice(device)) if (one.server === server) count += 1;
    return count;
  }

  /** Those of a server, or for a device, or both, in the order in which they came, behind a place. */
  page(of: Selection, after: number, limit: number, nowNs: bigint): WaitingPage {
    const requests: WaitingRequest[] = [];
    let [total, last, more] = [0, after, false];
    for (const one of this.#select(of)) {
      if (isOver(one, nowNs)) continue;
      total += 1;
      const place = this.#places.get(one) as number;
      if (place <= after) continue;
      more = requests.length === limit;
      if (more) continue;
      requests.push(one);
      last = place;
    }
    return { requests, last, more, total };
  }

  #select({ mtcUser, server, device }: Selection): Iterable<WaitingRequest> {
    if (mtcUser !== undefined) return this.ofMtcUser(mtcUser);
    if (device === undefined) return server === undefined ? this.#byId.values() : (this.#ofServer.get(server) ?? []);
    const onDevice = [...this.onDevice(device)];
    return server === undefined ? onDevice : onDevice.filter((one) => one.server === server);
  }

  put(request: WaitingRequest): void {
    this.#last += 1;
    this.#places.set(request, this.#last);
    this.#byId.set(request.id, request);
    addTo(this.#ofServer, request.server, request);
    addTo(this.#ofMtcUser, request.mtcUser, request);
    addTo(this.#onDevice, request.device, request);
    addTo(this.#ending, secondOf(request.waitsUntilNs), request);
  }

  remove(request: WaitingRequest): void {
    this.#byId.delete(request.id);
    removeFrom(this.#ofServer, request.server, request);
    removeFrom(this.#ofMtcUser, request.mtcUser, request);
    removeFrom(this.#onDevice, request.device, request);
    removeFrom(this.#ending, secondOf(request.waitsUntilNs), request);
  }

  /** Those whose time is over, of the seconds that have not been looked at whole yet. */
  over(nowNs: bigint): WaitingRequest[] {
    const now = secondOf(nowNs);
    const over: WaitingRequest[] = [];
    // None is put into a second that is past; of the present one some are over.
    for (; this.#second < now; this.#second += 1) over.push(...(this.#ending.get(this.#second) ?? []));
    for (const one of this.#ending.get(now) ?? []) if (isOver(one, nowNs)) over.push(one);
    return over;
  }
}

export function isOver({ waitsUntilNs }: WaitingRequest, nowNs: bigint): boolean {
  return waitsUntilNs <= nowNs;
}

function secondOf(ns: bigint): number {
  return Number(ns / 1_000_000_000n);
}

function addTo<Key, Item>(sets: Map<Key, Set<Item>>, key: Key, item: Item): void {
  const set = sets.get(key) ?? new Set();
  sets.set(key, set.add(item));
}

function removeFrom<Key, Item>(sets: Map<Key, Set<Item>>, key: Key, item: Item): void {
  const set = sets.get(key);
  set?.delete(item);
  if (set?.size === 0) sets.delete(key);
}
