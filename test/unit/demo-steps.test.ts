/** What a demo says may be read to any point. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ROOT } from '../child.ts';
import { said } from '../mtgate.ts';

test('a reader that stops early ends a demo in silence', async () => {
  const source = `import { say } from ${JSON.stringify(join(ROOT, 'test/demo/steps.ts'))};
    for (;;) { say('a step'); await new Promise((next) => setTimeout(next, 1)); }`;
  const demo = [process.execPath, '--import', 'tsx', '--input-type=module', '--eval', source];
  const { stdout, stderr } = await said(['bash', '-c', 'set -o pipefail; "$@" | head -2; echo $?', 'demo', ...demo]);
  expect({ stdout, stderr }).toEqual({ stdout: 'a step\na step\n0\n', stderr: '' });
});
