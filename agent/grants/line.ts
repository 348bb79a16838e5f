/**
 * Grants in the order in which they came, each with a number in that order
 * that no other of the line ever has. So a list can be read a page at a time
 * while it changes: the next page begins behind the last number read, whether
 * that grant still lives or not. Taking one out leaves a gap; where more than
 * half are gaps, they are closed.
 */
const SMALLEST = 8;
const GAP = -1;

export class Line {
  /** How many are in it. */
  size = 0;
  #next = 0;
  #end = 0;
  #sequences = new Float64Array(SMALLEST);
  #slots = new Int32Array(SMALLEST);
  readonly #moved: (slot: number, place: number) => void;

  /** `moved` is told the place of each slot: for `remove`. */
  constructor(moved: (slot: number, place: number) => void) {
    this.#moved = moved;
  }

  /** Puts a slot behind all others; returns its number. */
  append(slot: number): number {
    if (this.#end === this.#slots.length) this.#makeRoom(2 * this.#end);
    const sequence = this.#next++;
    this.#sequences[this.#end] = sequence;
    this.#slots[this.#end] = slot;
    this.#moved(slot, this.#end);
    this.#end += 1;
    this.size += 1;
    return sequence;
  }

  remove(place: number): void {
    this.#slots[place] = GAP;
    this.size -= 1;
    if (this.#end > 4 * SMALLEST && this.size < this.#end / 2) this.#closeGaps();
  }

  /** The slots behind a number, in order; -1 is behind none. None may be put in or taken out meanwhile. */
  *after(sequence: number): Generator<number> {
    for (let place = this.#firstAfter(sequence); place < this.#end; place++) {
      const slot = this.#slots[place] as number;
      if (slot !== GAP) yield slot;
    }
  }

  #firstAfter(sequence: number): number {
    let low = 0;
    let high = this.#end;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#sequences[middle] as number) > sequence) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #makeRoom(length: number): void {
    const [sequences, slots] = [new Float64Array(length), new Int32Array(length)];
    sequences.set(this.#sequences.subarray(0, this.#end));
    slots.set(this.#slots.subarray(0, this.#end));
    this.#sequences = sequences;
    this.#slots = slots;
  }

  #closeGaps(): void {
    let place = 0;
    for (let from = 0; from < this.#end; from++) {
      const slot = this.#slots[from] as number;
      if (slot === GAP) continue;
      this.#sequences[place] = this.#sequences[from] as number;
      this.#slots[place] = slot;
      this.#moved(slot, place);
      place += 1;
    }
    this.#end = place;
    if (this.#slots.length > 8 * Math.max(place, SMALLEST)) this.#makeRoom(2 * Math.max(place, SMALLEST));
  }
}
