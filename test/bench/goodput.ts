/**
 * Goodput of one TCP connection (iperf3) from a server to a device, both with
 * the offloads that their interfaces have: through plain forwarding, nftables
 * DNAT, and the gate at TC and at XDP. At XDP a veth loses its segmentation
 * offload, so what is compared there is the stack's own work on the hosts.
 */
import { address } from '../../agent/core/net.ts';
import type { Gate } from '../../agent/dataplane/gate.ts';
import { within } from '../enter.ts';
import { gateOnWires, HOUR, MAPPING, POOL } from '../kernel/gate-stand.ts';
import type { Network } from '../network.ts';
import { switchNapiOn } from '../offloads.ts';
import { DEVICE, GATEWAY, OUTSIDE, REALM_PREFIX, SERVER, standardNetwork, UPLINK } from '../standard-network.ts';
import { type Figure, figure, show, table } from './figures.ts';

const PORT = 5201;
const WAYS = ['plain forwarding', 'nftables DNAT', 'gate at TC', 'gate at XDP'] as const;
type Way = (typeof WAYS)[number];

interface GoodputRow {
  readonly way: Way;
  readonly gigabits: Figure;
  readonly toPlain: Figure;
}

export async function measureGoodput(
  rounds: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<readonly GoodputRow[]> {
  const paths = await Promise.all(WAYS.map(async (way) => ({ way, path: await Path.open(way) })));
  const runs = new Map<Way, number[]>(WAYS.map((way) => [way, []]));
  try {
    for (let round = 1; round <= rounds; round++) {
      progress(`goodput: round ${round} of ${rounds}`);
      for (const { way, path } of paths) runs.get(way)?.push(await path.gigabits(seconds));
    }
  } finally {
    for (const { path } of paths) await path.close();
  }
  const plain = runs.get('plain forwarding') ?? [];
  return WAYS.map((way) => ({
    way,
    gigabits: figure(runs.get(way) ?? []),
    toPlain: figure((runs.get(way) ?? []).map((one, round) => one / (plain[round] ?? 0))),
  }));
}

class Path {
  readonly #network: Network;
  readonly #gate: Gate | undefined;
  readonly #to: { readonly address: string; readonly port: number };

  private constructor(network: Network, gate: Gate | undefined, to: { address: string; port: number }) {
    this.#network = network;
    this.#gate = gate;
    this.#to = to;
  }

  static async open(way: Way): Promise<Path> {
    const network = standardNetwork();
    const external = { address: MAPPING.external.address.text, port: MAPPING.external.port };
    if (way === 'plain forwarding') {
      await network.run('wan', ['ip', 'route', 'add', REALM_PREFIX.ipv4, 'via', GATEWAY.ipv4]);
      return new Path(network, undefined, { address: DEVICE.ipv4, port: PORT });
    }
    if (way === 'nftables DNAT') {
      const input = `table ip bench { chain pre { type nat hook prerouting priority dstnat; ip daddr ${external.address} tcp dport ${external.port} dnat to ${DEVICE.ipv4}:${PORT}; }; }`;
      await network.run('gateway', ['nft', '-f', '-'], { input });
      return new Path(network, undefined, external);
    }
    within(network, 'wan', () => switchNapiOn(UPLINK));
    within(network, 'device', () => switchNapiOn(UPLINK));
    within(network, 'gateway', () => switchNapiOn(OUTSIDE));
    const gate = gateOnWires(network, POOL, way === 'gate at XDP' ? 'xdp' : 'tc');
    const device = { address: address(DEVICE.ipv4), port: PORT };
    gate.open({ ...MAPPING, device, index: 0 }, process.hrtime.bigint() + HOUR);
    return new Path(network, gate, external);
  }

  async gigabits(seconds: number): Promise<number> {
    const network = this.#network;
    this.#gate?.heartbeat(process.hrtime.bigint());
    const server = await network.spawn('device', ['iperf3', '-s', '-1', '-p', String(PORT), '--forceflush'], {
      line: /Server listening/,
    });
    const { address: to, port } = this.#to;
    const { stdout } = await network.run('server', [
      ...['iperf3', '-J', '-c', to, '-p', String(port), '-B', SERVER.ipv4, '-t', String(Math.ceil(seconds))],
    ]);
    await server.stop();
    return JSON.parse(stdout).end.sum_received.bits_per_second / 1e9;
  }

  async close(): Promise<void> {
    this.#gate?.close();
    await this.#network.close();
  }
}

export function showGoodput(rows: readonly GoodputRow[]): string {
  return table(
    ['one TCP connection, iperf3', 'Gb/s', 'to plain forwarding'],
    rows.map(({ way, gigabits, toPlain }) => [way, show(gigabits, 2), show(toPlain, 2)]),
  );
}
