/**
 * What an interface does for the stack, and with how many queues, by ioctl
 * (SIOCETHTOOL): as much of `ethtool` as XDP on veth depends on.
 */
import koffi from 'koffi';
import { within } from './enter.ts';
import type { Network } from './network.ts';
import { UPLINK } from './standard-network.ts';

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SIOCETHTOOL = 0x8946;
const ETHTOOL_STXCSUM = 0x17;
const ETHTOOL_SGRO = 0x2c;
const ETHTOOL_SCHANNELS = 0x3d;

/** With GRO comes the NAPI of a veth: only then does it take frames that XDP redirects into its other end. In the calling thread's network namespace. */
export function switchNapiOn(device: string): void {
  change(device, ETHTOOL_SGRO, 1);
}

/** Sums are complete when packets leave, as on a wire; those of a veth are otherwise left to whoever receives them. */
function completeSums(device: string): void {
  change(device, ETHTOOL_STXCSUM, 0);
}

/** So many queues, each of which another CPU may serve. */
export function withQueues(device: string, queues: number): void {
  const asked = Buffer.alloc(36); // struct ethtool_channels: command, four maxima, counts of rx, tx, other, combined
  asked.writeUInt32LE(queues, 20);
  asked.writeUInt32LE(queues, 24);
  order(device, ETHTOOL_SCHANNELS, asked);
}

/** What is between the hosts of the standard network and its gateway becomes like a wire that XDP can be used on. */
export function likeWires(network: Network): void {
  for (const namespace of ['server', 'rogue', 'wan', 'device'])
    within(network, namespace, () => {
      switchNapiOn(UPLINK);
      completeSums(UPLINK);
    });
}

function change(device: string, command: number, to: 0 | 1): void {
  const value = Buffer.alloc(8); // struct ethtool_value: command, data
  value.writeUInt32LE(to, 4);
  order(device, command, value);
}

function order(device: string, command: number, value: Buffer): void {
  const libc = koffi.load('libc.so.6');
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const ioctl = libc.func('int ioctl(int fd, ulong request, void *argument)');
  const close = libc.func('int close(int fd)');

  value.writeUInt32LE(command, 0);
  const request = Buffer.alloc(40); // struct ifreq: name, pointer
  request.write(device, 0, 15, 'latin1');
  request.writeBigUInt64LE(koffi.address(value), 16);

  const fd: number = socket(AF_INET, SOCK_DGRAM, 0);
  const result: number = ioctl(fd, SIOCETHTOOL, request);
  const errno = koffi.errno();
  close(fd);
  if (result !== 0)
    throw new Error(`${device}: ethtool's command 0x${command.toString(16)} is refused (errno ${errno})`);
}
