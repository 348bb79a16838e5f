/**
 * Refusals and faults as the outside reads them: `application/problem+json`
 * (RFC 9457) with the extension members `code` (CAMARA Commonalities, error
 * responses) and `cause` (TS 29.122 5.2.6).
 *
 * Invariants:
 * - what an answer says comes from the table of faces (core/refusals.ts) and
 *   from the asker's own request; never a rule, an inner address, a stack;
 * - `type` is made from `code`, not from the reason: two reasons with one face
 *   give the same bytes but for `instance`, which is random;
 * - every refusal passes through one recorder, so that each one answered has
 *   its line in the log, found by its `instance`: of those that shed load, one
 *   a second for each asker, whose answer the others of that second repeat; but
 *   they count as what they are, for whomever they concern. An asker that is refused more often than can be written down gets its answers
 *   all the same; lines that are left out are counted in the next.
 */
import { STATUS_CODES } from 'node:http';
import type { Clock, Log, Random } from '../core/ports.ts';
import {
  REFUSALS,
  type Refusal,
  type RefusalFace,
  type RefusalFacts,
  type RefusalReason,
  type Refuse,
} from '../core/refusals.ts';

/** Told of every refusal: it has its line in the log, is the same again as one that has, or there were too many. */
type Recorded = (refusal: Refusal, facts: RefusalFacts, how: 'written' | 'repeated' | 'leftOut') => void;

/** So many refusals of one asker are written down in a second: more is a flood, and would be the log's. */
const LINES_PER_SECOND = 50;

/**
 * What is refused for the same reason in the same second is the same again only
 * where it is about the same: another device may be another MTC user's, who is
 * told of its own and of no other's. What came without a device is nobody's.
 */
const WHAT_WAS_ASKED = ['device', 'to', 'from', 'certificate'] as const;

/** What one asker was refused in the second that it is. */
interface Second {
  lines: number;
  readonly shed: Map<RefusalReason, { readonly refusal: Refusal; readonly facts: RefusalFacts }>;
}

/** The one place where refusals come from: each gets its instance and its line in the log. */
export function refusalRecorder(log: Log, random: Random, clock: Clock, recorded: Recorded = () => {}): Refuse {
  let second = 0;
  let leftOut = 0;
  const askers = new Map<string, Second>();
  const askerOf = ({ server, from, remote }: RefusalFacts): Second => {
    const now = Math.floor(clock.nowMs() / 1_000);
    if (now !== second) askers.clear();
    second = now;
    const name = String(server ?? from ?? remote);
    const asker = askers.get(name) ?? { lines: 0, shed: new Map() };
    askers.set(name, asker);
    return asker;
  };
  return (reason, facts) => {
    const asker = askerOf(facts);
    const same = asker.shed.get(reason);
    if (same) {
      leftOut += 1;
      const isSame = WHAT_WAS_ASKED.every((name) => facts[name] === same.facts[name]);
      recorded(same.refusal, isSame ? same.facts : facts, isSame ? 'repeated' : 'leftOut');
      return same.refusal;
    }
    const refusal = refusalOf(reason, facts, randomInstance(random));
    const { sheds }: RefusalFace = REFUSALS[reason];
    if (sheds) asker.shed.set(reason, { refusal, facts });
    asker.lines += 1;
    if (asker.lines > LINES_PER_SECOND && !sheds) {
      leftOut += 1;
      recorded(refusal, facts, 'leftOut');
      return refusal;
    }
    const { steps: _, ...told } = facts; // `mtgate why` shows them
    log.info({ ...told, ...refusal, ...(leftOut > 0 && { leftOut }) }, 'refused');
    leftOut = 0;
    recorded(refusal, facts, 'written');
    return refusal;
  };
}

function refusalOf(reason: RefusalReason, facts: RefusalFacts, instance: string): Refusal {
  const { why, rule, detail, members } = facts;
  const face: RefusalFace = REFUSALS[reason];
  const retryAfterSeconds = facts.retryAfterSeconds ?? face.retryAfterSeconds;
  return {
    reason,
    step: face.step,
    instance,
    why,
    ...(rule === undefined ? {} : { rule }),
    ...(detail === undefined ? {} : { detail }),
    ...(members === undefined ? {} : { members }),
    ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
  };
}

/** A random URN that names one refusal or fault. */
export function randomInstance(random: Random): string {
  return `urn:uuid:${randomUuid(random)}`;
}

/** RFC 9562, version 4. */
export function randomUuid(random: Random): string {
  const bytes = Buffer.from(random.bytes(16));
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** A problem document (RFC 9457 3). Members beside the standard ones are extensions (3.2). */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail?: string;
  readonly instance: string;
  readonly code: string;
  readonly cause?: string;
  readonly [extension: string]: string | number | undefined;
}

export const PROBLEM_TYPE = 'application/problem+json';

export function problemOf(refusal: Refusal): Problem {
  const face: RefusalFace = REFUSALS[refusal.reason];
  return {
    type: typeOf(face.code),
    title: face.title,
    status: face.status,
    ...(refusal.detail === undefined ? {} : { detail: refusal.detail }),
    instance: refusal.instance,
    code: face.code,
    ...(face.cause === undefined ? {} : { cause: face.cause }),
    ...refusal.members,
  };
}

/** What the outside reads of a fault: that there was one, and the id under which the log tells more. */
export function problemOfFault(instance: string): Problem {
  return {
    type: typeOf('INTERNAL'),
    title: 'The gateway failed to answer this request',
    status: 500,
    instance,
    code: 'INTERNAL',
  };
}

/**
 * The whole HTTP answer to what could not be read as a request: there is no
 * response object then, only the socket.
 */
export function bareAnswer(problem: Problem, correlator: string): string {
  const body = JSON.stringify(problem);
  return [
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
    `Content-Type: ${PROBLEM_TYPE}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Cache-Control: no-store',
    `X-Correlator: ${correlator}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

function typeOf(code: string): string {
  return `urn:mtgate:problem:${code.toLowerCase().replaceAll('_', '-')}`;
}
