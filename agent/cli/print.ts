/**
 * What the `mtgate` command prints: tables and pages for people, JSON for
 * programs.
 *
 * Invariant: names and texts of others (a device's name, a rule, an error)
 * reach a terminal only through here, and cannot move its cursor, hide
 * letters or turn the direction of reading.
 */
import type { Ask } from './client.ts';

export function count(number: number, thing: string): string {
  return `${number} ${thing}${number === 1 ? '' : 's'}`;
}

/** Control characters, those that steer how text is laid out, line separators, and halves of characters. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** Text of others, safe on a terminal. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);
}

/** One line on standard output. */
export function print(line: string): void {
  process.stdout.write(`${printable(line)}\n`);
}

export function printLines(lines: readonly string[]): void {
  for (const line of lines) print(line);
}

/** What went wrong, on standard error; its lines stay lines. */
export function printFault(text: string): void {
  process.stderr.write(`${text.split('\n').map(printable).join('\n')}\n`);
}

/** For programs: the same value, with what a terminal would obey written as JSON's own escapes. Indented by 0 it is one line. */
export function printJson(value: unknown, indent = 2): void {
  const text = JSON.stringify(value, null, indent).replace(UNPRINTABLE, (character) =>
    character === '\n' ? character : character.split('').map(codeUnit).join(''),
  );
  process.stdout.write(`${text}\n`);
}

function codeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/** A table for people, or JSON. Where there are no rows `none` says so. */
export function printRows<Row extends object>(
  { json: asJson }: Pick<Ask, 'json'>,
  rows: readonly Row[],
  columns: readonly (keyof Row & string)[],
  none?: string,
): void {
  if (asJson) printJson(rows);
  else if (rows.length === 0 && none !== undefined) print(none);
  else printLines(table([columns, ...rows.map((row) => columns.map((column) => String(row[column] ?? '')))]));
}

/** A page of names and values; what is undefined is left out. */
export function printPairs(pairs: readonly (readonly [name: string, value: string | undefined])[]): void {
  printLines(table(pairs.filter((pair): pair is [string, string] => pair[1] !== undefined)));
}

/** Lines of equally wide columns. */
export function table(lines: readonly (readonly string[])[]): string[] {
  const cells = lines.map((line) => line.map(printable));
  const widths = cells.reduce<number[]>((most, line) => line.map((cell, i) => Math.max(cell.length, most[i] ?? 0)), []);
  return cells.map((line) =>
    line
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
