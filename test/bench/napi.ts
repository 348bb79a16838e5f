/**
 * Switches an interface's GRO on, and with it the NAPI of a veth: only then
 * does a veth take frames that an XDP program redirects into its other end.
 * By ioctl (SIOCETHTOOL), for the one bit of `ethtool -K DEV gro on`.
 */
import koffi from 'koffi';

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SIOCETHTOOL = 0x8946;
const ETHTOOL_SGRO = 0x2c;

/** In the network namespace that the calling thread is in. */
export function switchNapiOn(device: string): void {
  const libc = koffi.load('libc.so.6');
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const ioctl = libc.func('int ioctl(int fd, ulong request, void *argument)');
  const close = libc.func('int close(int fd)');

  const value = Buffer.alloc(8); // struct ethtool_value: command, data
  value.writeUInt32LE(ETHTOOL_SGRO, 0);
  value.writeUInt32LE(1, 4);
  const request = Buffer.alloc(40); // struct ifreq: name, pointer
  request.write(device, 0, 15, 'latin1');
  request.writeBigUInt64LE(koffi.address(value), 16);

  const fd: number = socket(AF_INET, SOCK_DGRAM, 0);
  const result: number = ioctl(fd, SIOCETHTOOL, request);
  const errno = koffi.errno();
  close(fd);
  if (result !== 0) throw new Error(`${device}: GRO cannot be switched on (errno ${errno})`);
}
