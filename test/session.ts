/**
 * One running session from inside a namespace, TCP or UDP, for tests that cut
 * it: lines said go out, and what arrives is seen. The class is the test's
 * side; the same file run as a program is the session itself:
 *
 *   tsx test/session.ts tcp|udp ADDRESS PORT [SOURCE-ADDRESS [SOURCE-PORT]]
 *
 * It prints `ready` (TCP: connected), a line `> TEXT` for each line or
 * datagram received, `error CODE` and `closed`.
 */
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Child, PATIENCE_MS, program, until } from './child.ts';
import type { Network } from './network.ts';
import type { Target } from './probe.ts';

export class Session {
  readonly #child: Child;

  private constructor(child: Child) {
    this.#child = child;
  }

  static async open(
    network: Network,
    namespace: string,
    protocol: 'tcp' | 'udp',
    to: Target,
    from: Partial<Target> = {},
  ): Promise<Session> {
    const source = from.address ? [from.address, ...(from.port ? [String(from.port)] : [])] : [];
    const command = program('test/session.ts', protocol, to.address, String(to.port), ...source);
    return new Session(await network.spawn(namespace, command, { line: /^ready$/ }));
  }

  /** How many texts have come. */
  get received(): number {
    return this.#child.lines.filter((line) => line.startsWith('> ')).length;
  }

  /** All texts so far. */
  texts(): string[] {
    return this.#child.lines.filter((line) => line.startsWith('> ')).map((line) => line.slice(2));
  }

  /** TCP: whether the session still stands, as far as this end knows. */
  get closed(): boolean {
    return this.#child.lines.includes('closed');
  }

  say(text: string): void {
    this.#child.say(text);
  }

  /** The next text from now on. @throws Error where none comes */
  async next(patienceMs?: number): Promise<string> {
    const from = this.#child.lines.length;
    const line = await this.#child.line(/^> /, { from, ...(patienceMs !== undefined && { patienceMs }) });
    return line.slice(2);
  }

  /**
   * Resolves once nothing has come for so long. Of a session that streams (a
   * text every 5 ms) that is a cut; what was on its way at the cut may arrive.
   * @throws Error where it goes on
   */
  async quiet(forMs = 200, patienceMs = PATIENCE_MS): Promise<void> {
    let seen = this.received;
    let since = performance.now();
    await until(
      `${forMs} ms of quiet`,
      () => {
        if (this.received !== seen) {
          seen = this.received;
          since = performance.now();
        }
        return performance.now() - since >= forMs ? true : undefined;
      },
      patienceMs,
    );
  }

  stop(): Promise<void> {
    return this.#child.stop('SIGKILL');
  }
}

function tell(line: string): void {
  process.stdout.write(`${line}\n`);
}

function run(protocol: string, to: Target, from: Partial<Target>): void {
  const said = createInterface({ input: process.stdin });
  const fault = (error: NodeJS.ErrnoException) => tell(`error ${error.code ?? error.message}`);
  if (protocol === 'udp') {
    const socket = createSocket(to.address.includes(':') ? 'udp6' : 'udp4');
    socket.on('error', fault);
    socket.on('message', (data) => tell(`> ${data.toString()}`));
    socket.bind({ ...(from.address && { address: from.address }), port: from.port ?? 0 }, () =>
      socket.connect(to.port, to.address, () => tell('ready')),
    );
    said.on('line', (line) => socket.send(line, () => {}));
    return;
  }
  const socket = connect({
    host: to.address,
    port: to.port,
    ...(from.address && { localAddress: from.address }),
    ...(from.port && { localPort: from.port }),
  });
  socket.on('error', fault);
  socket.on('close', () => tell('closed'));
  socket.on('connect', () => tell('ready'));
  createInterface({ input: socket }).on('line', (line) => tell(`> ${line}`));
  said.on('line', (line) => socket.write(`${line}\n`));
}

const [, file, protocol = '', address = '', port, source, sourcePort] = process.argv;
if (file === fileURLToPath(import.meta.url))
  run(protocol, { address, port: Number(port) }, { ...(source && { address: source }), port: Number(sourcePort ?? 0) });
