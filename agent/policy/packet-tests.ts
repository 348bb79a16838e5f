/**
 * Tests of packets, as operators write them beside those of requests: their
 * schema, what is wrong beside it, and whether the gateway would do as they
 * expect (packet-walk.ts).
 */
import type { z } from 'zod';
import type { Issue, Path, Place } from '../core/document.ts';
import * as f from '../core/fields.ts';
import { type Address, parseAddress } from '../core/net.ts';
import { DENIAL_REASONS } from '../core/reasons.ts';
import { type Attributes, parseExternalId, type ServerName } from '../core/words.ts';
import { FILTER_PROTOCOLS, ICMP_TYPES, type WalkEnd, type WalkedPacket } from './filters.ts';
import { outcomeText, type WalkSite, walkPacket } from './packet-walk.ts';
import type { Policy } from './policy.ts';

const INSIDE = 'inside:';
const EXPECTED = `an address outside, ${INSIDE}ADDRESS, or a device such as m1@meters.example`;

/** One end of a packet as it is written. */
export type WrittenPacketEnd =
  | { readonly outside: Address }
  | { readonly inside: Address }
  | { readonly device: string };

function parsePacketEnd(text: string): WrittenPacketEnd | undefined {
  if (text.startsWith(INSIDE)) {
    const inside = parseAddress(text.slice(INSIDE.length));
    return inside && { inside };
  }
  const device = parseExternalId(text);
  if (device) return { device };
  const outside = parseAddress(text);
  return outside && { outside };
}

const end = f.field(EXPECTED, parsePacketEnd);

export const packet = f.mapping({
  from: end,
  to: end,
  protocol: f.choice(...FILTER_PROTOCOLS),
  port: f.port.exactOptional(),
  sourcePort: f.port.exactOptional(),
  type: f.text.exactOptional(),
  given: f
    .list(
      f.mapping({ server: f.name<ServerName>(), device: f.externalId, protocol: f.protocol, port: f.port }),
      'grants',
      0,
    )
    .default([]),
});

export type WrittenPacket = z.output<typeof packet>;

/** What a packet is expected to meet: `drop` and `allow` by a filter, `pass` by a grant or the base. */
export const packetExpectation = {
  drop: f.text.exactOptional(),
  pass: f.choice('grant', 'base').exactOptional(),
};
/** What else than a filter drops a packet. */
export const DROPPERS: readonly string[] = [...DENIAL_REASONS, 'unauthorisedTrigger', 'unsolicited', 'base'];

/** What the schema of a packet cannot see. */
export function* packetIssues(
  { from, to, protocol, port, sourcePort, type }: WrittenPacket,
  locate: (...path: Path) => Place,
): Generator<Issue> {
  const at = (key: string, message: string): Issue => ({ ...locate('packet', key), message });
  const isIcmp = protocol === 'icmp' || protocol === 'icmpv6';
  if (isIcmp && type === undefined) yield at('protocol', `"type" is missing: ${protocol} has types`);
  if (isIcmp && type !== undefined && !Object.hasOwn(ICMP_TYPES[protocol], type))
    yield at('type', f.unknownWord(`${protocol} type`, type, Object.keys(ICMP_TYPES[protocol])));
  if (isIcmp && port !== undefined) yield at('port', `expected no port: ${protocol} has types`);
  if (isIcmp && sourcePort !== undefined) yield at('sourcePort', `expected no port: ${protocol} has types`);
  if (!isIcmp && type !== undefined) yield at('type', `expected no type: ${protocol} has ports`);
  if (!isIcmp && port === undefined) yield at('protocol', `"port" is missing: ${protocol} has ports`);
  if ('outside' in from && 'outside' in to)
    yield at('to', 'expected one end inside: what is forwarded elsewhere is not judged here');
  const families = [from, to].flatMap((one) => addressOf(one)?.family ?? []);
  const own = protocol === 'icmp' ? 'ipv4' : protocol === 'icmpv6' ? 'ipv6' : undefined;
  if (new Set([...families, ...(own ? [own] : [])]).size > 1) yield at('to', 'the families contradict each other');
}

function addressOf(end: WrittenPacketEnd): Address | undefined {
  if ('device' in end) return undefined;
  return 'inside' in end ? end.inside : end.outside;
}

/** The packet as the walk takes it; `attributes` are those of its device. */
export function walkedOf({ from, to, type, ...rest }: WrittenPacket, attributes: Attributes): WalkedPacket {
  const { protocol } = rest;
  const number =
    type !== undefined && (protocol === 'icmp' || protocol === 'icmpv6') ? ICMP_TYPES[protocol][type] : undefined;
  const endOf = (written: WrittenPacketEnd): WalkEnd => {
    if ('device' in written) {
      return { side: 'inside', device: { externalId: written.device as never, attributes } };
    }
    return 'inside' in written
      ? { side: 'inside', address: written.inside }
      : { side: 'outside', address: written.outside };
  };
  return { ...rest, from: endOf(from), to: endOf(to), ...(number !== undefined && { type: number }) };
}

/** The tests that fail, each at its place. */
export function runPacketTests(policy: Policy, site?: WalkSite): Issue[] {
  return policy.packetTests.flatMap((test) => {
    const { outcome, lines } = walkPacket((test.staged && policy.staged) || policy, test.packet, site);
    const found = outcomeText(outcome);
    if (found === test.expect) return [];
    const why = lines.at(-1)?.seen ?? '';
    return { ...test.place, message: `test "${test.name}": expected ${test.expect}, found ${found} (${why})` };
  });
}
