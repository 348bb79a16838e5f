/**
 * Who had a public endpoint at a time: what the record and the live grants
 * say, as one answer, with what is not known. A time given in whole seconds is
 * all of that second: servers log no finer (RFC 6302). Pure.
 */
import { parseInstant } from '../core/instants.ts';
import { type Address, contains, type Prefix } from '../core/net.ts';
import { type Found, isAt, isSurelyAt, type Mapping } from './mapping.ts';

export interface WhoQuestion {
  readonly address: Address;
  readonly port: number;
  readonly fromMs: number;
  readonly toMs: number;
  /** IP's number; absent: any. */
  readonly protocol?: number;
}

export interface WhoAnswer {
  /** Usually one. Several: of several protocols, one after another, or toward several remotes at once. */
  readonly candidates: readonly (Mapping & { readonly certain: boolean })[];
  /** What may be missing. */
  readonly notes: readonly string[];
}

export type WhoRefusal = {
  readonly refused: 'notInPool' | 'timeNotCovered' | 'timeInFuture';
  readonly why: string;
};

export interface WhoGround {
  readonly pools: { readonly grants: readonly Prefix[]; readonly egress: readonly Prefix[] };
  /** Of realms with nat: none, whose devices the outside knows by their own addresses. */
  readonly own: readonly Prefix[];
  /** Who holds such an address now, and since when. */
  readonly holder: (address: Address) => { readonly device: string | null; readonly sinceMs: number } | undefined;
  readonly nowMs: number;
  readonly recording: boolean;
  readonly find: (question: WhoQuestion) => Found;
  /** Grants that live now and stand behind this endpoint. */
  readonly live: (question: WhoQuestion) => readonly Mapping[];
}

/** Clocks of others run ahead a little. */
const AHEAD_MS = 1_000;
/** What happened a moment ago may not be written yet. */
const LAG_MS = 2_000;
/** It is written four times a second, and later under load: who has written nothing for so long cannot. */
const STUCK_MS = 10_000;

export function answerWho(question: WhoQuestion, ground: WhoGround): WhoAnswer | WhoRefusal {
  const { address, fromMs, toMs, protocol } = question;
  const { pools, nowMs, recording } = ground;
  const isOf = (prefixes: readonly Prefix[]) => prefixes.some((one) => contains(one, address));
  const isOwn = isOf(ground.own);
  const isPublic = isOf(pools.grants) || isOf(pools.egress) || isOwn;
  const found = ground.find(question);
  const known = new Set(found.mappings.flatMap(({ grant }) => grant ?? []));
  const live = ground.live(question).filter(({ grant }) => grant === null || !known.has(grant));
  // Of a server with nat: none grants may be on addresses of any realm.
  if (!isPublic && found.mappings.length + live.length === 0) {
    const all = [...pools.grants, ...pools.egress, ...ground.own].map(({ text }) => text).join(', ');
    return { refused: 'notInPool', why: `${address.text} is in no pool of this gateway: ${all}` };
  }
  if (fromMs > nowMs + AHEAD_MS)
    return { refused: 'timeInFuture', why: `${isoTime(fromMs)} is to come: it is ${isoTime(nowMs)}` };
  if (!isOwn && found.coveredFromMs > toMs && found.mappings.length + live.length === 0) {
    const covered =
      found.coveredFromMs === Number.MAX_SAFE_INTEGER
        ? 'there is no record yet'
        : `the record begins at ${isoTime(found.coveredFromMs)}`;
    return { refused: 'timeNotCovered', why: `${covered}; ${isoTime(toMs)} is before that` };
  }
  const candidates = [...found.mappings, ...live]
    .filter((one) => (protocol === undefined || one.protocol === protocol) && isAt(one, fromMs, toMs))
    .map((one) => ({ ...one, certain: isSurelyAt(one, fromMs, toMs) }))
    .sort((a, b) => Number(b.certain) - Number(a.certain) || b.beganMs - a.beganMs);
  const ofHolder = isOwn ? [holderNote(question, ground.holder(address))] : [];
  return { candidates, notes: [...ofHolder, ...notesOf(found, question, { nowMs, recording })] };
}

/** Nothing is translated there: whoever holds the address is who was seen, and flows of its own are on no record. */
function holderNote({ address, fromMs }: WhoQuestion, holder: ReturnType<WhoGround['holder']>): string {
  const own = `${address.text} is a device's own address: flows that it began are not recorded`;
  if (!holder) return `${own}, and nobody holds it now; who did is in what the accounting told at that time`;
  const since = `${holder.device ?? 'a subscriber that is no device of ours'} holds it since ${isoTime(holder.sinceMs)}`;
  return holder.sinceMs <= fromMs
    ? `${own}; ${since}, and so did at that time`
    : `${own}; ${since}; who held it at that time is in what the accounting told then`;
}

function* notesOf(
  { gaps, coveredFromMs, writtenUntilMs }: Found,
  { fromMs, toMs }: WhoQuestion,
  { nowMs, recording }: Pick<WhoGround, 'nowMs' | 'recording'>,
): Generator<string> {
  if (coveredFromMs > fromMs)
    yield `the record is whole from ${isoTime(coveredFromMs)} on: of before, others may be missing`;
  for (const { fromMs: from, toMs: to, why } of gaps)
    yield `from ${isoTime(from)} to ${isoTime(to)} not all was heard (${why}): a flow that began and ended in that time is not on record`;
  if (toMs > writtenUntilMs && !recording)
    yield `since ${isoTime(writtenUntilMs)} nobody records: flows that began since are not on record yet`;
  else if (toMs > writtenUntilMs && writtenUntilMs < nowMs - STUCK_MS)
    yield `since ${isoTime(writtenUntilMs)} nothing could be written: what began or ended since is not on record yet`;
  else if (toMs > Math.min(writtenUntilMs, nowMs - LAG_MS))
    yield 'that is now: what has just begun or ended may not be on record yet; ask again in some seconds';
}

/** RFC 3339 with `T` or a space, as a server's log has it. */
const TIME = /^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$/i;
const EPOCH = /^(\d{9,10})(\.\d{1,9})?$/;

/** The span that a time means: an instant where it says fractions of a second, else that second; undefined: it is none. */
export function parseMoment(
  text: string,
  nowMs: number,
): { readonly fromMs: number; readonly toMs: number } | undefined {
  if (text === 'now') return { fromMs: nowMs, toMs: nowMs };
  const [, day, time, fraction, zone] = TIME.exec(text) ?? [];
  const [, seconds, part] = EPOCH.exec(text) ?? [];
  const startMs = day ? parseInstant(`${day}T${time}${zone?.toUpperCase()}`) : Number(seconds) * 1_000;
  if (startMs === undefined || Number.isNaN(startMs)) return undefined;
  const said = fraction ?? part;
  if (said === undefined) return { fromMs: startMs, toMs: startMs + 999 };
  const atMs = startMs + Math.floor(Number(`0${said}`) * 1_000);
  return { fromMs: atMs, toMs: atMs };
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}
