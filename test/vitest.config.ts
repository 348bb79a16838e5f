import { defineConfig } from 'vitest/config';

/**
 * `unit` runs anywhere in seconds; `kernel` needs root and a kernel, and its
 * files run one after another, since they share the machine's interfaces.
 */
export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    reporters: ['default', new URL('./summary.ts', import.meta.url).pathname],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/{unit,golden,property,suites,structure}/**/*.test.ts'],
          testTimeout: 20_000, // of a busy machine, or an unlucky draw: none takes a quarter of it alone
        },
      },
      {
        test: {
          name: 'kernel',
          include: ['test/{kernel,e2e,service}/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
