/** Triggers: accepted, kept, sent when their device is bound, replaced, recalled, ended, and all of it over a restart. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import type { ExternalId, GrantId, TriggerId } from '../../agent/core/words.ts';
import { TRANSITIONS } from '../../agent/triggers/lifecycle.ts';
import { openTriggerStore } from '../../agent/triggers/store.ts';
import { deliveryResultOf, type Trigger } from '../../agent/triggers/trigger.ts';
import { HEAD_END, inner, M2, OTHER, policyOf } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { settled, TestTriggers, TRIGGER_RULES, triggerAsk } from '../triggers.ts';

const TO_M2 = { device: { networkAccessIdentifier: M2 } };
const resultOf = (fixture: TestTriggers, { id }: { id: string }) => {
  const found = fixture.triggers.show(HEAD_END, id);
  return found && deliveryResultOf(found);
};
const bind = async (fixture: TestTriggers, device: ExternalId = M2, text = '10.20.0.9') => {
  await fixture.gateway.bindings.bind(device, inner(text));
  await settled();
};

describe('a trigger', () => {
  test('is on record, and tried at once where its device is bound', async () => {
    const fixture = await TestTriggers.started();
    const { clock } = fixture.gateway;
    const accepted = await fixture.accepted({ sourcePort: 40_000 });
    expect(fixture.store.find(accepted.id)).toEqual(accepted);
    expect(accepted).toMatchObject({ server: 'head-end', rule: 'wake', mtcUser: 'acme', state: 'pending' });
    expect(accepted.validUntilMs).toBe(clock.nowMs() + 3_600_000);
    expect(fixture.delivery.only).toMatchObject({
      inner: inner('10.20.0.2'),
      port: 5683,
      sourcePort: 40_000,
      payload: 'wake',
    });
    expect(resultOf(fixture, accepted)).toBe('TRIGGERED');
    expect(fixture.gateway.log.of('triggerAccepted')).toHaveLength(1);
  });

  test.each([
    ['acknowledged', 'delivered', 'SUCCESS'],
    ['sent', 'sent', 'UNCONFIRMED'],
    ['rejected', 'rejectedByDevice', 'FAILURE'],
  ] as const)('%s: ends as %s, which its server reads as %s and is told', async (outcome, cause, result) => {
    const fixture = await TestTriggers.started();
    const collection = 'https://gateway.example/t';
    const notification = { destination: 'https://head-end.example/told', collection };
    const accepted = await fixture.accepted({ notification });
    expect(fixture.told).toEqual([]);
    await fixture.delivery.only.done(outcome);
    expect(fixture.store.find(accepted.id)).toMatchObject({ state: 'ended', endCause: cause });
    expect(resultOf(fixture, accepted)).toBe(result);
    expect(fixture.told).toEqual([
      {
        server: 'head-end',
        destination: notification.destination,
        body: { transaction: `${collection}/${accepted.id}`, result },
      },
    ]);
    expect(fixture.triggers.queue.size).toBe(0);
    expect(fixture.ended).toEqual([cause]);
  });

  test('waits for a device that is not bound, and is sent when it binds', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted(TO_M2);
    expect(fixture.delivery.begun).toEqual([]);
    await fixture.pass(100);
    await bind(fixture);
    expect(fixture.delivery.only.inner).toEqual(inner('10.20.0.9'));
    await fixture.delivery.only.done('acknowledged');
    expect(resultOf(fixture, accepted)).toBe('SUCCESS');
  });

  test('goes to the address of the other family where it could not be sent to the first', async () => {
    const fixture = await TestTriggers.started();
    await fixture.accepted();
    await fixture.delivery.only.done('notSent');
    expect(fixture.delivery.only.inner).toEqual(inner('fd00:20::2'));
  });

  test('unanswered is tried again, later and later, and at once when its device is bound anew', async () => {
    const fixture = await TestTriggers.started();
    await fixture.accepted(TO_M2);
    await bind(fixture);
    for (const seconds of [30, 60, 120]) {
      await fixture.delivery.only.done('unanswered');
      await fixture.pass(seconds - 1);
      expect(fixture.delivery.underWay).toEqual([]);
      await fixture.pass(2);
    }
    await fixture.delivery.only.done('unanswered');
    await bind(fixture, M2, '10.20.0.10');
    expect(fixture.delivery.only.inner).toEqual(inner('10.20.0.10'));
    expect(fixture.delivery.begun).toHaveLength(5);
  });

  test('expires at the end of its validity, in the middle of an attempt too', async () => {
    const fixture = await TestTriggers.started();
    const notification = { destination: 'https://head-end.example/told', collection: 'https://gateway.example/t' };
    const waiting = await fixture.accepted({ ...TO_M2, validitySeconds: 10, notification });
    const tried = await fixture.accepted({ validitySeconds: 20 });
    await fixture.pass(9);
    expect(resultOf(fixture, waiting)).toBe('TRIGGERED');
    await fixture.pass(2);
    expect(resultOf(fixture, waiting)).toBe('EXPIRED');
    expect(fixture.told.map(({ body }) => body)).toEqual([
      { transaction: `${notification.collection}/${waiting.id}`, result: 'EXPIRED' },
    ]);
    const { signal } = fixture.delivery.only;
    await fixture.pass(10);
    expect([resultOf(fixture, tried), signal.aborted]).toEqual(['EXPIRED', true]);
    await bind(fixture);
    await fixture.pass(60);
    expect(fixture.delivery.underWay).toEqual([]);
  });

  test('with validity 0 is tried once; of an absent device it is refused', async () => {
    const fixture = await TestTriggers.started();
    expect(await fixture.refused({ ...TO_M2, validitySeconds: 0 })).toBe('deviceAbsent');
    const once = await fixture.accepted({ validitySeconds: 0 });
    await fixture.pass(40);
    expect(resultOf(fixture, once)).toBe('TRIGGERED');
    await fixture.delivery.only.done('unanswered');
    expect(resultOf(fixture, once)).toBe('EXPIRED');
    const acknowledged = await fixture.accepted({ validitySeconds: 0 });
    await fixture.delivery.only.done('acknowledged');
    expect(resultOf(fixture, acknowledged)).toBe('SUCCESS');
  });

  test('whose device loses its address goes nowhere any more, before the address is given on', async () => {
    const fixture = await TestTriggers.started();
    await bind(fixture);
    await fixture.accepted(TO_M2);
    const { signal } = fixture.delivery.only;
    let atChange: boolean | undefined;
    const { memory } = fixture.gateway;
    const unbind = memory.unbind.bind(memory);
    memory.unbind = (...args) => {
      atChange ??= signal.aborted;
      unbind(...args);
    };
    await fixture.gateway.bindings.unbind(inner('10.20.0.9'));
    await settled();
    expect([atChange, fixture.delivery.underWay]).toEqual([true, []]);
    await fixture.pass(3_000);
    expect(fixture.delivery.begun).toHaveLength(1);
  });

  test('is judged again when it is sent: what may not be sent by now fails', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted(TO_M2);
    await fixture.gateway.grants.switchPolicy(
      policyOf(TRIGGER_RULES.replace('authorises: [head-end]', 'authorises: []')),
    );
    await bind(fixture);
    expect(fixture.delivery.begun).toEqual([]);
    expect(fixture.store.find(accepted.id)).toMatchObject({ endCause: 'notAuthorisedByMtcUser' });
    expect(resultOf(fixture, accepted)).toBe('FAILURE');
  });

  test('whose certificate is revoked by then is not sent', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted(TO_M2);
    fixture.gateway.revoked.add(HEAD_END.certificate);
    await bind(fixture);
    expect(fixture.store.find(accepted.id)).toMatchObject({ endCause: 'certificateRevoked' });
    expect(fixture.delivery.begun).toEqual([]);
  });

  test('outside the hours of its rule waits for them', async () => {
    const hours = TRIGGER_RULES.replace('id: wake', 'id: wake\n    hours: { from: 12:00, to: 13:00, zone: UTC }');
    const fixture = await TestTriggers.started(hours); // the clock begins at noon
    const accepted = await fixture.accepted({ ...TO_M2, validitySeconds: 86_400 });
    await fixture.pass(3_600);
    await bind(fixture);
    expect([fixture.delivery.begun.length, resultOf(fixture, accepted)]).toEqual([0, 'TRIGGERED']);
    fixture.gateway.clock.pass(23 * 3_600);
    await fixture.pass(1);
    expect(fixture.delivery.begun).toHaveLength(0); // its validity is over
    expect(resultOf(fixture, accepted)).toBe('EXPIRED');
    const another = await fixture.accepted({ ...TO_M2, validitySeconds: 3_600 });
    expect(resultOf(fixture, another)).toBe('TRIGGERED');
    expect(fixture.delivery.underWay).toHaveLength(1);
  });

  test('is not sent into a realm that is not ready', async () => {
    const fixture = await TestTriggers.started();
    fixture.notReady.add('iot');
    const accepted = await fixture.accepted();
    expect([fixture.delivery.begun.length, resultOf(fixture, accepted)]).toEqual([0, 'TRIGGERED']);
    fixture.notReady.clear();
    await fixture.pass(31);
    expect(fixture.delivery.underWay).toHaveLength(1);
  });
});

describe('of several', () => {
  test('those with priority go first, each kind in order, one at a time to a device', async () => {
    const fixture = await TestTriggers.started();
    for (const text of ['1', '2']) await fixture.accepted({ ...TO_M2, text });
    for (const text of ['p1', 'p2']) await fixture.accepted({ ...TO_M2, text, isPriority: true });
    await bind(fixture);
    const order: string[] = [];
    for (let i = 0; i < 4; i += 1) {
      order.push(fixture.delivery.only.payload);
      await fixture.delivery.only.done('acknowledged');
    }
    expect(order).toEqual(['p1', 'p2', '1', '2']);
  });

  test('no more is under way than there is room for; the next begins when there is', async () => {
    const devices = Array.from({ length: 5 }, (_, i) => ({
      device: { externalId: `d${i}@meters.example` as ExternalId },
      bindings: [inner(`10.20.1.${i + 1}`)],
    }));
    const fixture = await TestTriggers.started(TRIGGER_RULES, devices);
    fixture.delivery.room = 2;
    for (const { device } of devices)
      await fixture.accepted({ device: { networkAccessIdentifier: device.externalId } });
    expect(fixture.delivery.underWay).toHaveLength(2);
    for (let begun = 2; begun <= 5; begun += 1) {
      expect(fixture.delivery.begun).toHaveLength(begun);
      await fixture.delivery.underWay[0]?.done('acknowledged');
    }
    await fixture.delivery.only.done('acknowledged');
    expect([fixture.triggers.queue.size, fixture.triggers.underWay]).toEqual([0, 0]);
  });
});

describe('refused', () => {
  test.each([
    [{ port: 5684 }, 'triggerPortNotServed'],
    [{ device: { networkAccessIdentifier: 'nobody@meters.example' } }, 'deviceUnknown'],
    [{ text: 'x'.repeat(65) }, 'triggerPayloadTooLarge'],
    [{ validitySeconds: 86_401 }, 'triggerValidityTooLong'],
    [{ notification: { destination: 'https://elsewhere.example/', collection: '' } }, 'notificationNotAllowed'],
  ] as const)('%o: %s', async (changes, reason) => {
    const fixture = await TestTriggers.started();
    expect(await fixture.refused(changes)).toBe(reason);
    expect(fixture.triggers.queue.size).toBe(0);
    expect(fixture.gateway.log.of('refused')).toEqual([expect.objectContaining({ reason, server: 'head-end' })]);
  });

  test('by a limit of its rule: pending on the device, to it in an hour, in a minute, in all', async () => {
    const fixture = await TestTriggers.started();
    for (let i = 0; i < 4; i += 1) await fixture.accepted(TO_M2);
    expect(await fixture.refused(TO_M2)).toBe('pendingPerDeviceExceeded');
    await bind(fixture);
    for (let i = 0; i < 4; i += 1) await fixture.delivery.only.done('acknowledged');
    for (let i = 0; i < 2; i += 1) await fixture.accepted(TO_M2);
    expect(await fixture.refused(TO_M2)).toBe('triggersPerDeviceExceeded');
    await fixture.pass(3_601);
    await fixture.accepted(TO_M2);
    const few = TRIGGER_RULES.replace('perMinute: 60', 'perMinute: 1').replace('perDevicePerHour: 6, ', '');
    await fixture.gateway.grants.switchPolicy(policyOf(few));
    expect(await fixture.refused(TO_M2)).toBe('triggerRateExceeded');
    await fixture.gateway.grants.switchPolicy(
      policyOf(TRIGGER_RULES.replace('pendingPerServer: 1000', 'pendingPerServer: 1')),
    );
    expect(await fixture.refused()).toBe('pendingPerServerExceeded');
  });

  test('another server: as if the device were not there, with as many steps', async () => {
    const fixture = await TestTriggers.started();
    expect(await fixture.refused({}, OTHER)).toBe('notAuthorisedByMtcUser');
  });

  test('a store that does not take it: nothing is pending, and what may be on record is never sent', async () => {
    const store = openTriggerStore(':memory:', IDENTITIES);
    const fixture = await TestTriggers.started(TRIGGER_RULES, undefined, {
      ...store,
      insert: async (trigger) => {
        await store.insert(trigger);
        throw new AgentError('storeFailed', 'the disk is gone');
      },
    });
    expect(await fixture.refused()).toBe('recordNotWritten');
    await settled();
    expect([fixture.triggers.queue.size, fixture.delivery.begun]).toEqual([0, []]);
    expect(store.list({ state: 'ended' }, 9)).toMatchObject([{ endCause: 'notAccepted', isForgotten: true }]);
  });
});

describe('recalled', () => {
  test('it is sent no more, and its server reads it no more', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted();
    const { signal } = fixture.delivery.only;
    const recalled = await fixture.triggers.remove(HEAD_END, accepted.id);
    expect(recalled).toMatchObject({ id: accepted.id, endCause: 'recalledByServer' });
    expect(signal.aborted).toBe(true);
    expect(fixture.triggers.show(HEAD_END, accepted.id)).toBeUndefined();
    expect(fixture.triggers.find(accepted.id)).toMatchObject({ state: 'ended' });
    expect(await fixture.triggers.remove(HEAD_END, accepted.id)).toMatchObject({ reason: 'triggerNotFound' });
    await fixture.pass(60);
    expect(fixture.delivery.begun).toHaveLength(1);
  });

  test('while the device acknowledges it: then it has it, and the transaction is gone', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted();
    const removes = fixture.triggers.remove(HEAD_END, accepted.id);
    await fixture.delivery.begun[0]?.done('acknowledged');
    expect(await removes).toBeUndefined();
    expect(fixture.store.find(accepted.id)).toMatchObject({ isForgotten: true });
  });

  test('by an operator: its server is told', async () => {
    const fixture = await TestTriggers.started();
    const notification = { destination: 'https://head-end.example/told', collection: 'https://gateway.example/t' };
    const accepted = await fixture.accepted({ ...TO_M2, notification });
    expect(await fixture.triggers.recall(accepted.id, 'recalledByOperator')).toMatchObject({ state: 'ended' });
    expect(fixture.told.map(({ body }) => body)).toEqual([
      { transaction: `${notification.collection}/${accepted.id}`, result: 'TERMINATE' },
    ]);
    expect(resultOf(fixture, accepted)).toBe('TERMINATE');
    expect(await fixture.triggers.recall(accepted.id, 'recalledByOperator')).toBeUndefined();
  });

  test("another server's is not there", async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted(TO_M2);
    expect(await fixture.triggers.remove(OTHER, accepted.id)).toMatchObject({ reason: 'triggerNotFound' });
    expect(await fixture.triggers.replace(OTHER, accepted.id, triggerAsk(TO_M2))).toMatchObject({
      reason: 'triggerNotFound',
    });
    expect(fixture.triggers.queue.size).toBe(1);
  });
});

describe('replaced', () => {
  test('the new one goes, in the place of the former, and is valid from now on', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted({ ...TO_M2, text: 'old' });
    await fixture.accepted({ ...TO_M2, text: 'other' });
    await fixture.pass(100);
    const answer = await fixture.triggers.replace(HEAD_END, accepted.id, triggerAsk({ ...TO_M2, text: 'new' }));
    expect(answer).toMatchObject({ id: accepted.id, isReplaced: true, acceptedAtMs: accepted.acceptedAtMs });
    expect(fixture.store.find(accepted.id)).toEqual(answer);
    expect(resultOf(fixture, accepted)).toBe('REPLACED');
    await fixture.pass(3_550);
    await bind(fixture);
    expect(fixture.delivery.only.payload).toBe('new'); // the other has expired by then
  });

  test('during an attempt: that is given up, and the new one follows', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted({ text: 'old' });
    const { signal } = fixture.delivery.only;
    await fixture.triggers.replace(HEAD_END, accepted.id, triggerAsk({ text: 'new' }));
    await settled();
    expect([signal.aborted, fixture.delivery.only.payload]).toEqual([true, 'new']);
  });

  test.each([
    ['acknowledged', 'triggerDelivered'],
    ['sent', 'triggerDelivered'],
  ] as const)('%s before: %s', async (outcome, reason) => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted();
    await fixture.delivery.only.done(outcome);
    expect(await fixture.triggers.replace(HEAD_END, accepted.id, triggerAsk())).toMatchObject({ reason });
  });

  test('expired before: it cannot be', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted({ ...TO_M2, validitySeconds: 1 });
    await fixture.pass(3);
    expect(await fixture.triggers.replace(HEAD_END, accepted.id, triggerAsk(TO_M2))).toMatchObject({
      reason: 'triggerOver',
    });
  });

  test('by what would be refused: the former stays', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted({ ...TO_M2, text: 'old' });
    const replace = (changes: Parameters<typeof triggerAsk>[0]) =>
      fixture.triggers.replace(HEAD_END, accepted.id, triggerAsk({ ...TO_M2, ...changes }));
    expect(await replace({ text: 'x'.repeat(65) })).toMatchObject({ reason: 'triggerPayloadTooLarge' });
    expect(await replace({ device: triggerAsk().device })).toMatchObject({ reason: 'invalidArgument' });
    expect(fixture.store.find(accepted.id)).toEqual(accepted);
    await bind(fixture);
    expect(fixture.delivery.only.payload).toBe('old');
  });

  test('and recalled at once: whatever comes first, it is sent no more', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted();
    const [replacement, recalled] = await Promise.all([
      fixture.triggers.replace(HEAD_END, accepted.id, triggerAsk({ text: 'new' })),
      fixture.triggers.remove(HEAD_END, accepted.id),
    ]);
    await settled();
    expect([replacement, recalled]).toMatchObject([{ isReplaced: true }, { endCause: 'recalledByServer' }]);
    await fixture.pass(60);
    expect([fixture.delivery.underWay, fixture.triggers.queue.size]).toEqual([[], 0]);
  });
});

describe('over a restart', () => {
  test('what is pending is pending again, to the same end, in the same order', async () => {
    const fixture = await TestTriggers.started();
    const first = await fixture.accepted({ ...TO_M2, text: 'first' });
    fixture.gateway.clock.pass(10);
    await fixture.accepted({ ...TO_M2, text: 'second' });
    await fixture.accepted({ ...TO_M2, text: 'urgent', isPriority: true });
    const soon = await fixture.accepted({ ...TO_M2, validitySeconds: 5 });
    await fixture.triggers.close();
    fixture.gateway.clock.pass(60);
    await fixture.start();
    expect(fixture.triggers.queue.size).toBe(3);
    expect(resultOf(fixture, soon)).toBe('EXPIRED');
    expect(resultOf(fixture, first)).toBe('TRIGGERED');
    await bind(fixture);
    const order: string[] = [];
    for (let i = 0; i < 3; i += 1) {
      order.push(fixture.delivery.only.payload);
      await fixture.delivery.only.done('sent');
    }
    expect(order).toEqual(['urgent', 'first', 'second']);
  });

  test('an attempt that was under way is made again; a device that is bound is tried at once', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted();
    await fixture.start(); // killed: nothing was closed
    await fixture.delivery.only.done('acknowledged');
    expect(resultOf(fixture, accepted)).toBe('SUCCESS');
  });

  test('over a reboot UTC counts, and never more is left than there was', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted({ ...TO_M2, validitySeconds: 100 });
    const another = await fixture.accepted({ ...TO_M2, validitySeconds: 30 });
    fixture.gateway.reboot(40);
    await fixture.gateway.start(TRIGGER_RULES);
    await fixture.start();
    expect([resultOf(fixture, accepted), resultOf(fixture, another)]).toEqual(['TRIGGERED', 'EXPIRED']);
    expect(fixture.store.find(accepted.id)?.bootId).toBe('boot-2');
    await fixture.pass(61);
    expect(resultOf(fixture, accepted)).toBe('EXPIRED');
  });

  test('over a reboot with a clock that stands before what is on record nothing is believed', async () => {
    const fixture = await TestTriggers.started();
    const accepted = await fixture.accepted(TO_M2);
    fixture.gateway.reboot(-3_600);
    await fixture.gateway.start(TRIGGER_RULES);
    await fixture.start();
    expect(fixture.store.find(accepted.id)).toMatchObject({ endCause: 'clockUncertain' });
    expect(resultOf(fixture, accepted)).toBe('UNKNOWN');
  });

  test('an end that the store did not take is written with a later sweep, and told once', async () => {
    const store = openTriggerStore(':memory:', IDENTITIES);
    let fails = true;
    const fixture = await TestTriggers.started(TRIGGER_RULES, undefined, {
      ...store,
      end: async (...args) => {
        if (fails) throw new AgentError('storeFailed', 'the disk is full');
        await store.end(...args);
      },
    });
    const notification = { destination: 'https://head-end.example/told', collection: 'https://gateway.example/t' };
    const accepted = await fixture.accepted({ notification });
    await fixture.delivery.only.done('acknowledged');
    expect(store.find(accepted.id)).toMatchObject({ state: 'pending' });
    expect(resultOf(fixture, accepted)).toBe('SUCCESS');
    fails = false;
    await fixture.pass(1);
    expect(store.find(accepted.id)).toMatchObject({ state: 'ended', endCause: 'delivered' });
    expect(fixture.told).toHaveLength(1);
  });
});

describe('the store', () => {
  let folder = '';
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test('has the transitions of the life cycle, and takes no other step', () => {
    folder = mkdtempSync(join(tmpdir(), 'mtgate-triggers-'));
    const file = join(folder, 'triggers.db');
    openTriggerStore(file, IDENTITIES);
    const db = new Database(file);
    const kept = db.prepare('SELECT from_state AS "from", to_state AS "to", cause FROM transitions').all();
    expect(new Set(kept.map((one) => JSON.stringify(one)))).toEqual(
      new Set(TRANSITIONS.map((one) => JSON.stringify(one))),
    );
    db.close();
  });

  test('a file of version 1 becomes one of now, with all that is in it', async () => {
    folder = mkdtempSync(join(tmpdir(), 'mtgate-triggers-'));
    const file = join(folder, 'triggers.db');
    const fixture = await TestTriggers.started(undefined, undefined, openTriggerStore(file, IDENTITIES));
    const { id } = await fixture.accepted(TO_M2);
    await fixture.store.close();
    const db = new Database(file);
    db.exec('DROP INDEX triggers_grant; ALTER TABLE triggers DROP COLUMN grant_id; PRAGMA user_version = 1');
    db.close();
    const store = openTriggerStore(file, IDENTITIES);
    expect(store.find(id)).toMatchObject({ id, state: 'pending', to: M2 });
    expect([...store.pending()]).toHaveLength(1);
    expect(store.ofGrant('grant-1')).toBeUndefined();
    await store.insert({ ...(store.find(id) as Trigger), id: 'second' as TriggerId, grant: 'grant-1' as GrantId });
    expect(store.ofGrant('grant-1')).toMatchObject({ id: 'second', grant: 'grant-1' });
    await store.close();
  });

  test('forgets what ended long ago, and nothing that is pending', async () => {
    const fixture = await TestTriggers.started();
    const old = await fixture.accepted();
    const pending = await fixture.accepted(TO_M2);
    await fixture.delivery.only.done('acknowledged');
    await fixture.store.purge(fixture.gateway.clock.nowMs() + 1);
    expect([fixture.store.find(old.id), fixture.store.find(pending.id)?.state]).toEqual([undefined, 'pending']);
  });
});
