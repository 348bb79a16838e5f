/**
 * The base: the text of table `inet mtgate`.
 *
 * The gate carries what was granted; the base closes everything else and lets
 * devices begin flows of their own, hidden behind the egress pool. Closed by
 * default: what no rule of ours lets through toward the inside is dropped.
 * Connection tracking sees the flows that devices begin and those that a filter
 * lets in, never granted ones; a TCP flow begins with a lone SYN, so that
 * leftovers of an ended grant never become one.
 *
 * Filters stand in it (filter-ruleset.ts): drops before everything that lets a
 * packet pass (a granted one meets none), allows before what the base closes by
 * itself. What the outside begins passes by a filter
 * alone, and such a flow is not hidden.
 *
 * Devices of a realm with `nat: none` are known outside by their own addresses:
 * what they begin is not hidden, and what the outside begins toward them is
 * seen here and not by the gate, since an answer looks no different to it.
 * Headers of both are made alike (header-ruleset.ts).
 *
 * Pure: the same setup gives the same text, byte by byte.
 */
import type { Endpoint, Family, Prefix } from '../core/net.ts';
import {
  ANSWER_MARK,
  DENIAL_MARK,
  DENIAL_REASONS,
  DENIALS,
  FRAGMENT_MARK,
  LET_IN_MARK,
  MARK_KIND,
  SELF_TEST,
} from '../core/reasons.ts';
import type { Normalisation, Service } from '../core/words.ts';
import { hideRules } from './egress-ruleset.ts';
import { allowRules, answerRules, type Counted, type FilterSetup, filterParts } from './filter-ruleset.ts';
import { flowCaps } from './flow-caps.ts';
import { headerChains, PLAIN_HEADERS } from './header-ruleset.ts';
import { chain, copied, deniedByBase, hex, insideSet, part, quote, table, wordOf } from './nft-text.ts';
import {
  atTriggerPorts,
  type TriggerSetup,
  toTriggerSources,
  triggerAnswers,
  triggerChains,
  UNAUTHORISED,
} from './trigger-ruleset.ts';

export interface BaseSetup extends FilterSetup, TriggerSetup {
  readonly outside: string;
  readonly inside: readonly {
    readonly interface: string;
    readonly prefixes: readonly Prefix[];
    /** Another realm has addresses of this one: its devices begin nothing. */
    readonly shared?: boolean;
    /** Absent: it is not there. */
    readonly ifindex?: number;
    /** Its devices are known outside by their own addresses. */
    readonly nat?: 'none';
  }[];
  /** Of all these, the interfaces that are there: a chain at an interface's own hook needs it. */
  readonly present: readonly string[];
  readonly grants: readonly Prefix[];
  readonly egress: readonly Prefix[];
  /** Where devices may not go by themselves. */
  readonly deniedDestinations: readonly Prefix[];
  /** What devices may reach on the gateway itself, beside neighbour discovery. */
  readonly services: readonly Service[];
  readonly nflogGroup: number;
  readonly normalise: Normalisation;
  /** How many flows a device may have at once; absent: as many as it likes. */
  readonly flowsPerDevice?: number;
  /** Where the host itself listens for its management alone, over UDP: not reachable from outside. */
  readonly management?: readonly Endpoint[];
}

const FAMILIES = [
  {
    family: 'ipv4',
    word: 'ip',
    type: 'ipv4_addr',
    hops: 'ttl',
    icmp: 'icmp',
    errors: 'destination-unreachable, parameter-problem',
  },
  {
    family: 'ipv6',
    word: 'ip6',
    type: 'ipv6_addr',
    hops: 'hoplimit',
    icmp: 'icmpv6',
    errors: 'destination-unreachable, packet-too-big, parameter-problem',
  },
] as const;

/**
 * Defragmentation lets a piece that breaks the rules of fragments pass as it
 * is (RFC 8200, 4.5: discarded). What is in pieces has been put together here.
 */
const NO_PIECES = 'exthdr frag exists counter drop';

/** What devices begin without a filter, beside pings: the rest of a flow of anything else needs one, too. */
const OPENED = 'meta l4proto { tcp, udp }';

const UNSOLICITED = 'unsolicited';
/** The definition for `nft -f`: the table, whose filters go on counting from where they were, and the caps on flows. */
export function baseRuleset(setup: BaseSetup, counted: Counted = new Map()): string {
  const { flowsPerDevice } = setup;
  return `${baseTable(setup, counted)}${flowsPerDevice === undefined ? '' : flowCaps({ ...setup, flowsPerDevice })}`;
}

function baseTable(setup: BaseSetup, counted: Counted): string {
  const outside = quote(setup.outside);
  const inside = insideSet(setup);
  const shared = setup.inside.filter((link) => link.shared).map((link) => quote(link.interface));
  const untranslated = setup.inside.filter((link) => link.nat === 'none').map((link) => quote(link.interface));
  const isFiltering = setup.filters.length > 0;
  return table([
    ...FAMILIES.flatMap(({ family, type }) => [
      prefixSet(`grants_${family}`, type, of(family, setup.grants)),
      prefixSet(`egress_${family}`, type, of(family, setup.egress)),
      prefixSet(`denied_${family}`, type, of(family, setup.deniedDestinations)),
    ]),
    // The gate's sampled denials: their packets are marked as someone else's
    // (PACKET_OTHERHOST), so the stack drops them even without this chain.
    ...sampled(setup.present),
    ...DENIAL_REASONS.map((reason) => chain(chainOf(reason), [`counter ${copied(reason, setup)}`, 'drop'])),
    ...(isFiltering ? filterParts(setup, counted).map(part) : []),
    ...triggerChains(setup),
    ...(untranslated.length > 0 ? [deniedByBase(UNSOLICITED, 'unsolicited', setup)] : []),
    // The inspector's own packet goes no further than this.
    chain('self_test', [
      'type filter hook output priority raw; policy accept;',
      `meta mark ${hex(SELF_TEST.mark)} ${copied(SELF_TEST.name, setup)} drop`,
    ]),
    chain('early', [
      'type filter hook prerouting priority raw; policy accept;',
      `meta mark & ${hex(MARK_KIND)} == ${hex(FRAGMENT_MARK)} notrack`,
      // From outside only where the gate is not attached: the grants pool is closed then.
      ...FAMILIES.map(({ family, word }) => `${word} daddr @grants_${family} counter drop`),
      ...FAMILIES.flatMap(({ family, word, hops }) => [
        // No hairpinning: devices do not reach each other by what stands for them outside.
        `iifname ${inside} ${word} daddr @egress_${family} counter drop`,
        // The gateway would tell that it is there: time exceeded, about an answer to a device.
        `${word} daddr @egress_${family} ${word} ${hops} < 2 counter drop`,
      ]),
      ...FAMILIES.flatMap((one) => silent(setup, one)),
    ]),
    chain('forward', [
      'type filter hook forward priority filter; policy accept;',
      // Granted and translated, and to be cut: by whatever other way than its own, it does not pass.
      ...setup.inside.flatMap(({ interface: name, ifindex }) =>
        ifindex === undefined
          ? []
          : [`oifname ${quote(name)} meta mark ${hex(FRAGMENT_MARK + ifindex)} counter accept`],
      ),
      `oifname ${inside} goto toward_inside`,
      `iifname ${inside} goto from_inside`,
    ]),
    chain('toward_inside', [
      ...PLAIN_HEADERS,
      NO_PIECES,
      // Whoever it is for, and whatever flow it is of: a trigger does not come by this way.
      ...atTriggerPorts(setup, 'dport', `goto ${UNAUTHORISED}`),
      ...(isFiltering ? ['jump drops'] : []),
      ...FAMILIES.map(
        ({ icmp, errors }) =>
          `iifname ${outside} ct state related ${icmp} type { ${errors}, time-exceeded } counter accept`,
      ),
      ...allowRules(setup, 'inside'),
      ...answerRules(setup, 'outside'),
      // A flow that began by an allow which is gone: it is not to live on by its answers.
      ...FAMILIES.map(({ family, word }) => `${word} saddr @denied_${family} counter drop`),
      `iifname ${outside} ct state established ct direction reply ${OPENED} counter accept`,
      ...FAMILIES.map(
        ({ icmp }) =>
          `iifname ${outside} ct state established ct direction reply ${icmp} type echo-reply counter accept`,
      ),
      ...(untranslated.length > 0
        ? [`iifname ${outside} oifname { ${untranslated.join(', ')} } goto ${UNSOLICITED}`]
        : []),
      'counter drop',
    ]),
    chain('from_inside', [
      ...PLAIN_HEADERS,
      NO_PIECES,
      // What answered it would come to a trigger port.
      ...atTriggerPorts(setup, 'sport', 'counter drop'),
      ...(isFiltering ? ['jump drops'] : []),
      `oifname != ${outside} counter drop`,
      ...noWayBack(shared),
      'ct state invalid counter drop',
      ...setup.inside.flatMap((link) => ownSourcesOnly(link)),
      // Answers to it would come to the gateway itself. (Of IPv4 the stack takes none; of IPv6 it does.)
      'fib saddr type local counter drop',
      ...answerRules(setup, 'inside'),
      ...FAMILIES.filter(({ family }) => of(family, setup.egress).length === 0).map(
        ({ family }) => `${whoIsHidden(untranslated)}meta nfproto ${family} counter drop`,
      ),
      ...allowRules(setup, 'outside'),
      ...FAMILIES.map(({ family, word }) => `${word} daddr @denied_${family} counter drop`),
      `ct state established ct direction original ${OPENED} counter accept`,
      // About what answers a device. Errors about what was let in are the allow's, above, and end with it. None that
      // shows where hops are used up, or which router there is (redirects: RFC 5508, 7.1).
      ...FAMILIES.map(
        ({ icmp, errors }) => `ct state related ct direction original ${icmp} type { ${errors} } counter accept`,
      ),
      'ct state new tcp flags & (fin | syn | rst | ack) == syn counter accept',
      'ct state new meta l4proto udp counter accept',
      ...FAMILIES.map(
        ({ icmp }) => `ct state { new, established } ct direction original ${icmp} type echo-request counter accept`,
      ),
      'counter drop',
    ]),
    ...(untranslated.length > 0
      ? [
          // Reached by what was let through alone; without these marks the gate lets nothing of it in, or out.
          chain('let_through', [
            'type filter hook postrouting priority mangle; policy accept;',
            `iifname ${outside} oifname { ${untranslated.join(', ')} } meta mark set ${hex(LET_IN_MARK)}`,
            `iifname { ${untranslated.join(', ')} } oifname ${outside} meta mark set ${hex(ANSWER_MARK)}`,
          ]),
        ]
      : []),
    ...headerChains(setup).map(part),
    chain('hide', [
      'type nat hook postrouting priority srcnat; policy accept;',
      ...FAMILIES.flatMap(({ family }) => hideRules(setup, family)),
    ]),
    chain('input', [
      'type filter hook input priority filter; policy accept;',
      `iifname ${inside} goto from_device`,
      ...(setup.management ?? []).map(
        ({ address, port }) =>
          `iifname ${outside} ${wordOf(address)} daddr ${address.text} udp dport ${port} counter drop`,
      ),
      ...toTriggerSources(setup, () => 'counter drop'), // devices went another way
    ]),
    chain('from_device', [
      'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept',
      ...noWayBack(shared),
      ...setup.services.map(serviceRule),
      ...triggerAnswers(setup),
      // Answers to what the gateway began, and not to a broadcast that somebody outside took for a source.
      'fib daddr type local ct state established ct direction reply accept',
      'counter drop',
    ]),
  ]);
}

/** Those whose flows need an address of the egress pool. */
function whoIsHidden(untranslated: readonly string[]): string {
  return untranslated.length > 0 ? `iifname != { ${untranslated.join(', ')} } ` : '';
}

function sampled(present: readonly string[]): string[] {
  if (present.length === 0) return [];
  const reasons = DENIAL_REASONS.map(
    (reason) => `${hex(DENIAL_MARK + DENIALS[reason].number)} : goto ${chainOf(reason)}`,
  );
  return [
    chain('sampled', [
      `type filter hook ingress devices = { ${present.map(quote).join(', ')} } priority filter; policy accept;`,
      `meta mark vmap { ${reasons.join(', ')} }`,
    ]),
  ];
}

/**
 * Where two realms have an address in common, a packet to it from the gateway
 * itself, or back through connection tracking, is routed by the address alone
 * and may reach the other realm's device. So devices of such realms begin
 * nothing, neither outward nor with the gateway; grants name the realm and
 * are not concerned.
 */
function noWayBack(shared: readonly string[]): string[] {
  return shared.length > 0 ? [`iifname { ${shared.join(', ')} } counter drop`] : [];
}

/**
 * What comes to a device's own address and goes no further is not told so: the
 * gateway would be seen in a traceroute, and that the realm's interface is gone.
 */
function silent({ outside, inside }: BaseSetup, { family, word, hops }: (typeof FAMILIES)[number]): string[] {
  return inside.flatMap((link) => {
    const own = link.nat === 'none' ? of(family, link.prefixes).map(({ text }) => text) : [];
    if (own.length === 0) return [];
    const toward = `iifname ${quote(outside)} ${word} daddr { ${own.join(', ')} }`;
    const [spent, elsewhere] = [`${word} ${hops} < 2`, `fib daddr oifname != ${quote(link.interface)}`];
    return [spent, elsewhere].map((why) => `${toward} ${why} counter drop`);
  });
}

/** A device uses addresses of its own realm, and no others. */
function ownSourcesOnly(link: BaseSetup['inside'][number]): string[] {
  return FAMILIES.map(({ family, word }) => {
    const own = of(family, link.prefixes).map((prefix) => prefix.text);
    const iif = `iifname ${quote(link.interface)}`;
    return own.length > 0
      ? `${iif} ${word} saddr != { ${own.join(', ')} } counter drop`
      : `${iif} meta nfproto ${family} counter drop`;
  });
}

function serviceRule({ protocol, port }: Service): string {
  if (protocol === 'icmp') return 'icmp type echo-request accept';
  if (protocol === 'icmpv6') return 'icmpv6 type echo-request accept';
  return `${protocol} dport ${port} accept`;
}

function of(family: Family, prefixes: readonly Prefix[]): readonly Prefix[] {
  return prefixes.filter((prefix) => prefix.family === family);
}

function prefixSet(name: string, type: string, prefixes: readonly Prefix[]): string {
  const elements = prefixes.length > 0 ? ` elements = { ${prefixes.map((prefix) => prefix.text).join(', ')} }` : '';
  return `set ${name} { type ${type}; flags interval; auto-merge;${elements}\n}`;
}

function chainOf(reason: keyof typeof DENIALS): string {
  return `denied_${reason}`;
}
