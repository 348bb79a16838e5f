/**
 * An inner address changes hands, in the order of design law 9: its device is
 * no longer heard (marked in the gate, and bound there no more), the grants
 * toward it end, it leaves the groups of filters, its tracked flows are
 * deleted, it enters the groups of its new holder, who is recorded, then bound
 * in the gate, and only then is anybody answered. One change at a time.
 */
import { hostPrefix, type Prefix } from '../core/net.ts';
import { type Device, type InnerAddress, innerKey } from '../core/words.ts';
import type { ListedDevice } from '../directory/devices.ts';
import type { Binding, Change, DirectoryRefusal } from '../directory/directory.ts';
import { touched } from '../directory/directory.ts';
import type { Grants } from './grants.ts';
import type { Ground } from './ground.ts';

/** Deletes the entries of addresses in these prefixes from connection tracking, both directions. */
export type ForgetFlows = (prefixes: readonly Prefix[]) => Promise<void>;

/** The sets in which the base has the addresses of device groups. */
export interface GroupSets {
  follow(verb: 'add' | 'delete', bound: readonly Pick<Binding, 'device' | 'inner'>[]): Promise<void>;
  /** Fills them by the directory as it is. */
  refill(): Promise<void>;
}

export class Bindings {
  readonly #ground: Ground;
  readonly #grants: Grants;
  readonly #forgetFlows: ForgetFlows;
  readonly #groups: GroupSets;
  /** The change under way; the next one waits for it. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(ground: Ground, grants: Grants, forgetFlows: ForgetFlows, groups: GroupSets) {
    this.#ground = ground;
    this.#grants = grants;
    this.#forgetFlows = forgetFlows;
    this.#groups = groups;
  }

  /** Binds a device to an inner address. Resolves when all that rested on the former state has ended. */
  bind(device: Device['externalId'], inner: InnerAddress): Promise<DirectoryRefusal | undefined> {
    const { directory, clock } = this.#ground;
    return this.#inTurn(() =>
      this.#carryOut(directory.planBind({ device, inner, source: 'management', sinceMs: clock.nowMs() })),
    );
  }

  /** Takes an inner address from whoever holds it. */
  unbind(inner: InnerAddress): Promise<DirectoryRefusal | undefined> {
    return this.#inTurn(() => this.#carryOut(this.#ground.directory.planUnbind(inner)));
  }

  /** Puts a newly read devices file in force. */
  replaceFile(listed: readonly ListedDevice[]): Promise<void> {
    const { directory, clock } = this.#ground;
    const devices = listed.map(({ device }) => device);
    const wanted = listed.flatMap(({ device, bindings }) =>
      bindings.map((inner): Binding => ({ device: device.externalId, inner, source: 'file', sinceMs: clock.nowMs() })),
    );
    return this.#inTurn(async () => {
      await this.#carryOut(directory.planFile(devices, wanted));
      directory.setDevices(devices);
      await this.#groups.refill(); // attributes may have changed where bindings have not
    });
  }

  async #carryOut(change: Change | DirectoryRefusal): Promise<DirectoryRefusal | undefined> {
    if ('refused' in change) return change;
    const { directory, dataplane, store, log } = this.#ground;
    const inners = new Map(touched(change).map(({ inner }) => [innerKey(inner), inner]));
    const atGate = (act: (realm: number, prefix: Prefix, inner: InnerAddress) => void) => {
      for (const inner of inners.values()) act(store.idOf('realm', inner.realm), hostPrefix(inner.address), inner);
    };
    const mark = (changing: boolean) => atGate((realm, prefix) => dataplane.setChanging(realm, prefix, changing));
    const bindAsHeld = () =>
      atGate((realm, prefix, inner) =>
        directory.holderOf(inner) ? dataplane.bind(realm, prefix) : dataplane.unbind(realm, prefix),
      );
    directory.begin(change);
    mark(true);
    try {
      atGate((realm, prefix) => dataplane.unbind(realm, prefix));
      for (const loss of change.losses) await this.#grants.endAt(loss.inner, loss.cause);
      await this.#groups.follow('delete', change.losses);
      await this.#forgetFlows([...inners.values()].map((inner) => hostPrefix(inner.address)));
      await this.#groups.follow('add', change.gains);
      await store.rebind(change);
      directory.apply(change);
      // Once more, for a base that was written anew meanwhile; most often it is so already.
      await this.#groups.follow('delete', change.losses);
      await this.#groups.follow('add', change.gains);
      bindAsHeld();
    } catch (fault) {
      directory.cancel(change);
      bindAsHeld();
      await this.#groups.refill();
      throw fault;
    } finally {
      mark(false);
    }
    for (const { device, inner, cause } of change.losses)
      log.info({ device, realm: inner.realm, address: inner.address.text, cause }, 'bindingEnded');
    for (const { device, inner, source } of change.gains)
      log.info({ device, realm: inner.realm, address: inner.address.text, source }, 'bindingBegun');
    return undefined;
  }

  #inTurn<Result>(change: () => Promise<Result>): Promise<Result> {
    const result = this.#turn.then(change);
    this.#turn = result.catch(() => {}); // its caller has the fault; the next change goes on
    return result;
  }
}
