/**
 * An MTC server that uses what it is granted at once, and goes on using what
 * it ends: how soon each takes effect is seen by the sink (sink.ts). Run
 * inside the server's namespace, as
 *
 *   tsx test/bench/prompt-client.ts CA CERTIFICATE KEY
 *
 * it takes lines of JSON, an Order each, and answers `done` and what it did.
 * All datagrams come from one socket, so that what was refused before a grant
 * and what comes after it have the same addresses and ports.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Connection, DEVICES, deviceName, FIRST_PORT, type Identity } from './client.ts';
import { monotonicMs } from './sink.ts';

export interface Order {
  readonly host: string;
  readonly port: number;
  readonly path: string;
  /** Begin so many grants, each with a datagram as soon as it is answered; or end so many of them, amid a stream. */
  readonly what: 'begin' | 'end';
  readonly grants: number;
  /** Send to every one of these before: nobody is granted any of them yet. */
  readonly knock?: { readonly addresses: readonly string[]; readonly ports: readonly [number, number] };
}

/** What was done: labels, and for an end when its answer came (CLOCK_MONOTONIC). */
export interface Done {
  readonly labels: readonly string[];
  readonly answeredMs: readonly number[];
}

const CONNECTIONS = 8;
/** How long an ended grant is used before, and after. */
const STREAM_MS = 10;

interface Granted {
  readonly grantId: string;
  readonly externalEndpoint: { readonly address: string; readonly port: number };
}

const socket = createSocket('udp4');
const live: Granted[] = [];
let serial = 0;

function send(label: string, { address, port }: Granted['externalEndpoint']): void {
  socket.send(`${label} ${monotonicMs()}`, port, address);
}

async function begin(connections: readonly Connection[], { grants, knock }: Order): Promise<Done> {
  for (const address of knock?.addresses ?? []) {
    const [low, high] = knock?.ports ?? [0, -1];
    for (let port = low; port <= high; port++) {
      send('knock', { address, port });
      if (port % 64 === 0) await turn(); // let them leave, or they are lost in this socket
    }
  }
  const labels: string[] = [];
  const work = async (connection: Connection) => {
    while (labels.length < grants) {
      const number = serial++;
      const label = `begun-${number}`;
      labels.push(label);
      const body = {
        device: { networkAccessIdentifier: deviceName(number % DEVICES) },
        protocol: 'UDP',
        devicePort: FIRST_PORT + Math.floor(number / DEVICES),
        durationSeconds: 900,
      };
      const answer = await connection.ask(JSON.stringify(body));
      const granted = bodyOf(answer, '201');
      send(label, granted.externalEndpoint);
      live.push(granted);
    }
  };
  await Promise.all(connections.map(work));
  return { labels, answeredMs: [] };
}

async function end([connection]: readonly Connection[], { grants }: Order): Promise<Done> {
  const labels: string[] = [];
  const answeredMs: number[] = [];
  for (const { grantId, externalEndpoint } of live.splice(0, grants)) {
    const label = `ended-${grantId}`;
    let until = monotonicMs() + STREAM_MS;
    const stream = async () => {
      for (; monotonicMs() < until; await turn()) send(label, externalEndpoint);
    };
    await stream();
    until = Number.POSITIVE_INFINITY;
    const streaming = stream();
    const answer = await connection?.ask('', 'DELETE', `/${grantId}`);
    answeredMs.push(monotonicMs());
    labels.push(label);
    until = monotonicMs() + STREAM_MS;
    await streaming;
    if (!answer?.startsWith('HTTP/1.1 204 ')) throw new Error(`not ended: ${answer}`);
  }
  return { labels, answeredMs };
}

function bodyOf(answer: string, status: string): Granted {
  if (!answer.startsWith(`HTTP/1.1 ${status} `)) throw new Error(`not granted: ${answer}`);
  return JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))) as Granted;
}

async function run(files: readonly string[]): Promise<void> {
  const [ca, cert, key] = files.map((file) => readFileSync(file)) as [Buffer, Buffer, Buffer];
  const identity: Identity = { ca, cert, key };
  const tell = (line: string) => process.stdout.write(`${line}\n`);
  socket.bind(0);
  await once(socket, 'listening');
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  tell('ready');
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const order = JSON.parse(line.value) as Order;
    const opening = Array.from({ length: CONNECTIONS }, () => Connection.open(order, identity));
    const connections = await Promise.all(opening);
    const done = await (order.what === 'begin' ? begin : end)(connections, order);
    for (const connection of connections) connection.close();
    tell(`done ${JSON.stringify(done)}`);
  }
}

const [, file, ...files] = process.argv;
if (file === fileURLToPath(import.meta.url)) await run(files);
