/**
 * Grants: asked for, decided, recorded, opened, ended. `request` is the one
 * way in; everything that ends a grant comes through `end`.
 *
 * Invariants (design, "What always holds"):
 * - Record first, then gate; to end: gate first, then record. What is
 *   acknowledged is durable.
 * - A decision waits for its commit; in the same turn of the loop in which the
 *   commit is known, what the decision rested on is looked at again.
 * - Nothing is evicted: full means refuse.
 */
import { type Address, prefix } from '../core/net.ts';
import type { Refusal, Refuse } from '../core/reasons.ts';
import type { DeviceReference, GrantId, GrantRequest, InnerAddress, ServerName } from '../core/words.ts';
import type { Mapping } from '../dataplane/dataplane.ts';
import { type Decision, decide, type Question } from '../policy/decide.ts';
import { NO_USAGE, type Policy, sourceClasses } from '../policy/policy.ts';
import { Endpoints } from './endpoints.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import type { EndCause } from './lifecycle.ts';
import { LiveGrants } from './live.ts';
import { RequestRates } from './rates.ts';
import { type GrantRecord, keyOf, newRecord, suspendedNs } from './record.ts';
import { Rest } from './rest.ts';

/** Who asks: an authenticated MTC server, and the address its request came from. */
export interface Asker {
  readonly name: ServerName;
  readonly requestAddress: Address;
}

type EndedRecord = GrantRecord & { readonly endCause: EndCause; readonly endedAtMs: number };

export class Grants {
  readonly live = new LiveGrants();
  readonly endpoints: Endpoints;
  readonly rest: Rest;
  readonly #ground: Ground;
  readonly #rates = new RequestRates();
  /** Grants whose record is being written: they count, but are not there yet. */
  readonly #opening = new LiveGrants();
  /** Ended, and the store has not taken it yet. */
  readonly #unrecorded = new Map<GrantId, EndedRecord>();
  #policy: Policy;

  constructor(ground: Ground, policy: Policy) {
    this.#ground = ground;
    this.#policy = policy;
    this.endpoints = new Endpoints(ground.pool, ground.random);
    this.rest = new Rest(this.endpoints, ground.dataplane);
  }

  get policy(): Policy {
    return this.#policy;
  }

  /**
   * The request path. Returns the live grant, or the refusal with the step
   * that stopped it. @throws AgentError where store or gate fail; then nothing
   * is open.
   */
  async request(who: Asker, ask: GrantRequest): Promise<GrantRecord | Refusal> {
    const { clock, directory, store, dataplane, log, metrics } = this.#ground;
    const refuse: Refuse = (reason, facts) => this.#ground.refuse(reason, { ...asked(who, ask), ...facts });

    const notReady = this.#ground.notReady();
    if (notReady) return refuse(notReady.reason, { why: notReady.why });

    const policy = this.#policy;
    const question = this.#question(who, ask);
    const decision = decide(policy, question);
    if (decision.verdict === 'allow' || decision.reason !== 'rateExceeded') {
      this.#rates.add(who.name, clock.monotonicNs());
    }
    const { device } = question;
    if (device && decision.family && (decision.verdict === 'allow' || decision.step === 'quota')) {
      const { protocol, port: devicePort, server } = question;
      const key = keyOf({ server, device: device.externalId, family: decision.family, protocol, devicePort });
      const twin = this.live.withKey(key) ?? this.#opening.withKey(key);
      if (twin) return refuse('alreadyExists', { why: `grant ${twin.id} is live`, members: { grantId: twin.id } });
    }
    if (decision.verdict === 'refuse') {
      return refuse(decision.reason, { why: decision.why, ...(decision.rule && { rule: decision.rule }) });
    }
    const { family } = decision;
    const binding = device && directory.bindingOf(device.externalId, family);
    if (!binding) return refuse('deviceUnreachable', { why: `not bound in ${family}`, rule: decision.rule });

    const place = this.endpoints.allocate(family, ask.protocol);
    if (!place)
      return refuse('endpointsExhausted', {
        why: `no ${family} ${ask.protocol} endpoint is free`,
        rule: decision.rule,
      });

    const { gateway, bootId, random } = this.#ground;
    const decided = { server: who.name, ask, policyVersion: policy.version, decision, binding, place };
    const record = newRecord({ id: this.#ground.newId(), gateway, bootId, ...decided }, clock, random);
    this.#opening.put(record);
    try {
      await store.insert(record);
    } catch (fault) {
      this.endpoints.free(ask.protocol, place);
      throw fault;
    } finally {
      this.#opening.remove(record);
    }

    // The commit took its time: look again, and open in this same turn.
    const objection = this.objection(record);
    const closedNow = this.#ground.notReady();
    if (objection || closedNow) {
      const draining = closedNow?.reason === 'gatewayDraining';
      await this.#neverOpened(record, objection ?? (draining ? 'gatewayDraining' : 'gateFault'));
      return refuse('changedWhileDeciding', { why: objection ?? closedNow?.why ?? '', rule: record.rule });
    }
    try {
      dataplane.open(this.mapping(record), record.expiresAtNs - suspendedNs(clock));
    } catch (fault) {
      await this.#neverOpened(record, 'gateFault');
      throw fault;
    }
    this.live.put(record);
    metrics.granted();
    log.info(
      { grant: record.id, server: record.server, device: record.device, rule: record.rule, until: record.expiresAtMs },
      'grantOpened',
    );
    return record;
  }

  /** What would be decided now, and how; nothing is asked for. */
  judge(who: Asker, ask: GrantRequest): { readonly question: Question; readonly decision: Decision } {
    const question = this.#question(who, ask);
    return { question, decision: decide(this.#policy, question) };
  }

  /** A grant, live or ended, whoever's it is. */
  find(id: string): GrantRecord | undefined {
    return this.live.get(id) ?? this.#unrecorded.get(id as GrantId) ?? this.#ground.store.find(id);
  }

  /** A server's own grant, live or ended. */
  show(who: Pick<Asker, 'name'>, id: string): GrantRecord | undefined {
    const record = this.find(id);
    return record?.server === who.name ? record : undefined;
  }

  /** A server's live grants; those on one device, if it is named. */
  list(who: Pick<Asker, 'name'>, device?: DeviceReference): GrantRecord[] {
    const own = this.live.ofServer(who.name);
    if (!device) return own;
    const found = this.#ground.directory.find(device);
    return own.filter((record) => record.device === found?.externalId);
  }

  /**
   * Ends a grant: packets stop before this returns, and the end is durable
   * when it resolves. Of two who end it, one does; both wait for the record.
   */
  async end(record: GrantRecord, cause: EndCause): Promise<void> {
    const { dataplane, clock, log, metrics } = this.#ground;
    if (!this.live.get(record.id)) {
      const ended = this.#unrecorded.get(record.id);
      return ended && this.#write(ended);
    }
    dataplane.end(record.index, record.number, clock.monotonicNs() - CLOCK_LAG_NS);
    this.live.remove(record);
    this.rest.lay(this.mapping(record), clock.monotonicNs());
    metrics.ended(cause);
    log.info({ grant: record.id, server: record.server, device: record.device, cause }, 'grantEnded');
    await this.#recordEnd(record, cause);
  }

  /** Ends every live grant toward an inner address. */
  async endAt(inner: InnerAddress, cause: EndCause): Promise<void> {
    for (const record of this.live.atInner(inner)) await this.end(record, cause);
  }

  /**
   * Puts a policy in force: sources that no longer count leave the gate first,
   * then the grants end that it no longer allows, then new sources enter
   * (design, law 9).
   */
  async switchPolicy(policy: Policy): Promise<void> {
    this.#policy = policy;
    this.withdrawSources();
    for (const record of this.live.all()) {
      const cause = this.objection(record);
      if (cause) await this.end(record, cause);
    }
    const { dataplane } = this.#ground;
    const present = dataplane.classes();
    for (const [text, classId] of this.#classes()) if (!present.has(text)) dataplane.addClass(prefix(text), classId);
  }

  /** Takes from the gate what the policy in force no longer counts as a source. */
  withdrawSources(): void {
    const { dataplane } = this.#ground;
    const wanted = this.#classes();
    for (const [text, classId] of dataplane.classes()) {
      if (wanted.get(text) !== classId) dataplane.removeClass(prefix(text));
    }
  }

  /** Why a grant may not be (or stay) open, by directory and policy as they are now. */
  objection(record: GrantRecord): EndCause | undefined {
    const { directory } = this.#ground;
    const binding = directory.bindingOf(record.device, record.family);
    if (binding?.inner.realm !== record.inner.realm || binding.inner.address.text !== record.inner.address.text) {
      return 'deviceUnbound';
    }
    if (this.#policy.version === record.policyVersion) return undefined;
    const decision = decide(this.#policy, {
      server: record.server,
      device: { externalId: record.device, boundFamilies: directory.familiesOf(record.device) },
      protocol: record.protocol,
      port: record.devicePort,
      durationSeconds: record.grantedSeconds,
      applicationServer: record.remote,
      requestAddress: record.remote === 'all' ? record.external.address : record.remote,
      ipFamily: record.family,
      usage: NO_USAGE,
    });
    if (decision.verdict === 'allow') return undefined;
    return decision.step === 'mtcUser' || decision.step === 'device' ? 'serverUnauthorised' : 'ruleChanged';
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
    };
  }

  /** What is due: grants whose time is over, endpoints whose rest is, ends the store did not take. One that fails holds up no other. */
  async sweep(): Promise<void> {
    const { clock, store, bootId } = this.#ground;
    this.rest.release(clock.monotonicNs());
    const unrecorded = [...this.#unrecorded.values()];
    const due = store.due(bootId, clock.boottimeNs()).flatMap((id) => this.live.get(id) ?? []);
    const outcomes = await Promise.allSettled([
      ...unrecorded.map((ended) => this.#write(ended)),
      ...due.map((record) => this.end(record, 'expired')),
    ]);
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
  }

  #classes(): Map<string, number> {
    const { store } = this.#ground;
    return new Map(sourceClasses(this.#policy).map(({ prefix, server }) => [prefix.text, store.idOf('class', server)]));
  }

  #question(who: Asker, ask: GrantRequest): Question {
    const { directory, clock } = this.#ground;
    const device = directory.find(ask.device);
    const onDevice = (of: LiveGrants) => (device ? of.countOnDevice(who.name, device.externalId) : 0);
    return {
      server: who.name,
      device: device && { externalId: device.externalId, boundFamilies: directory.familiesOf(device.externalId) },
      protocol: ask.protocol,
      port: ask.devicePort,
      durationSeconds: ask.durationSeconds,
      applicationServer: ask.applicationServer?.address,
      requestAddress: who.requestAddress,
      ipFamily: ask.ipFamily,
      usage: {
        grantsOnDevice: onDevice(this.live) + onDevice(this.#opening),
        grantsOfServer: this.live.countOfServer(who.name) + this.#opening.countOfServer(who.name),
        requestsInLastMinute: this.#rates.inLastMinute(who.name, clock.monotonicNs()),
      },
    };
  }

  /** The record of a grant that was written and then not opened: it ends, and its endpoint is as free as before. */
  async #neverOpened(record: GrantRecord, cause: EndCause): Promise<void> {
    this.endpoints.free(record.protocol, record);
    await this.#recordEnd(record, cause);
  }

  async #recordEnd(record: GrantRecord, endCause: EndCause): Promise<void> {
    const ended: EndedRecord = { ...record, state: 'ended', endCause, endedAtMs: this.#ground.clock.nowMs() };
    this.#unrecorded.set(record.id, ended);
    await this.#write(ended);
  }

  async #write({ id, endCause, endedAtMs }: EndedRecord): Promise<void> {
    await this.#ground.store.end(id, endCause, endedAtMs);
    this.#unrecorded.delete(id);
  }
}

function asked(who: Asker, ask: GrantRequest): Record<string, string> {
  return {
    server: who.name,
    from: who.requestAddress.text,
    device: Object.values(ask.device).join(),
    to: `${ask.protocol}/${ask.devicePort}`,
  };
}
