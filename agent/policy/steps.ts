/**
 * The steps that every request takes, whatever it is for: is the device known,
 * does its owner authorise the server, does a deny stand in the way. And how a
 * step is told. What comes then is another for a grant (decide.ts) than for a
 * trigger (decide-trigger.ts).
 */
import { REFUSALS, type RefusalReason, type Step } from '../core/refusals.ts';
import type { Context } from './condition.ts';
import type { DenyRule, MtcUser, Policy } from './policy.ts';
import { authorises, mtcUserOf, standInDevice } from './policy-index.ts';
import { heldBy, mismatchOf, type Subject, secondsLeft, windowOf } from './question.ts';

/** One step as it was taken, for the operator. */
export interface TraceLine {
  readonly step: Step;
  readonly seen: string;
  /** The rule it was taken for: from the step `rule` on, each allow takes its own. */
  readonly rule?: string;
  /** Set where it went no further. */
  readonly reason?: RefusalReason;
}

/** The step that went no further. */
export type Stop = TraceLine & { readonly reason: RefusalReason };

export interface Refused {
  readonly verdict: 'refuse';
  readonly reason: RefusalReason;
  readonly step: Step;
  /** For the operator only. */
  readonly why: string;
  /** The rule that decided, where one did. */
  readonly rule?: string;
  readonly trace: readonly TraceLine[];
}

/** A device with its owner, who authorises whoever asks; `lines` are the steps that led there, or to a stop. */
type Owned<Asked extends Subject> =
  | { readonly device: NonNullable<Asked['device']>; readonly user: MtcUser; readonly lines: readonly TraceLine[] }
  | { readonly lines: readonly TraceLine[]; readonly stop: Stop };

/** The steps `device` and `mtcUser`. */
export function ownedBy<Asked extends Subject>(policy: Policy, { device, server }: Asked): Owned<Asked> {
  // Looked up whether there is a device or not: "no such device" must not answer sooner than "not yours".
  const user = mtcUserOf(policy, device?.externalId ?? standInDevice(policy));
  const isAuthorised = user !== undefined && authorises(user, server);
  if (!device) return { lines: [], stop: no('deviceUnknown', 'the directory knows no such device') };
  const known = yes('device', `${device.externalId}, bound in ${device.boundFamilies.join(' and ') || 'no family'}`);

  const foreign = (seen: string) => ({ lines: [known], stop: no('notAuthorisedByMtcUser', seen) });
  if (!user) return foreign('the device belongs to no MTC user');
  if (!isAuthorised) return foreign(`${user.name} does not authorise ${server}`);
  return { device, user, lines: [known, yes('mtcUser', `${user.name} authorises ${server}`)] };
}

/** Whether a deny stands in the way; if none does, from when on one will (Infinity: none). */
export function denied(
  denies: readonly DenyRule[],
  subject: Subject,
  context: () => Context,
): Stop | { readonly deniedFromMs: number } {
  let deniedFromMs = Number.POSITIVE_INFINITY;
  for (const deny of denies.filter(({ match }) => !mismatchOf(match, subject))) {
    const held = heldBy(deny, context);
    if (held === false) continue;
    const { inside, untilMs } = windowOf(deny, subject);
    if (inside || secondsLeft(untilMs, subject) < 1) {
      return held === true ? no('deniedByRule', deny.reason, deny.id) : no('conditionFailed', held.failed, deny.id);
    }
    deniedFromMs = Math.min(deniedFromMs, untilMs);
  }
  return { deniedFromMs };
}

export function reached(limit: number | undefined, used: number): boolean {
  return limit !== undefined && used >= limit;
}

export function yes(step: Step, seen: string, rule?: string): TraceLine {
  return rule === undefined ? { step, seen } : { step, seen, rule };
}

export function no(reason: RefusalReason, seen: string, rule?: string): Stop {
  return { ...yes(REFUSALS[reason].step, seen, rule), reason };
}

export function refused({ reason, step, seen, rule }: Stop, trace: readonly TraceLine[]): Refused {
  return { verdict: 'refuse', reason, step, why: seen, ...(rule && { rule }), trace };
}
