/**
 * Runs a tool of the system (nft, ip) and says what it said.
 */
import { spawn } from 'node:child_process';

/** They take milliseconds, a base with large sets some seconds. One that hangs must not hold up the watch over the closure. */
const PATIENCE_MS = 30_000;

export interface Outcome {
  readonly status: number;
  readonly output: string;
  readonly complaint: string;
}

/** Resolves whatever the exit status. @throws the spawn error where the tool is not there */
export function run(tool: string, args: readonly string[], input = ''): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    // LC_ALL: what it says is read by programs too.
    const child = spawn(tool, args, {
      env: { ...process.env, LC_ALL: 'C' },
      timeout: PATIENCE_MS,
      killSignal: 'SIGKILL',
    });
    const output: Buffer[] = [];
    const complaint: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => complaint.push(chunk));
    child.stdin.on('error', () => {}); // it may end before it has read all; its status tells
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({
        status: code ?? (signal ? 128 : 1),
        output: Buffer.concat(output).toString(),
        complaint: Buffer.concat(complaint).toString().trim() || (signal ? `ended by ${signal}` : ''),
      }),
    );
    child.stdin.end(input);
  });
}
