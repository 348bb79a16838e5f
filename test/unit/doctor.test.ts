/** What the doctor says of found values. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { examine } from '../../agent/doctor/checks.ts';
import { type Finding, ok } from '../../agent/doctor/finding.ts';
import * as host from '../../agent/doctor/host-judgements.ts';
import * as kernel from '../../agent/doctor/kernel-judgements.ts';
import type { Status } from '../../agent/use-cases/status.ts';
import { ROOT } from '../child.ts';

/** As nft lists it; what another chain drops does not count. */
const forwardChain = (policy: string) =>
  `table inet mtgate {\n\tchain forward {\n\t\ttype filter hook forward priority filter; ${policy}\n\t}\n\tchain x {\n\t\tdrop\n\t}\n}`;
const MIB = 2 ** 20;
const agent = (changes: Partial<Status>) =>
  ({ gateway: 'gw-1', closed: true, draining: false, liveGrants: 3, ...changes }) as Status;
const AWAY = { source: '10.0.0.1', isMissing: true, why: '10.0.0.1 is away' };
const ASTRAY = { source: '::1', isMissing: false, why: '::1 is astray' };
const FORWARDING_OFF = { name: 'net/ipv4/ip_forward', value: '0', expected: '1', why: 'flows are forwarded' };

test.each<[string, Finding, Finding['level'], string | RegExp]>([
  ['a kernel with TCX', kernel.judgeKernel('6.18.44-fc'), 'ok', /attaches by TCX$/],
  ['the oldest kernel', kernel.judgeKernel('6.1.0-30-cloud-amd64'), 'ok', /clsact/],
  ['a kernel too old', kernel.judgeKernel('5.15.0'), 'bad', 'Linux 5.15.0'],
  ['a next generation', kernel.judgeKernel('7.0'), 'ok', /TCX/],
  ['bpffs', kernel.judgeBpffs('/sys/fs/bpf', 0xcafe4a11), 'ok', /is a BPF file system/],
  ['no bpffs', kernel.judgeBpffs('/sys/fs/bpf', 0x62656572), 'bad', /is no BPF/],
  ['settings', kernel.judgeSysctls([]), 'ok', 'as the gateway needs them'],
  ['a wrong one', kernel.judgeSysctls([FORWARDING_OFF]), 'warn', 'net/ipv4/ip_forward = 0, but flows are forwarded'],
  ['a link that is up', kernel.judgeLink('eth0', 'up'), 'ok', 'eth0 is up'],
  ['a TUN', kernel.judgeLink('tun0', 'unknown'), 'ok', 'tun0 is there'],
  ['no such link', kernel.judgeLink('eth9', undefined), 'bad', 'eth9 is not there'],
  ['a link that is down', kernel.judgeLink('eth0', 'down'), 'warn', 'eth0 is down'],
  ['room to track', kernel.judgeConntrack(10, 262_144), 'ok', '10 of 262144 entries used'],
  ['little room', kernel.judgeConntrack(200_000, 262_144), 'warn', /200000/],
  ['no room', kernel.judgeConntrack(262_144, 262_144), 'bad', /262144 of/],
  ['loose tracking', kernel.judgeTcpLoose('1'), 'warn', /in the middle/],
  ['the base', kernel.judgeTable(readFileSync(join(ROOT, 'test/golden/base.nft'), 'utf8')), 'ok', /closes forwarding$/],
  ['the closed table', kernel.judgeTable(forwardChain('policy drop;')), 'ok', /closes forwarding$/],
  ['no base', kernel.judgeTable(undefined), 'bad', 'table inet mtgate does not stand'],
  ['a base that was opened', kernel.judgeTable(forwardChain('policy accept;')), 'bad', /does not close/],
  ['no ethtool', kernel.judgeOffloads('eth0', undefined), 'unknown', /ethtool is not installed/],
  [
    'offloads on',
    kernel.judgeOffloads(
      'eth0',
      'tcp-segmentation-offload: on\ngeneric-receive-offload: on\nlarge-receive-offload: off [fixed]\n',
    ),
    'ok',
    'eth0: tso on, gro on, lro off',
  ],
  ['LRO', kernel.judgeOffloads('eth0', 'large-receive-offload: on\n'), 'bad', /merged for good/],
  ['no GRO', kernel.judgeOffloads('eth0', 'generic-receive-offload: off\n'), 'warn', /carried alone/],
  ['this Node', host.judgeNode(process.version), 'ok', `Node ${process.version}`],
  ['a Node too old', host.judgeNode('v20.18.3'), 'bad', 'Node v20.18.3'],
  ['a tool', host.judgeTool('nft', 'nftables', 'nftables v1.0.6 (Lester Gooch #5)\n'), 'ok', /^nftables v1\.0\.6/],
  ['no tool', host.judgeTool('nft', 'nftables', undefined), 'bad', 'nft cannot be run'],
  ['a library', host.judgeLibrary('libbpf.so.1', 'libbpf1', '\tlibbpf.so.1 (libc6) => /lib/b.so\n'), 'ok', '/lib/b.so'],
  ['no library', host.judgeLibrary('libbpf.so.1', 'libbpf1', '\tlibbpf.so.10 (libc6) => /lib/b.so\n'), 'bad', /no lib/],
  ['an agent', host.judgeAgent(agent({})), 'ok', 'gw-1 is closed, 3 live grants'],
  ['a draining one', host.judgeAgent(agent({ draining: true })), 'warn', 'gw-1 is closed, and draining'],
  ['a gap', host.judgeAgent(agent({ closed: false, gap: 'no table' })), 'bad', /not as it should be: no table/],
  ['a clock that is right', host.judgeClock(true), 'ok', 'synchronised'],
  ['a clock on its own', host.judgeClock(false), 'warn', /not synchronised/],
  ['a clock nobody knows of', host.judgeClock(undefined), 'unknown', /cannot be told/],
  ['trigger sources', host.judgeTriggerSources([]), 'ok', /^addresses of inside/],
  ['a source that this host lacks', host.judgeTriggerSources([AWAY, ASTRAY]), 'bad', '10.0.0.1 is away; ::1 is astray'],
  ['a source outside', host.judgeTriggerSources([ASTRAY]), 'warn', '::1 is astray'],
  ['room', host.judgeSpace('/store', 1024 * MIB), 'ok', '/store: 1024 MiB free'],
  ['little disk', host.judgeSpace('/store', 100 * MIB), 'warn', '/store: 100 MiB free'],
  ['no disk', host.judgeSpace('/store', MIB), 'bad', '/store: 1 MiB free'],
  ['a folder of the agent', host.judgeFolderRights('/store', 0o40750), 'ok', '/store: mode 0750'],
  ['a folder for everybody', host.judgeFolderRights('/store', 0o40755), 'bad', '/store: mode 0755'],
  ['a key for the group', host.judgeKeyRights('/key', 0o100640), 'ok', '/key: mode 0640'],
  ['a key for everybody', host.judgeKeyRights('/key', 0o100644), 'bad', /others may read/],
  ['a certificate', host.judgeDate('/crt', 30.5), 'ok', '/crt: good for 30 days'],
  ['a certificate soon out of date', host.judgeDate('/crt', 1.9), 'warn', '/crt: good for 1 day'],
  ['one out of date', host.judgeDate('/crt', -2.1), 'bad', '/crt: out of date for 2 days'],
])('%s', (_, finding, level, found) => {
  expect(finding.level).toBe(level);
  if (typeof found === 'string') expect(finding.found).toBe(found);
  else expect(finding.found).toMatch(found);
  // Whatever is wrong has something to be done about it.
  if (level === 'warn' || level === 'bad') expect(finding.advice).toMatch(/\S/);
});

test('advice about settings can be typed as it stands', () => {
  expect(kernel.judgeSysctls([FORWARDING_OFF]).advice).toBe('sysctl -w net/ipv4/ip_forward=1');
});

test('what cannot be looked at is a row too, and holds up no other', async () => {
  const failing = (fault: object) => () => Promise.reject(Object.assign(new Error('it broke'), fault));
  const rows = await examine([
    { name: 'denied', look: failing({ code: 'EACCES' }) },
    { name: 'absent', look: failing({ code: 'ENOENT', path: '/proc/sys/x' }) },
    { name: 'broken', look: failing({}) },
    { name: 'fine', look: () => ok('fine') },
  ]);
  expect(rows).toEqual([
    { name: 'denied', level: 'unknown', found: 'not allowed to look', advice: 'Ask again as root.' },
    { name: 'absent', level: 'unknown', found: '/proc/sys/x is not there' },
    { name: 'broken', level: 'unknown', found: 'it broke' },
    { name: 'fine', level: 'ok', found: 'fine' },
  ]);
});
