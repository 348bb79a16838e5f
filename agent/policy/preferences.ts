/**
 * What an MTC user wants of its devices, beside whom it authorises: nothing at
 * all, nothing at some hours, no more than so many grants a day. What it does
 * not want is unwanted, which is not the same as unauthorised (TR 23.888 5.3):
 * the server may ask, and the operator's rules allow it.
 *
 * A preference is for a device or a pattern of devices; of several that meet a
 * device each is heard, and none ever allows anything. They come from the desk
 * (desk/), never from rule files.
 */
import type { ExternalId, MtcUserName } from '../core/words.ts';
import { ALWAYS, hoursText, windowAt } from './hours.ts';
import { PatternIndex } from './pattern-index.ts';
import { matchesDevice } from './patterns.ts';
import type { Policy, Preference } from './policy.ts';

/** How many grants have begun on a device today, by the clock of a zone. */
export type BegunToday = (zone: string) => number;

/** What the preferences that meet a device say at an instant. */
export interface Wish {
  /** Why the owner does not want it now, as an operator reads it. */
  readonly unwanted?: string;
  /** From when on the owner wants it no more (UTC); Infinity: nothing is said of that. */
  readonly untilMs: number;
  /** How many preferences meet the device. */
  readonly heard: number;
}

const NO_WISH: Wish = { untilMs: Number.POSITIVE_INFINITY, heard: 0 };

/**
 * What the owner of a device wants of it now. Without `begunToday` the daily
 * count is not judged: it is for what begins, not for what is there. At
 * `anyTime` no hours are quiet.
 */
export function wishFor(
  policy: Policy,
  mtcUser: MtcUserName,
  device: ExternalId,
  nowMs: number | 'anyTime',
  begunToday?: BegunToday | undefined,
): Wish {
  const preferences = preferencesFor(policy, mtcUser, device);
  if (preferences.length === 0) return NO_WISH;
  let untilMs = Number.POSITIVE_INFINITY;
  let unwanted: string | undefined;
  for (const preference of preferences) {
    const { id, block, quietHours, grantsPerDay } = preference;
    const by = `(preference ${id} of ${mtcUser})`;
    if (block) unwanted ??= `the owner wants nothing to reach ${preference.devices.text} ${by}`;
    if (quietHours) {
      const { inside, untilMs: changesMs } = nowMs === 'anyTime' ? NOT_QUIET : windowAt(quietHours, nowMs);
      // What cannot last for a second is quiet already, as with the hours of rules.
      if (inside || (nowMs !== 'anyTime' && changesMs - nowMs < 1000))
        unwanted ??= `the owner's quiet hours are ${hoursText(quietHours)} ${by}`;
      else untilMs = Math.min(untilMs, changesMs);
    }
    if (grantsPerDay && begunToday) {
      const begun = begunToday(grantsPerDay.zone);
      if (begun >= grantsPerDay.grants)
        unwanted ??= `${begun} grants have begun on it today (${grantsPerDay.zone}), of the ${grantsPerDay.grants} that the owner wants ${by}`;
    }
  }
  return { untilMs, heard: preferences.length, ...(unwanted !== undefined && { unwanted }) };
}

/** Never quiet. */
const NOT_QUIET = { ...ALWAYS, inside: false };

/** The zones in whose days grants on a device are counted. */
export function zonesCounted(policy: Policy, mtcUser: MtcUserName, device: ExternalId): readonly string[] {
  const preferences = preferencesFor(policy, mtcUser, device);
  if (preferences.length === 0) return [];
  return [...new Set(preferences.flatMap(({ grantsPerDay }) => grantsPerDay?.zone ?? []))];
}

/** Of each list of preferences, where its patterns lie: of a thousand for one device each, one is looked at. */
const indices = new WeakMap<readonly Preference[], PatternIndex<Preference[]>>();

/** Those of an MTC user that meet a device, by id. */
function preferencesFor({ desk }: Policy, mtcUser: MtcUserName, device: ExternalId): readonly Preference[] {
  const preferences = desk?.preferences.get(mtcUser);
  if (!preferences) return [];
  let index = indices.get(preferences);
  if (!index) {
    index = new PatternIndex<Preference[]>(() => []);
    for (const preference of preferences) index.at(preference.devices).push(preference);
    indices.set(preferences, index);
  }
  const met = index.matching(device).flatMap((slot) => slot.filter(({ devices }) => matchesDevice(devices, device)));
  // By id, so that the one that is told does not hang on where it lies.
  return met.length > 1 ? met.sort((a, b) => (a.id < b.id ? -1 : 1)) : met;
}
