/**
 * libbpf and mmap, called in this process through koffi: thin, typed, and the
 * only place of the data plane that knows the foreign function interface.
 *
 * Structs go over as buffers with their offsets written out (libbpf 1.x, 64
 * bit, little endian; native-notes/libbpf.md has them). A wrong offset there
 * is no error but a crash, so every one is made by a function here and none
 * leaves the file. Calls that fail return a negated errno; here they throw a
 * BpfError that keeps it: a fault of the gate, unless the caller knows better.
 */
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';
import { AgentError } from '../core/errors.ts';

const LIBBPF = 'libbpf.so.1';

/** A call that failed; `errno` is positive. */
export class BpfError extends AgentError {
  readonly errno: number;

  constructor(call: string, errno: number) {
    super('gateFault', `${call}: ${getSystemErrorName(-errno)}`);
    this.name = 'BpfError';
    this.errno = errno;
  }
}

export const ENOENT = 2;
export const EEXIST = 17;
export const EINVAL = 22;

/** Attach types of enum bpf_attach_type (Linux 6.6), which libbpf 1.1 hands through unseen. */
const TCX = { ingress: 46, egress: 47 } as const;
/** Put in front of what is attached already. */
const BPF_F_BEFORE = 1 << 3;
const BPF_LINK_TYPE_TCX = 11;
const TC_POINT = { ingress: 1, egress: 2 } as const;
const TC_REPLACE = 1;

export type Point = keyof typeof TC_POINT;
type Pointer = bigint;

function bind() {
  let bpf: ReturnType<typeof koffi.load>;
  try {
    bpf = koffi.load(LIBBPF);
  } catch (cause) {
    throw new AgentError('libraryMissing', `${LIBBPF} cannot be loaded`, { cause });
  }
  const libc = koffi.load('libc.so.6');
  const calls = {
    objectOpen: bpf.func('void *bpf_object__open_file(const char *path, const void *options)'),
    objectLoad: bpf.func('int bpf_object__load(void *object)'),
    objectClose: bpf.func('void bpf_object__close(void *object)'),
    findMap: bpf.func('void *bpf_object__find_map_by_name(void *object, const char *name)'),
    findProgram: bpf.func('void *bpf_object__find_program_by_name(void *object, const char *name)'),
    setMaxEntries: bpf.func('int bpf_map__set_max_entries(void *map, uint32_t entries)'),
    setPinPath: bpf.func('int bpf_map__set_pin_path(void *map, const char *path)'),
    initialValue: bpf.func('void *bpf_map__initial_value(void *map, void *size)'),
    mapFd: bpf.func('int bpf_map__fd(void *map)'),
    programFd: bpf.func('int bpf_program__fd(void *program)'),
    lookup: bpf.func('int bpf_map_lookup_elem(int fd, const void *key, void *value)'),
    update: bpf.func('int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)'),
    remove: bpf.func('int bpf_map_delete_elem(int fd, const void *key)'),
    nextKey: bpf.func('int bpf_map_get_next_key(int fd, const void *key, void *next)'),
    testRun: bpf.func('int bpf_prog_test_run_opts(int fd, void *options)'),
    info: bpf.func('int bpf_obj_get_info_by_fd(int fd, void *info, void *length)'),
    pin: bpf.func('int bpf_obj_pin(int fd, const char *path)'),
    get: bpf.func('int bpf_obj_get(const char *path)'),
    linkCreate: bpf.func('int bpf_link_create(int program, int target, int type, const void *options)'),
    linkUpdate: bpf.func('int bpf_link_update(int link, int program, const void *options)'),
    tcHookCreate: bpf.func('int bpf_tc_hook_create(void *hook)'),
    tcAttach: bpf.func('int bpf_tc_attach(const void *hook, void *options)'),
    tcDetach: bpf.func('int bpf_tc_detach(const void *hook, const void *options)'),
    tcQuery: bpf.func('int bpf_tc_query(const void *hook, void *options)'),
    possibleCpus: bpf.func('int libbpf_num_possible_cpus()'),
    mmap: libc.func('void *mmap(void *at, size_t length, int protection, int flags, int fd, long offset)'),
    munmap: libc.func('int munmap(void *at, size_t length)'),
    close: libc.func('int close(int fd)'),
  };
  // Without this libbpf writes its warnings to stderr; all of them come back as errors anyway.
  bpf.func('void *libbpf_set_print(void *callback)')(null);
  return calls;
}

let bound: ReturnType<typeof bind> | undefined;

/** Bound at the first call: importing this file needs no library. */
function calls(): ReturnType<typeof bind> {
  bound ??= bind();
  return bound;
}

function check(call: string, result: number): number {
  if (result < 0) throw new BpfError(call, -result);
  return result;
}

function buffer(size: number): Buffer {
  return Buffer.alloc(size);
}

/** An object file on its way into the kernel: opened, then changed, then loaded. */
export class BpfObject {
  readonly #pointer: Pointer;
  /** The kernel writes the verifier's text here when it refuses. */
  readonly #log = buffer(1 << 20);
  /** libbpf keeps pointers into it. */
  readonly #options = buffer(80);

  constructor(path: string) {
    this.#options.writeBigUInt64LE(80n, 0);
    this.#options.writeBigUInt64LE(koffi.address(this.#log), 56);
    this.#options.writeBigUInt64LE(BigInt(this.#log.length), 64);
    this.#pointer = calls().objectOpen(path, this.#options);
    if (!this.#pointer) throw new BpfError(`bpf_object__open_file ${path}`, koffi.errno());
  }

  setMaxEntries(map: string, entries: number): void {
    check(`bpf_map__set_max_entries ${map}`, calls().setMaxEntries(this.#map(map), entries));
  }

  /** Made there and pinned by load(), or taken over from there, contents and all. */
  setPinPath(map: string, path: string): void {
    check(`bpf_map__set_pin_path ${map}`, calls().setPinPath(this.#map(map), path));
  }

  /** What a map of constants is loaded with. */
  setConstants(map: string, bytes: Uint8Array): void {
    const size = buffer(8);
    const at: Pointer = calls().initialValue(this.#map(map), size);
    if (Number(size.readBigUInt64LE()) !== bytes.length)
      throw new RangeError(`${map} has ${size.readBigUInt64LE()} bytes, not ${bytes.length}`);
    new Uint8Array(koffi.view(at, bytes.length)).set(bytes);
  }

  /** @throws BpfError; verifierLog() has the text if it was the verifier */
  load(): void {
    check('bpf_object__load', calls().objectLoad(this.#pointer));
  }

  verifierLog(): string {
    return this.#log.toString('utf8', 0, Math.max(0, this.#log.indexOf(0)));
  }

  mapFd(name: string): number {
    return check(`bpf_map__fd ${name}`, calls().mapFd(this.#map(name)));
  }

  programFd(name: string): number {
    const program: Pointer = calls().findProgram(this.#pointer, name);
    if (!program) throw new BpfError(`program ${name}`, ENOENT);
    return check(`bpf_program__fd ${name}`, calls().programFd(program));
  }

  close(): void {
    calls().objectClose(this.#pointer);
  }

  #map(name: string): Pointer {
    const map: Pointer = calls().findMap(this.#pointer, name);
    if (!map) throw new BpfError(`map ${name}`, ENOENT);
    return map;
  }
}

/** A map by its file descriptor; keys and values have the sizes the map was made with. */
export class BpfMap {
  readonly #fd: number;
  readonly #keySize: number;
  readonly #valueSize: number;

  constructor(fd: number, keySize: number, valueSize: number) {
    this.#fd = fd;
    this.#keySize = keySize;
    this.#valueSize = valueSize;
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    const value = buffer(this.#valueSize);
    return present('bpf_map_lookup_elem', calls().lookup(this.#fd, key, value)) ? value : undefined;
  }

  update(key: Uint8Array, value: Uint8Array): void {
    check('bpf_map_update_elem', calls().update(this.#fd, key, value, 0));
  }

  /** Whether it was there. */
  remove(key: Uint8Array): boolean {
    return present('bpf_map_delete_elem', calls().remove(this.#fd, key));
  }

  /** All keys at this moment. */
  keys(): Uint8Array[] {
    const keys: Uint8Array[] = [];
    for (let last: Uint8Array | null = null; ; ) {
      const next = buffer(this.#keySize);
      if (!present('bpf_map_get_next_key', calls().nextKey(this.#fd, last, next))) return keys;
      keys.push(next);
      last = next;
    }
  }
}

function present(call: string, result: number): boolean {
  return result !== -ENOENT && check(call, result) === 0;
}

/** A mapping of an mmapable map. Nothing may touch `memory` after release(). */
export interface Mapped {
  readonly memory: ArrayBuffer;
  release(): void;
}

export function mapMemory(fd: number, length: number): Mapped {
  const at: Pointer = calls().mmap(null, length, 3 /* read, write */, 1 /* shared */, fd, 0);
  if (at === 0xffff_ffff_ffff_ffffn) throw new BpfError('mmap', koffi.errno());
  return { memory: koffi.view(at, length), release: () => calls().munmap(at, length) };
}

export function possibleCpus(): number {
  return check('libbpf_num_possible_cpus', calls().possibleCpus());
}

/** The kernel's number of a loaded program. */
export function programId(fd: number): number {
  return info(fd).readUInt32LE(4);
}

/** Where a TCX link hangs; undefined for any other kind. `ifindex` 0: its interface is gone. */
export function linkPlace(fd: number): { ifindex: number; programId: number } | undefined {
  const link = info(fd);
  if (link.readUInt32LE(0) !== BPF_LINK_TYPE_TCX) return undefined;
  return { programId: link.readUInt32LE(8), ifindex: link.readUInt32LE(16) };
}

function info(fd: number): Buffer {
  const bytes = buffer(256);
  const length = buffer(4);
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
  const options = buffer(16);
  options.writeBigUInt64LE(16n, 0);
  options.writeUInt32LE(BPF_F_BEFORE, 8);
  return check('bpf_link_create', calls().linkCreate(programFd, ifindex, TCX[point], options));
}

/** Another program in a link's place, with no packet in between. */
export function updateLink(linkFd: number, programFd: number): void {
  check('bpf_link_update', calls().linkUpdate(linkFd, programFd, null));
}

/** A filter's place at TC. */
export interface TcPlace {
  readonly ifindex: number;
  readonly point: Point;
  readonly handle: number;
  readonly priority: number;
}

function tcHook({ ifindex, point }: TcPlace): Buffer {
  const hook = buffer(24);
  hook.writeBigUInt64LE(24n, 0);
  hook.writeInt32LE(ifindex, 8);
  hook.writeUInt32LE(TC_POINT[point], 12);
  return hook;
}

function tcOptions({ handle, priority }: TcPlace, programFd = 0, flags = 0): Buffer {
  const options = buffer(32);
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

/** One packet through a program (BPF_PROG_TEST_RUN), as if an interface had received it. */
export function testRun(programFd: number, ifindex: number, data: Uint8Array) {
  const context = buffer(256); // struct __sk_buff, of a kernel that may know more of it
  const output = buffer(data.length + 512);
  const options = buffer(80);
  context.writeUInt32LE(ifindex, 40);
  options.writeBigUInt64LE(80n, 0);
  options.writeBigUInt64LE(koffi.address(data), 8);
  options.writeBigUInt64LE(koffi.address(output), 16);
  options.writeUInt32LE(data.length, 24);
  options.writeUInt32LE(output.length, 28);
  options.writeBigUInt64LE(koffi.address(context), 32);
  options.writeBigUInt64LE(koffi.address(context), 40);
  options.writeUInt32LE(192, 48);
  options.writeUInt32LE(context.length, 52);
  check('bpf_prog_test_run_opts', calls().testRun(programFd, options));
  return {
    verdict: options.readInt32LE(56),
    bytes: Uint8Array.from(output.subarray(0, options.readUInt32LE(28))),
    mark: context.readUInt32LE(8),
  };
}
