/**
 * Changes of bindings, one batch after the other.
 *
 * Accounting tells of hundreds a second, most of which have nothing to do with
 * each other: those are carried out together. Each is planned by what the
 * directory says before the batch, so a batch ends before the first that
 * concerns anything that the batch concerns already.
 */
import type { SessionEvent } from '../directory/accounting.ts';
import type { Change, Range } from '../directory/binding.ts';
import { claimsOf } from '../directory/claimed-ranges.ts';
import { touched } from '../directory/directory.ts';
import type { Plan } from '../directory/sessions.ts';
import { sessionKey } from '../directory/subscriber.ts';

/** What is to be done, and for whom. */
interface Job {
  /** What it concerns. Undefined: it may be anything, so it is done alone. */
  readonly concerns: readonly string[] | undefined;
  readonly plan: () => Planned | Promise<Planned>;
  readonly done: () => void;
  readonly failed: (fault: unknown) => void;
}

export interface Planned {
  readonly change: Change;
  readonly sessions?: Plan;
  /** Ranges of which somebody says that they are held as they are. */
  readonly confirms?: readonly Range[];
}

/** So many at once: one commit that nobody minds. */
const BATCH_MOST = 256;

export class BindingBatches {
  readonly #carryOut: (plans: readonly Planned[]) => Promise<void>;
  readonly #waiting: Job[] = [];
  #isWorking = false;

  constructor(carryOut: (plans: readonly Planned[]) => Promise<void>) {
    this.#carryOut = carryOut;
  }

  /** What may concern anything. */
  alone(plan: Job['plan']): Promise<void> {
    return this.do({ concerns: undefined, plan });
  }

  do(job: Pick<Job, 'concerns' | 'plan'>): Promise<void> {
    const waits = new Promise<void>((done, failed) => this.#waiting.push({ ...job, done, failed }));
    if (!this.#isWorking) void this.#work();
    return waits;
  }

  async #work(): Promise<void> {
    this.#isWorking = true;
    for (let first = this.#waiting[0]; first; first = this.#waiting[0]) {
      const batch: (Job & { readonly planned: Planned })[] = [];
      const concerned = new Set<string>();
      for (let job: Job | undefined = first; job && batch.length < BATCH_MOST; job = this.#waiting[0]) {
        if (batch.length > 0 && (!job.concerns || job.concerns.some((name) => concerned.has(name)))) break;
        try {
          const found = await job.plan();
          const names = [...(job.concerns ?? []), ...namesIn(found)];
          if (batch.length > 0 && names.some((name) => concerned.has(name))) break;
          for (const name of names) concerned.add(name);
          batch.push({ ...job, planned: found });
        } catch (fault) {
          job.failed(fault);
        }
        this.#waiting.shift();
        if (!job.concerns) break;
      }
      try {
        await this.#carryOut(batch.map(({ planned: one }) => one));
        for (const { done } of batch) done();
      } catch (fault) {
        for (const { failed } of batch) failed(fault);
      }
    }
    this.#isWorking = false;
  }
}

/** What a plan takes or gives, and the sessions and holders that it is about. */
function namesIn({ change, sessions }: Planned): string[] {
  const over = sessions?.over.map(({ nas, id }) => sessionKey(nas, id)) ?? [];
  const put = sessions?.put.flatMap(({ nas, id, holder }) => [sessionKey(nas, id), holder]) ?? [];
  return [...touched(change).map(nameOfRange), ...over, ...put];
}

/** Ranges that share an address have one name, whatever their realm; but for prefixes shorter than 64 bits, which have their own. */
function nameOfRange({ prefix }: Pick<Range, 'prefix'>): string {
  const { family, length, address, text } = prefix;
  if (family === 'ipv4') return address.text;
  return length < 64 ? text : Buffer.from(address.bytes.subarray(0, 8)).toString('hex');
}

/** What an event is about; nothing is known of what is in a prefix shorter than 64 bits. */
export function concernsOf(event: SessionEvent) {
  const claims = claimsOf(event);
  if (claims.some(({ prefix: { family, length } }) => family === 'ipv6' && length < 64)) return undefined;
  return [sessionKey(event.nas, event.session), ...claims.map(nameOfRange)];
}
