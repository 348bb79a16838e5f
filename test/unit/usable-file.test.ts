/** Databases that nothing rests on: which are put aside, and that none of them is lost by it. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { openDenialStore } from '../../agent/inspector/denial-store.ts';
import { RecordWriter } from '../../agent/nat/record-store.ts';
import { openOutboxStore } from '../../agent/reports/outbox-store.ts';
import { type Form, openDatabase } from '../../agent/sqlite/database.ts';
import { openUsable, putAside } from '../../agent/sqlite/usable-file.ts';
import { KeptLog } from '../clock.ts';
import { IDENTITIES } from '../identities.ts';

const folder = mkdtempSync(join(tmpdir(), 'mtgate-usable-'));
afterAll(() => rmSync(folder, { recursive: true }));

const FORM: Form = { version: 1, schema: 'CREATE TABLE words (word TEXT) STRICT', synchronous: 'NORMAL' };
const RUBBISH = 'no database at all, and long enough to be looked at'.repeat(100);

let serial = 0;
let file = '';
let log: KeptLog;
beforeEach(() => {
  serial += 1;
  file = join(folder, `${serial}.db`);
  log = new KeptLog();
});

const open = () => openUsable(file, (one) => openDatabase(one, FORM), log, 'denialStoreUnusable');
const wordsOf = (db: Database.Database) => db.prepare('SELECT word FROM words').pluck().all();
function kept(word: string): void {
  const db = open();
  db.prepare('INSERT INTO words VALUES (?)').run(word);
  db.close();
}

/** Nothing can be made where SQLite wants its log: no fault of the file, and over when the folder has gone. */
function inTheWay(): () => void {
  mkdirSync(`${file}-wal`);
  return () => rmdirSync(`${file}-wal`);
}

describe('a file that cannot be opened now', () => {
  test('is left as it is, memory does meanwhile, and the next start finds it', () => {
    kept('before');
    const before = readFileSync(file);
    const gone = inTheWay();
    for (let start = 0; start < 2; start++) {
      const db = open();
      expect(db.memory).toBe(true);
      db.close();
    }
    expect(log.of('denialStoreUnusable')).toMatchObject([{ file, kept: 'inMemory' }, { kept: 'inMemory' }]);
    expect(readFileSync(file)).toEqual(before);
    expect(existsSync(`${file}.unusable`)).toBe(false);
    gone();
    const db = open();
    expect(wordsOf(db)).toEqual(['before']);
    db.close();
  });

  test.each([
    ['denials', 'denialStoreUnusable', () => openDenialStore(file, log, IDENTITIES)],
    ['what is to be pushed', 'outboxUnusable', () => openOutboxStore(file, log, IDENTITIES)],
  ] as const)('%s: the same', (_, event, openStore) => {
    openStore().close();
    const before = readFileSync(file);
    const gone = inTheWay();
    openStore().close();
    gone();
    expect(log.of(event)).toMatchObject([{ kept: 'inMemory' }]);
    expect(readFileSync(file)).toEqual(before);
  });

  test('the NAT record: its process is told, and may try again', () => {
    const openRecord = () => RecordWriter.open(file, 'boot', 1, log);
    openRecord().close();
    const gone = inTheWay();
    expect(openRecord).toThrow(/unable to open/);
    gone();
    openRecord().close();
    expect(log.of('natRecordUnusable')).toEqual([]);
    expect(existsSync(`${file}.unusable`)).toBe(false);
  });
});

describe('a file whose content is of no use', () => {
  const databaseOf = (statements: string) => {
    const db = new Database(file);
    db.exec(statements);
    db.close();
  };
  test.each([
    ['no database', () => writeFileSync(file, RUBBISH), /not a database/],
    ['of another program', () => databaseOf('CREATE TABLE theirs (a)'), /another program/],
    ['of a newer version', () => databaseOf('CREATE TABLE words (a); PRAGMA user_version = 2'), /version is 2/],
    [
      'damaged',
      () => {
        kept('x'.repeat(9_000));
        writeFileSync(file, readFileSync(file).fill(0xaa, 4_096));
      },
      /malformed|damaged/,
    ],
  ] as const)('%s: is put aside, and a new one begun', (_, spoil, why) => {
    spoil();
    const before = readFileSync(file);
    kept('after');
    expect(log.of('denialStoreUnusable')).toMatchObject([
      { file, why: expect.stringMatching(why), putAside: `${file}.unusable` },
    ]);
    const content = (bytes: Buffer) => bytes.subarray(100); // behind the header, which says how it was last opened
    expect(content(readFileSync(`${file}.unusable`))).toEqual(content(before));
    const db = open();
    expect(wordsOf(db)).toEqual(['after']);
    db.close();
  });

  test('with other tables under the same number of version, does not stop the start', () => {
    databaseOf('CREATE TABLE theirs (a); PRAGMA user_version = 4');
    openDenialStore(file, log, IDENTITIES).close();
    expect(log.of('denialStoreUnusable')).toMatchObject([{ putAside: `${file}.unusable` }]);
  });

  test('never takes the place of one that was put aside before; where there is no more room, stays', () => {
    const spoiled = Array.from({ length: 7 }, (_, i) => `${i}${RUBBISH}`);
    for (const text of spoiled) {
      for (const end of ['-wal', '-shm']) rmSync(`${file}${end}`, { force: true });
      writeFileSync(file, text);
      open().close();
    }
    const asides = ['', '.2', '.3', '.4', '.5'].map((end) => readFileSync(`${file}.unusable${end}`, 'utf8'));
    expect(asides).toEqual(spoiled.slice(0, 5));
    expect(readFileSync(file, 'utf8')).toBe(spoiled[6]);
    expect(log.of('denialStoreUnusable').at(-1)).toMatchObject({
      why: expect.stringMatching(/not a database; and .*\.unusable\.5 are there already/),
      kept: 'inMemory',
    });
  });

  test('takes its log along, with all that was committed in it', () => {
    const db = open();
    db.prepare('INSERT INTO words VALUES (?)').run('only in the log');
    const [own, wal] = [readFileSync(file), readFileSync(`${file}-wal`)];
    db.close();
    writeFileSync(file, own); // as a start finds it after a kill
    writeFileSync(`${file}-wal`, wal);
    expect(putAside(file, 'damaged')).toBe(`${file}.unusable`);
    expect([existsSync(file), existsSync(`${file}-wal`)]).toEqual([false, false]);
    const aside = new Database(`${file}.unusable`);
    expect(wordsOf(aside)).toEqual(['only in the log']);
    aside.close();
  });
});
