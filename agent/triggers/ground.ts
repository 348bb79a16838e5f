/**
 * What triggers stand on: every port and part they use, as interfaces, so that
 * they can be decided, recorded and sent without a machine around them.
 */
import type { Identities } from '../core/identities.ts';
import type { Clock, Log } from '../core/ports.ts';
import type { RefusalFacts, Refuse } from '../core/refusals.ts';
import type { Asker, CertificateId, ExternalId, GrantId, RealmName, ServerName, TriggerId } from '../core/words.ts';
import type { Directory } from '../directory/directory.ts';
import type { TriggerDecision } from '../policy/decide-trigger.ts';
import type { Policy } from '../policy/policy.ts';
import type { Delivery, DeliveryOutcome } from './delivery.ts';
import type { TriggerEndCause } from './lifecycle.ts';
import type { TriggerStore } from './store.ts';

/** Tells a server what became of its trigger, at a URL that is registered for it. */
export interface Notifications {
  /** Whether a URL is within one of the sinks of a server. */
  allowed(server: ServerName, url: string): boolean;
  /** Resolves when it is on disk that this is to be told. */
  notify(server: ServerName, destination: string, body: object): Promise<void>;
}

/** The grant requests that triggers belong to. */
export interface GrantRequests {
  /** Whether one waits for its device. */
  waits(grant: GrantId): boolean;
  /** A device has what was sent for a request. Fails never. */
  woken(device: ExternalId): void;
}

export interface TriggerGround {
  readonly gateway: string;
  readonly bootId: string;
  readonly store: TriggerStore;
  readonly directory: Pick<Directory, 'find' | 'factsOf'>;
  readonly delivery: Delivery;
  /** Whether the gateway sends triggers to a port. */
  readonly isServed: (port: number) => boolean;
  /** The port that devices see triggers come from; there is no other. */
  readonly sourcePort: number;
  readonly notifications: Notifications;
  readonly requests: GrantRequests;
  /** In force now. */
  readonly policy: () => Policy;
  /** What stands for an MSISDN, where it is not kept. */
  readonly identities: Identities;
  readonly clock: Clock;
  readonly log: Log;
  readonly refuse: Refuse;
  /** What a server is told that goes through names which are not there for it; undefined for all others. */
  readonly tooManyMisses: (who: Asker, decision: TriggerDecision) => RefusalFacts | undefined;
  readonly revoked: (certificate: CertificateId) => boolean;
  /** Why nothing can be sent into a realm at the moment; undefined where it can. */
  readonly notReady: (realm: RealmName) => string | undefined;
  readonly newId: () => TriggerId;
  readonly metrics: {
    triggerAccepted(): void;
    triggerTried(outcome: DeliveryOutcome): void;
    triggerEnded(cause: TriggerEndCause): void;
  };
}
