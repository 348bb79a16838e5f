/** Requests that wait for their device: accepted, kept, granted the moment it is bound, or ended with a reason. */
import { describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { Asker, ExternalId, GrantRequest, RealmName } from '../../agent/core/words.ts';
import { openRegistry } from '../../agent/directory/registry-store.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { type GrantStore, openStore } from '../../agent/grants/store.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { ask, DEVICES, HEAD_END, inner, M1, M2, OTHER, policyOf, RULES, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';

const SECOND = 1_000_000_000n;
const M3 = 'm3@meters.example' as ExternalId;
const TO_M2 = { device: { networkAccessIdentifier: M2 } };

const request = (
  gateway: TestGateway,
  changes: Partial<GrantRequest> = {},
  waitSeconds = 3600,
  who: Asker = HEAD_END,
) => gateway.grants.requestOrWait(who, ask({ ...TO_M2, ...changes }), waitSeconds);

async function waits(...args: Parameters<typeof request>): Promise<WaitingRequest> {
  const answer = await request(...args);
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  if (!('waitsUntilMs' in answer)) throw new Error('granted');
  return answer;
}

const bind = (gateway: TestGateway, device = M2, text = '10.20.0.9') => gateway.bindings.bind(device, inner(text));
const found = (gateway: TestGateway, { id }: { id: string }): GrantRecord | WaitingRequest | undefined =>
  gateway.grants.show(HEAD_END, id) ?? gateway.grants.waiting.show(HEAD_END, id);
/** A store over which the test lays its hand. */
const over = (store: GrantStore, changes: (store: GrantStore) => Partial<GrantStore>): GrantStore => ({
  ...store,
  ...changes(store),
});

describe('a request that waits', () => {
  test('is granted the moment its device is bound, for its whole duration from then on', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    expect(waiting).toMatchObject({ state: 'waiting', device: M2, family: 'ipv4', rule: 'meters' });
    expect(waiting.waitsUntilMs).toBe(gateway.clock.utcMs + 3_600_000);
    expect(gateway.grants.live.size).toBe(0);
    expect(found(gateway, waiting)).toEqual(waiting);

    gateway.clock.pass(1000);
    await bind(gateway);
    const record = gateway.grants.live.get(waiting.id);
    expect(record).toMatchObject({
      id: waiting.id,
      inner: inner('10.20.0.9'),
      remote: HEAD_END.requestAddress,
      correlator: HEAD_END.correlator,
      grantedSeconds: 600,
      startedAtMs: gateway.clock.utcMs,
    });
    expect(record?.expiresAtNs).toBe(gateway.clock.boottimeNs() + 600n * SECOND);
    expect(gateway.memory.entry(record?.index ?? -1)).toMatchObject({ endNs: record?.expiresAtNs });
    expect(gateway.store.find(waiting.id)).toEqual(record);
    expect([gateway.store.findWait(waiting.id), gateway.grants.waiting.size]).toEqual([undefined, 0]);
  });

  test('the device is bound in the gate, and marked no more, before anything is opened toward it', async () => {
    const gateway = await TestGateway.started();
    await waits(gateway);
    const order: string[] = [];
    const { memory } = gateway;
    for (const name of ['bind', 'setChanging', 'open'] as const) {
      const real = memory[name].bind(memory) as (...args: unknown[]) => void;
      Object.assign(memory, {
        [name]: (...args: unknown[]) => {
          order.push(`${name} ${args[2] ?? ''}`);
          real(...args);
        },
      });
    }
    await bind(gateway);
    expect(
      order.map((line) =>
        line
          .split(' ')
          .slice(0, line.startsWith('setChanging') ? 2 : 1)
          .join(' '),
      ),
    ).toEqual(['setChanging true', 'bind', 'setChanging false', 'open']);
  });

  test('where the device can be reached it is granted at once', async () => {
    const gateway = await TestGateway.started();
    expect(await request(gateway, { device: { networkAccessIdentifier: M1 } })).toMatchObject({ state: 'live' });
    expect(gateway.grants.waiting.size).toBe(0);
  });

  test('bound while the request is recorded: it is granted, and not before it is on record', async () => {
    const store = openStore(':memory:', IDENTITIES);
    const whileRecorded: unknown[] = [];
    const gateway = new TestGateway(
      over(store, () => ({
        wait: async (...written) => {
          await bind(gateway);
          whileRecorded.push(gateway.grants.live.size);
          await store.wait(...written);
        },
      })),
    );
    await gateway.start();
    expect(await request(gateway)).toMatchObject({ state: 'live', inner: inner('10.20.0.9') });
    expect([whileRecorded, gateway.grants.live.size, gateway.grants.waiting.size]).toEqual([[0], 1, 0]);
  });

  test('all others are left alone by a binding', async () => {
    const gateway = await TestGateway.started(RULES, [...DEVICES, { device: { externalId: M3 }, bindings: [] }]);
    const waiting = await waits(gateway, { device: { networkAccessIdentifier: M3 } });
    await bind(gateway);
    expect(found(gateway, waiting)).toEqual(waiting);
  });

  test('those of several servers are all granted', async () => {
    const rules = RULES.replace('authorises: [head-end]', 'authorises: [head-end, other]').replace(
      'servers: [head-end], ',
      '',
    );
    const gateway = await TestGateway.started(rules);
    const ids = [await waits(gateway), await waits(gateway, {}, 60, OTHER)].map(({ id }) => id);
    await bind(gateway);
    expect(ids.map((id) => gateway.grants.live.get(id)?.server)).toEqual(['head-end', 'other']);
  });

  test('waits for its family alone, which is settled when it is asked', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    await bind(gateway, M2, 'fd00:20::9');
    expect(found(gateway, waiting)).toEqual(waiting);
    await bind(gateway);
    expect(gateway.grants.live.get(waiting.id)).toMatchObject({ family: 'ipv4' });
  });

  test('waits while a device has a prefix and no address in it is known', async () => {
    const gateway = await TestGateway.started();
    const range = { realm: 'iot' as RealmName, prefix: prefix('fd00:20:0:9::/64') };
    const held = { ...range, holder: M2, source: 'accounting' as const, sinceMs: 1 };
    gateway.directory.apply({ losses: [], gains: [held] });
    const changes = { applicationServer: { address: address('2001:db8:51::1') } };
    const plain = await gateway.grants.request(HEAD_END, ask({ ...TO_M2, ...changes }));
    expect(plain).toMatchObject({ reason: 'addressUnknown' });
    const waiting = await waits(gateway, changes);
    await bind(gateway, M2, 'fd00:20:0:8::1');
    expect(gateway.grants.live.get(waiting.id)?.inner.address.text).toBe('fd00:20:0:8::1');
  });

  test('counts against the quotas, and itself is no obstacle to itself', async () => {
    const gateway = await TestGateway.started();
    const ids: string[] = [];
    for (const devicePort of [5683, 7000, 7001]) ids.push((await waits(gateway, { devicePort })).id);
    const fourth = await request(gateway, { devicePort: 7002 });
    expect(fourth).toMatchObject({ reason: 'grantsPerDeviceExceeded' });
    await bind(gateway);
    expect(ids.map((id) => gateway.grants.live.get(id)?.id)).toEqual(ids);
    expect(await request(gateway, { devicePort: 7002 })).toMatchObject({ reason: 'grantsPerDeviceExceeded' });
  });

  test('a rate that is used up by then does not take it away: it was counted when it was asked', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    for (let i = 0; i < 9; i++) await gateway.grants.request(HEAD_END, ask({ devicePort: 7000 }));
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'rateExceeded' });
    await bind(gateway);
    expect(gateway.grants.live.get(waiting.id)).toBeDefined();
  });

  test('holds its key: a second one, waiting or not, is told of it', async () => {
    const gateway = await TestGateway.started();
    const [first, second] = await Promise.all([request(gateway), request(gateway)]);
    const { id } = first as WaitingRequest;
    expect(second).toMatchObject({ reason: 'alreadyExists', members: { grantId: id } });
    const plain = await gateway.grants.request(HEAD_END, ask(TO_M2));
    expect(plain).toMatchObject({ reason: 'alreadyExists', members: { grantId: id } });
    gateway.clock.pass(3600);
    expect(await request(gateway)).toMatchObject({ state: 'waiting' });
  });

  test('is refused at once by what is not reachability', async () => {
    const gateway = await TestGateway.started();
    expect(await request(gateway, { devicePort: 23 })).toMatchObject({ reason: 'deniedByRule' });
    expect(await request(gateway, { device: { networkAccessIdentifier: 'm9@meters.example' } })).toMatchObject({
      reason: 'deviceUnknown',
    });
    gateway.notReady = 'no table';
    expect(await request(gateway)).toMatchObject({ reason: 'gatewayNotReady' });
    expect(gateway.grants.waiting.size).toBe(0);
  });

  test('cannot be extended', async () => {
    const gateway = await TestGateway.started();
    const { id } = await waits(gateway);
    expect(await gateway.extensions.extend(HEAD_END, id, 60)).toMatchObject({ reason: 'grantWaits' });
    expect(await gateway.extensions.extend(OTHER, id, 60)).toMatchObject({ reason: 'grantNotFound' });
  });
});

describe('it is judged again when the device is bound', () => {
  const cases: [string, string, (gateway: TestGateway) => unknown][] = [
    [
      'another policy',
      'noRuleAllows',
      (gateway) => gateway.grants.switchPolicy(policyOf(RULES.replace('5683', '5684'))),
    ],
    [
      'a server no longer authorised',
      'notAuthorisedByMtcUser',
      (gateway) => gateway.grants.switchPolicy(policyOf(RULES.replace('authorises: [head-end]', 'authorises: []'))),
    ],
    [
      'hours that have closed',
      'outsideHours',
      (gateway) => {
        const hours = `$&\n    hours: { from: "12:00", to: "12:30", zone: UTC }`;
        gateway.clock.pass(1800);
        return gateway.grants.switchPolicy(policyOf(RULES.replace(/limits: .*\}/, hours)));
      },
    ],
    ['a revoked certificate', 'certificateRevoked', (gateway) => gateway.revoked.add(HEAD_END.certificate)],
    ['a gateway that is not ready', 'gatewayNotReady', (gateway) => Object.assign(gateway, { notReady: 'no table' })],
    [
      'no free endpoint',
      'endpointsExhausted',
      ({ grants }) => {
        while (grants.endpoints.allocate('ipv4', 'udp')) {}
      },
    ],
  ];
  test.each(cases)('%s: it ends with %s, and nothing is opened', async (_what, endCause, change) => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    await change(gateway);
    await bind(gateway);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause, endedAtMs: gateway.clock.utcMs });
    expect(gateway.store.findWait(waiting.id)).toEqual(found(gateway, waiting));
    expect([gateway.grants.live.size, gateway.grants.waiting.size]).toEqual([0, 0]);
    if (endCause !== 'certificateRevoked')
      expect(gateway.log.of('refused')).toContainEqual(expect.objectContaining({ reason: endCause }));
  });

  test('an identifier that is another device by then reaches neither', async () => {
    const phone = { phoneNumber: '+12025550142' };
    const withMsisdn = (holder: ExternalId) =>
      [M2, M3].map((externalId) => ({
        device: { externalId, ...(externalId === holder && { msisdn: '12025550142' as never }) },
        bindings: [],
      }));
    const gateway = await TestGateway.started(RULES, withMsisdn(M2));
    const waiting = await waits(gateway, { device: phone });
    await gateway.bindings.replaceFile(withMsisdn(M3));
    await bind(gateway, M3, '10.20.0.8');
    expect(found(gateway, waiting)).toMatchObject({ state: 'waiting' });
    await bind(gateway);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: 'deviceUnknown' });
    expect(gateway.grants.live.size).toBe(0);
  });

  test('a change while the grant is recorded: it is not opened', async () => {
    const store = openStore(':memory:', IDENTITIES);
    let leave = (): unknown => undefined;
    const gateway = new TestGateway(
      over(store, () => ({
        grantWait: async (record) => {
          const isWritten = await store.grantWait(record);
          leave();
          return isWritten;
        },
      })),
    );
    await gateway.start();
    const waiting = await waits(gateway);
    leave = () => gateway.revoked.add(HEAD_END.certificate);
    await bind(gateway);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: 'certificateRevoked' });
    expect(gateway.grants.live.size).toBe(0);
    expect(store.find(waiting.id)).toMatchObject({ state: 'ended', endCause: 'certificateRevoked' });
  });
});

describe('it ends', () => {
  test('when its time is over, by the sweep, and by whoever looks before', async () => {
    const gateway = await TestGateway.started();
    const [short, long] = [await waits(gateway, {}, 10), await waits(gateway, { devicePort: 7000 }, 20)];
    gateway.clock.pass(9);
    await gateway.grants.sweep();
    expect(gateway.grants.waiting.size).toBe(2);
    gateway.clock.suspend(1);
    expect(found(gateway, short)).toMatchObject({ state: 'ended', endCause: 'waitedTooLong' });
    gateway.clock.pass(10);
    await gateway.grants.sweep();
    expect(gateway.store.findWait(long.id)).toMatchObject({ state: 'ended', endCause: 'waitedTooLong' });
    await bind(gateway);
    expect(gateway.grants.live.size).toBe(0);
  });

  test('too late to be granted, though no sweep has come', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway, {}, 10);
    gateway.clock.pass(10);
    await bind(gateway);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: 'waitedTooLong' });
  });

  test.each(['endedByServer', 'revokedByOperator'] as const)('%s', async (cause) => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    await gateway.grants.giveUp(waiting, cause);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: cause });
    await gateway.grants.giveUp(waiting, cause);
    await bind(gateway);
    expect(gateway.grants.live.size).toBe(0);
  });

  test('given up while it is granted: the grant ends', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    const bound = bind(gateway);
    const givenUp = gateway.grants.giveUp(waiting, 'endedByServer');
    await Promise.all([bound, givenUp]);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: 'endedByServer' });
    expect(gateway.grants.live.size).toBe(0);
  });
});

describe('over a restart', () => {
  test('it waits on, to the same end, whatever UTC does in the same boot', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway, {}, 100);
    gateway.clock.pass(50);
    gateway.clock.utcMs += 10 * 86_400_000;
    await gateway.start();
    expect(found(gateway, waiting)).toEqual(waiting);
    gateway.clock.pass(49);
    await bind(gateway);
    expect(gateway.grants.live.get(waiting.id)).toBeDefined();
  });

  test('over a reboot by UTC, and on the clock of that boot from then on', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway, {}, 100);
    gateway.reboot(40);
    await gateway.start();
    const after = found(gateway, waiting) as WaitingRequest;
    expect(after).toEqual({ ...waiting, bootId: 'boot-2', waitsUntilNs: gateway.clock.boottimeNs() + 60n * SECOND });
    expect(gateway.store.findWait(waiting.id)).toEqual(after);
    gateway.clock.pass(60);
    await gateway.grants.sweep();
    expect(found(gateway, waiting)).toMatchObject({ endCause: 'waitedTooLong' });
  });

  test('a clock that stands before the latest record ends it', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway);
    gateway.reboot(-10);
    await gateway.start();
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: 'clockUncertain' });
  });

  test('an older copy of the database is not believed', async () => {
    const gateway = new TestGateway(
      over(openStore(':memory:', IDENTITIES), () => ({ isOlder: true })),
      openRegistry(':memory:', IDENTITIES),
    );
    await gateway.start();
    const waiting = await waits(gateway);
    await gateway.start();
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended', endCause: 'recordOutdated' });
  });

  test('bound before the agent went down, and not granted yet: it is granted at the start', async () => {
    const store = openStore(':memory:', IDENTITIES);
    let isCut = true;
    let cut = (): void => {};
    const isGranting = new Promise<void>((resolve) => {
      cut = resolve;
    });
    const gateway = new TestGateway(
      over(store, () => ({
        grantWait: (record) => {
          if (!isCut) return store.grantWait(record);
          cut();
          return new Promise(() => {});
        },
      })),
    );
    await gateway.start();
    const waiting = await waits(gateway);
    void bind(gateway);
    await isGranting;
    isCut = false;
    await gateway.start();
    expect(gateway.grants.live.get(waiting.id)).toMatchObject({ state: 'live', inner: inner('10.20.0.9') });
  });
});

describe('with an Idempotency-Key', () => {
  const WITH_KEY = { ...HEAD_END, idempotencyKey: 'k' };
  const again = (gateway: TestGateway) => request(gateway, {}, 3600, WITH_KEY);

  test('it is answered by what waits, over a restart too, then by the grant', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway, {}, 3600, WITH_KEY);
    expect(await again(gateway)).toEqual(waiting);
    await gateway.start();
    expect(await again(gateway)).toEqual(waiting);
    await bind(gateway);
    const record = gateway.grants.live.get(waiting.id);
    expect(await again(gateway)).toEqual(record);
    await gateway.start();
    expect(await again(gateway)).toEqual(record);
    expect(gateway.grants.live.size).toBe(1);
  });

  test('one that has ended is told as it was accepted, and another request is none of it', async () => {
    const gateway = await TestGateway.started();
    const waiting = await waits(gateway, {}, 3600, WITH_KEY);
    await gateway.grants.giveUp(waiting, 'endedByServer');
    expect(await again(gateway)).toEqual(waiting);
    expect(await request(gateway, {}, 60, WITH_KEY)).toMatchObject({ reason: 'idempotencyKeyReused' });
    expect(await gateway.grants.request(WITH_KEY, ask(TO_M2))).toMatchObject({ reason: 'idempotencyKeyReused' });
  });
});

describe('a store that fails', () => {
  test('accepts nothing that is not on record', async () => {
    const gateway = new TestGateway(over(openStore(':memory:', IDENTITIES), () => ({ wait: storeFails })));
    await gateway.start();
    expect(await request(gateway)).toMatchObject({ reason: 'recordNotWritten' });
    expect(gateway.grants.waiting.size).toBe(0);
  });

  test('ends what it cannot grant, writes that with a later sweep, and the binding stands', async () => {
    const store = openStore(':memory:', IDENTITIES);
    let isFull = true;
    const failing =
      <Args extends unknown[], Result>(write: (...args: Args) => Promise<Result>) =>
      (...args: Args) =>
        isFull ? storeFails() : write(...args);
    const gateway = new TestGateway(
      over(store, () => ({ grantWait: failing(store.grantWait), endWait: failing(store.endWait) })),
    );
    await gateway.start();
    const waiting = await waits(gateway);
    expect(await bind(gateway)).toBeUndefined();
    expect(gateway.directory.holderOf(inner('10.20.0.9'))?.holder).toBe(M2);
    expect(found(gateway, waiting)).toMatchObject({ state: 'ended' });
    expect(store.findWait(waiting.id)).toMatchObject({ state: 'waiting' });
    await expect(gateway.grants.sweep()).rejects.toThrow('disk full');
    isFull = false;
    await gateway.grants.sweep();
    expect(store.findWait(waiting.id)).toMatchObject({ state: 'ended', endCause: 'recordNotWritten' });
    expect(gateway.grants.live.size).toBe(0);
  });
});

async function storeFails(): Promise<never> {
  const { AgentError } = await import('../../agent/core/errors.ts');
  throw new AgentError('storeFailed', 'disk full');
}

test('a list has those that wait, page by page, in the order in which they came', async () => {
  const gateway = await TestGateway.started(
    RULES.replace('grantsPerDevice: 3, requestsPerMinute: 10', 'grantsPerDevice: 9'),
  );
  const ids: string[] = [];
  for (const devicePort of [7000, 7001, 7002, 7003]) ids.push((await waits(gateway, { devicePort })).id);
  const first = gateway.grants.listWaiting({ server: HEAD_END.name }, 0, 2);
  expect([first.requests.map(({ id }) => id), first.more, first.total]).toEqual([ids.slice(0, 2), true, 4]);
  await gateway.grants.giveUp({ id: ids[1] as never }, 'endedByServer'); // the mark of the page is gone
  const next = gateway.grants.listWaiting({ device: TO_M2.device }, first.last, 2);
  expect([next.requests.map(({ id }) => id), next.more, next.total]).toEqual([ids.slice(2), false, 3]);
  expect(gateway.grants.listWaiting({ server: OTHER.name }, 0, 2).total).toBe(0);
  expect(gateway.grants.listWaiting({ device: { networkAccessIdentifier: 'm9@meters.example' } }, 0, 2).total).toBe(0);
});
