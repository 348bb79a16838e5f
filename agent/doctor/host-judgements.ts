/** Judgements about the host's software, agent, clock and files: pure, from found values to a finding. */
import type { SourceFault } from '../core/trigger-plan.ts';
import type { Status } from '../use-cases/status.ts';
import { bad, type Finding, ok, unknown, warn } from './finding.ts';

const OLDEST_NODE = [20, 19] as const;

export function judgeNode(version: string): Finding {
  const [major = 0, minor = 0] = version.replace('v', '').split('.').map(Number);
  const [oldestMajor, oldestMinor] = OLDEST_NODE;
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)) return ok(`Node ${version}`);
  return bad(`Node ${version}`, `mtgate needs Node ${OLDEST_NODE.join('.')} or newer.`);
}

/** A tool's own first line about its version; undefined where it cannot be run. */
export function judgeTool(tool: string, pack: string, said: string | undefined): Finding {
  if (said === undefined) return bad(`${tool} cannot be run`, `apt-get install ${pack}`);
  return ok(said.split('\n')[0]?.trim() || 'there');
}

/** The libraries that the linker knows, as `ldconfig -p` lists them. */
export function judgeLibrary(library: string, pack: string, known: string): Finding {
  const line = known.split('\n').find((one) => one.trim().startsWith(`${library} `));
  return line ? ok(line.split('=> ')[1] ?? library) : bad(`no ${library}`, `apt-get install ${pack}`);
}

/** What the agent says of itself. */
export function judgeAgent({ closed, gap, draining, gateway, liveGrants }: Status): Finding {
  if (!closed)
    return bad(`${gateway} is not as it should be: ${gap}`, 'The agent repairs it; mtgate status says more.');
  if (draining) return warn(`${gateway} is closed, and draining`, 'To begin grants again: mtgate drain --end');
  return ok(`${gateway} is closed, ${liveGrants} live grants`);
}

/** Grants end by the clock after a reboot, certificates always: it must be right. */
export function judgeClock(synchronised: boolean | undefined): Finding {
  if (synchronised === undefined) return unknown('whether the clock is synchronised cannot be told');
  if (synchronised) return ok('synchronised');
  return warn('the kernel holds the clock for not synchronised', 'Install and start chrony or systemd-timesyncd.');
}

/** Devices trust triggers from these addresses alone: what this host does not have, it cannot send from. */
export function judgeTriggerSources(faults: readonly SourceFault[]): Finding {
  if (faults.length === 0) return ok('addresses of inside interfaces of this host');
  const found = faults.map(({ why }) => why).join('; ');
  if (!faults.some(({ isMissing }) => isMissing))
    return warn(found, 'Give an inside interface the address, if devices are to reach it for their answers.');
  return bad(found, 'Give an inside interface the address (ip address add), or correct triggers.sources.');
}

const MEBIBYTE = 2 ** 20;

/** The store is small; a full disk means that no grant is opened. */
export function judgeSpace(path: string, freeBytes: number): Finding {
  const found = `${path}: ${Math.floor(freeBytes / MEBIBYTE)} MiB free`;
  if (freeBytes < 16 * MEBIBYTE) return bad(found, 'Make room: without it no grant is recorded, and so none opened.');
  return freeBytes < 256 * MEBIBYTE ? warn(found, 'Make room before it is full.') : ok(found);
}

/** Grants and identities of devices: for nobody but the agent and its group. */
export function judgeFolderRights(path: string, mode: number): Finding {
  const found = `${path}: mode ${octal(mode)}`;
  return (mode & 0o027) === 0 ? ok(found) : bad(found, `chmod 0750 ${path}`);
}

export function judgeKeyRights(path: string, mode: number): Finding {
  const found = `${path}: mode ${octal(mode)}`;
  return (mode & 0o027) === 0 ? ok(found) : bad(`${found}: others may read or change it`, `chmod 0640 ${path}`);
}

const WARN_DAYS = 14;

/** A certificate, or a revocation list, and the days until it is out of date. */
export function judgeDate(what: string, daysLeft: number): Finding {
  if (daysLeft < 0) return bad(`${what}: out of date for ${days(-daysLeft)}`, 'Renew it, then: mtgate reload');
  const found = `${what}: good for ${days(daysLeft)}`;
  return daysLeft < WARN_DAYS ? warn(found, 'Renew it, then: mtgate reload') : ok(found);
}

function days(number: number): string {
  const whole = Math.floor(number);
  return `${whole} day${whole === 1 ? '' : 's'}`;
}

function octal(mode: number): string {
  return `0${(mode & 0o777).toString(8)}`;
}
