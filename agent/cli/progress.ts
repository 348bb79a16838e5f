/**
 * How far a long transfer is: on a terminal one line that is written anew, a
 * bar where it is known how much there is; elsewhere a line now and then. On
 * standard error, so that what is printed stays what was asked for.
 */
const BAR = 24;
const REDRAWN_EVERY_MS = 200;
const TOLD_EVERY_MS = 10_000;
const NEWLINE = 0x0a;

export class Progress {
  readonly #total: number | undefined;
  readonly #terminal = process.stderr.isTTY;
  #bytes = 0;
  #rows = 0;
  #nextMs = performance.now() + (this.#terminal ? 0 : TOLD_EVERY_MS);

  /** `total` in bytes, where it is known. */
  constructor(total: number | undefined) {
    this.#total = total;
  }

  /** Passes bytes on, and counts them and their lines. */
  async *through(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of bytes) {
      yield chunk;
      this.#bytes += chunk.length;
      for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, at + 1)) this.#rows += 1;
      if (performance.now() < this.#nextMs) continue;
      this.#tell(this.#text());
      this.#nextMs = performance.now() + (this.#terminal ? REDRAWN_EVERY_MS : TOLD_EVERY_MS);
    }
    this.#tell(`${this.#text()}; the agent checks and writes them`);
  }

  /** Leaves a terminal's line as it was. */
  end(): void {
    if (this.#terminal) process.stderr.write('\r\x1b[K');
  }

  #text(): string {
    const counted = `${(this.#bytes / 1e6).toFixed(1)} MB, ${this.#rows} rows sent`;
    if (!this.#total) return counted;
    const part = Math.min(1, this.#bytes / this.#total);
    const percent = `${Math.floor(part * 100)} %`.padStart(5);
    return `${this.#terminal ? `[${'#'.repeat(Math.round(part * BAR)).padEnd(BAR, '-')}]` : ''}${percent}  ${counted}`;
  }

  #tell(text: string): void {
    process.stderr.write(this.#terminal ? `\r\x1b[K${text.slice(0, process.stderr.columns - 1)}` : `${text.trim()}\n`);
  }
}
