/**
 * Judgements about the kernel and its network: pure, from found values to a
 * finding. Names of sysctls are given as people type them.
 */
import type { WrongSysctl } from '../closure/sysctls.ts';
import { bad, type Finding, ok, unknown, warn } from './finding.ts';

/** Linux 6.1 has all that the gate needs; 6.6 has TCX. */
export function judgeKernel(release: string): Finding {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10));
  const atLeast = (other: number, than: number) => major > other || (major === other && minor >= than);
  if (!atLeast(6, 1)) return bad(`Linux ${release}`, 'mtgate needs Linux 6.1 or newer.');
  return ok(`Linux ${release}: the gate attaches by ${atLeast(6, 6) ? 'TCX' : 'clsact (TCX from Linux 6.6)'}`);
}

const BPFFS_MAGIC = 0xcafe4a11;
export const BPFFS_ADVICE = 'Mount it: mount -t bpf bpf /sys/fs/bpf, or correct gate.bpffs.';

export function judgeBpffs(path: string, fileSystemType: number): Finding {
  if (fileSystemType === BPFFS_MAGIC) return ok(`${path} is a BPF file system`);
  return bad(`${path} is no BPF file system`, BPFFS_ADVICE);
}

/** Kernel settings against what the gateway rests on (sysctls.ts). What is wrong there opens nothing: the gate closes whatever they say. */
export function judgeSysctls(wrong: readonly WrongSysctl[]): Finding {
  if (wrong.length === 0) return ok('as the gateway needs them');
  const found = wrong.map(({ name, value, why }) => `${name} = ${value}, but ${why}`);
  return warn(found.join('; '), `sysctl -w ${wrong.map(({ name, expected }) => `${name}=${expected}`).join(' ')}`);
}

/** `unknown` is what a TUN says while it works; undefined: there is none of this name. */
export function judgeLink(link: string, state: string | undefined): Finding {
  if (state === undefined) return bad(`${link} is not there`, 'Create it, or name another in agent.yaml.');
  if (state === 'up' || state === 'unknown') return ok(`${link} is ${state === 'up' ? 'up' : 'there'}`);
  return warn(`${link} is ${state}`, `ip link set ${link} up; is the cable, or the other end, in place?`);
}

/** Connection tracking holds flows that devices begin, those that a filter lets in and the host's own, never granted ones; a full table drops new ones. */
export function judgeConntrack(count: number, max: number): Finding {
  const used = `${count} of ${max} entries used`;
  const advice = `Raise it: sysctl -w net.netfilter.nf_conntrack_max=${max * 2}; or look for a flood: conntrack -S`;
  if (count >= max * 0.95) return bad(used, advice);
  return count >= max * 0.75 ? warn(used, advice) : ok(used);
}

/** 1 picks TCP flows up in the middle. The base lets them begin by a lone SYN only, so this is a second bolt. */
export function judgeTcpLoose(value: string): Finding {
  if (value === '0') return ok('net.netfilter.nf_conntrack_tcp_loose = 0');
  return warn(
    `net.netfilter.nf_conntrack_tcp_loose = ${value}: tracking picks up TCP flows in the middle`,
    'The base drops them all the same; to track none: sysctl -w net.netfilter.nf_conntrack_tcp_loose=0',
  );
}

/** The base as `nft list table inet mtgate` shows it; undefined where it does not. */
export function judgeTable(text: string | undefined): Finding {
  if (text === undefined)
    return bad('table inet mtgate does not stand', 'Start the agent, or mtgate-closed.service, before the interfaces.');
  const chains = new Map(
    Array.from(text.matchAll(/^\tchain (\S+) \{\n((?:\t\t.*\n)*)\t\}/gm), ([, name = '', body = '']) => [name, body]),
  );
  const drops = (body = '') => /\bdrop\b/.test(body);
  const forward = [...chains.values()].find((body) => body.includes('hook forward')) ?? '';
  const ways = Array.from(forward.matchAll(/\bgoto (\S+)/g), ([, name = '']) => chains.get(name));
  // The closed table of before the agent starts drops by policy; its own base at the end of each way.
  if (drops(forward) || (ways.length > 0 && ways.every(drops)))
    return ok('table inet mtgate stands, and closes forwarding');
  return bad('table inet mtgate stands, but does not close forwarding', 'Restart the agent: it puts it right.');
}

/** Offloads as `ethtool -k` writes them. LRO merges what the gate must see apart, and forwarding switches it off. */
export function judgeOffloads(link: string, text: string | undefined): Finding {
  if (text === undefined) return unknown(`${link}: ethtool is not installed`, 'apt-get install ethtool');
  const state = (name: string) => new RegExp(`^\\s*${name}: (on|off)`, 'm').exec(text)?.[1] ?? 'unknown';
  if (state('large-receive-offload') === 'on')
    return bad(`${link}: large-receive-offload is on: packets are merged for good`, `ethtool -K ${link} lro off`);
  const segments = `tso ${state('tcp-segmentation-offload')}, gro ${state('generic-receive-offload')}`;
  if (state('generic-receive-offload') === 'off')
    return warn(`${link}: ${segments}: each packet is carried alone`, `For speed: ethtool -K ${link} gro on`);
  return ok(`${link}: ${segments}, lro ${state('large-receive-offload')}`);
}
