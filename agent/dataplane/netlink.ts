/**
 * Asks the kernel through a netlink socket (man 7 netlink), in this process:
 * no tool is started. What is asked and answered is netlink-message.ts.
 *
 * Each question has a socket of its own, so that no answer is taken for
 * another's; it is connected to the kernel, so that nobody else can send to
 * it. The kernel works out the answer within send and recv. Both run in a
 * thread of libuv: where it walks a full routing table, or waits for who
 * configures interfaces, it holds up that thread and not the agent. Without
 * an answer recv gives up.
 */
import { closeSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';
import { AgentError } from '../core/errors.ts';
import { encode, type Message, type Question, readPart } from './netlink-message.ts';

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const connect = libc.func('int connect(int fd, const uint8_t *address, uint32_t size)');
const setsockopt = libc.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t size)');
const send = libc.func('long send(int fd, const uint8_t *data, size_t length, int flags)');
const recv = libc.func('long recv(int fd, void *data, size_t length, int flags)');

const PROTOCOLS = { route: 0, netfilter: 12 } as const;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SOL_NETLINK = 270;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const MSG_TRUNC = 0x20;
/** struct sockaddr_nl: port 0 is the kernel. */
const KERNEL = Uint8Array.of(AF_NETLINK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
/** struct timeval. The answer is there when the question has been sent. */
const PATIENCE_SECONDS = 2;
const PATIENCE = BigInt64Array.of(BigInt(PATIENCE_SECONDS), 0n);
/** The kernel makes parts of up to 32 KiB; a single message may be longer. */
const ROOM = 65_536;
/** What changes while it is read is asked for again, so often. */
const MOST_TRIES = 10;
const EINTR = 4;
const EAGAIN = 11;
const ENOBUFS = 105;
/** A socket is asked once. */
const SEQUENCE = 1;

/** All messages of the kernel's answer. @throws AgentError netlinkFailed */
export async function ask(protocol: keyof typeof PROTOCOLS, question: Question): Promise<Message[]> {
  let room = ROOM;
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const answer = await askOnce(protocol, question, room);
    if (typeof answer === 'object') return answer;
    if (typeof answer === 'number') room = answer;
  }
  throw failed(question, `changed each time while it was read, ${MOST_TRIES} times`);
}

/** The answer; or the room that it takes, or that it must be asked for again. */
async function askOnce(
  protocol: keyof typeof PROTOCOLS,
  question: Question,
  room: number,
): Promise<Message[] | number | 'again'> {
  const fd = open(protocol, question);
  try {
    const words = encode(question, SEQUENCE);
    const sent = await inThread(send, fd, words, words.length, 0);
    if (sent < 0) return afterError(question, 'send', -sent);
    const messages: Message[] = [];
    for (;;) {
      const bytes = Buffer.allocUnsafeSlow(room); // what is read are views into it
      const length = await inThread(recv, fd, bytes, room, MSG_TRUNC);
      if (length < 0) return afterError(question, 'recv', -length);
      if (length > room) return length;
      const { messages: more, ended, broken, refusal } = readPart(bytes.subarray(0, length), SEQUENCE);
      if (broken) return 'again';
      if (refusal) throw failed(question, `${getSystemErrorName(-refusal.errno)} ${refusal.why}`.trim());
      messages.push(...more);
      if (ended) return messages;
    }
  } finally {
    closeSync(fd);
  }
}

function open(protocol: keyof typeof PROTOCOLS, question: Question): number {
  const must = (call: string, result: number) => {
    if (result < 0) throw failed(question, `${call}: ${getSystemErrorName(-koffi.errno())}`);
    return result;
  };
  const fd = must('socket', socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, PROTOCOLS[protocol]));
  try {
    const yes = Uint32Array.of(1);
    must('setsockopt', setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, PATIENCE, PATIENCE.byteLength));
    must('setsockopt', setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, yes, yes.byteLength));
    must('setsockopt', setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, yes, yes.byteLength));
    must('connect', connect(fd, KERNEL, KERNEL.byteLength));
    return fd;
  } catch (fault) {
    closeSync(fd);
    throw fault;
  }
}

/** What the calls under way read and write: koffi itself keeps nothing but the callback. */
const inUse = new Set<unknown>();

/** A call in a thread of libuv: its result, or its negated errno, which koffi hands over within the callback. */
function inThread(call: typeof send, ...args: readonly unknown[]): Promise<number> {
  inUse.add(args);
  return new Promise((resolve, reject) => {
    call.async(...args, (fault: Error | null, result: number) => {
      inUse.delete(args);
      if (fault) reject(fault);
      else resolve(result < 0 ? -koffi.errno() : result);
    });
  });
}

/** A signal, or a message that the socket had no room for, is no reason to give up. */
function afterError(question: Question, call: string, errno: number): 'again' {
  if (errno === EINTR || errno === ENOBUFS) return 'again';
  throw failed(
    question,
    errno === EAGAIN ? `no answer in ${PATIENCE_SECONDS} s` : `${call}: ${getSystemErrorName(-errno)}`,
  );
}

function failed({ what }: Question, why: string): AgentError {
  return new AgentError('netlinkFailed', `${what} cannot be read from the kernel: ${why}`);
}
