/**
 * Patterns of the rule files: names (`acme-*`) and devices
 * (`*@*.meters.acme.example`).
 *
 * A name pattern is text in which `*` stands for any run of characters, none
 * included. A device pattern is a name pattern for the local part, an `@`,
 * and a domain: a whole one, `*.` before one (one or more labels in its
 * place), or `*` alone (any domain).
 *
 * Two tenants must never own one device, so overlap has to be exact: two
 * patterns overlap if and only if some identifier matches both. Both
 * questions, "matches" and "overlaps", are the same walk over two texts,
 * of which one or both have gaps; there is no backtracking, so that no
 * pattern is slow (each costs at most the product of the two lengths).
 */

/** What stands for any run of characters. */
const GAP = '*';

export interface NamePattern {
  readonly text: string;
}

export interface DevicePattern {
  readonly text: string;
  readonly local: NamePattern;
  /** Without the leading `*.`; empty where any domain matches. */
  readonly domain: string;
  /** Whether labels must, and may, stand before `domain`. */
  readonly subdomains: boolean;
  /** What every identifier that matches ends in: the quick look, before anything is compared. */
  readonly ending: string;
}

const NAME_PATTERN = /^[a-z0-9*][a-z0-9.*-]{0,62}$/;
const LOCAL_PATTERN = /^[\x21-\x3f\x41-\x7e]{1,64}$/;
const DOMAIN = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;

export function parseNamePattern(text: string): NamePattern | undefined {
  return NAME_PATTERN.test(text) ? { text } : undefined;
}

/** The pattern that matches one name, since names have no star. */
export function exactly(name: string): NamePattern {
  return { text: name };
}

export function parseDevicePattern(text: string): DevicePattern | undefined {
  const at = text.indexOf('@');
  const local = text.slice(0, Math.max(at, 0));
  const domain = text.slice(at + 1).toLowerCase();
  if (!LOCAL_PATTERN.test(local) || domain.length > 253) return undefined;
  const subdomains = domain === '*' || domain.startsWith('*.');
  const base = subdomains ? domain.slice(2) : domain;
  if (domain !== '*' && !DOMAIN.test(base)) return undefined;
  const ending = subdomains ? base && `.${base}` : `@${base}`;
  return {
    text: `${local}@${domain}`,
    local: { text: local },
    domain: base,
    subdomains,
    ending,
  };
}

export function matchesName({ text }: NamePattern, name: string): boolean {
  if (text === GAP) return true;
  const fixed = fixedStart(text);
  if (fixed === text) return text === name;
  return name.startsWith(fixed) && meet(text, name, false);
}

/** What a text must begin with to match; all of it where there is no gap. */
export function fixedStart(pattern: string): string {
  const gap = pattern.indexOf(GAP);
  return gap < 0 ? pattern : pattern.slice(0, gap);
}

/** Whether an external identifier (its domain in lower case) matches. */
export function matchesDevice({ local, ending }: DevicePattern, externalId: string): boolean {
  return externalId.endsWith(ending) && matchesName(local, externalId.slice(0, externalId.indexOf('@')));
}

/**
 * Whether every external identifier that one pattern matches is matched by the
 * other. A star within the first is a letter like others, which only a star
 * stands for: names may have more letters than any pattern spells out.
 */
export function encloses(outer: DevicePattern, inner: DevicePattern): boolean {
  return domainEncloses(outer, inner) && matchesName(outer.local, inner.local.text);
}

function domainEncloses(outer: DevicePattern, inner: DevicePattern): boolean {
  if (!outer.subdomains) return !inner.subdomains && outer.domain === inner.domain;
  return (inner.subdomains && inner.domain === outer.domain) || isBelow(inner.domain, outer.domain);
}

/** Whether some external identifier matches both. */
export function devicesOverlap(a: DevicePattern, b: DevicePattern): boolean {
  return domainsOverlap(a, b) && meet(a.local.text, b.local.text, true);
}

function domainsOverlap(a: DevicePattern, b: DevicePattern): boolean {
  if (!a.subdomains && !b.subdomains) return a.domain === b.domain;
  if (!a.subdomains) return isBelow(a.domain, b.domain);
  if (!b.subdomains) return isBelow(b.domain, a.domain);
  return a.domain === b.domain || isBelow(a.domain, b.domain) || isBelow(b.domain, a.domain);
}

/** Whether `domain` is `base` with labels before it; every domain is below the empty one. */
function isBelow(domain: string, base: string): boolean {
  return base === '' || domain.endsWith(`.${base}`);
}

/**
 * Whether two texts, with the gaps of `a` and (unless its stars are only
 * stars) of `b`, have a text in common. `open[j]` says whether what is left
 * of `a` from `i`, and of `b` from `j`, can still meet; filled from the back,
 * one row for each character of `a`.
 */
function meet(a: string, b: string, hasGaps: boolean): boolean {
  const isGap = (j: number) => hasGaps && b[j] === GAP;
  let open = new Array<boolean>(b.length + 1).fill(false);
  open[b.length] = true;
  for (let j = b.length - 1; j >= 0 && isGap(j); j--) open[j] = true;
  for (let i = a.length - 1; i >= 0; i--) {
    const next = open;
    open = new Array<boolean>(b.length + 1).fill(false);
    open[b.length] = a[i] === GAP && next[b.length] === true;
    for (let j = b.length - 1; j >= 0; j--) {
      if (a[i] === GAP) open[j] = next[j] === true || open[j + 1] === true;
      else if (isGap(j)) open[j] = open[j + 1] === true || next[j] === true;
      else open[j] = a[i] === b[j] && next[j + 1] === true;
    }
  }
  return open[0] === true;
}
