/**
 * Sends syslog messages to the operator's collector. It holds nobody up: what
 * a collector that is away or slow leaves no room for is given up and counted.
 * Over UDP that is all that can be known.
 *
 * Over TCP a piece at a time is handed over, the next when the kernel has all
 * of that; what it has not when the connection breaks is sent by the next one.
 * Some of it may have arrived, and comes twice: the beginning of a piece. What
 * the kernel had, and had not brought over, is lost and cannot be known of,
 * since the collector acknowledges nothing (RFC 6587 does not know how).
 */
import { createSocket, type Socket as Datagrams } from 'node:dgram';
import { connect, type Socket } from 'node:net';
import type { Endpoint } from '../core/net.ts';
import { framed } from './syslog.ts';

export interface Collector {
  send(message: string): void;
  /** Given up so far. */
  readonly givenUp: number;
  /** What the collector, or the way to it, said last against us; undefined: nothing. */
  readonly fault: string | undefined;
  close(): void;
}

/** What waits for a collector, in bytes. */
const ROOM = 16 * 2 ** 20;
/** Of what is handed over before it is known that the kernel has it. */
const PIECE = 2 ** 16;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;

export function openCollector({ address, port }: Endpoint, transport: 'udp' | 'tcp'): Collector {
  return transport === 'udp' ? overUdp(address.text, port) : overTcp(address.text, port);
}

function overUdp(host: string, port: number): Collector {
  let givenUp = 0;
  let fault: string | undefined;
  let onTheirWay = 0;
  const socket: Datagrams = createSocket(host.includes(':') ? 'udp6' : 'udp4');
  socket.on('error', (cause) => {
    fault = cause.message;
  });
  return {
    send(message) {
      const bytes = Buffer.from(message);
      if (onTheirWay + bytes.length > ROOM) {
        givenUp += 1;
        return;
      }
      onTheirWay += bytes.length;
      socket.send(bytes, port, host, (cause) => {
        onTheirWay -= bytes.length;
        if (cause) givenUp += 1;
        fault = cause?.message;
      });
    },
    get givenUp() {
      return givenUp;
    },
    get fault() {
      return fault;
    },
    close: () => socket.close(),
  };
}

function overTcp(host: string, port: number): Collector {
  let givenUp = 0;
  let fault: string | undefined;
  const waiting: string[] = [];
  let waitingBytes = 0;
  /** Handed over; undefined: nothing is. */
  let piece: readonly string[] | undefined;
  let socket: Socket | undefined;
  let isOpen = false;
  let isClosed = false;
  let pauseMs = FIRST_PAUSE_MS;
  let timer: NodeJS.Timeout | undefined;

  const flush = () => {
    if (!socket || !isOpen || piece || waiting.length === 0) return;
    const messages = waiting.splice(0, pieceOf(waiting));
    piece = messages;
    socket.write(messages.join(''), (fault) => {
      if (piece !== messages) return; // of a connection that has been closed since
      if (fault) return; // it stays until the connection is closed, which comes next
      piece = undefined;
      waitingBytes -= lengthOf(messages);
      flush();
    });
  };
  const open = () => {
    const opened = connect({ host, port });
    socket = opened;
    opened.setNoDelay(true);
    opened.on('connect', () => {
      isOpen = true;
      fault = undefined;
      pauseMs = FIRST_PAUSE_MS;
      flush();
    });
    opened.on('data', () => {}); // a collector that speaks is not heard
    opened.on('error', (cause) => {
      fault = cause.message;
    });
    opened.on('close', () => {
      isOpen = false;
      if (piece) waiting.unshift(...piece);
      piece = undefined;
      fault ??= 'the collector closed the connection';
      if (isClosed) return;
      timer = setTimeout(open, pauseMs);
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    });
  };
  open();
  return {
    send(message) {
      const text = framed(message);
      if (waitingBytes + text.length > ROOM) {
        givenUp += 1;
        return;
      }
      if (waiting.length === 0) setImmediate(flush);
      waiting.push(text);
      waitingBytes += text.length;
    },
    get givenUp() {
      return givenUp;
    },
    get fault() {
      return fault;
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      // The last turn: all of it at once, of which the kernel takes what it has room for.
      if (isOpen && waiting.length > 0) socket?.write(waiting.join(''));
      socket?.end();
      socket?.unref();
    },
  };
}

/** How many messages, the first ones, make a piece. */
function pieceOf(messages: readonly string[]): number {
  let bytes = 0;
  const beyond = messages.findIndex(({ length }) => {
    bytes += length;
    return bytes > PIECE;
  });
  return beyond === -1 ? messages.length : Math.max(1, beyond);
}

function lengthOf(messages: readonly string[]): number {
  return messages.reduce((sum, { length }) => sum + length, 0);
}
