/**
 * What the `mtgate` command prints: tables for people, JSON for programs.
 * Names and texts of others are made safe for a terminal.
 */
import type { Ask } from './client.ts';

export function count(number: number, thing: string): string {
  return `${number} ${thing}${number === 1 ? '' : 's'}`;
}

/** Text of others, safe on a terminal. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function printLines(lines: readonly string[]): void {
  for (const line of lines) print(printable(line));
}

/** A table for people, or JSON. */
export function printRows<Row extends object>(
  { json: asJson }: Ask,
  rows: readonly Row[],
  columns: readonly (keyof Row & string)[],
): void {
  if (asJson) {
    print(JSON.stringify(rows, null, 2));
    return;
  }
  const cells = [columns, ...rows.map((row) => columns.map((column) => printable(String(row[column]))))];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i]?.length ?? 0)));
  for (const line of cells)
    print(
      line
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}
