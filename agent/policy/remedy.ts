/**
 * What would have to change for a refused request to pass, by the policy that
 * refused it: computed from its rules, for operators. Where several things
 * would do, the nearest come first.
 */
import type { Place } from '../core/document.ts';
import { contains, type Prefix } from '../core/net.ts';
import type { Decision } from './decide.ts';
import { membersOf } from './explain.ts';
import { matchesName } from './patterns.ts';
import type { AllowRule, DenyRule, Match, Policy } from './policy.ts';
import { mtcUserOf } from './policy-index.ts';
import { mismatchesOf, type Question } from './question.ts';

/** So many rules that came near are told. */
const NEAREST = 3;
/** A list that is longer is cut: it is a hint, and stands in the rule files. */
const TEXT_MOST = 160;

export function whatWouldPass(policy: Policy, question: Question, decision: Decision): string[] {
  if (decision.verdict === 'allow') return [];
  const rule = [...policy.denies, ...policy.allows].find(({ id }) => id === decision.rule);
  switch (decision.reason) {
    case 'deviceUnknown':
      return ['the device must be registered (devices file or import), by the identifier that was used'];
    case 'notAuthorisedByMtcUser':
      return unauthorised(policy, question);
    case 'noRuleAllows':
      return nearestAllows(policy, question);
    case 'deniedByRule':
      return rule ? [`deny ${named(rule)} must not match: it is for ${whatFor(rule.match)}`] : [];
    case 'unwanted':
      return [`${decision.why}; the MTC user must take that back`];
    case 'conditionFailed':
      return rule?.when ? [`the condition of ${named(rule)} must say true or false: ${cut(rule.when.text)}`] : [];
    case 'applicationServerNotAllowed':
    case 'applicationServerRequired':
      return applicationServer(policy, question, rule);
    case 'familyMismatch':
      return ['ipFamily must be the family of applicationServer, or be left out'];
    default:
      return [`${decision.why}${rule ? `: ${named(rule)} must allow more` : ''}`];
  }
}

/** Whose prefix an address would have to be in, bounded; for people. */
export function sourcesText(sources: readonly Prefix[]): string {
  return cut(sources.map(({ text }) => text).join(', ')) || 'none';
}

function unauthorised(policy: Policy, { server, device }: Question): string[] {
  const user = device && mtcUserOf(policy, device.externalId);
  if (!user) return [`an MTC user must own the device: no pattern in \`devices\` of one matches ${device?.externalId}`];
  const isSet = policy.desk !== undefined && policy.desk.over.mtcUsers.get(user.name) !== user;
  const add = isSet
    ? `MTC user ${user.name}, which has set its servers itself, must authorise ${server} (mtgate users show ${user.name})`
    : `MTC user ${user.name} must have ${server} in its \`authorises\``;
  if (user.mayAuthorise.some((pattern) => matchesName(pattern, server))) return [add];
  const may = cut(user.mayAuthorise.map(({ text }) => text).join(', ')) || 'nobody';
  return [`${add}, and its \`mayAuthorise\` must admit it (now: ${may})`];
}

function nearestAllows({ allows }: Policy, question: Question): string[] {
  const away = allows
    .map((rule) => ({ rule, mismatches: mismatchesOf(rule.match, question) }))
    .sort((a, b) => a.mismatches.length - b.mismatches.length)
    .slice(0, NEAREST);
  if (away.length === 0) return ['an allow rule must match: there is none'];
  return away.map(({ rule, mismatches }) => {
    const missing = mismatches.map((member) => missed(member, rule.match, question));
    if (rule.when && missing.length === 0) missing.push(`its condition does not hold: ${cut(rule.when.text)}`);
    return `allow ${named(rule)}: ${missing.join('; ')}`;
  });
}

/** `port 5684 is not in 5683, 61616-61631`. */
function missed(member: keyof Match, match: Match, { server, device, protocol, port }: Question): string {
  const asked = { servers: server, devices: device?.externalId, protocols: protocol, ports: port }[member];
  return `${member.slice(0, -1)} ${asked} is not in ${cut(membersOf(match)[member])}`;
}

function applicationServer({ servers }: Policy, question: Question, rule?: AllowRule | DenyRule): string[] {
  const { server, applicationServer: named_, requestAddress } = question;
  const sources = servers.get(server)?.sources ?? [];
  const isRuleOff = named_ === 'all' && rule?.action === 'allow' && !rule.allApplicationServers;
  if (isRuleOff) return [`the server must name one address, or ${named(rule)} have \`applicationServer: all\``];
  const host = named_ && named_ !== 'all' ? named_ : requestAddress;
  const own = `\`sources\` of ${server} (${sourcesText(sources)})`;
  if (sources.some((source) => contains(source, host))) {
    return [`the server must name an applicationServer of the family it asks for, within ${own}`];
  }
  return [`${host.text} must be within ${own}, or the server name an applicationServer that is`];
}

function whatFor(match: Match): string {
  const members = membersOf(match);
  const said = (Object.keys(match) as (keyof Match)[]).filter((member) => match[member]);
  return said.map((member) => `the ${member} ${cut(members[member])}`).join(', ') || 'every request';
}

function named({ id, place }: { readonly id: string; readonly place: Place }): string {
  return `${id} (${place.file}:${place.line})`;
}

function cut(text: string): string {
  const line = text.replace(/\s+/g, ' ');
  return line.length > TEXT_MOST ? `${line.slice(0, TEXT_MOST)}…` : line;
}
