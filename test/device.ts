/**
 * A small real device program, or any other peer: an echo over TCP and UDP,
 * run inside a namespace as
 *
 *   tsx test/device.ts PORT[-LAST] ADDRESS...
 *
 * It prints `ready`, and then a line for all that reaches it:
 * `udp FROM TO TEXT` for a datagram, `tcp FROM TO` for a connection and
 * `tcp FROM TO TEXT` for what comes over it, `tcp FROM closed` for its end.
 * A test proves silence by these lines: what is not there before a later
 * marker's line did not arrive.
 *
 * What arrives goes back as it came; but `stream` is answered by a number
 * every 5 ms, counting up, without end: a running session, to be cut. Over
 * UDP `stop` ends it; the word on stdin ends all.
 */
import { createSocket, type RemoteInfo } from 'node:dgram';
import { createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

const EVERY_MS = 5;
const stops = new Set<() => void>();

const [portText = '', ...addresses] = process.argv.slice(2);
const [first = 0, last = first] = portText.split('-').map(Number);
const ports = Array.from({ length: last - first + 1 }, (_, i) => first + i);

const endpoint = (host: string, number: number) => (host.includes(':') ? `[${host}]:${number}` : `${host}:${number}`);
const tell = (...words: readonly string[]) => process.stdout.write(`${words.join(' ')}\n`);

function serveUdp(host: string, port: number): Promise<void> {
  const streams = new Map<string, NodeJS.Timeout>();
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
  const stop = (peer: string) => {
    clearInterval(streams.get(peer));
    streams.delete(peer);
  };
  stops.add(() => {
    for (const peer of streams.keys()) stop(peer);
  });
  socket.on('message', (data, from: RemoteInfo) => {
    const text = data.toString();
    const peer = endpoint(from.address, from.port);
    tell('udp', peer, endpoint(host, port), text);
    // A send may fail once the gateway refuses the peer; the stream goes on, as a stubborn device would.
    const send = (bytes: string | Uint8Array) => socket.send(bytes, from.port, from.address, () => {});
    if (text === 'stop') stop(peer);
    else if (text === 'stream') {
      let count = 0;
      stop(peer);
      streams.set(
        peer,
        setInterval(() => send(String(count++)), EVERY_MS),
      );
    } else send(data);
  });
  return new Promise((resolve) => socket.bind(port, host, resolve));
}

function serveTcp(host: string, port: number): Promise<void> {
  const server = createServer((socket: Socket) => {
    const peer = endpoint(socket.remoteAddress ?? '', socket.remotePort ?? 0);
    let stream: NodeJS.Timeout | undefined;
    const stop = () => clearInterval(stream);
    stops.add(stop);
    tell('tcp', peer, endpoint(host, port));
    socket.setNoDelay(true);
    socket.on('data', (data) => {
      const text = data.toString().trim();
      tell('tcp', peer, endpoint(host, port), text);
      if (text === 'stream') {
        let count = 0;
        stream ??= setInterval(() => socket.write(`${count++}\n`), EVERY_MS);
      } else socket.write(data);
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      stop();
      stops.delete(stop);
      tell('tcp', peer, 'closed');
    });
  });
  return new Promise((resolve) => server.listen(port, host, resolve));
}

await Promise.all(addresses.flatMap((host) => ports.flatMap((port) => [serveUdp(host, port), serveTcp(host, port)])));
createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'stop') for (const stop of stops) stop();
});
tell('ready');
