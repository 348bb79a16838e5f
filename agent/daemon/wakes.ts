/**
 * Grant requests that wake their device (SEND_TRIGGER): what grants and
 * triggers, which do not know each other, ask of one another.
 *
 * Invariant: a trigger's record comes before its request's, and its recall
 * behind that request's end. So a kill between the two databases leaves at the
 * most a trigger without a request, which ends at the next start unsent; never
 * a request that promised a trigger and has none.
 */
import { covers, type TriggerPlan } from '../core/trigger-plan.ts';
import type { Waker } from '../grants/ground.ts';
import type { Waiting } from '../grants/waiting.ts';
import type { GrantRequests } from '../triggers/ground.ts';
import type { Triggers } from '../triggers/triggers.ts';

/** What wakes the devices that requests wait for. */
export function wakerBy(triggers: Triggers, { ports }: Pick<TriggerPlan, 'ports'>): Waker {
  const [first] = ports;
  return {
    serves: (port) => (port === undefined ? first !== undefined : covers(ports, port)),
    async accept(who, { id: grant, ask: { device }, waitSeconds: validitySeconds }, { port = first?.low, payload }) {
      const ask = { device, port: port as number, payload, validitySeconds, grant, isPriority: false };
      const answer = await triggers.accept(who, ask);
      return 'reason' in answer ? answer : undefined;
    },
    begin: (request) => triggers.begin(request),
    over: (request) => triggers.over(request),
  };
}

/** The requests whose devices are woken. */
export function requestsIn(waiting: Pick<Waiting, 'get' | 'bound'>): GrantRequests {
  return {
    waits: (grant) => waiting.get(grant) !== undefined,
    woken: (device) => void waiting.bound([device]),
  };
}
