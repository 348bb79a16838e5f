/**
 * The outside wire of a test's network, kept under watch from its first packet
 * to its last: all that the gateway sends there is captured, and when the
 * network closes it is searched for inner addresses, in every position and
 * encoding (inner-forms.ts). So is what programs on the outside printed, such
 * as curl: TLS hides our answers on the wire, and they are in clear there. A
 * find fails the file that the network belongs to.
 *
 * What may show an inner address is named, with the reason: show(). What was
 * searched is noted in the run's folder, for its last lines (summary.ts).
 * Without such a folder (demo, bench) nothing is captured.
 */
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Child, ROOT, until } from './child.ts';
import { InnerForms } from './inner-forms.ts';
import { searchCapture } from './wire-search.ts';

/** The environment's word for the folder of a run's captures. */
const FOLDER = 'WIRE_FOLDER';
const NOTES = 'searched.jsonl';
/** Of many segments, as the stack hands it over. */
const LARGEST_FRAME = 65_568;
const RING_KIB = 32_768;

/** Which wire, and whose addresses must not be seen there. */
export interface Outside {
  /** The end that is not the gateway's. */
  readonly namespace: string;
  readonly interface: string;
  /** Prefixes of the inside. */
  readonly inner: readonly string[];
}

/** What one network's wire gave, or several. */
export interface Searched {
  readonly networks: number;
  readonly packets: number;
  readonly bytes: number;
  /** Packets that were let show what they show. */
  readonly exempt: number;
  /** Packets that the kernel could not give. */
  readonly lost: number;
  /** Bytes that programs of the outside printed. */
  readonly answers: number;
}

interface Shown {
  /** An inner address, or all of them. */
  readonly source?: string;
  readonly to?: string;
  readonly sinceMs: number;
  untilMs: number;
}

/** Makes the folder of a run; the way back takes it away. */
export function keepWires(): () => void {
  const folder = join(ROOT, '.cache', `wires-${process.pid}`);
  for (const name of existsSync(join(ROOT, '.cache')) ? readdirSync(join(ROOT, '.cache')) : []) {
    const owner = /^wires-(\d+)$/.exec(name)?.[1]; // of a run that was killed
    if (owner && !existsSync(`/proc/${owner}`)) rmSync(join(ROOT, '.cache', name), { recursive: true, force: true });
  }
  mkdirSync(folder, { recursive: true });
  process.env[FOLDER] = folder;
  return () => {
    delete process.env[FOLDER];
    rmSync(folder, { recursive: true, force: true });
  };
}

/** All that this run has searched so far. */
export function searchedSoFar(): Searched {
  const none: Searched = { networks: 0, packets: 0, bytes: 0, exempt: 0, lost: 0, answers: 0 };
  const file = join(process.env[FOLDER] ?? '', NOTES);
  if (!process.env[FOLDER] || !existsSync(file)) return none;
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  return lines.reduce((sum, line) => {
    const one = JSON.parse(line) as Searched;
    const add = (name: keyof Searched) => sum[name] + one[name];
    return {
      ...{ networks: add('networks'), packets: add('packets'), bytes: add('bytes') },
      ...{ exempt: add('exempt'), lost: add('lost'), answers: add('answers') },
    };
  }, none);
}

export class Wire {
  readonly #file: string;
  readonly #tcpdump: Child;
  readonly #prefixes: readonly string[];
  readonly #addresses = new Set<string>();
  readonly #shown: Shown[] = [];
  readonly #printed: string[] = [];

  private constructor(file: string, tcpdump: Child, prefixes: readonly string[]) {
    this.#file = file;
    this.#tcpdump = tcpdump;
    this.#prefixes = prefixes;
  }

  /** Starts to capture, where this run keeps wires; `inside` makes a command run in the namespace. */
  static watch(id: string, { interface: name, inner }: Outside, inside: (command: readonly string[]) => string[]) {
    const folder = process.env[FOLDER];
    if (!folder) return undefined;
    const file = join(folder, `${id}.pcap`);
    // At once and not by blocks: the last packet counts. Each place in the kernel's ring is as large as the largest packet.
    const how = ['-s', String(LARGEST_FRAME), '-B', String(RING_KIB), '--immediate-mode', '-Z', 'root'];
    const tcpdump = ['tcpdump', '-i', name, '-n', ...how, '-w', file];
    // What comes from the gateway is inbound here.
    return new Wire(file, new Child(inside([...tcpdump, 'inbound'])), inner);
  }

  /** Resolves when it captures. */
  async ready(): Promise<void> {
    await until('tcpdump to listen', () => (/listening on/.test(this.#tcpdump.errors) ? true : this.#ifDead()));
  }

  /** An address that something inside has. */
  inside(address: string): void {
    this.#addresses.add(address);
  }

  /**
   * From now on, until the returned function is called, packets from this inner address (absent: any) to that one
   * (absent: anybody) may show what they show. The reason is for the reader.
   */
  show(what: { readonly source?: string; readonly to?: string }, _reason: string): () => void {
    const shown: Shown = { ...what, sinceMs: Date.now(), untilMs: Number.POSITIVE_INFINITY };
    this.#shown.push(shown);
    return () => {
      shown.untilMs = Date.now();
    };
  }

  /** What a program on the outside printed. */
  printed(text: string): void {
    this.#printed.push(text);
  }

  /** Ends the capture and searches all. @throws Error that shows what was found */
  async end(): Promise<void> {
    await this.ready(); // a signal before that would end it
    const lost = await this.#drained();
    await this.#tcpdump.stop('SIGTERM');
    const forms = new InnerForms(this.#prefixes, [...this.#addresses]);
    const exempt = (source: string, destination: string, atMs: number) =>
      this.#shown.some(
        ({ source: from = source, to = destination, sinceMs, untilMs }) =>
          from === source && to === destination && atMs >= sinceMs && atMs <= untilMs,
      );
    const { leaks, ...found } = searchCapture(this.#file, forms, exempt);
    // Whoever may see an address may tell it.
    const known = this.#shown.flatMap(({ source }) => source ?? []);
    const told = this.#printed.flatMap((all) => {
      const text = known.reduce((rest, address) => rest.replaceAll(address, 'shown'), all);
      const certificates = Array.from(text.matchAll(PEM), ([, base64 = '']) => Buffer.from(base64, 'base64'));
      const finds = [Buffer.from(text), ...certificates].flatMap((bytes) => forms.find(bytes) ?? []);
      return finds.map((find) => `what a program outside was told: ${find}`);
    });
    const answers = this.#printed.reduce((sum, text) => sum + text.length, 0);
    const searched: Searched = { networks: 1, lost, answers, ...found };
    appendFileSync(join(this.#file, '..', NOTES), `${JSON.stringify(searched)}\n`);
    const all = [...leaks, ...told];
    if (all.length > 0) throw new Error(`an inner address was seen outside:\n  ${all.join('\n  ')}\n(${this.#file})`);
    rmSync(this.#file);
  }

  /** For moments that cannot wait. */
  kill(): void {
    this.#tcpdump.kill();
  }

  /** Resolves when tcpdump has read all that the kernel gave it, with how many packets were lost. */
  async #drained(): Promise<number> {
    // Its counts never meet where a packet came before its filter was set: it has read all when they stand still.
    let before = '';
    return await until('tcpdump to have read all', async () => {
      const from = this.#tcpdump.errors.length;
      this.#tcpdump.kill('SIGUSR1');
      const counts = await until('its counts', () => COUNTS.exec(this.#tcpdump.errors.slice(from)) ?? this.#ifDead());
      const [text, dropped] = counts;
      if (text === before) return Number(dropped);
      before = text;
      return undefined;
    });
  }

  #ifDead(): undefined {
    if (!this.#tcpdump.running) throw new Error(`tcpdump has exited\n${this.#tcpdump.errors}`);
  }
}

const PEM = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END/g;
const COUNTS = /\d+ packets? captured, \d+ packets? received by filter, (\d+) packets? dropped by kernel/;
