/**
 * The gate in the kernel, as the agent holds it: writes grants into its maps,
 * reads its counters, hangs it at the interfaces.
 *
 * Invariants. `end` decides alone whether an entry is alive: it is written by
 * one atomic store into memory shared with the kernel, last when opening and
 * first when closing. An entry is filled while it is dead. Nothing here raises
 * an end: to extend is the grants' decision, and goes through open. Loading
 * writes no heartbeat: a grant that is found there is not confirmed by that.
 * Only one agent may hold the gate at a time; main sees to it.
 */
import { AgentError } from '../core/errors.ts';
import { type Address, contains, hostPrefix, type Prefix, prefix } from '../core/net.ts';
import { entryCount, type Pool } from '../core/pool.ts';
import { DENIAL_REASONS, DENIALS, type DenialReason, denialOfNumber } from '../core/reasons.ts';
import { type AttachMode, type Attachment, Attachments, type Interfaces } from './attachment.ts';
import { BpfMap, type BpfObject, type Mapped, mapMemory, possibleCpus, testRun } from './bpf.ts';
import type {
  Entry,
  GateCounters,
  GateSetup,
  Hook,
  JudgingDataplane,
  Mapping,
  PacketCount,
  Verdict,
} from './dataplane.ts';
import * as layout from './layout.ts';
import { COUNTERS, ENTRY, LAYOUT, OWNERS, u32 } from './layout.ts';
import { load, removeOtherFolders } from './loader.ts';

const PROGRAMS: Readonly<Record<Hook, string>> = {
  outsideIngress: 'gate_outside_ingress',
  outsideEgress: 'gate_outside_egress',
  insideIngress: 'gate_inside_ingress',
};

/** In the tries an IPv6 prefix such as ::/0 holds the mapped form of all IPv4 too, but for this entry, which means none. */
const ALL_IPV4 = prefix('0.0.0.0/0');
const NONE = 0;
const LINK_LOCAL = prefix('fe80::/10');
const SECOND_NS = 1_000_000_000n;
const TC_ACT = { ok: 0, shot: 2, redirect: 7, unspec: -1 } as const;

/** Words of struct gate_state. */
const STATE = Object.fromEntries(
  Object.entries(LAYOUT.gate_state.fields).map(([field, offset]) => [field, offset / 8]),
) as Readonly<Record<keyof typeof LAYOUT.gate_state.fields, number>>;

function makeMaps(object: BpfObject) {
  const make = (name: string, keySize: number, valueSize: number) => new BpfMap(object.mapFd(name), keySize, valueSize);
  const target = LAYOUT.gate_target.size;
  return {
    ipv6Endpoints: make('ipv6_endpoints', LAYOUT.gate_endpoint.size, target),
    answers: make('answers', LAYOUT.gate_answer.size, target),
    classes: make('classes', LAYOUT.gate_prefix.size, 4),
    owned: make('owned', LAYOUT.gate_prefix.size, 4),
    inside: make('inside', 4, LAYOUT.gate_inside.size),
    realms: make('realms', 4, LAYOUT.gate_route.size),
    changing: make('changing', LAYOUT.gate_inner.size, 1),
    counters: make('counters', 4, LAYOUT.gate_count.size * possibleCpus()),
  };
}

export class Gate implements JudgingDataplane {
  readonly #object: BpfObject;
  readonly #bpffs: string;
  readonly #pool: Pool;
  readonly #maps: ReturnType<typeof makeMaps>;
  readonly #attachments: Attachments;
  readonly #mapped: readonly Mapped[];
  /** The entries, as bytes and as words: of each entry the first word is its end. */
  #bytes: Uint8Array;
  #words: BigUint64Array;
  #state: BigUint64Array;

  private constructor(object: BpfObject, bpffs: string, pool: Pool) {
    this.#object = object;
    this.#bpffs = bpffs;
    this.#pool = pool;
    this.#maps = makeMaps(object);
    const entries = mapMemory(object.mapFd('entries'), entryCount(pool) * LAYOUT.gate_entry.size);
    const state = mapMemory(object.mapFd('state'), LAYOUT.gate_state.size);
    this.#mapped = [entries, state];
    this.#bytes = new Uint8Array(entries.memory);
    this.#words = new BigUint64Array(entries.memory);
    this.#state = new BigUint64Array(state.memory);
    this.#attachments = new Attachments(bpffs, {
      outsideIngress: object.programFd(PROGRAMS.outsideIngress),
      outsideEgress: object.programFd(PROGRAMS.outsideEgress),
      insideIngress: object.programFd(PROGRAMS.insideIngress),
    });
  }

  /**
   * Loads the gate, on the maps that an earlier agent left if they are of the
   * same schema and pool. Nothing is attached yet.
   * @throws AgentError kernelTooOld, libraryMissing, bpffsMissing, gateNotLoaded
   */
  static load({ object, bpffs, setup }: { object: string; bpffs: string; setup: GateSetup }): Gate {
    const gate = new Gate(load(object, bpffs, setup), bpffs, setup.pool);
    gate.#settle(setup);
    return gate;
  }

  /**
   * Hangs the gate at the interfaces, in place of an earlier agent's, without a
   * gap; then removes the maps of other schemas and pools.
   * @throws AgentError gateNotAttached
   */
  attach(mode: AttachMode, interfaces: Interfaces): void {
    this.#attachments.attach(mode, interfaces);
    removeOtherFolders(this.#bpffs, this.#pool);
  }

  /** Where the gate hangs at this moment. */
  attachments(): readonly Attachment[] {
    return this.#attachments.list();
  }

  /** Takes the gate away from all interfaces; the maps stay. */
  detach(): void {
    this.#attachments.detach();
  }

  /** Lets go of the gate, which goes on without the agent. */
  close(): void {
    this.#bytes = new Uint8Array();
    this.#words = this.#state = new BigUint64Array();
    for (const mapped of this.#mapped) mapped.release();
    this.#object.close();
  }

  open(mapping: Mapping, endNs: bigint): void {
    const at = this.#wordOf(mapping.index);
    if (Atomics.load(this.#words, at) > process.hrtime.bigint())
      throw new AgentError('gateFault', `entry ${mapping.index} is alive: it is not opened again`);
    Atomics.store(this.#words, at, 0n);
    this.#bytes.set(layout.entryBytes(mapping), at * 8);
    try {
      this.#maps.answers.update(layout.answerKey(mapping), layout.targetBytes(mapping));
      if (mapping.external.address.family === 'ipv6')
        this.#maps.ipv6Endpoints.update(layout.endpointKey(mapping), layout.targetBytes(mapping));
    } catch (cause) {
      this.forget(mapping);
      throw cause;
    }
    Atomics.store(this.#words, at, endNs);
  }

  end(index: number, number: number, endNs: bigint): boolean {
    const at = this.#wordOf(index);
    if (this.#words[at + ENTRY.number / 8] !== BigInt(number)) return false;
    if (endNs < Atomics.load(this.#words, at)) Atomics.store(this.#words, at, endNs);
    return true;
  }

  forget(mapping: Mapping): void {
    const at = this.#wordOf(mapping.index);
    const own = this.#words[at + ENTRY.number / 8] === BigInt(mapping.number);
    if (own) Atomics.store(this.#words, at, 0n);
    for (const [map, key] of [
      [this.#maps.ipv6Endpoints, layout.endpointKey(mapping)],
      [this.#maps.answers, layout.answerKey(mapping)],
    ] as const) {
      const target = map.lookup(key);
      if (target && layout.targetNumber(target) === mapping.number) map.remove(key);
    }
    // Last, so that what is left over after a crash can still be seen, and forgotten again.
    if (own) this.#bytes.fill(0, at * 8, at * 8 + LAYOUT.gate_entry.size);
  }

  entry(index: number): Entry | undefined {
    const at = this.#wordOf(index);
    if (this.#words[at + ENTRY.number / 8] === 0n) return undefined;
    return layout.readEntry(index, this.#bytes.subarray(at * 8, at * 8 + LAYOUT.gate_entry.size));
  }

  *entries(): Iterable<Entry> {
    const count = this.#bytes.length / LAYOUT.gate_entry.size;
    for (let index = 0; index < count; index++) {
      const entry = this.entry(index);
      if (entry) yield entry;
    }
  }

  carried(index: number): { readonly in: PacketCount; readonly out: PacketCount } {
    const at = this.#wordOf(index) * 8;
    const read = (field: number) =>
      layout.readCount(this.#bytes.subarray(at + field, at + field + LAYOUT.gate_count.size));
    return { in: read(ENTRY.in), out: read(ENTRY.out) };
  }

  lastHeartbeat(): bigint {
    return Atomics.load(this.#state, STATE.heartbeat);
  }

  heartbeat(nowNs: bigint): void {
    Atomics.store(this.#state, STATE.heartbeat, nowNs);
  }

  sample(perSecond: number): void {
    Atomics.store(this.#state, STATE.sample_interval, perSecond > 0 ? SECOND_NS / BigInt(perSecond) : 0n);
  }

  classes(): ReadonlyMap<string, number> {
    const { classes } = this.#maps;
    const found = classes.keys().map((key) => [layout.prefixText(key), classes.lookup(key)] as const);
    const known = found.map(([text, id]) => [text, id ? layout.readU32(id) : NONE] as const);
    return new Map(known.filter(([, id]) => id !== NONE));
  }

  removeClass(of: Prefix): void {
    const key = layout.prefixKey(of);
    if (of.text === ALL_IPV4.text) this.#maps.classes.update(key, u32(NONE));
    else this.#maps.classes.remove(key);
  }

  addClass(of: Prefix, classId: number): void {
    if (classId === NONE) throw new AgentError('gateFault', `${of.text}: class 0 stands for no class`);
    this.#maps.classes.update(layout.prefixKey(of), u32(classId));
  }

  setChanging(realm: number, address: Address, changing: boolean): void {
    const key = layout.innerKey(realm, address);
    if (changing) this.#maps.changing.update(key, Uint8Array.of(1));
    else this.#maps.changing.remove(key);
    Atomics.store(this.#state, STATE.changing, BigInt(this.#maps.changing.keys().length));
  }

  counters(): GateCounters {
    const read = (slot: number): PacketCount =>
      layout.readCount(this.#maps.counters.lookup(u32(slot)) ?? new Uint8Array());
    return {
      grantedIn: read(COUNTERS.grantedIn),
      grantedOut: read(COUNTERS.grantedOut),
      passed: read(COUNTERS.passed),
      sampled: read(COUNTERS.sampled),
      denied: Object.fromEntries(DENIAL_REASONS.map((reason) => [reason, read(DENIALS[reason].number)])) as Record<
        DenialReason,
        PacketCount
      >,
    };
  }

  /** Asks the program itself (BPF_PROG_TEST_RUN): it counts, and samples, as for any other packet. */
  judge(hook: Hook, ifindex: number, frame: Uint8Array): Verdict {
    const { verdict, mark, bytes } = testRun(this.#object.programFd(PROGRAMS[hook]), ifindex, frame);
    if (verdict === TC_ACT.redirect) return { verdict: 'redirect', bytes };
    if (verdict === TC_ACT.unspec) return { verdict: 'pass' };
    const reason = denialOfNumber(mark - layout.GATE_MARK);
    if (!reason) throw new AgentError('gateFault', `${PROGRAMS[hook]} answered ${verdict} with mark ${mark}`);
    return { verdict: 'drop', reason, sampled: verdict === TC_ACT.ok };
  }

  /** Brings what follows from the configuration up to date; adds before it removes. */
  #settle(setup: GateSetup): void {
    const { changing, inside, owned, realms } = this.#maps;
    Atomics.store(this.#state, STATE.orphan_grace, BigInt(setup.orphanGraceSeconds) * SECOND_NS);
    Atomics.store(this.#state, STATE.tombstone, BigInt(setup.udpTombstoneSeconds) * SECOND_NS);
    replace(owned, ownedPrefixes(setup));
    if (!this.classes().has(ALL_IPV4.text)) this.removeClass(ALL_IPV4);
    replace(
      realms,
      setup.inside.map((one) => [u32(one.realm), layout.routeBytes(one.ifindex, one.nextHops)]),
    );
    replace(
      inside,
      setup.inside.map((one) => [u32(one.ifindex), layout.insideBytes(one.realm)]),
    );
    replace(changing, []);
    Atomics.store(this.#state, STATE.changing, 0n);
  }

  /** Where an entry begins, in words. */
  #wordOf(index: number): number {
    const at = (index * LAYOUT.gate_entry.size) / 8;
    if (!Number.isInteger(index) || index < 0 || at >= this.#words.length)
      throw new AgentError('gateFault', `the gate has no entry ${index}`);
    return at;
  }
}

type Pair = readonly [key: Uint8Array, value: Uint8Array];

function replace(map: BpfMap, wanted: readonly Pair[]): void {
  for (const [key, value] of wanted) map.update(key, value);
  for (const key of map.keys()) if (!wanted.some(([one]) => Buffer.compare(one, key) === 0)) map.remove(key);
}

/** Link-local addresses are no one's: each link has its own, and the gate knows them by their prefix. */
function ownedPrefixes({ inside, own }: GateSetup): readonly Pair[] {
  const realms = inside.flatMap(({ prefixes }) => prefixes.map((one) => [one, OWNERS.realm] as const));
  const host = own
    .filter(({ address }) => !contains(LINK_LOCAL, address))
    .map(({ address, on }) => [hostPrefix(address), on === 'inside' ? OWNERS.gateway : OWNERS.host] as const);
  return [[ALL_IPV4, NONE] as const, ...realms, ...host].map(([one, owner]) => [layout.prefixKey(one), u32(owner)]);
}
