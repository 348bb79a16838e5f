/**
 * Hours of a rule: from one time of the day to another, on some days, by the
 * clock of a zone. A window ends the day after where `to` is not later than
 * `from`, and belongs to the day on which it begins; windows that touch are
 * one.
 *
 * Where clocks are put back, a time that comes twice is its first; where they
 * are put forward, a time that is skipped is the moment of the change. So a
 * window is one stretch of time, and none where all of it is skipped.
 *
 * Pure but for one memory: of each Hours the last answer, since that holds
 * until the next opening or closing.
 */

export const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
export type Day = (typeof DAYS)[number];

export interface Hours {
  /** In minutes of the day; `to` at most 1440. */
  readonly from: number;
  readonly to: number;
  /** As the time zone database names it. */
  readonly zone: string;
  readonly days: readonly Day[];
}

/** Whether a time is within the hours, and until when that stays so. */
export interface Window {
  readonly inside: boolean;
  readonly untilMs: number;
}

/** What has no hours is within them. */
export const ALWAYS: Window = { inside: true, untilMs: Number.POSITIVE_INFINITY };

const MINUTE_MS = 60_000;
const DAY_MS = 1440 * MINUTE_MS;
export const ALL_DAY = 1440;

/** Of a window once a week that the clock skips, the next is in the week after. */
const LOOKED_AHEAD_DAYS = 16;

const remembered = new WeakMap<Hours, Window & { readonly sinceMs: number }>();

export function windowAt(hours: Hours, nowMs: number): Window {
  const last = remembered.get(hours);
  if (last && last.sinceMs <= nowMs && nowMs < last.untilMs) return last;
  const window = neverCloses(hours) ? ALWAYS : found(hours, nowMs);
  remembered.set(hours, { ...window, sinceMs: nowMs });
  return window;
}

/** The day of a zone that an instant is in: from when, and until when (UTC). */
export function dayAt(zone: string, nowMs: number): { readonly sinceMs: number; readonly untilMs: number } {
  const today = Math.floor(localMs(zone, nowMs) / DAY_MS);
  return { sinceMs: instant(zone, today * DAY_MS), untilMs: instant(zone, (today + 1) * DAY_MS) };
}

/** Every hour of every day. */
export function neverCloses({ from, to, days }: Hours): boolean {
  return from === 0 && to === ALL_DAY && days.length === DAYS.length;
}

function found(hours: Hours, nowMs: number): Window {
  const today = Math.floor(localMs(hours.zone, nowMs) / DAY_MS);
  let closesMs: number | undefined;
  for (let day = today - 1; day <= today + LOOKED_AHEAD_DAYS; day++) {
    if (!hours.days.includes(dayOf(day))) continue;
    const opens = instant(hours.zone, day * DAY_MS + hours.from * MINUTE_MS);
    const lastDay = hours.to > hours.from ? day : day + 1;
    const closes = instant(hours.zone, lastDay * DAY_MS + hours.to * MINUTE_MS);
    if (closes <= opens || closes <= nowMs) continue;
    if (opens > (closesMs ?? nowMs)) return { inside: closesMs !== undefined, untilMs: closesMs ?? opens };
    closesMs = closes;
  }
  return { inside: closesMs !== undefined, untilMs: closesMs ?? nowMs + LOOKED_AHEAD_DAYS * DAY_MS };
}

/** 1970-01-01 was a Thursday. */
function dayOf(day: number): Day {
  return DAYS[(((day + 3) % 7) + 7) % 7] as Day;
}

/** The moment at which the clocks of a zone show a time for the first time, or pass over it. */
function instant(zone: string, shownMs: number): number {
  const before = offset(zone, shownMs - DAY_MS);
  const after = offset(zone, shownMs + DAY_MS);
  const early = shownMs - Math.max(before, after);
  const late = shownMs - Math.min(before, after);
  if (early === late || localMs(zone, early) === shownMs) return early;
  if (localMs(zone, late) === shownMs) return late;
  // Skipped: between the two the offset changes.
  let [low, high] = [early, late];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (offset(zone, middle) === before) low = middle;
    else high = middle;
  }
  return high;
}

/** What the clocks of a zone show, as if they showed UTC. */
function localMs(zone: string, atMs: number): number {
  return atMs + offset(zone, atMs);
}

const formats = new Map<string, Intl.DateTimeFormat>();

function offset(zone: string, atMs: number): number {
  let format = formats.get(zone);
  if (!format) {
    format = new Intl.DateTimeFormat('en-US', {
      timeZone: zone,
      hourCycle: 'h23',
      ...{ year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' },
    });
    formats.set(zone, format);
  }
  const wholeMs = Math.floor(atMs / 1000) * 1000;
  const shown: Partial<Record<Intl.DateTimeFormatPartTypes, number>> = {};
  for (const { type, value } of format.formatToParts(wholeMs)) shown[type] = Number(value);
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = shown;
  return Date.UTC(year, month - 1, day, hour, minute, second) - wholeMs;
}

/** Minutes of the day from `06:00`; undefined where it is no time. */
export function parseTimeOfDay(text: string): number | undefined {
  const [, hour, minute] = /^([01]\d|2[0-3]):([0-5]\d)$/.exec(text) ?? [];
  return hour === undefined ? undefined : Number(hour) * 60 + Number(minute);
}

/** Zones that were asked for, since to look one up costs more than all else of a rule; misspelt ones are looked up anew. */
const zones = new Map<string, string>();

/** The zone's name as it is spelt, or undefined. */
export function parseZone(text: string): string | undefined {
  const known = zones.get(text);
  if (known !== undefined || !/^[A-Za-z][A-Za-z0-9_+/-]*$/.test(text)) return known;
  try {
    const { timeZone } = new Intl.DateTimeFormat('en-US', { timeZone: text }).resolvedOptions();
    zones.set(text, timeZone);
    return timeZone;
  } catch {
    return undefined;
  }
}

/** As an operator reads them: `06:00-22:00 Europe/Berlin, mon tue`. */
export function hoursText({ from, to, zone, days }: Hours): string {
  const some = days.length < DAYS.length ? `, ${days.join(' ')}` : '';
  return `${timeText(from)}-${timeText(to)} ${zone}${some}`;
}

/** A minute of the day as it is written: `06:00`. */
export function timeText(minutes: number): string {
  return `${String(Math.floor(minutes / 60)).padStart(2, '0')}:${String(minutes % 60).padStart(2, '0')}`;
}
