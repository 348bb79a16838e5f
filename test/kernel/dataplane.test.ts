/**
 * The gate in the kernel keeps the promises of a data plane: the very suite
 * its twin in memory keeps, wherever it hangs.
 */
import { afterAll, beforeAll, describe, expect } from 'vitest';
import { describeDataplane } from '../suites/dataplane.ts';
import { gateStand, type Stand } from './gate-stand.ts';

describe.each(['tc', 'xdp'] as const)('the gate at %s', (where) => {
  let stand: Stand;
  beforeAll(async () => {
    stand = await gateStand(where);
  });
  afterAll(async () => {
    await stand.close();
    // Else all of it was TC's work once more.
    if (where === 'xdp') expect(Math.min(stand.early.carried, stand.early.denied)).toBeGreaterThan(100);
  });

  describeDataplane('gate', (setup) => stand.make(setup));
});
