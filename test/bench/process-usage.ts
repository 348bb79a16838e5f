/** What a process of ours has taken from the machine so far, by /proc. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** CPU seconds of all its threads, user and system; if asked for, also of the children that it has waited for. */
export function cpuSeconds(pid: number, { children = false } = {}): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The second field, the name, may hold blanks and brackets.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const own = Number(fields[11]) + Number(fields[12]);
  const waitedFor = Number(fields[13]) + Number(fields[14]);
  return (own + (children ? waitedFor : 0)) / ticksPerSecond();
}

/** The most memory it has held at once. */
export function peakMebibytes(pid: number): number {
  return mebibytes(pid, 'VmHWM');
}

/** What it holds now, with what is mapped. */
export function residentMebibytes(pid: number): number {
  return mebibytes(pid, 'VmRSS');
}

function mebibytes(pid: number, of: string): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return Number(new RegExp(`^${of}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024;
}

let ticks: number | undefined;
function ticksPerSecond(): number {
  ticks ??= Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  return ticks;
}
