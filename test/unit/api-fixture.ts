/**
 * The API on loopback with real TLS, as its tests use it: a small PKI, grants
 * in memory behind the API's own interface, a log and a clock to look at.
 */
import { randomBytes, randomInt } from 'node:crypto';
import https from 'node:https';
import type { IdentityPolicy } from '../../agent/api/identity.ts';
import { API_LIMITS, type ApiLimits } from '../../agent/api/limits.ts';
import type { Api, Operation } from '../../agent/api/operation.ts';
import { refusalRecorder } from '../../agent/api/problem.ts';
import { BASE_PATH, type Grant, type GrantsUseCases, operations, type Wait } from '../../agent/api/routes.ts';
import { type ApiServer, startApi } from '../../agent/api/server.ts';
import type { PartySources } from '../../agent/api/sources.ts';
import { readTrust, type Trust } from '../../agent/api/tls.ts';
import type { ShedReason, TlsReason } from '../../agent/core/handshakes.ts';
import { address, contains, prefix } from '../../agent/core/net.ts';
import type { Clock, Log, Random } from '../../agent/core/ports.ts';
import type { Refusal, Refuse } from '../../agent/core/refusals.ts';
import type { Asker, DeviceReference, MtcUserName, ServerName } from '../../agent/core/words.ts';
import { InnerForms } from '../inner-forms.ts';
import { createPki, type Issued, loopbackServer, type Pki, type TestCa } from '../pki.ts';

export const GRANTS = '/mobile-terminated-access/v1/grants';
export const BASE = '/mobile-terminated-access/v1';

export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly [field: string]: unknown;
}

export interface Answered {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked into freely
  readonly body: any;
  /** The client's own: the same again is the same connection. */
  readonly port: number | undefined;
}

export interface Ask {
  readonly method?: string;
  readonly path?: string;
  /** An object is sent as JSON; a string as it is. */
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly client?: Issued | undefined;
  readonly agent?: https.Agent;
  readonly tls?: https.RequestOptions;
}

/** What lies in the files that agent.yaml names. */
export interface Files {
  readonly certificate: string | Buffer;
  readonly key: string | Buffer;
  readonly clientCas: readonly {
    readonly name: string;
    readonly pem: string | Buffer;
    readonly crl?: string | Buffer;
  }[];
  readonly minimumVersion: 'TLSv1.2' | 'TLSv1.3';
}

/** The files as read and checked; named by what they are. */
export function trustOf({ certificate, key, clientCas, minimumVersion }: Files): Trust {
  const read = (file: string, text: string | Buffer) => ({ file, bytes: Buffer.from(text) });
  return readTrust({
    certificate: read('api.crt', certificate),
    key: read('api.key', key),
    clientCas: clientCas.map(({ name, pem, crl }) => ({
      name,
      certificates: read(`${name}.crt`, pem),
      ...(crl !== undefined && { crl: read(`${name}.crl`, crl) }),
    })),
    minimumVersion,
  });
}

export const random: Random = { integer: (below) => randomInt(below), bytes: (count) => randomBytes(count) };

export interface Certificates {
  readonly pki: Pki;
  readonly ca: TestCa;
  readonly other: TestCa;
  /** A CA that has expired. */
  readonly past: TestCa;
  readonly api: Issued;
  readonly clients: ReturnType<typeof issueClients>;
}

function makeCertificates(): Certificates {
  const pki = createPki();
  const ca = pki.ca('mtc-ca');
  const other = pki.ca('other-ca');
  const past = pki.ca('past-ca', { notBefore: new Date(0), notAfter: new Date(Date.now() - 3_600_000) });
  return { pki, ca, other, past, api: loopbackServer(ca), clients: issueClients(ca, other, past) };
}

/** The clients every test may use, by what is special about them. */
function issueClients(ca: TestCa, other: TestCa, past: TestCa) {
  const san = ['URI:urn:mtc:acme:head-end'];
  const long = ['one', 'two', 'three', 'four', 'five'].reduce<readonly [TestCa, ...TestCa[]]>(
    ([top, ...above], name) => [top.intermediate(name), top, ...above],
    [ca],
  );
  const deep = long[0].issue({ name: 'deep', san });
  const server = (name: string, uri: string) => ca.issue({ name, san: [`URI:${uri}`] });
  const yesterday = new Date(Date.now() - 86_400_000 / 2);
  return {
    early: ca.issue({ name: 'early', san, notBefore: new Date(Date.now() + 86_400_000) }),
    selfSigned: ca.issue({ name: 'self-signed', san, selfSigned: true }),
    deep,
    deepChain: [deep, ...long].map(({ certificate }) => certificate).join(''),
    nameless: ca.issue({ name: 'nameless' }),
    ofPast: past.issue({ name: 'of-past', san }),
    acme: server('acme', 'urn:mtc:acme:head-end'),
    beta: server('beta', 'urn:mtc:beta'),
    faraway: server('faraway', 'urn:mtc:faraway'),
    both: ca.issue({ name: 'both', san: ['URI:urn:mtc:acme:head-end', 'URI:urn:mtc:beta'] }),
    tenant: server('tenant', 'urn:mtc-user:acme'),
    stranger: server('stranger', 'urn:mtc:stranger'),
    expired: ca.issue({ name: 'expired', san: ['URI:urn:mtc:acme:head-end'], notAfter: yesterday }),
    anyUse: ca.issue({ name: 'any-use', san: ['URI:urn:mtc:acme:head-end'], usage: [] }),
    forServers: ca.issue({ name: 'for-servers', san: ['URI:urn:mtc:acme:head-end'], usage: ['serverAuth'] }),
    injected: ca.issue({
      name: 'injected',
      san: ['DNS:x", URI:urn:mtc:acme:head-end', 'URI:urn:x, URI:urn:mtc:acme:head-end'],
    }),
    wrongCa: other.issue({ name: 'wrong-ca', san: ['URI:urn:mtc:acme:head-end'] }),
  };
}

/** Where they ask from: two share an address; the rest of loopback is strangers'. */
const SOURCES: PartySources = new Map(
  Object.entries({
    'acme-head-end': ['127.0.0.1/32', '127.0.1.0/24'],
    beta: ['127.0.0.1/32', '127.0.2.0/24'],
    faraway: ['198.51.100.0/24'],
  }).map(([name, sources]) => [name, { apiSources: sources.map(prefix) }]),
);

const INNER = new InnerForms(['10.20.0.0/16', 'fd00:20::/48'], ['10.20.0.2', '10.20.0.9']);

/** Who is who by URI. */
export const identity: IdentityPolicy = {
  identify({ uris, issuer }) {
    if (issuer !== 'mtc-ca') return 'certificateUnknown';
    if (uris.includes('urn:mtc-user:acme')) return { role: 'mtcUser', name: 'acme' as MtcUserName };
    const names = { 'urn:mtc:acme:head-end': 'acme-head-end', 'urn:mtc:beta': 'beta', 'urn:mtc:faraway': 'faraway' };
    const found = Object.entries(names).filter(([uri]) => uris.includes(uri));
    if (found.length > 1) return 'certificateAmbiguous';
    return found[0] ? { role: 'server', name: found[0][1] as ServerName } : 'certificateUnknown';
  },
  sourceAllowed: ({ role, name }, from) =>
    role === 'mtcUser' || (SOURCES.get(name)?.apiSources.some((source) => contains(source, from)) ?? false),
  parties: () => SOURCES,
};

/** Grants in memory: device m1 is acme's, m2 is another tenant's, m3 is not bound. No policy, no endpoints, no end. */
function fakeGrants(refuse: Refuse, clock: Clock, asked: Asker[]): GrantsUseCases {
  const grants = new Map<string, Grant & { server: ServerName }>();
  const waiting = new Map<string, Wait>();
  const nameOf = (device: DeviceReference | undefined) => Object.values(device ?? {}).join();
  const own = (server: ServerName, id: string): (Grant & { server: ServerName }) | Refusal => {
    const grant = grants.get(id);
    return grant?.server === server ? grant : refuse('grantNotFound', { why: grant ? 'of another' : 'never was' });
  };
  return {
    async request(who, ask, waits) {
      asked.push(who);
      const device = nameOf(ask.device);
      if (device === 'm3@meters.acme.example') {
        if (waits === undefined) return refuse('deviceUnreachable', { why: 'not bound' });
        const id = `01JZ8Q4X9T5E2V7M3K6B0N1W${String(waiting.size).padStart(2, '0')}`;
        const requestedAtMs = clock.nowMs();
        const wait: Wait = {
          id,
          device: ask.device,
          applicationServer: ask.applicationServer ?? { address: who.requestAddress },
          ...{ protocol: ask.protocol, devicePort: ask.devicePort, family: 'ipv4', status: 'WAITING' },
          ...{ requestedAtMs, waitsUntilMs: requestedAtMs + waits.seconds * 1000 },
        };
        waiting.set(id, wait);
        return wait;
      }
      if (ask.sink !== undefined) return refuse('sinkNotAllowed', { why: 'no sinks' });
      if (device === 'm2@meters.acme.example') return refuse('notAuthorisedByMtcUser', { why: 'not authorised' });
      if (device !== 'm1@meters.acme.example' && device !== '+12025550142') {
        return refuse('deviceUnknown', { why: 'no such device' });
      }
      const equal = [...grants.values()].find(
        (grant) => grant.server === who.name && grant.status === 'LIVE' && grant.devicePort === ask.devicePort,
      );
      if (equal) return refuse('alreadyExists', { why: 'equal', members: { grantId: equal.id } });
      const id = `01JZ8Q4X9T5E2V7M3K6B0N1R${String(grants.size).padStart(2, '0')}`;
      const startedAtMs = clock.nowMs();
      const grant = {
        id,
        server: who.name,
        device: ask.device,
        externalEndpoint: { address: address('203.0.113.20'), port: 34_117 },
        applicationServer: ask.applicationServer ?? { address: who.requestAddress },
        protocol: ask.protocol,
        devicePort: ask.devicePort,
        status: 'LIVE' as const,
        startedAtMs,
        expiresAtMs: startedAtMs + ask.durationSeconds * 1000,
        limits: { packetsPerSecond: 50, bytes: 10_000_000 },
      };
      grants.set(id, grant);
      return grant;
    },
    show: (who, id) => waiting.get(id) ?? own(who.name, id),
    async extend(who, id, durationSeconds) {
      const grant = own(who.name, id);
      if ('reason' in grant) return grant;
      if (grant.status === 'ENDED') {
        return refuse('grantEnded', { why: 'ended', members: { endCause: 'ENDED_BY_SERVER' } });
      }
      const extended = { ...grant, expiresAtMs: clock.nowMs() + durationSeconds * 1000 };
      grants.set(id, extended);
      return extended;
    },
    async end(who, id) {
      const wait = waiting.get(id);
      if (wait) {
        waiting.set(id, { ...wait, status: 'ENDED', endedAtMs: clock.nowMs(), endCause: 'outsideHours' });
        return {};
      }
      const grant = own(who.name, id);
      if ('reason' in grant) return grant;
      const ended = { ...grant, status: 'ENDED' as const, endedAtMs: clock.nowMs(), endCause: 'endedByServer' };
      grants.set(id, ended);
      return ended;
    },
    list(who, { device, perPage, seek = '0' }) {
      const from = Number(seek);
      if (!Number.isInteger(from)) return 'seekUnknown';
      const own: (Grant | Wait)[] = [...waiting.values()].filter(({ status }) => status === 'WAITING');
      own.push(
        ...[...grants.values()].filter(
          (grant) =>
            grant.server === who.name &&
            grant.status === 'LIVE' &&
            (!device || nameOf(device) === nameOf(grant.device)),
        ),
      );
      const end = from + perPage;
      return { grants: own.slice(from, end), total: own.length, ...(end < own.length && { lastKey: String(end) }) };
    },
    limits: () => ({
      sources: [prefix('127.0.0.0/8'), prefix('2001:db8:51::/48')],
      maxDurationSeconds: 900,
      maxTotalSeconds: 3600,
      grantsPerDevice: 2,
      liveGrants: grants.size,
      waitingGrants: 0,
      requestsInLastMinute: 1,
      generation: 'g1',
    }),
    follow: () => () => () => {},
    signingKey: undefined,
  };
}

export class ApiFixture {
  readonly certificates: Certificates;
  readonly lines: LogLine[] = [];
  /** Who asked for grants. */
  readonly asked: Asker[] = [];
  readonly handshakes: { readonly reason: TlsReason; readonly remote: string | undefined }[] = [];
  readonly shed: ShedReason[] = [];
  /** Added to the host's clock. */
  aheadMs = 0;
  readonly clock: Clock = {
    nowMs: () => Date.now() + this.aheadMs,
    monotonicNs: () => process.hrtime.bigint(),
    boottimeNs: () => process.hrtime.bigint(),
  };
  readonly log: Log = Object.fromEntries(
    ['debug', 'info', 'warn', 'error'].map((level) => [
      level,
      (fields: object, event: string) => this.lines.push({ level, event, ...fields }),
    ]),
  ) as unknown as Log;
  readonly refuse = refusalRecorder(this.log, random, this.clock);
  readonly grants = fakeGrants(this.refuse, this.clock, this.asked);
  server!: ApiServer;

  /** A PKI takes half a second, so a second server takes the first one's. */
  constructor(shared?: ApiFixture) {
    this.certificates = shared?.certificates ?? makeCertificates();
  }

  get clients(): Certificates['clients'] {
    return this.certificates.clients;
  }

  get ca(): TestCa {
    return this.certificates.ca;
  }

  trust(over: Partial<Files> = {}): Trust {
    return trustOf({
      certificate: this.certificates.api.certificate,
      key: this.certificates.api.key,
      clientCas: [{ name: 'mtc-ca', pem: this.ca.certificate }],
      minimumVersion: 'TLSv1.3',
      ...over,
    });
  }

  /** `table` is the operations of grants, unless a test has others; `more` are further APIs. */
  async start(
    over: Partial<Files> = {},
    limits: Partial<ApiLimits> = {},
    table: Record<string, Operation> = operations(this.grants, this.refuse, this.clock),
    more: readonly Api[] = [],
  ) {
    const { refuse, clock, log } = this;
    const listen = { address: address('127.0.0.1'), port: 0 };
    const refusedHandshake = (reason: TlsReason, remote?: string) => this.handshakes.push({ reason, remote });
    const shedConnection = (reason: ShedReason) => this.shed.push(reason);
    const streamCut = () => {};
    const parts = { identity, refuse, refusedHandshake, shedConnection, streamCut, clock, random, log };
    const apis: Api[] = [{ contract: 'openapi.yaml', basePath: BASE_PATH, role: 'server', operations: table }, ...more];
    this.server = await startApi(listen, this.trust(over), parts, apis, limits);
    return this.server;
  }

  async stop(): Promise<void> {
    await this.server?.close();
    this.certificates.pki.remove();
  }

  get port(): number {
    return this.server.endpoint.port;
  }

  /** TLS options of a client: acme, unless another is named; `client: undefined` has no certificate. */
  tls(client: Issued | undefined = this.clients.acme): https.RequestOptions {
    const own = client ? { cert: client.certificate, key: client.key } : {};
    return { host: '127.0.0.1', port: this.port, ca: this.ca.certificate, ...own };
  }

  ask({ method = 'GET', path = GRANTS, body, headers = {}, agent, tls = {}, ...who }: Ask): Promise<Answered> {
    const payload = typeof body === 'string' ? body : body === undefined ? undefined : JSON.stringify(body);
    const type: Record<string, string> = payload === undefined ? {} : { 'content-type': 'application/json' };
    const client = 'client' in who ? who.client : this.clients.acme;
    const own = client ? { cert: client.certificate, key: client.key } : { cert: undefined, key: undefined };
    return new Promise((resolve, reject) => {
      const request = https.request(
        {
          ...this.tls(),
          ...own,
          agent: agent ?? false,
          method,
          path,
          headers: { ...type, ...headers },
          ...tls,
        } as https.RequestOptions,
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          const port = response.socket.localPort;
          response.on('end', () => {
            const text = Buffer.concat(chunks).toString();
            // Whatever is asked and answered: no inner address of the gateways that stand behind this API in tests.
            const inner = INNER.find(Buffer.from(`${JSON.stringify(response.headers)}\n${text}`));
            if (inner && !`${path}${payload}`.includes('10.20.')) reject(new Error(`an answer shows ${inner}`));
            const isJson = String(response.headers['content-type']).includes('json');
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              text,
              port,
              body: isJson && text ? JSON.parse(text) : undefined,
            });
          });
        },
      );
      request.on('error', reject);
      request.end(payload);
    });
  }

  /** The log line of this event, waited for: a failed handshake is known to the client first. */
  async line(event: string, where: Record<string, unknown> = {}): Promise<LogLine> {
    for (let wait = 0; wait < 100; wait++) {
      const found = this.lines.find(
        (line) => line.event === event && Object.entries(where).every(([field, value]) => line[field] === value),
      );
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error(`no line ${event} ${JSON.stringify(where)} in ${JSON.stringify(this.lines)}`);
  }
}

/** For tests that knock more often than a server may. */
export const MANY_HANDSHAKES: Partial<ApiLimits> = {
  connections: {
    ...API_LIMITS.connections,
    serverHandshakes: { all: 100_000, least: 100_000, most: 100_000 },
    serverPlaces: { all: 10_000, least: 10_000, most: 10_000 },
  },
};

/** A request that is granted. */
export const GOOD = {
  device: { networkAccessIdentifier: 'm1@meters.acme.example' },
  protocol: 'UDP',
  devicePort: 5683,
  durationSeconds: 600,
};
