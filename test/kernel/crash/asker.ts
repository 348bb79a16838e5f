/**
 * The MTC server of the crash harness, run inside the server's namespace as
 *
 *   tsx test/kernel/crash/asker.ts CA CERTIFICATE KEY
 *
 * A line of JSON in is a request, a line out what became of it, with the
 * moments (microseconds of CLOCK_MONOTONIC, which all processes share) at
 * which it was sent and answered. Over few connections that are kept alive;
 * after a kill they are made anew by themselves. Status 0: no answer came, and
 * nobody knows what became of it.
 */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Child, program } from '../../child.ts';
import type { Network } from '../../network.ts';
import { nowUs } from './moments.ts';

const CONNECTIONS = 16;
const PATIENCE_MS = 10_000;

interface Request {
  readonly method: string;
  readonly url: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answer<Body = unknown> {
  readonly status: number;
  readonly body: Body;
  readonly sentUs: number;
  readonly receivedUs: number;
  /** Why there is none. */
  readonly complaint?: string;
}

export class Asker {
  readonly #child: Child;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #serial = 0;

  private constructor(child: Child) {
    this.#child = child;
    child.hear((line) => {
      const { id, ...answer } = JSON.parse(line) as Answer & { id: number };
      this.#waiting.get(id)?.(answer);
      this.#waiting.delete(id);
    });
  }

  static async start(network: Network, namespace: string, files: readonly string[]): Promise<Asker> {
    return new Asker(
      await network.spawn(namespace, program('test/kernel/crash/asker.ts', ...files), { line: /^ready$/ }),
    );
  }

  ask<Body>(asked: Request): Promise<Answer<Body>> {
    const id = ++this.#serial;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve as (answer: Answer) => void);
      this.#child.say(JSON.stringify({ id, ...asked }));
    });
  }
}

function run(files: readonly string[]): void {
  const [ca, cert, key] = files.map((file) => readFileSync(file)) as [Buffer, Buffer, Buffer];
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS, ca, cert, key });
  const answer = ({ method, url, body, headers }: Request) =>
    new Promise<Answer>((resolve) => {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const content = text === undefined ? {} : { 'content-type': 'application/json', 'content-length': text.length };
      const sentUs = nowUs();
      const none = (complaint: string) =>
        resolve({ status: 0, body: undefined, sentUs, receivedUs: nowUs(), complaint });
      const asked = request(url, { method, agent, timeout: PATIENCE_MS, headers: { ...headers, ...content } });
      asked.on('timeout', () => asked.destroy(new Error('no answer in time')));
      asked.on('error', (fault) => none(fault.message));
      asked.on('response', (response) => {
        let got = '';
        response.setEncoding('utf8').on('data', (part: string) => {
          got += part;
        });
        response.on('error', (fault) => none(fault.message));
        response.on('end', () => {
          const receivedUs = nowUs();
          if (!response.complete) return none('the answer was cut');
          resolve({ status: response.statusCode ?? 0, body: got ? JSON.parse(got) : undefined, sentUs, receivedUs });
        });
      });
      asked.end(text);
    });
  createInterface({ input: process.stdin }).on('line', async (line) => {
    const { id, ...asked } = JSON.parse(line) as Request & { id: number };
    process.stdout.write(`${JSON.stringify({ id, ...(await answer(asked)) })}\n`);
  });
  process.stdout.write('ready\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) run(process.argv.slice(2));
