import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** One file more than there are processors: most tests wait, for a kernel or a clock, half of their time. */
const AT_ONCE = { maxWorkers: availableParallelism() + 1 };

const PROGRAMS = { globalSetup: new URL('./programs.ts', import.meta.url).pathname };

/**
 * What no other file may run beside. Floods take the processors, and the
 * kernel's queue of packets for each; what a killed run left, any other file
 * may take away before it is looked at.
 */
const ALONE = ['e2e/admission', 'kernel/gate-limits', 'kernel/gate-queues', 'kernel/network'].map(
  (name) => `test/${name}.test.ts`,
);

/**
 * `unit` runs anywhere in seconds. `kernel` needs root and a kernel; its files
 * run beside each other and beside those of `unit`, since each makes its own
 * hosts, which are network namespaces, and its own BPF file system. `alone`
 * needs the same, and runs after all others, one file after another.
 */
export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    reporters: ['default', new URL('./summary.ts', import.meta.url).pathname],
    projects: [
      {
        test: {
          name: 'unit',
          ...AT_ONCE,
          include: ['test/{unit,golden,property,suites,structure}/**/*.test.ts'],
          isolate: false, // loading the same modules for each file anew took a third of a light file's time
          testTimeout: 20_000, // of a busy machine, or an unlucky draw: none takes a quarter of it alone
          hookTimeout: 20_000,
        },
      },
      {
        test: {
          name: 'kernel',
          ...AT_ONCE,
          include: ['test/{kernel,e2e,service}/**/*.test.ts'],
          exclude: ALONE,
          ...PROGRAMS,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: 'alone',
          include: ALONE,
          ...PROGRAMS,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
