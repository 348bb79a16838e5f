/**
 * Files that people write, read as values: YAML text in; a frozen value, or
 * every issue, out, each issue with its place and what is expected there.
 *
 * What is taken is a plain part of YAML 1.2: mappings, lists and scalars.
 * Aliases, anchors, tags, directives, merge keys, tabs, duplicate keys,
 * several documents and invisible characters are refused, since each can make
 * a file mean something else than its reader sees. Every scalar is its text,
 * and the schema says what the text means: an IMSI keeps its leading zeros,
 * `no` is never false. Size and depth are bounded before anything recurs.
 */
import {
  Composer,
  CST,
  isCollection,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Pair,
  Parser,
  visit,
} from 'yaml';
import type { z } from 'zod';

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

type Yaml = NonNullable<ReturnType<typeof compose>>;
interface Fault {
  readonly offset: number;
  readonly message: string;
}

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
/** Levels of nesting; no file of ours needs ten. */
const MAX_DEPTH = 64;
/** Control and format characters, but for line ends. */
const INVISIBLE = /(?!\n|\r\n)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

const NOT_TAKEN: Partial<Record<CST.TokenType, string>> = {
  alias: 'aliases are not taken; write the value out',
  anchor: 'anchors are not taken; write the value out where it is wanted',
  tag: 'tags are not taken; the schema knows the types',
  'directive-line': 'directives are not taken; the file is read as YAML 1.2',
  'explicit-key-ind': 'explicit keys are not taken; write "key: value"',
};

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
  const lines = lineCounterOf(text);
  const placeAt = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { file, line, column: col };
  };
  const issuesOf = (faults: readonly Fault[]) =>
    [...faults].sort((a, b) => a.offset - b.offset).map(({ offset, message }) => ({ ...placeAt(offset), message }));

  // Each look at the text relies on the one before: what is deep or invisible is not composed, what is no YAML has no keys.
  const invisible = [...invisibleIn(text)];
  if (invisible.length > 0) return { issues: issuesOf(invisible) };
  const { tokens, notTaken } = tokensOf(text);
  if (notTaken.length > 0) return { issues: issuesOf(notTaken) };
  const yaml = compose(tokens, text);
  const broken = [...syntaxFaults(yaml, lines), ...faultsOfNodes(yaml, lines)];
  if (broken.length > 0) return { issues: issuesOf(broken) };

  const parsed = schema.safeParse(yaml.toJS());
  if (parsed.success) {
    const locate = (path: Path, at?: number) =>
      placeAt(at === undefined ? offsetOf(yaml, path) : offsetWithin(yaml, path, at, text));
    return { document: { value: frozen(parsed.data), locate } };
  }
  return { issues: issuesOf(parsed.error.issues.flatMap((issue) => faultsOfSchema(yaml, issue))) };
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

function lineCounterOf(text: string): LineCounter {
  const lines = new LineCounter();
  lines.addNewLine(0);
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines.addNewLine(at + 1);
  return lines;
}

function* invisibleIn(text: string): Generator<Fault> {
  for (const { 0: character, index } of text.matchAll(INVISIBLE)) {
    yield { offset: index, message: character === '\t' ? 'a tab; use spaces' : `${nameOf(character)}; remove it` };
  }
}

function nameOf(character: string): string {
  const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0');
  return `the invisible character U+${code}`;
}

/** The file's tokens as a tree, and what is not taken among them; ends early where it is nested too deep to recur over. */
function tokensOf(text: string): { tokens: CST.Token[]; notTaken: Fault[] } {
  const parser = new Parser();
  const tokens: CST.Token[] = [];
  const notTaken: Fault[] = [];
  let previous = '';
  for (const lexeme of new Lexer().lex(text)) {
    const offset = parser.offset;
    const type = previous === CST.SCALAR ? 'scalar' : CST.tokenType(lexeme);
    const message = type && NOT_TAKEN[type];
    if (message) notTaken.push({ offset, message });
    for (const token of parser.next(lexeme)) tokens.push(token);
    if (parser.stack.length > MAX_DEPTH) {
      notTaken.push({ offset, message: `nested deeper than ${MAX_DEPTH} levels` });
      return { tokens, notTaken };
    }
    previous = lexeme;
  }
  tokens.push(...parser.end());
  return { tokens, notTaken };
}

/** The file as a document; `failsafe` is the schema in which every scalar is its text. */
function compose(tokens: CST.Token[], text: string) {
  const composer = new Composer({ version: '1.2', schema: 'failsafe', stringKeys: true, uniqueKeys: false });
  const [first, second] = composer.compose(tokens, true, text.length);
  if (!first) throw new RangeError('a forced document is missing');
  return Object.assign(first, { next: second?.range[0] });
}

/** The parser's own faults. One a line: the rest of a line is consequence. */
function syntaxFaults(yaml: Yaml, lines: LineCounter): Fault[] {
  if (yaml.next !== undefined)
    return [{ offset: yaml.next, message: 'a second document begins; a file is one document' }];
  const first = new Map<number, Fault>();
  for (const { pos, code, message } of [...yaml.errors, ...yaml.warnings]) {
    const { line } = lines.linePos(pos[0]);
    const plain = code === 'NON_STRING_KEY' ? 'a key must be a plain text' : `not YAML: ${message}`;
    if (!first.has(line)) first.set(line, { offset: pos[0], message: plain });
  }
  return [...first.values()];
}

function faultsOfNodes(yaml: Yaml, lines: LineCounter): Fault[] {
  const faults: Fault[] = [];
  visit(yaml, {
    Scalar(_, { value, range }) {
      // Written as an escape, since the text itself has none.
      const character = typeof value === 'string' ? value.match(INVISIBLE)?.[0] : undefined;
      if (character)
        faults.push({ offset: range?.[0] ?? 0, message: `${nameOf(character)} in a quoted text; remove it` });
    },
    Map(_, { items }) {
      const seen = new Map<string, number>();
      for (const pair of items) {
        const { key, offset } = keyOf(pair);
        const before = seen.get(key);
        if (key === '<<') faults.push({ offset, message: 'merge keys are not taken; write the members out' });
        else if (key === '__proto__') faults.push({ offset, message: '"__proto__" cannot be a key' });
        else if (before !== undefined) {
          const { line } = lines.linePos(before);
          faults.push({ offset, message: `duplicate key "${key}"; it stands in line ${line} already` });
        } else seen.set(key, offset);
      }
    },
  });
  return faults;
}

/** What a schema found, one fault for each place it concerns. Messages are the schema's own (fields.ts). */
function faultsOfSchema(yaml: Yaml, issue: z.core.$ZodIssue): Fault[] {
  if (issue.code === 'unrecognized_keys') {
    const messages = issue.message.split('\n');
    return issue.keys.map((key, i) => ({
      offset: offsetOf(yaml, [...issue.path, key], 'key'),
      message: messages[i] ?? '',
    }));
  }
  if (issue.code === 'invalid_key') {
    return [{ offset: offsetOf(yaml, issue.path, 'key'), message: issue.issues[0]?.message ?? issue.message }];
  }
  return [{ offset: offsetOf(yaml, issue.path), message: issue.message }];
}

/**
 * Where a character of a scalar stands in the file. The scalar is read along
 * its source, in which quotes, escapes, indentation and line ends come
 * between; one that is written as another (`\\x41`) is taken to stand where
 * the one before it ends.
 */
function offsetWithin(yaml: Yaml, path: Path, at: number, source: string): number {
  const begin = offsetOf(yaml, path);
  const value = yaml.getIn(path);
  if (typeof value !== 'string') return begin;
  const isBlock = source[begin] === '|' || source[begin] === '>';
  let offset = isBlock ? source.indexOf('\n', begin) : begin;
  for (const character of value.slice(0, at + 1)) {
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

function offsetOf(yaml: Yaml, path: Path, wanted: 'key' | 'value' = 'value'): number {
  let node: unknown = yaml.contents;
  let offset = yaml.contents?.range[0] ?? 0;
  for (const step of path) {
    if (isMap(node)) {
      const pair: Pair | undefined = node.items.find((item) => keyOf(item).key === String(step));
      if (!pair) break;
      const { value } = pair;
      const range = isScalar(value) && wanted === 'value' ? value.range : undefined;
      offset = range && range[0] < range[1] ? range[0] : keyOf(pair).offset;
      node = value;
    } else if (isSeq(node)) {
      const item: unknown = node.items[Number(step)];
      if (!(isScalar(item) || isCollection(item)) || !item.range) break;
      offset = item.range[0];
      node = item;
    } else break;
  }
  return offset;
}

function keyOf({ key }: Pair<unknown, unknown>): { key: string; offset: number } {
  return isScalar(key) ? { key: String(key.value), offset: key.range?.[0] ?? 0 } : { key: String(key), offset: 0 };
}
