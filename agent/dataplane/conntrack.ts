/**
 * Deletes an inner address's entries from connection tracking when it changes
 * hands: the flows of its former holder must not reach the next one. Granted
 * flows have no entries; these are the device-initiated ones.
 */
import { AgentError } from '../core/errors.ts';
import type { Address } from '../core/net.ts';
import { run } from './command.ts';

/** Both directions: flows that the address began, and those that lead to it. */
const DIRECTIONS = ['--orig-src', '--orig-dst', '--reply-src'] as const;

/** @throws AgentError conntrackFailed where entries may be left */
export async function forgetFlows(address: Address): Promise<void> {
  for (const direction of DIRECTIONS) {
    const outcome = await run('conntrack', ['-D', '-f', address.family, direction, address.text]).catch((cause) => {
      throw new AgentError('conntrackFailed', 'the conntrack tool cannot be run', { cause });
    });
    // Status 1 with "0 flow entries" means there were none.
    if (outcome.status !== 0 && !outcome.complaint.includes('0 flow entries')) {
      throw new AgentError('conntrackFailed', `conntrack -D ${direction} ${address.text}: ${outcome.complaint}`);
    }
  }
}
