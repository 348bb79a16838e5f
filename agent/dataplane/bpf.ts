/**
 * libbpf and mmap, called in this process through koffi: thin, typed, and the
 * only place of the data plane that knows the foreign function interface.
 * Objects, maps and test runs are here, what hangs at interfaces in tc.ts.
 *
 * Structs go over as buffers with their offsets written out (libbpf 1.x, 64
 * bit, little endian; native-notes/libbpf.md has them). A wrong offset there
 * is no error but a crash, so every one is made by a function here or there,
 * and none leaves them. Calls that fail return a negated errno; here they throw a
 * BpfError that keeps it: a fault of the gate, unless the caller knows better.
 */
import { setTimeout } from 'node:timers/promises';
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

const ENOENT = 2;
/** So many keys a call: a few milliseconds of it. */
const BATCH = 4096;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

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
    lookupBatch: bpf.func(
      'int bpf_map_lookup_batch(int fd, void *from, void *to, void *keys, void *values, _Inout_ uint32_t *count, const void *options)',
    ),
    take: bpf.func('int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value)'),
    update: bpf.func('int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)'),
    remove: bpf.func('int bpf_map_delete_elem(int fd, const void *key)'),
    nextKey: bpf.func('int bpf_map_get_next_key(int fd, const void *key, void *next)'),
    testRun: bpf.func('int bpf_prog_test_run_opts(int fd, void *options)'),
    info: bpf.func('int bpf_obj_get_info_by_fd(int fd, void *info, void *length)'),
    pin: bpf.func('int bpf_obj_pin(int fd, const char *path)'),
    get: bpf.func('int bpf_obj_get(const char *path)'),
    linkCreate: bpf.func('int bpf_link_create(int program, int target, int type, const void *options)'),
    linkDetach: bpf.func('int bpf_link_detach(int link)'),
    linkUpdate: bpf.func('int bpf_link_update(int link, int program, const void *options)'),
    tcHookCreate: bpf.func('int bpf_tc_hook_create(void *hook)'),
    tcAttach: bpf.func('int bpf_tc_attach(const void *hook, void *options)'),
    tcDetach: bpf.func('int bpf_tc_detach(const void *hook, const void *options)'),
    tcQuery: bpf.func('int bpf_tc_query(const void *hook, void *options)'),
    possibleCpus: bpf.func('int libbpf_num_possible_cpus()'),
    mmap: libc.func('void *mmap(void *at, size_t length, int protection, int flags, int fd, long offset)'),
    munmap: libc.func('int munmap(void *at, size_t length)'),
    close: libc.func('int close(int fd)'),
    syscall: libc.func('long syscall(long number, long a, long b)'),
  };
  // Without this libbpf writes its warnings to stderr; all of them come back as errors anyway.
  bpf.func('void *libbpf_set_print(void *callback)')(null);
  return calls;
}

let bound: ReturnType<typeof bind> | undefined;

/** Bound at the first call: importing this file needs no library. */
export function calls(): ReturnType<typeof bind> {
  bound ??= bind();
  return bound;
}

/** @throws BpfError where a call says so, as libbpf does, by a negated errno */
export function check(call: string, result: number): number {
  if (result < 0) throw new BpfError(call, -result);
  return result;
}

/** An object file on its way into the kernel: opened, then changed, then loaded. Nothing may be called after close(). */
export class BpfObject {
  readonly #pointer: Pointer;
  /** The kernel writes the verifier's text here when it refuses. */
  readonly #log = Buffer.alloc(1 << 20);
  /** libbpf keeps pointers into it. */
  readonly #options = Buffer.alloc(80);

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
    const size = Buffer.alloc(8);
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

  /** A map to be called; its keys and values have these sizes. */
  map(name: string, keySize: number, valueSize: number): BpfMap {
    return new BpfMap(this.mapFd(name), keySize, valueSize);
  }

  /** An mmapable map, all of it, in this process. */
  mapped(name: string, length: number): Mapped {
    const at: Pointer = calls().mmap(null, length, 3 /* read, write */, 1 /* shared */, this.mapFd(name), 0);
    if (at === MAP_FAILED) throw new BpfError(`mmap ${name}`, koffi.errno());
    return { memory: koffi.view(at, length), release: () => calls().munmap(at, length) };
  }

  programFd(name: string): number {
    const program: Pointer = calls().findProgram(this.#pointer, name);
    if (!program) throw new BpfError(`program ${name}`, ENOENT);
    return check(`bpf_program__fd ${name}`, calls().programFd(program));
  }

  close(): void {
    calls().objectClose(this.#pointer);
  }

  /** A map's descriptor, which stays the object's. */
  mapFd(name: string): number {
    return check(`bpf_map__fd ${name}`, calls().mapFd(this.#map(name)));
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
    const value = Buffer.alloc(this.#valueSize);
    return present('bpf_map_lookup_elem', calls().lookup(this.#fd, key, value)) ? value : undefined;
  }

  /** The first values of an array, in its order, one after the other in one piece: one call for all of them. */
  first(count: number): Uint8Array {
    const values = Buffer.alloc(count * this.#valueSize);
    const keys = Buffer.alloc(count * this.#keySize);
    const last = Buffer.alloc(8);
    const found = Uint32Array.of(count);
    // ENOENT: there are no more behind them.
    present('bpf_map_lookup_batch', calls().lookupBatch(this.#fd, null, last, keys, values, found, null));
    if (found[0] !== count) throw new AgentError('gateFault', `a map of the gate has ${found[0]} values, not ${count}`);
    return values;
  }

  /** Takes the first value out of a queue. */
  take(): Uint8Array | undefined {
    const value = Buffer.alloc(this.#valueSize);
    return present('bpf_map_lookup_and_delete_elem', calls().take(this.#fd, null, value)) ? value : undefined;
  }

  update(key: Uint8Array, value: Uint8Array): void {
    check('bpf_map_update_elem', calls().update(this.#fd, key, value, 0));
  }

  /** Whether it was there. */
  remove(key: Uint8Array): boolean {
    return present('bpf_map_delete_elem', calls().remove(this.#fd, key));
  }

  /** All keys of a hash, some thousands a call. */
  *keysInBatches(): Generator<Uint8Array> {
    const values = Buffer.alloc(BATCH * this.#valueSize);
    const last = Buffer.alloc(this.#keySize);
    for (let from: Uint8Array | null = null, more = true; more; from = last) {
      const keys = Buffer.alloc(BATCH * this.#keySize);
      const found = Uint32Array.of(BATCH);
      more = present('bpf_map_lookup_batch', calls().lookupBatch(this.#fd, from, last, keys, values, found, null));
      for (let i = 0; i < (found[0] ?? 0); i++) yield keys.subarray(i * this.#keySize, (i + 1) * this.#keySize);
    }
  }

  /** All keys at this moment. */
  keys(): Uint8Array[] {
    const keys: Uint8Array[] = [];
    for (let last: Uint8Array | null = null; ; ) {
      const next = Buffer.alloc(this.#keySize);
      if (!present('bpf_map_get_next_key', calls().nextKey(this.#fd, last, next))) return keys;
      keys.push(next);
      last = next;
    }
  }
}

/** Like check, for calls on something that need not be there. */
export function present(call: string, result: number): boolean {
  return result !== -ENOENT && check(call, result) === 0;
}

/** An mmapable map in this process's memory. Nothing may touch `memory` after release(). */
export interface Mapped {
  readonly memory: ArrayBuffer;
  release(): void;
}

export function possibleCpus(): number {
  return check('libbpf_num_possible_cpus', calls().possibleCpus());
}

/** membarrier(2) by its number: glibc has no function for it. */
const MEMBARRIER: Readonly<Record<string, number>> = { x64: 324, arm64: 283 };
const MEMBARRIER_CMD_GLOBAL = 1;
/** A packet's way from the gate through the kernel takes microseconds; a processor that is held up, some milliseconds. */
const WAY_MS = 50;

/**
 * Resolves when every packet that met the gate as it was before this call has gone its whole way through the
 * kernel, connection tracking included: a program and the stack behind it run in one section of RCU, and
 * MEMBARRIER_CMD_GLOBAL waits for the end of all that have begun. A kernel with nohz_full refuses it: there,
 * for a time that is far longer than such a way.
 */
export async function packetsPassed(): Promise<void> {
  const number = MEMBARRIER[process.arch];
  const isDone = await new Promise<boolean>((resolve, reject) => {
    if (number === undefined) return resolve(false);
    calls().syscall.async(number, MEMBARRIER_CMD_GLOBAL, 0, (fault: Error | null, result: number) =>
      fault ? reject(fault) : resolve(result === 0),
    );
  });
  if (!isDone) await setTimeout(WAY_MS);
}
