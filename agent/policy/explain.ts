/**
 * A decision and a policy as text, for operators: every step that was taken,
 * in order, with what was seen; and the rules that looked away, with why.
 * The outside never reads any of it.
 */
import type { MtcUserName, ServerName } from '../core/words.ts';
import { type Decision, mismatchesOf, type Question, type TraceLine } from './decide.ts';
import { selectorText } from './groups.ts';
import type { AllowRule, DenyRule, Match, Policy } from './policy.ts';

/** One line for the outcome, one for each step, one for each rule that does not match: of many, the nearest. */
export function explain(policy: Policy, question: Question, decision: Decision): string[] {
  return [outcome(question, decision), ...decision.trace.map(step), ...lookedAway(policy, question, decision)];
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

function outcome({ server, device, protocol, port }: Question, decision: Decision): string {
  const request = `${server} to ${device?.externalId ?? 'an unknown device'}, ${protocol} port ${port}`;
  if (decision.verdict === 'refuse') {
    const by = decision.rule === undefined ? '' : ` by ${decision.rule}`;
    return `${request}: refused${by}, ${decision.reason} (${decision.why})`;
  }
  const { rule, durationSeconds, totalSeconds } = decision;
  return `${request}: allowed by ${rule}, for ${durationSeconds} s, ${totalSeconds} s with extensions`;
}

function step({ step: name, seen, rule, reason }: TraceLine): string {
  return line(reason ? 'no' : 'yes', name, rule, seen);
}

/** So many rules that looked away are shown: those that came nearest. */
const SHOWN = 20;

/** Only where the request came to the rules. */
function lookedAway({ allows, denies }: Policy, question: Question, { trace }: Decision): string[] {
  if (!trace.some(({ step: name }) => name === 'rule')) return [];
  const away = nearest([...denies, ...allows], question);
  const lines = away.slice(0, SHOWN).map(({ rule: { id, action, match }, mismatches: [member] }) => {
    return line('-', 'rule', id, `this ${action} is for the ${member} ${member && membersOf(match)[member]}`);
  });
  return away.length > SHOWN ? [...lines, line('-', 'rule', undefined, `${away.length - SHOWN} others`)] : lines;
}

/** The rules that do not match, those first of which the fewest members are in the way. */
function nearest<Rule extends AllowRule | DenyRule>(rules: readonly Rule[], question: Question) {
  return rules
    .map((rule) => ({ rule, mismatches: mismatchesOf(rule.match, question) }))
    .filter(({ mismatches }) => mismatches.length > 0)
    .sort((a, b) => a.mismatches.length - b.mismatches.length);
}

function membersOf({ servers = [], devices = [], protocols = [], ports = [] }: Match): Record<keyof Match, string> {
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
