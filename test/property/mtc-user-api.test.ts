/**
 * Whatever body comes to whatever operation of the MTC user's contract: it is
 * answered by the contract, never by a fault; a refusal has changed nothing.
 */
import https from 'node:https';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { operationsWithBodies } from '../contract-bodies.ts';
import { M1, M2, R1, Tenants } from '../mtc-user.ts';

const operations = operationsWithBodies('mtc-user.yaml', {
  devices: [M1, M2, R1, '*@meters.example', 'm*@meters.example', '*@*', '*@*.acme.example'],
  device: [M1, M2, R1],
  server: ['head-end', 'tariffs', 'rival-head', 'none'],
  servers: ['head-end', 'tariffs', 'rival-head', 'none'],
  from: ['22:00', '00:00', '99:99'],
  to: ['06:00', '24:00', '22:00'],
  zone: ['UTC', 'Europe/Berlin', 'Moon/Base'],
});

let tenants: Tenants;
let agent: https.Agent;
let live: readonly string[] = [];
beforeAll(async () => {
  tenants = new Tenants();
  await tenants.start();
  agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  live = [await tenants.open('rival-head', R1), await tenants.open('head-end', R1, { devicePort: 7000 })];
});
afterAll(async () => {
  agent.destroy();
  await tenants.stop();
});

const said = () => tenants.gateway.deskStore.desk;
const held = () => [...tenants.gateway.grants.live.all()].map(({ id }) => id).sort();

test('bodies are there to be fuzzed', () => {
  expect(operations.map(({ operationId }) => operationId).sort()).toEqual(
    expect.arrayContaining(['addPreference', 'authoriseServer', 'replacePreference', 'retrieveDevices']),
  );
});

test.each(operations)('$method $path', { timeout: 120_000 }, async ({ method, path, bodies }) => {
  const tally = { done: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(bodies, async (sent) => {
      const [before, grants] = [said(), held()];
      // There is one to be replaced, sometimes.
      const [own] = tenants.gateway.deskStore.desk.get('acme' as never)?.preferences ?? [];
      const at = path.replace('{preferenceId}', own?.id ?? 'none');
      const answered = await tenants.as('acme', method, at, sent, { agent });
      expect(answered.status, answered.text).toBeLessThan(500);
      expect(said().get('rival' as never)).toBeUndefined();
      expect(held()).toEqual(grants);
      if (answered.status < 400) tally.done += 1;
      else {
        tally.refused += 1;
        expect(answered.headers['content-type']).toBe('application/problem+json');
        expect(said()).toBe(before);
      }
    }),
    { numRuns: 300 },
  );
  expect(tally.refused).toBeGreaterThan(0);
  if (!path.includes('{')) expect(tally.done).toBeGreaterThan(0);
  expect(held()).toEqual([...live].sort());
});
