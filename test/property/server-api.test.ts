/**
 * Whatever body comes to whatever operation of the servers' contracts, grants
 * and triggers: it is answered by the contract, never by a fault; a refusal
 * has opened, ended and sent nothing.
 */
import https from 'node:https';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BASE_PATH, operations as grantOperations } from '../../agent/api/routes.ts';
import { T8_BASE_PATH, t8Api } from '../../agent/api/t8-routes.ts';
import { digest } from '../../agent/files/operator-files.ts';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { triggerUseCases } from '../../agent/use-cases/triggers.ts';
import { operationsWithBodies } from '../contract-bodies.ts';
import { DEVICES, M1, M2 } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { TestTriggers, TRIGGER_RULES } from '../triggers.ts';
import { ApiFixture } from '../unit/api-fixture.ts';

const RULES = TRIGGER_RULES.replace('head-end:', 'acme-head-end:')
  .replaceAll('[head-end]', '[acme-head-end]')
  .replace(/requestsPerMinute: \d+/, 'requestsPerMinute: 100000')
  .replace(/perMinute: \d+, perDevicePerHour: \d+/, 'perMinute: 100000');
const MEANT = {
  networkAccessIdentifier: [M1, M2, 'nobody@meters.example'],
  phoneNumber: ['+12025550142'],
  address: ['198.51.100.10', 'all', '10.20.0.2', '::1'],
  externalId: [M1, M2, 'nobody@meters.example'],
  msisdn: ['12025550142', '1'],
  triggerPayload: ['d2FrZQ==', 'not base64', 'AAAA'.repeat(500)],
  notificationDestination: ['https://head-end.example/triggers', 'http://127.0.0.1/', 'https://10.20.0.2/'],
  supportedFeatures: ['0', 'F7', 'x'],
  sink: ['https://head-end.example/x'],
};
const CONTRACTS = [
  { basePath: BASE_PATH, operations: operationsWithBodies('openapi.yaml', MEANT) },
  { basePath: T8_BASE_PATH, operations: operationsWithBodies('device-triggering.yaml', MEANT) },
];
const operations = CONTRACTS.flatMap(({ basePath, operations: all }) =>
  all.map((one) => ({ ...one, path: `${basePath}${one.path}` })),
);

let api: ApiFixture;
let fixture: TestTriggers;
let agent: https.Agent;
let grant: string;
let transaction: string;

beforeAll(async () => {
  fixture = await TestTriggers.started(RULES, DEVICES);
  const { gateway, triggers, notifications } = fixture;
  const { ground, grants, extensions, events, clock } = gateway;
  const { refuse } = ground;
  const forServers = serverUseCases(ground, grants, extensions, events, undefined, digest);
  api = new ApiFixture();
  await api.start({}, {}, grantOperations(forServers, refuse, clock), [
    t8Api(triggerUseCases(triggers, notifications, refuse, IDENTITIES), refuse),
  ]);
  agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  const opened = await api.ask({
    method: 'POST',
    path: `${BASE_PATH}/grants`,
    body: {
      ...{ device: { networkAccessIdentifier: M1 }, protocol: 'UDP', devicePort: 5683, durationSeconds: 600 },
      applicationServer: { address: '198.51.100.10' },
    },
  });
  grant = opened.body.grantId;
  const accepted = await api.ask({
    method: 'POST',
    path: `${T8_BASE_PATH}/acme-head-end/transactions`,
    body: {
      ...{ externalId: M2, validityPeriod: 3600, priority: 'NO_PRIORITY', applicationPortId: 5683 },
      ...{ triggerPayload: 'd2FrZQ==', notificationDestination: 'https://head-end.example/triggers' },
    },
  });
  transaction = new URL(String(accepted.headers['location'])).pathname.split('/').at(-1) ?? '';
}, 60_000);
afterAll(async () => {
  agent.destroy();
  await api.stop();
});

const live = () => [...fixture.gateway.grants.live.all()].map(({ id, expiresAtMs }) => `${id} ${expiresAtMs}`).sort();
const pending = () => fixture.triggers.queue.size;

test('bodies are there to be fuzzed', () => {
  expect(grant).toMatch(/^grant-/);
  expect(transaction).not.toBe('');
  expect(operations.map(({ operationId }) => operationId).length).toBeGreaterThanOrEqual(6);
});

test.each(operations)('$method $path', { timeout: 120_000 }, async ({ method, path, mediaType, bodies }) => {
  const tally = { done: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(bodies, async (body) => {
      const [grants, triggers, sent] = [live(), pending(), fixture.delivery.begun.length];
      const at = path
        .replace('{grantId}', grant)
        .replace('{scsAsId}', 'acme-head-end')
        .replace('{transactionId}', transaction);
      const answered = await api.ask({ method, path: at, body, headers: { 'content-type': mediaType }, agent });
      expect(answered.status, answered.text).toBeLessThan(500);
      if (answered.status < 400) tally.done += 1;
      else {
        tally.refused += 1;
        expect(answered.headers['content-type']).toBe('application/problem+json');
        expect([live(), pending(), fixture.delivery.begun.length]).toEqual([grants, triggers, sent]);
      }
    }),
    { numRuns: 300 },
  );
  expect(tally.refused).toBeGreaterThan(0);
});
