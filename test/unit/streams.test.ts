/** Streams of server-sent events, over a real HTTP server on loopback: what is written, and when. */
import { once } from 'node:events';
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { StreamEvent } from '../../agent/api/operation.ts';
import { Streams } from '../../agent/api/streams.ts';

type Tell = (events: readonly StreamEvent[]) => void;

/** One reader: how it is told, what is written to it, and what it hears. */
interface Open {
  readonly tell: Tell;
  readonly written: () => readonly Buffer[];
  readonly hears: (wanted: string) => Promise<string>;
  readonly answer: IncomingMessage;
}

const UNREAD_BYTES = 20_000;
const server = createServer();
let streams: Streams;
let passes: boolean;
let cuts: number;

async function openReader(): Promise<Open> {
  const { port } = server.address() as AddressInfo;
  const asked = get({ port, host: '127.0.0.1', agent: false });
  const [, response] = (await once(server, 'request')) as [unknown, ServerResponse];
  const write = vi.spyOn(response, 'write');
  let tell: Tell = () => {};
  streams.begin({ party: 'acme', response, passes: () => passes }, {}, (given) => {
    tell = given;
    return () => {};
  });
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  let text = '';
  answer.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  answer.on('error', () => {});
  return {
    tell: (events) => tell(events),
    written: () => write.mock.calls.map(([what]) => what as Buffer).filter((what) => Buffer.isBuffer(what)),
    hears: (wanted) => vi.waitUntil(() => text.includes(wanted) && text, { timeout: 5_000 }) as Promise<string>,
    answer,
  };
}

const event = (name: string, data = '{}'): readonly StreamEvent[] => [{ event: name, data }];

beforeEach(async () => {
  [passes, cuts] = [true, 0];
  const limits = { perParty: { all: 8, least: 1, most: 8 }, unreadBytes: UNREAD_BYTES, heartbeatMs: 60_000 };
  streams = new Streams(
    limits,
    () => 1,
    () => void cuts++,
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});

afterEach(async () => {
  streams.close();
  server.closeAllConnections();
  await new Promise((closed) => server.close(closed));
});

test('the first event goes at once, and what follows it soon goes in one write, in order', async () => {
  const { tell, written, hears } = await openReader();
  for (let i = 0; i < 50; i++) tell(event(`e${i}`));
  expect(written()).toHaveLength(1);
  const text = await hears('event: e49\n');
  expect([...text.matchAll(/^event: (.*)$/gm)].map(([, name]) => name)).toEqual(
    Array.from({ length: 50 }, (_, i) => `e${i}`),
  );
  expect(written()).toHaveLength(2);
});

test('what many readers are told is put into words once', async () => {
  const [one, other] = [await openReader(), await openReader()];
  const told = event('shared', JSON.stringify('x'.repeat(100)));
  one.tell(told);
  other.tell(told);
  expect(one.written()[0]).toBe(other.written()[0]);
});

test('what is gathered never grows to what a reader may leave unread', async () => {
  const { tell, written } = await openReader();
  tell(event('first'));
  tell(event('large', JSON.stringify('x'.repeat(UNREAD_BYTES / 2))));
  expect(written()).toHaveLength(2);
});

test('a reader that is not who it was does not hear what was gathered for it', async () => {
  const { tell, written, hears, answer } = await openReader();
  tell(event('first'));
  await hears('event: first\n');
  tell(event('second'));
  passes = false;
  await new Promise((closed) => answer.once('close', closed));
  expect(written()).toHaveLength(1);
});

test('a reader that leaves too much unread is cut', async () => {
  const { tell, answer } = await openReader();
  answer.pause();
  const gone = once(answer.socket, 'close');
  for (let i = 0; cuts === 0 && i < 2_000; i++) tell(event('flood', JSON.stringify('x'.repeat(UNREAD_BYTES))));
  expect(cuts).toBe(1);
  answer.destroy();
  await gone;
});

test('at the end what was gathered still goes', async () => {
  const { tell, hears } = await openReader();
  tell(event('first'));
  tell(event('last'));
  streams.close();
  await hears('event: last\n');
});
