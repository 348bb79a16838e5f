/**
 * IMSI and MSISDN as they may be kept: not as they are, but as what stands for
 * them, a keyed hash. What the agent compares, looks up, writes down and logs
 * is the hash; the clear text stands beside it only where the operator wants
 * it kept (`identities.keep` of agent.yaml).
 *
 * Keyed, since there are few enough of both to try them all: of a plain hash
 * whoever finds a database computes every MSISDN of a country in minutes. A
 * hash names its key, so that one by another key is known for what it is, and
 * it is made of what it stands for, so that an IMSI and an MSISDN of the same
 * digits have nothing in common.
 *
 * Invariant: what has been hashed is told from digits by its first letters,
 * and to hash it again changes nothing. The outside names devices by digits
 * alone: a hash that it sends is no name (words.ts).
 */
import type { DeviceReference } from './words.ts';

/** A keyed digest of a text; at least 16 bytes. */
export type KeyedDigest = (text: string) => Uint8Array;

/** 96 to 132 bits would do for billions of devices; base64url of 128, and 24 bits that name the key. */
const HASH = /^hash:([0-9a-f]{6})\.[A-Za-z0-9_-]{22}$/;
const PREFIX = 'hash:';

export const FOREIGN_HASH =
  'a hash by the key of another gateway, or by one that this gateway had before: nobody is found by it';

/** An MSISDN as people write it; what stands for one as it is. */
export function msisdnText(msisdn: string): string {
  return isHashed(msisdn) ? msisdn : `+${msisdn}`;
}

/** So many numbers that servers have said are remembered, to be said again to them: some 30 MB. */
const REMEMBERED_MOST = 2 ** 18;

/** What a subscriber's two names are as they were told; only where they are kept. */
export interface ClearNames {
  readonly imsi?: string;
  readonly msisdn?: string;
}

/** Whether a text stands for an IMSI or MSISDN. */
export function isHashed(text: string): boolean {
  return HASH.test(text);
}

export class Identities {
  /** Whether the clear text may be kept beside the hash. */
  readonly keep: boolean;
  /** Names the key. */
  readonly keyId: string;
  readonly #digest: KeyedDigest;
  /** MSISDN by hash, in memory alone: the operator's devices file says them, or their servers have. The oldest goes first. */
  readonly #said = new Map<string, string>();

  constructor(digest: KeyedDigest, keep: boolean) {
    this.#digest = digest;
    this.keep = keep;
    this.keyId = Buffer.from(digest('key').subarray(0, 3)).toString('hex');
  }

  /** How a database that is written by now keeps them: another text, and it is to be rewritten. */
  get form(): string {
    return this.keep ? `clear ${this.keyId}` : `hashed ${this.keyId}`;
  }

  /** What stands for digits; of what is a hash already, itself. */
  hash<Name extends string>(kind: 'imsi' | 'msisdn', name: Name): Name {
    if (name.startsWith(PREFIX)) return name;
    const bytes = this.#digest(`${kind} ${name}`).subarray(0, 16);
    return `${PREFIX}${this.keyId}.${Buffer.from(bytes).toString('base64url')}` as Name;
  }

  /** Whether a text is a hash by another key: nobody can be found by it. */
  isForeign(text: string): boolean {
    const [, key] = HASH.exec(text) ?? [];
    return key !== undefined && key !== this.keyId;
  }

  /** A subscriber as a NAS told of it, by what stands for its names. */
  subscriber<Told extends { readonly imsi: string | undefined; readonly msisdn: string | undefined }>(
    told: Told,
  ): Told & { readonly clear?: ClearNames } {
    const { imsi, msisdn } = told;
    const clear = this.keep ? { clear: clearNames(imsi, msisdn) } : {};
    return { ...told, ...clear, imsi: imsi && this.hash('imsi', imsi), msisdn: msisdn && this.hash('msisdn', msisdn) };
  }

  /** A device's name as it may be kept. */
  kept(reference: DeviceReference): DeviceReference {
    if (this.keep || !('phoneNumber' in reference)) return reference;
    return { msisdnHash: this.#hashOf(reference.phoneNumber) };
  }

  /** A device's name for the log and the operator. */
  told(reference: DeviceReference): string {
    return Object.values(this.kept(reference)).join();
  }

  /** A device's name as an operator typed it, as the log and the lists have it. */
  toldAs(name: string): string {
    return /^\+?\d{5,15}$/.test(name) ? this.told({ phoneNumber: name }) : name;
  }

  /** The same text for the same device's name, whether they are kept or not: for comparing. */
  compared(reference: DeviceReference): DeviceReference {
    return 'phoneNumber' in reference ? { msisdnHash: this.#hashOf(reference.phoneNumber) } : reference;
  }

  /** Somebody who may say so says this number: it can be said again, until the agent stops. */
  remember(reference: DeviceReference): void {
    if (!('phoneNumber' in reference) || isHashed(reference.phoneNumber)) return;
    const hash = this.#hashOf(reference.phoneNumber);
    this.#said.delete(hash);
    this.#said.set(hash, reference.phoneNumber.replace('+', ''));
    for (const oldest of this.#said.keys()) {
      if (this.#said.size <= REMEMBERED_MOST) break;
      this.#said.delete(oldest);
    }
  }

  /** A device's name as its server wrote it; undefined where that is known no more. */
  shown(reference: DeviceReference): DeviceReference | undefined {
    if (!('msisdnHash' in reference)) return reference;
    const digits = this.#said.get(reference.msisdnHash);
    return digits === undefined ? undefined : { phoneNumber: `+${digits}` };
  }

  #hashOf(phoneNumber: string): string {
    return this.hash('msisdn', phoneNumber.replace('+', ''));
  }
}

function clearNames(imsi: string | undefined, msisdn: string | undefined): ClearNames {
  return {
    ...(imsi !== undefined && !isHashed(imsi) && { imsi }),
    ...(msisdn !== undefined && !isHashed(msisdn) && { msisdn }),
  };
}
