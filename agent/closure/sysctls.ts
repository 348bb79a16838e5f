/**
 * Kernel settings that the gateway rests on, in one table: what each must be,
 * and why. The agent only looks: it has no right to write them, and whoever
 * changed one should hear of it. (systemd/mtgate-closed.sh puts them right; a
 * test holds the two together.) The gate closes whatever they say.
 */
import { readFileSync } from 'node:fs';

/** A setting below /proc/sys/net; `NAME` in it stands for each interface of agent.yaml. */
interface Expectation {
  readonly path: string;
  /** Any of these will do; the first is what an operator is told. */
  readonly values: readonly string[];
  /** More than the first will do, too. */
  readonly orMore?: true;
  readonly why: string;
}

const FORWARDED = 'flows that devices begin are forwarded';
const NO_REDIRECTS_TAKEN = 'nobody on a link says which way the gateway sends packets';
const NO_REDIRECTS_SENT = 'nobody on a link is told what lies behind the gateway';
const LOOSE = 'a strict check drops answers that come by another way; gate and base judge sources themselves';
const NO_PROXY = 'the gateway answers for no address that is not its own';
const NO_INNER_ARP =
  'a link is told of no address but its own: on the outside one, who has the inner address is not answered';

const RECORDED = 'the NAT record is made of what connection tracking tells, and when it says that was';
const UDP_KEPT = 'what stands for a device outlives a pause of its application (RFC 4787 REQ-5)';
const PING_KEPT = 'what stands for a ping outlives a slow answer (RFC 5508 REQ-2)';

/** Of settings that the kernel joins by "and", or by the greater, the one of all interfaces is enough; by "or" both count. */
export const EXPECTATIONS: readonly Expectation[] = [
  { path: 'ipv4/ip_forward', values: ['1'], why: FORWARDED },
  { path: 'ipv6/conf/all/forwarding', values: ['1'], why: FORWARDED },
  { path: 'ipv4/conf/all/accept_redirects', values: ['0'], why: NO_REDIRECTS_TAKEN },
  { path: 'ipv4/conf/all/send_redirects', values: ['0'], why: NO_REDIRECTS_SENT },
  { path: 'ipv4/conf/NAME/send_redirects', values: ['0'], why: NO_REDIRECTS_SENT },
  { path: 'ipv4/conf/all/rp_filter', values: ['0', '2'], why: LOOSE },
  { path: 'ipv4/conf/NAME/rp_filter', values: ['0', '2'], why: LOOSE },
  { path: 'ipv4/conf/all/proxy_arp', values: ['0'], why: NO_PROXY },
  { path: 'ipv4/conf/NAME/proxy_arp', values: ['0'], why: NO_PROXY },
  { path: 'ipv4/conf/all/arp_ignore', values: ['1', '2'], why: NO_INNER_ARP },
  { path: 'ipv4/conf/all/arp_announce', values: ['2', '1'], why: NO_INNER_ARP },
  { path: 'ipv6/conf/all/proxy_ndp', values: ['0'], why: NO_PROXY },
  { path: 'ipv6/conf/NAME/proxy_ndp', values: ['0'], why: NO_PROXY },
  { path: 'netfilter/nf_conntrack_events', values: ['1'], why: RECORDED },
  { path: 'netfilter/nf_conntrack_timestamp', values: ['1'], why: RECORDED },
  { path: 'netfilter/nf_conntrack_udp_timeout', values: ['120'], orMore: true, why: UDP_KEPT },
  { path: 'netfilter/nf_conntrack_udp_timeout_stream', values: ['300'], orMore: true, why: UDP_KEPT },
  { path: 'netfilter/nf_conntrack_icmp_timeout', values: ['60'], orMore: true, why: PING_KEPT },
  { path: 'netfilter/nf_conntrack_icmpv6_timeout', values: ['60'], orMore: true, why: PING_KEPT },
];

/** A setting that is not as it must be. */
export interface WrongSysctl {
  /** As `sysctl` takes it, with slashes: an interface's name may hold dots. */
  readonly name: string;
  readonly value: string;
  readonly expected: string;
  readonly why: string;
}

/** All that is wrong now. What is not there (a kernel without IPv6, an interface that has gone) is not wrong. */
export function wrongSysctls(interfaces: readonly string[]): WrongSysctl[] {
  return EXPECTATIONS.flatMap(({ path, values, orMore, why }) =>
    pathsOf(path, interfaces).flatMap((one) => {
      const value = read(one);
      const [expected = ''] = values;
      const isRight = value === undefined || values.includes(value) || (orMore && Number(value) > Number(expected));
      return isRight ? [] : { name: `net/${one}`, value, expected, why };
    }),
  );
}

function pathsOf(path: string, interfaces: readonly string[]): string[] {
  return path.includes('NAME') ? interfaces.map((name) => path.replace('NAME', () => name)) : [path];
}

function read(path: string): string | undefined {
  try {
    return readFileSync(`/proc/sys/net/${path}`, 'latin1').trim();
  } catch {
    return undefined;
  }
}
