/**
 * Holds gateway and model together in as many random cases as are wanted. A
 * case in which they differ is made smaller first: what is not needed for a
 * difference is left out, and what is left is told.
 */
import fc from 'fast-check';
import { aCase, type Case } from './cases.ts';
import type { Gateway } from './gateway.ts';
import { Difference, live, nothingYet, SHORT_PATIENCE_MS, type Summary } from './trial.ts';

/** How long a case is made smaller. */
const SHRINKING_MS = 30_000;

/** Case by case, the same for the same seed. @throws Error that tells the smallest case that was found in which they differ */
export async function hold(
  gateway: Gateway,
  { seed, cases, progress = () => {} }: { seed: number; cases: number; progress?: (cases: number) => void },
  summary: Summary,
): Promise<void> {
  for (let done = 0; done < cases; done++) {
    const [one] = fc.sample(aCase, { seed: seed + done, numRuns: 1 });
    if (!one) throw new Error('no case was made');
    const difference = await differenceIn(gateway, one, summary);
    if (difference) throw new Error(await told(gateway, one, difference, seed + done));
    progress(done + 1);
  }
}

async function differenceIn(gateway: Gateway, one: Case, summary?: Summary): Promise<Difference | undefined> {
  try {
    if (summary) await live(gateway, one, summary);
    else await live(gateway, one, nothingYet(), SHORT_PATIENCE_MS);
    return undefined;
  } catch (fault) {
    if (fault instanceof Difference) return fault;
    throw fault;
  }
}

async function told(gateway: Gateway, failed: Case, first: Difference, seed: number): Promise<string> {
  const { one, difference } = await smaller(gateway, failed, first);
  return [
    difference.message,
    '',
    'the case, as small as it was made:',
    ...one.policies.map((filters, i) => `policy ${i}: ${JSON.stringify(filters)}`),
    ...one.grants.map((grant) => `grant ${JSON.stringify(grant)}`),
    ...one.actions.map((action) => `action ${JSON.stringify(action)}`),
    '',
    `again: seed ${seed}`,
  ].join('\n');
}

/** Leaves out what is not needed: first many at once, then one by one. */
async function smaller(gateway: Gateway, failed: Case, first: Difference) {
  const end = performance.now() + SHRINKING_MS;
  let one: Case = { ...failed, actions: failed.actions.slice(0, first.at + 1) };
  let difference = first;
  const attempt = async (smallerOne: Case) => {
    const found = performance.now() < end ? await differenceIn(gateway, smallerOne) : undefined;
    if (!found) return false;
    one = { ...smallerOne, actions: smallerOne.actions.slice(0, found.at + 1) };
    difference = found;
    return true;
  };
  for (let size = Math.ceil(one.actions.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2))
    for (let from = Math.max(0, one.actions.length - 1 - size); from >= 0; from -= size)
      await attempt({ ...one, actions: one.actions.toSpliced(from, size) });
  for (let i = one.grants.length - 1; i >= 0; i--) await attempt({ ...one, grants: one.grants.toSpliced(i, 1) });
  for (const [n] of one.policies.entries())
    for (let i = (one.policies[n]?.length ?? 0) - 1; i >= 0; i--)
      await attempt({
        ...one,
        policies: one.policies.map((filters, k) => (k === n ? filters.toSpliced(i, 1) : filters)),
      });
  return { one, difference };
}
