/**
 * A TUN or TAP interface in a namespace, with the test at its other end: what
 * is written here the kernel receives there, and has dealt with when the call
 * returns; what it sends there is read here. A TUN carries bare IP packets,
 * a TAP Ethernet frames. Linux Documentation/networking/tuntap.
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { within } from './enter.ts';
import type { Network } from './network.ts';

const TUNSETIFF = 0x4004_54ca;
const FLAGS = { tun: 0x1001, tap: 0x1002 } as const; // with IFF_NO_PI: nothing in front of a packet
const ioctl = koffi.load('libc.so.6').func('int ioctl(int fd, unsigned long request, void *argument)');

export class Tun {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Makes the interface; it goes with close(). */
  static open(network: Network, namespace: string, name: string, kind: keyof typeof FLAGS): Tun {
    return within(network, namespace, () => {
      const fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
      const request = Buffer.alloc(40); // struct ifreq: name, flags
      request.write(name, 0, 'latin1');
      request.writeUInt16LE(FLAGS[kind], 16);
      if (ioctl(fd, TUNSETIFF, request) !== 0) throw new Error(`no ${kind} ${name}: errno ${koffi.errno()}`);
      return new Tun(fd);
    });
  }

  write(packet: Uint8Array): void {
    writeSync(this.#fd, packet);
  }

  /** All that the kernel has sent and nobody has read. */
  read(): Uint8Array[] {
    const found: Uint8Array[] = [];
    const room = Buffer.alloc(65_536);
    for (;;) {
      try {
        found.push(Uint8Array.from(room.subarray(0, readSync(this.#fd, room))));
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'EAGAIN') return found;
        throw cause;
      }
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}
