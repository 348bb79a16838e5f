/** What is costly to read, and asked for with every scrape: read again only when the last reading is old. */
export class Reading<Value> {
  readonly #read: () => Promise<Value>;
  readonly #goodForMs: number;
  #last: Promise<Value> | undefined;
  #untilMs = 0;

  constructor(read: () => Promise<Value>, goodForMs: number) {
    this.#read = read;
    this.#goodForMs = goodForMs;
  }

  value(): Promise<Value> {
    const now = performance.now();
    if (!this.#last || now >= this.#untilMs) {
      this.#untilMs = now + this.#goodForMs;
      this.#last = this.#read();
      this.#last.catch(() => {}); // whoever asks has the fault
    }
    return this.#last;
  }

  /** What was read last is so no more. */
  forget(): void {
    this.#last = undefined;
  }
}
