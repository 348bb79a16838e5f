/** The slow obvious twin keeps the promises of a data plane. */
import type { Clock } from '../../agent/core/ports.ts';
import { Memory } from '../../agent/dataplane/memory.ts';
import { describeDataplane } from '../suites/dataplane.ts';
import { nowNs } from '../suites/fixture.ts';

const clock: Clock = { nowMs: Date.now, monotonicNs: nowNs, boottimeNs: nowNs };

describeDataplane('memory', (setupOf) => {
  const interfaces = { outside: 1, inside: 2, secondInside: 3, other: 4 };
  return { plane: new Memory(clock, setupOf(interfaces)), interfaces, close: () => {} };
});
