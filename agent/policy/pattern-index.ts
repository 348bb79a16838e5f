/**
 * Device patterns by what they fix: the domain, or its end, and the letters
 * that the local part begins with. Of 10,000 patterns it names the few that
 * can match an identifier, or overlap a pattern; whether one does, patterns.ts
 * says. What a pattern fixes behind a star (`*-7@acme.example`) prunes nothing.
 *
 * Each place, a domain and a beginning, has one slot, in which its maker keeps
 * whatever belongs there.
 */
import { type DevicePattern, fixedStart } from './patterns.ts';

/** The places of one domain. */
interface Places<Slot> {
  /** How long its beginnings are, the shortest first. */
  readonly lengths: number[];
  readonly byStart: Map<string, Slot>;
  /** In order; made when it is first asked for. */
  starts: readonly string[] | undefined;
}

export class PatternIndex<Slot> {
  readonly #makeSlot: () => Slot;
  readonly #byEnding = new Map<string, Places<Slot>>();
  /** Endings that lie below one, whether that one has places or not. */
  readonly #below = new Map<string, string[]>();

  constructor(makeSlot: () => Slot) {
    this.#makeSlot = makeSlot;
  }

  /** The slot of a pattern's place. */
  at({ local, ending }: DevicePattern): Slot {
    const places = this.#byEnding.get(ending) ?? this.#begin(ending);
    const start = fixedStart(local.text);
    const known = places.byStart.get(start);
    if (known) return known;
    const slot = this.#makeSlot();
    places.byStart.set(start, slot);
    places.starts = undefined;
    if (!places.lengths.includes(start.length)) {
      places.lengths.push(start.length);
      places.lengths.sort((a, b) => a - b);
    }
    return slot;
  }

  *slots(): Generator<Slot> {
    for (const { byStart } of this.#byEnding.values()) yield* byStart.values();
  }

  /** The slots of all patterns that can match. */
  matching(externalId: string): Slot[] {
    const found: Slot[] = [];
    const at = externalId.indexOf('@');
    for (let cut = at; ; cut = externalId.indexOf('.', cut + 1)) {
      const places = this.#byEnding.get(cut < 0 ? '' : externalId.slice(cut));
      if (places) startingWithin(places, externalId, at, found);
      if (cut < 0) return found;
    }
  }

  /** The slots of all patterns that can overlap. */
  overlapping({ local, ending, subdomains }: DevicePattern): Slot[] {
    const found: Slot[] = [];
    const start = fixedStart(local.text);
    const below = subdomains ? (this.#below.get(ending) ?? []) : [];
    for (const one of [ending, ...endingsAbove(ending), ...below]) {
      const places = this.#byEnding.get(one);
      if (!places) continue;
      startingWithin(places, start, start.length, found);
      startingWith(places, start, found);
    }
    return found;
  }

  #begin(ending: string): Places<Slot> {
    const places: Places<Slot> = { lengths: [], byStart: new Map(), starts: undefined };
    this.#byEnding.set(ending, places);
    for (const above of endingsAbove(ending)) {
      const below = this.#below.get(above);
      if (below) below.push(ending);
      else this.#below.set(above, [ending]);
    }
    return places;
  }
}

/** Places whose beginning is one of the text's, as far as `most`. */
function startingWithin<Slot>({ lengths, byStart }: Places<Slot>, text: string, most: number, found: Slot[]): void {
  for (const length of lengths) {
    if (length > most) return;
    const slot = byStart.get(text.slice(0, length));
    if (slot !== undefined) found.push(slot);
  }
}

/** Places whose beginning goes on behind this one. */
function startingWith<Slot>(places: Places<Slot>, start: string, found: Slot[]): void {
  places.starts ??= [...places.byStart.keys()].sort();
  const { starts, byStart } = places;
  let [low, high] = [0, starts.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((starts[middle] as string) <= start) low = middle + 1;
    else high = middle;
  }
  for (let i = low; i < starts.length && starts[i]?.startsWith(start); i++) {
    found.push(byStart.get(starts[i] as string) as Slot);
  }
}

/** Of `@m.acme.example`: `.acme.example`, `.example` and the empty one, which all domains end in. */
function endingsAbove(ending: string): string[] {
  const above: string[] = [];
  if (ending === '') return above;
  for (let dot = ending.indexOf('.', 1); dot > 0; dot = ending.indexOf('.', dot + 1)) above.push(ending.slice(dot));
  return [...above, ''];
}
