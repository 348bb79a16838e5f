/** A question to whoever sits at the terminal. */
import { createInterface } from 'node:readline/promises';
import { EXIT } from './help.ts';
import { printFault } from './print.ts';

/** Whether the answer was yes; nothing else is. */
export async function agreedTo(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
}

/** A terminal is asked; a script has to have said so, and so has whoever wants JSON, who is shown no changes to agree to. */
export async function mayGoOn({
  yes,
  json: asJson,
}: {
  readonly yes?: true;
  readonly json?: boolean;
}): Promise<boolean> {
  if (yes) return true;
  const isAsked = process.stdin.isTTY && !asJson;
  if (isAsked && (await agreedTo('Put this in force?'))) return true;
  const without = asJson ? 'with --json' : 'without a terminal';
  printFault(isAsked ? 'nothing has changed' : `nothing has changed: ${without} say --yes`);
  process.exitCode = EXIT.refused;
  return false;
}
