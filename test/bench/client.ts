/**
 * An MTC server that asks for nothing but grants, as fast as it is answered.
 * Run inside the server's namespace, as
 *
 *   tsx test/bench/client.ts CA CERTIFICATE KEY
 *
 * it takes lines of JSON, an Asking each, and says `open` when its connections
 * stand, so that no handshake is measured; at the next line it begins, and ends
 * with `done` and an Asked. A connection asks again when it has been answered.
 * Each request is for another device or port.
 *
 * It speaks HTTP/1.1 over a bare TLS socket: an HTTP client would cost as much
 * as the server, and the measurement would be of the client.
 */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { connect, type TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { quantile } from './figures.ts';

export interface Asking {
  readonly host: string;
  readonly port: number;
  readonly path: string;
  readonly connections: number;
  readonly seconds: number;
}

export interface Asked {
  readonly granted: number;
  /** Answers with another status than 201, the first of them as it came. */
  readonly refused: number;
  readonly refusal?: string;
  readonly seconds: number;
  readonly medianMs: number;
  readonly p99Ms: number;
}

export interface Identity {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** What there is to ask for: the bench's devices file and rules have all of it. */
export const DEVICES = 20;
export const FIRST_PORT = 10_000;
export const PORTS = 50_000;

export function deviceName(i: number): string {
  return `m${i}@meters.example`;
}

let serial = 0;
function nextBody(): string {
  const body = {
    device: { networkAccessIdentifier: deviceName(serial % DEVICES) },
    protocol: 'UDP',
    devicePort: FIRST_PORT + (Math.floor(serial / DEVICES) % PORTS),
    durationSeconds: 900,
  };
  serial += 1;
  return JSON.stringify(body);
}

/** One kept-alive connection, one request at a time. */
export class Connection {
  readonly #socket: TLSSocket;
  readonly #to: Pick<Asking, 'host' | 'port' | 'path'>;
  #received = '';
  #waiting: { resolve: (answer: string) => void; reject: (fault: Error) => void } | undefined;

  private constructor(socket: TLSSocket, to: Pick<Asking, 'host' | 'port' | 'path'>) {
    this.#socket = socket;
    this.#to = to;
    socket.setNoDelay(true).setEncoding('latin1');
    socket.on('data', (text: string) => this.#take(text));
    socket.on('close', () => this.#waiting?.reject(new Error(`closed before an answer\n${this.#received}`)));
  }

  static open(to: Pick<Asking, 'host' | 'port' | 'path'>, identity: Identity): Promise<Connection> {
    const { host, port } = to;
    return new Promise((resolve, reject) => {
      const socket = connect({ host, port, ...identity }, () => resolve(new Connection(socket, to)));
      socket.on('error', reject);
    });
  }

  /** Resolves with the whole answer, head and body. `below` is a path below the connection's own. */
  ask(body: string, method = 'POST', below = ''): Promise<string> {
    const { host, port, path } = this.#to;
    const head = `${method} ${path}${below} HTTP/1.1\r\nHost: ${host}:${port}\r\n`;
    const content = body ? `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n` : '';
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(`${head}${content}\r\n${body}`);
    });
  }

  close(): void {
    this.#waiting = undefined;
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#received += text;
    const end = this.#received.indexOf('\r\n\r\n');
    if (end < 0) return;
    const length = /\r\ncontent-length: (\d+)/i.exec(this.#received)?.[1] ?? '0'; // 204 has none
    if (this.#received.length < end + 4 + Number(length)) return;
    const answer = this.#received;
    this.#received = '';
    this.#waiting?.resolve(answer);
  }
}

/** Asks over all connections at once, for so long. */
async function ask(connections: readonly Connection[], forSeconds: number): Promise<Asked> {
  const milliseconds: number[] = [];
  let refused = 0;
  let refusal: string | undefined;
  const start = performance.now();
  const end = start + forSeconds * 1000;
  const work = async (connection: Connection) => {
    for (let at = performance.now(); at < end; ) {
      const answer = await connection.ask(nextBody());
      const now = performance.now();
      milliseconds.push(now - at);
      at = now;
      if (answer.startsWith('HTTP/1.1 201 ')) continue;
      refused += 1;
      refusal ??= answer;
    }
  };
  await Promise.all(connections.map(work));
  const seconds = (performance.now() - start) / 1000;
  milliseconds.sort((a, b) => a - b);
  return {
    granted: milliseconds.length - refused,
    refused,
    ...(refusal !== undefined && { refusal }),
    seconds,
    medianMs: quantile(milliseconds, 0.5),
    p99Ms: quantile(milliseconds, 0.99),
  };
}

async function run(files: readonly string[]): Promise<void> {
  const [ca, cert, key] = files.map((file) => readFileSync(file)) as [Buffer, Buffer, Buffer];
  const tell = (line: string) => process.stdout.write(`${line}\n`);
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  tell('ready');
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const asking = JSON.parse(line.value) as Asking;
    const opening = Array.from({ length: asking.connections }, () => Connection.open(asking, { ca, cert, key }));
    const connections = await Promise.all(opening);
    tell('open');
    await lines.next();
    tell(`done ${JSON.stringify(await ask(connections, asking.seconds))}`);
    for (const connection of connections) connection.close();
  }
}

const [, file, ...files] = process.argv;
if (file === fileURLToPath(import.meta.url)) await run(files);
