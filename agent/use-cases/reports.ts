/**
 * What an MTC user can ask about who was turned away from its devices: between
 * the ledger and its API.
 */
import type { ReportUseCases } from '../api/report-routes.ts';
import type { MtcUserName } from '../core/words.ts';
import type { Account } from '../inspector/account.ts';
import type { Denials } from '../inspector/denials.ts';
import {
  byChange,
  matchesReport,
  type Report,
  type RolledUp,
  reportOf,
  rolledUpOf,
  type Spaces,
} from '../reports/reports.ts';
import type { PublicJwk } from '../reports/signature.ts';

/** What has changed is told this often: under a flood a report once, and not with every packet. */
const TELL_EVERY_MS = 200;

interface Sources {
  readonly denials: Pick<Denials, 'ofUser' | 'watch' | 'get'>;
  readonly account: () => Account;
  /** Since when the account runs; UTC. */
  readonly sinceMs: number;
  readonly spaces: Spaces;
  readonly signingKey: PublicJwk | undefined;
}

/** Those who follow the reports of one MTC user, and what they are to be told next. */
interface Followers {
  readonly tells: Set<(reports: readonly Report[]) => void>;
  readonly changed: Set<string>;
  timer?: NodeJS.Timeout;
}

export function reportUseCases({ denials, account, sinceMs, spaces, signingKey }: Sources): ReportUseCases & {
  /** All that an MTC user is told, the newest first: for the operator. */
  all(name: MtcUserName): { readonly reports: readonly Report[]; readonly rolledUp: readonly RolledUp[] };
} {
  const reportsOf = (name: MtcUserName) =>
    [...denials.ofUser(name)].flatMap((row) => reportOf(row, name, spaces) ?? []);
  const rolledUp = (name: MtcUserName) => [...denials.ofUser(name)].flatMap((row) => rolledUpOf(row, name) ?? []);
  const followed = new Map<MtcUserName, Followers>();
  const tell = (user: MtcUserName, followers: Followers) => {
    const rows = [...followers.changed].flatMap((id) => denials.get(id) ?? []);
    followers.changed.clear();
    const reports = rows.flatMap((row) => reportOf(row, user, spaces) ?? []);
    if (reports.length > 0) for (const one of followers.tells) one(reports);
  };
  denials.watch(({ id, mtcUser }) => {
    const followers = mtcUser && followed.get(mtcUser);
    if (!followers) return;
    followers.changed.add(id);
    followers.timer ??= setTimeout(() => {
      delete followers.timer;
      tell(mtcUser, followers);
    }, TELL_EVERY_MS).unref();
  });
  return {
    all: (name) => ({ reports: reportsOf(name).sort((a, b) => byChange(b, a)), rolledUp: rolledUp(name) }),
    reports: ({ name }, filter) => reportsOf(name).filter((report) => matchesReport(filter, report)),
    rolledUp: ({ name }) => rolledUp(name),
    unseen() {
      const { unsampled, lost } = account();
      return { sinceMs, unsampled, lost };
    },
    follow({ name }, tellOne) {
      const followers = followed.get(name) ?? { tells: new Set(), changed: new Set() };
      followed.set(name, followers);
      followers.tells.add(tellOne);
      return () => {
        followers.tells.delete(tellOne);
        if (followers.tells.size > 0) return;
        clearTimeout(followers.timer);
        followed.delete(name);
      };
    },
    signingKey,
  };
}
