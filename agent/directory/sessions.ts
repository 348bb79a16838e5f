/**
 * Accounting sessions, and what follows for bindings from what a NAS says of
 * them (RFC 2866; TS 29.061 clause 16). Inner addresses are reused within
 * minutes, and RADIUS runs over UDP: events come late, twice, in another order,
 * or never; and whoever forges one would steal an address with all its grants.
 *
 * The rules:
 * - A session is named by its NAS and its Acct-Session-Id. A binding lives
 *   while one session holds it (bearers of one PDN connection share an
 *   address), or until 3GPP-Session-Stop-Indicator, Accounting-On or -Off end all.
 * - A session that was stopped never holds anything again, for 24 hours: not by
 *   a Start that was overtaken by its Stop, nor by a repeated one.
 * - A Start takes an address from another holder, who is gone without a Stop:
 *   his sessions on it end, and so does a late Stop of one. An Interim-Update
 *   takes nothing from anybody; where nobody holds the address it binds, since
 *   then the Start was lost.
 * - What is older than what was heard of the same session changes nothing; nor
 *   does a Start that is older than what was heard of the holder it would take from.
 * - Nothing is bound outside the pools of the client that speaks, nor what the
 *   devices file or an operator bound to another.
 *
 * Pure: `plan` says what an event changes, and changes nothing; `apply` is for
 * when that is done. The clock is the caller's, in UTC ms.
 */
import { encloses } from '../core/net.ts';
import type { ExternalId } from '../core/words.ts';
import type { AccountingEvent, Nas, NasEvent, SessionEvent } from './accounting.ts';
import {
  type Binding,
  type Change,
  deviceOf,
  type Holder,
  type Loss,
  NO_CHANGE,
  type Range,
  rangeKey,
} from './binding.ts';
import { addressIn, type ClaimedRange, claimedRanges, type Places } from './claimed-ranges.ts';
import type { Finding } from './findings.ts';
import {
  hasIdentity,
  isSameSubscriber,
  joined,
  nasKey,
  type Subscriber,
  sessionKey,
  subscriberText,
  unregistered,
} from './subscriber.ts';

export interface Session {
  readonly nas: Nas;
  readonly id: string;
  readonly subscriber: Subscriber;
  readonly holder: Holder;
  /** What it holds, alone or with others. */
  readonly ranges: readonly ClaimedRange[];
  /** When its last event was, by the clock of the NAS where it tells (UTC ms). */
  readonly lastAtMs: number;
  /** When it was heard of last, by ours. */
  readonly heardMs: number;
}

export interface Plan {
  readonly finding: Finding;
  /** What was seen, for the log; only where that is more than the finding says. */
  readonly why?: string;
  readonly change: Change;
  /** Sessions as they are from then on. */
  readonly put: readonly Session[];
  /** Sessions that are over; `stopped`: they never hold anything again. */
  readonly over: readonly { readonly nas: Nas; readonly id: string; readonly stopped: boolean }[];
  /** The NAS began anew: what is older says nothing. */
  readonly restarted?: { readonly nas: Nas; readonly atMs: number };
}

/** What is known beside the sessions. */
export interface Surroundings extends Places {
  /** Bindings that share an address with a range. */
  overlapping(range: Range): readonly Binding[];
  /** The registered device that a subscriber is. Names of one that lead to two devices contradict each other. */
  deviceOf(subscriber: Subscriber): ExternalId | 'contradiction' | undefined;
  /** The registry's interface identifier of a device. */
  interfaceIdOf(device: ExternalId): bigint | undefined;
}

/** How long a stopped session is remembered. */
export const STOPPED_KEPT_MS = 24 * 3_600_000;
/** A NAS whose clock is further ahead than this is not believed. */
const AHEAD_MOST_MS = 300_000;

export class Sessions {
  readonly #live = new Map<string, Session>();
  /** The keys of the sessions on a range. */
  readonly #onRange = new Map<string, Set<string>>();
  /** When each stopped, by our clock; the oldest first. */
  readonly #stopped = new Map<string, number>();
  readonly #restarted = new Map<string, number>();

  get size(): number {
    return this.#live.size;
  }

  /** Of a range, or all. */
  *all(range?: Range): Generator<Session> {
    const keys = range ? (this.#onRange.get(rangeKey(range)) ?? []) : this.#live.keys();
    for (const key of keys) {
      const session = this.#live.get(key);
      if (session) yield session;
    }
  }

  plan(event: AccountingEvent, nowMs: number, around: Surroundings): Plan {
    if (isOfNas(event)) return this.#planRestart(event, nowMs, around);
    const atMs = timeOf(event, nowMs);
    const key = sessionKey(event.nas, event.session);
    if (atMs < (this.#restarted.get(nasKey(event.nas)) ?? 0)) return nothing('older');
    const stopped = this.#stopped.get(key);
    if (stopped !== undefined && nowMs - stopped < STOPPED_KEPT_MS)
      return nothing(event.kind === 'stop' ? 'duplicate' : 'sessionStopped');
    const known = this.#live.get(key);
    if (known && atMs < known.lastAtMs) return nothing('older');
    const isReused = known !== undefined && !isSameSubscriber(known.subscriber, event.subscriber);
    if (isReused && event.kind !== 'start')
      return nothing(
        'identityChanged',
        `${subscriberText(known.subscriber)} is ${subscriberText(event.subscriber)} now`,
      );
    return event.kind === 'stop'
      ? this.#planStop(event, known, around)
      : this.#planHold(event, { known, isReused, atMs, nowMs }, around);
  }

  /** What ends because nothing has been heard of a session for too long. A later Interim-Update brings it back. */
  planStale(heardBeforeMs: number, around: Surroundings): Plan | undefined {
    const stale = [...this.#live.values()].filter(({ heardMs }) => heardMs < heardBeforeMs);
    return stale.length === 0 ? undefined : this.#ending(stale, false, around);
  }

  /** What a change of the registry makes of the bindings: each has the holder that its subscriber is now. */
  planReowned(around: Surroundings): Plan | undefined {
    const changed = [...this.#live.values()].flatMap((session) => {
      const holder = holderOf(session, around);
      return holder === session.holder ? [] : { ...session, holder };
    });
    if (changed.length === 0) return undefined;
    const losses = new Map<string, Loss>();
    const gains = new Map<string, Binding>();
    for (const { holder, ranges } of changed) {
      for (const range of ranges) {
        for (const binding of around.overlapping(range)) {
          if (binding.source !== 'accounting' || binding.holder === holder) continue;
          losses.set(rangeKey(binding), { binding, cause: 'deviceUnbound' });
          gains.set(rangeKey(binding), bindingOf(range, holder, binding.sinceMs, around));
        }
      }
    }
    const change = { losses: [...losses.values()], gains: [...gains.values()] };
    return { finding: 'applied', change, put: changed, over: [] };
  }

  /** Takes a plan over that was carried out. */
  apply({ put, over, restarted }: Pick<Plan, 'put' | 'over' | 'restarted'>, nowMs: number): void {
    for (const { nas, id, stopped } of over) {
      const key = sessionKey(nas, id);
      this.#remove(key);
      this.#stopped.delete(key);
      if (stopped) this.#stopped.set(key, nowMs);
    }
    for (const session of put) {
      const key = sessionKey(session.nas, session.id);
      this.#remove(key);
      this.#live.set(key, session);
      for (const range of session.ranges) {
        const on = this.#onRange.get(rangeKey(range)) ?? new Set();
        this.#onRange.set(rangeKey(range), on.add(key));
      }
    }
    if (restarted) this.#restarted.set(nasKey(restarted.nas), restarted.atMs);
    for (const [key, atMs] of this.#stopped) {
      if (nowMs - atMs < STOPPED_KEPT_MS) break;
      this.#stopped.delete(key);
    }
  }

  /** A session that stopped before a restart. To be told in the order in which they did. */
  rememberStopped(nas: Nas, id: string, atMs: number): void {
    this.#stopped.set(sessionKey(nas, id), atMs);
  }

  #planRestart({ nas, ...event }: NasEvent, nowMs: number, around: Surroundings): Plan {
    const atMs = timeOf(event, nowMs);
    const key = nasKey(nas);
    if (atMs < (this.#restarted.get(key) ?? 0)) return nothing('older');
    const own = [...this.#live.values()].filter((one) => one.lastAtMs <= atMs && nasKey(one.nas) === key);
    return { ...this.#ending(own, false, around), restarted: { nas, atMs } };
  }

  #planStop({ nas, session: id, stopsAll }: SessionEvent, known: Session | undefined, around: Surroundings): Plan {
    // Remembered all the same: its Start may be on the way yet.
    if (!known) return { ...nothing('sessionUnknown'), over: [{ nas, id, stopped: true }] };
    const together = stopsAll ? known.ranges.flatMap((range) => [...this.all(range)]) : [];
    return this.#ending([...new Set([known, ...together])], true, around);
  }

  #planHold(
    event: SessionEvent,
    {
      known: before,
      isReused,
      atMs,
      nowMs,
    }: {
      readonly known: Session | undefined;
      readonly isReused: boolean;
      readonly atMs: number;
      readonly nowMs: number;
    },
    around: Surroundings,
  ): Plan {
    const { nas, session: id } = event;
    const known = isReused ? undefined : before;
    const subscriber = known ? joined(known.subscriber, event.subscriber) : event.subscriber;
    const holder = holderOf({ nas, id, subscriber }, around);
    const claimed = claimedRanges(event, around);
    if ('finding' in claimed) return nothing(claimed.finding, claimed.why);

    const losses = new Map<string, Loss>();
    const gains: Binding[] = [];
    const ended = new Set<Session>(isReused && before ? [before] : []);
    /** Others of the same subscriber, whose binding becomes this one. */
    const moved = new Map<string, Session>();
    const ranges = new Map((known?.ranges ?? []).map((range) => [rangeKey(range), range]));
    for (const claim of claimed) {
      const there = around.overlapping(claim);
      const own = there.find((binding) => binding.holder === holder && holds(binding, claim));
      // An address in a prefix that is held already is where grants lead in it.
      const range = own ? { ...claim, realm: own.realm, prefix: own.prefix } : claim;
      ranges.set(rangeKey(range), range);
      for (const binding of there) {
        if (binding === own) continue;
        const isOther = binding.holder !== holder && !this.#isOf(binding, subscriber);
        const objection = this.#objectionTo(event, binding, { atMs, isOther });
        if (objection) return objection;
        losses.set(rangeKey(binding), { binding, cause: isOther ? 'addressReassigned' : 'deviceUnbound' });
        for (const session of this.all(binding)) {
          if (isOther) ended.add(session);
          else {
            const key = sessionKey(session.nas, session.id);
            moved.set(key, movedTo(moved.get(key) ?? session, holder, binding, range));
          }
        }
        if (!isSame(binding, range)) ranges.delete(rangeKey(binding));
      }
      const binding = bindingOf(range, holder, nowMs, around);
      const isAsItWas =
        own && (own.source !== 'accounting' || !binding.target || own.target?.text === binding.target.text);
      if (isAsItWas) continue;
      if (own) losses.set(rangeKey(own), { binding: own, cause: 'deviceUnbound' });
      gains.push(binding);
    }
    // Whoever lost one address to another subscriber has gone with all that his sessions held.
    const left = this.#ending([...ended], true, around);
    for (const loss of left.change.losses)
      if (!losses.has(rangeKey(loss.binding))) losses.set(rangeKey(loss.binding), loss);
    const taken = [...losses.values()].find(({ cause }) => cause === 'addressReassigned');
    const why = taken
      ? `${taken.binding.prefix.text} was held by ${taken.binding.holder}`
      : isReused && before && `session ${id} was of ${before.holder}`;
    const isNews = !known || gains.length > 0 || ranges.size > known.ranges.length;
    const isContradiction = isNews && around.deviceOf(subscriber) === 'contradiction';
    const told = event.kind === 'start' && !isNews ? 'duplicate' : 'applied';
    const plain = isContradiction ? 'identityContradiction' : told;
    return {
      finding: taken ? 'addressTaken' : isReused ? 'sessionReused' : plain,
      ...(why && { why }),
      change: { losses: [...losses.values()], gains },
      put: [
        ...moved.values(),
        { nas, id, subscriber, holder, ranges: [...ranges.values()], lastAtMs: atMs, heardMs: nowMs },
      ],
      over: left.over.filter((one) => sessionKey(one.nas, one.id) !== sessionKey(nas, id)),
    };
  }

  /** Why an event does not take a binding; undefined where it does. */
  #objectionTo(
    { kind }: SessionEvent,
    binding: Binding,
    { atMs, isOther }: { readonly atMs: number; readonly isOther: boolean },
  ): Plan | undefined {
    const why = `${binding.prefix.text} is held by ${binding.holder}`;
    if (binding.source !== 'accounting') return nothing('boundOtherwise', `${why} (${binding.source})`);
    if (!isOther) return undefined;
    if (kind === 'interim') return nothing('interimOfOthers', why);
    const lastAtMs = Math.max(...[...this.all(binding)].map((session) => session.lastAtMs));
    return atMs < lastAtMs ? nothing('older', why) : undefined;
  }

  /** Whether a binding is a subscriber's, by the sessions on it: his name in the registry may be new. */
  #isOf(binding: Binding, subscriber: Subscriber): boolean {
    const [session] = this.all(binding);
    return session !== undefined && hasIdentity(subscriber) && isSameSubscriber(session.subscriber, subscriber);
  }

  #ending(sessions: readonly Session[], stopped: boolean, around: Surroundings): Plan {
    const keys = new Set(sessions.map(({ nas, id }) => sessionKey(nas, id)));
    const losses = new Map<string, Loss>();
    for (const range of sessions.flatMap(({ ranges }) => ranges)) {
      const others = [...(this.#onRange.get(rangeKey(range)) ?? [])].some((key) => !keys.has(key));
      if (others) continue;
      const binding = around.overlapping(range).find((one) => isSame(one, range));
      if (binding?.source === 'accounting') losses.set(rangeKey(range), { binding, cause: 'deviceUnbound' });
    }
    const over = sessions.map(({ nas, id }) => ({ nas, id, stopped }));
    return { finding: 'applied', change: { losses: [...losses.values()], gains: [] }, put: [], over };
  }

  #remove(key: string): void {
    const session = this.#live.get(key);
    if (!session) return;
    this.#live.delete(key);
    for (const range of session.ranges) {
      const on = this.#onRange.get(rangeKey(range));
      on?.delete(key);
      if (on?.size === 0) this.#onRange.delete(rangeKey(range));
    }
  }
}

function nothing(finding: Finding, why?: string): Plan {
  return { finding, ...(why !== undefined && { why }), change: NO_CHANGE, put: [], over: [] };
}

/** When an event was (UTC ms): by the NAS's clock, where that can be. */
function timeOf({ time: { nasMs, hereMs } }: Pick<AccountingEvent, 'time'>, nowMs: number): number {
  return nasMs === undefined || nasMs > nowMs + AHEAD_MOST_MS ? hereMs : nasMs;
}

function isSame(a: Range, b: Range): boolean {
  return a.realm === b.realm && a.prefix.text === b.prefix.text;
}

/** A session on a binding that has become another one, wider or of the holder's new name. */
function movedTo(session: Session, holder: Holder, from: Range, to: ClaimedRange): Session {
  const kept = session.ranges.filter((range) => !isSame(range, from) && !isSame(range, to));
  return { ...session, holder, ranges: [...kept, to] };
}

/** Whether the whole of a range lies in another. */
function holds(outer: Range, inner: Range): boolean {
  return outer.realm === inner.realm && encloses(outer.prefix, inner.prefix);
}

function isOfNas(event: AccountingEvent): event is NasEvent {
  return event.kind === 'on' || event.kind === 'off';
}

function holderOf({ nas, id, subscriber }: Pick<Session, 'nas' | 'id' | 'subscriber'>, around: Surroundings): Holder {
  const device = around.deviceOf(subscriber);
  return device && device !== 'contradiction' ? device : unregistered(subscriber, sessionKey(nas, id));
}

/** A range that is held; where the NAS tells no interface identifier, grants lead to the one of the registry. */
function bindingOf(
  { realm, prefix, target }: ClaimedRange,
  holder: Holder,
  sinceMs: number,
  around: Surroundings,
): Binding {
  const device = deviceOf(holder);
  const interfaceId = device && around.interfaceIdOf(device);
  const found = target ?? (interfaceId === undefined ? undefined : addressIn(prefix, interfaceId));
  return { realm, prefix, holder, ...(found && { target: found }), source: 'accounting', sinceMs };
}
