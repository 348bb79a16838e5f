/** What the help texts share. */
import type { Command } from 'commander';

/** How the command ends; scripts rely on it. */
export const EXIT = { done: 0, refused: 1, wrongWords: 2, notRunning: 3, socketDenied: 4 } as const;

export const EXIT_CODES = `
Exit codes:
  0  done; \`status\`: closed; \`doctor\`: nothing bad
  1  refused, invalid, not found; \`status\`: a gap stands; \`doctor\`: something is bad
  2  wrong words on the command line
  3  no agent answers on the socket
  4  you may not use the socket: become root, or join its group (mtgate)`;

/** Adds a text below a command's help: what else there is to know, then examples. */
export function explainUse(command: Command, words: { readonly more?: string; readonly examples: readonly string[] }) {
  const examples = ['Examples:', ...words.examples.map((line) => `  ${line}`)].join('\n');
  return command.addHelpText('after', `\n${words.more ? `${words.more}\n\n` : ''}${examples}`);
}
