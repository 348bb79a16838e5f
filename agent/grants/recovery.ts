/**
 * What a start does before the first heartbeat: makes record, gate and
 * allocation one again (reconcile.ts says what must change), and what each
 * heartbeat does before it is written.
 */
import type { Family } from '../core/net.ts';
import type { Grants } from './grants.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import { type Repair, reconcile } from './reconcile.ts';
import { type GrantRecord, ownerOf, REST_SECONDS, suspendedNs } from './record.ts';

/** How a start went, for the log. */
export interface Recovery {
  readonly live: number;
  readonly reopened: number;
  readonly ended: number;
  readonly strayEntriesEnded: number;
}

/**
 * Bindings as they were recorded. What an older copy of the database says is
 * not believed: the address may be another's by now. The devices file is read
 * anew anyway; what the operator bound is to be bound again.
 */
export async function rememberBindings({ store, directory, log }: Ground): Promise<void> {
  const kept = store.bindings();
  const doubtful = store.isOlder ? kept.filter(({ source }) => source !== 'file') : [];
  directory.apply({ losses: [], gains: kept.filter((binding) => !doubtful.includes(binding)) });
  const liveOnRecord = store.isOlder ? store.live().length : 0;
  if (doubtful.length + liveOnRecord === 0) return;
  log.error({ liveOnRecord, bindingsForgotten: doubtful.length }, 'storeOlder');
  const losses = doubtful.map(({ device, inner }) => ({ device, inner, cause: 'deviceUnbound' as const }));
  await store.rebind({ losses, gains: [] });
}

/** Runs once, after directory and policy are loaded and before the first heartbeat. */
export async function recover(ground: Ground, grants: Grants, orphanGraceSeconds: number): Promise<Recovery> {
  const { store, clock, dataplane, bootId } = ground;
  const nowMs = clock.nowMs();
  const nowNs = clock.monotonicNs();
  const count = { reopen: 0, endGrant: 0, endEntry: 0, agree: 0 };
  const latestMs = store.latestMs();

  for (const record of store.endedSince(nowMs - REST_SECONDS * 1000)) {
    const taken = grants.endpoints.take(record.protocol, record);
    if (taken) grants.rest.lay(grants.mapping(record), ownerOf(record), nowNs, nowMs - (record.endedAtMs ?? nowMs));
  }
  for (const record of store.live()) {
    if (grants.endpoints.take(record.protocol, record)) grants.live.put(record);
    else await store.end({ ...record, state: 'ended', endCause: 'poolChanged', endedAtMs: nowMs });
  }

  const repairs = reconcile({
    records: [...grants.live.all()],
    entries: dataplane.entries(),
    bootId,
    nowMs,
    nowNs,
    suspendedNs: suspendedNs(clock),
    latestMs,
    storeIsOlder: store.isOlder,
    heartbeatLost: heartbeatLost(ground, orphanGraceSeconds),
    objection: (record) => grants.objection(record),
    bindingConfirmed: (record) => bindingConfirmed(ground, record),
  });
  for (const repair of repairs) {
    count[repair.kind] += 1;
    await carryOut(repair, ground, grants);
  }
  // Entries that no record explains are dead by now; their endpoints rest like any other.
  for (const { mapping } of dataplane.entries()) {
    if (grants.endpoints.take(mapping.protocol, mapping)) grants.rest.lay(mapping, undefined, nowNs);
  }
  return {
    live: grants.live.size,
    reopened: count.reopen,
    ended: count.endGrant,
    strayEntriesEnded: count.endEntry,
  };
}

async function carryOut(repair: Repair, ground: Ground, grants: Grants): Promise<void> {
  const { store, clock, dataplane, bootId } = ground;
  switch (repair.kind) {
    case 'endEntry':
      dataplane.end(repair.index, repair.number, clock.monotonicNs() - CLOCK_LAG_NS);
      return;
    case 'endGrant':
      grants.live.put(repair.record);
      return grants.end(repair.record, repair.cause);
    case 'reopen': {
      const record = { ...repair.record, bootId, expiresAtNs: repair.endNs + suspendedNs(clock) };
      await store.reopen(record);
      dataplane.open(grants.mapping(record), repair.endNs);
      grants.live.put(record);
      return;
    }
    case 'agree':
      dataplane.end(repair.record.index, repair.record.number, repair.endNs);
      await store.lower(repair.record);
      grants.live.put(repair.record);
  }
}

/** Whether the gate has given up on the agent, or has never heard one. */
function heartbeatLost({ dataplane, clock }: Ground, orphanGraceSeconds: number): boolean {
  const last = dataplane.lastHeartbeat();
  return last === 0n || clock.monotonicNs() > last + BigInt(orphanGraceSeconds) * 1_000_000_000n;
}

/** Bindings of the devices file hold as long as the file says so; others were only heard. */
function bindingConfirmed({ directory }: Ground, record: { device: GrantRecord['device']; family: Family }): boolean {
  return directory.bindingOf(record.device, record.family)?.source === 'file';
}

/**
 * The heartbeat: written by the thread that applies bindings, so that the gate
 * refuses every grant when nobody hears any more that an address has changed
 * hands. Where it had run out (a hung or stopped agent), the grants that
 * nobody can vouch for end before it is written again; after a suspend, ends
 * come down by its length first.
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
      for (const { index, number, expiresAtNs } of this.#grants.live.all()) {
        dataplane.end(index, number, expiresAtNs - suspended);
      }
    }
    this.#suspendedNs = suspended;
    if (heartbeatLost(this.#ground, this.#orphanGraceSeconds)) {
      for (const record of this.#grants.live.all()) {
        if (!bindingConfirmed(this.#ground, record)) await this.#grants.end(record, 'bindingUnconfirmed');
      }
    }
    dataplane.heartbeat(clock.monotonicNs());
  }
}
