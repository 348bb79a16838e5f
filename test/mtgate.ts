/** The `mtgate` command as built, as an operator types it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './child.ts';

export interface Said {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export const MTGATE = [process.execPath, join(ROOT, 'dist/cli.js')];

export function mtgate(...words: readonly string[]): Promise<Said> {
  return said([...MTGATE, ...words]);
}

/** Runs a command to its end, its times in UTC. */
export function said(command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Said> {
  const [file = '', ...args] = command;
  return new Promise((resolve) =>
    execFile(file, args, { cwd: ROOT, env: { ...process.env, TZ: 'UTC', ...env } }, (error, stdout, stderr) =>
      resolve({ status: error ? Number(error.code) : 0, stdout, stderr }),
    ),
  );
}
