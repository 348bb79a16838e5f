/**
 * The base in the kernel: table `inet mtgate`, put there whole by `nft` in
 * one transaction, and looked at again to see that it still stands. The text
 * comes from policy/ruleset.ts.
 */
import { AgentError } from '../core/errors.ts';
import { run } from './command.ts';

const TABLE = ['inet', 'mtgate'] as const;

export class Base {
  /** What nft shows of the table right after it was applied. */
  #applied: string | undefined;

  /** Replaces the table by this one; there is no moment without one. @throws AgentError nftFailed */
  async apply(text: string): Promise<void> {
    const [family, name] = TABLE;
    // Declared first, so that deleting it never fails; nft carries the three out as one.
    const outcome = await nft(['-f', '-'], `table ${family} ${name}\ndelete table ${family} ${name}\n${text}`);
    if (outcome.status !== 0) throw new AgentError('nftFailed', `the base was not applied: ${outcome.complaint}`);
    this.#applied = await shown();
  }

  /** Whether the table stands as it was applied, or a chain, rule or element is gone or added. */
  async look(): Promise<'stands' | 'baseMissing' | 'baseChanged'> {
    const now = await shown();
    if (now === undefined) return 'baseMissing';
    return now === this.#applied ? 'stands' : 'baseChanged';
  }
}

/** The table's text without counters, or undefined where there is none. */
async function shown(): Promise<string | undefined> {
  const outcome = await nft(['--stateless', 'list', 'table', ...TABLE]);
  return outcome.status === 0 ? outcome.output : undefined;
}

async function nft(args: readonly string[], input?: string) {
  try {
    return await run('nft', args, input);
  } catch (cause) {
    throw new AgentError('libraryMissing', 'nft cannot be run', { cause });
  }
}
