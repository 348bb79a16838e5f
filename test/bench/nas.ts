/**
 * A NAS that tells as fast as it is answered. Run inside the gateway's
 * namespace, as
 *
 *   tsx test/bench/nas.ts PORT
 *
 * it takes lines of JSON, an Order each, and answers `done` and the seconds
 * from the first datagram to the last answer. As many sockets as are needed,
 * since each has 256 identifiers; what is not answered in time is sent again,
 * as a NAS does.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { accountingRequest, attribute, INTERIM, of3gpp, START, STOP } from '../radius.ts';

export interface Order {
  readonly kind: 'start' | 'interim' | 'stop';
  readonly sessions: number;
  /** Sessions that have stopped are never bound again: each round has its own. */
  readonly round: number;
  /** Requests without an answer at the same time. */
  readonly window: number;
}

const STATUS = { start: START, interim: INTERIM, stop: STOP };
const AGAIN_MS = 3_000;

/** What tells one event of one session: the names and the address of one subscriber. */
export function datagramOf({ kind, round }: Omit<Order, 'window'>, i: number, identifier: number): Buffer {
  const text = (type: number, of: string) => attribute(type, Buffer.from(of));
  const imsi = `26201${String(i).padStart(10, '0')}`;
  const attributes = [
    STATUS[kind],
    text(44, `session-${round}-${i}`),
    text(32, 'ggsn'),
    text(30, 'iot.example'),
    attribute(8, Buffer.from([10, 20, 1 + (i >> 8), i & 255])),
    of3gpp(attribute(1, Buffer.from(imsi))),
  ];
  return accountingRequest(attributes, { identifier });
}

async function tell(order: Order, port: number): Promise<number> {
  const { sessions, window } = order;
  const sockets = await Promise.all(
    Array.from({ length: Math.ceil(window / 256) }, async () => {
      const socket = createSocket('udp4');
      socket.bind(0, '127.0.0.1');
      await once(socket, 'listening');
      return socket;
    }),
  );
  const from = performance.now();
  let next = 0;
  await Promise.all(
    sockets.map((socket, at) => {
      const own = Math.min(256, window - at * 256);
      return answered(socket, own, port, (identifier) =>
        next < sessions ? datagramOf(order, next++, identifier) : undefined,
      );
    }),
  );
  const seconds = (performance.now() - from) / 1_000;
  for (const socket of sockets) socket.close();
  return seconds;
}

/** Resolves when everything that `make` had to send by this socket is answered. */
function answered(
  socket: Socket,
  window: number,
  port: number,
  make: (identifier: number) => Buffer | undefined,
): Promise<void> {
  return new Promise((resolve) => {
    const open = new Map<number, { readonly datagram: Buffer; sentMs: number }>();
    const send = (datagram: Buffer) => socket.send(datagram, port, '127.0.0.1');
    const again = setInterval(() => {
      const nowMs = performance.now();
      for (const one of open.values()) {
        if (nowMs - one.sentMs < AGAIN_MS) continue;
        one.sentMs = nowMs;
        send(one.datagram);
      }
    }, 100);
    const begin = (identifier: number): boolean => {
      const datagram = make(identifier);
      if (!datagram) return false;
      open.set(identifier, { datagram, sentMs: performance.now() });
      send(datagram);
      return true;
    };
    socket.on('message', (answer) => {
      const identifier = answer.readUInt8(1);
      if (!open.delete(identifier)) return;
      if (begin(identifier) || open.size > 0) return;
      clearInterval(again);
      resolve();
    });
    for (let identifier = 0; identifier < window; identifier++) if (!begin(identifier)) break;
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.argv[2]);
  process.stdout.write('ready\n');
  for await (const line of createInterface({ input: process.stdin })) {
    const seconds = await tell(JSON.parse(line) as Order, port);
    process.stdout.write(`done ${seconds}\n`);
  }
}
