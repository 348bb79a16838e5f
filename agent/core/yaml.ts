/**
 * YAML text as a tree: every node with the place where it begins, or every
 * fault with the place where it stands. The only home of the parser.
 *
 * What is taken is a plain part of YAML 1.2.2: mappings, lists and scalars.
 * Aliases, anchors, tags, directives, explicit and merge keys, tabs, duplicate
 * keys, several documents and invisible characters are refused, since each can
 * make a file mean something else than its reader sees. Every scalar is its
 * text. Depth is bounded before anything recurs.
 *
 * The parser gives events: kinds and ranges. Between the ranges stand only
 * spaces, comments and indicators, so that what has no event of its own (the
 * `?` of an explicit key, the `-` of an empty item) is found there.
 */
import {
  EVENT_ID,
  type Event,
  getScalarValue,
  type MappingEvent,
  parseEvents,
  SCALAR_STYLE,
  type ScalarEvent,
  type SequenceEvent,
  YAMLException,
} from 'js-yaml';

/** What is wrong at a character of the text. */
export interface Fault {
  readonly offset: number;
  readonly message: string;
}

/** `at`: the character where it begins; a scalar of which nothing is written has none. */
export type Node = Scalar | Mapping | List;

export interface Scalar {
  readonly kind: 'scalar';
  readonly at: number | undefined;
  readonly text: string;
}

export interface Mapping {
  readonly kind: 'mapping';
  readonly at: number;
  readonly members: ReadonlyMap<string, { readonly keyAt: number; readonly value: Node }>;
}

export interface List {
  readonly kind: 'list';
  readonly at: number;
  readonly items: readonly { readonly at: number; readonly value: Node }[];
}

/** Levels of nesting; no file of ours needs ten. */
const MAX_DEPTH = 64;
/** Control and format characters, but for line ends. */
const INVISIBLE = /(?!\n|\r\n)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

const NOT_TAKEN = {
  alias: 'aliases are not taken; write the value out',
  anchor: 'anchors are not taken; write the value out where it is wanted',
  tag: 'tags are not taken; the schema knows the types',
  directive: 'directives are not taken; the file is read as YAML 1.2',
  explicitKey: 'explicit keys are not taken; write "key: value"',
};

/** What to look for, where the parser's words leave that open. */
const HINTS: Readonly<Record<string, string>> = {
  'deficient indentation': '; a bracket or quote before it is not closed, or this line must be indented further',
  'end of the stream or a document separator is expected':
    '; this line belongs to nothing above it: look at its indentation',
  'can not read a block mapping entry; a multiline key may not be an implicit key': ' (a colon is missing before it)',
};

const SECOND = 'a second document begins; a file is one document';

/** Reads a text; each look at it relies on the one before. */
export function readYaml(text: string): { readonly root: Node } | { readonly faults: readonly Fault[] } {
  const invisible = [...invisibleIn(text)];
  if (invisible.length > 0) return { faults: invisible };
  const before = [...faultsBefore(text)];
  let events: Event[];
  try {
    events = parseEvents(text, { maxDepth: MAX_DEPTH });
  } catch (error) {
    if (!(error instanceof YAMLException)) throw error;
    return { faults: before.length > 0 ? before : [syntaxFault(error)] };
  }
  const tree = new Tree(text, events);
  const root = tree.read();
  const faults = [...before, ...tree.faults];
  return faults.length > 0 ? { faults: faults.sort((a, b) => a.offset - b.offset) } : { root };
}

/** Line and column of a character, from 1. */
export function placesIn(text: string): (offset: number) => { readonly line: number; readonly column: number } {
  const begins = [0];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) begins.push(at + 1);
  return (offset) => {
    let [low, high] = [0, begins.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((begins[middle] as number) <= offset) low = middle;
      else high = middle;
    }
    return { line: low + 1, column: offset - (begins[low] as number) + 1 };
  };
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

/**
 * What the parser passes over before the first node: directives that it does
 * not know, the end of no document, and how far the first line is indented,
 * so that it takes a mark there which is none.
 */
function* faultsBefore(text: string): Generator<Fault> {
  for (const { 0: line, index } of text.matchAll(/^.*$/gm)) {
    if (/^ *%/.test(line)) yield { offset: index, message: NOT_TAKEN.directive };
    else if (/^ +---( |$)/.test(line)) yield { offset: index, message: 'not YAML: the mark "---" is indented' };
    else if (/^\.\.\.( |$)/.test(line)) yield { offset: index, message: SECOND };
    else if (!/^ *(#|$)/.test(line)) return;
  }
}

/** The parser's own fault; it reads no further than the first. */
function syntaxFault({ mark, reason }: YAMLException): Fault {
  const isDeep = reason.startsWith('nesting exceeded');
  const message = isDeep ? `nested deeper than ${MAX_DEPTH} levels` : `not YAML: ${reason}${HINTS[reason] ?? ''}`;
  return { offset: mark?.position ?? 0, message };
}

/** Puts the events together again; recurs no deeper than the parser did. */
class Tree {
  readonly faults: Fault[] = [];
  readonly #text: string;
  readonly #events: readonly Event[];
  readonly #placeOf: ReturnType<typeof placesIn>;
  #next = 0;
  /** What stands before it has been read. */
  #cursor = 0;
  /** Where the next question mark stands, from the cursor on. */
  #questionMark = -1;

  constructor(text: string, events: readonly Event[]) {
    this.#text = text;
    this.#events = events;
    this.#placeOf = placesIn(text);
  }

  read(): Node {
    const document = this.#take();
    if (document?.type !== EVENT_ID.DOCUMENT) return { kind: 'scalar', at: undefined, text: '' };
    if (document.explicitStart) this.#cursor = this.#marker() + '---'.length;
    const root = this.#node();
    this.#take(); // the document's end
    if (this.#events[this.#next]) this.#fault(this.#marker(), SECOND);
    else this.#reach(this.#text.length);
    return root;
  }

  #node(): Node {
    const event = this.#take();
    switch (event?.type) {
      case EVENT_ID.SCALAR:
        return this.#scalar(event);
      case EVENT_ID.SEQUENCE:
        return this.#list(event);
      case EVENT_ID.MAPPING:
        return this.#mapping(event);
      case EVENT_ID.ALIAS:
        this.#property(event.anchorStart - 1, event.anchorEnd, NOT_TAKEN.alias);
        return { kind: 'scalar', at: event.anchorStart - 1, text: '' };
      default:
        throw new RangeError('a node is missing');
    }
  }

  #scalar(event: ScalarEvent): Scalar {
    this.#properties(event);
    const { valueStart, valueEnd, style, fast } = event;
    if (valueStart < 0) return { kind: 'scalar', at: undefined, text: '' };
    const isBlock = style === SCALAR_STYLE.LITERAL_BLOCK || style === SCALAR_STYLE.FOLDED_BLOCK;
    const quote = isBlock || style === SCALAR_STYLE.PLAIN ? 0 : 1;
    const header = style === SCALAR_STYLE.LITERAL_BLOCK ? '|' : '>';
    const at = isBlock ? this.#indicator(header) : valueStart - quote;
    this.#reach(at);
    this.#cursor = valueEnd + quote;
    const text = getScalarValue(this.#text, event);
    if (style === SCALAR_STYLE.DOUBLE_QUOTED && !fast) this.#escapes(this.#text.slice(valueStart, valueEnd), text, at);
    return { kind: 'scalar', at, text };
  }

  #list(event: SequenceEvent): List {
    this.#properties(event);
    this.#reach(event.start);
    const items: List['items'][number][] = [];
    while (!this.#ends()) {
      const value = this.#node();
      items.push({ at: value.at ?? this.#pass('-'), value });
    }
    return { kind: 'list', at: event.start, items };
  }

  #mapping(event: MappingEvent): Mapping {
    this.#properties(event);
    this.#reach(event.start);
    const members = new Map<string, { keyAt: number; value: Node }>();
    while (!this.#ends()) {
      const key = this.#node();
      const keyAt = key.at ?? this.#pass(':');
      const value = this.#node();
      if (key.kind !== 'scalar' || key.at === undefined) this.#fault(keyAt, 'a key must be a plain text');
      else if (key.text === '<<') this.#fault(keyAt, 'merge keys are not taken; write the members out');
      else if (key.text === '__proto__') this.#fault(keyAt, '"__proto__" cannot be a key');
      else {
        const before = members.get(key.text);
        if (!before) members.set(key.text, { keyAt, value });
        else {
          const { line } = this.#placeOf(before.keyAt);
          this.#fault(keyAt, `duplicate key "${key.text}"; it stands in line ${line} already`);
        }
      }
    }
    return { kind: 'mapping', at: event.start, members };
  }

  /** What the text itself does not show: characters written as escapes. The parser takes such as are none, and reads others. */
  #escapes(source: string, text: string, at: number): void {
    const written = [...source.matchAll(/\\(?:U(.{8})|.)/gs)].map(([, digits = '0']) => digits);
    const beyond = written.find((digits) => Number.parseInt(digits, 16) > 0x10ffff);
    const character = text.match(INVISIBLE)?.[0];
    if (beyond) this.#fault(at, `not YAML: \\U${beyond} is no character`);
    else if (character) this.#fault(at, `${nameOf(character)} in a quoted text; remove it`);
  }

  #properties({ tagStart, tagEnd, anchorStart, anchorEnd }: ScalarEvent | MappingEvent | SequenceEvent): void {
    if (tagStart >= 0) this.#property(tagStart, tagEnd, NOT_TAKEN.tag);
    if (anchorStart >= 0) this.#property(anchorStart - 1, anchorEnd, NOT_TAKEN.anchor);
  }

  #property(at: number, end: number, message: string): void {
    this.#reach(at);
    this.#fault(at, message);
    this.#cursor = Math.max(this.#cursor, end);
  }

  /** Moves the cursor to where a node begins; a question mark on the way makes a key explicit. */
  #reach(at: number): void {
    if (at <= this.#cursor) return;
    if (this.#questionMark < this.#cursor) this.#questionMark = this.#find('?', this.#cursor);
    while (this.#questionMark < at) {
      const end = this.#commentEnd(this.#questionMark);
      if (end === undefined) this.#fault(this.#questionMark, NOT_TAKEN.explicitKey);
      this.#questionMark = this.#find('?', end ?? this.#questionMark + 1);
    }
    this.#cursor = at;
  }

  /** Where an indicator stands between the node before and the next. */
  #indicator(character: string): number {
    let at = this.#find(character, this.#cursor);
    for (let end = this.#commentEnd(at); end !== undefined; end = this.#commentEnd(at)) at = this.#find(character, end);
    return at;
  }

  /** The same, and the cursor behind it. */
  #pass(character: string): number {
    const at = this.#indicator(character);
    if (at < this.#text.length) this.#cursor = at + 1;
    return at;
  }

  /** The end of the comment in which a character stands, if it does; between it and the cursor there is no node. */
  #commentEnd(at: number): number | undefined {
    if (at === this.#text.length) return undefined;
    const between = this.#text.slice(this.#cursor, at);
    return between.includes('#', between.lastIndexOf('\n') + 1) ? this.#find('\n', at) : undefined;
  }

  /** The end of the text where there is none. */
  #find(character: string, from: number): number {
    const at = this.#text.indexOf(character, from);
    return at < 0 ? this.#text.length : at;
  }

  /** Where the next document begins, or ended. */
  #marker(): number {
    const marker = /^(?:---|\.\.\.)/gm;
    marker.lastIndex = this.#cursor;
    return marker.exec(this.#text)?.index ?? this.#cursor;
  }

  #take(): Event | undefined {
    return this.#events[this.#next++];
  }

  #ends(): boolean {
    if (this.#events[this.#next]?.type !== EVENT_ID.POP) return false;
    this.#next++;
    return true;
  }

  #fault(offset: number, message: string): void {
    this.faults.push({ offset, message });
  }
}
