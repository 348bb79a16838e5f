/**
 * native-notes/nat-behaviour.md is complete, and says nothing that is not
 * there: each requirement of each RFC once, with a verdict for grants and one
 * for devices' flows; what is kept names its test, or says that it has none.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ROOT } from '../child.ts';
import { hasTest } from './titles.ts';

const PAGE = readFileSync(join(ROOT, 'native-notes/nat-behaviour.md'), 'utf8');

/** How many requirements each has; of RFC 7857 its sections, which are not numbered otherwise. */
const NUMBERS: Readonly<Record<string, readonly string[]>> = {
  '4787': numbered('REQ-', 14),
  '5382': numbered('REQ-', 10),
  '5508': numbered('REQ-', 11),
  '6888': numbered('REQ-', 15),
  '7857': ['2', '2.1', '2.2', '3', '4', '5', '6', '7', '7.1', '8', '9', '10', '11', '12'],
  '6092': numbered('REC-', 50),
};
const VERDICTS = ['kept', 'deviated', 'not applicable'];

interface Row {
  readonly number: string;
  readonly asks: string;
  readonly verdicts: readonly string[];
  readonly why: string;
}

const tables = new Map(
  PAGE.split(/^## /m)
    .slice(1)
    .map((part) => [/^RFC (\d+)/.exec(part)?.[1] ?? part, rowsOf(part)]),
);

test('a table for each RFC, and no other', () => {
  expect([...tables.keys()].sort()).toEqual(Object.keys(NUMBERS).sort());
});

describe.each(Object.entries(NUMBERS))('RFC %s', (rfc, numbers) => {
  const rows = tables.get(rfc) ?? [];

  test('each requirement stands there once, itself or by its letters', () => {
    const found = rows.map(({ number }) => number);
    expect(new Set(found).size).toBe(found.length);
    expect([...new Set(found.map((number) => number.replace(/[a-zA-Z]$/, '')))]).toEqual(numbers);
  });

  test('each row says kept, deviated or not applicable for both, and how or why', () => {
    for (const { number, asks, verdicts, why } of rows) {
      expect(verdicts, number).toHaveLength(2);
      for (const verdict of verdicts) expect(VERDICTS, number).toContain(verdict);
      expect([asks, why], number).not.toContain('');
    }
  });

  test('what is kept names its test, or says that there is none', () => {
    const kept = rows.filter(({ verdicts }) => verdicts.includes('kept'));
    expect(kept.length).toBeGreaterThan(0);
    const silent = kept.filter(({ why }) => testsIn(why).length === 0 && !/no test/i.test(why));
    expect(silent.map(({ number }) => number)).toEqual([]);
  });

  test('each test that is named is there', () => {
    const named = rows.flatMap(({ why }) => testsIn(why));
    expect(named.length).toBeGreaterThan(0);
    const missing = named.filter(
      ([file, title]) => !existsSync(join(ROOT, file)) || !hasTest(readFileSync(join(ROOT, file), 'utf8'), title),
    );
    expect(missing).toEqual([]);
  });
});

test('no test is named but by its file and title', () => {
  const files = Array.from(PAGE.matchAll(/`test\/[^`]*`/g));
  expect(testsIn(PAGE)).toHaveLength(files.length);
});

function numbered(word: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${word}${i + 1}`);
}

function rowsOf(part: string): Row[] {
  return Array.from(part.matchAll(/^\| (.+) \|$/gm), ([, cells = '']) => cells.split(' | '))
    .filter(([number]) => number !== 'no.' && number !== '---')
    .map(([number = '', asks = '', ...rest]) => ({
      number,
      asks,
      verdicts: rest.slice(0, -1),
      why: rest.at(-1) ?? '',
    }));
}

function testsIn(text: string): (readonly [file: string, title: string])[] {
  return Array.from(text.matchAll(/`(test\/[^`]+\.ts)`: "([^"]+)"/g), ([, file = '', title = '']) => [file, title]);
}
