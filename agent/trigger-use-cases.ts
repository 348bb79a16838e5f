/** What an MTC server can do with triggers: between the words of the API and those of the domain. */
import type { Transaction, TriggerUseCases } from './api/t8-routes.ts';
import type { Refuse } from './core/refusals.ts';
import type { Asker } from './core/words.ts';
import type { Notifications } from './triggers/ground.ts';
import { deliveryResultOf, type Trigger, transactionOf } from './triggers/trigger.ts';
import type { Triggers } from './triggers/triggers.ts';

export function triggerUseCases(triggers: Triggers, notifications: Notifications, refuse: Refuse): TriggerUseCases {
  const test = async (who: Asker, { id, notification }: Trigger) => {
    if (!notification) return;
    const body = { subscription: transactionOf(id, notification) };
    await notifications.notify(who.name, notification.destination, body);
  };
  return {
    async create(who, ask, isTested) {
      const created = await triggers.accept(who, ask);
      if ('reason' in created) return created;
      if (isTested) await test(who, created);
      return view(created);
    },
    list: async (who) => (await triggers.pendingOf(who)).map(view),
    show(who, id) {
      const found = triggers.show(who, id);
      if (found) return view(found);
      const { name: server, correlator } = who;
      return refuse('triggerNotFound', {
        why: 'no transaction of this server has this id',
        server,
        correlator,
        trigger: id,
      });
    },
    async replace(who, id, ask, isTested) {
      const answer = await triggers.replace(who, id, ask);
      if ('reason' in answer) return answer;
      if (isTested) await test(who, answer);
      return view(answer);
    },
    async remove(who, id) {
      const removed = await triggers.remove(who, id);
      return removed === undefined || 'reason' in removed ? removed : view(removed);
    },
  };
}

/** No more than its server may see. */
function view(trigger: Trigger): Transaction {
  const { id, device, port, sourcePort, isPriority, payload, validitySeconds, features, notification } = trigger;
  return {
    ...{ id, device, port, isPriority, payload, validitySeconds },
    ...(sourcePort !== undefined && { sourcePort }),
    ...(features !== undefined && { features }),
    ...(notification && { notification }),
    deliveryResult: deliveryResultOf(trigger),
  };
}
