/** How a grant lives longer, and every way in which something else comes between. */

import { describe, expect, test } from 'vitest';
import type { Refusal } from '../../agent/core/refusals.ts';
import type { Binding } from '../../agent/directory/binding.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { ask, DEVICES, HEAD_END, inner, M1, M2, OTHER, policyOf, RULES, TestGateway } from '../gateway.ts';

const ASKER = { ...HEAD_END, correlator: 'c-9' };
const unbound = DEVICES.map(({ device }) => ({ device, bindings: [] }));

async function granted(gateway: TestGateway, changes = {}): Promise<GrantRecord> {
  const answer = await gateway.grants.request(HEAD_END, ask(changes));
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  return answer;
}

const extend = (gateway: TestGateway, { id }: { id: string }, seconds = 600) =>
  gateway.extensions.extend(ASKER, id, seconds);

async function extended(gateway: TestGateway, record: { id: string }, seconds = 600): Promise<GrantRecord> {
  const answer = await extend(gateway, record, seconds);
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  return answer;
}

function unready(gateway: TestGateway): void {
  gateway.notReady = 'no table';
}

/** The grant's end, in seconds from now, by record, memory and gate, which must agree. */
function endOf(gateway: TestGateway, { id, index }: GrantRecord): number {
  const nowNs = gateway.clock.monotonicNs();
  const stored = gateway.store.find(id);
  const inGate = gateway.memory.entry(index)?.endNs ?? 0n;
  expect(stored).toEqual(gateway.grants.show(HEAD_END, id));
  expect((stored?.expiresAtNs ?? 0n) - gateway.clock.suspended).toBe(inGate);
  return Number(inGate - nowNs) / 1e9;
}

describe('an extension', () => {
  test('counts from now, and is what the rule gives now, on record and in the gate', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(500);
    const longer = await extended(gateway, record, 10_000);
    expect(longer).toEqual({
      ...record,
      grantedSeconds: 900,
      expiresAtMs: gateway.clock.nowMs() + 900_000,
      expiresAtNs: gateway.clock.boottimeNs() + 900_000_000_000n,
    });
    expect(endOf(gateway, record)).toBe(900);
    expect(gateway.log.of('grantExtended')).toEqual([
      expect.objectContaining({ grant: record.id, rule: 'meters', correlator: 'c-1', requestCorrelator: 'c-9' }),
    ]);
  });

  test('outlives the end it had, also for the sweep, and ends at the end it has', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(590);
    await extended(gateway, record, 100);
    gateway.clock.pass(11);
    await gateway.grants.sweep();
    expect(endOf(gateway, record)).toBe(89);
    gateway.clock.pass(89);
    await gateway.grants.sweep();
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'ended', endCause: 'expired' });
    expect(gateway.log.of('grantEnded')).toEqual([expect.objectContaining({ cause: 'expired', correlator: 'c-1' })]);
  });

  test('counts for whoever ends the grant and had found it before', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const { expiresAtNs } = await extended(gateway, record, 900);
    await gateway.grants.end(record, 'endedByServer');
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'endedByServer', expiresAtNs });
  });

  test('never shortens: the grant stays as it is', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(100);
    expect(await extend(gateway, record, 499)).toEqual(record);
    expect(await extend(gateway, record, 500)).toEqual(record);
    expect(gateway.log.of('grantExtended')).toEqual([]);
    expect(endOf(gateway, record)).toBe(500);
  });

  test('is cut to totalSeconds from the beginning; where they are used up, it is refused', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, { durationSeconds: 900 });
    for (const _ of [1, 2, 3]) {
      gateway.clock.pass(800);
      await extended(gateway, record, 900);
    }
    gateway.clock.pass(800);
    expect(await extended(gateway, record, 900)).toMatchObject({ grantedSeconds: 400 });
    expect(endOf(gateway, record)).toBe(400);
    expect(await extend(gateway, record, 900)).toMatchObject({ reason: 'lifetimeExhausted', rule: 'meters' });
    expect(await extend(gateway, record, 300)).toMatchObject({ state: 'live' });
    expect(endOf(gateway, record)).toBe(400);
  });

  test('a life is measured by the boot’s clock: UTC may jump', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.utcMs += 7_200_000;
    await extended(gateway, record, 900);
    expect(endOf(gateway, record)).toBe(900);
    gateway.clock.utcMs -= 14_400_000;
    gateway.clock.pass(850);
    await extended(gateway, record, 900);
    expect(endOf(gateway, record)).toBe(900);
  });

  test('after a suspend, the gate counts without it and the record with it', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.suspend(300);
    await gateway.heartbeat.beat();
    await extended(gateway, record, 600);
    expect(endOf(gateway, record)).toBe(600);
  });

  test('is decided by the rules of now, which the record then names', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const policy = policyOf(
      RULES.replace('id: meters', 'id: shorter')
        .replace('durationSeconds: 900', 'durationSeconds: 700')
        .replace('totalSeconds: 3600', 'totalSeconds: 1000'),
    );
    await gateway.grants.switchPolicy(policy);
    gateway.clock.pass(500);
    const longer = await extended(gateway, record, 900);
    expect(longer).toMatchObject({ rule: 'shorter', policyVersion: policy.version, grantedSeconds: 500 });
    expect(gateway.store.find(record.id)).toMatchObject({ rule: 'shorter', policyVersion: policy.version });
    expect(endOf(gateway, record)).toBe(500);
  });

  test('does not count itself against a quota, and counts against the rate', async () => {
    const rules = RULES.replace('grantsPerDevice: 3', 'grantsPerDevice: 1, grantsPerServer: 1').replace(
      'requestsPerMinute: 10',
      'requestsPerMinute: 3',
    );
    const gateway = await TestGateway.started(rules);
    const record = await granted(gateway);
    gateway.clock.pass(20);
    await extended(gateway, record);
    await extended(gateway, record);
    expect(await extend(gateway, record)).toMatchObject({ reason: 'rateExceeded', retryAfterSeconds: 40 });
    gateway.clock.pass(40);
    await extended(gateway, record);
  });
});

describe('an extension is refused', () => {
  test('of a grant that has ended, with its cause, swept or not', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const other = await granted(gateway, { devicePort: 7000 });
    await gateway.grants.end(record, 'revokedByOperator');
    expect(await extend(gateway, record)).toMatchObject({
      reason: 'grantEnded',
      members: { endCause: 'REVOKED_BY_OPERATOR' },
    });
    gateway.clock.pass(600);
    expect(await extend(gateway, other)).toMatchObject({ reason: 'grantEnded', members: { endCause: 'EXPIRED' } });
    expect(gateway.store.find(other.id)).toMatchObject({ endCause: 'expired' });
  });

  test('of another server, and of none, alike', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const foreign = (await gateway.extensions.extend(OTHER, record.id, 60)) as Refusal;
    const none = (await extend(gateway, { id: 'grant-0' })) as Refusal;
    expect(foreign).toMatchObject({ reason: 'grantNotFound' });
    expect({ ...foreign, instance: '' }).toEqual({ ...none, instance: '' });
    expect(endOf(gateway, record)).toBe(600);
  });

  test('while the gateway is not ready', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.notReady = 'no table';
    expect(await extend(gateway, record, 900)).toMatchObject({ reason: 'gatewayNotReady', retryAfterSeconds: 5 });
    expect(endOf(gateway, record)).toBe(600);
  });

  test("while the device's address is changing hands", async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const [binding] = gateway.directory.bindingsOf(M1);
    const plan = { losses: [{ binding: binding as Binding, cause: 'deviceUnbound' as const }], gains: [] };
    gateway.directory.begin(plan);
    expect(await extend(gateway, record, 900)).toMatchObject({ reason: 'deviceUnreachable', why: 'deviceUnbound' });
    gateway.directory.cancel(plan);
    expect(endOf(gateway, record)).toBe(600);
  });
});

describe('an extension waits for its commit', () => {
  /** Extends by 900 s, and does something else before (or after) the record is written. */
  async function meanwhile(
    gateway: TestGateway,
    record: GrantRecord,
    act: () => unknown,
    order: 'before' | 'after' = 'after',
  ): Promise<unknown> {
    const { store } = gateway;
    const write = store.extend;
    store.extend = async (...written) => {
      store.extend = write;
      if (order === 'before') await act();
      const isWritten = await write(...written);
      if (order === 'after') await act();
      return isWritten;
    };
    return gateway.extensions.extend({ ...ASKER, idempotencyKey: 'k' }, record.id, 900);
  }
  const kept = (gateway: TestGateway) => gateway.store.answerOf(HEAD_END.name, 'k', 0);
  const changed = { reason: 'changedWhileDeciding', retryAfterSeconds: 1 };

  describe.each(['before', 'after'] as const)('what happens %s the record is written', (order) => {
    test('revoked: it stays ended, with the end it had, and no answer is kept', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      gateway.clock.pass(10);
      const answer = await meanwhile(gateway, record, () => gateway.grants.end(record, 'revokedByOperator'), order);
      expect(answer).toMatchObject({ reason: 'grantEnded', members: { endCause: 'REVOKED_BY_OPERATOR' } });
      expect(gateway.store.find(record.id)).toEqual({
        ...record,
        state: 'ended',
        endCause: 'revokedByOperator',
        endedAtMs: gateway.clock.nowMs(),
      });
      expect(gateway.memory.entry(record.index)?.endNs).toBeLessThan(gateway.clock.monotonicNs());
      expect(kept(gateway)).toBeUndefined();
    });

    test('its time is over: it is not revived', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const inGate = gateway.memory.entry(record.index)?.endNs;
      const answer = await meanwhile(gateway, record, () => gateway.clock.pass(600), order);
      expect(answer).toMatchObject({ reason: 'grantEnded', members: { endCause: 'EXPIRED' } });
      expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'expired', expiresAtNs: record.expiresAtNs });
      expect(gateway.memory.entry(record.index)?.endNs).toBeLessThanOrEqual(inGate ?? 0n);
      expect(gateway.grants.live.size).toBe(0);
      expect(kept(gateway)).toBeUndefined();
    });

    test('its time is over and swept', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const sweep = async () => {
        gateway.clock.pass(600);
        await gateway.grants.sweep();
      };
      expect(await meanwhile(gateway, record, sweep, order)).toMatchObject({ reason: 'grantEnded' });
      expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'expired', expiresAtNs: record.expiresAtNs });
      expect(kept(gateway)).toBeUndefined();
    });

    test('other rules, though they allow it too: the end stays', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const rules = policyOf(RULES.replace('durationSeconds: 900', 'durationSeconds: 60'));
      const answer = await meanwhile(gateway, record, () => gateway.grants.switchPolicy(rules), order);
      expect(answer).toMatchObject({ ...changed, why: 'ruleChanged' });
      expect(gateway.store.find(record.id)).toEqual(record);
      expect(endOf(gateway, record)).toBe(600);
      expect(kept(gateway)).toBeUndefined();
    });

    test('rules that allow it no more: it ends', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const rules = policyOf(RULES.replace('5683', '5684'));
      const answer = await meanwhile(gateway, record, () => gateway.grants.switchPolicy(rules), order);
      expect(answer).toMatchObject({ reason: 'grantEnded', members: { endCause: 'RULE_CHANGED' } });
      expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'ruleChanged', expiresAtNs: record.expiresAtNs });
      expect(kept(gateway)).toBeUndefined();
    });

    test('the address changes hands: it ends', async () => {
      const gateway = await TestGateway.started(RULES, unbound);
      await gateway.bindings.bind(M1, inner('10.20.0.2'));
      const record = await granted(gateway);
      const answer = await meanwhile(gateway, record, () => gateway.bindings.bind(M2, inner('10.20.0.2')), order);
      expect(answer).toMatchObject({ reason: 'grantEnded', members: { endCause: 'ADDRESS_REASSIGNED' } });
      expect(gateway.store.find(record.id)).toMatchObject({
        endCause: 'addressReassigned',
        expiresAtNs: record.expiresAtNs,
      });
    });

    test('the gateway is not ready: the end stays', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const answer = await meanwhile(gateway, record, () => unready(gateway), order);
      expect(answer).toMatchObject({ ...changed, why: 'no table' });
      expect(gateway.store.find(record.id)).toEqual(record);
      expect(endOf(gateway, record)).toBe(600);
      expect(kept(gateway)).toBeUndefined();
    });

    test("a suspend has brought the gate's end down: it stays there", async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const suspend = async () => {
        gateway.clock.suspend(100);
        await gateway.heartbeat.beat();
      };
      expect(await meanwhile(gateway, record, suspend, order)).toMatchObject(changed);
      expect(endOf(gateway, record)).toBe(500);
      expect(kept(gateway)).toBeUndefined();
    });

    test('another extension: one of them counts', async () => {
      const gateway = await TestGateway.started();
      const record = await granted(gateway);
      const other = () => extend(gateway, record, 700);
      const answer = await meanwhile(gateway, record, other, order);
      if (order === 'before') {
        expect(answer).toMatchObject(changed);
        expect(endOf(gateway, record)).toBe(700);
      } else {
        expect(answer).toMatchObject({ state: 'live' });
        expect(endOf(gateway, record)).toBe(900);
      }
    });
  });

  test('the store fails: the end stays', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await expect(
      meanwhile(
        gateway,
        record,
        () => {
          throw new Error('disk full');
        },
        'before',
      ),
    ).rejects.toThrow('disk full');
    expect(endOf(gateway, record)).toBe(600);
    await extended(gateway, record, 900);
  });

  test('the gate fails: the record comes down again', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.memory.extend = () => {
      throw new Error('the kernel said no');
    };
    await expect(extend(gateway, record, 900)).rejects.toThrow('the kernel said no');
    expect(endOf(gateway, record)).toBe(600);
  });

  test('the record cannot be brought down: the gate has its end all the same, and the sweep puts the record right', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const { lower } = gateway.store;
    gateway.store.lower = async () => {
      throw new Error('disk full');
    };
    await expect(meanwhile(gateway, record, () => unready(gateway))).rejects.toThrow('disk full');
    expect(gateway.grants.show(HEAD_END, record.id)).toEqual(record);
    expect(gateway.memory.entry(record.index)?.endNs).toBe(record.expiresAtNs);
    gateway.notReady = undefined;
    expect(await extend(gateway, record, 900)).toMatchObject(changed);
    await expect(gateway.grants.sweep()).rejects.toThrow('disk full');
    gateway.store.lower = lower;
    await gateway.grants.sweep();
    expect(endOf(gateway, record)).toBe(600);
    await extended(gateway, record, 900);
  });

  test('the record cannot be brought down, and the grant ends: the end is what is written', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const { lower, end } = gateway.store;
    const fail = async () => {
      throw new Error('disk full');
    };
    gateway.store.lower = fail;
    await expect(meanwhile(gateway, record, () => unready(gateway))).rejects.toThrow('disk full');
    gateway.store.end = fail;
    await expect(gateway.grants.end(record, 'endedByServer')).rejects.toThrow('disk full');
    Object.assign(gateway.store, { lower, end });
    await gateway.grants.sweep();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'endedByServer', expiresAtNs: record.expiresAtNs });
  });

  test('killed between record and gate: the earlier end holds after a restart, and the retry is judged anew', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.store.extend(
      { ...record, expiresAtMs: record.expiresAtMs + 300_000, expiresAtNs: record.expiresAtNs + 300_000_000_000n },
      record.expiresAtNs,
      { key: 'k', request: JSON.stringify(['extend', record.id, 900]), atMs: gateway.clock.nowMs() },
    );
    expect(kept(gateway)).toBeDefined();
    gateway.clock.pass(10);
    await gateway.start();
    expect(endOf(gateway, record)).toBe(590);
    expect(gateway.store.find(record.id)).toEqual(record);
    expect(await gateway.extensions.extend({ ...ASKER, idempotencyKey: 'k' }, record.id, 900)).toMatchObject({
      expiresAtMs: gateway.clock.nowMs() + 900_000,
    });
    expect(endOf(gateway, record)).toBe(900);
  });

  test('killed between record and gate, and started after the earlier end: it ended then', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const longer = { ...record, expiresAtNs: record.expiresAtNs + 300_000_000_000n };
    await gateway.store.extend({ ...longer, expiresAtMs: record.expiresAtMs + 300_000 }, record.expiresAtNs);
    gateway.clock.pass(601);
    await gateway.start();
    expect(gateway.store.find(record.id)).toMatchObject({
      endCause: 'endedInGate',
      expiresAtMs: record.expiresAtMs,
      expiresAtNs: record.expiresAtNs,
    });
  });

  test('after a reboot the extended end holds, and the clock may not stand before the extension', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(500);
    await extended(gateway, record, 900);
    gateway.reboot(60);
    await gateway.start();
    expect(endOf(gateway, record)).toBe(840);
    gateway.reboot(-100);
    await gateway.start();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'clockUncertain' });
  });
});
