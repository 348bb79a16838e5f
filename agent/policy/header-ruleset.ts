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
import type { Part } from './filter-ruleset.ts';

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

/** Any number: of it the upper half is used by this nft, or the lower. */
const BY_CHANCE = 'numgen random mod 4294967295';
const MAY_BE_CUT = 'ip frag-off & 0x4000 == 0';
const MAY_NOT_BE_CUT = 'ip frag-off & 0x4000 != 0';
/** Its sum is over the identification, too (RFC 4302, 3.3.3.1.1). */
const NO_AH = 'ip protocol != ah';
const SYN = 'tcp flags & syn == syn';

/** The chains that make headers alike; none where nothing is to be. */
export function headerChains({ outside, inside, normalise }: HeaderSetup): Part[] {
  const { hopLimit, identification, flowLabel, trafficClass, timestamps, mss } = normalise;
  const eitherWay = [
    ...(hopLimit > 0 ? [`ip ttl set ${hopLimit}`, `ip6 hoplimit set ${hopLimit}`] : []),
    ...(trafficClass ? ['ip dscp set cs0', 'ip6 dscp set cs0'] : []),
    ...(timestamps ? [`${SYN} reset tcp option timestamp`] : []),
    ...(mss ? [`${SYN} tcp option maxseg size set rt mtu`] : []),
  ];
  const outward = [
    // RFC 6864, 4.1: of what is never cut it means nothing.
    ...(identification
      ? [`${MAY_NOT_BE_CUT} ${NO_AH} ip id set 0`, `${MAY_BE_CUT} ${NO_AH} ip id set ${BY_CHANCE}`]
      : []),
    ...(flowLabel ? ['ip6 flowlabel set 0'] : []),
    ...eitherWay,
  ];
  if (outward.length === 0) return [];
  const devices = `{ ${inside.map((link) => `"${link.interface}"`).join(', ')} }`;
  return [
    [
      'chain',
      'alike',
      [
        'type filter hook postrouting priority mangle; policy accept;',
        `iifname ${devices} oifname "${outside}" goto alike_outward`,
        `iifname "${outside}" oifname ${devices} goto alike_inward`,
      ],
    ],
    ['chain', 'alike_outward', outward],
    ['chain', 'alike_inward', eitherWay],
  ];
}
