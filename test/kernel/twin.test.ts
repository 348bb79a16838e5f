/**
 * The gate in the kernel and its slow obvious twin live through the same
 * random lives: after every packet their verdicts are the same, byte by byte
 * where one is carried, and at the end so are entries and counters.
 *
 * The seed stands in the test's name; TWIN_SEED=... runs one again.
 */
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { prefix } from '../../agent/core/net.ts';
import type { GateSetup, JudgingDataplane, Mapping, Verdict } from '../../agent/dataplane/dataplane.ts';
import { Memory } from '../../agent/dataplane/memory.ts';
import { drawUntil } from '../draws.ts';
import { entriesOf } from '../entries.ts';
import { sumsHold } from '../frames.ts';
import { addClasses, HOUR, type Interfaces, mapping, nowNs, type Rig, SECOND, setupOf } from '../suites/fixture.ts';
import { gateStand } from './gate-stand.ts';
import { type Command, life } from './twin-world.ts';

const LIVES = 60;
const seed = Number(process.env['TWIN_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const clock = { nowMs: Date.now, monotonicNs: nowNs, boottimeNs: nowNs };
const ETHERNET = 14;
const BEYOND_LIMITS: readonly string[] = ['packetRateExceeded', 'byteQuotaExceeded'];

/** Links that not every packet fits. */
function narrow(interfaces: Interfaces): GateSetup {
  const setup = setupOf(interfaces);
  return {
    ...setup,
    outside: { ...setup.outside, mtu: 1290 },
    inside: setup.inside.map((one) => ({ ...one, mtu: 1280 })),
  };
}

test.each(['tc', 'xdp'] as const)(`gate at %s and twin agree (seed ${seed})`, { timeout: 120_000 }, async (where) => {
  const stand = await gateStand(where);
  onTestFinished(() => stand.close());
  const seen = { carried: 0, passed: 0, dropped: 0, limited: 0, unbound: 0, errors: 0, pieces: 0, tooBig: 0 };
  const property = fc.asyncProperty(life, async (commands) => {
    const rig = await stand.make(narrow);
    try {
      liveThrough(commands, rig, seen);
    } finally {
      await rig.close();
    }
  });
  // A world in which nothing is carried would prove nothing.
  const names = Object.keys(AT_LEAST) as (keyof Seen)[];
  const missing = () => names.filter((name) => seen[name] <= AT_LEAST[name]);
  await drawUntil(seed, (one) => fc.assert(property, { seed: one, numRuns: LIVES }), missing);
  if (where === 'xdp') expect(Math.min(stand.early.carried, stand.early.denied)).toBeGreaterThan(LIVES);
});

function liveThrough(commands: readonly Command[], { plane: gate, interfaces }: Rig, seen: Seen): void {
  const twin = new Memory(clock, narrow(interfaces));
  const both = [gate, twin] as const;
  for (const plane of both) {
    addClasses(plane);
    plane.heartbeat(nowNs());
  }
  const opened: Mapping[] = [];
  for (const [i, command] of commands.entries()) {
    if (command.do === 'packet') expectAgreement(command, both, interfaces, seen);
    else change(command, both, opened, i + 1);
  }
  const indices = new Set(opened.map(({ index }) => index));
  for (const index of indices) {
    expect(gate.entry(index)).toEqual(twin.entry(index));
    expect(gate.carried(index)).toEqual(twin.carried(index));
  }
  expect(entriesOf(gate)).toEqual(entriesOf(twin));
  expect(new Map(gate.classes())).toEqual(new Map(twin.classes()));
  expect(boundIn(gate)).toEqual(boundIn(twin));
  const counters = gate.counters();
  expect({ ...counters, atXdp: undefined }).toEqual({ ...twin.counters(), atXdp: undefined }); // which has none
  seen.errors += Number(counters.errorsCarried.packets);
  seen.tooBig += Number(counters.denied.packetTooBig.packets);
}

function boundIn(plane: JudgingDataplane): readonly string[] {
  return [...plane.bindings()].map(({ realm, prefix: { text } }) => `${realm} ${text}`).sort();
}

type Both = readonly [gate: JudgingDataplane, twin: JudgingDataplane];
/** More than this of each. */
const AT_LEAST: Seen = {
  ...{ carried: LIVES, passed: LIVES, dropped: LIVES, limited: LIVES / 2 },
  ...{ unbound: LIVES, errors: LIVES / 4, pieces: LIVES / 4, tooBig: 0 },
};

type Seen = Record<'carried' | 'passed' | 'dropped' | 'limited' | 'unbound' | 'errors' | 'pieces' | 'tooBig', number>;

function change(command: Exclude<Command, { do: 'packet' }>, both: Both, opened: Mapping[], number: number): void {
  const now = nowNs();
  switch (command.do) {
    case 'open': {
      const grant = mapping({ ...command.grant, number });
      const end = { inAnHour: now + HOUR, justNow: now - SECOND, longAgo: now - 40n * SECOND }[command.ends];
      const [atGate, atTwin] = both.map((plane) => succeeds(() => plane.open(grant, end)));
      expect(atGate).toBe(atTwin);
      if (atGate) opened.push(grant);
      return;
    }
    case 'end': {
      const grant = opened[command.which % opened.length];
      if (!grant) return;
      const [atGate, atTwin] = both.map((plane) => plane.end(grant.index, grant.number, now - SECOND / 10n));
      expect(atGate).toBe(atTwin);
      return;
    }
    case 'limit': {
      const grant = opened[command.which % opened.length];
      if (!grant) return;
      const [atGate, atTwin] = both.map((plane) => plane.limit(grant.index, grant.number, command.limits));
      expect(atGate).toBe(atTwin);
      return;
    }
    case 'usedUp': {
      const [atGate, atTwin] = both.map((plane) => plane.usedUp());
      expect(atGate).toEqual(atTwin);
      return;
    }
    case 'admit': {
      const list = command.list.map((one) => ({
        ...one,
        source: prefix(one.source),
        destination: prefix(one.destination),
      }));
      for (const plane of both) plane.admissions(list);
      return;
    }
    case 'forget': {
      const grant = opened[command.which % opened.length];
      if (grant) for (const plane of both) plane.forget(grant);
      return;
    }
    case 'class':
      for (const plane of both) {
        if (command.classId === 0) plane.removeClass(prefix(command.prefix));
        else plane.addClass(prefix(command.prefix), command.classId);
      }
      return;
    case 'changing':
      for (const plane of both) plane.setChanging(command.realm, prefix(command.prefix), command.on);
      return;
    case 'bound':
      for (const plane of both) {
        if (command.on) plane.bind(command.realm, prefix(command.prefix));
        else plane.unbind(command.realm, prefix(command.prefix));
      }
      return;
    case 'heartbeat':
      for (const plane of both) plane.heartbeat(command.lost ? now - 31n * SECOND : now);
  }
}

function expectAgreement(
  { hook, at, hex, mark }: Extract<Command, { do: 'packet' }>,
  [gate, twin]: Both,
  interfaces: Interfaces,
  seen: Seen,
): void {
  const frame = Uint8Array.from(Buffer.from(hex, 'hex'));
  const ifindex = hook === 'insideIngress' || hook === 'insideEgress' ? interfaces[at] : interfaces.outside;
  const [atGate, atTwin] = [gate, twin].map((plane) => readable(plane.judge(hook, ifindex, frame, mark), frame));
  expect(atGate).toEqual(atTwin);
  if (atGate?.verdict === 'redirect' && isPiece(frame)) seen.pieces += 1;
  if (atGate?.verdict === 'redirect') seen.carried += 1;
  else if (atGate?.verdict === 'pass') seen.passed += 1;
  else seen.dropped += 1;
  if (atGate?.verdict === 'drop' && BEYOND_LIMITS.includes(atGate.reason)) seen.limited += 1;
  if (atGate?.verdict === 'drop' && atGate.reason === 'addressUnbound') seen.unbound += 1;
}

/**
 * A verdict to be compared, bytes as hex. The gate amends sums, the twin makes
 * them anew: they agree where the sums held, and elsewhere nothing is promised
 * but that the rest is right.
 */
function readable(verdict: Verdict, frame: Uint8Array) {
  if (!('bytes' in verdict)) return verdict;
  const bytes = Uint8Array.from(verdict.bytes);
  if (!sumsHold(frame.subarray(ETHERNET))) {
    const six = (bytes[ETHERNET] ?? 0) >> 4 === 6;
    const udp = bytes[ETHERNET + (six ? 6 : 9)] === 17;
    const sums = [...(six ? [] : [ETHERNET + 10]), ETHERNET + (six ? 40 : 20) + (udp ? 6 : 16)];
    for (const sum of sums) bytes.fill(0, sum, sum + 2);
  }
  return { verdict: verdict.verdict, hex: Buffer.from(bytes).toString('hex') };
}

function succeeds(act: () => void): boolean {
  try {
    act();
    return true;
  } catch {
    return false;
  }
}

function isPiece(frame: Uint8Array): boolean {
  const view = new DataView(frame.buffer, frame.byteOffset);
  if ((frame[ETHERNET] ?? 0) >> 4 === 6) return frame[ETHERNET + 6] === 44;
  return (view.getUint16(ETHERNET + 6) & 0x3fff) !== 0;
}
