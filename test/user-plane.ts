/**
 * A real user plane on the gateway's host: Debian's osmo-ggsn, whose TUN is
 * the gateway's inside, and subscribers by sgsnemu, each in a namespace of its
 * own. Every packet to and from them crosses the Gn link in GTP-U, all of it
 * in user space. radclient tells the accounting in the GGSN's name, since
 * osmo-ggsn has none.
 *
 * The GGSN has one address, and one prefix beside a neighbour's, to give away
 * (native-notes/osmo-ggsn.md says why): the next context gets what the last
 * one gave back.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Family } from '../agent/core/net.ts';
import { type Child, until } from './child.ts';
import type { Network } from './network.ts';
import { INNER_GATEWAY, SERVER, standardNetwork } from './standard-network.ts';

export const FAMILIES = ['ipv4', 'ipv6'] as const satisfies readonly Family[];
/** The GGSN's TUN. */
export const TUN = 'tun0';
export const APN = 'iot.example';
/** What the GGSN gives to contexts: one address; two prefixes of 64 bits, less than four since it keeps the ends. */
export const CONTEXT_POOL = { ipv4: '10.20.0.0/30', ipv6: 'fd00:20::/62' } as const;
const RADIUS = '127.0.0.1:1813';
const SECRET = 'between a GGSN and its gateway';

/** The link between SGSN and GGSN, its end in the namespace `sgsn`. */
export const GN = 'gn';
export const GGSN_ADDRESS = '172.31.0.1';
const PDP_TYPE = { ipv4: 'v4', ipv6: 'v6' } as const;
const NSAPI = { ipv4: 5, ipv6: 6 } as const;

export interface Subscriber {
  /** Its namespace, and the number by which its SGSN addresses are told apart. */
  readonly namespace: 'meter-a' | 'meter-b' | 'neighbour';
  readonly number: number;
  readonly imsi: string;
  readonly msisdn: string;
}

/** What a subscriber's own SGSN address is: one to a context, so that the Gn link shows whose a packet is. */
export const sgsnAddress = ({ number }: Subscriber, family: Family) =>
  `172.31.0.${10 * number + (family === 'ipv4' ? 4 : 6)}`;

/** A PDP context, as the GGSN would tell of it. */
export interface Context {
  readonly subscriber: Subscriber;
  readonly family: Family;
  /** Acct-Session-Id. */
  readonly session: string;
  /** What the device speaks from. */
  readonly address: string;
}

const NEIGHBOUR: Subscriber = {
  namespace: 'neighbour',
  number: 9,
  imsi: '262011234567899',
  msisdn: '491715550199',
};

/** The standard network with an SGSN and three subscribers inside. */
export function userPlaneNetwork(subscribers: readonly Subscriber[]): Network {
  const all = [...subscribers, NEIGHBOUR];
  return standardNetwork({
    namespaces: {
      sgsn: {},
      ...Object.fromEntries(all.map(({ namespace }) => [namespace, {}])),
    },
    links: [
      [
        { namespace: 'gateway', interface: GN, addresses: [`${GGSN_ADDRESS}/24`] },
        {
          namespace: 'sgsn',
          interface: GN,
          addresses: all.flatMap((one) => FAMILIES.map((family) => `${sgsnAddress(one, family)}/24`)),
        },
      ],
    ],
  });
}

const GGSN_FILE = (folder: string) => `
log stderr
 logging filter all 1
 logging color 0
 logging timestamp 0
 logging level set-all info
line vty
 no login
ggsn ggsn0
 gtp state-dir ${folder}
 gtp bind-ip ${GGSN_ADDRESS}
 apn ${APN}
  gtpu-mode tun
  tun-device ${TUN}
  type-support v4
  type-support v6
  ip prefix dynamic ${CONTEXT_POOL.ipv4}
  ip ifconfig ${INNER_GATEWAY.ipv4}/30
  ipv6 prefix dynamic ${CONTEXT_POOL.ipv6}
  ipv6 ifconfig ${INNER_GATEWAY.ipv6}/62
  no shutdown
 default-apn ${APN}
 no shutdown ggsn
`;

export class UserPlane {
  /** The section `radius` of agent.yaml for this GGSN. */
  readonly radius: string;
  readonly #network: Network;
  readonly #folder: string;
  readonly #secretFile: string;
  readonly #emulators = new Map<Context, Child>();
  #ggsn!: Child;
  #sessions = 0;

  private constructor(network: Network) {
    this.#network = network;
    this.#folder = network.folder();
    this.#secretFile = join(this.#folder, 'secret');
    writeFileSync(this.#secretFile, `${SECRET}\n`, { mode: 0o600 });
    const pools = Object.values(CONTEXT_POOL).map((pool) => `"${pool}"`);
    this.radius = `
radius:
  listen: [${RADIUS}]
  clients: [{ name: ggsn0, addresses: [127.0.0.1/32], secret: ${this.#secretFile}, pools: [${pools.join(', ')}] }]
`;
  }

  /** Starts the GGSN, and the neighbour whose context fills the pool of prefixes but for one. */
  static async start(network: Network): Promise<UserPlane> {
    const plane = new UserPlane(network);
    const file = join(plane.#folder, 'osmo-ggsn.cfg');
    writeFileSync(file, GGSN_FILE(plane.#folder));
    // It logs to standard error; a child's lines are those of standard output.
    const command = ['sh', '-c', 'exec osmo-ggsn -c "$0" 2>&1', file];
    plane.#ggsn = await network.spawn('gateway', command, { line: /GGSN\(ggsn0\): Successfully started/ });
    await plane.attach(NEIGHBOUR, 'ipv6');
    return plane;
  }

  /** The id of the accounting session that comes next: a GGSN names it before the context is there. */
  nextSession(): string {
    this.#sessions += 1;
    return this.#sessions.toString(16).toUpperCase().padStart(8, '0');
  }

  /** Creates a context; resolves when the device has its address and a route. @throws Error with what SGSN and GGSN said */
  async attach(subscriber: Subscriber, family: Family, session = this.nextSession()): Promise<Context> {
    const { namespace, imsi, msisdn } = subscriber;
    const listen = sgsnAddress(subscriber, family);
    const state = join(this.#folder, listen);
    mkdirSync(state, { recursive: true });
    const from = this.#ggsn.lines.length;
    const emulator = this.#network.launch('sgsn', [
      ...['sgsnemu', '--listen', listen, '--remote', GGSN_ADDRESS, '--apn', APN, '--imsi', imsi, '--msisdn', msisdn],
      ...['--pdp-type', PDP_TYPE[family], '--nsapi', String(NSAPI[family]), '--createif', '--defaultroute'],
      ...['--tun-device', family, '--netns', this.#network.name(namespace)],
      ...['--statedir', state, '--pidfile', join(state, 'pid')],
    ]);
    await this.#ggsn.line(new RegExp(`PDP\\(${imsi}:${NSAPI[family]}\\): Successful PDP Context Creation`), { from });
    const address = await until(`the address of ${namespace}, ${family}\n${emulator.errors}`, async () => {
      const route = ['ip', '-json', 'route', 'get', SERVER[family]];
      const { status, stdout } = await this.#network.run(namespace, route, { mayFail: true });
      const [{ prefsrc = '' } = {}] = status === 0 ? (JSON.parse(stdout) as { readonly prefsrc?: string }[]) : [];
      return prefsrc && !prefsrc.startsWith('fe80:') ? prefsrc : undefined;
    });
    const context = { subscriber, family, session, address };
    this.#emulators.set(context, emulator);
    return context;
  }

  /** Deletes a context; resolves when the GGSN has given its address back, and the device has none. */
  async detach(context: Context): Promise<void> {
    const { imsi } = context.subscriber;
    const emulator = this.#emulators.get(context);
    if (!emulator) throw new Error(`no context ${context.session}`);
    const from = this.#ggsn.lines.length;
    emulator.kill('SIGTERM'); // Delete PDP Context Request
    await this.#ggsn.line(new RegExp(`PDP\\(${imsi}:${NSAPI[context.family]}\\): Deleting PDP context`), { from });
    await emulator.stop('SIGKILL'); // of itself it stays, with its TUN
    this.#emulators.delete(context);
  }

  /** Tells the accounting server of a context in the GGSN's name (TS 29.061 16.4.3). @throws Error where it has no answer */
  async account(kind: 'Start' | 'Stop', { subscriber, family, session, address }: Context): Promise<void> {
    const [high, low] = halves(address);
    const attributes = [
      `Acct-Status-Type = ${kind}`,
      `Acct-Session-Id = "${session}"`,
      'NAS-Identifier = "ggsn0"',
      `NAS-IP-Address = ${GGSN_ADDRESS}`,
      `Called-Station-Id = "${APN}"`,
      `Calling-Station-Id = "${subscriber.msisdn}"`,
      ...(family === 'ipv4'
        ? [`Framed-IP-Address = ${address}`]
        : [`Framed-IPv6-Prefix = ${high}::/64`, `Framed-Interface-Id = ${low}`]),
      `Event-Timestamp = ${Math.floor(Date.now() / 1000)}`,
      `3GPP-IMSI = "${subscriber.imsi}"`,
      `3GPP-GGSN-Address = ${GGSN_ADDRESS}`,
      `3GPP-SGSN-Address = ${sgsnAddress(subscriber, family)}`,
      `3GPP-NSAPI = "${NSAPI[family]}"`,
    ];
    const command = ['radclient', '-x', '-r', '3', '-t', '3', '-S', this.#secretFile, RADIUS, 'acct'];
    await this.#network.run('gateway', command, { input: `${attributes.join('\n')}\n` });
  }
}

/** The two halves of an IPv6 address that ends in a small number, as osmo-ggsn and sgsnemu make it: `P::N`. */
function halves(address: string): [string, string] {
  const [high = '', low = ''] = address.split('::');
  return [high, `0:0:0:${low}`];
}
