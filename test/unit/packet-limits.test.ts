/**
 * Limits on the packets of a grant, from the rule to the gate and back: what
 * holds is what the policy in force says, whatever came in between.
 */
import { expect, test } from 'vitest';
import type { PacketLimits } from '../../agent/core/words.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { ethernet, ip, udp } from '../frames.ts';
import { ask, HEAD_END, INSIDE_IFINDEX, OUTSIDE_IFINDEX, policyOf, RULES, TestGateway } from '../gateway.ts';
import { digest } from '../rules.ts';

const limited = (limits: string) => RULES.replace('requestsPerMinute: 10', `requestsPerMinute: 10, ${limits}`);
const KNOCK = 14 + 20 + 8 + 'knock'.length;
const FEW = limited('packetsPerSecond: 50, bytes: 100');

async function granted(gateway: TestGateway, durationSeconds = 600): Promise<GrantRecord> {
  const answer = await gateway.grants.request(HEAD_END, ask({ durationSeconds }));
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  return answer;
}

function knock(gateway: TestGateway, { external }: GrantRecord): string {
  const frame = ethernet(ip('198.51.100.10', external.address.text, udp(5000, external.port, 'knock')));
  const verdict = gateway.memory.judge('outsideIngress', OUTSIDE_IFINDEX, frame);
  return verdict.verdict === 'drop' ? verdict.reason : verdict.verdict;
}

function answer(gateway: TestGateway, { inner, devicePort }: GrantRecord): string {
  const frame = ethernet(ip(inner.address.text, '198.51.100.10', udp(devicePort, 5000, 'knock')));
  const verdict = gateway.memory.judge('insideIngress', INSIDE_IFINDEX, frame);
  return verdict.verdict === 'drop' ? verdict.reason : verdict.verdict;
}

/** In the gate, in memory, and on record where it was written last. */
function limitsOf(gateway: TestGateway, { id, index }: GrantRecord): PacketLimits | undefined {
  const inGate = gateway.memory.entry(index)?.mapping.limits;
  expect(inGate).toEqual(gateway.grants.live.get(id)?.limits);
  return inGate;
}

test('the rule that decides says what its grants carry; others carry what comes', async () => {
  const gateway = await TestGateway.started(FEW);
  const record = await granted(gateway);
  expect(record.limits).toEqual({ packetsPerSecond: 50, bytes: 100 });
  expect(limitsOf(gateway, record)).toEqual(record.limits);
  expect(gateway.store.find(record.id)).toEqual(record);

  const free = await TestGateway.started();
  const unlimited = await granted(free);
  expect(unlimited.limits).toEqual({});
  expect(free.store.find(unlimited.id)).toEqual(unlimited);
});

test('a used-up quota ends the grant with the next sweep, on record and for good', async () => {
  const gateway = await TestGateway.started(FEW);
  const record = await granted(gateway);
  expect([knock(gateway, record), answer(gateway, record)]).toEqual(['redirect', 'redirect']);
  await gateway.grants.sweep();
  expect(gateway.grants.live.get(record.id)).toBeDefined();
  expect(answer(gateway, record)).toBe('byteQuotaExceeded');
  await gateway.grants.sweep();
  expect([knock(gateway, record), answer(gateway, record)]).toEqual(['grantEnded', 'tombstone']);
  expect(gateway.store.find(record.id)).toMatchObject({ state: 'ended', endCause: 'quotaUsed' });
  expect(gateway.log.of('grantEnded')).toEqual([expect.objectContaining({ grant: record.id, cause: 'quotaUsed' })]);
  // Its device may be reached anew: a quota is of one grant.
  const next = await granted(gateway);
  expect([knock(gateway, next), knock(gateway, next)]).toEqual(['redirect', 'redirect']);
});

test('what was said of a grant that ended meanwhile ends no other', async () => {
  const gateway = await TestGateway.started(FEW);
  const record = await granted(gateway);
  while (knock(gateway, record) === 'redirect');
  await gateway.grants.end(record, 'endedByServer');
  const next = await granted(gateway);
  await gateway.grants.sweep();
  expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'endedByServer' });
  expect(gateway.grants.live.get(next.id)).toBeDefined();
});

test('other rules, other limits: at once, without a gap, and what was used counts', async () => {
  const gateway = await TestGateway.started();
  const record = await granted(gateway);
  expect([knock(gateway, record), knock(gateway, record)]).toEqual(['redirect', 'redirect']);
  await gateway.grants.switchPolicy(policyOf(limited(`bytes: ${3 * KNOCK}`)));
  expect(limitsOf(gateway, record)).toEqual({ bytes: 3 * KNOCK });
  expect([knock(gateway, record), knock(gateway, record)]).toEqual(['redirect', 'byteQuotaExceeded']);

  // Back to the policy it was granted by: as it was granted.
  await gateway.grants.switchPolicy(policyOf(RULES));
  expect(limitsOf(gateway, record)).toEqual({});
  expect(knock(gateway, record)).toBe('redirect');
});

test('an extension brings what decides now', async () => {
  const two = `${FEW}
  - id: long
    allow: { servers: [head-end], applicationServer: all }
    limits: { durationSeconds: 1800, totalSeconds: 3600, packetsPerSecond: 7 }
`;
  const gateway = await TestGateway.started(two);
  const record = await granted(gateway, 900);
  expect(limitsOf(gateway, record)).toEqual({ packetsPerSecond: 7 }); // of two that give as much the first by name
  const longer = await gateway.extensions.extend(HEAD_END, record.id, 1800);
  expect(longer).toMatchObject({ rule: 'long', limits: { packetsPerSecond: 7 } });
  expect(limitsOf(gateway, record)).toEqual({ packetsPerSecond: 7 });
  expect(gateway.store.find(record.id)).toMatchObject({ limits: { packetsPerSecond: 7 } });
});

test('a policy that comes while the record is written is what the grant is opened with', async () => {
  const gateway = await TestGateway.started();
  const asking = granted(gateway);
  await gateway.grants.switchPolicy(policyOf(FEW));
  const record = await asking;
  expect(record.limits).toEqual({ packetsPerSecond: 50, bytes: 100 });
  expect(limitsOf(gateway, record)).toEqual(record.limits);
});

test('a restart in the same boot goes on counting, under the limits of then', async () => {
  const gateway = await TestGateway.started(FEW);
  const record = await granted(gateway);
  expect(knock(gateway, record)).toBe('redirect');
  await gateway.start(FEW);
  expect(limitsOf(gateway, record)).toEqual({ packetsPerSecond: 50, bytes: 100 });
  expect([knock(gateway, record), knock(gateway, record)]).toEqual(['redirect', 'byteQuotaExceeded']);

  // Between two policies, of which the record knows the first only.
  await gateway.grants.switchPolicy(policyOf(RULES));
  await gateway.start(FEW);
  expect(limitsOf(gateway, record)).toEqual({ packetsPerSecond: 50, bytes: 100 });
  await gateway.start(limited('bytes: 1kB'));
  expect(limitsOf(gateway, record)).toEqual({ bytes: 1000 });
});

test('used up while no agent was there, it ends when one is', async () => {
  const gateway = await TestGateway.started(FEW);
  const record = await granted(gateway);
  while (knock(gateway, record) === 'redirect');
  await gateway.start(FEW);
  await gateway.grants.sweep();
  expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'quotaUsed' });
});

test('after a reboot a grant with a quota is not opened again; one with a rate is', async () => {
  for (const [limits, cause] of [
    ['bytes: 1MB', 'quotaUncertain'],
    ['packetsPerSecond: 50', undefined],
  ] as const) {
    const gateway = await TestGateway.started(limited(limits));
    const record = await granted(gateway);
    gateway.reboot();
    await gateway.start(limited(limits));
    expect(gateway.grants.find(record.id)?.endCause).toBe(cause);
    expect(gateway.memory.entry(record.index)?.mapping.limits).toEqual(cause ? undefined : { packetsPerSecond: 50 });
  }
});

test('a server is told: with its grant, and beforehand', async () => {
  const gateway = await TestGateway.started(FEW);
  const useCases = serverUseCases(
    gateway.ground,
    gateway.grants,
    gateway.extensions,
    gateway.events,
    undefined,
    digest,
  );
  expect(await useCases.request(HEAD_END, ask())).toMatchObject({ limits: { packetsPerSecond: 50, bytes: 100 } });
  expect(useCases.limits(HEAD_END)).toMatchObject({ packetsPerSecond: 50, bytes: 100 });
  await gateway.grants.switchPolicy(policyOf(RULES));
  expect(useCases.limits(HEAD_END)).not.toHaveProperty('bytes');
});
