/**
 * A decision and a policy as text, for operators: every step that was taken,
 * in order, with what was seen; and the rules that looked away, with why.
 * The outside never reads any of it.
 */
import type { MtcUserName, ServerName } from '../core/words.ts';
import { contextFor, type Decision } from './decide.ts';
import { selectorText } from './groups.ts';
import { hoursText } from './hours.ts';
import type { AllowRule, DenyRule, Match, Policy } from './policy.ts';
import { heldBy, mismatchesOf, type Question, windowOf } from './question.ts';
import { wouldHave } from './staged.ts';
import type { Refused, TraceLine } from './steps.ts';

/**
 * One line for the outcome, one for each step, one for each rule that does not
 * match: of many, the nearest. `then` is a step that comes behind what policy
 * decides, for a request that came so far.
 */
export function explain(policy: Policy, question: Question, decision: Decision, then?: TraceLine): string[] {
  const otherwise = wouldHave(policy, question, decision);
  return [
    outcome(question, withStep(decision, then)),
    ...[...decision.trace, ...(then ? [then] : [])].map(step),
    ...lookedAway(policy, question, decision),
    ...(otherwise ? [`with all that is staged: ${outcome(question, otherwise.decision)}`] : []),
  ];
}

/** The same decision, unless a step behind it goes no further. */
export function withStep(decision: Decision, then: TraceLine | undefined): Decision {
  if (decision.verdict === 'refuse' || !then?.reason) return decision;
  const { step: name, seen: why, reason } = then;
  return { verdict: 'refuse', step: name, why, reason, rule: decision.rule, trace: [...decision.trace, then] };
}

/** Which servers each MTC user authorises. */
export function describeAuthorised(
  policy: Policy,
): readonly { readonly mtcUser: MtcUserName; readonly servers: readonly ServerName[] }[] {
  return [...policy.mtcUsers.values()].map(({ name, authorises }) => ({
    mtcUser: name,
    servers: [...authorises].sort(),
  }));
}

/** What each group stands for. */
export function describeGroups({
  serverGroups,
  deviceGroups,
}: Policy): readonly { readonly group: string; readonly of: string }[] {
  const servers = [...serverGroups].map(([group, names]) => ({
    group,
    of: names.length === 0 ? 'no server' : `the ${names.length === 1 ? 'server' : 'servers'} ${names.join(', ')}`,
  }));
  const devices = [...deviceGroups].map(([group, { devices: patterns = [], attributes = {} }]) => {
    const named = patterns.length > 0 ? ` ${patterns.map(({ text }) => text).join(', ')}` : '';
    const having = Object.entries(attributes).map(([name, values]) => `${name} ${values.join(' or ')}`);
    return { group, of: `devices${named}${having.length > 0 ? ` with ${having.join(', ')}` : ''}` };
  });
  return [...servers, ...devices];
}

function outcome({ server, device, protocol, port }: Question, decision: Decision): string {
  const request = `${server} to ${device?.externalId ?? 'an unknown device'}, ${protocol} port ${port}`;
  if (decision.verdict === 'refuse') {
    const by = decision.rule === undefined || decision.step === 'binding' ? '' : ` by ${decision.rule}`;
    return `${request}: refused${by}, ${decision.reason} (${decision.why})`;
  }
  const { rule, durationSeconds, totalSeconds } = decision;
  return `${request}: allowed by ${rule}, for ${durationSeconds} s, ${totalSeconds} s with extensions`;
}

/** One step as it was taken. */
function step({ step: name, seen, rule, reason }: TraceLine): string {
  return line(reason ? 'no' : 'yes', name, rule, seen);
}

/** So many steps are kept with a refusal, the last: of many rules each took its own. */
const STEPS_MOST = 24;

/** What is told the operator of a decision to refuse, beside its reason. */
export function factsOf({ why, rule, trace }: Pick<Refused, 'why' | 'rule' | 'trace'>) {
  return { why, steps: trace.slice(-STEPS_MOST).map((line) => step(line).trim()), ...(rule && { rule }) };
}

/** So many rules that looked away are shown: those that came nearest. */
const SHOWN = 20;

/** Only where the request came to the rules. */
function lookedAway(policy: Policy, question: Question, { trace, rule: decided }: Decision): string[] {
  if (!trace.some(({ step: name }) => name === 'rule')) return [];
  const context = contextFor(policy, question);
  const away = [...policy.denies, ...policy.allows]
    .flatMap((rule) => awayOf(rule, question, context, decided) ?? [])
    .sort((a, b) => a.mismatches - b.mismatches);
  const lines = away.slice(0, SHOWN).map(({ id, why }) => line('-', 'rule', id, why));
  return away.length > SHOWN ? [...lines, line('-', 'rule', undefined, `${away.length - SHOWN} others`)] : lines;
}

/** Why a rule looked away, and how many of its members are in the way. */
function awayOf(
  { id, action, match, when, hours }: AllowRule | DenyRule,
  question: Question,
  context: ReturnType<typeof contextFor>,
  decided: string | undefined,
): { id: string; mismatches: number; why: string } | undefined {
  const away = (what: string, mismatches = 1) => ({ id, mismatches, why: `this ${action} is for ${what}` });
  const mismatches = mismatchesOf(match, question);
  const [member] = mismatches;
  if (member) return away(`the ${member} ${membersOf(match)[member]}`, mismatches.length);
  if (when && context && heldBy({ when }, context) === false) return away(`when ${when.text.replace(/\s+/g, ' ')}`);
  if (action === 'deny' && hours && id !== decided && !windowOf({ hours }, question).inside) {
    return away(`the hours ${hoursText(hours)}`);
  }
  return undefined;
}

/** What a rule is for, as it is written. */
export function membersOf({
  servers = [],
  devices = [],
  protocols = [],
  ports = [],
}: Match): Record<keyof Match, string> {
  return {
    servers: servers.join(', '),
    devices: devices.map(selectorText).join(', '),
    protocols: protocols.join(', '),
    ports: ports.map(({ low, high }) => (low === high ? `${low}` : `${low}-${high}`)).join(', '),
  };
}

function line(mark: string, name: string, rule: string | undefined, seen: string): string {
  return `  ${mark.padEnd(4)}${name.padEnd(18)}${rule === undefined ? '' : `${rule}: `}${seen}`;
}
