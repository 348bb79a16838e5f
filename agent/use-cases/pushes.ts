/**
 * Pushes, put together: which sinks the policy in force names, where an event
 * goes, and what must never be connected. Without a key to sign with nothing
 * is pushed, and nothing is kept to be.
 */
import type { Config } from '../config.ts';
import { ownSpaces } from '../config.ts';
import { hostPrefix } from '../core/net.ts';
import type { Owned } from '../core/overlaps.ts';
import type { Clock, Log, Random } from '../core/ports.ts';
import { type Sink, sinkFor } from '../core/sinks.ts';
import type { MtcUserName, ServerName } from '../core/words.ts';
import type { Link } from '../dataplane/rtnetlink.ts';
import type { Denials } from '../inspector/denials.ts';
import type { Policy } from '../policy/policy.ts';
import { Courier } from '../reports/courier.ts';
import type { Destination, Outcome, Post } from '../reports/delivery.ts';
import { type NewEvent, Outbox, type OutboxStore, type QueuedEvent, type SinkId, sinkId } from '../reports/outbox.ts';
import { ReportPushes } from '../reports/report-pushes.ts';
import type { Report, Spaces } from '../reports/reports.ts';
import type { SigningKey } from '../reports/signature.ts';

export interface PushParts {
  readonly config: Pick<Config, 'gateway' | 'reports'>;
  readonly store: OutboxStore;
  readonly key: SigningKey;
  readonly post: Post;
  readonly pushed: (outcome: Outcome) => void;
  readonly denials: Denials;
  readonly spaces: Spaces;
  readonly reportBody: (report: Report) => object;
  readonly newId: () => string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** Attempts that are under way at once. */
const PLACES_MOST = 256;

export class Pushes {
  readonly #outbox: Outbox;
  readonly #courier: Courier;
  readonly #reports: ReportPushes;
  #policy: Policy;

  /** Begins at once with what was left over by the last start. */
  constructor(parts: PushParts, policy: Policy) {
    const { config, store, key, post, pushed, clock, random, log } = parts;
    this.#policy = policy;
    const { eventsPerSink, keepHours, everySeconds } = config.reports;
    const caps = { eventsPerSink, keepMs: keepHours * 3_600_000, placesMost: PLACES_MOST };
    this.#outbox = new Outbox(store, clock, random, log, caps);
    this.#outbox.retain(new Set(sinksOf(policy).keys()));
    const destinationOf = (event: QueuedEvent) => this.#destinationOf(event);
    const { gateway } = config;
    this.#courier = new Courier({ outbox: this.#outbox, gateway, key, post, destinationOf, pushed, clock, log });
    const { denials, spaces, reportBody: body, newId } = parts;
    const send = (sink: SinkId, event: NewEvent) => this.#courier.send(sink, event);
    this.#reports = new ReportPushes({ outbox: this.#outbox, denials, spaces, body, newId, clock, everySeconds, send });
    this.#reports.serve(policy.mtcUsers.values());
  }

  /** Serves the sinks of another policy; what waits for one that it has no more is forgotten. */
  switchPolicy(policy: Policy): void {
    this.#policy = policy;
    this.#outbox.retain(new Set(sinksOf(policy).keys()));
    this.#reports.serve(policy.mtcUsers.values());
  }

  /** What is due once a second. */
  tick(): void {
    this.#reports.tick();
    this.#courier.look();
  }

  /** Whether a server may have something sent to this URL: it lies below one of its sinks. */
  allowed(server: ServerName, url: string): boolean {
    return sinkFor(this.#policy.servers.get(server)?.sinks ?? [], url) !== undefined;
  }

  /** Sends an event of a server to a URL below one of its sinks; where there is none any more, nowhere. */
  notify(server: ServerName, url: string, event: Omit<NewEvent, 'url'>): void {
    const found = sinkFor(this.#policy.servers.get(server)?.sinks ?? [], url);
    if (found) this.#courier.send(sinkId('server', server, found.sink.name), { ...event, url: found.url });
  }

  /** Whether a server, or any, has a sink that is told of grants. */
  listens(server?: ServerName): boolean {
    const told = (sinks: readonly Sink[] = []) => sinks.some(({ events }) => events.includes('grants'));
    if (server !== undefined) return told(this.#policy.servers.get(server)?.sinks);
    return [...sinksOf(this.#policy).values()].some(({ sink }) => told([sink]));
  }

  /** Tells all sinks of a server that are told of grants. */
  tellServer(server: ServerName, event: NewEvent): void {
    for (const { name, events } of this.#policy.servers.get(server)?.sinks ?? [])
      if (events.includes('grants')) this.#courier.send(sinkId('server', server, name), event);
  }

  /** How every sink fares. */
  sinks() {
    const sinks = sinksOf(this.#policy);
    return this.#outbox.states().flatMap((state) => {
      const known = sinks.get(state.record.sink);
      return known ? { ...state, ...known } : [];
    });
  }

  close(): Promise<void> {
    return this.#courier.close();
  }

  #destinationOf({ sink: id, url }: QueuedEvent): Destination | undefined {
    const sink = sinksOf(this.#policy).get(id)?.sink;
    if (!sink || (url !== undefined && !sinkFor([sink], url))) return undefined;
    return { url: url ?? sink.url, ...(sink.ca !== undefined && { ca: sink.ca }) };
  }
}

interface OwnedSink {
  readonly role: 'server' | 'mtcUser';
  readonly party: ServerName | MtcUserName;
  readonly sink: Sink;
}

const SINKS = new WeakMap<Policy, ReadonlyMap<SinkId, OwnedSink>>();

/** All sinks that a policy names; read once of each policy. */
function sinksOf(policy: Policy): ReadonlyMap<SinkId, OwnedSink> {
  const known = SINKS.get(policy);
  if (known) return known;
  const parties = [
    ...[...policy.servers.values()].map((one) => ({ ...one, role: 'server' as const })),
    ...[...policy.mtcUsers.values()].map((one) => ({ ...one, role: 'mtcUser' as const })),
  ];
  const sinks = new Map(
    parties.flatMap(({ role, name: party, sinks = [] }) =>
      sinks.map((sink) => [sinkId(role, party, sink.name), { role, party, sink }] as const),
    ),
  );
  SINKS.set(policy, sinks);
  return sinks;
}

/** What is the gateway's own, or denied by agent.yaml: nothing is pushed there. */
export function* guardedSpaces(config: Config, links: readonly Link[]): Generator<Owned> {
  yield* ownSpaces(config);
  for (const { addresses } of links)
    for (const address of addresses) yield { prefix: hostPrefix(address), owner: 'an address of this host' };
  for (const prefix of config.reports.deniedDestinations) yield { prefix, owner: 'denied by agent.yaml' };
  for (const { name, addresses } of config.radius?.clients ?? [])
    for (const prefix of addresses) yield { prefix, owner: `RADIUS client ${name}` };
  for (const { nextHops } of [config.outside, ...config.inside])
    for (const hop of [nextHops.ipv4, nextHops.ipv6]) if (hop) yield { prefix: hostPrefix(hop), owner: 'a next hop' };
}
