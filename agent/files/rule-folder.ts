/**
 * The folder of the rule files, as text: every *.yaml of it, or everything
 * that is wrong with it. What is read here may become what the gateway lets
 * through, so it is read as if somebody meant harm.
 *
 * Invariants: what is looked at is what is read (one descriptor a file, no
 * second look by name); nothing outside the folder comes in by a link; nothing
 * that all may write to counts; nothing is waited for (a FIFO), and nothing
 * grows without bound.
 *
 * Owners are judged where the folder is put in force without anybody looking
 * (`autoApply`): whoever owns a file then makes the policy. Otherwise an apply
 * shows what would change to somebody who may use the socket.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync, realpathSync, statSync } from 'node:fs';
import { join, sep } from 'node:path';
import { decodeText, formatIssue } from '../core/document.ts';
import { AgentError } from '../core/errors.ts';
import type { RuleFile } from '../policy/rules.ts';

/** Rule files as text, named as in their folder, by name; and a hash of all that. */
export interface RuleTexts {
  readonly files: readonly RuleFile[];
  readonly digest: string;
}

const FILES_MOST = 1_000;
/** Of one file, and of all together. */
const BYTES_MOST = 16 * 2 ** 20;

const WORLD_WRITABLE = 0o002;

/** Where files must belong to root or to whoever reads them. */
export interface FolderRules {
  readonly folder: string;
  readonly autoApply: boolean;
}

/** @throws AgentError rulesInvalid, with everything that is wrong */
export function readRuleFolder({ folder, autoApply }: FolderRules): RuleTexts {
  const complaints: string[] = [];
  const { real, names } = openFolder(folder, autoApply);
  const files: RuleFile[] = [];
  let bytes = 0;
  for (const name of names) {
    try {
      const read = readFileIn(real, name, autoApply, BYTES_MOST - bytes);
      bytes += read.length;
      const decoded = decodeText(read, join(folder, name));
      if ('text' in decoded) files.push({ file: name, text: decoded.text });
      else complaints.push(formatIssue(decoded.issue));
    } catch (fault) {
      complaints.push(`${join(folder, name)}: ${(fault as Error).message}`);
    }
  }
  if (complaints.length > 0) throw new AgentError('rulesInvalid', complaints.join('\n'));
  return ruleTexts(files);
}

export function ruleTexts(files: readonly RuleFile[]): RuleTexts {
  const hash = createHash('sha256').update(JSON.stringify(files.map(({ file, text }) => [file, text])));
  return { files, digest: hash.digest('hex') };
}

/** The folder, with what counts in it: *.yaml, by name; hidden files and those of editors are not policy. */
function openFolder(folder: string, autoApply: boolean): { real: string; names: readonly string[] } {
  try {
    const real = realpathSync(folder);
    const stat = statSync(real);
    if (!stat.isDirectory()) throw new Error('expected a folder of rule files');
    objectTo(stat, autoApply, 'this folder');
    const names = readdirSync(real).filter((name) => /^[^.].*\.ya?ml$/.test(name));
    if (names.length === 0) throw new Error('no rule file (*.yaml) in this folder');
    if (names.length > FILES_MOST) throw new Error(`more than ${FILES_MOST} rule files`);
    return { real, names: names.sort() };
  } catch (cause) {
    throw new AgentError('rulesInvalid', `${folder}: ${(cause as Error).message}`, { cause });
  }
}

function readFileIn(folder: string, name: string, autoApply: boolean, room: number): Buffer {
  const path = target(folder, name);
  const fd = openedIn(path, folder);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new Error(`is ${kindOf(stat)}, and no rule file: move it out of the folder`);
    objectTo(stat, autoApply, 'it');
    if (stat.size > room) throw new Error(`with it the rule files are larger than ${BYTES_MOST / 2 ** 20} MiB`);
    return readAll(fd, room);
  } finally {
    closeSync(fd);
  }
}

/** Where a name leads, through links that stay in the folder. */
function target(folder: string, name: string): string {
  const named = join(folder, name);
  let real: string;
  try {
    real = realpathSync(named);
  } catch (cause) {
    throw new Error(inWords(cause as NodeJS.ErrnoException), { cause });
  }
  if (!real.startsWith(`${folder}${sep}`))
    throw new Error(`is a link out of the folder, to ${real}: put the file itself there`);
  return real;
}

function openedIn(path: string, folder: string): number {
  let fd: number;
  try {
    // A FIFO is opened at once, and found out; a link that was put there meanwhile is not followed.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW | constants.O_NOCTTY);
  } catch (cause) {
    throw new Error(inWords(cause as NodeJS.ErrnoException), { cause });
  }
  // A folder on the way may have become a link: what is open says where it is.
  const opened = realpathSync(`/proc/self/fd/${fd}`);
  if (opened.startsWith(`${folder}${sep}`)) return fd;
  closeSync(fd);
  throw new Error(`leads out of the folder by now, to ${opened}`);
}

function readAll(fd: number, room: number): Buffer {
  const parts: Buffer[] = [];
  for (let left = room + 1; left > 0; ) {
    const part = Buffer.alloc(Math.min(left, 65_536));
    const read = readSync(fd, part, 0, part.length, null);
    if (read === 0) return Buffer.concat(parts);
    parts.push(part.subarray(0, read));
    left -= read;
  }
  throw new Error('grows while it is read');
}

interface Rights {
  readonly mode: number;
  readonly uid: number;
}

function objectTo({ mode, uid }: Rights, autoApply: boolean, what: string): void {
  if ((mode & WORLD_WRITABLE) !== 0) {
    const shown = (mode & 0o7777).toString(8).padStart(4, '0');
    throw new Error(`everybody may write to ${what} (mode ${shown}), and so make rules: chmod o-w`);
  }
  if (!autoApply || uid === 0 || uid === process.getuid?.()) return;
  throw new Error(
    `${what} belongs to uid ${uid}, who with autoApply makes rules: chown it to root, or set autoApply: false`,
  );
}

function kindOf(stat: ReturnType<typeof fstatSync>): string {
  if (stat.isDirectory()) return 'a folder';
  if (stat.isFIFO()) return 'a FIFO';
  return stat.isCharacterDevice() || stat.isBlockDevice() ? 'a device' : 'no plain file';
}

function inWords(fault: NodeJS.ErrnoException): string {
  switch (fault.code) {
    case 'ENOENT':
      return 'vanished while the folder was read, or is a link to nothing: look, and try again';
    case 'EACCES':
      return `uid ${process.getuid?.()} may not read it: chown root:mtgate, chmod 0640`;
    case 'ELOOP':
      return 'is a link that leads in circles, or became one while the folder was read';
    case 'ENXIO':
      return 'is a socket or a device, and no rule file: move it out of the folder';
    default:
      return fault.message;
  }
}

/** Looks whether the folder has changed, no more often than this. */
const LOOK_EVERY_MS = 10_000;

/** Whether the folder says what some text says. Cheap to ask often: files are read only where their marks have changed. */
export class FolderWatch {
  readonly #rules: FolderRules;
  readonly #monotonicMs: () => number;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #marks: string | undefined;
  #found: { readonly digest: string } | { readonly problem: string } = { problem: 'not read yet' };

  constructor(rules: FolderRules, monotonicMs: () => number) {
    this.#rules = rules;
    this.#monotonicMs = monotonicMs;
  }

  /** In words, after `rule files on disk`; undefined where they say the same. */
  difference(digest: string): string | undefined {
    const now = this.#monotonicMs();
    if (now - this.#lookedAt >= LOOK_EVERY_MS) {
      this.#lookedAt = now;
      this.#look();
    }
    if ('problem' in this.#found) return `cannot be read: ${this.#found.problem}`;
    return this.#found.digest === digest ? undefined : 'differ';
  }

  /** The next question is answered by a look. */
  lookAgain(): void {
    this.#lookedAt = Number.NEGATIVE_INFINITY;
  }

  #look(): void {
    const marks = marksOf(this.#rules.folder);
    if (marks !== undefined && marks === this.#marks) return;
    this.#marks = marks;
    try {
      this.#found = { digest: readRuleFolder(this.#rules).digest };
    } catch (fault) {
      this.#found = { problem: (fault as Error).message.split('\n')[0] ?? '' };
    }
  }
}

/** Changes with every change of a file; undefined where that cannot be said. */
function marksOf(folder: string): string | undefined {
  try {
    const names = readdirSync(folder)
      .filter((name) => /\.ya?ml$/.test(name))
      .sort();
    if (names.length > FILES_MOST) return undefined;
    const marks = ['.', ...names].map((name) => {
      const { ino, size, mtimeMs, ctimeMs, mode, uid } = statSync(join(folder, name));
      return [name, ino, size, mtimeMs, ctimeMs, mode, uid].join();
    });
    return marks.join('\n');
  } catch {
    return undefined;
  }
}
