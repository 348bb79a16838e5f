/** What hours of a rule do to grants, by a clock that the test holds. */
import { describe, expect, test } from 'vitest';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { ask, DEVICES, HEAD_END, policyOf, RULES, TestGateway } from '../gateway.ts';

// The gateway's clock begins on 2026-01-01 (a Thursday) at 12:00 UTC.
const HOURS = (from: string, to: string) => `hours: { from: "${from}", to: "${to}", zone: UTC }`;
const until = (to: string, from = '06:00') => RULES.replace('    limits:', `    ${HOURS(from, to)}\n    limits:`);
const deniedFrom = (from: string, to = '18:00') =>
  `${RULES}    ${HOURS(from, to)}\n`.replace('ports: [23]', 'ports: [5683]');

const [DEVICE] = DEVICES as [(typeof DEVICES)[number]];

async function granted(gateway: TestGateway, durationSeconds = 600): Promise<GrantRecord> {
  const answer = await gateway.grants.request(HEAD_END, ask({ durationSeconds }));
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  return answer;
}

const extend = (gateway: TestGateway, { id }: GrantRecord, seconds: number) =>
  gateway.extensions.extend(HEAD_END, id, seconds);

/** The grant's end in seconds from now, by record, memory and gate, which must agree. */
function endOf(gateway: TestGateway, { id, index }: GrantRecord): number {
  const stored = gateway.store.find(id);
  expect(stored).toEqual(gateway.grants.show(HEAD_END, id));
  const inGate = gateway.memory.entry(index)?.endNs ?? 0n;
  expect((stored?.expiresAtNs ?? 0n) - gateway.clock.suspended).toBe(inGate);
  const seconds = Number(inGate - gateway.clock.monotonicNs()) / 1e9;
  expect(stored?.expiresAtMs).toBe(gateway.clock.nowMs() + seconds * 1000);
  return seconds;
}

describe('a grant', () => {
  test('ends where the hours of its rule close, also when it is extended', async () => {
    const gateway = await TestGateway.started(until('12:08'));
    const record = await granted(gateway);
    expect(record.grantedSeconds).toBe(480);
    expect(endOf(gateway, record)).toBe(480);
    gateway.clock.pass(100);
    expect(await extend(gateway, record, 900)).toEqual(gateway.grants.show(HEAD_END, record.id));
    expect(endOf(gateway, record)).toBe(380);
  });

  test('ends with them to the millisecond, though time passes between decision and record', async () => {
    const gateway = await TestGateway.started(until('12:08'));
    let first = true;
    const read = gateway.clock.nowMs.bind(gateway.clock);
    gateway.clock.nowMs = () => {
      if (first) first = false;
      else gateway.clock.pass(0.003);
      return read();
    };
    const record = await granted(gateway);
    expect(record.expiresAtMs).toBeLessThanOrEqual(Date.UTC(2026, 0, 1, 12, 8));
  });

  test('ends where the hours of a deny begin', async () => {
    const gateway = await TestGateway.started(deniedFrom('12:08'));
    expect(endOf(gateway, await granted(gateway))).toBe(480);
  });

  test('is refused outside the hours of its only rule, and within those of a deny', async () => {
    const gateway = await TestGateway.started(until('12:00'));
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'outsideHours', rule: 'meters' });
    await gateway.grants.switchPolicy(policyOf(deniedFrom('11:00')));
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'deniedByRule', rule: 'no-telnet' });
  });
});

describe('a policy switch', () => {
  test.each([
    ['whose allow closes', until('12:05')],
    ['whose deny begins', deniedFrom('12:05')],
  ])('to one %s sooner lowers the end, in the gate first', async (_, rules) => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.grants.switchPolicy(policyOf(rules));
    expect(endOf(gateway, record)).toBe(300);
    expect(gateway.log.of('grantLowered')).toEqual([expect.objectContaining({ grant: record.id })]);
    await gateway.grants.switchPolicy(policyOf(RULES)); // nothing but extend raises an end
    expect(endOf(gateway, record)).toBe(300);
    expect(await extend(gateway, record, 600)).toMatchObject({ state: 'live' });
    expect(endOf(gateway, record)).toBe(600);
  });

  test('to one that closes later, or that is outside its hours', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.grants.switchPolicy(policyOf(until('12:20')));
    expect(endOf(gateway, record)).toBe(600);
    await gateway.grants.switchPolicy(policyOf(until('11:00')));
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ endCause: 'ruleChanged' });
  });

  test('while an extension is recorded: the sooner end holds', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const { extend: write } = gateway.store;
    gateway.store.extend = async (...args) => {
      const written = await write(...args);
      await gateway.grants.switchPolicy(policyOf(until('12:05')));
      return written;
    };
    expect(await extend(gateway, record, 900)).toMatchObject({ reason: 'changedWhileDeciding', why: 'ruleChanged' });
    expect(endOf(gateway, record)).toBe(300);
  });

  test('while a grant is recorded: one that would close sooner is not opened', async () => {
    const gateway = await TestGateway.started();
    const { insert } = gateway.store;
    gateway.store.insert = async (...args) => {
      await insert(...args);
      await gateway.grants.switchPolicy(policyOf(until('12:05')));
    };
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'changedWhileDeciding' });
    expect(gateway.grants.live.size).toBe(0);
  });

  test('whose lower end the store does not take: the gate has it, and the sweep writes it', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const { lower } = gateway.store;
    gateway.store.lower = async () => {
      throw new Error('disk full');
    };
    await expect(gateway.grants.switchPolicy(policyOf(until('12:05')))).rejects.toThrow('disk full');
    expect(gateway.memory.entry(record.index)?.endNs).toBe(gateway.clock.monotonicNs() + 300_000_000_000n);
    gateway.store.lower = lower;
    await gateway.grants.sweep();
    expect(endOf(gateway, record)).toBe(300);
  });
});

test('after a restart with rules that close sooner, the end is lowered', async () => {
  const gateway = await TestGateway.started();
  const record = await granted(gateway);
  await gateway.start(until('12:05'));
  expect(endOf(gateway, record)).toBe(300);
});

test('attributes that change end the grants that rested on them, though the rules are the same', async () => {
  const rules = `${RULES.replace('protocols: [udp, tcp]', 'devices: ["group:m2"], protocols: [udp, tcp]')}deviceGroups: { m2: { attributes: { model: [M2] } } }\n`;
  const devices = (model: string) => [
    { device: { ...DEVICE.device, attributes: { model } }, bindings: DEVICE.bindings },
  ];
  const gateway = await TestGateway.started(rules, devices('M2'));
  const record = await granted(gateway);
  await gateway.bindings.replaceFile(devices('M3'));
  await gateway.grants.switchPolicy(policyOf(rules));
  expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ endCause: 'ruleChanged' });
});
