/**
 * What the gate's twin (memory.ts) knows, and the calls that say it: the same
 * as the gate's, on lists and maps that can be seen right at a glance.
 *
 * It rests on two tables: the entries, by index, of which `endNs` alone
 * decides whether one is alive; and the keys that lead to them, each naming
 * index and grant number, so that a leftover key never opens what a later
 * grant holds.
 */
import { ADMISSIONS_MAX, type Admission, admissionTables, crowdedSource } from '../core/admissions.ts';
import { AgentError } from '../core/errors.ts';
import { type Address, contains, type Endpoint, hostPrefix, mappedLength, type Prefix, prefix } from '../core/net.ts';
import { indexOfIpv4 } from '../core/pool.ts';
import type { Clock } from '../core/ports.ts';
import type { PacketLimits, Protocol } from '../core/words.ts';
import { Allowance } from './allowance.ts';
import {
  type Dataplane,
  type Entry,
  type EntryState,
  type GateCounters,
  type GateSetup,
  type InnerPrefix,
  isTranslated,
  type Mapping,
  type PacketCount,
} from './dataplane.ts';
import { GATE_LENGTHS_MAX } from './layout.ts';
import { NOTHING, Tally } from './tally.ts';

export const SECOND_NS = 1_000_000_000n;

export interface Row {
  mapping: Mapping;
  endNs: bigint;
  readonly allowance: Allowance;
  usedUp: boolean;
  readonly carried: { in: PacketCount; out: PacketCount };
}

/** Where a key leads: to the entry at `index`, if that still is the grant `number`. */
interface Target {
  readonly index: number;
  readonly number: number;
}

type Prefixes = Map<string, InnerPrefix>;

export abstract class MemoryTables implements Dataplane {
  protected readonly clock: Clock;
  protected readonly setup: GateSetup;
  protected readonly entries = new Map<number, Row>();
  protected readonly bound: Prefixes = new Map();
  protected readonly changing: Prefixes = new Map();
  /** Entries of which a packet was refused for the byte quota, until somebody asks. */
  protected used: Target[] = [];
  protected admitted: readonly Admission[] = [];
  protected readonly tally = new Tally();
  protected heardNs = 0n;
  protected sampleEveryNs = 0n;
  protected sampleNextNs = 0n;
  readonly #ipv6Endpoints = new Map<string, Target>();
  readonly #answers = new Map<string, Target>();
  readonly #classIds = new Map<string, number>();

  constructor(clock: Clock, setup: GateSetup) {
    this.clock = clock;
    this.setup = setup;
  }

  open(mapping: Mapping, endNs: bigint): void {
    const { index, number } = mapping;
    const present = this.entries.get(index);
    if (present && present.endNs > this.clock.monotonicNs())
      throw new AgentError('gateFault', `entry ${index} is alive with grant number ${present.mapping.number}`);
    const allowance = new Allowance(mapping.limits);
    this.entries.set(index, { mapping, endNs, allowance, usedUp: false, carried: { in: NOTHING, out: NOTHING } });
    if (mapping.external.address.family === 'ipv6') this.#ipv6Endpoints.set(endpointKey(mapping), { index, number });
    this.#answers.set(answerKey(mapping), { index, number });
  }

  end(index: number, number: number, endNs: bigint): boolean {
    const row = this.entries.get(index);
    if (row?.mapping.number !== number) return false;
    if (endNs < row.endNs) row.endNs = endNs;
    return true;
  }

  extend(index: number, number: number, fromNs: bigint, toNs: bigint): boolean {
    const row = this.entries.get(index);
    if (row?.mapping.number !== number || row.endNs !== fromNs || !this.alive(row)) return false;
    row.endNs = toNs;
    return true;
  }

  resume(index: number, number: number, endNs: bigint): boolean {
    const row = this.entries.get(index);
    if (row?.mapping.number !== number) return false;
    row.endNs = endNs;
    return true;
  }

  limit(index: number, number: number, limits: PacketLimits): boolean {
    const row = this.entries.get(index);
    if (row?.mapping.number !== number) return false;
    row.mapping = { ...row.mapping, limits };
    row.allowance.limits = limits;
    return true;
  }

  usedUp(): readonly Target[] {
    return this.used.splice(0);
  }

  forget(mapping: Mapping): void {
    const { index, number } = mapping;
    for (const [keys, key] of [
      [this.#ipv6Endpoints, endpointKey(mapping)],
      [this.#answers, answerKey(mapping)],
    ] as const) {
      const target = keys.get(key);
      if (target?.index === index && target.number === number) keys.delete(key);
    }
    if (this.entries.get(index)?.mapping.number === number) this.entries.delete(index);
  }

  entry(index: number): Entry | undefined {
    const row = this.entries.get(index);
    return row && { mapping: row.mapping, endNs: row.endNs };
  }

  state(index: number): EntryState | undefined {
    const row = this.entries.get(index);
    return row && { index, number: row.mapping.number, endNs: row.endNs };
  }

  *states(from = 0, to = Number.POSITIVE_INFINITY): Iterable<EntryState> {
    for (const index of [...this.entries.keys()].sort((a, b) => a - b)) {
      const state = index >= from && index < to ? this.state(index) : undefined;
      if (state) yield state;
    }
  }

  carried(index: number): { readonly in: PacketCount; readonly out: PacketCount } {
    return { in: NOTHING, out: NOTHING, ...this.entries.get(index)?.carried };
  }

  lastHeartbeat(): bigint {
    return this.heardNs;
  }

  heartbeat(nowNs: bigint): void {
    this.heardNs = nowNs;
  }

  sample(perSecond: number): void {
    this.sampleEveryNs = perSecond === 0 ? 0n : SECOND_NS / BigInt(perSecond);
  }

  classes(): ReadonlyMap<string, number> {
    return new Map(this.#classIds);
  }

  removeClass(of: Prefix): void {
    this.#classIds.delete(of.text);
  }

  addClass(of: Prefix, classId: number): void {
    if (classId === 0) throw new AgentError('gateFault', `${of.text}: class 0 stands for no class`);
    this.#classIds.set(of.text, classId);
  }

  bind(realm: number, prefix: Prefix): void {
    const others = [...this.bound.values()].filter(({ prefix: { family } }) => family === prefix.family);
    const lengths = new Set(others.map(({ prefix: { length } }) => length)).add(prefix.length);
    if (lengths.size > GATE_LENGTHS_MAX || mappedLength(prefix) === 0)
      throw new AgentError('gateFault', `${prefix.text}: no room for another length of bound prefixes`);
    this.bound.set(`${realm} ${prefix.text}`, { realm, prefix });
  }

  unbind(realm: number, prefix: Prefix): void {
    this.bound.delete(`${realm} ${prefix.text}`);
  }

  bindings(): Iterable<InnerPrefix> {
    return this.bound.values();
  }

  setChanging(realm: number, prefix: Prefix, changing: boolean): void {
    if (changing) this.changing.set(`${realm} ${prefix.text}`, { realm, prefix });
    else this.changing.delete(`${realm} ${prefix.text}`);
  }

  admissions(list: readonly Admission[]): void {
    const crowded = crowdedSource(admissionTables(list));
    if (crowded) throw new AgentError('gateFault', `${crowded.text}: more than ${ADMISSIONS_MAX} admissions`);
    this.admitted = list;
  }

  counters(): GateCounters {
    return this.tally.read();
  }

  /** The entry of an external endpoint of the pool. */
  protected byEndpoint(protocol: Protocol, external: Endpoint): Row | undefined {
    const { pool } = this.setup;
    if (external.address.family === 'ipv6')
      return this.#reach(this.#ipv6Endpoints.get(endpointKey({ protocol, external })));
    const index = indexOfIpv4(pool, protocol, external);
    return index === undefined ? undefined : this.entries.get(index);
  }

  /** The entry by which a device's endpoint and a peer speak. */
  protected byDevice(realm: number, protocol: Protocol, device: Endpoint, peer: Address): Row | undefined {
    const classId = this.classOf(peer);
    if (classId === undefined) return undefined;
    return this.#reach(this.#answers.get(answerKey({ realm, protocol, device, classId })));
  }

  /** The same for a device's own address as the outside sees it. */
  protected untranslated(realm: number, protocol: Protocol, device: Endpoint, peer: Address): Row | undefined {
    const row = this.byDevice(realm, protocol, device, peer);
    return row && !isTranslated(row.mapping) ? row : undefined;
  }

  protected alive(row: Row): boolean {
    return row.endNs > this.clock.monotonicNs();
  }

  /** The class of the longest prefix that holds the address. */
  protected classOf(address: Address): number | undefined {
    return [...this.#classIds]
      .map(([text, classId]) => ({ of: prefix(text), classId }))
      .filter(({ of }) => contains(of, address))
      .sort((a, b) => b.of.length - a.of.length)[0]?.classId;
  }

  /** The entry a key leads to; none where the key is a leftover. */
  #reach(target: Target | undefined): Row | undefined {
    const row = target && this.entries.get(target.index);
    return row?.mapping.number === target?.number ? row : undefined;
  }
}

/** Whether one of them holds the address. That of full length is looked at first: there may be many. */
export function holds(prefixes: Prefixes, realm: number, address: Address): boolean {
  if (prefixes.has(`${realm} ${hostPrefix(address).text}`)) return true;
  return [...prefixes.values()].some((one) => one.realm === realm && contains(one.prefix, address));
}

function endpointKey({ protocol, external }: Pick<Mapping, 'protocol' | 'external'>): string {
  return `${protocol} ${external.address.text} ${external.port}`;
}

function answerKey(of: Pick<Mapping, 'realm' | 'protocol' | 'device' | 'classId'>): string {
  return `${of.realm} ${of.protocol} ${of.device.address.text} ${of.device.port} ${of.classId}`;
}
