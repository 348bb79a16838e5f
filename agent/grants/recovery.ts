/**
 * What a start does before the first heartbeat: makes record, gate and
 * allocation one again (reconcile.ts says what must change), and what each
 * heartbeat does before it is written.
 */
import { entryCount } from '../core/pool.ts';
import { breathe, faultsOf, SLICE, slicesOf } from '../core/slices.ts';
import { type EntryState, type InnerPrefix, isTranslated } from '../dataplane/dataplane.ts';
import { NO_CHANGE } from '../directory/binding.ts';
import { type Sessions, STOPPED_KEPT_MS } from '../directory/sessions.ts';
import type { Grants } from './grants.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import type { EndCause } from './lifecycle.ts';
import { type Facts, type Repair, reconcile } from './reconcile.ts';
import { type EndedRecord, type GrantRecord, isRewritten, ownerOf, REST_SECONDS, suspendedNs } from './record.ts';
import { Familiar } from './rows.ts';

/** How a start went, for the log. */
export interface Recovery {
  readonly live: number;
  readonly reopened: number;
  readonly held: number;
  readonly ended: number;
  readonly strayEntriesEnded: number;
  readonly tookMs: number;
}

/**
 * Bindings as they were recorded, for the directory and for the gate. What an
 * older copy of the database says is not believed: the address may be
 * another's by now. The devices file is read anew anyway; what the operator
 * bound is to be bound again. Where the gate has given up on the agent, what
 * is not of the file is to be confirmed.
 */
export async function rememberBindings(ground: Ground, orphanGraceSeconds: number): Promise<void> {
  const { store, directory, log } = ground;
  if (heartbeatLost(ground, orphanGraceSeconds)) await store.unconfirm();
  const kept = store.bindings();
  const doubtful = store.isOlder ? kept.filter(({ source }) => source !== 'file') : [];
  directory.apply({ losses: [], gains: kept.filter((binding) => !doubtful.includes(binding)) });
  directory.unconfirm(store.unconfirmed());
  await bindInGate(ground);
  const liveOnRecord = store.isOlder ? countOf(store.live()) : 0;
  if (doubtful.length + liveOnRecord === 0) return;
  log.error({ liveOnRecord, bindingsForgotten: doubtful.length }, 'storeOlder');
  const losses = doubtful.map((binding) => ({ binding, cause: 'deviceUnbound' as const }));
  await store.rebind({ losses, gains: [] }, [], ground.clock.nowMs());
}

/** Sessions as they were recorded; of an older copy of the database none, as of what they bound. */
export async function rememberSessions({ store, clock }: Ground, sessions: Sessions): Promise<void> {
  const nowMs = clock.nowMs();
  if (store.isOlder) {
    const over = [...store.sessions()].map(({ nas, id }) => ({ nas, id, stopped: false }));
    return store.rebind(NO_CHANGE, [{ finding: 'applied', change: NO_CHANGE, put: [], over }], nowMs);
  }
  for await (const put of slicesOf(store.sessions(), BINDINGS)) sessions.apply({ put, over: [] }, nowMs);
  for (const restarted of store.restarts()) sessions.apply({ put: [], over: [], restarted }, nowMs);
  for (const { nas, id, atMs } of store.stopped(nowMs - STOPPED_KEPT_MS)) sessions.rememberStopped(nas, id, atMs);
}

/** Makes the gate's bindings those of the directory; what an earlier agent left goes first. */
async function bindInGate({ dataplane, directory, store }: Ground): Promise<void> {
  const nameOf = ({ realm, prefix }: InnerPrefix) => `${realm} ${prefix.text}`;
  const missing = new Map<string, InnerPrefix>();
  for (const { realm, prefix } of directory.bindings()) {
    const held = { realm: store.idOf('realm', realm), prefix };
    missing.set(nameOf(held), held);
  }
  const stale: InnerPrefix[] = [];
  for await (const found of slicesOf(dataplane.bindings(), BINDINGS))
    stale.push(...found.filter((one) => !missing.delete(nameOf(one))));
  for await (const some of slicesOf(stale, BINDINGS))
    for (const { realm, prefix } of some) dataplane.unbind(realm, prefix);
  for await (const some of slicesOf(missing.values(), BINDINGS))
    for (const { realm, prefix } of some) dataplane.bind(realm, prefix);
}

/** So many bindings are looked at in one turn of the loop. */
const BINDINGS = 4096;
/** So many records are judged, and put right in one commit. */
const RECORDS = 512;
/** So many entries of the gate are looked at in one turn of the loop. */
const STRETCH = 65_536;

/**
 * Runs once, after directory and policy are loaded and before the first
 * heartbeat. Records are read, judged and put right a slice at a time, so that
 * a signal is heard and the store commits many at once.
 */
export async function recover(ground: Ground, grants: Grants): Promise<Recovery> {
  const { store, clock, dataplane, bootId, directory, pool } = ground;
  const nowMs = clock.nowMs();
  const nowNs = clock.monotonicNs();
  const familiar = new Familiar(directory.bindings());
  /** How the record that is being judged stands. */
  let objection: EndCause | undefined;
  const facts: Facts = {
    bootId,
    nowMs,
    nowNs,
    suspendedNs: suspendedNs(clock),
    latestMs: store.latestMs(),
    storeIsOlder: store.isOlder,
    objection: () => objection,
    bindingConfirmed: (record) => bindingConfirmed(ground, record),
  };

  for await (const records of slicesOf(store.endedSince(nowMs - REST_SECONDS * 1000, familiar))) {
    for (const record of records) {
      const isOfPool = isRewritten(record);
      if (!grants.endpoints.take(record.protocol, record, isOfPool)) continue;
      grants.rest.lay(record, isOfPool ? ownerOf(record) : undefined, nowNs, nowMs - (record.endedAtMs ?? nowMs));
    }
  }

  const count = { reopen: 0, endGrant: 0, agree: 0, hold: 0 };
  let strayEntriesEnded = 0;
  /** The gate has it open, and no live record says so. */
  const endStray = ({ index, number, endNs }: EntryState) => {
    if (endNs <= nowNs) return;
    dataplane.end(index, number, clock.monotonicNs() - CLOCK_LAG_NS);
    strayEntriesEnded += 1;
  };
  /** The entries that were judged with a live record. */
  const explained = new Uint8Array(entryCount(pool));
  /** What is being written; the next slice is read and judged meanwhile. */
  let underWay: Promise<void> = Promise.resolve();
  for await (const records of slicesOf(store.live(familiar), RECORDS)) {
    const repairs: Repair[] = [];
    const ends: EndedRecord[] = [];
    for (const record of records) {
      if (!grants.endpoints.take(record.protocol, record, isRewritten(record))) {
        ends.push({ ...record, state: 'ended', endCause: 'poolChanged', endedAtMs: nowMs });
        continue;
      }
      explained[record.index] = 1;
      const entry = dataplane.state(record.index);
      const own = entry?.number === record.number ? entry : undefined;
      if (entry && !own) endStray(entry);
      const standing = grants.judge.standing(record);
      objection = standing.objection;
      const current = standing.record;
      const repair = reconcile(current, own, facts);
      if (repair) repairs.push(repair);
      else grants.limit(current);
    }
    for (const { kind } of repairs) count[kind] += 1;
    await underWay;
    underWay = putRight(ends, repairs, ground, grants);
    underWay.catch(() => {}); // awaited below, or by the next slice
  }
  await underWay;
  const rules = [...grants.policy.allows, ...grants.policy.denies];
  if (rules.some(({ hours }) => hours)) await grants.review(); // those of another policy may end a grant sooner

  for (let from = 0; from < explained.length; from += STRETCH) {
    for (const entry of dataplane.states(from, from + STRETCH)) {
      if (explained[entry.index]) continue;
      endStray(entry);
      // Where no record explains it, its endpoint rests like any other.
      const mapping = dataplane.entry(entry.index)?.mapping;
      if (mapping && grants.endpoints.take(mapping.protocol, mapping, isTranslated(mapping)))
        grants.rest.lay(mapping, undefined, nowNs);
    }
    await breathe();
  }
  const tookMs = Number((clock.monotonicNs() - nowNs) / 1_000_000n);
  const { size: live, held } = grants.live;
  return { live: live - held, reopened: count.reopen, held, ended: count.endGrant, strayEntriesEnded, tookMs };
}

/** Writes what is to be written of a slice, in one commit or two. What is opened is on record before. */
async function putRight(
  ends: readonly EndedRecord[],
  repairs: readonly Repair[],
  ground: Ground,
  grants: Grants,
): Promise<void> {
  const { store, clock, dataplane, bootId } = ground;
  const writes = ends.map((record) => store.end(record));
  const reopened: { readonly record: GrantRecord; readonly endNs: bigint }[] = [];
  for (const repair of repairs) {
    switch (repair.kind) {
      case 'endGrant':
        grants.live.put(repair.record);
        writes.push(grants.end(repair.record, repair.cause));
        break;
      case 'agree':
        dataplane.end(repair.record.index, repair.record.number, repair.endNs);
        grants.limit(repair.record);
        writes.push(store.lower(repair.record));
        break;
      case 'hold':
        dataplane.end(repair.record.index, repair.record.number, clock.monotonicNs() - CLOCK_LAG_NS);
        grants.live.put(repair.record);
        writes.push(store.hold(repair.record));
        break;
      case 'reopen': {
        const { endNs, record: before } = repair;
        const record: GrantRecord = { ...before, state: 'live', bootId, expiresAtNs: endNs + suspendedNs(clock) };
        if (before.state === 'live') reopened.push({ record, endNs });
        else writes.push(store.resume(record).then(() => grants.reopen(record, endNs)));
      }
    }
  }
  if (reopened.length > 0) {
    const records = reopened.map(({ record }) => record);
    const open = () => {
      for (const { record, endNs } of reopened) grants.reopen(record, endNs);
    };
    writes.push(store.reopen(bootId, records).then(open));
  }
  const [fault] = await faultsOf(writes);
  if (fault) throw fault;
}

/** Whether the gate has given up on the agent, or has never heard one. */
function heartbeatLost({ dataplane, clock }: Ground, orphanGraceSeconds: number): boolean {
  const last = dataplane.lastHeartbeat();
  return last === 0n || clock.monotonicNs() > last + BigInt(orphanGraceSeconds) * 1_000_000_000n;
}

/** Bindings of the devices file hold as long as the file says so; others were only heard. */
function bindingConfirmed({ directory }: Ground, { inner }: Pick<GrantRecord, 'inner'>): boolean {
  const binding = directory.holderOf(inner);
  return binding !== undefined && directory.isConfirmed(binding);
}

/**
 * The heartbeat: written by the thread that applies bindings, so that the gate
 * refuses every grant when nobody hears any more that an address has changed
 * hands. Where it had run out (a hung or stopped agent), the grants that
 * nobody can vouch for are held before it is written again; after a suspend,
 * ends come down by its length first.
 */
export class Heartbeat {
  readonly #ground: Ground;
  readonly #grants: Grants;
  readonly #orphanGraceSeconds: number;
  #suspendedNs: bigint;

  constructor(ground: Ground, grants: Grants, orphanGraceSeconds: number) {
    this.#ground = ground;
    this.#grants = grants;
    this.#orphanGraceSeconds = orphanGraceSeconds;
    this.#suspendedNs = suspendedNs(ground.clock);
  }

  async beat(): Promise<void> {
    const { dataplane, clock } = this.#ground;
    const suspended = suspendedNs(clock);
    if (suspended > this.#suspendedNs) {
      let looked = 0;
      for (const { index, number, expiresAtNs } of this.#grants.live.all()) {
        dataplane.end(index, number, expiresAtNs - suspended); // in the turn in which it was read: an extension may follow
        looked += 1;
        if (looked % SLICE === 0) await breathe();
      }
    }
    this.#suspendedNs = suspended;
    if (heartbeatLost(this.#ground, this.#orphanGraceSeconds)) {
      this.#ground.directory.unconfirm();
      await this.#ground.store.unconfirm();
      await this.#grants.held.hold();
    }
    dataplane.heartbeat(clock.monotonicNs());
  }
}

function countOf(records: Iterable<unknown>): number {
  let count = 0;
  for (const _ of records) count += 1;
  return count;
}
