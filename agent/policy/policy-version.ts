/** What a policy's version is made of: the same for all that says the same. */

/** Hex digits of a version: enough that no two policies of one gateway share one. */
const VERSION_LENGTH = 16;

/** `digest`: SHA-256 of a text, in hex. */
export function versionOf(said: object, digest: (text: string) => string): string {
  return digest(canonical(said)).slice(0, VERSION_LENGTH);
}

/**
 * One text for one meaning: members by key, lists (all of them are sets) by
 * what is in them, prefixes and patterns by their text; where a rule stands
 * is no part of what it says. An attribute may be called `text` or `place`:
 * it has a list.
 */
function canonical(value: unknown): string {
  if (value instanceof Map) return canonical(Object.fromEntries(value));
  if (Array.isArray(value)) return `[${value.map(canonical).sort().join()}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if ('text' in value && typeof value.text === 'string') return JSON.stringify(value.text);
  const members = Object.entries(value).filter(([key, member]) => key !== 'place' || Array.isArray(member));
  return `{${members
    .map(([key, member]) => `${JSON.stringify(key)}:${canonical(member)}`)
    .sort()
    .join()}}`;
}
