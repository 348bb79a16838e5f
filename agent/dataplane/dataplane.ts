/**
 * What a data plane is to the rest of the agent. Two exist: gate.ts, the BPF
 * program in the kernel, and memory.ts, its slow and obvious twin. One suite
 * of tests runs on both.
 *
 * Times are CLOCK_MONOTONIC nanoseconds, as the kernel counts them. All calls
 * are synchronous: a grant is open, or closed, when they return. Faults of
 * the kernel are thrown as AgentError('gateFault').
 */
import type { Admission } from '../core/admissions.ts';
import type { Address, Endpoint, Family, NextHops, Prefix } from '../core/net.ts';
import type { Pool } from '../core/pool.ts';
import type { DenialReason } from '../core/reasons.ts';
import type { Normalisation, PacketLimits, Protocol, Service } from '../core/words.ts';

/** A grant as packets see it. */
export interface Mapping {
  /** Place of the entry; fixed by the external endpoint (IPv4 of the pool) or allocated. */
  readonly index: number;
  /** The grant's number, below 2^53, never used twice: tells a live entry from a leftover's key. */
  readonly number: number;
  readonly protocol: Protocol;
  readonly realm: number;
  readonly device: Endpoint;
  /** That of the pool which stands for the device; or the device's own, and nothing is rewritten. */
  readonly external: Endpoint;
  /** The one address, or any address of the server's class. */
  readonly remote: Address | 'all';
  /** 0: any port. */
  readonly remotePort: number;
  readonly classId: number;
  readonly limits: PacketLimits;
}

/** Whether packets of a grant are rewritten: no pool has an address of a realm, so an endpoint that is the device's is its own. */
export function isTranslated({ device, external }: Pick<Mapping, 'device' | 'external'>): boolean {
  return device.port !== external.port || device.address.text !== external.address.text;
}

/** An entry as it stands. */
export interface Entry {
  readonly mapping: Mapping;
  readonly endNs: bigint;
}

/** What an entry holds, without the addresses: found at little cost. */
export interface EntryState {
  readonly index: number;
  readonly number: number;
  readonly endNs: bigint;
}

export interface PacketCount {
  readonly packets: bigint;
  readonly bytes: bigint;
}

export interface GateCounters {
  readonly grantedIn: PacketCount;
  readonly grantedOut: PacketCount;
  readonly passed: PacketCount;
  readonly sampled: PacketCount;
  /** ICMP errors about granted flows, either way. */
  readonly errorsCarried: PacketCount;
  /** Echo requests to external addresses that the gate answered. */
  readonly echoesAnswered: PacketCount;
  /** Of those carried or denied: finished at XDP, in front of the stack. */
  readonly atXdp: PacketCount;
  readonly denied: Readonly<Record<DenialReason, PacketCount>>;
}

/** A prefix of a realm: of full length, one inner address. */
export interface InnerPrefix {
  readonly realm: number;
  readonly prefix: Prefix;
}

export interface Dataplane {
  /** Fills the dead entry, its keys, and makes it alive until `endNs`. Throws where it is alive, and then changes nothing. */
  open(mapping: Mapping, endNs: bigint): void;
  /** Stores an end no later than `endNs` into the entry if it still has this number; both ways stop at once. Returns whether it had. */
  end(index: number, number: number, endNs: bigint): boolean;
  /**
   * Raises the end of a live entry from the end that was read. Returns false,
   * and changes nothing, where the entry is another grant's, is dead, or has
   * another end by now. Nothing else raises an end, but `resume`.
   */
  extend(index: number, number: number, fromNs: bigint, toNs: bigint): boolean;
  /** Makes a dead entry alive again that still has this number, with what it has used of its limits. Returns whether it had. */
  resume(index: number, number: number, endNs: bigint): boolean;
  /** Gives a live entry other limits, at once; what was used already counts toward them. Returns whether it still has this number. */
  limit(index: number, number: number, limits: PacketLimits): boolean;
  /** The grants of which a packet was refused for the byte quota since this was asked last: each is named once, and may have ended meanwhile. */
  usedUp(): readonly Pick<EntryState, 'index' | 'number'>[];
  /** The grant's rest is over: takes back the keys that are still its own, and empties the entry. */
  forget(mapping: Mapping): void;
  /** The entry at an index; undefined where nothing was ever opened, or all is forgotten. */
  entry(index: number): Entry | undefined;
  /** The same without its addresses. */
  state(index: number): EntryState | undefined;
  /** All entries that are not empty, live ones and those at rest, from an index on and below another. */
  states(from?: number, to?: number): Iterable<EntryState>;
  /** Packets and bytes a grant has carried, since it was opened. */
  carried(index: number): { readonly in: PacketCount; readonly out: PacketCount };
  /** The heartbeat's last time; 0n where there was none. */
  lastHeartbeat(): bigint;
  heartbeat(nowNs: bigint): void;
  /** How many denials a second go on to be looked at, a tenth of them at once; 0 switches it off. */
  sample(perSecond: number): void;
  /** Which prefixes stand for which class. */
  classes(): ReadonlyMap<string, number>;
  removeClass(prefix: Prefix): void;
  addClass(prefix: Prefix, classId: number): void;
  /**
   * From here on somebody holds this prefix. Where only bound devices speak
   * (GateSetup), what answers no grant passes from held addresses alone, but
   * for what the link needs: neighbour discovery with the gateway, reports of
   * multicast listeners. Throws where there is no room: for so many, or for
   * prefixes of a family of more than eight lengths.
   */
  bind(realm: number, prefix: Prefix): void;
  /** Nobody holds it any more: what its addresses send stops at once. */
  unbind(realm: number, prefix: Prefix): void;
  /** All that is bound; what is bound or unbound before all of it is read may be missing or not. */
  bindings(): Iterable<InnerPrefix>;
  /** While a prefix changes hands nothing is heard of its addresses, answers included, and nothing reaches them. */
  setChanging(realm: number, prefix: Prefix, changing: boolean): void;
  /**
   * What may pass to the inside without a grant, all of it, in the place of
   * what was said before: meanwhile nothing passes that neither list admits.
   * Throws where there is no room, and then changes nothing.
   */
  admissions(list: readonly Admission[]): void;
  counters(): GateCounters;
}

/** What a data plane is built on; built anew when an interface or an address of the host comes or goes. */
export interface GateSetup {
  readonly pool: Pool;
  /** `ifindex` undefined, here and below: the interface is not there. */
  readonly outside: {
    readonly ifindex: number | undefined;
    readonly nextHops: NextHops;
    readonly mtu?: number;
    /** Whether it takes frames that XDP redirects to it; here and below. */
    readonly takesFrames?: boolean;
    /** The families in which the host's rules choose routes by more than the destination; here and below. */
    readonly routedByMore?: readonly Family[];
  };
  readonly inside: readonly {
    readonly ifindex: number | undefined;
    readonly realm: number;
    readonly prefixes: readonly Prefix[];
    readonly nextHops: NextHops;
    /** Of the interface, in bytes of IP; absent: whatever is carried fits. */
    readonly mtu?: number;
    readonly takesFrames?: boolean;
    readonly routedByMore?: readonly Family[];
    /** Whether the outside sees others than its addresses. If not, devices are known by them there, and they are no secret. */
    readonly translated: boolean;
  }[];
  /** The host's own addresses, and those by which it is reached together with others: those on inside interfaces (`gateway`) never appear outside; devices reach none of them but for services. */
  readonly own: readonly { readonly address: Address; readonly on: 'inside' | 'elsewhere' }[];
  /** What devices may reach on the gateway; neighbour discovery always. */
  readonly services: readonly Service[];
  readonly orphanGraceSeconds: number;
  readonly udpTombstoneSeconds: number;
  /** Only from addresses that are bound do devices speak. */
  readonly onlyBound: boolean;
  readonly normalise: Normalisation;
  /** Secret, 64 bits: identifications are permuted by it. */
  readonly identificationKey: bigint;
}

/** The places where the gate looks at packets. */
export const HOOKS = ['outsideIngress', 'outsideEgress', 'insideIngress', 'insideEgress'] as const;
export type Hook = (typeof HOOKS)[number];
/** In front of the ingress hooks; what is not decided there goes on to them. */
export type XdpHook = 'outsideXdp' | 'insideXdp';

/**
 * What became of one packet. `redirect`: carried, or answered, `bytes` is the
 * packet as it leaves (before the link layer is written). `cut`: carried, and
 * the stack is to cut it into fragments. `pass`: left to the stack and the
 * base, as it came if no `bytes` say otherwise. `drop`: not passed; `sampled`
 * tells whether it goes on, marked, to be looked at.
 */
export type Verdict =
  | { readonly verdict: 'redirect' | 'cut'; readonly bytes: Uint8Array }
  | { readonly verdict: 'pass'; readonly bytes?: Uint8Array }
  | { readonly verdict: 'drop'; readonly reason: DenialReason; readonly sampled: boolean };

/**
 * A data plane that can be asked about one packet: an Ethernet frame, as an interface received it, with the mark that
 * it has; at an egress hook, `from` is the interface where it came in, 0 where the host itself sends it.
 */
export interface JudgingDataplane extends Dataplane {
  judge(hook: Hook, ifindex: number, frame: Uint8Array, mark?: number, from?: number): Verdict;
}
