/**
 * The packet generator: generator.bpf.c, compiled, loaded and driven. The
 * class is the bench's side; the same file run as a program, inside the
 * generator's namespace and on one CPU, is the generator itself:
 *
 *   tsx test/bench/generator.ts OBJECT
 *
 * It takes lines of JSON, an Order each, and answers each with `sent` and a
 * Sent. The first line is the targets, as base64 of struct target. A burst
 * ends within a slice of its time, so an interrupted bench is soon quiet.
 *
 * Everything a packet causes happens on the CPU that sent it: the redirect
 * wakes the receiving end's NAPI there, and forwarding runs in soft interrupt
 * before the next batch. So sender, gateway and receiver share one core, none
 * of them outruns the others, and the time of that core is what is measured.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { arch } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import type { Address } from '../../agent/core/net.ts';
import { address } from '../../agent/core/net.ts';
import { BpfObject } from '../../agent/dataplane/bpf.ts';
import { type Child, PATIENCE_MS, program, ROOT } from '../child.ts';
import type { Network } from '../network.ts';

/** Where packets are sent, and to which of the targets. */
export interface Order {
  readonly ifindex: number;
  /** MAC addresses: the gateway's, and the generator's own. */
  readonly to: string;
  readonly from: string;
  /** The one end of all packets; the targets are the other: where they go, or where they come from. */
  readonly peer: { readonly address: string; readonly port: number };
  readonly isOutward?: boolean;
  readonly first: number;
  readonly count: number;
  readonly seconds: number;
  /** So many, evenly, with the time of sending in them; absent: as fast as it goes. IPv4 only. */
  readonly perSecond?: number;
}

export interface Sent {
  readonly packets: number;
  /** How long the core was at work for it: not while others had the core. */
  readonly coreSeconds: number;
}

export interface Target {
  readonly address: Address;
  readonly port: number;
}

const TARGET_BYTES = 24;
const PLAN_BYTES = 48;
const STAMPED = 1;
const OUTWARD = 2;

export class Generator {
  readonly #child: Child;

  private constructor(child: Child) {
    this.#child = child;
  }

  /** Starts it in a namespace, on the given CPU. */
  static async start(network: Network, namespace: string, cpu: number, targets: readonly Target[]): Promise<Generator> {
    const command = ['taskset', '--cpu-list', String(cpu), ...program('test/bench/generator.ts', compile('generator'))];
    const child = await network.spawn(namespace, command, { line: /^waiting$/ });
    child.say(encode(targets).toString('base64'));
    await child.ready({ line: /^ready$/ });
    return new Generator(child);
  }

  async burst(order: Order): Promise<Sent> {
    const from = this.#child.lines.length;
    this.#child.say(JSON.stringify(order));
    const patienceMs = PATIENCE_MS + order.seconds * 1000;
    const line = await this.#child.line(/^sent /, { from, patienceMs });
    return JSON.parse(line.slice('sent '.length)) as Sent;
  }
}

/** One of the bench's own programs; returns the object file. */
export function compile(name: 'generator' | 'ends'): string {
  const object = `${ROOT}dist/bench/${name}.bpf.o`;
  mkdirSync(`${ROOT}dist/bench`, { recursive: true });
  const include = `-I/usr/include/${arch() === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
  const options = [
    '-O2',
    '-g',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-Wno-unused-parameter',
    '-target',
    'bpf',
    '-mcpu=v3',
    include,
  ];
  const compiler = 'clang'; // as for the gate itself
  execFileSync(compiler, [...options, '-c', `${ROOT}test/bench/${name}.bpf.c`, '-o', object]);
  return object;
}

/** As the programs have it: IPv4 in the first word. */
function wireOf({ family, bytes }: Address): Uint8Array {
  return family === 'ipv4' ? bytes.subarray(12) : bytes;
}

function encode(targets: readonly Target[]): Buffer {
  const bytes = Buffer.alloc(targets.length * TARGET_BYTES);
  for (const [i, { address: to, port }] of targets.entries()) {
    bytes.set(wireOf(to), i * TARGET_BYTES);
    bytes.writeUInt16BE(port, i * TARGET_BYTES + 16);
  }
  return bytes;
}

/** struct plan. */
function planBytes({ ifindex, first, count, peer, isOutward, to, from, perSecond }: Order): Buffer {
  const bytes = Buffer.alloc(PLAN_BYTES);
  const end = address(peer.address);
  bytes.writeUInt32LE(ifindex, 0);
  bytes.writeUInt32LE(first, 4);
  bytes.writeUInt32LE(count, 8);
  bytes.writeUInt32LE(end.family === 'ipv6' ? 1 : 0, 12);
  bytes.set(wireOf(end), 16);
  bytes.write(to.replaceAll(':', ''), 32, 'hex');
  bytes.write(from.replaceAll(':', ''), 38, 'hex');
  bytes.writeUInt16BE(peer.port, 44);
  bytes.writeUInt16LE((perSecond ? STAMPED : 0) | (isOutward ? OUTWARD : 0), 46);
  return bytes;
}

/** How many packets a call sends: some tens of milliseconds of them, beside which the call itself is nothing. */
const SLICE = 1 << 17;
/** Of packets that are sent evenly. */
const SLICES_PER_SECOND = 1_000;
/** Without the checksum that ends it on a wire. */
const FRAME_BYTES = { ipv4: 60, ipv6: 80 } as const;
const BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1;

/** Loads the program; returns what sends one slice. */
function open(object: string, targets: Uint8Array) {
  const count = targets.length / TARGET_BYTES;
  const loaded = new BpfObject(object);
  loaded.setMaxEntries('targets', count);
  loaded.load();
  const { memory } = loaded.mapped('targets', targets.length);
  new Uint8Array(memory).set(targets);

  const libbpf = koffi.load('libbpf.so.1');
  const testRun = libbpf.func('int bpf_prog_test_run_opts(int fd, void *options)');
  const frame = Buffer.alloc(FRAME_BYTES.ipv6);
  const options = Buffer.alloc(80); // struct bpf_test_run_opts
  options.writeBigUInt64LE(80n, 0);
  options.writeBigUInt64LE(koffi.address(frame), 8);
  options.writeUInt32LE(BPF_F_TEST_XDP_LIVE_FRAMES, 68);
  return {
    plans: loaded.map('plans', 4, PLAN_BYTES),
    send(family: keyof typeof FRAME_BYTES, packets: number) {
      options.writeInt32LE(packets, 60);
      options.writeUInt32LE(FRAME_BYTES[family], 24);
      options.writeUInt32LE(0, 28); // where the last call left its frame's size, as if this one's must fit
      const result: number = testRun(loaded.programFd('generate'), options);
      if (result < 0)
        throw new Error(
          `bpf_prog_test_run_opts: ${result} (frame of ${options.readUInt32LE(24)} of ${frame.length} bytes)`,
        );
    },
  };
}

/**
 * How long this thread has waited for its CPU while others had it. What is
 * left of the time passed is its own and that of the soft interrupts on top of
 * it, which some kernels leave out of a process's CPU time.
 */
function waitedSeconds(): number {
  return Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ')[1]) / 1e9;
}

function run(object: string): void {
  const tell = (line: string) => process.stdout.write(`${line}\n`);
  let generator: ReturnType<typeof open> | undefined;
  createInterface({ input: process.stdin }).on('line', (line) => {
    if (!generator) {
      generator = open(object, Buffer.from(line, 'base64'));
      return tell('ready');
    }
    const order = JSON.parse(line) as Order;
    generator.plans.update(Buffer.alloc(4), planBytes(order));
    const start = performance.now();
    const waitedBefore = waitedSeconds();
    const elapsed = () => (performance.now() - start) / 1000;
    let packets = 0;
    const { family } = address(order.peer.address);
    const slice = order.perSecond ? order.perSecond / SLICES_PER_SECOND : SLICE;
    for (; elapsed() < order.seconds; packets += slice) {
      // Waits at work: a timer would not be as even.
      while (order.perSecond && packets > elapsed() * order.perSecond);
      generator.send(family, slice);
    }
    const sent: Sent = { packets, coreSeconds: elapsed() - (waitedSeconds() - waitedBefore) };
    tell(`sent ${JSON.stringify(sent)}`);
  });
  tell('waiting');
}

const [, file, object = ''] = process.argv;
if (file === fileURLToPath(import.meta.url)) run(object);
