/**
 * May this server reach this device on this protocol and port, from there,
 * for that long? A pure function of the policy and the question; it answers
 * with every step it took.
 *
 * The steps, in the order of a request's way (core/refusals.ts):
 *   device             is it known?
 *   mtcUser            does its owner authorise this server?
 *   rule               no deny matches, and at least one allow does
 *   preference         the owner of the device wants it, too (preferences.ts)
 *   applicationServer  which address may use the grant, in which family
 *   filter             no drop filter meets its packets: they will pass no filter
 *   rate, quota        the limits of the allow
 *   endpoint           without translation (translation.ts) the address is one realm's alone
 * A port that takes triggers takes no grant, whatever the rules say.
 * A rule with a condition counts where it holds. Where that cannot be said, a
 * deny denies, and an allow goes no further.
 * A rule with hours counts within them: a deny refuses, and what is granted
 * before ends where the next deny begins; what an allow grants ends where its
 * hours close, and outside them it goes no further.
 * Quiet hours of the owner cut what is granted before them as the hours of a
 * deny do.
 * From `rule` on each allow goes its way alone, as if it were the only one.
 * Of those that arrive, the one that grants the longest decides, whole: its
 * duration, its total, its name; ties go to the lower id. When none arrives,
 * the refusal is that of the allow that came furthest; ties again by id. So
 * the order of rules never matters, and adding a deny never opens anything.
 *
 * Not judged here, since it is no matter of policy: whether such a grant
 * lives already, whether the device is bound in the family, whether an
 * endpoint is free.
 */
import { type Address, contains, type Family, hostPrefix, type Prefix } from '../core/net.ts';
import type { RefusalReason } from '../core/refusals.ts';
import { covers } from '../core/trigger-plan.ts';
import type { MtcUserName, PacketLimits } from '../core/words.ts';
import type { Context } from './condition.ts';
import { dropOfGrant, type Filter } from './filters.ts';
import { isInGroup } from './groups.ts';
import { hoursText } from './hours.ts';
import type { AllowRule, Policy } from './policy.ts';
import { candidatesOf, mtcUserOf } from './policy-index.ts';
import { type Wish, wishFor } from './preferences.ts';
import {
  type ConditionResult,
  contextOnce,
  heldBy,
  mismatchOf,
  type Question,
  secondsLeft,
  windowOf,
} from './question.ts';
import { denied, no, ownedBy, type Refused, reached, refused, type Stop, type TraceLine, yes } from './steps.ts';
import { untranslatedBy } from './translation.ts';

export interface Allowed extends PacketLimits {
  readonly verdict: 'allow';
  readonly mtcUser: MtcUserName;
  readonly rule: string;
  readonly family: Family;
  /** Where granted packets come from. */
  readonly remote: Address | 'all';
  /** At most what was asked for. */
  readonly durationSeconds: number;
  readonly totalSeconds: number;
  /** When the hours of a rule end it, whatever its duration (UTC); absent: none do. */
  readonly closesAtMs?: number;
  readonly trace: readonly TraceLine[];
}

/** Which family it would have been is known from the step applicationServer on. */
export type Decision = Allowed | (Refused & { readonly family?: Family });

/** Which packets the grant would be for: settled by the request and the server's sources, whatever the rule. */
type Target =
  | { readonly family: Family; readonly remote: Address | 'all' }
  | { readonly family?: Family; readonly stop: Stop };

/** What holds for every allow. */
interface Common {
  readonly target: Target;
  readonly drop: Filter | undefined;
  readonly wish: Wish;
  /** When the hours of a deny begin; Infinity: never. */
  readonly deniedFromMs: number;
}

const QUIET = "the owner's quiet hours begin";

/** One allow as if it were the only one: every step it took, and where that led. */
interface Way {
  readonly rule: AllowRule;
  readonly lines: readonly TraceLine[];
  readonly durationSeconds: number;
  /** Where its hours close, or those of a deny or quiet ones begin; Infinity: nowhere. */
  readonly closesAtMs: number;
  readonly outcome: { readonly family: Family; readonly remote: Address | 'all' } | Stop;
}

export function decide(policy: Policy, question: Question): Decision {
  const owned = ownedBy(policy, question);
  const trace = [...owned.lines];
  const stop = (line: Stop) => refused(line, [...trace, line]);
  if ('stop' in owned) return stop(owned.stop);
  const { device, user } = owned;

  if (covers(policy.triggerPorts, question.port))
    return stop(
      no('triggerPort', `port ${question.port} is one of triggers.ports in agent.yaml: it takes triggers alone`),
    );
  const near = candidatesOf(policy, question);
  const sources = policy.servers.get(question.server)?.sources ?? [];
  const target = targetOf(sources, question);
  const context = contextOnce(question, device, user.name, target.family);
  const deny = denied(near.denies, question, context);
  if ('reason' in deny) return stop(deny);
  const allows = near.allows.filter(({ match }) => !mismatchOf(match, question));
  const drop = 'stop' in target ? undefined : dropOf(policy, target, sources, question);
  const wish = wishFor(policy, user.name, device.externalId, question.nowMs, question.begunToday);
  const ways = allows.flatMap((rule) => {
    const held = heldBy(rule, context);
    return held === false ? [] : goAlone(rule, held, { target, drop, wish, deniedFromMs: deny.deniedFromMs }, question);
  });
  if (ways.length === 0) return stop(no('noRuleAllows', 'no allow matches'));
  trace.push(...ways.flatMap(({ lines }) => lines));

  const { rule, durationSeconds, closesAtMs, outcome } = ways.reduce(better);
  if ('reason' in outcome) {
    const { family } = outcome.step === 'rule' ? { family: undefined } : target;
    return { ...refused(outcome, trace), ...(family && { family }) };
  }
  const realm = device.inner?.find(({ address }) => address.family === outcome.family)?.realm;
  const untranslated = untranslatedBy(policy, question.server, realm);
  if (untranslated !== undefined && realm !== undefined && policy.sharedRealms.includes(realm)) {
    const shared = no('addressesShared', `${untranslated}, but realm ${realm} shares addresses with another`);
    return { ...refused(shared, [...trace, shared]), family: outcome.family };
  }
  if (untranslated !== undefined) trace.push(yes('endpoint', `the device's own, not translated: ${untranslated}`));
  const { totalSeconds, packetsPerSecond, bytes } = rule.limits;
  return {
    verdict: 'allow',
    mtcUser: user.name,
    rule: rule.id,
    ...outcome,
    durationSeconds,
    totalSeconds,
    ...(Number.isFinite(closesAtMs) && { closesAtMs }),
    ...(packetsPerSecond !== undefined && { packetsPerSecond }),
    ...(bytes !== undefined && { bytes }),
    trace,
  };
}

/** What the conditions of a policy read of a question whose device has an MTC user. */
export function contextFor(policy: Policy, question: Question): (() => Context) | undefined {
  const user = question.device && mtcUserOf(policy, question.device.externalId);
  if (!question.device || !user) return undefined;
  const { family } = targetOf(policy.servers.get(question.server)?.sources ?? [], question);
  return contextOnce(question, question.device, user.name, family);
}

/** One allow from the step `rule` on, up to the step that stops it. */
function goAlone(
  rule: AllowRule,
  held: ConditionResult,
  { target, drop, wish, deniedFromMs }: Common,
  question: Question,
): Way {
  const { id, limits, hours } = rule;
  const { usage } = question;
  const window = windowOf(rule, question);
  const closesAtMs = Math.min(window.untilMs, deniedFromMs, wish.untilMs);
  const leftSeconds = secondsLeft(closesAtMs, question);
  const durationSeconds = Math.min(question.durationSeconds, limits.durationSeconds, leftSeconds);
  const lines: TraceLine[] = [];
  const stop = (reason: RefusalReason, seen: string, by = id): Way => {
    const line = no(reason, seen, by);
    return { rule, lines: [...lines, line], durationSeconds, closesAtMs, outcome: line };
  };

  if (held !== true) return stop('conditionFailed', held.failed);
  if (hours && (!window.inside || leftSeconds < 1))
    return stop('outsideHours', `outside its hours, ${hoursText(hours)}`);
  const cutBy = window.untilMs === closesAtMs ? 'its hours close' : closesAtMs < wish.untilMs ? 'a deny begins' : QUIET;
  const cut = durationSeconds < leftSeconds ? '' : `: ${cutBy}`;
  lines.push(yes('rule', `matches, for ${durationSeconds} s of the ${question.durationSeconds} s asked for${cut}`, id));

  if (wish.unwanted !== undefined) return stop('unwanted', wish.unwanted);
  if (wish.heard > 0)
    lines.push(yes('preference', `${wish.heard} of the owner's meet the device, and none objects`, id));

  if ('stop' in target) return stop(target.stop.reason, target.stop.seen);
  const { family, remote } = target;
  if (remote === 'all' && !rule.allApplicationServers) {
    return stop('applicationServerNotAllowed', 'the rule opens grants to one application server, not to all');
  }
  lines.push(
    yes('applicationServer', `${remote === 'all' ? "all of the server's sources" : remote.text}, ${family}`, id),
  );

  if (drop) return stop('deniedByFilter', `it drops packets that ${id} would grant`, drop.id);
  lines.push(yes('filter', 'no drop filter meets its packets', id));

  const { grantsOnDevice, grantsOfServer, requestsInLastMinute } = usage;
  if (reached(limits.requestsPerMinute, requestsInLastMinute)) {
    return stop('rateExceeded', `${requestsInLastMinute} requests in the last minute, of ${limits.requestsPerMinute}`);
  }
  lines.push(yes('rate', `${requestsInLastMinute} requests in the last minute`, id));

  if (reached(limits.grantsPerDevice, grantsOnDevice)) {
    return stop('grantsPerDeviceExceeded', `${grantsOnDevice} live grants on the device, of ${limits.grantsPerDevice}`);
  }
  if (reached(limits.grantsPerServer, grantsOfServer)) {
    return stop('grantsPerServerExceeded', `${grantsOfServer} live grants in all, of ${limits.grantsPerServer}`);
  }
  lines.push(yes('quota', `${grantsOnDevice} live grants on the device, ${grantsOfServer} in all`, id));
  return { rule, lines, durationSeconds, closesAtMs, outcome: { family, remote } };
}

/** The way that decides. Given in order of their ids, so that the lower id wins a tie. */
function better(best: Way, way: Way): Way {
  const [bestStopped, stopped] = ['reason' in best.outcome, 'reason' in way.outcome];
  if (bestStopped !== stopped) return stopped ? best : way;
  if (stopped) return way.lines.length > best.lines.length ? way : best;
  return way.durationSeconds > best.durationSeconds ? way : best;
}

function targetOf(sources: readonly Prefix[], question: Question): Target {
  const { applicationServer: named, requestAddress, ipFamily, device } = question;
  const ours = (host: Address) => sources.some((source) => contains(source, host));
  if (named && named !== 'all') {
    const { family, text } = named;
    if (ipFamily && ipFamily !== family) {
      return { stop: no('familyMismatch', `${text} is ${family}, but ipFamily is ${ipFamily}`) };
    }
    if (ours(named)) return { family, remote: named };
    return { family, stop: no('applicationServerNotAllowed', `${text} is not within the server's sources`) };
  }
  // A device that is not bound at all gets as far as being unreachable, in the family of whoever asks.
  const bound = device?.boundFamilies ?? [];
  const family = ipFamily ?? (bound.includes('ipv4') ? 'ipv4' : (bound[0] ?? requestAddress.family));
  if (named === 'all') {
    if (sources.some((source) => source.family === family)) return { family, remote: 'all' };
    return { family, stop: no('applicationServerNotAllowed', `the server has no ${family} source`) };
  }
  if (requestAddress.family === family && ours(requestAddress)) return { family, remote: requestAddress };
  const seen = `none named, and ${requestAddress.text} is not an ${family} address within the server's sources`;
  return { family, stop: no('applicationServerRequired', seen) };
}

/** The drop filter that meets packets of such a grant. */
function dropOf(
  { filters, deviceGroups }: Policy,
  { family, remote }: { readonly family: Family; readonly remote: Address | 'all' },
  sources: readonly Prefix[],
  { device, protocol, port, remotePort }: Question,
): Filter | undefined {
  const flow = {
    family,
    protocol,
    device: device?.inner?.find(({ address }) => address.family === family),
    devicePort: port,
    remotes: remote === 'all' ? sources : [hostPrefix(remote)],
    remotePort,
  };
  const isIn = (name: string) => {
    const group = deviceGroups.get(name);
    return group !== undefined && device !== undefined && isInGroup(group, device);
  };
  return dropOfGrant(filters, flow, { isInGroup: isIn });
}
