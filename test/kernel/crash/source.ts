/**
 * Packets to every external endpoint that the harness has ever been given,
 * without a pause, whatever becomes of the agent. Run inside the server's
 * namespace as
 *
 *   tsx test/kernel/crash/source.ts INTERFACE NEXT-HOP-MAC
 *
 * it takes lines of JSON, an Order each. Live endpoints get a packet every
 * tick, ended ones in turn; one that was just added or has just ended gets one
 * at once. UDP and TCP alike are frames of our own: no socket, and no peer, has
 * a say. Each carries whose it is and the tick it was sent in:
 *
 *   mtg SERIAL TICK
 *
 * where TICK is the moment the tick began; none of it was sent before. What a
 * tick sent is told afterwards, `TICK END SERIAL...`: none was sent after END.
 */
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Child, program } from '../../child.ts';
import { ethernet, ip, TCP_ACK, tcp, udp } from '../../frames.ts';
import type { Network } from '../../network.ts';
import { SERVER, UPLINK } from '../../standard-network.ts';
import { MS, nowUs } from './moments.ts';

const TICK_MS = 40;
/** How many of those that have ended get a packet in a tick. */
const COLD_EACH_TICK = 25;
/** For so long after its end an endpoint still gets one every tick. */
const WARM_US = 1_500 * MS;
const FROM_PORT = 40_000;

type Order =
  | {
      readonly do: 'add';
      readonly serial: number;
      readonly protocol: 'udp' | 'tcp';
      readonly address: string;
      readonly port: number;
    }
  | { readonly do: 'end' | 'drop'; readonly serial: number };

/** What one tick sent. */
export interface Sent {
  readonly tickUs: number;
  readonly endUs: number;
  readonly serials: readonly number[];
}

export class Source {
  readonly #child: Child;

  private constructor(child: Child) {
    this.#child = child;
  }

  static async start(network: Network, sent: (what: Sent) => void): Promise<Source> {
    const { mac } = network.link('wan', 'server');
    const command = program('test/kernel/crash/source.ts', UPLINK, mac);
    const child = await network.spawn('server', command, { line: /^ready$/ });
    child.hear((line) => {
      const [tickUs = 0, endUs = 0, ...serials] = line.split(' ').map(Number);
      sent({ tickUs, endUs, serials });
    });
    return new Source(child);
  }

  order(order: Order): void {
    this.#child.say(JSON.stringify(order));
  }
}

interface Target {
  readonly serial: number;
  readonly frame: (tickUs: number) => Buffer;
  endedUs?: number;
}

async function run(device: string, mac: string): Promise<void> {
  // Here and not above: the native part has no business in the test's own process.
  const { default: cap } = await import('cap');
  const handle = new cap.Cap();
  handle.open(device, 'ip proto 254', 1 << 20, Buffer.alloc(65_536));
  const hop = mac.split(':').map((part) => Number.parseInt(part, 16));
  const live = new Map<number, Target>();
  const cold = new Map<number, Target>();

  const send = (targets: readonly Target[]) => {
    if (targets.length === 0) return;
    const tickUs = nowUs();
    for (const { frame } of targets) handle.send(frame(tickUs));
    process.stdout.write(`${tickUs} ${nowUs()} ${targets.map(({ serial }) => serial).join(' ')}\n`);
  };
  const tick = () => {
    const inTurn: Target[] = [];
    for (const target of cold.values()) {
      if (inTurn.length === COLD_EACH_TICK) break;
      inTurn.push(target);
    }
    for (const target of inTurn) {
      cold.delete(target.serial);
      cold.set(target.serial, target);
    }
    send([...live.values(), ...inTurn]);
    const nowIs = nowUs();
    for (const target of live.values()) {
      if (target.endedUs === undefined || nowIs < target.endedUs + WARM_US) continue;
      live.delete(target.serial);
      cold.set(target.serial, target);
    }
  };
  createInterface({ input: process.stdin }).on('line', (line) => {
    const order = JSON.parse(line) as Order;
    if (order.do === 'drop') {
      live.delete(order.serial);
      cold.delete(order.serial);
      return;
    }
    if (order.do === 'add') live.set(order.serial, targetOf(order, hop));
    const target = live.get(order.serial) ?? cold.get(order.serial);
    if (!target) return;
    if (order.do === 'end') target.endedUs = nowUs();
    send([target]);
  });
  setInterval(tick, TICK_MS);
  process.stdout.write('ready\n');
}

function targetOf({ serial, protocol, address, port }: Order & { readonly do: 'add' }, hop: readonly number[]): Target {
  const from = address.includes(':') ? SERVER.ipv6 : SERVER.ipv4;
  return {
    serial,
    frame: (tickUs) => {
      const text = `mtg ${serial} ${tickUs}`;
      const upper = protocol === 'udp' ? udp(FROM_PORT, port, text) : tcp(FROM_PORT, port, text, TCP_ACK);
      const frame = ethernet(ip(from, address, upper));
      frame.set(hop);
      return Buffer.from(frame);
    },
  };
}

const [, file, device = '', mac = ''] = process.argv;
if (file === fileURLToPath(import.meta.url)) await run(device, mac);
