/**
 * What the grants stand on: every port and part they use, as interfaces, so
 * that they can be decided, recorded and ended without a machine around them.
 */
import type { Identities } from '../core/identities.ts';
import type { Pool } from '../core/pool.ts';
import type { Clock, Log, Random } from '../core/ports.ts';
import type { Refusal, Refuse } from '../core/refusals.ts';
import type { Asker, CertificateId, GrantId, RealmName, Wake } from '../core/words.ts';
import type { Dataplane } from '../dataplane/dataplane.ts';
import type { Directory } from '../directory/directory.ts';
import type { RegistryStore } from '../directory/registry-store.ts';
import type { Would } from '../policy/staged.ts';
import type { EndCause } from './lifecycle.ts';
import type { EndedRecord, GrantRecord } from './record.ts';
import type { GrantStore } from './store.ts';
import type { EndedWait, WaitingRequest } from './waiting-request.ts';

/** Everything the grants stand on. */
export interface Ground {
  readonly gateway: string;
  readonly bootId: string;
  readonly pool: Pool;
  readonly dataplane: Dataplane;
  readonly store: GrantStore;
  readonly directory: Directory;
  readonly registry: Pick<RegistryStore, 'replaceFile'>;
  /** What stands for IMSI and MSISDN, where these are not kept. */
  readonly identities: Identities;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly refuse: Refuse;
  readonly metrics: {
    granted(): void;
    extended(): void;
    ended(cause: EndCause): void;
    /** What staged rules would have done, so many times. */
    staged(rule: string, would: Would | 'end', times: number): void;
  };
  /** Wakes devices; undefined where this gateway sends no triggers. */
  readonly waker: () => Waker | undefined;
  /** Absent where nobody is ever told. */
  readonly watcher?: GrantWatcher;
  /** Whether a client certificate is revoked, as far as the lists in force say. */
  readonly revoked: (certificate: CertificateId) => boolean;
  readonly newId: () => GrantId;
  /** Why no grant can be opened or extended at the moment, at all or toward this realm; undefined where it can. */
  readonly notReady: (realm?: RealmName) => NotReady | undefined;
}

/** Told of what becomes of grants without their servers' asking. Fails never, and is done at once. */
export interface GrantWatcher {
  /** A grant is live. */
  opened?(grant: GrantRecord): void;
  /** A request that waited is granted. */
  granted(grant: GrantRecord): void;
  /** A grant has ended, or a request waits no more and was not granted. */
  ended(grant: EndedRecord | EndedWait): void;
}

/**
 * Wakes devices by triggers, for requests that wait for them. A trigger is on
 * record before its request is: one whose request never was, or waits no more,
 * ends by itself at the next start.
 */
export interface Waker {
  /** Whether the gateway sends triggers to a port; undefined: to that which is taken where none is named. */
  serves(port: number | undefined): boolean;
  /** Accepts a trigger for a request's device, durably, or refuses it by the rules of triggers. It is not sent yet. @throws AgentError storeFailed */
  accept(who: Asker, request: WaitingRequest, wake: Wake): Promise<Refusal | undefined>;
  /** The request is on record: its trigger is sent. */
  begin(request: GrantId): void;
  /** The request waits no more: its trigger is recalled where it is pending. Fails never. */
  over(request: GrantId): void;
}

/** Gate, base or an interface are not in place, or the operator wants no new grants. */
export interface NotReady {
  readonly reason: 'gatewayNotReady' | 'gatewayDraining';
  readonly why: string;
}

/** Ends are stored a little in the past: the gate's coarse clock lags by up to a tick (design, law 4). */
export const CLOCK_LAG_NS = 100_000_000n;
