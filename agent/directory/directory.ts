/**
 * Which device holds which inner address, and what follows when that changes.
 *
 * A device holds at most one address of each family; an address is held by at
 * most one device. Bindings come from the devices file, which is read at start
 * and at reload, and from the management socket; which devices there are, the
 * registry says (registry.ts).
 * What the file binds, the file alone unbinds: so that a restart, which reads
 * the file again, never silently takes back what an operator did.
 *
 * No I/O: `planBind` and its kin say which holders would lose which address
 * and change nothing. A plan is carried out in two steps: from `begin` on the
 * addresses it touches are nobody's, so that no grant is decided on them while
 * those that rest on them are ended; `apply` then gives them to the new holder.
 */
import type { Family } from '../core/net.ts';
import type { Attributes, Device, DeviceReference, ExternalId, InnerAddress } from '../core/words.ts';
import { innerKey, parseExternalId, parseImsi, parseMsisdn } from '../core/words.ts';
import type { RegisteredDevice, Registry } from './registry.ts';

export interface Binding {
  readonly device: ExternalId;
  readonly inner: InnerAddress;
  readonly source: 'file' | 'management';
  readonly sinceMs: number;
}

/** A device loses an inner address, and why. */
export interface Loss {
  readonly device: ExternalId;
  readonly inner: InnerAddress;
  readonly cause: 'deviceUnbound' | 'addressReassigned';
}

/** What a change takes away and what it then gives. */
export interface Change {
  readonly losses: readonly Loss[];
  readonly gains: readonly Binding[];
}

/** Why a bind or unbind was not done, for the operator. */
export type DirectoryRefusal = {
  readonly refused: 'deviceUnknown' | 'addressBoundByFile' | 'deviceBoundByFile' | 'notBound';
  readonly why: string;
};

export class Directory {
  readonly #registry: Registry;
  readonly #byInner = new Map<string, Binding>();
  readonly #byDevice = new Map<ExternalId, Map<Family, Binding>>();
  /** Inner addresses between `begin` and `apply`. */
  readonly #changing = new Set<string>();

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  find(reference: DeviceReference): Device | undefined {
    if ('networkAccessIdentifier' in reference) {
      const id = parseExternalId(reference.networkAccessIdentifier);
      return id && this.#registry.byExternalId(id);
    }
    const msisdn = parseMsisdn(reference.phoneNumber);
    return msisdn && this.#registry.byMsisdn(msisdn);
  }

  /** The device that an operator means: by external identifier, MSISDN, or IMSI. Digits that are both are the MSISDN. */
  named(name: string): RegisteredDevice | undefined {
    const id = parseExternalId(name);
    if (id) return this.#registry.byExternalId(id);
    const [msisdn, imsi] = [parseMsisdn(name), parseImsi(name)];
    return (msisdn && this.#registry.byMsisdn(msisdn)) ?? (imsi && this.#registry.byImsi(imsi));
  }

  isKnown(device: ExternalId): boolean {
    return this.#registry.has(device);
  }

  /** Of a device that is not known: none. */
  readonly attributesOf = (device: ExternalId): Attributes => this.#registry.byExternalId(device)?.attributes ?? {};

  bindings(): Binding[] {
    return [...this.#byInner.values()];
  }

  /** All that a device holds. */
  bindingsOf(device: ExternalId): Binding[] {
    return [...(this.#byDevice.get(device)?.values() ?? [])];
  }

  /** What a device holds in a family; nothing while the address changes hands. */
  bindingOf(device: ExternalId, family: Family): Binding | undefined {
    const binding = this.#byDevice.get(device)?.get(family);
    if (binding && this.#changing.size > 0 && this.#changing.has(innerKey(binding.inner))) return undefined;
    return binding;
  }

  /** The families in which a device is bound. */
  familiesOf(device: ExternalId): Family[] {
    return (['ipv4', 'ipv6'] as const).filter((family) => this.bindingOf(device, family));
  }

  holderOf(inner: InnerAddress): Binding | undefined {
    return this.#byInner.get(innerKey(inner));
  }

  /** What binding an address to a device changes: its former holder and the device's former address lose. */
  planBind(binding: Binding): Change | DirectoryRefusal {
    if (!this.isKnown(binding.device)) {
      return { refused: 'deviceUnknown', why: `no device ${binding.device} is registered` };
    }
    const holder = this.holderOf(binding.inner);
    if (holder?.device === binding.device) return { losses: [], gains: [] };
    const former = this.#byDevice.get(binding.device)?.get(binding.inner.address.family);
    if (holder?.source === 'file')
      return { refused: 'addressBoundByFile', why: `the devices file binds it to ${holder.device}` };
    if (former?.source === 'file')
      return {
        refused: 'deviceBoundByFile',
        why: `the devices file binds ${former.device} to ${former.inner.address.text}`,
      };
    return {
      losses: [
        ...(holder ? [{ device: holder.device, inner: holder.inner, cause: 'addressReassigned' as const }] : []),
        ...(former ? [{ device: former.device, inner: former.inner, cause: 'deviceUnbound' as const }] : []),
      ],
      gains: [binding],
    };
  }

  planUnbind(inner: InnerAddress): Change | DirectoryRefusal {
    const holder = this.holderOf(inner);
    if (!holder) return { refused: 'notBound', why: `no device holds ${inner.address.text} in ${inner.realm}` };
    if (holder.source === 'file')
      return { refused: 'addressBoundByFile', why: `the devices file binds it to ${holder.device}` };
    return { losses: [{ device: holder.device, inner, cause: 'deviceUnbound' }], gains: [] };
  }

  /**
   * What a newly read devices file changes. The file wins over the management
   * socket; a binding by management stays where the file says nothing of its
   * device's family or its address, and its device is not among those `gone`.
   */
  planFile(gone: ReadonlySet<ExternalId>, wanted: readonly Binding[]): Change {
    const wantedAt = new Map(wanted.map((binding) => [innerKey(binding.inner), binding]));
    const wantedFor = new Set(wanted.map((binding) => `${binding.device} ${binding.inner.address.family}`));
    const losses: Loss[] = [];
    for (const held of this.#byInner.values()) {
      const next = wantedAt.get(innerKey(held.inner));
      if (next?.device === held.device) continue;
      if (next) losses.push({ device: held.device, inner: held.inner, cause: 'addressReassigned' });
      else if (
        held.source === 'file' ||
        gone.has(held.device) ||
        wantedFor.has(`${held.device} ${held.inner.address.family}`)
      ) {
        losses.push({ device: held.device, inner: held.inner, cause: 'deviceUnbound' });
      }
    }
    const gains = wanted.filter((binding) => {
      const held = this.holderOf(binding.inner);
      return held?.device !== binding.device || held.source !== 'file';
    });
    return { losses, gains };
  }

  /** What it changes that devices are registered no more. */
  planGone(gone: ReadonlySet<ExternalId>): Change {
    const held = [...gone].flatMap((device) => this.bindingsOf(device));
    return { losses: held.map(({ device, inner }) => ({ device, inner, cause: 'deviceUnbound' })), gains: [] };
  }

  /** From here on the addresses a plan touches are nobody's. */
  begin(change: Change): void {
    for (const { inner } of touched(change)) this.#changing.add(innerKey(inner));
  }

  /** Gives a plan up: everything stays as it was. */
  cancel(change: Change): void {
    for (const { inner } of touched(change)) this.#changing.delete(innerKey(inner));
  }

  /** Carries a plan out. */
  apply(change: Change): void {
    this.cancel(change);
    for (const { inner, device } of change.losses) {
      this.#byInner.delete(innerKey(inner));
      const own = this.#byDevice.get(device);
      own?.delete(inner.address.family);
      if (own?.size === 0) this.#byDevice.delete(device);
    }
    for (const binding of change.gains) {
      this.#byInner.set(innerKey(binding.inner), binding);
      const own = this.#byDevice.get(binding.device) ?? new Map<Family, Binding>();
      own.set(binding.inner.address.family, binding);
      this.#byDevice.set(binding.device, own);
    }
  }
}

/** Everything that a plan takes or gives. */
export function touched(change: Change): readonly { readonly inner: InnerAddress }[] {
  return [...change.losses, ...change.gains];
}
