/** RADIUS packets made octet by octet from the RFCs, without the agent's own code: what a NAS would send. */
import { createHash, createHmac } from 'node:crypto';

export const SECRET = Buffer.from('sixteen letters!');

/** `hex` with any spaces, or a text in quotes: `"abc"`. */
export function octets(written: string): Buffer {
  return written.startsWith('"') ? Buffer.from(written.slice(1, -1)) : Buffer.from(written.replaceAll(' ', ''), 'hex');
}

/** An attribute: type, length, value (RFC 2865 5). */
export function attribute(type: number, value: Buffer | string): Buffer {
  const content = typeof value === 'string' ? octets(value) : value;
  return Buffer.concat([Buffer.from([type, content.length + 2]), content]);
}

/** Vendor-Specific of 3GPP with what it holds (RFC 2865 5.26; 10415 is 0x28af). */
export function of3gpp(...inner: readonly Buffer[]): Buffer {
  return attribute(26, Buffer.concat([octets('000028af'), ...inner]));
}

export interface Written {
  readonly secret?: Buffer;
  readonly code?: number;
  readonly identifier?: number;
  /** Puts a Message-Authenticator in front (RFC 2869 5.14, over an authenticator of zeros). */
  readonly message?: boolean;
}

/** A packet with its Request Authenticator: MD5 over itself with zeros there, and the secret (RFC 2866 3). */
export function accountingRequest(
  attributes: readonly Buffer[],
  { secret = SECRET, code = 4, identifier = 7, message = false }: Written = {},
): Buffer {
  const front = message ? [attribute(80, Buffer.alloc(16))] : [];
  const packet = Buffer.concat([Buffer.from([code, identifier, 0, 0]), Buffer.alloc(16), ...front, ...attributes]);
  packet.writeUInt16BE(packet.length, 2);
  if (message) createHmac('md5', secret).update(packet).digest().copy(packet, 22);
  createHash('md5').update(packet).update(secret).digest().copy(packet, 4);
  return packet;
}

/** The Accounting-Response that must come: with its Response Authenticator (RFC 2866 3). */
export function accountingResponse(request: Buffer, attributes: readonly Buffer[] = [], secret = SECRET): Buffer {
  const packet = Buffer.concat([Buffer.from([5, request[1] ?? 0, 0, 0]), request.subarray(4, 20), ...attributes]);
  packet.writeUInt16BE(packet.length, 2);
  createHash('md5').update(packet).update(secret).digest().copy(packet, 4);
  return packet;
}

export const START = attribute(40, '00000001');
export const INTERIM = attribute(40, '00000003');
export const STOP = attribute(40, '00000002');
export const ON = attribute(40, '00000007');
export const SESSION = attribute(44, '"s-1"');
