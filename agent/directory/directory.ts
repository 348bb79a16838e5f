/**
 * Which device holds which inner address, and what follows when that changes.
 *
 * No two bindings of a realm overlap. They come from the devices file, which is
 * read at start and at reload, from the management socket, and from accounting
 * (sessions.ts); which devices there are, the registry says (registry.ts). What
 * the file binds, the file alone unbinds: so that a restart, which reads the
 * file again, never silently takes back what an operator did. By file or socket
 * a device has one address of each family; by accounting it may have several,
 * and then grants lead to the one that it got last.
 *
 * No I/O: `planBind` and its kin say which holders would lose what, and change
 * nothing. A plan is carried out in two steps: from `begin` on what it touches
 * is nobody's, so that no grant is decided on it while those that rest on it
 * are ended; `apply` then gives it to the new holder.
 */
import { isHashed } from '../core/identities.ts';
import { type Family, hostPrefix, type Prefix } from '../core/net.ts';
import type {
  Attributes,
  Device,
  DeviceReference,
  ExternalId,
  Imsi,
  InnerAddress,
  Msisdn,
  RealmName,
} from '../core/words.ts';
import { interfaceIdBits, parseExternalId, parseImsi, parseMsisdn } from '../core/words.ts';
import {
  addressText,
  type Binding,
  type Change,
  deviceOf,
  type Loss,
  NO_CHANGE,
  type Range,
  rangeKey,
} from './binding.ts';
import { PrefixTrie } from './prefix-trie.ts';
import type { RegisteredDevice, Registry } from './registry.ts';
import type { Subscriber } from './subscriber.ts';

/** Why a bind or unbind was not done, for the operator. */
export type DirectoryRefusal = {
  readonly refused: 'deviceUnknown' | 'addressBoundByFile' | 'deviceBoundByFile' | 'notBound';
  readonly why: string;
};

/** A binding to which grants lead. */
export type ReachableBinding = Binding & { readonly target: NonNullable<Binding['target']> };

export class Directory {
  readonly #registry: Registry;
  /** By realm and family. */
  readonly #spaces = new Map<string, PrefixTrie<Binding>>();
  /** In the order in which they were bound. */
  readonly #byDevice = new Map<ExternalId, readonly Binding[]>();
  /** What nobody has vouched for since the agent was away: no grant leads there. */
  readonly #unconfirmed = new Set<string>();
  /** What is between `begin` and `apply`. */
  readonly #changing = new Set<string>();

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  find(reference: DeviceReference): Device | undefined {
    if ('networkAccessIdentifier' in reference) {
      const id = parseExternalId(reference.networkAccessIdentifier);
      return id && this.#registry.byExternalId(id);
    }
    if ('msisdnHash' in reference) return this.#registry.byMsisdn(reference.msisdnHash as Msisdn);
    const msisdn = parseMsisdn(reference.phoneNumber);
    return msisdn && this.#registry.byMsisdn(msisdn);
  }

  /** The device that an operator means: by external identifier, MSISDN, IMSI, or what stands for these. Digits that are both are the MSISDN. */
  named(name: string): RegisteredDevice | undefined {
    const id = parseExternalId(name);
    if (id) return this.#registry.byExternalId(id);
    const [msisdn, imsi] = isHashed(name) ? [name as Msisdn, name as Imsi] : [parseMsisdn(name), parseImsi(name)];
    return (msisdn && this.#registry.byMsisdn(msisdn)) ?? (imsi && this.#registry.byImsi(imsi));
  }

  isKnown(device: ExternalId): boolean {
    return this.#registry.has(device);
  }

  /** Of a device that is not known: none. */
  readonly attributesOf = (device: ExternalId): Attributes => this.#registry.byExternalId(device)?.attributes ?? {};

  /** The device that a subscriber is. Names of one that lead to two devices contradict each other. */
  deviceOf({ imsi, msisdn, externalId }: Subscriber): ExternalId | 'contradiction' | undefined {
    const found = [
      imsi && this.#registry.byImsi(imsi),
      msisdn && this.#registry.byMsisdn(msisdn),
      externalId && this.#registry.byExternalId(externalId),
    ].flatMap((device) => (device ? device.externalId : []));
    return new Set(found).size > 1 ? 'contradiction' : found[0];
  }

  interfaceIdOf(device: ExternalId): bigint | undefined {
    const { interfaceId } = this.#registry.byExternalId(device) ?? {};
    return interfaceId === undefined ? undefined : interfaceIdBits(interfaceId);
  }

  bindings(): Binding[] {
    return [...this.#spaces.values()].flatMap((space) => space.all());
  }

  /** All that a device holds. */
  bindingsOf(device: ExternalId): readonly Binding[] {
    return this.#byDevice.get(device) ?? [];
  }

  /** Where a grant leads in a family; nowhere while that changes hands, or is to be confirmed. */
  bindingOf(device: ExternalId, family: Family): ReachableBinding | undefined {
    const own = this.#settledOf(device, family);
    return own.findLast(
      (binding): binding is ReachableBinding => binding.target !== undefined && this.isConfirmed(binding),
    );
  }

  /** From here on every binding but the devices file's is to be confirmed; or those that are named. */
  unconfirm(ranges?: Iterable<Range>): void {
    for (const range of ranges ?? this.bindings().filter(({ source }) => source !== 'file'))
      this.#unconfirmed.add(rangeKey(range));
  }

  /** Somebody has vouched for these. */
  confirm(ranges: readonly Range[]): void {
    for (const range of ranges) this.#unconfirmed.delete(rangeKey(range));
  }

  isConfirmed(range: Range): boolean {
    return this.#unconfirmed.size === 0 || !this.#unconfirmed.has(rangeKey(range));
  }

  get unconfirmed(): number {
    return this.#unconfirmed.size;
  }

  /** The families in which a device is bound, be it known or not where grants lead there. */
  familiesOf(device: ExternalId): Family[] {
    return (['ipv4', 'ipv6'] as const).filter((family) => this.#settledOf(device, family).length > 0);
  }

  /** What a device is judged by; an address that changes hands is nobody's. */
  factsOf({ externalId, attributes = {} }: Device) {
    const boundFamilies = this.familiesOf(externalId);
    const inner = boundFamilies.flatMap((family) => {
      const binding = this.bindingOf(externalId, family);
      return binding ? { realm: binding.realm, address: binding.target } : [];
    });
    return { externalId, attributes, boundFamilies, inner };
  }

  /** Whether grants lead to this address of a device, as one did that lives. */
  holds(device: ExternalId, { realm, address }: InnerAddress): boolean {
    return this.#settledOf(device, address.family).some(
      (binding) => binding.realm === realm && binding.target?.text === address.text,
    );
  }

  /** Whose an address is. */
  holderOf({ realm, address }: InnerAddress): Binding | undefined {
    return this.overlapping({ realm, prefix: hostPrefix(address) })[0];
  }

  /** All that shares an address with a range. */
  overlapping({ realm, prefix }: Range): readonly Binding[] {
    return this.#spaces.get(spaceOf(realm, prefix))?.overlapping(prefix) ?? [];
  }

  /** What binding an address to a device changes: whoever holds it loses it, and the device what was bound so before. */
  planBind(binding: Binding): Change | DirectoryRefusal {
    const device = deviceOf(binding.holder);
    if (!device || !this.isKnown(device)) {
      return { refused: 'deviceUnknown', why: `no device ${binding.holder} is registered` };
    }
    const there = this.overlapping(binding);
    if (there.some(({ holder, target }) => holder === device && target?.text === binding.target?.text))
      return NO_CHANGE;
    const byFile = there.find(({ source }) => source === 'file');
    if (byFile) return { refused: 'addressBoundByFile', why: `the devices file binds it to ${byFile.holder}` };
    const { family } = binding.prefix;
    const former = this.bindingsOf(device).filter((one) => one.prefix.family === family && one.source !== 'accounting');
    const fixed = former.find(({ source }) => source === 'file');
    if (fixed)
      return { refused: 'deviceBoundByFile', why: `the devices file binds ${device} to ${addressText(fixed)}` };
    return { losses: lossesOf([...there, ...former], device), gains: [binding] };
  }

  planUnbind(inner: InnerAddress): Change | DirectoryRefusal {
    const holder = this.holderOf(inner);
    if (!holder) return { refused: 'notBound', why: `no device holds ${inner.address.text} in ${inner.realm}` };
    if (holder.source === 'file')
      return { refused: 'addressBoundByFile', why: `the devices file binds it to ${holder.holder}` };
    return { losses: [{ binding: holder, cause: 'deviceUnbound' }], gains: [] };
  }

  /**
   * What a newly read devices file changes. The file wins over all others; a
   * binding by management stays where the file says nothing of its device's
   * family or its address, and its device is not among those `gone`.
   */
  planFile(gone: ReadonlySet<ExternalId>, wanted: readonly Binding[]): Change {
    const wantedAt = new Map(wanted.map((binding) => [rangeKey(binding), binding]));
    const wantedFor = new Set(wanted.map((binding) => `${binding.holder} ${binding.prefix.family}`));
    const losses = new Map<string, Loss>();
    const loses = (binding: Binding, cause: Loss['cause']) => losses.set(rangeKey(binding), { binding, cause });
    for (const held of this.bindings()) {
      if (held.source === 'accounting' || wantedAt.get(rangeKey(held))?.holder === held.holder) continue;
      const isGone = gone.has(held.holder as ExternalId);
      if (held.source === 'file' || isGone || wantedFor.has(`${held.holder} ${held.prefix.family}`))
        loses(held, 'deviceUnbound');
    }
    const isAsItIs = (binding: Binding) =>
      this.overlapping(binding).some((held) => held.source === 'file' && isSameBinding(held, binding));
    const gains = wanted.filter((binding) => !isAsItIs(binding));
    for (const binding of gains) {
      for (const held of this.overlapping(binding)) {
        if (held.holder !== binding.holder) loses(held, 'addressReassigned');
        else if (!isSameBinding(held, binding)) loses(held, 'deviceUnbound');
      }
    }
    return { losses: [...losses.values()], gains };
  }

  /** What it changes that devices are registered no more; what accounting binds, their sessions go on holding. */
  planGone(gone: ReadonlySet<ExternalId>): Change {
    const held = [...gone].flatMap((device) => this.bindingsOf(device));
    const losses = held.filter(({ source }) => source !== 'accounting');
    return { losses: losses.map((binding) => ({ binding, cause: 'deviceUnbound' })), gains: [] };
  }

  /** From here on what a plan touches is nobody's. */
  begin(change: Change): void {
    for (const range of touched(change)) this.#changing.add(rangeKey(range));
  }

  /** Gives a plan up: everything stays as it was. */
  cancel(change: Change): void {
    for (const range of touched(change)) this.#changing.delete(rangeKey(range));
  }

  /** Carries a plan out. */
  apply(change: Change): void {
    this.cancel(change);
    this.confirm(touched(change));
    for (const { binding } of change.losses) this.#remove(binding);
    for (const binding of change.gains) {
      for (const former of this.overlapping(binding)) this.#remove(former); // the same, of another source
      const key = spaceOf(binding.realm, binding.prefix);
      const space = this.#spaces.get(key) ?? new PrefixTrie<Binding>();
      this.#spaces.set(key, space);
      space.put(binding.prefix, binding);
      const device = deviceOf(binding.holder);
      if (device) this.#byDevice.set(device, [...this.bindingsOf(device), binding]);
    }
  }

  #remove({ realm, prefix, holder }: Binding): void {
    this.#spaces.get(spaceOf(realm, prefix))?.remove(prefix);
    const device = deviceOf(holder);
    if (!device) return;
    const left = this.bindingsOf(device).filter((one) => one.realm !== realm || one.prefix.text !== prefix.text);
    if (left.length > 0) this.#byDevice.set(device, left);
    else this.#byDevice.delete(device);
  }

  /** What a device holds in a family and does not change hands. */
  #settledOf(device: ExternalId, family: Family): readonly Binding[] {
    return this.bindingsOf(device).filter(
      (binding) =>
        binding.prefix.family === family && !(this.#changing.size > 0 && this.#changing.has(rangeKey(binding))),
    );
  }
}

/** Everything that a plan takes or gives. */
export function touched(change: Change): readonly Range[] {
  return [...change.losses.map(({ binding }) => binding), ...change.gains];
}

function lossesOf(bindings: readonly Binding[], device: ExternalId): Loss[] {
  return [...new Set(bindings)].map((binding) => ({
    binding,
    cause: binding.holder === device ? 'deviceUnbound' : 'addressReassigned',
  }));
}

function isSameBinding(a: Binding, b: Binding): boolean {
  return a.holder === b.holder && a.prefix.text === b.prefix.text && a.target?.text === b.target?.text;
}

function spaceOf(realm: RealmName, { family }: Prefix): string {
  return `${realm} ${family}`;
}
