/**
 * Gateways that carry the same packets to the same devices, each in a
 * namespace of its own, between one generator and one sink:
 *
 *                     ┌─ plain:  forwards, nothing else
 *                     ├─ nat:    forwards, nftables DNAT by a map
 *   generator ────────┼─ gate:   the gate at TC, or at XDP too, the base beside it ───── sink
 *                     ├─ bare:   the same without anything made alike in headers
 *                     └─ shortest: an XDP program that redirects all, or drops all
 *
 * They stand side by side, so that a row is measured without changing what
 * the others run on. The sink counts what arrives as it should and drops it
 * at its first look; no socket is involved. Behind a gateway at TC that look
 * is at the netdev hook, behind one at XDP it is at XDP, as it would be in a
 * host that has it.
 *
 * External endpoints lie at random places of the pool, as the agent draws
 * them; device number i has endpoint number i, of each family.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { type Address, address, addressAt, type Family, hostPrefix, prefix } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries, type Pool } from '../../agent/core/pool.ts';
import type { Normalisation, PacketLimits } from '../../agent/core/words.ts';
import { BpfObject, possibleCpus } from '../../agent/dataplane/bpf.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { closeFd, createXdpLink } from '../../agent/dataplane/tc.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { ROOT } from '../child.ts';
import { within } from '../enter.ts';
import { Network } from '../network.ts';
import { switchNapiOn, withQueues } from '../offloads.ts';
import { PLAIN_BASE } from '../rules.ts';
import { NORMALISE, USUAL } from '../suites/fixture.ts';
import { compile, type Target } from './generator.ts';

const GATEWAYS = ['plain', 'nat', 'gate', 'bare', 'shortest'] as const;
export type Gateway = (typeof GATEWAYS)[number];
/** Where a gateway meets its packets; of the one without a choice, what it does with them. */
export type Way = 'stack' | 'tc' | 'xdp' | 'redirect' | 'drop';

export const SERVER = { ipv4: '198.51.100.10', ipv6: '2001:db8:51::10' } as const;
/** Of no server's class. */
export const STRANGER = { ipv4: '192.0.2.66', ipv6: '2001:db8:66::66' } as const;
export const SERVER_PORT = 40_000;
const OUTSIDE_ADDRESS = { ipv4: address('192.0.2.2'), ipv6: address('2001:db8:0:1::2') } as const;
const UPSTREAM = { ipv4: address('192.0.2.1'), ipv6: address('2001:db8:0:1::1') } as const;
const INNER_ADDRESS = { ipv4: address('10.16.0.1'), ipv6: address('fd00:16::1') } as const;
/** The user plane, as the next hop toward all devices. */
const USER_PLANE = { ipv4: address('10.16.0.2'), ipv6: address('fd00:16::2') } as const;
const REALM = { ipv4: prefix('10.0.0.0/8'), ipv6: prefix('fd00:16::/32') } as const;
const DEVICES = { ipv4: prefix('10.64.0.0/10'), ipv6: prefix('fd00:16:1::/48') } as const;
const DEVICE_PORT = 5683;
const SERVER_CLASS = 1;
const HOUR_NS = 3_600_000_000_000n;
const SAMPLED_PER_SECOND = 500;
const NFLOG_GROUP = 100;
const FAMILIES = ['ipv4', 'ipv6'] as const;

/** Grants that have ended, to be denied: the first numbers of all. */
export const ENDED = 1_000;
/** A million live ones, and the ended. */
const MOST = 1_001_000;

const POOL: Pool = {
  ipv4: [prefix('203.0.112.0/26')],
  ipv6: [prefix('2001:db8:ffff::/64')],
  portLow: 20_000,
  portCount: 16_384,
  keyedGrants: 2 ** 20,
};

/** How many UDP endpoints the pool has; a power of two. */
const PLACES = 64 * POOL.portCount;
/** Odd, and so i -> i * SCATTER is a permutation of the places that looks drawn at random. */
const SCATTER = 0x9e37_79b1;

export function device(family: Family, i: number): Target {
  return { address: addressAt(DEVICES[family], BigInt(i)), port: DEVICE_PORT };
}

/** A port of a device that no grant is for: what comes from there is a flow that the device begins. */
export function ownPort(family: Family, i: number): Target {
  return { ...device(family, i), port: DEVICE_PORT + 1 };
}

/** The external endpoint of device i; behind the last grant, one that has none. */
export function endpoint(family: Family, i: number): Target {
  const place = (Math.imul(i, SCATTER) >>> 0) % PLACES;
  const port = POOL.portLow + (place % POOL.portCount);
  if (family === 'ipv4') {
    const host = Math.floor(place / POOL.portCount);
    return { address: addressAt(POOL.ipv4[0] as (typeof POOL.ipv4)[number], BigInt(host)), port };
  }
  // Each grant has an address of its own.
  const host = (BigInt(Math.imul(i, 0x85eb_ca6b) >>> 0) << 32n) | BigInt(Math.imul(i, SCATTER) >>> 0);
  return { address: addressAt(POOL.ipv6[0] as (typeof POOL.ipv6)[number], host), port };
}

export interface Latency {
  readonly nanoseconds: number;
  readonly count: number;
}

/** As in ends.bpf.c. */
const STEPS = 8;

export class Gateways {
  readonly network: Network;
  readonly #gates = new Map<Gateway, Gate>();
  /** A sink's program, and its two limits, at the interface of each gateway where one hangs now. */
  readonly #hung = new Map<string, { readonly object: BpfObject; readonly link: number }>();
  readonly #ends: string;
  readonly #slowAgain: () => void;
  #held = 0;

  private constructor(network: Network) {
    this.network = network;
    this.#ends = compile('ends');
    this.#slowAgain = hurryRcu();
  }

  /** Builds all of it, with the first so many devices reachable by DNAT. `queues`: of each link to the generator, one a sending CPU. */
  static async build(forwarded: number, queues = 1): Promise<Gateways> {
    const gateways = new Gateways(Network.create(plan()));
    const { network } = gateways;
    for (const gateway of GATEWAYS) {
      const userPlane = network.link('sink', fromName(gateway)).mac;
      await network.run(gateway, ['sh', '-ec', settings(gateways.linkTo(gateway).from, userPlane)]);
      within(network, gateway, () => {
        for (const name of ['outside', 'inside']) switchNapiOn(name);
        withQueues('outside', queues);
      });
      within(network, 'generator', () => withQueues(toName(gateway), queues));
    }
    await network.run('sink', ['nft', '-f', '-'], { input: countingRules(fromName, DEVICE_PORT) });
    await network.run('generator', ['nft', '-f', '-'], { input: countingRules(toName, SERVER_PORT) });
    await network.run('nat', ['nft', '-f', '-'], { input: natRules(forwarded) });
    for (const [gateway, normalise] of [
      ['gate', NORMALISE],
      ['bare', NOTHING_ALIKE],
    ] as const) {
      await network.run(gateway, ['nft', '-f', '-'], { input: baseRules(normalise) });
      gateways.#gates.set(
        gateway,
        within(network, gateway, () => openGate(network, gateway, normalise)),
      );
    }
    gateways.hold(0);
    return gateways;
  }

  /** Opens grants of both families in the gates until so many live, beside the ended ones. */
  hold(grants: number): void {
    const wanted = grants + ENDED;
    const endNs = process.hrtime.bigint() + HOUR_NS;
    for (const [gateway, gate] of this.#gates) {
      // What nothing is made alike for is measured with a thousand.
      const most = gateway === 'bare' ? Math.min(wanted, ENDED + 1_000) : wanted;
      for (let i = this.#held; i < most; i++) {
        for (const family of FAMILIES) openGrant(gate, family, i, i < ENDED ? 1n : endNs);
      }
    }
    this.#held = Math.max(this.#held, wanted);
  }

  /** How a gateway is addressed by the generator; outward, by the sink, which stands for the devices then. */
  linkTo(gateway: Gateway, outward = false): { readonly ifindex: number; readonly from: string; readonly to: string } {
    const { ifindex, mac } = this.network.link(...this.#endOf(gateway, !outward));
    return { ifindex, from: mac, to: this.network.link(gateway, outward ? 'inside' : 'outside').mac };
  }

  /** Has a gateway meet its packets there from now on. `seenAtXdp`: whoever counts them looks there whatever the gateway does. */
  meet(gateway: Gateway, way: Way, { outward = false, seenAtXdp = false } = {}): void {
    const gate = this.#gates.get(gateway);
    if (gate) within(this.network, gateway, () => gate.attach('auto', placesOf(this.network, gateway, way === 'xdp')));
    const isAtXdp = seenAtXdp || way === 'xdp' || way === 'redirect';
    this.#hang(...this.#endOf(gateway, outward), isAtXdp ? 'sink' : undefined);
    if (gateway === 'shortest') this.#hang('shortest', 'outside', way === 'drop' ? 'drop' : 'redirect');
  }

  /** Packets that have arrived, right in port: at the sink; outward, at the generator, which stands for the server then. */
  async arrived(gateway: Gateway, outward = false): Promise<number> {
    const [namespace, name] = this.#endOf(gateway, outward);
    const early = this.#hung.get(`${namespace} ${name}`);
    if (early) return countOf(early.object);
    return await this.#counter(namespace, ['netdev', 'bench', gateway]);
  }

  /** The far end of a link to a gateway: outside of it, or inside. */
  #endOf(gateway: Gateway, outside: boolean): readonly [namespace: string, name: string] {
    return outside ? ['generator', toName(gateway)] : ['sink', fromName(gateway)];
  }

  /** Nanoseconds that stamped packets took to the sink behind a gateway that has it at XDP, in order, each as often as it was seen. */
  latencies(gateway: Gateway): Latency[] {
    const hung = this.#hung.get(`sink ${fromName(gateway)}`);
    const values = hung?.object.map('latencies', 4, 8 * possibleCpus()).first(64 * STEPS) ?? new Uint8Array();
    const words = new BigUint64Array(values.buffer, values.byteOffset, values.length / 8);
    const cpus = possibleCpus();
    return Array.from({ length: 64 * STEPS }, (_, step) => {
      const power = Math.floor(step / STEPS);
      const count = words.subarray(step * cpus, (step + 1) * cpus).reduce((sum, one) => sum + Number(one), 0);
      return { nanoseconds: 2 ** power * (1 + (step % STEPS) / STEPS), count };
    }).filter(({ count }) => count > 0);
  }

  /** Packets that the gateway has denied. */
  async denied(gateway: Gateway): Promise<number> {
    if (gateway === 'nat') return await this.#counter('nat', ['ip', 'bench', 'denied']);
    const dropping = this.#hung.get('shortest outside');
    if (gateway === 'shortest' && dropping) return countOf(dropping.object);
    const denied = Object.values(this.#gates.get(gateway)?.counters().denied ?? {});
    return denied.reduce((sum, { packets }) => sum + Number(packets), 0);
  }

  /** Gives the gate's first so many live grants these limits. */
  limit(count: number, limits: PacketLimits): void {
    const gate = this.#gates.get('gate');
    for (let i = ENDED; i < ENDED + count; i++)
      for (const family of FAMILIES) gate?.limit(indexOf(family, i), numberOf(family, i), limits);
  }

  /** The agent's heartbeat, without which the gate soon refuses every grant. */
  beat(): void {
    for (const gate of this.#gates.values()) gate.heartbeat(process.hrtime.bigint());
  }

  async close(): Promise<void> {
    for (const { object, link } of this.#hung.values()) {
      closeFd(link);
      object.close();
    }
    for (const gate of this.#gates.values()) gate.close();
    this.#slowAgain();
    await this.network.close();
  }

  /** Hangs a program of ends.bpf.c at an interface's XDP, in place of the one there; undefined: none. */
  #hang(namespace: string, name: string, program: 'sink' | 'drop' | 'redirect' | undefined): void {
    const place = `${namespace} ${name}`;
    const before = this.#hung.get(place);
    if (before) {
      closeFd(before.link);
      before.object.close();
      this.#hung.delete(place);
    }
    if (!program) return;
    const object = new BpfObject(this.#ends);
    object.load();
    const way = Buffer.alloc(16);
    way.writeUInt32LE(this.network.link('shortest', 'inside').ifindex, 0);
    way.write(this.network.link('sink', fromName('shortest')).mac.replaceAll(':', ''), 4, 'hex');
    way.write(this.network.link('shortest', 'inside').mac.replaceAll(':', ''), 10, 'hex');
    object.map('ways', 4, way.length).update(Buffer.alloc(4), way);
    const { ifindex } = this.network.link(namespace, name);
    const link = within(this.network, namespace, () => createXdpLink(object.programFd(program), ifindex, 'native'));
    this.#hung.set(place, { object, link });
  }

  async #counter(namespace: string, name: readonly string[]): Promise<number> {
    const { stdout } = await this.network.run(namespace, ['nft', '--json', 'list', 'counter', ...name]);
    const { nftables } = JSON.parse(stdout) as { nftables: { counter?: { packets: number } }[] };
    return nftables.find((part) => part.counter)?.counter?.packets ?? 0;
  }
}

/**
 * Each call of the generator waits for the kernel's RCU: 20 ms on some
 * machines, next to nothing on others, and idle. Hurried, it is next to nothing
 * on all. Returns what undoes it; an exit does too.
 */
function hurryRcu(): () => void {
  const file = '/sys/kernel/rcu_expedited';
  const before = readFileSync(file, 'latin1');
  const undo = () => writeFileSync(file, before);
  writeFileSync(file, '1');
  process.once('exit', undo);
  return () => {
    process.off('exit', undo);
    undo();
  };
}

const NOTHING_ALIKE: Normalisation = {
  hopLimit: 0,
  identification: false,
  flowLabel: false,
  trafficClass: false,
  timestamps: false,
  mss: false,
};

/** What a program of ends.bpf.c has counted, on all CPUs. */
function countOf(object: BpfObject): number {
  const values = object.map('counts', 4, 8 * possibleCpus()).first(1);
  const words = new BigUint64Array(values.buffer, values.byteOffset, values.length / 8);
  return words.reduce((sum, one) => sum + Number(one), 0);
}

function toName(gateway: Gateway): string {
  return `to-${gateway}`;
}

function fromName(gateway: Gateway): string {
  return `from-${gateway}`;
}

function plan(): Parameters<typeof Network.create>[0] {
  const routes = FAMILIES.flatMap((family) => [
    `${REALM[family].text} via ${USER_PLANE[family].text}`,
    `default via ${UPSTREAM[family].text}`,
  ]);
  const outside = [`${OUTSIDE_ADDRESS.ipv4.text}/30`, `${OUTSIDE_ADDRESS.ipv6.text}/64`];
  const inner = [`${INNER_ADDRESS.ipv4.text}/24`, `${INNER_ADDRESS.ipv6.text}/64`];
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
    ...FAMILIES.flatMap((family) => [
      `ip neighbour add ${UPSTREAM[family].text} lladdr ${upstreamMac} dev outside nud permanent`,
      `ip neighbour add ${USER_PLANE[family].text} lladdr ${userPlaneMac} dev inside nud permanent`,
    ]),
    ...['all', 'outside'].map((name) => `echo 0 > /proc/sys/net/ipv4/conf/${name}/send_redirects`),
  ].join('\n');
}

/** What an end counts and drops, by the gateway that it comes from. */
function countingRules(nameOf: (gateway: Gateway) => string, port: number): string {
  const chains = GATEWAYS.map(
    (gateway) => `counter ${gateway} { }
chain ${gateway} {
  type filter hook ingress device "${nameOf(gateway)}" priority 0; policy accept;
  udp dport ${port} counter name ${gateway} drop
}`,
  );
  return `table netdev bench {\n${chains.join('\n')}\n}\n`;
}

/** Port forwarding as one would write it: a map, and nothing forwarded that is not in it. */
function natRules(grants: number): string {
  const text = ({ address: host, port }: Target) => `${host.text} . ${port}`;
  const elements = Array.from({ length: grants }, (_, i) => i + ENDED).map(
    (i) => `${text(endpoint('ipv4', i))} : ${text(device('ipv4', i))}`,
  );
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

function baseRules(normalise: Normalisation): string {
  return baseRuleset({
    ...PLAIN_BASE,
    normalise,
    outside: 'outside',
    inside: [{ interface: 'inside', prefixes: [REALM.ipv4, REALM.ipv6] }],
    present: ['outside', 'inside'],
    grants: [...POOL.ipv4, ...POOL.ipv6],
    egress: [prefix('203.0.113.8/29'), prefix('2001:db8:e::/64')],
    deniedDestinations: [],
    services: [],
    nflogGroup: NFLOG_GROUP,
  });
}

function placesOf(network: Network, gateway: Gateway, xdp: boolean) {
  const at = (name: string) => ({
    name,
    ifindex: network.link(gateway, name).ifindex,
    ...(xdp && { xdp: 'native' as const }),
  });
  return { outside: at('outside'), inside: [at('inside')] };
}

function openGate(network: Network, gateway: Gateway, normalise: Normalisation): Gate {
  const { outside, inside: realms } = placesOf(network, gateway, false);
  const mtu = 1500;
  const gate = Gate.load({
    object: `${ROOT}dist/dataplane/gate.bpf.o`,
    bpffs: `${network.bpffs()}/mtgate`, // each call is another file system
    setup: {
      pool: POOL,
      outside: { ifindex: outside.ifindex, nextHops: UPSTREAM, mtu, takesFrames: true },
      inside: realms.map(({ ifindex }) => ({
        ...{ ifindex, realm: 1, prefixes: [REALM.ipv4, REALM.ipv6], nextHops: USER_PLANE, mtu },
        ...{ takesFrames: true, translated: true },
      })),
      own: FAMILIES.flatMap((family) => [
        { address: INNER_ADDRESS[family], on: 'inside' as const },
        { address: OUTSIDE_ADDRESS[family], on: 'elsewhere' as const },
      ]),
      ...USUAL,
      normalise,
    },
  });
  for (const text of ['198.51.100.0/24', '2001:db8:51::/48']) gate.addClass(prefix(text), SERVER_CLASS);
  gate.sample(SAMPLED_PER_SECOND);
  return gate;
}

function openGrant(gate: Gate, family: Family, i: number, endNs: bigint): void {
  const remote: Address = address(SERVER[family]);
  gate.open(
    {
      ...{ index: indexOf(family, i), number: numberOf(family, i), protocol: 'udp', realm: 1 },
      ...{ device: device(family, i), external: endpoint(family, i) },
      ...{ remote, remotePort: 0, classId: SERVER_CLASS, limits: {} },
    },
    endNs,
  );
  gate.bind(1, hostPrefix(device(family, i).address));
}

function numberOf(family: Family, i: number): number {
  return i + 1 + (family === 'ipv6' ? MOST : 0);
}

function indexOf(family: Family, i: number): number {
  if (i >= MOST) throw new RangeError(`no room for grant ${i}`);
  return family === 'ipv4' ? (indexOfIpv4(POOL, 'udp', endpoint(family, i)) ?? -1) : ipv4Entries(POOL) + i;
}
