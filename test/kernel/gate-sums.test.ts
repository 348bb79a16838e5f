/**
 * Checksums at TC, of packets whose transport's sum is complete, looks partial,
 * or is none: right in what is carried. And skb->csum of a packet that a NIC has
 * summed follows: newer kernels' BPF_PROG_TEST_RUN begins with such a packet,
 * and refuses the answer where it does not (BPF_F_TEST_SKB_CHECKSUM_COMPLETE;
 * optional).
 */
import koffi from 'koffi';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { address, type Family } from '../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries } from '../../agent/core/pool.ts';
import { PROTOCOLS, type Protocol } from '../../agent/core/words.ts';
import { BpfError } from '../../agent/dataplane/bpf.ts';
import type { Hook } from '../../agent/dataplane/dataplane.ts';
import type { Gate } from '../../agent/dataplane/gate.ts';
import { closeFd, EINVAL } from '../../agent/dataplane/tc.ts';
import { testRun } from '../../agent/dataplane/test-run.ts';
import { within } from '../enter.ts';
import { ethernet, fold, ip, sum, sumsHold, TCP_ACK, tcp, udp } from '../frames.ts';
import type { Network } from '../network.ts';
import { DEVICE, INSIDE, OUTSIDE, SERVER, standardNetwork } from '../standard-network.ts';
import { BOTH_POOL, EXTERNAL, gateOnWires, HOUR } from './gate-stand.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const DEVICE_PORT = 7000;
const SERVER_PORT = 5000;
const REDIRECT = 7;
const CHECKSUM_COMPLETE = 1 << 2;

let network: Network;
let gate: Gate;

beforeAll(() => {
  network = standardNetwork();
  gate = gateOnWires(network, BOTH_POOL);
  for (const family of FAMILIES)
    for (const [i, protocol] of PROTOCOLS.entries()) {
      const external = { address: address(EXTERNAL[family]), port: BOTH_POOL.portLow };
      const mapping = {
        ...{ index: indexOfIpv4(BOTH_POOL, protocol, external) ?? ipv4Entries(BOTH_POOL) + i },
        ...{ number: i + (family === 'ipv4' ? 1 : 3), protocol, realm: 1, external },
        ...{ device: { address: address(DEVICE[family]), port: DEVICE_PORT }, remote: address(SERVER[family]) },
        ...{ remotePort: 0, classId: 7, limits: {} },
      };
      gate.open(mapping, process.hrtime.bigint() + HOUR);
    }
});
afterAll(async () => {
  gate.close();
  await network.close();
});

describe.each(FAMILIES)('over %s', (family) => {
  describe.each(PROTOCOLS)('%s', (protocol) => {
    const inward = ends(SERVER[family], SERVER_PORT, EXTERNAL[family], BOTH_POOL.portLow);
    const outward = ends(DEVICE[family], DEVICE_PORT, SERVER[family], SERVER_PORT);
    const kinds: [string, (at: Ends) => Uint8Array][] = [
      ['that is complete', (at) => packet(protocol, at, 64)],
      ['of an odd number of bytes', (at) => packet(protocol, at, 33)],
      ['that looks partial', (at) => likePartial(protocol, at)],
    ];
    if (protocol === 'udp' && family === 'ipv4')
      kinds.push(['that is none', ({ from, to }) => ip(from.host, to.host, udp(from.port, to.port, 64, NO_SUM))]);
    test.each(kinds)('a sum %s holds when it is carried', (_, make) => {
      gate.heartbeat(process.hrtime.bigint());
      for (const [hook, at, other] of [
        ['outsideIngress', inward, DEVICE[family]],
        ['insideIngress', outward, SERVER[family]],
      ] as const) {
        const before = make(at);
        expect(sumsHold(before)).toBe(true);
        const carried = carriedBy(hook, before);
        expect(sumsHold(carried)).toBe(true);
        expect(destinationOf(carried, family)).toEqual(
          destinationOf(packet(protocol, { ...at, to: { host: other, port: 1 } }), family),
        );
      }
    });
  });
});

interface End {
  readonly host: string;
  readonly port: number;
}

interface Ends {
  readonly from: End;
  readonly to: End;
}

const NO_SUM = { noChecksum: true } as const;

function ends(from: string, fromPort: number, to: string, toPort: number): Ends {
  return { from: { host: from, port: fromPort }, to: { host: to, port: toPort } };
}

function packet(protocol: Protocol, { from, to }: Ends, content: number | Uint8Array = 8): Uint8Array {
  const upper = protocol === 'udp' ? udp(from.port, to.port, content) : tcp(from.port, to.port, content, TCP_ACK);
  return ip(from.host, to.host, upper);
}

/** One whose complete sum is what the stack leaves there for the hardware: that of the pseudo header. */
function likePartial(protocol: Protocol, at: Ends): Uint8Array {
  const content = new Uint8Array(8);
  const plain = packet(protocol, at, content);
  const six = (plain[0] ?? 0) >> 4 === 6;
  const header = six ? 40 : 20;
  const pseudo = sum(plain.subarray(six ? 8 : 12, header)) + plain.length - header + (protocol === 'udp' ? 17 : 6);
  const wanted = ~fold(pseudo) & 0xffff;
  const own = new DataView(plain.buffer, header).getUint16(protocol === 'udp' ? 6 : 16);
  // What the payload must add for the sum to become it.
  const added = ~fold((~wanted & 0xffff) + own) & 0xffff;
  new DataView(content.buffer).setUint16(0, added);
  const made = packet(protocol, at, content);
  expect(new DataView(made.buffer, header).getUint16(protocol === 'udp' ? 6 : 16)).toBe(wanted);
  return made;
}

function destinationOf(from: Uint8Array, family: Family): Uint8Array {
  return family === 'ipv6' ? from.subarray(24, 40) : from.subarray(16, 20);
}

/** What becomes of a packet at a hook of the gate that hangs there; it must be carried, and skb->csum with it. */
function carriedBy(hook: Hook, before: Uint8Array): Uint8Array {
  const fdById = koffi.load('libbpf.so.1').func('int bpf_prog_get_fd_by_id(uint32_t id)');
  const fd: number = fdById(gate.attachments().find((one) => one.hook === hook)?.programId ?? 0);
  const { ifindex } = network.link('gateway', hook === 'insideIngress' ? INSIDE : OUTSIDE);
  const run = (flags: number) =>
    within(network, 'gateway', () => testRun(fd, { ifindex, from: 0, flags }, ethernet(before), 0));
  try {
    const { verdict, bytes } = knowsFlag(() => run(CHECKSUM_COMPLETE)) ?? run(0);
    expect(verdict).toBe(REDIRECT);
    return bytes.subarray(14);
  } finally {
    closeFd(fd);
  }
}

/** Undefined where the kernel does not know the flag. */
function knowsFlag<Result>(run: () => Result): Result | undefined {
  try {
    return run();
  } catch (cause) {
    if (cause instanceof BpfError && cause.errno === EINVAL) return undefined;
    throw cause;
  }
}
