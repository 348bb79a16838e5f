/**
 * Which prefixes stand for which server, in the gate: made from the policy,
 * in turns, since a policy may have thousands. Where a policy changes, what no
 * longer counts leaves before grants are judged, and what is new enters last
 * (design, law 9).
 */
import { prefix } from '../core/net.ts';
import { breathe, slicesOf } from '../core/slices.ts';
import { type Policy, sourceClasses } from '../policy/policy.ts';
import type { Ground } from './ground.ts';

/** Of work that is long only in sum, so much at once. */
const HOLD_MOST_NS = 5_000_000n;

export class Sources {
  readonly #ground: Ground;

  constructor(ground: Ground) {
    this.#ground = ground;
  }

  /** Takes from the gate what a policy does not count as a source. */
  async withdraw(policy: Policy): Promise<void> {
    const { dataplane } = this.#ground;
    const breatheIfDue = this.#breathing();
    const wanted = await this.#classes(policy);
    for (const [text, classId] of dataplane.classes()) {
      await breatheIfDue();
      if (wanted.get(text) !== classId) dataplane.removeClass(prefix(text));
    }
  }

  /** Takes into the gate what a policy counts as a source. */
  async admit(policy: Policy): Promise<void> {
    const { dataplane } = this.#ground;
    const breatheIfDue = this.#breathing();
    const wanted = await this.#classes(policy);
    const present = dataplane.classes();
    for (const [text, classId] of wanted) {
      await breatheIfDue();
      if (!present.has(text)) dataplane.addClass(prefix(text), classId);
    }
  }

  async #classes(policy: Policy): Promise<Map<string, number>> {
    const { store } = this.#ground;
    const classes = new Map<string, number>();
    for await (const slice of slicesOf(sourceClasses(policy))) {
      // Those of servers that are new are written there.
      const ids = store.idsOf(
        'class',
        slice.map(({ server }) => server),
      );
      for (const [i, { prefix: source }] of slice.entries()) classes.set(source.text, ids[i] as number);
    }
    return classes;
  }

  /** Breathes where the loop has been held for some milliseconds. */
  #breathing(): () => Promise<void> | undefined {
    const { clock } = this.#ground;
    let sinceNs = clock.monotonicNs();
    return () => {
      if (clock.monotonicNs() - sinceNs < HOLD_MOST_NS) return undefined;
      return breathe().then(() => {
        sinceNs = clock.monotonicNs();
      });
    };
  }
}
