/**
 * Every route of every contract, called by everybody who may not: nothing
 * answers but the refusal, the same for each, and no operation is reached.
 */
import { readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import https from 'node:https';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { Api } from '../../agent/api/operation.ts';
import { startApi } from '../../agent/api/server.ts';
import { address } from '../../agent/core/net.ts';
import type { Issued } from '../pki.ts';
import { ApiFixture, identity, MANY_HANDSHAKES, random } from './api-fixture.ts';

/** As main serves them; a contract that is not named here is for servers. */
const MTC_USER_CONTRACTS = ['mtc-user.yaml'];

interface Route {
  readonly contract: string;
  readonly method: string;
  readonly path: string;
  readonly operationId: string;
  readonly mediaType: string;
  readonly body: unknown;
}

interface Content {
  readonly content?: Readonly<Record<string, { readonly example?: unknown; readonly examples?: object }>>;
}

/** Bodies of operations whose contract has no example, by their operationId. */
const TRIGGER = {
  externalId: 'm1@meters.acme.example',
  validityPeriod: 3600,
  priority: 'NO_PRIORITY',
  applicationPortId: 5683,
  triggerPayload: 'd2FrZQ==',
  notificationDestination: 'https://head-end.example/triggers',
};
const BODIES: Readonly<Record<string, unknown>> = {
  createTransaction: TRIGGER,
  replaceTransaction: TRIGGER,
  modifyTransaction: { validityPeriod: 60 },
};

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const folder = new URL('../../agent/api/', import.meta.url);
const contracts = readdirSync(folder)
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => {
    const { servers, paths } = parse(readFileSync(new URL(name, folder), 'utf8'));
    const basePath = (servers[0].url as string).replace('{apiRoot}', '');
    const role = MTC_USER_CONTRACTS.includes(name) ? ('mtcUser' as const) : ('server' as const);
    const routes = Object.entries<Record<string, object>>(paths).flatMap(([path, operations]) =>
      Object.entries(operations).flatMap(([method, operation]): Route[] => {
        if (!METHODS.includes(method)) return [];
        const { operationId, requestBody } = operation as { operationId: string; requestBody?: Content };
        return [
          {
            ...{
              contract: name,
              method: method.toUpperCase(),
              operationId,
              mediaType: Object.keys(requestBody?.content ?? {})[0] ?? '',
            },
            body: BODIES[operationId] ?? exampleOf(requestBody),
            path: `${basePath}${path.replace(/\{\w+\}/g, 'x')}`,
          },
        ];
      }),
    );
    return { name, basePath, role, routes };
  });
const routes = contracts.flatMap((one) => one.routes);
const roleOf = ({ contract }: Route) => (MTC_USER_CONTRACTS.includes(contract) ? 'mtcUser' : 'server');

function exampleOf(requestBody?: Content): unknown {
  const [content] = Object.values(requestBody?.content ?? {});
  const [first] = Object.values((content?.examples ?? {}) as Record<string, { value: unknown }>);
  return content?.example ?? first?.value;
}

const reached: string[] = [];
const reach = (operationId: string) => () => {
  reached.push(operationId);
  return { status: 204 };
};
let api: ApiFixture;

beforeAll(async () => {
  api = new ApiFixture();
  const apis = contracts.map(({ name, basePath, role, routes: own }) => ({
    ...{ contract: name, basePath, role },
    operations: Object.fromEntries(own.map(({ operationId }) => [operationId, reach(operationId)])),
  })) as unknown as Api[];
  const { refuse, clock, log } = api;
  const parts = {
    identity,
    refuse,
    refusedHandshake: () => {},
    shedConnection: () => {},
    streamCut: () => {},
    clock,
    random,
    log,
  };
  api.server = await startApi({ address: address('127.0.0.1'), port: 0 }, api.trust(), parts, apis, MANY_HANDSHAKES);
});
afterAll(() => api.stop());
beforeEach(() => void reached.splice(0));

/** What is answered, as bytes; what of it differs from one request to the next is left out. */
function ask(
  { method, path, mediaType, body }: Route,
  client: Issued | undefined,
): Promise<{ status: number; text: string }> {
  const payload = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const headers = payload === undefined ? {} : { 'content-type': mediaType };
    const own = client ? { cert: client.certificate, key: client.key } : { cert: undefined, key: undefined };
    const options = { ...api.tls(), ...own, agent: false, method, path, headers } as https.RequestOptions;
    const request = https.request(options, (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const text = Buffer.concat(chunks)
          .toString()
          .replace(/urn:uuid:[0-9a-f-]{36}/, 'urn:uuid:…');
        resolve({ status: response.statusCode ?? 0, text });
      });
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(payload);
  });
}

describe('the routes of all contracts', () => {
  test('are all walked', () => {
    expect(contracts.map(({ name }) => name)).toEqual(expect.arrayContaining(['openapi.yaml', 'mtc-user.yaml']));
    expect(routes.length).toBeGreaterThan(15);
  });

  test.each(routes)('$method $path: reached by its own role', async (route) => {
    const { tenant, acme } = api.clients;
    expect((await ask(route, roleOf(route) === 'server' ? acme : tenant)).status).toBe(204);
    expect(reached).toEqual([route.operationId]);
  });

  test.each(routes)('$method $path: without a certificate, or with a foreign CA’s: no answer at all', async (route) => {
    const { wrongCa, selfSigned, ofPast } = api.clients;
    for (const client of [undefined, wrongCa, selfSigned, ofPast])
      await expect(ask(route, client)).rejects.toMatchObject({
        code: expect.stringMatching(/^(ECONNRESET|EPIPE|ERR_SSL_\w+)$/),
      });
    expect(reached).toEqual([]);
  });

  test.each(routes)(
    '$method $path: with another role’s certificate: the refusal, and the same everywhere; with nobody’s: no answer at all',
    async (route) => {
      const { tenant, acme, stranger, both, expired } = api.clients;
      const problem = (status: number, code: string, title: string) => ({
        status,
        text: JSON.stringify({
          type: `urn:mtgate:problem:${code.toLowerCase().replaceAll('_', '-')}`,
          ...{ title, status, instance: 'urn:uuid:…', code },
        }),
      });
      const denied = (title: string) => problem(403, 'PERMISSION_DENIED', title);
      expect(await ask(route, roleOf(route) === 'server' ? tenant : acme)).toEqual(
        denied('This API is not for this client'),
      );
      for (const client of [stranger, both, expired])
        await expect(ask(route, client)).rejects.toThrow(/hang up|ECONNRESET|EPIPE/);
      expect(reached).toEqual([]);
    },
  );
});
