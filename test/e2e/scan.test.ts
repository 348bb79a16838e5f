/**
 * Scanning yields nothing: the programs that scanners run, and packets that no
 * program sends, from outside at a gateway with 200 live grants of another
 * server. Closed, resting and granted endpoints, unused addresses of both
 * pools and inner addresses that are routed here answer alike: not at all; and
 * nothing of it goes in. The same again with the gateway taken away, which
 * shows that all of it would have found the devices. In full: `npm run scan`.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { API_PORT } from '../agent.ts';
import { craftedPackets, nameIn } from '../scan/crafted.ts';
import { type Scan, scans } from '../scan/programs.ts';
import { knowledgeOf, scanAll, sendAll } from '../scan/run.ts';
import { MARK, ScanStand, type Seen } from '../scan/stand.ts';
import { GATEWAY } from '../standard-network.ts';

const MINUTES = 60_000;

let stand: ScanStand;
let all: Scan[];
beforeAll(async () => {
  stand = await ScanStand.build();
  all = scans(knowledgeOf(stand), 'paced');
}, 2 * MINUTES);
afterAll(() => stand?.close());

/** As text, which a failed test shows whole. */
const hex = ({ outside, inside }: Seen) => ({
  outside: outside.map((frame) => Buffer.from(frame).toString('hex')),
  inside: inside.map((frame) => Buffer.from(frame).toString('hex')),
});
const NOTHING = { outside: [], inside: [] };
const holding = ({ inside }: Seen, text: string) => inside.filter((frame) => Buffer.from(frame).includes(text));

test(
  'nmap, hping3 and traceroute find nothing, are not answered, and nothing of theirs goes in',
  async () => {
    let found: Record<string, readonly string[]> = {};
    const seen = await stand.watch(async () => {
      found = await scanAll(stand, all);
    });
    expect(found).toEqual(Object.fromEntries(all.map(({ name, family }) => [`${name} over ${family}`, []])));
    expect(hex(seen)).toEqual(NOTHING);
  },
  2 * MINUTES,
);

test('crafted packets are not answered, and none goes in; what they say of the link, the gateway does not believe', async () => {
  const routes = async () => {
    const [four, six] = await Promise.all(
      ['-4', '-6'].map((family) => stand.network.run('gateway', ['ip', family, 'route', 'show', 'table', 'all'])),
    );
    return `${four?.stdout}${six?.stdout}`;
  };
  const before = await routes();
  const seen = await stand.watch(() => sendAll(stand, craftedPackets(stand.live, stand.resting)));
  expect(hex(seen)).toEqual(NOTHING);
  expect(await routes()).toBe(before);
});

test('a client without a certificate is shown a certificate of the API by TLS 1.3 alone, with no inner address in it', async () => {
  const { ca, network } = stand.agent;
  const at = `${GATEWAY.ipv4}:${API_PORT}`;
  const shown = async (version: string) => {
    const words = ['s_client', '-connect', at, '-showcerts', '-CAfile', ca.certificateFile, version];
    // What it prints is searched when the network closes, its certificates decoded (wire.ts).
    return (await network.run('rogue', ['openssl', ...words], { mayFail: true })).stdout;
  };
  expect(await shown('-tls1_2')).toContain('no peer certificate available');
  expect(await shown('-tls1_3')).toContain('BEGIN CERTIFICATE');
});

test('the 200 grants of the other server carry as before', async () => {
  expect(stand.live).toHaveLength(200);
  expect(await stand.deaf()).toEqual([]);
});

describe('with the gateway taken away', () => {
  beforeAll(() => stand.open());

  test(
    'each of the same scans finds devices, and goes in',
    async () => {
      let found: Record<string, readonly string[]> = {};
      const seen = await stand.watch(async () => {
        found = await scanAll(stand, all);
      });
      const blind = Object.entries(found).flatMap(([name, finds]) => (finds.length === 0 ? [name] : []));
      expect(blind).toEqual([]);
      expect(holding(seen, MARK).length).toBeGreaterThan(100);
      expect(seen.outside.length).toBeGreaterThan(100);
    },
    2 * MINUTES,
  );

  test('the same crafted packets go in', async () => {
    const crafted = craftedPackets(stand.live, stand.resting);
    const seen = await stand.watch(() => sendAll(stand, crafted));
    const missing = crafted.filter(
      ({ name, family, entersOpen }) => entersOpen && holding(seen, nameIn(name, family)).length === 0,
    );
    expect(missing.map(({ name, family }) => `${name} over ${family}`)).toEqual([]);
    expect(seen.outside.length).toBeGreaterThan(0);
  });
});
