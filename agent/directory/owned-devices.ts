/**
 * The registered devices that match some patterns, a page at a time, without a
 * look at all that there are: domain by domain, and in each from the letters on
 * that the patterns fix. Where patterns fix little (`*7@acme.example`) a page
 * looks at so many devices and no more, and may be short, or empty.
 */
import type { ExternalId } from '../core/words.ts';

/** A pattern of devices, as far as it matters here. */
export interface Pattern {
  /** Letters that the local part begins with, all of it where `isWhole`. */
  readonly start: string;
  readonly domain: string;
  /** Labels must stand before the domain; where it is empty, any will do. */
  readonly subdomains: boolean;
  readonly matches: (externalId: string) => boolean;
}

/** What of the registry is read: each answer is one search of an index. */
export interface DomainIndex {
  /** The first domain behind this one that has a device. */
  domainAfter(domain: string): string | undefined;
  /** Devices of a domain, by their names: from one on (`from`), or behind one (`after`), of those that begin so. */
  ofDomain(domain: string, start: string, after: string, limit: number): readonly ExternalId[];
}

/** Where a page ends: at the last device that was looked at, whoever's it is. Never to be told as it is. */
export interface Place {
  readonly domain: string;
  /** The last that was looked at; empty: none of this domain. */
  readonly device: string;
}

export interface DevicesPage {
  readonly devices: readonly ExternalId[];
  /** Where it ended; absent where no more follow. */
  readonly last?: Place;
}

/** So many devices and domains are looked at for one page. */
const LOOKED_MOST = 10_000;
const CHUNK = 512;

export function devicesMatching(
  patterns: readonly Pattern[],
  index: DomainIndex,
  limit: number,
  from?: Place,
): DevicesPage {
  const devices: ExternalId[] = [];
  let looked = 0;
  let after = from?.device ?? '';
  let domain = from?.domain ?? nextDomain(patterns, index, '');
  while (domain !== undefined) {
    const here = patterns.filter((pattern) => holdsDomain(pattern, domain as string));
    const [only] = here;
    const start = here.length === 1 && only ? only.start : '';
    for (let isOver = here.length === 0; !isOver; ) {
      const found = index.ofDomain(domain, start, after, Math.min(CHUNK, LOOKED_MOST));
      for (const device of found) {
        looked += 1;
        after = device;
        if (here.some(({ matches }) => matches(device))) devices.push(device);
        if (devices.length === limit || looked >= LOOKED_MOST) return { devices, last: { domain, device: after } };
      }
      isOver = found.length < CHUNK;
    }
    looked += 1;
    after = '';
    const next = nextDomain(patterns, index, domain);
    if (next !== undefined && looked >= LOOKED_MOST) return { devices, last: { domain: next, device: '' } };
    domain = next;
  }
  return { devices };
}

/** The next domain in which a device may match. */
function nextDomain(patterns: readonly Pattern[], index: DomainIndex, behind: string): string | undefined {
  const named = patterns.filter(({ domain, subdomains }) => !subdomains && domain > behind).map(({ domain }) => domain);
  const open = patterns.some(({ subdomains }) => subdomains) ? index.domainAfter(behind) : undefined;
  return [...named, ...(open === undefined ? [] : [open])].sort()[0];
}

function holdsDomain({ domain: own, subdomains }: Pattern, domain: string): boolean {
  return subdomains ? own === '' || domain.endsWith(`.${own}`) : own === domain;
}
