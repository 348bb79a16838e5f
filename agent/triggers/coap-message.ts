/**
 * The messages of CoAP (RFC 7252, 3) that a trigger needs, as bytes: the
 * confirmable POST that carries it, the empty messages that acknowledge and
 * reset, and as much of what comes back as says what became of it.
 *
 * Total: whatever a device sends is read, or is none. The payload of an answer
 * and its options mean nothing here; a message that breaks the format is
 * dropped whole (4.2, 4.3: ignoring it is allowed).
 */
import { generate, parse } from 'coap-packet';

/** Bytes: of one message that needs no fragments on any path, so much is payload (RFC 7252, 4.6). */
export const PAYLOAD_MOST = 1024;
/** And so much is the message. */
const MESSAGE_MOST = 1152;
/** More than a device can answer in one packet; the codec would go through all of it. */
const ANSWER_MOST = 2048;

const HEADER = 4;
/** RFC 7252, 3: longer ones are reserved. */
const TOKEN_MOST = 8;
/** application/octet-stream (RFC 7252, 12.3): what a payload is, is between server and device. */
const OCTET_STREAM = Buffer.of(42);

export interface CoapMessage {
  readonly type: 'confirmable' | 'nonConfirmable' | 'acknowledgement' | 'reset';
  readonly messageId: number;
  /** `0` of an empty message and of a request, `2`, `4`, `5` of a response: the class of its code. */
  readonly codeClass: number;
  readonly isEmpty: boolean;
  /** In hex. */
  readonly token: string;
}

/** What a datagram says, or undefined where it is no CoAP message. */
export function readMessage(datagram: Buffer): CoapMessage | undefined {
  const tokenLength = (datagram[0] ?? 0) & 15; // the codec reads longer ones (RFC 8974), and what is cut short
  if (tokenLength > TOKEN_MOST || datagram.length < HEADER + tokenLength || datagram.length > ANSWER_MOST)
    return undefined;
  let packet: ReturnType<typeof parse>;
  try {
    packet = parse(datagram);
  } catch {
    return undefined; // so the codec says it, whatever it stumbled over
  }
  const { code, messageId, token, ack, reset, confirmable } = packet;
  return {
    type: ack ? 'acknowledgement' : reset ? 'reset' : confirmable ? 'confirmable' : 'nonConfirmable',
    messageId,
    codeClass: Number(code[0]),
    isEmpty: code === '0.00',
    token: token.toString('hex'),
  };
}

/**
 * A confirmable POST to a resource of the device.
 *
 * @param token at most 8 bytes
 * @param path of less than 64 bytes
 * @param payload at most PAYLOAD_MOST bytes
 */
export function postOf(messageId: number, token: Uint8Array, path: readonly string[], payload: Uint8Array): Buffer {
  const options = [
    ...path.map((segment) => ({ name: 'Uri-Path' as const, value: Buffer.from(segment) })),
    ...(payload.length > 0 ? [{ name: 'Content-Format' as const, value: OCTET_STREAM }] : []),
  ];
  return generate(
    { confirmable: true, code: 'POST', messageId, token: Buffer.from(token), options, payload: Buffer.from(payload) },
    MESSAGE_MOST,
  );
}

/** What answers a message as such (RFC 7252, 4.2). */
export function emptyOf(type: 'acknowledgement' | 'reset', messageId: number): Buffer {
  return generate({ code: '0.00', messageId, ack: type === 'acknowledgement', reset: type === 'reset' });
}
