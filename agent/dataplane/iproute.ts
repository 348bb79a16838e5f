/**
 * Interfaces and routes: what interfaces there are with their addresses, and
 * the blackhole routes of both pools, so that nothing on this host ever
 * answers for them, with or without a gate or a table. They are looked at
 * each second, through netlink, and set now and then, through iproute2.
 */
import { AgentError } from '../core/errors.ts';
import type { Family, Prefix } from '../core/net.ts';
import { run } from './command.ts';
import { featuresOf, readTakesTags } from './ethtool.ts';
import { ALL_FAMILIES, allDevices, readFamily, readTakers } from './netdev.ts';
import { ask } from './netlink.ts';
import type { Message } from './netlink-message.ts';
import {
  ALL_ADDRESSES,
  ALL_LINKS,
  ALL_RULES,
  type Link,
  OUR_BLACKHOLES,
  ROUTE_PROTOCOL,
  readBlackholes,
  readLinks,
  readRoutedByMore,
} from './rtnetlink.ts';

/** All interfaces of this network namespace. */
export async function links(): Promise<Link[]> {
  const [links, addresses, able] = await Promise.all([ask('route', ALL_LINKS), ask('route', ALL_ADDRESSES), takers()]);
  return readLinks(links, addresses, able);
}

/** What of this host the gate's setup depends on. */
export interface Host {
  readonly links: readonly Link[];
  /** The families in which rules choose routes by more than the destination. */
  readonly routedByMore: readonly Family[];
}

/** All of it. `xdpAt`: where the gate may hang at XDP, so that it is asked what XDP would not see there. */
export async function host(xdpAt: readonly string[]): Promise<Host> {
  const [all, rules] = await Promise.all([links(), ask('route', ALL_RULES)]);
  const family = await familyOf('ethtool');
  const asked = await Promise.all(
    all.map(async (link) => {
      // Whatever is made of software hands on what it was handed.
      if (family === undefined || link.virtual !== undefined || !xdpAt.includes(link.name)) return link;
      const takesTags = await ask('generic', featuresOf(family, link.ifindex)).then(readTakesTags, () => true); // gone meanwhile
      return { ...link, takesTags };
    }),
  );
  return { links: asked, routedByMore: readRoutedByMore(rules) };
}

/** The families of generic netlink, whose numbers the kernel gives once. */
let families: Promise<readonly Message[]> | undefined;

async function familyOf(name: 'netdev' | 'ethtool'): Promise<number | undefined> {
  families ??= ask('generic', ALL_FAMILIES);
  const known = await families.catch((cause) => {
    families = undefined;
    throw cause;
  });
  return readFamily(known, name);
}

/** The interfaces that take redirected frames; undefined where the kernel does not say. */
async function takers(): Promise<Set<number> | undefined> {
  const family = await familyOf('netdev');
  return family === undefined ? undefined : readTakers(await ask('generic', allDevices(family)));
}

/** Makes exactly these prefixes blackholes, and takes back those of an earlier configuration. */
export async function setBlackholes(prefixes: readonly Prefix[]): Promise<void> {
  const wanted = new Set(prefixes.map((prefix) => prefix.text));
  for (const prefix of prefixes) {
    await ip([
      ...familyOption(prefix.family),
      'route',
      'replace',
      'blackhole',
      prefix.text,
      'proto',
      `${ROUTE_PROTOCOL}`,
    ]);
  }
  for (const { text, family } of await blackholes()) {
    if (wanted.has(text)) continue;
    await ip([...familyOption(family), 'route', 'delete', 'blackhole', text, 'proto', `${ROUTE_PROTOCOL}`]);
  }
}

/** Of these prefixes, those that are no blackholes of ours any more. */
export async function missingBlackholes(prefixes: readonly Prefix[]): Promise<Prefix[]> {
  const standing = new Set((await blackholes()).map(({ text }) => text));
  return prefixes.filter(({ text }) => !standing.has(text));
}

/** Ours, of both families. */
async function blackholes(): Promise<Prefix[]> {
  return readBlackholes(await ask('route', OUR_BLACKHOLES));
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
