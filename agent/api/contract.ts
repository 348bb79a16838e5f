/**
 * The contracts (openapi.yaml and its like, one for each API) made into
 * routes, and what follows from them strictly: what they do not say is
 * refused, and what they say is served.
 *
 * fastify-openapi-glue reads a file and makes one route of each operation.
 * Left to itself it serves an operation without a handler as a 500, lets a
 * body of another media type pass unchecked, and takes any query; here the
 * first stops the start, and the others are errors.
 */
import type { Server } from 'node:https';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance, FastifyRequest, RouteHandlerMethod, RouteOptions } from 'fastify';
import openapiGlue from 'fastify-openapi-glue';
import { AgentError } from '../core/errors.ts';
import type { RefusalReason } from '../core/refusals.ts';
import type { Api } from './operation.ts';

/** How requests are held against the contract: nothing is removed or turned into another type; the first error ends it. */
export const VALIDATION = {
  removeAdditional: false,
  coerceTypes: false,
  useDefaults: true,
  allErrors: false,
  strict: true,
} as const;

/**
 * Adds a route for each operation of each contract.
 * @throws AgentError contractBroken where contract and handlers do not match, or a file is no contract
 */
export async function addContracts(
  app: FastifyInstance<Server>,
  apis: readonly Api[],
  handler: (api: Api, operationId: string) => RouteHandlerMethod<Server>,
): Promise<void> {
  app.addHook('onRoute', closeGaps);
  const unserved = new Set<string>();
  for (const api of apis) {
    const { contract, basePath, operations } = api;
    for (const id of Object.keys(operations)) unserved.add(`${id} (${contract})`);
    app.register(openapiGlue, {
      specification: fileURLToPath(new URL(contract, import.meta.url)),
      prefix: basePath,
      operationResolver: (id) => {
        if (!Object.hasOwn(operations, id)) {
          throw new AgentError('contractBroken', `operation ${id} of ${contract} has no handler`);
        }
        unserved.delete(`${id} (${contract})`);
        return { handler: handler(api, id) } as unknown as RouteOptions;
      },
    });
  }
  try {
    await app.ready();
  } catch (fault) {
    if (fault instanceof AgentError) throw fault;
    const files = apis.map(({ contract }) => contract).join(', ');
    throw new AgentError('contractBroken', `${files} cannot be made into routes`, { cause: fault });
  }
  if (unserved.size > 0) {
    throw new AgentError('contractBroken', `handlers without an operation: ${[...unserved].join(', ')}`);
  }
}

/**
 * Fastify checks a body by the schema of its media type, and one without a
 * schema not at all; a query may have whatever its schema does not name.
 */
function closeGaps(route: Pick<RouteOptions, 'schema' | 'config'>): void {
  const schema = route.schema;
  if (!schema) return;
  const body = schema.body as { content?: Record<string, { schema: unknown }> } | undefined;
  const [[mediaType, content] = []] = Object.entries(body?.content ?? {});
  if (mediaType !== undefined && content) {
    schema.body = content.schema;
    route.config = { ...route.config, mediaType };
  }
  schema.querystring = { type: 'object', ...(schema.querystring as object | undefined), additionalProperties: false };
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What a body of this operation must be; a body it has then. */
    mediaType?: string;
  }
}

/** The media types of bodies in contracts: JSON, and JSON that says what is to change (RFC 7396). */
export const MERGE_PATCH = 'application/merge-patch+json';

/** Why a body is not of its operation's type; undefined where it is, or where there is none to be looked at. */
export function mistyped({ headers, routeOptions }: FastifyRequest): string | undefined {
  const { mediaType } = routeOptions.config;
  const [given] = (headers['content-type'] ?? '').split(';', 1);
  if (mediaType === undefined || given === '' || given?.trim().toLowerCase() === mediaType) return undefined;
  return `the body must be ${mediaType}`;
}

/** The paths of the contracts, for those who ask for another or with another method. */
export class Paths {
  readonly #methods = new Map<string, { readonly shape: RegExp; readonly methods: string[] }>();

  add(route: { readonly url: string; readonly method: string | string[] }): void {
    const known = this.#methods.get(route.url) ?? { shape: shapeOf(route.url), methods: [] };
    known.methods.push(...[route.method].flat());
    this.#methods.set(route.url, known);
  }

  /** The methods of a path, or none where the contract has no such path. */
  methodsOf(path: string): readonly string[] {
    return [...this.#methods.values()].find(({ shape }) => shape.test(path))?.methods ?? [];
  }
}

/** `/grants/:grantId` as a pattern: a parameter is one segment, and never empty. */
function shapeOf(url: string): RegExp {
  return new RegExp(`^${url.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/:[A-Za-z]+/g, '[^/]+')}$`);
}

export interface Misdirected {
  readonly reason: 'invalidArgument' | 'methodNotAllowed' | 'notFound';
  readonly why: string;
  readonly allow?: string;
}

/** Why a request, whoever asks, has nowhere to go. */
export function misdirection(request: FastifyRequest, paths: Paths): Misdirected | undefined {
  // RFC 9112 3.2: exactly one Host in HTTP/1.1. Node keeps the first of several; the raw header has them all.
  const hosts = request.raw.rawHeaders.filter((name, at) => at % 2 === 0 && name.toLowerCase() === 'host').length;
  if (hosts > 1 || (hosts === 0 && request.raw.httpVersion !== '1.0')) {
    return { reason: 'invalidArgument', why: `${hosts} Host headers instead of one` };
  }
  if (!request.is404) return undefined;
  const path = request.url.replace(/^https?:\/\/[^/]*/i, '').replace(/[?#].*$/, '');
  const methods = paths.methodsOf(path);
  if (methods.length === 0) return { reason: 'notFound', why: 'no such path in any contract' };
  return { reason: 'methodNotAllowed', why: `this path has ${methods.join(', ')}`, allow: methods.join(', ') };
}

/** What Node and Fastify find wrong with a request before an operation sees it; all else they throw is a fault. */
export const REASONS_BY_CODE: Readonly<Record<string, RefusalReason>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'bodyTooLarge',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupportedMediaType',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'invalidArgument',
  FST_ERR_CTP_INVALID_JSON_BODY: 'invalidArgument',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'invalidArgument',
  ERR_HTTP_REQUEST_TIMEOUT: 'requestTooSlow',
  HPE_HEADER_OVERFLOW: 'headerTooLarge',
  // The client went away within the body.
  ECONNRESET: 'invalidArgument',
};

/** The part of a validation error that is told. */
interface Violation {
  readonly instancePath: string;
  readonly message?: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** Where and how a request breaks the contract, for the asker: "body/devicePort must be >= 1". */
export function violation(first: Violation | undefined, part: string): string {
  if (!first) return `${part} is wrong`;
  const { instancePath, message = 'is wrong', params } = first;
  const name = params['additionalProperty'];
  const allowed = params['allowedValues'];
  const more = Array.isArray(allowed)
    ? ` (${allowed.join(', ')})`
    : typeof name === 'string'
      ? ` (${JSON.stringify(name.slice(0, 64))})`
      : '';
  return `${part}${instancePath} ${message}${more}`;
}
