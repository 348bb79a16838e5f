/**
 * Who holds what: a binding, and what a change of bindings takes and gives.
 *
 * A holder is a device of the registry, or a subscriber that is in none: its
 * binding has no owner, so nobody can be granted anything on it. A binding is
 * of one address, or of a prefix in which a grant leads to one address, the
 * target; without a target no grant leads there. No two bindings of a realm
 * overlap.
 */
import { type Address, hostPrefix, type Prefix } from '../core/net.ts';
import type { ExternalId, InnerAddress, RealmName } from '../core/words.ts';

declare const unregistered: unique symbol;
/** A subscriber that no registry knows: `imsi:…`, `msisdn:…`, or the session that told of it. No `@` is in it. */
export type Unregistered = string & { readonly [unregistered]: true };
export type Holder = ExternalId | Unregistered;

export type BindingSource = 'file' | 'management' | 'accounting';

/** A part of a realm's address space. */
export interface Range {
  readonly realm: RealmName;
  /** Of full length: one address. */
  readonly prefix: Prefix;
}

export interface Binding extends Range {
  readonly holder: Holder;
  /** Where grants lead; absent: it is not known, or none lead there. */
  readonly target?: Address;
  readonly source: BindingSource;
  readonly sinceMs: number;
}

/** A holder loses a binding, and why. */
export interface Loss {
  readonly binding: Binding;
  readonly cause: 'deviceUnbound' | 'addressReassigned';
}

/** What is taken away, and what is then given. */
export interface Change {
  readonly losses: readonly Loss[];
  readonly gains: readonly Binding[];
}

export const NO_CHANGE: Change = { losses: [], gains: [] };

/** The device that holds; undefined where none of the registry does. */
export function deviceOf(holder: Holder): ExternalId | undefined {
  return holder.includes('@') ? (holder as ExternalId) : undefined;
}

/** The inner address that grants lead to in a binding. */
export function innerOf({ realm, target }: Binding): InnerAddress | undefined {
  return target && { realm, address: target };
}

/** Where grants lead, or else the range, in the words of an operator. */
export function addressText({ prefix, target }: Pick<Binding, 'prefix' | 'target'>): string {
  return target?.text ?? prefix.text;
}

/** One text a range, for maps. */
export function rangeKey({ realm, prefix }: Range): string {
  return `${realm} ${prefix.text}`;
}

/** The range that one address is. */
export function rangeOf(realm: RealmName, host: Address): Range {
  return { realm, prefix: hostPrefix(host) };
}
