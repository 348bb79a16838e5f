/** What is told without being asked: reports to MTC users, and to servers what becomes of their grants and triggers. */
import { reportBody } from '../api/report-routes.ts';
import { spacesOf } from '../closure/site.ts';
import type { Config } from '../config.ts';
import { type Log, monotonicMs } from '../core/ports.ts';
import type { Link } from '../dataplane/rtnetlink.ts';
import type { loadPushMaterial } from '../files/operator-files.ts';
import { newUlid, systemClock, systemRandom } from '../host.ts';
import type { Ledger } from '../inspector/ledger.ts';
import { openOutboxStore } from '../reports/outbox-store.ts';
import { openPoster } from '../reports/post.ts';
import type { Notifications } from '../triggers/ground.ts';
import { GrantEvents } from '../use-cases/grant-events.ts';
import { serverView } from '../use-cases/grant-views.ts';
import { guardedSpaces, Pushes, type PushParts } from '../use-cases/pushes.ts';
import type { Kept } from './kept.ts';
import type { Stop } from './upkeep.ts';

export type Telling = ReturnType<typeof openTelling>;

interface Teller {
  readonly config: Config;
  readonly kept: Kept;
  readonly material: ReturnType<typeof loadPushMaterial>;
  readonly ledger: Ledger;
  readonly links: () => readonly Link[];
  readonly pushed: PushParts['pushed'];
  readonly log: Log;
}

/** Without a key to sign with nothing is pushed; grants are told of by the API all the same. */
export function openTelling({ config, kept, material, ledger, links, pushed, log }: Teller, stops: Stop[]) {
  const { identities, policies } = kept;
  const spaces = spacesOf(config);
  const outboxStore = material.key && openOutboxStore(kept.file('outbox.db'), log, identities);
  const poster = openPoster({
    own: () => guardedSpaces(config, links()),
    cas: material.cas,
    ...(config.reports.resolvers && { resolvers: config.reports.resolvers }),
    nowMs: () => monotonicMs(systemClock),
  });
  const pushes =
    outboxStore &&
    new Pushes(
      {
        ...{ config, store: outboxStore, key: material.key, post: poster.post, pushed },
        ...{ denials: ledger.denials, spaces, reportBody, newId: newUlid },
        ...{ clock: systemClock, random: systemRandom, log },
      },
      policies.inForce.policy,
    );
  stops.push(
    () => outboxStore?.close(),
    () => pushes?.close(),
    () => poster.close(),
  );
  const grantEvents = new GrantEvents({
    ...{ pushes, sinks: outboxStore?.grantSinks, clock: systemClock, log },
    view: (record) => serverView(record, identities),
    keepsNumbers: identities.keep,
    warnSeconds: config.reports.endWarningSeconds,
  });
  const notifications: Notifications = {
    allowed: (server, url) => pushes?.allowed(server, url) ?? false,
    notify: async (server, url, body) => pushes?.notify(server, url, { id: newUlid(), data: JSON.stringify(body) }),
  };
  return { spaces, pushes, grantEvents, notifications };
}
