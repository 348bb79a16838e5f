/** The rule files give a device to another MTC user: what was there by the former owner's word ends, and is nobody else's. */
import { beforeEach, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import type { Refusal } from '../../agent/core/refusals.ts';
import type { CertificateId, ExternalId, MtcUserAsker, MtcUserName } from '../../agent/core/words.ts';
import { forecast } from '../../agent/editions/forecast.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { DeskClerk } from '../../agent/use-cases/desk-clerk.ts';
import { mtcUserUseCases } from '../../agent/use-cases/mtc-user.ts';
import { ask, HEAD_END, inner, M1, M2, policyOf, RULES, TestGateway } from '../gateway.ts';
import { digest } from '../rules.ts';
import { settled, TestTriggers, TRIGGER_RULES } from '../triggers.ts';

/** Both MTC users authorise the same server, so that nothing but whose the device is can end anything. */
const ownedBy = (rules: string, acme: string, rival: string) =>
  rules
    .replace(
      'devices: ["*@meters.example"], authorises: [head-end], mayAuthorise: ["*"] }',
      `devices: [${acme}], authorises: [head-end], mayAuthorise: ["*"] }
  rival: { certificates: [{ uri: "urn:mtc-user:rival" }], devices: [${rival}], authorises: [head-end], mayAuthorise: ["*"] }`,
    )
    .replace('requestsPerMinute: 10', 'requestsPerMinute: 1000');
const BEFORE = ownedBy(RULES, '"m*@meters.example"', '"r*@meters.example"');
const MOVED = ownedBy(RULES, '"m3@meters.example"', '"m1@meters.example", "m2@meters.example"');
/** Nobody has them. */
const GIVEN_UP = ownedBy(RULES, '"m3@meters.example"', '"r*@meters.example"');
const M3 = 'm3@meters.example' as ExternalId;
const DEVICES = [
  { device: { externalId: M1 }, bindings: [inner('10.20.0.2')] },
  { device: { externalId: M2 }, bindings: [] },
  { device: { externalId: M3 }, bindings: [inner('10.20.0.3')] },
];
const asker = (name: string): MtcUserAsker => ({
  name: name as MtcUserName,
  certificate: 'ca:9' as CertificateId,
  correlator: 'c-9',
  requestAddress: address('127.0.0.1'),
});
const [ACME, RIVAL] = [asker('acme'), asker('rival')];
const BY = { certificate: 'ca:rival' as CertificateId };

let gateway: TestGateway;
beforeEach(async () => {
  gateway = new TestGateway();
  await gateway.start(BEFORE, DEVICES);
});

const granted = (answer: GrantRecord | WaitingRequest | Refusal): GrantRecord => {
  if (!('external' in answer)) throw new Error(JSON.stringify(answer));
  return answer;
};
const request = (device = M1, devicePort = 5683) =>
  gateway.grants.request(HEAD_END, ask({ device: { networkAccessIdentifier: device }, devicePort }));
const open = async (device = M1, devicePort = 5683) => granted(await request(device, devicePort));
const wait = async () => {
  const asked = ask({ device: { networkAccessIdentifier: M2 }, ipFamily: 'ipv4' });
  return (await gateway.grants.requestOrWait(HEAD_END, asked, 3600)) as WaitingRequest;
};
const isOpen = ({ index, number }: GrantRecord) => {
  const entry = gateway.memory.entry(index);
  return entry?.mapping.number === number && entry.endNs > gateway.clock.monotonicNs();
};
const onRecord = ({ id }: { readonly id: string }) => gateway.store.find(id);
const layed = (rules: string) => gateway.desk.lay(policyOf(rules));
const move = (rules = MOVED) => gateway.grants.switchPolicy(() => layed(rules));
/** As long as a switch of policies has not come to the grants. */
const beginMove = () => {
  gateway.grants.judge.policy = layed(MOVED);
};
const clerk = () => new DeskClerk(gateway.desk, gateway.ground, digest);
const useCases = () => mtcUserUseCases(gateway.ground, gateway.grants, gateway.registry, clerk());
const ENDED = { state: 'ended', endCause: 'ownerChanged', mtcUser: 'acme' };

describe('a live grant', () => {
  test.each([
    ['another MTC user’s that authorises the server too', MOVED],
    ['nobody’s', GIVEN_UP],
  ])('ends when its device is %s; one on another device lives on', async (_, rules) => {
    const [gone, stays] = [await open(), await open(M3)];
    await move(rules);
    expect([gone, stays].map(isOpen)).toEqual([false, true]);
    expect(onRecord(gone)).toMatchObject(ENDED);
    expect(onRecord(stays)).toMatchObject({ state: 'live', mtcUser: 'acme' });
  });

  test('is gone for the former owner, never was for the new one, who ends what comes after at its desk', async () => {
    const gone = await open();
    await move();
    const { grants, grant, revoke } = useCases();
    const late = await open();
    expect(late.mtcUser).toBe('rival');
    expect(grants(ACME, {}, 100)).toEqual({ items: [], total: 0 });
    expect(grants(ACME, { device: M1 }, 100)).toEqual({ items: [], total: 0 });
    expect(grant(ACME, late.id)).toMatchObject({ reason: 'grantNotFound' });
    expect(await revoke(ACME, late.id)).toMatchObject({ reason: 'grantNotFound' });
    expect(grant(RIVAL, gone.id)).toMatchObject({ reason: 'grantNotFound' });
    expect(grants(RIVAL, { device: M1 }, 100)).toMatchObject({ items: [{ id: late.id }], total: 1 });
    await clerk().withdraw(RIVAL.name, BY, 'head-end');
    expect([gone, late].map(isOpen)).toEqual([false, false]);
  });

  test('is not shown to the new owner in the moment before the switch comes to it', async () => {
    await open();
    beginMove();
    expect(useCases().grants(RIVAL, { device: M1 }, 100)).toEqual({ items: [], total: 0 });
  });

  test.each([
    ['in the same boot', () => {}],
    ['after a reboot', () => gateway.reboot()],
  ])('ends at a start by rules that give its device away, %s', async (_, between) => {
    const gone = await open();
    between();
    await gateway.start(MOVED, DEVICES);
    expect(isOpen(gone)).toBe(false);
    expect(onRecord(gone)).toMatchObject(ENDED);
  });

  test('that is held ends, too', async () => {
    await gateway.bindings.bind(M2, inner('10.20.0.9')); // what the devices file binds is confirmed by it
    const gone = await open(M2);
    gateway.directory.unconfirm();
    await gateway.grants.held.hold();
    expect(onRecord(gone)?.state).toBe('held');
    await move();
    expect(onRecord(gone)).toMatchObject(ENDED);
  });

  test('that is being recorded meanwhile is not opened', async () => {
    const asked = request();
    beginMove();
    expect(await asked).toMatchObject({ reason: 'changedWhileDeciding' });
    expect(gateway.grants.live.size).toBe(0);
    expect([...gateway.store.newest(0)]).toMatchObject([ENDED]);
  });

  test('is told as an end before the rules are in force', async () => {
    const gone = await open();
    await open(M3);
    const past = { grants: () => [], refusals: () => [] };
    const { ends } = await forecast(policyOf(MOVED), gateway.grants, past, gateway.clock);
    expect(ends).toMatchObject({ count: 1, grantIds: [gone.id], groups: [{ reason: 'ownerChanged', count: 1 }] });
  });
});

describe('an extension', () => {
  test('is refused, and the grant ends, by whatever comes first', async () => {
    const gone = await open();
    beginMove();
    const refused = await gateway.extensions.extend(HEAD_END, gone.id, 900);
    expect(refused).toMatchObject({ reason: 'grantEnded', members: { endCause: 'OWNER_CHANGED' } });
    expect(isOpen(gone)).toBe(false);
    expect(onRecord(gone)).toMatchObject(ENDED);
  });

  test('that is being recorded meanwhile raises no end', async () => {
    const gone = await open();
    gateway.clock.pass(60);
    const asked = gateway.extensions.extend(HEAD_END, gone.id, 900);
    const moved = move();
    expect(await asked).toHaveProperty('reason');
    await moved;
    expect(isOpen(gone)).toBe(false);
    expect(onRecord(gone)).toMatchObject(ENDED);
  });
});

test('a request that is sent again under its key is answered as it was, and opens nothing', async () => {
  const who = { ...HEAD_END, idempotencyKey: 'k-1' };
  const first = granted(await gateway.grants.request(who, ask()));
  await move();
  const again = granted(await gateway.grants.request(who, ask()));
  expect([again.id, again.mtcUser]).toEqual([first.id, 'acme']);
  expect(gateway.grants.live.size).toBe(0);
  expect(gateway.grants.show(HEAD_END, first.id)).toMatchObject(ENDED);
});

describe('a request that waits', () => {
  test('ends with the switch, and grants nothing when its device comes', async () => {
    const waiting = await wait();
    await move();
    expect(gateway.grants.waiting.size).toBe(0);
    expect(gateway.store.findWait(waiting.id)).toMatchObject(ENDED);
    await gateway.bindings.bind(M2, inner('10.20.0.9'));
    expect(gateway.grants.live.size).toBe(0);
  });

  test('grants nothing where its device comes before the switch has come to it', async () => {
    const waiting = await wait();
    beginMove();
    await gateway.bindings.bind(M2, inner('10.20.0.9'));
    expect(gateway.grants.live.size).toBe(0);
    expect(gateway.store.findWait(waiting.id)).toMatchObject(ENDED);
  });

  test('ends at a start by rules that give its device away', async () => {
    const waiting = await wait();
    await gateway.start(MOVED, DEVICES);
    expect(gateway.grants.waiting.size).toBe(0);
    expect(gateway.store.findWait(waiting.id)).toMatchObject(ENDED);
  });

  test('goes on where its device stays', async () => {
    const waiting = await wait();
    await move(BEFORE.replace('no-telnet', 'no-login'));
    expect(gateway.grants.waiting.get(waiting.id)).toBe(waiting);
  });
});

describe('who was turned away at the endpoint of such a grant', () => {
  const ownerAt = ({ protocol, external }: GrantRecord) => gateway.grants.ownerOf(protocol, external)?.mtcUser;

  test('is told to nobody from then on; at the one of another device, to its owner', async () => {
    const [gone, stays] = [await open(), await open(M3)];
    expect([gone, stays].map(ownerAt)).toEqual(['acme', 'acme']);
    beginMove();
    expect([gone, stays].map(ownerAt)).toEqual([undefined, 'acme']);
    await move();
    await gateway.grants.end(stays, 'endedByServer');
    expect([gone, stays].map(ownerAt)).toEqual([undefined, 'acme']); // both at rest
    await gateway.start(MOVED, DEVICES);
    expect([gone, stays].map(ownerAt)).toEqual([undefined, 'acme']);
  });
});

test('what the former owner’s servers began today does not count against the new owner’s wish', async () => {
  const wish = { devices: M1, grantsPerDay: { grants: 1, zone: 'UTC' } };
  await clerk().prefer(ACME.name, BY, wish);
  await open();
  expect(await request(M1, 7000)).toMatchObject({ reason: 'unwanted' });
  await move();
  expect(await clerk().prefer(RIVAL.name, BY, wish)).not.toHaveProperty('reason');
  expect((await open()).mtcUser).toBe('rival');
  expect(await request(M1, 7000)).toMatchObject({ reason: 'unwanted' });
});

describe('a trigger that is pending', () => {
  test('is not sent when its device comes, and ends; the new owner’s word is for those asked for from then on', async () => {
    const [before, moved] = [
      ownedBy(TRIGGER_RULES, '"m*@meters.example"', '"r*@meters.example"'),
      ownedBy(TRIGGER_RULES, '"m3@meters.example"', '"m1@meters.example", "m2@meters.example"'),
    ];
    const fixture = await TestTriggers.started(before, DEVICES);
    const former = await fixture.accepted({ device: { networkAccessIdentifier: M2 }, text: 'former' });
    await fixture.gateway.grants.switchPolicy(policyOf(moved));
    const late = await fixture.accepted({ device: { networkAccessIdentifier: M2 }, text: 'late' });
    await fixture.gateway.bindings.bind(M2, inner('10.20.0.9'));
    await settled();
    expect(fixture.store.find(former.id)).toMatchObject({ state: 'ended', endCause: 'ownerChanged' });
    expect(fixture.delivery.begun.map(({ payload }) => payload)).toEqual(['late']);
    await fixture.delivery.only.done('acknowledged');
    expect(fixture.store.find(late.id)).toMatchObject({ endCause: 'delivered', mtcUser: 'rival' });
  });

  test('for a request that waits is recalled with it', async () => {
    const before = ownedBy(TRIGGER_RULES, '"m*@meters.example"', '"r*@meters.example"');
    const moved = ownedBy(TRIGGER_RULES, '"m3@meters.example"', '"m1@meters.example", "m2@meters.example"');
    const fixture = await TestTriggers.started(before, DEVICES);
    const { grants } = fixture.gateway;
    const asked = ask({ device: { networkAccessIdentifier: M2 }, ipFamily: 'ipv4' });
    const wake = { port: 5683, payload: Uint8Array.from(Buffer.from('wake')) };
    const waiting = (await grants.requestOrWait(HEAD_END, asked, 3600, wake)) as WaitingRequest;
    expect(fixture.triggers.ofGrant(waiting.id)).toMatchObject({ state: 'pending' });
    await grants.switchPolicy(policyOf(moved));
    await settled();
    expect(fixture.triggers.ofGrant(waiting.id)).toMatchObject({ state: 'ended', endCause: 'grantOver' });
    await fixture.gateway.bindings.bind(M2, inner('10.20.0.9'));
    await settled();
    expect(fixture.delivery.begun).toEqual([]);
  });
});
