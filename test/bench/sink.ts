/**
 * Where a device listens on many ports at once, and what came there. Run in
 * the device's namespace, as
 *
 *   tsx test/bench/sink.ts FIRST-PORT COUNT
 *
 * A datagram is a label and the time it was sent (CLOCK_MONOTONIC, which all
 * processes of a machine share). At a line with the beginning of a label it
 * says `came` and, by label, what came: how often, and the last of them.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** Times in milliseconds of CLOCK_MONOTONIC. */
export interface Came {
  readonly count: number;
  readonly lastCameMs: number;
  readonly lastSentMs: number;
}

/** CLOCK_MONOTONIC, in milliseconds. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

async function run(firstPort: number, ports: number): Promise<void> {
  const came = new Map<string, Came>();
  const tell = (line: string) => process.stdout.write(`${line}\n`);
  for (let i = 0; i < ports; i++) {
    const socket = createSocket('udp4');
    socket.on('message', (data) => {
      const [label = '', sent] = data.toString('latin1').split(' ');
      came.set(label, {
        count: (came.get(label)?.count ?? 0) + 1,
        lastCameMs: monotonicMs(),
        lastSentMs: Number(sent),
      });
    });
    socket.bind(firstPort + i);
    await once(socket, 'listening');
  }
  tell('ready');
  createInterface({ input: process.stdin }).on('line', (beginning) => {
    tell(`came ${JSON.stringify(Object.fromEntries([...came].filter(([label]) => label.startsWith(beginning))))}`);
  });
}

const [, file, firstPort, ports] = process.argv;
if (file === fileURLToPath(import.meta.url)) await run(Number(firstPort), Number(ports));
