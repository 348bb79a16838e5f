/** What stands for IMSI and MSISDN; and that nobody's and another's device, grant and transaction are one answer. */
import { expect, test } from 'vitest';
import { problemOf } from '../../agent/api/problem.ts';
import { operations } from '../../agent/api/routes.ts';
import { t8Operations } from '../../agent/api/t8-routes.ts';
import type { Refusal } from '../../agent/core/refusals.ts';
import type { Msisdn } from '../../agent/core/words.ts';
import { identitiesBy } from '../../agent/files/identity-key.ts';
import { PageKeys } from '../../agent/use-cases/page-keys.ts';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { triggerUseCases } from '../../agent/use-cases/triggers.ts';
import { ask, DEVICES, HEAD_END, OTHER, TestGateway } from '../gateway.ts';
import { IDENTITIES, keyOf } from '../identities.ts';
import { digest } from '../rules.ts';
import { TestTriggers, TRIGGER_RULES, triggerAsk } from '../triggers.ts';

const NUMBER = { phoneNumber: '+491715550100' };

test('a hash names its key, is of its kind, and is hashed no more', () => {
  const hash = IDENTITIES.hash('msisdn', '491715550100');
  expect(hash).toMatch(/^hash:[0-9a-f]{6}\.[\w-]{22}$/);
  expect(IDENTITIES.hash('msisdn', hash)).toBe(hash);
  expect(IDENTITIES.hash('imsi', '491715550100')).not.toBe(hash);
  const other = identitiesBy({ key: keyOf('another'), keep: false });
  expect([other.isForeign(hash), IDENTITIES.isForeign(hash), other.isForeign('491715550100')]).toEqual([
    true,
    false,
    false,
  ]);
});

test('a number is kept as a hash, and shown to whoever said it while it is known', () => {
  const fresh = identitiesBy({ key: keyOf('tests'), keep: false });
  const kept = fresh.kept(NUMBER);
  expect(kept).toEqual({ msisdnHash: IDENTITIES.hash('msisdn', '491715550100') });
  expect(fresh.shown(kept)).toBeUndefined();
  fresh.remember({ phoneNumber: '491715550100' });
  expect(fresh.shown(kept)).toEqual(NUMBER);
  const keeping = identitiesBy({ key: keyOf('tests'), keep: true });
  expect([keeping.kept(NUMBER), keeping.compared(NUMBER)]).toEqual([NUMBER, kept]);
  expect(keeping.subscriber({ imsi: '262010000000001', msisdn: undefined })).toEqual({
    imsi: IDENTITIES.hash('imsi', '262010000000001'),
    msisdn: undefined,
    clear: { imsi: '262010000000001' },
  });
});

test('a page key says nothing of the place it stands for, and only we can make one', () => {
  const keys = new PageKeys();
  const places = [{ line: 3, sequence: 41 }, { line: 3, sequence: 42 }, { waited: 7 }] as const;
  const sealed = places.map((place) => keys.seal(place));
  expect(sealed.map((key) => keys.open(key))).toEqual(places);
  expect(new Set(sealed.map((key) => key.slice(0, 4))).size).toBe(3);
  for (const wrong of ['', 'x', `${sealed[0]}A`, sealed[0]?.replace(/^./, (a) => (a === 'A' ? 'B' : 'A')) ?? ''])
    expect(keys.open(wrong)).toBeUndefined();
  expect(new PageKeys().open(sealed[0] ?? '')).toBeUndefined();
});

test('what is nobody’s and what is another’s have the same bytes, but for the instance', async () => {
  const gateway = new TestGateway();
  const numbered = DEVICES.map(({ device, bindings }, i) => ({
    device: { ...device, msisdn: `49171555010${i}` as Msisdn },
    bindings,
  }));
  await gateway.start(TRIGGER_RULES, numbered);
  const fixture = new TestTriggers(gateway);
  await fixture.start();
  const { ground, grants, extensions, events } = gateway;
  const servers = serverUseCases(ground, grants, extensions, events, undefined, digest);
  const t8 = triggerUseCases(fixture.triggers, fixture.notifications, ground.refuse, IDENTITIES);
  const live = await servers.request(HEAD_END, { ...ask(), device: NUMBER });
  const sent = await t8.create(HEAD_END, triggerAsk({ device: NUMBER, validitySeconds: 3600 }), false);
  if ('reason' in live || 'reason' in sent) throw new Error(JSON.stringify([live, sent]));
  const api = { ...operations(servers, ground.refuse, gateway.clock), ...t8Operations(t8, ground.refuse) };
  const call = async (name: string, params: object, body?: object) => {
    const asked = {
      who: OTHER,
      params: { scsAsId: OTHER.name, ...params },
      query: {},
      headers: {},
      body,
      asked: () => ({}),
    };
    const answer = (await api[name]?.(asked as never)) as Refusal | { status: number };
    const told = 'reason' in answer ? problemOf(answer) : answer;
    return JSON.stringify(told).replace(/urn:uuid:[\w-]+/, '');
  };
  const grant = (device: object) => ({
    device,
    protocol: 'UDP',
    devicePort: 5683,
    durationSeconds: 60,
    whenUnreachable: 'INDICATE_ERROR',
  });
  const trigger = (device: object) => ({
    ...{
      ...device,
      validityPeriod: 60,
      priority: 'PRIORITY',
      applicationPortId: triggerAsk().port,
      triggerPayload: '',
    },
    notificationDestination: triggerAsk().notification?.destination ?? 'https://sink.example/',
  });
  const NEVER = '01JZZZZZZZZZZZZZZZZZZZZZZZ';
  const pairs: [string, object, object, object?, object?][] = [
    [
      'createGrant',
      {},
      {},
      grant({ networkAccessIdentifier: 'm1@meters.example' }),
      grant({ networkAccessIdentifier: 'm9@meters.example' }),
    ],
    ['createGrant', {}, {}, grant(NUMBER), grant({ phoneNumber: '+491715550999' })],
    ['getGrant', { grantId: live.id }, { grantId: NEVER }],
    ['endGrant', { grantId: live.id }, { grantId: NEVER }],
    ['extendGrant', { grantId: live.id }, { grantId: NEVER }, { durationSeconds: 60 }, { durationSeconds: 60 }],
    [
      'retrieveGrants',
      {},
      {},
      { device: NUMBER, perPage: 9 },
      { device: { phoneNumber: '+491715550999' }, perPage: 9 },
    ],
    ['createTransaction', {}, {}, trigger({ msisdn: '491715550100' }), trigger({ msisdn: '491715550999' })],
    ['getTransaction', { transactionId: sent.id }, { transactionId: NEVER }],
    ['deleteTransaction', { transactionId: sent.id }, { transactionId: NEVER }],
    [
      'modifyTransaction',
      { transactionId: sent.id },
      { transactionId: NEVER },
      { priority: 'PRIORITY' },
      { priority: 'PRIORITY' },
    ],
  ];
  for (const [name, theirs, never, one, other] of pairs)
    expect(await call(name, theirs, one), name).toBe(await call(name, never, other));
  // And that a grant and a transaction are there for their own server.
  expect(servers.show(HEAD_END, live.id)).toMatchObject({ id: live.id, device: NUMBER });
  expect(t8.show(HEAD_END, sent.id)).toMatchObject({ id: sent.id, named: NUMBER });
});
