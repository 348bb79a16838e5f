/**
 * RADIUS accounting packets (RFC 2866 3, RFC 2865 3 and 5): a datagram and the
 * secret -> a request, or why it is dropped; a request -> the bytes of its
 * answer. Total: whatever the bytes, it returns.
 *
 * The order is that of trust. The header's bounds come first, then the Request
 * Authenticator over everything that Length covers; only then is an attribute
 * looked at. MD5 and HMAC-MD5 are the protocol's; what is compared with a
 * digest is compared in constant time.
 *
 * Ours, not a library's: native-notes/radius.md says what was looked at.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { Drop } from './drops.ts';

const ACCOUNTING_REQUEST = 4;
const ACCOUNTING_RESPONSE = 5;
const HEADER = 20;
const LONGEST = 4096;
const PROXY_STATE = 33;
const MESSAGE_AUTHENTICATOR = 80;
const NO_AUTHENTICATOR = Buffer.alloc(16);

export interface Attribute {
  readonly type: number;
  readonly value: Buffer;
}

/** An authentic Accounting-Request. Its buffers are views of the datagram. */
export interface Request {
  readonly identifier: number;
  readonly authenticator: Buffer;
  /** In the order of the packet. */
  readonly attributes: readonly Attribute[];
}

/** The request that a datagram is, by the secret of its client. Octets behind its Length are padding (RFC 2865 3). */
export function readRequest(datagram: Buffer, secret: Uint8Array): Request | Drop {
  if (datagram.length < HEADER) return { drop: 'truncated' };
  const length = datagram.readUInt16BE(2);
  if (length < HEADER || length > LONGEST) return { drop: 'wrongLength' };
  if (length > datagram.length) return { drop: 'truncated' };
  if (datagram[0] !== ACCOUNTING_REQUEST) return { drop: 'notAccounting' };
  const authenticator = datagram.subarray(4, HEADER);
  const [start, body] = [datagram.subarray(0, 4), datagram.subarray(HEADER, length)];
  if (!timingSafeEqual(digestOf(secret, start, NO_AUTHENTICATOR, body), authenticator)) {
    return { drop: 'wrongAuthenticator' };
  }
  const attributes = readAttributes(body);
  if (!attributes) return { drop: 'malformedAttribute' };
  const request = { identifier: datagram.readUInt8(1), authenticator, attributes };
  return messageDrop(request, start, body, secret) ?? request;
}

/**
 * The Accounting-Response to a request: its Proxy-States in their order
 * (RFC 2865 5.33), and nothing else. No Message-Authenticator, even where the
 * request had one: no RFC says over what it would be taken here, clients
 * differ, and the Response Authenticator covers the whole answer.
 */
export function responseTo(request: Request, secret: Uint8Array): Buffer {
  const body = Buffer.concat(
    request.attributes.flatMap(({ type, value }) =>
      type === PROXY_STATE ? [Buffer.from([type, value.length + 2]), value] : [],
    ),
  );
  const start = Buffer.from([ACCOUNTING_RESPONSE, request.identifier, 0, 0]);
  start.writeUInt16BE(HEADER + body.length, 2);
  return Buffer.concat([start, digestOf(secret, start, request.authenticator, body), body]);
}

/**
 * The attributes that a run of octets consists of, to its last octet; also of
 * a vendor's own inside Vendor-Specific (RFC 2865 5.26). Undefined where one
 * overruns the run, or says a length that would not lead past itself.
 */
export function readAttributes(octets: Buffer): Attribute[] | undefined {
  const attributes: Attribute[] = [];
  for (let at = 0; at < octets.length; ) {
    const [type, length] = [octets[at], octets[at + 1]];
    if (type === undefined || length === undefined || length < 2 || at + length > octets.length) return undefined;
    attributes.push({ type, value: octets.subarray(at + 2, at + length) });
    at += length;
  }
  return attributes;
}

/** What is wrong with the Message-Authenticator of a request, if it has one; its own octets and the header's count as zero (RFC 3579 3.2, RFC 5176 3.4). */
function messageDrop({ attributes }: Request, start: Buffer, body: Buffer, secret: Uint8Array): Drop | undefined {
  const [found, another] = attributes.filter(({ type }) => type === MESSAGE_AUTHENTICATOR);
  if (!found) return undefined;
  const attribute = 'Message-Authenticator';
  if (another) return { drop: 'attributeTwice', attribute };
  if (found.value.length !== 16) return { drop: 'malformedAttribute', attribute };
  const at = found.value.byteOffset - body.byteOffset;
  const digest = createHmac('md5', secret)
    .update(start)
    .update(NO_AUTHENTICATOR)
    .update(body.subarray(0, at))
    .update(NO_AUTHENTICATOR)
    .update(body.subarray(at + 16))
    .digest();
  return timingSafeEqual(digest, found.value) ? undefined : { drop: 'wrongMessageAuthenticator' };
}

function digestOf(secret: Uint8Array, start: Buffer, authenticator: Buffer, body: Buffer): Buffer {
  return createHash('md5').update(start).update(authenticator).update(body).update(secret).digest();
}
