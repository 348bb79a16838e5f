/**
 * Who held an inner address when a flow began: that is told a moment later,
 * and by then the address may have changed hands. So what is lost is
 * remembered for a while. (Before an address is given to another device its
 * flows are deleted, so a flow is of the holder of its whole time.)
 */
import { type Address, contains, hostPrefix, type Prefix } from '../core/net.ts';
import type { ExternalId, InnerAddress, RealmName } from '../core/words.ts';
import { type Binding, deviceOf } from '../directory/binding.ts';
import { PrefixTrie } from '../directory/prefix-trie.ts';

/** A device, or a subscriber that is none; where nobody held it, neither. */
export interface HeldBy {
  /** Empty where the address is of no realm any more. */
  readonly realm: RealmName | '';
  readonly device: ExternalId | null;
  /** Where the flow may have begun under one holder or the next: whose it is if it still runs. */
  readonly ifRuns?: ExternalId | null;
}

interface Lost {
  readonly binding: Binding;
  readonly untilMs: number;
}

const REMEMBERED_MS = 60_000;

export class Holders {
  readonly #realms: readonly { readonly realm: RealmName; readonly prefixes: readonly Prefix[] }[];
  readonly #holderOf: (inner: InnerAddress) => Binding | undefined;
  readonly #lost = new Map<string, PrefixTrie<Lost>>();
  /** In the order in which they were lost. */
  #queue: Lost[] = [];

  constructor(
    realms: readonly { readonly realm: RealmName; readonly prefixes: readonly Prefix[] }[],
    holderOf: (inner: InnerAddress) => Binding | undefined,
  ) {
    this.#realms = realms;
    this.#holderOf = holderOf;
  }

  /** These are held no more, from now on. */
  lost(bindings: readonly Binding[], nowMs: number): void {
    const forgotten = this.#queue.findIndex(({ untilMs }) => untilMs >= nowMs - REMEMBERED_MS);
    for (const one of this.#queue.splice(0, forgotten === -1 ? this.#queue.length : forgotten)) {
      const space = this.#spaceOf(one.binding);
      if (space.overlapping(one.binding.prefix).includes(one)) space.remove(one.binding.prefix);
    }
    for (const binding of bindings) {
      const one = { binding, untilMs: nowMs };
      const space = this.#spaceOf(binding);
      for (const former of space.overlapping(binding.prefix)) space.remove(former.binding.prefix);
      space.put(binding.prefix, one);
      this.#queue.push(one);
    }
  }

  /** Who held it when a flow began, which was some time in a span; no device where that may have been one or another. */
  at(address: Address, fromMs: number, toMs: number): HeldBy {
    const realm = this.#realms.find(({ prefixes }) => prefixes.some((one) => contains(one, address)))?.realm;
    if (realm === undefined) return { realm: '', device: null };
    const [before] = this.#lost.get(`${realm} ${address.family}`)?.overlapping(hostPrefix(address)) ?? [];
    const wasHeld = before && before.binding.sinceMs <= toMs && fromMs <= before.untilMs ? before.binding : undefined;
    const now = this.#holderOf({ realm, address });
    const isHeld = now && now.sinceMs <= toMs && !(before && toMs <= before.untilMs) ? now : undefined;
    const nameOf = (binding: Binding | undefined) => (binding && deviceOf(binding.holder)) ?? null;
    if (wasHeld && isHeld && wasHeld.holder !== isHeld.holder) return { realm, device: null, ifRuns: nameOf(isHeld) };
    return { realm, device: nameOf(wasHeld ?? isHeld) };
  }

  #spaceOf({ realm, prefix }: Binding): PrefixTrie<Lost> {
    const key = `${realm} ${prefix.family}`;
    const space = this.#lost.get(key) ?? new PrefixTrie<Lost>();
    this.#lost.set(key, space);
    return space;
  }
}
