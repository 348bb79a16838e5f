/** Many tell of many addresses at once: what has nothing to do with each other is carried out together, all else in its order. */

import { describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { ExternalId, Imsi } from '../../agent/core/words.ts';
import type { AccountingEvent, SessionEvent } from '../../agent/directory/accounting.ts';
import { NOTHING_TOLD } from '../accounting.ts';
import { ask, HEAD_END, M1, RULES, TestGateway } from '../gateway.ts';

const imsi = (i: number) => `26201${String(i).padStart(10, '0')}` as Imsi;
const DEVICES = Array.from({ length: 300 }, (_, i) => ({
  device: { externalId: (i === 1 ? M1 : `d${i}@meters.example`) as ExternalId, imsi: imsi(i) },
  bindings: [],
}));

function event(kind: SessionEvent['kind'], i: number, more: Partial<SessionEvent> = {}): SessionEvent {
  return {
    ...NOTHING_TOLD,
    kind,
    nas: { client: 'pgw-1', id: 'ggsn' },
    time: { nasMs: undefined, hereMs: Date.UTC(2026, 0, 1) },
    session: `s${i}`,
    subscriber: { ...NOTHING_TOLD.subscriber, imsi: imsi(i) },
    apn: 'iot.example',
    ipv4: address(`10.20.${i >> 8}.${i & 255}`),
    stopsAll: false,
    ...more,
  };
}

/** A gateway, and how many changes the store was given at once. */
async function started() {
  const gateway = await TestGateway.started(RULES, DEVICES);
  const batches: number[] = [];
  const { rebind } = gateway.store;
  gateway.ground.store.rebind = (change, told, nowMs) => {
    batches.push(told.length);
    return rebind(change, told, nowMs);
  };
  const tell = (...events: readonly AccountingEvent[]) =>
    Promise.all(events.map((one) => gateway.bindings.account(one)));
  return { gateway, batches, tell };
}

test('what has nothing in common is one write', async () => {
  const { gateway, batches, tell } = await started();
  const told = await tell(...Array.from({ length: 200 }, (_, i) => event('start', i)));
  expect(new Set(told)).toEqual(new Set(['done']));
  expect(batches).toEqual([200]);
  expect(gateway.directory.bindings()).toHaveLength(200);
});

describe('what concerns the same is done in its order', () => {
  test('one session: it begins, goes on and ends', async () => {
    const { gateway, batches, tell } = await started();
    await tell(event('start', 1), event('interim', 1), event('stop', 1), event('start', 1));
    expect(batches).toEqual([1, 1, 1]);
    expect(gateway.directory.bindings()).toEqual([]);
  });

  test('one address: the last Start has it', async () => {
    const { gateway, tell } = await started();
    const A = { ipv4: address('10.20.0.9') };
    await tell(event('start', 1, A), event('start', 2, A), event('stop', 1, A));
    expect(gateway.directory.bindings().map(({ holder }) => holder)).toEqual(['d2@meters.example']);
  });

  test('a prefix and an address in it', async () => {
    const { gateway, tell } = await started();
    const none = { ipv4: undefined };
    await tell(
      event('start', 1, { ...none, ipv6Prefix: prefix('fd00:20:0:1::/64') }),
      event('start', 2, { ...none, ipv6Address: address('fd00:20:0:1::7') }),
      event('start', 3, { ...none, delegatedPrefix: prefix('fd00:20::/48') }),
    );
    expect(gateway.directory.bindings().map(({ holder, prefix: of }) => [holder, of.text])).toEqual([
      ['d3@meters.example', 'fd00:20::/48'],
    ]);
  });
});

test('a grant on the address ends before the NAS is answered, and the former flows are forgotten', async () => {
  const { gateway, tell } = await started();
  await tell(event('start', 1));
  const granted = await gateway.grants.request(HEAD_END, ask());
  expect(granted).toMatchObject({ state: 'live' });
  gateway.forgotten.length = 0;
  await tell(event('start', 2, { ipv4: address('10.20.0.1') }));
  expect(gateway.grants.live.size).toBe(0);
  expect(gateway.forgotten).toEqual(['10.20.0.1/32']);
  expect(gateway.log.of('accountingAlarm')).toMatchObject([{ finding: 'addressTaken' }]);
});

test('what cannot be carried out is not answered, changes nothing, and can be told again', async () => {
  const { gateway, tell } = await started();
  await tell(event('start', 1));
  gateway.forgotten.push = () => {
    throw new Error('no netlink');
  };
  expect(await tell(event('start', 2, { ipv4: address('10.20.0.1') }), event('start', 3))).toEqual(['later', 'later']);
  expect(gateway.directory.bindings().map(({ holder }) => holder)).toEqual([M1]);
  gateway.forgotten.push = () => 0;
  expect(await tell(event('start', 2, { ipv4: address('10.20.0.1') }))).toEqual(['done']);
  expect(gateway.directory.bindings().map(({ holder }) => holder)).toEqual(['d2@meters.example']);
});

test('after a restart sessions are as they were: a Stop of before counts', async () => {
  const { gateway, tell } = await started();
  await tell(event('start', 1), event('start', 2));
  await gateway.start(RULES, DEVICES);
  expect(await gateway.bindings.account(event('stop', 1))).toBe('done');
  expect(gateway.directory.bindings().map(({ holder }) => holder)).toEqual(['d2@meters.example']);
});
