import type { Dataplane, Entry } from '../agent/dataplane/dataplane.ts';

/** All of a data plane's entries that are not empty, whole, in the order of their indices. */
export function entriesOf(plane: Dataplane): Entry[] {
  return [...plane.states()].flatMap(({ index }) => plane.entry(index) ?? []);
}
