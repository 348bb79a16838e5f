/**
 * Whatever body comes to whatever operation of the MTC user's contract: it is
 * answered by the contract, never by a fault; a refusal has changed nothing.
 */
import { readFileSync } from 'node:fs';
import https from 'node:https';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { M1, M2, R1, Tenants } from '../mtc-user.ts';

interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly minimum?: number;
  readonly maximum?: number;
}
interface Operation {
  readonly operationId: string;
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
}

const contract = parse(readFileSync(new URL('../../agent/api/mtc-user.yaml', import.meta.url), 'utf8'));
const operations = Object.entries<Record<string, Operation>>(contract.paths).flatMap(([path, methods]) =>
  Object.entries(methods).flatMap(([method, { operationId, requestBody }]) => {
    const [content] = Object.values(requestBody?.content ?? {});
    return content ? [{ path, method: method.toUpperCase(), operationId, schema: content.schema }] : [];
  }),
);

const resolved = (schema: Schema): Schema =>
  schema.$ref ? resolved(contract.components.schemas[schema.$ref.split('/').at(-1) ?? '']) : schema;

/** Texts that mean something in a member of this name, or somewhere else, or nowhere. */
const MEANT: Readonly<Record<string, readonly string[]>> = {
  devices: [M1, M2, R1, '*@meters.example', 'm*@meters.example', '*@*', '*@*.acme.example'],
  device: [M1, M2, R1],
  server: ['head-end', 'tariffs', 'rival-head', 'none'],
  servers: ['head-end', 'tariffs', 'rival-head', 'none'],
  from: ['22:00', '00:00', '99:99'],
  to: ['06:00', '24:00', '22:00'],
  zone: ['UTC', 'Europe/Berlin', 'Moon/Base'],
};
const stray = fc.oneof(
  fc.constantFrom('__proto__', '', 'constructor', ...Object.values(MEANT).flat()),
  fc.string({ unit: 'binary', maxLength: 80 }),
);
const text = (name: string): fc.Arbitrary<string> =>
  MEANT[name]
    ? fc.oneof({ arbitrary: fc.constantFrom(...MEANT[name]), weight: 6 }, { arbitrary: stray, weight: 1 })
    : stray;

/** Values as a schema has them, or nearly so: each may be of any other kind, or left out. */
function near(of: Schema, name = ''): fc.Arbitrary<unknown> {
  const schema = resolved(of);
  const right = rightly(schema, name);
  return fc.oneof({ arbitrary: right, weight: 20 }, { arbitrary: fc.jsonValue({ maxDepth: 2 }), weight: 1 });
}

function rightly(
  { type, enum: values, properties = {}, required = [], items, minimum = 0, maximum = 1e6 }: Schema,
  name: string,
) {
  if (values) return fc.constantFrom(...values);
  switch (type) {
    case 'boolean':
      return fc.boolean();
    case 'integer':
      return fc.oneof(
        { arbitrary: fc.integer({ min: minimum, max: maximum }), weight: 9 },
        { arbitrary: fc.double(), weight: 1 },
      );
    case 'array':
      return fc.array(near(items ?? {}, name), { maxLength: 8 });
    case 'object': {
      const members = Object.fromEntries(Object.entries(properties).map(([member, of]) => [member, near(of, member)]));
      return fc.oneof(
        { arbitrary: fc.record(members, { requiredKeys: [...required] }), weight: 12 },
        { arbitrary: fc.record(members, { requiredKeys: [] }), weight: 1 },
        { arbitrary: fc.record({ ...members, unknown: fc.jsonValue() }, { requiredKeys: ['unknown'] }), weight: 1 },
      );
    }
    default:
      return text(name);
  }
}

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

test.each(operations)('$method $path', { timeout: 120_000 }, async ({ method, path, schema }) => {
  const tally = { done: 0, refused: 0 };
  const body = fc.oneof(
    { arbitrary: near(schema).map((value) => JSON.stringify(value)), weight: 6 },
    { arbitrary: fc.json(), weight: 1 },
    { arbitrary: fc.string({ maxLength: 40 }), weight: 1 },
  );
  await fc.assert(
    fc.asyncProperty(body, async (sent) => {
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
