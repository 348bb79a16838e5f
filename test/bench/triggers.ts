/**
 * Triggers a second to CoAP devices over veth: our delivery, beside the client
 * of the library `coap` alone, in turn in every round; a ratio is always of
 * one round. The devices do the least that a device must. NSTART is 1 for
 * each of them, so there are as many on their way as devices; ours begins one
 * in 50 ms at a device that answers at once, since no message id may come
 * again within 247 s, which the library does not see to.
 */
import { INNER_GATEWAY, standardNetwork } from '../standard-network.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { type Client, type Delivered, triggerPeer } from './trigger-peers.ts';

const PORT = 5690;
/** As many as neighbours are kept without being asked for. */
const DEVICES = Array.from({ length: 480 }, (_, i) => `10.20.${1 + (i >> 8)}.${i & 255}`);
const CLIENTS: readonly Client[] = ['library', 'ours'];

interface TriggerRow {
  readonly name: Client;
  readonly perSecond: Figure;
  readonly toLibrary: Figure;
  readonly cpuMicroseconds: Figure;
  readonly failed: number;
}

export async function measureTriggers(
  rounds: number,
  seconds: number,
  progress: (what: string) => void,
): Promise<readonly TriggerRow[]> {
  const network = standardNetwork();
  try {
    for (const net of ['10.20.1.0/24', '10.20.2.0/24'])
      await network.run('device', ['ip', 'route', 'add', 'local', net, 'dev', 'lo']);
    await network.spawn('device', triggerPeer('device', String(PORT), ...DEVICES), { line: /^ready$/ });
    const sender = await network.spawn('gateway', triggerPeer('sender', INNER_GATEWAY.ipv4, String(PORT), ...DEVICES), {
      line: /^ready$/,
    });
    const runs: Record<Client, Delivered[]> = { library: [], ours: [] };
    for (let round = 0; round <= rounds; round++) {
      progress(round === 0 ? 'triggers: a round to warm up' : `triggers: round ${round} of ${rounds}`);
      for (const client of CLIENTS) {
        const from = sender.lines.length;
        sender.say(`${client} ${seconds}`);
        const line = await sender.line(/^done /, { from, patienceMs: 120_000 });
        if (round > 0) runs[client].push(JSON.parse(line.slice('done '.length)) as Delivered);
      }
    }
    const rate = (one: Delivered | undefined) => (one ? one.acknowledged / one.seconds : 0);
    return CLIENTS.map((name) => ({
      name,
      perSecond: figure(runs[name].map(rate)),
      toLibrary: figure(runs[name].map((one, i) => rate(one) / rate(runs.library[i]))),
      cpuMicroseconds: figure(runs[name].map((one) => (one.cpuSeconds * 1e6) / one.acknowledged)),
      failed: runs[name].reduce((sum, { failed }) => sum + failed, 0),
    }));
  } finally {
    await network.close();
  }
}

export function showTriggers(rows: readonly TriggerRow[]): string {
  return [
    `triggers over CoAP, to ${DEVICES.length} devices, one at a time to each`,
    table(
      ['client', 'a second', 'to the library', 'CPU µs each', 'failed'],
      rows.map(({ name, perSecond, toLibrary, cpuMicroseconds, failed }) => [
        name,
        show(perSecond, 0),
        show(toLibrary, 2),
        show(cpuMicroseconds, 0),
        String(failed),
      ]),
    ),
  ].join('\n');
}
