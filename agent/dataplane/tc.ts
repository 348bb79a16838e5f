/**
 * What libbpf knows of the hooks of an interface: TCX and XDP links, filters
 * of the clsact qdisc, and the pins that keep them, or say whose they are. As thin as bpf.ts, which has
 * the calls; which of these to use, and when, is attachment.ts.
 */
import { calls, check, present } from './bpf.ts';

/** Attach types of enum bpf_attach_type (Linux 6.6), which libbpf 1.1 hands through unseen. */
const TCX = { ingress: 46, egress: 47 } as const;
/** Put in front of what is attached already. */
const BPF_F_BEFORE = 1 << 3;
/** enum bpf_link_type: those that hang at an interface, whose index stands at the same place. */
const AT_INTERFACES = { xdp: 6, tcx: 11 } as const;
const BPF_XDP = 37;
/** XDP_FLAGS_*_MODE: before a packet has an skb, where the driver can; or behind that, anywhere. */
const XDP_MODES = { generic: 1 << 1, native: 1 << 2 } as const;
const TC_POINT = { ingress: 1, egress: 2 } as const;
const TC_REPLACE = 1;
export const EINVAL = 22;
export const EBUSY = 16;
export const EOPNOTSUPP = 95;
export const EEXIST = 17;

export type Point = keyof typeof TC_POINT;

/** The kernel's number of a loaded program. */
export function programId(fd: number): number {
  return info(fd).readUInt32LE(4);
}

/** How an XDP program hangs. */
export type XdpMode = keyof typeof XDP_MODES;

/** Where a link hangs; undefined for one that hangs at no interface. `ifindex` 0: its interface is gone, or it was detached. */
export function linkPlace(fd: number): { ifindex: number; programId: number } | undefined {
  const link = info(fd);
  if (!Object.values<number>(AT_INTERFACES).includes(link.readUInt32LE(0))) return undefined;
  return { programId: link.readUInt32LE(8), ifindex: link.readUInt32LE(16) };
}

function info(fd: number): Buffer {
  const bytes = Buffer.alloc(256);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  check('bpf_obj_get_info_by_fd', calls().info(fd, bytes, length));
  return bytes;
}

export function pin(fd: number, path: string): void {
  check(`bpf_obj_pin ${path}`, calls().pin(fd, path));
}

/** Opens what is pinned there; the descriptor is the caller's to close. */
export function openPinned(path: string): number {
  return check(`bpf_obj_get ${path}`, calls().get(path));
}

export function closeFd(fd: number): void {
  calls().close(fd);
}

/** A TCX link, in front of what hangs there. It lives until its descriptor and its pin are gone. */
export function createTcxLink(programFd: number, ifindex: number, point: Point): number {
  return createLink(programFd, ifindex, TCX[point], BPF_F_BEFORE);
}

/** An XDP link: there is one at an interface, at the most. */
export function createXdpLink(programFd: number, ifindex: number, mode: XdpMode): number {
  return createLink(programFd, ifindex, BPF_XDP, XDP_MODES[mode]);
}

function createLink(programFd: number, ifindex: number, type: number, flags: number): number {
  const options = Buffer.alloc(16); // struct bpf_link_create_opts
  options.writeBigUInt64LE(16n, 0);
  options.writeUInt32LE(flags, 8);
  return check('bpf_link_create', calls().linkCreate(programFd, ifindex, type, options));
}

/** Another program in a link's place, with no packet in between. */
export function updateLink(linkFd: number, programFd: number): void {
  check('bpf_link_update', calls().linkUpdate(linkFd, programFd, null));
}

/** Takes away what hangs by a link, at once; where its interface is gone nothing does. */
export function detachLink(linkFd: number): void {
  check('bpf_link_detach', calls().linkDetach(linkFd));
}

/** A filter's place at TC. */
export interface TcPlace {
  readonly ifindex: number;
  readonly point: Point;
  readonly handle: number;
  readonly priority: number;
}

function tcHook({ ifindex, point }: TcPlace): Buffer {
  const hook = Buffer.alloc(24);
  hook.writeBigUInt64LE(24n, 0);
  hook.writeInt32LE(ifindex, 8);
  hook.writeUInt32LE(TC_POINT[point], 12);
  return hook;
}

function tcOptions({ handle, priority }: TcPlace, programFd = 0, flags = 0): Buffer {
  const options = Buffer.alloc(32);
  options.writeBigUInt64LE(32n, 0);
  options.writeInt32LE(programFd, 8);
  options.writeUInt32LE(flags, 12);
  options.writeUInt32LE(handle, 20);
  options.writeUInt32LE(priority, 24);
  return options;
}

/** Sees to it that the interface has a clsact qdisc. */
export function ensureClsact(place: TcPlace): void {
  const result: number = calls().tcHookCreate(tcHook(place));
  if (result !== -EEXIST) check('bpf_tc_hook_create', result);
}

/**
 * The program in this very place, by its kernel number; undefined where there is none.
 * EINVAL means that too: there is not even a chain yet. Should it mean more, attaching without `replace` refuses.
 */
export function tcProgramId(place: TcPlace): number | undefined {
  const options = tcOptions(place);
  const result: number = calls().tcQuery(tcHook(place), options);
  return result !== -EINVAL && present('bpf_tc_query', result) ? options.readUInt32LE(16) : undefined;
}

export function attachTc(place: TcPlace, programFd: number, replace: boolean): void {
  const options = tcOptions(place, programFd, replace ? TC_REPLACE : 0);
  check('bpf_tc_attach', calls().tcAttach(tcHook(place), options));
}

export function detachTc(place: TcPlace): void {
  present('bpf_tc_detach', calls().tcDetach(tcHook(place), tcOptions(place)));
}
