/** The accounting server on loopback: real sockets of both families, NASes that behave and that do not. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { address, formatEndpoint, parseEndpoint, prefix } from '../../agent/core/net.ts';
import type { AccountingEvent, Outcome } from '../../agent/directory/accounting.ts';
import { type RadiusClient, RadiusClients, sourceOf } from '../../agent/directory/clients.ts';
import { Exchanges } from '../../agent/directory/exchanges.ts';
import { AccountingListener } from '../../agent/directory/listener.ts';
import { droppedAt } from '../../agent/directory/udp-table.ts';
import { HandClock, KeptLog } from '../clock.ts';
import { accountingRequest, accountingResponse, attribute, ON, SECRET, SESSION, START, STOP } from '../radius.ts';

const OTHER_SECRET = Buffer.from('of another client');
const CLIENTS: readonly RadiusClient[] = [
  { name: 'pgw-1', addresses: [prefix('127.0.0.1/32'), prefix('::1/128')], secret: SECRET },
  { name: 'pgw-2', addresses: [prefix('127.0.1.0/24')], secret: OTHER_SECRET },
];
const FAMILIES = ['127.0.0.1:0', '[::1]:0'] as const;

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** A server on both families that keeps what it hears; each event waits for `outcomes` to say what became of it. */
async function serve(handle?: (event: AccountingEvent) => Promise<Outcome>) {
  const events: AccountingEvent[] = [];
  const [log, clock] = [new KeptLog(), new HandClock()];
  const heard = (event: AccountingEvent) => {
    events.push(event);
    return handle ? handle(event) : Promise.resolve<Outcome>('done');
  };
  const listen = FAMILIES.map((text) => parseEndpoint(text) ?? fail(text));
  const server = await AccountingListener.open({ listen, clients: CLIENTS, handle: heard, log, clock });
  closing.push(() => server.close());
  const [ipv4, ipv6] = server.bound;
  if (!ipv4 || !ipv6) throw new Error('not bound');
  return { server, events, log, clock, ipv4, ipv6 };
}

function fail(text: string): never {
  throw new Error(text);
}

/** A NAS: a socket of its own that asks one server. */
async function nas({ address: { family, text }, port }: AccountingListener['bound'][number], from?: string) {
  const socket: Socket = createSocket(family === 'ipv4' ? 'udp4' : 'udp6');
  socket.bind(0, from ?? text);
  await once(socket, 'listening');
  closing.push(() => new Promise<void>((closed) => socket.close(closed)));
  const answers: Buffer[] = [];
  socket.on('message', (answer) => answers.push(answer));
  return {
    answers,
    send: (datagram: Buffer) => socket.send(datagram, port, text),
    /** The answer to this request. */
    async ask(datagram: Buffer): Promise<Buffer> {
      const answered = once(socket, 'message');
      socket.send(datagram, port, text);
      return (await answered)[0];
    },
  };
}

/** Waits until it holds, as long as the test's own time lasts. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(2);
}

const start = (session: string, identifier = 1) =>
  accountingRequest([START, attribute(44, `"${session}"`)], { identifier });
const reasons = (server: AccountingListener) =>
  server.reading().dropped.map(({ client, reason, count }) => [client, reason, count]);

describe('the good path', () => {
  test.each([0, 1])('a start is handed over and answered, family %i', async (which) => {
    const { server, events } = await serve();
    const bound = server.bound[which] ?? fail('not bound');
    const request = start('s-1');
    expect(await (await nas(bound)).ask(request)).toEqual(accountingResponse(request));
    expect(events).toMatchObject([{ kind: 'start', session: 's-1', nas: { client: 'pgw-1', id: bound.address.text } }]);
    expect(server.reading()).toMatchObject({ received: 1, done: 1, inProgress: 0, dropped: [] });
  });

  test('nothing is answered before the change is made', async () => {
    let made: (outcome: Outcome) => void = () => {};
    const { events, ipv4 } = await serve(() => new Promise((resolve) => (made = resolve)));
    const one = await nas(ipv4);
    const answered = one.ask(start('s-1'));
    await until(() => events.length === 1);
    await sleep(50); // long enough for an answer that must not come
    expect(one.answers).toEqual([]);
    made('done');
    expect(await answered).toEqual(accountingResponse(start('s-1')));
  });

  test('what is refused for good is answered too, or the NAS would repeat it for ever', async () => {
    const { server, ipv4 } = await serve(async () => 'refused');
    expect(await (await nas(ipv4)).ask(start('s-1'))).toEqual(accountingResponse(start('s-1')));
    expect(server.reading()).toMatchObject({ done: 0, refused: 1 });
  });

  test('each client has its own secret; one cannot speak as another', async () => {
    const { server, events, ipv4 } = await serve();
    const second = await nas(ipv4, '127.0.1.7');
    second.send(start('s-1'));
    const request = accountingRequest([START, SESSION], { secret: OTHER_SECRET });
    expect(await second.ask(request)).toEqual(accountingResponse(request, [], OTHER_SECRET));
    expect(events).toMatchObject([{ nas: { client: 'pgw-2', id: '127.0.1.7' } }]);
    expect(reasons(server)).toEqual([['pgw-2', 'wrongAuthenticator', 1]]);
  });
});

describe('requests that come again', () => {
  test('while in progress they are ignored, afterwards answered with the same octets, and carried out once', async () => {
    let made: (outcome: Outcome) => void = () => {};
    const { server, events, ipv4, clock } = await serve(() => new Promise((resolve) => (made = resolve)));
    const one = await nas(ipv4);
    const answered = one.ask(start('s-1'));
    for (let i = 0; i < 3; i++) one.send(start('s-1'));
    await until(() => server.reading().repeated === 3);
    expect(one.answers).toEqual([]);
    made('done');
    const answer = await answered;
    clock.pass(29);
    expect(await one.ask(start('s-1'))).toEqual(answer);
    expect(events).toHaveLength(1);
    clock.pass(2);
    const late = one.ask(start('s-1')); // by now the identifier may be in use again: it is a new request
    await until(() => events.length === 2);
    made('done');
    expect(await late).toEqual(answer);
  });

  test('what could not be carried out is not answered, and handed over when it comes again', async () => {
    const outcomes: (() => Promise<Outcome>)[] = [
      async () => 'later',
      () => Promise.reject(new Error('the store is full')),
      async () => 'done',
    ];
    const { server, events, ipv4, log } = await serve(() => outcomes.shift()?.() ?? fail('too many'));
    const one = await nas(ipv4);
    one.send(start('s-1'));
    await until(() => reasons(server).length === 1);
    one.send(start('s-1'));
    await until(() => reasons(server).length === 2);
    expect(await one.ask(start('s-1'))).toEqual(accountingResponse(start('s-1')));
    expect(one.answers).toHaveLength(1);
    expect(events).toHaveLength(3);
    expect(reasons(server)).toEqual([
      ['pgw-1', 'notNow', 1],
      ['pgw-1', 'fault', 1],
    ]);
    expect(log.of('radiusDropped')[1]).toMatchObject({ reason: 'fault', message: 'the store is full', level: 'warn' });
  });

  test('another authenticator under the same identifier and port is another request: the NAS has begun anew', async () => {
    const waiting: ((outcome: Outcome) => void)[] = [];
    const { server, events, ipv4 } = await serve(() => new Promise((resolve) => waiting.push(resolve)));
    const one = await nas(ipv4);
    one.send(start('before'));
    await until(() => waiting.length === 1);
    const answered = one.ask(accountingRequest([ON], { identifier: 1 }));
    await until(() => waiting.length === 2);
    waiting[0]?.('done'); // nobody waits for this answer any more
    waiting[1]?.('done');
    expect(await answered).toEqual(accountingResponse(accountingRequest([ON], { identifier: 1 })));
    await until(() => server.reading().done === 2);
    expect(one.answers).toHaveLength(1);
    expect(events.map(({ kind }) => kind)).toEqual(['start', 'on']);
  });

  test('the same octets from another port are another request', async () => {
    const { events, ipv4 } = await serve();
    for (const each of [await nas(ipv4), await nas(ipv4)]) await each.ask(start('s-1'));
    expect(events).toHaveLength(2);
  });
});

describe('what is dropped', () => {
  test('strangers, wrong secrets and bad packets get nothing, are counted, and the log says so once', async () => {
    const { server, events, log, clock, ipv4 } = await serve();
    const [stranger, one] = [await nas(ipv4, '127.0.0.2'), await nas(ipv4)];
    const wrong = accountingRequest([START, SESSION], { secret: OTHER_SECRET });
    for (let i = 0; i < 5; i++) stranger.send(start('s-1'));
    for (let i = 0; i < 3; i++) one.send(wrong);
    one.send(Buffer.alloc(3));
    one.send(accountingRequest([START, SESSION, SESSION]));
    await until(() => server.reading().received === 10);
    await one.ask(start('s-1')); // sockets keep the order: what is not answered by now never is
    expect([stranger.answers.length, one.answers.length, events.length]).toEqual([0, 1, 1]);
    expect(reasons(server)).toEqual([
      [undefined, 'unknownClient', 5],
      ['pgw-1', 'wrongAuthenticator', 3],
      ['pgw-1', 'truncated', 1],
      ['pgw-1', 'attributeTwice', 1],
    ]);
    const lines = log.of('radiusDropped');
    expect(lines.map(({ reason, client, source }) => [reason, client, source])).toEqual([
      ['unknownClient', undefined, '127.0.0.2'],
      ['wrongAuthenticator', 'pgw-1', '127.0.0.1'],
      ['truncated', 'pgw-1', '127.0.0.1'],
      ['attributeTwice', 'pgw-1', '127.0.0.1'],
    ]);
    expect(lines[3]).toMatchObject({ attribute: 'Acct-Session-Id', why: expect.stringMatching(/may be there once/) });
    clock.pass(61);
    one.send(wrong);
    await until(() => log.of('radiusDropped').length === 5);
    expect(log.of('radiusDropped')[4]).toMatchObject({ reason: 'wrongAuthenticator', leftOut: 2 });
  });

  test('so many of a client may be in progress; the rest is dropped until some have ended', async () => {
    const waiting: ((outcome: Outcome) => void)[] = [];
    const { server, events, ipv4 } = await serve(() => new Promise((resolve) => waiting.push(resolve)));
    const nases = await Promise.all(Array.from({ length: 5 }, () => nas(ipv4)));
    for (const [i, each] of nases.entries())
      for (let id = 0; id < 256; id++) {
        each.send(start(`s-${i}-${id}`, id));
        if (id % 64 === 63) await until(() => server.reading().received === i * 256 + id + 1);
      }
    expect(server.reading().inProgress).toBe(1_024);
    expect(reasons(server)).toEqual([['pgw-1', 'tooManyInProgress', 256]]);
    const other = await nas(ipv4, '127.0.1.1');
    other.send(accountingRequest([START, SESSION], { secret: OTHER_SECRET }));
    await until(() => events.length === 1_025); // another client is not kept out
    for (const made of waiting.splice(0)) made('done');
    await until(() => server.reading().inProgress === 0);
    nases[4]?.send(start('s-4-0', 0));
    await until(() => events.length === 1_026);
    for (const made of waiting) made('done');
  });
});

describe('the life of the server', () => {
  test('other clients and secrets count from the next datagram on, without a new socket', async () => {
    const { server, ipv4 } = await serve();
    const one = await nas(ipv4);
    await one.ask(start('s-1'));
    server.reload([{ name: 'renamed', addresses: [prefix('127.0.0.0/8')], secret: OTHER_SECRET }]);
    one.send(start('s-1')); // answered before, under a secret that is none any more
    const request = accountingRequest([STOP, SESSION], { secret: OTHER_SECRET });
    expect(await one.ask(request)).toEqual(accountingResponse(request, [], OTHER_SECRET));
    expect(reasons(server)).toEqual([['renamed', 'wrongAuthenticator', 1]]);
  });

  test('closing answers what is in progress, by the secret it was asked with, and takes nothing more', async () => {
    let made: (outcome: Outcome) => void = () => {};
    const { server, events, ipv4 } = await serve(() => new Promise((resolve) => (made = resolve)));
    const one = await nas(ipv4);
    const answered = one.ask(start('s-1'));
    await until(() => events.length === 1);
    server.reload([]);
    const closed = server.close();
    closing.splice(0, 1);
    one.send(start('s-2', 2));
    made('done');
    expect(await answered).toEqual(accountingResponse(start('s-1')));
    await closed;
    expect(events).toHaveLength(1);
    const again = await AccountingListener.open({
      listen: [ipv4],
      clients: CLIENTS,
      handle: async () => 'done',
      log: new KeptLog(),
      clock: new HandClock(),
    });
    await again.close();
  });

  test('an address that is in use is a fault that names it, and nothing stays open', async () => {
    const { ipv4, ipv6, log, clock } = await serve();
    const listen = [{ address: address('::1'), port: 0 }, ipv4];
    const options = { listen, clients: CLIENTS, handle: async () => 'done' as const, log, clock };
    await expect(AccountingListener.open(options)).rejects.toMatchObject({
      code: 'listenFailed',
      message: expect.stringContaining(`radius address ${formatEndpoint(ipv4)}: `),
    });
    expect(ipv6.port).not.toBe(0);
  });

  test('the kernel says how many datagrams it had no room for, socket by socket', async () => {
    const { server, log, ipv4, ipv6 } = await serve();
    server.look();
    expect([server.reading().lostInKernel, log.of('radiusLost')]).toEqual([0, []]);
    const table = readFileSync('/proc/net/udp6', 'utf8').split('\n');
    const own = table.findIndex((line) => line.includes(`:${ipv6.port.toString(16).toUpperCase().padStart(4, '0')} `));
    table[own] = (table[own] ?? '').replace(/0( *)$/, '17$1');
    expect(droppedAt(table.join('\n'), ipv6)).toBe(17);
    expect(droppedAt(readFileSync('/proc/net/udp', 'utf8'), ipv4)).toBe(0);
    expect(droppedAt(table.join('\n'), { ...ipv6, port: ipv6.port ^ 1 })).toBe(0);
  });

  test('datagrams that the kernel lost are told', async () => {
    const { server, log, ipv4 } = await serve();
    const one = await nas(ipv4);
    const flood = accountingRequest([
      START,
      SESSION,
      ...Array.from({ length: 15 }, () => attribute(25, Buffer.alloc(253))),
    ]);
    const { bytes = 0 } = (log.of('radiusBufferSmall')[0] ?? {}) as { bytes?: number };
    const room = bytes || 8 * 1024 * 1024;
    for (let sent = 0; sent < 2 * room; sent += flood.length) one.send(flood); // all in one turn: nothing is read meanwhile
    await until(() => {
      server.look();
      return server.reading().lostInKernel > 0;
    });
    expect(log.of('radiusLost')[0]).toMatchObject({ level: 'error' });
  });
});

describe('clients', () => {
  test('are found by address or prefix; IPv4 in mapped form is IPv4, a zone is left out', () => {
    const clients = new RadiusClients(CLIENTS);
    const find = (said: string) => {
      const source = sourceOf(said);
      return source && clients.find(source)?.name;
    };
    expect(find('127.0.0.1')).toBe('pgw-1');
    expect(find('::ffff:127.0.0.1')).toBe('pgw-1');
    expect(find('0:0:0:0:0:0:0:1')).toBe('pgw-1');
    expect(find('127.0.1.255')).toBe('pgw-2');
    expect(find('127.0.2.0')).toBeUndefined();
    expect(find('fe80::1%eth0')).toBeUndefined();
    expect(sourceOf('fe80::1%eth0')?.text).toBe('fe80::1');
    expect(sourceOf('nonsense')).toBeUndefined();
  });
});

describe('exchanges', () => {
  const [first, second] = [Buffer.alloc(16, 1), Buffer.alloc(16, 2)];

  test('answers are kept for half a minute, and no longer than there is room', () => {
    const exchanges = new Exchanges();
    const take = (key: string, nowMs: number) => exchanges.arrive(key, 'pgw-1', first, nowMs);
    for (let i = 0; i < 2 * 65_536 + 1; i++) {
      const arrival = take(`k-${i}`, 0);
      if (typeof arrival === 'string' || !('begun' in arrival)) throw new Error('expected a new one');
      exchanges.end(arrival.begun, Buffer.of(i & 0xff), 0);
    }
    expect(take('k-65536', 29_999)).toEqual({ answer: Buffer.of(0) });
    expect(take('k-131072', 29_999)).toEqual({ answer: Buffer.of(0) });
    expect(take('k-65535', 29_999)).toHaveProperty('begun'); // the oldest made room
    expect(take('k-65537', 30_000)).toHaveProperty('begun');
  });

  test('a newer request under the same key takes its place, and both are counted while they last', () => {
    const exchanges = new Exchanges();
    const [old, young] = [exchanges.arrive('k', 'c', first, 0), exchanges.arrive('k', 'c', second, 0)];
    if (typeof old === 'string' || typeof young === 'string' || !('begun' in old) || !('begun' in young)) throw old;
    expect(exchanges.inProgress).toBe(2);
    expect(exchanges.end(old.begun, Buffer.of(1), 0)).toBe(false);
    expect(exchanges.end(young.begun, Buffer.of(2), 0)).toBe(true);
    expect(exchanges.inProgress).toBe(0);
    expect(exchanges.arrive('k', 'c', second, 0)).toEqual({ answer: Buffer.of(2) });
    expect(exchanges.arrive('k', 'c', first, 0)).toHaveProperty('begun');
  });
});
