/**
 * The way of a request: judged step by step (judge.ts), then allocated,
 * recorded and opened. One whose device cannot be reached may wait for it
 * (waiting.ts); it goes the whole way again when the device is bound.
 *
 * Invariants (design, "What always holds"):
 * - record first, then gate;
 * - a decision waits for its commit; in the same turn of the loop in which the
 *   commit is known, what the decision rested on is looked at again;
 * - nothing is evicted: full means refuse.
 */
import { orNotRecorded, UNRECORDED_MOST } from '../core/not-recorded.ts';
import { askerFacts, type Refusal, type Refuse } from '../core/refusals.ts';
import type { Asker, ExternalId, GrantRequest, Wake } from '../core/words.ts';
import type { Mapping } from '../dataplane/dataplane.ts';
import type { ReachableBinding } from '../directory/directory.ts';
import type { Allowed } from '../policy/decide.ts';
import { type Usage, versionFor } from '../policy/policy.ts';
import { translationOf } from '../policy/translation.ts';
import type { BegunToday } from './begun.ts';
import type { Endpoints, Kind } from './endpoints.ts';
import type { Ground } from './ground.ts';
import type { Judge } from './judge.ts';
import type { EndCause } from './lifecycle.ts';
import type { LiveGrants } from './live.ts';
import type { Opening } from './opening.ts';
import { unreachable } from './reach.ts';
import { type GrantKey, type GrantRecord, namesOf, newRecord, type Retry, suspendedNs } from './record.ts';
import type { Rest } from './rest.ts';
import { type Retries, textOf } from './retries.ts';
import type { Unrecorded } from './unrecorded.ts';
import type { Waiting } from './waiting.ts';
import { asAccepted, askerOf, newWait, type WaitingRequest } from './waiting-request.ts';

/** What is granted by now, and what a grant is made with (grants.ts). */
interface Granted {
  readonly judge: Judge;
  readonly live: LiveGrants;
  readonly opening: Opening;
  readonly waiting: Waiting;
  readonly endpoints: Endpoints;
  readonly rest: Rest;
  readonly retries: Retries;
  readonly unrecorded: Unrecorded;
  readonly begun: BegunToday;
  /** The live grant with a key whose time is not over. */
  liveWithKey(key: GrantKey): GrantRecord | undefined;
  mapping(record: GrantRecord): Mapping;
}

export class Requests {
  readonly #ground: Ground;
  readonly #grants: Granted;

  constructor(ground: Ground, grants: Granted) {
    this.#ground = ground;
    this.#grants = grants;
  }

  /**
   * The request path. Returns the live grant, or the refusal with the step
   * that stopped it. @throws AgentError where the gate fails; then nothing is
   * open.
   */
  request(who: Asker, ask: GrantRequest): Promise<GrantRecord | Refusal> {
    const refuse = this.#refuser(who, ask);
    const compared = (one: GrantRequest) => ({ ...one, device: this.#ground.identities.compared(one.device) });
    return orNotRecorded(refuse, () =>
      this.#grants.retries.once(
        who,
        () => textOf(compared(ask)),
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
   * its device cannot be reached: then it is what is returned, durable. `wake`:
   * its device is sent a trigger then, which is judged by the rules of triggers,
   * and by which the request is refused where the trigger is.
   */
  requestOrWait(
    who: Asker,
    ask: GrantRequest,
    waitSeconds: number,
    wake?: Wake,
  ): Promise<GrantRecord | WaitingRequest | Refusal> {
    const { gateway, bootId, clock, store, waker: wakerNow } = this.#ground;
    const refuse = this.#refuser(who, ask);
    const compared = (one: GrantRequest) => ({ ...one, device: this.#ground.identities.compared(one.device) });
    return orNotRecorded(refuse, () =>
      this.#grants.retries.once<GrantRecord | WaitingRequest>(
        who,
        () => textOf(compared(ask), waitSeconds, wake),
        refuse,
        async (retry) => {
          const waker = wakerNow();
          // Said at once, and not only when the device sleeps.
          if (wake && !waker) return refuse('triggersUnavailable', { why: 'no triggers section in agent.yaml' });
          if (wake && !waker?.serves(wake.port))
            return refuse('triggerPortNotServed', { why: `port ${wake.port} is not in triggers.ports of agent.yaml` });
          const decided = this.#decide(who, ask, refuse);
          if ('reason' in decided) return decided;
          const { binding, decision, device, policyVersion } = decided;
          if (binding) return this.#open({ who, ask, refuse, retry, ...decided, binding });
          const full = this.#grants.waiting.fullFor(who.name);
          if (full !== undefined) return refuse('waitingExhausted', { why: full, rule: decision.rule });
          const id = this.#ground.newId();
          const accepted = { id, gateway, bootId, policyVersion, waitSeconds, who, decision, device };
          const request = newWait({ ...accepted, ask: this.#keptOf(ask) }, clock);
          return this.#grants.waiting.accept(request, retry, wake && waker && (() => waker.accept(who, request, wake)));
        },
        (id) => {
          const waited = this.#grants.waiting.get(id) ?? store.findWait(id);
          return waited && asAccepted(waited);
        },
      ),
    );
  }

  /** Judges one that waits again, whole, and grants it if it may be; undefined where it still waits. */
  grantWaited(waited: WaitingRequest): Promise<GrantRecord | Refusal | undefined> {
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

  /** A request that is accepted, as it may be kept. Its server may be told again what it said. */
  #keptOf(ask: GrantRequest): GrantRequest {
    const { identities } = this.#ground;
    if (!('phoneNumber' in ask.device)) return ask;
    identities.remember(ask.device);
    return { ...ask, device: identities.kept(ask.device) };
  }

  /** All that a request asked, so that it can be put to another policy later (inspector/refusals.ts keeps it). */
  #asked(who: Asker, { device, protocol, devicePort, durationSeconds, applicationServer, ipFamily }: GrantRequest) {
    const remote = applicationServer?.address;
    return {
      ...askerFacts(who),
      device: this.#ground.identities.told(device),
      to: `${protocol}/${devicePort}`,
      durationSeconds,
      ...(remote && { applicationServer: remote === 'all' ? remote : remote.text }),
      ...(ipFamily && { ipFamily }),
    };
  }

  #refuser(who: Asker, ask: GrantRequest): Refuse {
    return (reason, facts) =>
      this.#ground.refuse(reason, { ...this.#asked(who, ask), policy: this.#grants.judge.policy.version, ...facts });
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
    const unrecorded = this.#grants.unrecorded.size;
    if (unrecorded >= UNRECORDED_MOST)
      return refuse('recordNotWritten', { why: `${unrecorded} ends wait to be written` });

    const { question, decision } = waited
      ? this.#grants.judge.decide(who, ask, (device) => withoutOne(this.#grants.judge.usageOf(who.name, device)))
      : this.#grants.judge.decide(who, ask);
    if (!waited) {
      const tooMany = this.#grants.judge.tooManyMisses(who, decision);
      if (tooMany) return refuse('tooManyUnknownDevices', tooMany);
      this.#grants.judge.count(who, decision);
    }
    this.#grants.judge.tellStaged(question, decision, this.#asked(who, ask));
    const { device } = question;
    if (device && waited && device.externalId !== waited.device)
      return refuse('deviceUnknown', { why: `it was asked for as ${waited.device}, and now is ${device.externalId}` });
    if (device && decision.family && (decision.verdict === 'allow' || decision.step === 'quota')) {
      const { protocol, port: devicePort, server } = question;
      const key = { server, device: device.externalId, family: decision.family, protocol, devicePort };
      const live = this.#grants.liveWithKey(key) ?? this.#grants.opening.withKey(key);
      const twin = live ?? this.#grants.waiting.withKey(key);
      if (twin && twin.id !== waited?.id) {
        const why = `grant ${twin.id} ${live ? 'is live' : 'waits'}`;
        return refuse('alreadyExists', { why, members: { grantId: twin.id } });
      }
    }
    if (decision.verdict === 'refuse') return refuse(decision.reason, this.#grants.judge.factsOf(who, decision));
    const { family, rule } = decision;
    // A device that is allowed is known.
    const { externalId } = device as { readonly externalId: ExternalId };
    return {
      decision,
      device: externalId,
      policyVersion: versionFor(this.#grants.judge.policy, decision.mtcUser),
      binding: directory.bindingOf(externalId, family),
      unreachable: () => {
        const { reason, seen: why } = unreachable(directory, externalId, family);
        return refuse(reason, { why, rule });
      },
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

    const isTranslated = translationOf(this.#grants.judge.policy, who.name, realm) === 'translated';
    const place = isTranslated
      ? this.#grants.endpoints.allocate(family, ask.protocol)
      : this.#grants.endpoints.allocateOwn({ address: binding.target, port: ask.devicePort });
    if (!place) {
      const what = isTranslated ? `${family} ${ask.protocol} endpoint` : 'place for a grant that is not translated';
      const kind: Kind = isTranslated && family === 'ipv4' ? `ipv4 ${ask.protocol}` : 'keyed';
      const retryAfterSeconds = this.#grants.rest.secondsUntilFree(kind, clock.monotonicNs());
      return refuse('endpointsExhausted', { why: `no ${what} is free`, rule, retryAfterSeconds });
    }

    const { gateway, bootId, random } = this.#ground;
    const id = waited?.id ?? this.#ground.newId();
    const record = newRecord(
      { id, gateway, bootId, who, ask: this.#keptOf(ask), policyVersion, decision, device, binding, place },
      clock,
      random,
    );
    if (!waited) this.#grants.opening.put(record); // one that waits is counted as such
    const neverBegan = this.#grants.begun.add(record, this.#grants.judge.policy);
    try {
      if (!waited) await store.insert(record, retry);
      else if (await store.grantWait(record)) this.#grants.waiting.granted(waited);
      else {
        neverBegan();
        this.#grants.endpoints.free(record.protocol, record);
        return refuse('changedWhileDeciding', { why: 'it waits no more', rule });
      }
    } catch (fault) {
      neverBegan();
      // It may be on record all the same: then it ends there, now or with a later sweep.
      await this.#neverOpened(record, 'storeFault').catch(() => {});
      throw fault;
    } finally {
      if (!waited) this.#grants.opening.remove(record);
    }

    // The commit took its time: look again, and open in this same turn.
    const standing = this.#grants.judge.standing(record);
    const closesSooner = standing.closesAtMs !== undefined && standing.closesAtMs < record.expiresAtMs;
    const objection = standing.objection ?? (closesSooner ? 'ruleChanged' : undefined);
    const closedNow = this.#ground.notReady(realm);
    if (objection || closedNow) {
      neverBegan();
      const draining = closedNow?.reason === 'gatewayDraining';
      await this.#neverOpened(record, objection ?? (draining ? 'gatewayDraining' : 'gateFault'));
      return refuse('changedWhileDeciding', { why: objection ?? closedNow?.why ?? '', rule: record.rule });
    }
    try {
      dataplane.open(this.#grants.mapping(standing.record), record.expiresAtNs - suspendedNs(clock));
    } catch (fault) {
      neverBegan();
      await this.#neverOpened(record, 'gateFault');
      throw fault;
    }
    this.#grants.live.put(standing.record);
    metrics.granted();
    log.info({ ...namesOf(record), rule: record.rule, until: record.expiresAtMs }, 'grantOpened');
    this.#ground.watcher?.opened?.(standing.record);
    if (waited) this.#ground.watcher?.granted(standing.record);
    return standing.record;
  }

  /** The record of a grant that was written and then not opened: it ends as it began, and its endpoint is as free as before. */
  async #neverOpened(record: GrantRecord, cause: EndCause): Promise<void> {
    this.#grants.endpoints.free(record.protocol, record);
    await this.#grants.unrecorded.write(
      this.#grants.unrecorded.ended({ ...record, expiresAtMs: record.startedAtMs }, cause),
    );
  }
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
