/**
 * The process that keeps the NAT record, by itself: the test is its agent, and
 * stands at both ends of a gateway with the base (tun.ts). What it cannot hear
 * is lost, counted, noted and mended; what it can, is all there.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { prefix } from '../../agent/core/net.ts';
import type { ExternalId, RealmName } from '../../agent/core/words.ts';
import { addressOf, type Mapping } from '../../agent/nat/mapping.ts';
import { type Begun, openRecordReader, RecordWriter } from '../../agent/nat/record-store.ts';
import type { FromRecorder, RecorderCounts, RecorderSetup, ToRecorder } from '../../agent/nat/recorder-message.ts';
import { baseRuleset } from '../../agent/policy/ruleset.ts';
import { ROOT, until } from '../child.ts';
import { KeptLog } from '../clock.ts';
import { ip, udp } from '../frames.ts';
import { Network } from '../network.ts';
import { PLAIN_BASE } from '../rules.ts';
import { EGRESS_POOL, GRANTS_POOL, REALM_PREFIX, SERVER } from '../standard-network.ts';
import { Tun } from '../tun.ts';

let network: Network;
let inside: Tun;
let outside: Tun;
let folder: string;

beforeAll(async () => {
  network = Network.create({ namespaces: { gateway: { forwards: true } }, links: [] });
  folder = network.folder();
  inside = Tun.open(network, 'gateway', 'inside', 'tun');
  outside = Tun.open(network, 'gateway', 'outside', 'tun');
  const lines = ['link set inside up', 'link set outside up', 'route add default dev outside'];
  await network.run('gateway', ['ip', '-batch', '-'], {
    input: [...lines, `route add ${REALM_PREFIX.ipv4} dev inside`].join('\n'),
  });
  const base = baseRuleset({
    ...PLAIN_BASE,
    outside: 'outside',
    present: ['outside', 'inside'],
    inside: [{ interface: 'inside', prefixes: [prefix(REALM_PREFIX.ipv4)] }],
    grants: [prefix(GRANTS_POOL.ipv4)],
    egress: [prefix(EGRESS_POOL.ipv4)],
    deniedDestinations: [],
    services: [],
    nflogGroup: 100,
  });
  await network.run('gateway', ['nft', '-f', '-'], { input: base });
});
afterAll(async () => {
  inside?.close();
  outside?.close();
  await network.close();
});
afterEach(async () => {
  recorder?.kill('SIGKILL');
  await network.run('gateway', ['conntrack', '-F']);
});

let recorder: ChildProcess | undefined;
let said: FromRecorder[] = [];
/** Since when it is another's, whose name begins with `n`. */
let handsChangedMs = Number.POSITIVE_INFINITY;

/** Starts it as the agent does; every address is of the device that its last number names. */
async function start(file: string, socketBytes = 64 * 2 ** 20): Promise<ChildProcess> {
  const child = spawned(file, { socketBytes });
  await listens();
  return child;
}

const listens = () => until('that it listens', () => said.find(({ kind }) => kind === 'ready'));

function spawned(file: string, changes: Partial<RecorderSetup> = {}): ChildProcess {
  const setup: RecorderSetup = {
    ...{ file: resolve(folder, file), gateway: 'gw', bootId: 'boot', socketBytes: 64 * 2 ** 20 },
    ...{ egress: [EGRESS_POOL.ipv4], keepMs: 2 ** 40, keepBytes: 2 ** 40 },
    ...changes,
  };
  const [command = '', ...args] = network.inside('gateway', [
    process.execPath,
    join(ROOT, 'dist/nat/recorder.js'),
    JSON.stringify(setup),
  ]);
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], serialization: 'advanced' });
  said = [];
  child.on('message', (message) => {
    const heard = message as FromRecorder;
    said.push(heard);
    if (heard.kind !== 'who') return;
    const held = heard.addresses.map((bytes, i) => {
      const isLater = (heard.fromMs[i] ?? 0) >= handsChangedMs;
      const device = `${isLater ? 'n' : 'm'}${addressOf(bytes).text}@x.example`;
      return { realm: 'iot' as RealmName, device: device as ExternalId };
    });
    child.send({ kind: 'held', question: heard.question, held } satisfies ToRecorder);
  });
  recorder = child;
  return child;
}

const counts = (): RecorderCounts | undefined =>
  said.flatMap((one) => (one.kind === 'counts' ? one.counts : [])).at(-1);

/** A device begins a flow; what stands for it outside. */
function begin(device: string, port: number): { readonly external: Uint8Array; readonly port: number } {
  inside.write(ip(device, SERVER.ipv4, udp(port, 53, 'who')));
  const [seen] = outside.read().filter((bytes) => bytes[9] === 17);
  if (!seen) throw new Error(`the flow of ${device} did not get out`);
  return { external: seen.subarray(12, 16), port: ((seen[20] ?? 0) << 8) | (seen[21] ?? 0) };
}

function find(file: string, of: ReturnType<typeof begin>, atMs: number): readonly Mapping[] {
  return openRecordReader(resolve(folder, file)).find(of.external, of.port, atMs, atMs).mappings;
}

test('of many flows at once each is on record, with its device', async () => {
  await start('many.db');
  const flows = Array.from({ length: 5_000 }, (_, i) => {
    const device = `10.20.${1 + (i % 50)}.1`;
    return { device, innerPort: 1_024 + i, of: begin(device, 1_024 + i) };
  });
  await until('that all is written', () => ((counts()?.begun ?? 0) >= flows.length ? true : undefined));
  const nowMs = Date.now();
  const wrong = flows.filter(
    ({ device, innerPort, of }) =>
      !find('many.db', of, nowMs).some((one) => one.device === `m${device}@x.example` && one.innerPort === innerPort),
  );
  expect(wrong).toEqual([]);
  expect(counts()).toMatchObject({ lostInKernel: 0, givenUp: 0 });
  await network.run('gateway', ['conntrack', '-F']);
  await until('that all have ended', () => (counts()?.ended === flows.length ? true : undefined));
  const laterMs = Date.now() + 1_000;
  expect(flows.filter(({ of }) => find('many.db', of, laterMs).length > 0)).toEqual([]);
});

test('two flows of one address between which it changed hands, heard at once, are of two devices', async () => {
  const child = await start('hands.db');
  child.kill('SIGSTOP'); // so that it hears of all of it at once
  const former = begin('10.20.8.8', 4_000);
  await network.run('gateway', ['conntrack', '-D', '-p', 'udp', '--sport', '4000']);
  await delay(20);
  handsChangedMs = Date.now();
  await delay(20);
  const later = begin('10.20.8.8', 4_001);
  await network.run('gateway', ['conntrack', '-D', '-p', 'udp', '--sport', '4001']);
  child.kill('SIGCONT');
  const deviceOf = (of: ReturnType<typeof begin>) =>
    openRecordReader(join(folder, 'hands.db')).find(of.external, of.port, 0, Date.now()).mappings[0]?.device;
  await until('that both have ended', () => ((counts()?.ended ?? 0) >= 2 ? true : undefined));
  handsChangedMs = Number.POSITIVE_INFINITY;
  expect([deviceOf(former), deviceOf(later)]).toEqual(['m10.20.8.8@x.example', 'n10.20.8.8@x.example']);
});

test('what the socket had no room for is counted and noted; flows that run are found, and their beginnings known', async () => {
  const child = await start('lost.db', 1);
  child.kill('SIGSTOP');
  const beforeMs = Date.now();
  const flows = Array.from({ length: 200 }, (_, i) => begin('10.20.7.7', 2_000 + i));
  const short = begin('10.20.7.7', 3_000);
  await network.run('gateway', ['conntrack', '-D', '-p', 'udp', '--sport', '3000']);
  const duringMs = Date.now();
  child.kill('SIGCONT');
  await until('that it knows', () => said.find((one) => one.kind === 'log' && one.event === 'natEventsLost'));
  // By what it says: to look at the file all the while would leave it no time to ask who held the addresses.
  await until('that it is mended', () => ((counts()?.begun ?? 0) >= flows.length ? true : undefined), 30_000);
  await until('that it is counted', () => ((counts()?.lostInKernel ?? 0) > 150 ? true : undefined));
  await delay(500); // the gap is noted behind the flows
  let exact = 0;
  for (const of of flows) {
    const [row] = find('lost.db', of, duringMs);
    expect(row).toMatchObject({ device: 'm10.20.7.7@x.example' });
    // The few that were heard late: not before all was last heard. Those that were found: exactly.
    expect(row?.beganFromMs ?? row?.beganMs).toBeLessThanOrEqual(duringMs + 10);
    if (row?.beganFromMs === null) exact += 1;
    else expect(row?.beganFromMs).toBeGreaterThan(beforeMs - 5_000);
  }
  expect(exact).toBeGreaterThan(150);
  // It began and ended while nobody heard: it is missing, and the gap says why.
  expect(find('lost.db', short, duringMs)).toEqual([]);
  const { gaps } = openRecordReader(join(folder, 'lost.db')).find(short.external, short.port, duringMs, duringMs);
  expect(gaps).toMatchObject([{ why: 'overrun' }]);
});

test('what has been heard when the agent dies is written', async () => {
  const child = await start('dies.db');
  const of = begin('10.20.9.9', 4_000);
  const gone = once(child, 'exit');
  child.disconnect();
  await gone;
  expect(find('dies.db', of, Date.now() - 1)).toHaveLength(1);
});

/** Fills a disk but for so many bytes; removing the file that is returned makes room again. */
function fill(disk: string, but = 0): string {
  const filler = join(disk, 'filler');
  const spare = join(disk, 'spare');
  const write = (file: string, bytes: number) => {
    const fd = openSync(file, 'w');
    try {
      for (let left = bytes; left > 0; left -= 4_096) writeSync(fd, Buffer.alloc(4_096));
    } catch {} // full
    closeSync(fd);
  };
  write(spare, but);
  write(filler, Number.POSITIVE_INFINITY);
  rmSync(spare);
  return filler;
}

/** A row as the store has it. */
const old: Begun = {
  ...{ protocol: 17, external: Uint8Array.of(203, 0, 113, 9), port: 1, realm: 'iot', key: null },
  ...{ inner: Uint8Array.of(10, 20, 0, 1), innerPort: 1, device: null, grant: null, server: null },
  ...{ beganMs: 1_000, beganFromMs: null, endedMs: 2_000, endedFromMs: null },
};

type Counts = Extract<FromRecorder, { kind: 'counts' }>;
const saysFault = (one: FromRecorder) => one.kind === 'counts' && one.recordFault !== undefined;
const logged = (event: string) =>
  said.flatMap((one) => (one.kind === 'log' && one.event === event ? [one.fields] : []));

describe('on a full disk', () => {
  test('the file stays as it is until it can be opened; what is heard meanwhile waits', async () => {
    const disk = network.disk(1);
    const file = join(disk, 'nat.db');
    const first = await start(file);
    const before = begin('10.20.5.5', 5_000);
    await until('that it is written', () => ((counts()?.begun ?? 0) >= 1 ? true : undefined));
    first.send({ kind: 'stop' } satisfies ToRecorder);
    await once(first, 'exit');
    const content = readFileSync(file);

    const filler = fill(disk);
    spawned(file);
    await until('that it says so', () => logged('natRecordNotWritten')[0]);
    await until('that it goes on', () => counts());
    const during = begin('10.20.5.6', 5_001);
    expect(readFileSync(file)).toEqual(content);
    expect(existsSync(`${file}.unusable`)).toBe(false);

    rmSync(filler);
    await listens();
    await until('that it is written', () => ((counts()?.begun ?? 0) >= 1 ? true : undefined));
    expect(said[0]).toEqual({ kind: 'opening' }); // before it is silent for as long as that takes
    expect(find(file, before, Date.now())).toHaveLength(1);
    expect(find(file, during, Date.now())).toMatchObject([{ device: 'm10.20.5.6@x.example' }]);
    expect(logged('natRecordUnusable')).toEqual([]);
  });

  test('it goes on though it cannot give up what is too old, says that it does not record, and writes when there is room', async () => {
    const disk = network.disk(8);
    const file = join(disk, 'nat.db');
    const writer = RecordWriter.open(file, 'boot', 1, new KeptLog());
    const rows = Array.from({ length: 20_000 }, (_, i) => ({ ...old, port: i }));
    writer.write(rows, 2_000, () => {});
    writer.close();
    const filler = fill(disk, 200 * 1_024); // room to open it, and none for what giving up so many rows takes
    const child = spawned(file, { keepMs: 60_000 });
    await until('that it cannot', () => logged('natRecordNotWritten')[0]);
    const during = begin('10.20.5.7', 5_002);
    await until('that it says that it does not record', () => said.some(saysFault) || undefined, 60_000);
    expect(child.exitCode).toBeNull();

    rmSync(filler);
    await until('that it is written', () => ((counts()?.begun ?? 0) >= 1 ? true : undefined));
    await until(
      'that it says so',
      () => (said.findLast(({ kind }) => kind === 'counts') as Counts).recordFault === undefined || undefined,
    );
    expect(find(file, during, Date.now())).toMatchObject([{ device: 'm10.20.5.7@x.example' }]);
  });

  test('it ends when it is told to, though it never opened its file', async () => {
    const disk = network.disk(1);
    fill(disk);
    const child = spawned(join(disk, 'nat.db'));
    await until('that it says so', () => logged('natRecordNotWritten')[0]);
    child.send({ kind: 'stop' } satisfies ToRecorder);
    expect(await once(child, 'exit')).toEqual([0, null]);
  });
});

test('a file that turns out to be damaged is put aside, and the next process begins a new one', async () => {
  const file = join(folder, 'damaged.db');
  const writer = RecordWriter.open(file, 'boot', 1, new KeptLog());
  writer.write(
    Array.from({ length: 1_000 }, (_, i) => ({ ...old, port: i, endedMs: null, key: i })),
    2_000,
    () => {},
  );
  writer.close();
  writeFileSync(file, readFileSync(file).fill(0xaa, 10 * 4_096)); // behind the tables' roots
  const child = spawned(file);
  expect((await once(child, 'exit'))[0]).toBe(1);
  expect(logged('natRecordUnusable')).toMatchObject([{ file, putAside: `${file}.unusable` }]);
  await start(file);
  const flow = begin('10.20.5.8', 5_003);
  await until('that it is written', () => ((counts()?.begun ?? 0) >= 1 ? true : undefined));
  expect(find(file, flow, Date.now())).toHaveLength(1);
});
