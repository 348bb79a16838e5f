/**
 * May this server send the device a trigger, to this port, of this size, to
 * wait for so long? The same steps as for a grant (decide.ts), in the order of
 * TS 23.682 5.2.1 as far as a gateway takes them:
 *   device, mtcUser  is it known, does its owner authorise this server?
 *   rule             no deny of the trigger rules matches, and an allow does
 *   preference       the owner wants it now (grants a day are of grants alone)
 *   trigger          payload and validity are within its limits
 *   rate, quota      how many it sends; how many the device gets, and are pending
 * Each allow goes its way alone, from `rule` on. Of those that arrive the one
 * that lets it wait longest decides (ties: by id); when none arrives, that
 * which came furthest.
 *
 * A validity is not cut, as a duration is: TS 29.368 6.4.9 has a cause for one
 * that is too long (INVPERIOD), and who asked counts on the whole of it. But it
 * is for a trigger that belongs to a grant request (`isCut`): there the request
 * waits, and the trigger only wakes.
 */
import type { MtcUserName } from '../core/words.ts';
import { hoursText } from './hours.ts';
import type { Policy, TriggerAllow } from './policy.ts';
import { triggerCandidatesOf } from './policy-index.ts';
import { type Wish, wishFor } from './preferences.ts';
import {
  type ConditionResult,
  contextOnce,
  heldBy,
  mismatchOf,
  secondsLeft,
  type TriggerQuestion,
  windowOf,
} from './question.ts';
import { denied, no, ownedBy, type Refused, reached, refused, type Stop, type TraceLine, yes } from './steps.ts';

export interface AllowedTrigger {
  readonly verdict: 'allow';
  readonly mtcUser: MtcUserName;
  readonly rule: string;
  /** As asked for, or cut. */
  readonly validitySeconds: number;
  readonly trace: readonly TraceLine[];
}

export type TriggerDecision = AllowedTrigger | Refused;

/** One allow as if it were the only one: every step it took, and the last where it was stopped. */
interface Way {
  readonly rule: TriggerAllow;
  readonly lines: readonly TraceLine[];
  readonly validitySeconds: number;
  readonly stop?: Stop;
}

export function decideTrigger(policy: Policy, question: TriggerQuestion): TriggerDecision {
  const owned = ownedBy(policy, question);
  const trace = [...owned.lines];
  const stop = (line: Stop) => refused(line, [...trace, line]);
  if ('stop' in owned) return stop(owned.stop);
  const { device, user } = owned;

  const near = triggerCandidatesOf(policy, question);
  const context = contextOnce(question, device, user.name, undefined);
  const deny = denied(near.denies, question, context);
  if ('reason' in deny) return stop(deny);
  const wish = wishFor(policy, user.name, device.externalId, question.nowMs);
  const ways = near.allows.flatMap((rule) => {
    const held = mismatchOf(rule.match, question) === undefined && heldBy(rule, context);
    return held === false ? [] : goAlone(rule, held, wish, question);
  });
  if (ways.length === 0) return stop(no('noRuleAllows', 'no allow of the trigger rules matches'));
  trace.push(...ways.flatMap(({ lines }) => lines));
  const best = ways.reduce(better);
  if (best.stop) return refused(best.stop, trace);
  return { verdict: 'allow', mtcUser: user.name, rule: best.rule.id, validitySeconds: best.validitySeconds, trace };
}

function goAlone(rule: TriggerAllow, held: ConditionResult, wish: Wish, question: TriggerQuestion): Way {
  const { id, limits, hours } = rule;
  const { payloadBytes, durationSeconds: asked, isCut = false, usage } = question;
  const validitySeconds = isCut ? Math.min(asked, limits.validitySeconds) : asked;
  const window = windowOf(rule, question);
  const lines: TraceLine[] = [];
  const stop = (line: Stop): Way => ({ rule, lines: [...lines, line], validitySeconds, stop: line });

  if (held !== true) return stop(no('conditionFailed', held.failed, id));
  if (hours && (!window.inside || secondsLeft(window.untilMs, question) < 1))
    return stop(no('outsideHours', `outside its hours, ${hoursText(hours)}`, id));
  lines.push(yes('rule', 'matches', id));

  if (wish.unwanted !== undefined) return stop(no('unwanted', wish.unwanted, id));
  if (wish.heard > 0)
    lines.push(yes('preference', `${wish.heard} of the owner's meet the device, and none objects`, id));

  if (payloadBytes > limits.payloadBytes)
    return stop(no('triggerPayloadTooLarge', `${payloadBytes} bytes, of ${limits.payloadBytes}`, id));
  if (validitySeconds > limits.validitySeconds)
    return stop(no('triggerValidityTooLong', `${validitySeconds} s, of ${limits.validitySeconds}`, id));
  lines.push(yes('trigger', `${payloadBytes} bytes, valid for ${validitySeconds} s`, id));

  const { triggersInLastMinute, triggersOnDeviceInLastHour, pendingOnDevice, pendingOfServer } = usage;
  if (reached(limits.perMinute, triggersInLastMinute))
    return stop(no('triggerRateExceeded', `${triggersInLastMinute} in the last minute, of ${limits.perMinute}`, id));
  lines.push(yes('rate', `${triggersInLastMinute} triggers in the last minute`, id));

  if (reached(limits.perDevicePerHour, triggersOnDeviceInLastHour)) {
    const seen = `${triggersOnDeviceInLastHour} to the device in the last hour, of ${limits.perDevicePerHour}`;
    return stop(no('triggersPerDeviceExceeded', seen, id));
  }
  if (reached(limits.pendingPerDevice, pendingOnDevice)) {
    const seen = `${pendingOnDevice} pending for the device, of ${limits.pendingPerDevice}`;
    return stop(no('pendingPerDeviceExceeded', seen, id));
  }
  if (reached(limits.pendingPerServer, pendingOfServer)) {
    const seen = `${pendingOfServer} pending in all, of ${limits.pendingPerServer}`;
    return stop(no('pendingPerServerExceeded', seen, id));
  }
  lines.push(yes('quota', `${pendingOnDevice} pending for the device, ${pendingOfServer} in all`, id));
  return { rule, lines, validitySeconds };
}

/** The way that decides. Given in order of their ids, so that the lower id wins a tie. */
function better(best: Way, way: Way): Way {
  if (!best.stop && !way.stop) return way.validitySeconds > best.validitySeconds ? way : best;
  if (!best.stop || !way.stop) return best.stop ? way : best;
  return way.lines.length > best.lines.length ? way : best;
}
