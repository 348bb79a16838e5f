import { defineConfig } from 'vitest/config';

/** What runs on Debian 12's own kernel, inside the guest that run.ts boots. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    name: 'kernel',
    include: ['test/kernel/{dataplane,device-flows,interfaces,netlink}.test.ts', 'test/kernel61/unit.test.ts'],
    reporters: ['default', new URL('../summary.ts', import.meta.url).pathname],
    // Every instruction is emulated.
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
