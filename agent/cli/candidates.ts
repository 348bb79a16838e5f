/**
 * What may stand at the cursor of a command line, read off the table of
 * commands itself, so that nothing is to be kept in step with it.
 *
 * Invariant: a candidate is made of characters that no shell reads as more
 * than themselves; a name with others is not offered.
 */
import type { Command, Option } from 'commander';

export interface Candidate {
  readonly word: string;
  readonly what?: string;
}

/** Names to choose from, by the name of the argument or option that takes them. */
export type Values = Readonly<Record<string, () => Promise<readonly Candidate[]>>>;

/** Stands for the paths that only the shell knows. */
export const FILES = ':files';

const HARMLESS = /^[A-Za-z0-9@._:+/-]+$/;
const PATHS = /^(file|folder|path)$/;

/** The candidates for the last of the words, which may be empty; the words before it are whole. */
export async function candidates(
  program: Command,
  words: readonly string[],
  values: Values,
): Promise<readonly Candidate[]> {
  const current = words.at(-1) ?? '';
  const { command, option, place } = standing(program, words.slice(0, -1));
  const found = await offered();
  const fitting = found.filter(
    ({ word }, i) =>
      (word === FILES || (HARMLESS.test(word) && word.startsWith(current))) &&
      found.findIndex((one) => one.word === word) === i,
  );
  return fitting.map(({ word, what }) => (what ? { word, what: what.replace(/[\p{Cc}\p{Cf}]/gu, ' ') } : { word }));

  async function offered(): Promise<readonly Candidate[]> {
    if (option) return valuesOf(option.attributeName(), /<(.+)>/.exec(option.flags)?.[1] ?? '', option.argChoices);
    const help = command.createHelp();
    if (current.startsWith('-'))
      return help.visibleOptions(command).map(({ long, description }) => ({ word: long ?? '', what: description }));
    const commands = command.commands.length > 0 ? help.visibleCommands(command) : [];
    const arguments_ = command.registeredArguments;
    const last = arguments_.at(-1);
    const argument = arguments_[place] ?? (last?.variadic ? last : undefined);
    return [
      ...commands.map((one) => ({ word: one.name(), what: one.description() })),
      ...(argument ? await valuesOf(argument.name(), argument.name(), argument.argChoices) : []),
    ];
  }

  async function valuesOf(name: string, placeholder: string, choices?: readonly string[]) {
    if (choices) return choices.map((word) => ({ word }));
    if (PATHS.test(placeholder)) return [{ word: FILES }];
    return Object.hasOwn(values, name) ? ((await values[name]?.()) ?? []) : [];
  }
}

/** Where the cursor stands: in which command, at the value of which option, or at which of its arguments. */
function standing(program: Command, words: readonly string[]): { command: Command; option?: Option; place: number } {
  let command = program;
  let option: Option | undefined;
  let place = 0;
  for (const word of words) {
    if (option) {
      option = undefined;
      continue;
    }
    if (word.startsWith('-')) {
      const named = command.options.find(({ long, short }) => long === word || short === word);
      option = named?.required || named?.optional ? named : undefined;
      continue;
    }
    const inner = command.commands.find((one) => one.name() === word);
    if (inner) [command, place] = [inner, 0];
    else place += 1;
  }
  return { command, place, ...(option && { option }) };
}
