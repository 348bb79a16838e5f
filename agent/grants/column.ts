/**
 * A column of whole numbers (32 bits, signed) that grows in blocks: making it longer
 * moves nothing, however long it is. What was never set is 0.
 */
const BITS = 12;
const BLOCK = 1 << BITS;

export class Column {
  readonly #blocks: Int32Array[] = [];

  get(at: number): number {
    return this.#blocks[at >>> BITS]?.[at & (BLOCK - 1)] ?? 0;
  }

  set(at: number, value: number): void {
    while (at >>> BITS >= this.#blocks.length) this.#blocks.push(new Int32Array(BLOCK));
    (this.#blocks[at >>> BITS] as Int32Array)[at & (BLOCK - 1)] = value;
  }
}
