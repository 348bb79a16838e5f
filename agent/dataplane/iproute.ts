/**
 * Interfaces and routes, through iproute2: what interfaces there are with
 * their addresses, and the blackhole routes of both pools, so that nothing on
 * this host ever answers for them, with or without a gate or a table.
 */
import { AgentError } from '../core/errors.ts';
import { type Address, type Family, type Prefix, parseAddress, parsePrefix } from '../core/net.ts';
import { run } from './command.ts';

export interface Link {
  readonly name: string;
  readonly ifindex: number;
  /** `ether` for everything with an Ethernet header, `none` where frames begin with IP (TUN). */
  readonly kind: string;
  readonly addresses: readonly Address[];
}

/** Marks our routes among others' (`ip route show proto 109`); 109 is 'm', and unassigned. */
const ROUTE_PROTOCOL = '109';

/** All interfaces of this network namespace. */
export async function links(): Promise<Link[]> {
  const shown = JSON.parse(await ip(['-json', 'address', 'show'])) as {
    ifname: string;
    ifindex: number;
    link_type: string;
    addr_info: { local: string; scope: string }[];
  }[];
  return shown.map((link) => ({
    name: link.ifname,
    ifindex: link.ifindex,
    kind: link.link_type,
    // Link-local addresses stand on every interface and are never routed.
    addresses: link.addr_info.flatMap((info) => (info.scope === 'link' ? [] : (parseAddress(info.local) ?? []))),
  }));
}

/** Makes exactly these prefixes blackholes, and takes back those of an earlier configuration. */
export async function setBlackholes(prefixes: readonly Prefix[]): Promise<void> {
  const wanted = new Set(prefixes.map((prefix) => prefix.text));
  for (const prefix of prefixes) {
    await ip([...familyOption(prefix.family), 'route', 'replace', 'blackhole', prefix.text, 'proto', ROUTE_PROTOCOL]);
  }
  for (const { text, family } of await blackholes()) {
    if (wanted.has(text)) continue;
    await ip([...familyOption(family), 'route', 'delete', 'blackhole', text, 'proto', ROUTE_PROTOCOL]);
  }
}

/** Of these prefixes, those that are no blackholes of ours any more. */
export async function missingBlackholes(prefixes: readonly Prefix[]): Promise<Prefix[]> {
  const standing = new Set((await blackholes()).map(({ text }) => text));
  return prefixes.filter(({ text }) => !standing.has(text));
}

/** Ours, of both families: a look at all tables, since one at the main table alone is a look at one family. */
async function blackholes(): Promise<Prefix[]> {
  const shown = await ip(['-json', 'route', 'show', 'table', 'all', 'type', 'blackhole', 'proto', ROUTE_PROTOCOL]);
  const routes = JSON.parse(shown || '[]') as { dst: string; table?: string }[];
  return routes.flatMap(({ dst, table }) => {
    const prefix = parsePrefix(dst);
    return typeof prefix === 'string' || table !== undefined ? [] : [prefix];
  });
}

function familyOption(family: Family): string[] {
  return family === 'ipv4' ? ['-4'] : ['-6'];
}

async function ip(args: readonly string[]): Promise<string> {
  const outcome = await run('ip', args).catch((cause) => {
    throw new AgentError('libraryMissing', 'ip (iproute2) cannot be run', { cause });
  });
  if (outcome.status !== 0) throw new AgentError('routeFailed', `ip ${args.join(' ')}: ${outcome.complaint}`);
  return outcome.output;
}
