/**
 * How a live grant lives longer. The whole request path is gone again, with
 * the policy in force now, for the grant as it stands; what the rule gives now
 * counts from now, and its totalSeconds from the grant's beginning.
 *
 *     record       T1 ── decided ──▶ T2 (durable) ─┬─ nothing has changed ─▶ T2
 *     gate's end   T1 ─────────────────────────────┴─ in the same turn ────▶ T2
 *
 * Invariants:
 * - both steps compare before they exchange: the record must still say T1, and
 *   the gate too, alive. An entry that has died is not revived;
 * - where anything has changed meanwhile, the record comes down to T1 again, or
 *   ends; after a crash in between, T1 holds (reconcile.ts);
 * - an extension never shortens, and never gives more than the deciding rule.
 *
 * Lives are measured on the boot's clock: UTC may jump.
 */

import { orNotRecorded } from '../core/not-recorded.ts';
import type { Clock } from '../core/ports.ts';
import type { Refusal, Refuse } from '../core/refusals.ts';
import { type Asker, upperSnake } from '../core/words.ts';
import type { Allowed } from '../policy/decide.ts';
import { versionFor } from '../policy/policy.ts';
import type { Grants } from './grants.ts';
import type { Ground } from './ground.ts';
import { type GrantRecord, limitsOf, namesOf, type Retry, suspendedNs, withEnd } from './record.ts';

export class Extensions {
  readonly #ground: Ground;
  readonly #grants: Grants;

  constructor(ground: Ground, grants: Grants) {
    this.#ground = ground;
    this.#grants = grants;
  }

  /**
   * Extends a grant of this server. Returns it as it is then: unchanged where
   * it lives for longer than was asked. @throws AgentError where the gate fails;
   * then it has the end it had.
   */
  extend(who: Asker, id: string, durationSeconds: number): Promise<GrantRecord | Refusal> {
    const asked = { server: who.name, correlator: who.correlator, from: who.requestAddress.text, grant: id };
    const refuse: Refuse = (reason, facts) => this.#ground.refuse(reason, { ...asked, ...facts });
    const request = () => JSON.stringify(['extend', id, durationSeconds]);
    return orNotRecorded(refuse, () =>
      this.#grants.retries.once(who, request, refuse, (retry) => this.#extend(who, id, durationSeconds, refuse, retry)),
    );
  }

  async #extend(
    who: Asker,
    id: string,
    durationSeconds: number,
    refuse: Refuse,
    retry?: Retry,
  ): Promise<GrantRecord | Refusal> {
    const { clock, dataplane, store, log, metrics } = this.#ground;
    const grants = this.#grants;

    if (grants.waiting.show(who, id)?.state === 'waiting')
      return refuse('grantWaits', { why: 'it waits for its device' });
    const record = grants.show(who, id);
    if (!record) return refuse('grantNotFound', { why: 'no grant of this server has this id' });
    if (record.expiresAtNs <= clock.boottimeNs()) await grants.end(record, 'expired');
    const hasEnded = () => {
      const endCause = grants.show(who, id)?.endCause ?? 'expired';
      return refuse('grantEnded', { why: endCause, members: { endCause: upperSnake(endCause) } });
    };
    if (!grants.live.get(id)) return hasEnded();
    if (grants.judge.hasOtherOwner(record)) {
      await grants.end(record, 'ownerChanged'); // before the switch of policies comes to it, which is under way
      return hasEnded();
    }
    if (record.state === 'held') return refuse('grantHeld', { why: 'its binding is to be confirmed' });

    const notReady = this.#ground.notReady(record.inner.realm);
    if (notReady) return refuse(notReady.reason, { why: notReady.why });

    const { policy } = grants;
    const { grantsOnDevice, grantsOfServer, requestsInLastMinute } = grants.judge.usageOf(who.name, record.device);
    const others = { grantsOnDevice: grantsOnDevice - 1, grantsOfServer: grantsOfServer - 1, requestsInLastMinute };
    const { question, decision } = grants.judge.again(record, durationSeconds, others);
    grants.judge.count(who, decision);
    grants.judge.tellStaged(question, decision, { ...namesOf(record), requestCorrelator: who.correlator });
    if (decision.verdict === 'refuse') return refuse(decision.reason, grants.judge.factsOf(who, decision));
    const { rule } = decision;
    const objection = grants.judge.standing(record).objection;
    if (objection) return refuse('deviceUnreachable', { why: objection, rule });

    const policyVersion = versionFor(policy, decision.mtcUser);
    const by = { certificate: who.certificate, policyVersion };
    const extended = extendedBy(record, decision, by, clock);
    if (extended === 'exhausted') {
      return refuse('lifetimeExhausted', { why: `it lives for the ${decision.totalSeconds} s of its rule`, rule });
    }
    if (extended === record) return record;

    const openUntilNs = dataplane.entry(record.index)?.endNs ?? 0n;
    const isExtended = await store.extend(extended, record.expiresAtNs, retry).catch(async (fault) => {
      await this.#lower(record).catch(() => {}); // it may say so all the same; a later sweep sees to it
      throw fault;
    });
    if (!isExtended) {
      if (!grants.live.get(id)) return hasEnded();
      return refuse('changedWhileDeciding', { why: 'its end on record is another by now', rule });
    }

    // The commit took its time: look again, and raise the end in this same turn.
    if (!grants.live.get(id)) return hasEnded(); // whoever ended it writes the end it had
    const changed =
      this.#ground.notReady(record.inner.realm)?.why ??
      (versionFor(grants.policy, decision.mtcUser) === policyVersion
        ? grants.judge.standing(record).objection
        : 'ruleChanged');
    try {
      const endNs = extended.expiresAtNs - suspendedNs(clock);
      if (!changed && dataplane.extend(record.index, record.number, openUntilNs, endNs)) {
        grants.limit(extended);
        metrics.extended();
        log.info(
          { ...namesOf(record), requestCorrelator: who.correlator, rule, until: extended.expiresAtMs },
          'grantExtended',
        );
        return extended;
      }
    } catch (fault) {
      await this.#lower(record);
      throw fault;
    }
    if (record.expiresAtNs <= clock.boottimeNs()) {
      await grants.end(record, 'expired');
      return hasEnded();
    }
    await this.#lower(record);
    return refuse('changedWhileDeciding', { why: changed ?? 'its end in the gate is another by now', rule });
  }

  /** The record comes down to the end it had, or to the sooner one that it has got meanwhile. */
  #lower(record: GrantRecord): Promise<void> {
    return this.#grants.unrecorded.lower(this.#grants.live.get(record.id) ?? record);
  }
}

/** The grant with the end that a decision gives it; itself where that is no later than its own. */
function extendedBy(
  record: GrantRecord,
  decision: Allowed,
  by: Pick<GrantRecord, 'certificate' | 'policyVersion'>,
  clock: Clock,
): GrantRecord | 'exhausted' {
  const { rule, durationSeconds, totalSeconds, closesAtMs = Number.POSITIVE_INFINITY } = decision;
  const nowNs = clock.boottimeNs();
  const grantedMs = Math.min(durationSeconds * 1000, closesAtMs - clock.nowMs()); // some time has passed since it was decided
  // In whole milliseconds, so that both of its ends move by the same, and its life adds up.
  const wantedMs = grantedMs - Math.ceil(Number(record.expiresAtNs - nowNs) / 1e6);
  const leftMs = totalSeconds * 1000 - (record.expiresAtMs - record.startedAtMs);
  if (wantedMs <= 0) return record;
  if (leftMs <= 0) return 'exhausted';
  const endNs = record.expiresAtNs + BigInt(Math.min(wantedMs, leftMs)) * 1_000_000n;
  const grantedSeconds = Math.ceil(Number(endNs - nowNs) / 1e9);
  return { ...withEnd(record, endNs), ...by, rule, grantedSeconds, limits: limitsOf(decision) };
}
