/**
 * Grants of which the record still says more than they have: ended, or
 * lowered, and the store has not taken it yet. To end a grant the gate comes
 * first and the record second (design, law 2); in between, and for as long as
 * the disk is full, this is all that knows of the end.
 *
 * What is here is written with every sweep until the store has it. Nothing
 * leaves before.
 */

import { inSlices } from '../core/slices.ts';
import type { GrantId } from '../core/words.ts';
import type { Ground } from './ground.ts';
import type { EndCause } from './lifecycle.ts';
import type { EndedRecord, GrantRecord } from './record.ts';

export class Unrecorded {
  readonly #ground: Pick<Ground, 'store' | 'clock'>;
  readonly #byId = new Map<GrantId, GrantRecord>();

  constructor(ground: Pick<Ground, 'store' | 'clock'>) {
    this.#ground = ground;
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: GrantId): GrantRecord | undefined {
    return this.#byId.get(id);
  }

  /** The record of an end, which is kept until the store has it. */
  ended(record: GrantRecord, endCause: EndCause): EndedRecord {
    const ended: EndedRecord = { ...record, state: 'ended', endCause, endedAtMs: this.#ground.clock.nowMs() };
    this.#byId.set(record.id, ended);
    return ended;
  }

  /** The record says more than the gate: it comes down to `record`, now or with a later sweep. @throws AgentError storeFailed */
  async lower(record: GrantRecord): Promise<void> {
    try {
      await this.#ground.store.lower(record);
    } catch (fault) {
      if (!this.#byId.has(record.id)) this.#byId.set(record.id, record);
      throw fault;
    }
  }

  /** @throws AgentError storeFailed; it stays here then */
  async write(record: GrantRecord): Promise<void> {
    const { store } = this.#ground;
    await (hasEnded(record) ? store.end(record) : store.lower(record));
    // Lowered, and ended meanwhile: the end is still to be written.
    if (this.#byId.get(record.id) === record) this.#byId.delete(record.id);
  }

  /** Writes all; one that fails holds up no other. @throws AgentError storeFailed */
  writeAll(): Promise<void> {
    return inSlices([...this.#byId.values()], (record) => this.write(record));
  }
}

function hasEnded(record: GrantRecord): record is EndedRecord {
  return record.state === 'ended';
}
