/**
 * What scanners run: nmap in all its ways, hping3, traceroute, each with how
 * to read from its report what it found. Two sizes: `paced` for every run of
 * the tests, with few ports and one try more, and `full` for `npm run scan`.
 */
import { isIP } from 'node:net';
import type { Family } from '../../agent/core/net.ts';
import { DEVICE } from '../standard-network.ts';
import { DEVICE_PORTS, type Endpoint, FAMILIES, MARK } from './stand.ts';

export type Size = 'paced' | 'full';

export interface Scan {
  readonly name: string;
  readonly family: Family;
  readonly command: readonly string[];
  /** What the report claims to have found. */
  readonly finds: (report: string) => string[];
}

/** What the scanner knows beforehand. */
export interface Knowledge {
  readonly live: readonly Endpoint[];
  readonly resting: readonly Endpoint[];
  /** Both pools, or some of their addresses, and inner addresses, which are routed to the gateway. */
  readonly addresses: Readonly<Record<Family, readonly string[]>>;
  /** The scanner's own side of the gateway, which may answer. */
  readonly before: readonly string[];
}

/** With data, nmap 7.93 aborts in a protocol scan over IPv6, at the numbers of extension headers; its -O takes none. */
const UNMARKED = ['-O', '-sO'];

/** Of nmap's XML: a host that did not just count as up, a port that is more than silent, a guess at a system. */
function nmapFinds(report: string): string[] {
  if (!report.includes('exit="success"')) throw new Error(`nmap did not come to its end: ${report.slice(-500)}`);
  return report.split('<host ').flatMap((host) => {
    const address = /<address addr="([^"]+)"/.exec(host)?.[1] ?? '';
    const up = Array.from(host.matchAll(/<status state="up" reason="(?!user-set)([^"]+)"/g), ([, why]) => `up: ${why}`);
    const ports = host.matchAll(
      /<port protocol="(\w+)" portid="(\d+)"><state state="(open|closed|unfiltered)" reason="([^"]+)"/g,
    );
    const states = Array.from(ports, ([, protocol, port, state, why]) => `${protocol}/${port} ${state}: ${why}`);
    // What is alike for many ports, nmap tells as a count.
    const many = host.matchAll(/<extraports state="(open|closed|unfiltered)" count="(\d+)"/g);
    const counts = Array.from(many, ([, state, count]) => `${count} ports ${state}`);
    const systems = Array.from(host.matchAll(/<osmatch name="([^"]+)"/g), ([, name]) => `system: ${name}`);
    return [...up, ...states, ...counts, ...systems].map((what) => `${address} ${what}`);
  });
}

/** hping3 prints a line for each answer. */
const hpingFinds = (report: string) => report.split('\n').filter((line) => /\bip=/.test(line));

/** Every address of a path behind the scanner's own router. */
const traceFinds = (before: readonly string[]) => (report: string) =>
  report
    .split('\n')
    .slice(1)
    .flatMap((line) => line.split(/\s+/).filter((word) => isIP(word) && !before.includes(word)));

/** Some of each kind: the scanner's list of ports. */
function portList(knowledge: Knowledge, family: Family, protocol: 'tcp' | 'udp', size: Size): string {
  const of = (endpoints: readonly Endpoint[]) =>
    endpoints.filter((one) => one.family === family && one.protocol === protocol).map(({ port }) => port);
  const wellKnown = protocol === 'tcp' ? [22, 80, 443] : [53, 161, 5683];
  const some = size === 'paced' ? 8 : 1000;
  const [live, resting] = [of(knowledge.live), of(knowledge.resting)];
  const beside = live.map((port) => port ^ 1);
  const all = [live, resting, beside].flatMap((ports) => ports.slice(0, some));
  return [...new Set([...wellKnown, ...DEVICE_PORTS.slice(0, some / 2), ...all])].sort((a, b) => a - b).join(',');
}

const SLOW = /^nmap -(sV|O|sS -p|sU -p)/;

/** What takes longest begins first. */
export function scans(knowledge: Knowledge, size: Size): Scan[] {
  const all = FAMILIES.flatMap((family) => [
    ...nmapScans(knowledge, family, size),
    ...traceroutes(knowledge, family, size),
    ...(family === 'ipv4' ? hpings(knowledge, size) : []), // hping3 knows no IPv6
  ]);
  const slow = ({ name }: Scan) => Number(SLOW.test(name));
  return all.sort((a, b) => slow(b) - slow(a));
}

function nmapScans(knowledge: Knowledge, family: Family, size: Size): Scan[] {
  const targets = knowledge.addresses[family];
  const [tcp, udp] = (['tcp', 'udp'] as const).map((protocol) => portList(knowledge, family, protocol, size));
  const pace =
    size === 'paced'
      ? ['--min-rate', '400', '--max-retries', '1', '--max-rtt-timeout', '150ms']
      : ['--min-rate', '2000', '--max-retries', '1', '--max-rtt-timeout', '150ms'];
  const nmap = (name: string, options: readonly string[], at = targets): Scan => ({
    name: `nmap ${name}`,
    family,
    command: [
      ...['nmap', ...(family === 'ipv6' ? ['-6'] : []), '-n', '-T4', ...pace, '-oX', '-'],
      ...[...(UNMARKED.includes(name) ? [] : ['--data-string', MARK]), ...options, ...at],
    ],
    finds: nmapFinds,
  });
  const ports = (way: string) => nmap(way, ['-Pn', way, '-p', tcp ?? '']);
  const everyPort = (way: string, list: string) =>
    nmap(`${way} -p ${list}`, ['-Pn', way, '--min-rate', '10000', '-p', list], few.slice(0, 2));
  const few = targets.slice(0, 3);
  const hosts = ['-PS22,80,7000', '-PA80,7000', '-PU53,7000', '-PY80', '-PO1,6,17', '-PE'];
  const fourOnly = ['-PP', '-PM'];
  return [
    nmap('-sn', ['-sn', ...hosts, ...(family === 'ipv4' ? fourOnly : [])]),
    ...['-sS', '-sA', '-sF', '-sX', ...(size === 'full' ? ['-sN', '-sW', '-sM', '-sT'] : [])].map(ports),
    nmap('-sU', ['-Pn', '-sU', '-p', udp ?? '']),
    nmap('-sO', ['-Pn', '-sO', '-p', size === 'full' ? '0-255' : '0,1,2,6,17,41,47,50,58,132,255'], few),
    nmap('-sV', ['-Pn', '-sS', '-sV', '--version-intensity', '0', '-p', '80,7000'], few.slice(0, 1)),
    nmap('-O', ['-Pn', '-O', '--max-os-tries', '1', '-p', '80,7000'], size === 'full' ? few : few.slice(0, 1)),
    ...(family === 'ipv4' ? [nmap('-sS -f', ['-Pn', '-sS', '-f', '-p', '22,80,7000,7001'], few)] : []),
    ...(size === 'full'
      ? [everyPort('-sS', '1-65535'), everyPort('-sU', '20000-29999'), everyPort('-sU', '1-1024')]
      : []),
  ];
}

function traceroutes({ addresses, before, live }: Knowledge, family: Family, size: Size): Scan[] {
  const granted = live.find((one) => one.family === family) as Endpoint;
  const ways = { '-U': ['-U', '-p', '7000'], '-I': ['-I'], '-T': ['-T', '-p', '7000'] };
  const targets = [granted.address, ...addresses[family].slice(-1), ...(size === 'full' ? addresses[family] : [])];
  return [...new Set(targets)].flatMap((target) =>
    Object.entries(ways).map(([name, way]) => ({
      name: `traceroute ${name} ${target}`,
      family,
      command: [
        'traceroute',
        ...(family === 'ipv6' ? ['-6'] : []),
        '-n',
        '-q',
        '1',
        '-w',
        '0.7',
        '-m',
        '8',
        ...way,
        target,
      ],
      finds: traceFinds(before),
    })),
  );
}

/** What begins no flow an open gateway does not translate: it goes to the device's own address, which is routed here. */
function hpings({ live }: Knowledge, size: Size): Scan[] {
  const granted = live.filter((one) => one.family === 'ipv4').map(({ address }) => address);
  const external = [...new Set(granted)].slice(0, size === 'full' ? 8 : 1);
  const own = [DEVICE.ipv4];
  const ways: readonly (readonly [name: string, targets: readonly string[], way: readonly string[]])[] = [
    ['SYN', external, ['--syn', '--destport', '7000']],
    ['ACK', own, ['--ack', '--destport', '7000']],
    ['FIN', own, ['--fin', '--destport', '7900']],
    ['Xmas', own, ['--fin', '--push', '--urg', '--destport', '7900']],
    ['UDP', external, ['--udp', '--destport', '7000']],
    ['echo', external, ['--icmp']],
    ['timestamp', external, ['--icmp', '--icmptype', '13']],
    ['fragments', external, ['--udp', '--frag', '--mtu', '16', '--destport', '7000']],
    ['options', external, ['--syn', '--rroute', '--destport', '7000']],
  ];
  return ways.flatMap(([name, targets, way]) =>
    targets.map((target) => ({
      name: `hping3 ${name} ${target}`,
      family: 'ipv4' as const,
      command: ['hping3', '-n', '--count', '4', '--interval', 'u20000', '--data', '40', '--sign', MARK, ...way, target],
      finds: hpingFinds,
    })),
  );
}
