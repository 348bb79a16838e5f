/**
 * The names of all counters and gauges, one table, and the loopback page
 * (Prometheus text format) that shows them. Values are read where they are
 * kept, when the page is asked for: nothing is counted twice.
 */
import { createServer, type Server } from 'node:http';
import { Counter, Gauge, Registry } from 'prom-client';
import { AgentError } from './core/errors.ts';
import { type Endpoint, formatEndpoint } from './core/net.ts';
import { DENIAL_REASONS, type RefusalReason } from './core/reasons.ts';
import { PROTOCOLS } from './core/words.ts';
import type { GateCounters } from './dataplane/dataplane.ts';
import type { EndCause } from './grants/lifecycle.ts';

/** Where the values are kept. */
export interface Readings {
  gate(): GateCounters;
  liveGrants(): number;
  restingEndpoints(): number;
  freeEndpoints(family: 'ipv4' | 'ipv6', protocol: 'tcp' | 'udp'): number;
  heartbeatAgeSeconds(): number;
  baseStands(): boolean;
}

export interface Metrics {
  readonly refused: (reason: RefusalReason) => void;
  readonly granted: () => void;
  readonly ended: (cause: EndCause) => void;
  readonly baseRepaired: () => void;
  text(): Promise<string>;
}

export function openMetrics(readings: Readings): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const counter = (name: string, help: string, labels: string[] = []) =>
    new Counter({ name, help, labelNames: labels, registers });
  const gauge = (
    name: string,
    help: string,
    read: (set: (value: number, labels?: Record<string, string>) => void) => void,
    labels: string[] = [],
  ) =>
    new Gauge({
      name,
      help,
      labelNames: labels,
      registers,
      collect() {
        read((value, of) => (of ? this.set(of, value) : this.set(value)));
      },
    });

  gauge(
    'mtgate_packets_total',
    'Packets that the gate carried, passed on or denied, since it was loaded',
    (set) => {
      const { grantedIn, grantedOut, passed, sampled } = readings.gate();
      set(Number(grantedIn.packets), { verdict: 'grantedIn' });
      set(Number(grantedOut.packets), { verdict: 'grantedOut' });
      set(Number(passed.packets), { verdict: 'passed' });
      set(Number(sampled.packets), { verdict: 'sampled' });
    },
    ['verdict'],
  );
  gauge(
    'mtgate_denied_packets_total',
    'Packets that the gate denied, since it was loaded',
    (set) => {
      const { denied } = readings.gate();
      for (const reason of DENIAL_REASONS) set(Number(denied[reason].packets), { reason });
    },
    ['reason'],
  );
  gauge('mtgate_live_grants', 'Grants that are live', (set) => set(readings.liveGrants()));
  gauge('mtgate_resting_endpoints', 'External endpoints at rest after a grant', (set) =>
    set(readings.restingEndpoints()),
  );
  gauge(
    'mtgate_free_endpoints',
    'External endpoints that can be allocated',
    (set) => {
      for (const protocol of PROTOCOLS) set(readings.freeEndpoints('ipv4', protocol), { family: 'ipv4', protocol });
      set(readings.freeEndpoints('ipv6', 'tcp'), { family: 'ipv6', protocol: 'any' });
    },
    ['family', 'protocol'],
  );
  gauge('mtgate_heartbeat_age_seconds', 'Time since the gate last heard the agent', (set) =>
    set(readings.heartbeatAgeSeconds()),
  );
  gauge('mtgate_base_stands', '1 while the nftables base stands as it was applied', (set) =>
    set(readings.baseStands() ? 1 : 0),
  );

  const refused = counter('mtgate_refusals_total', 'Requests that were not granted', ['reason']);
  const granted = counter('mtgate_grants_opened_total', 'Grants opened');
  const ended = counter('mtgate_grants_ended_total', 'Grants ended', ['cause']);
  const baseRepaired = counter('mtgate_base_repairs_total', 'Times the nftables base was found changed and put back');
  return {
    refused: (reason) => refused.inc({ reason }),
    granted: () => granted.inc(),
    ended: (cause) => ended.inc({ cause }),
    baseRepaired: () => baseRepaired.inc(),
    text: () => registry.metrics(),
  };
}

/** Serves the page. @throws AgentError listenFailed */
export function serveMetrics(metrics: Metrics, listen: Endpoint): Promise<Server> {
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end();
      return;
    }
    metrics.text().then(
      (text) => response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text),
      () => response.writeHead(500).end(),
    );
  });
  return new Promise((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new AgentError('listenFailed', `metrics address ${formatEndpoint(listen)}`, { cause })),
    );
    server.listen(listen.port, listen.address.text, () => resolve(server));
  });
}
