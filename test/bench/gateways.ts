/**
 * Three gateways that carry the same packets to the same devices, each in a
 * namespace of its own, between one generator and one sink:
 *
 *                     ┌─ plain: forwards, nothing else
 *   generator ────────┼─ nat:   forwards, nftables DNAT by a map ────── sink
 *                     └─ gate:  the gate at TC, the base beside it
 *
 * They stand side by side, so that a row is measured without changing what
 * the others run on. The sink counts what arrives as it should (a device's
 * address and port) and drops it at its first look; no socket is involved.
 *
 * External endpoints lie at random places of the pool, as the agent draws
 * them; device number i has endpoint number i.
 */
import { address, addressAt, hostPrefix, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, type Pool } from '../../agent/core/pool.ts';
import type { PacketLimits } from '../../agent/core/words.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { ROOT } from '../child.ts';
import { enter } from '../enter.ts';
import { Network } from '../network.ts';
import { NO_FILTERS } from '../rules.ts';
import { IDENTIFICATION_KEY, NORMALISE } from '../suites/fixture.ts';
import type { Target } from './generator.ts';
import { switchNapiOn } from './napi.ts';

const GATEWAYS = ['plain', 'nat', 'gate'] as const;
export type Gateway = (typeof GATEWAYS)[number];

export const SERVER = { address: '198.51.100.10', port: 40_000 } as const;
const OUTSIDE_ADDRESS = address('192.0.2.2');
const UPSTREAM = address('192.0.2.1');
const INNER_ADDRESS = address('10.20.0.1');
/** The user plane, as the next hop toward all devices. */
const USER_PLANE = address('10.20.0.2');
const REALM = prefix('10.20.0.0/14');
const DEVICES = prefix('10.22.0.0/15');
const DEVICE_PORT = 5683;
const SERVER_CLASS = 1;
const HOUR_NS = 3_600_000_000_000n;
const SAMPLED_PER_SECOND = 500;
const NFLOG_GROUP = 100;

const POOL: Pool = {
  ipv4: [prefix('203.0.113.0/29')],
  ipv6: [],
  portLow: 20_000,
  portCount: 16_384,
  keyedGrants: 0,
};

/** How many UDP endpoints the pool has; a power of two. */
const PLACES = 8 * POOL.portCount;
/** Odd, and so i -> i * SCATTER is a permutation of the places that looks drawn at random. */
const SCATTER = 0x9e37_79b1;

export function device(i: number): Target {
  return { address: addressAt(DEVICES, BigInt(i)), port: DEVICE_PORT };
}

/** The external endpoint of device i; behind the last grant, one that has none. */
export function endpoint(i: number): Target {
  const place = (Math.imul(i, SCATTER) >>> 0) % PLACES;
  const host = addressAt(POOL.ipv4[0] as (typeof POOL.ipv4)[number], BigInt(Math.floor(place / POOL.portCount)));
  return { address: host, port: POOL.portLow + (place % POOL.portCount) };
}

export class Gateways {
  readonly network: Network;
  #gate: Gate | undefined;

  private constructor(network: Network) {
    this.network = network;
  }

  /** Builds all of it, with the first so many devices reachable by DNAT and by grants. */
  static async build(grants: number): Promise<Gateways> {
    const gateways = new Gateways(Network.create(plan()));
    const { network } = gateways;
    for (const gateway of GATEWAYS) {
      const userPlane = network.link('sink', fromName(gateway)).mac;
      await network.run(gateway, ['sh', '-ec', settings(gateways.generatorLink(gateway).from, userPlane)]);
      inside(network, gateway, () => switchNapiOn('outside'));
    }
    await network.run('sink', ['nft', '-f', '-'], { input: sinkRules() });
    await network.run('nat', ['nft', '-f', '-'], { input: natRules(grants) });
    await network.run('gate', ['nft', '-f', '-'], { input: baseRules() });
    gateways.#gate = inside(network, 'gate', () => openGate(network, grants));
    return gateways;
  }

  /** How the generator addresses a gateway. */
  generatorLink(gateway: Gateway): { readonly ifindex: number; readonly from: string; readonly to: string } {
    const { ifindex, mac } = this.network.link('generator', toName(gateway));
    return { ifindex, from: mac, to: this.network.link(gateway, 'outside').mac };
  }

  /** Packets that have arrived at the sink, right in address and port. */
  arrived(gateway: Gateway): Promise<number> {
    return this.#counter('sink', ['netdev', 'bench', gateway]);
  }

  /** Packets that the gateway has denied. */
  async denied(gateway: 'nat' | 'gate'): Promise<number> {
    if (gateway === 'nat') return await this.#counter('nat', ['ip', 'bench', 'denied']);
    return Number(this.#gate?.counters().denied.noGrant.packets ?? 0n);
  }

  /** Gives the gate's first so many grants these limits. */
  limit(count: number, limits: PacketLimits): void {
    for (let i = 0; i < count; i++) this.#gate?.limit(indexOf(endpoint(i)), i + 1, limits);
  }

  /** The agent's heartbeat, without which the gate soon refuses every grant. */
  beat(): void {
    this.#gate?.heartbeat(process.hrtime.bigint());
  }

  async close(): Promise<void> {
    this.#gate?.close();
    await this.network.close();
  }

  async #counter(namespace: string, name: readonly string[]): Promise<number> {
    const { stdout } = await this.network.run(namespace, ['nft', '--json', 'list', 'counter', ...name]);
    const { nftables } = JSON.parse(stdout) as { nftables: { counter?: { packets: number } }[] };
    return nftables.find((part) => part.counter)?.counter?.packets ?? 0;
  }
}

function toName(gateway: Gateway): string {
  return `to-${gateway}`;
}

function fromName(gateway: Gateway): string {
  return `from-${gateway}`;
}

function plan(): Parameters<typeof Network.create>[0] {
  const routes = [`${REALM.text} via ${USER_PLANE.text}`, `default via ${UPSTREAM.text}`];
  const outside = [`${OUTSIDE_ADDRESS.text}/30`];
  const inner = [`${INNER_ADDRESS.text}/24`];
  return {
    namespaces: {
      generator: {},
      sink: {},
      ...Object.fromEntries(GATEWAYS.map((gateway) => [gateway, { forwards: true, routes }])),
    },
    links: GATEWAYS.flatMap((gateway) => [
      [
        { namespace: 'generator', interface: toName(gateway), addresses: [] },
        { namespace: gateway, interface: 'outside', addresses: outside },
      ],
      [
        { namespace: gateway, interface: 'inside', addresses: inner },
        { namespace: 'sink', interface: fromName(gateway), addresses: [] },
      ],
    ]),
  };
}

/** Nothing waits for ARP, and what goes back where it came from is not answered by ICMP redirects. */
function settings(upstreamMac: string, userPlaneMac: string): string {
  return [
    `ip neighbour add ${UPSTREAM.text} lladdr ${upstreamMac} dev outside nud permanent`,
    `ip neighbour add ${USER_PLANE.text} lladdr ${userPlaneMac} dev inside nud permanent`,
    ...['all', 'outside'].map((name) => `echo 0 > /proc/sys/net/ipv4/conf/${name}/send_redirects`),
  ].join('\n');
}

function sinkRules(): string {
  const right = `ip daddr ${DEVICES.text} udp dport ${DEVICE_PORT}`;
  const chains = GATEWAYS.map(
    (gateway) => `counter ${gateway} { }
chain ${gateway} {
  type filter hook ingress device "${fromName(gateway)}" priority 0; policy accept;
  ${right} counter name ${gateway} drop
}`,
  );
  return `table netdev bench {\n${chains.join('\n')}\n}\n`;
}

/** Port forwarding as one would write it: a map, and nothing forwarded that is not in it. */
function natRules(grants: number): string {
  const text = ({ address: host, port }: Target) => `${host.text} . ${port}`;
  const elements = Array.from({ length: grants }, (_, i) => `${text(endpoint(i))} : ${text(device(i))}`);
  return `table ip bench {
counter denied { }
map grants {
  type ipv4_addr . inet_service : ipv4_addr . inet_service
  elements = { ${elements.join(', ')} }
}
chain prerouting {
  type nat hook prerouting priority dstnat; policy accept;
  dnat ip to ip daddr . udp dport map @grants
}
chain forward {
  type filter hook forward priority filter; policy accept;
  ct state established,related accept
  ct status dnat accept
  counter name denied drop
}
}
`;
}

function baseRules(): string {
  return baseRuleset({
    ...NO_FILTERS,
    outside: 'outside',
    inside: [{ interface: 'inside', prefixes: [REALM] }],
    present: ['outside', 'inside'],
    grants: POOL.ipv4,
    egress: [prefix('203.0.113.8/29')],
    deniedDestinations: [],
    services: [],
    nflogGroup: NFLOG_GROUP,
  });
}

function openGate(network: Network, grants: number): Gate {
  const at = (name: string) => ({ name, ifindex: network.link('gate', name).ifindex });
  const [outside, toDevices] = [at('outside'), at('inside')];
  const gate = Gate.load({
    object: `${ROOT}dist/dataplane/gate.bpf.o`,
    bpffs: `${network.bpffs()}/mtgate`,
    setup: {
      pool: POOL,
      outside: { ifindex: outside.ifindex, nextHops: { ipv4: UPSTREAM } },
      inside: [
        { ifindex: toDevices.ifindex, realm: 1, prefixes: [REALM], nextHops: { ipv4: USER_PLANE }, translated: true },
      ],
      own: [
        { address: INNER_ADDRESS, on: 'inside' },
        { address: OUTSIDE_ADDRESS, on: 'elsewhere' },
      ],
      services: [],
      orphanGraceSeconds: 300,
      udpTombstoneSeconds: 30,
      onlyBound: true,
      normalise: NORMALISE,
      identificationKey: IDENTIFICATION_KEY,
    },
  });
  gate.attach('auto', { outside, inside: [toDevices] });
  gate.addClass(prefix('198.51.100.0/24'), SERVER_CLASS);
  gate.sample(SAMPLED_PER_SECOND);
  const endNs = process.hrtime.bigint() + HOUR_NS;
  for (let i = 0; i < grants; i++) {
    const external = endpoint(i);
    const index = indexOf(external);
    const remote = { remote: address(SERVER.address), remotePort: 0, classId: SERVER_CLASS, limits: {} };
    gate.open({ index, number: i + 1, protocol: 'udp', realm: 1, device: device(i), external, ...remote }, endNs);
    gate.bind(1, hostPrefix(device(i).address));
  }
  return gate;
}

function indexOf(external: Target): number {
  return indexOfIpv4(POOL, 'udp', external) ?? -1;
}

/** Runs synchronous work in a namespace. */
function inside<T>(network: Network, namespace: string, work: () => T): T {
  const leave = enter(network.name(namespace));
  try {
    return work();
  } finally {
    leave();
  }
}
