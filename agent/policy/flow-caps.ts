/**
 * How many flows each device may have at once: table `inet mtgate_flows`
 * (RFC 6888 REQ-4, REQ-5). Each flow takes one external port, so this bounds
 * both. It is looked at with the first packet of a flow that the base lets
 * begin; flows that run are not touched, and one that ends makes room.
 *
 * A table of its own, beside the base: the base is replaced whole by every
 * change of policy, and what runs is to stay counted; and it may hold as many
 * devices as speak, which no look at the base should have to list. It is
 * written over itself, never deleted: its sets carry the cap in their names,
 * since an element keeps the cap that it was made with.
 *
 * A device is an IPv4 address, or the /64 of an IPv6 one: each has a /64 of
 * its own (TS 23.401 5.3.1.2.2), and could take a new address for each flow.
 * The sets are bounded; full, they refuse: no device begins uncounted. (Which
 * of the two it was cannot be told: to look an element up asks its cap again.)
 *
 * Pure.
 */
import type { BASE_DENIALS } from '../core/reasons.ts';
import { insideSet, quote, someCopied } from './nft-text.ts';

const FLOWS_TABLE = 'mtgate_flows';
/** Why a flow does not begin: its name in reasons.ts, and of a counter and a chain. */
const REFUSAL = 'flowCapExceeded' satisfies keyof typeof BASE_DENIALS;

export interface FlowCaps {
  readonly outside: string;
  readonly inside: readonly { readonly interface: string }[];
  readonly flowsPerDevice: number;
  readonly nflogGroup: number;
  readonly filterCopiesPerSecond: number;
}

/** Devices that have flows at the same time; their places are made when the set is (16 MiB at the most). */
const DEVICES_MOST = 1_048_576;

const FAMILIES = [
  { family: 'ipv4', key: 'ip saddr' },
  { family: 'ipv6', key: 'ip6 saddr & ffff:ffff:ffff:ffff::' },
] as const;

export function flowCaps(setup: FlowCaps): string {
  const { outside, flowsPerDevice: most } = setup;
  const set = (family: string) => `flows_${family}_${most}`;
  const sets = FAMILIES.map(
    ({ family }) => `\tset ${set(family)} { type ${family}_addr; flags dynamic; size ${DEVICES_MOST};\n}\n`,
  );
  const chains: readonly (readonly [name: string, head: string, rules: readonly string[]])[] = [
    [REFUSAL, '', refusal(setup)],
    [
      'begun',
      'type filter hook forward priority filter + 10; policy accept;',
      [
        'ct status confirmed accept', // a flow that runs: an entry is confirmed when its first packet leaves
        `iifname ${insideSet(setup)} oifname ${quote(outside)} goto begins`,
      ],
    ],
    [
      'begins',
      '',
      [
        ...FAMILIES.map(({ family, key }) => `add @${set(family)} { ${key} ct count ${most} } accept`),
        `goto ${REFUSAL}`,
      ],
    ],
  ];
  return [
    `table inet ${FLOWS_TABLE} {\n`,
    ...sets,
    `\tcounter ${REFUSAL} {\n}\n`,
    ...chains.map(([name, head]) => `\tchain ${name} {${head && `\n\t\t${head}`}\n\t}\n`),
    '}\n',
    ...chains.map(([name]) => `flush chain inet ${FLOWS_TABLE} ${name}\n`),
    `table inet ${FLOWS_TABLE} {\n`,
    ...chains.map(([name, , rules]) => `\tchain ${name} {\n${rules.map((rule) => `\t\t${rule}\n`).join('')}\t}\n`),
    '}\n',
  ].join('');
}

function refusal(setup: FlowCaps): string[] {
  return [`counter name "${REFUSAL}"`, ...someCopied(REFUSAL, setup), 'drop'];
}
