/**
 * The tests that operators write beside their rules, run at every check and
 * before a policy comes into force. They ask `decide` and
 * `decideTrigger` (of packets: the model, packet-tests.ts) and no one else, so that a test that passes is what the
 * gateway will do.
 *
 * A test has no directory and no network: its device is taken to be bound in
 * every family the server has sources in, and its request to come from the
 * first address of the first source of the family asked for.
 */
import { byPlace, type Issue } from '../core/document.ts';
import { addressAt, type Family } from '../core/net.ts';
import type { ServerName } from '../core/words.ts';
import { type Decision, decide } from './decide.ts';
import { decideTrigger } from './decide-trigger.ts';
import { runPacketTests } from './packet-tests.ts';
import type { WalkSite } from './packet-walk.ts';
import type { Policy, PolicyTest } from './policy.ts';
import type { Question } from './question.ts';

/** The tests that fail, each at its place. */
export function runPolicyTests(policy: Policy, site?: WalkSite): Issue[] {
  return [...runRequestTests(policy), ...runTriggerTests(policy), ...runPacketTests(policy, site)].sort(byPlace);
}

function runRequestTests(policy: Policy): Issue[] {
  return policy.tests.flatMap((test) => {
    const decision = decide((test.staged && policy.staged) || policy, questionOf(policy, test));
    return failureOf(test, expectationOf(test), findingOf(test, decision), decision);
  });
}

function runTriggerTests(policy: Policy): Issue[] {
  return policy.triggerTests.flatMap((test) => {
    const { trigger, attributes, usage, nowMs = 'anyTime', expect } = test;
    const { device, validitySeconds: durationSeconds, ...asked } = trigger;
    const boundFamilies = familiesOf(policy, trigger.server);
    const decision = decideTrigger((test.staged && policy.staged) || policy, {
      ...asked,
      device: { externalId: device, attributes, boundFamilies },
      protocol: 'udp',
      durationSeconds,
      usage,
      nowMs,
    });
    const expected = 'refuse' in expect ? `refuse ${expect.refuse}` : `allow ${expect.allow}`;
    const found = decision.verdict === 'refuse' ? `refuse ${decision.reason}` : `allow ${decision.rule}`;
    return failureOf(test, expected, found, decision);
  });
}

function failureOf(
  { name, place }: Pick<PolicyTest, 'name' | 'place'>,
  expected: string,
  found: string,
  decision: { readonly verdict: 'allow' } | { readonly verdict: 'refuse'; readonly why: string },
): Issue[] {
  if (expected === found) return [];
  const why = decision.verdict === 'refuse' ? ` (${decision.why})` : '';
  return [{ ...place, message: `test "${name}": expected ${expected}, found ${found}${why}` }];
}

function familiesOf(policy: Policy, server: ServerName): Family[] {
  return [...new Set((policy.servers.get(server)?.sources ?? []).map(({ family }) => family))];
}

function expectationOf({ expect }: PolicyTest): string {
  if ('refuse' in expect) return `refuse ${expect.refuse}`;
  return `allow ${expect.allow}${expect.durationSeconds === undefined ? '' : ` for ${expect.durationSeconds} s`}`;
}

/** In the words of the expectation, so that the two are equal where the test passes. */
function findingOf({ expect }: PolicyTest, decision: Decision): string {
  if (decision.verdict === 'refuse') return `refuse ${decision.reason}`;
  const timed = 'allow' in expect && expect.durationSeconds !== undefined;
  return `allow ${decision.rule}${timed ? ` for ${decision.durationSeconds} s` : ''}`;
}

function questionOf(policy: Policy, { request, attributes, nowMs, usage }: PolicyTest): Question {
  const { device, from, ...asked } = request;
  const sources = policy.servers.get(request.server)?.sources ?? [];
  const boundFamilies = familiesOf(policy, request.server);
  const named = asked.applicationServer === 'all' ? undefined : asked.applicationServer;
  const family: Family = asked.ipFamily ?? named?.family ?? (boundFamilies.includes('ipv4') ? 'ipv4' : 'ipv6');
  const source = sources.find((prefix) => prefix.family === family) ?? sources[0];
  if (!source) throw new RangeError(`the policy has no server ${request.server}`);
  return {
    ...asked,
    device: { externalId: device, attributes, boundFamilies },
    requestAddress: from ?? addressAt(source, 0n),
    usage,
    nowMs: nowMs ?? 'anyTime',
  };
}
