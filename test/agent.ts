/**
 * The real agent on the gateway of the standard network: its files in a
 * folder of its own, the daemon from dist/ as a process in the namespace, real
 * `curl` as MTC server, real `mtgate` as operator. For the end-to-end tests
 * and the demo.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MTC_USER_BASE_PATH } from '../agent/api/mtc-user-routes.ts';
import { BASE_PATH } from '../agent/api/routes.ts';
import { call } from '../agent/cli/client.ts';
import type { Status } from '../agent/use-cases/status.ts';
import { type Child, PATIENCE_MS, ROOT } from './child.ts';
import type { Network } from './network.ts';
import { createPki, type Issued, type TestCa } from './pki.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GATEWAY,
  GRANTS_POOL,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  ROGUE,
  SERVER_PREFIX,
} from './standard-network.ts';

export const API_PORT = 8443;
/** A start is a second or two of work for a processor, which other files may want at the same time. */
export const START_MS = 3 * PATIENCE_MS;
export const DEVICE_NAME = 'm1@meters.example';
export const DEVICE_PORT = 7000;

export const RULES = `
servers:
  head-end:
    certificates: [{ uri: "urn:mtc:head-end", issuer: mtc-ca }]
    sources: [${SERVER_PREFIX.ipv4}, "${SERVER_PREFIX.ipv6}"]
  stranger:                       # known to the operator, authorised by nobody
    certificates: [{ uri: "urn:mtc:stranger", issuer: mtc-ca }]
    sources: [${ROGUE.ipv4}/32]
mtcUsers:
  acme:
    certificates: [{ uri: "urn:mtc-user:acme", issuer: mtc-ca }]
    devices: ["*@meters.example"]
    authorises: [head-end]
    mayAuthorise: ["*"]
rules:
  - id: meters
    allow: { servers: [head-end], devices: ["*@meters.example"], ports: ["7000-7999"] }
    limits: { durationSeconds: 900, totalSeconds: 3600 }
tests:
  - name: the head end may reach a meter
    request: { server: head-end, device: ${DEVICE_NAME}, protocol: udp, port: ${DEVICE_PORT}, durationSeconds: 600 }
    expect: { allow: meters }
`;

export const DEVICES = `
devices:
  - externalId: ${DEVICE_NAME}
    msisdn: "+491715550100"
    bindings:
      - { realm: iot, address: ${DEVICE.ipv4} }
      - { realm: iot, address: "${DEVICE.ipv6}" }
  - externalId: m2@meters.example
`;

/** What the API's answers have in them, each its part: a grant, or a problem. */
export interface Body {
  readonly grantId: string;
  readonly externalEndpoint: { readonly address: string; readonly port: number };
  readonly status: string;
  readonly expiresAt: string;
  readonly endCause: string;
  readonly code: string;
  readonly title: string;
  readonly instance: string;
}

export interface Reply<Answer = Body> {
  /** HTTP status; 0 where TLS let nothing through. */
  readonly status: number;
  readonly body: Answer;
  /** What curl said of a connection that failed. */
  readonly complaint: string;
}

export interface AgentOptions {
  readonly rules?: string;
  /** Rule files are in force at start and reload, without an apply. */
  readonly autoApply?: boolean;
  readonly devices?: string;
  readonly attach?: 'auto' | 'tcx' | 'clsact';
  readonly ports?: string;
  /** The interface of the realm, and further keys of it as agent.yaml has them; and that of the outside. */
  readonly inside?: string;
  readonly outside?: string;
  /** Where the records lie; `store` in the agent's folder. */
  readonly store?: string;
  /** More sections of agent.yaml. */
  readonly more?: string;
}

interface CurlOptions {
  readonly as?: Issued | null;
  readonly from?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Where the API's paths begin. */
  readonly base?: string;
}

/** Between two answers; no answer of ours has it. */
const ANSWER_END = '\n\x1e';

function bodyOf(answer: string) {
  const text = answer.slice(answer.lastIndexOf('\r\n\r\n') + 4);
  return text ? JSON.parse(text) : undefined;
}

export class TestAgent {
  readonly network: Network;
  readonly folder: string;
  readonly bpffs: string;
  readonly ca: TestCa;
  readonly headEnd: Issued;
  readonly stranger: Issued;
  /** The MTC user that owns the devices. */
  readonly mtcUser: Issued;
  #daemon: Child | undefined;

  constructor(network: Network, options: AgentOptions = {}) {
    this.network = network;
    this.bpffs = `${network.bpffs()}/mtgate`;
    this.folder = network.folder();
    this.ca = createPki(join(this.folder, 'pki')).ca('mtc-ca');
    this.headEnd = this.#client('head-end');
    this.stranger = this.#client('stranger');
    this.mtcUser = this.ca.issue({ name: 'acme', usage: ['clientAuth'], san: ['URI:urn:mtc-user:acme'] });
    const api = this.ca.issue({
      name: 'api',
      usage: ['serverAuth'],
      san: [`IP:${GATEWAY.ipv4}`, `IP:${GATEWAY.ipv6}`],
    });
    mkdirSync(join(this.folder, 'rules'));
    this.write('rules/rules.yaml', options.rules ?? RULES);
    this.write('devices.yaml', options.devices ?? DEVICES);
    this.write(
      'agent.yaml',
      `
gateway: gw-demo
outside: { interface: ${options.outside ?? OUTSIDE} }
pools:
  grants: { prefixes: [${GRANTS_POOL.ipv4}, "${GRANTS_POOL.ipv6}"], ports: ${options.ports ?? '20000-29999'} }
  egress: { prefixes: [${EGRESS_POOL.ipv4}, "${EGRESS_POOL.ipv6}"] }
inside:
  - { realm: iot, interface: ${options.inside ?? INSIDE}, prefixes: [${REALM_PREFIX.ipv4}, "${REALM_PREFIX.ipv6}"] }
api:
  listen: ${GATEWAY.ipv4}:${API_PORT}
  certificate: ${api.certificateFile}
  key: ${api.keyFile}
  clientCAs: [{ name: mtc-ca, file: ${this.ca.certificateFile} }]
management: { socket: mtgate.sock }
store: { directory: ${options.store ?? 'store'} }
rules: { autoApply: ${options.autoApply ?? false} }
devices: devices.yaml
gate: { bpffs: ${this.bpffs}, attach: ${options.attach ?? 'auto'} }
${options.more ?? ''}`,
    );
  }

  #client(name: string): Issued {
    return this.ca.issue({ name, usage: ['clientAuth'], san: [`URI:urn:mtc:${name}`] });
  }

  get configFile(): string {
    return join(this.folder, 'agent.yaml');
  }

  /** Writes one of the operator's files. */
  write(file: string, text: string, mode = 0o644): void {
    writeFileSync(join(this.folder, file), text, { mode });
  }

  /** Starts the daemon; resolves when it is ready. @throws Error with all it said where it is not */
  async start(env: Readonly<Record<string, string>> = {}): Promise<Child> {
    return await this.launch(env).ready({ line: /"event":"ready"/ }, START_MS);
  }

  /** The same, and waits for nothing. */
  launch(env: Readonly<Record<string, string>> = {}): Child {
    const command = [process.execPath, join(ROOT, 'dist/main.js'), '--config', this.configFile];
    this.#daemon = this.network.launch('gateway', command, { env });
    return this.#daemon;
  }

  get daemon(): Child {
    if (!this.#daemon) throw new Error('the agent was not started');
    return this.#daemon;
  }

  /** The agent's log lines of one event so far. */
  logged(event: string): Record<string, unknown>[] {
    return this.daemon.lines
      .filter((line) => line.includes(`"event":"${event}"`))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** The log's line of a refusal, by its answer; it may be read later than that. */
  async refusal({ instance }: Body): Promise<Record<string, unknown>> {
    return JSON.parse(await this.daemon.line(new RegExp(`"${instance}".*"event":"refused"`)));
  }

  /** One request by curl, as an MTC server would make it. */
  async curl<Answer = Body>(method: string, path: string, options: CurlOptions = {}): Promise<Reply<Answer>> {
    const [reply] = await this.curls<Answer>([{ method, path, body: options.body }], options);
    return reply ?? { status: 0, body: undefined as Answer, complaint: 'curl said nothing' };
  }

  /** The same for many, one after another over one connection: most of what a request costs is its handshake. */
  async curls<Answer = Body>(
    requests: readonly { readonly method: string; readonly path: string; readonly body?: unknown }[],
    { as = this.headEnd, from = 'server', headers = {}, base = BASE_PATH }: Omit<CurlOptions, 'body'> = {},
  ): Promise<Reply<Answer>[]> {
    const command = [
      ...['curl', '--silent', '--show-error', '--max-time', '10', '--include', '--cacert', this.ca.certificateFile],
      ...['--write-out', ANSWER_END],
      ...(as ? ['--cert', as.certificateFile, '--key', as.keyFile] : []),
      ...Object.entries(headers).flatMap(([name, value]) => ['--header', `${name}: ${value}`]),
    ];
    const of = ({ method, path, body }: (typeof requests)[number]) => [
      ...command.slice(1),
      ...['--request', method],
      ...(body === undefined ? [] : ['--json', JSON.stringify(body)]),
      `https://${GATEWAY.ipv4}:${API_PORT}${base}${path}`,
    ];
    const words = requests.flatMap((request, i) => [...(i > 0 ? ['--next'] : []), ...of(request)]);
    const { stdout, stderr } = await this.network.run(from, ['curl', ...words], { mayFail: true });
    return stdout
      .split(ANSWER_END)
      .slice(0, -1)
      .map((answer, i, { length }) => ({
        status: Number(/^HTTP\/\S+ (\d+)/.exec(answer)?.[1] ?? 0),
        body: bodyOf(answer),
        complaint: i === length - 1 ? stderr.trim() : '',
      }));
  }

  /** One request by curl, as the MTC user would make it, from anywhere. */
  asMtcUser<Answer = Body>(method: string, path: string, body?: unknown): Promise<Reply<Answer>> {
    return this.curl<Answer>(method, path, { as: this.mtcUser, from: 'rogue', base: MTC_USER_BASE_PATH, body });
  }

  /** Asks for a grant on the device. */
  grant(
    changes: Record<string, unknown> = {},
    options: { as?: Issued | null; from?: string; headers?: Record<string, string> } = {},
  ): Promise<Reply> {
    const body = {
      device: { networkAccessIdentifier: DEVICE_NAME },
      protocol: 'UDP',
      devicePort: DEVICE_PORT,
      durationSeconds: 600,
      ...changes,
    };
    return this.curl('POST', '/grants', { ...options, body });
  }

  /** The head end's live grants. */
  async grants(): Promise<readonly Body[]> {
    return (await this.curl<readonly Body[]>('POST', '/retrieve-grants', { body: {} })).body;
  }

  /** What `mtgate status --json` prints, asked on the socket itself, which costs no process. */
  status(): Promise<Status> {
    return call<Status>({ socket: join(this.folder, 'mtgate.sock') }, 'GET', '/status');
  }

  /** The operator's command. */
  mtgate(...words: readonly string[]) {
    const command = [
      process.execPath,
      join(ROOT, 'dist/cli.js'),
      ...words,
      '--socket',
      join(this.folder, 'mtgate.sock'),
    ];
    return this.network.run('gateway', command, { mayFail: true });
  }
}
