/**
 * What was on a wire: all frames that an interface of a namespace sent or
 * received, to prove what is not among them. The class is the test's side;
 * the same file run as a program captures with `cap` in a process of its own,
 * since `cap` aborts its process when the interface vanishes.
 *
 * Frames come in the order of the wire, so `through(marker)` is the proof
 * that all before the marker was seen. It can also put a frame on the wire
 * as it is, with any source that no socket would lend.
 */
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Child, program } from './child.ts';
import type { Network } from './network.ts';

export class Capture {
  readonly #child: Child;
  #sent = 0;

  private constructor(child: Child) {
    this.#child = child;
  }

  /** `filter` is a pcap-filter(7) expression; absent: everything. */
  static async start(network: Network, namespace: string, device: string, filter = ''): Promise<Capture> {
    const command = program('test/capture.ts', device, filter);
    return new Capture(await network.spawn(namespace, command, { line: /^ready$/ }));
  }

  /** All frames so far. */
  frames(): Uint8Array[] {
    return this.#child.lines.filter((line) => line.startsWith('<')).map((line) => Buffer.from(line.slice(1), 'hex'));
  }

  /** All frames so far, once one that holds the marker is among them. */
  async through(marker: Uint8Array): Promise<Uint8Array[]> {
    await this.#child.line(new RegExp(`^<(..)*${Buffer.from(marker).toString('hex')}`));
    return this.frames();
  }

  /** The frames so far that hold these bytes anywhere. */
  holding(bytes: Uint8Array): Uint8Array[] {
    return this.frames().filter((frame) => Buffer.from(frame).includes(Buffer.from(bytes)));
  }

  /** Puts a frame on the wire as it is. */
  send(frame: Uint8Array): void {
    this.#child.say(Buffer.from(frame).toString('hex'));
    this.#sent += 1;
  }

  /** Resolves when all that was put on the wire is there. */
  async sent(): Promise<void> {
    const wanted = `sent ${this.#sent}`;
    if (this.#sent > 0) await this.#child.line(new RegExp(`^${wanted}$`));
  }

  stop(): Promise<void> {
    return this.#child.stop();
  }
}

async function run(device: string, filter: string): Promise<void> {
  // Here and not above: the native part has no business in the test's own process.
  const { default: cap } = await import('cap');
  const handle = new cap.Cap();
  const frame = Buffer.alloc(65_536);
  handle.open(device, filter, 16 << 20, frame);
  handle.on('packet', (length) => process.stdout.write(`<${frame.toString('hex', 0, length)}\n`));
  let sent = 0;
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      handle.send(Buffer.from(line, 'hex'));
      process.stdout.write(`sent ${++sent}\n`);
    })
    .on('close', () => process.exit(0));
  process.stdout.write('ready\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await run(process.argv[2] ?? '', process.argv[3] ?? '');
