/**
 * Grants from end to end without a kernel: what is asked, recorded, opened and
 * ended, seen from outside by packets that the twin judges.
 */
import { describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { address, prefix } from '../../agent/core/net.ts';
import type { Refusal } from '../../agent/core/refusals.ts';
import type { CertificateId, GrantRequest } from '../../agent/core/words.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { openStore } from '../../agent/grants/store.ts';
import { entriesOf } from '../entries.ts';
import { ethernet, ip, tcp, udp } from '../frames.ts';
import {
  ask,
  DEVICES,
  HEAD_END,
  INSIDE_IFINDEX,
  inner,
  M1,
  M2,
  OTHER,
  OUTSIDE_IFINDEX,
  policyOf,
  RULES,
  TestGateway,
} from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { word } from '../suites/fixture.ts';

async function granted(gateway: TestGateway, changes: Partial<GrantRequest> = {}): Promise<GrantRecord> {
  const answer = await gateway.grants.request(HEAD_END, ask(changes));
  if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
  return answer;
}

async function refused(gateway: TestGateway, changes: Partial<GrantRequest> = {}, who = HEAD_END): Promise<Refusal> {
  const answer = await gateway.grants.request(who, ask(changes));
  if (!('reason' in answer)) throw new Error('granted');
  return answer;
}

/** What becomes of a packet to a grant's external endpoint. */
function knock(gateway: TestGateway, { external, protocol }: GrantRecord, from = '198.51.100.10'): string {
  const upper = protocol === 'udp' ? udp(40_000, external.port, 'knock') : tcp(40_000, external.port);
  const frame = ethernet(ip(from, external.address.text, upper));
  return word(gateway.memory.judge('outsideIngress', OUTSIDE_IFINDEX, frame));
}

/** What becomes of the device's answer. */
function answer(gateway: TestGateway, { inner: from, devicePort }: GrantRecord, to = '198.51.100.10'): string {
  const frame = ethernet(ip(from.address.text, to, udp(devicePort, 40_000, 'answer')));
  return word(gateway.memory.judge('insideIngress', INSIDE_IFINDEX, frame));
}

describe('a grant', () => {
  test('opens exactly one way, both ways, from the moment it is answered', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    expect(record).toMatchObject({
      server: 'head-end',
      device: M1,
      rule: 'meters',
      family: 'ipv4',
      grantedSeconds: 600,
    });
    expect(knock(gateway, record)).toBe('redirect');
    expect(answer(gateway, record)).toBe('redirect');
    expect(knock(gateway, record, '198.51.100.11')).toBe('wrongSource');
    expect(knock(gateway, record, '192.0.2.66')).toBe('wrongSource');
    expect(answer(gateway, record, '198.51.100.11')).toBe('wrongRemote');
    expect(gateway.store.find(record.id)).toEqual(record);
  });

  test('is cut to what the rule gives', async () => {
    const gateway = await TestGateway.started();
    expect((await granted(gateway, { durationSeconds: 10_000 })).grantedSeconds).toBe(900);
  });

  test('ends at its end, in the gate to the tick and on record with the next sweep', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    for (const seconds of [299, 299]) {
      gateway.clock.pass(seconds);
      await gateway.heartbeat.beat();
    }
    gateway.clock.pass(1);
    expect(knock(gateway, record)).toBe('redirect');
    gateway.clock.pass(1);
    expect(knock(gateway, record)).toBe('grantEnded');
    await gateway.grants.sweep();
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ state: 'ended', endCause: 'expired' });
    expect(gateway.grants.list({ server: HEAD_END.name }, undefined, 9).records).toEqual([]);
  });

  test('ends when it is given back: packets stop before the answer', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.grants.end(record, 'endedByServer');
    expect(knock(gateway, record)).toBe('grantEnded');
    expect(answer(gateway, record)).toBe('tombstone');
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'ended', endCause: 'endedByServer' });
  });

  test('ended twice at once ends once, and rests once', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await Promise.all([
      gateway.grants.end(record, 'endedByServer'),
      gateway.grants.end(record, 'revokedByOperator'),
      gateway.bindings.replaceFile([]),
    ]);
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'endedByServer' });
    expect(gateway.grants.rest.size).toBe(1);
    expect(gateway.log.of('grantEnded')).toHaveLength(1);
  });

  test('whose end the store did not take is not acknowledged, stays ended, and is recorded later', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const { end } = gateway.store;
    gateway.store.end = async () => {
      throw new Error('disk full');
    };
    await expect(gateway.grants.end(record, 'endedByServer')).rejects.toThrow('disk full');
    await expect(gateway.grants.end(record, 'endedByServer')).rejects.toThrow('disk full');
    expect(knock(gateway, record)).toBe('grantEnded');
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ state: 'ended' });
    gateway.store.end = end;
    await gateway.grants.sweep();
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'ended', endCause: 'endedByServer' });
  });

  test('of many whose time is over, each ends, though the store takes none', async () => {
    const gateway = await TestGateway.started();
    const records = [await granted(gateway), await granted(gateway, { devicePort: 7000 })];
    const { end } = gateway.store;
    gateway.store.end = async () => {
      throw new Error('disk full');
    };
    gateway.clock.pass(600);
    await expect(gateway.grants.sweep()).rejects.toThrow('disk full');
    expect(gateway.grants.live.size).toBe(0);
    gateway.store.end = end;
    await gateway.grants.sweep();
    for (const { id } of records) expect(gateway.store.find(id)).toMatchObject({ endCause: 'expired' });
  });

  test('leads from its external endpoint to whose it is, live, at rest and after a restart, and no longer', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const owner = { grant: record.id, mtcUser: 'acme', device: M1 };
    const ownerOf = () => gateway.grants.ownerOf(record.protocol, record.external);
    expect(ownerOf()).toEqual(owner);
    expect(gateway.grants.ownerOf('tcp', record.external)).toBeUndefined();
    expect(gateway.grants.ownerOf('udp', { ...record.external, port: record.external.port ^ 1 })).toBeUndefined();
    await gateway.grants.end(record, 'endedByServer');
    expect(ownerOf()).toEqual(owner);
    await gateway.start();
    expect(ownerOf()).toEqual(owner);
    gateway.clock.pass(121);
    await gateway.grants.sweep();
    expect(ownerOf()).toBeUndefined();
  });

  test('rests 120 s before its endpoint may stand for another', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const free = gateway.grants.endpoints.available('ipv4', 'udp');
    await gateway.grants.end(record, 'endedByServer');
    gateway.clock.pass(119.9);
    await gateway.grants.sweep();
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(free);
    gateway.clock.pass(0.1);
    await gateway.grants.sweep();
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(free + 1);
    expect(knock(gateway, record)).toBe('noGrant');
  });

  test("of IPv6 is asked for by family, and by the application server's", async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, { applicationServer: { address: address('2001:db8:51::7'), port: 40_000 } });
    expect(record).toMatchObject({ family: 'ipv6', remotePort: 40_000 });
    expect(knock(gateway, record, '2001:db8:51::7')).toBe('redirect');
    expect(await refused(gateway, { ipFamily: 'ipv6' })).toMatchObject({ reason: 'applicationServerRequired' });
  });
});

describe('a refusal names its reason', () => {
  test.each<[string, Partial<GrantRequest>]>([
    ['deviceUnknown', { device: { networkAccessIdentifier: 'nobody@meters.example' } }],
    ['deniedByRule', { devicePort: 23 }],
    ['noRuleAllows', { devicePort: 80 }],
    ['applicationServerNotAllowed', { applicationServer: { address: address('203.0.113.200') } }],
    ['familyMismatch', { ipFamily: 'ipv4', applicationServer: { address: address('2001:db8:51::7') } }],
    ['deviceUnreachable', { device: { networkAccessIdentifier: M2 } }],
  ])('%s', async (reason, changes) => {
    const gateway = await TestGateway.started();
    expect(await refused(gateway, changes)).toMatchObject({ reason });
    expect([...gateway.store.live()]).toEqual([]);
  });

  test("notAuthorisedByMtcUser: a server that the device's owner does not name", async () => {
    const gateway = await TestGateway.started();
    expect(await refused(gateway, {}, OTHER)).toMatchObject({ reason: 'notAuthorisedByMtcUser', step: 'mtcUser' });
  });

  test('alreadyExists, with the grant that is there, also while that one is being written', async () => {
    const gateway = await TestGateway.started();
    const [first, second] = await Promise.all([
      gateway.grants.request(HEAD_END, ask()),
      gateway.grants.request(HEAD_END, ask({ applicationServer: { address: address('198.51.100.11') } })),
    ]);
    expect(first).toMatchObject({ state: 'live' });
    expect(second).toMatchObject({ reason: 'alreadyExists', members: { grantId: (first as GrantRecord).id } });
    expect(await refused(gateway)).toMatchObject({ reason: 'alreadyExists' });
  });

  test('grantsPerDeviceExceeded, counting those that are being written', async () => {
    const gateway = await TestGateway.started();
    const ports = [7000, 7001, 7002, 7003];
    const answers = await Promise.all(ports.map((devicePort) => gateway.grants.request(HEAD_END, ask({ devicePort }))));
    expect(answers.map((one) => ('reason' in one ? one.reason : one.state))).toEqual([
      'live',
      'live',
      'live',
      'grantsPerDeviceExceeded',
    ]);
  });

  test('rateExceeded, and heard again a minute later', async () => {
    const gateway = await TestGateway.started();
    for (let i = 0; i < 10; i++) await refused(gateway, { devicePort: 23 });
    gateway.clock.pass(12);
    expect(await refused(gateway)).toMatchObject({ reason: 'rateExceeded', rule: 'meters', retryAfterSeconds: 48 });
    gateway.clock.pass(47.9);
    expect(await refused(gateway)).toMatchObject({ reason: 'rateExceeded', retryAfterSeconds: 1 });
    gateway.clock.pass(0.1);
    await granted(gateway);
  });

  test('tooManyUnknownDevices: one face for what is not there and what is not theirs, and never for their own', async () => {
    const gateway = await TestGateway.started(RULES.replace(', requestsPerMinute: 10', ''));
    const guess = (at: number) => ({ device: { networkAccessIdentifier: `guess${at}@meters.example` } });
    const outside = ({ instance: _, why: __, step: ___, reason: ____, ...face }: Refusal) => face;
    for (let at = 0; at < 60; at++) {
      expect((await refused(gateway, guess(at))).reason).toBe('deviceUnknown');
      const foreign = await refused(gateway, {}, OTHER);
      expect(foreign.reason).toBe('notAuthorisedByMtcUser');
      gateway.clock.pass(0.5);
    }
    const unknown = await refused(gateway, guess(60));
    const foreign = await refused(gateway, {}, OTHER);
    expect(unknown).toMatchObject({ reason: 'tooManyUnknownDevices', step: 'device', retryAfterSeconds: 30 });
    expect(foreign).toMatchObject({ reason: 'tooManyUnknownDevices', step: 'device', retryAfterSeconds: 30 });
    expect(outside(foreign)).toEqual(outside(unknown));
    // The second is another server's: whether it exists does not matter.
    expect((await refused(gateway, guess(61), OTHER)).instance).toBe(foreign.instance);
    expect((await granted(gateway)).device).toBe(M1);
    gateway.clock.pass(30);
    expect((await refused(gateway, guess(62))).reason).toBe('deviceUnknown');
    expect((await refused(gateway, guess(63))).reason).toBe('tooManyUnknownDevices');
  });

  test('tooManyUnknownDevices does not count as a request', async () => {
    const gateway = await TestGateway.started(RULES.replace('requestsPerMinute: 10', 'requestsPerMinute: 61'));
    for (let at = 0; at < 100; at++) await refused(gateway, { device: { phoneNumber: `+4917155501${at + 100}` } });
    expect((await granted(gateway)).device).toBe(M1);
    expect((await refused(gateway, { devicePort: 7000 })).reason).toBe('rateExceeded');
  });

  test('endpointsExhausted: nothing is evicted', async () => {
    const free = RULES.replace('grantsPerDevice: 3, requestsPerMinute: 10', 'grantsPerServer: 1000');
    const gateway = await TestGateway.started(free.replace('5683, "7000-7010"', '"7000-7999"'));
    for (let i = 0; i < 64; i++) await granted(gateway, { devicePort: 7000 + i });
    const exhausted = { reason: 'endpointsExhausted', retryAfterSeconds: 120 };
    expect(await refused(gateway, { devicePort: 7999 })).toMatchObject(exhausted);
    expect(gateway.grants.live.size).toBe(64);
    const [first] = gateway.grants.list({ server: HEAD_END.name }, undefined, 9).records;
    if (first) await gateway.grants.end(first, 'endedByServer');
    // What rests is of UDP: of no use to TCP.
    await granted(gateway, { devicePort: 7000, protocol: 'tcp' });
    gateway.clock.pass(100.5);
    const resting = { reason: 'endpointsExhausted', retryAfterSeconds: 20 };
    expect(await refused(gateway, { devicePort: 7999 })).toMatchObject(resting);
    gateway.clock.pass(19.5);
    await gateway.grants.sweep();
    await granted(gateway, { devicePort: 7999 });
  });

  test('gatewayNotReady, also where that comes about while the record is written', async () => {
    const gateway = await TestGateway.started();
    gateway.notReady = 'no table';
    expect(await refused(gateway)).toMatchObject({ reason: 'gatewayNotReady', why: 'no table', retryAfterSeconds: 5 });
    gateway.notReady = undefined;
    const pending = gateway.grants.request(HEAD_END, ask());
    gateway.notReady = 'no table';
    expect(await pending).toMatchObject({ reason: 'changedWhileDeciding', why: 'no table' });
    expect(entriesOf(gateway.memory)).toEqual([]);
  });
});

describe('a decision waits for its commit', () => {
  /** Asks, and does something else before the record is known to be durable. */
  async function meanwhile(gateway: TestGateway, act: () => Promise<unknown>): Promise<unknown> {
    const { insert } = gateway.store;
    gateway.store.insert = async (record) => {
      await insert(record);
      await act();
    };
    return gateway.grants.request(HEAD_END, ask());
  }

  test('the device was unbound meanwhile: nothing opens, and the record says why', async () => {
    const gateway = await TestGateway.started(
      RULES,
      DEVICES.map(({ device }) => ({ device, bindings: [] })),
    );
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    const answered = await meanwhile(gateway, () => gateway.bindings.unbind(inner('10.20.0.2')));
    expect(answered).toMatchObject({ reason: 'changedWhileDeciding', why: 'deviceUnbound' });
    expect(entriesOf(gateway.memory)).toEqual([]);
    const [record] = gateway.store.endedSince(0);
    expect(record).toMatchObject({ endCause: 'deviceUnbound', expiresAtMs: record?.startedAtMs });
  });

  test('the rules changed meanwhile', async () => {
    const gateway = await TestGateway.started();
    const answered = await meanwhile(gateway, () =>
      gateway.grants.switchPolicy(policyOf(RULES.replace('5683', '5684'))),
    );
    expect(answered).toMatchObject({ reason: 'changedWhileDeciding', why: 'ruleChanged' });
    expect(entriesOf(gateway.memory)).toEqual([]);
  });

  test('the store fails: nothing opens, the endpoint is free again', async () => {
    const gateway = await TestGateway.started();
    const free = gateway.grants.endpoints.available('ipv4', 'udp');
    await gateway.store.close();
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'recordNotWritten', step: 'record' });
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(free);
    expect(entriesOf(gateway.memory)).toEqual([]);
  });

  test('the store loses its voice after the commit: nothing opens, and the record ends when it speaks again', async () => {
    const store = openStore(':memory:', IDENTITIES);
    let isMute = true;
    const heard = async <Result>(said: Promise<Result>) => {
      const result = await said;
      if (isMute) throw new AgentError('storeFailed', 'the thread that writes has ended');
      return result;
    };
    const gateway = new TestGateway({
      ...store,
      insert: (record, retry) => heard(store.insert(record, retry)),
      end: (record) => (isMute ? Promise.reject(new AgentError('storeFailed', 'still none')) : store.end(record)),
    });
    await gateway.start();
    const free = gateway.grants.endpoints.available('ipv4', 'udp');
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ reason: 'recordNotWritten' });
    expect([...store.live()]).toHaveLength(1);
    expect(entriesOf(gateway.memory)).toEqual([]);
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(free);
    isMute = false;
    await gateway.grants.sweep();
    expect([...store.live()]).toEqual([]);
    expect([...store.endedSince(0)]).toMatchObject([{ endCause: 'storeFault' }]);
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ state: 'live' });
  });

  test('a store that stays mute fills no memory: so many unrecorded ends, and no grant is begun', async () => {
    const gateway = new TestGateway({
      ...openStore(':memory:', IDENTITIES),
      insert: () => Promise.reject(new AgentError('storeFailed', 'full')),
      end: () => Promise.reject(new AgentError('storeFailed', 'full')),
    });
    await gateway.start(RULES.replace(', requestsPerMinute: 10', ''));
    for (let i = 0; i < 1000; i++) await gateway.grants.request(HEAD_END, ask());
    expect(gateway.log.of('refused').at(-1)).toMatchObject({ reason: 'recordNotWritten', why: 'full' });
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({
      reason: 'recordNotWritten',
      why: '1000 ends wait to be written',
    });
  });

  test('the gate fails: the record ends', async () => {
    const gateway = await TestGateway.started();
    gateway.memory.open = () => {
      throw new Error('the kernel said no');
    };
    await expect(gateway.grants.request(HEAD_END, ask())).rejects.toThrow('the kernel said no');
    expect([...gateway.store.endedSince(0)]).toMatchObject([{ endCause: 'gateFault' }]);
    expect(gateway.grants.live.size).toBe(0);
  });
});

describe('an address changes hands', () => {
  const unbound = DEVICES.map(({ device }) => ({ device, bindings: [] }));

  test('unbound: its grants end with that cause, its tracked flows go, and it is heard again only then', async () => {
    const gateway = await TestGateway.started(RULES, unbound);
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    const record = await granted(gateway);
    gateway.forgotten.length = 0;
    const meanwhile: string[] = [];
    gateway.forgotten.push = (...texts) => {
      meanwhile.push(answer(gateway, record));
      return Array.prototype.push.apply(gateway.forgotten, texts);
    };
    expect(await gateway.bindings.unbind(inner('10.20.0.2'))).toBeUndefined();
    expect(meanwhile).toEqual(['addressChangingHands']);
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ state: 'ended', endCause: 'deviceUnbound' });
    expect([...gateway.forgotten]).toEqual(['10.20.0.2/32']);
    expect(answer(gateway, record)).toBe('tombstone');
  });

  test("given to another device: the first one's grants end, and only the second can be granted", async () => {
    const gateway = await TestGateway.started(RULES, unbound);
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    const record = await granted(gateway);
    await gateway.bindings.bind(M2, inner('10.20.0.2'));
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ endCause: 'addressReassigned' });
    expect(knock(gateway, record)).toBe('grantEnded');
    expect(await refused(gateway)).toMatchObject({ reason: 'deviceUnreachable' });
    const next = await granted(gateway, { device: { networkAccessIdentifier: M2 } });
    expect(knock(gateway, next)).toBe('redirect');
  });

  test('what could not be carried out leaves the binding as it was, the grants ended, and the next change goes on', async () => {
    const gateway = await TestGateway.started(RULES, unbound);
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    const record = await granted(gateway);
    gateway.forgotten.push = () => {
      throw new Error('no conntrack');
    };
    await expect(gateway.bindings.bind(M2, inner('10.20.0.2'))).rejects.toThrow('no conntrack');
    expect(gateway.directory.holderOf(inner('10.20.0.2'))?.holder).toBe(M1);
    expect(knock(gateway, record)).toBe('grantEnded');
    gateway.forgotten.push = () => 0;
    expect(await gateway.bindings.bind(M2, inner('10.20.0.2'))).toBeUndefined();
    expect(gateway.directory.holderOf(inner('10.20.0.2'))?.holder).toBe(M2);
  });
});

describe('who is bound', () => {
  const unbound = DEVICES.map(({ device }) => ({ device, bindings: [] }));
  const boundAt = (gateway: TestGateway) => [...gateway.memory.bindings()].map(({ prefix: { text } }) => text).sort();
  /** What becomes of a flow that the device begins. */
  const begin = (gateway: TestGateway, from = '10.20.0.2') =>
    word(gateway.memory.judge('insideIngress', INSIDE_IFINDEX, ethernet(ip(from, '192.0.2.66', udp(1, 2)))));

  test('speaks, from the end of a change on, and not from its beginning', async () => {
    const gateway = await TestGateway.started(RULES, unbound);
    const during: (readonly string[])[] = [];
    gateway.forgotten.push = () => during.push(boundAt(gateway));
    expect(begin(gateway)).toBe('addressUnbound');
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    expect([boundAt(gateway), begin(gateway)]).toEqual([['10.20.0.2/32'], 'pass']);
    await gateway.bindings.bind(M2, inner('10.20.0.3'));
    await gateway.bindings.bind(M2, inner('10.20.0.2')); // from M1, and its own former one goes
    expect(boundAt(gateway)).toEqual(['10.20.0.2/32']);
    await gateway.bindings.unbind(inner('10.20.0.2'));
    expect([boundAt(gateway), begin(gateway)]).toEqual([[], 'addressUnbound']);
    expect(during).toEqual([[], ['10.20.0.2/32'], [], []]);
  });

  test('speaks on where a change could not be carried out', async () => {
    const gateway = await TestGateway.started(RULES, unbound);
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    gateway.forgotten.push = () => {
      throw new Error('no conntrack');
    };
    await expect(gateway.bindings.bind(M2, inner('10.20.0.2'))).rejects.toThrow('no conntrack');
    await expect(gateway.bindings.bind(M2, inner('10.20.0.3'))).rejects.toThrow('no conntrack');
    expect([boundAt(gateway), begin(gateway)]).toEqual([['10.20.0.2/32'], 'pass']);
  });

  test('is, after a start, whom the records and the devices file name, whatever the gate had', async () => {
    const gateway = await TestGateway.started();
    await gateway.bindings.bind(M2, inner('10.20.0.3'));
    const all = ['10.20.0.2/32', '10.20.0.3/32', 'fd00:20::2/128'];
    expect(boundAt(gateway)).toEqual(all);
    const realm = gateway.store.idOf('realm', 'iot');
    gateway.memory.bind(realm, prefix('10.20.9.0/24'));
    gateway.memory.unbind(realm, prefix('10.20.0.3/32'));
    await gateway.start();
    expect(boundAt(gateway)).toEqual(all);
    gateway.reboot();
    expect(boundAt(gateway)).toEqual([]);
    await gateway.start();
    expect(boundAt(gateway)).toEqual(all);
    await gateway.start(RULES, unbound);
    expect(boundAt(gateway)).toEqual(['10.20.0.3/32']);
  });
});

describe('a new policy', () => {
  test.each([
    ['the rule is gone', 'ruleChanged', RULES.replace('5683', '5684')],
    [
      'the MTC user no longer authorises the server',
      'serverUnauthorised',
      RULES.replace('authorises: [head-end]', 'authorises: [other]'),
    ],
    ["the server's sources moved", 'ruleChanged', RULES.replace('198.51.100.0/24', '198.51.100.128/25')],
  ])('%s: the grant ends', async (_, cause, rules) => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.grants.switchPolicy(policyOf(rules));
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ state: 'ended', endCause: cause });
    expect(['wrongSource', 'grantEnded']).toContain(knock(gateway, record));
  });

  test('a grant lives on that the new policy allows too, by whatever rule', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.grants.switchPolicy(
      policyOf(RULES.replace('id: meters', 'id: renamed').replace('durationSeconds: 900', 'durationSeconds: 60')),
    );
    expect(knock(gateway, record)).toBe('redirect');
  });

  test('one that comes while another is switched to: what the last one counts as a source is in the gate, no more', async () => {
    const gateway = await TestGateway.started();
    const moved = RULES.replace('198.51.100.0/24', '198.51.100.128/25');
    await Promise.all([gateway.grants.switchPolicy(policyOf(moved)), gateway.grants.switchPolicy(policyOf(RULES))]);
    expect(gateway.memory.classes().has('198.51.100.0/24')).toBe(true);
    expect(gateway.memory.classes().has('198.51.100.128/25')).toBe(false);
    await Promise.all([gateway.grants.switchPolicy(policyOf(RULES)), gateway.grants.switchPolicy(policyOf(moved))]);
    expect(gateway.memory.classes().has('198.51.100.0/24')).toBe(false);
    expect(gateway.memory.classes().has('198.51.100.128/25')).toBe(true);
  });

  test("sources that move to another server are of the new one, and the old one's grants do not follow", async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway, { applicationServer: { address: 'all' } });
    expect(knock(gateway, record, '198.51.100.77')).toBe('redirect');
    const moved = RULES.replace('192.0.2.64/26', '198.51.100.0/24').replace(
      '[198.51.100.0/24, "2001:db8:51::/48"]',
      '["2001:db8:51::/48"]',
    );
    await gateway.grants.switchPolicy(policyOf(moved));
    expect(knock(gateway, record, '198.51.100.77')).not.toBe('redirect');
    expect(gateway.memory.classes().size).toBe(2);
  });

  test('a disk that takes nothing holds up no switch: packets stop, new sources enter, ends are written later', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    const end = gateway.store.end;
    gateway.store.end = () => Promise.reject(new AgentError('storeFailed', 'disk full'));
    await gateway.grants.switchPolicy(policyOf(RULES.replace('5683', '5684').replace('192.0.2.64/26', '192.0.2.0/26')));
    expect(knock(gateway, record)).toBe('grantEnded');
    expect([...gateway.memory.classes().keys()]).toContain('192.0.2.0/26');
    gateway.store.end = end;
    await gateway.grants.sweep();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'ruleChanged' });
  });

  test('two switches at once: one after the other, the last one holds; one that fails leaves the way to the one before', async () => {
    const gateway = await TestGateway.started();
    const { memory, grants } = gateway;
    const wide = policyOf(RULES.replace('192.0.2.64/26', '192.0.2.0/26'));
    const before = grants.policy;
    const record = await granted(gateway);
    await Promise.all([grants.switchPolicy(wide), grants.switchPolicy(before)]);
    expect(grants.policy.version).toBe(before.version);
    expect([...memory.classes().keys()].sort()).toEqual(['192.0.2.64/26', '198.51.100.0/24', '2001:db8:51::/48']);

    const addClass = memory.addClass;
    memory.addClass = () => {
      throw new AgentError('gateFault', 'no room');
    };
    await expect(grants.switchPolicy(wide)).rejects.toMatchObject({ code: 'gateFault' });
    memory.addClass = addClass;
    await grants.switchPolicy(before);
    expect([...memory.classes().keys()].sort()).toEqual(['192.0.2.64/26', '198.51.100.0/24', '2001:db8:51::/48']);
    expect(knock(gateway, record)).toBe('redirect');
  });
});

describe('a client certificate is revoked', () => {
  const SECOND = { ...HEAD_END, certificate: 'ca:7' as CertificateId };

  test('the grants asked for with it end; those asked for with another of the server go on', async () => {
    const gateway = await TestGateway.started();
    const first = await granted(gateway);
    const second = await gateway.grants.request(SECOND, ask({ devicePort: 7000 }));
    if ('reason' in second) throw new Error(second.reason);
    gateway.revoked.add(HEAD_END.certificate);
    await gateway.grants.review();
    expect(knock(gateway, first)).toBe('grantEnded');
    expect(knock(gateway, second)).toBe('redirect');
    expect(gateway.store.find(first.id)).toMatchObject({ state: 'ended', endCause: 'certificateRevoked' });
    expect(gateway.store.find(second.id)).toMatchObject({ state: 'live', certificate: SECOND.certificate });
  });

  test('all are closed though the store takes no end', async () => {
    const gateway = await TestGateway.started();
    const records = [await granted(gateway), await granted(gateway, { devicePort: 7000 })];
    const { end } = gateway.store;
    gateway.store.end = () => Promise.reject(new AgentError('storeFailed', 'full'));
    gateway.revoked.add(HEAD_END.certificate);
    await expect(gateway.grants.review()).rejects.toThrow('full');
    expect(records.map((record) => knock(gateway, record))).toEqual(['grantEnded', 'grantEnded']);
    gateway.store.end = end;
    await gateway.grants.sweep();
    for (const { id } of records) expect(gateway.store.find(id)?.endCause).toBe('certificateRevoked');
  });

  test('while a grant is being written: nothing opens', async () => {
    const gateway = await TestGateway.started();
    const asked = gateway.grants.request(HEAD_END, ask());
    gateway.revoked.add(HEAD_END.certificate);
    expect(await asked).toMatchObject({ reason: 'changedWhileDeciding', why: 'certificateRevoked' });
    expect([...gateway.store.live()]).toEqual([]);
  });

  test('while the agent was away: the grant ends with the start', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.revoked.add(HEAD_END.certificate);
    await gateway.start();
    expect(knock(gateway, record)).toBe('grantEnded');
    expect(gateway.store.find(record.id)?.endCause).toBe('certificateRevoked');
  });
});

describe('whose time is over, before a sweep has come', () => {
  const quota = RULES.replace('grantsPerDevice: 3, requestsPerMinute: 10', 'grantsPerDevice: 3, grantsPerServer: 4');

  test('has ended for whoever asks, once and for all', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(600);
    expect(gateway.grants.list({ server: HEAD_END.name }, undefined, 9)).toMatchObject({ records: [], total: 0 });
    const shown = gateway.grants.show(HEAD_END, record.id);
    expect(shown).toMatchObject({ state: 'ended', endCause: 'expired' });
    gateway.clock.pass(5);
    await gateway.grants.sweep();
    expect(gateway.grants.show(HEAD_END, record.id)).toEqual(shown);
    expect(await gateway.extensions.extend(HEAD_END, record.id, 60)).toMatchObject({ reason: 'grantEnded' });
  });

  test('stands in the way of no equal grant, and counts against no quota', async () => {
    const gateway = await TestGateway.started(quota);
    const ports = [5683, 7000, 7001];
    for (const devicePort of ports) await granted(gateway, { devicePort });
    expect(await refused(gateway, { devicePort: 7002 })).toMatchObject({ reason: 'grantsPerDeviceExceeded' });
    gateway.clock.pass(600);
    await gateway.heartbeat.beat();
    for (const devicePort of ports) await granted(gateway, { devicePort });
    expect(await refused(gateway, { devicePort: 7002 })).toMatchObject({ reason: 'grantsPerDeviceExceeded' });
    await gateway.grants.sweep();
    expect(gateway.grants.live.size).toBe(3);
    expect([...gateway.store.live()]).toHaveLength(3);
  });
});

test('hundreds that end in one second end in slices, and requests come in between', async () => {
  const world = RULES.replace(', grantsPerDevice: 3, requestsPerMinute: 10', '').replace('5683,', '"5001-5683",');
  const gateway = await TestGateway.started(world);
  const ports = Array.from({ length: 60 }, (_, i) => 5001 + i);
  for (const protocol of ['udp', 'tcp'] as const)
    for (const devicePort of ports) await granted(gateway, { devicePort, protocol });
  for (const devicePort of ports.slice(0, 16))
    await granted(gateway, { devicePort, applicationServer: { address: address('2001:db8:51::10') } });
  gateway.clock.pass(600);
  await gateway.heartbeat.beat();
  const order: string[] = [];
  const swept = gateway.grants.sweep().then(() => order.push('swept'));
  setImmediate(() => order.push('another turn'));
  await swept;
  expect(order).toEqual(['another turn', 'swept']);
  expect([gateway.grants.live.size, gateway.grants.rest.size]).toEqual([0, 136]);
  expect(new Set([...gateway.store.endedSince(0)].map(({ endCause }) => endCause))).toEqual(new Set(['expired']));
  gateway.clock.pass(121);
  await gateway.grants.sweep();
  expect(gateway.grants.rest.size).toBe(0);
});

describe('a restart', () => {
  test('loses no live grant and no packet of it', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(10);
    await gateway.start();
    expect(knock(gateway, record)).toBe('redirect');
    expect(gateway.grants.list({ server: HEAD_END.name }, undefined, 9).records).toEqual([record]);
  });

  test('an ended grant stays ended, and its endpoint goes on resting', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.grants.end(record, 'endedByServer');
    gateway.clock.pass(60);
    await gateway.start();
    const all = gateway.grants.endpoints.available('ipv4', 'udp');
    gateway.clock.pass(59);
    await gateway.grants.sweep();
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(all);
    gateway.clock.pass(1);
    await gateway.grants.sweep();
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(all + 1);
    expect(gateway.grants.show(HEAD_END, record.id)).toMatchObject({ state: 'ended', endCause: 'endedByServer' });
  });

  test('killed between record and gate: the grant was never open, and ends', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.memory.end(record.index, record.number, 0n);
    gateway.memory.forget(gateway.grants.mapping(record));
    await gateway.start();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'lostInGate' });
  });

  test('open in the gate and on no record: it is closed, and its endpoint rests', async () => {
    const gateway = await TestGateway.started();
    const [record, other] = [await granted(gateway), await granted(gateway, { devicePort: 7000 })];
    const free = gateway.grants.endpoints.available('ipv4', 'udp');
    // One of which the database has never heard, and one that took the place of another.
    const { memory, clock } = gateway;
    const far = clock.monotonicNs() + 900_000_000_000n;
    const place = gateway.grants.endpoints.allocate('ipv4', 'udp');
    if (!place) throw new Error('the pool is full');
    const stranger = { ...record, ...place, number: 77 };
    memory.open(gateway.grants.mapping(stranger), far);
    memory.end(other.index, other.number, 0n);
    memory.open(gateway.grants.mapping({ ...other, number: 78 }), far);
    await gateway.start();
    for (const one of [stranger, other]) expect(knock(gateway, one)).toBe('grantEnded');
    expect(knock(gateway, record)).toBe('redirect');
    expect(gateway.store.find(other.id)).toMatchObject({ endCause: 'lostInGate' });
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(free - 1);
    clock.pass(121);
    await gateway.grants.sweep();
    expect(gateway.grants.endpoints.available('ipv4', 'udp')).toBe(free + 1);
  });

  test('killed between gate and record: the end holds', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.memory.end(record.index, record.number, gateway.clock.monotonicNs() - 1n);
    await gateway.start();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'endedInGate' });
    expect(knock(gateway, record)).toBe('grantEnded');
  });

  test('with other rules ends what they do not allow', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.start(RULES.replace('5683', '5684'));
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'ruleChanged' });
  });

  test('with another devices file ends the grants of what moved', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    await gateway.start(RULES, [
      { device: { externalId: M1 }, bindings: [] },
      { device: { externalId: M2 }, bindings: [inner('10.20.0.2')] },
    ]);
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'addressReassigned' });
    expect(gateway.forgotten).toContain('10.20.0.2/32');
  });

  test('after the grace: grants live on whose binding the devices file vouches for; others are held', async () => {
    const devices = DEVICES.map((one) => ({ ...one, bindings: one.bindings.slice(0, 1) }));
    const gateway = await TestGateway.started(RULES, devices);
    await gateway.bindings.bind(M2, inner('10.20.0.3'));
    const byFile = await granted(gateway);
    const byManagement = await granted(gateway, { device: { networkAccessIdentifier: M2 } });
    gateway.clock.pass(301);
    expect(knock(gateway, byFile)).toBe('agentLost');
    await gateway.start(RULES, devices);
    expect(knock(gateway, byFile)).toBe('redirect');
    expect(gateway.store.find(byManagement.id)).toMatchObject({ state: 'held', expiresAtMs: byManagement.expiresAtMs });
    expect(knock(gateway, byManagement)).toBe('grantEnded');
  });

  test('after a reboot: open again until the same moment, and not a second longer', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.pass(100);
    gateway.reboot(60);
    await gateway.start();
    expect(knock(gateway, record)).toBe('redirect');
    gateway.clock.pass(299);
    await gateway.heartbeat.beat();
    gateway.clock.pass(140);
    expect(knock(gateway, record)).toBe('redirect');
    gateway.clock.pass(1);
    expect(knock(gateway, record)).toBe('grantEnded');
  });

  test('after a reboot with a clock that went back: all end', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.reboot(-1);
    await gateway.start();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'clockUncertain' });
  });
});

describe('the heartbeat', () => {
  test('that had run out is not simply written again: what nobody can vouch for is held', async () => {
    const gateway = await TestGateway.started(
      RULES,
      DEVICES.map(({ device }) => ({ device, bindings: [] })),
    );
    await gateway.bindings.bind(M1, inner('10.20.0.2'));
    const record = await granted(gateway);
    gateway.clock.pass(301);
    await gateway.heartbeat.beat();
    expect(gateway.store.find(record.id)).toMatchObject({ state: 'held' });
    expect(knock(gateway, record)).toBe('grantEnded');
  });

  test('brings ends down by the length of a suspend first', async () => {
    const gateway = await TestGateway.started();
    const record = await granted(gateway);
    gateway.clock.suspend(590);
    await gateway.heartbeat.beat();
    gateway.clock.pass(9);
    expect(knock(gateway, record)).toBe('redirect');
    gateway.clock.pass(2);
    expect(knock(gateway, record)).toBe('grantEnded');
    await gateway.grants.sweep();
    expect(gateway.store.find(record.id)).toMatchObject({ endCause: 'expired' });
  });
});
