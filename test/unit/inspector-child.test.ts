/** The inspector's child, whose agent is killed before it has begun to listen. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ROOT, until } from '../child.ts';

test('outlives no agent, however early that dies', async () => {
  const agent = `import { fork } from 'node:child_process';
    const child = fork(${JSON.stringify(`${ROOT}dist/inspector/nflog.js`)}, ['100'], { execArgv: [], stdio: 'ignore' });
    process.stdout.write(String(child.pid), () => process.kill(process.pid, 'SIGKILL'));`;
  const dying = spawn(process.execPath, ['--input-type=module', '--eval', agent], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [said] = await once(dying.stdout, 'data');
  const pid = Number(said);
  expect(pid).toBeGreaterThan(0);
  // Its command line is gone as soon as it has ended, whether or not somebody has waited for it.
  await until('the end of the child', () => (commandOf(pid).includes('nflog.js') ? undefined : true));
});

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}
