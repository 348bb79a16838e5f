/**
 * Who asks for what, as far as the request itself says: for the operations,
 * and for the log.
 *
 * Its mark (`x-correlator`) comes back in every answer and stands in every
 * line of the log: it is the asker's own where that is one by the contract.
 */
import type { IncomingMessage } from 'node:http';
import type { FastifyRequest } from 'fastify';
import type { Asker, MtcUserAsker } from '../core/words.ts';
import type { PeerIdentity } from './identity.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Known once it is admitted. */
    asker: PeerIdentity | null;
  }
}

/** Who asked for what, for the log. */
export function askedOf(request: FastifyRequest): Record<string, string> {
  const { asker: who } = request;
  return {
    ...(who ? { [who.role]: who.name } : {}),
    remote: request.raw.socket.remoteAddress ?? '',
    method: request.method,
    path: request.url.slice(0, 200),
    correlator: request.id,
  };
}

/** The asker's own mark, if it is one by the contract's pattern; anything else is not repeated. */
export function givenCorrelator({ headers }: Pick<IncomingMessage, 'headers'>): string | undefined {
  const mark = headers['x-correlator'];
  return typeof mark === 'string' && /^[a-zA-Z0-9_:;./<>{}-]{1,256}$/.test(mark) ? mark : undefined;
}

/** Who asks, with the marks of this request; its key as the contract lets it in, a structured field's string, or bare. */
export function askerOf(
  { name, requestAddress, certificate, fingerprint }: PeerIdentity,
  { id, headers, raw }: FastifyRequest,
): Asker | MtcUserAsker {
  const { remotePort: requestPort = 0 } = raw.socket;
  const known = { name, requestAddress, certificate, fingerprint, requestPort };
  const asker = { ...known, correlator: id } as Asker | MtcUserAsker;
  const key = headers['idempotency-key'];
  return typeof key === 'string' ? { ...asker, idempotencyKey: key.replaceAll('"', '') } : asker;
}
