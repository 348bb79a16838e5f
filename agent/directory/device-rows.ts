/**
 * Devices as rows: CSV (RFC 4180, with a header) and JSON lines, read from
 * bytes as they come and written for an export. Of a million rows no more is
 * held than one.
 *
 * Every row is judged by the schema of registry.ts; what is wrong is an issue
 * with its line and column. In CSV an empty cell is a key that is not there.
 * What makes the lines themselves uncertain (a quotation mark that is not
 * closed, a header that is not known) ends the reading.
 */
import Papa from 'papaparse';
import { attributeName, describe } from '../core/fields.ts';
import { msisdnText } from '../core/identities.ts';
import type { Device, MtcUserName } from '../core/words.ts';
import {
  ATTRIBUTE_COLUMN,
  COLUMNS,
  type OwnerOf,
  unknownColumn,
  type WrittenDevice,
  writtenDevice,
  wrongClaim,
} from './registry.ts';

export const ROW_FORMATS = ['csv', 'jsonl'] as const;
export type RowFormat = (typeof ROW_FORMATS)[number];

/** What is wrong with a row; `line` is the one it begins in, counted from 1. */
export interface RowIssue {
  readonly line: number;
  readonly column?: string;
  readonly message: string;
}

export interface DeviceRow {
  readonly line: number;
  readonly device: Omit<WrittenDevice, 'mtcUser'>;
}

/** `3:msisdn: expected …`, in one line whatever was found. */
export function formatRowIssue({ line, column, message }: RowIssue): string {
  return `${[line, column].filter((part) => part !== undefined).join(':')}: ${message.replaceAll('\n', '\\n')}`;
}

/** In bytes, and characters: some fifty times a device with all that may be said of it in short. */
const LINE_MOST = 64 * 1024;
const NEWLINE = 0x0a;
const BYTE_ORDER_MARK = '\ufeff';

export class DeviceRows {
  readonly #format: RowFormat;
  readonly #ownerOf: OwnerOf;
  readonly #strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  readonly #lossy = new TextDecoder('utf-8', { ignoreBOM: true });
  /** Bytes of a line whose end has not come. */
  #rest = new Uint8Array();
  /** The number of the line that comes next. */
  #line = 1;
  /** CSV: the text of a row whose end has not come, and the columns once the header has. */
  #open = '';
  #columns: readonly string[] | undefined;
  #newline: '\n' | '\r\n' = '\n';
  #isOver = false;

  constructor(format: RowFormat, ownerOf: OwnerOf) {
    this.#format = format;
    this.#ownerOf = ownerOf;
  }

  /** The rows that these bytes complete. */
  *take(bytes: Uint8Array): Generator<DeviceRow | RowIssue> {
    if (this.#isOver) return;
    const end = bytes.lastIndexOf(NEWLINE) + 1;
    if (end > 0) yield* this.#lines(joined(this.#rest, bytes.subarray(0, end)));
    this.#rest = end > 0 ? bytes.slice(end) : joined(this.#rest, bytes);
    if (this.#rest.length > LINE_MOST) yield* this.#giveUp(`a line of more than ${LINE_MOST} bytes`, this.#line);
  }

  /** No more bytes come: the rows that are left. */
  *end(): Generator<DeviceRow | RowIssue> {
    if (!this.#isOver && this.#rest.length > 0) yield* this.#lines(joined(this.#rest, Uint8Array.of(NEWLINE)));
    if (!this.#isOver && this.#open !== '')
      yield* this.#giveUp('a quotation mark in this row is not closed', this.#line);
    if (!this.#isOver && this.#format === 'csv' && !this.#columns)
      yield* this.#giveUp(`expected a header with the columns ${COLUMNS.join(', ')}, found nothing`, 1);
  }

  *#giveUp(message: string, line: number): Generator<RowIssue> {
    this.#isOver = true;
    this.#rest = new Uint8Array();
    this.#open = '';
    yield { line, message };
  }

  /** Whole lines. */
  *#lines(bytes: Uint8Array): Generator<DeviceRow | RowIssue> {
    let text: string;
    try {
      text = this.#strict.decode(bytes);
    } catch {
      yield* this.#notText(bytes);
      text = this.#lossy.decode(bytes);
    }
    if (this.#line === 1 && this.#open === '' && text.startsWith(BYTE_ORDER_MARK)) text = text.slice(1);
    yield* this.#format === 'csv' ? this.#csv(text) : this.#jsonLines(text);
  }

  *#notText(bytes: Uint8Array): Generator<RowIssue> {
    let line = this.#line + linesIn(this.#open);
    for (let from = 0; from < bytes.length; line += 1) {
      const end = bytes.indexOf(NEWLINE, from) + 1;
      try {
        this.#strict.decode(bytes.subarray(from, end));
      } catch {
        yield { line, message: 'not UTF-8; save the file as UTF-8' };
      }
      from = end;
    }
  }

  *#jsonLines(text: string): Generator<DeviceRow | RowIssue> {
    for (const line of text.slice(0, -1).split('\n')) {
      const number = this.#line;
      this.#line += 1;
      if (line.trim() === '') continue;
      const written = parsedJson(line);
      if (typeof written === 'object' && written !== null && !Array.isArray(written)) yield* this.#row(written, number);
      else yield { line: number, message: `expected a device as a JSON object in one line, found ${describe(line)}` };
    }
  }

  *#csv(text: string): Generator<DeviceRow | RowIssue> {
    const whole = this.#open + text;
    if (!this.#columns && whole[whole.indexOf('\n') - 1] === '\r') this.#newline = '\r\n';
    // The last row is left out: behind the last line end it is empty, within quotation marks not whole.
    const parser = new Papa.Parser({ newline: this.#newline, delimiter: ',' });
    const { data, errors, meta } = parser.parse(whole, 0, true) as Papa.ParseResult<readonly string[]>;
    this.#open = whole.slice(meta.cursor);
    const sound = errors[0]?.row ?? data.length;
    for (const cells of data.slice(0, sound)) {
      const line = this.#line;
      this.#line += 1 + linesIn(cells.join());
      if (cells.length === 1 && cells[0]?.trim() === '') continue;
      if (this.#columns) yield* this.#cells(cells, this.#columns, line);
      else yield* this.#header(cells, line);
      if (this.#isOver) return;
    }
    if (errors.length > 0)
      yield* this.#giveUp(
        'behind a quotation mark only a comma or the end of the row may stand; within, write two',
        this.#line,
      );
    else if (this.#open.length > LINE_MOST)
      yield* this.#giveUp(`a row of more than ${LINE_MOST} characters: is a quotation mark not closed?`, this.#line);
  }

  *#header(cells: readonly string[], line: number): Generator<RowIssue> {
    const columns = cells.map((cell) => cell.trim());
    const issues = columns.flatMap((column, i): RowIssue[] => {
      if (columns.indexOf(column) < i) return [{ line, column, message: 'this column is there twice' }];
      return isColumn(column) ? [] : [{ line, message: unknownColumn(column) }];
    });
    if (!columns.includes('externalId')) issues.push({ line, message: 'the column externalId is missing' });
    this.#columns = columns;
    this.#isOver = issues.length > 0;
    yield* issues;
  }

  *#cells(cells: readonly string[], columns: readonly string[], line: number): Generator<DeviceRow | RowIssue> {
    if (cells.length !== columns.length) {
      const message = `expected ${columns.length} cells, as many as the header has columns, found ${cells.length}`;
      yield { line, message };
      return;
    }
    const written: Record<string, unknown> = {};
    const attributes: Record<string, string> = {};
    for (const [i, column] of columns.entries()) {
      const cell = cells[i] as string;
      if (cell === '') continue;
      if (column.startsWith(ATTRIBUTE_COLUMN)) attributes[column.slice(ATTRIBUTE_COLUMN.length)] = cell;
      else written[column] = cell;
    }
    if (Object.keys(attributes).length > 0) written['attributes'] = attributes;
    yield* this.#row(written, line);
  }

  *#row(written: object, line: number): Generator<DeviceRow | RowIssue> {
    const { data, error } = writtenDevice.safeParse(written);
    if (!data) {
      for (const issue of error.issues) {
        const { path } = issue;
        // Of a key that is none of the kind, its own message says what was expected.
        const { message } = (issue.code === 'invalid_key' && issue.issues[0]) || issue;
        const messages = issue.code === 'unrecognized_keys' ? message.split('\n') : [message];
        for (const one of messages) yield { line, ...(path.length > 0 && { column: path.join('.') }), message: one };
      }
      return;
    }
    const wrong = wrongClaim(data, this.#ownerOf);
    const { mtcUser: _, ...device } = data;
    yield wrong === undefined ? { line, device } : { line, column: 'mtcUser', message: wrong };
  }
}

function isColumn(name: string): boolean {
  if (!name.startsWith(ATTRIBUTE_COLUMN)) return COLUMNS.includes(name);
  return attributeName.safeParse(name.slice(ATTRIBUTE_COLUMN.length)).success;
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function linesIn(text: string): number {
  let lines = 0;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines += 1;
  return lines;
}

function joined(one: Uint8Array, other: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

/** A device of an export, and whose it is. */
export interface ExportedDevice {
  readonly device: Device;
  readonly mtcUser: MtcUserName | undefined;
}

/** The line of a device, or of the header: of JSON lines it has none. */
export interface RowWriter {
  readonly header: string;
  line(exported: ExportedDevice): string;
}

/** `attributeNames` are all that any of the devices has. */
export function rowWriter(format: RowFormat, attributeNames: readonly string[]): RowWriter {
  if (format === 'jsonl') return { header: '', line: (exported) => `${JSON.stringify(writtenOf(exported))}\n` };
  return {
    header: csvLine([...COLUMNS, ...attributeNames.map((name) => `${ATTRIBUTE_COLUMN}${name}`)]),
    line(exported) {
      const { attributes = {}, ...written } = writtenOf(exported) as Record<string, string> &
        Pick<Device, 'attributes'>;
      const values = attributeNames.map((name) => (Object.hasOwn(attributes, name) ? attributes[name] : ''));
      return csvLine([...COLUMNS.map((column) => written[column] ?? ''), ...(values as string[])]);
    },
  };
}

/** A device as it would be written down: an MSISDN with its plus sign. */
function writtenOf({ device, mtcUser }: ExportedDevice): object {
  const { externalId, msisdn, imsi, interfaceId, attributes } = device;
  return {
    externalId,
    ...(msisdn !== undefined && { msisdn: msisdnText(msisdn) }),
    ...(imsi !== undefined && { imsi }),
    ...(mtcUser !== undefined && { mtcUser }),
    ...(interfaceId !== undefined && { interfaceId }),
    ...(attributes && { attributes }),
  };
}

function csvLine(cells: readonly string[]): string {
  return `${cells.map((cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join()}\n`;
}
