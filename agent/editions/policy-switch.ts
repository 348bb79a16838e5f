/**
 * The one place through which a policy comes into force: apply, confirm,
 * rollback, and going back.
 *
 * Invariants:
 * - One switch at a time; while one is under way, or an edition is on trial,
 *   another is refused, not queued.
 * - What was shown is what is applied: an apply names the text (its digest)
 *   and the edition that it was compared with.
 * - An edition is on disk before it is in force. To go back it is the other
 *   way round: first the policy, then the record; what a crash leaves between
 *   the two is an unconfirmed trial, from which the next start goes back too.
 * - A switch that fails in the middle is gone back from. Going back that fails
 *   is tried again until it does not, and told each time.
 */
import type { Log } from '../core/ports.ts';
import { changesBetween, inWords, type PolicyChange } from '../policy/changes.ts';
import type { Policy } from '../policy/policy.ts';
import { beginningOf, type Sources } from './beginning.ts';
import {
  AGENT,
  bounded,
  type Edition,
  type EditionHead,
  factsOf,
  type InForce,
  type Made,
  newEdition,
  START,
  type Texts,
  type Who,
} from './edition.ts';

export interface SwitchParts extends Sources {
  readonly log: Log;
}

/** What could be put in force, compiled and tested, and against which edition it was compared. */
export interface Proposal extends Texts {
  readonly policy: Policy;
  readonly warnings: readonly string[];
  readonly inForce: number;
  readonly changes: readonly PolicyChange[];
  /** The edition whose text it is; absent: the folder's. */
  readonly of?: number;
}

/** What an apply or rollback names of what was shown. */
export interface Asked {
  readonly digest: string;
  readonly inForce: number;
  /** An edition to go back to; absent: the folder. */
  readonly of?: number | undefined;
  readonly confirmSeconds?: number | undefined;
  readonly comment?: string | undefined;
}

export interface NotDone {
  readonly refused: 'applyUnderWay' | 'changedMeanwhile' | 'nothingToConfirm' | 'editionUnknown' | 'sameAsInForce';
  readonly why: string;
}

/** How long after a return that failed the next is tried. */
const RETRY_NS = 5_000_000_000n;

export class PolicySwitch {
  readonly #parts: SwitchParts;
  /** At a start there is nothing yet that has another policy. */
  #enforce: (policy: Policy) => Promise<void> = async () => {};
  #inForce: InForce;
  /** In force until then (CLOCK_BOOTTIME), unless it is confirmed. */
  #trial: { readonly before: InForce; readonly endNs: bigint } | undefined;
  /** To what must be gone back, and why; when that is tried next. */
  #due: { readonly to: InForce; readonly why: string; nextNs: bigint } | undefined;
  /** In force, and not on disk yet. */
  #unwritten: Edition | undefined;
  #isBusy = false;

  private constructor(parts: SwitchParts, inForce: InForce) {
    this.#parts = parts;
    this.#inForce = inForce;
  }

  /** As a start begins (beginning.ts). @throws AgentError rulesInvalid, editionUnfit, editionsInvalid */
  static async begin(parts: SwitchParts): Promise<PolicySwitch> {
    const { inForce, isNew, left } = await beginningOf(parts);
    const begun = new PolicySwitch(parts, inForce);
    if (isNew) {
      parts.log.info(factsOf(inForce.edition), 'policyApplied');
      begun.#unwritten = inForce.edition; // until the agent serves: a first start that fails leaves no edition
      return begun;
    }
    if (left !== undefined) begun.#record(left, `edition ${left} was not confirmed before the agent ended`);
    if (parts.autoApply)
      await begun.autoApply().catch((fault: Error) => parts.log.error({ message: fault.message }, 'autoApplyFailed'));
    return begun;
  }

  /** How a policy is put in force from now on: sources, grants, base. */
  enforceBy(enforce: (policy: Policy) => Promise<void>): void {
    this.#enforce = enforce;
  }

  get inForce(): { readonly edition: EditionHead; readonly policy: Policy } {
    return this.#inForce;
  }

  /** How long the edition in force is on trial still; 0 where going back is due. */
  get secondsLeft(): number | undefined {
    if (this.#due) return 0;
    if (!this.#trial) return undefined;
    return Math.max(0, Number(this.#trial.endNs - this.#parts.clock.boottimeNs()) / 1e9);
  }

  /** The folder, or an edition (by its number, or the one before), compiled, tested and compared; changes nothing. */
  async propose(of?: number | 'before'): Promise<Proposal | NotDone> {
    const number = of === 'before' ? this.#before() : of;
    const texts = number === undefined ? this.#parts.readFolder() : this.#editionTexts(number);
    if ('refused' in texts) return texts;
    const { edition: compared, policy: before } = this.#inForce;
    const { policy, warnings } = await this.#parts.compile(texts.files, number);
    const { files, digest } = texts;
    const changes = changesBetween(before, policy);
    return {
      files,
      digest,
      policy,
      warnings,
      inForce: compared.number,
      changes,
      ...(number !== undefined && { of: number }),
    };
  }

  /** Puts in force what was shown. @throws AgentError where it cannot be; what was in force is then, or is gone back to */
  apply(asked: Asked, by: Who): Promise<EditionHead | NotDone> {
    return this.#alone(async (): Promise<EditionHead | NotDone> => {
      const { number } = this.#inForce.edition;
      if (this.#trial && asked.of === number - 1 && asked.confirmSeconds === undefined) {
        if (asked.inForce !== number) return changedMeanwhile();
        return this.#goBackNow(`edition ${number} was given up before its time`, by);
      }
      const trial = this.#onTrial();
      if (trial) return trial;
      const proposal = await this.propose(asked.of);
      if ('refused' in proposal) return proposal;
      if (proposal.digest !== asked.digest || proposal.inForce !== asked.inForce) return changedMeanwhile();
      if (proposal.digest === this.#inForce.edition.digest) {
        return { refused: 'sameAsInForce', why: `edition ${number}, which is in force, says the same` };
      }
      return this.#putInForce(proposal, {
        ...{ how: asked.of === undefined ? 'apply' : 'rollback', by },
        ...asked,
      });
    });
  }

  /**
   * The folder, where it says something new: not what is in force, nor what
   * was gone back from. Undefined where there is nothing to do.
   */
  autoApply(): Promise<EditionHead | NotDone | undefined> {
    return this.#alone(async () => {
      const { edition: now } = this.#inForce;
      const { digest } = this.#parts.readFolder();
      const left = now.how === 'wentBack' || now.how === 'rollback' ? this.#editionTexts(now.number - 1) : undefined;
      if (digest === now.digest || (left && 'digest' in left && left.digest === digest)) return undefined;
      const trial = this.#onTrial();
      if (trial) return trial;
      const proposal = await this.propose();
      if ('refused' in proposal) return proposal;
      return this.#putInForce(proposal, { how: 'autoApply', by: AGENT });
    });
  }

  /** The edition on trial stays. @throws AgentError editionsFailed; then it goes back in its time */
  confirm(by: Who): Promise<EditionHead | NotDone> {
    return this.#alone(async (): Promise<EditionHead | NotDone> => {
      const { store, clock, log } = this.#parts;
      const { edition: now, policy } = this.#inForce;
      if (!this.#trial || this.#due)
        return { refused: 'nothingToConfirm', why: `edition ${now.number} is not on trial (mtgate history)` };
      if (clock.boottimeNs() >= this.#trial.endNs)
        return { refused: 'nothingToConfirm', why: `the time of edition ${now.number} is over: it goes back` };
      const atMs = clock.nowMs();
      store.confirm(now.number, atMs, by);
      const confirmed = { ...now, confirmed: { atMs, by } };
      this.#inForce = { edition: confirmed, policy };
      this.#trial = undefined;
      log.info({ edition: now.number, policy: now.version, by: by.name, byUid: by.uid }, 'policyConfirmed');
      return confirmed;
    });
  }

  /** The newest first. */
  history(limit: number): EditionHead[] {
    return this.#parts.store.history(limit);
  }

  edition(number: number): Edition | undefined {
    return this.#parts.store.edition(number);
  }

  /** To be called every second: a trial whose time is over, a return that is due, a record that is not written. */
  async keep(): Promise<void> {
    if (this.#isBusy) return;
    const { clock } = this.#parts;
    if (this.#trial && !this.#due && clock.boottimeNs() >= this.#trial.endNs) {
      const { number } = this.#inForce.edition;
      this.#goingBack(this.#trial.before, `edition ${number} was not confirmed in time`);
    }
    if (this.#due && clock.boottimeNs() >= this.#due.nextNs) await this.#alone(() => this.#goBack(AGENT));
    else if (this.#unwritten && !this.#due) this.#write();
  }

  /**
   * The edition to roll back to if none is named: what a trial would go back
   * to; else what was in force before this text was. What was gone back from is
   * not that.
   */
  #before(): number {
    let at: EditionHead | undefined = this.#inForce.edition;
    if (this.#trial) return at.number - 1;
    while (at?.of !== undefined && at.of < at.number) {
      const again = this.#parts.store.edition(at.of);
      if (!again) return at.of;
      at = again;
    }
    return at.number - 1;
  }

  #onTrial(): NotDone | undefined {
    const { number } = this.#inForce.edition;
    if (this.#due) return { refused: 'applyUnderWay', why: `edition ${number} is being gone back from` };
    if (!this.#trial) return undefined;
    const left = `${Math.ceil(this.secondsLeft ?? 0)} s`;
    const why = `edition ${number} is on trial for another ${left}: mtgate confirm, or mtgate rollback`;
    return { refused: 'applyUnderWay', why };
  }

  async #alone<Answer>(act: () => Promise<Answer>): Promise<Answer | NotDone> {
    if (this.#isBusy) return { refused: 'applyUnderWay', why: 'another policy is just being put in force' };
    this.#isBusy = true;
    try {
      return await act();
    } finally {
      this.#isBusy = false;
    }
  }

  #editionTexts(number: number): Texts | NotDone {
    const found = this.#parts.store.edition(number);
    if (found) return found;
    if (number < 1) return { refused: 'editionUnknown', why: `nothing came before edition ${number + 1}` };
    return { refused: 'editionUnknown', why: `no edition ${number}: the last hundred are kept (mtgate history)` };
  }

  async #putInForce(
    { files, digest, policy, changes }: Proposal,
    how: Pick<Made, 'how' | 'by' | 'of' | 'comment' | 'confirmSeconds'>,
  ): Promise<EditionHead> {
    const { store, clock, log } = this.#parts;
    if (this.#unwritten) store.add(this.#unwritten);
    this.#unwritten = undefined;
    const before = this.#inForce;
    const { confirmSeconds } = how;
    const endNs = clock.boottimeNs() + BigInt(confirmSeconds ?? 0) * 1_000_000_000n;
    const changed = changes.length > 0 ? bounded(changes.map(inWords)) : ['nothing in meaning'];
    const next = newEdition(before.edition.number + 1, { files, digest }, policy, { ...how, changed }, clock);
    store.add(next);
    this.#inForce = { edition: next, policy };
    try {
      await this.#enforce(policy);
    } catch (fault) {
      this.#goingBack(before, `edition ${next.number} could not be put in force: ${(fault as Error).message}`);
      await this.#goBack(AGENT);
      throw fault;
    }
    if (confirmSeconds !== undefined) this.#trial = { before, endNs };
    log.info({ ...factsOf(next), ...(confirmSeconds !== undefined && { confirmSeconds }) }, 'policyApplied');
    return next;
  }

  #goingBack(to: InForce, why: string): void {
    this.#due = { to, why, nextNs: this.#parts.clock.boottimeNs() };
  }

  async #goBackNow(why: string, by: Who): Promise<EditionHead | NotDone> {
    if (this.#trial && !this.#due) this.#goingBack(this.#trial.before, why);
    const fault = await this.#goBack(by);
    if (fault) throw fault;
    return this.#inForce.edition;
  }

  /** Puts the policy of before in force again; returns what kept it from that. */
  async #goBack(by: Who): Promise<Error | undefined> {
    const { clock, log } = this.#parts;
    if (!this.#due) return undefined;
    const { to, why } = this.#due;
    const { number } = this.#inForce.edition;
    try {
      await this.#enforce(to.policy);
    } catch (fault) {
      this.#due.nextNs = clock.boottimeNs() + RETRY_NS;
      log.error({ edition: number, backTo: to.edition.number, why, message: (fault as Error).message }, 'notGoneBack');
      return fault as Error;
    }
    this.#inForce = to;
    this.#due = undefined;
    this.#trial = undefined;
    this.#record(number, why, by);
    return undefined;
  }

  /** What is in force again gets an edition of its own. Where it cannot be written now, it is later. */
  #record(left: number, why: string, by: Who = START): void {
    const { clock, log } = this.#parts;
    const { edition: again, policy } = this.#inForce;
    const of = again.number;
    const how = { how: 'wentBack', by, of, comment: why, changed: [`as edition ${of}`] } as const;
    const next = newEdition(left + 1, again, policy, how, clock);
    this.#inForce = { edition: next, policy };
    this.#unwritten = next;
    log.error({ ...factsOf(next), left, asEdition: again.number }, 'policyWentBack');
    this.#write();
  }

  #write(): void {
    if (!this.#unwritten) return;
    const { store, log } = this.#parts;
    const { number } = this.#unwritten;
    try {
      store.add(this.#unwritten);
      this.#unwritten = undefined;
    } catch (fault) {
      log.error({ edition: number, message: (fault as Error).message }, 'editionNotWritten');
    }
  }
}

function changedMeanwhile(): NotDone {
  const why = 'the rule files, or the policy in force, are not those that were shown: look at mtgate diff again';
  return { refused: 'changedMeanwhile', why };
}
