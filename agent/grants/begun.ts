/**
 * How many grants have begun on a device today, for owners who want no more
 * than so many. Counted only where a preference asks for it, in the days of its
 * zone: a number for each such device that was granted today, and no more. A
 * device that the rule files give to another MTC user begins its day anew there:
 * what was done with it before is not the new owner's to know.
 *
 * Invariant: what begins is counted in the turn in which it was decided, so
 * that two requests cannot both be the last. What began before somebody asked,
 * or before a restart, is counted from the records (`recount`), before it is
 * asked for. A clock that is put back begins no day anew.
 */
import type { Clock } from '../core/ports.ts';
import { slicesOf } from '../core/slices.ts';
import type { ExternalId, GrantId, MtcUserName } from '../core/words.ts';
import { dayAt } from '../policy/hours.ts';
import type { Policy } from '../policy/policy.ts';
import { zonesCounted } from '../policy/preferences.ts';
import type { GrantRecord } from './record.ts';

type Begun = Pick<GrantRecord, 'id' | 'mtcUser' | 'device'>;

interface Day {
  readonly sinceMs: number;
  readonly untilMs: number;
  readonly counts: Counts;
}

/** By `keyOf`. */
type Counts = Map<string, number>;

/** A count from the records that is under way, and what has begun since it began. */
interface Recount {
  readonly policy: Policy;
  readonly mtcUser: MtcUserName | undefined;
  readonly since: Map<GrantId, Begun>;
}

export class BegunToday {
  readonly #clock: Pick<Clock, 'nowMs'>;
  /** By zone. */
  readonly #days = new Map<string, Day>();
  readonly #recounts = new Set<Recount>();

  constructor(clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
  }

  /** Of which `recount` or `add` knows. */
  of(mtcUser: MtcUserName | undefined, device: ExternalId, zone: string): number {
    return mtcUser === undefined ? 0 : (this.#day(zone).counts.get(keyOf({ mtcUser, device })) ?? 0);
  }

  /** A grant begins. What is returned takes that back: it never did. */
  add(begun: Begun, policy: Policy): () => void {
    const { id, mtcUser, device } = begun;
    for (const { since } of this.#recounts) since.set(id, begun);
    const days = zonesCounted(policy, mtcUser, device).map((zone) => this.#day(zone));
    for (const { counts } of days) increase(counts, begun, 1);
    return () => {
      for (const { since } of this.#recounts) since.delete(id);
      for (const { counts } of days) increase(counts, begun, -1);
    };
  }

  /**
   * Counts what has begun today on the devices whose owner wants that by a
   * policy: of one MTC user or of all. `past`: the records of what began since
   * a time; `opening`: what begins just now, and may be on record or not.
   */
  async recount(
    policy: Policy,
    mtcUser: MtcUserName | undefined,
    past: (sinceMs: number) => Iterable<GrantRecord>,
    opening: Iterable<Begun>,
  ): Promise<void> {
    const zones = zonesOf(policy, mtcUser);
    if (zones.length === 0) return;
    const recount: Recount = { policy, mtcUser, since: new Map() };
    for (const one of opening) recount.since.set(one.id, one);
    this.#recounts.add(recount);
    try {
      const days = new Map(zones.map((zone) => [zone, this.#day(zone)]));
      const found = new Map(zones.map((zone) => [zone, new Map() as Counts]));
      const count = (begun: Begun & Partial<Pick<GrantRecord, 'startedAtMs'>>) => {
        if (mtcUser !== undefined && begun.mtcUser !== mtcUser) return;
        for (const zone of zonesCounted(policy, begun.mtcUser, begun.device)) {
          const { sinceMs = 0 } = days.get(zone) ?? {};
          const counts = found.get(zone);
          if (counts && (begun.startedAtMs ?? sinceMs) >= sinceMs) increase(counts, begun, 1);
        }
      };
      const firstMs = Math.min(...[...days.values()].map(({ sinceMs }) => sinceMs));
      for await (const records of slicesOf(past(firstMs))) {
        for (const record of records) if (hasBegun(record) && !recount.since.has(record.id)) count(record);
      }
      for (const begun of recount.since.values()) count(begun);
      for (const [zone, counts] of found) {
        const day = this.#day(zone);
        if (day !== days.get(zone)) continue; // another day has come meanwhile: it began with nothing
        for (const [key, begun] of counts) day.counts.set(key, begun);
      }
    } finally {
      this.#recounts.delete(recount);
    }
  }

  #day(zone: string): Day {
    const nowMs = this.#clock.nowMs();
    const known = this.#days.get(zone);
    if (known && nowMs < known.untilMs) return known;
    const day = { ...dayAt(zone, nowMs), counts: new Map() as Counts };
    this.#days.set(zone, day);
    return day;
  }
}

/** The zones that the preferences of one MTC user, or of all, name. */
function zonesOf({ desk }: Policy, mtcUser: MtcUserName | undefined): string[] {
  const lists = [...(desk?.preferences ?? [])].filter(([user]) => mtcUser === undefined || user === mtcUser);
  return [...new Set(lists.flatMap(([, list]) => list.flatMap(({ grantsPerDay }) => grantsPerDay?.zone ?? [])))];
}

/** One that was on record and never opened ended as it began. */
function hasBegun({ state, startedAtMs, expiresAtMs }: GrantRecord): boolean {
  return state === 'live' || expiresAtMs > startedAtMs;
}

function increase(counts: Counts, begun: Pick<Begun, 'mtcUser' | 'device'>, by: 1 | -1): void {
  const key = keyOf(begun);
  const count = (counts.get(key) ?? 0) + by;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

function keyOf({ mtcUser, device }: Pick<Begun, 'mtcUser' | 'device'>): string {
  return `${mtcUser} ${device}`;
}
