/** What servers are told of their grants without asking, by the clock of the test. */
import { beforeEach, describe, expect, test } from 'vitest';
import type { GrantRecord } from '../../agent/grants/record.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { GrantEvents } from '../../agent/use-cases/grant-events.ts';
import { serverView } from '../../agent/use-cases/grant-views.ts';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { ask, HEAD_END, inner, M2, OTHER, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { digest } from '../rules.ts';

interface Told {
  readonly event: string;
  readonly grant: { readonly grantId: string; readonly status: string; readonly endCause?: string };
}

let gateway: TestGateway;
let told: Told[];
const what = () => told.map(({ event, grant }) => `${event} ${grant.grantId}`);
const listen = (who = HEAD_END, into = told) =>
  gateway.events.follow(who.name, (events) => {
    for (const { event, data } of events) into.push({ event, grant: JSON.parse(data) });
  });
/** Second by second, as the agent does. */
async function pass(seconds: number): Promise<void> {
  for (let i = 0; i < seconds; i++) {
    gateway.clock.pass(1);
    await gateway.grants.sweep();
    gateway.events.tick(gateway.grants.live);
  }
}

beforeEach(async () => {
  gateway = await TestGateway.started();
  told = [];
});

describe('a follower', () => {
  test('hears that a grant is about to end, once, and that it has ended and why', async () => {
    listen();
    const { id } = (await gateway.grants.request(HEAD_END, ask({ durationSeconds: 120 }))) as GrantRecord;
    await pass(58);
    expect(what()).toEqual([]);
    await pass(4);
    expect(what()).toEqual([`ending ${id}`]);
    await pass(70);
    expect(what()).toEqual([`ending ${id}`, `ended ${id}`]);
    expect(told[1]?.grant).toMatchObject({ status: 'ENDED', endCause: 'EXPIRED' });
  });

  test('hears again that it is about to end where it was extended', async () => {
    listen();
    const grant = (await gateway.grants.request(HEAD_END, ask({ durationSeconds: 120 }))) as GrantRecord;
    await pass(62);
    await gateway.extensions.extend(HEAD_END, grant.id, 600);
    await pass(520);
    expect(what()).toEqual([`ending ${grant.id}`]);
    await pass(30);
    expect(what()).toEqual([`ending ${grant.id}`, `ending ${grant.id}`]);
  });

  test('hears that one which waited is granted, or waits no more', async () => {
    listen();
    const waits = (port: number) =>
      gateway.grants.requestOrWait(
        HEAD_END,
        ask({ device: { networkAccessIdentifier: M2 }, devicePort: port, durationSeconds: 600 }),
        30,
      );
    const granted = (await waits(5683)) as GrantRecord;
    await gateway.bindings.bind(M2, inner('10.20.0.3'));
    expect(what()).toEqual([`granted ${granted.id}`]);
    expect(told[0]?.grant).toMatchObject({ status: 'LIVE' });
    await gateway.bindings.unbind(inner('10.20.0.3'));
    const inVain = (await waits(7000)) as GrantRecord;
    await pass(32);
    expect(what()).toEqual([`granted ${granted.id}`, `ended ${granted.id}`, `ended ${inVain.id}`]);
    expect(told[2]?.grant).toMatchObject({ status: 'ENDED', endCause: 'WAITED_TOO_LONG' });
  });

  test('hears nothing of other servers, and nothing when it has gone', async () => {
    const others: Told[] = [];
    const leave = listen(OTHER, others);
    const { id } = (await gateway.grants.request(HEAD_END, ask())) as GrantRecord;
    await gateway.grants.end({ id }, 'endedByServer');
    expect(others).toEqual([]);
    leave();
    listen()();
    const again = (await gateway.grants.request(HEAD_END, ask())) as GrantRecord;
    await gateway.grants.end(again, 'endedByServer');
    expect(told).toEqual([]);
  });
});

describe('a sink', () => {
  const pushed: string[] = [];
  const sinks = new Map<string, string>();
  const store = {
    all: () => sinks,
    keep: (grant: string, url: string) => void sinks.set(grant, url),
    forget: (grant: string) => void sinks.delete(grant),
  };
  const URL = 'https://sink.acme.example/mtgate/7';
  const parts = () => ({
    pushes: {
      allowed: (server: string, url: string) => server === HEAD_END.name && url === URL,
      notify: (server: string, url: string, event: { id: string }) => void pushed.push(`${server} ${url} ${event.id}`),
      tellServer: (server: string, event: { id: string }) => void pushed.push(`${server} ${event.id}`),
      listens: (server?: string) => server === undefined || server === HEAD_END.name,
    },
    ...{ sinks: store, clock: gateway.clock, log: gateway.log },
    view: (record: GrantRecord | WaitingRequest) => serverView(record, IDENTITIES),
    keepsNumbers: false,
    warnSeconds: 60,
  });
  let events: GrantEvents;
  beforeEach(() => {
    pushed.splice(0);
    sinks.clear();
    events = new GrantEvents(parts());
  });
  const open = async () => (await gateway.grants.request(HEAD_END, ask())) as GrantRecord;

  test('of a server gets all, each under an id that is the same when it is told again', async () => {
    const grant = await open();
    gateway.clock.pass(540);
    const seconds = Math.floor(grant.expiresAtMs / 1000);
    for (const one of [events, new GrantEvents(parts())]) {
      one.tick(gateway.grants.live); // what is about to end is told again after a restart
      gateway.clock.pass(-1);
      one.tick(gateway.grants.live);
      gateway.clock.pass(1);
    }
    expect(new Set(pushed)).toEqual(new Set([`head-end ${grant.id}.ending.${seconds}`]));
    events.ended(grant);
    expect(pushed.at(-1)).toBe(`head-end ${grant.id}.ended`);
  });

  test('that the request named gets those of its grant instead, until it has ended', async () => {
    const cases = serverUseCases(gateway.ground, gateway.grants, gateway.extensions, events, undefined, digest);
    expect(await cases.request(HEAD_END, ask({ sink: 'https://elsewhere.example/' }))).toMatchObject({
      reason: 'sinkNotAllowed',
    });
    const granted = (await cases.request(HEAD_END, ask({ sink: URL }))) as { id: string };
    expect([...sinks]).toEqual([[granted.id, URL]]);
    events.ended(gateway.grants.live.get(granted.id) as GrantRecord);
    expect(pushed).toEqual([`head-end ${URL} ${granted.id}.ended`]);
    expect([...sinks]).toEqual([]);
  });

  test('hears at a start of what ended unheard', async () => {
    const grant = await open();
    sinks.set(grant.id, URL);
    sinks.set('never-was', URL);
    await gateway.grants.end(grant, 'deviceUnbound');
    new GrantEvents(parts()).begin((id) => gateway.grants.find(id));
    expect(pushed).toEqual([`head-end ${URL} ${grant.id}.ended`]);
    expect([...sinks]).toEqual([]);
  });
});
