/**
 * Words of nft's language that all rules of ours are put in: names, marks,
 * chains, and the copy of a packet for the inspector. Pure.
 */
import type { Address } from '../core/net.ts';
import { type BaseDenial, DENIAL_PREFIX } from '../core/reasons.ts';

/** A part of the table: what it is, its name, and what it holds. */
export type Part = readonly [kind: 'chain' | 'set' | 'counter' | 'limit', name: string, lines: readonly string[]];

/** Where copies of denied packets go, and how many in a second. */
export interface Copying {
  readonly nflogGroup: number;
  readonly filterCopiesPerSecond: number;
}

/** How much of a denied packet is copied: headers, and nothing of its content to speak of. */
const SNAPLEN = 96;

/** Enough that a handful of packets at once are all seen. */
export const COPIES_AT_ONCE = 20;

/** The interfaces of all realms, as a set. */
export function insideSet({ inside }: { readonly inside: readonly { readonly interface: string }[] }): string {
  return `{ ${inside.map((link) => quote(link.interface)).join(', ')} }`;
}

export function quote(name: string): string {
  return `"${name}"`;
}

/** What a packet's family is called. */
export function wordOf({ family }: Pick<Address, 'family'>): 'ip' | 'ip6' {
  return family === 'ipv4' ? 'ip' : 'ip6';
}

/** A copy of the packet, with its reason, for the inspector. */
export function copied(name: string, { nflogGroup }: Pick<Copying, 'nflogGroup'>): string {
  return `log prefix "${DENIAL_PREFIX}${name}" group ${nflogGroup} snaplen ${SNAPLEN} queue-threshold 1`;
}

/** A rule that copies so many of a second's packets; none where none are to be. */
export function someCopied(name: string, setup: Copying): string[] {
  const { filterCopiesPerSecond: copies } = setup;
  return copies > 0 ? [`limit rate ${copies}/second burst ${COPIES_AT_ONCE} packets ${copied(name, setup)}`] : [];
}

export function hex(mark: number): string {
  return `0x${mark.toString(16)}`;
}

export function chain(name: string, rules: readonly string[]): string {
  return `chain ${name} {\n${rules.map((rule) => `\t\t${rule}\n`).join('')}\t}`;
}

/** The chain of what the base denies by a name: dropped, and some of it copied. */
export function deniedByBase(name: string, reason: BaseDenial, setup: Copying): string {
  return chain(name, ['counter', ...someCopied(reason, setup), 'drop']);
}

export function part([kind, name, lines]: Part): string {
  return kind === 'chain' ? chain(name, lines) : `${kind} ${name} { ${lines.join('; ')}\n}`;
}

export function table(parts: readonly string[]): string {
  return `table inet mtgate {\n${parts.map((part) => `\t${part}\n`).join('')}}\n`;
}
