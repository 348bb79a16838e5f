/**
 * What the headers of device-initiated flows tell beside their addresses, as
 * rules of the base (ruleset.ts), in nft's words: the gate's normalise.h does
 * the same for grants. Devices that share an external address are not to be
 * counted by their counters, nor is a device known again by what its stack
 * writes, nor how far in it is.
 *
 * Where the gate permutes identifications, these are drawn by chance: here a
 * datagram is whole, its pieces having been put together before, and are cut
 * anew behind this. Two of one sender may so have one number at once; what
 * their pieces made together, no transport's sum holds.
 */
import type { Normalisation } from '../core/words.ts';
import { insideSet, type Part, quote } from './nft-text.ts';

interface HeaderSetup {
  readonly outside: string;
  readonly inside: readonly { readonly interface: string }[];
  readonly normalise: Normalisation;
}

/**
 * What is not forwarded, either way: options of IPv4, some of which every
 * router on the way writes its address into (RFC 791, 3.1: record route,
 * timestamp; RFC 7126), or steers by; and of IPv6 what is for the routers on
 * the way (hop-by-hop), and routing headers (RFC 5095; RFC 6092, REC-4).
 */
export const PLAIN_HEADERS = [
  'ip hdrlength != 5 counter drop',
  'exthdr hbh exists counter drop',
  'exthdr rt exists counter drop',
] as const;

const SYN = 'tcp flags & syn == syn';
/** Any number: of it the upper half is used by this nft, or the lower. */
const BY_CHANCE = 'numgen random mod 4294967295';
/** Of AH the sum is over the identification, too (RFC 4302, 3.3.3.1.1). */
const NO_AH = 'ip protocol != ah';

/**
 * The chains that make headers alike. Each packet goes through one of them:
 * what a rule writes is dear, what it compares is not. Multipath TCP is never
 * agreed upon, whatever is configured: by it a host tells its peer what other
 * addresses it has, inner ones (RFC 8684, 3.4.1), and links flows by tokens.
 */
export function headerChains({ outside, inside, normalise }: HeaderSetup): Part[] {
  const { hopLimit, identification, flowLabel, trafficClass, timestamps, mss } = normalise;
  const syn = [
    'reset tcp option mptcp',
    ...(timestamps ? ['reset tcp option timestamp'] : []),
    ...(mss ? ['tcp option maxseg size set rt mtu'] : []),
  ];
  const ofSyn = [`${SYN} goto alike_syn`];
  const [ipv4, ipv6] = (['ip', 'ip6'] as const).map((word) => [
    ...(hopLimit > 0 ? [`${word} ${word === 'ip' ? 'ttl' : 'hoplimit'} set ${hopLimit}`] : []),
    ...(trafficClass ? [`${word} dscp != cs0 ${word} dscp set cs0`] : []),
  ]) as [string[], string[]];
  // RFC 6864, 4.1: of what is never cut it means nothing.
  const number = [
    `ip frag-off & 0x4000 != 0 ip id != 0 ${NO_AH} ip id set 0`,
    `ip frag-off & 0x4000 == 0 ${NO_AH} ip id set ${BY_CHANCE}`,
  ];
  const chains = {
    outward_ipv4: [...(identification ? number : []), ...ipv4, ...ofSyn],
    outward_ipv6: [...(flowLabel ? ['ip6 flowlabel != 0 ip6 flowlabel set 0'] : []), ...ipv6, ...ofSyn],
    inward_ipv4: [...ipv4, ...ofSyn],
    inward_ipv6: [...ipv6, ...ofSyn],
  };
  const devices = insideSet({ inside });
  const families = (way: string) =>
    `meta nfproto vmap { ipv4 : goto alike_${way}_ipv4, ipv6 : goto alike_${way}_ipv6 }`;
  return [
    [
      'chain',
      'alike',
      [
        'type filter hook postrouting priority mangle; policy accept;',
        `oifname ${quote(outside)} iifname ${devices} ${families('outward')}`,
        `iifname ${quote(outside)} oifname ${devices} ${families('inward')}`,
      ],
    ],
    ...Object.entries(chains).map(([name, rules]): Part => ['chain', `alike_${name}`, rules]),
    ['chain', 'alike_syn', syn],
  ];
}
