/** The pages for those who watch the host: who is asked what, and what a watcher's probe sees. */
import { afterEach, expect, test } from 'vitest';
import { type PageServer, type Pages, servePages } from '../../agent/api/loopback.ts';
import { address } from '../../agent/core/net.ts';

const quiet: Pages = { metrics: async () => 'mtgate_closed 1\n', ailing: () => undefined, notReady: () => undefined };
const anyPort = { address: address('127.0.0.1'), port: 0 };
let server: PageServer | undefined;
afterEach(() => server?.close());

async function serve(pages: Partial<Pages>): Promise<(path: string, method?: string) => Promise<[number, string]>> {
  server = await servePages(anyPort, { ...quiet, ...pages });
  const { port } = server;
  return async (path, method = 'GET') => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method });
    return [answer.status, await answer.text()];
  };
}

test('a well agent that can grant', async () => {
  const ask = await serve({});
  expect(await ask('/metrics')).toEqual([200, 'mtgate_closed 1\n']);
  expect(await ask('/healthz')).toEqual([200, 'ok\n']);
  expect(await ask('/readyz')).toEqual([200, 'ok\n']);
});

test('not ready is not ailing: whoever restarts it for that would make it worse', async () => {
  const ask = await serve({ notReady: () => 'the base does not stand' });
  expect(await ask('/readyz')).toEqual([503, 'the base does not stand\n']);
  expect(await ask('/healthz')).toEqual([200, 'ok\n']);
});

test('ailing says why', async () => {
  const ask = await serve({ ailing: () => 'no heartbeat for 12 s' });
  expect(await ask('/healthz')).toEqual([503, 'no heartbeat for 12 s\n']);
});

test('metrics that fail are an error of that page alone', async () => {
  const ask = await serve({ metrics: () => Promise.reject(new Error('the gate is closed')) });
  expect(await ask('/metrics')).toEqual([500, 'Error: the gate is closed\n']);
  expect(await ask('/healthz')).toEqual([200, 'ok\n']);
});

test('no other page, and nothing but GET', async () => {
  const ask = await serve({});
  expect((await ask('/'))[0]).toBe(404);
  expect((await ask('/__proto__'))[0]).toBe(404);
  expect((await ask('/metrics', 'POST'))[0]).toBe(405);
});

test('an address that is in use is said to be', async () => {
  await serve({});
  const taken = servePages({ ...anyPort, port: server?.port ?? 0 }, quiet);
  await expect(taken).rejects.toMatchObject({
    code: 'listenFailed',
    message: `metrics address 127.0.0.1:${server?.port}`,
  });
});
