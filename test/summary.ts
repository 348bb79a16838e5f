import type { Reporter, TestModule } from 'vitest/node';
import { type Searched, searchedSoFar } from './wire.ts';

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
    // Nor is one that ran whole gateways and looked at no packet of theirs.
    const searched = searchedSoFar();
    if (searched.packets === 0 && kernel.some((module) => module.moduleId.includes('/test/e2e/'))) {
      count.failed += 1;
      process.exitCode = 1;
    }
    for (const module of modules) {
      const own = [...module.children.allTests()];
      for (const test of own) count[test.result().state] += 1;
      // What fails around tests leaves them skipped.
      for (const suite of module.children.allSuites()) if (suite.errors().length > 0) count.failed += 1;
      if ((own.length === 0 && !module.ok()) || module.errors().length > 0) count.failed += 1;
    }
    process.once('exit', () => {
      if (kernel.length > 0) process.stdout.write(`${told(searched)}\n`);
      process.stdout.write(
        `${count.passed} passed, ${count.failed} failed, ${count.skipped + count.pending} skipped\n`,
      );
    });
  }
}

/** How much of what gateways sent outside was searched for inner addresses (wire.ts; what was found has failed its test). */
function told({ networks, packets, bytes, exempt, lost, answers }: Searched): string {
  const megabytes = (count: number) => `${(count / 1e6).toFixed(1)} MB`;
  return (
    `outside wires searched: ${networks} networks, ${packets} packets, ${megabytes(bytes)}, ` +
    `${megabytes(answers)} of answers; ${exempt} packets exempt, ${lost} lost`
  );
}
