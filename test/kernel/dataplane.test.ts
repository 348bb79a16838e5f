/**
 * The gate in the kernel keeps the promises of a data plane: the very suite
 * its twin in memory keeps.
 */
import { afterAll, beforeAll, describe } from 'vitest';
import { describeDataplane } from '../suites/dataplane.ts';
import { gateStand, type Stand } from './gate-stand.ts';

describe('the gate', () => {
  let stand: Stand;
  beforeAll(() => {
    stand = gateStand();
  });
  afterAll(() => stand.close());

  describeDataplane('gate', (setup) => stand.make(setup));
});
