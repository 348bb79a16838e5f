/** The daemon's command line: wrong words are said as such, and are no reason to start again. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ROOT } from '../child.ts';
import { said } from '../mtgate.ts';

const main = (...words: string[]) => said([process.execPath, join(ROOT, 'dist/main.js'), ...words]);

test.each(['--help', '-h'])('%s', async (word) => {
  const { status, stdout, stderr } = await main(word);
  expect(stdout).toMatch(/^Usage: node dist\/main\.js \[--config FILE\] \[--log LEVEL\]\n/);
  expect([status, stderr]).toEqual([0, '']);
});

test.each([
  [['--foo'], /^mtgate: Unknown option '--foo'/],
  [['--config'], /^mtgate: Option '--config <value>' argument missing\n/],
  [['--config', '--log', 'info'], /^mtgate: Option '--config' argument is ambiguous/],
  [['agent.yaml'], /^mtgate: Unexpected argument 'agent\.yaml'/],
  [['--log', 'foo'], /^mtgate: --log: expected one of trace, debug, info, warn, error, fatal, silent, found "foo"\n/],
  [['--log', 'values'], /^mtgate: --log: expected one of/],
])('%j: the unit does not try again', async (words, says) => {
  const { status, stdout, stderr } = await main(...words);
  expect(stderr).toMatch(says);
  expect(stderr).toContain('\n\nUsage: node dist/main.js ');
  expect(stderr).not.toContain('defect');
  expect([status, stdout]).toEqual([78, '']);
});

test('no such agent.yaml: read as before', async () => {
  const { status, stderr } = await main('--log', 'silent', '--config', '/nonexist/agent.yaml');
  expect(stderr).toMatch(/^mtgate: configInvalid\n/);
  expect(status).toBe(78);
});
