/** The folder of the rule files: what is read, and everything that is not. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FolderWatch, readRuleFolder, ruleTexts } from '../../agent/files/rule-folder.ts';

let outside: string;
let folder: string;
const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
const read = (autoApply = false) => readRuleFolder({ folder, autoApply });

beforeEach(() => {
  outside = mkdtempSync(join(tmpdir(), 'mtgate-rules-'));
  folder = join(outside, 'rules');
  mkdirSync(folder);
  write('b.yaml', 'rules: []\n');
});
afterEach(() => rmSync(outside, { recursive: true }));

test('its files by name, without hidden ones and those of editors; the hash is of names and texts', () => {
  write('a.yml', 'servers: {}\n');
  for (const name of ['.a.yaml', '.a.yaml.swp', 'a.yaml~', '#a.yaml#', 'README', 'a.yaml.bak']) write(name, 'x');
  const files = [
    { file: 'a.yml', text: 'servers: {}\n' },
    { file: 'b.yaml', text: 'rules: []\n' },
  ];
  expect(read()).toEqual(ruleTexts(files));
  const { digest } = read();
  rmSync(join(folder, 'README'));
  expect(read().digest).toBe(digest);
  write('a.yml', 'servers: {}');
  expect(read().digest).not.toBe(digest);
});

test('links that stay in the folder are followed, as is the folder itself', () => {
  mkdirSync(join(folder, '..data'));
  write('..data/c.yaml', 'tests: []\n');
  symlinkSync('..data/c.yaml', join(folder, 'c.yaml'));
  symlinkSync(folder, join(outside, 'link'));
  const { files } = readRuleFolder({ folder: join(outside, 'link'), autoApply: false });
  expect(files.map(({ file }) => file)).toEqual(['b.yaml', 'c.yaml']);
});

describe('is refused, the file named and what to do', () => {
  test.each<[string, () => void, RegExp]>([
    ['no folder', () => rmSync(folder, { recursive: true }), /rules: ENOENT/],
    ['an empty one', () => rmSync(join(folder, 'b.yaml')), /rules: no rule file \(\*\.yaml\) in this folder$/],
    [
      'a folder that all may write to',
      () => chmodSync(folder, 0o1777),
      /rules: everybody .* \(mode 1777\).*chmod o-w$/,
    ],
    [
      'a file that all may write to',
      () => chmodSync(join(folder, 'b.yaml'), 0o646),
      /b\.yaml: everybody may write to it \(mode 0646\), and so make rules: chmod o-w$/,
    ],
    [
      'a link out of the folder',
      () => {
        writeFileSync(join(outside, 'secret'), 'password');
        symlinkSync('../secret', join(folder, 'a.yaml'));
      },
      /a\.yaml: is a link out of the folder, to .*\/secret: put the file itself there$/,
    ],
    [
      'a link to a folder beside it whose name begins alike',
      () => {
        mkdirSync(`${folder}2`);
        writeFileSync(`${folder}2/a.yaml`, 'x');
        symlinkSync('../rules2/a.yaml', join(folder, 'a.yaml'));
      },
      /a\.yaml: is a link out of the folder/,
    ],
    ['a link to nothing', () => symlinkSync('nothing', join(folder, 'a.yaml')), /a\.yaml: vanished .* or is a link to/],
    [
      'a link to itself',
      () => symlinkSync('a.yaml', join(folder, 'a.yaml')),
      /a\.yaml: is a link that leads in circles/,
    ],
    ['a folder', () => mkdirSync(join(folder, 'a.yaml')), /a\.yaml: is a folder, and no rule file/],
    ['a FIFO', () => void execFileSync('mkfifo', [join(folder, 'a.yaml')]), /a\.yaml: is a FIFO, and no rule file/],
    ['too much', () => truncateSync(join(folder, 'b.yaml'), 17 * 2 ** 20), /b\.yaml: with it .* larger than 16 MiB$/],
    [
      'too many',
      () => {
        for (let i = 0; i < 1_000; i++) write(`${i}.yaml`, '');
      },
      /rules: more than 1000 rule files$/,
    ],
  ])('%s', (_, make, says) => {
    make();
    expect(() => read()).toThrow(
      expect.objectContaining({ code: 'rulesInvalid', message: expect.stringMatching(says) }),
    );
  });

  test('a socket', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(folder, 'a.yaml'), resolve));
    expect(() => read()).toThrow(/a\.yaml: is a socket or a device, and no rule file/);
    server.close();
  });

  test('all that is wrong, at once', () => {
    mkdirSync(join(folder, 'a.yaml'));
    symlinkSync('/etc/passwd', join(folder, 'c.yaml'));
    expect(() => read()).toThrow(/a\.yaml: is a folder.*\n.*c\.yaml: is a link out of the folder, to \/etc\/passwd/);
  });

  test.runIf(process.getuid?.() === 0)('with autoApply, a file or folder of others', () => {
    chownSync(join(folder, 'b.yaml'), 12_345, 0);
    expect(read().files).toHaveLength(1);
    expect(() => read(true)).toThrow(/b\.yaml: it belongs to uid 12345, who with autoApply makes rules: chown/);
    chownSync(join(folder, 'b.yaml'), 0, 12_345);
    expect(read(true).files).toHaveLength(1);
    chownSync(folder, 12_345, 0);
    expect(() => read(true)).toThrow(/rules: this folder belongs to uid 12345/);
  });
});

test('the watch: looks every ten seconds, and reads where a mark has changed', () => {
  let nowMs = 0;
  const watch = new FolderWatch({ folder, autoApply: false }, () => nowMs);
  const { digest } = read();
  expect(watch.difference(digest)).toBeUndefined();
  expect(watch.difference('another')).toBe('differ');
  write('b.yaml', 'rules: [ ]\n');
  expect(watch.difference(digest)).toBeUndefined(); // not looked at yet
  nowMs += 10_000;
  expect(watch.difference(digest)).toBe('differ');
  write('b.yaml', 'rules: []\n');
  utimesSync(join(folder, 'b.yaml'), 0, 0);
  watch.lookAgain();
  expect(watch.difference(digest)).toBeUndefined();
  rmSync(folder, { recursive: true });
  nowMs += 10_000;
  expect(watch.difference(digest)).toMatch(/^cannot be read: .*ENOENT/);
  mkdirSync(folder);
  write('b.yaml', 'rules: []\n');
  nowMs += 10_000;
  expect(watch.difference(digest)).toBeUndefined();
});
