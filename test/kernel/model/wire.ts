/**
 * The ends of wires, held by the test's own thread: a frame is put on one, and
 * what came of it is read, without another process in between. A veth hands a
 * frame over within the call that sends it, so packets meet the gateway one
 * after the other, in the order in which they were sent, and each can be seen
 * to its end before the next.
 *
 * Also what the kernel logs (NFLOG). Messages bear sequence numbers: one that
 * was lost is a fault of the test, and never taken for silence.
 * man 7 packet; linux/netfilter/nfnetlink_log.h.
 */

import { closeSync } from 'node:fs';
import koffi from 'koffi';
import { type NflogMessage, readNflog } from '../../../agent/inspector/nflog-message.ts';
import { within } from '../../enter.ts';
import type { Network } from '../../network.ts';
import { viewOf } from './packet.ts';

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const bind = libc.func('int bind(int fd, const uint8_t *address, uint32_t size)');
const setsockopt = libc.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t size)');
const send = libc.func('long send(int fd, const uint8_t *data, size_t length, int flags)');
const recv = libc.func('long recv(int fd, void *data, size_t length, int flags)');

const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const EAGAIN = 11;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const ROOM = 65_536;
const BUFFER_BYTES = 8 << 20;

const AF_PACKET = 17;
const ETH_P_ALL = 3;
const SOL_PACKET = 263;
const PACKET_IGNORE_OUTGOING = 23;

const AF_NETLINK = 16;
const NETLINK_NETFILTER = 12;
const NFNL_SUBSYS_ULOG = 4 << 8;
const NFULNL_MSG_PACKET = 0;
const NFULNL_MSG_CONFIG = 1;
const NFULA_CFG_CMD = 1;
const NFULA_CFG_MODE = 2;
const NFULA_CFG_FLAGS = 6;
const COMMAND_BIND = 1;
const COPY_PACKET = 2;
const FLAG_SEQUENCE = 1;
const NFULA_SEQUENCE = 12;
const NLM_F_REQUEST_ACK = 5;
const NLMSG_ERROR = 2;
const NLMSG_HEADER = 16;
const NFGEN_HEADER = 4;

/** A socket that never waits. */
class Endpoint {
  readonly #fd: number;
  readonly #room = Buffer.allocUnsafeSlow(ROOM);

  constructor(domain: number, protocol: number, address: Uint8Array) {
    this.#fd = must('socket', socket(domain, SOCK_RAW | SOCK_CLOEXEC, protocol));
    this.set(SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES);
    must('bind', bind(this.#fd, address, address.length));
  }

  set(level: number, name: number, value: number): void {
    const words = Int32Array.of(value);
    must('setsockopt', setsockopt(this.#fd, level, name, words, words.byteLength));
  }

  send(bytes: Uint8Array): void {
    must('send', send(this.#fd, bytes, bytes.length, 0));
  }

  /** What is there, or undefined. @throws Error where something was lost (ENOBUFS) */
  receive(): Uint8Array | undefined {
    const length = recv(this.#fd, this.#room, ROOM, MSG_DONTWAIT);
    if (length < 0 && koffi.errno() === EAGAIN) return undefined;
    return Uint8Array.from(this.#room.subarray(0, must('recv', length)));
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** One end of a veth pair: what is sent arrives at the other end, and what that one sends is received. */
export class Wire {
  readonly #endpoint: Endpoint;

  constructor(network: Network, namespace: string, device: string) {
    const { ifindex } = network.link(namespace, device);
    const address = Buffer.alloc(20); // struct sockaddr_ll
    address.writeUInt16LE(AF_PACKET, 0);
    address.writeUInt16BE(ETH_P_ALL, 2);
    address.writeInt32LE(ifindex, 4);
    this.#endpoint = within(network, namespace, () => new Endpoint(AF_PACKET, 0, address));
    this.#endpoint.set(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
  }

  send(frame: Uint8Array): void {
    this.#endpoint.send(frame);
  }

  /** The frames that have come since this was asked last. */
  received(): Uint8Array[] {
    return [...all(() => this.#endpoint.receive())];
  }

  close(): void {
    this.#endpoint.close();
  }
}

/** What rules of these groups log. */
export class Log {
  readonly #endpoint: Endpoint;
  /** The next message's number, by group. */
  readonly #next = new Map<number, number>();

  constructor(network: Network, namespace: string, groups: readonly number[]) {
    const anyPort = Uint8Array.of(AF_NETLINK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    this.#endpoint = within(network, namespace, () => new Endpoint(AF_NETLINK, NETLINK_NETFILTER, anyPort));
    for (const group of groups) {
      this.#next.set(group, 0);
      this.#configure(group, NFULA_CFG_CMD, [COMMAND_BIND]);
      this.#configure(group, NFULA_CFG_MODE, [0, 0, 0xff, 0xff, COPY_PACKET, 0]);
      this.#configure(group, NFULA_CFG_FLAGS, [0, FLAG_SEQUENCE]);
    }
  }

  /** What was logged since this was asked last, in its order. @throws Error where a message was lost */
  logged(): NflogMessage[] {
    return [...all(() => this.#endpoint.receive())].flatMap((bytes) => [...this.#messagesIn(bytes)]);
  }

  close(): void {
    this.#endpoint.close();
  }

  #configure(group: number, attribute: number, value: readonly number[]): void {
    const message = Buffer.alloc(NLMSG_HEADER + NFGEN_HEADER + 4 + ((value.length + 3) & ~3));
    message.writeUInt32LE(message.length, 0);
    message.writeUInt16LE(NFNL_SUBSYS_ULOG | NFULNL_MSG_CONFIG, 4);
    message.writeUInt16LE(NLM_F_REQUEST_ACK, 6);
    message.writeUInt16BE(group, NLMSG_HEADER + 2);
    message.writeUInt16LE(4 + value.length, NLMSG_HEADER + NFGEN_HEADER);
    message.writeUInt16LE(attribute, NLMSG_HEADER + NFGEN_HEADER + 2);
    message.set(value, NLMSG_HEADER + NFGEN_HEADER + 4);
    this.#endpoint.send(message);
    const answer = this.#endpoint.receive();
    const view = answer && viewOf(answer);
    if (view?.getUint16(4, true) !== NLMSG_ERROR || view.getInt32(NLMSG_HEADER, true) !== 0)
      throw new Error(`NFLOG group ${group} cannot be had: ${view?.getInt32(NLMSG_HEADER, true)}`);
  }

  *#messagesIn(bytes: Uint8Array): Generator<NflogMessage> {
    const view = viewOf(bytes);
    for (let at = 0; at + NLMSG_HEADER <= bytes.length; ) {
      const length = view.getUint32(at, true);
      if (view.getUint16(at + 4, true) === (NFNL_SUBSYS_ULOG | NFULNL_MSG_PACKET)) {
        const body = bytes.subarray(at + NLMSG_HEADER, at + length);
        this.#inSequence(body);
        const message = readNflog(body);
        if (message === 'damaged') throw new Error(`an NFLOG message is damaged: ${Buffer.from(body).toString('hex')}`);
        yield message;
      }
      at += (length + 3) & ~3;
    }
  }

  #inSequence(body: Uint8Array): void {
    const view = viewOf(body);
    const group = view.getUint16(2);
    for (let at = NFGEN_HEADER; at + 4 <= body.length; at += (view.getUint16(at, true) + 3) & ~3) {
      if (view.getUint16(at + 2, true) !== NFULA_SEQUENCE) continue;
      const [number, expected] = [view.getUint32(at + 4), this.#next.get(group)];
      if (number !== expected)
        throw new Error(`NFLOG group ${group}: message ${number} came, not ${expected}: some were lost`);
      this.#next.set(group, number + 1);
      return;
    }
    throw new Error(`NFLOG group ${group}: a message without its number`);
  }
}

function* all<T>(next: () => T | undefined): Generator<T> {
  for (let one = next(); one !== undefined; one = next()) yield one;
}

function must(call: string, result: number): number {
  if (result < 0) throw new Error(`${call}: errno ${koffi.errno()}`);
  return result;
}
