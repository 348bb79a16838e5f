/** Group commit: what goes together, in which order, and what becomes of it. */
import { expect, test } from 'vitest';
import { Commits, eachAloneIfNeeded, type Written } from '../../agent/core/commits.ts';

/** What was to be written in this turn of the loop is on its way. */
const turn = () => new Promise(setImmediate);

/** A disk in the test's hand. */
class Disk {
  readonly batches: number[][] = [];
  #answer: ((written: readonly Written[]) => void) | undefined;
  #fail: ((fault: Error) => void) | undefined;

  readonly commits = new Commits<number>((batch) => {
    this.batches.push([...batch]);
    return new Promise((resolve, reject) => {
      this.#answer = resolve;
      this.#fail = reject;
    });
  });

  /** The batch under way is durable; what comes of that has come when this resolves. */
  async done(changed = true): Promise<void> {
    this.#answer?.((this.batches.at(-1) ?? []).map(() => ({ changed })));
    await turn();
    await turn();
  }

  async fails(): Promise<void> {
    this.#fail?.(new Error('the disk is gone'));
    await turn();
    await turn();
  }
}

test('a lone write is committed as its turn ends; what comes in one turn, or meanwhile, goes together, in order', async () => {
  const disk = new Disk();
  const heard: number[] = [];
  const begin = (number: number) => disk.commits.write(number).then(() => heard.push(number));
  begin(1);
  await turn();
  expect(disk.batches).toEqual([[1]]);
  for (const number of [2, 3, 4]) {
    begin(number);
    await turn();
  }
  expect(disk.batches).toEqual([[1]]);
  expect(heard).toEqual([]);
  await disk.done();
  expect(heard).toEqual([1]);
  expect(disk.batches).toEqual([[1], [2, 3, 4]]);
  begin(5);
  await disk.done();
  expect(heard).toEqual([1, 2, 3, 4]);
  await disk.done();
  expect(heard).toEqual([1, 2, 3, 4, 5]);
  await disk.commits.settled();
  begin(6);
  begin(7);
  await turn();
  expect(disk.batches.at(-1)).toEqual([6, 7]);
});

test('each hears what became of its own', async () => {
  const commits = new Commits<number>(async (batch) =>
    batch.map((_, i) => (i === 1 ? { fault: 'odd' } : { changed: i === 0 })),
  );
  const writes = [1, 2, 3].map((number) => commits.write(number));
  expect(await Promise.all(writes)).toEqual([{ changed: true }, { fault: 'odd' }, { changed: false }]);
});

test('a commit that fails fails all of its batch, and no other', async () => {
  const disk = new Disk();
  const first = disk.commits.write(1);
  await turn();
  const second = disk.commits.write(2);
  const failed = expect(first).rejects.toThrow('the disk is gone');
  await disk.fails();
  await failed;
  expect(disk.batches).toEqual([[1], [2]]);
  await disk.done(false);
  expect(await second).toEqual({ changed: false });
});

test('settled waits for all that is under way', async () => {
  const disk = new Disk();
  await disk.commits.settled();
  let isSettled = false;
  const first = disk.commits.write(1);
  await turn();
  const second = disk.commits.write(2);
  const settled = disk.commits.settled().then(() => {
    isSettled = true;
  });
  await disk.done();
  expect(isSettled).toBe(false);
  await disk.done();
  await Promise.all([first, second, settled]);
  expect(isSettled).toBe(true);
});

test('what cannot be written takes none of its batch with it', () => {
  const transactions: number[][] = [];
  const write = eachAloneIfNeeded<number>((batch) => {
    transactions.push([...batch]);
    if (batch.includes(2)) throw new Error('2 is odd');
    return batch.map((one) => one > 1);
  });
  expect(write([1, 3])).toEqual([{ changed: false }, { changed: true }]);
  expect(write([1, 2, 3])).toEqual([{ changed: false }, { fault: '2 is odd' }, { changed: true }]);
  expect(write([2])).toEqual([{ fault: '2 is odd' }]);
  expect(transactions).toEqual([[1, 3], [1, 2, 3], [1], [2], [3], [2]]);
});
