/** How the doctor reads the host. It changes nothing, and waits for no tool longer than ten seconds. */
import { execFile } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { readFileSync, statfsSync, statSync } from 'node:fs';
import { promisify } from 'node:util';
import { type Address, parseAddress } from '../core/net.ts';

const TIMEOUT_MS = 10_000;
/** Where the tools are that a user's own path leaves out. */
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;

/** A file's text without the newline at its end. @throws the file system's error */
function text(path: string): string {
  return readFileSync(path, 'utf8').trimEnd();
}

export function sysctl(name: string): string {
  return text(`/proc/sys/net/${name}`);
}

/** What a tool said; undefined where it is not installed. @throws an error with code EPERM, or with what it complained of */
export async function tool(name: string, ...args: readonly string[]): Promise<string | undefined> {
  try {
    const env = { ...process.env, PATH, LC_ALL: 'C' };
    const { stdout } = await promisify(execFile)(name, args, { env, timeout: TIMEOUT_MS });
    return stdout;
  } catch (cause) {
    const { code, stderr = '' } = cause as { code?: string | number; stderr?: string };
    if (code === 'ENOENT') return undefined;
    const denied = /not permitted|permission denied/i.test(stderr);
    const complaint = new Error(`${name}: ${stderr.trim().split('\n')[0] || String(code)}`, { cause });
    throw Object.assign(complaint, { code: denied ? 'EPERM' : 'EXIT' });
  }
}

export interface HostLink {
  readonly name: string;
  /** As the kernel has it of RFC 2863, in small letters. */
  readonly state: string;
  readonly addresses: readonly Address[];
}

/** The interfaces of this network namespace; /sys would show those of another. None where `ip` says none. */
export async function links(): Promise<readonly HostLink[]> {
  const shown = JSON.parse((await tool('ip', '-json', 'address', 'show').catch(() => undefined)) ?? '[]') as {
    ifname: string;
    operstate: string;
    addr_info?: { local?: string }[];
  }[];
  return shown.map(({ ifname, operstate, addr_info = [] }) => ({
    name: ifname,
    state: operstate.toLowerCase(),
    addresses: addr_info.flatMap(({ local = '' }) => parseAddress(local) ?? []),
  }));
}

export function mode(path: string): number {
  return statSync(path).mode;
}

export function freeBytes(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

export function fileSystemType(path: string): number {
  return statfsSync(path).type;
}

/** Days until the first certificate of a PEM file is out of date; below 0 where one is. */
export function daysLeft(file: string, nowMs: number): number {
  const blocks = text(file).match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw new Error(`${file}: no certificate in PEM`);
  const ends = blocks.map((block) => Date.parse(new X509Certificate(block).validTo));
  return (Math.min(...ends) - nowMs) / 86_400_000;
}
