/**
 * Interfaces and routes: what interfaces there are with their addresses, and
 * the blackhole routes of both pools, so that nothing on this host ever
 * answers for them, with or without a gate or a table. They are looked at
 * each second, through netlink, and set now and then, through iproute2.
 */
import { AgentError } from '../core/errors.ts';
import type { Family, Prefix } from '../core/net.ts';
import { run } from './command.ts';
import { ALL_FAMILIES, allDevices, readNetdevFamily, readTakers } from './netdev.ts';
import { ask } from './netlink.ts';
import {
  ALL_ADDRESSES,
  ALL_LINKS,
  type Link,
  OUR_BLACKHOLES,
  ROUTE_PROTOCOL,
  readBlackholes,
  readLinks,
} from './rtnetlink.ts';

/** All interfaces of this network namespace. */
export async function links(): Promise<Link[]> {
  const [links, addresses, able] = await Promise.all([ask('route', ALL_LINKS), ask('route', ALL_ADDRESSES), takers()]);
  return readLinks(links, addresses, able);
}

/** The kernel's number of the family `netdev`, which it gives once. */
let netdev: Promise<number | undefined> | undefined;

/** The interfaces that take redirected frames; undefined where the kernel does not say. */
async function takers(): Promise<Set<number> | undefined> {
  netdev ??= ask('generic', ALL_FAMILIES).then(readNetdevFamily);
  const family = await netdev.catch((cause) => {
    netdev = undefined;
    throw cause;
  });
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
