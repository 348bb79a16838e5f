/** Grant requests that wake their device by a trigger (SEND_TRIGGER): both accepted or neither, and each ended with the other. */
import { afterEach, describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import type { Asker, ExternalId, GrantId, GrantRequest, Wake } from '../../agent/core/words.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { openTriggerStore, type TriggerStore } from '../../agent/triggers/store.ts';
import { ask, DEVICES, HEAD_END, inner, M1, M2, policyOf } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { settled, TestTriggers, TRIGGER_RULES } from '../triggers.ts';

const TO_M2 = { device: { networkAccessIdentifier: M2 } };
const WAKE: Wake = { payload: new Uint8Array() };

let fixture: TestTriggers;
afterEach(() => fixture.triggers.close());

const start = async (...args: Parameters<typeof TestTriggers.started>) => {
  fixture = await TestTriggers.started(...args);
  return fixture;
};
const request = (changes: Partial<GrantRequest> = {}, waitSeconds = 3600, wake = WAKE, who: Asker = HEAD_END) =>
  fixture.gateway.grants.requestOrWait(who, ask({ ...TO_M2, ...changes }), waitSeconds, wake);
async function waits(...args: Parameters<typeof request>): Promise<WaitingRequest> {
  const answer = await request(...args);
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  if (!('waitsUntilMs' in answer)) throw new Error('granted');
  await settled();
  return answer;
}
async function refusedFor(...args: Parameters<typeof request>): Promise<string> {
  const answer = await request(...args);
  if (!('reason' in answer)) throw new Error('accepted');
  return answer.reason;
}
const bind = async (text: string, device: ExternalId = M2) => {
  await fixture.gateway.bindings.bind(device, inner(text));
  await settled();
};
const triggerOf = ({ id }: { readonly id: string }) => fixture.triggers.ofGrant(id);
const isLive = ({ id }: { readonly id: GrantId }) => fixture.gateway.grants.live.get(id) !== undefined;
/** Kill -9: a start over the same records, in the same boot. */
const restart = async (rules = TRIGGER_RULES) => {
  await fixture.gateway.start(rules);
  await fixture.start();
};

describe('a request that wakes its device', () => {
  test('waits, and a trigger of the same server to the same device with it; no notification, no transaction', async () => {
    await start();
    const waiting = await waits({}, 600, { port: 5683, payload: Uint8Array.of(1, 2) });
    const trigger = triggerOf(waiting);
    expect(trigger).toMatchObject({
      ...{ grant: waiting.id, server: 'head-end', to: M2, device: TO_M2.device, port: 5683, rule: 'wake' },
      ...{ payload: Uint8Array.of(1, 2), validitySeconds: 600, isPriority: false, state: 'pending' },
      ...{ certificate: HEAD_END.certificate, correlator: HEAD_END.correlator },
    });
    expect(trigger).not.toHaveProperty('notification');
    expect(trigger?.validUntilMs).toBe(waiting.waitsUntilMs);
    const { triggers } = fixture;
    for await (const shown of triggers.pendingOf(HEAD_END)) expect(shown).toEqual([]);
    expect(triggers.show(HEAD_END, trigger?.id ?? '')).toBeUndefined();
    expect(await triggers.remove(HEAD_END, trigger?.id ?? '')).toMatchObject({ reason: 'triggerNotFound' });
    expect(triggers.queue.size).toBe(1);
  });

  test('of a device that is bound in the other family: it is sent at once, the first trigger port, empty', async () => {
    await start();
    await bind('fd00:20::9');
    const waiting = await waits({ ipFamily: 'ipv4' });
    expect(fixture.delivery.only).toMatchObject({ inner: inner('fd00:20::9'), port: 5683, payload: '' });
    await fixture.delivery.only.done('acknowledged');
    expect(triggerOf(waiting)).toMatchObject({ state: 'ended', endCause: 'delivered' });
    expect([isLive(waiting), fixture.told]).toEqual([false, []]);
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'delivered' });
  });

  test('of a device that is nowhere: it is sent when the device binds in any family', async () => {
    await start();
    const waiting = await waits({ ipFamily: 'ipv4' });
    expect(fixture.delivery.begun).toEqual([]);
    await bind('fd00:20::9');
    expect(fixture.delivery.only.inner).toEqual(inner('fd00:20::9'));
    expect(isLive(waiting)).toBe(false);
  });

  test('bound in the family before it was sent: granted, and the trigger is recalled unsent', async () => {
    await start();
    const waiting = await waits();
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
    expect(fixture.delivery.begun).toEqual([]);
    expect(triggerOf(waiting)).toMatchObject({ state: 'ended', endCause: 'grantOver' });
  });

  test('bound before it has acknowledged: granted, and the attempt is given up', async () => {
    await start();
    await bind('fd00:20::9');
    const waiting = await waits({ ipFamily: 'ipv4' });
    const attempt = fixture.delivery.only;
    await bind('10.20.0.9');
    expect([isLive(waiting), attempt.signal.aborted]).toEqual([true, true]);
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'grantOver' });
    expect(fixture.triggers.queue.size).toBe(0);
  });

  test('an acknowledgement has it tried again', async () => {
    await start();
    await bind('fd00:20::9');
    const waiting = await waits({ ipFamily: 'ipv4' });
    // Bound, and nobody has told: what was missed is made up for here.
    const { directory } = fixture.gateway;
    const real = directory.bindingOf.bind(directory);
    directory.bindingOf = (device, family) =>
      family === 'ipv4' ? { ...(real(M1, 'ipv4') as NonNullable<ReturnType<typeof real>>) } : real(device, family);
    expect(isLive(waiting)).toBe(false);
    await fixture.delivery.only.done('acknowledged');
    directory.bindingOf = real;
    // Tried, and looked at again after the commit: the device does not hold that address.
    expect(fixture.gateway.grants.waiting.find(waiting.id) ?? fixture.gateway.grants.find(waiting.id)).toMatchObject({
      state: 'ended',
    });
  });

  test('of a device that is bound in the family: granted at once, and nothing is sent', async () => {
    await start();
    expect(await request({ device: { networkAccessIdentifier: M1 } })).toMatchObject({ state: 'live' });
    await settled();
    expect([fixture.delivery.begun, fixture.triggers.queue.size]).toEqual([[], 0]);
  });

  test('whose address is to be confirmed: it waits, and is granted, not sent to, when that is confirmed', async () => {
    await start();
    await bind('10.20.0.9');
    fixture.gateway.directory.unconfirm();
    const waiting = await waits({ ipFamily: 'ipv4' });
    expect(fixture.delivery.begun).toEqual([]);
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'grantOver' });
  });

  test('bound in the other family alone, and that is to be confirmed: sent when it is', async () => {
    await start();
    await bind('fd00:20::9');
    fixture.gateway.directory.unconfirm();
    await waits({ ipFamily: 'ipv4' });
    expect(fixture.delivery.begun).toEqual([]);
    await bind('fd00:20::9');
    expect(fixture.delivery.only.inner).toEqual(inner('fd00:20::9'));
  });

  test.each([
    ['rejected', 'rejectedByDevice'],
    ['sent', 'sent'],
  ] as const)('a trigger that is %s does not end the wait', async (outcome, endCause) => {
    await start();
    await bind('fd00:20::9');
    const waiting = await waits({ ipFamily: 'ipv4' });
    await fixture.delivery.only.done(outcome);
    expect(triggerOf(waiting)).toMatchObject({ state: 'ended', endCause });
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
  });

  test('the validity is cut to that of the rule which allows most, and refuses nothing', async () => {
    const shorter = TRIGGER_RULES.replace(
      '  - id: wake\n',
      '  - { id: brief, allow: { servers: [head-end] }, limits: { validitySeconds: 60 } }\n  - id: wake\n',
    ).replace('validitySeconds: 86400', 'validitySeconds: 900');
    await start(shorter);
    const waiting = await waits();
    expect(triggerOf(waiting)).toMatchObject({ validitySeconds: 900, rule: 'wake' });
    await fixture.pass(902);
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'expired' });
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
  });
});

describe('ends', () => {
  test.each([
    ['given up by its server', (id: GrantId) => fixture.gateway.grants.giveUp({ id }, 'endedByServer')],
    ['revoked', (id: GrantId) => fixture.gateway.grants.giveUp({ id }, 'revokedByOperator')],
    [
      'waited too long',
      async () => {
        fixture.gateway.clock.pass(3602);
        await fixture.gateway.grants.sweep();
      },
    ],
    [
      'refused when its device is bound',
      async () => {
        await fixture.gateway.grants.switchPolicy(
          policyOf(TRIGGER_RULES.replace('ports: [5683, "7000', 'ports: ["7000')),
        );
        await bind('10.20.0.9');
      },
    ],
  ])('%s: the trigger is recalled, and never sent', async (_, end) => {
    await start();
    const waiting = await waits();
    await end(waiting.id);
    await settled();
    expect(fixture.gateway.grants.waiting.find(waiting.id)).toMatchObject({ state: 'ended' });
    expect(triggerOf(waiting)).toMatchObject({ state: 'ended', endCause: 'grantOver' });
    await bind('fd00:20::9');
    expect(fixture.delivery.begun).toEqual([]);
  });

  test('an operator who recalls the trigger does not end the request', async () => {
    await start();
    const waiting = await waits();
    await fixture.triggers.recall(triggerOf(waiting)?.id ?? '', 'recalledByOperator');
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'recalledByOperator' });
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
  });
});

describe('is refused', () => {
  const nothingLeft = () => {
    expect([fixture.gateway.grants.waiting.size, fixture.triggers.queue.size]).toEqual([0, 0]);
    expect([...fixture.gateway.store.waits()]).toEqual([]);
    expect([...fixture.store.pending()]).toEqual([]);
  };

  test.each([
    ['no rule of triggers', TRIGGER_RULES.slice(0, TRIGGER_RULES.indexOf('triggers:')), WAKE, 'noRuleAllows'],
    ['a payload beyond the rule', TRIGGER_RULES, { payload: new Uint8Array(65) }, 'triggerPayloadTooLarge'],
    ['a port that is no trigger port', TRIGGER_RULES, { ...WAKE, port: 5684 }, 'triggerPortNotServed'],
  ] as const)('%s: for that reason, and nothing waits', async (_, rules, wake, reason) => {
    await start(rules);
    const answer = await request({}, 3600, wake);
    expect(answer).toMatchObject({ reason });
    expect(answer).not.toHaveProperty('members');
    nothingLeft();
    await bind('10.20.0.9');
    expect([fixture.delivery.begun, fixture.gateway.grants.live.size]).toEqual([[], 0]);
  });

  test('one more than the device may have in an hour', async () => {
    await start(TRIGGER_RULES.replace('perDevicePerHour: 6', 'perDevicePerHour: 1'));
    const waiting = await waits();
    await fixture.gateway.grants.giveUp(waiting, 'endedByServer');
    await settled();
    expect(await refusedFor()).toBe('triggersPerDeviceExceeded');
    nothingLeft();
  });

  test('by the rules of grants first: no trigger is asked for then', async () => {
    await start();
    expect(await refusedFor({ devicePort: 23 })).toBe('deniedByRule');
    expect(fixture.gateway.log.of('triggerAccepted')).toEqual([]);
    nothingLeft();
  });

  test('where this gateway sends no triggers, be the device reachable or not', async () => {
    await start();
    fixture.gateway.waker = undefined;
    expect(await refusedFor()).toBe('triggersUnavailable');
    expect(await refusedFor({ device: { networkAccessIdentifier: M1 } })).toBe('triggersUnavailable');
    nothingLeft();
  });

  test('a second one for the same while the first is recorded', async () => {
    await start();
    const both = await Promise.all([request(), request()]);
    expect(both.map((one) => ('reason' in one ? one.reason : one.state))).toEqual(['waiting', 'alreadyExists']);
    expect(fixture.triggers.queue.size).toBe(1);
  });

  test('where the trigger cannot be recorded', async () => {
    const store = openTriggerStore(':memory:', IDENTITIES);
    await start(TRIGGER_RULES, DEVICES, {
      ...store,
      insert: () => Promise.reject(new AgentError('storeFailed', 'disk full')),
    });
    expect(await refusedFor()).toBe('recordNotWritten');
    expect([...fixture.gateway.store.waits()]).toEqual([]);
    expect(fixture.gateway.grants.waiting.size).toBe(0);
  });

  test('where the request cannot be recorded: the trigger that was is recalled unsent', async () => {
    await start();
    await bind('fd00:20::9');
    const { store } = fixture.gateway;
    const wait = store.wait;
    store.wait = () => Promise.reject(new AgentError('storeFailed', 'disk full'));
    expect(await refusedFor({ ipFamily: 'ipv4' })).toBe('recordNotWritten');
    await settled();
    store.wait = wait;
    expect(fixture.delivery.begun).toEqual([]);
    expect(fixture.store.list({ state: 'ended' }, 9)).toMatchObject([{ endCause: 'grantOver' }]);
    nothingLeft();
  });
});

describe('sent again under its Idempotency-Key', () => {
  const KEYED = { ...HEAD_END, idempotencyKey: 'k-1' };
  test('it has the same answer, and no second trigger, over a restart too', async () => {
    await start();
    const first = await request({}, 600, WAKE, KEYED);
    expect(await request({}, 600, WAKE, KEYED)).toEqual(first);
    await restart();
    expect(await request({}, 600, WAKE, KEYED)).toEqual(first);
    expect(fixture.gateway.log.of('triggerAccepted')).toHaveLength(1);
  });

  test.each([
    ['another payload', { payload: Uint8Array.of(1) }],
    ['another port', { ...WAKE, port: 5683 }],
    ['none at all', undefined],
  ])('with %s it is another request', async (_, wake) => {
    await start();
    await request({}, 600, WAKE, KEYED);
    const again = fixture.gateway.grants.requestOrWait(KEYED, ask(TO_M2), 600, wake);
    expect(await again).toMatchObject({ reason: 'idempotencyKeyReused' });
  });
});

describe('killed', () => {
  test('when both are on record: both go on', async () => {
    await start();
    const waiting = await waits({ ipFamily: 'ipv4' });
    await restart();
    expect(triggerOf(waiting)).toMatchObject({ state: 'pending' });
    await bind('fd00:20::9');
    await fixture.delivery.only.done('acknowledged');
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'delivered' });
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
  });

  test('over a reboot too', async () => {
    await start();
    const waiting = await waits({ ipFamily: 'ipv4' });
    fixture.gateway.reboot();
    await restart();
    await bind('fd00:20::9');
    await fixture.delivery.only.done('acknowledged');
    await bind('10.20.0.9');
    expect(isLive(waiting)).toBe(true);
  });

  test('between the two: the trigger is alone, and ends unsent; whoever asks again has both', async () => {
    await start();
    await bind('fd00:20::9');
    const { store } = fixture.gateway;
    const wait = store.wait;
    const written = new Promise<void>((reached) => {
      store.wait = () => {
        reached();
        return new Promise(() => {});
      };
    });
    void request({ ipFamily: 'ipv4' }, 600, WAKE, { ...HEAD_END, idempotencyKey: 'k-1' });
    await written;
    expect(fixture.delivery.begun).toEqual([]); // it is sent when the request is on record too
    store.wait = wait;
    await restart();
    expect(fixture.delivery.begun).toEqual([]);
    expect(fixture.store.list({ state: 'ended' }, 9)).toMatchObject([{ endCause: 'grantOver' }]);
    const again = await waits({ ipFamily: 'ipv4' }, 600, WAKE, { ...HEAD_END, idempotencyKey: 'k-1' });
    expect(triggerOf(again)).toMatchObject({ state: 'pending' });
    expect(fixture.delivery.only.inner).toEqual(inner('fd00:20::9'));
  });

  test.each([
    ['given up', (id: GrantId) => fixture.gateway.grants.giveUp({ id }, 'endedByServer')],
    ['granted', () => bind('10.20.0.9')],
  ])('%s, and the recall was not on record: it is recalled at the start', async (_, end) => {
    const store: TriggerStore = openTriggerStore(':memory:', IDENTITIES);
    const real = store.end;
    await start(TRIGGER_RULES, DEVICES, store);
    const waiting = await waits({ ipFamily: 'ipv4' });
    store.end = () => new Promise(() => {});
    await end(waiting.id);
    await settled();
    expect(store.ofGrant(waiting.id)).toMatchObject({ state: 'pending' });
    store.end = real;
    await bind('fd00:20::9');
    await restart();
    expect(fixture.delivery.begun).toEqual([]);
    expect(triggerOf(waiting)).toMatchObject({ endCause: 'grantOver' });
  });

  test('before the end was on record: request and trigger wait again', async () => {
    await start();
    const { store } = fixture.gateway;
    const real = store.endWait;
    const waiting = await waits({ ipFamily: 'ipv4' });
    store.endWait = () => new Promise(() => {});
    void fixture.gateway.grants.giveUp(waiting, 'endedByServer');
    await settled();
    await bind('fd00:20::9');
    expect(fixture.delivery.begun).toEqual([]); // it waits no more, though that is not on record yet
    store.endWait = real;
    await restart();
    expect(fixture.gateway.grants.waiting.get(waiting.id)).toMatchObject({ state: 'waiting' });
    expect(fixture.delivery.only.inner).toEqual(inner('fd00:20::9'));
  });
});
