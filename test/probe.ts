/**
 * Asks, from inside a namespace, what an address and port answer. The class
 * is the test's side; the same file run as a program is the side within the
 * namespace, one JSON request a line in, one JSON answer a line out. One
 * long-lived process: a probe costs microseconds, and probes keep their order.
 *
 * Outcomes: `answer` (with the text), `refused` (a TCP reset or an ICMP
 * error: somebody said no), `silence`. Silence is only as good as its proof:
 * with `marker` (an endpoint that does answer over the same path) the probe
 * sends to it after the first packet, and takes silence as proven as soon as
 * the marker's answer is there and a moment has passed; without one it waits
 * the whole time given.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Child, PATIENCE_MS, program } from './child.ts';
import type { Network } from './network.ts';

export interface Target {
  readonly address: string;
  readonly port: number;
}

export type Outcome =
  | { readonly outcome: 'answer'; readonly text: string; readonly localPort: number }
  | { readonly outcome: 'refused'; readonly error: string }
  | { readonly outcome: 'silence' };

export interface Question {
  readonly to: Target;
  /** Source address and port; 0 or absent: any. */
  readonly from?: Partial<Target>;
  readonly text?: string;
  readonly waitMs?: number;
  readonly marker?: Target;
}

type Request = { readonly id: number; readonly protocol: 'tcp' | 'udp' } & Question;
type Answer = { readonly id: number } & Outcome;

/** For what must come, which it ends with; what is to meet silence names a time. */
const WAIT_MS = PATIENCE_MS / 2;
/** How long after the marker's answer an answer to the probe itself may still come. */
const MOMENT_MS = 50;

/** A probe that stays in its namespace. */
export class Probe {
  readonly #child: Child;
  #id = 0;

  private constructor(child: Child) {
    this.#child = child;
  }

  static async start(network: Pick<Network, 'spawn'>, namespace: string): Promise<Probe> {
    return new Probe(await network.spawn(namespace, program('test/probe.ts'), { line: /^ready$/ }));
  }

  /** Sends one datagram; an echo, or any other datagram from there, is the answer. */
  udp(question: Question): Promise<Outcome> {
    return this.#ask('udp', question);
  }

  /** Connects, sends the text, and takes what comes first as the answer. */
  tcp(question: Question): Promise<Outcome> {
    return this.#ask('tcp', question);
  }

  stop(): Promise<void> {
    return this.#child.stop();
  }

  async #ask(protocol: 'tcp' | 'udp', question: Question): Promise<Outcome> {
    const id = ++this.#id;
    const from = this.#child.lines.length;
    this.#child.say(JSON.stringify({ id, protocol, ...question } satisfies Request));
    const patienceMs = (question.waitMs ?? WAIT_MS) + 5000;
    const line = await this.#child.line(new RegExp(`^\\{"id":${id},`), { from, patienceMs });
    const { id: _, ...outcome } = JSON.parse(line) as Answer;
    return outcome;
  }
}

/** One exchange: resolves with the first thing that came back. */
function exchange(protocol: 'tcp' | 'udp', question: Question, signal: AbortSignal): Promise<Outcome> {
  return protocol === 'udp' ? exchangeUdp(question, signal) : exchangeTcp(question, signal);
}

function exchangeUdp({ to, from, text = 'probe' }: Question, signal: AbortSignal): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = createSocket(to.address.includes(':') ? 'udp6' : 'udp4');
    signal.addEventListener('abort', () => socket.close(), { once: true });
    // Connected: the kernel then hands ICMP errors to the socket.
    socket.on('error', (error: NodeJS.ErrnoException) =>
      resolve({ outcome: 'refused', error: error.code ?? error.message }),
    );
    socket.on('message', (data) =>
      resolve({ outcome: 'answer', text: data.toString(), localPort: socket.address().port }),
    );
    socket.bind({ ...(from?.address && { address: from.address }), port: from?.port ?? 0 }, () =>
      socket.connect(to.port, to.address, () => socket.send(text)),
    );
  });
}

function exchangeTcp({ to, from, text = 'probe' }: Question, signal: AbortSignal): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = connect({
      host: to.address,
      port: to.port,
      ...(from?.address && { localAddress: from.address }),
      ...(from?.port && { localPort: from.port }),
    });
    // A reset and not a FIN, and no SYN sent again: nothing of a question outlives it.
    const leave = () => (socket.connecting ? socket.destroy() : socket.resetAndDestroy());
    signal.addEventListener('abort', leave, { once: true });
    let localPort = 0;
    socket.on('error', (error: NodeJS.ErrnoException) =>
      resolve({ outcome: 'refused', error: error.code ?? error.message }),
    );
    socket.on('connect', () => {
      localPort = socket.localPort ?? 0;
      socket.write(text);
    });
    socket.on('data', (data) => resolve({ outcome: 'answer', text: data.toString(), localPort }));
  });
}

async function answer({ protocol, marker, waitMs = WAIT_MS, ...question }: Omit<Request, 'id'>): Promise<Outcome> {
  const over = new AbortController();
  const silence = { outcome: 'silence' } as const;
  const after = (ms: number) => new Promise<Outcome>((resolve) => setTimeout(resolve, ms, silence));
  try {
    const ways = [exchange(protocol, question, over.signal), after(waitMs)];
    if (marker) {
      const seen = exchange('udp', { to: marker, text: 'marker' }, over.signal);
      ways.push(seen.then(({ outcome }) => after(outcome === 'answer' ? MOMENT_MS : waitMs)));
    }
    return await Promise.race(ways);
  } finally {
    over.abort();
  }
}

async function serve(): Promise<void> {
  const requests = createInterface({ input: process.stdin });
  requests.on('line', async (line) => {
    const { id, ...request } = JSON.parse(line) as Request;
    const outcome = await answer(request);
    process.stdout.write(`${JSON.stringify({ id, ...outcome } satisfies Answer)}\n`);
  });
  process.stdout.write('ready\n');
  await once(requests, 'close');
  process.exit(0);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await serve();
