/**
 * Netlink messages, bytes to values and back: a header of 16 bytes, the
 * family's own header, attributes, each padded to four bytes, in the host's
 * byte order (little-endian on every host of mtgate). linux/netlink.h.
 *
 * Pure and total: whatever the bytes are, they are read, or refused by an
 * AgentError that says where they contradict themselves. What is read are
 * views into the bytes; what is not known is passed over.
 */
import { AgentError } from '../core/errors.ts';

/** A question to the kernel. `body`: the family's own header, with attributes behind it. */
export interface Question {
  /** What is asked for, in a complaint. */
  readonly what: string;
  readonly type: number;
  /** All of a kind, rather than one. */
  readonly dump: boolean;
  readonly body: Uint8Array;
}

export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly body: Uint8Array;
}

/** An order to the kernel. */
export interface Order {
  readonly type: number;
  readonly body: Uint8Array;
}

/** What one receive call brings of an answer. */
export interface Part extends Verdict {
  readonly messages: readonly Message[];
}

/** How an answer stands after what one receive call brought. */
export interface Verdict {
  /** Nothing more comes. */
  readonly ended: boolean;
  /** What is asked for was changed while it was read, or a message was lost: what has come is worth nothing. */
  readonly broken: boolean;
  readonly refusal?: Refusal;
}

/** Why the kernel does not answer. `errno` is positive; `why` may be empty. */
export interface Refusal {
  readonly errno: number;
  readonly why: string;
}

export const HEADER = 16;
export const ATTRIBUTE_HEADER = 4;
const NLM_F_REQUEST = 0x1;
const NLM_F_MULTI = 0x2;
const NLM_F_ACK = 0x4;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_DUMP = 0x300;
/** Of errors only: the question is not repeated in them, and there are attributes. */
const NLM_F_CAPPED = 0x100;
const NLM_F_ACK_TLVS = 0x200;
const NLMSG_NOOP = 1;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLMSG_OVERRUN = 4;
const NLMSGERR_ATTR_MSG = 1;
/** The upper two bits of a type say how its value is made. */
const NLA_TYPE_MASK = 0x3fff;

export function encode({ type, dump, body }: Question, sequence: number): Uint8Array {
  return encodeMessage(type, dump ? NLM_F_DUMP : 0, sequence, body);
}

/**
 * Orders that go over in one send, numbered from 1. The kernel carries them out in their order, each for
 * itself, and answers those that it refuses; the last one always, so that it is known to have come to the end.
 */
export function encodeOrders(orders: readonly Order[]): Uint8Array {
  return joined(
    orders.flatMap(({ type, body }, index) => [
      encodeMessage(type, index === orders.length - 1 ? NLM_F_ACK : 0, index + 1, body),
      new Uint8Array(-body.length & 3),
    ]),
  );
}

/** What these bytes bring of the answer to so many orders: of each that was refused, its index and why. @throws AgentError netlinkFailed */
export function readAcknowledgements(
  bytes: Uint8Array,
  count: number,
): { readonly ended: boolean; readonly refusals: readonly (readonly [index: number, refusal: Refusal])[] } {
  const refusals: (readonly [number, Refusal])[] = [];
  let ended = false;
  for (const message of messagesIn(bytes)) {
    if (message.type !== NLMSG_ERROR || message.sequence < 1 || message.sequence > count) continue;
    const refusal = refusalIn(message);
    if (refusal) refusals.push([message.sequence - 1, refusal]);
    ended ||= message.sequence === count;
  }
  return { ended, refusals };
}

function encodeMessage(type: number, flags: number, sequence: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER + body.length);
  const view = viewOf(bytes);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, NLM_F_REQUEST | flags, true);
  view.setUint32(8, sequence, true);
  bytes.set(body, HEADER);
  return bytes;
}

/** What these bytes bring of the answer to the question of that number; others' messages are passed over. @throws AgentError netlinkFailed */
export function readPart(bytes: Uint8Array, sequence: number): Part {
  const messages: Message[] = [];
  let ended = false;
  let broken = false;
  let refusal: Refusal | undefined;
  for (const message of messagesIn(bytes)) {
    if (message.sequence !== sequence || message.type === NLMSG_NOOP) continue;
    if (message.type === NLMSG_OVERRUN || message.flags & NLM_F_DUMP_INTR) broken = true;
    if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
      ended = true;
      refusal ??= refusalIn(message);
    } else if (message.type !== NLMSG_OVERRUN) {
      messages.push(message);
      ended ||= !(message.flags & NLM_F_MULTI);
    }
  }
  return { messages, ended, broken, ...(refusal && { refusal }) };
}

/** The value of the first attribute of that type behind a body's first bytes. @throws AgentError netlinkFailed */
export function attributeIn(body: Uint8Array, from: number, type: number): Uint8Array | undefined {
  const view = viewOf(body);
  const at = attributeAt(view, from, body.length, type);
  return at === -1 ? undefined : body.subarray(at + ATTRIBUTE_HEADER, at + view.getUint16(at, true));
}

/** Where the first attribute of that type begins between two places, whole; -1 where there is none. @throws AgentError netlinkFailed */
export function attributeAt(view: DataView, from: number, to: number, type: number): number {
  for (let at = from; at + ATTRIBUTE_HEADER <= to; ) {
    const length = view.getUint16(at, true);
    if (length < ATTRIBUTE_HEADER || at + length > to) throw damaged(`an attribute of ${length} bytes`);
    if ((view.getUint16(at + 2, true) & NLA_TYPE_MASK) === type) return at;
    at += aligned(length);
  }
  return -1;
}

/** A value of at least so many bytes, for whoever reads at offsets. @throws AgentError netlinkFailed */
export function viewOf(bytes: Uint8Array, least = 0): DataView {
  if (bytes.length < least) throw damaged(`${bytes.length} bytes where ${least} belong`);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A text, with or without the zero behind it. */
export function textIn(value: Uint8Array): string {
  const end = value.indexOf(0);
  return new TextDecoder().decode(end === -1 ? value : value.subarray(0, end));
}

/** The length of the message at that place, which lies whole within these bytes. @throws AgentError netlinkFailed */
export function messageLength(view: DataView, at: number): number {
  if (at + HEADER > view.byteLength) throw damaged(`${view.byteLength - at} bytes, too few for a message,`);
  const length = view.getUint32(at, true);
  if (length < HEADER || at + length > view.byteLength) throw damaged(`a message of ${length} bytes`);
  return length;
}

function messagesIn(bytes: Uint8Array): Message[] {
  const view = viewOf(bytes);
  const found: Message[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = messageLength(view, at);
    found.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      body: bytes.subarray(at + HEADER, at + length),
    });
    at += aligned(length);
  }
  return found;
}

/** Of an error or an end; undefined where it says that all is well. */
function refusalIn({ type, flags, body }: Message): Refusal | undefined {
  if (type === NLMSG_DONE && body.length < 4) return undefined;
  const view = viewOf(body, 4);
  const errno = -view.getInt32(0, true);
  if (errno <= 0) return undefined;
  if (!(flags & NLM_F_ACK_TLVS)) return { errno, why: '' };
  // An error repeats the question's header, and its body too unless it was capped.
  const repeated = type === NLMSG_DONE ? 0 : flags & NLM_F_CAPPED ? HEADER : viewOf(body, 8).getUint32(4, true);
  const why = attributeIn(body, 4 + aligned(repeated), NLMSGERR_ATTR_MSG);
  return { errno, why: why ? textIn(why) : '' };
}

/** An attribute whose value is a text. */
export function attribute(type: number, text: string): Uint8Array {
  const value = new TextEncoder().encode(text);
  const bytes = new Uint8Array(aligned(ATTRIBUTE_HEADER + value.length));
  viewOf(bytes).setUint16(0, ATTRIBUTE_HEADER + value.length, true);
  viewOf(bytes).setUint16(2, type, true);
  bytes.set(value, ATTRIBUTE_HEADER);
  return bytes;
}

/** Bytes behind one another. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function aligned(length: number): number {
  return Math.ceil(length / 4) * 4;
}

export function damaged(what: string): AgentError {
  return new AgentError('netlinkFailed', `the kernel's answer contradicts itself: ${what}`);
}
