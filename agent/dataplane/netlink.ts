/**
 * Asks and orders the kernel through a netlink socket (man 7 netlink), in this
 * process: no tool is started. What is said is netlink-message.ts.
 *
 * Each question, and each send of orders, has a socket of its own, so that no answer is taken for
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
import {
  encode,
  encodeOrders,
  type Message,
  type Order,
  type Question,
  type Refusal,
  readAcknowledgements,
  readPart,
  type Verdict,
} from './netlink-message.ts';

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const connect = libc.func('int connect(int fd, const uint8_t *address, uint32_t size)');
const setsockopt = libc.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t size)');
const bind = libc.func('int bind(int fd, const uint8_t *address, uint32_t size)');
const poll = libc.func('int poll(void *fds, unsigned long count, int milliseconds)');
const getsockopt = libc.func('int getsockopt(int fd, int level, int name, void *value, void *size)');
const send = libc.func('long send(int fd, const uint8_t *data, size_t length, int flags)');
const recv = libc.func('long recv(int fd, void *data, size_t length, int flags)');

const PROTOCOLS = { route: 0, netfilter: 12, generic: 16 } as const;
type Protocol = keyof typeof PROTOCOLS;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const SO_RCVTIMEO = 20;
const SO_RCVBUFFORCE = 33;
const SO_MEMINFO = 55;
/** Of what SO_MEMINFO tells, how many messages the socket had no room for (SK_MEMINFO_DROPS), and how much it tells. */
const MEMINFO = { drops: 8, words: 9 } as const;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;
const POLLIN = 1;
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
export const SEQUENCE = 1;

/** All messages of the kernel's answer. @throws AgentError netlinkFailed */
export async function ask(protocol: Protocol, question: Question): Promise<Message[]> {
  let messages: Message[] = [];
  await askInParts(protocol, question, (bytes, isFirst) => {
    if (isFirst) messages = [];
    const part = readPart(bytes.slice(), SEQUENCE); // what is read are views into it
    messages.push(...part.messages);
    return part;
  });
  return messages;
}

/**
 * The kernel's answer as it comes, for what need not be held as a whole. The bytes are good until what `read`
 * returns is there. Where the question is asked again, so is `read`, from the first part on.
 * @throws AgentError netlinkFailed, and what `read` throws
 */
export async function askInParts(
  protocol: Protocol,
  question: Question,
  read: (bytes: Uint8Array, isFirst: boolean) => Verdict | Promise<Verdict>,
): Promise<void> {
  const complain: Complaint = (why) =>
    new AgentError('netlinkFailed', `${question.what} cannot be read from the kernel: ${why}`);
  const words = encode(question, SEQUENCE);
  await untilAnswered(complain, (room) =>
    exchange(protocol, complain, words, room, async (bytes, isFirst) => {
      const { broken, refusal, ended } = await read(bytes, isFirst);
      if (broken) return 'again';
      if (refusal) throw complain(`${getSystemErrorName(-refusal.errno)} ${refusal.why}`.trim());
      return ended ? 'ended' : 'more';
    }),
  );
}

/**
 * Has the kernel carry out orders, in one send. Each is carried out or refused for itself; those refused come
 * back, by their index. Where the answer was lost all are ordered again: they must bear that.
 * @throws AgentError netlinkFailed where it is not known what was carried out
 */
export async function order(
  protocol: Protocol,
  what: string,
  orders: readonly Order[],
): Promise<ReadonlyMap<number, Refusal>> {
  const complain: Complaint = (why) =>
    new AgentError('netlinkFailed', `${what} cannot be ordered of the kernel: ${why}`);
  const words = encodeOrders(orders);
  let refused = new Map<number, Refusal>();
  await untilAnswered(complain, (room) =>
    exchange(protocol, complain, words, room, (bytes, isFirst) => {
      if (isFirst) refused = new Map();
      const { ended, refusals } = readAcknowledgements(bytes, orders.length);
      for (const [index, refusal] of refusals) refused.set(index, refusal);
      return ended ? 'ended' : 'more';
    }),
  );
  return refused;
}

/**
 * What the kernel tells without being asked. What is not read in time is lost, and counted; nothing of the kernel ever
 * waits for who listens.
 */
export class Events {
  readonly #fd: number;
  readonly #bytes = new Uint8Array(ROOM);

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Of these groups (a bit each), with so much room for what is not read yet. @throws AgentError netlinkFailed */
  static open(protocol: Protocol, groups: number, roomBytes: number): Events {
    const complain: Complaint = (why) => new AgentError('netlinkFailed', `the kernel's events cannot be heard: ${why}`);
    const fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, PROTOCOLS[protocol]);
    if (fd < 0) throw complain(`socket: ${getSystemErrorName(-koffi.errno())}`);
    const room = Uint32Array.of(roomBytes);
    // More than net.core.rmem_max takes CAP_NET_ADMIN; without, as much as there is.
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, room, room.byteLength) < 0)
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, room, room.byteLength);
    const address = new Uint8Array(KERNEL);
    new DataView(address.buffer).setUint32(8, groups, true);
    if (bind(fd, address, address.byteLength) < 0) {
      const why = getSystemErrorName(-koffi.errno());
      closeSync(fd);
      throw complain(`bind: ${why}`);
    }
    return new Events(fd);
  }

  /** Resolves when there is something to read, or the time is over. */
  async wait(milliseconds: number): Promise<void> {
    const asked = new DataView(new ArrayBuffer(8)); // struct pollfd
    asked.setInt32(0, this.#fd, true);
    asked.setInt16(4, POLLIN, true);
    await inThread(poll, new Uint8Array(asked.buffer), 1, milliseconds);
  }

  /**
   * Reads what is there, so many messages at the most; the bytes are good until `take` returns. `lost`: some were, and
   * what is behind them may be read.
   * @throws AgentError netlinkFailed
   */
  read(most: number, take: (bytes: Uint8Array) => void): 'empty' | 'more' | 'lost' {
    for (let i = 0; i < most; i++) {
      const length = Number(recv(this.#fd, this.#bytes, ROOM, MSG_DONTWAIT));
      if (length >= 0) {
        take(this.#bytes.subarray(0, length));
        continue;
      }
      const errno = koffi.errno();
      if (errno === EAGAIN) return 'empty';
      if (errno === ENOBUFS) return 'lost';
      if (errno !== EINTR)
        throw new AgentError('netlinkFailed', `the kernel's events cannot be heard: ${getSystemErrorName(-errno)}`);
    }
    return 'more';
  }

  /** How many messages were lost since it was opened. */
  lost(): number {
    const words = new Uint32Array(MEMINFO.words);
    getsockopt(this.#fd, SOL_SOCKET, SO_MEMINFO, words, Uint32Array.of(words.byteLength));
    return words[MEMINFO.drops] as number;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** What became of an exchange: a number is the room that its answer takes. */
type Outcome = 'ended' | 'again' | number;
type Complaint = (why: string) => AgentError;

async function untilAnswered(complain: Complaint, attempt: (room: number) => Promise<Outcome>): Promise<void> {
  let room = ROOM;
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const outcome = await attempt(room);
    if (outcome === 'ended') return;
    if (typeof outcome === 'number') room = outcome;
  }
  throw complain(`changed each time while it was read, ${MOST_TRIES} times`);
}

async function exchange(
  protocol: Protocol,
  complain: Complaint,
  words: Uint8Array,
  room: number,
  read: (bytes: Uint8Array, isFirst: boolean) => 'more' | Outcome | Promise<'more' | Outcome>,
): Promise<Outcome> {
  const fd = open(protocol, complain);
  try {
    const sent = await inThread(send, fd, words, words.length, 0);
    if (sent < 0) return afterError(complain, 'send', -sent);
    const bytes = new Uint8Array(room);
    for (let isFirst = true; ; isFirst = false) {
      const length = await inThread(recv, fd, bytes, room, MSG_TRUNC);
      if (length < 0) return afterError(complain, 'recv', -length);
      if (length > room) return length;
      const outcome = await read(bytes.subarray(0, length), isFirst);
      if (outcome !== 'more') return outcome;
    }
  } finally {
    closeSync(fd);
  }
}

function open(protocol: Protocol, complain: Complaint): number {
  const must = (call: string, result: number) => {
    if (result < 0) throw complain(`${call}: ${getSystemErrorName(-koffi.errno())}`);
    return result;
  };
  const fd = must('socket', socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, PROTOCOLS[protocol]));
  try {
    const yes = Uint32Array.of(1);
    must('setsockopt', setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, PATIENCE, PATIENCE.byteLength));
    must('setsockopt', setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, yes, yes.byteLength));
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
function inThread(call: Pick<typeof send, 'async'>, ...args: readonly unknown[]): Promise<number> {
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
function afterError(complain: Complaint, call: string, errno: number): 'again' {
  if (errno === EINTR || errno === ENOBUFS) return 'again';
  throw complain(errno === EAGAIN ? `no answer in ${PATIENCE_SECONDS} s` : `${call}: ${getSystemErrorName(-errno)}`);
}
