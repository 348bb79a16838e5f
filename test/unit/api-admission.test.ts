/** Floods and slow peers, on real sockets: each has its share and its time, and nobody else waits for them. */
import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { API_LIMITS, type ApiLimits } from '../../agent/api/limits.ts';
import type { Operation } from '../../agent/api/operation.ts';
import { refusalRecorder } from '../../agent/api/problem.ts';
import { operations } from '../../agent/api/routes.ts';
import type { RefusalReason } from '../../agent/core/refusals.ts';
import { HandClock, KeptLog, seededRandom } from '../clock.ts';
import { ApiFixture, type Ask, BASE, GOOD, GRANTS } from './api-fixture.ts';

const LIMITS = `${BASE}/limits`;
const GET = `GET ${LIMITS} HTTP/1.1\r\nHost: a.example\r\n\r\n`;
const { connections, requests } = API_LIMITS;
const ACME = '127.0.1.1';
const BETA = '127.0.2.1';
const STRANGER = '127.9.9.9';
/** Another place in the same neighbourhood as nobody. */
const strangerAt = (at: number) => `127.9.8.${at + 1}`;

const shared = new ApiFixture();
let api: ApiFixture;
const sockets: net.Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await api.server?.close();
});
afterAll(() => shared.certificates.pki.remove());

/** An operation in the place of getLimits that ends when it is let. */
interface Held {
  readonly begun: string[];
  release(): void;
}

/** `more` is what getLimits waits for, and says beside what it would. */
async function start(
  limits: Partial<ApiLimits> = {},
  more: (call: Parameters<Operation>[0]) => object | Promise<object> = () => ({}),
): Promise<void> {
  api = new ApiFixture(shared);
  const table = operations(api.grants, api.refuse, api.clock);
  const getLimits: Operation = async (call) => {
    const added = await more(call);
    const answer = await table['getLimits']?.(call);
    if (!answer || 'reason' in answer) throw new Error('no limits');
    return { ...answer, body: { ...answer.body, ...added } };
  };
  await api.start({}, limits, { ...table, getLimits });
}

async function startHeld(limits: Partial<ApiLimits['requests']> = {}): Promise<Held> {
  const begun: string[] = [];
  const ends: (() => void)[] = [];
  await start({ requests: { ...requests, ...limits } }, async ({ who }) => {
    begun.push(who.name);
    await new Promise<void>((end) => ends.push(end));
    return {};
  });
  return { begun, release: () => ends.shift()?.() };
}

function open(localAddress: string): net.Socket {
  const socket = net.connect({ port: api.port, host: '127.0.0.1', localAddress });
  socket.on('error', () => {});
  socket.resume();
  sockets.push(socket);
  return socket;
}

async function openTls(localAddress: string, client = api.clients.acme): Promise<tls.TLSSocket> {
  const socket = tls.connect({ ...(api.tls(client) as tls.ConnectionOptions), localAddress } as tls.ConnectionOptions);
  socket.on('error', () => {});
  sockets.push(socket);
  await once(socket, 'secureConnect');
  socket.resume();
  return socket;
}

const closed = (socket: net.Socket) => (socket.destroyed ? undefined : once(socket, 'close'));
const beta = (ask: Ask = {}) =>
  api.ask({ path: LIMITS, client: api.clients.beta, tls: { localAddress: BETA }, ...ask });
const acme = (ask: Ask = {}) => api.ask({ path: LIMITS, tls: { localAddress: ACME }, ...ask });

/** Waits for what is to come soon. */
async function until(what: () => boolean): Promise<void> {
  for (let turn = 0; turn < 500; turn++) {
    if (what()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`in vain: ${what}`);
}

/** What was sent before this is at the server when it resolves. */
async function arrived(): Promise<void> {
  for (let round = 0; round < 2; round++) expect((await acme({ path: '/nowhere' })).status).toBe(404);
}

const sheds = (reason: string) => api.shed.filter((one) => one === reason).length;

describe('connections', () => {
  it('of strangers are few, and closed before the handshake; those of servers go on', async () => {
    await start();
    const crowd = Array.from({ length: 300 }, (_, at) => open(strangerAt(at % 60)));
    await until(() => api.shed.length > 200);
    expect(sheds('strangerHandshakes') + sheds('addressHandshakes')).toBe(api.shed.length);
    expect((await acme()).status).toBe(200);
    expect((await beta()).status).toBe(200);
    const ended = crowd.filter(({ destroyed }) => destroyed).length;
    expect(ended).toBeGreaterThan(0);
    expect(api.handshakes).toEqual([]); // none of them has cost a TLS socket
    const lines = api.lines.filter(({ event }) => event === 'connectionShed');
    expect(lines.length).toBeLessThanOrEqual(60);
    expect(lines[0]).toMatchObject({ remote: expect.stringContaining('127.9.8.'), reason: expect.any(String) });
  });

  it('of one stranger leave room for another, who is heard and refused', async () => {
    await start();
    for (let at = 0; at < 100; at++) open(STRANGER);
    await until(() => sheds('addressHandshakes') > 80);
    const answered = await api.ask({ path: LIMITS, tls: { localAddress: strangerAt(0) } });
    expect([answered.status, answered.body.code]).toEqual([403, 'PERMISSION_DENIED']);
  });

  it('of a stranger live for one request', async () => {
    await start({ connections: { ...connections, strangerMs: 300 } });
    const socket = await openTls(STRANGER);
    socket.write(GET);
    expect(String(await once(socket, 'data'))).toContain('403 ');
    await closed(socket);
    expect(sheds('strangerTime')).toBe(1);
  });

  it('that stand still in their handshake make room for one that does not', async () => {
    const serverPlaces = { all: 12, least: 4, most: 4 };
    await start({ connections: { ...connections, serverPlaces, sparePlaces: 0, overtakenMs: 100 } });
    const stalled = Array.from({ length: 4 }, () => open(ACME));
    stalled[0]?.write(Buffer.from([0x16, 0x03, 0x01])); // the first octets of a ClientHello
    await Promise.all(stalled.map((socket) => once(socket, 'connect')));
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect((await acme()).status).toBe(200);
    await closed(stalled[0] as net.Socket);
    expect(api.shed).toEqual(['overtaken']);
    expect((await beta()).status).toBe(200);
  });

  it('a hundred at once come through, though one handshake is begun in a turn', async () => {
    await start({ begunAtOnce: 1 });
    const all = await Promise.all(Array.from({ length: 100 }, () => openTls(ACME)));
    expect(all.filter(({ authorized }) => authorized)).toHaveLength(100);
    expect(api.shed).toEqual([]);
  });

  it('that wait for their handshake end with a reload and with a stop', async () => {
    await start();
    const waiting = Array.from({ length: 20 }, () => open(ACME));
    await arrived();
    api.server.reload(api.trust());
    await Promise.all(waiting.map(closed));
    const more = Array.from({ length: 20 }, () => open(ACME));
    await arrived();
    await api.server.close();
    await Promise.all(more.map(closed));
  });
});

describe('slow peers', () => {
  const big = { sources: ['x'.repeat(8 << 20)] };

  it('one that does not read its answer is cut', async () => {
    await start({ answerMs: 300 }, () => big);
    const socket = await openTls(ACME);
    socket.pause();
    socket.write(GET);
    await until(() => sheds('answerUnread') === 1);
    expect((await beta({ path: `${GRANTS}/x` })).status).toBe(404);
  });

  it('one that reads it slowly, too, though something moves all the time', async () => {
    await start({ answerMs: 300 }, () => big);
    const socket = await openTls(ACME);
    socket.pause();
    socket.write(GET);
    const sips = setInterval(() => socket.read(1_000), 20);
    await until(() => sheds('answerUnread') === 1);
    clearInterval(sips);
  });

  it('one that asks on and never reads is not read on, and cut', async () => {
    let answered = 0;
    await start({ answerMs: 400 }, () => {
      answered += 1;
      return { sources: ['x'.repeat(4_000)] };
    });
    const socket = await openTls(ACME);
    socket.pause();
    // One after the other, as a pipe would: never many at once.
    const asks = setInterval(() => socket.write(GET.repeat(8)), 1);
    await until(() => api.shed.length > 0);
    clearInterval(asks);
    expect(['answerUnread', 'pipelined']).toContain(api.shed[0]);
    expect(answered).toBeLessThan(2_000); // what the kernel's buffers hold, and no more
  });

  it('one that pipelines more than it may is cut, and what it had under way is given back', async () => {
    const held = await startHeld({ atOnce: 100, underWay: { all: 2_048, least: 16, most: 20 } });
    for (let round = 1; round <= 3; round++) {
      const socket = await openTls(ACME);
      socket.write(GET.repeat(200));
      await closed(socket);
      expect(sheds('pipelined')).toBe(round);
    }
    const asked = Array.from({ length: 20 }, () => acme());
    await until(() => held.begun.length === 3 + 20);
    const last = await acme();
    expect(last.status).toBe(429);
    for (const _ of held.begun) held.release();
    expect((await Promise.all(asked)).map(({ status }) => status)).toEqual(Array(20).fill(200));
  });
});

describe('requests', () => {
  it('of a server beyond its part are refused before their bodies are read; others go on', async () => {
    const held = await startHeld({ underWay: { all: 9, least: 3, most: 3 } });
    const mine = Array.from({ length: 3 }, () => acme());
    await until(() => held.begun.length === 3);
    const socket = await openTls(ACME);
    // The body never comes.
    socket.write(
      `POST ${GRANTS} HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n`,
    );
    const answer = String(await once(socket, 'data'));
    expect(answer).toContain('HTTP/1.1 429 ');
    expect(answer).toMatch(/retry-after: 1\r\n/i);
    expect(answer).toContain('"code":"TOO_MANY_REQUESTS"');
    expect(await api.line('refused', { reason: 'serverBusy' })).toMatchObject({
      step: 'admission',
      server: 'acme-head-end',
    });
    expect((await beta({ path: `${GRANTS}/x` })).status).toBe(404);
    for (let at = 0; at < 3; at++) held.release();
    await Promise.all(mine);
    const again = acme();
    await until(() => held.begun.length === 4);
    held.release();
    expect((await again).status).toBe(200);
  });

  it('are served in turn, whoever has brought how many', async () => {
    const held = await startHeld({ atOnce: 1 });
    const flood = await Promise.all(Array.from({ length: 10 }, () => openTls(ACME)));
    for (const socket of flood) socket.write(GET.repeat(3));
    await arrived();
    const one = beta();
    const another = beta();
    await arrived();
    for (let at = 1; at < 32; at++) {
      held.release();
      await until(() => held.begun.length === at + 1);
    }
    held.release();
    expect([(await one).status, (await another).status]).toEqual([200, 200]);
    // The first was at work, the second next; from then on each had its turn.
    expect(held.begun.slice(0, 6).map((name) => name.slice(0, 4))).toEqual([
      'acme',
      'acme',
      'beta',
      'acme',
      'beta',
      'acme',
    ]);
  });

  it('whose turn does not come in time are told so, and take none', async () => {
    const held = await startHeld({ atOnce: 1, waitMs: 100 });
    const first = acme();
    await until(() => held.begun.length === 1);
    const late = await beta();
    expect([late.status, late.headers['retry-after'], late.body.code]).toEqual([503, '2', 'UNAVAILABLE']);
    held.release();
    expect((await first).status).toBe(200);
    const next = beta();
    await until(() => held.begun.length === 2);
    held.release();
    expect((await next).status).toBe(200);
  });

  it('whose asker has gone before their turn are not done', async () => {
    const held = await startHeld({ atOnce: 1 });
    const first = acme();
    await until(() => held.begun.length === 1);
    const gone = await openTls(BETA, api.clients.beta);
    gone.write(GET);
    await arrived();
    gone.destroy();
    const next = beta();
    await arrived();
    held.release();
    await until(() => held.begun.length === 2);
    held.release();
    expect([(await first).status, (await next).status]).toEqual([200, 200]);
    expect(held.begun).toEqual(['acme-head-end', 'beta']);
  });

  it('that are broken off, in header, body, wait or answer, give back what they had', async () => {
    await start({ requests: { ...requests, atOnce: 2, underWay: { all: 12, least: 4, most: 4 } } }, async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return { sources: ['x'.repeat(100_000)] };
    });
    const post = `POST ${GRANTS} HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n{`;
    for (const text of [GET.slice(0, 40), post, GET, `${GET}${GET}`, `${GET}${post}`]) {
      for (const waitMs of [0, 5, 15, 30]) {
        await Promise.all(
          Array.from({ length: 4 }, async () => {
            const socket = await openTls(ACME);
            socket.write(text);
            await new Promise((resolve) => setTimeout(resolve, waitMs));
            socket.destroy();
          }),
        );
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
    const after = await Promise.all(Array.from({ length: 4 }, () => acme()));
    expect(after.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect((await acme({ method: 'POST', path: GRANTS, body: GOOD })).status).toBe(201);
  });
});

describe('refusals in a flood', () => {
  const log = new KeptLog();
  const clock = new HandClock();
  const told: string[] = [];
  const refuse = refusalRecorder(log, seededRandom(1), clock, ({ reason }, _, how) => told.push(`${reason} ${how}`));
  const times = (count: number, reason: RefusalReason, server: string) =>
    Array.from({ length: count }, () => refuse(reason, { why: '', server }));

  it('that shed load repeat one a second for each asker; of others so many have a line; all are told', () => {
    const [first, ...others] = times(1_000, 'serverBusy', 'a');
    expect(others.every((other) => other === first)).toBe(true);
    expect(times(1, 'serverBusy', 'b')[0]?.instance).not.toBe(first?.instance);
    const many = times(100, 'notFound', 'a');
    expect(new Set(many.map(({ instance }) => instance)).size).toBe(100);
    expect(times(1, 'notFound', 'b')).toHaveLength(1);
    expect(log.lines.map(({ reason, server, leftOut }) => `${reason} ${server} ${leftOut}`)).toEqual([
      'serverBusy a undefined',
      'serverBusy b 999',
      ...Array(49).fill('notFound a undefined'),
      'notFound b 51',
    ]);
    expect(told).toHaveLength(1_102);
    expect(told.filter((how) => how.endsWith('repeated'))).toHaveLength(999);
    expect(told.filter((how) => how.endsWith('leftOut'))).toHaveLength(51);
    clock.pass(1);
    expect(times(1, 'serverBusy', 'a')[0]?.instance).not.toBe(first?.instance);
    expect(log.lines).toHaveLength(53);
  });
});
