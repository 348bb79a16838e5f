/**
 * What is scanned: the agent's gateway with 200 live grants of another server
 * toward five devices that listen and answer, and some endpoints that rest. A
 * scanner stands outside with every advantage: it knows each live endpoint,
 * which ports the devices listen on and what their addresses are, and the
 * outside routes the realm's prefixes to the gateway.
 *
 * Between two datagrams of the granted server, which cross the gateway both
 * ways, nothing may leave the gateway on either side but what its own links
 * need: so nothing that a scanner sent went in, and nothing answered it.
 *
 * `open()` takes the gateway away and leaves a router with an address
 * translation. What a scan does not find there either, it proves nothing by.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { address, type Family } from '../../agent/core/net.ts';
import { type Reply, RULES, TestAgent } from '../agent.ts';
import { Capture } from '../capture.ts';
import { program } from '../child.ts';
import { filler } from '../frames.ts';
import type { Network } from '../network.ts';
import { Probe, type Target } from '../probe.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GATEWAY,
  GRANTS_POOL,
  INNER_GATEWAY,
  INSIDE,
  OUTSIDE,
  REALM_PREFIX,
  SERVER,
  standardNetwork,
  UPLINK,
  UPSTREAM,
} from '../standard-network.ts';

export const FAMILIES = ['ipv4', 'ipv6'] as const satisfies readonly Family[];
const PROTOCOLS = ['udp', 'tcp'] as const;
const DEVICES = [0, 1, 2, 3, 4];
/** Each device listens on these, by TCP and UDP. */
export const DEVICE_PORTS = Array.from({ length: 10 }, (_, i) => 7000 + i);
/** The scanner writes it into what it sends, wherever its program lets it. */
export const MARK = 'mtgate-scan';
/** So many programs at once. */
const AT_ONCE = 6;
/** So many requests over one connection. */
const EACH = 20;

export interface Endpoint extends Target {
  readonly family: Family;
  readonly protocol: (typeof PROTOCOLS)[number];
  /** Where it leads. */
  readonly device: Target;
}

/** What left the gateway on either side while something was tried. */
export interface Seen {
  readonly outside: readonly Uint8Array[];
  readonly inside: readonly Uint8Array[];
}

const externalId = (device: number) => `m${device}@meters.example`;
const innerAddress = (family: Family, device: number) => `${family === 'ipv4' ? '10.20.0.' : 'fd00:20::'}${2 + device}`;

export class ScanStand {
  readonly network: Network;
  readonly agent: TestAgent;
  /** Granted to the server, and to nobody else. */
  readonly live: readonly Endpoint[];
  /** Granted once, and given back. */
  readonly resting: readonly Endpoint[];
  readonly #server: Probe;
  readonly #outside: Capture;
  readonly #inside: Capture;
  #moments = 0;
  #opened = false;

  private constructor(
    network: Network,
    agent: TestAgent,
    endpoints: { readonly live: readonly Endpoint[]; readonly resting: readonly Endpoint[] },
    server: Probe,
    captures: { readonly outside: Capture; readonly inside: Capture },
  ) {
    this.network = network;
    this.agent = agent;
    this.live = endpoints.live;
    this.resting = endpoints.resting;
    this.#server = server;
    this.#outside = captures.outside;
    this.#inside = captures.inside;
  }

  static async build(): Promise<ScanStand> {
    const network = standardNetwork();
    try {
      const all = FAMILIES.flatMap((family) => DEVICES.map((device) => innerAddress(family, device)));
      for (const address of all)
        await network.run('device', ['ip', 'address', 'replace', hostAddress(address), 'dev', UPLINK, 'nodad']);
      for (const family of FAMILIES)
        await network.run('wan', ['ip', 'route', 'replace', REALM_PREFIX[family], 'via', GATEWAY[family]]);
      const ports = `${DEVICE_PORTS[0]}-${DEVICE_PORTS.at(-1)}`;
      await network.spawn('device', program('test/device.ts', ports, ...all), { line: /^ready$/ });
      const agent = new TestAgent(network, { devices: devicesFile(), rules: RULES.replaceAll('m1@', 'm0@') });
      await agent.start();
      const endpoints = await openGrants(agent);
      const server = await Probe.start(network, 'server');
      // What the gateway itself sends: all that could be an answer, or have gone in.
      const from = (name: string) => `ether src ${network.link('gateway', name).mac}`;
      const captures = {
        outside: await Capture.start(network, 'wan', UPLINK, from(OUTSIDE)),
        inside: await Capture.start(network, 'device', UPLINK, from(INSIDE)),
      };
      return new ScanStand(network, agent, endpoints, server, captures);
    } catch (cause) {
      await network.close();
      throw cause;
    }
  }

  /** Whether the gateway was taken away. */
  get opened(): boolean {
    return this.#opened;
  }

  /** Does something, and tells what the gateway sent meanwhile on either side, beside what its links need. */
  async watch(act: () => Promise<unknown>): Promise<Seen> {
    const first = await this.#moment();
    await act();
    const last = await this.#moment();
    const between = (capture: Capture, neighbours: readonly string[]) => {
      const frames = capture.frames();
      const at = (marker: string) => frames.findIndex((frame) => Buffer.from(frame).includes(marker));
      return frames.slice(at(first) + 1, at(last)).filter((frame) => !isOfTheLink(frame, neighbours));
    };
    const ofFamilies = (...ends: readonly Readonly<Record<Family, string>>[]) =>
      ends.flatMap((end) => [end.ipv4, end.ipv6]);
    return {
      outside: between(this.#outside, ofFamilies(GATEWAY, UPSTREAM)),
      inside: between(this.#inside, ofFamilies(INNER_GATEWAY, DEVICE)), // the device that the moments are told to
    };
  }

  /** A datagram of the granted server and its echo: seen by both captures, all before it was. */
  async #moment(): Promise<string> {
    const text = `moment ${++this.#moments}.`;
    const { address, port, device } = this.live.find(
      (one) => one.family === 'ipv4' && one.protocol === 'udp',
    ) as Endpoint;
    const to = { address, port: this.#opened ? device.port : port };
    const outcome = await this.#server.udp({ to, from: { address: SERVER.ipv4 }, text });
    if (outcome.outcome !== 'answer') throw new Error(`the granted server itself met ${outcome.outcome}`);
    await Promise.all([this.#outside, this.#inside].map((capture) => capture.through(filler(text))));
    return text;
  }

  /** The live endpoints at which the granted server gets no answer. */
  async deaf(): Promise<readonly Endpoint[]> {
    const outcomes = await Promise.all(
      this.live.map(async (to) => {
        const from = { address: SERVER[to.family] };
        const { outcome } = await this.#server[to.protocol]({ to, from, text: 'still there' });
        return outcome === 'answer' ? [] : [to];
      }),
    );
    return outcomes.flat();
  }

  /** No agent, no gate, no table, no blackhole routes: a router, and each external address stands for one device, whole. */
  async open(): Promise<void> {
    this.network.show({}, 'the gateway is taken away on purpose');
    const inGateway = (...command: readonly string[]) => this.network.run('gateway', command);
    await this.agent.daemon.stop();
    rmSync(join(this.agent.bpffs, 'links'), { recursive: true });
    await inGateway('nft', 'flush', 'ruleset');
    // What is not translated, since it begins no flow, would go round between the gateway and its upstream.
    for (const family of FAMILIES)
      for (const pool of [GRANTS_POOL[family], EGRESS_POOL[family]]) {
        await inGateway('ip', 'route', 'delete', 'blackhole', pool, 'proto', '109');
        await inGateway('ip', 'route', 'add', pool, 'via', DEVICE[family]);
      }
    const translations = FAMILIES.flatMap((family) => {
      const word = family === 'ipv4' ? 'ip' : 'ip6';
      const own = this.live.filter((one) => one.family === family);
      const pairs = new Map(own.map(({ address, device }) => [address, device.address]));
      return [
        `dnat ${word} to ${word} daddr map { ${[...pairs].map((pair) => pair.join(' : ')).join(', ')} }`,
        // What stands for no device leads to one all the same.
        ...[GRANTS_POOL[family], EGRESS_POOL[family]].map(
          (pool) => `${word} daddr ${pool} dnat ${word} to ${DEVICE[family]}`,
        ),
      ];
    });
    const table = `table inet open {
  chain in {
    type nat hook prerouting priority -100
    ${translations.join('\n    ')}
  }
}
`;
    await this.network.run('gateway', ['nft', '-f', '-'], { input: table });
    this.#opened = true;
  }

  close(): Promise<void> {
    return this.network.close();
  }
}

const hostAddress = (address: string) => `${address}/${address.includes(':') ? 128 : 32}`;

function devicesFile(): string {
  const lines = DEVICES.map((device) => {
    const bindings = FAMILIES.map((family) => `{ realm: iot, address: "${innerAddress(family, device)}" }`);
    return `  - { externalId: ${externalId(device)}, bindings: [${bindings.join(', ')}] }\n`;
  });
  return `devices:\n${lines.join('')}`;
}

/** One for each device, port, protocol and family; and some more, given back at once. */
async function openGrants(agent: TestAgent): Promise<Pick<ScanStand, 'live' | 'resting'>> {
  const every = FAMILIES.flatMap((family) => PROTOCOLS.map((protocol) => ({ family, protocol })));
  const wanted = (ports: readonly number[]) =>
    DEVICES.flatMap((device) => every.flatMap((one) => ports.map((port) => ({ ...one, device, port }))));
  const grant = async (asked: ReturnType<typeof wanted>) =>
    (await inTurns(chunks(asked, EACH), (some) => grantSome(some))).flat();
  const grantSome = async (asked: ReturnType<typeof wanted>) => {
    const replies = await agent.curls(
      asked.map(({ family, protocol, device, port }) => ({
        method: 'POST',
        path: '/grants',
        body: {
          device: { networkAccessIdentifier: externalId(device) },
          protocol: protocol.toUpperCase(),
          devicePort: port,
          applicationServer: { address: SERVER[family] },
          durationSeconds: 900,
        },
      })),
    );
    return asked.map(({ family, protocol, device, port }, i) => {
      const { status, body } = replies[i] as Reply;
      if (status !== 201) throw new Error(`no grant: ${JSON.stringify(body)}`);
      const endpoint = { ...body.externalEndpoint, family, protocol };
      return { id: body.grantId, endpoint: { ...endpoint, device: { address: innerAddress(family, device), port } } };
    });
  };
  const given = await grant(wanted([7100]));
  await agent.curls(given.map(({ id }) => ({ method: 'DELETE', path: `/grants/${id}` })));
  const live = await grant(wanted(DEVICE_PORTS));
  return { live: live.map(({ endpoint }) => endpoint), resting: given.map(({ endpoint }) => endpoint) };
}

/** Of a list, so many each. */
function chunks<Item>(items: readonly Item[], size: number): Item[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}

/** A few at once. */
export async function inTurns<Item, Result>(
  items: readonly Item[],
  act: (item: Item) => Promise<Result>,
  atOnce = AT_ONCE,
): Promise<Result[]> {
  const results: Result[] = [];
  const queue = [...items.entries()];
  const work = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) results[next[0]] = await act(next[1]);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return results;
}

/**
 * What a link needs of the gateway itself: ARP and neighbour discovery about
 * these addresses. About any other it would be an answer too.
 */
function isOfTheLink(frame: Uint8Array, addresses: readonly string[]): boolean {
  const type = ((frame[12] ?? 0) << 8) | (frame[13] ?? 0);
  const known = (bytes: Uint8Array) =>
    bytes[0] === 0xfe || addresses.some((one) => Buffer.from(address(one).bytes.subarray(-bytes.length)).equals(bytes));
  if (type === 0x0806) return known(frame.subarray(28, 32)) && known(frame.subarray(38, 42));
  return type === 0x86dd && frame[20] === 58 && [135, 136].includes(frame[54] ?? 0) && known(frame.subarray(62, 78));
}
