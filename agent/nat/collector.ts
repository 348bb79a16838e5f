/**
 * Sends syslog messages to the operator's collector. It holds nobody up: what
 * a collector that is away or slow leaves no room for is given up and counted.
 * Over UDP that is all that can be known; over TCP what waits when a
 * connection breaks is sent by the next.
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
  let waiting: string[] = [];
  let waitingBytes = 0;
  let socket: Socket | undefined;
  let isOpen = false;
  let isClosed = false;
  let pauseMs = FIRST_PAUSE_MS;
  let timer: NodeJS.Timeout | undefined;

  const flush = () => {
    if (!socket || !isOpen || waiting.length === 0 || socket.writableNeedDrain) return;
    socket.write(waiting.join(''));
    waiting = [];
    waitingBytes = 0;
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
    opened.on('drain', flush);
    opened.on('data', () => {}); // a collector that speaks is not heard
    opened.on('error', (cause) => {
      fault = cause.message;
    });
    opened.on('close', () => {
      isOpen = false;
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
      flush();
      socket?.end();
      socket?.unref();
    },
  };
}
