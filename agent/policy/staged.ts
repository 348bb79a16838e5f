/**
 * What is staged: rules that are judged and not enforced. A policy with such
 * carries itself a second time, as if all of it were enforced; what would have
 * been is what that one decides, where it decides otherwise.
 */
import { type Decision, decide } from './decide.ts';
import type { Policy } from './policy.ts';
import type { Question } from './question.ts';

/** Another verdict, or (`otherwise`) the same one in other terms or for another reason. */
export type Would = 'allow' | 'refuse' | 'otherwise';

export interface WouldHave {
  readonly would: Would;
  readonly decision: Decision;
}

/** Undefined where nothing is staged, or it makes no difference. */
export function wouldHave({ staged }: Policy, question: Question, decided: Decision): WouldHave | undefined {
  if (!staged) return undefined;
  const decision = decide(staged, question);
  if (decision.verdict !== decided.verdict) return { would: decision.verdict, decision };
  return termsOf(decision) === termsOf(decided) ? undefined : { would: 'otherwise', decision };
}

function termsOf(decision: Decision): string {
  if (decision.verdict === 'refuse') return JSON.stringify([decision.reason, decision.rule]);
  const { rule, durationSeconds, totalSeconds, closesAtMs, packetsPerSecond, bytes } = decision;
  return JSON.stringify([rule, durationSeconds, totalSeconds, closesAtMs, packetsPerSecond, bytes]);
}
