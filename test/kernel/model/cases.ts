/**
 * Random cases: a few policies, grants, and what is done one after the other.
 * Few addresses and ports, so that flows, grants and filters meet. What rests
 * on what the kernel did before (an answer goes to the endpoint that was seen)
 * is told by number, and built when it is its turn.
 */
import fc from 'fast-check';
import type { Family } from '../../../agent/core/net.ts';
import type { Protocol } from '../../../agent/core/words.ts';
import { uncontained } from '../../../agent/policy/admissions.ts';
import { ICMP_TYPES } from '../../../agent/policy/filters.ts';
import { compiled } from '../../rules.ts';
import { DEVICES, LINK_LOCAL_NEIGHBOUR, REALMS } from './neighbourhood.ts';

export const REMOTES = {
  // Two of one server, one of another, and two whom devices may not reach by themselves.
  ipv4: ['198.51.100.10', '198.51.100.11', '198.51.101.10', '192.0.2.66', '100.64.0.1'],
  ipv6: ['2001:db8:51::10', '2001:db8:51::11', '2001:db8:52::10', '2001:db8:66::66', '2001:db8:77::1'],
} as const;
export const SERVERS = { 'head-end': 7, other: 8 } as const;
export const SOURCES = {
  'head-end': ['198.51.100.0/24', '2001:db8:51::/48'],
  other: ['198.51.101.0/24', '2001:db8:52::/48'],
} as const;

/** Addresses that a packet may claim, or be for, which are nobody's there; and what the stack takes for no host's. */
export const ODD_SOURCES = {
  ipv4: [
    ...['10.66.0.1', '10.30.0.2', '10.20.0.2', '198.51.100.10', '10.20.0.1', '203.0.113.1', '203.0.113.9'],
    ...['240.0.0.1', '127.0.0.1', '0.0.0.0', '0.0.0.5', '224.0.0.1', '255.255.255.255', '10.20.255.255', '192.0.2.3'],
  ],
  ipv6: [
    ...['fd00:66::1', 'fd00:30::2', 'fd00:20::2', '2001:db8:51::10', 'fd00:20::1', '2001:db8:a::1', '2001:db8:e::9'],
    ...['::', '::1', '::5', 'ff02::1', LINK_LOCAL_NEIGHBOUR],
  ],
} as const;
/** Routed back to the outside, if they are from there: not this firewall's. */
export const BEYOND: readonly string[] = ['0.0.0.5', '240.0.0.1', '::', '::5'];
export const ODD_DESTINATIONS = {
  ipv4: [
    ...['203.0.113.1', '203.0.113.9', '10.20.0.1', '192.0.2.2', '10.20.0.3', '10.30.0.2', '10.20.255.255'],
    ...['127.0.0.1', '0.0.0.0', '0.0.0.5', '224.0.0.1', '224.0.0.99', '240.0.0.1', '255.255.255.255', '192.0.2.3'],
  ],
  ipv6: [
    ...['2001:db8:a::1', '2001:db8:e::9', 'fd00:20::1', '2001:db8:0:1::2', 'fd00:20::3', 'fd00:30::2'],
    ...['::', '::1', '::5', 'ff01::1', 'ff02::1', 'ff02::99', 'ff0e::99'],
  ],
} as const;

export type Shape =
  | 'plain'
  | 'options'
  | 'hopByHop'
  | 'routed'
  | 'firstPiece'
  | 'laterPiece'
  | 'pieces'
  | 'piecesTurned';
export type Word = 'udp' | 'tcp' | 'icmp' | 'esp';

interface Content {
  readonly family: Family;
  readonly protocol: Word;
  readonly sourcePort: number;
  readonly port: number;
  /** Index into the ICMP types that are tried. */
  readonly type: number;
  readonly flags: number;
  readonly shape: Shape;
  readonly hops: number;
}

export type Action =
  /** A device begins, or tries to; an odd address by its index, or -1. */
  | ({ readonly do: 'out' } & Content & {
        readonly device: number;
        readonly remote: number;
        readonly oddSource: number;
        readonly oddDestination: number;
      })
  /** Somebody outside does. */
  | ({ readonly do: 'in' } & Content & {
        readonly device: number;
        readonly remote: number;
        readonly oddSource: number;
        readonly oddDestination: number;
      })
  /** A flow goes on, or somebody claims that it does. */
  | {
      readonly do: 'goOn';
      readonly flow: number;
      readonly way: 'original' | 'reply';
      readonly as: 'itIs' | 'far' | 'stranger';
      readonly shape: Shape;
      readonly hops: number;
    }
  | {
      readonly do: 'error';
      readonly flow: number;
      readonly by: 'device' | 'outside';
      readonly type: number;
      readonly as: 'itIs' | 'router' | 'stranger';
    }
  | ({ readonly do: 'toGrant'; readonly grant: number; readonly from: number; readonly portOff: number } & Pick<
      Content,
      'shape' | 'hops' | 'flags' | 'sourcePort'
    > & { readonly turned: boolean })
  | ({ readonly do: 'answerGrant'; readonly grant: number; readonly to: number } & Pick<
      Content,
      'shape' | 'hops' | 'port'
    >)
  | { readonly do: 'endGrant'; readonly grant: number }
  | { readonly do: 'switch'; readonly policy: number };

export interface GrantText {
  readonly family: Family;
  readonly device: number;
  readonly protocol: Protocol;
  readonly devicePort: number;
  readonly slot: number;
  readonly server: keyof typeof SERVERS;
  /** The index of the remote, or all of the server's. */
  readonly remote: number | 'all';
  readonly remotePort: number;
}

export interface Case {
  /** The filters of each; servers and groups are the same in all. */
  readonly policies: readonly (readonly FilterText[])[];
  readonly grants: readonly GrantText[];
  readonly actions: readonly Action[];
}

/** The types of ICMP that are tried; the first is a ping. */
export const TYPES = { ipv4: [8, 13, 0, 3, 17, 5], ipv6: [128, 129, 1, 135, 143] } as const;

const family = fc.constantFrom<Family>('ipv4', 'ipv6');
const rarely = <T>(usual: T, ...odd: readonly T[]) =>
  fc.oneof({ weight: 9, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...odd) });
const shape = fc.oneof(
  { weight: 14, arbitrary: fc.constant<Shape>('plain') },
  {
    weight: 5,
    arbitrary: fc.constantFrom<Shape>(
      'options',
      'hopByHop',
      'routed',
      'firstPiece',
      'laterPiece',
      'pieces',
      'pieces',
      'piecesTurned',
    ),
  },
);
/** Of devices, as in the model's agent.yaml; the last, since filters open ranges up to it. */
export const TRIGGER_PORT = 7001;
const hops = rarely(64, 1, 2, 255);
const port = fc.constantFrom(53, 161, 5683, 7000, TRIGGER_PORT);
/** A lone SYN, or with what does no harm; then what is none, or cannot be. */
const flags = fc.oneof(
  { weight: 4, arbitrary: fc.constant(2) },
  { weight: 1, arbitrary: fc.constantFrom(2 | 0x40 | 0x80, 2 | 8, 2 | 32, 16, 18, 3, 6, 4, 0, 1, 17, 20, 0x3f) },
);
const content = {
  family,
  protocol: fc.constantFrom<Word>('udp', 'udp', 'udp', 'tcp', 'tcp', 'tcp', 'icmp', 'icmp', 'esp'),
  sourcePort: fc.constantFrom(5000, 5001, 7000, 7000, TRIGGER_PORT),
  port,
  type: rarely(0, 1, 1, 2, 3, 4, 5),
  flags,
  shape,
  hops,
};
const odd = (weight: number) => fc.oneof({ weight, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: fc.nat(14) });
const ends = { device: fc.nat(3), remote: fc.nat(4) };

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.record({
      do: fc.constant('out' as const),
      ...content,
      ...ends,
      oddSource: odd(14),
      oddDestination: odd(10),
    }),
  },
  {
    weight: 7,
    arbitrary: fc.record({
      do: fc.constant('in' as const),
      ...content,
      ...ends,
      oddSource: odd(14),
      oddDestination: odd(5),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant('goOn' as const),
      flow: fc.nat(40),
      way: fc.constantFrom('original' as const, 'reply' as const, 'reply' as const),
      as: fc.constantFrom(
        'itIs' as const,
        'itIs' as const,
        'itIs' as const,
        'itIs' as const,
        'itIs' as const,
        'far' as const,
        'stranger' as const,
      ),
      shape,
      hops,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('error' as const),
      flow: fc.nat(40),
      by: fc.constantFrom('device' as const, 'outside' as const),
      type: fc.nat(3),
      as: fc.constantFrom('itIs' as const, 'itIs' as const, 'router' as const, 'stranger' as const),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('toGrant' as const),
      grant: fc.nat(20),
      from: fc.oneof({ weight: 4, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: fc.nat(4) }),
      portOff: rarely(0, 1),
      turned: rarely(false, true),
      shape,
      hops,
      flags,
      sourcePort: fc.constantFrom(5000, 5000, 5001),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('answerGrant' as const),
      grant: fc.nat(20),
      to: fc.oneof({ weight: 4, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: fc.nat(4) }),
      shape,
      hops,
      port: fc.constantFrom(5000, 5000, 5001),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('endGrant' as const), grant: fc.nat(20) }) },
  {
    weight: 1,
    arbitrary: fc.oneof(
      fc.record({ do: fc.constant('switch' as const), policy: fc.nat(2) }),
      fc.record({ do: fc.constant('endGrant' as const), grant: fc.nat(20) }),
    ),
  },
);

const END = fc.constantFrom(
  ...['inside', 'inside', 'outside', 'outside', 'any', 'group:m2', 'group:servers'],
  ...['10.20.0.2/32', '10.20.0.0/16', '10.20.0.0/30', '10.30.0.0/16', 'fd00:20::2/128', 'fd00:20::/48', 'fd00:30::/48'],
  ...['198.51.100.0/24', '198.51.100.10/32', '198.51.0.0/16', '192.0.2.64/26', '100.64.0.0/10', '0.0.0.0/0'],
  ...['2001:db8:51::/48', '2001:db8:51::10/128', '2001:db8:66::/48', '2001:db8::/32', '::/0'],
);
const ENDS = fc.array(END, { minLength: 1, maxLength: 3 });
const types = (protocol: 'icmp' | 'icmpv6') =>
  fc.subarray(
    Object.entries(ICMP_TYPES[protocol]).flatMap(([name, number]) =>
      (TYPES[protocol === 'icmp' ? 'ipv4' : 'ipv6'] as readonly number[]).includes(number) ? name : [],
    ),
    { minLength: 1, maxLength: 3 },
  );
const ports = fc.subarray<number | string>([53, 161, '5000-5001', '5683-7000', 7000, 7001], {
  minLength: 1,
  maxLength: 3,
});
const about = fc.oneof(
  fc.constant({}),
  fc.constantFrom('udp', 'tcp', 'icmp', 'icmpv6').map((protocol) => ({ protocol })),
  fc.record({ protocol: fc.constantFrom('udp', 'tcp'), ports }),
  fc
    .constantFrom('icmp' as const, 'icmpv6' as const)
    .chain((protocol) => fc.record({ protocol: fc.constant(protocol), types: types(protocol) })),
);

export interface FilterText {
  readonly id: string;
  readonly stage?: boolean;
}
const filterText = fc
  .record({
    action: fc.constantFrom('allow', 'allow', 'drop'),
    from: fc.option(ENDS, { nil: undefined }),
    to: fc.option(ENDS, { nil: undefined }),
    about,
    stage: rarely(false, true),
    standing: fc.boolean(),
  })
  .map(({ action: does, from, to, about: said, stage, standing }) => ({
    [does]: { ...(from && { from }), ...(to && { to }), ...said },
    ...(stage && { stage: true }),
    ...(does === 'allow' && standing && { standing: true }),
  }))
  .filter((one) => 'policy' in compiled(policyText([{ ...one, id: 'one' }])));

const policy: fc.Arbitrary<readonly FilterText[]> = fc
  .array(filterText, { maxLength: 6 })
  .map((filters) => filters.map((one, i) => ({ id: `f${i}`, ...one })))
  .filter((filters) => {
    const compilation = compiled(policyText(filters));
    return 'policy' in compilation && uncontained(compilation.policy.filters, REALMS) === undefined;
  });

export function policyText(filters: readonly FilterText[]): string {
  const flow = (value: unknown) => JSON.stringify(value);
  return [
    'servers:',
    ...Object.entries(SOURCES).map(
      ([name, sources]) =>
        `  ${name}: { certificates: [{ uri: "urn:mtc:${name}", issuer: mtc-ca }], sources: ${flow(sources)} }`,
    ),
    'serverGroups: { servers: { servers: [head-end, other] } }',
    'deviceGroups: { m2: { devices: ["*@m2.example"] } }',
    filters.length === 0 ? 'filters: []' : 'filters:',
    ...filters.map((one) => `  - ${flow(one)}`),
    '',
  ].join('\n');
}

const grant: fc.Arbitrary<GrantText> = fc.record({
  family,
  device: fc.nat(DEVICES.length - 2),
  protocol: fc.constantFrom<Protocol>('udp', 'tcp'),
  devicePort: fc.constantFrom(5683, 7000),
  slot: fc.nat(7),
  server: fc.constantFrom<keyof typeof SERVERS>('head-end', 'head-end', 'other'),
  remote: fc.constantFrom<number | 'all'>('all', 'all', 0),
  remotePort: fc.constantFrom(0, 0, 5000),
});

export const aCase: fc.Arbitrary<Case> = fc.record({
  policies: fc.array(policy, { minLength: 2, maxLength: 3 }),
  grants: fc.array(grant, { minLength: 3, maxLength: 8 }),
  actions: fc.array(action, { minLength: 110, maxLength: 150 }),
});
