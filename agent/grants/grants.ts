import { type Address, contains, type Endpoint } from '../core/net.ts';
import type { Refusal } from '../core/refusals.ts';
import { breathe, faultsOf, inSlices, SLICE } from '../core/slices.ts';
import type {
  Asker,
  DeviceReference,
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
import { BegunToday } from './begun.ts';
import { Endpoints } from './endpoints.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import { Held } from './held.ts';
import { Judge } from './judge.ts';
import type { EndCause, WaitEndCause } from './lifecycle.ts';
import { LiveGrants, type Mark, type Page } from './live.ts';
import { Opening } from './opening.ts';
import { type Concerned, type Ending, PolicyChanges } from './policy-changes.ts';
import {
  type EndedRecord,
  type GrantKey,
  type GrantRecord,
  isRewritten,
  namesOf,
  ownerOf,
  suspendedNs,
} from './record.ts';
import { Requests } from './requests.ts';
import { Rest } from './rest.ts';
import { Retries } from './retries.ts';
import { Sources } from './sources.ts';
import { Unrecorded } from './unrecorded.ts';
import { Waiting } from './waiting.ts';
import { NO_WAITING, type WaitingPage } from './waiting-list.ts';
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
  /** Those whose binding is to be confirmed. */
  readonly held: Held;
  readonly #requests: Requests;
  readonly #changes: PolicyChanges;

  constructor(ground: Ground, policy: Policy) {
    this.#ground = ground;
    this.waiting = new Waiting(
      ground,
      (waited) => this.#requests.grantWaited(waited),
      (waited) => this.judge.hasOtherOwner(waited),
    );
    this.begun = new BegunToday(ground.clock);
    this.judge = new Judge(ground, this, policy);
    this.endpoints = new Endpoints(ground.pool, ground.random);
    this.rest = new Rest(this.endpoints, ground.dataplane);
    this.retries = new Retries(ground);
    this.sources = new Sources(ground);
    this.unrecorded = new Unrecorded(ground);
    this.held = new Held(ground, this);
    this.#requests = new Requests(ground, this);
    this.#changes = new PolicyChanges(ground, this);
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
    return this.unlessOver(this.live.withKey(key));
  }

  /** A grant, live or ended, whoever's it is. */
  find(id: string): GrantRecord | undefined {
    const live = this.unlessOver(this.live.get(id));
    return live ?? this.unrecorded.get(id as GrantId) ?? this.#ground.store.find(id);
  }

  /** A server's own grant, live or ended. Another's is looked for as long as one that never was. */
  show(who: Pick<Asker, 'name'>, id: string): GrantRecord | undefined {
    const here = this.unlessOver(this.live.getOwn(who.name, id)) ?? this.unrecorded.get(id as GrantId);
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
   * the address that a packet comes from; where none is, nobody's. Nobody's,
   * too, where the device has gone to another MTC user: the former owner is told
   * no more of it, and what was granted before never was the new one's.
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
    const owner = record ? ownerOf(record) : this.rest.ownerOf(protocol, external);
    return owner && !this.judge.hasOtherOwner(owner) ? owner : undefined;
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
  unlessOver(record: GrantRecord | undefined): GrantRecord | undefined {
    if (!record || record.expiresAtNs > this.#ground.clock.boottimeNs()) return record;
    void this.end(record, 'expired').catch(() => {}); // it ends on record with a later sweep
    return undefined;
  }

  /** Opens in the gate what is on record: the entry that it still has there, or, after a reboot, one anew. */
  reopen(record: GrantRecord, endNs = record.expiresAtNs - suspendedNs(this.#ground.clock)): void {
    const { dataplane } = this.#ground;
    if (!dataplane.resume(record.index, record.number, endNs)) dataplane.open(this.mapping(record), endNs);
    this.live.put(record);
  }

  /** Ends every live grant toward an inner address. All are closed before one is waited for. */
  async endAt(inner: InnerAddress, cause: EndCause): Promise<void> {
    await this.endAll(this.live.atInner(inner).map(({ id, index, number }) => ({ id, index, number, cause })));
  }

  /** Puts a policy in force (policy-changes.ts). */
  switchPolicy(made: Policy | (() => Policy)): Promise<void> {
    return this.#changes.switchPolicy(made);
  }

  /** Looks at every live grant again, by the policy in force. */
  review(): Promise<void> {
    return this.#changes.review();
  }

  /** Puts in force what an MTC user has said. */
  heed(mtcUser: MtcUserName, policy: Policy, only?: Concerned): Promise<void> {
    return this.#changes.heed(mtcUser, policy, only);
  }

  /** Counts from the records what has begun today, for one MTC user or all: at a start, and before a policy that wants to know is in force. */
  countBegun(policy: Policy, mtcUser?: MtcUserName): Promise<void> {
    const { store } = this.#ground;
    return this.begun.recount(policy, mtcUser, (sinceMs) => store.newest(sinceMs), this.opening.all());
  }

  /** Ends many: the gate is closed for all of them in this turn of the loop, what else there is to an end follows in slices. */
  endAll(endings: readonly Ending[]): Promise<void> {
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
