import { expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { admissionsOf, echoAdmissionsOf } from '../../agent/policy/admissions.ts';
import { type FilteredPacket, judgePacket, type PacketEnd } from '../../agent/policy/filters.ts';
import { policyOf } from '../rules.ts';

const inside = (text: string): PacketEnd => ({ side: 'inside', realm: 'internet' as never, address: address(text) });
const outside = (text: string): PacketEnd => ({ side: 'outside', address: address(text) });
const packet = (from: PacketEnd, to: PacketEnd, rest: Partial<FilteredPacket> = {}): FilteredPacket => ({
  family: to.address?.family ?? 'ipv4',
  from,
  to,
  protocol: 'udp',
  port: 53,
  ...rest,
});
const OUT = packet(inside('10.20.0.2'), outside('198.51.100.1'));
const IN = packet(outside('198.51.100.1'), inside('10.20.0.2'));
const ACROSS = packet(inside('10.20.0.2'), inside('10.20.0.3'));
const PING = { protocol: 'icmp', type: 8 } as const;

const said = (filters: string, one: FilteredPacket) => {
  const verdict = judgePacket(policyOf(`filters: [${filters}]`).filters, one, { isInGroup: () => false });
  return 'filter' in verdict ? `${verdict.verdict} ${verdict.filter.id}` : verdict.verdict;
};

test.each([
  ['{ id: f, drop: { from: inside } }', OUT, 'drop f'],
  ['{ id: f, drop: { from: inside } }', IN, 'none'],
  ['{ id: f, drop: { from: inside, to: inside } }', ACROSS, 'drop f'],
  ['{ id: f, drop: { from: 10.0.0.0/8, to: [192.0.2.1, outside] } }', OUT, 'drop f'],
  ['{ id: f, drop: { protocol: udp, ports: [1-52, 54] } }', OUT, 'none'],
  ['{ id: f, drop: { protocol: udp, ports: [1-53] } }', OUT, 'drop f'],
  ['{ id: f, drop: { protocol: icmp } }', OUT, 'none'],
  ['{ id: f, drop: { protocol: icmp, types: [echo-request] } }', { ...OUT, ...PING }, 'drop f'],
  ['{ id: f, drop: { protocol: icmp, types: [echo-reply] } }', { ...OUT, ...PING }, 'none'],
  ['{ id: f, drop: { to: "2001:db8::/32" } }', OUT, 'none'],
  ['{ id: f, drop: {} }', { ...OUT, protocol: 132 }, 'drop f'],
  ['{ id: f, drop: {}, stage: true }', OUT, 'none'],
  ['{ id: f, allow: { from: inside }, stage: true }', OUT, 'none'],
  ['{ id: f, allow: { from: inside } }', OUT, 'allow f'],
  ['{ id: f, allow: { to: inside, protocol: udp }, standing: true }', IN, 'allow f'],
  ['{ id: f, allow: {}, standing: true }', ACROSS, 'none'],
  ['{ id: z, drop: { from: inside } }, { id: a, allow: { from: inside } }', OUT, 'drop z'],
  ['{ id: b, drop: {} }, { id: a, drop: { from: inside } }', OUT, 'drop a'],
] as const)('%s', (filters, one, verdict) => expect(said(filters, one)).toBe(verdict));

test('what the gate is told of standing filters: sources, parts of realms, and what they carry', () => {
  const { filters } = policyOf(`filters:
  - { id: a, allow: { from: [192.0.2.0/28, "2001:db8::/48"], to: inside, protocol: udp, ports: [161, 200-300] }, standing: true }
  - { id: b, allow: { from: outside, to: [10.20.1.0/24, 10.0.0.0/8, 11.0.0.0/8], protocol: icmp, types: [echo-request] } }
  - { id: c, allow: { to: "fd00:20::1" }, standing: true }
  - { id: d, allow: { from: inside } }
  - { id: e, allow: { from: outside, to: inside, protocol: icmp }, stage: true }
  - { id: f, drop: {} }
`);
  const told = admissionsOf(filters, ['10.20.0.0/16', 'fd00:20::/48'].map(prefix)).map((one) =>
    [one.source.text, one.destination.text, one.protocol, one.ports && `${one.ports.low}-${one.ports.high}`, one.types]
      .filter((word) => word !== undefined)
      .join(' '),
  );
  expect(told).toEqual([
    '192.0.2.0/28 10.20.0.0/16 udp 161-161',
    '192.0.2.0/28 10.20.0.0/16 udp 200-300',
    '2001:db8::/48 fd00:20::/48 udp 161-161',
    '2001:db8::/48 fd00:20::/48 udp 200-300',
    '0.0.0.0/0 10.20.1.0/24 icmp 8',
    '0.0.0.0/0 10.20.0.0/16 icmp 8',
    '::/0 fd00:20::1/128 any',
  ]);
});

test('external addresses are pinged by an allow that names them, and by no other', () => {
  const { filters } = policyOf(`
filters:
  - { id: a, allow: { from: 192.0.2.0/28, to: 203.0.113.0/30, protocol: icmp, types: [echo-request] } }
  - { id: b, allow: { from: 192.0.2.0/28, to: [inside, 203.0.113.4/32], protocol: icmp, types: [echo-request] } }
  - { id: c, allow: { from: outside, to: inside, protocol: icmp } }
  - { id: d, allow: { from: 192.0.2.0/28, to: 203.0.113.0/29, protocol: udp }, standing: true }
  - { id: e, allow: { from: 192.0.2.0/28, to: 203.0.113.0/29, protocol: icmp }, stage: true }
  - { id: f, allow: { from: "2001:db8::/48", to: "2001:db8:a::/48", protocol: icmpv6, types: [echo-request] } }
`);
  const told = echoAdmissionsOf(filters, ['203.0.113.0/29', '2001:db8:a::/64'].map(prefix));
  expect(told.map(({ source, destination, protocol }) => `${source.text} ${destination.text} ${protocol}`)).toEqual([
    '192.0.2.0/28 203.0.113.0/30 icmp',
    '192.0.2.0/28 203.0.113.4/32 icmp',
    '2001:db8::/48 2001:db8:a::/64 icmpv6',
  ]);
});
