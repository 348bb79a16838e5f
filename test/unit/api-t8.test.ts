/** DeviceTriggering (TS 29.122 5.7) on the wire, with the real triggers behind it: what it answers, member for member. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { T8_BASE_PATH, t8Api, t8Operations } from '../../agent/api/t8-routes.ts';
import type { ExternalId, Msisdn, ServerName } from '../../agent/core/words.ts';
import { openTriggerStore } from '../../agent/triggers/store.ts';
import { triggerUseCases } from '../../agent/use-cases/triggers.ts';
import { HEAD_END, inner } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { settled, TestTriggers, triggerAsk } from '../triggers.ts';
import { ApiFixture, type Ask } from './api-fixture.ts';

const RULES = `
servers:
  acme-head-end: { certificates: [{ uri: "urn:mtc:acme:head-end" }], sources: [198.51.100.0/25] }
  beta: { certificates: [{ uri: "urn:mtc:beta" }], sources: [198.51.100.128/25] }
mtcUsers:
  acme: { devices: ["*@meters.acme.example"], authorises: [acme-head-end] }
  other: { devices: ["*@other.example"], authorises: [beta] }
triggers:
  - id: wake
    allow: { servers: [acme-head-end], ports: [5683, 5684] }
    limits: { validitySeconds: 86400, payloadBytes: 64, pendingPerDevice: 2, perMinute: 1000 }
  - { id: m4, deny: { devices: [m4@meters.acme.example], reason: asleep for ever } }
`;
const M1 = 'm1@meters.acme.example';
const M2 = 'm2@meters.acme.example';
const DEVICES = [
  { device: { externalId: M1 as ExternalId, msisdn: '12025550142' as Msisdn }, bindings: [inner('10.20.0.2')] },
  { device: { externalId: M2 as ExternalId }, bindings: [] },
  { device: { externalId: 'm4@meters.acme.example' as ExternalId }, bindings: [] },
  { device: { externalId: 'm1@other.example' as ExternalId }, bindings: [inner('10.20.0.3')] },
];
const TRANSACTIONS = `${T8_BASE_PATH}/acme-head-end/transactions`;
const GOOD = {
  externalId: M2,
  validityPeriod: 3600,
  priority: 'NO_PRIORITY',
  applicationPortId: 5683,
  triggerPayload: 'd2FrZQ==',
  notificationDestination: 'https://head-end.example/triggers',
};

let api: ApiFixture;
let fixture: TestTriggers;

/** The use cases are those of the test's own triggers, which are new for each test. */
beforeAll(async () => {
  api = new ApiFixture();
  await api.start({}, {}, undefined, [
    t8Api(
      {
        create: (...args) => useCases().create(...args),
        list: (...args) => useCases().list(...args),
        show: (...args) => useCases().show(...args),
        replace: (...args) => useCases().replace(...args),
        remove: (...args) => useCases().remove(...args),
      },
      (...args) => fixture.gateway.ground.refuse(...args),
    ),
  ]);
}, 60_000); // a PKI on a host with much to do
afterAll(() => api.stop());
beforeEach(async () => {
  fixture = await TestTriggers.started(RULES, DEVICES);
});

function useCases() {
  const { triggers, gateway, notifications } = fixture;
  return triggerUseCases(triggers, notifications, gateway.ground.refuse, IDENTITIES);
}

const post = (changes: object = {}, ask: Ask = {}) =>
  api.ask({ method: 'POST', path: TRANSACTIONS, body: { ...GOOD, ...changes }, ...ask });
const without = (...names: (keyof typeof GOOD)[]) =>
  Object.fromEntries(Object.entries(GOOD).filter(([name]) => !names.includes(name as keyof typeof GOOD)));
/** A transaction that is pending; the path to it. */
async function posted(changes: object = {}): Promise<string> {
  const { status, headers, text } = await post(changes);
  if (status !== 201) throw new Error(text);
  await settled();
  return new URL(String(headers['location'])).pathname;
}
const put = (path: string, body: object) => api.ask({ method: 'PUT', path, body });
const patch = (path: string, body: object, type = 'application/merge-patch+json') =>
  api.ask({ method: 'PATCH', path, body, headers: { 'content-type': type } });
const remove = (path: string) => api.ask({ method: 'DELETE', path });
const get = (path = TRANSACTIONS) => api.ask({ path });

describe('a transaction', () => {
  test('is created: 201 with Location, self, and all that was asked; GET says the same', async () => {
    const asked = { priority: 'PRIORITY', appSrcPortId: 40_000, supportedFeatures: 'F7' };
    const created = await post(asked);
    expect(created.status).toBe(201);
    const self = `https://127.0.0.1:${api.port}${TRANSACTIONS}/trigger-000001`;
    expect(created.headers['location']).toBe(self);
    expect(created.headers['content-type']).toMatch(/^application\/json/);
    const transaction = { self, ...GOOD, ...asked, supportedFeatures: '6', deliveryResult: 'TRIGGERED' };
    expect(created.body).toEqual(transaction);
    const found = await get(new URL(self).pathname);
    expect([found.status, found.body]).toEqual([200, transaction]);
    expect((await get()).body).toEqual([transaction]);
  });

  test('names the device as its server did, and never otherwise', async () => {
    const { externalId: _, ...rest } = GOOD;
    const { body, text } = await api.ask({
      method: 'POST',
      path: TRANSACTIONS,
      body: { ...rest, msisdn: '12025550142' },
    });
    expect(body).toMatchObject({ msisdn: '12025550142' });
    expect(text).not.toMatch(/externalId|meters|10\.20/);
  });

  test.each([
    ['acknowledged', 'SUCCESS'],
    ['sent', 'UNCONFIRMED'],
    ['rejected', 'FAILURE'],
  ] as const)('that was %s: %s is read, and told to notificationDestination', async (outcome, deliveryResult) => {
    const path = await posted({ externalId: M1 });
    await fixture.delivery.only.done(outcome);
    expect((await get(path)).body).toMatchObject({ deliveryResult });
    const transaction = `https://127.0.0.1:${api.port}${path}`;
    expect(fixture.told).toEqual([
      {
        server: 'acme-head-end',
        destination: GOOD.notificationDestination,
        body: { transaction, result: deliveryResult },
      },
    ]);
    expect((await get()).body).toEqual([]);
  });

  test('that expired says so', async () => {
    const path = await posted({ validityPeriod: 5 });
    await fixture.pass(7);
    expect((await get(path)).body).toMatchObject({ deliveryResult: 'EXPIRED' });
  });

  test('is replaced by PUT, whole, with what GET said of it in it', async () => {
    const path = await posted();
    const { body } = await get(path);
    const answer = await put(path, { ...body, triggerPayload: 'bmV3', priority: 'PRIORITY' });
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({ ...body, triggerPayload: 'bmV3', priority: 'PRIORITY', deliveryResult: 'REPLACED' });
    expect((await get(path)).body).toEqual(answer.body);
  });

  test('is changed by PATCH, in what is named', async () => {
    const path = await posted({ appSrcPortId: 40_000 });
    const answer = await patch(path, { triggerPayload: '', validityPeriod: 60 });
    expect(answer.status).toBe(200);
    const changed = { triggerPayload: '', validityPeriod: 60, deliveryResult: 'REPLACED' };
    expect(answer.body).toMatchObject({ ...GOOD, ...changed, appSrcPortId: 40_000 });
    expect((await patch(path, {}, 'application/json')).status).toBe(415);
    expect((await patch(path, { externalId: M1 })).status).toBe(400);
  });

  test('is recalled by DELETE: 200 with TERMINATE; then it is gone', async () => {
    const path = await posted();
    const { body } = await get(path);
    const recalled = await remove(path);
    expect([recalled.status, recalled.body]).toEqual([200, { ...body, deliveryResult: 'TERMINATE' }]);
    expect((await get(path)).status).toBe(404);
    expect((await remove(path)).status).toBe(404);
  });

  test('that is over is deleted: 204, and gone', async () => {
    const path = await posted({ externalId: M1 });
    await fixture.delivery.only.done('acknowledged');
    const deleted = await remove(path);
    expect([deleted.status, deleted.text]).toEqual([204, '']);
    expect((await get(path)).status).toBe(404);
  });

  test('is there after a restart', async () => {
    const path = await posted();
    const before = (await get(path)).body;
    await fixture.triggers.close();
    await fixture.start();
    expect((await get(path)).body).toEqual(before);
    expect((await get()).body).toEqual([before]);
    await fixture.gateway.bindings.bind(M2 as ExternalId, inner('10.20.0.9'));
    await settled();
    await fixture.delivery.only.done('acknowledged');
    expect((await get(path)).body).toMatchObject({ deliveryResult: 'SUCCESS' });
  });

  test('a test notification is sent where it is asked for and both sides know of it', async () => {
    const asked = { requestTestNotification: true };
    await posted(asked);
    expect(fixture.told).toEqual([]);
    const path = await posted({ ...asked, supportedFeatures: '2' });
    expect(fixture.told.map(({ body }) => body)).toEqual([{ subscription: `https://127.0.0.1:${api.port}${path}` }]);
  });
});

describe('refused', () => {
  test.each([
    ['bad base64', { triggerPayload: 'd2Fr ZQ' }, 400, 'INVALID_ARGUMENT', 'INVPAYLOAD'],
    ['base64 cut short', { triggerPayload: 'd2FrZ' }, 400, 'INVALID_ARGUMENT', 'INVPAYLOAD'],
    [
      'a payload that is too large',
      { triggerPayload: Buffer.alloc(65).toString('base64') },
      400,
      'OUT_OF_RANGE',
      'INVPAYLOAD',
    ],
    ['a validity that is too long', { validityPeriod: 86_401 }, 400, 'OUT_OF_RANGE', 'INVPERIOD'],
    ['a negative validity', { validityPeriod: -1 }, 400, 'INVALID_ARGUMENT', 'INVALID_MSG_FORMAT'],
    ['a port that is not served', { applicationPortId: 5684 }, 400, 'OUT_OF_RANGE', 'PARAMETER_OUT_OF_RANGE'],
    ['a source port that is not ours', { appSrcPortId: 40_001 }, 400, 'OUT_OF_RANGE', 'PARAMETER_OUT_OF_RANGE'],
    ['a port that no rule allows', { applicationPortId: 7 }, 403, 'PERMISSION_DENIED', 'NOTAUTHORIZED'],
    [
      'a device that a deny is for',
      { externalId: 'm4@meters.acme.example' },
      403,
      'PERMISSION_DENIED',
      'NOTAUTHORIZED',
    ],
    [
      'a destination that is no sink',
      { notificationDestination: 'https://elsewhere.example/' },
      403,
      'PERMISSION_DENIED',
      'NOTAUTHORIZED',
    ],
    ['two identifiers', { msisdn: '12025550142' }, 400, 'INVALID_ARGUMENT', 'INVALID_MSG_FORMAT'],
    ['an identifier that is none', { externalId: 'm1' }, 400, 'INVALID_ARGUMENT', 'INVEXTID'],
    ['an unknown device', { externalId: 'm9@meters.acme.example' }, 404, 'IDENTIFIER_NOT_FOUND', 'INVEXTID'],
    ["another tenant's device", { externalId: 'm1@other.example' }, 404, 'IDENTIFIER_NOT_FOUND', 'INVEXTID'],
    ['validity 0 of an absent device', { validityPeriod: 0 }, 409, 'DEVICE_UNREACHABLE', 'TEMPORARYERROR'],
    ['another priority', { priority: 'HIGH' }, 400, 'INVALID_ARGUMENT', 'INVALID_MSG_FORMAT'],
    ['a member that nobody knows', { urgent: true }, 400, 'INVALID_ARGUMENT', 'INVALID_MSG_FORMAT'],
  ])('%s', async (_, changes, status, code, cause) => {
    const answer = await post(changes);
    expect(answer.body).toMatchObject({ status, code, cause });
    expect([answer.status, answer.headers['content-type']]).toEqual([status, 'application/problem+json']);
    expect(fixture.triggers.queue.size).toBe(0);
  });

  test.each([
    'externalId',
    'validityPeriod',
    'priority',
    'applicationPortId',
    'triggerPayload',
    'notificationDestination',
  ] as const)('without %s', async (name) => {
    const answer = await api.ask({ method: 'POST', path: TRANSACTIONS, body: without(name) });
    expect(answer.body).toMatchObject({ status: 400, code: 'INVALID_ARGUMENT', cause: 'INVALID_MSG_FORMAT' });
  });

  test('a quota that is used up: QUOTAEXCEEDED; a body that is too large: 413', async () => {
    for (let i = 0; i < 2; i += 1) await posted();
    expect((await post()).body).toMatchObject({ status: 429, code: 'QUOTA_EXCEEDED', cause: 'QUOTAEXCEEDED' });
    expect((await post({ triggerPayload: 'A'.repeat(20_000) })).status).toBe(413);
  });

  test('a rate that is used up: RATEEXCEEDED, and when to come again', async () => {
    await fixture.gateway.grants.switchPolicy(
      (await TestTriggers.started(RULES.replace('1000', '1'), DEVICES)).gateway.grants.policy,
    );
    await posted();
    const answer = await post();
    expect(answer.body).toMatchObject({ status: 429, code: 'TOO_MANY_REQUESTS', cause: 'RATEEXCEEDED' });
    expect(answer.headers['retry-after']).toBe('60');
  });

  test('a disk that takes nothing: 503 TEMPORARYERROR', async () => {
    const { AgentError } = await import('../../agent/core/errors.ts');
    fixture = await TestTriggers.started(RULES, DEVICES, {
      ...openTriggerStore(':memory:', IDENTITIES),
      insert: () => Promise.reject(new AgentError('storeFailed', 'the disk is full')),
    });
    expect((await post()).body).toMatchObject({ status: 503, code: 'UNAVAILABLE', cause: 'TEMPORARYERROR' });
  });

  test('unknown and foreign devices are one answer, byte for byte but for its instance', async () => {
    const answers = await Promise.all(
      ['m9@meters.acme.example', 'm1@other.example'].map((externalId) => post({ externalId })),
    );
    const [unknown, foreign] = answers.map(({ status, text, headers }) => {
      const { date: _, 'x-correlator': __, ...told } = headers;
      return { status, text: text.replace(/urn:uuid:[0-9a-f-]{36}/, 'INSTANCE'), told };
    });
    expect(foreign).toEqual(unknown);
    expect(unknown?.status).toBe(404);
  });

  test.each([
    ['PUT', 'TRIGGERED'],
    ['PATCH', 'TRIGGERED'],
  ])('%s of what the device has: ORIGINALMESSAGESENT', async (method) => {
    const path = await posted({ externalId: M1 });
    await fixture.delivery.only.done('acknowledged');
    const answer = await (method === 'PUT'
      ? put(path, { ...GOOD, externalId: M1 })
      : patch(path, { triggerPayload: '' }));
    expect(answer.body).toMatchObject({ status: 409, code: 'CONFLICT', cause: 'ORIGINALMESSAGESENT' });
  });

  test('PUT of what expired: REPLACEFAIL; for another device: 400', async () => {
    const pending = await posted();
    expect((await put(pending, { ...GOOD, externalId: M1 })).body).toMatchObject({ status: 400 });
    const path = await posted({ validityPeriod: 1 });
    await fixture.pass(3);
    expect((await put(path, GOOD)).body).toMatchObject({ status: 409, code: 'CONFLICT', cause: 'REPLACEFAIL' });
  });
});

describe('of another', () => {
  const calls: readonly Ask[] = [
    { method: 'POST', path: TRANSACTIONS, body: GOOD },
    { method: 'GET', path: TRANSACTIONS },
    { method: 'GET', path: `${TRANSACTIONS}/trigger-000001` },
    { method: 'PUT', path: `${TRANSACTIONS}/trigger-000001`, body: GOOD },
    {
      method: 'PATCH',
      path: `${TRANSACTIONS}/trigger-000001`,
      body: {},
      headers: { 'content-type': 'application/merge-patch+json' },
    },
    { method: 'DELETE', path: `${TRANSACTIONS}/trigger-000001` },
  ];

  test.each(calls)('$method $path: scsAsId must be the name in the certificate', async (call) => {
    await posted();
    const answer = await api.ask({ ...call, client: api.clients.beta });
    expect(answer.body).toMatchObject({ status: 403, code: 'PERMISSION_DENIED', cause: 'INVSCSID' });
    expect(fixture.triggers.queue.size).toBe(1);
  });

  test.each(calls)('$method $path: an MTC user is told of its role only', async (call) => {
    const answer = await api.ask({ ...call, client: api.clients.tenant });
    expect([answer.status, answer.body.code]).toEqual([403, 'PERMISSION_DENIED']);
  });

  test('a transaction is not there under its own name either', async () => {
    const path = await posted();
    const answer = await api.ask({ path: path.replace('acme-head-end', 'beta'), client: api.clients.beta });
    expect(answer.body).toMatchObject({ status: 404, code: 'NOT_FOUND' });
    const never = await api.ask({ path: `${T8_BASE_PATH}/beta/transactions/never`, client: api.clients.beta });
    const bytes = (text: string) => text.replace(/urn:uuid:[0-9a-f-]{36}/, 'INSTANCE');
    expect(bytes(never.text)).toBe(bytes(answer.text));
  });
});

test('a gateway that sends no triggers says so: 501', async () => {
  const bare = new ApiFixture(api);
  const server = await bare.start({}, {}, undefined, [t8Api(undefined, bare.refuse)]);
  for (const method of ['GET', 'POST'])
    expect(
      (await bare.ask({ method, path: TRANSACTIONS, ...(method === 'POST' && { body: GOOD }) })).body,
    ).toMatchObject({
      status: 501,
      code: 'NOT_IMPLEMENTED',
      cause: 'SERVICEUNAVAILABLE',
    });
  await server.close();
});

test('the contract has one handler for each operation', () => {
  const text = readFileSync(new URL('../../agent/api/device-triggering.yaml', import.meta.url), 'utf8');
  const named = [...text.matchAll(/operationId: (\w+)/g)].map(([, name]) => name);
  expect(Object.keys(t8Operations(undefined, {} as never)).sort()).toEqual(named.sort());
});

describe('many that are pending', () => {
  const SERVER = { ...HEAD_END, name: 'acme-head-end' as ServerName };
  const MANY = 300;
  const names: string[] = [];
  beforeEach(async () => {
    const devices = Array.from({ length: 5 }, (_, i) => `many${i}@meters.acme.example` as ExternalId);
    fixture = await TestTriggers.started(
      RULES.replace('pendingPerDevice: 2', 'pendingPerDevice: 64'),
      devices.map((externalId) => ({ device: { externalId }, bindings: [] })),
    );
    names.length = 0;
    for (let i = 0; i < MANY; i++) {
      const device = { networkAccessIdentifier: devices[i % devices.length] as ExternalId };
      const answer = await fixture.triggers.accept(SERVER, triggerAsk({ device }));
      if ('reason' in answer) throw new Error(answer.why);
      names.push(`${TRANSACTIONS}/${answer.id}`);
    }
  }, 30_000);

  test('come as one array, in the order in which they came', async () => {
    const { status, headers, text } = await api.ask({ path: TRANSACTIONS });
    expect(status).toBe(200);
    expect(headers['content-type']).toBe('application/json; charset=utf-8');
    const listed = JSON.parse(text) as { self: string; applicationPortId: number }[];
    expect(listed.map(({ self }) => new URL(self).pathname)).toEqual(names);
    expect(listed.every(({ applicationPortId }) => applicationPortId === 5683)).toBe(true);
  });

  test('are read a slice at a time, as they are sent; one that ends meanwhile is left out', async () => {
    const slices = fixture.triggers.pendingOf(SERVER);
    const find = vi.spyOn(fixture.store, 'findOwn');
    const first = (await slices.next()).value;
    expect(first).toHaveLength(128);
    expect(find).toHaveBeenCalledTimes(128);
    const last = names.at(-1)?.split('/').at(-1) as string;
    await fixture.triggers.recall(last, 'recalledByOperator');
    const rest: number[] = [];
    for await (const slice of slices) rest.push(slice.length);
    expect(rest).toEqual([128, 43]);
  });

  test('break off where a fault comes in between, and do not look whole', async () => {
    const find = fixture.store.findOwn;
    let left = 200;
    vi.spyOn(fixture.store, 'findOwn').mockImplementation((server, id) => {
      left -= 1;
      if (left < 0) throw new Error('the disk is gone');
      return find(server, id);
    });
    await expect(api.ask({ path: TRANSACTIONS })).rejects.toThrow();
    expect(await api.line('requestFailed')).toMatchObject({ err: { message: 'the disk is gone' } });
  });
});
