/**
 * The two ends of triggers over CoAP, run inside namespaces as
 *
 *   tsx test/bench/trigger-peers.ts device PORT ADDRESS…
 *   tsx test/bench/trigger-peers.ts sender SOURCE PORT ADDRESS…
 *
 * `device` is as many devices as it has addresses, each with the least that a
 * device does: it acknowledges each POST by 2.04, and prints nothing. `sender`
 * takes a line `ours SECONDS` or `library SECONDS`, sends a trigger to each
 * device and, as soon as one is acknowledged, the next to it; and prints
 * `done` with what it did, as JSON. Both clients use the same address and
 * port, one after the other.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Agent } from 'coap';
import { address, prefix } from '../../agent/core/net.ts';
import type { RealmName } from '../../agent/core/words.ts';
import { systemClock, systemRandom } from '../../agent/host.ts';
import { openDelivery } from '../../agent/triggers/trigger-source.ts';
import { program } from '../child.ts';
import { KeptLog } from '../clock.ts';

export type Client = 'ours' | 'library';

export interface Delivered {
  readonly acknowledged: number;
  readonly failed: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
}

/** The command that runs it. */
export function triggerPeer(...args: readonly string[]): string[] {
  return program('test/bench/trigger-peers.ts', ...args);
}

const REALM = 'iot' as RealmName;
const PAYLOAD = Buffer.from('read the meter');
const ACKNOWLEDGED = 0x60; // version 1, acknowledgement
const CHANGED = 0x44; // 2.04

async function beDevices(port: number, hosts: readonly string[]): Promise<void> {
  for (const host of hosts) {
    const socket = createSocket('udp4');
    socket.on('message', (request, { address: from, port: fromPort }) => {
      const answer = Buffer.from(request.subarray(0, 4 + ((request[0] ?? 0) & 15)));
      answer[0] = ACKNOWLEDGED | ((request[0] ?? 0) & 15);
      answer[1] = CHANGED;
      socket.send(answer, fromPort, from);
    });
    await new Promise<void>((bound) => socket.bind(port, host, bound));
  }
}

type Send = (host: string) => Promise<boolean>;

function openOurs(source: string, port: number): { send: Send; close: () => Promise<void> } {
  const ports = [{ low: port, high: port }];
  const triggers = { sources: [address(source)], sourcePort: port, ports, coapPorts: ports, coapPath: ['trigger'] };
  const inside = [{ realm: REALM, prefixes: [prefix('10.20.0.0/16')] }];
  const delivery = openDelivery({ triggers, inside }, { clock: systemClock, random: systemRandom, log: new KeptLog() });
  const never = new AbortController().signal;
  return {
    send: async (host) =>
      (await delivery?.deliver({ inner: { realm: REALM, address: address(host) }, port }, PAYLOAD, never)) ===
      'acknowledged',
    close: async () => delivery?.close(),
  };
}

async function openLibrary(source: string, port: number): Promise<{ send: Send; close: () => Promise<void> }> {
  const socket = createSocket('udp4').bind(port, source);
  await once(socket, 'listening');
  const agent = new Agent({ type: 'udp4', socket });
  return {
    send: (hostname) =>
      new Promise((acknowledged) => {
        const request = agent.request({ hostname, port, pathname: '/trigger', method: 'POST', confirmable: true });
        request.on('response', ({ code }) => acknowledged(code === '2.04'));
        request.on('error', () => acknowledged(false));
        request.end(PAYLOAD);
      }),
    close: () => new Promise((closed) => socket.close(() => closed())),
  };
}

/** One trigger at a time to each device, for so long. */
async function run(client: Client, seconds: number, source: string, port: number, hosts: readonly string[]) {
  const { send, close } = client === 'ours' ? openOurs(source, port) : await openLibrary(source, port);
  let [acknowledged, failed] = [0, 0];
  const began = performance.now();
  const cpu = process.cpuUsage();
  const end = began + seconds * 1000;
  await Promise.all(
    hosts.map(async (host) => {
      while (performance.now() < end) {
        if (await send(host)) acknowledged += 1;
        else failed += 1;
      }
    }),
  );
  const { user, system } = process.cpuUsage(cpu);
  const done = { acknowledged, failed, seconds: (performance.now() - began) / 1000, cpuSeconds: (user + system) / 1e6 };
  await close();
  return done satisfies Delivered;
}

const [, file, role, first = '', second = '', ...rest] = process.argv;
if (file === fileURLToPath(import.meta.url)) {
  if (role === 'device') await beDevices(Number(first), [second, ...rest]);
  else {
    createInterface({ input: process.stdin }).on('line', async (line) => {
      const [client, seconds] = line.split(' ');
      const done = await run(client as Client, Number(seconds), first, Number(second), rest);
      process.stdout.write(`done ${JSON.stringify(done)}\n`);
    });
  }
  process.stdout.write('ready\n');
}
