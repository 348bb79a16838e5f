/**
 * The base in the kernel: table `inet mtgate`, put there whole by `nft` in
 * one transaction, and looked at again to see that it still stands. The text
 * comes from policy/ruleset.ts.
 */
import { AgentError } from '../core/errors.ts';
import { run } from './command.ts';

const TABLE = ['inet', 'mtgate'] as const;

export class Base {
  readonly #text: string;
  /** What nft shows of the table right after it was applied. */
  #applied: string | undefined;

  constructor(text: string) {
    this.#text = text;
  }

  /** Replaces the table by ours; there is no moment without one. @throws AgentError nftFailed */
  async apply(): Promise<void> {
    const [family, name] = TABLE;
    // Declared first, so that deleting it never fails; nft carries the three out as one.
    const outcome = await nft(['-f', '-'], `table ${family} ${name}\ndelete table ${family} ${name}\n${this.#text}`);
    if (outcome.status !== 0) throw new AgentError('nftFailed', `the base was not applied: ${outcome.complaint}`);
    this.#applied = await shown();
  }

  /** Whether the table stands as it was applied: no chain, rule or element gone or added. */
  async stands(): Promise<boolean> {
    return this.#applied !== undefined && (await shown()) === this.#applied;
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
