/**
 * The part of the management interface that takes and gives devices in bulk,
 * as rows: CSV or JSON lines. Bodies are handed on as they come, and are never
 * held whole.
 *
 * Invariant: an answer comes when all of the body has, so that whoever sends
 * it reads why it was not taken. A client that goes before it is answered has
 * changed nothing.
 */
import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { ROW_FORMATS, type RowFormat } from '../directory/device-rows.ts';
import type { ImportOrder } from '../directory/registry-import.ts';
import { decline } from './declined.ts';

/** The answer to POST /devices/import, in devices. */
export interface ImportAnswer {
  readonly rows: number;
  readonly added: number;
  readonly changed: number;
  readonly removed: number;
  /** Nothing was written: this is what would have been. */
  readonly dryRun: boolean;
  /** How many there are now. */
  readonly registered: number;
}

export interface WantedImport extends ImportOrder {
  readonly dryRun: boolean;
}

export interface DeviceUseCases {
  /** `isLeft` says whether the client is gone: what is not committed then is not. */
  importDevices(
    wanted: WantedImport,
    bytes: AsyncIterable<Uint8Array>,
    isLeft: () => boolean,
    byUid: number,
  ): Promise<ImportAnswer | { readonly refused: 'importUnderWay' | 'devicesNotImported'; readonly why: string }>;
  /** The rows of all devices as they are now. */
  exportDevices(format: RowFormat, byUid: number): AsyncIterable<string>;
}

export const CONTENT_TYPES: Readonly<Record<RowFormat, string>> = { csv: 'text/csv', jsonl: 'application/x-ndjson' };

/** Some five million devices. */
const BYTES_MOST = 2 ** 30;

const FLAG = z.enum(['true', 'false']).default('false');
const IMPORT = z.strictObject({ replace: FLAG, dryRun: FLAG });
const EXPORT = z.strictObject({ format: z.enum(ROW_FORMATS).default('csv') });

export function addDeviceRoutes(
  app: FastifyInstance,
  useCases: DeviceUseCases,
  uidOf: (request: FastifyRequest) => number,
): void {
  app.register(async (rows) => {
    rows.addContentTypeParser(Object.values(CONTENT_TYPES), (_request, body, done) => done(null, body));
    rows.post('/devices/import', async (request, reply) => {
      const { replace, dryRun } = IMPORT.parse(request.query);
      const format = ROW_FORMATS.find((one) => request.headers['content-type']?.startsWith(CONTENT_TYPES[one]));
      if (!format) {
        const why = `expected a body of ${Object.values(CONTENT_TYPES).join(' or ')}`;
        return decline(reply, 415, { refused: 'invalidArgument', why });
      }
      const body = request.body as Readable;
      const wanted = { format, replace: replace === 'true', dryRun: dryRun === 'true' };
      const isLeft = () => request.raw.socket.destroyed;
      try {
        const answer = await useCases.importDevices(wanted, bounded(body), isLeft, uidOf(request));
        if (!('refused' in answer)) return answer;
        await toItsEnd(body);
        const status = answer.refused === 'importUnderWay' ? 409 : 422;
        return decline(reply, status, answer);
      } finally {
        await toItsEnd(body);
      }
    });
  });
  app.get('/devices/export', (request, reply) => {
    const { format } = EXPORT.parse(request.query);
    return reply.type(CONTENT_TYPES[format]).send(Readable.from(useCases.exportDevices(format, uidOf(request))));
  });
}

async function* bounded(body: Readable): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const chunk of body.iterator({ destroyOnReturn: false })) {
    bytes += (chunk as Uint8Array).length;
    if (bytes > BYTES_MOST) throw new TooLong(`more than ${BYTES_MOST} bytes; import in parts, without --replace`);
    yield chunk as Uint8Array;
  }
}

class TooLong extends Error {
  readonly statusCode = 413;
}

/** What is left of a body is read and thrown away. */
async function toItsEnd(body: Readable): Promise<void> {
  if (body.readableEnded || body.destroyed) return;
  body.resume();
  await finished(body).catch(() => {}); // its client went
}
