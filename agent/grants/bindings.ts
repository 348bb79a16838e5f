/**
 * An inner address changes hands, in the order of design law 9: its device is
 * no longer heard (marked in the gate), the grants toward it end, it leaves
 * the groups of filters, its tracked flows are deleted, it enters the groups of
 * its new holder, who is recorded, and only then is anybody answered. One
 * change at a time.
 */
import type { Address } from '../core/net.ts';
import { type Device, type ExternalId, type InnerAddress, innerKey } from '../core/words.ts';
import type { ListedDevice } from '../directory/devices.ts';
import type { Binding, Change, DirectoryRefusal } from '../directory/directory.ts';
import { touched } from '../directory/directory.ts';
import type { Grants } from './grants.ts';
import type { Ground } from './ground.ts';
import { slicesOf } from './slices.ts';

/** Deletes addresses' entries from connection tracking, both directions. */
export type ForgetFlows = (addresses: readonly Address[]) => Promise<void>;

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

  /** Puts a newly read devices file in force. @throws AgentError devicesInvalid, with nothing changed */
  replaceFile(listed: readonly ListedDevice[]): Promise<void> {
    const { directory, registry, clock } = this.#ground;
    const devices = listed.map(({ device }) => device);
    const wanted = listed.flatMap(({ device, bindings }) =>
      bindings.map((inner): Binding => ({ device: device.externalId, inner, source: 'file', sinceMs: clock.nowMs() })),
    );
    return this.#inTurn(async () => {
      await registry.replaceFile(devices);
      await this.#carryOut(directory.planFile(await this.#gone(), wanted));
      await this.#groups.refill(); // attributes may have changed where bindings have not
    });
  }

  /** Does what follows where devices were registered otherwise than by the file: of those that are gone nothing is bound. */
  followRegistry(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#carryOut(this.#ground.directory.planGone(await this.#gone()));
      await this.#groups.refill();
    });
  }

  /** The devices that hold an address and are registered no more. */
  async #gone(): Promise<ReadonlySet<ExternalId>> {
    const { directory } = this.#ground;
    const gone = new Set<ExternalId>();
    for await (const bindings of slicesOf(directory.bindings()))
      for (const { device } of bindings) if (!directory.isKnown(device)) gone.add(device);
    return gone;
  }

  async #carryOut(change: Change | DirectoryRefusal): Promise<DirectoryRefusal | undefined> {
    if ('refused' in change) return change;
    const { directory, dataplane, store, log } = this.#ground;
    const inners = new Map(touched(change).map(({ inner }) => [innerKey(inner), inner]));
    const mark = (changing: boolean) => {
      for (const inner of inners.values())
        dataplane.setChanging(store.idOf('realm', inner.realm), inner.address, changing);
    };
    directory.begin(change);
    mark(true);
    try {
      for (const loss of change.losses) await this.#grants.endAt(loss.inner, loss.cause);
      await this.#groups.follow('delete', change.losses);
      await this.#forgetFlows([...inners.values()].map((inner) => inner.address));
      await this.#groups.follow('add', change.gains);
      await store.rebind(change);
      directory.apply(change);
      // Once more, for a base that was written anew meanwhile; most often it is so already.
      await this.#groups.follow('delete', change.losses);
      await this.#groups.follow('add', change.gains);
    } catch (fault) {
      directory.cancel(change);
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
