/**
 * What an operator can do about the policy in force: between the switch of
 * policies and the management interface.
 */
import type { EditionUseCases } from '../api/edition-routes.ts';
import type { Clock } from '../core/ports.ts';
import type { DeskSwitch } from '../desk/desk-switch.ts';
import { bounded, type EditionHead, type Who } from '../editions/edition.ts';
import { forecast } from '../editions/forecast.ts';
import type { NotDone, PolicySwitch } from '../editions/policy-switch.ts';
import type { Grants } from '../grants/grants.ts';
import type { GrantStore } from '../grants/store.ts';
import type { Ledger } from '../inspector/ledger.ts';
import { inWords } from '../policy/changes.ts';

interface Sources {
  readonly policies: PolicySwitch;
  /** What MTC users have said would hold under another policy too. */
  readonly desk: Pick<DeskSwitch, 'lay'>;
  readonly grants: Grants;
  readonly store: Pick<GrantStore, 'newest'>;
  readonly ledger: Pick<Ledger, 'newest'>;
  readonly clock: Clock;
  readonly userName: (uid: number) => Promise<string>;
}

/** More than are kept. */
const ALL = 1_000;

export function editionUseCases({ policies, desk, grants, store, ledger, clock, userName }: Sources): EditionUseCases {
  const past = {
    grants: (sinceMs: number) => store.newest(sinceMs),
    refusals: (sinceMs: number) => ledger.newest(sinceMs),
  };
  const whoIs = async (uid: number): Promise<Who> => ({ uid, name: await userName(uid) });
  const answer = (done: EditionHead | NotDone) =>
    'refused' in done ? done : { edition: done, liveGrants: grants.live.size };
  return {
    async diff(of) {
      const proposal = await policies.propose(of);
      if ('refused' in proposal) return proposal;
      const { digest, inForce, policy, warnings, changes } = proposal;
      return {
        ...{ digest, inForce, policy: policy.version },
        ...(proposal.of !== undefined && { of: proposal.of }),
        // What is being gone back from is not in force, though it is the last edition.
        isSame: digest === policies.inForce.edition.digest && policies.secondsLeft !== 0,
        warnings: bounded(warnings),
        changes: bounded(changes.map(inWords)),
        ...(await forecast(desk.lay(policy), grants, past, clock)),
      };
    },
    apply: async (wanted, byUid) => answer(await policies.apply(wanted, await whoIs(byUid))),
    confirm: async (byUid) => answer(await policies.confirm(await whoIs(byUid))),
    history: () => policies.history(ALL),
    edition: (number) => policies.edition(number),
  };
}
