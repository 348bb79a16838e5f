/**
 * What the agent has promised, as its servers and its operator heard it, and
 * what follows for packets. Knows nothing of the agent's inside: a grant is
 * live from its 201 on, until its end as answered last, or until something
 * began that may end it (`threatened`); it has ended when that was
 * acknowledged. What was under way at a kill is unknown, until the agent that
 * was started again says what became of it: then it is one or the other, and
 * was so all along.
 *
 * Every promise that is broken is a Violation. Moments are microseconds.
 */
import type { Family } from '../../../agent/core/net.ts';
import type { Protocol } from '../../../agent/core/words.ts';
import { MS, momentOf, nowUs, SECOND } from './moments.ts';
import type { Arrival } from './sink.ts';
import type { Sent } from './source.ts';

export class Violation extends Error {}

/** The gate's clock lags by up to a tick, and ends are rounded to milliseconds on their way here. */
const END_ALLOWANCE_US = 100 * MS;
/** So shortly before its end nothing is demanded of a grant any more. */
const BEFORE_END_US = 30 * MS;
/** What has expired is recorded by a sweep every second; a busy machine has it late. Its packets stop by themselves. */
const SWEPT_US = 10 * SECOND;
/** RFC 6888 REQ-8, less what rounding takes. */
const REST_US = 119 * SECOND;
/** Ended endpoints are knocked at for so long: they are another's no earlier than that. */
const KNOCKED_US = 100 * SECOND;

/** What a grant was asked for. */
export interface Wanted {
  readonly device: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly port: number;
}

/** As the API answers it. */
export interface GrantBody {
  readonly grantId: string;
  readonly externalEndpoint: { readonly address: string; readonly port: number };
  readonly device: { readonly networkAccessIdentifier: string };
  readonly protocol: string;
  readonly devicePort: number;
  readonly ipFamily: string;
  readonly status: 'LIVE' | 'ENDED';
  readonly expiresAt: string;
  readonly endCause?: string;
}

export interface Grant extends Wanted {
  readonly id: string;
  readonly serial: number;
  readonly liveFromUs: number;
  readonly endpoint: string;
  /** Its end as acknowledged last, as written and on our clock. */
  expiresAt: string;
  endUs: number;
  /** The latest end that it may have: an extension may be under way. */
  latestEndUs: number;
  /** Since when something is under way, or has been, that may end it. */
  threatenedUs?: number;
  /** Since when its device's address is being changed; where that was killed, nothing reaches the address until a start undoes it. */
  movingUs?: number;
  /** Such times that are over. */
  readonly unreached: { readonly fromUs: number; readonly untilUs: number }[];
  /** By when it had ended, acknowledged. */
  endedUs?: number;
  isExtending: boolean;
}

/** A grant that was asked for, and nobody answered. */
export interface Unanswered extends Wanted {
  readonly body: object;
  readonly key: string | undefined;
  readonly latestEndUs: number;
  /** The grant that it had opened, where that was found. */
  opened?: string;
}

/** Something that ends grants of a kind. */
export interface Threat {
  readonly what: string;
  readonly fromUs: number;
  toUs?: number;
  readonly matches: (grant: Wanted) => boolean;
}

/** Who holds an inner address, surely, from a moment on; undefined: that is changing, or unknown. */
interface Holding {
  readonly fromUs: number;
  readonly device: string | 'nobody' | undefined;
}

interface Tick extends Omit<Sent, 'serials'> {
  readonly grant: Grant;
}

export class Model {
  readonly grants = new Map<string, Grant>();
  readonly unanswered = new Set<Unanswered>();
  readonly #bySerial: Grant[] = [];
  readonly #byEndpoint = new Map<string, Grant>();
  readonly #threats = new Set<Threat>();
  readonly #holdings = new Map<string, Holding[]>();
  #ticks: Tick[] = [];
  #arrivals: Arrival[] = [];
  /** Sent no later than the latest that has arrived. */
  #seenUs = 0;
  readonly judged = { sent: 0, arrived: 0, kept: 0 };

  /** Those that nothing is known against: acknowledged and not near their end, nor threatened. */
  sure(atUs = nowUs()): Grant[] {
    return [...this.grants.values()].filter((grant) => isSure(grant, atUs));
  }

  /** A 201, or a grant found that an unanswered request had opened. */
  granted(wanted: Wanted, body: GrantBody, sentUs: number, receivedUs: number): Grant {
    const { address, port } = body.externalEndpoint;
    const endpoint = wanted.family === 'ipv4' ? `${wanted.protocol} ${address} ${port}` : address;
    const endUs = momentOf(body.expiresAt);
    const grant: Grant = {
      ...wanted,
      id: body.grantId,
      serial: this.#bySerial.length,
      liveFromUs: receivedUs,
      endpoint,
      expiresAt: body.expiresAt,
      endUs,
      latestEndUs: endUs,
      isExtending: false,
      unreached: [],
    };
    const before = this.#byEndpoint.get(endpoint);
    if (before && receivedUs < endedNotBefore(before) + REST_US)
      throw new Violation(`${endpoint} of ${grant.id} is at rest after ${before.id}`);
    this.#byEndpoint.set(endpoint, grant);
    this.grants.set(grant.id, grant);
    this.#bySerial.push(grant);
    // What went on while it was asked for may have been first, or last.
    for (const threat of this.#threats) {
      if ((threat.toUs ?? Number.POSITIVE_INFINITY) > sentUs && threat.matches(grant)) grant.threatenedUs ??= sentUs;
    }
    return grant;
  }

  threaten(what: string, matches: (grant: Wanted) => boolean): Threat {
    const threat: Threat = { what, fromUs: nowUs(), matches };
    this.#threats.add(threat);
    for (const grant of this.grants.values()) {
      if (grant.endedUs === undefined && matches(grant)) grant.threatenedUs ??= threat.fromUs;
    }
    return threat;
  }

  /** The same by a change of addresses. */
  move(what: string, matches: (grant: Wanted) => boolean): Threat {
    const threat = this.threaten(what, matches);
    for (const grant of this.grants.values())
      if (grant.endedUs === undefined && matches(grant)) grant.movingUs ??= threat.fromUs;
    return threat;
  }

  /** It is done: what was there before it began has ended, and is given back. */
  done(threat: Threat, atUs: number): Grant[] {
    threat.toUs = atUs;
    const ended: Grant[] = [];
    for (const grant of this.grants.values()) {
      if (grant.endedUs !== undefined || grant.liveFromUs >= threat.fromUs || !threat.matches(grant)) continue;
      grant.endedUs = atUs;
      ended.push(grant);
    }
    return ended;
  }

  /** Nobody acts any more: threats that are over, or were killed, threaten no grant to come. */
  settle(): void {
    this.#threats.clear();
  }

  hold(address: string, device: string | 'nobody' | undefined, fromUs = nowUs()): void {
    const holdings = this.#holdings.get(address);
    if (holdings) holdings.push({ fromUs, device });
    else this.#holdings.set(address, [{ fromUs, device }]);
  }

  /** Undefined: not known at the moment. */
  holderOf(address: string): Holding['device'] {
    return this.#holdings.get(address)?.at(-1)?.device;
  }

  /** The agent's answer to GET /grants/{id}. */
  shown(grant: Grant, body: GrantBody, sentUs: number, receivedUs: number): void {
    const endUs = momentOf(body.expiresAt);
    // By a request whose answer did not come.
    const isExtended = grant.latestEndUs > grant.endUs && endUs > grant.endUs && endUs <= grant.latestEndUs + 5 * MS;
    if (body.status === 'LIVE') {
      if (grant.endedUs !== undefined) throw new Violation(`${grant.id} had ended, and is LIVE again`);
      if (sentUs > grant.latestEndUs + SWEPT_US) throw new Violation(`${grant.id} is LIVE past ${grant.expiresAt}`);
      if (body.expiresAt !== grant.expiresAt && !isExtended)
        throw new Violation(`${grant.id} ends at ${body.expiresAt}, and was acknowledged until ${grant.expiresAt}`);
      this.extended(grant, body.expiresAt);
      delete grant.threatenedUs;
      if (grant.movingUs !== undefined) grant.unreached.push({ fromUs: grant.movingUs, untilUs: receivedUs });
      delete grant.movingUs;
      return;
    }
    if (isSure(grant, receivedUs))
      throw new Violation(`${grant.id} should be live: it ${body.status} ${body.endCause}`);
    if (grant.endedUs === undefined && grant.threatenedUs !== undefined) grant.endedUs = receivedUs;
    grant.latestEndUs = isExtended ? endUs : grant.endUs;
  }

  /** What its end is, for sure. */
  extended(grant: Grant, expiresAt: string): void {
    if (grant.expiresAt !== expiresAt) {
      grant.expiresAt = expiresAt;
      grant.endUs = momentOf(expiresAt);
    }
    grant.latestEndUs = grant.endUs;
  }

  sent({ serials, ...tick }: Sent): void {
    for (const serial of serials) {
      const grant = this.#bySerial[serial];
      // Of one that had ended nothing need arrive; whether something did, arrivals tell.
      if (grant && grant.endedUs === undefined) this.#ticks.push({ ...tick, grant });
    }
  }

  arrived(arrival: Arrival): void {
    this.#arrivals.push(arrival);
    this.judged.arrived += 1;
    if (arrival.tickUs > this.#seenUs) this.#seenUs = arrival.tickUs;
  }

  /** Whether packets of so late have come through: all that came before can be judged. */
  hasSeen(atUs: number): boolean {
    return this.#seenUs > atUs;
  }

  /** Holds all packets of before `untilUs` against what was promised. No request may be under way, and no grant unknown. */
  judge(untilUs: number): void {
    const came = new Set<string>();
    const arrivals = this.#arrivals;
    for (const { serial, tickUs } of arrivals) came.add(`${serial} ${tickUs}`);
    for (const arrival of arrivals) this.#judgeArrival(arrival);
    const ticks = this.#ticks;
    this.#ticks = ticks.filter(({ endUs }) => endUs >= untilUs);
    this.#arrivals = arrivals.filter(({ tickUs }) => tickUs >= untilUs - SECOND);
    for (const { grant, tickUs, endUs } of ticks) {
      if (endUs >= untilUs) continue;
      this.judged.sent += 1;
      const isReached = !grant.unreached.some(({ fromUs, untilUs: to }) => endUs >= fromUs && tickUs <= to);
      const isSureThen = tickUs >= grant.liveFromUs && isReached && isSure(grant, endUs);
      if (isSureThen) this.judged.kept += 1;
      if (isSureThen && !came.has(`${grant.serial} ${tickUs}`))
        throw new Violation(`a packet of ${grant.id}, sent at ${tickUs} while it was live, did not arrive`);
    }
  }

  /** Grants whose endpoints are to be left alone from now on. */
  outdated(): Grant[] {
    const nowIs = nowUs();
    const old = [...this.grants.values()].filter((grant) => endedNotBefore(grant) + KNOCKED_US < nowIs);
    for (const { id } of old) this.grants.delete(id);
    return old;
  }

  #judgeArrival({ serial, tickUs, protocol, address, port }: Arrival): void {
    const grant = this.#bySerial[serial];
    if (!grant) throw new Violation(`a packet of nobody: ${serial}`);
    const what = `a packet of ${grant.id} (${grant.device}), sent at ${tickUs}, arrived at ${address}`;
    if (grant.protocol !== protocol || grant.port !== port) throw new Violation(`${what}, ${protocol}/${port}`);
    if (grant.endedUs !== undefined && tickUs > grant.endedUs)
      throw new Violation(`${what}, ${tickUs - grant.endedUs} us after its end was acknowledged`);
    if (tickUs > grant.latestEndUs + END_ALLOWANCE_US)
      throw new Violation(`${what}, ${tickUs - grant.latestEndUs} us after it expired`);
    const holdings = this.#holdings.get(address) ?? [];
    const holding = holdings.findLast(({ fromUs }) => fromUs <= tickUs);
    if (holding?.device !== undefined && holding.device !== grant.device)
      throw new Violation(`${what}, which was held by ${holding.device}`);
  }
}

function isSure(grant: Grant, atUs: number): boolean {
  const untilUs = Math.min(grant.endedUs ?? Infinity, grant.threatenedUs ?? Infinity, grant.endUs - BEFORE_END_US);
  return atUs < untilUs;
}

/** It was live until then at least, or may have been. */
function endedNotBefore(grant: Grant): number {
  return Math.min(grant.threatenedUs ?? Infinity, grant.endUs);
}
