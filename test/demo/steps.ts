/** A demo's steps: what is done, what was seen of it, and a mark. What a step should not have seen it throws. */
import type { Reply } from '../agent.ts';
import type { Outcome } from '../probe.ts';

export interface Step {
  readonly title: string;
  /** Says what it saw. @throws Error that says what it should not have seen */
  readonly act: () => Promise<string>;
}

// Whoever reads may stop early (`npm run demo | head`): then the rest is for nobody, and what was started goes with us.
process.stdout.on('error', (fault: NodeJS.ErrnoException) => {
  if (fault.code !== 'EPIPE') throw fault;
  process.exit();
});

export const say = (text: string) => void process.stdout.write(`${text}\n`);

export class Steps {
  #number = 0;
  #failed = 0;

  async take(title: string, act: Step['act']): Promise<void> {
    this.#number += 1;
    const head = `${String(this.#number).padStart(2)}. ${title}`;
    try {
      say(`${head}\n      ✓ ${await act()}`);
    } catch (fault) {
      this.#failed += 1;
      say(`${head}\n      ✗ ${(fault as Error).message}`);
    }
  }

  /** Says how they went. @returns the exit code */
  end(): number {
    say(
      this.#failed === 0 ? `\nAll ${this.#number} steps passed.` : `\n${this.#failed} of ${this.#number} steps failed.`,
    );
    return this.#failed === 0 ? 0 : 1;
  }
}

export function must(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}

function seen(outcome: Outcome): string {
  if (outcome.outcome === 'answer') return `an answer: "${outcome.text}"`;
  return outcome.outcome === 'refused' ? `refused: ${outcome.error}` : 'silence';
}

export async function silence(outcome: Promise<Outcome>): Promise<void> {
  const was = await outcome;
  must(was.outcome === 'silence', `expected silence, saw ${seen(was)}`);
}

export async function answer(outcome: Promise<Outcome>, text: string): Promise<void> {
  const was = await outcome;
  must(was.outcome === 'answer' && was.text === text, `expected the answer "${text}", saw ${seen(was)}`);
}

export function status({ status: was, body, complaint }: Reply, wanted: number): void {
  must(was === wanted, `expected HTTP ${wanted}, saw ${was} ${JSON.stringify(body)} ${complaint}`);
}
