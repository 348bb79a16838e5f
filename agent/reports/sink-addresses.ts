/**
 * Where reports may be sent: a judgement of the very address that is to be
 * connected, whatever name led to it and however it is spelt.
 *
 * A sink is named by the rule files, but where its name leads to is said by
 * its owner's DNS, at any moment anew. So an answer must lead to nothing that
 * is reached from this host alone: not the host itself, not devices, not what
 * lies beside it in private networks (server-side request forgery, CWE-918).
 *
 * Invariants: what is not known to be public is refused. Of IPv6 that is all
 * but 2000::/3 (RFC 4291 2.4; what else is assigned is no global unicast). An
 * address that holds an IPv4 address is judged by that one too: mapped (RFC
 * 4291 2.5.5.2, read as IPv4 by net.ts), NAT64 (RFC 6052), ISATAP (RFC 5214).
 * 6to4, Teredo and the local NAT64 prefix lead to who knows where, and are
 * refused whole; IPv4-compatible and IPv4-translated forms lie outside of
 * 2000::/3. The documentation prefixes are nobody's and lead nowhere from the
 * public network; they are not private, and are no harm.
 *
 * Pure. (RFC 6890 and the IANA registries of special-purpose addresses.)
 */
import { type Address, addressFromIpv4, contains, prefix } from '../core/net.ts';
import type { Owned } from '../core/overlaps.ts';

const owned = (owner: string, ...prefixes: readonly string[]): Owned[] =>
  prefixes.map((text) => ({ prefix: prefix(text), owner }));

/** What is never public, by why. */
const SPECIAL: readonly Owned[] = [
  ...owned('unspecified', '0.0.0.0/8'),
  ...owned('loopback', '127.0.0.0/8'),
  ...owned('link-local', '169.254.0.0/16'),
  ...owned('private', '10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'),
  ...owned('shared address space', '100.64.0.0/10'),
  ...owned('a protocol assignment', '192.0.0.0/24', '2001::/23'),
  ...owned('a 6to4 relay', '192.88.99.0/24'),
  ...owned('for benchmarking', '198.18.0.0/15'),
  ...owned('multicast', '224.0.0.0/4'),
  ...owned('reserved', '240.0.0.0/4'),
  ...owned('6to4', '2002::/16'),
];

const GLOBAL_UNICAST = prefix('2000::/3');
/** RFC 6052 2.1: what an IPv6-only host reaches the public IPv4 network by. */
const NAT64 = prefix('64:ff9b::/96');
/** The interface identifier of ISATAP, with the universal bit and without (RFC 5214 6.1). */
const ISATAP = [0x00005efe, 0x02005efe];

/**
 * Why nothing may be sent to an address; undefined where it may. `own` is
 * what is the gateway's: its addresses, its pools, its devices.
 */
export function objectionTo(address: Address, own: Iterable<Owned>): string | undefined {
  const spaces = [...SPECIAL, ...own];
  for (const one of address.family === 'ipv4' ? [address] : [address, ...embeddedIn(address)]) {
    const space = spaces.find(({ prefix }) => contains(prefix, one));
    if (space) return `${addressIn(address, one)} is ${space.owner}`;
  }
  if (address.family === 'ipv4' || contains(GLOBAL_UNICAST, address) || contains(NAT64, address)) return undefined;
  return `${address.text} is no global unicast address`;
}

function addressIn(whole: Address, part: Address): string {
  return whole === part ? whole.text : `${whole.text} leads to ${part.text}, which`;
}

/** The IPv4 address that an IPv6 address holds in a known way. */
function embeddedIn(address: Address): Address[] {
  const { bytes } = address;
  const interfaceWord = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8);
  if (!contains(NAT64, address) && !ISATAP.includes(interfaceWord)) return [];
  return [addressFromIpv4(bytes.subarray(12))];
}
