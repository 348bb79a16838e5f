/**
 * The one place through which what an MTC user says comes into force, as
 * PolicySwitch is for rule files.
 *
 * Invariants:
 * - A change is on disk before it is in force, and in force in the same turn:
 *   what it takes is closed in the gate then, before anybody is answered.
 * - Changes of one MTC user come one after the other; of others none waits.
 * - It is laid over whichever policy is in force at that moment.
 */
import { OneAtATimeByKey } from '../core/one-at-a-time.ts';
import type { Log } from '../core/ports.ts';
import type { MtcUserName } from '../core/words.ts';
import type { Grants } from '../grants/grants.ts';
import type { Concerned } from '../grants/policy-changes.ts';
import type { MtcUser, Policy } from '../policy/policy.ts';
import { type Author, type Change, changed, type Desk, deskOf, type UserDesk } from './desk.ts';
import { type Digest, layDesk, withoutDesk } from './laid-policy.ts';

export interface DeskParts {
  readonly store: { readonly desk: Desk; write(user: MtcUserName, change: Change): void };
  readonly digest: Digest;
  readonly log: Log;
}

/** What an MTC user has said by now, and what it may; asked in the turn in which a change is made. */
export interface Standing {
  readonly own: UserDesk;
  readonly user: MtcUser;
  /** That of the rule files. */
  readonly policy: Policy;
}

/** A change, and whom alone it concerns, where that is known. */
export interface Made {
  readonly change: Change;
  readonly only?: Concerned;
}

export class DeskSwitch {
  readonly #parts: DeskParts;
  readonly #changes = new OneAtATimeByKey<MtcUserName>();
  #grants: Grants | undefined;

  constructor(parts: DeskParts) {
    this.#parts = parts;
  }

  /** What is in force from now on changes with the desk. */
  enforceOn(grants: Grants): void {
    this.#grants = grants;
  }

  /** A policy of rule files with the desk over it, as it is now. */
  lay(policy: Policy): Policy {
    return layDesk(policy, this.#parts.store.desk, this.#parts.digest);
  }

  /** What an MTC user of the rule files has said; undefined where there is none of that name. */
  standing(name: MtcUserName): Standing | undefined {
    const policy = this.#policy();
    const user = policy.mtcUsers.get(name);
    return user && { own: deskOf(this.#parts.store.desk, name), user, policy };
  }

  /**
   * Makes a change and puts it in force, or returns why there is none. Resolves
   * when what it ended is on record. @throws AgentError deskFailed: nothing has
   * changed; storeFailed: it is in force, and what it ended not on record yet
   */
  change<No extends object>(
    name: MtcUserName,
    by: Author,
    make: (standing: Standing) => Made | No | undefined,
  ): Promise<Made | No | undefined> {
    return this.#changes.inTurn(name, () => this.#change(name, by, make));
  }

  async #change<No extends object>(
    name: MtcUserName,
    by: Author,
    make: (standing: Standing) => Made | No | undefined,
  ): Promise<Made | No | undefined> {
    const { store, digest, log } = this.#parts;
    const grants = this.#grants as Grants;
    const first = this.#make(name, make);
    if (!first || !('change' in first)) return first;
    if (first.change.kind === 'prefer' && first.change.preference.grantsPerDay) {
      const wanted = changed(store.desk, name, first.change);
      await grants.countBegun(layDesk(this.#policy(), wanted, digest), name);
    }
    const made = this.#make(name, make); // the rule files may have changed meanwhile
    if (!made || !('change' in made)) return made;
    store.write(name, made.change);
    log.info({ mtcUser: name, ...by, ...factsOf(made) }, 'deskChanged');
    await grants.heed(name, this.lay(this.#policy()), made.only);
    return made;
  }

  #make<No extends object>(
    name: MtcUserName,
    make: (standing: Standing) => Made | No | undefined,
  ): Made | No | undefined {
    const standing = this.standing(name);
    return standing && make(standing);
  }

  #policy(): Policy {
    return withoutDesk((this.#grants as Grants).policy);
  }
}

function factsOf({ change }: Made): object {
  switch (change.kind) {
    case 'authorise':
      return { what: change.authorised ? 'serversSet' : 'serversCleared', servers: change.authorised?.servers };
    case 'prefer': {
      const { id, devices } = change.preference;
      return { what: 'preferenceSet', preference: id, devices: devices.text };
    }
    case 'drop':
      return { what: 'preferenceDropped', preference: change.id };
  }
}
