/** The gate in the kernel keeps the promises of a data plane: the very suite its twin in memory keeps. */
import { afterAll, beforeAll, describe } from 'vitest';
import { describeDataplane } from '../suites/dataplane.ts';
import { type Bench, gateBench } from './gate-rig.ts';

describe('the gate', () => {
  let bench: Bench;
  beforeAll(() => {
    bench = gateBench();
  });
  afterAll(() => bench.close());

  describeDataplane('gate', (setupOf) => bench.make(setupOf));
});
