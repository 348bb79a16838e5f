/**
 * Much work in slices: in between, the loop answers whoever has come.
 */

/** So many of anything that touches a record at once: some milliseconds of the loop, and one commit that nobody minds. */
export const SLICE = 128;

/** The loop does what else there is to do, and comes back. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Acts on all, a slice at a time; each slice is waited for. The first that failed fails the whole, and holds up no other. */
export async function inSlices<Item>(items: readonly Item[], act: (item: Item) => Promise<void>): Promise<void> {
  const faults: unknown[] = [];
  for (let at = 0; at < items.length; at += SLICE) {
    if (at > 0) await breathe();
    faults.push(...(await faultsOf(items.slice(at, at + SLICE).map(act))));
  }
  if (faults.length > 0) throw faults[0];
}

/** What comes, in slices; between two of them the loop breathes. */
export async function* slicesOf<Item>(items: Iterable<Item>, size = SLICE): AsyncGenerator<readonly Item[]> {
  let slice: Item[] = [];
  for (const item of items) {
    slice.push(item);
    if (slice.length < size) continue;
    yield slice;
    slice = [];
    await breathe();
  }
  if (slice.length > 0) yield slice;
}

/** Waits for all of them; returns what the failed ones failed with. */
export async function faultsOf(waits: readonly Promise<void>[]): Promise<unknown[]> {
  const outcomes = await Promise.allSettled(waits);
  return outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
}
