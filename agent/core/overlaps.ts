/**
 * Which prefixes of different owners share an address: pools, realms, sources
 * of servers must not. Two prefixes are apart or one lies in the other, so in
 * order of their first address every prefix stands right behind those that
 * enclose it: one sorted pass finds all, however many there are.
 */
import { overlaps, type Prefix } from './net.ts';

export interface Owned {
  readonly prefix: Prefix;
  readonly owner: string;
}

/** Each prefix that lies in (or equals) one of another owner, with the nearest such. */
export function overlapsAmong<Item extends Owned>(
  items: readonly Item[],
): { readonly inner: Item; readonly outer: Item }[] {
  const found: { inner: Item; outer: Item }[] = [];
  const enclosing: Item[] = [];
  for (const inner of [...items].sort(byFirstAddress)) {
    let last = enclosing.at(-1);
    while (last && !overlaps(last.prefix, inner.prefix)) {
      enclosing.pop();
      last = enclosing.at(-1);
    }
    const outer = enclosing.findLast(({ owner }) => owner !== inner.owner);
    if (outer) found.push({ inner, outer });
    enclosing.push(inner);
  }
  return found;
}

/** By family first: an IPv4 prefix must not end the run of an IPv6 one. */
export function byFirstAddress(a: Pick<Owned, 'prefix'>, b: Pick<Owned, 'prefix'>): number {
  if (a.prefix.family !== b.prefix.family) return a.prefix.family === 'ipv4' ? -1 : 1;
  const [left, right] = [a.prefix.address.bytes, b.prefix.address.bytes];
  const at = left.findIndex((byte, i) => byte !== right[i]);
  return at < 0 ? a.prefix.length - b.prefix.length : (left[at] ?? 0) - (right[at] ?? 0);
}
