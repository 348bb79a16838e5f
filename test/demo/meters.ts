/**
 * What the demo beside a user plane plays with: the real agent on a GGSN's
 * host, an MTC server with a service of its own, and two meters, of which one
 * at a time is attached, over IPv4 and IPv6 (a PDP context each).
 */
import { address, contains, type Family, prefix } from '../../agent/core/net.ts';
import { DEVICE_NAME, DEVICE_PORT, TestAgent } from '../agent.ts';
import { type Child, program } from '../child.ts';
import type { Network } from '../network.ts';
import { Probe, type Target } from '../probe.ts';
import { Session } from '../session.ts';
import { EGRESS_POOL, SERVER } from '../standard-network.ts';
import { APN, type Context, FAMILIES, type Subscriber, TUN, UserPlane, userPlaneNetwork } from '../user-plane.ts';
import { answer, must, status } from './steps.ts';

export const PROTOCOLS = ['udp', 'tcp'] as const;
type Protocol = (typeof PROTOCOLS)[number];

export const A = { namespace: 'meter-a', number: 1, imsi: '262011234567890', msisdn: '491715550100' } as const;
export const B = { namespace: 'meter-b', number: 2, imsi: '262011234567891', msisdn: '491715550101' } as const;
type Meter = typeof A | typeof B;

const NAMES = { [A.namespace]: DEVICE_NAME, [B.namespace]: 'm2@meters.example' } as const;
const DEVICES = `
devices:
${[A, B].map(({ namespace, imsi }) => `  - { externalId: ${NAMES[namespace]}, imsi: "${imsi}" }`).join('\n')}
`;

/** Where the server echoes, and streams, for whom asks it. */
export const SERVICE_PORT = 7100;

/** A flow of a meter, of which an answer has come. */
export interface Flow {
  readonly session: Session;
  readonly protocol: Protocol;
  /** Where the meter is known outside. */
  readonly external: Target;
  /** The grant that it runs through, and the server's end; absent: the meter began it. */
  readonly granted?: { readonly id: string; readonly server: Target };
}

export class Meters {
  readonly network: Network;
  readonly agent: TestAgent;
  readonly server: Probe;
  readonly #plane: UserPlane;
  readonly #service: Child;
  #contexts: readonly Context[] = [];
  /** The program on the meter that is attached. */
  #program: Child | undefined;
  /** What made the last flow's end at the server, or its text, its own. */
  #number = 40_400;

  private constructor(network: Network, agent: TestAgent, server: Probe, plane: UserPlane, service: Child) {
    this.network = network;
    this.agent = agent;
    this.server = server;
    this.#plane = plane;
    this.#service = service;
  }

  static async open(): Promise<Meters> {
    const network = userPlaneNetwork([A, B]);
    try {
      const plane = await UserPlane.start(network);
      const inside = `${TUN}, apns: [${APN}]`;
      const agent = new TestAgent(network, { inside, more: plane.radius, devices: DEVICES });
      const server = await Probe.start(network, 'server');
      const serve = program('test/device.ts', String(SERVICE_PORT), SERVER.ipv4, SERVER.ipv6);
      const service = await network.spawn('server', serve, { line: /^ready$/ });
      await agent.start();
      return new Meters(network, agent, server, plane, service);
    } catch (fault) {
      await network.close();
      throw fault;
    }
  }

  close(): Promise<void> {
    return this.network.close();
  }

  /** What the attached meter speaks from. */
  get addresses(): string[] {
    return this.#contexts.map((context) => context.address);
  }

  /** Creates a meter's contexts. */
  async attach(meter: Meter): Promise<void> {
    this.#contexts = await Promise.all(FAMILIES.map((family) => this.#plane.attach(meter, family)));
  }

  /** Tells that they are there. */
  start(): Promise<void> {
    return this.#account('Start', this.#contexts);
  }

  /** Switches the attached meter's program on: it echoes, and streams for whom asks it. */
  async power({ namespace }: Meter): Promise<Child> {
    const command = program('test/device.ts', String(DEVICE_PORT), ...this.addresses);
    this.#program = await this.network.spawn(namespace, command, { line: /^ready$/ });
    return this.#program;
  }

  /** Deletes the contexts, tells of it or not, and switches the meter off. */
  async leave(told?: 'Stop'): Promise<void> {
    const gone = this.#contexts;
    this.#contexts = [];
    for (const context of gone) await this.#plane.detach(context);
    if (told) await this.#account(told, gone);
    await this.#program?.stop('SIGKILL');
  }

  /**
   * Another meter gets what the attached one holds, no Stop is told, and the
   * Start before the context is there: the GGSN waits for its answer.
   */
  async takeOver(meter: Meter): Promise<void> {
    const gone = this.#contexts;
    await this.leave();
    const announced = gone.map((context) => ({ ...context, subscriber: meter, session: this.#plane.nextSession() }));
    await this.#account('Start', announced);
    this.#contexts = await Promise.all(
      announced.map(({ family, session }) => this.#plane.attach(meter, family, session)),
    );
  }

  async #account(kind: 'Start' | 'Stop', contexts: readonly Context[]): Promise<void> {
    await Promise.all(contexts.map((context) => this.#plane.account(kind, context)));
  }

  /** Asks for a grant on a meter, for the server's address of a family. */
  ask({ namespace }: Meter, family: Family, protocol: Protocol) {
    return this.agent.grant({
      device: { networkAccessIdentifier: NAMES[namespace] },
      protocol: protocol.toUpperCase(),
      applicationServer: { address: SERVER[family] },
    });
  }

  async granted(meter: Meter, family: Family, protocol: Protocol): Promise<{ id: string; to: Target }> {
    const reply = await this.ask(meter, family, protocol);
    status(reply, 201);
    return { id: reply.body.grantId, to: reply.body.externalEndpoint };
  }

  /** One exchange through a grant, which is given back. */
  async exchange(meter: Meter, family: Family, protocol: Protocol, text: string): Promise<void> {
    const { id, to } = await this.granted(meter, family, protocol);
    await answer(this.server[protocol]({ to, from: { address: SERVER[family] }, text }), text);
    await this.agent.curl('DELETE', `/grants/${id}`);
  }

  /** Flows of a meter of every kind, each with something from the other end. */
  async flows(meter: Meter): Promise<Flow[]> {
    const opened = FAMILIES.flatMap((family) =>
      PROTOCOLS.flatMap((protocol) => [
        this.#grantedFlow(meter, family, protocol),
        this.#begunFlow(meter, family, protocol),
      ]),
    );
    const flows = await Promise.all(opened);
    for (const { session } of flows) session.say('stream');
    await Promise.all(flows.map(({ session }) => session.next()));
    return flows;
  }

  async #grantedFlow(meter: Meter, family: Family, protocol: Protocol): Promise<Flow> {
    const server = { address: SERVER[family], port: ++this.#number };
    const { id, to } = await this.granted(meter, family, protocol);
    const session = await Session.open(this.network, 'server', protocol, to, server);
    return { session, protocol, external: to, granted: { id, server } };
  }

  async #begunFlow({ namespace }: Subscriber, family: Family, protocol: Protocol): Promise<Flow> {
    const text = `flow ${++this.#number}`;
    const to = { address: SERVER[family], port: SERVICE_PORT };
    const session = await Session.open(this.network, namespace, protocol, to);
    session.say(text);
    const line = await this.#service.line(new RegExp(`^${protocol} .* ${text}$`));
    const [, host = '', port] = /^\w+ \[?([^\]\s]+?)\]?:(\d+) /.exec(line) ?? [];
    must(contains(prefix(EGRESS_POOL[family]), address(host)), `the server saw ${host}, not of the egress pool`);
    return { session, protocol, external: { address: host, port: Number(port) } };
  }
}
