/**
 * DeviceTriggering (TS 29.122 5.7) on the whole gateway: the agent of the
 * standard network with trigger ports, a rule that lets the head end send
 * triggers, and sinks of the head end and of the MTC user at one receiver.
 */
import { generateKeyPairSync } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { T8_BASE_PATH } from '../agent/api/t8-routes.ts';
import { DEVICE_NAME, RULES, TestAgent } from './agent.ts';
import { until } from './child.ts';
import type { Network } from './network.ts';
import type { Issued } from './pki.ts';
import { DNS_PORT, RECEIVER_PORT, Receiver } from './receiver.ts';
import { INNER_GATEWAY, SERVER } from './standard-network.ts';

/** Of devices: CoAP, one port after it on which nothing listens, and plain UDP. */
export const [COAP, NOBODY, PLAIN] = [5690, 5692, 5700];
export const SOURCE_PORT = 5683;
const NAME = 'sink.acme.example';
/** Where the head end is told what became of its triggers, and the MTC user who tried to send some. */
const TOLD = '/head-end';
export const SIEM = '/siem';
export const sinkUrl = (path: string) => `https://${NAME}:${RECEIVER_PORT}${path}`;
const sinks = (path: string) => `    sinks: { events: { url: "${sinkUrl(path)}", ca: partner } }\n`;

/** No trigger port: grants are for it. */
export const SERVICE = 5683;

const WITH_SINKS = RULES.replace('"7000-7999"', `"7000-7999", ${SERVICE}`)
  .replace('  stranger:', `${sinks(TOLD)}  stranger:`)
  .replace('mtcUsers:\n', `${sinks('/stranger')}mtcUsers:\n`)
  .replace('rules:\n', `${sinks(SIEM)}rules:\n`);
const TRIGGERING_RULES = `${WITH_SINKS}
triggers:
  - id: wake
    allow: { servers: [head-end], devices: ["*@meters.example"], ports: [${COAP}, ${NOBODY}, ${PLAIN}] }
    limits: { validitySeconds: 3600, payloadBytes: 200 }
`;

/** What a transaction says. */
export interface Transaction {
  readonly self: string;
  readonly deliveryResult: string;
  readonly cause: string;
  readonly title: string;
}

export class TriggeringGateway {
  readonly agent: TestAgent;
  receiver!: Receiver;

  /** `devices` is the devices file. */
  constructor(network: Network, devices: string) {
    const { ipv4, ipv6 } = INNER_GATEWAY;
    this.agent = new TestAgent(network, {
      rules: TRIGGERING_RULES,
      devices,
      more: `triggers: { sources: [${ipv4}, "${ipv6}"], ports: [${COAP}, ${NOBODY}, ${PLAIN}], coapPorts: [${COAP}, ${NOBODY}] }\n`,
    });
  }

  /** With the receiver in the server's namespace. */
  async start(): Promise<void> {
    const { agent } = this;
    const { privateKey } = generateKeyPairSync('ed25519');
    agent.write('signing.key', privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 0o600);
    appendFileSync(
      agent.configFile,
      `
reports:
  signingKey: signing.key
  sinkCAs: [{ name: partner, file: ${agent.ca.certificateFile} }]
  resolvers: ["${SERVER.ipv4}:${DNS_PORT}"]
  everySeconds: 1
`,
    );
    const own = agent.ca.issue({ name: 'sink', usage: ['serverAuth'], san: [`DNS:${NAME}`] });
    this.receiver = await Receiver.start(agent.network, 'server', SERVER.ipv4, own);
    await this.receiver.set({ names: { [NAME]: [SERVER.ipv4] } });
    await agent.start();
    await agent.daemon.line(/"event":"inspectorSees"/);
  }

  /** Asks under a server's own name; by the head end unless another is named. */
  ask(method: string, path = '', body?: unknown, as: { name: string; issued: Issued; from: string } = this.headEnd) {
    const base = `${T8_BASE_PATH}/${as.name}/transactions`;
    return this.agent.curl<Transaction>(method, path, { as: as.issued, from: as.from, base, body });
  }

  get headEnd() {
    return { name: 'head-end', issued: this.agent.headEnd, from: 'server' };
  }

  get stranger() {
    return { name: 'stranger', issued: this.agent.stranger, from: 'rogue' };
  }

  /** A trigger of the head end that was accepted; its id. */
  async trigger(text: string, changes: Readonly<Record<string, unknown>> = {}): Promise<string> {
    const { status, body } = await this.ask('POST', '', triggering(text, changes));
    if (status !== 201) throw new Error(JSON.stringify(body));
    return body.self.split('/').at(-1) as string;
  }

  async resultOf(id: string): Promise<string> {
    return (await this.ask('GET', `/${id}`)).body.deliveryResult;
  }

  /** When it says so. */
  becomes(id: string, result: string): Promise<true> {
    return until(`${result} of ${id}`, async () => (await this.resultOf(id)) === result || undefined, 30_000);
  }

  /** What the head end's sink was told of a transaction, once it was told anything. */
  told(id: string): Promise<object> {
    const all = () => this.receiver.received(TOLD).map(({ body }) => JSON.parse(body) as { transaction?: string });
    return until(`a notification of ${id}`, () => all().find(({ transaction }) => transaction?.endsWith(id)));
  }
}

/** The body of a transaction. */
export function triggering(text: string, changes: Readonly<Record<string, unknown>> = {}): object {
  return {
    externalId: DEVICE_NAME,
    validityPeriod: 600,
    priority: 'NO_PRIORITY',
    applicationPortId: COAP,
    triggerPayload: Buffer.from(text).toString('base64'),
    notificationDestination: sinkUrl(TOLD),
    ...changes,
  };
}
