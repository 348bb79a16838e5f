/**
 * A row of the packet tables: a packet, and what must become of it: a reason,
 * `pass`, or the packet that it turns into, compared byte by byte; on the way
 * out that one passes. Each row also holds the counters to it: one exit, one
 * count. And the data plane that a table is asked of: made once, since no
 * packet changes what the next meets.
 */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { DenialReason } from '../../../agent/core/reasons.ts';
import type { GateCounters, Hook, JudgingDataplane } from '../../../agent/dataplane/dataplane.ts';
import { ethernet } from '../../frames.ts';
import { addClasses, bindDevices, type Interfaces, type MakeRig, nowNs, type Rig, setupOf } from '../fixture.ts';

export type Outcome = DenialReason | 'pass' | Uint8Array;
export type Row = readonly [what: string, packet: Uint8Array, outcome: Outcome];

/** A data plane for the describe it is called in, with classes, bound devices, a heartbeat and what `prepare` opens. */
export function standing(make: MakeRig, prepare?: (plane: JudgingDataplane) => void, setup = setupOf): () => Rig {
  let rig: Rig;
  beforeAll(async () => {
    rig = await make(setup);
    addClasses(rig.plane);
    bindDevices(rig.plane);
    prepare?.(rig.plane);
  });
  beforeEach(() => rig.plane.heartbeat(nowNs()));
  afterAll(() => rig.close());
  return () => rig;
}

/** `at`: the interface that a packet from inside comes in at. */
export function table(
  rig: () => Rig,
  hook: Hook,
  rows: readonly Row[],
  at: keyof Interfaces = 'inside',
  mark?: number,
): void {
  test.each(rows)('%s', (_, packet, outcome) =>
    expectOutcome(rig(), hook, ethernet(packet), typeof outcome === 'string' ? outcome : ethernet(outcome), at, mark),
  );
}

/** Of frames, where the link layer matters. */
export function expectOutcome(
  { plane, interfaces }: Rig,
  hook: Hook,
  frame: Uint8Array,
  outcome: Outcome,
  at: keyof Interfaces = 'inside',
  mark?: number,
): void {
  const before = plane.counters();
  const verdict = plane.judge(
    hook,
    hook === 'insideIngress' || hook === 'insideEgress' ? interfaces[at] : interfaces.outside,
    frame,
    mark,
  );
  if (outcome === 'pass') expect(verdict).toEqual({ verdict: 'pass' });
  else if (typeof outcome === 'string') expect(verdict).toEqual({ verdict: 'drop', reason: outcome, sampled: false });
  else if (!isEgress(hook)) expect(verdict).toEqual({ verdict: 'redirect', bytes: outcome });
  else expect({ bytes: frame, ...verdict }).toEqual({ verdict: 'pass', bytes: outcome }); // unchanged ones are not shown
  expect(moved(before, plane.counters())).toEqual(expectedMove(hook, frame, outcome));
}

/** What leaves by an egress hook was counted where it came in. */
function expectedMove(hook: Hook, frame: Uint8Array, outcome: Outcome): Record<string, string> {
  if (isEgress(hook) && (outcome === 'pass' || typeof outcome !== 'string')) return {};
  // An ICMP error is written anew, and counts by itself.
  if (typeof outcome !== 'string' && isIcmp(outcome)) return { errorsCarried: `1 of ${outcome.length}` };
  const granted = hook === 'outsideIngress' ? 'grantedIn' : 'grantedOut';
  const name = outcome === 'pass' ? 'passed' : typeof outcome === 'string' ? outcome : granted;
  return { [name]: `1 of ${frame.length}` };
}

function isEgress(hook: Hook): boolean {
  return hook === 'outsideEgress' || hook === 'insideEgress';
}

function isIcmp(frame: Uint8Array): boolean {
  return (frame[14] ?? 0) >> 4 === 6 ? frame[20] === 58 : frame[23] === 1;
}

/** The counters that moved, by how many packets and bytes. */
function moved(before: GateCounters, after: GateCounters): Record<string, string> {
  // Where a packet was finished is no matter of the table's.
  const flat = ({ denied, atXdp: _, ...others }: GateCounters) => Object.entries({ ...others, ...denied });
  const old = new Map(flat(before));
  return Object.fromEntries(
    flat(after).flatMap(([name, { packets, bytes }]) => {
      const was = old.get(name) ?? { packets: 0n, bytes: 0n };
      const isSame = packets === was.packets && bytes === was.bytes;
      return isSame ? [] : [[name, `${packets - was.packets} of ${bytes - was.bytes}`]];
    }),
  );
}
