/**
 * Refusals and faults as the outside reads them: `application/problem+json`
 * (RFC 9457) with the extension members `code` (CAMARA Commonalities, error
 * responses) and `cause` (TS 29.122 5.2.6).
 *
 * Invariants:
 * - what an answer says comes from the table of faces (core/reasons.ts) and
 *   from the asker's own request; never a rule, an inner address, a stack;
 * - `type` is made from `code`, not from the reason: two reasons with one face
 *   give the same bytes but for `instance`, which is random;
 * - every refusal passes through one recorder, so that each one answered has
 *   its line in the log, found by its `instance`.
 */
import { STATUS_CODES } from 'node:http';
import type { Log, Random } from '../core/ports.ts';
import { REFUSALS, type Refusal, type Refuse, type Step } from '../core/reasons.ts';

/** The one place where refusals come from: each gets its instance and its line in the log. */
export function refusalRecorder(log: Log, random: Random): Refuse {
  return (reason, facts) => {
    const { why, rule, detail, members } = facts;
    const face: { step: Step; retryAfterSeconds?: number } = REFUSALS[reason];
    const retryAfterSeconds = facts.retryAfterSeconds ?? face.retryAfterSeconds;
    const refusal: Refusal = {
      reason,
      step: face.step,
      instance: randomInstance(random),
      why,
      ...(rule === undefined ? {} : { rule }),
      ...(detail === undefined ? {} : { detail }),
      ...(members === undefined ? {} : { members }),
      ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
    };
    log.info({ ...facts, ...refusal }, 'refused');
    return refusal;
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
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
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
  const face: { status: number; code: string; cause?: string; title: string } = REFUSALS[refusal.reason];
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
