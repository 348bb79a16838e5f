import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { printRowsAsTheyCome } from '../../agent/cli/print.ts';

interface Row {
  readonly name: string;
  readonly value: number;
}

let printed = '';
beforeEach(() => {
  printed = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text);
    return true;
  });
});
afterEach(() => void vi.restoreAllMocks());

async function* pages(...of: readonly (readonly Row[])[]): AsyncGenerator<readonly Row[], string> {
  for (const rows of of) yield rows;
  return 'the end';
}
const ROWS: Row[] = ['a', 'bb', 'ccc', '\u001b[2J'].map((name, value) => ({ name, value }));
const split = () => pages(ROWS.slice(0, 2), [], ROWS.slice(2));

test('JSON that comes in pages is one document, the same as if it had come at once', async () => {
  expect(await printRowsAsTheyCome({ json: true }, split(), ['name', 'value'], 'none')).toBe('the end');
  expect(JSON.parse(printed)).toEqual(ROWS);
  expect(printed).toBe(`${JSON.stringify(ROWS, null, 2)}\n`);
  printed = '';
  await printRowsAsTheyCome({ json: true }, pages([]), ['name'], 'none');
  expect(printed).toBe('[]\n');
});

test('a table that comes in pages has one head, and columns at least as wide as before', async () => {
  await printRowsAsTheyCome({}, split(), ['name', 'value'], 'none');
  const lines = ['name  value', 'a     0', 'bb    1', 'ccc        2', '\\u{1b}[2J  3', ''];
  expect(printed.split('\n')).toEqual(lines);
  printed = '';
  await printRowsAsTheyCome({}, pages([], []), ['name'], 'no live grants');
  expect(printed).toBe('no live grants\n');
});
