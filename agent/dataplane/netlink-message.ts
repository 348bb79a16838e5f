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

/** What one receive call brings of an answer. */
export interface Part {
  readonly messages: readonly Message[];
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

const HEADER = 16;
const ATTRIBUTE_HEADER = 4;
const NLM_F_REQUEST = 0x1;
const NLM_F_MULTI = 0x2;
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
  const bytes = new Uint8Array(HEADER + body.length);
  const view = viewOf(bytes);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, NLM_F_REQUEST | (dump ? NLM_F_DUMP : 0), true);
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
  for (let at = from; at + ATTRIBUTE_HEADER <= body.length; ) {
    const length = view.getUint16(at, true);
    if (length < ATTRIBUTE_HEADER || at + length > body.length) throw damaged(`an attribute of ${length} bytes`);
    if ((view.getUint16(at + 2, true) & NLA_TYPE_MASK) === type)
      return body.subarray(at + ATTRIBUTE_HEADER, at + length);
    at += aligned(length);
  }
  return undefined;
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

function messagesIn(bytes: Uint8Array): Message[] {
  const view = viewOf(bytes);
  const found: Message[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + HEADER > bytes.length) throw damaged(`${bytes.length - at} bytes, too few for a message,`);
    const length = view.getUint32(at, true);
    if (length < HEADER || at + length > bytes.length) throw damaged(`a message of ${length} bytes`);
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

function aligned(length: number): number {
  return Math.ceil(length / 4) * 4;
}

function damaged(what: string): AgentError {
  return new AgentError('netlinkFailed', `the kernel's answer contradicts itself: ${what}`);
}
