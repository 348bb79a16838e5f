/**
 * What an MTC server and the operator can do with triggers: between the words
 * of the two interfaces and those of the domain.
 */
import type { Transaction, TriggerUseCases } from '../api/t8-routes.ts';
import type { TriggerDetail, TriggerManagement } from '../api/trigger-routes.ts';
import { unknownWord } from '../core/fields.ts';
import type { Identities } from '../core/identities.ts';
import type { Log } from '../core/ports.ts';
import { askerFacts, type Refuse } from '../core/refusals.ts';
import type { Asker, DeviceReference, ExternalId, ServerName } from '../core/words.ts';
import type { Directory } from '../directory/directory.ts';
import type { Policy } from '../policy/policy.ts';
import type { Notifications } from '../triggers/ground.ts';
import { endText } from '../triggers/lifecycle.ts';
import type { TriggerStore } from '../triggers/store.ts';
import { deliveryResultOf, type Trigger, transactionOf } from '../triggers/trigger.ts';
import type { Triggers } from '../triggers/triggers.ts';

export function triggerUseCases(
  triggers: Triggers,
  notifications: Notifications,
  refuse: Refuse,
  identities: Identities,
): TriggerUseCases {
  const view = (trigger: Trigger) => serverView(trigger, identities.shown(trigger.device));
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
    async *list(who) {
      for await (const slice of triggers.pendingOf(who)) yield slice.map((one) => view(one));
    },
    show(who, id) {
      const found = triggers.show(who, id);
      if (found) return view(found);
      return refuse('triggerNotFound', {
        why: 'no transaction of this server has this id',
        ...askerFacts(who),
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
function serverView(trigger: Trigger, named: DeviceReference | undefined): Transaction {
  const { id, device, port, sourcePort, isPriority, payload, validitySeconds, features, notification } = trigger;
  return {
    ...{ id, device, port, isPriority, payload, validitySeconds },
    ...(named && { named }),
    ...(sourcePort !== undefined && { sourcePort }),
    ...(features !== undefined && { features }),
    ...(notification && { notification }),
    deliveryResult: deliveryResultOf(trigger),
  };
}

/** What the operator sees of triggers, and does to them. */
export function triggerManagement(
  triggers: Triggers,
  store: Pick<TriggerStore, 'list'>,
  directory: Pick<Directory, 'named'>,
  policy: () => Pick<Policy, 'servers'>,
  log: Log,
): NonNullable<TriggerManagement['triggers']> {
  const detail = (trigger: Trigger) => operatorView(trigger, triggers);
  return {
    list({ server, device: name, ended, limit }) {
      const registered = name === undefined ? undefined : directory.named(name);
      const device = registered?.externalId ?? (name as ExternalId | undefined);
      const filter = { state: ended ? ('ended' as const) : ('pending' as const), device };
      const found = store.list({ ...filter, server: server as ServerName | undefined }, limit);
      // Of a device or server that has gone what is on record is still found.
      if (found.length === 0) {
        const { servers } = policy();
        if (name !== undefined && !registered)
          return { refused: 'deviceUnknown', why: `no device ${name} is registered` };
        if (server !== undefined && !servers.has(server as ServerName))
          return { refused: 'serverUnknown', why: unknownWord('server', server, [...servers.keys()]) };
      }
      return { triggers: found.map(detail), pending: triggers.queue.size };
    },
    show: (id) => {
      const found = triggers.find(id);
      return found && detail(found);
    },
    ofGrant: (grantId) => {
      const found = triggers.ofGrant(grantId);
      return found && detail(found);
    },
    async recall(id, byUid) {
      log.info({ trigger: id, byUid }, 'recallAsked');
      return (await triggers.recall(id, 'recalledByOperator')) !== undefined;
    },
  };
}

function operatorView(trigger: Trigger, { queue }: Pick<Triggers, 'queue'>): TriggerDetail {
  const { id, state, server, to, port, mtcUser, rule, policyVersion, correlator, gateway, endCause } = trigger;
  const { attempts = 0, lastOutcome } = queue.get(id) ?? {};
  const utc = (atMs: number) => new Date(atMs).toISOString();
  return {
    triggerId: id,
    ...{ state, server, device: to, port, mtcUser, rule, policyVersion, correlator, gateway, attempts },
    deliveryResult: deliveryResultOf(trigger),
    priority: trigger.isPriority,
    acceptedAt: utc(trigger.acceptedAtMs),
    validUntil: utc(trigger.validUntilMs),
    validitySeconds: trigger.validitySeconds,
    reference: Object.values(trigger.device).join(),
    payloadBytes: trigger.payload.length,
    ...(trigger.grant !== undefined && { grantId: trigger.grant }),
    ...(trigger.notification && { destination: trigger.notification.destination }),
    ...(lastOutcome !== undefined && { lastOutcome }),
    ...(trigger.endedAtMs !== undefined && { endedAt: utc(trigger.endedAtMs) }),
    ...(endCause !== undefined && { endCause, endText: endText(endCause) }),
  };
}
