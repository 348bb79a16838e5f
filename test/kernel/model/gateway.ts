/**
 * A whole gateway on wires: gate, base, blackholes and policy as the daemon
 * puts them there, in a namespace of its own (neighbourhood.ts).
 *
 * A second table watches: at each hook it logs what gets there, and decides
 * nothing. So of a packet that is not seen again it is known how far it came.
 */
import { join } from 'node:path';
import { Closure } from '../../../agent/closure/closure.ts';
import { gatePlaces, gateSetup, poolPrefixes, siteOf } from '../../../agent/closure/site.ts';
import { wrongSysctls } from '../../../agent/closure/sysctls.ts';
import { type Config, readConfig } from '../../../agent/config.ts';
import type { GateSetup } from '../../../agent/dataplane/dataplane.ts';
import { Gate } from '../../../agent/dataplane/gate.ts';
import { host, missingBlackholes, setBlackholes } from '../../../agent/dataplane/iproute.ts';
import { Base } from '../../../agent/dataplane/nftables.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import { enter } from '../../enter.ts';
import { ethernet } from '../../frames.ts';
import type { Network } from '../../network.ts';
import { policyOf } from '../../rules.ts';
import { GATE_OBJECT } from '../gate-stand.ts';
import { TRIGGER_PORT } from './cases.ts';
import {
  bareNeighbours,
  bindings,
  buildNetwork,
  deviceOf,
  INTERFACES,
  isOwn,
  PLACES,
  type Place,
  realmId,
  WIRES,
} from './neighbourhood.ts';
import { type Packet, read } from './packet.ts';
import { Log, Wire } from './wire.ts';

const NFLOG = 100;
const WATCH = 101;
/** Longer than a gateway of these tests stands: of a piece that has waited in vain it would complain at any moment. */
const PIECES_WAIT_SECONDS = 7200;
const CONFIG = `
gateway: model
outside: { interface: outside }
pools:
  grants: { prefixes: [203.0.113.0/30, "2001:db8:a::/64"], ports: 40000-40015, keyedGrants: 32 }
  egress: { prefixes: [203.0.113.8/30, "2001:db8:e::/120"] }
inside:
  - { realm: one, interface: inside1, prefixes: [10.20.0.0/16, "fd00:20::/48"] }
  - { realm: two, interface: inside2, prefixes: [10.30.0.0/16, "fd00:30::/48"] }
services: [udp/53, icmp, icmpv6]
triggers: { sources: [10.20.0.1, "fd00:20::1"], sourcePort: 161, ports: [${TRIGGER_PORT}] }
api:
  listen: 192.0.2.2:8443
  certificate: api.crt
  key: api.key
  clientCAs: [{ name: mtc-ca, file: ca.crt }]
gate: { sampledDenialsPerSecond: 100000 }
base: { nflogGroup: ${NFLOG}, deniedDestinations: [192.0.2.64/26, 100.64.0.0/10, "2001:db8:66::/48"] }
`;

const FROM_WIRES = `iifname { ${Object.values(INTERFACES).join(', ')} }`;
const logged = (word: string) => `${FROM_WIRES} log prefix "${word}" group ${WATCH} snaplen 160 queue-threshold 1`;
const watched = (word: string, hook: string, priority: number, but = '') =>
  `chain ${word} { type filter hook ${hook} priority ${priority}; ${but}${logged(word)}\n}`;
/** The host's own upkeep of a link (RFC 3810, 4861), at any moment. */
const UPKEEP = 'ip6 saddr { ::, fe80::/10 } accept; ';
/** Defragmentation is at -400, the base from -300 on; the source is translated at 100. */
const WATCHING = `table inet watch {
${watched('met', 'prerouting', -350)}
${watched('tracked', 'prerouting', 300)}
${watched('forward', 'forward', -500)}
${watched('input', 'input', -500)}
${watched('heard', 'input', 500)}
${watched('leaves', 'postrouting', 300, UPKEEP)}
}
`;

/** What the kernel did with one packet. */
export interface Seen {
  /** The gate's counters that rose, each as often as it did. */
  readonly gate: readonly string[];
  /** Hooks that were reached, and copies with their reasons, in order. */
  readonly log: readonly string[];
  readonly arrived: readonly Arrival[];
  /** What the gateway said by itself, with an address of its own. */
  readonly said: readonly Arrival[];
}

export interface Arrival {
  readonly at: Place;
  readonly bytes: Uint8Array;
}

export const ifindexIn = (setup: GateSetup, place: Place): number =>
  (place === 'outside' ? setup.outside.ifindex : setup.inside[place === 'one' ? 0 : 1]?.ifindex) ?? 0;

const NUMBERS = { realmId, identificationKey: 7n };

export class Gateway {
  readonly config: Config;
  readonly setup: GateSetup;
  readonly gate: Gate;
  readonly #network: Network;
  readonly #base: Base;
  readonly #closure: Closure;
  readonly #wires: Readonly<Record<Place, Wire>>;
  readonly #macs: Readonly<Record<Place, Uint8Array>>;
  readonly #log: Log;
  readonly #leave: () => void;
  #counted: Map<string, bigint>;

  private constructor(parts: {
    network: Network;
    config: Config;
    setup: GateSetup;
    gate: Gate;
    base: Base;
    closure: Closure;
    leave: () => void;
  }) {
    const { network } = parts;
    this.#network = network;
    this.config = parts.config;
    this.setup = parts.setup;
    this.gate = parts.gate;
    this.#base = parts.base;
    this.#closure = parts.closure;
    this.#leave = parts.leave;
    const each = <T>(make: (place: Place) => T) =>
      Object.fromEntries(PLACES.map((place) => [place, make(place)])) as Record<Place, T>;
    this.#wires = each((place) => new Wire(network, 'neighbours', WIRES[place]));
    this.#macs = each((place) =>
      Buffer.from(network.link('gateway', INTERFACES[place]).mac.replaceAll(':', ''), 'hex'),
    );
    this.#log = new Log(network, 'gateway', [NFLOG, WATCH]);
    this.#counted = counts(this.gate);
  }

  /** Stands, closed, with a policy that says nothing. Until close() the thread is in the gateway's namespace. */
  static async start(): Promise<Gateway> {
    const reading = readConfig(CONFIG, 'agent.yaml');
    if ('issues' in reading) throw new Error(reading.issues.map(({ message }) => message).join('\n'));
    const { config } = reading;
    const network = buildNetwork();
    await bareNeighbours(network);
    const leave = enter(network.name('gateway'));
    const site = siteOf(config, await host([]));
    const setup = gateSetup(config, site, NUMBERS);
    const gate = Gate.load({ object: GATE_OBJECT, bpffs: join(network.bpffs(), 'mtgate'), setup });
    gate.attach(config.gate.attach, gatePlaces(config, site));
    for (const { realm, prefix } of bindings()) gate.bind(realmId(realm), prefix);
    gate.sample(config.gate.sampledDenialsPerSecond);
    const base = new Base();
    await setBlackholes(poolPrefixes(config));
    const nothing = policyOf('filters: []');
    const silent = () => {};
    const closure = new Closure(
      {
        config,
        numbers: NUMBERS,
        gate,
        base,
        directory: { bound: bindings(), attributesOf: (device) => deviceOf(device)?.attributes ?? {} },
        host,
        missingBlackholes,
        setBlackholes,
        wrongSysctls,
        log: { info: silent, warn: silent, error: silent } as never,
        gapFound: silent,
      },
      site,
      nothing,
    );
    await closure.switchPolicy(nothing);
    await network.run('gateway', ['nft', '-f', '-'], { input: WATCHING });
    for (const timeout of ['ipv4/ipfrag_time', 'netfilter/nf_conntrack_frag6_timeout'])
      await network.run('gateway', ['sh', '-c', `echo ${PIECES_WAIT_SECONDS} >/proc/sys/net/${timeout}`]);
    return new Gateway({ network, config, setup, gate, base, closure, leave });
  }

  /** Puts a policy's filters in force, as the daemon does. */
  switchPolicy(policy: Policy): Promise<void> {
    return this.#closure.switchPolicy(policy);
  }

  /** Flows of before are not known any more. */
  async forgetFlows(): Promise<void> {
    await this.#network.run('gateway', ['conntrack', '-F']);
    this.look();
  }

  /** What the filters have met, by id. */
  async filterPackets(): Promise<Map<string, number>> {
    const counted = await this.#base.counted();
    return new Map([...counted].map(([id, { packets }]) => [id, Number(packets)]));
  }

  /** How many packets the base's own rules have dropped without a copy. */
  async silentlyDropped(): Promise<number> {
    const { stdout } = await this.#network.run('gateway', ['nft', 'list', 'table', 'inet', 'mtgate']);
    return [
      ...stdout.matchAll(/ counter packets (\d+) bytes \d+ drop$/gm),
      ...stdout.matchAll(/^\t*counter packets (\d+) bytes \d+ drop$/gm),
    ].reduce((total, [, packets]) => total + Number(packets), 0);
  }

  send(from: Place, packet: Uint8Array): void {
    const frame = ethernet(packet);
    frame.set(this.#macs[from]);
    this.#wires[from].send(frame);
  }

  /** All that was seen since this was asked last. */
  look(): Seen {
    const counted = counts(this.gate);
    const before = this.#counted;
    this.#counted = counted;
    const gate = [...counted].flatMap(([name, count]) =>
      Array<string>(Number(count - (before.get(name) ?? 0n))).fill(name),
    );
    const log = this.#log.logged().map(({ prefix: word }) => word);
    const all = PLACES.flatMap((at) =>
      this.#wires[at].received().map((frame): Arrival => ({ at, bytes: frame.subarray(14) })),
    ).filter(({ bytes }) => (bytes[0] ?? 0) >> 4 === 4 || (bytes[0] ?? 0) >> 4 === 6);
    return {
      gate,
      log,
      arrived: all.filter(({ bytes }) => !isOwn(read(bytes).source)),
      said: all.filter(({ bytes }) => isOwn(read(bytes).source) && !isUpkeep(read(bytes))),
    };
  }

  async close(): Promise<void> {
    this.#log.close();
    for (const wire of Object.values(this.#wires)) wire.close();
    this.gate.detach();
    this.gate.close();
    this.#leave();
    await this.#network.close();
  }
}

function isUpkeep({ destination }: Packet): boolean {
  return destination.text.startsWith('ff02:');
}

function counts(gate: Gate): Map<string, bigint> {
  const { denied, ...others } = gate.counters();
  return new Map(
    [...Object.entries(others), ...Object.entries(denied)].map(([name, { packets }]) => [name, packets] as const),
  );
}
