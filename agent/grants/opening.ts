/**
 * Grants whose record is being written: they are not there yet, and count all
 * the same, so that two requests under way cannot both have the last of
 * something. Few at a time, and each for some milliseconds: plain maps, where
 * the live ones (live.ts) are packed.
 */
import type { ExternalId, ServerName } from '../core/words.ts';
import type { GrantKey, GrantRecord } from './record.ts';

export class Opening {
  readonly #byKey = new Map<string, GrantRecord>();
  readonly #ofServer = new Map<string, number>();
  readonly #onDevice = new Map<string, number>();

  withKey(key: GrantKey): GrantRecord | undefined {
    return this.#byKey.size === 0 ? undefined : this.#byKey.get(textOf(key));
  }

  countOfServer(server: ServerName): number {
    return this.#ofServer.get(server) ?? 0;
  }

  countOnDevice(server: ServerName, device: ExternalId): number {
    return this.#onDevice.get(`${server} ${device}`) ?? 0;
  }

  all(): Iterable<GrantRecord> {
    return this.#byKey.values();
  }

  put(record: GrantRecord): void {
    this.#byKey.set(textOf(record), record);
    this.#count(record, 1);
  }

  remove(record: GrantRecord): void {
    if (this.#byKey.delete(textOf(record))) this.#count(record, -1);
  }

  #count({ server, device }: GrantRecord, by: 1 | -1): void {
    add(this.#ofServer, server, by);
    add(this.#onDevice, `${server} ${device}`, by);
  }
}

function add(counts: Map<string, number>, key: string, by: number): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

function textOf({ server, device, family, protocol, devicePort }: GrantKey): string {
  return `${server} ${device} ${family} ${protocol} ${devicePort}`;
}
