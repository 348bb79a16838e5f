/**
 * Bindings begin and end, in the order of design law 9: whoever spoke from an
 * address is no longer heard (marked in the gate, and bound there no more), the
 * grants toward it end, it leaves the groups of filters, its tracked flows are
 * deleted, it enters the groups of its new holder, who is recorded, then bound
 * in the gate, what waited for it is granted, and only then is anybody answered.
 * What has nothing to do with each other is carried out together
 * (binding-batches.ts): with one write, one look through connection tracking
 * and one change of groups for all.
 */
import type { Prefix } from '../core/net.ts';
import { inSlices, slicesOf } from '../core/slices.ts';
import type { ExternalId, InnerAddress } from '../core/words.ts';
import type { AccountingEvent, Outcome } from '../directory/accounting.ts';
import {
  addressText,
  type Binding,
  type Change,
  deviceOf,
  innerOf,
  NO_CHANGE,
  type Range,
  rangeKey,
  rangeOf,
} from '../directory/binding.ts';
import type { Places } from '../directory/claimed-ranges.ts';
import type { ListedDevice } from '../directory/devices.ts';
import { type DirectoryRefusal, touched } from '../directory/directory.ts';
import { type FindingTally, isAlarmed, isRefused } from '../directory/findings.ts';
import type { Plan, Session, Sessions, Surroundings } from '../directory/sessions.ts';
import { nasKey } from '../directory/subscriber.ts';
import { BindingBatches, concernsOf, type Planned } from './binding-batches.ts';
import type { Grants } from './grants.ts';
import type { Ground } from './ground.ts';

/** Deletes prefixes' entries from connection tracking, both directions. */
export type ForgetFlows = (prefixes: readonly Prefix[]) => Promise<void>;

/** The sets in which the base has the addresses of device groups. */
export interface GroupSets {
  follow(verb: 'add' | 'delete', bound: readonly Binding[]): Promise<void>;
  /** Fills them by the directory as it is. */
  refill(): Promise<void>;
}

/** Who else sends to devices, beside the gate (triggers). */
export interface Followers {
  /** These lose an address, in this turn of the loop: nothing more goes there. */
  lost(devices: Iterable<ExternalId>): void;
  /** These may have got one. */
  bound(devices: Iterable<ExternalId>): void;
}

/** What follows of accounting: the sessions, and where their addresses may be. */
export interface Accounting {
  readonly sessions: Sessions;
  readonly places: Places;
  /** What became of what NASes told. */
  readonly tally: FindingTally;
}

/** So many ranges are marked in one turn of the loop: some milliseconds. */
const AT_GATE = 1_024;

export class Bindings {
  readonly #ground: Ground;
  readonly #grants: Grants;
  readonly #forgetFlows: ForgetFlows;
  readonly #groups: GroupSets;
  readonly #accounting: Accounting;
  readonly #followers: Followers;
  readonly #around: Surroundings;
  readonly #batches: BindingBatches;

  constructor(
    ground: Ground,
    grants: Grants,
    forgetFlows: ForgetFlows,
    groups: GroupSets,
    accounting: Accounting,
    followers: Followers,
  ) {
    this.#ground = ground;
    this.#grants = grants;
    this.#forgetFlows = forgetFlows;
    this.#groups = groups;
    this.#accounting = accounting;
    this.#followers = followers;
    this.#batches = new BindingBatches((plans) => this.#carryOut(plans));
    const { directory } = ground;
    this.#around = {
      overlapping: (range) => directory.overlapping(range),
      deviceOf: (subscriber) => directory.deviceOf(subscriber),
      interfaceIdOf: (device) => directory.interfaceIdOf(device),
      ...accounting.places,
    };
  }

  /** Binds a device to an inner address. Resolves when all that rested on the former state has ended. */
  bind(device: ExternalId, { realm, address }: InnerAddress): Promise<DirectoryRefusal | undefined> {
    const { directory, clock } = this.#ground;
    const range = rangeOf(realm, address);
    const bound = () =>
      ({ ...range, holder: device, target: address, source: 'management', sinceMs: clock.nowMs() }) as const;
    return this.#unlessRefused(() => directory.planBind(bound()), range);
  }

  /** Takes an inner address from whoever holds it. */
  unbind(inner: InnerAddress): Promise<DirectoryRefusal | undefined> {
    return this.#unlessRefused(() => this.#ground.directory.planUnbind(inner));
  }

  /** Puts a newly read devices file in force. @throws AgentError devicesInvalid, with nothing changed */
  async replaceFile(listed: readonly ListedDevice[]): Promise<void> {
    const { directory, registry, clock, identities } = this.#ground;
    const sinceMs = clock.nowMs();
    for (const { device } of listed) if (device.msisdn) identities.remember({ phoneNumber: device.msisdn });
    const wanted = listed.flatMap(({ device, bindings }) =>
      bindings.map(
        ({ realm, address }): Binding => ({
          ...rangeOf(realm, address),
          holder: device.externalId,
          target: address,
          source: 'file',
          sinceMs,
        }),
      ),
    );
    await this.#batches.alone(async () => {
      await registry.replaceFile(listed.map(({ device }) => device));
      return { change: directory.planFile(await this.#gone(), wanted) };
    });
    await this.#followNames();
  }

  /** Does what follows where devices were registered otherwise than by the file: of those that are gone nothing is bound. */
  async followRegistry(): Promise<void> {
    await this.#batches.alone(async () => ({ change: this.#ground.directory.planGone(await this.#gone()) }));
    await this.#followNames();
  }

  /** Carries out what a NAS tells. */
  async account(told: AccountingEvent): Promise<Outcome> {
    const { clock, log, identities } = this.#ground;
    // From here on a subscriber is what stands for his names.
    const event = 'subscriber' in told ? { ...told, subscriber: identities.subscriber(told.subscriber) } : told;
    let plan: Plan | undefined;
    try {
      await this.#batches.do({
        concerns: 'session' in event ? concernsOf(event) : undefined,
        plan: () => {
          plan = this.#accounting.sessions.plan(event, clock.nowMs(), this.#around);
          return { ...planned(plan), confirms: plan.put.flatMap((session) => this.#heldBy(session)) };
        },
      });
    } catch (fault) {
      log.error({ nas: nasKey(event.nas), kind: event.kind, message: (fault as Error).message }, 'accountingFailed');
      return 'later';
    }
    const { finding, why } = plan as unknown as Plan;
    this.#accounting.tally.add(event.nas.client, finding, clock.nowMs());
    const session = 'session' in event ? { session: event.session } : {};
    const about = { nas: nasKey(event.nas), kind: event.kind, ...session, finding, ...(why !== undefined && { why }) };
    if (isAlarmed(finding)) log.warn(about, 'accountingAlarm');
    else log.debug(about, 'accounted');
    return isRefused(finding) ? 'refused' : 'done';
  }

  /** Ends what nothing was heard of since then (UTC ms). */
  endStale(heardBeforeMs: number): Promise<void> {
    return this.#batches.alone(() => planned(this.#accounting.sessions.planStale(heardBeforeMs, this.#around)));
  }

  /** What is registered has changed: sessions are whose they are by now, groups hold who is in them. */
  async #followNames(): Promise<void> {
    await this.#batches.alone(() => planned(this.#accounting.sessions.planReowned(this.#around)));
    await this.#groups.refill(); // attributes may have changed where bindings have not
  }

  /** The devices that hold an address and are registered no more. */
  async #gone(): Promise<ReadonlySet<ExternalId>> {
    const { directory } = this.#ground;
    const gone = new Set<ExternalId>();
    for await (const bindings of slicesOf(directory.bindings())) {
      for (const { holder } of bindings) {
        const device = deviceOf(holder);
        if (device && !directory.isKnown(device)) gone.add(device);
      }
    }
    return gone;
  }

  async #unlessRefused(plan: () => Change | DirectoryRefusal, confirms?: Range): Promise<DirectoryRefusal | undefined> {
    let refusal: DirectoryRefusal | undefined;
    await this.#batches.alone(() => {
      const change = plan();
      if ('refused' in change) refusal = change;
      return 'refused' in change ? { change: NO_CHANGE } : { change, ...(confirms && { confirms: [confirms] }) };
    });
    return refusal;
  }

  /** What a session vouches for. */
  #heldBy({ holder, ranges }: Session): Range[] {
    const { directory } = this.#ground;
    if (directory.unconfirmed === 0) return [];
    return ranges.flatMap((range) => directory.overlapping(range).filter((binding) => binding.holder === holder));
  }

  async #carryOut(plans: readonly Planned[]): Promise<void> {
    const { directory, dataplane, store, log, clock } = this.#ground;
    const change: Change = {
      losses: plans.flatMap((one) => one.change.losses),
      gains: plans.flatMap((one) => one.change.gains),
    };
    const sessions = plans.flatMap((one) => one.sessions ?? []);
    const told = sessions.filter(({ put, over, restarted }) => put.length > 0 || over.length > 0 || restarted);
    const ranges = [...new Map(touched(change).map((range) => [rangeKey(range), range])).values()];
    const confirmed = plans
      .flatMap(({ confirms = [] }) => confirms)
      .flatMap((range) => directory.overlapping(range))
      .filter((binding) => !directory.isConfirmed(binding));
    if (ranges.length === 0 && told.length === 0 && confirmed.length === 0) return;
    const record = async () => {
      const nowMs = clock.nowMs();
      await store.rebind(change, told, nowMs, confirmed);
      directory.confirm(confirmed);
      for (const one of told) this.#accounting.sessions.apply(one, nowMs);
    };
    const resume = async () => {
      await inSlices(confirmed, async (binding) => {
        const inner = innerOf(binding);
        if (inner) await this.#grants.held.resumeAt(inner);
      });
      const devices = confirmed.flatMap(({ holder }) => deviceOf(holder) ?? []);
      await this.#grants.waiting.bound(devices);
      if (devices.length > 0) this.#followers.bound(devices);
    };
    if (ranges.length === 0) {
      await record();
      return resume();
    }

    // A NAS that is switched off ends a hundred thousand: others are answered in between.
    const atGate = async (act: (realm: number, range: Range) => void) => {
      for await (const slice of slicesOf(ranges, AT_GATE))
        for (const range of slice) act(store.idOf('realm', range.realm), range);
    };
    const mark = (changing: boolean) => atGate((realm, { prefix }) => dataplane.setChanging(realm, prefix, changing));
    const bindAsHeld = () =>
      atGate((realm, range) => {
        const isHeld = directory.overlapping(range).some(({ prefix }) => prefix.text === range.prefix.text);
        if (isHeld) dataplane.bind(realm, range.prefix);
        else dataplane.unbind(realm, range.prefix);
      });
    directory.begin(change);
    this.#followers.lost(devicesIn(change));
    try {
      await mark(true);
      await atGate((realm, { prefix }) => dataplane.unbind(realm, prefix));
      await inSlices(change.losses, async ({ binding, cause }) => {
        const inner = innerOf(binding);
        if (inner) await this.#grants.endAt(inner, cause);
      });
      const lost = change.losses.map(({ binding }) => binding);
      await this.#groups.follow('delete', lost);
      await this.#forgetFlows(ranges.map(({ prefix }) => prefix));
      await this.#groups.follow('add', change.gains);
      await record();
      directory.apply(change);
      // Once more, for a base that was written anew meanwhile; most often it is so already.
      await this.#groups.follow('delete', lost);
      await this.#groups.follow('add', change.gains);
      await bindAsHeld();
    } catch (fault) {
      directory.cancel(change);
      await bindAsHeld();
      await this.#groups.refill();
      throw fault;
    } finally {
      await mark(false);
      // Before anybody is answered, so that it cannot pile up; whose binding failed to end is reached as before.
      await this.#grants.waiting.bound(devicesIn(change));
      this.#followers.bound(devicesIn(change));
    }
    await resume();
    for (const { binding, cause } of change.losses) log.info({ ...namesOf(binding), cause }, 'bindingEnded');
    for (const binding of change.gains) log.info({ ...namesOf(binding), source: binding.source }, 'bindingBegun');
  }
}

function planned(plan: Plan | undefined): Planned {
  return plan ? { change: plan.change, sessions: plan } : { change: NO_CHANGE };
}

/** The devices that a change is about. */
function devicesIn({ losses, gains }: Change): ExternalId[] {
  return [...losses.map(({ binding }) => binding), ...gains].flatMap(({ holder }) => deviceOf(holder) ?? []);
}

/** A binding in the log. */
function namesOf(binding: Binding): Record<string, string> {
  return { device: binding.holder, realm: binding.realm, address: addressText(binding) };
}
