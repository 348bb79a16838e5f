/**
 * Files that people write, read as values: YAML text in; a frozen value, or
 * every issue, out, each issue with its place and what is expected there.
 *
 * Every scalar is its text (yaml.ts), and the schema says what the text means:
 * an IMSI keeps its leading zeros, `no` is never false. Size is bounded before
 * anything is read. Of a text that is no YAML the first fault is told: what
 * comes after it nobody can know.
 */
import type { z } from 'zod';
import { type Fault, type Mapping, type Node, placesIn, readYaml } from './yaml.ts';

/** A place in a file; line and column count from 1. */
export interface Place {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** What is wrong (or, in a warning, doubtful) at a place. */
export interface Issue extends Place {
  readonly message: string;
}

/** Keys and list places that lead to a value. */
export type Path = readonly PropertyKey[];

/** A value, with the way back to its text. */
export interface Document<Value> {
  readonly value: Value;
  /**
   * Where a value stands; a mapping or list under a key: where the key stands. Follows the path as far as there is text.
   * With `at`: where that character of a text stands, however the text is quoted or folded.
   */
  locate(path: Path, at?: number): Place;
}

export type Reading<Value> = { readonly document: Document<Value> } | { readonly issues: readonly Issue[] };

/** The text that bytes are in UTF-8, or where they are not. A mark at the beginning (BOM) stays, and is refused with the rest of what is invisible. */
export function decodeText(bytes: Uint8Array, file: string): { readonly text: string } | { readonly issue: Issue } {
  const lossy = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  const again = new TextEncoder().encode(lossy);
  const wrong = bytes.findIndex((byte, i) => byte !== again[i]);
  if (wrong < 0 && again.length === bytes.length) return { text: lossy };
  const at = wrong < 0 ? bytes.length : wrong;
  const before = new TextDecoder().decode(bytes.subarray(0, at)).split('\n');
  const column = (before.at(-1)?.length ?? 0) + 1;
  const message = `not UTF-8 at byte ${at}; save the file as UTF-8`;
  return { issue: { file, line: before.length, column, message } };
}

/** Characters in a file. */
const MAX_LENGTH = 4 * 2 ** 20;
/** Reads a file's text by its schema. */
export function readDocument<Schema extends z.ZodType>(
  text: string,
  file: string,
  schema: Schema,
  maxLength = MAX_LENGTH,
): Reading<z.output<Schema>> {
  if (text.length > maxLength) {
    const message = `the file has more than ${maxLength} characters; split it`;
    return { issues: [{ file, line: 1, column: 1, message }] };
  }
  const placeOf = placesIn(text);
  const placeAt = (offset: number): Place => ({ file, ...placeOf(offset) });
  const issuesOf = (faults: readonly Fault[]) => faults.map(({ offset, message }) => ({ ...placeAt(offset), message }));

  const yaml = readYaml(text);
  if ('faults' in yaml) return { issues: issuesOf(yaml.faults) };
  const { root } = yaml;
  const parsed = schema.safeParse(asValue(root));
  if (parsed.success) {
    const locate = (path: Path, at?: number) =>
      placeAt(at === undefined ? offsetOf(root, path) : offsetWithin(root, path, at, text));
    return { document: { value: frozen(parsed.data), locate } };
  }
  const faults = parsed.error.issues.flatMap((issue) => faultsOfSchema(root, issue));
  return { issues: issuesOf(faults.sort((a, b) => a.offset - b.offset)) };
}

/** An issue in a line, as compilers write theirs. */
export function formatIssue({ file, line, column, message }: Issue): string {
  return `${file}:${line}:${column}: ${message}`;
}

/** The order in which issues are told: as the text is read. */
export function byPlace(a: Place, b: Place): number {
  if (a.file !== b.file) return a.file < b.file ? -1 : 1;
  return a.line - b.line || a.column - b.column;
}

/** Freezes a value through and through; bytes cannot be, and are left. */
export function frozen<Value>(value: Value): Value {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || Object.isFrozen(value)) return value;
  Object.freeze(value);
  for (const member of Object.values(value)) frozen(member);
  return value;
}

function asValue(node: Node): unknown {
  switch (node.kind) {
    case 'scalar':
      return node.text;
    case 'list':
      return node.items.map(({ value }) => asValue(value));
    case 'mapping':
      return membersOf(node);
  }
}

function membersOf({ members }: Mapping): { [key: string]: unknown } {
  const written: { [key: string]: unknown } = {};
  for (const [key, { value }] of members) written[key] = asValue(value); // never `__proto__`: yaml.ts
  return written;
}

/** What a schema found, one fault for each place it concerns. Messages are the schema's own (fields.ts). */
function faultsOfSchema(root: Node, issue: z.core.$ZodIssue): Fault[] {
  if (issue.code === 'unrecognized_keys') {
    const messages = issue.message.split('\n');
    return issue.keys.map((key, i) => ({
      offset: offsetOf(root, [...issue.path, key], 'key'),
      message: messages[i] ?? '',
    }));
  }
  if (issue.code === 'invalid_key') {
    return [{ offset: offsetOf(root, issue.path, 'key'), message: issue.issues[0]?.message ?? issue.message }];
  }
  return [{ offset: offsetOf(root, issue.path), message: issue.message }];
}

/**
 * Where a character of a scalar stands in the file. The scalar is read along
 * its source, in which quotes, escapes, indentation and line ends come
 * between; one that is written as another (`\\x41`) is taken to stand where
 * the one before it ends.
 */
function offsetWithin(root: Node, path: Path, at: number, source: string): number {
  const { offset: begin, node } = follow(root, path);
  if (node?.kind !== 'scalar') return begin;
  const isBlock = source[begin] === '|' || source[begin] === '>';
  let offset = isBlock ? source.indexOf('\n', begin) : begin;
  for (const character of node.text.slice(0, at + 1)) {
    const next = /\s/.test(character) ? nextSpace(source, offset) : source.indexOf(character, offset);
    if (next < 0) break;
    offset = next + character.length;
  }
  return Math.max(begin, offset - 1);
}

function nextSpace(source: string, from: number): number {
  const found = source.slice(from).search(/\s/);
  return found < 0 ? found : from + found;
}

function offsetOf(root: Node, path: Path, wanted: 'key' | 'value' = 'value'): number {
  return follow(root, path, wanted).offset;
}

/** As far along the path as there is text; `node` only where all of it is there. */
function follow(root: Node, path: Path, wanted: 'key' | 'value' = 'value'): { offset: number; node?: Node } {
  let node = root;
  let offset = root.at ?? 0;
  for (const step of path) {
    if (node.kind === 'scalar') return { offset };
    if (node.kind === 'list') {
      const item = node.items[Number(step)];
      if (!item) return { offset };
      offset = item.at;
      node = item.value;
    } else {
      const member = node.members.get(String(step));
      if (!member) return { offset };
      const { keyAt, value } = member;
      offset = value.kind === 'scalar' && wanted === 'value' ? (value.at ?? keyAt) : keyAt;
      node = value;
    }
  }
  return { offset, node };
}
