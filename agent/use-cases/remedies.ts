/**
 * Of something that did not pass, or has ended: what would have to change for
 * it to pass, and what the policy in force makes of it now, which may be
 * another than the one that decided then. Between ledger, grants and policy.
 */
import type { PolicyNow } from '../api/denial-routes.ts';
import type { OperatorGrantDetail } from '../api/operator-rows.ts';
import { contains, parseAddress } from '../core/net.ts';
import { REFUSALS } from '../core/refusals.ts';
import type { Grants } from '../grants/grants.ts';
import { END_CAUSES } from '../grants/lifecycle.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { Denial } from '../inspector/denials.ts';
import type { Ledger } from '../inspector/ledger.ts';
import { type KeptRefusal, requestOf } from '../inspector/refusals.ts';
import type { Decision } from '../policy/decide.ts';
import { explain } from '../policy/explain.ts';
import { NO_USAGE, versionFor } from '../policy/policy.ts';
import type { Question } from '../policy/question.ts';
import { sourcesText, whatWouldPass } from '../policy/remedy.ts';

export interface Remedy {
  /** What would have to change, the nearest first; empty where nothing can be computed. */
  readonly toPass: readonly string[];
  readonly now?: PolicyNow;
}

export interface Remedies {
  ofRefusal(refusal: KeptRefusal): Remedy;
  ofDenial(denial: Denial): Remedy;
  /** Why a grant was given, and how it ended; undefined where there is none of this id. */
  ofGrant(
    id: string,
  ): (Remedy & { readonly grant: OperatorGrantDetail; readonly meaning: string; readonly advice: string }) | undefined;
}

/** The steps that policy decides: of the others it knows nothing. */
const DECIDED = ['device', 'mtcUser', 'rule', 'preference', 'applicationServer', 'filter', 'rate', 'quota'];

export function remediesOf(
  grants: Grants,
  ledger: Pick<Ledger, 'refusals'>,
  detailOf: (record: GrantRecord) => OperatorGrantDetail,
): Remedies {
  const now = (
    question: Question,
    decision: Decision,
    policyThen: string | undefined,
    policy = grants.policy.version,
  ): PolicyNow => ({
    policy,
    ...(policyThen !== undefined && { hasChanged: policyThen !== policy }),
    verdict: decision.verdict,
    why: explain(grants.policy, question, decision)[0] ?? '',
  });

  const ofRefusal = (refusal: KeptRefusal): Remedy => {
    const asked = requestOf(refusal);
    if (!asked) return { toPass: [] };
    const { question, decision } = grants.judge.decide(asked.who, asked.ask);
    const wasDecided = DECIDED.includes(refusal.step);
    const passes = wasDecided
      ? 'nothing: the policy in force would allow it now'
      : `the rules allow it: what was in the way is the step ${refusal.step} (${refusal.why})`;
    return {
      toPass: decision.verdict === 'allow' ? [passes] : whatWouldPass(grants.policy, question, decision),
      now: now(question, decision, refusal.policy),
    };
  };

  const ofPacket = ({ reason, source, grant }: Denial): Remedy => {
    const record = grant && grants.find(grant);
    if (!record) return { toPass: [] };
    if (record.state === 'ended') return { toPass: [`${endText(record)}; the server must ask for a new grant`] };
    return { toPass: reason === 'wrongSource' ? wrongSource(record, source) : [] };
  };

  /** For which source a grant is, and how another could be. */
  const wrongSource = ({ id, server, remote, remotePort }: GrantRecord, source: string): string[] => {
    const seen = parseAddress(source);
    const sources = grants.policy.servers.get(server)?.sources ?? [];
    const isOurs = seen !== undefined && sources.some((prefix) => contains(prefix, seen));
    const port = remotePort > 0 ? ` port ${remotePort}` : '';
    const granted = remote === 'all' ? `all sources of ${server} (${sourcesText(sources)})` : `${remote.text}${port}`;
    const first = `grant ${id} is for packets from ${granted}, and this one came from ${source}`;
    if (isOurs && seen.text === (remote === 'all' ? '' : remote.text)) return [`${first} and another port`];
    if (isOurs) return [first, `${server} must name applicationServer ${source} when it asks`];
    return [first, `\`sources\` of ${server} must have a prefix with ${source} (now: ${sourcesText(sources)})`];
  };

  return {
    ofRefusal,
    ofDenial(denial) {
      if (denial.kind === 'packet') return ofPacket(denial);
      if (denial.kind !== 'request' || !(denial.reason in REFUSALS)) return { toPass: [] };
      const { server, device, reason } = denial;
      const [newest] = ledger.refusals({ server, device, reason }, 1);
      return newest ? ofRefusal(newest) : { toPass: [] };
    },
    ofGrant(id) {
      const record = grants.find(id);
      if (!record) return undefined;
      const { question, decision } = grants.judge.again(record, record.grantedSeconds, NO_USAGE);
      const hasEnded = record.state === 'ended';
      const meaning = `${record.rule} allowed it under policy ${record.policyVersion}; ${hasEnded ? endText(record) : 'it is live'}`;
      const again = decision.verdict === 'allow' ? ['nothing: the policy in force would grant it again'] : [];
      return {
        grant: detailOf(record),
        meaning,
        advice: hasEnded ? 'The server asks for a new one.' : 'Nothing: `mtgate grants revoke` ends it.',
        toPass: hasEnded ? [...again, ...whatWouldPass(grants.policy, question, decision)] : [],
        now: now(question, decision, record.policyVersion, versionFor(grants.policy, record.mtcUser)),
      };
    },
  };
}

function endText({ id, endCause, endedAtMs }: GrantRecord): string {
  const when = endedAtMs === undefined ? '' : ` at ${new Date(endedAtMs).toISOString()}`;
  return `grant ${id} ended${when}: ${endCause ? END_CAUSES[endCause] : 'its cause is not known'}`;
}
