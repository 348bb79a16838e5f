/**
 * The APIs on loopback with real TLS over a gateway without a kernel: two MTC
 * servers and two MTC users, each with its certificate, each with its devices.
 */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import https from 'node:https';
import { MTC_USER_BASE_PATH, mtcUserApi } from '../agent/api/mtc-user-routes.ts';
import { reportOperations } from '../agent/api/report-routes.ts';
import { grantsApi } from '../agent/api/routes.ts';
import { startApi } from '../agent/api/server.ts';
import { address, contains, prefix } from '../agent/core/net.ts';
import type { ExternalId } from '../agent/core/words.ts';
import { Denials } from '../agent/inspector/denials.ts';
import type { Spaces } from '../agent/reports/reports.ts';
import { DeskClerk } from '../agent/use-cases/desk-clerk.ts';
import { identityPolicy } from '../agent/use-cases/identity-policy.ts';
import { mtcUserUseCases } from '../agent/use-cases/mtc-user.ts';
import { reportUseCases } from '../agent/use-cases/reports.ts';
import { serverUseCases } from '../agent/use-cases/servers.ts';
import { inner, TestGateway } from './gateway.ts';
import type { Issued } from './pki.ts';
import { digest } from './rules.ts';
import { type Answered, ApiFixture, MANY_HANDSHAKES, random } from './unit/api-fixture.ts';

const RULES = `
servers:
  head-end: { certificates: [{ uri: "urn:mtc:head-end" }], sources: [198.51.100.0/24], apiSources: [127.0.0.1/32] }
  tariffs: { certificates: [{ uri: "urn:mtc:tariffs" }], sources: [192.0.2.0/24], apiSources: [127.0.0.1/32] }
  rival-head: { certificates: [{ uri: "urn:mtc:rival" }], sources: [203.0.113.128/25], apiSources: [127.0.0.1/32] }
mtcUsers:
  acme: { certificates: [{ uri: "urn:mtc-user:acme" }], devices: ["*@meters.example", "*@*.acme.example"], authorises: [head-end], mayAuthorise: [head-end, "tar*"] }
  rival: { certificates: [{ uri: "urn:mtc-user:rival" }], devices: ["*@rival.example"], authorises: [rival-head, head-end] }
rules:
  - { id: secret-rule, allow: { ports: [5683, "7000-7010"] }, limits: { durationSeconds: 900 } }
`;

export const M1 = 'm1@meters.example' as ExternalId;
export const M2 = 'm2@meters.example' as ExternalId;
export const R1 = 'r1@rival.example' as ExternalId;
const registered = (externalId: string) => ({ device: { externalId: externalId as ExternalId }, bindings: [] });
const DEVICES = [
  {
    device: { externalId: M1, msisdn: '491715550100' as never, imsi: '262010000000001' as never },
    bindings: [inner('10.20.0.2')],
  },
  registered(M2),
  registered('pump@site.acme.example'),
  { device: { externalId: R1 }, bindings: [inner('10.20.0.9')] },
];

const SPACES: Spaces = {
  isInner: (one) => contains(prefix('10.20.0.0/16'), one),
  isExternal: (one) => contains(prefix('203.0.113.0/30'), one),
};

const SERVERS = {
  'head-end': ['urn:mtc:head-end', '198.51.100.10'],
  tariffs: ['urn:mtc:tariffs', '192.0.2.10'],
  'rival-head': ['urn:mtc:rival', '203.0.113.130'],
} as const;
const USERS = { acme: 'urn:mtc-user:acme', rival: 'urn:mtc-user:rival' } as const;
type UserName = keyof typeof USERS;
type ServerName = keyof typeof SERVERS;

export class Tenants {
  #rows = 0;
  readonly api = new ApiFixture();
  readonly gateway = new TestGateway();
  readonly users: Readonly<Record<UserName, Issued>>;
  /** Readers of streams that did not keep up. */
  cuts = 0;
  /** Who was turned away. */
  readonly denials = new Denials(this.gateway.clock, () => `row-${++this.#rows}`);
  readonly #servers: Readonly<Record<ServerName, Issued>>;

  constructor() {
    const issue = (name: string, uri: string) => this.api.ca.issue({ name, san: [`URI:${uri}`] });
    this.users = { acme: issue('user-acme', USERS.acme), rival: issue('user-rival', USERS.rival) };
    const of = (name: ServerName) => issue(name, SERVERS[name][0]);
    this.#servers = { 'head-end': of('head-end'), tariffs: of('tariffs'), 'rival-head': of('rival-head') };
  }

  async start(): Promise<void> {
    await this.gateway.start(RULES, DEVICES);
    const { ground, grants, extensions, registry, desk, events } = this.gateway;
    const { denials } = this;
    const account = () => ({ seen: 12, inspected: 5, unsampled: 4, lost: 3 });
    const reports = reportUseCases({ denials, account, sinceMs: 0, spaces: SPACES, signingKey: undefined });
    const clerk = new DeskClerk(desk, ground, digest);
    const apis = [
      grantsApi(serverUseCases(ground, grants, extensions, events, undefined, digest), ground.refuse, ground.clock),
      mtcUserApi(
        mtcUserUseCases(ground, grants, registry, clerk),
        ground.refuse,
        reportOperations(reports, ground.refuse),
      ),
    ];
    const { clock, log } = this.api;
    const parts = {
      ...{ identity: identityPolicy(grants), refuse: ground.refuse, clock, random, log },
      refusedHandshake: () => {},
      shedConnection: () => {},
      streamCut: () => {
        this.cuts += 1;
      },
    };
    this.api.server = await startApi(
      { address: address('127.0.0.1'), port: 0 },
      this.api.trust(),
      parts,
      apis,
      MANY_HANDSHAKES,
    );
  }

  stop(): Promise<void> {
    return this.api.stop();
  }

  /** An MTC user asks. */
  as(
    user: UserName,
    method: string,
    path: string,
    body?: unknown,
    more: { headers?: Record<string, string>; agent?: https.Agent } = {},
  ): Promise<Answered> {
    return this.api.ask({ method, path: `${MTC_USER_BASE_PATH}${path}`, body, client: this.users[user], ...more });
  }

  /** An MTC user begins to read what has no end. */
  stream(user: UserName, path: string, headers: Readonly<Record<string, string>>) {
    const tls = this.api.tls(this.users[user]);
    const request = https.request({ ...tls, agent: false, path: `${MTC_USER_BASE_PATH}${path}`, headers });
    const opened = once(request, 'response').then(([response]) => response as IncomingMessage);
    request.on('error', () => {}).end();
    return { request, opened };
  }

  /** A server asks for a grant, for packets from its own address. */
  request(server: ServerName, device: string, more: object = {}): Promise<Answered> {
    const body = {
      ...{ device: { networkAccessIdentifier: device }, applicationServer: { address: SERVERS[server][1] } },
      ...{ protocol: 'UDP', devicePort: 5683, durationSeconds: 600, ...more },
    };
    return this.api.ask({
      ...{ method: 'POST', path: '/mobile-terminated-access/v1/grants', body },
      client: this.#servers[server],
    });
  }

  /** The id of a grant, or of a request that waits. */
  async open(server: ServerName, device: string, more: object = {}): Promise<string> {
    const { status, body } = await this.request(server, device, more);
    if (status !== 201 && status !== 202) throw new Error(JSON.stringify(body));
    return body.grantId;
  }
}
