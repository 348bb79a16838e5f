import type { Reporter, TestModule } from 'vitest/node';

/** Ends the run with the one line that CI and people look for. */
export default class Summary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const count = { passed: 0, failed: errors.length, skipped: 0, pending: 0 };
    // A run that was to meet the kernel and did not is no pass, whatever else passed.
    const kernel = modules.filter((module) => module.project.name !== 'unit');
    const met = kernel.some((module) => [...module.children.allTests('passed')].length > 0);
    if (kernel.length > 0 && !met) {
      count.failed += 1;
      process.exitCode = 1;
    }
    for (const module of modules) {
      const own = [...module.children.allTests()];
      for (const test of own) count[test.result().state] += 1;
      // What fails around tests leaves them skipped.
      for (const suite of module.children.allSuites()) if (suite.errors().length > 0) count.failed += 1;
      if (own.length === 0 && !module.ok()) count.failed += 1;
    }
    process.once('exit', () => {
      process.stdout.write(
        `${count.passed} passed, ${count.failed} failed, ${count.skipped + count.pending} skipped\n`,
      );
    });
  }
}
