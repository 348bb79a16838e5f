/**
 * The gate's twin in memory: the same calls and the same verdicts, written to
 * be seen right at a glance. It looks through lists, it makes every sum anew,
 * it knows no kernel. Tests hold the gate against it, packet by packet; it has
 * no feature of its own, and where the two differ one of them is wrong.
 *
 * What a packet meets stands in three functions, one a hook, in the order of
 * gate.bpf.c. They rest on two tables: the entries, by index, of which `endNs`
 * alone decides whether one is alive; and the keys that lead to them, each
 * naming index and grant number, so that a leftover key never opens what a
 * later grant holds.
 *
 * Each packet counts once: at the ingress hook where it came in, as carried,
 * passed or denied; at the egress hook only if it is denied there.
 */
import { ADMISSIONS_MAX, type Admission, admissionTables, crowdedSource } from '../core/admissions.ts';
import { AgentError } from '../core/errors.ts';
import { type Address, contains, type Endpoint, hostPrefix, mappedLength, type Prefix, prefix } from '../core/net.ts';
import { indexOfIpv4 } from '../core/pool.ts';
import type { Clock } from '../core/ports.ts';
import { ANSWER_MARK, type DenialReason } from '../core/reasons.ts';
import type { PacketLimits, Protocol } from '../core/words.ts';
import { Allowance } from './allowance.ts';
import type {
  Entry,
  EntryState,
  GateCounters,
  GateSetup,
  Hook,
  InnerPrefix,
  JudgingDataplane,
  Mapping,
  PacketCount,
  Verdict,
} from './dataplane.ts';
import { hasImpossibleSource, type Packet, quotedAddresses, readFrame, rewrite } from './frame.ts';
import { GATE_LENGTHS_MAX } from './layout.ts';
import { inGrantsPool, isAdmitted, isHost, isInner, isLinkUpkeep, isWelcome, ownerOf } from './owners.ts';
import { NOTHING, plus, Tally } from './tally.ts';

const SECOND_NS = 1_000_000_000n;

interface Row {
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

export class Memory implements JudgingDataplane {
  readonly #clock: Clock;
  readonly #setup: GateSetup;
  readonly #entries = new Map<number, Row>();
  readonly #ipv6Endpoints = new Map<string, Target>();
  readonly #answers = new Map<string, Target>();
  readonly #classes = new Map<string, number>();
  readonly #bound: Prefixes = new Map();
  readonly #changing: Prefixes = new Map();
  /** Entries of which a packet was refused for the byte quota, until somebody asks. */
  #usedUp: Target[] = [];
  #admissions: readonly Admission[] = [];
  readonly #tally = new Tally();
  #heartbeatNs = 0n;
  #sampleEveryNs = 0n;
  #sampleNextNs = 0n;

  constructor(clock: Clock, setup: GateSetup) {
    this.#clock = clock;
    this.#setup = setup;
  }

  open(mapping: Mapping, endNs: bigint): void {
    const { index, number } = mapping;
    const present = this.#entries.get(index);
    if (present && present.endNs > this.#clock.monotonicNs())
      throw new AgentError('gateFault', `entry ${index} is alive with grant number ${present.mapping.number}`);
    const allowance = new Allowance(mapping.limits);
    this.#entries.set(index, { mapping, endNs, allowance, usedUp: false, carried: { in: NOTHING, out: NOTHING } });
    if (mapping.external.address.family === 'ipv6') this.#ipv6Endpoints.set(endpointKey(mapping), { index, number });
    this.#answers.set(answerKey(mapping), { index, number });
  }

  end(index: number, number: number, endNs: bigint): boolean {
    const row = this.#entries.get(index);
    if (row?.mapping.number !== number) return false;
    if (endNs < row.endNs) row.endNs = endNs;
    return true;
  }

  extend(index: number, number: number, fromNs: bigint, toNs: bigint): boolean {
    const row = this.#entries.get(index);
    if (row?.mapping.number !== number || row.endNs !== fromNs || !this.#alive(row)) return false;
    row.endNs = toNs;
    return true;
  }

  resume(index: number, number: number, endNs: bigint): boolean {
    const row = this.#entries.get(index);
    if (row?.mapping.number !== number) return false;
    row.endNs = endNs;
    return true;
  }

  limit(index: number, number: number, limits: PacketLimits): boolean {
    const row = this.#entries.get(index);
    if (row?.mapping.number !== number) return false;
    row.mapping = { ...row.mapping, limits };
    row.allowance.limits = limits;
    return true;
  }

  usedUp(): readonly Target[] {
    return this.#usedUp.splice(0);
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
    if (this.#entries.get(index)?.mapping.number === number) this.#entries.delete(index);
  }

  entry(index: number): Entry | undefined {
    const row = this.#entries.get(index);
    return row && { mapping: row.mapping, endNs: row.endNs };
  }

  state(index: number): EntryState | undefined {
    const row = this.#entries.get(index);
    return row && { index, number: row.mapping.number, endNs: row.endNs };
  }

  *states(from = 0, to = Number.POSITIVE_INFINITY): Iterable<EntryState> {
    for (const index of [...this.#entries.keys()].sort((a, b) => a - b)) {
      const state = index >= from && index < to ? this.state(index) : undefined;
      if (state) yield state;
    }
  }

  carried(index: number): { readonly in: PacketCount; readonly out: PacketCount } {
    return { in: NOTHING, out: NOTHING, ...this.#entries.get(index)?.carried };
  }

  lastHeartbeat(): bigint {
    return this.#heartbeatNs;
  }

  heartbeat(nowNs: bigint): void {
    this.#heartbeatNs = nowNs;
  }

  sample(perSecond: number): void {
    this.#sampleEveryNs = perSecond === 0 ? 0n : SECOND_NS / BigInt(perSecond);
  }

  classes(): ReadonlyMap<string, number> {
    return new Map(this.#classes);
  }

  removeClass(of: Prefix): void {
    this.#classes.delete(of.text);
  }

  addClass(of: Prefix, classId: number): void {
    if (classId === 0) throw new AgentError('gateFault', `${of.text}: class 0 stands for no class`);
    this.#classes.set(of.text, classId);
  }

  bind(realm: number, prefix: Prefix): void {
    const others = [...this.#bound.values()].filter(({ prefix: { family } }) => family === prefix.family);
    const lengths = new Set(others.map(({ prefix: { length } }) => length)).add(prefix.length);
    if (lengths.size > GATE_LENGTHS_MAX || mappedLength(prefix) === 0)
      throw new AgentError('gateFault', `${prefix.text}: no room for another length of bound prefixes`);
    this.#bound.set(`${realm} ${prefix.text}`, { realm, prefix });
  }

  unbind(realm: number, prefix: Prefix): void {
    this.#bound.delete(`${realm} ${prefix.text}`);
  }

  bindings(): Iterable<InnerPrefix> {
    return this.#bound.values();
  }

  setChanging(realm: number, prefix: Prefix, changing: boolean): void {
    if (changing) this.#changing.set(`${realm} ${prefix.text}`, { realm, prefix });
    else this.#changing.delete(`${realm} ${prefix.text}`);
  }

  admissions(list: readonly Admission[]): void {
    const crowded = crowdedSource(admissionTables(list));
    if (crowded) throw new AgentError('gateFault', `${crowded.text}: more than ${ADMISSIONS_MAX} admissions`);
    this.#admissions = list;
  }

  counters(): GateCounters {
    return this.#tally.read();
  }

  judge(hook: Hook, ifindex: number, frame: Uint8Array, mark = 0): Verdict {
    if (hook === 'outsideIngress') return this.#fromOutside(frame);
    if (hook === 'insideIngress') return this.#fromInside(ifindex, frame);
    if (hook === 'insideEgress') return this.#toInside(ifindex, frame);
    return this.#toOutside(frame, mark);
  }

  #fromOutside(frame: Uint8Array): Verdict {
    const packet = readFrame(frame);
    if (packet === 'other') return this.#pass(frame);
    if (packet === 'malformed') return this.#deny('malformed', frame);
    const { source, destination, ports, hops } = packet;
    if (!inGrantsPool(this.#setup, destination)) return this.#guardFromOutside(packet, frame);
    if (typeof ports === 'string') return this.#deny(ports, frame);

    const row = this.#byEndpoint(ports.protocol, { address: destination, port: ports.destination });
    if (!row) return this.#deny('noGrant', frame);
    const { mapping } = row;
    if (!this.#alive(row)) return this.#deny('grantEnded', frame);
    if (this.#agentLost()) return this.#deny('agentLost', frame);
    if (this.#classOf(source) !== mapping.classId) return this.#deny('wrongSource', frame);
    if (!isRemote(mapping, source, ports.source)) return this.#deny('wrongSource', frame);
    if (hops <= 1) return this.#deny('hopLimit', frame);
    const leads = this.#setup.inside.some((one) => one.realm === mapping.realm && one.ifindex !== undefined);
    if (!leads) return this.#deny('noGrant', frame);
    const beyond = this.#beyondLimits(row, frame);
    if (beyond) return this.#deny(beyond, frame);
    return this.#carry(row, 'in', frame, rewrite(frame, packet, 'destination', mapping.device));
  }

  /** From outside, to no grant: nothing may claim the inside, nor aim at it but what is admitted. */
  #guardFromOutside(packet: Packet, frame: Uint8Array): Verdict {
    if (hasImpossibleSource(packet) || isInner(this.#setup, packet.source)) return this.#deny('spoofedSource', frame);
    const owner = ownerOf(this.#setup, packet.destination);
    if (owner === 'hostInside') return this.#deny('realmDestination', frame);
    if (owner === 'device' && !this.#admissions.some((one) => isAdmitted(one, packet, frame)))
      return this.#deny('realmDestination', frame);
    return this.#pass(frame);
  }

  /** Toward a device, whoever sends: what is not dropped was counted where it came in. */
  #toInside(ifindex: number, frame: Uint8Array): Verdict {
    const inside = this.#setup.inside.find((one) => one.ifindex === ifindex);
    if (!inside || this.#changing.size === 0) return { verdict: 'pass' };
    const packet = readFrame(frame);
    if (packet === 'other') return { verdict: 'pass' };
    if (packet === 'malformed') return this.#drop('malformed', frame);
    if (holds(this.#changing, inside.realm, packet.destination)) return this.#drop('addressChangingHands', frame);
    return { verdict: 'pass' };
  }

  #fromInside(ifindex: number, frame: Uint8Array): Verdict {
    const inside = this.#setup.inside.find((one) => one.ifindex === ifindex);
    const packet = readFrame(frame);
    if (!inside || packet === 'other') return this.#pass(frame);
    if (packet === 'malformed') return this.#deny('malformed', frame);
    const { realm } = inside;
    const { source, destination, ports, hops } = packet;
    if (holds(this.#changing, realm, source)) return this.#deny('addressChangingHands', frame);
    if (ports === 'malformed') return this.#deny('malformed', frame);
    if (typeof ports === 'string') return this.#guardFromInside(realm, packet, frame);

    const row = this.#byAnswer(realm, ports.protocol, { address: source, port: ports.source }, destination);
    if (!row) return this.#guardFromInside(realm, packet, frame);
    const isGranted = isRemote(row.mapping, destination, ports.destination);
    if (!this.#alive(row)) {
      if (ports.protocol === 'udp' && isGranted && this.#rests(row)) return this.#deny('tombstone', frame);
      return this.#guardFromInside(realm, packet, frame);
    }
    if (this.#agentLost()) return this.#deny('agentLost', frame);
    if (!isGranted) return this.#deny('wrongRemote', frame);
    if (hops <= 1) return this.#deny('hopLimit', frame);
    const beyond = this.#beyondLimits(row, frame);
    if (beyond) return this.#deny(beyond, frame);
    return this.#carry(row, 'out', frame, rewrite(frame, packet, 'source', row.mapping.external));
  }

  /** From a device, and no answer: to the host only what it serves, to other devices nothing; from an address that nobody holds only what the link needs. */
  #guardFromInside(realm: number, packet: Packet, frame: Uint8Array): Verdict {
    const { source, destination } = packet;
    if (isHost(this.#setup, destination)) {
      if (!isWelcome(this.#setup, packet, frame)) return this.#deny('gatewayService', frame);
    } else if (ownerOf(this.#setup, destination) === 'device') return this.#deny('deviceToDevice', frame);
    const maySpeak = !this.#setup.onlyBound || holds(this.#bound, realm, source);
    if (!maySpeak && !isLinkUpkeep(this.#setup, packet, frame)) return this.#deny('addressUnbound', frame);
    return this.#pass(frame);
  }

  #toOutside(frame: Uint8Array, mark: number): Verdict {
    const packet = readFrame(frame);
    if (packet === 'other') return { verdict: 'pass' };
    if (packet === 'malformed') return this.#drop('malformed', frame);
    if (mark === ANSWER_MARK && ownerOf(this.#setup, packet.source) === 'device') return { verdict: 'pass' };
    if (isInner(this.#setup, packet.source)) return this.#drop('innerLeak', frame);
    const quoted = quotedAddresses(frame, packet);
    if (quoted === 'malformed') return this.#drop('malformed', frame);
    if (quoted.some((address) => isInner(this.#setup, address))) return this.#drop('innerLeak', frame);
    return { verdict: 'pass' };
  }

  #byEndpoint(protocol: Protocol, external: Endpoint): Row | undefined {
    const { pool } = this.#setup;
    if (external.address.family === 'ipv6')
      return this.#reach(this.#ipv6Endpoints.get(endpointKey({ protocol, external })));
    const index = indexOfIpv4(pool, protocol, external);
    return index === undefined ? undefined : this.#entries.get(index);
  }

  #byAnswer(realm: number, protocol: Protocol, device: Endpoint, remote: Address): Row | undefined {
    const classId = this.#classOf(remote);
    if (classId === undefined) return undefined;
    return this.#reach(this.#answers.get(answerKey({ realm, protocol, device, classId })));
  }

  /** The entry a key leads to; none where the key is a leftover. */
  #reach(target: Target | undefined): Row | undefined {
    const row = target && this.#entries.get(target.index);
    return row?.mapping.number === target?.number ? row : undefined;
  }

  #alive(row: Row): boolean {
    return row.endNs > this.#clock.monotonicNs();
  }

  #rests(row: Row): boolean {
    return row.endNs + BigInt(this.#setup.udpTombstoneSeconds) * SECOND_NS > this.#clock.monotonicNs();
  }

  /** Why a live grant does not carry this all the same. */
  #beyondLimits(row: Row, frame: Uint8Array): DenialReason | undefined {
    if (!row.allowance.takesPacket(this.#clock.monotonicNs())) return 'packetRateExceeded';
    if (row.allowance.hasRoomFor(frame.length, row.carried.in.bytes + row.carried.out.bytes)) return undefined;
    if (!row.usedUp) this.#usedUp.push({ index: row.mapping.index, number: row.mapping.number });
    row.usedUp = true;
    return 'byteQuotaExceeded';
  }

  #agentLost(): boolean {
    const graceNs = BigInt(this.#setup.orphanGraceSeconds) * SECOND_NS;
    return this.#heartbeatNs === 0n || this.#heartbeatNs + graceNs <= this.#clock.monotonicNs();
  }

  /** The class of the longest prefix that holds the address. */
  #classOf(address: Address): number | undefined {
    return [...this.#classes]
      .map(([text, classId]) => ({ of: prefix(text), classId }))
      .filter(({ of }) => contains(of, address))
      .sort((a, b) => b.of.length - a.of.length)[0]?.classId;
  }

  #carry(row: Row, direction: 'in' | 'out', frame: Uint8Array, bytes: Uint8Array): Verdict {
    row.carried[direction] = plus(row.carried[direction], frame);
    this.#tally.add(direction === 'in' ? 'grantedIn' : 'grantedOut', frame);
    return { verdict: 'redirect', bytes };
  }

  #pass(frame: Uint8Array): Verdict {
    this.#tally.add('passed', frame);
    return { verdict: 'pass' };
  }

  #drop(reason: DenialReason, frame: Uint8Array): Verdict & { readonly verdict: 'drop' } {
    this.#tally.add(reason, frame);
    return { verdict: 'drop', reason, sampled: false };
  }

  /** A denial that may be looked at: one an interval. */
  #deny(reason: DenialReason, frame: Uint8Array): Verdict {
    const dropped = this.#drop(reason, frame);
    const now = this.#clock.monotonicNs();
    if (this.#sampleEveryNs === 0n || now < this.#sampleNextNs) return dropped;
    this.#sampleNextNs = now + this.#sampleEveryNs;
    this.#tally.add('sampled', frame);
    return { ...dropped, sampled: true };
  }
}

function isRemote({ remote, remotePort }: Mapping, address: Address, port: number): boolean {
  return (remote === 'all' || remote.text === address.text) && (remotePort === 0 || remotePort === port);
}

/** Whether one of them holds the address. That of full length is looked at first: there may be many. */
function holds(prefixes: Prefixes, realm: number, address: Address): boolean {
  if (prefixes.has(`${realm} ${hostPrefix(address).text}`)) return true;
  return [...prefixes.values()].some((one) => one.realm === realm && contains(one.prefix, address));
}

function endpointKey({ protocol, external }: Pick<Mapping, 'protocol' | 'external'>): string {
  return `${protocol} ${external.address.text} ${external.port}`;
}

function answerKey(of: Pick<Mapping, 'realm' | 'protocol' | 'device' | 'classId'>): string {
  return `${of.realm} ${of.protocol} ${of.device.address.text} ${of.device.port} ${of.classId}`;
}
