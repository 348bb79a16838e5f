/**
 * Deletes inner addresses' entries from connection tracking when they change
 * hands: the flows of a former holder must not reach the next one. Granted
 * flows have no entries; these are the device-initiated ones, and those that a
 * filter lets in.
 *
 * Nothing is left, under these conditions (native-notes/netlink.md): the gate
 * hears none of the addresses by now, so no entry begins from there; packets
 * that met the gate before have had time to begin theirs; and the table lists
 * every entry that stands all the while, unless it is resized meanwhile.
 */
import { readFile } from 'node:fs/promises';
import { getSystemErrorName } from 'node:util';
import { AgentError } from '../core/errors.ts';
import type { Prefix } from '../core/net.ts';
import { packetsPassed } from './bpf.ts';
import { flowText, readFlows, wholeTable } from './conntrack-message.ts';
import { askInParts, order, SEQUENCE } from './netlink.ts';
import type { Order } from './netlink-message.ts';
import { PrefixSet } from './prefix-set.ts';

const BUCKETS = '/proc/sys/net/netfilter/nf_conntrack_buckets';
/** Somebody resizes the table by hand, and not often. */
const MOST_TRIES = 3;
/** Deletions in one send: the answers to all of them have room in a socket of the default size. */
const AT_ONCE = 64;
const ENOENT = 2;

/**
 * Deletes all entries of which an address, on either side of a translation, lies in one of the prefixes. The table
 * is read once for each family, however many prefixes there are, a part at a time, each read in microseconds.
 * @throws AgentError conntrackFailed where entries may be left
 */
export async function forgetFlows(prefixes: readonly Prefix[]): Promise<void> {
  const sets = (['ipv4', 'ipv6'] as const).map((family) => new PrefixSet(family, prefixes));
  const wanted = sets.filter((own) => !own.isEmpty);
  if (wanted.length === 0) return;
  try {
    await packetsPassed();
    for (const own of wanted) await forgetOwn(own);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new AgentError('conntrackFailed', `tracked flows of ${named(prefixes)} may be left: ${why}`, { cause });
  }
}

async function forgetOwn(own: PrefixSet): Promise<void> {
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const before = await buckets();
    await askInParts('netfilter', wholeTable(own.family), async (bytes) => {
      const { deletions, ...verdict } = readFlows(bytes, SEQUENCE, own);
      for (let at = 0; at < deletions.length; at += AT_ONCE) await forget(deletions.slice(at, at + AT_ONCE));
      return verdict;
    });
    if ((await buckets()) === before) return;
  }
  throw new AgentError('netlinkFailed', `the table was resized each time while it was read, ${MOST_TRIES} times`);
}

/** Flows that have ended meanwhile are forgotten. */
async function forget(deletions: readonly Order[]): Promise<void> {
  const refused = await order('netfilter', 'the deletion of tracked flows', deletions);
  for (const [index, { errno, why }] of refused) {
    if (errno === ENOENT) continue;
    const flow = flowText(deletions[index] as Order);
    throw new AgentError('netlinkFailed', `deleting ${flow}: ${getSystemErrorName(-errno)} ${why}`.trim());
  }
}

/** A resize moves entries past the place up to which the table was read. */
function buckets(): Promise<string> {
  return readFile(BUCKETS, 'utf8');
}

function named(prefixes: readonly Prefix[]): string {
  const [first] = prefixes;
  return prefixes.length > 1 ? `${first?.text} and ${prefixes.length - 1} more` : `${first?.text}`;
}
