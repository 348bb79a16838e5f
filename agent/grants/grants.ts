/**
 * Grants: asked for, decided, recorded, opened, ended. The one way in is that
 * of requests.ts, and everything that ends a grant comes through `end`. What
 * waits for its device: waiting.ts; how one lives longer: extensions.ts;
 * whether one may stay: judge.ts; what of an end is not on record yet:
 * unrecorded.ts.
 *
 * Invariants (design, "What always holds"):
 * - Record first, then gate; to end: gate first, then record. What is
 *   acknowledged is durable.
 * - A decision waits for its commit; in the same turn of the loop in which the
 *   commit is known, what the decision rested on is looked at again.
 * - Nothing is evicted: full means refuse.
 * - The gate's entry, the grant in memory and the policy in force agree on its
 *   limits; the record follows with the next write of it, and is not believed
 *   where it was made under another policy.
 */
import { AgentError } from '../core/errors.ts';
import { type Address, contains, type Endpoint } from '../core/net.ts';
import type { Refusal } from '../core/refusals.ts';
import { breathe, faultsOf, inSlices, SLICE, slicesOf } from '../core/slices.ts';
import type {
  Asker,
  DeviceReference,
  ExternalId,
  GrantId,
  GrantRequest,
  InnerAddress,
  MtcUserName,
  Owner,
  Protocol,
  ServerName,
  Wake,
} from '../core/words.ts';
import type { Mapping } from '../dataplane/dataplane.ts';
import { innerOf } from '../directory/binding.ts';
import type { Policy } from '../policy/policy.ts';
import { wishFor } from '../policy/preferences.ts';
import { authorises } from '../policy/rule-index.ts';
import { BegunToday } from './begun.ts';
import { Endpoints } from './endpoints.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import { Judge } from './judge.ts';
import type { EndCause, WaitEndCause } from './lifecycle.ts';
import { LiveGrants, type Mark, type Page } from './live.ts';
import { Opening } from './opening.ts';
import {
  type EndedRecord,
  type GrantKey,
  type GrantRecord,
  isRewritten,
  namesOf,
  ownerOf,
  suspendedNs,
  withEnd,
} from './record.ts';
import { Requests } from './requests.ts';
import { Rest } from './rest.ts';
import { Retries } from './retries.ts';
import { Sources } from './sources.ts';
import { Unrecorded } from './unrecorded.ts';
import { NO_WAITING, Waiting, type WaitingPage } from './waiting.ts';
import type { WaitingRequest } from './waiting-request.ts';

export class Grants {
  readonly live = new LiveGrants();
  readonly endpoints: Endpoints;
  readonly rest: Rest;
  readonly judge: Judge;
  readonly retries: Retries;
  readonly sources: Sources;
  readonly unrecorded: Unrecorded;
  /** What has begun today, where an owner counts. */
  readonly begun: BegunToday;
  /** Requests that wait for their device. */
  readonly waiting: Waiting;
  readonly #ground: Ground;
  /** Grants whose record is being written: they count, but are not there yet. */
  readonly opening = new Opening();
  readonly #requests: Requests;
  /** The switch of policies that is under way, or was last. */
  #switching: Promise<void> = Promise.resolve();

  constructor(ground: Ground, policy: Policy) {
    this.#ground = ground;
    this.waiting = new Waiting(ground, (waited) => this.#requests.grantWaited(waited));
    this.begun = new BegunToday(ground.clock);
    this.judge = new Judge(ground, this, policy);
    this.endpoints = new Endpoints(ground.pool, ground.random);
    this.rest = new Rest(this.endpoints, ground.dataplane);
    this.retries = new Retries(ground);
    this.sources = new Sources(ground);
    this.unrecorded = new Unrecorded(ground);
    this.#requests = new Requests(ground, this);
  }

  get policy(): Policy {
    return this.judge.policy;
  }

  /** The request path (requests.ts). */
  request(who: Asker, ask: GrantRequest): Promise<GrantRecord | Refusal> {
    return this.#requests.request(who, ask);
  }

  /** The same for a request that may wait for its device, and wake it. */
  requestOrWait(
    who: Asker,
    ask: GrantRequest,
    waitSeconds: number,
    wake?: Wake,
  ): Promise<GrantRecord | WaitingRequest | Refusal> {
    return this.#requests.requestOrWait(who, ask, waitSeconds, wake);
  }

  /** The live grant with a key whose time is not over. */
  liveWithKey(key: GrantKey): GrantRecord | undefined {
    return this.#unlessOver(this.live.withKey(key));
  }

  /** A grant, live or ended, whoever's it is. */
  find(id: string): GrantRecord | undefined {
    const live = this.#unlessOver(this.live.get(id));
    return live ?? this.unrecorded.get(id as GrantId) ?? this.#ground.store.find(id);
  }

  /** A server's own grant, live or ended. Another's is looked for as long as one that never was. */
  show(who: Pick<Asker, 'name'>, id: string): GrantRecord | undefined {
    const here = this.#unlessOver(this.live.getOwn(who.name, id)) ?? this.unrecorded.get(id as GrantId);
    return here?.server === who.name ? here : this.#ground.store.findOwn(who.name, id);
  }

  /**
   * A page of the live grants, from a mark on: of a server, or on a device, or
   * both; or on the devices of an MTC user. A device that is not known has none.
   */
  list(
    of: { readonly mtcUser?: MtcUserName; readonly server?: ServerName; readonly device?: DeviceReference },
    after: Mark | undefined,
    limit: number,
  ): Page {
    const { clock, directory } = this.#ground;
    this.live.pass(clock.boottimeNs());
    const device = of.device && directory.find(of.device);
    // Of a device on which a server has none nothing is looked at: neither how many others have, nor whether it is there.
    const isSeen = device && (of.server === undefined || this.live.countOnDevice(of.server, device.externalId) > 0);
    const inners =
      of.device && (isSeen ? directory.bindingsOf(device.externalId) : []).flatMap((one) => innerOf(one) ?? []);
    return this.live.page({ mtcUser: of.mtcUser, server: of.server, inners }, after, limit);
  }

  /** A page of those that wait for their device, behind a place among them. A device that is not known has none. */
  listWaiting(
    {
      mtcUser,
      server,
      device: named,
    }: { readonly mtcUser?: MtcUserName; readonly server?: ServerName; readonly device?: DeviceReference },
    after: number,
    limit: number,
  ): WaitingPage {
    const device = named && this.#ground.directory.find(named)?.externalId;
    if (named && device === undefined) return NO_WAITING;
    return this.waiting.page({ mtcUser, server, device }, after, limit);
  }

  /**
   * Whose an external endpoint is: that of a live grant, or at rest after one.
   * Of grants on a device's own endpoint it is that of the server which has
   * the address that a packet comes from; where none is, nobody's.
   */
  ownerOf(protocol: Protocol, external: Endpoint, from?: Address): Owner | undefined {
    const { servers } = this.policy;
    const record = this.live.atExternal(
      protocol,
      external,
      (one) =>
        isRewritten(one) ||
        (from !== undefined && servers.get(one.server)?.sources.some((source) => contains(source, from)) === true),
    );
    return record ? ownerOf(record) : this.rest.ownerOf(protocol, external);
  }

  /**
   * Ends a grant: packets stop before this returns, and the end is durable
   * when it resolves. Of two who end it, one does; both wait for the record.
   */
  async end({ id }: Pick<GrantRecord, 'id'>, cause: EndCause): Promise<void> {
    const record = this.live.get(id); // as it is now, not as it was when somebody found it
    const why = record?.state === 'held' && cause === 'expired' ? 'bindingUnconfirmed' : cause;
    const ended = record ? this.#close(record, why) : this.unrecorded.get(id);
    if (ended) await this.unrecorded.write(ended);
  }

  /** Gives up a grant, be it live or one that waits for its device; one that is being granted is waited for. */
  async giveUp(of: Pick<GrantRecord, 'id'>, cause: EndCause & WaitEndCause): Promise<void> {
    if (!(await this.waiting.end(of, cause))) await this.end(of, cause);
  }

  /** Ends a grant in the gate and in memory; what is returned is still to be written. */
  #close(record: GrantRecord, cause: EndCause): EndedRecord {
    const { dataplane, clock, log, metrics } = this.#ground;
    dataplane.end(record.index, record.number, clock.monotonicNs() - CLOCK_LAG_NS);
    this.live.remove(record);
    this.rest.lay(this.mapping(record), isRewritten(record) ? ownerOf(record) : undefined, clock.monotonicNs());
    metrics.ended(cause);
    log.info({ ...namesOf(record), cause }, 'grantEnded');
    const ended = this.unrecorded.ended(record, cause);
    this.#ground.watcher?.ended(ended);
    return ended;
  }

  /** A live grant; none where its time is over, which it learns here if the next sweep has not come yet. */
  #unlessOver(record: GrantRecord | undefined): GrantRecord | undefined {
    if (!record || record.expiresAtNs > this.#ground.clock.boottimeNs()) return record;
    void this.end(record, 'expired').catch(() => {}); // it ends on record with a later sweep
    return undefined;
  }

  /**
   * Holds every grant that leads to an address which is to be confirmed; all
   * are on record when it resolves (design, law 1).
   */
  async hold(): Promise<void> {
    const { dataplane, clock, directory, store, log } = this.#ground;
    for await (const records of slicesOf(this.live.all())) {
      // Written in the turn in which it is closed: what confirms it may be written next.
      await inSlices(records, async (record) => {
        const holder = directory.holderOf(record.inner);
        if (record.state === 'held' || (holder && directory.isConfirmed(holder))) return;
        dataplane.end(record.index, record.number, clock.monotonicNs() - CLOCK_LAG_NS);
        const held: GrantRecord = { ...record, state: 'held' };
        this.live.put(held);
        await store.hold(held);
      });
    }
    if (this.live.held > 0) log.warn({ grants: this.live.held }, 'grantsHeld');
  }

  /** Of an address that is confirmed: what was held goes on, to the end that it had. */
  async resumeAt(inner: InnerAddress): Promise<void> {
    const held = this.live.atInner(inner).filter(({ state }) => state === 'held');
    await inSlices(held, (record) => this.#resume(record));
  }

  async #resume({ id }: GrantRecord): Promise<void> {
    const { store, log } = this.#ground;
    const held = this.#unlessOver(this.live.get(id));
    if (!held) return;
    const before = this.judge.standing(held);
    if (before.objection) return this.end(held, before.objection);
    if (!(await store.resume({ ...before.record, state: 'live' }))) return; // whoever ended it writes its end

    // The commit took its time: look again, and open in this same turn.
    const now = this.#unlessOver(this.live.get(id));
    if (now?.state !== 'held') return;
    const { directory } = this.#ground;
    const holder = directory.holderOf(now.inner);
    const { objection, record } = this.judge.standing(now);
    const cause = objection ?? (holder && directory.isConfirmed(holder) ? undefined : 'bindingUnconfirmed');
    if (cause) return this.end(now, cause);
    const resumed: GrantRecord = { ...record, state: 'live' };
    this.reopen(resumed);
    log.info({ ...namesOf(resumed), until: resumed.expiresAtMs }, 'grantResumed');
  }

  /** Opens in the gate what is on record: the entry that it still has there, or, after a reboot, one anew. */
  reopen(record: GrantRecord, endNs = record.expiresAtNs - suspendedNs(this.#ground.clock)): void {
    const { dataplane } = this.#ground;
    if (!dataplane.resume(record.index, record.number, endNs)) dataplane.open(this.mapping(record), endNs);
    this.live.put(record);
  }

  /** Ends every live grant toward an inner address. All are closed before one is waited for. */
  async endAt(inner: InnerAddress, cause: EndCause): Promise<void> {
    await this.#endAll(this.live.atInner(inner).map(({ id, index, number }) => ({ id, index, number, cause })));
  }

  /**
   * Puts a policy in force: sources that no longer count leave the gate first,
   * then the grants end that it no longer allows, then new sources enter
   * (design, law 9). Two switches never interleave. An end that is not on
   * record yet holds up nothing: its packets have stopped, and the sweep writes
   * it. Where the gate fails it is this policy by halves: switch again, to it
   * or to the one before. Where it is a function it is asked in the turn in which
   * what it makes comes into force.
   */
  switchPolicy(made: Policy | (() => Policy)): Promise<void> {
    const turn = this.#switching.then(async () => {
      const policy = typeof made === 'function' ? made() : made;
      this.judge.policy = policy;
      await this.sources.withdraw(policy);
      await this.review().catch((fault) => {
        if (!(fault instanceof AgentError) || fault.code !== 'storeFailed') throw fault;
      });
      await this.sources.admit(policy);
      await this.countBegun(policy); // devices may have another owner
      await this.judge.tellStagedEnds();
    });
    this.#switching = turn.catch(() => {});
    return turn;
  }

  /**
   * Ends every live grant that may not stay open; the others have the limits
   * of now, and the end that hours of a rule now give them, if that is sooner.
   * Of all of them the gate knows before one is waited for.
   */
  async review(): Promise<void> {
    const { dataplane, clock } = this.#ground;
    const objected: Ending[] = [];
    const lowered: GrantRecord[] = [];
    let looked = 0;
    for (const record of this.live.all()) {
      const { objection: cause, record: now, closesAtMs } = this.judge.standing(record);
      if (cause) {
        const { id, index, number } = record;
        dataplane.end(index, number, clock.monotonicNs() - CLOCK_LAG_NS);
        objected.push({ id, index, number, cause });
      } else {
        if (now !== record) this.limit(now);
        const lower = closesAtMs === undefined ? undefined : this.#closeAt(now, closesAtMs);
        if (lower) lowered.push(lower);
      }
      looked += 1;
      if (looked % SLICE === 0) await breathe();
    }
    const faults = await faultsOf([
      this.#endAll(objected),
      inSlices(lowered, (record) => this.unrecorded.lower(record)),
    ]);
    if (faults.length > 0) throw faults[0];
  }

  /** Counts from the records what has begun today, for one MTC user or all: at a start, and before a policy that wants to know is in force. */
  countBegun(policy: Policy, mtcUser?: MtcUserName): Promise<void> {
    const { store } = this.#ground;
    return this.begun.recount(policy, mtcUser, (sinceMs) => store.newest(sinceMs), this.opening.all());
  }

  /**
   * Puts in force what an MTC user has said, laid over the policy that is: no
   * other's grants are looked at. Those that it does not authorise or want any
   * more are closed in the gate in this turn, and their ends, like those of what
   * waits, are on record when this resolves. `only`: nothing else has changed
   * but what this server may, or what is wanted of this device, and no other
   * grant is looked at. @throws AgentError storeFailed; they have ended all the same
   */
  async heed(mtcUser: MtcUserName, policy: Policy, only: Concerned = {}): Promise<void> {
    const { clock } = this.#ground;
    this.judge.policy = policy;
    const nowMs = clock.nowMs();
    const endings: Ending[] = [];
    const closing: { readonly record: GrantRecord; readonly closesAtMs: number }[] = [];
    for (const record of this.#concerned(mtcUser, only)) {
      const { id, index, number } = record;
      const { objection: cause, closesAtMs } = wantedBy(policy, record, nowMs);
      if (cause) endings.push({ id, index, number, cause });
      else if (closesAtMs < record.expiresAtMs) closing.push({ record, closesAtMs });
    }
    const ended = this.#endAll(endings);
    const lowered = closing.flatMap(({ record, closesAtMs }) => this.#closeAt(record, closesAtMs) ?? []);
    const faults = await faultsOf([
      ended,
      inSlices(lowered, (record) => this.unrecorded.lower(record)),
      this.waiting.heed(mtcUser, (request) => REFUSED_AS[wantedBy(policy, request, nowMs).objection ?? 'none']),
    ]);
    if (faults.length > 0) throw faults[0];
  }

  /** A device's grants lead to what it holds: all others have ended. */
  #concerned(mtcUser: MtcUserName, { server, device }: Concerned): Iterable<GrantRecord> {
    if (device === undefined) return this.live.ofMtcUser(mtcUser, server);
    const inners = this.#ground.directory.bindingsOf(device).flatMap((one) => innerOf(one) ?? []);
    return inners.flatMap((inner) => this.live.atInner(inner)).filter((record) => record.mtcUser === mtcUser);
  }

  /** Lowers a grant's end in the gate and in memory to an instant in UTC; what is returned is still to be written. */
  #closeAt(record: GrantRecord, closesAtMs: number): GrantRecord | undefined {
    const { dataplane, clock, log } = this.#ground;
    const leftNs = BigInt(Math.max(0, Math.floor(closesAtMs - clock.nowMs()))) * 1_000_000n;
    const expiresAtNs = clock.boottimeNs() + leftNs;
    if (expiresAtNs >= record.expiresAtNs) return undefined;
    const lowered = withEnd(record, expiresAtNs);
    dataplane.end(record.index, record.number, expiresAtNs - suspendedNs(clock));
    this.live.put(lowered);
    log.info({ ...namesOf(record), until: lowered.expiresAtMs }, 'grantLowered');
    return lowered;
  }

  /** Ends many: the gate is closed for all of them in this turn of the loop, what else there is to an end follows in slices. */
  #endAll(endings: readonly Ending[]): Promise<void> {
    const { dataplane, clock } = this.#ground;
    const endNs = clock.monotonicNs() - CLOCK_LAG_NS;
    for (const { index, number } of endings) dataplane.end(index, number, endNs);
    return inSlices(endings, ({ id, cause }) => this.end({ id }, cause));
  }

  /** Puts in force the limits that a live grant's record has by now. */
  limit(record: GrantRecord): void {
    this.#ground.dataplane.limit(record.index, record.number, record.limits);
    this.live.put(record);
  }

  /** What the gate is told of a grant. */
  mapping(record: GrantRecord): Mapping {
    const { store } = this.#ground;
    return {
      index: record.index,
      number: record.number,
      protocol: record.protocol,
      realm: store.idOf('realm', record.inner.realm),
      device: { address: record.inner.address, port: record.devicePort },
      external: record.external,
      remote: record.remote,
      remotePort: record.remotePort,
      classId: store.idOf('class', record.server),
      limits: record.limits,
    };
  }

  /** What is due: endpoints whose rest is over, what the store did not take, grants whose time is over. One that fails holds up no other. */
  async sweep(): Promise<void> {
    const { clock } = this.#ground;
    while (this.rest.release(clock.monotonicNs(), SLICE)) await breathe();
    const faults = await faultsOf([this.unrecorded.writeAll()]);
    faults.push(...(await faultsOf([inSlices(this.#usedUp(), (record) => this.end(record, 'quotaUsed'))])));
    faults.push(...(await faultsOf([this.waiting.sweep()])));
    this.live.pass(clock.boottimeNs());
    for (let due = this.live.due(SLICE); due.length > 0; due = this.live.due(SLICE)) {
      faults.push(...(await faultsOf(due.map((record) => this.end(record, 'expired')))));
      if (due.every(({ id }) => this.live.get(id))) break; // the gate would not: another time
      await breathe();
    }
    if (faults.length > 0) throw faults[0];
  }

  /** The live grants that have used up their quota, as the gate says: no more than it has room to say at once. */
  #usedUp(): readonly GrantRecord[] {
    const { dataplane } = this.#ground;
    return dataplane.usedUp().flatMap(({ index, number }) => {
      const mapping = dataplane.entry(index)?.mapping;
      const isIt = (one: GrantRecord) => one.number === number;
      return (mapping && this.live.atExternal(mapping.protocol, mapping.external, isIt)) ?? [];
    });
  }
}

/** Whose grants a change concerns alone. */
export interface Concerned {
  readonly server?: ServerName;
  readonly device?: ExternalId;
}

/** What a request that waits ends with where a grant would with this. */
const REFUSED_AS = { serverUnauthorised: 'notAuthorisedByMtcUser', unwanted: 'unwanted', none: undefined } as const;

/** Whether an MTC user lets a server's grant on its device stay, and until when. */
function wantedBy(
  policy: Policy,
  { mtcUser, server, device }: Pick<GrantRecord, 'mtcUser' | 'server' | 'device'>,
  nowMs: number,
): { readonly objection?: 'serverUnauthorised' | 'unwanted'; readonly closesAtMs: number } {
  const user = policy.mtcUsers.get(mtcUser);
  const { unwanted, untilMs: closesAtMs } = wishFor(policy, mtcUser, device, nowMs);
  if (!user || !authorises(user, server)) return { objection: 'serverUnauthorised', closesAtMs };
  return unwanted === undefined ? { closesAtMs } : { objection: 'unwanted', closesAtMs };
}

/** A grant that is to end, by what is needed for that. */
interface Ending extends Pick<GrantRecord, 'id' | 'index' | 'number'> {
  readonly cause: EndCause;
}
