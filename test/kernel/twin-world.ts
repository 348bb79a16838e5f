/**
 * What happens in a world that the gate and its twin both live in: grants come
 * and go in any order, and packets of every kind arrive. Few addresses and
 * ports, so that they meet; most packets come close to what some grant
 * carries, and then something about them may be twisted.
 *
 * Frames stand in commands as hex, so that a counterexample can be read, and
 * run again by hand.
 */
import fc from 'fast-check';
import type { Admission } from '../../agent/core/admissions.ts';
import type { Endpoint } from '../../agent/core/net.ts';
import { ANSWER_MARK, OWN_MARK } from '../../agent/core/reasons.ts';
import type { PacketLimits } from '../../agent/core/words.ts';
import type { Hook } from '../../agent/dataplane/dataplane.ts';
import { cut, ethernet, type IpFields, icmp, ip, raw, TCP_ACK, tcp, type Upper, udp } from '../frames.ts';
import { CLASS, mapping, OTHER_CLASS, REALM, SECOND_REALM, SERVER_PREFIXES } from '../suites/fixture.ts';

type Text = Parameters<typeof mapping>[0];

type Ends = 'inAnHour' | 'justNow' | 'longAgo';

/** An admission, its prefixes as texts. */
export type AdmissionText = Omit<Admission, 'source' | 'destination'> & Record<'source' | 'destination', string>;

export type Command =
  | { readonly do: 'open'; readonly grant: Text; readonly ends: Ends }
  | { readonly do: 'end' | 'forget'; readonly which: number }
  | { readonly do: 'limit'; readonly which: number; readonly limits: PacketLimits }
  | { readonly do: 'usedUp' }
  | { readonly do: 'admit'; readonly list: readonly AdmissionText[] }
  | { readonly do: 'class'; readonly prefix: string; readonly classId: number }
  | { readonly do: 'changing' | 'bound'; readonly realm: number; readonly prefix: string; readonly on: boolean }
  | { readonly do: 'heartbeat'; readonly lost: boolean }
  | { readonly do: 'packet'; readonly hook: Hook; readonly at: Place; readonly hex: string; readonly mark: number };

/** The interface that a packet from inside comes in at. */
export type Place = 'inside' | 'secondInside' | 'other';

const FAMILIES = {
  ipv4: {
    externals: ['203.0.113.0', '203.0.113.7', '203.0.113.33'],
    devices: ['10.20.0.2', '10.20.0.3'],
    remotes: ['198.51.100.10', '198.51.100.11', '198.51.100.129'],
    others: [
      '10.20.0.1',
      '10.30.0.2',
      '192.0.2.2',
      '192.0.2.66',
      '203.0.113.8',
      '203.0.113.34',
      '127.0.0.1',
      '0.0.0.0',
    ],
    ends: ['224.0.0.251', '239.255.255.255', '240.0.0.1', '255.255.255.255', '126.255.255.255', '223.255.255.255'],
    any: fc.ipV4(),
  },
  ipv6: {
    externals: ['2001:db8:a::', '2001:db8:a:0:ffff:ffff:ffff:ffff'],
    devices: ['fd00:20::2', 'fd00:20::3'],
    remotes: ['2001:db8:51::10', '2001:db8:51::11', '2001:db8:51:8000::1'],
    others: ['fd00:20::1', '2001:db8:0:1::2', '2001:db8:66::66', '2001:db8:a:1::', 'fe80::1', 'febf::1', 'fec0::1'],
    ends: ['::', '::1', '::2', 'ff02::1', 'ff02::1:ff00:1', 'ff0e::1', 'fd00:21::', '2001:db8:9:ffff::'],
    any: fc.ipV6().filter((text) => !text.includes('.')),
  },
} as const;
type FamilyName = keyof typeof FAMILIES;

const family = fc.constantFrom<FamilyName>('ipv4', 'ipv6');
const externalPort = fc.constantFrom(40_000, 40_001, 40_063);
const devicePort = fc.constantFrom(22, 5683);
const remotePort = fc.constantFrom(5000, 5001);
const hops = fc.oneof(
  { weight: 4, arbitrary: fc.constant(64) },
  { weight: 1, arbitrary: fc.constantFrom(0, 1, 2, 255) },
);
const payload = fc.oneof(
  { weight: 6, arbitrary: fc.uint8Array({ maxLength: 40 }) },
  { weight: 6, arbitrary: fc.constant(new Uint8Array()) },
  { weight: 1, arbitrary: fc.integer({ min: 1200, max: 1300 }).map((length) => new Uint8Array(length)) },
);

const bracket = (host: string, port: number) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);

/** So few packets a second that no token comes while a life lasts, or hardly; so few bytes that they are soon used. */
const limits: fc.Arbitrary<PacketLimits> = fc.oneof(
  { weight: 3, arbitrary: fc.constant({}) },
  { weight: 1, arbitrary: fc.constant({ packetsPerSecond: 1 }) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 1000 }).map((bytes) => ({ bytes })) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 200 }).map((bytes) => ({ packetsPerSecond: 1, bytes })) },
);

const admission: fc.Arbitrary<AdmissionText> = fc
  .constantFrom(
    ...(['198.51.100.10/32', '198.51.100.0/24', '0.0.0.0/0'] as const).map((source) => ({ source, six: false })),
    ...(['2001:db8:51::10/128', '2001:db8:51::/48', '::/0'] as const).map((source) => ({ source, six: true })),
  )
  .chain(({ source, six }) =>
    fc.record({
      source: fc.constant(source),
      destination: six
        ? fc.constantFrom('fd00:20::2/128', 'fd00:20::/48', 'fd00:30::/48')
        : fc.constantFrom('10.20.0.2/32', '10.20.0.0/16', '10.30.0.0/16'),
      protocol: fc.constantFrom(
        'tcp' as const,
        'udp' as const,
        six ? ('icmpv6' as const) : ('icmp' as const),
        'any' as const,
      ),
      ports: fc.constantFrom(undefined, { low: 22, high: 22 }, { low: 53, high: 5683 }),
      types: fc.constantFrom(undefined, [8, 128], [0, 3, 255]),
    }),
  );

const grant: fc.Arbitrary<Text> = family.chain((name) => {
  const { externals, devices, remotes } = FAMILIES[name];
  return fc
    .record({
      external: fc.tuple(fc.constantFrom(...externals), externalPort).map(([host, port]) => bracket(host, port)),
      device: fc.tuple(fc.constantFrom(...devices), devicePort).map(([host, port]) => bracket(host, port)),
      protocol: fc.constantFrom('tcp' as const, 'udp' as const),
      remote: fc.constantFrom('all', ...remotes),
      remotePort: fc.constantFrom(0, 0, 5000),
      classId: fc.constantFrom(CLASS, CLASS, OTHER_CLASS),
      slot: fc.nat(3),
      limits,
    })
    .map((text) => ({ ...text, realm: REALM }));
});

const fields: fc.Arbitrary<IpFields> = fc.oneof(
  { weight: 20, arbitrary: hops.map((value) => ({ hops: value })) },
  {
    weight: 5,
    arbitrary: fc.record({
      dontFragment: fc.boolean(),
      id: fc.nat(0xffff),
      trafficClass: fc.nat(255),
      flowLabel: fc.nat(0xfffff),
    }),
  },
  { weight: 1, arbitrary: fc.constantFrom(4, 8).map((length) => ({ options: new Uint8Array(length) })) },
  {
    weight: 1,
    arbitrary: fc
      .array(fc.constantFrom(0, 43, 51, 60, 135, 139, 140), { minLength: 1, maxLength: 6 })
      .map((extensions) => ({ extensions })),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ offset: fc.constantFrom(0, 8, 1480), more: fc.boolean() })
      .map((fragment) => ({ fragment, extensions: [] })),
  },
);

/** Options of a SYN that mean something, that are cut, or anything. */
const options = fc.oneof(
  fc.constant([]),
  fc.constant([2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]),
  fc.constant([1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 2, 4, 255, 255, 1]),
  fc.constant([30, 12, 1, 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 1, 30, 3, 9]),
  fc
    .array(fc.constantFrom(0, 1, 2, 3, 4, 8, 10, 30, 255), { minLength: 4, maxLength: 40 })
    .map((bytes) => bytes.slice(0, bytes.length - (bytes.length % 4))),
);

function transport(
  protocol: 'tcp' | 'udp',
  from: number,
  to: number,
  content: Uint8Array,
  odd: boolean,
  said: readonly number[] = [],
): Upper {
  if (protocol === 'udp') return udp(from, to, content, { noChecksum: odd });
  return tcp(from, to, content, odd ? TCP_ACK : 2, { options: said });
}

interface Made {
  readonly hook: Hook;
  readonly packet: Uint8Array;
}

/** A packet that one of the grants might carry, in or out. */
const closeTo = (grants: readonly Text[]): fc.Arbitrary<Made> =>
  fc
    .record({
      of: fc.constantFrom(...grants),
      /** Which of the servers; above: the granted one. */
      remote: fc.nat(12),
      port: fc.oneof({ weight: 4, arbitrary: fc.constant(5000) }, { weight: 1, arbitrary: remotePort }),
      content: payload,
      fields,
      odd: fc.boolean(),
      answers: fc.boolean(),
      said: options,
      /** What of it comes: the packet, one of its pieces, or an error about it from the other side. */
      as: fc.oneof(
        { weight: 6, arbitrary: fc.constant('whole' as const) },
        { weight: 3, arbitrary: fc.nat(2) },
        { weight: 2, arbitrary: fc.constant('error' as const) },
      ),
      type: fc.constantFrom(1, 2, 3, 3, 4, 11, 12, 5),
      from: fc.nat(3),
    })
    .map(({ of, remote, port, content, fields: about, odd, answers, said, as, type, from }) => {
      const { external, device, protocol, remote: granted } = mapping(of);
      const { family: name } = external.address;
      const { remotes, devices } = FAMILIES[name];
      const peer = remotes[remote] ?? (granted === 'all' ? remotes[0] : granted.text);
      const outward = (end: Endpoint, fill = content) =>
        ip(end.address.text, peer, transport(protocol, end.port, port, fill, odd, said), about);
      const inward = (end: Endpoint, fill = content) =>
        ip(peer, end.address.text, transport(protocol, port, end.port, fill, odd, said), about);
      const [hook, own, other] = answers
        ? (['insideIngress', outward, inward] as const)
        : (['outsideIngress', inward, outward] as const);
      const end = answers ? device : external;
      if (as === 'whole') return { hook, packet: own(end) };
      if (as === 'error') {
        // Who sends it: the end itself, one of its kind, or a router.
        const sender = [answers ? device.address.text : peer, answers ? devices[1] : remotes[1]][from];
        const router = name === 'ipv4' ? '192.0.2.1' : '2001:db8:66::1';
        const message = icmp(name === 'ipv4' ? 'icmp' : 'icmpv6', type, odd ? 4 : 0, other(end), 0x0500_0578);
        return { hook, packet: ip(sender ?? router, answers ? peer : end.address.text, message, about) };
      }
      const pieces = cut(
        own(
          end,
          Uint8Array.from({ length: 64 }, (_, i) => i),
        ),
        32,
        48,
      );
      return { hook, packet: pieces[as] as Uint8Array };
    });

const hook = fc.constantFrom<Hook>('outsideIngress', 'insideIngress', 'outsideEgress', 'insideEgress');

/** Any packet, from anybody to anybody, of these few. */
const wild: fc.Arbitrary<Made> = family
  .chain((name) => {
    const { externals, devices, remotes, others, ends, any } = FAMILIES[name];
    const host = fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom(...externals, ...devices, ...remotes, ...others, ...ends) },
      { weight: 1, arbitrary: any },
    );
    const port = fc.oneof(externalPort, devicePort, remotePort, fc.constantFrom(53, 39_999, 40_064), fc.nat(0xffff));
    const message = name === 'ipv4' ? ('icmp' as const) : ('icmpv6' as const);
    const quoted = fc
      .record({ from: host, to: host, length: fc.nat(60) })
      .map(({ from, to, length }) => ip(from, to, udp(1, 2, 12)).subarray(0, length));
    const type = fc.constantFrom(0, 1, 2, 3, 4, 5, 8, 11, 12, 127, 128, 129, 133, 134, 135, 136, 137);
    const upper: fc.Arbitrary<Upper> = fc.oneof(
      fc
        .record({
          protocol: fc.constantFrom('tcp' as const, 'udp' as const),
          from: port,
          to: port,
          content: payload,
          odd: fc.boolean(),
        })
        .map(({ protocol, from, to, content, odd }) => transport(protocol, from, to, content, odd)),
      fc
        .record({ type, content: fc.oneof(quoted, payload) })
        .map(({ type: kind, content }) => icmp(message, kind, 0, content)),
      fc.record({ protocol: fc.nat(255), content: payload }).map(({ protocol, content }) => raw(protocol, content)),
    );
    return fc.record({ from: host, to: host, upper, fields });
  })
  .chain((made) => hook.map((where) => ({ hook: where, packet: ip(made.from, made.to, made.upper, made.fields) })));

/** Where lengths, offsets and versions stand in a frame: IPv4 and IPv6, then UDP and TCP behind each. */
const TELLING = [14, 16, 17, 18, 19, 20, 22, 23, 38, 39, 46, 58, 59, 66];

/** Bytes overwritten behind the link layer, and the frame cut or padded. */
const spoiling = fc.oneof(
  { weight: 5, arbitrary: fc.constant({ bytes: [], length: 0 }) },
  {
    weight: 1,
    arbitrary: fc.record({
      bytes: fc.array(
        fc.tuple(
          fc.oneof(fc.constantFrom(...TELLING), fc.integer({ min: 14, max: 80 })),
          fc.oneof(fc.nat(24), fc.nat(255)),
        ),
        { maxLength: 3 },
      ),
      length: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: -40, max: 20 })),
    }),
  },
);

/** BPF_PROG_TEST_RUN takes no shorter ones, and no driver hands them up. */
const SHORTEST = 54;

const arrive = (made: fc.Arbitrary<Made>): fc.Arbitrary<Command> =>
  fc
    .record({
      made,
      spoiling,
      at: fc.constantFrom<Place>('inside', 'inside', 'inside', 'inside', 'inside', 'inside', 'secondInside', 'other'),
      mark: fc.constantFrom(0, 0, 0, 0, ANSWER_MARK, ANSWER_MARK, OWN_MARK),
    })
    .map(({ made: { hook: where, packet }, spoiling: { bytes, length }, at, mark }) => {
      const frame = ethernet(packet);
      const spoilt = new Uint8Array(Math.max(Math.min(SHORTEST, frame.length), frame.length + length));
      spoilt.set(frame.subarray(0, spoilt.length));
      for (const [offset, value] of bytes) if (offset < spoilt.length) spoilt[offset] = value;
      return { do: 'packet', hook: where, at, hex: Buffer.from(spoilt).toString('hex'), mark };
    });

const openOne = (grants: readonly Text[]): fc.Arbitrary<Command> =>
  fc.record({
    do: fc.constant('open' as const),
    grant: fc.constantFrom(...grants),
    ends: fc.constantFrom<Ends>('inAnHour', 'inAnHour', 'inAnHour', 'inAnHour', 'inAnHour', 'justNow', 'longAgo'),
  });

const admissions: fc.Arbitrary<Command> = fc.record({
  do: fc.constant('admit' as const),
  list: fc.array(admission, { minLength: 1, maxLength: 8 }),
});

/** What may be bound, or change hands: addresses, and prefixes that hold both devices, one or none. */
const inner = fc.constantFrom(
  ...FAMILIES.ipv4.devices.map((host) => `${host}/32`),
  ...FAMILIES.ipv6.devices.map((host) => `${host}/128`),
  ...['10.20.0.2/31', '10.20.0.0/31', '10.20.0.0/16', '10.30.0.0/16', '203.0.113.0/24', '127.0.0.1/32', '0.0.0.0/0'],
  ...['fd00:20::/127', 'fd00:20::2/127', 'fd00:20::/64', 'fd00:20:0:1::/64', '2001:db8:51::/48', 'fe80::/64'],
);

const change: fc.Arbitrary<Command> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('end' as const, 'forget' as const), which: fc.nat(30) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('limit' as const), which: fc.nat(30), limits }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('usedUp' as const) }) },
  { weight: 2, arbitrary: admissions },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('class' as const),
      prefix: fc.constantFrom(
        ...SERVER_PREFIXES.map(([text]) => text),
        '198.51.100.10/32',
        '0.0.0.0/0',
        '::/0',
        '::/64',
      ),
      classId: fc.constantFrom(0, CLASS, OTHER_CLASS),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('changing' as const),
      realm: fc.constantFrom(REALM, REALM, SECOND_REALM),
      prefix: inner,
      on: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('bound' as const),
      realm: fc.constantFrom(REALM, REALM, SECOND_REALM),
      prefix: inner,
      on: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('heartbeat' as const), lost: fc.nat(3).map((one) => one === 0) }),
  },
);

/** Of these, some hold their address from the beginning. */
const BOUND = [...FAMILIES.ipv4.devices, ...FAMILIES.ipv6.devices].map(
  (host): Command => ({
    do: 'bound',
    realm: REALM,
    prefix: `${host}/${host.includes(':') ? 128 : 32}`,
    on: true,
  }),
);

/** A life of the world: grants, some of them open from the beginning, and then anything. */
export const life: fc.Arbitrary<readonly Command[]> = fc
  .array(grant, { minLength: 4, maxLength: 10 })
  .chain((grants) =>
    fc.tuple(
      admissions.map((one) => [one]),
      fc.subarray(BOUND),
      fc.array(openOne(grants), { minLength: 6, maxLength: 12 }),
      fc.array(
        fc.oneof(
          { weight: 8, arbitrary: arrive(closeTo(grants)) },
          { weight: 6, arbitrary: arrive(wild) },
          { weight: 1, arbitrary: openOne(grants) },
          { weight: 1, arbitrary: change },
        ),
        { minLength: 60, maxLength: 100 },
      ),
    ),
  )
  .map((parts) => parts.flat());
