/** What a syslog collector that breaks its connections is told, and what is counted of the rest. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { parseEndpoint } from '../../agent/core/net.ts';
import { type Collector, openCollector } from '../../agent/nat/collector.ts';
import { until } from '../child.ts';

let server: Server | undefined;
let collector: Collector | undefined;
afterEach(() => {
  collector?.close();
  server?.close();
});

/** Messages of 200 bytes, told apart by their number. */
const message = (number: number) => `${number} `.padEnd(200, 'x');
const numbersIn = (text: string) => [...text.matchAll(/200 (\d+) x+/g)].map(([, number]) => Number(number));

/** Each connection is given to the next of these, and the last has all that follow. */
async function listening(...takes: readonly ((socket: Socket) => void)[]): Promise<Collector> {
  let connections = 0;
  server = createServer({ pauseOnConnect: true }, (socket) => {
    socket.on('error', () => {});
    takes[Math.min(connections, takes.length - 1)]?.(socket);
    connections += 1;
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = parseEndpoint(`127.0.0.1:${(server.address() as AddressInfo).port}`);
  if (!endpoint) throw new Error('no endpoint');
  collector = openCollector(endpoint, 'tcp');
  return collector;
}

test('what a broken connection had not taken is sent by the next one, in its order and without a hole', async () => {
  const count = 40_001;
  let broken: Socket | undefined;
  let heard = '';
  const opened = await listening(
    (socket) => {
      broken = socket; // and reads nothing
    },
    (socket) => {
      socket.setEncoding('utf8').on('data', (text: string) => {
        heard += text;
      });
      socket.resume();
    },
  );
  for (let number = 0; number < count; number++) opened.send(message(number));
  const socket = await until('a connection', () => broken);
  socket.resetAndDestroy();
  const numbers = await until('all of it', () => {
    const seen = numbersIn(heard);
    return seen.at(-1) === count - 1 ? seen : undefined;
  });
  const [first = count] = numbers;
  expect(numbers).toEqual(Array.from({ length: count - first }, (_, i) => first + i));
  // What is missing is what the kernel had: its buffers, and not all that waited.
  expect(first * 204).toBeLessThan(6 * 2 ** 20);
  expect(opened.givenUp).toBe(0);
});

test('what there is no room for is counted, also while a piece is under way', async () => {
  const count = 200_000;
  let arrived = 0;
  let stalled: Socket | undefined;
  const opened = await listening((socket) => {
    stalled = socket;
  });
  await until('a connection', () => stalled);
  for (let number = 0; number < count; number++) opened.send(message(number));
  const { givenUp } = opened;
  expect(givenUp).toBe(count - Math.floor((16 * 2 ** 20) / 204));
  stalled?.setEncoding('utf8').on('data', (text: string) => {
    arrived += text.length;
  });
  stalled?.resume();
  await until('the rest', () => (arrived === (count - givenUp) * 204 ? true : undefined));
  expect(opened.givenUp).toBe(givenUp);
});
