/**
 * What arrives behind the inside interface, whoever it is for: run inside the
 * devices' namespace as
 *
 *   tsx test/kernel/crash/sink.ts INTERFACE
 *
 * it prints `SERIAL TICK PROTOCOL ADDRESS PORT` for every packet of source.ts
 * that the gateway let through, as it lay on the wire: no socket is asked.
 */
import { fileURLToPath } from 'node:url';
import { addressFromBytes } from '../../../agent/core/net.ts';
import { program } from '../../child.ts';
import type { Network } from '../../network.ts';
import { UPLINK } from '../../standard-network.ts';

export interface Arrival {
  readonly serial: number;
  readonly tickUs: number;
  readonly protocol: string;
  readonly address: string;
  readonly port: number;
}

export async function startSink(network: Network, arrived: (what: Arrival) => void): Promise<void> {
  const child = await network.spawn('device', program('test/kernel/crash/sink.ts', UPLINK), { line: /^ready$/ });
  child.hear((line) => {
    const [serial, tickUs, protocol = '', address = '', port] = line.split(' ');
    arrived({ serial: Number(serial), tickUs: Number(tickUs), protocol, address, port: Number(port) });
  });
}

const ETHERNET = 14;
const UDP = 17;
const UDP_HEADER = 8;
const TCP_HEADER = 20;

/** One line for a frame; undefined where it is none of ours. */
function read(frame: Buffer): string | undefined {
  const six = frame[12] === 0x86;
  const protocol = frame[ETHERNET + (six ? 6 : 9)] === UDP ? 'udp' : 'tcp';
  const transport = ETHERNET + (six ? 40 : 20);
  const text = frame.toString('latin1', transport + (protocol === 'udp' ? UDP_HEADER : TCP_HEADER));
  const [, serial, tick] = /^mtg (\d+) (\d+)/.exec(text) ?? [];
  if (serial === undefined) return undefined;
  const at = ETHERNET + (six ? 24 : 16);
  const bytes = six ? frame.subarray(at, at + 16) : mapped(frame.subarray(at, at + 4));
  return `${serial} ${tick} ${protocol} ${addressFromBytes(bytes).text} ${frame.readUInt16BE(transport + 2)}`;
}

function mapped(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from([...new Array<number>(10).fill(0), 0xff, 0xff, ...bytes]);
}

async function run(device: string): Promise<void> {
  const { default: cap } = await import('cap');
  const handle = new cap.Cap();
  const frame = Buffer.alloc(65_536);
  handle.open(device, 'udp or tcp', 16 << 20, frame);
  handle.on('packet', (length) => {
    const line = read(frame.subarray(0, length));
    if (line) process.stdout.write(`${line}\n`);
  });
  process.stdin.resume().on('end', () => process.exit(0));
  process.stdout.write('ready\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await run(process.argv[2] ?? '');
