/**
 * The live grants in memory, found by what requests, events and packets know:
 * id, key, inner address, external endpoint, server, device. Every look-up and change costs the same
 * however many grants are live.
 */
import type { Endpoint } from '../core/net.ts';
import {
  type ExternalId,
  endpointKey,
  type GrantId,
  type InnerAddress,
  innerKey,
  type Protocol,
  type ServerName,
} from '../core/words.ts';
import { type GrantRecord, keyOf } from './record.ts';

export class LiveGrants {
  readonly #byId = new Map<GrantId, GrantRecord>();
  readonly #byKey = new Map<string, GrantId>();
  readonly #byExternal = new Map<string, GrantId>();
  readonly #byInner = new Map<string, Set<GrantId>>();
  readonly #byServer = new Map<string, Set<GrantId>>();
  readonly #byServerAndDevice = new Map<string, Set<GrantId>>();

  get size(): number {
    return this.#byId.size;
  }

  all(): IterableIterator<GrantRecord> {
    return this.#byId.values();
  }

  get(id: string): GrantRecord | undefined {
    return this.#byId.get(id as GrantId);
  }

  withKey(key: string): GrantRecord | undefined {
    const id = this.#byKey.get(key);
    return id && this.#byId.get(id);
  }

  atExternal(protocol: Protocol, external: Endpoint): GrantRecord | undefined {
    const id = this.#byExternal.get(endpointKey(protocol, external));
    return id && this.#byId.get(id);
  }

  atInner(inner: InnerAddress): GrantRecord[] {
    return this.#records(this.#byInner.get(innerKey(inner)));
  }

  ofServer(server: ServerName): GrantRecord[] {
    return this.#records(this.#byServer.get(server));
  }

  countOfServer(server: ServerName): number {
    return this.#byServer.get(server)?.size ?? 0;
  }

  countOnDevice(server: ServerName, device: ExternalId): number {
    return this.#byServerAndDevice.get(`${server} ${device}`)?.size ?? 0;
  }

  put(record: GrantRecord): void {
    this.#byId.set(record.id, record);
    this.#byKey.set(keyOf(record), record.id);
    this.#byExternal.set(endpointKey(record.protocol, record.external), record.id);
    for (const [index, key] of this.#placesOf(record)) {
      const ids = index.get(key);
      if (ids) ids.add(record.id);
      else index.set(key, new Set([record.id]));
    }
  }

  remove(record: GrantRecord): void {
    this.#byId.delete(record.id);
    this.#byKey.delete(keyOf(record));
    this.#byExternal.delete(endpointKey(record.protocol, record.external));
    for (const [index, key] of this.#placesOf(record)) {
      const ids = index.get(key);
      ids?.delete(record.id);
      if (ids?.size === 0) index.delete(key);
    }
  }

  #placesOf(record: GrantRecord): [Map<string, Set<GrantId>>, string][] {
    return [
      [this.#byInner, innerKey(record.inner)],
      [this.#byServer, record.server],
      [this.#byServerAndDevice, `${record.server} ${record.device}`],
    ];
  }

  #records(ids: ReadonlySet<GrantId> | undefined): GrantRecord[] {
    return [...(ids ?? [])].flatMap((id) => this.#byId.get(id) ?? []);
  }
}
