/**
 * What the doctor looks at, as a table: a name, how it is read (host.ts), and
 * who judges it (…-judgements.ts). Nothing here throws: what cannot be read
 * is a row of its own.
 */
import { existsSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { type WrongSysctl, wrongSysctls } from '../closure/sysctls.ts';
import { type Config, CREDENTIAL } from '../config.ts';
import { sourceFaults } from '../core/trigger-plan.ts';
import { ownVersion } from '../version.ts';
import { bad, type Finding, ok, type Row, unknown } from './finding.ts';
import * as host from './host.ts';
import * as judge from './host-judgements.ts';
import * as kernel from './kernel-judgements.ts';

export interface Check {
  readonly name: string;
  readonly look: () => Finding | Promise<Finding>;
}

/** What is looked at on every host. */
export const HOST_CHECKS: readonly Check[] = [
  { name: 'mtgate', look: () => ok(`mtgate ${ownVersion()}`) },
  { name: 'node', look: () => judge.judgeNode(process.version) },
  { name: 'kernel', look: () => kernel.judgeKernel(release()) },
  { name: 'nft', look: async () => judge.judgeTool('nft', 'nftables', await host.tool('nft', '--version')) },
  { name: 'ip', look: async () => judge.judgeTool('ip', 'iproute2', await host.tool('ip', '-V')) },
  { name: 'libbpf', look: async () => judge.judgeLibrary('libbpf.so.1', 'libbpf1', await libraries()) },
  { name: 'libpcap', look: async () => judge.judgeLibrary('libpcap.so.0.8', 'libpcap0.8', await libraries()) },
  { name: 'kernel settings', look: () => kernel.judgeSysctls(wrongSysctls([])) },
  {
    name: 'tracked flows',
    look: () => kernel.judgeConntrack(tracking('nf_conntrack_count'), tracking('nf_conntrack_max')),
  },
  { name: 'tracking of TCP', look: () => kernel.judgeTcpLoose(host.sysctl('netfilter/nf_conntrack_tcp_loose')) },
  { name: 'base', look: async () => kernel.judgeTable(await baseText()) },
  { name: 'clock', look: async () => judge.judgeClock(await synchronised()) },
];

/** What follows from agent.yaml. */
export async function siteChecks(config: Config, nowMs: number): Promise<readonly Check[]> {
  const { outside, inside, store, api, gate, triggers } = config;
  const links = [outside.interface, ...inside.map((realm) => realm.interface)];
  const found = await host.links();
  const states = new Map(found.map(({ name, state }) => [name, state]));
  const dates = [
    { what: 'API certificate', file: api.certificate },
    ...api.clientCAs.map(({ name, file }) => ({ what: `client CA ${name}`, file })),
  ];
  return [
    { name: 'bpffs', look: () => bpffsFinding(gate.bpffs) },
    ...links.flatMap((link) => linkChecks(link, states)),
    ...(triggers
      ? [{ name: 'trigger sources', look: () => judge.judgeTriggerSources(sourceFaults(triggers, found, inside)) }]
      : []),
    { name: 'store', look: () => judge.judgeFolderRights(store.directory, host.mode(store.directory)) },
    { name: 'disk', look: () => judge.judgeSpace(store.directory, host.freeBytes(store.directory)) },
    { name: 'API key', look: () => keyFinding(api.key) },
    ...dates.map(({ what, file }) => ({
      name: what,
      look: () => needed(file, () => judge.judgeDate(file, host.daysLeft(file, nowMs))),
    })),
  ];
}

/** Every check's row, in their order. */
export function examine(checks: readonly Check[]): Promise<Row[]> {
  return Promise.all(
    checks.map(async ({ name, look }) => {
      try {
        return { name, ...(await look()) };
      } catch (fault) {
        return { name, ...unread(fault as NodeJS.ErrnoException) };
      }
    }),
  );
}

/** The agent makes its own folder, but not the one above it, which must be a BPF file system. */
function bpffsFinding(folder: string): Finding {
  const mount = existsSync(folder) ? folder : dirname(folder);
  if (!existsSync(mount)) return bad(`${mount} is not there`, kernel.BPFFS_ADVICE);
  return kernel.judgeBpffs(mount, host.fileSystemType(mount));
}

/** What systemd hands to the service is not there for others to look at. */
function keyFinding(key: string): Finding {
  if (key.startsWith(CREDENTIAL)) return ok(`${key}: systemd hands it to the service`);
  return needed(key, () => judge.judgeKeyRights(key, host.mode(key)));
}

/** A file without which the agent does not start. */
function needed(file: string, look: () => Finding): Finding {
  try {
    return look();
  } catch (fault) {
    if ((fault as NodeJS.ErrnoException).code !== 'ENOENT') throw fault;
    return bad(`${file} is not there`, 'Put it there, or correct agent.yaml.');
  }
}

function unread(fault: NodeJS.ErrnoException): Finding {
  if (fault.code === 'EACCES' || fault.code === 'EPERM') return unknown('not allowed to look', 'Ask again as root.');
  if (fault.code === 'ENOENT') return unknown(`${fault.path ?? fault.message} is not there`);
  return unknown(fault.message);
}

function linkChecks(link: string, states: ReadonlyMap<string, string>): Check[] {
  const own = ({ name }: WrongSysctl) => name.includes(`/${link}/`);
  const interfaceCheck = { name: 'interface', look: () => kernel.judgeLink(link, states.get(link)) };
  if (!states.has(link)) return [interfaceCheck];
  return [
    interfaceCheck,
    { name: 'offloads', look: async () => kernel.judgeOffloads(link, await host.tool('ethtool', '-k', link)) },
    { name: 'settings', look: () => kernel.judgeSysctls(wrongSysctls([link]).filter(own)) },
  ];
}

async function libraries(): Promise<string> {
  return (await host.tool('ldconfig', '-p')) ?? '';
}

function tracking(name: string): number {
  return Number(host.sysctl(`netfilter/${name}`));
}

async function baseText(): Promise<string | undefined> {
  try {
    return await host.tool('nft', '--stateless', 'list', 'table', 'inet', 'mtgate');
  } catch (fault) {
    if ((fault as NodeJS.ErrnoException).code === 'EPERM') throw fault;
    return undefined;
  }
}

/** As timedatectl says it; undefined where there is none, or no systemd to ask. */
async function synchronised(): Promise<boolean | undefined> {
  const said = await host
    .tool('timedatectl', 'show', '--property', 'NTPSynchronized', '--value')
    .catch(() => undefined);
  return said === undefined ? undefined : said.trim() === 'yes';
}
