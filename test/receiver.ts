/**
 * Who receives pushes, and the DNS that says where: an HTTPS server that does
 * as it is told by the path it is asked for, well or badly, and a name server.
 * Run as a program inside a namespace: `receiver.ts ADDRESS CERTIFICATE KEY`.
 *
 * Each request is one line of JSON on standard output: { path, headers, body }.
 * A line on standard input changes what it does:
 * { "names": { NAME: [ADDRESS…] } } or { "paths": { PATH: MODE } }.
 */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { address, parseAddress } from '../agent/core/net.ts';
import { type Child, program } from './child.ts';
import type { Network } from './network.ts';

export const RECEIVER_PORT = 9443;
export const DNS_PORT = 5353;

/** How a path answers. */
export type Mode = 'ok' | 'hang' | 'drip' | 'redirect' | 'short' | 'long' | 'flood' | 'down' | 'garbage';

export interface Received {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** A receiver that stays in its namespace. */
export class Receiver {
  readonly #child: Child;

  private constructor(child: Child) {
    this.#child = child;
  }

  static async start(
    network: Pick<Network, 'spawn'>,
    namespace: string,
    at: string,
    files: { readonly certificateFile: string; readonly keyFile: string },
  ): Promise<Receiver> {
    const command = program('test/receiver.ts', at, files.certificateFile, files.keyFile);
    return new Receiver(await network.spawn(namespace, command, { line: /^ready$/ }));
  }

  /** What came to a path so far. */
  received(path: string): Received[] {
    return this.#child.lines
      .filter((line) => line.startsWith('{"path"'))
      .map((line) => JSON.parse(line) as Received)
      .filter((one) => one.path === path);
  }

  async set(change: {
    readonly names?: Readonly<Record<string, readonly string[]>>;
    readonly paths?: Readonly<Record<string, Mode>>;
  }): Promise<void> {
    const from = this.#child.lines.length;
    this.#child.say(JSON.stringify(change));
    await this.#child.line(/^set$/, { from });
  }
}

function serve(at: string, certificateFile: string, keyFile: string): void {
  const names = new Map<string, readonly string[]>();
  const paths = new Map<string, Mode>();
  const tell = (line: object | string) =>
    process.stdout.write(`${typeof line === 'string' ? line : JSON.stringify(line)}\n`);
  createInterface({ input: process.stdin }).on('line', (line) => {
    const change = JSON.parse(line) as { names?: object; paths?: object };
    for (const [name, addresses] of Object.entries(change.names ?? {})) names.set(name, addresses);
    for (const [path, mode] of Object.entries(change.paths ?? {})) paths.set(path, mode);
    tell('set');
  });
  const server = createServer({ cert: readFileSync(certificateFile), key: readFileSync(keyFile) });
  server.on('request', (request, response) => {
    const { url: path = '', headers } = request;
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      tell({ path, headers, body: Buffer.concat(chunks).toString() });
      answer(paths.get(path) ?? 'ok', response);
    });
  });
  server.listen(RECEIVER_PORT, at);
  const dns = createSocket('udp4');
  dns.on('message', (question, { address: from, port }) => dns.send(answerOf(question, names), port, from));
  dns.bind(DNS_PORT, at, () => tell('ready'));
}

function answer(mode: Mode, response: ServerResponse): void {
  const { socket } = response;
  if (mode === 'ok') response.writeHead(204).end();
  else if (mode === 'redirect') response.writeHead(307, { location: '/redirected' }).end();
  else if (mode === 'down') socket?.destroy();
  else if (mode === 'garbage') socket?.end('HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx');
  else if (mode === 'short') socket?.end('HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nnot so long');
  else if (mode === 'long') socket?.write(`HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n${'x'.repeat(100_000)}`);
  else if (mode === 'flood') {
    response.writeHead(200);
    const pour = () => {
      while (!response.destroyed && response.write('x'.repeat(65_536)));
    };
    response.on('drain', pour);
    response.on('error', () => {});
    pour();
  } else if (mode === 'drip') {
    socket?.write('HTTP/1.1 200 OK\r\n');
    const dripping = setInterval(() => socket?.write('x: y\r\n'), 300);
    socket?.once('close', () => clearInterval(dripping));
    socket?.on('error', () => {});
  }
}

/** RFC 1035 4: one question, answered with what there is of its type. */
function answerOf(question: Buffer, names: ReadonlyMap<string, readonly string[]>): Buffer {
  const labels: string[] = [];
  let at = 12;
  for (let length = question[at] ?? 0; length > 0; length = question[at] ?? 0) {
    labels.push(question.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  const type = question.readUInt16BE(at + 1);
  const asked = labels.join('.');
  const wanted = type === 1 ? 'ipv4' : 'ipv6';
  const found = (names.get(asked) ?? []).map(address).filter(({ family }) => family === wanted);
  const header = Buffer.from([...question.subarray(0, 2), 0x81, 0x80, 0, 1, 0, found.length, 0, 0, 0, 0]);
  const records = found.map(({ bytes }) => {
    const data = type === 1 ? bytes.subarray(12) : bytes;
    return Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length, ...data]);
  });
  return Buffer.concat([header, question.subarray(12, at + 5), ...records]);
}

if (process.argv[1] && /receiver\.[jt]s$/.test(process.argv[1])) {
  const [at = '', certificateFile = '', keyFile = ''] = process.argv.slice(2);
  if (parseAddress(at)) serve(at, certificateFile, keyFile);
  else process.stderr.write(`${fileURLToPath(import.meta.url)} ADDRESS CERTIFICATE KEY\n`);
}
