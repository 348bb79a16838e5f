/** What happens below HTTP, and at its edges: the process lives, and a peer that can read gets an answer. */
import { randomBytes, randomInt } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { API_LIMITS } from '../../agent/api/limits.ts';
import { SparingLog } from '../../agent/api/sparing-log.ts';
import { ApiFixture, BASE, GRANTS } from './api-fixture.ts';

const api = new ApiFixture();
const connections = {
  ...API_LIMITS.connections,
  serverPlaces: { all: 120, least: 40, most: 40 },
  sparePlaces: 0,
  serverHandshakes: { all: 3_000, least: 1_000, most: 1_000 },
  overtakenMs: 60_000,
};
beforeAll(() => api.start({}, { handshakeMs: 1_500, headerMs: 600, requestMs: 1_200, connections }));
afterAll(() => api.stop());
beforeEach(() => {
  api.lines.splice(0);
  api.aheadMs += 1_000; // so that no test has spent the next one's log lines of a second
});

/** Sends text over TLS and gives all that comes back until the other side closes. */
function wire(...pieces: (string | Buffer)[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect(api.tls() as tls.ConnectionOptions);
    let answer = '';
    socket.setEncoding('utf8');
    socket.on('data', (text) => {
      answer += text;
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
    socket.on('secureConnect', () => {
      for (const piece of pieces) socket.write(piece);
    });
  });
}

function problemIn(answer: string): { status: number; code: string } {
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  expect(head).toMatch(/content-type: application\/problem\+json/i);
  const { status, code } = JSON.parse(body);
  expect(head).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  return { status, code };
}

const alive = async () => expect((await api.ask({ path: `${BASE}/limits` })).status).toBe(200);
const get = (headers: string, version = '1.1') => `GET ${BASE}/limits HTTP/${version}\r\n${headers}\r\n`;

describe('HTTP at its edges', () => {
  it.each([
    ['no HTTP at all', 'hello\r\n\r\n', 400],
    ['a header without a colon', get('Host: a.example\r\nnonsense\r\n'), 400],
    [
      'both lengths',
      `POST ${GRANTS} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n`,
      400,
    ],
    [
      'two lengths',
      `POST ${GRANTS} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n`,
      400,
    ],
    ['no Host', get('Connection: close\r\n'), 400],
    ['two Hosts', get('Host: a.example\r\nHost: b.example\r\nConnection: close\r\n'), 400],
    ['a header too large', get(`Host: a.example\r\nX: ${'x'.repeat(9_000)}\r\n`), 431],
    ['an unknown method', `BREW ${GRANTS} HTTP/1.1\r\nHost: a.example\r\n\r\n`, 400],
  ])('%s', async (_what, text, status) => {
    const answer = await wire(text);
    expect(problemIn(answer).status).toBe(status);
    const line = await api.line('refused');
    expect(answer.toLowerCase()).toContain(`x-correlator: ${line['correlator']}`);
    await alive();
  });

  it('HTTP/1.0 needs no Host', async () => {
    expect(await wire(get('', '1.0'))).toContain('200 OK');
  });

  it('the absolute form, an expectation nobody knows, an upgrade', async () => {
    const close = 'Host: a.example\r\nConnection: close\r\n';
    expect(await wire(`GET https://a.example${BASE}/limits HTTP/1.1\r\n${close}\r\n`)).toContain('200 OK');
    expect(problemIn(await wire(`GET https://a.example${GRANTS}?x HTTP/1.1\r\n${close}\r\n`)).status).toBe(405);
    expect(await wire(get(`${close}Expect: wonders\r\n`))).toContain('200 OK');
    expect(await wire(get('Host: a.example\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n'))).toContain('200 OK');
  });
});

describe('what is too much', () => {
  const head = `POST ${GRANTS} HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\n`;

  it('a body that says so is answered before it is read, and the connection stays', async () => {
    const first = `${head}Content-Length: 1000000\r\n\r\n`;
    const answer = await wire(first, Buffer.alloc(1_000_000, 0x20), get('Host: a.example\r\nConnection: close\r\n'));
    expect(answer).toContain('413 ');
    expect(answer).toContain('200 OK');
  });

  it('a body that grows is answered when it is too much', async () => {
    const chunk = `1000\r\n${' '.repeat(0x1000)}\r\n`;
    const answer = await wire(
      `${head}Transfer-Encoding: chunked\r\n\r\n`,
      ...Array(10).fill(chunk),
      '0\r\n\r\n',
      get('Host: a.example\r\nConnection: close\r\n'),
    );
    expect(answer).toContain('413 ');
    expect(answer).toContain('200 OK');
  });

  it('a body without end is cut', async () => {
    expect(await wire(`${head}Transfer-Encoding: chunked\r\n\r\n`, '3000\r\n', ' '.repeat(10_000))).toContain('408 ');
    expect(await wire(`${head}Content-Length: 1000000\r\n\r\n`)).toContain('413 ');
  });

  it('a header that comes a byte at a time is cut', async () => {
    const started = Date.now();
    const answer = await new Promise<string>((resolve) => {
      const socket = tls.connect(api.tls() as tls.ConnectionOptions);
      let read = '';
      const drip = setInterval(() => socket.write('x'), 50);
      socket.write('GET /');
      socket.on('data', (text) => {
        read += text;
      });
      socket.on('error', () => {});
      socket.on('close', () => {
        clearInterval(drip);
        resolve(read);
      });
    });
    expect(problemIn(answer)).toEqual({ status: 408, code: 'REQUEST_TIMEOUT' });
    expect(Date.now() - started).toBeLessThan(5_000);
    await api.line('refused', { reason: 'requestTooSlow' });
  });

  it('a handshake that does not come is cut', async () => {
    await closed(net.connect(api.port, '127.0.0.1'));
    await api.line('tlsRefused', { reason: 'tlsTimeout' });
  });

  it('connections of a server are counted, and those that closed are not', async () => {
    const open = Array.from({ length: 45 }, () => net.connect(api.port, '127.0.0.1'));
    await Promise.all(open.slice(40).map(closed));
    expect(api.lines.filter(({ reason }) => reason === 'serverPlaces')).toHaveLength(5);
    for (const socket of open) socket.destroy();
    await Promise.all(open.map(closed));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await alive();
  });
});

it('200 connections of garbage, before and after the handshake, end nothing but themselves', async () => {
  for (let round = 0; round < 10; round++) {
    await Promise.all(
      Array.from({ length: 20 }, async (_, at) => {
        const garbage = randomBytes(randomInt(1, 3_000));
        if (at % 2 === 0) {
          const socket = net.connect(api.port, '127.0.0.1', () => socket.end(garbage));
          return closed(socket);
        }
        const mixed = at % 4 === 1 ? [garbage] : [get('Host: a.example\r\n'), garbage, get('Host: a.example\r\n')];
        await Promise.race([wire(...mixed).catch(() => ''), new Promise((resolve) => setTimeout(resolve, 1_500))]);
      }),
    );
  }
  await alive();
  const handshakes = api.lines.filter(({ event }) => event === 'tlsRefused');
  expect(handshakes.length).toBeGreaterThan(0);
  // No more than 20 lines a second, and the rest counted.
  expect(handshakes.length).toBeLessThanOrEqual(100);
}, 30_000);

it('lines that anybody can cause are few, and say how many there were', () => {
  const written: object[] = [];
  const keep = (fields: object) => void written.push(fields);
  let nowMs = 1_000;
  const clock = { ...api.clock, nowMs: () => nowMs };
  const sparing = new SparingLog({ debug: keep, info: keep, warn: keep, error: keep }, clock);
  for (let i = 0; i < 100; i++) sparing.info({ i }, 'tlsRefused');
  expect(written).toHaveLength(20);
  nowMs = 2_000;
  sparing.info({ i: 'next' }, 'tlsRefused');
  sparing.info({ i: 'after' }, 'tlsRefused');
  expect(written.slice(20)).toEqual([{ i: 'next', leftOut: 80 }, { i: 'after' }]);
});

function closed(socket: net.Socket): Promise<void> {
  socket.on('error', () => {});
  socket.resume();
  return new Promise((resolve) => {
    if (socket.destroyed) resolve();
    else socket.once('close', () => resolve());
  });
}
