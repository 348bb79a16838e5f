/**
 * What the operating system gives: clocks, randomness, the boot's id, the log,
 * the lock that makes an agent the only one, who is on the other end of a Unix
 * socket, a packet with a mark, and the service manager's ear. Node has no
 * call for some of these; libc and libsystemd have (through koffi).
 */
import { execFile } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { closeSync, openSync, readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { getSystemErrorName } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import koffi from 'koffi';
import { pino } from 'pino';
import { ulid } from 'ulid';
import { AgentError } from './core/errors.ts';
import type { Clock, Log, Random } from './core/ports.ts';

const libc = koffi.load('libc.so.6');
const clockGettime = libc.func('int clock_gettime(int clock, _Out_ int64_t *time)');
const flock = libc.func('int flock(int fd, int operation)');
const getsockopt = libc.func(
  'int getsockopt(int fd, int level, int name, _Out_ uint32_t *value, _Inout_ uint32_t *size)',
);
const setsockopt = libc.func('int setsockopt(int fd, int level, int name, const uint32_t *value, uint32_t size)');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const sendto = libc.func(
  'long sendto(int fd, const uint8_t *data, size_t length, int flags, const uint8_t *address, uint32_t size)',
);

const CLOCK_BOOTTIME = 7;
const LOCK_EX = 2;
const LOCK_NB = 4;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_MARK = 36;
const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
/** struct sockaddr_in of 127.0.0.1, port 9 (discard, RFC 863). */
const LOOPBACK_DISCARD = Uint8Array.of(AF_INET, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0);

/** The host's clocks. CLOCK_MONOTONIC is the one the gate reads. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicNs: () => process.hrtime.bigint(), // libuv reads CLOCK_MONOTONIC
  boottimeNs: () => readClock(CLOCK_BOOTTIME),
};

/** The kernel's cryptographic source. Bytes are drawn in larger pieces, since a draw costs more than its bytes. */
export const systemRandom: Random = {
  integer: (below) => (below > 1 ? randomInt(below) : 0),
  bytes(count) {
    const from = take(count);
    return drawn.subarray(from, from + count);
  },
};

let drawn: Uint8Array = new Uint8Array();
let used = 0;

/** Where the next `count` bytes begin in what was drawn; no byte is handed out twice. */
function take(count: number): number {
  if (drawn.length - used < count) {
    drawn = randomBytes(Math.max(count, 4_096));
    used = 0;
  }
  used += count;
  return used - count;
}

/** A ULID of this moment. */
export function newUlid(): string {
  return ulid(Date.now(), () => {
    const at = take(1);
    return (drawn[at] as number) / 256;
  });
}

/** How late the loop was for what was due, in seconds, since this was last asked: the 99th of a hundred, and the worst. */
export function loopDelay(): { readonly p99Seconds: number; readonly worstSeconds: number } {
  loopDelays ??= monitorEventLoopDelay({ resolution: LOOP_LOOK_MS });
  loopDelays.enable();
  const seconds = (nanoseconds: number) => Math.max(0, nanoseconds / 1e9 - LOOP_LOOK_MS / 1e3);
  const delay = { p99Seconds: seconds(loopDelays.percentile(99)), worstSeconds: seconds(loopDelays.max) };
  loopDelays.reset();
  return delay;
}

/** It counts what lies between two looks, the pause between them included. */
const LOOP_LOOK_MS = 10;
let loopDelays: IntervalHistogram | undefined;

/** Changes with every boot, and only then. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** What waits for a journal that does not read; what is more is left out, since nobody may stand still for a line. */
const WAITING_LOG_BYTES = 16 * 2 ** 20;
/** Characters that are written at once, where a turn has so many. */
const LINES_TOGETHER = 64 * 2 ** 10;

/** From which level on lines are written. */
export const LOG_LEVELS: readonly string[] = [...Object.keys(pino.levels.values), 'silent'];

/**
 * One JSON line an event, on standard output, for the journal. The lines of a
 * turn of the loop are written together and beside it; what still waits at an
 * exit is written then, what was on its way already perhaps behind it. `leftOut`
 * says how many lines a journal that stood still had no room for.
 */
export function openLog(level: string): { readonly log: Log; readonly leftOut: () => number } {
  const output = pino.destination({ fd: 1, sync: false, maxLength: WAITING_LOG_BYTES });
  let leftOut = 0;
  let lines = '';
  output.on('drop', (dropped: string) => {
    leftOut += dropped.split('\n').length - 1;
  });
  const flush = () => {
    if (lines !== '') output.write(lines);
    lines = '';
  };
  process.prependListener('exit', flush); // before what waits in `output` is written
  const write = (line: string) => {
    if (lines === '') setImmediate(flush);
    lines += line;
    if (lines.length > LINES_TOGETHER) flush();
  };
  const log = pino(
    {
      level,
      messageKey: 'event',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write },
  );
  return { log, leftOut: () => leftOut };
}

/**
 * Takes the lock of a folder, for as long as this process lives (kill -9
 * included). Works on any file system, bpffs too.
 * @throws AgentError alreadyRunning where another process has it
 */
export function lockFolder(folder: string): void {
  const fd = openSync(folder, 'r');
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return; // the descriptor stays open on purpose
  closeSync(fd);
  throw new AgentError('alreadyRunning', `another agent holds ${folder}`);
}

/** The user id of the process that connected to a Unix socket. @throws AgentError internal for another kind of socket */
export function peerUid(socket: Socket): number {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd ?? -1;
  const credentials = new Uint32Array(3); // struct ucred: pid, uid, gid
  const size = Uint32Array.of(credentials.byteLength);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, size) !== 0) {
    throw new AgentError('internal', 'the kernel does not say who is on the other end of a Unix socket');
  }
  return credentials[1] as number;
}

/** What a user is called here, by whomever the host asks for names (getent(1)); nobody is waited for. */
export function userName(uid: number): Promise<string> {
  return new Promise((resolve) => {
    execFile('getent', ['passwd', String(uid)], { timeout: 2_000, killSignal: 'SIGKILL' }, (_, said) =>
      resolve(/^([^:\n]{1,64}):/.exec(said)?.[1] ?? `uid ${uid}`),
    );
  });
}

/** Sends one datagram with a mark to the loopback's discard port; says why it could not. */
export function sendMarked(mark: number): string | undefined {
  const fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return systemError();
  try {
    const value = Uint32Array.of(mark);
    if (setsockopt(fd, SOL_SOCKET, SO_MARK, value, value.byteLength) !== 0) return systemError();
    const text = new TextEncoder().encode('mtgate');
    // What netfilter drops on its way out is EPERM to the sender: it was sent all the same.
    const sent = sendto(fd, text, text.length, 0, LOOPBACK_DISCARD, LOOPBACK_DISCARD.length);
    const error = sent < 0 ? systemError() : undefined;
    return error === 'EPERM' ? undefined : error;
  } finally {
    closeSync(fd);
  }
}

function systemError(): string {
  return getSystemErrorName(-koffi.errno());
}

/**
 * Gives back what a start has left over: reading files and records leaves
 * garbage, as much as the grants themselves, that nothing would press the
 * engine to collect for as long as the agent runs.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}

/** What the service manager is told (sd_notify(3)). */
export type ServiceState = 'ready' | 'reloading' | 'working' | 'stopping';

/**
 * Tells the service manager, where one started this agent; `working` feeds its
 * watchdog. Whether it hears is its own matter: what it misses it acts upon.
 * @throws AgentError libraryMissing where there is a service manager, but no libsystemd
 */
export function notifyService(state: ServiceState): void {
  if (!process.env['NOTIFY_SOCKET']) return;
  const microseconds = () => process.hrtime.bigint() / 1000n;
  const words: Readonly<Record<ServiceState, () => string>> = {
    ready: () => 'READY=1',
    reloading: () => `RELOADING=1\nMONOTONIC_USEC=${microseconds()}`,
    working: () => 'WATCHDOG=1',
    stopping: () => 'STOPPING=1',
  };
  sdNotify ??= loadSdNotify();
  sdNotify(0, words[state]());
}

let sdNotify: ((keepEnvironment: number, words: string) => number) | undefined;

/** Loaded where it is needed only: a host without systemd need not have it. */
function loadSdNotify(): (keepEnvironment: number, words: string) => number {
  try {
    return koffi.load('libsystemd.so.0').func('int sd_notify(int unset_environment, const char *state)');
  } catch (cause) {
    throw new AgentError('libraryMissing', 'libsystemd.so.0 cannot be loaded', { cause });
  }
}

/** struct timespec: seconds, nanoseconds. */
const time = new BigInt64Array(2);

function readClock(clock: number): bigint {
  clockGettime(clock, time);
  return (time[0] as bigint) * 1_000_000_000n + (time[1] as bigint);
}
