/**
 * Triggers that are pending, as little of each as is needed to say which goes
 * next: for each device those with priority first, each kind in the order in
 * which they came. What is sent is read from the store when its turn comes, so
 * that a hundred thousand of them are no burden.
 */
import type { ExternalId, GrantId, ServerName, TriggerId } from '../core/words.ts';
import type { DeliveryOutcome } from './delivery.ts';

export interface Pending {
  readonly id: TriggerId;
  readonly server: ServerName;
  readonly device: ExternalId;
  readonly isPriority: boolean;
  /** 0: it is tried once. */
  readonly validitySeconds: number;
  readonly validUntilNs: bigint;
  /** The grant request that it belongs to. */
  readonly grant?: GrantId;
  /** Its record is being written, or that of its grant request: it counts, and does not go yet. */
  isBlocked: boolean;
  attempts: number;
  lastOutcome?: DeliveryOutcome;
}

export class TriggerQueue {
  /** In the order in which they came. */
  readonly #byId = new Map<TriggerId, Pending>();
  readonly #places = new Map<TriggerId, number>();
  readonly #onDevice = new Map<ExternalId, Pending[]>();
  readonly #ofServer = new Map<ServerName, Set<TriggerId>>();
  readonly #ofGrant = new Map<GrantId, Pending>();
  #last = 0;

  get size(): number {
    return this.#byId.size;
  }

  /** Puts one in, behind those of its kind; one that is there already changes and keeps its place. */
  put(pending: Pending): void {
    const place = this.#places.get(pending.id) ?? ++this.#last;
    this.remove(pending.id);
    this.#byId.set(pending.id, pending);
    if (pending.grant !== undefined) this.#ofGrant.set(pending.grant, pending);
    this.#places.set(pending.id, place);
    const ids = this.#ofServer.get(pending.server) ?? new Set();
    this.#ofServer.set(pending.server, ids.add(pending.id));
    const others = this.#onDevice.get(pending.device) ?? [];
    const at = others.findIndex((other) => this.#goesBefore(pending, other));
    others.splice(at < 0 ? others.length : at, 0, pending);
    this.#onDevice.set(pending.device, others);
  }

  remove(id: TriggerId): void {
    const pending = this.#byId.get(id);
    if (!pending) return;
    const { server, device, grant } = pending;
    this.#byId.delete(id);
    if (grant !== undefined) this.#ofGrant.delete(grant);
    this.#places.delete(id);
    const ids = this.#ofServer.get(server);
    ids?.delete(id);
    if (ids?.size === 0) this.#ofServer.delete(server);
    const left = (this.#onDevice.get(device) ?? []).filter((other) => other !== pending);
    if (left.length > 0) this.#onDevice.set(device, left);
    else this.#onDevice.delete(device);
  }

  get(id: string): Pending | undefined {
    return this.#byId.get(id as TriggerId);
  }

  /** The one that belongs to a grant request. */
  ofGrant(grant: GrantId): Pending | undefined {
    return this.#ofGrant.get(grant);
  }

  /** Which goes next to a device. */
  first(device: ExternalId): Pending | undefined {
    return this.#onDevice.get(device)?.find(({ isBlocked }) => !isBlocked);
  }

  /** Those for a device, the next one first. */
  onDevice(device: ExternalId): readonly Pending[] {
    return this.#onDevice.get(device) ?? [];
  }

  /** The devices that have any. */
  devices(): Iterable<ExternalId> {
    return this.#onDevice.keys();
  }

  countOfServer(server: ServerName): number {
    return this.#ofServer.get(server)?.size ?? 0;
  }

  /** The ids of a server's, in no order that means anything. */
  ofServer(server: ServerName): readonly TriggerId[] {
    return [...(this.#ofServer.get(server) ?? [])];
  }

  #goesBefore(one: Pending, other: Pending): boolean {
    if (one.isPriority !== other.isPriority) return one.isPriority;
    return (this.#places.get(one.id) as number) < (this.#places.get(other.id) as number);
  }
}
