/**
 * Who is told while grants are asked for, and what it is told of; run inside
 * namespaces as
 *
 *   tsx test/bench/stream-peers.ts readers COUNT PATH CA CERTIFICATE KEY
 *   tsx test/bench/stream-peers.ts denied A-SECOND ENDPOINT…
 *   tsx test/bench/stream-peers.ts ends A-SECOND CA CERTIFICATE KEY
 *
 * `readers` opens so many server-sent event streams at each line `open`, says
 * `open` when all of them are answered, and at a line `close` ends them and
 * says `closed` with how many events each of them has heard, as JSON. `denied`
 * sends so many UDP packets a second to external endpoints, in turn, that are
 * not for it. `ends` makes and gives back so many grants a second, so that its
 * server's streams have something to tell.
 */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { connect, type TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { API_PORT } from '../agent.ts';
import { program } from '../child.ts';
import { GATEWAY } from '../standard-network.ts';
import { Connection, deviceName, type Identity } from './client.ts';

/** The command that runs it. */
export function streamPeer(...args: readonly string[]): string[] {
  return program('test/bench/stream-peers.ts', ...args);
}

/** Below what the client of the bench asks for; from 2000 on are those of `denied`. */
const ENDED_PORT = 1_500;
/** In pieces that are small beside what is told of at once. */
const TICK_MS = 20;

interface Reader {
  readonly socket: TLSSocket;
  events: number;
}

function openReader(path: string, identity: Identity): Promise<Reader> {
  return new Promise((resolve, reject) => {
    const { ipv4: host } = GATEWAY;
    const socket = connect({ host, port: API_PORT, ...identity }, () =>
      socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}:${API_PORT}\r\n\r\n`),
    );
    const reader = { socket, events: 0 };
    socket.setEncoding('latin1').once('data', (head: string) => {
      if (head.startsWith('HTTP/1.1 200 ')) resolve(reader);
      else reject(new Error(head));
    });
    // One that is told in two pieces between `event` and `:` is not counted; nothing rests on it.
    socket.on('data', (text: string) => {
      reader.events += text.split('\nevent:').length - 1;
    });
    socket.on('error', reject);
    socket.on('close', () => process.stdout.write('a reader was cut\n'));
  });
}

async function beReaders(count: number, path: string, identity: Identity): Promise<void> {
  let readers: Reader[] = [];
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === 'open') {
      readers = await Promise.all(Array.from({ length: count }, () => openReader(path, identity)));
      process.stdout.write('open\n');
    } else {
      const heard = readers.map(({ events }) => events);
      for (const { socket } of readers) socket.removeAllListeners('close').destroy();
      process.stdout.write(`closed ${JSON.stringify(heard)}\n`);
    }
  }
}

/** Acts so often a second, for ever. */
function steadily(aSecond: number, act: (i: number) => void): void {
  const start = performance.now();
  let done = 0;
  setInterval(() => {
    for (const due = ((performance.now() - start) / 1000) * aSecond; done < due; done++) act(done);
  }, TICK_MS);
}

function beDenied(aSecond: number, endpoints: readonly string[]): void {
  const socket = createSocket('udp4');
  steadily(aSecond, (i) => {
    const [host, port] = (endpoints[i % endpoints.length] ?? '').split(':');
    socket.send('let me in', Number(port), host);
  });
}

async function beEnds(aSecond: number, identity: Identity): Promise<void> {
  const path = '/mobile-terminated-access/v1/grants';
  const connection = await Connection.open({ host: GATEWAY.ipv4, port: API_PORT, path }, identity);
  let before: Promise<unknown> = Promise.resolve();
  const device = { networkAccessIdentifier: deviceName(0) };
  const body = JSON.stringify({ device, protocol: 'UDP', devicePort: ENDED_PORT, durationSeconds: 600 });
  steadily(aSecond, () => {
    before = before.then(async () => {
      const id = /"grantId":"([^"]+)"/.exec(await connection.ask(body))?.[1];
      if (id) await connection.ask('', 'DELETE', `/${id}`);
    });
  });
}

const [, file, role, ...rest] = process.argv;
if (file === fileURLToPath(import.meta.url)) {
  const identityOf = (files: readonly string[]): Identity => {
    const [ca, cert, key] = files.map((name) => readFileSync(name)) as [Buffer, Buffer, Buffer];
    return { ca, cert, key };
  };
  process.stdout.write('ready\n');
  const [first = '', second = '', ...others] = rest;
  if (role === 'readers') await beReaders(Number(first), second, identityOf(others));
  else if (role === 'denied') beDenied(Number(first), [second, ...others]);
  else await beEnds(Number(first), identityOf([second, ...others]));
}
