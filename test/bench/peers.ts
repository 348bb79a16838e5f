/**
 * What others take who open holes on request, as Debian packages them:
 * fwknop-server (single packet authorisation, iptables) and miniupnpd
 * (UPnP IGD, nftables). Neither keeps a durable record, and neither is asked
 * over mutual TLS; they stand here as the nearest there is.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { program, until } from '../child.ts';
import type { Network } from '../network.ts';
import { DEVICE, GATEWAY, INNER_GATEWAY, INSIDE, OUTSIDE, SERVER, standardNetwork } from '../standard-network.ts';
import { type Figure, figure, show, table } from './figures.ts';
import { cpuSeconds } from './process-usage.ts';
import type { Mapping } from './upnp-client.ts';

/** Mappings, or accesses, that are open at the end of a round: the size that the goal names. */
const HELD = 100;
const FIRST_PORT = 20_000;
const SPA_PORT = 62_201;
const UPNP_PORT = 5000;

interface PeerRow {
  readonly name: string;
  readonly perSecond: Figure;
  readonly cpuMicroseconds: Figure;
}

export interface PeerResults {
  readonly rows: readonly PeerRow[];
}

interface Peer {
  readonly name: string;
  /** Opens as many as are to be held; how many seconds that took. */
  readonly open: (round: number) => Promise<number>;
  /** CPU seconds of the daemon and its children so far. */
  readonly cpu: () => number;
}

/** Says what is not installed. */
export function missingPeers(): string[] {
  const tools = { fwknopd: 'fwknop-server', fwknop: 'fwknop-client', miniupnpd: 'miniupnpd-nftables' };
  const isThere = (tool: string) => ['/usr/sbin', '/usr/bin'].some((folder) => existsSync(join(folder, tool)));
  return Object.entries(tools).flatMap(([tool, name]) => (isThere(tool) ? [] : name));
}

export async function measurePeers(rounds: number, progress: (what: string) => void): Promise<PeerResults> {
  const network = standardNetwork();
  try {
    const peers = [await fwknop(network, rounds), await miniupnp(network)];
    const runs = peers.map((): { perSecond: number; cpuMicroseconds: number }[] => []);
    for (let round = 0; round < rounds; round++) {
      progress(`peers: round ${round + 1} of ${rounds}`);
      for (const [i, peer] of peers.entries()) {
        const cpuBefore = peer.cpu();
        const seconds = await peer.open(round);
        const cpuMicroseconds = ((peer.cpu() - cpuBefore) / HELD) * 1e6;
        runs[i]?.push({ perSecond: HELD / seconds, cpuMicroseconds });
      }
    }
    const rows = peers.map(({ name }, i) => ({
      name,
      perSecond: figure((runs[i] ?? []).map(({ perSecond }) => perSecond)),
      cpuMicroseconds: figure((runs[i] ?? []).map(({ cpuMicroseconds }) => cpuMicroseconds)),
    }));
    return { rows };
  } finally {
    await network.close();
  }
}

/** Its packets are made beforehand, since making one takes the client a process; the newline behind each is none of it. */
async function fwknop(network: Network, rounds: number): Promise<Peer> {
  const folder = network.folder();
  const key = Buffer.alloc(32, 1).toString('base64');
  const hmacKey = Buffer.alloc(64, 2).toString('base64');
  writeFileSync(
    join(folder, 'access.conf'),
    `SOURCE ANY\nKEY_BASE64 ${key}\nHMAC_KEY_BASE64 ${hmacKey}\nFW_ACCESS_TIMEOUT 300\n`,
    { mode: 0o600 },
  );
  writeFileSync(
    join(folder, 'fwknopd.conf'),
    `PCAP_INTF ${OUTSIDE};\nFWKNOP_RUN_DIR ${folder};\nFWKNOP_CONF_DIR ${folder};\nMAX_SPA_PACKET_AGE 3600;\n`,
    { mode: 0o600 },
  );
  const packets = (round: number) => Array.from({ length: HELD }, (_, i) => join(folder, `spa-${round}-${i}`));
  for (let round = 0; round < rounds; round++) {
    for (const [i, file] of packets(round).entries()) {
      const port = FIRST_PORT + round * HELD + i;
      const keys = ['--key-base64-rijndael', key, '--use-hmac', '--key-base64-hmac', hmacKey];
      const quiet = ['--no-home-dir', '--no-rc-file', '--save-args-file', '/dev/null', '--test', '--save-packet', file];
      const what = ['--access', `udp/${port}`, '--allow-ip', SERVER.ipv4, '--destination', GATEWAY.ipv4];
      execFileSync('fwknop', [...what, ...keys, ...quiet], { stdio: 'ignore' });
    }
  }
  const files = ['--config-file', join(folder, 'fwknopd.conf'), '--access-file', join(folder, 'access.conf')];
  const command = ['fwknopd', '--foreground', ...files, '--pid-file', join(folder, 'pid')];
  // It writes to standard error alone; both in one, so that a line can be awaited.
  const daemon = await network.spawn('gateway', ['sh', '-c', `exec ${command.join(' ')} 2>&1`], {
    line: /Starting fwknopd main event loop|Sniffing interface/,
  });
  return {
    name: 'fwknop-server',
    open: async (round) => {
      await network.run('gateway', ['iptables', '--flush', 'FWKNOP_INPUT']);
      const from = daemon.lines.length;
      const send = packets(round).map((file) => `printf %s "$(<${file})" > /dev/udp/${GATEWAY.ipv4}/${SPA_PORT}`);
      const start = performance.now();
      const sending = network.run('server', ['bash', '-c', send.join('; ')]);
      for (let seen = 0, at = from; seen < HELD; seen++) {
        await daemon.line(/Added access rule/, { from: at, patienceMs: 60_000 });
        at = 1 + daemon.lines.findIndex((line, i) => i >= at && line.includes('Added access rule'));
      }
      const seconds = (performance.now() - start) / 1000;
      await sending;
      return seconds;
    },
    cpu: () => cpuSeconds(daemon.pid, { children: true }),
  };
}

async function miniupnp(network: Network): Promise<Peer> {
  const folder = network.folder();
  writeFileSync(
    join(folder, 'tables.nft'),
    `table inet filter {
  chain forward { type filter hook forward priority 0; jump miniupnpd
  }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd
  }
  chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd
  }
  chain miniupnpd {
  }
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
}
`,
  );
  await network.run('gateway', ['nft', '-f', join(folder, 'tables.nft')]);
  // Addresses for documentation count as private to it, so it is told of a public one. Nothing is sent there.
  writeFileSync(
    join(folder, 'miniupnpd.conf'),
    `ext_ifname=${OUTSIDE}
ext_ip=11.22.33.44
listening_ip=${INSIDE}
port=${UPNP_PORT}
enable_upnp=yes
secure_mode=no
system_uptime=yes
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
uuid=00000000-0000-0000-0000-000000000000
allow 1024-65535 0.0.0.0/0 1024-65535
`,
  );
  // Not in the foreground: there it writes a line for each rule that it looks at.
  await network.run('gateway', ['miniupnpd', '-f', join(folder, 'miniupnpd.conf'), '-P', join(folder, 'pid')]);
  const pid = await until('its pid', () => {
    const file = join(folder, 'pid');
    return existsSync(file) ? Number(readFileSync(file, 'latin1')) || undefined : undefined;
  });
  process.once('exit', () => process.kill(pid)); // it is nobody's child
  const client = await network.spawn(
    'device',
    program('test/bench/upnp-client.ts', INNER_GATEWAY.ipv4, String(UPNP_PORT), DEVICE.ipv4),
    { line: /^ready$/ },
  );
  const carryOut = async (action: Mapping['action']): Promise<number> => {
    const from = client.lines.length;
    const mapping: Mapping = { action, from: FIRST_PORT, count: HELD };
    client.say(JSON.stringify(mapping));
    const line = await client.line(/^done /, { from, patienceMs: 60_000 });
    return Number(line.slice('done '.length));
  };
  return {
    name: 'miniupnpd (nftables)',
    open: async (round) => {
      if (round > 0) await carryOut('DeletePortMapping');
      return carryOut('AddPortMapping');
    },
    cpu: () => cpuSeconds(pid),
  };
}

/** `grantsPerSecond` is of the same run, at the most connections. */
export function showPeers({ rows }: PeerResults, grantsPerSecond: number | undefined): string {
  const head = [`asked for until ${HELD} are open`, 'a second', 'CPU us each', 'grants, in times of it'];
  const lines = rows.map(({ name, perSecond, cpuMicroseconds }) => [
    name,
    show(perSecond, 0),
    show(cpuMicroseconds, 0),
    grantsPerSecond ? (grantsPerSecond / perSecond.median).toFixed(1) : '',
  ]);
  return table(head, lines);
}
