/**
 * Real programs through grants, with nothing special on either side: HTTP by
 * curl, iperf3 both ways, CoAP with block-wise transfer, SSH, DTLS. Over a
 * plain path, and over one that narrows to 1,400 bytes at the gateway's inside
 * interface, where neither end can know it: an inner router stands between
 * gateway and device, and both ends believe in 1,500.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { RULES, TestAgent } from '../agent.ts';
import { type Child, program } from '../child.ts';
import type { Network, Plan } from '../network.ts';
import type { Target } from '../probe.ts';
import { DEVICE, INNER_GATEWAY, INSIDE, SERVER, standardNetwork, UPLINK } from '../standard-network.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
type Family = (typeof FAMILIES)[number];
const PORT = { http: 8080, iperf: 5201, coap: 5683, ssh: 22, dtls: 4433 } as const;
const NARROW_BYTES = 1400;
/** The inner router of the narrow path: the gateway's next hop, and the device's. */
const CELL = { ipv4: '10.20.255.2', ipv6: 'fd00:20::ff:2' } as const;

const NARROW_INSIDE: Plan = {
  namespaces: {
    cell: {
      forwards: true,
      routes: [
        ...FAMILIES.map((family) => `default via ${INNER_GATEWAY[family]}`),
        ...FAMILIES.map((family) => `${DEVICE[family]} dev cell`),
      ],
    },
    device: {
      routes: FAMILIES.flatMap((family) => [
        `${CELL[family]} dev ${UPLINK}`,
        `default via ${CELL[family]} dev ${UPLINK}`,
      ]),
    },
  },
  links: [
    [
      { namespace: 'gateway', interface: INSIDE, addresses: [`${INNER_GATEWAY.ipv4}/16`, `${INNER_GATEWAY.ipv6}/48`] },
      { namespace: 'cell', interface: 'toward', addresses: [`${CELL.ipv4}/16`, `${CELL.ipv6}/48`] },
    ],
    [
      { namespace: 'cell', interface: 'cell', addresses: [`${CELL.ipv4}/32`, `${CELL.ipv6}/128`] },
      { namespace: 'device', interface: UPLINK, addresses: [`${DEVICE.ipv4}/32`, `${DEVICE.ipv6}/128`] },
    ],
  ],
};

const sha256 = (bytes: string | Uint8Array) => createHash('sha256').update(bytes).digest('hex');

describe.each(['plain', 'narrow'] as const)('over a %s path', (path) => {
  let network: Network;
  let agent: TestAgent;
  let folder: string;
  const dtls: { [family in Family]?: Child } = {};
  /** Served, fetched, copied: nothing in it repeats. */
  const content = randomBytes(600_000);

  beforeAll(async () => {
    network = path === 'plain' ? standardNetwork() : standardNetwork(NARROW_INSIDE);
    if (path === 'narrow') await narrow(network);
    const ports = `[${Object.values(PORT).join(', ')}]`;
    agent = new TestAgent(network, {
      rules: RULES.replace('ports: ["7000-7999"]', `ports: ${ports}`).replace(/tests:[\s\S]*$/, ''),
      ...(path === 'narrow' && { inside: `${INSIDE}, nextHops: { ipv4: ${CELL.ipv4}, ipv6: "${CELL.ipv6}" }` }),
    });
    folder = network.folder();
    writeFileSync(join(folder, 'content'), content);
    await Promise.all([agent.start(), startPrograms()]);
  });
  afterAll(() => network?.close());
  // What one test learnt of the path's width is not the next one's.
  beforeEach(async () => {
    for (const namespace of ['server', 'device'])
      for (const family of ['-4', '-6']) await network.run(namespace, ['ip', family, 'route', 'flush', 'cache']);
  });

  /** What runs in the device. */
  async function startPrograms(): Promise<void> {
    const both = FAMILIES.map((family) => DEVICE[family]);
    const listens = (port: number, protocol: 'tcp' | 'udp' = 'tcp') => ({ listens: protocol, port });
    const inDevice = (command: readonly string[], ready: Parameters<Network['spawn']>[2]) =>
      network.spawn('device', command, ready);
    for (const address of both)
      await inDevice(['node', '-e', HTTP_SERVER, address, join(folder, 'content')], { line: /^ready$/ });
    await inDevice(['iperf3', '--server', '--port', String(PORT.iperf), '--forceflush'], listens(PORT.iperf));
    await inDevice(program('test/coap-device.ts', String(PORT.coap), ...both), { line: /^ready$/ });
    for (const family of FAMILIES) dtls[family] = await serveDtls(family);
    await network.run('device', ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', join(folder, 'host-key')]);
    await network.run('server', ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', join(folder, 'user-key')]);
    mkdirSync('/run/sshd', { recursive: true });
    const sshd = [
      ...['HostKey host-key', 'AuthorizedKeysFile user-key.pub', 'PidFile none'].map((line) =>
        line.replace(/(host|user)-key/, (key) => join(folder, key)),
      ),
      ...['StrictModes no', 'UsePAM no', 'UseDNS no', 'PasswordAuthentication no', 'Subsystem sftp internal-sftp'],
    ];
    writeFileSync(join(folder, 'sshd_config'), sshd.join('\n'));
    await inDevice(['/usr/sbin/sshd', '-D', '-e', '-f', join(folder, 'sshd_config')], listens(PORT.ssh));
  }

  async function serveDtls(family: Family): Promise<Child> {
    // A device that names itself by its address in its certificate tells it to its server: that is not the gateway's to hide.
    const { certificateFile, keyFile } = agent.ca.issue({ name: `dtls-${family}`, usage: ['serverAuth'] });
    const at = ['-accept', `${host(DEVICE[family])}:${PORT.dtls}`];
    const files = ['-cert', certificateFile, '-key', keyFile];
    return await network.spawn('device', ['openssl', 's_server', '-dtls1_2', ...at, ...files], { line: /^ACCEPT/ });
  }

  const atServer = (...command: readonly string[]) => network.run('server', command);

  async function granted(family: Family, protocol: 'UDP' | 'TCP', devicePort: number): Promise<Target> {
    const { status, body } = await agent.grant({
      protocol,
      devicePort,
      applicationServer: { address: SERVER[family] },
    });
    expect(body).toMatchObject({ status: 'LIVE' });
    expect(status).toBe(201);
    return body.externalEndpoint;
  }

  describe.each(FAMILIES)('%s', (family) => {
    test('curl fetches a file', async () => {
      const { address, port } = await granted(family, 'TCP', PORT.http);
      const url = `http://${host(address)}:${port}/content`;
      const to = join(folder, `fetched-${family}`);
      await atServer('curl', '--silent', '--show-error', '--fail', '--max-time', '10', '--output', to, url);
      expect(sha256(readFileSync(to))).toBe(sha256(content));
    });

    test('scp copies a file there, ssh runs a command that says as much', async () => {
      const { address, port } = await granted(family, 'TCP', PORT.ssh);
      const options = [
        ...['-i', join(folder, 'user-key'), '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=10'],
        ...['-o', 'ServerAliveInterval=2', '-o', 'ServerAliveCountMax=3'],
        ...['-o', 'StrictHostKeyChecking=no', '-o', `UserKnownHostsFile=${join(folder, `known-${family}`)}`],
      ];
      const there = join(folder, `there-${family}`);
      const scp = (from: string, to: string) =>
        atServer('timeout', '15', 'scp', '-q', '-P', String(port), ...options, from, to);
      await scp(join(folder, 'content'), `root@${host(address)}:${there}`);
      expect(sha256(readFileSync(there))).toBe(sha256(content));
      const command = `base64 ${there}; sha256sum ${there}`;
      const said = await atServer('timeout', '15', 'ssh', '-p', String(port), ...options, `root@${address}`, command);
      expect(said.stdout).toContain(sha256(content));
    });

    test('DTLS shakes hands and carries a record each way', async () => {
      const { address, port } = await granted(family, 'UDP', PORT.dtls);
      const connect = `${host(address)}:${port}`;
      const client = await network.spawn(
        'server',
        [
          'openssl',
          's_client',
          '-dtls1_2',
          '-connect',
          connect,
          '-CAfile',
          agent.ca.certificateFile,
          '-verify_return_error',
        ],
        { line: /^Verification: OK/ },
      );
      client.say('from the server');
      await dtls[family]?.line(/^from the server$/);
      dtls[family]?.say('from the device');
      await client.line(/^from the device$/);
      await client.stop();
    });

    test('CoAP carries a large body block by block, there and back', async () => {
      const { address, port } = await granted(family, 'UDP', PORT.coap);
      const { stdout } = await atServer(
        'timeout',
        '15',
        'node',
        '--input-type=module',
        '-e',
        COAP_CLIENT,
        address,
        String(port),
      );
      expect(JSON.parse(stdout)).toEqual({ code: '2.05', length: COAP_BYTES, same: true, blocks: true });
    });

    describe('iperf3', () => {
      /**
       * Its client takes one port for the TCP connection that steers and for the UDP that is measured,
       * and a grant's endpoint is what the pool gave. So on the server's own host, as its
       * administrator would, a translation: both lead from the endpoint of the first to their own.
       */
      let address: string;
      beforeAll(async () => {
        const [tcp, udp] = [await granted(family, 'TCP', PORT.iperf), await granted(family, 'UDP', PORT.iperf)];
        const word = family === 'ipv4' ? 'ip' : 'ip6';
        address = tcp.address;
        const input = `table ${word} iperf {
  chain out {
    type nat hook output priority -100
    ${word} daddr ${address} tcp dport ${PORT.iperf} dnat to ${host(tcp.address)}:${tcp.port}
    ${word} daddr ${address} udp dport ${PORT.iperf} dnat to ${host(udp.address)}:${udp.port}
  }
}
`;
        await network.run('server', ['nft', '-f', '-'], { input });
      });

      // iperf3 sizes its datagrams by the MSS of its TCP connection, which is why they wait too.
      const udp = ['--udp'];
      test('TCP to the device', () => measure());
      test('TCP from the device', () => measure('--reverse'));
      test('UDP to the device', () => measure(...udp));
      test('UDP from the device', () => measure(...udp, '--reverse'));

      async function measure(...options: readonly string[]): Promise<void> {
        const iperf = [
          'iperf3',
          '--json',
          '--client',
          address,
          '--port',
          String(PORT.iperf),
          '--connect-timeout',
          '3000',
        ];
        const { stdout } = await atServer('timeout', '15', ...iperf, '--time', '1', '--bitrate', '50M', ...options);
        const { end, error } = JSON.parse(stdout) as IperfReport;
        expect(error).toBeUndefined();
        const received = end.sum_received ?? end.sum;
        expect(received?.bytes).toBeGreaterThan(IPERF_BYTES);
      }
    });
  });
});

const HTTP_SERVER = `
const [address, file] = process.argv.slice(1);
require('node:http')
  .createServer((_, answer) => require('node:fs').createReadStream(file).pipe(answer))
  .listen(${PORT.http}, address, () => console.log('ready'));
`;

/** What a path that carries large packets carries in a second even on a busy machine; one that does not stops at once. */
const IPERF_BYTES = 500_000;

interface IperfReport {
  readonly error?: string;
  readonly end: { readonly sum?: { readonly bytes: number }; readonly sum_received?: { readonly bytes: number } };
}

const COAP_BYTES = 6000;
/** Asks by blocks of 1,024 bytes, is answered by blocks, and says what came. */
const COAP_CLIENT = `
import { randomBytes } from 'node:crypto';
import { request } from 'coap';
const [hostname, port] = process.argv.slice(1);
const payload = randomBytes(${COAP_BYTES / 2}).toString('hex');
const asked = request({ hostname, port: Number(port), method: 'POST', pathname: '/echo', confirmable: true });
asked.setOption('Block1', Buffer.of(0x6));
asked.on('response', (answer) => {
  const same = answer.payload.toString() === payload;
  const blocks = answer.options.some(({ name }) => name === 'Block2');
  console.log(JSON.stringify({ code: answer.code, length: answer.payload.length, same, blocks }));
  process.exit(0);
});
asked.on('error', (error) => { console.log(JSON.stringify(String(error))); process.exit(0); });
asked.end(payload);
`;

const host = (address: string) => (address.includes(':') ? `[${address}]` : address);

/** Only the link between gateway and cell is narrow; and what is sent is what a wire would carry, no packet of many segments. */
async function narrow(network: Network): Promise<void> {
  await network.run('gateway', ['ip', 'link', 'set', INSIDE, 'mtu', String(NARROW_BYTES)]);
  await network.run('cell', ['ip', 'link', 'set', 'toward', 'mtu', String(NARROW_BYTES)]);
  for (const namespace of ['server', 'device'])
    await network.run(namespace, ['ip', 'link', 'set', UPLINK, 'gso_max_segs', '1']);
}
