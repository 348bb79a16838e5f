/**
 * How long a server waits to be told that there is no such device, beside the
 * same of a device that is another's: and the same of grants and transactions.
 * What differs is what a server could learn by a watch. The real policy,
 * directory, stores (on disk) and use cases in one process, so that no network
 * hides a difference: in turns, one of each, over and over.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Msisdn } from '../../agent/core/words.ts';
import { openRegistry } from '../../agent/directory/registry-store.ts';
import { openStore } from '../../agent/grants/store.ts';
import { openTriggerStore } from '../../agent/triggers/store.ts';
import { serverUseCases } from '../../agent/use-cases/servers.ts';
import { triggerUseCases } from '../../agent/use-cases/triggers.ts';
import { ask, DEVICES, HEAD_END, OTHER, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { digest } from '../rules.ts';
import { TestTriggers, TRIGGER_RULES, triggerAsk } from '../triggers.ts';
import { type Figure, figure, show, table } from './figures.ts';

export interface UnknownRow {
  readonly what: string;
  /** In µs, of one that never was. */
  readonly unknown: Figure;
  /** Of one that is another's, beside it. */
  readonly ratio: Figure;
}

const TURNS = 2_000;
const APART_SECONDS = 2;

export async function measureUnknown(rounds: number, progress: (what: string) => void): Promise<readonly UnknownRow[]> {
  const folder = mkdtempSync(join(tmpdir(), 'mtgate-unknown-'));
  const store = openStore(join(folder, 'mtgate.db'), IDENTITIES);
  const registry = openRegistry(join(folder, 'registry.db'), IDENTITIES);
  const triggerStore = openTriggerStore(join(folder, 'triggers.db'), IDENTITIES);
  try {
    const gateway = new TestGateway(store, registry);
    const numbered = DEVICES.map(({ device, bindings }, i) => {
      const msisdn = `49171555010${i}` as Msisdn;
      return { device: { ...device, msisdn, attributes: { model: 'M2' } }, bindings };
    });
    await gateway.start(TRIGGER_RULES, numbered);
    const fixture = new TestTriggers(gateway, triggerStore);
    await fixture.start();
    const { ground, grants, extensions, events } = gateway;
    const servers = serverUseCases(ground, grants, extensions, events, undefined, digest);
    const t8 = triggerUseCases(fixture.triggers, fixture.notifications, ground.refuse, IDENTITIES);
    const granted = await servers.request(HEAD_END, ask());
    const sent = await t8.create(HEAD_END, triggerAsk({ validitySeconds: 3600 }), false);
    if ('reason' in granted || 'reason' in sent) throw new Error(`${JSON.stringify([granted, sent])}`);
    const named = (device: object) => servers.request(OTHER, { ...ask(), device: device as never });
    const name = (networkAccessIdentifier: string) => ({ networkAccessIdentifier });
    const number = (phoneNumber: string) => ({ phoneNumber });
    /** In the first the clock stands still; in the last it goes on, so that there are no more misses in a minute than may be. */
    const pairs: [string, (isTheirs: boolean) => unknown, number?][] = [
      [
        'a list, by number',
        (theirs) => servers.list(OTHER, { device: number(theirs ? '+491715550100' : '+491715550999'), perPage: 9 }),
      ],
      ['GET of a grant', (theirs) => servers.show(OTHER, theirs ? granted.id : '01JZZZZZZZZZZZZZZZZZZZZZZZ')],
      ['DELETE of a grant', (theirs) => servers.end(OTHER, theirs ? granted.id : '01JZZZZZZZZZZZZZZZZZZZZZZZ')],
      ['extension', (theirs) => servers.extend(OTHER, theirs ? granted.id : '01JZZZZZZZZZZZZZZZZZZZZZZZ', 60)],
      ['GET of a transaction', (theirs) => t8.show(OTHER, theirs ? sent.id : '01JZZZZZZZZZZZZZZZZZZZZZZZ')],
      ['DELETE of a transaction', (theirs) => t8.remove(OTHER, theirs ? sent.id : '01JZZZZZZZZZZZZZZZZZZZZZZZ')],
      ['a grant, by name', (theirs) => named(name(theirs ? 'm1@meters.example' : 'm9@meters.example')), APART_SECONDS],
      ['a grant, by number', (theirs) => named(number(theirs ? '+491715550100' : '+491715550999')), APART_SECONDS],
      [
        'a trigger, by number',
        (theirs) =>
          t8.create(OTHER, { ...triggerAsk(), device: number(theirs ? '491715550100' : '491715550999') }, false),
        APART_SECONDS,
      ],
    ];
    const rows: UnknownRow[] = [];
    for (const [what, act, apart = 0] of pairs) {
      progress(`unknown or another's: ${what}`);
      const unknown: number[] = [];
      const ratios: number[] = [];
      for (let round = -1; round < rounds; round += 1) {
        const [none, theirs] = await turns(gateway, act, apart);
        if (round < 0) continue; // it warms up
        unknown.push(none);
        ratios.push(theirs / none);
      }
      rows.push({ what, unknown: figure(unknown), ratio: figure(ratios) });
    }
    return rows;
  } finally {
    await triggerStore.close();
    await store.close();
    registry.close();
    rmSync(folder, { recursive: true });
  }
}

/** Medians in µs, of one that never was and of one that is another's. */
async function turns(
  gateway: TestGateway,
  act: (isTheirs: boolean) => unknown,
  apartSeconds: number,
): Promise<[number, number]> {
  const took: [number[], number[]] = [[], []];
  for (let turn = 0; turn < 2 * TURNS; turn += 1) {
    // Which comes first changes: pairs, and the other way round.
    const isTheirs = (turn + (turn >> 1)) % 2 === 1;
    gateway.clock.pass(apartSeconds);
    gateway.log.lines.length = 0;
    const begun = process.hrtime.bigint();
    await act(isTheirs);
    took[isTheirs ? 1 : 0].push(Number(process.hrtime.bigint() - begun) / 1_000);
  }
  const [none, theirs] = took.map((all) => figure(all).median);
  return [none as number, theirs as number];
}

export function showUnknown(rows: readonly UnknownRow[]): string {
  const head = ["Nobody's, or another's", "nobody's, µs", "another's, beside it"];
  return table(
    head,
    rows.map(({ what, unknown, ratio }) => [what, show(unknown, 1), show(ratio, 3)]),
  );
}
