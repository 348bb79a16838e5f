/**
 * What a start begins with: the edition in force, or the one before it where
 * that was on trial; the folder where there is no edition yet, or (with
 * autoApply) where the edition does not compile any more.
 */
import { AgentError } from '../core/errors.ts';
import type { Clock } from '../core/ports.ts';
import type { Policy } from '../policy/policy.ts';
import type { RuleFile } from '../policy/rules.ts';
import { type Edition, type InForce, isOnTrial, newEdition, START, type Texts } from './edition.ts';
import type { EditionStore } from './edition-store.ts';

/** A policy that its tests allow, and what is doubtful in its files: a line each, with its place. */
export interface Checked {
  readonly policy: Policy;
  readonly warnings: readonly string[];
}

export interface Sources {
  readonly store: EditionStore;
  /** The folder as it is now. @throws AgentError rulesInvalid */
  readonly readFolder: () => Texts;
  /** `edition`: whose files they are; without, those of the folder. @throws AgentError rulesInvalid, also where a policy test fails */
  readonly compile: (files: readonly RuleFile[], edition?: number) => Promise<Checked>;
  /** The folder is put in force at start and reload, without an apply. */
  readonly autoApply: boolean;
  readonly clock: Clock;
}

export interface Beginning {
  readonly inForce: InForce;
  /** It is made of the folder, and not on disk yet. */
  readonly isNew: boolean;
  /** The edition that was on trial when the agent ended: it is gone back from. */
  readonly left?: number;
}

/** @throws AgentError rulesInvalid, editionUnfit, editionsInvalid */
export async function beginningOf(sources: Sources): Promise<Beginning> {
  const { store, compile, autoApply } = sources;
  const last = store.last();
  if (!last) return ofFolder(sources, 1, 'start', 'the first edition');
  const { number } = last;
  const onTrial = isOnTrial(last);
  const kept = onTrial ? store.edition(number - 1) : last;
  if (!kept) throw new AgentError('editionsInvalid', `edition ${number - 1}, to go back to, is not there`);
  try {
    const { policy } = await compile(kept.files, kept.number);
    return { inForce: { edition: kept, policy }, isNew: false, ...(onTrial && { left: number }) };
  } catch (fault) {
    if (!autoApply) throw unfit(kept, fault as AgentError);
    const why = `edition ${kept.number} does not fit agent.yaml any more`;
    return ofFolder(sources, number + 1, 'autoApply', why).catch(() => {
      throw unfit(kept, fault as AgentError);
    });
  }
}

async function ofFolder(
  { readFolder, compile, clock }: Sources,
  number: number,
  how: 'start' | 'autoApply',
  why: string,
): Promise<Beginning> {
  const texts = readFolder();
  const { policy } = await compile(texts.files);
  const edition = newEdition(number, texts, policy, { how, by: START, changed: [why] }, clock);
  return { inForce: { edition, policy }, isNew: true };
}

function unfit({ number }: Edition, cause: AgentError): AgentError {
  const message = `edition ${number}, which is in force, does not fit agent.yaml (or this mtgate):\n${cause.message}`;
  return new AgentError('editionUnfit', message, { cause: cause.cause });
}
