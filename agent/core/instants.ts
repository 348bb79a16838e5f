/**
 * Times as people and programs write them (RFC 3339), read strictly. What
 * JavaScript reads rolls over: 31 November is 1 December to it, and 24:00 the
 * next day. Whoever asks who had an address then, or says when a rule is to be
 * tried, must not be answered for another day than the one named.
 */

const INSTANT = /^(\d{4})-(\d{2})-(\d{2})T(\d{2}):\d{2}(:\d{2}(\.\d{1,3})?)?(Z|[+-]\d{2}:\d{2})$/;

/** The time in milliseconds since 1970; undefined where the text is none, or names a day or an hour that does not exist. */
export function parseInstant(text: string): number | undefined {
  const [, year, month, day, hour] = INSTANT.exec(text)?.map(Number) ?? [];
  if (year === undefined || month === undefined || day === undefined || hour === undefined) return undefined;
  const ms = Date.parse(text); // NaN where minutes, seconds or the zone are beyond theirs
  const isThere = day >= 1 && day <= daysOf(year, month) && hour <= 23;
  return isThere && !Number.isNaN(ms) ? ms : undefined;
}

/** Day 0 of the next month is the last of this one. A year of two digits would be one of 1900 to JavaScript; 2000 more, it has the same days. */
function daysOf(year: number, month: number): number {
  return new Date(Date.UTC(2000 + (year % 400), month, 0)).getUTCDate();
}
