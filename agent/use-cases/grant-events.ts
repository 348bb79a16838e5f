/**
 * What a server is told of its grants without asking: that one which waited is
 * granted, that one is about to end, that one has ended and why. To its sinks,
 * to the place that the request named, and to whoever follows by the API.
 *
 * What is pushed names its grant, and its device only where that has no number
 * or numbers are kept: it waits on the disk. Who follows is told both.
 *
 * Where a server has no sink and no follower, nothing is done for it but to
 * look that this is so. Ids are made of the grant and what happened to it: told
 * again after a restart, it is the same event. What ended while the agent
 * stood still is told when it is found (`begin`).
 */

import type { StreamEvent } from '../api/operation.ts';
import { type Grant, grantBody, type Wait } from '../api/routes.ts';
import type { Clock, Log } from '../core/ports.ts';
import type { ServerName } from '../core/words.ts';
import type { GrantWatcher } from '../grants/ground.ts';
import type { LiveGrants } from '../grants/live.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { WaitingRequest } from '../grants/waiting-request.ts';
import type { Pushes } from './pushes.ts';

export interface GrantEventParts {
  /** Absent where nothing is pushed. */
  readonly pushes: Pick<Pushes, 'allowed' | 'notify' | 'tellServer' | 'listens'> | undefined;
  /** Where requests wanted to be told of their grants; kept. */
  readonly sinks: GrantSinks | undefined;
  readonly view: (record: GrantRecord | WaitingRequest) => Grant | Wait;
  /** Whether MSISDN may be written down: what is pushed waits on the disk. */
  readonly keepsNumbers: boolean;
  readonly clock: Clock;
  readonly log: Log;
  /** So long before its end a grant is about to end; 0: never. */
  readonly warnSeconds: number;
}

/** What the outbox's store keeps of it. */
export interface GrantSinks {
  all(): ReadonlyMap<string, string>;
  keep(grant: string, url: string): void;
  forget(grant: string): void;
}

type What = 'granted' | 'ending' | 'ended';

export class GrantEvents implements GrantWatcher {
  readonly #parts: GrantEventParts;
  readonly #followers = new Map<ServerName, Set<(events: readonly StreamEvent[]) => void>>();
  readonly #sinks: Map<string, string>;
  /** The last second of the boot's clock of whose ends was told. */
  #warnedUntil: number;

  constructor(parts: GrantEventParts) {
    this.#parts = parts;
    this.#sinks = new Map(parts.sinks?.all());
    this.#warnedUntil = secondOf(parts.clock.boottimeNs());
  }

  /** Whether a server may be told of a grant at this URL. */
  allowed(server: ServerName, url: string): boolean {
    return this.#parts.pushes?.allowed(server, url) ?? false;
  }

  /** Where a server wants to be told of a grant. */
  tellAt(grant: string, url: string): void {
    this.#sinks.set(grant, url);
    this.#kept(() => this.#parts.sinks?.keep(grant, url));
  }

  /** At a start: tells of those that ended unheard, and forgets what is no more. */
  begin(find: (grant: string) => GrantRecord | WaitingRequest | undefined): void {
    for (const grant of [...this.#sinks.keys()]) {
      const record = find(grant);
      if (record?.state === 'ended') this.ended(record);
      else if (!record) this.#forget(grant);
    }
  }

  granted(record: GrantRecord): void {
    this.#tell(record, 'granted');
  }

  ended(record: GrantRecord | WaitingRequest): void {
    this.#tell(record, 'ended');
    this.#forget(record.id);
  }

  /** Tells of those that are about to end; to be called once a second. */
  tick(live: Pick<LiveGrants, 'endingIn'>): void {
    const { clock, warnSeconds, pushes } = this.#parts;
    if (warnSeconds === 0) return;
    const until = secondOf(clock.boottimeNs()) + warnSeconds;
    const isHeard = this.#followers.size + this.#sinks.size > 0 || pushes?.listens();
    // After a long sleep: what has ended meanwhile is told as ended.
    for (let second = Math.max(this.#warnedUntil, until - warnSeconds) + 1; isHeard && second <= until; second++)
      for (const record of live.endingIn(second)) this.#tell(record, 'ending');
    this.#warnedUntil = until;
  }

  /** Tells a server of its grants until it is ended. */
  follow(server: ServerName, tell: (events: readonly StreamEvent[]) => void): () => void {
    const followers = this.#followers.get(server) ?? new Set();
    this.#followers.set(server, followers.add(tell));
    return () => {
      followers.delete(tell);
      if (followers.size === 0 && this.#followers.get(server) === followers) this.#followers.delete(server);
    };
  }

  #tell(record: GrantRecord | WaitingRequest, what: What): void {
    const { pushes, view, keepsNumbers } = this.#parts;
    const { id, server } = record;
    const followers = this.#followers.get(server);
    const url = this.#sinks.get(id);
    if (!followers && url === undefined && !pushes?.listens(server)) return;
    const { device, ...rest } = view(record);
    const told = { ...(device && { device }), ...rest };
    const events = [{ event: what, data: JSON.stringify(grantBody(told)) }];
    for (const tell of followers ?? []) tell(events);
    const isKept = keepsNumbers || !device || !('phoneNumber' in device);
    const data = isKept ? (events[0] as StreamEvent).data : JSON.stringify(grantBody(rest));
    // An end can move, and then comes nearer again.
    const when = what === 'ending' && 'expiresAtMs' in record ? `.${Math.floor(record.expiresAtMs / 1_000)}` : '';
    const event = { id: `${id}.${what}${when}`, type: `mtgate.grant.${what}.v1`, subject: id, data };
    if (url === undefined) pushes?.tellServer(server, event);
    else pushes?.notify(server, url, event);
  }

  #forget(grant: string): void {
    if (this.#sinks.delete(grant)) this.#kept(() => this.#parts.sinks?.forget(grant));
  }

  /** A disk that takes nothing holds up no grant. */
  #kept(write: () => void): void {
    try {
      write();
    } catch (fault) {
      this.#parts.log.error({ why: (fault as Error).message }, 'outboxNotKept');
    }
  }
}

function secondOf(ns: bigint): number {
  return Number(ns / 1_000_000_000n);
}
