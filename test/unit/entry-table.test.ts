/** The tables of keys, as the gate finds them: what was put is in one of a key's two buckets, whatever else is there. */
import { describe, expect, test } from 'vitest';
import { bucketsFor, EntryTable, placesOf } from '../../agent/dataplane/entry-table.ts';
import { BUCKET_SLOTS } from '../../agent/dataplane/layout.ts';

const SEED = 0x1234_5678_9abc_def1n;

/** A table for so many keys, beside entries that have one each. */
function made(keys: number) {
  const memory = new ArrayBuffer(bucketsFor(keys) * BUCKET_SLOTS * 8);
  const entries = new Map<number, Uint8Array>();
  const table = new EntryTable(memory, SEED, (index) => entries.get(index));
  const halves = new Uint32Array(memory);
  /** Where a key leads: an index whose entry has it. */
  const find = (key: Uint8Array): number[] => {
    const { first, second, tag } = placesOf(key, SEED, bucketsFor(keys));
    return [...new Set([first, second])].flatMap((bucket) =>
      Array.from({ length: BUCKET_SLOTS }, (_, i) => bucket * BUCKET_SLOTS + i).flatMap((at) => {
        const index = halves[at * 2] as number;
        const entry = halves[at * 2 + 1] === tag ? entries.get(index) : undefined;
        return entry && Buffer.compare(entry, key) === 0 ? index : [];
      }),
    );
  };
  const slots = () =>
    Array.from({ length: halves.length / 2 }, (_, at) => halves[at * 2 + 1]).filter((tag) => tag !== 0);
  return { table, entries, find, slots };
}

function keyOf(number: number): Uint8Array {
  const key = new Uint8Array(32);
  new DataView(key.buffer).setUint32(12, number);
  return key;
}

describe('a table', () => {
  test('holds as many keys as it was made for, at the most half full, and each is found', () => {
    const keys = 50_000;
    const { table, entries, find } = made(keys);
    expect(bucketsFor(keys) * BUCKET_SLOTS).toBeGreaterThanOrEqual(2 * keys);
    for (let i = 0; i < keys; i++) {
      entries.set(i, keyOf(i));
      table.put(keyOf(i), i);
    }
    for (let i = 0; i < keys; i++) expect(find(keyOf(i))).toEqual([i]);
    expect(find(keyOf(keys))).toEqual([]);
  });

  test('leads a key to one index: that which was put last', () => {
    const { table, entries, find, slots } = made(100);
    entries.set(1, keyOf(7));
    table.put(keyOf(7), 1);
    entries.set(2, keyOf(7));
    table.put(keyOf(7), 2);
    expect(find(keyOf(7))).toEqual([2]);
    table.remove(keyOf(7), 1); // which it does not lead to any more
    expect(find(keyOf(7))).toEqual([2]);
    table.remove(keyOf(7), 2);
    expect(slots()).toEqual([]);
  });

  test('takes a slot that leads nowhere, and refuses what has no room, with nothing lost', () => {
    const { table, entries, find } = made(4); // one bucket
    for (let i = 0; i < BUCKET_SLOTS; i++) {
      entries.set(i, keyOf(i));
      table.put(keyOf(i), i);
    }
    expect(() => table.put(keyOf(99), 99)).toThrow(expect.objectContaining({ code: 'gateFault' }));
    for (let i = 0; i < BUCKET_SLOTS; i++) expect(find(keyOf(i))).toEqual([i]);
    entries.set(3, keyOf(33)); // another grant's by now
    entries.set(99, keyOf(99));
    table.put(keyOf(99), 99);
    expect(find(keyOf(99))).toEqual([99]);
    expect(find(keyOf(3))).toEqual([]);
  });
});
