/**
 * The pages for those who watch this host, on loopback only: metrics
 * (Prometheus text format), and the two questions of health. `/healthz` asks
 * whether the agent should be restarted, `/readyz` whether it can grant;
 * an agent that is not ready may be quite well, and the gateway closed.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { AgentError } from '../core/errors.ts';
import { type Endpoint, formatEndpoint } from '../core/net.ts';

export interface Pages {
  metrics(): Promise<string>;
  /** Why the agent does not work as it should; undefined where it does. */
  ailing(): string | undefined;
  /** Why no grant can be opened; undefined where one can. */
  notReady(): string | undefined;
}

export interface PageServer {
  /** The port as bound. */
  readonly port: number;
  close(): Promise<void>;
}

/** Serves the pages, until it is closed. @throws AgentError listenFailed */
export async function servePages(listen: Endpoint, pages: Pages): Promise<PageServer> {
  const verdict = (why: string | undefined) => ({ status: why ? 503 : 200, text: `${why ?? 'ok'}\n` });
  const routes: Record<string, () => Promise<{ status: number; text: string }>> = {
    '/metrics': async () => ({ status: 200, text: await pages.metrics() }),
    '/healthz': async () => verdict(pages.ailing()),
    '/readyz': async () => verdict(pages.notReady()),
  };
  const server = createServer((request, response) => {
    const page = routes[request.url ?? ''];
    if (!page) return response.writeHead(404).end();
    if (request.method !== 'GET') return response.writeHead(405, { allow: 'GET' }).end();
    return page()
      .catch((fault) => ({ status: 500, text: `${fault}\n` }))
      .then(({ status, text }) =>
        response.writeHead(status, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text),
      );
  });
  server.listen(listen.port, listen.address.text);
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw new AgentError('listenFailed', `metrics address ${formatEndpoint(listen)}`, { cause });
  }
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
