/** Lets the programs of scanners loose on a stand, and puts crafted packets on its wires. */
import type { Family } from '../../agent/core/net.ts';
import { Capture } from '../capture.ts';
import { DEVICE, INNER_GATEWAY, OUTSIDE, UPLINK } from '../standard-network.ts';
import { type Crafted, frameOf } from './crafted.ts';
import type { Knowledge, Scan } from './programs.ts';
import { inTurns, type ScanStand } from './stand.ts';

/** Where the path of the scanner's packets to the gateway begins: its own router. */
const BEFORE = ['192.0.2.65', '2001:db8:66::1'];

/** All that a scanner could have been told. The first three addresses stand for devices, the last is a device's own. */
export function knowledgeOf({ live, resting }: ScanStand): Knowledge {
  const of = (endpoints: ScanStand['live'], family: Family, count: number) =>
    [...new Set(endpoints.filter((one) => one.family === family).map(({ address }) => address))].slice(0, count);
  const addresses = (family: Family, unused: readonly string[], inside: readonly string[]) => [
    ...new Set([
      ...of(live, family, 8),
      ...of(resting, family, 2),
      ...unused,
      INNER_GATEWAY[family],
      ...inside,
      DEVICE[family],
    ]),
  ];
  return {
    live,
    resting,
    before: BEFORE,
    addresses: {
      ipv4: addresses('ipv4', ['203.0.113.7', '203.0.113.8', '203.0.113.15'], ['10.20.0.3', '10.20.0.99']),
      ipv6: addresses('ipv6', ['2001:db8:a::1', '2001:db8:e::1'], ['fd00:20::3', 'fd00:20::99']),
    },
  };
}

/** Each scan's finds, by its name. */
export async function scanAll(
  stand: ScanStand,
  scans: readonly Scan[],
  tell: (name: string, finds: readonly string[], ms: number) => void = () => {},
): Promise<Record<string, readonly string[]>> {
  const results = await inTurns(scans, async ({ name, family, command, finds }) => {
    const begun = performance.now();
    const key = `${name} over ${family}`;
    let found: string[] = [];
    // On a busy machine an answer that comes is late: the capture sees it, not each program that waits for it.
    for (let tries = stand.opened ? 3 : 1; tries > 0 && found.length === 0; tries -= 1) {
      // Some fail where nobody answers.
      const { stdout, stderr } = await stand.network.run('rogue', command, { mayFail: true });
      if (!stdout) throw new Error(`${command.join(' ')} did not run: ${stderr}`);
      found = finds(stdout);
    }
    tell(key, found, performance.now() - begun);
    return [key, found] as const;
  });
  return Object.fromEntries(results);
}

/** Puts each packet on its wire. */
export async function sendAll(stand: ScanStand, all: readonly Crafted[]): Promise<void> {
  // The open gateway tracks flows: where a scan had one of a protocol without ports with the same device, translated
  // from another address, it would drop ours for it.
  if (stand.opened) await stand.network.run('gateway', ['conntrack', '--flush']);
  const mac = (namespace: string, name: string) => stand.network.link(namespace, name).mac;
  // To send by: they look at nothing.
  const [scanner, link] = await Promise.all(
    ['rogue', 'wan'].map((namespace) => Capture.start(stand.network, namespace, UPLINK, 'less 1')),
  );
  const ways = {
    scanner: { by: scanner, from: mac('rogue', UPLINK), to: mac('wan', 'rogue') },
    link: { by: link, from: mac('wan', UPLINK), to: mac('gateway', OUTSIDE) },
  };
  for (const { at, packets } of all)
    for (const packet of packets) ways[at].by?.send(frameOf(packet, ways[at].from, ways[at].to));
  await Promise.all([scanner, link].map((capture) => capture?.sent()));
  await Promise.all([scanner, link].map((capture) => capture?.stop()));
}
