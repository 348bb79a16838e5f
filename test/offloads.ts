/**
 * Switches what an interface does for the stack on and off, by ioctl
 * (SIOCETHTOOL), for the two bits of `ethtool -K` that XDP on veth depends on.
 */
import koffi from 'koffi';
import { within } from './enter.ts';
import type { Network } from './network.ts';

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SIOCETHTOOL = 0x8946;
const ETHTOOL_STXCSUM = 0x17;
const ETHTOOL_SGRO = 0x2c;

/** With GRO comes the NAPI of a veth: only then does it take frames that XDP redirects into its other end. In the calling thread's network namespace. */
export function switchNapiOn(device: string): void {
  change(device, ETHTOOL_SGRO, 1);
}

/** Sums are complete when packets leave, as on a wire; those of a veth are otherwise left to whoever receives them. */
function completeSums(device: string): void {
  change(device, ETHTOOL_STXCSUM, 0);
}

/** What is between hosts and the gateway becomes like a wire that XDP can be used on. */
export function likeWires(network: Network, ends: readonly (readonly [namespace: string, device: string])[]): void {
  for (const [namespace, device] of ends) {
    within(network, namespace, () => {
      switchNapiOn(device);
      completeSums(device);
    });
  }
}

function change(device: string, command: number, to: 0 | 1): void {
  const libc = koffi.load('libc.so.6');
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const ioctl = libc.func('int ioctl(int fd, ulong request, void *argument)');
  const close = libc.func('int close(int fd)');

  const value = Buffer.alloc(8); // struct ethtool_value: command, data
  value.writeUInt32LE(command, 0);
  value.writeUInt32LE(to, 4);
  const request = Buffer.alloc(40); // struct ifreq: name, pointer
  request.write(device, 0, 15, 'latin1');
  request.writeBigUInt64LE(koffi.address(value), 16);

  const fd: number = socket(AF_INET, SOCK_DGRAM, 0);
  const result: number = ioctl(fd, SIOCETHTOOL, request);
  const errno = koffi.errno();
  close(fd);
  if (result !== 0) throw new Error(`${device}: offload 0x${command.toString(16)} cannot be changed (errno ${errno})`);
}
