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

/** A terminal is asked; a script has to have said so. */
export async function mayGoOn({
  yes,
  json: asJson,
}: {
  readonly yes?: true;
  readonly json?: boolean;
}): Promise<boolean> {
  if (yes || asJson) return true;
  if (process.stdin.isTTY && (await agreedTo('Put this in force?'))) return true;
  printFault(process.stdin.isTTY ? 'nothing has changed' : 'nothing has changed: without a terminal say --yes');
  process.exitCode = EXIT.refused;
  return false;
}
