/** Programs asked about one packet that no interface has received (BPF_PROG_TEST_RUN): what they would do with it. */
import koffi from 'koffi';
import { calls, check } from './bpf.ts';

/** struct bpf_test_run_opts, then struct __sk_buff of a kernel that may know more of it than we do. */
const RUN_OPTIONS = 80;
const XDP_CONTEXT = 24;
const RUN_CONTEXT = 256;
const CONTEXT_IN = 192;
/** A program may make a packet longer. */
const ROOM = 512;

/** One packet through a program at TC, as if an interface had received it. `flags`: BPF_F_TEST_…, which not every kernel knows (EINVAL). */
export function testRun(
  programFd: number,
  { ifindex, from, flags = 0 }: { readonly ifindex: number; readonly from: number; readonly flags?: number },
  packet: Uint8Array,
  mark: number,
) {
  const context = Buffer.alloc(RUN_CONTEXT); // struct __sk_buff
  context.writeUInt32LE(mark, 8);
  context.writeUInt32LE(from, 36);
  context.writeUInt32LE(ifindex, 40);
  const { verdict, bytes, contextAfter } = runOnce(programFd, packet, context, CONTEXT_IN, flags);
  return { verdict, bytes, mark: contextAfter.readUInt32LE(8) };
}

/** The same of a program at XDP, for an interface at whose XDP something hangs. */
export function testRunXdp(programFd: number, ifindex: number, packet: Uint8Array) {
  const context = Buffer.alloc(XDP_CONTEXT); // struct xdp_md
  context.writeUInt32LE(packet.length, 4); // data_end
  context.writeUInt32LE(ifindex, 12);
  const { verdict, bytes } = runOnce(programFd, packet, context, XDP_CONTEXT);
  return { verdict, bytes };
}

/** `context`: with room for what the kernel writes back, of which so many bytes go in. */
function runOnce(programFd: number, packet: Uint8Array, context: Buffer, contextIn: number, flags = 0) {
  // All in one buffer: as long as the call holds it, the pointers into it are good.
  const input = RUN_OPTIONS + context.length;
  const output = input + packet.length;
  const run = Buffer.alloc(output + packet.length + ROOM);
  const at = (offset: number) => BigInt(koffi.address(run)) + BigInt(offset);
  run.set(context, RUN_OPTIONS);
  run.set(packet, input);
  run.writeBigUInt64LE(BigInt(RUN_OPTIONS), 0);
  run.writeBigUInt64LE(at(input), 8);
  run.writeBigUInt64LE(at(output), 16);
  run.writeUInt32LE(packet.length, 24);
  run.writeUInt32LE(packet.length + ROOM, 28);
  run.writeBigUInt64LE(at(RUN_OPTIONS), 32);
  run.writeBigUInt64LE(at(RUN_OPTIONS), 40);
  run.writeUInt32LE(contextIn, 48);
  run.writeUInt32LE(context.length, 52);
  run.writeUInt32LE(flags, 68);
  check('bpf_prog_test_run_opts', calls().testRun(programFd, run));
  return {
    verdict: run.readInt32LE(56),
    bytes: Uint8Array.from(run.subarray(output, output + run.readUInt32LE(28))),
    contextAfter: run.subarray(RUN_OPTIONS, input),
  };
}
