/**
 * Packets that no program sends: with sources that are not the sender's, in
 * fragments that hide or overlap, behind IPv6 extension headers, ICMP errors
 * that quote a guess, what only a neighbour or a router of the link may say.
 * Each has its name in its bytes. `routed` ones come from the scanner's own
 * network; the others stand on the gateway's own outside link, as if a
 * neighbour there were hostile.
 *
 * Left out on purpose: the granted address itself as source. Whoever can send
 * from it is the server, as far as a firewall can see (RFC 2827 is the
 * operator's at its edge).
 */
import { address, type Family } from '../../agent/core/net.ts';
import { ethernet, filler, type IpFields, icmp, ip, raw, TCP_ACK, tcp, type Upper, udp } from '../frames.ts';
import type { Target } from '../probe.ts';
import { DEVICE, EGRESS_POOL, GATEWAY, INNER_GATEWAY, ROGUE, SERVER_SECOND, UPSTREAM } from '../standard-network.ts';
import { type Endpoint, FAMILIES, MARK } from './stand.ts';

export interface Crafted {
  readonly name: string;
  readonly family: Family;
  /** Where it is put on a wire: the scanner's, or the one between the upstream router and the gateway. */
  readonly at: 'scanner' | 'link';
  /** IP packets, or ARP, which is of the link alone. */
  readonly packets: readonly Uint8Array[];
  /** Whether an open gateway is sure to let it in, with its name; other packets a host may drop by itself. */
  readonly entersOpen: boolean;
}

const ETHERTYPE_ARP = 0x0806;
const TCP_FIN = 0x01;
const TCP_RST = 0x04;
/** Groups that hosts listen to. */
const GROUP = { ipv4: '224.0.0.1', ipv6: 'ff02::1' } as const;
const NEIGHBOUR = { ipv4: SERVER_SECOND.ipv4, ipv6: SERVER_SECOND.ipv6 } as const;
const UNUSED = { ipv4: EGRESS_POOL.ipv4.replace('.8/29', '.14'), ipv6: '2001:db8:a::5ca1' } as const;

/** What stands in a packet of that name. */
export const nameIn = (name: string, family: Family) => `${MARK} ${name} ${family}.`;

export function craftedPackets(live: readonly Endpoint[], resting: readonly Endpoint[]): Crafted[] {
  return FAMILIES.flatMap((family) => {
    const of = (endpoints: readonly Endpoint[], protocol: 'udp' | 'tcp') =>
      endpoints.find((one) => one.family === family && one.protocol === protocol) as Endpoint;
    return [
      ...plain(family, of(live, 'udp'), of(live, 'tcp'), of(resting, 'udp')),
      ...ofTheLink(family, of(live, 'udp')),
    ];
  });
}

/** A packet of a name, from and to; its transport is given the text that it must carry. */
type Make = (name: string, upper: (text: string) => Upper, from?: string, to?: string, fields?: IpFields) => Crafted;

function maker(family: Family, to: string, at: Crafted['at'], enters: boolean): Make {
  return (name, upper, from = ROGUE[family], target = to, fields = {}) => ({
    ...{ name, family, at, entersOpen: enters },
    packets: [ip(from, target, upper(nameIn(name, family)), fields)],
  });
}

function plain(family: Family, granted: Endpoint, grantedTcp: Endpoint, rested: Endpoint): Crafted[] {
  const enters = maker(family, granted.address, 'scanner', true);
  const foreign = maker(family, granted.address, 'scanner', false);
  const { port } = granted;
  const icmpOf =
    (type4: number, type6: number, rest = 0) =>
    (text: string) =>
      family === 'ipv4' ? icmp('icmp', type4, 0, text, rest) : icmp('icmpv6', type6, 0, text, rest);
  return [
    enters('UDP to a live endpoint of another', (text) => udp(40_000, port, text)),
    enters('UDP to its even neighbour', (text) => udp(40_000, port ^ 1, text)),
    enters('UDP to a resting endpoint', (text) => udp(40_000, rested.port, text), undefined, rested.address),
    enters(
      'UDP to an address of the pool that nobody has',
      (text) => udp(40_000, port, text),
      undefined,
      UNUSED[family],
    ),
    enters(
      "UDP to the device's own address",
      (text) => udp(40_000, granted.device.port, text),
      undefined,
      granted.device.address,
    ),
    enters(
      "TCP to the device's own address",
      (text) => tcp(40_000, granted.device.port, text),
      undefined,
      DEVICE[family],
    ),
    enters('UDP from beside the granted server', (text) => udp(40_001, port, text), NEIGHBOUR[family]),
    enters(
      'SYN from beside the granted server',
      (text) => tcp(40_001, grantedTcp.port, text),
      NEIGHBOUR[family],
      grantedTcp.address,
    ),
    foreign('RST out of nothing', (text) => tcp(40_002, port, text, TCP_RST)),
    foreign('FIN out of nothing', (text) => tcp(40_003, port, text, TCP_FIN | TCP_ACK)),
    enters('ACK out of nothing', (text) => tcp(40_004, port, text, TCP_ACK, { acknowledges: 1 })),
    enters('echo request', icmpOf(8, 128, 0x0001_0001)),
    foreign('echo reply', icmpOf(0, 129, 0x0002_0002)),
    enters('a protocol of nobody', (text) => raw(253, text)),
    ...(family === 'ipv4'
      ? [
          enters('timestamp request', icmpOf(13, 0)),
          enters('address mask request', icmpOf(17, 0)),
          enters('loose source route', (text) => udp(40_005, port, text), undefined, undefined, {
            options: Uint8Array.of(148, 4, 0, 0),
          }),
        ]
      : [0, 43, 60].map((header) =>
          enters(`UDP behind extension header ${header}`, (text) => udp(40_005, port, text), undefined, undefined, {
            extensions: [header],
          }),
        )),
    enters('RST to a device', (text) => tcp(40_002, 7000, text, TCP_RST), undefined, granted.device.address),
    enters('FIN to a device', (text) => tcp(40_003, 7000, text, TCP_FIN | TCP_ACK), undefined, granted.device.address),
    enters('echo reply to a device', icmpOf(0, 129, 0x0002_0002), undefined, granted.device.address),
    enters("from the device's own address", (text) => udp(40_006, port, text), DEVICE[family]),
    foreign("from the gateway's inner address", (text) => udp(40_006, port, text), INNER_GATEWAY[family]),
    ...fragments(family, granted),
    ...errors(family, granted),
  ];
}

/** Fragments of one datagram: whole and in order, tiny, overlapping, and a later one alone. RFC 1858, 5722. */
function fragments(family: Family, { address, port, device }: Endpoint): Crafted[] {
  const one = (
    name: string,
    parts: (whole: Uint8Array) => readonly (readonly [from: number, to: number, more: boolean])[],
    to = address,
    enters = true,
  ): Crafted => {
    const text = nameIn(name, family);
    // The name comes twice: whichever part gets in has it whole.
    const content = filler(`${text}${' '.repeat(64 - text.length)}${text}`.padEnd(128));
    const whole = ipPayload(ip(ROGUE[family], to, udp(40_010, to === address ? port : device.port, content)), family);
    const id = 0x5ca0 + name.length;
    return {
      ...{ name, family, at: 'scanner', entersOpen: enters },
      packets: parts(whole).map(([from, until, more]) =>
        ip(ROGUE[family], to, raw(17, whole.subarray(from, until)), { id, fragment: { offset: from, more } }),
      ),
    };
  };
  return [
    one('fragments in order', ({ length }) => [
      [0, 72, true],
      [72, length, false],
    ]),
    one('fragments out of order', ({ length }) => [
      [72, length, false],
      [0, 72, true],
    ]),
    one(
      'fragments that overlap',
      ({ length }) => [
        [0, 80, true],
        [72, length, false],
      ],
      address,
      false,
    ),
    one('a tiny first fragment', ({ length }) => [
      [0, 8, true],
      [8, length, false],
    ]),
    one('a later fragment alone', ({ length }) => [[72, length, false]], address, false),
    one('a later fragment alone, to a device', ({ length }) => [[72, length, false]], device.address, false),
  ];
}

/** Errors about packets that were never sent: as if from the path, about guesses at what goes on. */
function errors(family: Family, { address, port, device }: Endpoint): Crafted[] {
  const kinds = {
    unreachable: { ipv4: [3, 3, 0], ipv6: [1, 4, 0] },
    'too big': { ipv4: [3, 4, 576], ipv6: [2, 0, 1280] },
    'time exceeded': { ipv4: [11, 0, 0], ipv6: [3, 0, 0] },
    'parameter problem': { ipv4: [12, 0, 0], ipv6: [4, 0, 6] },
  } as const;
  return Object.entries(kinds).flatMap(
    ([
      kind,
      {
        [family]: [type, code, rest],
      },
    ]) => {
      const about = (name: string, source: Target, destination: Target, to: string): Crafted => {
        const text = nameIn(`${kind} ${name}`, family);
        const quoted = ip(source.address, destination.address, udp(source.port, destination.port, text));
        const error = icmp(family === 'ipv4' ? 'icmp' : 'icmpv6', type, code, quoted, rest);
        return {
          name: `${kind} ${name}`,
          family,
          at: 'scanner',
          entersOpen: to === device.address,
          packets: [ip(ROGUE[family], to, error)],
        };
      };
      const rogue = { address: ROGUE[family], port: 40_020 };
      return [
        about('about a grant', { address, port }, rogue, address),
        about('about a grant to its server', { address, port }, { address: NEIGHBOUR[family], port: 40_020 }, address),
        about('about a device', device, rogue, device.address),
        about('about a device, to the pool', device, rogue, address),
      ];
    },
  );
}

/** What only a neighbour on the gateway's own link can send. */
function ofTheLink(family: Family, granted: Endpoint): Crafted[] {
  const { port, device } = granted;
  const link = maker(family, granted.address, 'link', false);
  const linkLocal = { ipv4: '169.254.7.7', ipv6: 'fe80::5ca1' }[family];
  const own = UPSTREAM[family];
  const common = [
    link('from a link-local address', (text) => udp(40_030, port, text), linkLocal),
    link('from a group', (text) => udp(40_031, port, text), family === 'ipv4' ? '224.0.0.9' : 'ff02::9'),
    link('from the gateway itself', (text) => udp(40_032, port, text), GATEWAY[family]),
    link('from loopback', (text) => udp(40_033, port, text), family === 'ipv4' ? '127.0.0.1' : '::1'),
    link('from nowhere', (text) => udp(40_034, port, text), family === 'ipv4' ? '0.0.0.0' : '::'),
    link('link-local to a device', (text) => udp(40_035, device.port, text), linkLocal, device.address),
    link('to a group', (text) => udp(40_036, device.port, text), own, GROUP[family]),
  ];
  if (family === 'ipv4') {
    const quote = ip(DEVICE.ipv4, ROGUE.ipv4, udp(7000, 40_037));
    return [
      ...common,
      link('redirect', (text) => icmp('icmp', 5, 1, joined(quote, text), 0xc000_0242), own),
      link('redirect to a device', (text) => icmp('icmp', 5, 1, joined(quote, text), 0xc000_0242), own, device.address),
      link('router advertisement', (text) => icmp('icmp', 9, 0, text, 0x0102_0384), own, GROUP.ipv4),
      ...[granted.address, device.address, INNER_GATEWAY.ipv4].map((target) => ({
        ...{ name: `ARP for ${target}`, family, at: 'link' as const, entersOpen: false },
        packets: [whoHas(target, own)],
      })),
      link('to everybody', (text) => udp(40_038, device.port, text), own, '255.255.255.255'),
    ];
  }
  return [
    ...common,
    link(
      'router advertisement',
      (text) => icmp('icmpv6', 134, 0, joined(new Uint8Array(8), text)),
      linkLocal,
      GROUP.ipv6,
      { hops: 255 },
    ),
    link(
      'router advertisement to a device',
      (text) => icmp('icmpv6', 134, 0, joined(new Uint8Array(8), text)),
      linkLocal,
      device.address,
      { hops: 255 },
    ),
    link('redirect', (text) => icmp('icmpv6', 137, 0, joined(new Uint8Array(32), text)), linkLocal, GROUP.ipv6, {
      hops: 255,
    }),
    link(
      'multicast listener query',
      (text) => icmp('icmpv6', 130, 0, joined(new Uint8Array(16), text)),
      linkLocal,
      GROUP.ipv6,
      { hops: 1 },
    ),
    link(
      'neighbour solicitation for a device',
      (text) => icmp('icmpv6', 135, 0, joined(address(device.address).bytes, text)),
      own,
      GROUP.ipv6,
      { hops: 255 },
    ),
    link(
      'neighbour solicitation for an endpoint',
      (text) => icmp('icmpv6', 135, 0, joined(address(granted.address).bytes, text)),
      own,
      GROUP.ipv6,
      { hops: 255 },
    ),
  ];
}

/** An ARP request (RFC 826); whose it is stands in the frame. */
function whoHas(target: string, from: string): Uint8Array {
  const words = Uint8Array.of(0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0);
  const bytes = (text: string) => address(text).bytes.subarray(12);
  return Uint8Array.from([...words, ...bytes(from), 0, 0, 0, 0, 0, 0, ...bytes(target)]);
}

const ipPayload = (packet: Uint8Array, family: Family) => packet.subarray(family === 'ipv4' ? 20 : 40);
const joined = (bytes: Uint8Array, text: string) => Uint8Array.from([...bytes, ...filler(text)]);

/** The frame of a packet between two stations; a group's where the packet is to one, or nobody's in particular. */
export function frameOf(packet: Uint8Array, from: string, to: string): Uint8Array {
  const mac = (text: string) => text.split(':').map((byte) => Number.parseInt(byte, 16));
  const everybody = mac('ff:ff:ff:ff:ff:ff');
  const version = (packet[0] ?? 0) >> 4;
  const frame = ethernet(packet, version === 0 ? { etherType: ETHERTYPE_ARP } : {});
  const destination = version === 6 ? packet.subarray(24, 40) : packet.subarray(16, 20);
  const first = destination[0] ?? 0;
  if (version === 0 || (version === 4 && first === 255)) frame.set(everybody);
  else if (version === 4 && first >= 224) frame.set([0x01, 0, 0x5e, ...destination.subarray(1)]);
  else if (version === 6 && first === 0xff) frame.set([0x33, 0x33, ...destination.subarray(12)]);
  else frame.set(mac(to));
  frame.set(mac(from), 6);
  if (version === 0) frame.set(mac(from), 22); // or the true neighbour would be forgotten
  return frame;
}
