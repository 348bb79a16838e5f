/**
 * What an accounting event claims for its session: ranges of a realm, each
 * with the address that grants lead to where the NAS tells it (TS 29.061 16.4;
 * RFC 3162, 4818, 6911). A claim is not believed beyond the pools of the
 * client that speaks.
 */
import { type Address, addressFromBytes, contains, hostPrefix, type Prefix } from '../core/net.ts';
import type { RealmName } from '../core/words.ts';
import type { SessionEvent } from './accounting.ts';
import type { Range } from './binding.ts';

export interface ClaimedRange extends Range {
  readonly target?: Address;
}

/** Which address spaces there are, and what each client may bind in them. */
export interface Places {
  realmOfApn(apn: string): RealmName | undefined;
  /** The realms in which a client may bind this prefix. */
  realmsFor(client: string, prefix: Prefix): readonly RealmName[];
}

/** The gate looks once for each length that is bound (gate.h, GATE_LENGTHS_MAX): those that networks give out, and no others. */
const IPV6_LENGTHS: readonly number[] = [48, 52, 56, 60, 62, 63, 64, 128];

export interface Unclaimable {
  readonly finding: 'outsidePools' | 'realmUnknown' | 'prefixLength';
  readonly why: string;
}

export function claimedRanges(event: SessionEvent, places: Places): readonly ClaimedRange[] | Unclaimable {
  const { apn, nas } = event;
  const byApn = apn === undefined ? undefined : places.realmOfApn(apn);
  if (apn !== undefined && byApn === undefined) return { finding: 'realmUnknown', why: `APN ${apn}` };
  const ranges: ClaimedRange[] = [];
  for (const part of claimsOf(event)) {
    const { family, length, text } = part.prefix;
    if (family === 'ipv6' && !IPV6_LENGTHS.includes(length)) return { finding: 'prefixLength', why: text };
    const realms = places.realmsFor(nas.client, part.prefix);
    const [first, second] = realms;
    if (first === undefined) return { finding: 'outsidePools', why: part.prefix.text };
    if (byApn === undefined && second !== undefined)
      return {
        finding: 'realmUnknown',
        why: `${part.prefix.text} is in ${realms.join(' and in ')}, and no APN is told`,
      };
    const realm = byApn ?? first;
    if (!realms.includes(realm))
      return { finding: 'outsidePools', why: `${part.prefix.text} is not in realm ${realm}` };
    ranges.push({ realm, ...part });
  }
  return ranges;
}

/** What an event claims, in whatever realm. */
export function claimsOf(event: SessionEvent): Omit<ClaimedRange, 'realm'>[] {
  const { ipv4, ipv6Prefix, ipv6Address, interfaceId, delegatedPrefix } = event;
  const isWithin = ipv6Prefix !== undefined && ipv6Address !== undefined && contains(ipv6Prefix, ipv6Address);
  const inPrefix = ipv6Prefix && interfaceId !== undefined ? addressIn(ipv6Prefix, interfaceId) : undefined;
  const target = isWithin ? ipv6Address : inPrefix;
  return [
    ...(ipv4 ? [{ prefix: hostPrefix(ipv4), target: ipv4 }] : []),
    ...(ipv6Prefix ? [{ prefix: ipv6Prefix, ...(target && { target }) }] : []),
    ...(ipv6Address && !isWithin ? [{ prefix: hostPrefix(ipv6Address), target: ipv6Address }] : []),
    ...(delegatedPrefix && delegatedPrefix.text !== ipv6Prefix?.text ? [{ prefix: delegatedPrefix }] : []),
  ];
}

/** The address with an interface identifier in a prefix of 64 bits (RFC 4291 2.5.1); others have none. */
export function addressIn({ length, address }: Prefix, interfaceId: bigint): Address | undefined {
  if (length !== 64) return undefined;
  const bytes = Uint8Array.from(address.bytes);
  new DataView(bytes.buffer).setBigUint64(8, interfaceId);
  return addressFromBytes(bytes);
}
