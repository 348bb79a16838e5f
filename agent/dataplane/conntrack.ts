/**
 * Deletes inner addresses' entries from connection tracking when they change
 * hands: the flows of a former holder must not reach the next one. Granted
 * flows have no entries; these are the device-initiated ones.
 */
import { AgentError } from '../core/errors.ts';
import type { Address, Family } from '../core/net.ts';
import { type Outcome, run } from './command.ts';

/** Both directions: flows that the address began, and those that lead to it. */
const DIRECTIONS = ['--orig-src', '--orig-dst', '--reply-src'] as const;

/**
 * The table is listed once, however many addresses there are, since most of
 * them have no flow. Nothing new begins between list and deletion: the gate
 * does not hear a device whose address changes hands.
 * @throws AgentError conntrackFailed where entries may be left
 */
export async function forgetFlows(addresses: readonly Address[]): Promise<void> {
  for (const family of ['ipv4', 'ipv6'] as const) {
    const own = addresses.filter((address) => address.family === family);
    if (own.length === 0) continue;
    const seen = await tracked(family);
    for (const address of own) {
      if (!seen.has(address.text)) continue;
      for (const direction of DIRECTIONS) {
        const outcome = await conntrack(['-D', '-f', family, direction, address.text]);
        // Status 1 with "0 flow entries" means there were none.
        if (outcome.status !== 0 && !outcome.complaint.includes('0 flow entries')) {
          throw new AgentError('conntrackFailed', `conntrack -D ${direction} ${address.text}: ${outcome.complaint}`);
        }
      }
    }
  }
}

/** Every address that stands in the table. */
async function tracked(family: Family): Promise<Set<string>> {
  const { status, output, complaint } = await conntrack(['-L', '-f', family]);
  if (status !== 0) throw new AgentError('conntrackFailed', `conntrack -L: ${complaint}`);
  return new Set(Array.from(output.matchAll(/ (?:src|dst)=(\S+)/g), ([, address]) => address as string));
}

async function conntrack(args: readonly string[]): Promise<Outcome> {
  try {
    return await run('conntrack', args);
  } catch (cause) {
    throw new AgentError('conntrackFailed', 'the conntrack tool cannot be run', { cause });
  }
}
