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
  process.stdout.write(`${jsonText(value, indent)}\n`);
}

function jsonText(value: unknown, indent = 2): string {
  return JSON.stringify(value, null, indent).replace(UNPRINTABLE, (character) =>
    character === '\n' ? character : character.split('').map(codeUnit).join(''),
  );
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

/**
 * The same for rows that come in pages, printed as they come; returns what the
 * pages end with. Columns are as wide as what was printed so far.
 */
export async function printRowsAsTheyCome<Row extends object, End>(
  { json: asJson }: Pick<Ask, 'json'>,
  pages: AsyncGenerator<readonly Row[], End>,
  columns: readonly (keyof Row & string)[],
  none: string,
): Promise<End> {
  const widths: number[] = [];
  let rows = 0;
  for (;;) {
    const { value, done } = await pages.next();
    if (done) {
      if (asJson) process.stdout.write(rows === 0 ? '[]\n' : '\n]\n');
      else if (rows === 0) print(none);
      return value;
    }
    if (asJson) {
      const texts = value.map((row) => jsonText(row).replace(/^/gm, '  '));
      if (texts.length > 0) process.stdout.write(`${rows === 0 ? '[' : ','}\n${texts.join(',\n')}`);
    } else if (value.length > 0) {
      const cells = value.map((row) => columns.map((column) => String(row[column] ?? '')));
      printLines(table(rows === 0 ? [columns, ...cells] : cells, widths));
    }
    rows += value.length;
  }
}

/** A page of names and values; what is undefined is left out. */
export function printPairs(pairs: readonly (readonly [name: string, value: string | undefined])[]): void {
  printLines(table(pairs.filter((pair): pair is [string, string] => pair[1] !== undefined)));
}

/** Lines of equally wide columns, at least as wide as `widths`, which learns how wide they are. */
export function table(lines: readonly (readonly string[])[], widths: number[] = []): string[] {
  const cells = lines.map((line) => line.map(printable));
  for (const line of cells) for (const [i, cell] of line.entries()) widths[i] = Math.max(cell.length, widths[i] ?? 0);
  return cells.map((line) =>
    line
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
