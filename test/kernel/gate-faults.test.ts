/**
 * Which fault an operator reads where the gate cannot start, and what it
 * refuses to be told. No interface is needed for any of it.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { FaultCode } from '../../agent/core/errors.ts';
import { address, prefix } from '../../agent/core/net.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import { requireKernel } from '../../agent/dataplane/loader.ts';
import { entriesOf } from '../entries.ts';
import { ethernet, ip, udp } from '../frames.ts';
import { Network } from '../network.ts';
import { USUAL } from '../suites/fixture.ts';
import { GATE_OBJECT, HOUR, MAPPING, POOL } from './gate-stand.ts';

const NOWHERE = { outside: { name: 'outside', ifindex: 4711 }, inside: [] };

let network: Network;
let bpffs: string;
let gates: Gate[];

beforeAll(() => {
  network = Network.create({ namespaces: {}, links: [] });
});
afterAll(() => network.close());
beforeEach(() => {
  bpffs = network.bpffs();
  gates = [];
});
afterEach(() => {
  for (const gate of gates) gate.close();
});

const fault = (code: FaultCode) => expect.objectContaining({ code });

function load(pool = POOL, object = GATE_OBJECT): Gate {
  const gate = Gate.load({
    object,
    bpffs,
    setup: {
      pool,
      outside: { ifindex: NOWHERE.outside.ifindex, nextHops: {} },
      inside: [],
      own: [],
      ...USUAL,
    },
  });
  gates.push(gate);
  return gate;
}

describe('a gate without room, or with nonsense', () => {
  test('refuses to open over a live entry, and changes nothing', () => {
    const gate = load();
    const end = process.hrtime.bigint() + HOUR;
    gate.open(MAPPING, end);
    expect(() => gate.open({ ...MAPPING, number: 10 }, end + 1n)).toThrow(fault('gateFault'));
    expect(gate.entry(0)).toEqual({ mapping: MAPPING, endNs: end });
  });

  test.each([-1, 0.5, 4 * 2 * 16])('has no entry %d', (index) => {
    const gate = load();
    expect(() => gate.open({ ...MAPPING, index }, 1n)).toThrow(fault('gateFault'));
    expect(() => gate.entry(index)).toThrow(fault('gateFault'));
  });

  test('knows no class 0', () => {
    expect(() => load().addClass(prefix('198.51.100.0/24'), 0)).toThrow(fault('gateFault'));
  });

  test('is a fault, and no crash, once it is closed', () => {
    const gate = load();
    gate.close();
    gate.close();
    const calls: (() => unknown)[] = [
      () => gate.open(MAPPING, 1n),
      () => gate.entry(0),
      () => entriesOf(gate),
      () => gate.heartbeat(1n),
      () => gate.lastHeartbeat(),
      () => gate.counters(),
      () => gate.classes(),
      () => gate.judge('outsideIngress', 1, ethernet(ip('192.0.2.1', '192.0.2.2', udp(1, 2)))),
      () => gate.attach('auto', NOWHERE),
    ];
    for (const call of calls) expect(call).toThrow(fault('gateFault'));
  });
});

describe('what an operator reads', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'mtgate-load-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('bpffsMissing where it is not mounted, and nothing is made there', () => {
    bpffs = join(folder, 'mtgate');
    expect(() => load()).toThrow(fault('bpffsMissing'));
    expect(existsSync(bpffs)).toBe(false);
    mkdirSync(bpffs);
    expect(() => load()).toThrow(fault('bpffsMissing'));
    bpffs = join(folder, 'not', 'there');
    expect(() => load()).toThrow(fault('bpffsMissing'));
  });

  test('gateNotLoaded where the object is none, or is not there', () => {
    const object = join(folder, 'gate.bpf.o');
    expect(() => load(POOL, object)).toThrow(fault('gateNotLoaded'));
    writeFileSync(object, 'no object');
    expect(() => load(POOL, object)).toThrow(fault('gateNotLoaded'));
  });

  test("gateNotLoaded, with the verifier's own words, where it refuses", () => {
    const object = join(folder, 'gate.bpf.o');
    const bytes = readFileSync(GATE_OBJECT);
    const exit = bytes.indexOf(Buffer.of(0x95, 0, 0, 0, 0, 0, 0, 0));
    bytes.fill(0xff, exit, exit + 1);
    writeFileSync(object, bytes);
    expect(() => load(POOL, object)).toThrow(
      expect.objectContaining({ code: 'gateNotLoaded', message: expect.stringContaining('insns (limit') }),
    );
  });

  test('nothing where all the room for pools is taken', () => {
    const ipv4 = Array.from({ length: 8 }, (_, i) => prefix(`203.0.113.${2 * i}/31`));
    const ipv6 = Array.from({ length: 8 }, (_, i) => prefix(`2001:db8:${i}::/64`));
    expect(() => load({ ...POOL, ipv4, ipv6, keyedGrants: 8 })).not.toThrow();
  });

  test('gateNotLoaded where the set-up is more than the gate has room for', () => {
    const ipv4 = Array.from({ length: 9 }, (_, i) => prefix(`203.0.113.${i}/32`));
    expect(() => load({ ...POOL, ipv4 })).toThrow(fault('gateNotLoaded'));
  });

  test('gateNotAttached where the interface is not there', () => {
    const gate = load();
    expect(() => gate.attach('auto', NOWHERE)).toThrow(
      expect.objectContaining({
        code: 'gateNotAttached',
        message: expect.stringContaining('outsideEgress at outside'),
      }),
    );
  });

  test.each(['5.10.0-28-amd64', '6.0.19', '4.19.0'])('kernelTooOld on Linux %s', (version) => {
    expect(() => requireKernel(version)).toThrow(fault('kernelTooOld'));
  });

  test.each(['6.1.0-18-amd64', '6.18.44', '7.0.0-rc1'])('nothing on Linux %s', (version) => {
    expect(() => requireKernel(version)).not.toThrow();
  });
});

describe('a gate that runs', () => {
  const setup = (own: readonly string[] = []) => ({
    pool: POOL,
    outside: { ifindex: undefined, nextHops: {} },
    inside: [],
    own: own.map((text) => ({ address: address(text), on: 'elsewhere' as const })),
    ...USUAL,
  });

  test('keeps its maps though somebody removes their pins: they are pinned again, and a rebuild goes on with them', () => {
    const gate = load();
    gate.open(MAPPING, process.hrtime.bigint() + HOUR);
    gate.addClass(prefix('198.51.100.0/24'), 7);
    const removePins = () => {
      for (const name of readdirSync(bpffs).filter((one) => one.startsWith('v')))
        rmSync(join(bpffs, name), { recursive: true });
    };
    removePins();
    expect(gate.pinAgain()).toBe(12);
    expect(gate.pinAgain()).toBe(0);
    removePins();
    gate.rebuild(setup(), 'auto', { inside: [] });
    expect(gate.entry(MAPPING.index)?.mapping.number).toBe(MAPPING.number);
    expect([...gate.classes().values()]).toEqual([7]);
  });

  test('is as it was where it cannot be built again, and nothing of the attempt is left', () => {
    const gate = load();
    gate.open(MAPPING, process.hrtime.bigint() + HOUR);
    const tooMany = Array.from({ length: 4_200 }, (_, i) => `198.18.${i >> 8}.${i & 255}`);
    const fds = () => readdirSync('/proc/self/fd').length;
    const attempt = () => expect(() => gate.rebuild(setup(tooMany), 'auto', { inside: [] })).toThrow(/ENOSPC/);
    attempt();
    const before = fds();
    for (let i = 0; i < 3; i++) attempt();
    expect(fds()).toBe(before);
    expect(gate.entry(MAPPING.index)?.mapping.number).toBe(MAPPING.number);
  });
});
