/** A request that is sent again under its Idempotency-Key is answered again, and does nothing a second time. */
import { describe, expect, test } from 'vitest';
import type { GrantRequest } from '../../agent/core/words.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { ask, DEVICES, HEAD_END, inner, M1, policyOf, RULES, TestGateway } from '../gateway.ts';

const DAY_SECONDS = 86_400;

const request = (
  gateway: TestGateway,
  key: string | undefined,
  changes: Partial<GrantRequest> = {},
  correlator = 'c-1',
) =>
  gateway.grants.request({ ...HEAD_END, correlator, ...(key !== undefined && { idempotencyKey: key }) }, ask(changes));

async function granted(gateway: TestGateway, key: string | undefined, changes = {}): Promise<GrantRecord> {
  const answer = await request(gateway, key, changes);
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  return answer;
}

const extend = (gateway: TestGateway, key: string, { id }: GrantRecord, seconds = 900) =>
  gateway.extensions.extend({ ...HEAD_END, idempotencyKey: key }, id, seconds);

describe('the same request with the same key', () => {
  test('is answered as the first time, whatever became of the grant, and nothing is opened', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    expect(await request(gateway, 'k')).toEqual(record);
    await gateway.extensions.extend(HEAD_END, record.id, 900);
    expect(await request(gateway, 'k')).toMatchObject({ state: 'live', expiresAtMs: record.expiresAtMs });
    await gateway.grants.end(record, 'endedByServer');
    expect(await request(gateway, 'k', {}, 'c-7')).toMatchObject({
      id: record.id,
      state: 'live',
      expiresAtMs: record.expiresAtMs,
    });
    expect(await request(gateway, 'k')).not.toHaveProperty('endCause');
    expect(gateway.grants.live.size).toBe(0);
    expect(gateway.log.of('grantOpened')).toHaveLength(1);
    expect(gateway.log.of('answeredAgain')).toContainEqual(
      expect.objectContaining({ grant: record.id, correlator: 'c-7' }),
    );
  });

  test('is answered while nothing can be opened, without counting against the rate, and after a policy that forbids it', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    for (let i = 0; i < 20; i++) expect(await request(gateway, 'k')).toEqual(record);
    await granted(gateway, undefined, { devicePort: 7000 });
    gateway.notReady = 'no table';
    expect(await request(gateway, 'k')).toEqual(record);
    await gateway.grants.switchPolicy(policyOf(RULES.replace('5683', '5684')));
    expect(await request(gateway, 'k')).toMatchObject({ id: record.id });
  });

  test('is answered after a restart, and after a kill that left the server without its answer', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    await gateway.start();
    expect(await request(gateway, 'k')).toEqual(record);
    expect(gateway.grants.live.size).toBe(1);
  });

  test('killed between record and gate: it was never open, so the request is judged anew', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    gateway.memory.end(record.index, record.number, 0n);
    gateway.memory.forget(gateway.grants.mapping(record));
    await gateway.start();
    const next = await granted(gateway, 'k');
    expect(next.id).not.toBe(record.id);
    expect(await request(gateway, 'k')).toEqual(next);
  });

  test('of an extension: one extension', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    const first = await extend(gateway, 'k2', record);
    gateway.clock.pass(100);
    expect(await extend(gateway, 'k2', record)).toMatchObject({ expiresAtMs: (first as GrantRecord).expiresAtMs });
    expect(gateway.log.of('grantExtended')).toHaveLength(1);
    await gateway.grants.end(record, 'endedByServer');
    expect(await extend(gateway, 'k2', record)).toEqual(first);
  });

  test('is a new request after a day', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    await gateway.grants.end(record, 'endedByServer');
    gateway.clock.pass(DAY_SECONDS - 1);
    await gateway.heartbeat.beat();
    expect(await request(gateway, 'k')).toMatchObject({ id: record.id });
    gateway.clock.pass(1);
    const next = await granted(gateway, 'k');
    expect(next.id).not.toBe(record.id);
    expect(await request(gateway, 'k')).toEqual(next);
  });

  test('with another key, or none, or of another server, is another request', async () => {
    const gateway = await TestGateway.started(RULES.replace('authorises: [head-end]', 'authorises: [head-end, other]'));
    const record = await granted(gateway, 'k');
    expect(await request(gateway, 'K')).toMatchObject({ reason: 'alreadyExists', members: { grantId: record.id } });
    expect(await request(gateway, undefined)).toMatchObject({ reason: 'alreadyExists' });
    const foreign = { ...HEAD_END, name: 'other' as typeof HEAD_END.name, idempotencyKey: 'k' };
    expect(await gateway.grants.request(foreign, ask())).toMatchObject({ reason: 'noRuleAllows' });
  });
});

describe('another request with the same key', () => {
  test.each<[string, Partial<GrantRequest>]>([
    ['another port', { devicePort: 7000 }],
    ['another protocol', { protocol: 'tcp' }],
    ['another duration', { durationSeconds: 601 }],
    ['another device', { device: { networkAccessIdentifier: 'm2@meters.example' } }],
    ['another kind of identifier', { device: { phoneNumber: M1 } }],
    ['a family', { ipFamily: 'ipv4' }],
    ['an application server', { applicationServer: { address: HEAD_END.requestAddress } }],
    ['any application server', { applicationServer: { address: 'all' } }],
  ])('%s: is refused, and nothing is done', async (_, changes) => {
    const gateway = await TestGateway.started();
    await granted(gateway, 'k');
    expect(await request(gateway, 'k', changes)).toMatchObject({ reason: 'idempotencyKeyReused' });
    expect(gateway.grants.live.size).toBe(1);
  });

  test('an extension with the key of its grant; another extension', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, 'k');
    expect(await extend(gateway, 'k', record)).toMatchObject({ reason: 'idempotencyKeyReused' });
    await extend(gateway, 'k2', record, 700);
    expect(await extend(gateway, 'k2', record, 800)).toMatchObject({ reason: 'idempotencyKeyReused' });
    expect(gateway.log.of('grantExtended')).toHaveLength(1);
  });
});

describe('while the first is under way', () => {
  test('the same is told to wait, also when it is recorded already; another is refused', async () => {
    const gateway = await TestGateway.started();
    const { insert } = gateway.store;
    const meanwhile: unknown[] = [];
    gateway.store.insert = async (...written) => {
      await insert(...written);
      meanwhile.push(await request(gateway, 'k'), await request(gateway, 'k', { devicePort: 7000 }));
    };
    const first = request(gateway, 'k');
    expect(await request(gateway, 'k')).toMatchObject({ reason: 'idempotencyKeyInUse', retryAfterSeconds: 1 });
    expect(await first).toMatchObject({ state: 'live' });
    expect(meanwhile).toMatchObject([{ reason: 'idempotencyKeyInUse' }, { reason: 'idempotencyKeyReused' }]);
    expect(await request(gateway, 'k')).toEqual(await first);
  });
});

describe('what changed nothing is not kept', () => {
  test('a refusal: judged anew', async () => {
    const gateway = await TestGateway.started();
    gateway.notReady = 'no table';
    expect(await request(gateway, 'k')).toMatchObject({ reason: 'gatewayNotReady' });
    gateway.notReady = undefined;
    await granted(gateway, 'k');
  });

  test('what was recorded and not opened: judged anew', async () => {
    const gateway = await TestGateway.started();
    const pending = request(gateway, 'k');
    gateway.notReady = 'no table';
    expect(await pending).toMatchObject({ reason: 'changedWhileDeciding' });
    gateway.notReady = undefined;
    await granted(gateway, 'k');
  });

  test('a fault of the gate, and of the store', async () => {
    const gateway = await TestGateway.started();
    const { open } = gateway.memory;
    gateway.memory.open = () => {
      throw new Error('the kernel said no');
    };
    await expect(request(gateway, 'k')).rejects.toThrow('the kernel said no');
    gateway.memory.open = open;
    const { insert } = gateway.store;
    gateway.store.insert = async () => {
      throw new Error('disk full');
    };
    await expect(request(gateway, 'k')).rejects.toThrow('disk full');
    gateway.store.insert = insert;
    await granted(gateway, 'k');
  });

  test('an extension that left the grant as it is', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, undefined);
    expect(await extend(gateway, 'k', record, 100)).toEqual(record);
    expect(gateway.store.answerOf(HEAD_END.name, 'k', 0)).toBeUndefined();
  });
});

test("one id goes with a request's grant: record, and every line of its life", async () => {
  const gateway = await TestGateway.started(
    RULES,
    DEVICES.map(({ device }) => ({ device, bindings: [] })),
  );
  await gateway.bindings.bind(M1, inner('10.20.0.2'));
  const record = (await request(gateway, undefined, {}, 'one-id')) as GrantRecord;
  expect(gateway.store.find(record.id)).toMatchObject({ correlator: 'one-id' });
  await gateway.extensions.extend({ ...HEAD_END, correlator: 'another' }, record.id, 900);
  await gateway.bindings.unbind(inner('10.20.0.2'));
  expect(
    gateway.log.lines.filter(({ grant }) => grant === record.id).map(({ event, correlator }) => [event, correlator]),
  ).toEqual([
    ['grantOpened', 'one-id'],
    ['grantExtended', 'one-id'],
    ['grantEnded', 'one-id'],
  ]);
  expect(await request(gateway, undefined, {}, 'third')).toMatchObject({ reason: 'deviceUnreachable' });
  expect(gateway.log.of('refused')).toEqual([expect.objectContaining({ correlator: 'third' })]);
});
