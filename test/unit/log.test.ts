/** The log as the journal gets it: through a pipe, that may stand still. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { ROOT } from '../child.ts';

/** A program that logs, with its standard output as a pipe. */
function logging(body: string) {
  const source = `import { openLog } from ${JSON.stringify(`${ROOT}dist/host.js`)};
    const { log, leftOut } = openLog('info');
    ${body}`;
  return spawn(process.execPath, ['--input-type=module', '--eval', source], { stdio: ['ignore', 'pipe', 'pipe'] });
}

test('what waits at an exit is written then', async () => {
  const child = logging(`for (let i = 0; i < 1000; i++) log.info({ i }, 'ready'); process.exit(0);`);
  const lines = (await text(child.stdout)).trimEnd().split('\n');
  // A piece that was on its way already may come last.
  const inOrder = lines.map((line) => JSON.parse(line) as { i: number }).sort((a, b) => a.i - b.i);
  expect(inOrder.map(({ i }) => i)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  expect(inOrder[999]).toMatchObject({ level: 'info', event: 'ready' });
});

test('a journal that does not read holds nobody up: what it has no room for is left out, and counted', async () => {
  const child = logging(`
    const many = 'x'.repeat(1000);
    for (let i = 0; i < 20_000; i++) log.info({ i, many }, 'ready');
    process.stderr.write(String(leftOut()));
    setInterval(() => {}, 1000);`);
  const [said] = await once(child.stderr, 'data');
  expect(Number(said)).toBeGreaterThan(0);
  const [chunk] = await once(child.stdout, 'data');
  child.kill('SIGKILL');
  expect(JSON.parse(String(chunk).split('\n')[0] ?? '')).toMatchObject({ event: 'ready', i: 0 });
});
