/**
 * The gate in the kernel, as the agent holds it: writes grants into its maps,
 * reads its counters, hangs it at the interfaces.
 *
 * Invariants. `end` decides alone whether an entry is alive: it is written by
 * one atomic store into memory shared with the kernel, last when opening and
 * first when closing. An entry is filled while it is dead. `extend` alone raises
 * the end of a live entry, by compare-exchange; `resume` alone gives a dead one
 * that still has its number another end. Loading writes no heartbeat: a grant that is found there is not confirmed by that. Only one
 * agent may hold the gate at a time; main sees to it.
 */
import { ADMISSIONS_MAX, type Admission, admissionTables, crowdedSource } from '../core/admissions.ts';
import { AgentError } from '../core/errors.ts';
import { mappedLength, type Prefix } from '../core/net.ts';
import type { Pool } from '../core/pool.ts';
import { DENIAL_REASONS, DENIALS, type DenialReason, denialOfNumber } from '../core/reasons.ts';
import type { PacketLimits } from '../core/words.ts';
import {
  type AttachMode,
  type Attachment,
  Attachments,
  type Flaw,
  type Interfaces,
  type XdpRefusal,
} from './attachment.ts';
import {
  type Entry,
  type EntryState,
  type GateCounters,
  type GateSetup,
  type Hook,
  type InnerPrefix,
  isTranslated,
  type JudgingDataplane,
  type Mapping,
  type PacketCount,
  type Verdict,
  type XdpHook,
} from './dataplane.ts';
import type { EntryTable } from './entry-table.ts';
import {
  COUNTER_MAX,
  COUNTERS,
  ENTRY,
  GATE_ANSWER_MARK,
  GATE_FRAGMENT_MARK,
  GATE_LENGTHS_MAX,
  GATE_MARK,
  GATE_OWN_MARK,
  GATE_USED_UP_MAX,
  LAYOUT,
} from './layout.ts';
import { ALL_IPV4, folderOf, hearAll, type Loaded, load, NONE, prepare, removeOtherFolders, STATE } from './loader.ts';
import * as values from './map-values.ts';
import { testRun, testRunXdp } from './test-run.ts';

/** The grant's number, in words from an entry's beginning; its end is the word 0. */
const NUMBER = ENTRY.number / 8;
const LIMITS = ENTRY.limits / 8;
const SECOND_NS = 1_000_000_000n;
/** What stands in a map that is a set. */
const HELD = Uint8Array.of(1);
const TC_ACT = { ok: 0, shot: 2, redirect: 7, unspec: -1 } as const;
const XDP_ACT = { drop: 1, pass: 2, redirect: 4 } as const;

export class Gate implements JudgingDataplane {
  readonly #object: string;
  readonly #bpffs: string;
  readonly #pool: Pool;
  readonly #attachments: Attachments;
  #loaded: Loaded | undefined;

  /** What is in the map `changing`, which loading has emptied. */
  readonly #changing = new Set<string>();

  private constructor(object: string, bpffs: string, setup: GateSetup) {
    this.#object = object;
    this.#bpffs = bpffs;
    this.#pool = setup.pool;
    this.#attachments = new Attachments(bpffs);
    this.#loaded = load(object, bpffs, setup);
    hearAll(this.#loaded);
  }

  /**
   * Makes the gate's folder, for whoever wants to lock it before loading.
   * @throws AgentError kernelTooOld, bpffsMissing
   */
  static prepare(bpffs: string): void {
    prepare(bpffs);
  }

  /**
   * Loads the gate, on the maps that an earlier agent left if they are of the
   * same schema and pool. Nothing is attached yet.
   * @throws AgentError kernelTooOld, libraryMissing, bpffsMissing, gateNotLoaded
   */
  static load({ object, bpffs, setup }: { object: string; bpffs: string; setup: GateSetup }): Gate {
    return new Gate(object, bpffs, setup);
  }

  /**
   * Loads the gate again, on the same maps, for interfaces and addresses as
   * they are now, and hangs it in the place of the one before: no packet meets
   * none. The pool is that of the first load.
   * @throws AgentError gateNotLoaded (all is as it was), gateNotAttached
   */
  rebuild(setup: GateSetup, mode: AttachMode, interfaces: Interfaces): void {
    const before = this.#gate;
    this.pinAgain(); // or it would be loaded on fresh maps
    this.#loaded = load(this.#object, this.#bpffs, { ...setup, pool: this.#pool });
    before.close();
    this.attach(mode, interfaces);
  }

  /**
   * Hangs the gate at the interfaces, in place of an earlier agent's, without a
   * gap; then removes the maps of other schemas and pools.
   * @throws AgentError gateNotAttached
   */
  attach(mode: AttachMode, interfaces: Interfaces): void {
    this.#attachments.attach(mode, interfaces, this.#gate.programs);
    removeOtherFolders(this.#bpffs, this.#pool);
  }

  /** Pins maps that somebody has unpinned, which the gate goes on to use; returns how many. @throws BpfError, or of the file system */
  pinAgain(): number {
    return this.#gate.pinTo(folderOf(this.#bpffs, this.#pool));
  }

  /** Where the gate hangs at this moment. */
  attachments(): readonly Attachment[] {
    return this.#attachments.list();
  }

  /** Where it should hang by the last attach and does not, or another does. */
  flaws(): readonly Flaw[] {
    return this.#attachments.flaws();
  }

  /** Interfaces at whose XDP the gate hung since the last attach, and does not. */
  xdpLost(): readonly string[] {
    return this.#attachments.xdpLost();
  }

  /** Interfaces at whose XDP the last attach was to hang it, and could not. */
  xdpRefusals(): readonly XdpRefusal[] {
    return this.#attachments.xdpRefusals();
  }

  /** Takes the gate away from all interfaces; the maps stay. */
  detach(): void {
    this.#attachments.detach();
  }

  /** Lets go of the gate, which goes on without the agent. */
  close(): void {
    this.#loaded?.close();
    this.#loaded = undefined;
  }

  open(mapping: Mapping, endNs: bigint): void {
    const at = this.#wordOf(mapping.index);
    if (Atomics.load(this.#gate.words, at) > process.hrtime.bigint())
      throw new AgentError('gateFault', `entry ${mapping.index} is alive: it is not opened again`);
    Atomics.store(this.#gate.words, at, 0n);
    const entry = values.entryBytes(mapping);
    this.#gate.bytes.set(entry, at * 8);
    try {
      this.#gate.answers.put(values.answerKeyOf(entry), mapping.index);
      if (isFoundByEndpoint(mapping)) this.#gate.endpoints.put(values.endpointKeyOf(entry), mapping.index);
    } catch (cause) {
      this.forget(mapping);
      throw cause;
    }
    Atomics.store(this.#gate.words, at, endNs);
  }

  end(index: number, number: number, endNs: bigint): boolean {
    const at = this.#wordOf(index);
    if (this.#gate.words[at + NUMBER] !== BigInt(number)) return false;
    if (endNs < Atomics.load(this.#gate.words, at)) Atomics.store(this.#gate.words, at, endNs);
    return true;
  }

  extend(index: number, number: number, fromNs: bigint, toNs: bigint): boolean {
    const at = this.#wordOf(index);
    if (this.#gate.words[at + NUMBER] !== BigInt(number) || fromNs <= process.hrtime.bigint()) return false;
    return Atomics.compareExchange(this.#gate.words, at, fromNs, toNs) === fromNs;
  }

  resume(index: number, number: number, endNs: bigint): boolean {
    const at = this.#wordOf(index);
    if (this.#gate.words[at + NUMBER] !== BigInt(number)) return false;
    Atomics.store(this.#gate.words, at, endNs);
    return true;
  }

  limit(index: number, number: number, limits: PacketLimits): boolean {
    const at = this.#wordOf(index);
    if (this.#gate.words[at + NUMBER] !== BigInt(number)) return false;
    Atomics.store(this.#gate.words, at + LIMITS, values.limitsWord(limits));
    return true;
  }

  usedUp(): readonly Pick<EntryState, 'index' | 'number'>[] {
    const found: Pick<EntryState, 'index' | 'number'>[] = [];
    while (found.length < GATE_USED_UP_MAX) {
      const target = this.#gate.maps.usedUp.take();
      if (!target) break;
      found.push(values.readTarget(target));
    }
    return found;
  }

  forget(mapping: Mapping): void {
    const at = this.#wordOf(mapping.index);
    const own = this.#gate.words[at + NUMBER] === BigInt(mapping.number);
    if (own) Atomics.store(this.#gate.words, at, 0n);
    // Where the entry is another grant's by now, with the same key, the slot is that one's.
    const entry = this.#gate.bytes.subarray(at * 8, at * 8 + LAYOUT.gate_entry.size);
    const forgotten = values.entryBytes(mapping);
    const removeFrom = (table: EntryTable, keyOf: (entry: Uint8Array) => Uint8Array) => {
      const key = keyOf(forgotten);
      if (own || Buffer.compare(key, keyOf(entry)) !== 0) table.remove(key, mapping.index);
    };
    removeFrom(this.#gate.answers, values.answerKeyOf);
    if (isFoundByEndpoint(mapping)) removeFrom(this.#gate.endpoints, values.endpointKeyOf);
    // Last, so that what is left over after a crash can still be seen, and forgotten again.
    if (own) entry.fill(0);
  }

  entry(index: number): Entry | undefined {
    const at = this.#wordOf(index);
    if (this.#gate.words[at + NUMBER] === 0n) return undefined;
    return values.readEntry(index, this.#gate.bytes.subarray(at * 8, at * 8 + LAYOUT.gate_entry.size));
  }

  state(index: number): EntryState | undefined {
    const { words } = this.#gate;
    const at = this.#wordOf(index);
    const number = Number(words[at + NUMBER]);
    return number === 0 ? undefined : { index, number, endNs: Atomics.load(words, at) };
  }

  *states(from = 0, to = Number.POSITIVE_INFINITY): Iterable<EntryState> {
    const count = this.#gate.bytes.length / LAYOUT.gate_entry.size;
    for (let index = from; index < Math.min(to, count); index++) {
      const state = this.state(index);
      if (state) yield state;
    }
  }

  carried(index: number): { readonly in: PacketCount; readonly out: PacketCount } {
    const at = this.#wordOf(index) * 8;
    const read = (field: number) =>
      values.readCount(this.#gate.bytes.subarray(at + field, at + field + LAYOUT.gate_count.size));
    return { in: read(ENTRY.in), out: read(ENTRY.out) };
  }

  lastHeartbeat(): bigint {
    return Atomics.load(this.#gate.state, STATE.heartbeat);
  }

  heartbeat(nowNs: bigint): void {
    Atomics.store(this.#gate.state, STATE.heartbeat, nowNs);
  }

  sample(perSecond: number): void {
    Atomics.store(this.#gate.state, STATE.sample_interval, perSecond > 0 ? SECOND_NS / BigInt(perSecond) : 0n);
  }

  classes(): ReadonlyMap<string, number> {
    const { classes } = this.#gate.maps;
    const found = classes.keys().map((key) => [values.prefixText(key), classes.lookup(key)] as const);
    const known = found.map(([text, id]) => [text, id ? values.readU32(id) : NONE] as const);
    return new Map(known.filter(([, id]) => id !== NONE));
  }

  removeClass(of: Prefix): void {
    const key = values.prefixKey(of);
    if (of.text === ALL_IPV4.text) this.#gate.maps.classes.update(key, values.u32(NONE));
    else this.#gate.maps.classes.remove(key);
    this.#forgetClasses();
  }

  addClass(of: Prefix, classId: number): void {
    if (classId === NONE) throw new AgentError('gateFault', `${of.text}: class 0 stands for no class`);
    this.#gate.maps.classes.update(values.prefixKey(of), values.u32(classId));
    this.#forgetClasses();
  }

  bind(realm: number, prefix: Prefix): void {
    this.#lookFor(prefix);
    this.#gate.maps.bound.update(values.innerKey(realm, prefix), HELD);
  }

  unbind(realm: number, prefix: Prefix): void {
    this.#gate.maps.bound.remove(values.innerKey(realm, prefix));
  }

  *bindings(): Iterable<InnerPrefix> {
    for (const key of this.#gate.maps.bound.keysInBatches()) yield values.readInner(key);
  }

  setChanging(realm: number, prefix: Prefix, changing: boolean): void {
    const key = values.innerKey(realm, prefix);
    const name = `${realm} ${prefix.text}`;
    if (changing) {
      this.#gate.maps.changing.update(key, HELD);
      this.#changing.add(name);
    } else {
      this.#gate.maps.changing.remove(key);
      this.#changing.delete(name);
    }
    Atomics.store(this.#gate.state, STATE.changing, BigInt(this.#changing.size));
  }

  admissions(list: readonly Admission[]): void {
    const tables = admissionTables(list);
    const crowded = crowdedSource(tables);
    if (crowded) throw new AgentError('gateFault', `${crowded.text}: more than ${ADMISSIONS_MAX} admissions`);
    const { admissions } = this.#gate.maps;
    const wanted = new Map(
      tables.map(({ source, admissions: of }) => {
        const key = values.prefixKey(source);
        return [Buffer.from(key).toString('hex'), { key, value: values.admissionsBytes(of) }] as const;
      }),
    );
    const present = admissions.keys();
    // Who loses a table has the next wider one's, which holds no more than it had.
    for (const key of present) if (!wanted.has(Buffer.from(key).toString('hex'))) admissions.remove(key);
    const isPresent = new Set(present.map((key) => Buffer.from(key).toString('hex')));
    for (const [name, { key, value }] of wanted) if (isPresent.has(name)) admissions.update(key, value);
    for (const [name, { key, value }] of wanted) if (!isPresent.has(name)) admissions.update(key, value);
  }

  counters(): GateCounters {
    const all = this.#gate.maps.counters.first(COUNTER_MAX);
    const size = all.length / COUNTER_MAX; // a count of each CPU
    const read = (slot: number) => values.readCount(all.subarray(slot * size, (slot + 1) * size));
    return {
      grantedIn: read(COUNTERS.grantedIn),
      grantedOut: read(COUNTERS.grantedOut),
      passed: read(COUNTERS.passed),
      sampled: read(COUNTERS.sampled),
      errorsCarried: read(COUNTERS.errorsCarried),
      echoesAnswered: read(COUNTERS.echoesAnswered),
      atXdp: read(COUNTERS.atXdp),
      denied: Object.fromEntries(DENIAL_REASONS.map((reason) => [reason, read(DENIALS[reason].number)])) as Record<
        DenialReason,
        PacketCount
      >,
    };
  }

  /** Asks the program itself (BPF_PROG_TEST_RUN): it counts, and samples, as for any other packet. */
  judge(hook: Hook, ifindex: number, frame: Uint8Array, markBefore = 0, from = 0): Verdict {
    const { verdict, mark, bytes } = testRun(this.#gate.programs[hook], { ifindex, from }, frame, markBefore);
    if (verdict === TC_ACT.redirect) return { verdict: 'redirect', bytes };
    if (verdict === TC_ACT.unspec) {
      if (hook === 'outsideEgress' && [GATE_ANSWER_MARK, GATE_OWN_MARK].includes(mark))
        throw new AgentError('gateFault', `${hook} left the mark on a packet`);
      return Buffer.compare(bytes, frame) === 0 ? { verdict: 'pass' } : { verdict: 'pass', bytes };
    }
    if (verdict === TC_ACT.ok && mark >= GATE_FRAGMENT_MARK && mark < GATE_MARK) return { verdict: 'cut', bytes };
    const reason = denialOfNumber(mark - GATE_MARK);
    if (!reason) throw new AgentError('gateFault', `${hook} answered ${verdict} with mark ${mark}`);
    return { verdict: 'drop', reason, sampled: verdict === TC_ACT.ok };
  }

  /**
   * The same of the program at XDP; `pass` is on to the ingress hook. What it carries has its link layer written.
   */
  judgeEarly(hook: XdpHook, ifindex: number, frame: Uint8Array): Verdict {
    const { denied } = this.counters();
    const { verdict, bytes } = testRunXdp(this.#gate.programs[hook], ifindex, frame);
    if (verdict === XDP_ACT.pass) return { verdict: 'pass' };
    if (verdict === XDP_ACT.redirect) return { verdict: 'redirect', bytes };
    const since = this.counters().denied;
    // The one that was counted: no mark of XDP's reaches anybody.
    const reason = DENIAL_REASONS.find((one) => since[one].packets !== denied[one].packets);
    if (verdict !== XDP_ACT.drop || !reason) throw new AgentError('gateFault', `${hook} answered ${verdict}`);
    return { verdict: 'drop', reason, sampled: false };
  }

  /** What the gate remembers of classes holds no more. */
  #forgetClasses(): void {
    Atomics.add(this.#gate.state, STATE.classes_changed, 1n);
  }

  /** The gate looks for each length that bound prefixes have: it must know of this one's. */
  #lookFor(of: Prefix): void {
    const { state } = this.#gate;
    const { family, text } = of;
    const at = family === 'ipv4' ? STATE.lengths_ipv4 : STATE.lengths_ipv6;
    const bits = mappedLength(of);
    let lengths = values.readLengths(Atomics.load(state, at));
    if (lengths.includes(bits)) return;
    if (lengths.length === GATE_LENGTHS_MAX) {
      // Some may be of prefixes that are bound no more.
      const bound = [...this.bindings()].filter(({ prefix }) => prefix.family === family);
      lengths = [...new Set(bound.map(({ prefix }) => mappedLength(prefix)))];
    }
    if (bits === 0 || lengths.length === GATE_LENGTHS_MAX)
      throw new AgentError('gateFault', `${text}: no room for another length of bound prefixes`);
    Atomics.store(state, at, values.lengthsWord([...lengths, bits]));
  }

  /** What was loaded; touched after close(), its memory would take the process down. */
  get #gate(): Loaded {
    if (!this.#loaded) throw new AgentError('gateFault', 'the gate is closed');
    return this.#loaded;
  }

  /** Where an entry begins, in words. */
  #wordOf(index: number): number {
    const at = (index * LAYOUT.gate_entry.size) / 8;
    if (!Number.isInteger(index) || index < 0 || at >= this.#gate.words.length)
      throw new AgentError('gateFault', `the gate has no entry ${index}`);
    return at;
  }
}

/** IPv4 endpoints of the pool have their index by arithmetic; what is not translated is found as its answers are. */
function isFoundByEndpoint(mapping: Mapping): boolean {
  return mapping.external.address.family === 'ipv6' && isTranslated(mapping);
}
