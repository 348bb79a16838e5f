/**
 * What a change of policy does to live grants: those that it no longer allows
 * end, the others have the limits and the hours of now. The operator's comes
 * with an edition of the rule files, an MTC user's from its desk.
 *
 * Invariant: nothing here raises an end. The gate knows of every grant that
 * ends before one of them is waited for.
 */
import { momentIn } from '../core/boot-time.ts';
import { AgentError } from '../core/errors.ts';
import { OneAtATime } from '../core/one-at-a-time.ts';
import { breathe, faultsOf, inSlices, SLICE } from '../core/slices.ts';
import type { ExternalId, MtcUserName, ServerName } from '../core/words.ts';
import { innerOf } from '../directory/binding.ts';
import type { Policy } from '../policy/policy.ts';
import { authorises } from '../policy/policy-index.ts';
import { wishFor } from '../policy/preferences.ts';
import { CLOCK_LAG_NS, type Ground } from './ground.ts';
import type { Judge } from './judge.ts';
import type { EndCause } from './lifecycle.ts';
import type { LiveGrants } from './live.ts';
import { type GrantRecord, namesOf, suspendedNs, withEnd } from './record.ts';
import type { Sources } from './sources.ts';
import type { Unrecorded } from './unrecorded.ts';
import type { Waiting } from './waiting.ts';

/** Whose grants a change concerns alone. */
export interface Concerned {
  readonly server?: ServerName;
  readonly device?: ExternalId;
}

/** A grant that is to end, by what is needed for that. */
export interface Ending extends Pick<GrantRecord, 'id' | 'index' | 'number'> {
  readonly cause: EndCause;
}

/** What a change meets, and what ends, lowers and counts it (grants.ts). */
interface Granted {
  readonly live: LiveGrants;
  readonly judge: Judge;
  readonly sources: Sources;
  readonly unrecorded: Unrecorded;
  readonly waiting: Waiting;
  endAll(endings: readonly Ending[]): Promise<void>;
  limit(record: GrantRecord): void;
  countBegun(policy: Policy): Promise<void>;
}

export class PolicyChanges {
  readonly #ground: Ground;
  readonly #grants: Granted;
  readonly #switches = new OneAtATime();

  constructor(ground: Ground, grants: Granted) {
    this.#ground = ground;
    this.#grants = grants;
  }

  /**
   * Puts a policy in force: sources that no longer count leave the gate first,
   * then the grants end that it no longer allows, then new sources enter
   * (design, law 9). With them ends what waits for devices that are another MTC
   * user's by now. Two switches never interleave. An end that is not on
   * record yet holds up nothing: its packets have stopped, and the sweep writes
   * it. Where the gate fails it is this policy by halves: switch again, to it
   * or to the one before. Where it is a function it is asked in the turn in which
   * what it makes comes into force.
   */
  switchPolicy(made: Policy | (() => Policy)): Promise<void> {
    return this.#switches.inTurn(async () => {
      const policy = typeof made === 'function' ? made() : made;
      this.#grants.judge.policy = policy;
      await this.#grants.sources.withdraw(policy);
      for (const fault of await faultsOf([this.review(), this.#grants.waiting.review()]))
        if (!(fault instanceof AgentError) || fault.code !== 'storeFailed') throw fault;
      await this.#grants.sources.admit(policy);
      await this.#grants.countBegun(policy); // devices may have another owner
      await this.#grants.judge.tellStagedEnds();
    });
  }

  /**
   * Ends every live grant that may not stay open; the others have the limits
   * of now, and the end that hours of a rule now give them, if that is sooner.
   * Of all of them the gate knows before one is waited for.
   */
  async review(): Promise<void> {
    const { dataplane, clock } = this.#ground;
    const objected: Ending[] = [];
    const lowered: GrantRecord[] = [];
    let looked = 0;
    for (const record of this.#grants.live.all()) {
      const { objection: cause, record: now, closesAtMs } = this.#grants.judge.standing(record);
      if (cause) {
        const { id, index, number } = record;
        dataplane.end(index, number, clock.monotonicNs() - CLOCK_LAG_NS);
        objected.push({ id, index, number, cause });
      } else {
        if (now !== record) this.#grants.limit(now);
        const lower = closesAtMs === undefined ? undefined : this.#closeAt(now, closesAtMs);
        if (lower) lowered.push(lower);
      }
      looked += 1;
      if (looked % SLICE === 0) await breathe();
    }
    const faults = await faultsOf([
      this.#grants.endAll(objected),
      inSlices(lowered, (record) => this.#grants.unrecorded.lower(record)),
    ]);
    if (faults.length > 0) throw faults[0];
  }

  /**
   * Puts in force what an MTC user has said, laid over the policy that is: no
   * other's grants are looked at. Those that it does not authorise or want any
   * more are closed in the gate in this turn, and their ends, like those of what
   * waits, are on record when this resolves. `only`: nothing else has changed
   * but what this server may, or what is wanted of this device, and no other
   * grant is looked at. @throws AgentError storeFailed; they have ended all the same
   */
  async heed(mtcUser: MtcUserName, policy: Policy, only: Concerned = {}): Promise<void> {
    const { clock } = this.#ground;
    this.#grants.judge.policy = policy;
    const nowMs = clock.nowMs();
    const endings: Ending[] = [];
    const closing: { readonly record: GrantRecord; readonly closesAtMs: number }[] = [];
    for (const record of this.#concerned(mtcUser, only)) {
      const { id, index, number } = record;
      const { objection: cause, closesAtMs } = wantedBy(policy, record, nowMs);
      if (cause) endings.push({ id, index, number, cause });
      else if (closesAtMs < record.expiresAtMs) closing.push({ record, closesAtMs });
    }
    const ended = this.#grants.endAll(endings);
    const lowered = closing.flatMap(({ record, closesAtMs }) => this.#closeAt(record, closesAtMs) ?? []);
    const faults = await faultsOf([
      ended,
      inSlices(lowered, (record) => this.#grants.unrecorded.lower(record)),
      this.#grants.waiting.heed(mtcUser, (request) => REFUSED_AS[wantedBy(policy, request, nowMs).objection ?? 'none']),
    ]);
    if (faults.length > 0) throw faults[0];
  }

  /** A device's grants lead to what it holds: all others have ended. */
  #concerned(mtcUser: MtcUserName, { server, device }: Concerned): Iterable<GrantRecord> {
    if (device === undefined) return this.#grants.live.ofMtcUser(mtcUser, server);
    const inners = this.#ground.directory.bindingsOf(device).flatMap((one) => innerOf(one) ?? []);
    return inners.flatMap((inner) => this.#grants.live.atInner(inner)).filter((record) => record.mtcUser === mtcUser);
  }

  /** Lowers a grant's end in the gate and in memory to an instant in UTC; what is returned is still to be written. */
  #closeAt(record: GrantRecord, closesAtMs: number): GrantRecord | undefined {
    const { dataplane, clock, log } = this.#ground;
    const expiresAtNs = momentIn(closesAtMs - clock.nowMs(), clock.boottimeNs());
    if (expiresAtNs >= record.expiresAtNs) return undefined;
    const lowered = withEnd(record, expiresAtNs);
    dataplane.end(record.index, record.number, expiresAtNs - suspendedNs(clock));
    this.#grants.live.put(lowered);
    log.info({ ...namesOf(record), until: lowered.expiresAtMs }, 'grantLowered');
    return lowered;
  }
}

/** What a request that waits ends with where a grant would with this. */
const REFUSED_AS = { serverUnauthorised: 'notAuthorisedByMtcUser', unwanted: 'unwanted', none: undefined } as const;

/** Whether an MTC user lets a server's grant on its device stay, and until when. */
function wantedBy(
  policy: Policy,
  { mtcUser, server, device }: Pick<GrantRecord, 'mtcUser' | 'server' | 'device'>,
  nowMs: number,
): { readonly objection?: 'serverUnauthorised' | 'unwanted'; readonly closesAtMs: number } {
  const user = policy.mtcUsers.get(mtcUser);
  const { unwanted, untilMs: closesAtMs } = wishFor(policy, mtcUser, device, nowMs);
  if (!user || !authorises(user, server)) return { objection: 'serverUnauthorised', closesAtMs };
  return unwanted === undefined ? { closesAtMs } : { objection: 'unwanted', closesAtMs };
}
