/** Triggers, where agent.yaml has them: their list, their store, and the one source from which they go. */
import type { Closure } from '../closure/closure.ts';
import type { Config } from '../config.ts';
import type { Log } from '../core/ports.ts';
import { covers, sourceFaults } from '../core/trigger-plan.ts';
import type { TriggerId } from '../core/words.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import { newUlid, systemClock, systemRandom } from '../host.ts';
import type { Notifications, TriggerGround } from '../triggers/ground.ts';
import { openTriggerStore } from '../triggers/store.ts';
import { openDelivery } from '../triggers/trigger-source.ts';
import { Triggers } from '../triggers/triggers.ts';
import type { Kept } from './kept.ts';
import type { Stop } from './upkeep.ts';
import { requestsIn, wakerBy } from './wakes.ts';

export type Triggering = NonNullable<ReturnType<typeof openTriggering>>;

interface Parts {
  readonly config: Config;
  readonly kept: Kept;
  readonly ground: Ground;
  readonly grants: Grants;
  readonly closure: Closure;
  readonly notifications: Notifications;
  readonly metrics: TriggerGround['metrics'];
  readonly log: Log;
}

/** Undefined where agent.yaml has no triggers. What they wait for is not resumed yet. */
export function openTriggering(parts: Parts, stops: Stop[]) {
  const { config, kept, ground, grants, closure, notifications, metrics, log } = parts;
  const { identities } = kept;
  const delivery = openDelivery(config, { clock: systemClock, random: systemRandom, log });
  if (!delivery || !config.triggers) return undefined;
  for (const { source, why } of sourceFaults(config.triggers, closure.site.links, config.inside))
    log.warn({ source, why }, 'triggerSourceMissing');
  const { ports } = config.triggers;
  const worker = new URL('../triggers/store-worker.js', import.meta.url);
  const store = openTriggerStore(kept.file('triggers.db'), identities, worker);
  const triggers = new Triggers({
    ...{ gateway: ground.gateway, bootId: ground.bootId, clock: systemClock, log, metrics, identities },
    directory: ground.directory,
    requests: requestsIn(grants.waiting),
    ...{ store, delivery, notifications, refuse: ground.refuse, revoked: ground.revoked },
    isServed: (port) => covers(ports, port),
    sourcePort: delivery.sourcePort,
    policy: () => grants.policy,
    tooManyMisses: (who, decision) => grants.judge.tooManyMisses(who, decision),
    notReady: (realm) => closure.objection(realm),
    newId: () => newUlid() as TriggerId,
  });
  stops.push(
    () => store.close(),
    () => delivery.close(),
    () => triggers.close(),
  );
  return { triggers, store, source: () => delivery.reading(), waker: wakerBy(triggers, { ports }) };
}
