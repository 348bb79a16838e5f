/**
 * Grants whose binding is to be confirmed: held, which is closed in the gate
 * and recorded so, until the binding is confirmed; then they go on, to the end
 * that they had (design, law 1). What nobody confirms ends at that end.
 */
import { inSlices, slicesOf } from '../core/slices.ts';
import type { InnerAddress } from '../core/words.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import type { Judge } from './judge.ts';
import type { EndCause } from './lifecycle.ts';
import type { LiveGrants } from './live.ts';
import { type GrantRecord, namesOf } from './record.ts';

/** Grants as they are, and what ends and opens them (grants.ts). */
interface Granted {
  readonly live: LiveGrants;
  readonly judge: Judge;
  unlessOver(record: GrantRecord | undefined): GrantRecord | undefined;
  end(of: Pick<GrantRecord, 'id'>, cause: EndCause): Promise<void>;
  reopen(record: GrantRecord): void;
}

export class Held {
  readonly #ground: Ground;
  readonly #grants: Granted;

  constructor(ground: Ground, grants: Granted) {
    this.#ground = ground;
    this.#grants = grants;
  }

  /**
   * Holds every grant that leads to an address which is to be confirmed; all
   * are on record when it resolves (design, law 1).
   */
  async hold(): Promise<void> {
    const { dataplane, clock, directory, store, log } = this.#ground;
    for await (const records of slicesOf(this.#grants.live.all())) {
      // Written in the turn in which it is closed: what confirms it may be written next.
      await inSlices(records, async (record) => {
        const holder = directory.holderOf(record.inner);
        if (record.state === 'held' || (holder && directory.isConfirmed(holder))) return;
        dataplane.end(record.index, record.number, clock.monotonicNs() - CLOCK_LAG_NS);
        const held: GrantRecord = { ...record, state: 'held' };
        this.#grants.live.put(held);
        await store.hold(held);
      });
    }
    if (this.#grants.live.held > 0) log.warn({ grants: this.#grants.live.held }, 'grantsHeld');
  }

  /** Of an address that is confirmed: what was held goes on, to the end that it had. */
  async resumeAt(inner: InnerAddress): Promise<void> {
    const held = this.#grants.live.atInner(inner).filter(({ state }) => state === 'held');
    await inSlices(held, (record) => this.#resume(record));
  }

  async #resume({ id }: GrantRecord): Promise<void> {
    const { store, log } = this.#ground;
    const held = this.#grants.unlessOver(this.#grants.live.get(id));
    if (!held) return;
    const before = this.#grants.judge.standing(held);
    if (before.objection) return this.#grants.end(held, before.objection);
    if (!(await store.resume({ ...before.record, state: 'live' }))) return; // whoever ended it writes its end

    // The commit took its time: look again, and open in this same turn.
    const now = this.#grants.unlessOver(this.#grants.live.get(id));
    if (now?.state !== 'held') return;
    const { directory } = this.#ground;
    const holder = directory.holderOf(now.inner);
    const { objection, record } = this.#grants.judge.standing(now);
    const cause = objection ?? (holder && directory.isConfirmed(holder) ? undefined : 'bindingUnconfirmed');
    if (cause) return this.#grants.end(now, cause);
    const resumed: GrantRecord = { ...record, state: 'live' };
    this.#grants.reopen(resumed);
    log.info({ ...namesOf(resumed), until: resumed.expiresAtMs }, 'grantResumed');
  }
}
