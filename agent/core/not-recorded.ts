/** What cannot be recorded is refused, and may be asked for again: the disk, and no defect, is why. */
import { AgentError } from './errors.ts';
import type { Refusal, Refuse } from './refusals.ts';

/** With so many ends that the store has not taken nothing is begun: a disk that stays full must not fill the memory. */
export const UNRECORDED_MOST = 1_000;

/** The refusal, where the store took nothing. @throws `fault` where it is another */
export function notRecorded(refuse: Refuse, fault: unknown, detail?: string): Refusal {
  if (!(fault instanceof AgentError) || fault.code !== 'storeFailed') throw fault;
  return refuse('recordNotWritten', { why: fault.message, ...(detail !== undefined && { detail }) });
}

export async function orNotRecorded<Result>(
  refuse: Refuse,
  act: () => Promise<Result>,
  detail?: string,
): Promise<Result | Refusal> {
  try {
    return await act();
  } catch (fault) {
    return notRecorded(refuse, fault, detail);
  }
}
