/**
 * Grants: asked for, decided, recorded, opened, ended. `request` is the one
 * way in, and `requestOrWait` where it may wait for its device (waiting.ts);
 * everything that ends a grant comes through `end`. How one lives longer:
 * extensions.ts; whether one may stay: judge.ts; what of an end is not on
 * record yet: unrecorded.ts.
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
import type { Endpoint } from '../core/net.ts';
import type { Refusal, Refuse } from '../core/refusals.ts';
import type {
  Asker,
  DeviceReference,
  ExternalId,
  GrantId,
  GrantRequest,
  InnerAddress,
  Owner,
  Protocol,
  ServerName,
} from '../core/words.ts';
import type { Mapping } from '../dataplane/dataplane.ts';
import { innerOf } from '../directory/binding.ts';
import type { ReachableBinding } from '../directory/directory.ts';
import type { Allowed } from '../policy/decide.ts';
import type { Policy, Usage } from '../policy/policy.ts';
import { Endpoints } from './endpoints.ts';
import { CLOCK_LAG_NS, type Ground, orNotRecorded } from './ground.ts';
import { Judge } from './judge.ts';
import type { EndCause, WaitEndCause } from './lifecycle.ts';
import { LiveGrants, type Mark, type Page } from './live.ts';
import { Opening } from './opening.ts';
import {
  type EndedRecord,
  type GrantRecord,
  namesOf,
  newRecord,
  ownerOf,
  type Retry,
  suspendedNs,
  withEnd,
} from './record.ts';
import { Rest } from './rest.ts';
import { Retries, textOf } from './retries.ts';
import { breathe, faultsOf, inSlices, SLICE } from './slices.ts';
import { Sources } from './sources.ts';
import { Unrecorded } from './unrecorded.ts';
import { NO_WAITING, Waiting, type WaitingPage } from './waiting.ts';
import { asAccepted, askerOf, newWait, type WaitingRequest } from './waiting-request.ts';

/** With so many ends that the store has not taken no grant is begun: a disk that stays full must not fill the memory. */
const UNRECORDED_MOST = 1_000;

export class Grants {
  readonly live = new LiveGrants();
  readonly endpoints: Endpoints;
  readonly rest: Rest;
  readonly judge: Judge;
  readonly retries: Retries;
  readonly sources: Sources;
  readonly unrecorded: Unrecorded;
  /** Requests that wait for their device. */
  readonly waiting: Waiting;
  readonly #ground: Ground;
  /** Grants whose record is being written: they count, but are not there yet. */
  readonly #opening = new Opening();
  /** The switch of policies that is under way, or was last. */
  #switching: Promise<void> = Promise.resolve();

  constructor(ground: Ground, policy: Policy) {
    this.#ground = ground;
    this.waiting = new Waiting(ground, (waited) => this.#grantWaited(waited));
    this.judge = new Judge(ground, this.live, this.#opening, this.waiting, policy);
    this.endpoints = new Endpoints(ground.pool, ground.random);
    this.rest = new Rest(this.endpoints, ground.dataplane);
    this.retries = new Retries(ground);
    this.sources = new Sources(ground);
    this.unrecorded = new Unrecorded(ground);
  }

  get policy(): Policy {
    return this.judge.policy;
  }

  /**
   * The request path. Returns the live grant, or the refusal with the step
   * that stopped it. @throws AgentError where the gate fails; then nothing is
   * open.
   */
  request(who: Asker, ask: GrantRequest): Promise<GrantRecord | Refusal> {
    const refuse = this.#refuser(who, ask);
    return orNotRecorded(refuse, () =>
      this.retries.once(
        who,
        () => textOf(ask),
        refuse,
        async (retry) => {
          const decided = this.#decide(who, ask, refuse);
          if ('reason' in decided) return decided;
          const { binding, unreachable } = decided;
          return binding ? this.#open({ who, ask, refuse, retry, ...decided, binding }) : unreachable();
        },
      ),
    );
  }

  /**
   * The same for a request that waits where it is stopped by nothing but that
   * its device cannot be reached: then it is what is returned, durable.
   */
  requestOrWait(who: Asker, ask: GrantRequest, waitSeconds: number): Promise<GrantRecord | WaitingRequest | Refusal> {
    const { gateway, bootId, clock, store } = this.#ground;
    const refuse = this.#refuser(who, ask);
    return orNotRecorded(refuse, () =>
      this.retries.once<GrantRecord | WaitingRequest>(
        who,
        () => textOf(ask, waitSeconds),
        refuse,
        async (retry) => {
          const decided = this.#decide(who, ask, refuse);
          if ('reason' in decided) return decided;
          const { binding, decision, device, policyVersion } = decided;
          if (binding) return this.#open({ who, ask, refuse, retry, ...decided, binding });
          const full = this.waiting.fullFor(who.name);
          if (full !== undefined) return refuse('waitingExhausted', { why: full, rule: decision.rule });
          const id = this.#ground.newId();
          const accepted = { id, gateway, bootId, policyVersion, waitSeconds, who, ask, decision, device };
          return this.waiting.accept(newWait(accepted, clock), retry);
        },
        (id) => {
          const waited = this.waiting.get(id) ?? store.findWait(id);
          return waited && asAccepted(waited);
        },
      ),
    );
  }

  /** Judges one that waits again, whole, and grants it if it may be; undefined where it still waits. */
  #grantWaited(waited: WaitingRequest): Promise<GrantRecord | Refusal | undefined> {
    const { ask } = waited;
    const who = askerOf(waited);
    const refuse = this.#refuser(who, ask);
    return orNotRecorded(refuse, async () => {
      const decided = this.#decide(who, ask, refuse, waited);
      if ('reason' in decided) return decided;
      const { binding } = decided;
      return binding && this.#open({ who, ask, refuse, waited, ...decided, binding });
    });
  }

  #refuser(who: Asker, ask: GrantRequest): Refuse {
    return (reason, facts) =>
      this.#ground.refuse(reason, { ...asked(who, ask), policy: this.policy.version, ...facts });
  }

  /**
   * All steps up to the binding. One that waits has its place in the quotas, and
   * its request was counted when it came: a device that comes back late must not
   * find its server's rate used up by others that come back with it.
   */
  #decide(who: Asker, ask: GrantRequest, refuse: Refuse, waited?: WaitingRequest): Reached | Refusal {
    const { directory } = this.#ground;
    const notReady = this.#ground.notReady();
    if (notReady) return refuse(notReady.reason, { why: notReady.why });
    const unrecorded = this.unrecorded.size;
    if (unrecorded >= UNRECORDED_MOST)
      return refuse('recordNotWritten', { why: `${unrecorded} ends wait to be written` });

    const { question, decision } = waited
      ? this.judge.decide(who, ask, (device) => withoutOne(this.judge.usageOf(who.name, device)))
      : this.judge.decide(who, ask);
    if (!waited) {
      const tooMany = this.judge.tooManyMisses(who, decision);
      if (tooMany) return refuse('tooManyUnknownDevices', tooMany);
      this.judge.count(who, decision);
    }
    this.judge.tellStaged(question, decision, asked(who, ask));
    const { device } = question;
    if (device && waited && device.externalId !== waited.device)
      return refuse('deviceUnknown', { why: `it was asked for as ${waited.device}, and now is ${device.externalId}` });
    if (device && decision.family && (decision.verdict === 'allow' || decision.step === 'quota')) {
      const { protocol, port: devicePort, server } = question;
      const key = { server, device: device.externalId, family: decision.family, protocol, devicePort };
      const live = this.#unlessOver(this.live.withKey(key)) ?? this.#opening.withKey(key);
      const twin = live ?? this.waiting.withKey(key);
      if (twin && twin.id !== waited?.id) {
        const why = `grant ${twin.id} ${live ? 'is live' : 'waits'}`;
        return refuse('alreadyExists', { why, members: { grantId: twin.id } });
      }
    }
    if (decision.verdict === 'refuse') return refuse(decision.reason, this.judge.factsOf(who, decision));
    const { family, rule } = decision;
    // A device that is allowed is known.
    const { externalId } = device as { readonly externalId: ExternalId };
    const isHeld = directory.familiesOf(externalId).includes(family);
    const why = isHeld ? 'bound to a prefix, and no interface identifier is known' : `not bound in ${family}`;
    return {
      decision,
      device: externalId,
      policyVersion: this.policy.version,
      binding: directory.bindingOf(externalId, family),
      unreachable: () => refuse(isHeld ? 'addressUnknown' : 'deviceUnreachable', { why, rule }),
    };
  }

  /** Allocates, records, opens. */
  async #open(begun: Begun): Promise<GrantRecord | Refusal> {
    const { who, ask, refuse, retry, waited, decision, device, policyVersion, binding } = begun;
    const { clock, store, dataplane, log, metrics } = this.#ground;
    const { family, rule } = decision;
    const { realm } = binding;
    const noWay = this.#ground.notReady(realm);
    if (noWay) return refuse(noWay.reason, { why: noWay.why, rule });

    const place = this.endpoints.allocate(family, ask.protocol);
    if (!place)
      return refuse('endpointsExhausted', {
        why: `no ${family} ${ask.protocol} endpoint is free`,
        rule,
        retryAfterSeconds: this.rest.secondsUntilFree(family, ask.protocol, clock.monotonicNs()),
      });

    const { gateway, bootId, random } = this.#ground;
    const id = waited?.id ?? this.#ground.newId();
    const record = newRecord(
      { id, gateway, bootId, who, ask, policyVersion, decision, device, binding, place },
      clock,
      random,
    );
    if (!waited) this.#opening.put(record); // one that waits is counted as such
    try {
      if (!waited) await store.insert(record, retry);
      else if (await store.grantWait(record)) this.waiting.leave(waited);
      else {
        this.endpoints.free(record.protocol, record);
        return refuse('changedWhileDeciding', { why: 'it waits no more', rule });
      }
    } catch (fault) {
      // It may be on record all the same: then it ends there, now or with a later sweep.
      await this.#neverOpened(record, 'storeFault').catch(() => {});
      throw fault;
    } finally {
      if (!waited) this.#opening.remove(record);
    }

    // The commit took its time: look again, and open in this same turn.
    const standing = this.judge.standing(record);
    const closesSooner = standing.closesAtMs !== undefined && standing.closesAtMs < record.expiresAtMs;
    const objection = standing.objection ?? (closesSooner ? 'ruleChanged' : undefined);
    const closedNow = this.#ground.notReady(realm);
    if (objection || closedNow) {
      const draining = closedNow?.reason === 'gatewayDraining';
      await this.#neverOpened(record, objection ?? (draining ? 'gatewayDraining' : 'gateFault'));
      return refuse('changedWhileDeciding', { why: objection ?? closedNow?.why ?? '', rule: record.rule });
    }
    try {
      dataplane.open(this.mapping(standing.record), record.expiresAtNs - suspendedNs(clock));
    } catch (fault) {
      await this.#neverOpened(record, 'gateFault');
      throw fault;
    }
    this.live.put(standing.record);
    metrics.granted();
    log.info({ ...namesOf(record), rule: record.rule, until: record.expiresAtMs }, 'grantOpened');
    return standing.record;
  }

  /** A grant, live or ended, whoever's it is. */
  find(id: string): GrantRecord | undefined {
    const live = this.#unlessOver(this.live.get(id));
    return live ?? this.unrecorded.get(id as GrantId) ?? this.#ground.store.find(id);
  }

  /** A server's own grant, live or ended. */
  show(who: Pick<Asker, 'name'>, id: string): GrantRecord | undefined {
    const record = this.find(id);
    return record?.server === who.name ? record : undefined;
  }

  /**
   * A page of the live grants, from a mark on: of a server, or on a device, or
   * both. A device that is not known has none.
   */
  list(
    of: { readonly server?: ServerName; readonly device?: DeviceReference },
    after: Mark | undefined,
    limit: number,
  ): Page {
    const { clock, directory } = this.#ground;
    this.live.pass(clock.boottimeNs());
    const device = of.device && directory.find(of.device);
    const inners =
      of.device && (device ? directory.bindingsOf(device.externalId) : []).flatMap((one) => innerOf(one) ?? []);
    return this.live.page({ server: of.server, inners }, after, limit);
  }

  /** A page of those that wait for their device, behind a place among them. A device that is not known has none. */
  listWaiting(
    { server, device: named }: { readonly server?: ServerName; readonly device?: DeviceReference },
    after: number,
    limit: number,
  ): WaitingPage {
    const device = named && this.#ground.directory.find(named)?.externalId;
    if (named && device === undefined) return NO_WAITING;
    return this.waiting.page({ server, device }, after, limit);
  }

  /** Whose an external endpoint is: that of a live grant, or at rest after one. */
  ownerOf(protocol: Protocol, external: Endpoint): Owner | undefined {
    const record = this.live.atExternal(protocol, external);
    return record ? ownerOf(record) : this.rest.ownerOf(protocol, external);
  }

  /**
   * Ends a grant: packets stop before this returns, and the end is durable
   * when it resolves. Of two who end it, one does; both wait for the record.
   */
  async end({ id }: Pick<GrantRecord, 'id'>, cause: EndCause): Promise<void> {
    const record = this.live.get(id); // as it is now, not as it was when somebody found it
    const ended = record ? this.#close(record, cause) : this.unrecorded.get(id);
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
    this.rest.lay(this.mapping(record), ownerOf(record), clock.monotonicNs());
    metrics.ended(cause);
    log.info({ ...namesOf(record), cause }, 'grantEnded');
    return this.unrecorded.ended(record, cause);
  }

  /** A live grant; none where its time is over, which it learns here if the next sweep has not come yet. */
  #unlessOver(record: GrantRecord | undefined): GrantRecord | undefined {
    if (!record || record.expiresAtNs > this.#ground.clock.boottimeNs()) return record;
    void this.end(record, 'expired').catch(() => {}); // it ends on record with a later sweep
    return undefined;
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
   * or to the one before.
   */
  switchPolicy(policy: Policy): Promise<void> {
    const turn = this.#switching.then(async () => {
      this.judge.policy = policy;
      await this.sources.withdraw(policy);
      await this.review().catch((fault) => {
        if (!(fault instanceof AgentError) || fault.code !== 'storeFailed') throw fault;
      });
      await this.sources.admit(policy);
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
      const record = mapping && this.live.atExternal(mapping.protocol, mapping.external);
      return record?.number === number ? [record] : [];
    });
  }

  /** The record of a grant that was written and then not opened: it ends as it began, and its endpoint is as free as before. */
  async #neverOpened(record: GrantRecord, cause: EndCause): Promise<void> {
    this.endpoints.free(record.protocol, record);
    await this.unrecorded.write(this.unrecorded.ended({ ...record, expiresAtMs: record.startedAtMs }, cause));
  }
}

/** A grant that is to end, by what is needed for that. */
interface Ending extends Pick<GrantRecord, 'id' | 'index' | 'number'> {
  readonly cause: EndCause;
}

/** How far a request has come that nothing objects to: to its device's address, if it has one. */
interface Reached {
  readonly decision: Allowed;
  readonly device: ExternalId;
  readonly policyVersion: string;
  readonly binding: ReachableBinding | undefined;
  readonly unreachable: () => Refusal;
}

/** What a grant begins with. */
interface Begun extends Reached {
  readonly who: Asker;
  readonly ask: GrantRequest;
  readonly refuse: Refuse;
  readonly retry?: Retry | undefined;
  /** The request that waited for it. */
  readonly waited?: WaitingRequest;
  readonly binding: ReachableBinding;
}

/** What is held and asked for beside a request that waits, which itself is held already. */
function withoutOne({ grantsOnDevice, grantsOfServer }: Usage): Usage {
  return { grantsOnDevice: grantsOnDevice - 1, grantsOfServer: grantsOfServer - 1, requestsInLastMinute: 0 };
}

/** All that a request asked, so that it can be put to another policy later (inspector/refusals.ts keeps it). */
function asked(who: Asker, ask: GrantRequest): Record<string, unknown> {
  const { durationSeconds, applicationServer, ipFamily } = ask;
  const remote = applicationServer?.address;
  return {
    server: who.name,
    correlator: who.correlator,
    from: who.requestAddress.text,
    device: Object.values(ask.device).join(),
    to: `${ask.protocol}/${ask.devicePort}`,
    durationSeconds,
    ...(remote && { applicationServer: remote === 'all' ? remote : remote.text }),
    ...(ipFamily && { ipFamily }),
  };
}
