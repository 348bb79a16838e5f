/**
 * What hides devices that begin flows, as rules of the base (ruleset.ts), in
 * nft's words: source NAT to the egress pool.
 */
import { addressAt, type Family, type Prefix, sizeOf } from '../core/net.ts';
import { quote, wordOf } from './nft-text.ts';

interface EgressSetup {
  readonly outside: string;
  readonly inside: readonly {
    readonly prefixes: readonly Prefix[];
    readonly shared?: boolean;
    readonly nat?: 'none';
  }[];
  readonly egress: readonly Prefix[];
}

/** Any number will do. */
const EGRESS_SEED = '0x6d746761';

/**
 * One device keeps to one prefix of the egress pool, and within it to one address (RFC 4787 REQ-2: paired): with
 * `persistent` the kernel draws it from the source alone. With `fully-random` each flow has a port of its own, drawn
 * anew (RFC 6056), never the device's; from all unprivileged ones, be the device's own what it may (against
 * RFC 4787 REQ-3: that it is a low one is nobody's business). The seed stands there so that all rules draw alike.
 */
export function hideRules(setup: EgressSetup, family: Family): string[] {
  const word = wordOf({ family });
  const egress = setup.egress.filter((prefix) => prefix.family === family);
  const hidden = setup.inside.filter(({ shared, nat }) => !shared && nat !== 'none');
  const inner = hidden.flatMap((link) => link.prefixes.filter((prefix) => prefix.family === family));
  if (inner.length === 0) return [];
  const sources = inner.map(({ text }) => text).join(', ');
  return egress.flatMap((prefix, i) => {
    const share = egress.length > 1 ? `jhash ${word} saddr mod ${egress.length} seed ${EGRESS_SEED} ${i} ` : '';
    const first = prefix.address.text;
    const last = addressAt(prefix, sizeOf(prefix) - 1n).text;
    const [from, to] = word === 'ip6' ? [`[${first}]`, `[${last}]`] : [first, last];
    const range = (low: string, high: string) => (first === last ? low : `${low}-${high}`);
    const rule = (what: string, to: string) =>
      `oifname ${quote(setup.outside)} ${word} saddr { ${sources} } ${share}${what}snat ${word} to ${to} fully-random,persistent`;
    return [rule('meta l4proto { tcp, udp } ', `${range(from, to)}:1024-65535`), rule('', range(first, last))];
  });
}
