/**
 * What the kernel dropped at a UDP socket because its buffer was full: the
 * last column of /proc/net/udp and udp6 (proc(5)), where addresses are the
 * kernel's words in the host's (little-endian) order.
 */
import type { Endpoint } from '../core/net.ts';

/** How many datagrams were dropped at the socket bound to this endpoint; 0 where the table has none. */
export function droppedAt(table: string, endpoint: Endpoint): number {
  const local = tableAddress(endpoint);
  for (const line of table.split('\n')) {
    const columns = line.trim().split(/\s+/);
    if (columns[1] === local) return Number(columns[12]) || 0;
  }
  return 0;
}

function tableAddress({ address: { family, bytes }, port }: Endpoint): string {
  const octets = Buffer.from(family === 'ipv4' ? bytes.subarray(12) : bytes);
  return `${octets.swap32().toString('hex')}:${port.toString(16).padStart(4, '0')}`.toUpperCase();
}
