/** What is written for people is held against what is there. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { EXPECTATIONS } from '../../agent/closure/sysctls.ts';
import { FAULTS } from '../../agent/core/errors.ts';
import { EVENTS } from '../../agent/core/events.ts';
import { DENIALS } from '../../agent/core/reasons.ts';
import { REFUSALS, type RefusalFace } from '../../agent/core/refusals.ts';
import { ROOT } from '../child.ts';

const read = (file: string) => readFileSync(join(ROOT, file), 'utf8');
const PAGES = ['README.md', ...readdirSync(join(ROOT, 'native-notes')).map((name) => `native-notes/${name}`)];

describe('pages', () => {
  test.each(PAGES)('%s leads to what exists', (page) => {
    const links = Array.from(read(page).matchAll(/\]\(([^)#:]+)\)/g), ([, link]) => link as string);
    const missing = links.filter((link) => !existsSync(join(ROOT, dirname(page), link)));
    expect(missing).toEqual([]);
  });

  test.each(['agent', 'test'])('the house in the README has every folder of %s/', (top) => {
    const house = read('README.md').split('\n## The house\n')[1] ?? '';
    const part = house.split(/^ {4}(?=\S)/m).find((one) => one.startsWith(`${top}/`)) ?? '';
    const files = readdirSync(join(ROOT, top), { withFileTypes: true });
    const folders = files.filter((one) => one.isDirectory()).map(({ name }) => name);
    expect(folders.length).toBeGreaterThan(5);
    expect(folders.filter((name) => !new RegExp(`[\\s(]${name}/`).test(part))).toEqual([]);
  });

  test('the scripts that the README names are there', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = Array.from(read('README.md').matchAll(/npm (?:run ([a-z-]+)|test)/g), ([, name = 'test']) => name);
    expect(named.length).toBeGreaterThan(3);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});

test('every status and code that a server or an MTC user can be answered stands in a contract', () => {
  const contract = readdirSync(join(ROOT, 'agent/api'))
    .filter((name) => name.endsWith('.yaml'))
    .map((name) => read(`agent/api/${name}`))
    .join();
  const silent = Object.entries(REFUSALS).filter(
    ([, { status, code, silent }]: [string, RefusalFace]) =>
      !silent && (!contract.includes(code) || !contract.includes(String(status))),
  );
  expect(silent.map(([reason]) => reason)).toEqual([]);
});

test('refusals that share a face toward the outside share all of it', () => {
  const { step: _, ...unknown } = REFUSALS.deviceUnknown;
  const { step: __, ...foreign } = REFUSALS.notAuthorisedByMtcUser;
  expect(foreign).toEqual(unknown);
});

test('every fault says what to do, in a sentence; every denial has a number of its own', () => {
  for (const text of Object.values(FAULTS)) expect(text).toMatch(/[.?]$/);
  const numbers = Object.values(DENIALS).map(({ number }) => number);
  expect(new Set(numbers).size).toBe(numbers.length);
});

test('every event of the log is explained in a sentence, and no other is written', () => {
  const code = readdirSync(join(ROOT, 'agent'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && file !== 'core/events.ts')
    .map((file) => read(`agent/${file}`))
    .join('\n');
  for (const text of Object.values(EVENTS)) expect(text).toMatch(/^[A-Z].*\.$/);
  expect(Object.keys(EVENTS).filter((name) => !code.includes(`'${name}'`))).toEqual([]); // the types see to the rest
});

test('what the agent expects of kernel settings, the closure puts right', () => {
  const script = read('systemd/mtgate-closed.sh').replace('forward=1', '').replaceAll('$forward', '1');
  const lines = script.matchAll(/^(put|least) '?([^' ]+)'? (\d+)(?: (\d))?$/gm);
  const puts = Array.from(lines, ([, how, path, first, second]) => ({
    path,
    values: [first, ...(second ? [second] : [])],
    orMore: how === 'least',
  }));
  const covers = (path: string) => (one: { path: string | undefined }) =>
    one.path === path || one.path === path.replace(/\/(all|NAME)\//, '/*/');
  for (const { path, values, orMore = false } of EXPECTATIONS) {
    expect({ ...puts.find(covers(path)), path }).toEqual({ path, values, orMore });
  }
});
