/**
 * Whose address that is: which server's or MTC user's requests come from it,
 * by the policy in force. Asked for every connection before anything is known of it, so its
 * cost is a few look-ups, however many servers there are.
 *
 * It proves nothing: it says out of whose share a connection is paid. Who asks
 * is settled by the certificate (identity.ts).
 */
import { type Address, mappedLength, type Prefix } from '../core/net.ts';

/** Where the requests of each server and MTC user come from, by its party; none: from anywhere, as strangers do. Another policy is another object. */
export type PartySources = ReadonlyMap<string, { readonly apiSources: readonly Prefix[] }>;

export class Sources {
  /** Of each length in bits, the longest first: whose prefix begins with these digits. */
  readonly #byLength: readonly (readonly [length: number, parties: ReadonlyMap<string, string>])[];
  /** How many different answers there are. */
  readonly parties: number;

  constructor(sources: PartySources) {
    const byLength = new Map<number, Map<string, string>>();
    for (const [party, { apiSources }] of sources)
      for (const source of apiSources) {
        const length = mappedLength(source);
        const parties = byLength.get(length) ?? new Map<string, string>();
        byLength.set(length, parties);
        const digits = leading(digitsOf(source.address), length);
        // Those behind one address cannot be told apart yet: they share.
        const others = parties.get(digits);
        parties.set(digits, others === undefined ? party : `${others} ${party}`);
      }
    this.#byLength = [...byLength].sort(([a], [b]) => b - a);
    this.parties = new Set(this.#byLength.flatMap(([, parties]) => [...parties.values()])).size;
  }

  /** The party, by the longest prefix that holds the address; undefined of a stranger. */
  partyAt(address: Address): string | undefined {
    const digits = digitsOf(address);
    for (const [length, parties] of this.#byLength) {
      const party = parties.get(leading(digits, length));
      if (party !== undefined) return party;
    }
    return undefined;
  }
}

/** One text for the addresses that a stranger can easily have all of: IPv4 the address, IPv6 its /64. */
export function neighbourhoodOf(address: Address): string {
  return leading(digitsOf(address), address.family === 'ipv4' ? 128 : 64);
}

function digitsOf({ bytes }: Address): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}

/** The first bits, as a text: whole hexadecimal digits, and what is left of the next. */
function leading(digits: string, bits: number): string {
  const whole = digits.slice(0, bits >> 2);
  const rest = bits & 3;
  return rest === 0 ? whole : `${whole}.${Number.parseInt(digits.charAt(bits >> 2), 16) >> (4 - rest)}`;
}
