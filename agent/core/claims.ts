/**
 * What may stand only once: names, identifiers, interfaces, keys. Each thing
 * written makes a claim; whoever comes second is an issue that names the
 * place of the first.
 */
import type { Issue, Place } from './document.ts';

export interface Claim {
  /** Equal for what clashes. */
  readonly key: string;
  /** As the issue calls it: `MSISDN 491715550100`. */
  readonly what: string;
  /** Looked up only where there is an issue. */
  readonly place: () => Place;
}

export function clashesAmong(claims: Iterable<Claim>): Issue[] {
  const first = new Map<string, Claim>();
  const issues: Issue[] = [];
  for (const claim of claims) {
    const before = first.get(claim.key);
    if (!before) {
      first.set(claim.key, claim);
      continue;
    }
    const place = claim.place();
    issues.push({
      ...place,
      message: `duplicate ${claim.what}; it stands in ${seenFrom(place, before.place())} already`,
    });
  }
  return issues;
}

/** A place as an issue at another one names it. */
export function seenFrom(here: Place, there: Place): string {
  return here.file === there.file ? `line ${there.line}` : `${there.file}:${there.line}`;
}
