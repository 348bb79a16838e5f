/**
 * The database replaced by an older copy while the agent was down: what the
 * copy does not know must not come back, in the same boot or after another.
 */
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import type { GrantRecord } from '../../agent/grants/record.ts';
import { type GrantStore, openStore } from '../../agent/grants/store.ts';
import { entriesOf } from '../entries.ts';
import { ask, DEVICES, HEAD_END, inner, M1, M2, RULES, TestGateway } from '../gateway.ts';
import { IDENTITIES } from '../identities.ts';
import { grantRecord } from '../records.ts';

const END = ['', '-wal', '-shm'] as const;

let folder: string;
let file: string;
let store: GrantStore;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-store-'));
  file = join(folder, 'mtgate.db');
  store = openStore(file, IDENTITIES);
});

afterEach(async () => {
  await store.close();
  rmSync(folder, { recursive: true });
});

function copy(): void {
  for (const end of END) if (existsSync(file + end)) copyFileSync(file + end, `${file}.copy${end}`);
}

/** Closes the store, and opens the copy that was put in its place. */
async function putBack(): Promise<void> {
  await store.close();
  for (const end of END) {
    rmSync(file + end, { force: true });
    if (existsSync(`${file}.copy${end}`)) copyFileSync(`${file}.copy${end}`, file + end);
  }
  store = openStore(file, IDENTITIES);
}

async function restarted(before: TestGateway, reboot: boolean, devices = DEVICES): Promise<TestGateway> {
  const gateway = new TestGateway(store);
  Object.assign(gateway.clock, before.clock);
  if (reboot) gateway.reboot();
  else gateway.memory = before.memory;
  await gateway.start(RULES, devices);
  return gateway;
}

/** A grant that the copy has and that goes on, one that it has and that ends, and one that it has not. */
async function grantedAndCopied() {
  const gateway = new TestGateway(store);
  await gateway.start();
  const granted = async (devicePort: number) =>
    (await gateway.grants.request(HEAD_END, ask({ devicePort }))) as GrantRecord;
  const goesOn = await granted(7000);
  const ends = await granted(7001);
  copy();
  gateway.clock.pass(1);
  await gateway.grants.end(ends, 'endedByServer');
  const isNew = await granted(7002);
  return { gateway, goesOn, ends, isNew };
}

const openNumbers = ({ memory, clock }: TestGateway) =>
  entriesOf(memory)
    .filter(({ endNs }) => endNs > clock.monotonicNs())
    .map(({ mapping }) => mapping.number);

test('in the same boot the gate decides: what has ended stays so, what has no record ends', async () => {
  const { gateway: before, goesOn, ends } = await grantedAndCopied();
  await putBack();
  expect(store.isOlder).toBe(true);
  const gateway = await restarted(before, false);
  expect(gateway.log.of('storeOlder')).toMatchObject([{ level: 'error', liveOnRecord: 2, bindingsForgotten: 0 }]);
  expect(gateway.grants.find(ends.id)).toMatchObject({ endCause: 'endedInGate' });
  expect(openNumbers(gateway)).toEqual([goesOn.number]);
  expect([...gateway.grants.live.all()].map(({ id }) => id)).toEqual([goesOn.id]);
});

test('after a reboot nothing of an older copy is opened again', async () => {
  const { gateway: before, goesOn, ends } = await grantedAndCopied();
  await putBack();
  const gateway = await restarted(before, true);
  for (const { id } of [goesOn, ends]) expect(gateway.grants.find(id)).toMatchObject({ endCause: 'recordOutdated' });
  expect(openNumbers(gateway)).toEqual([]);
});

test('after a reboot the one last used is opened again, orderly closed or not', async () => {
  const { gateway: before, goesOn, isNew } = await grantedAndCopied();
  await store.note();
  copy(); // as a kill leaves it
  await putBack();
  expect(store.isOlder).toBe(false);
  const gateway = await restarted(before, true);
  expect(openNumbers(gateway).sort()).toEqual([goesOn.number, isNew.number].sort());
  expect(gateway.log.of('storeOlder')).toEqual([]);
});

test('what the operator bound is forgotten with an older copy, and what the devices file binds is not', async () => {
  const before = new TestGateway(store);
  await before.start();
  await before.bindings.bind(M2, inner('10.20.0.9'));
  copy();
  await before.bindings.unbind(inner('10.20.0.9'));
  await putBack();
  const gateway = await restarted(before, true);
  expect(gateway.log.of('storeOlder')).toMatchObject([{ bindingsForgotten: 1 }]);
  expect(gateway.directory.bindings().map(({ holder }) => holder)).toEqual([M1, M1]);
  expect(store.bindings().map(({ holder }) => holder)).toEqual([M1, M1]);
});

test('it is an older copy until a start has come to its end, and from then on the one last used', async () => {
  await store.insert(grantRecord());
  copy();
  await store.end({ ...grantRecord(), state: 'ended', endCause: 'endedByServer', endedAtMs: 5000 });
  const newest = `${file}.newest`;
  copyFileSync(file, newest);
  copyFileSync(`${file}-wal`, `${newest}-wal`);
  await putBack();
  await store.close(); // killed before it was put in force
  store = openStore(file, IDENTITIES);
  expect(store.isOlder).toBe(true);
  await store.note();
  expect(store.isOlder).toBe(false);
  await store.close();
  store = openStore(file, IDENTITIES);
  expect(store.isOlder).toBe(false);
  for (const end of ['', '-wal']) copyFileSync(newest + end, `${file}.copy${end}`);
  rmSync(`${file}.copy-shm`, { force: true });
  await putBack();
  expect(store.isOlder).toBe(true);
});

test('a small number is never given to another name, by an older copy or by a new database', async () => {
  expect(['a', 'b'].map((name) => store.idOf('class', name))).toEqual([1, 2]);
  expect(store.idOf('realm', 'iot')).toBe(1);
  copy();
  expect(store.idOf('class', 'c')).toBe(3);
  expect(store.idOf('realm', 'cams')).toBe(2);
  await putBack();
  expect([store.idOf('class', 'd'), store.idOf('realm', 'tills')]).toEqual([4, 3]);
  expect(store.idOf('class', 'b')).toBe(2);
  await store.note();
  for (const end of END) rmSync(`${file}.copy${end}`, { force: true });
  await putBack();
  expect([store.idOf('class', 'b'), store.idOf('realm', 'iot')]).toEqual([5, 4]);
});

test('a note that is not ours stops the start, and says which file', async () => {
  store.idOf('class', 'a');
  await store.insert(grantRecord());
  await store.close();
  const note = join(folder, 'last-used.json');
  expect(JSON.parse(readFileSync(note, 'utf8'))).toEqual({ batches: 1, class: 1, realm: 0 });
  for (const text of ['', '{}', '{"batches":"many","class":1,"realm":1}']) {
    writeFileSync(note, text);
    expect(() => openStore(file, IDENTITIES)).toThrow(/last-used\.json is not what was written there/);
    expect(() => openStore(file, IDENTITIES)).toThrow(AgentError);
  }
  rmSync(note);
  store = openStore(file, IDENTITIES);
  expect(store.isOlder).toBe(false);
});
