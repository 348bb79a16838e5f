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
  closed(): boolean;
  draining(): boolean;
}

export interface Metrics {
  readonly refused: (reason: RefusalReason) => void;
  readonly granted: () => void;
  readonly ended: (cause: EndCause) => void;
  readonly gapFound: () => void;
  text(): Promise<string>;
}

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [number, Labels?];

export function openMetrics(readings: Readings): Metrics {
  const registry = new Registry();
  const registers = [registry];
  /** A metric of values that are kept elsewhere. */
  const read = (
    Kind: typeof Gauge | typeof Counter,
    name: string,
    help: string,
    samples: () => readonly Sample[],
    labelNames: string[] = [],
  ) =>
    new Kind({
      name,
      help,
      labelNames,
      registers,
      collect() {
        this.reset();
        for (const [value, labels = {}] of samples()) this.inc(labels, value);
      },
    });
  /** A counter that is kept here. */
  const count = (name: string, help: string, labelNames: string[] = []) =>
    new Counter({ name, help, labelNames, registers });

  read(
    Counter,
    'mtgate_packets_total',
    'Packets that the gate carried, passed on to the base, or handed on to be looked at',
    () => {
      const counters = readings.gate();
      const verdicts = ['grantedIn', 'grantedOut', 'passed', 'sampled'] as const;
      return verdicts.map((verdict) => [Number(counters[verdict].packets), { verdict }]);
    },
    ['verdict'],
  );
  read(
    Counter,
    'mtgate_denied_packets_total',
    'Packets that the gate denied',
    () => {
      const { denied } = readings.gate();
      return DENIAL_REASONS.map((reason) => [Number(denied[reason].packets), { reason }]);
    },
    ['reason'],
  );
  read(Gauge, 'mtgate_live_grants', 'Grants that are live', () => [[readings.liveGrants()]]);
  read(Gauge, 'mtgate_resting_endpoints', 'External endpoints at rest', () => [[readings.restingEndpoints()]]);
  read(
    Gauge,
    'mtgate_free_endpoints',
    'External endpoints that can be allocated; of IPv6 either protocol takes from one supply',
    () => [
      ...PROTOCOLS.map((protocol): Sample => [readings.freeEndpoints('ipv4', protocol), { family: 'ipv4', protocol }]),
      [readings.freeEndpoints('ipv6', 'tcp'), { family: 'ipv6', protocol: 'any' }],
    ],
    ['family', 'protocol'],
  );
  read(Gauge, 'mtgate_heartbeat_age_seconds', 'Time since the gate last heard the agent', () => [
    [readings.heartbeatAgeSeconds()],
  ]);
  read(Gauge, 'mtgate_closed', '1 while gate and base are in place', () => [[readings.closed() ? 1 : 0]]);
  read(Gauge, 'mtgate_draining', '1 while the operator wants no new grants', () => [[readings.draining() ? 1 : 0]]);

  const refused = count('mtgate_refusals_total', 'Requests that were not granted', ['reason']);
  const granted = count('mtgate_grants_opened_total', 'Grants opened');
  const ended = count('mtgate_grants_ended_total', 'Grants ended', ['cause']);
  const gaps = count('mtgate_gaps_total', 'Times gate or base were found missing or changed, and put back');
  return {
    refused: (reason) => refused.inc({ reason }),
    granted: () => granted.inc(),
    ended: (cause) => ended.inc({ cause }),
    gapFound: () => gaps.inc(),
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
