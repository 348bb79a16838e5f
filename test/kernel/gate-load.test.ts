/**
 * Starting and starting again: what a gate finds and keeps, what it begins
 * afresh, and how it stands beside programs of others.
 */
import { readdirSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { AttachMode, Interfaces } from '../../agent/dataplane/attachment.ts';
import { BpfObject } from '../../agent/dataplane/bpf.ts';
import type { GateSetup } from '../../agent/dataplane/dataplane.ts';
import { Gate } from '../../agent/dataplane/gate.ts';
import {
  attachTc,
  closeFd,
  createTcxLink,
  ensureClsact,
  linkPlace,
  type TcPlace,
  tcProgramId,
} from '../../agent/dataplane/tc.ts';
import { Capture } from '../capture.ts';
import { until } from '../child.ts';
import { within } from '../enter.ts';
import { entriesOf } from '../entries.ts';
import { ethernet, ip, udp } from '../frames.ts';
import { type End, Network } from '../network.ts';
import { USUAL } from '../suites/fixture.ts';
import { GATE_OBJECT, HOUR, MAPPING, POOL } from './gate-stand.ts';

const [major = 0, minor = 0] = release().split('.').map(Number);
const HAS_TCX = major > 6 || (major === 6 && minor >= 6);
const KINDS = HAS_TCX ? (['tcx', 'clsact'] as const) : (['clsact'] as const);

let network: Network;
let bpffs: string;
let interfaces: Required<Interfaces>;
let gates: Gate[];

beforeEach(() => {
  const end = (namespace: string, name: string): End => ({ namespace, interface: name, addresses: [] });
  network = Network.create({
    namespaces: { gateway: {}, peer: {} },
    links: ['outside', 'inside', 'spare'].map((name) => [end('gateway', name), end('peer', name)] as const),
  });
  bpffs = join(network.bpffs(), 'mtgate');
  interfaces = { outside: at('outside'), inside: [at('inside')] };
  gates = [];
});
afterEach(async () => {
  for (const gate of gates) gate.close();
  await network.close();
});

function at(name: string) {
  return { name, ifindex: network.link('gateway', name).ifindex };
}

function inside<T>(work: () => T): T {
  return within(network, 'gateway', work);
}

function load(setup: Partial<GateSetup> = {}): Gate {
  const gate = Gate.load({
    object: GATE_OBJECT,
    bpffs,
    setup: {
      pool: POOL,
      outside: { ifindex: interfaces.outside.ifindex, nextHops: {} },
      inside: interfaces.inside.map(({ ifindex }) => ({
        ifindex,
        realm: 1,
        prefixes: [prefix('10.20.0.0/16')],
        nextHops: {},
        translated: true,
      })),
      own: [{ address: address('10.20.0.1'), on: 'inside' }],
      ...USUAL,
      ...setup,
    },
  });
  gates.push(gate);
  return gate;
}

/** What a frame to an address from outside meets, which tells what `owned` says of it. */
function verdictOn(gate: Gate, to: string): string {
  const frame = ethernet(ip('198.51.100.10', to, udp(1, 2)));
  const verdict = inside(() => gate.judge('outsideIngress', interfaces.outside.ifindex, frame));
  return verdict.verdict === 'drop' ? verdict.reason : verdict.verdict;
}

const folders = () => readdirSync(bpffs).filter((name) => name.startsWith('v'));

describe('the next agent', () => {
  test('finds entries, classes, counters and the last heartbeat, and writes none itself', () => {
    const first = load();
    const end = process.hrtime.bigint() + HOUR;
    first.open(MAPPING, end);
    first.addClass(prefix('198.51.100.0/24'), 7);
    first.addClass(prefix('2001:db8:51::/48'), 8);
    first.heartbeat(12_345n);
    verdictOn(first, '10.20.0.2');
    first.close();

    const second = load();
    expect(second.lastHeartbeat()).toBe(12_345n);
    expect(entriesOf(second)).toEqual([{ mapping: MAPPING, endNs: end }]);
    expect(second.classes()).toEqual(
      new Map([
        ['198.51.100.0/24', 7],
        ['2001:db8:51::/48', 8],
      ]),
    );
    expect(second.counters().denied.realmDestination.packets).toBe(1n);
  });

  test('brings up to date what follows from the configuration', () => {
    const first = load();
    expect([verdictOn(first, '10.20.0.2'), verdictOn(first, '10.30.0.2')]).toEqual(['realmDestination', 'pass']);
    first.bind(1, prefix('10.20.0.2/32'));
    first.bind(1, prefix('fd00:20::/64'));
    first.setChanging(1, prefix('10.20.0.2/32'), true);
    const second = load({
      inside: [
        { ifindex: at('spare').ifindex, realm: 2, prefixes: [prefix('10.30.0.0/16')], nextHops: {}, translated: true },
      ],
    });
    expect([verdictOn(second, '10.20.0.2'), verdictOn(second, '10.30.0.2')]).toEqual(['pass', 'realmDestination']);
    const fromDevice = ethernet(ip('10.20.0.2', '198.51.100.10', udp(1, 2)));
    const third = load();
    const speak = (gate: Gate) =>
      inside(() => gate.judge('insideIngress', interfaces.inside[0]?.ifindex ?? 0, fromDevice));
    expect(speak(third)).toEqual({ verdict: 'pass' });
    expect([...third.bindings()].map(({ realm, prefix: { text } }) => [realm, text]).sort()).toEqual([
      [1, '10.20.0.2/32'],
      [1, 'fd00:20::/64'],
    ]);
    third.unbind(1, prefix('10.20.0.2/32'));
    expect(speak(third)).toEqual({ verdict: 'drop', reason: 'addressUnbound', sampled: false });
    expect(speak(load({ onlyBound: false }))).toEqual({ verdict: 'pass' });
  });

  test('begins on fresh maps with another pool, and removes the old ones once it hangs in their place', () => {
    const first = load();
    first.open(MAPPING, process.hrtime.bigint() + HOUR);
    inside(() => first.attach('auto', interfaces));
    expect(folders()).toHaveLength(1);
    const [old] = folders();

    const second = load({ pool: { ...POOL, ipv4: [prefix('203.0.113.4/30')] } });
    expect(second.entry(0)).toBeUndefined();
    expect(folders()).toHaveLength(2);
    inside(() => second.attach('auto', interfaces));
    expect(folders()).toHaveLength(1);
    expect(folders()).not.toContain(old);
    // Whoever still holds the old maps holds them for nothing, but without harm.
    expect(first.entry(0)).toBeDefined();
  });
});

describe.each(KINDS)('beside programs of others, by %s', (mode: AttachMode) => {
  /** A program that is not ours: the same, but pinned nowhere and on maps of its own. */
  let foreign: BpfObject;
  let foreignFd: number;
  const ingress = (priority: number, handle: number): TcPlace => ({
    ifindex: interfaces.outside.ifindex,
    point: 'ingress',
    priority,
    handle,
  });

  beforeEach(() => {
    foreign = new BpfObject(GATE_OBJECT);
    foreign.load();
    foreignFd = foreign.programFd('gate_outside_egress');
  });
  afterEach(() => foreign.close());

  test('leaves filters and the clsact qdisc alone', async () => {
    const theirs = [ingress(1, 1), ingress(5, 1)];
    inside(() => {
      ensureClsact(ingress(1, 1));
      for (const place of theirs) attachTc(place, foreignFd, false);
    });
    const before = inside(() => theirs.map(tcProgramId));
    const gate = load();
    inside(() => {
      gate.attach(mode, interfaces);
      gate.attach(mode, interfaces);
      gate.detach();
      expect(gate.attachments()).toEqual([]);
      expect(theirs.map(tcProgramId)).toEqual(before);
    });
    const { stdout } = await network.run('gateway', ['tc', 'qdisc', 'show', 'dev', 'outside']);
    expect(stdout).toContain('clsact');
  });

  test.runIf(HAS_TCX)('leaves TCX links alone, and looks at packets before them', async () => {
    const { ifindex } = interfaces.outside;
    const link = inside(() => createTcxLink(foreignFd, ifindex, 'ingress'));
    const gate = load();
    inside(() => gate.attach('tcx', interfaces));
    // Theirs drops what is malformed, and would keep it from ours.
    const wire = await Capture.start(network, 'peer', 'outside', 'less 1');
    wire.send(ethernet(ip('192.0.2.1', '192.0.2.2', udp(1, 2)).subarray(0, 19)));
    await until('a denial', () => (gate.counters().denied.malformed.packets === 1n ? true : undefined));
    inside(() => gate.detach());
    expect(linkPlace(link)?.ifindex).toBe(ifindex);
    closeFd(link);
  });

  test('does not take the place of a filter that is not ours', () => {
    const place = ingress(1, 0x6d746761);
    const gate = load();
    inside(() => {
      ensureClsact(place);
      attachTc(place, foreignFd, false);
      const theirs = tcProgramId(place);
      if (mode === 'clsact')
        expect(() => gate.attach(mode, interfaces)).toThrow(expect.objectContaining({ code: 'gateNotAttached' }));
      else gate.attach(mode, interfaces);
      expect(tcProgramId(place)).toBe(theirs);
    });
  });

  test('follows its interfaces: leaves those no longer named, and finds one that was made anew', async () => {
    const gate = load();
    inside(() => gate.attach(mode, { ...interfaces, inside: [at('inside'), at('spare')] }));
    expect(inside(() => gate.attachments())).toHaveLength(6);
    inside(() => gate.attach(mode, interfaces));
    expect(inside(() => gate.attachments())).toHaveLength(4);
    const spare: TcPlace = { ...ingress(1, 0x6d746761), ifindex: at('spare').ifindex };
    inside(() => ensureClsact(spare));
    expect(inside(() => tcProgramId(spare))).toBeUndefined();

    // Gone and back under the same index: what is pinned for it hangs nowhere.
    const { ifindex } = at('inside');
    await network.run('gateway', ['ip', 'link', 'delete', 'inside']);
    expect(inside(() => gate.attachments())).toHaveLength(2);
    const again = ['ip', 'link', 'add', 'inside', 'index', String(ifindex), 'type', 'veth', 'peer', 'name', 'other'];
    await network.run('gateway', again);
    expect(inside(() => gate.attachments())).toHaveLength(2);
    inside(() => gate.attach(mode, interfaces));
    expect(inside(() => gate.attachments())).toHaveLength(4);
  });
});
