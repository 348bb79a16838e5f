/** Design law 1: after the agent was away for too long, who holds an address is to be confirmed before grants lead there. */
import { beforeEach, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import type { ExternalId, Imsi } from '../../agent/core/words.ts';
import type { SessionEvent } from '../../agent/directory/accounting.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { NOTHING_TOLD } from '../accounting.ts';
import { ethernet, ip, udp } from '../frames.ts';
import { ask, HEAD_END, inner, M1, M2, OUTSIDE_IFINDEX, RULES, TestGateway } from '../gateway.ts';

const GRACE_SECONDS = 300;
const IMSI = '262010000000001' as Imsi;
const OTHER_IMSI = '262010000000002' as Imsi;
const DEVICES = [
  { device: { externalId: M1, imsi: IMSI }, bindings: [] },
  { device: { externalId: M2, imsi: OTHER_IMSI }, bindings: [] },
];

function told(kind: SessionEvent['kind'], more: Partial<SessionEvent> = {}): SessionEvent {
  return {
    ...NOTHING_TOLD,
    kind,
    nas: { client: 'pgw-1', id: 'ggsn' },
    time: { nasMs: undefined, hereMs: gateway.clock.nowMs() },
    session: 's1',
    subscriber: { ...NOTHING_TOLD.subscriber, imsi: IMSI },
    apn: 'iot.example',
    ipv4: address('10.20.0.2'),
    stopsAll: false,
    ...more,
  };
}

let gateway: TestGateway;
let record: GrantRecord;

const stateOf = ({ id }: { readonly id: string }) => gateway.grants.find(id);
const endInGate = ({ index }: GrantRecord) => gateway.memory.state(index)?.endNs ?? 0n;
const isOpen = (one: GrantRecord) => endInGate(one) > gateway.clock.monotonicNs();
async function granted(device: ExternalId = M1): Promise<GrantRecord> {
  const answer = await gateway.grants.request(HEAD_END, ask({ device: { networkAccessIdentifier: device } }));
  if ('reason' in answer) throw new Error(answer.why);
  return answer;
}
/** Nothing is heard of the agent for too long, and then it is there again. */
async function away(): Promise<void> {
  gateway.clock.pass(GRACE_SECONDS + 1);
  await gateway.heartbeat.beat();
}

beforeEach(async () => {
  gateway = await TestGateway.started(RULES, DEVICES);
  expect(await gateway.bindings.account(told('start'))).toBe('done');
  record = await granted();
});

describe('a grant on a binding that accounting told', () => {
  test('is held: closed, on record, with its endpoint, its key and its end', async () => {
    await away();
    expect(isOpen(record)).toBe(false);
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'held', expiresAtMs: record.expiresAtMs });
    expect(gateway.grants.live.held).toBe(1);
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({
      reason: 'alreadyExists',
      members: { grantId: record.id },
    });
    expect(await gateway.extensions.extend(HEAD_END, record.id, 600)).toMatchObject({ reason: 'grantHeld' });
  });

  test('goes on with an Interim of its session, to the end that it had', async () => {
    await away();
    expect(await gateway.bindings.account(told('interim'))).toBe('done');
    expect(stateOf(record)).toMatchObject({ state: 'live', expiresAtMs: record.expiresAtMs });
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'live' });
    expect(endInGate(record)).toBe(record.expiresAtNs);
    expect(gateway.grants.live.held).toBe(0);
    expect(await gateway.extensions.extend(HEAD_END, record.id, 600)).toMatchObject({ state: 'live' });
  });

  test('whoever sends to the device hears of it then, and not before', async () => {
    const heard: string[] = [];
    gateway.followers = { lost: () => {}, bound: (devices) => void heard.push(...devices) };
    await away();
    expect(gateway.directory.factsOf({ externalId: M1 }).inner).toEqual([]);
    expect(heard).toEqual([]);
    await gateway.bindings.account(told('interim'));
    expect(heard).toEqual([M1]);
    expect(gateway.directory.factsOf({ externalId: M1 }).inner).toHaveLength(1);
  });

  test('goes on when an operator binds the same anew', async () => {
    await away();
    expect(await gateway.bindings.bind(M1, inner('10.20.0.2'))).toBeUndefined();
    expect(stateOf(record)).toMatchObject({ state: 'live' });
    expect(isOpen(record)).toBe(true);
  });

  test('does not go on with what another session tells, nor an older event of its own', async () => {
    await away();
    const other = { session: 's2', subscriber: { ...NOTHING_TOLD.subscriber, imsi: OTHER_IMSI } };
    await gateway.bindings.account(told('interim', { ...other, ipv4: address('10.20.0.3') }));
    await gateway.bindings.account(told('interim', { time: { nasMs: 1, hereMs: gateway.clock.nowMs() } }));
    expect(stateOf(record)).toMatchObject({ state: 'held' });
    expect(isOpen(record)).toBe(false);
  });

  test('ends when its address is given to another', async () => {
    await away();
    const other = { session: 's2', subscriber: { ...NOTHING_TOLD.subscriber, imsi: OTHER_IMSI } };
    await gateway.bindings.account(told('start', other));
    expect(stateOf(record)).toMatchObject({ state: 'ended', endCause: 'addressReassigned' });
    expect(isOpen(record)).toBe(false);
  });

  test('ends at its end, if nothing confirms its binding', async () => {
    await away();
    gateway.clock.pass(300);
    await gateway.grants.sweep();
    expect(stateOf(record)).toMatchObject({ state: 'ended', endCause: 'bindingUnconfirmed' });
    await gateway.bindings.account(told('interim'));
    expect(isOpen(record)).toBe(false);
  });

  test('given back by its server while it is held, it stays closed', async () => {
    await away();
    await gateway.grants.end(record, 'endedByServer');
    await gateway.bindings.account(told('interim'));
    expect(stateOf(record)).toMatchObject({ state: 'ended', endCause: 'endedByServer' });
    expect(isOpen(record)).toBe(false);
  });

  test('whose rule has gone meanwhile ends instead of going on', async () => {
    await away();
    gateway.revoked.add(record.certificate);
    await gateway.bindings.account(told('interim'));
    expect(stateOf(record)).toMatchObject({ state: 'ended', endCause: 'certificateRevoked' });
    expect(isOpen(record)).toBe(false);
  });

  test('has no more of its limits after it was held than before: the entry is the same', async () => {
    const { external } = record;
    const frame = ethernet(ip('198.51.100.10', external.address.text, udp(40_000, external.port, 'reading')));
    expect(gateway.memory.judge('outsideIngress', OUTSIDE_IFINDEX, frame).verdict).toBe('redirect');
    const carried = gateway.memory.carried(record.index);
    expect(carried.in.packets).toBe(1n);
    await away();
    expect(gateway.memory.judge('outsideIngress', OUTSIDE_IFINDEX, frame).verdict).toBe('drop');
    await gateway.bindings.account(told('interim'));
    expect(gateway.memory.carried(record.index)).toEqual(carried);
    expect(gateway.memory.judge('outsideIngress', OUTSIDE_IFINDEX, frame).verdict).toBe('redirect');
  });
});

describe('a restart', () => {
  test('in the time in which it is held leaves it so, and an Interim still gives it back', async () => {
    await away();
    await gateway.start(RULES, DEVICES);
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'held' });
    expect(isOpen(record)).toBe(false);
    await gateway.bindings.account(told('interim'));
    expect(stateOf(record)).toMatchObject({ state: 'live', expiresAtMs: record.expiresAtMs });
    expect(endInGate(record)).toBe(record.expiresAtNs);
  });

  test('after the gap holds it before the first heartbeat', async () => {
    gateway.clock.pass(GRACE_SECONDS + 1);
    await gateway.start(RULES, DEVICES);
    expect(stateOf(record)).toMatchObject({ state: 'held' });
    expect(isOpen(record)).toBe(false);
  });

  test('of the host too; it goes on until the same moment', async () => {
    gateway.reboot(10);
    await gateway.start(RULES, DEVICES);
    expect(stateOf(record)).toMatchObject({ state: 'held' });
    expect(gateway.memory.state(record.index)).toBeUndefined();
    await gateway.bindings.account(told('interim'));
    expect(stateOf(record)).toMatchObject({ state: 'live', expiresAtMs: record.expiresAtMs });
    expect(isOpen(record)).toBe(true);
  });

  test('within the grace holds nothing', async () => {
    gateway.clock.pass(GRACE_SECONDS - 1);
    await gateway.start(RULES, DEVICES);
    expect(stateOf(record)).toMatchObject({ state: 'live' });
    expect(isOpen(record)).toBe(true);
  });
});

describe('a new request for a device whose binding is to be confirmed', () => {
  const other = {
    session: 's2',
    subscriber: { ...NOTHING_TOLD.subscriber, imsi: OTHER_IMSI },
    ipv4: address('10.20.0.3'),
  };
  const request = ask({ device: { networkAccessIdentifier: M2 } });
  beforeEach(async () => {
    await gateway.bindings.account(told('start', other));
    await away();
  });

  test('is refused', async () => {
    expect(await gateway.grants.request(HEAD_END, request)).toMatchObject({
      reason: 'deviceUnreachable',
      why: expect.stringContaining('the agent was away'),
    });
  });

  test('waits, if it may, and is granted with the Interim', async () => {
    const waits = await gateway.grants.requestOrWait(HEAD_END, request, 600);
    expect(waits).toMatchObject({ state: 'waiting' });
    await gateway.bindings.account(told('interim', other));
    expect(gateway.grants.find((waits as GrantRecord).id)).toMatchObject({ state: 'live' });
  });
});
