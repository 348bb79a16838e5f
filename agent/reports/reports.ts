/**
 * What an MTC user is told of those who were turned away from its devices
 * (TR 23.888 5.8.2: "the details of the source"): made from the rows of the
 * ledger, member by member.
 *
 * Invariants:
 * - nothing gets in by being part of a row: each member is named here;
 * - a row of another MTC user, or of nobody, is no report;
 * - never an inner address: a source inside is not told, a destination only
 *   where it lies in the grants pool; of what was for a trigger port, the port;
 * - never a rule, an operator's text, or an identifier of a device but its
 *   external one;
 * - of the source no more is claimed than is known. A request came through
 *   mutual TLS, which proves its address. A packet proves nothing: a denied one
 *   is never answered, so that no TCP handshake is ever completed, and an
 *   address in it may be forged.
 *
 * Pure.
 */
import { type Address, type Endpoint, parseAddress, parseEndpoint } from '../core/net.ts';
import { type ExternalId, type MtcUserName, parseExternalId } from '../core/words.ts';
import { type Denial, ROLLED_UP } from '../inspector/denials.ts';

/** What is known of addresses. */
export interface Spaces {
  /** Of a device, or the gateway's inner side. */
  isInner(address: Address): boolean;
  /** Of the grants pool: what the outside sees of devices. */
  isExternal(address: Address): boolean;
}

/** How far the source is known to be who it says: by mutual TLS, or not at all. */
export type Proof = 'tls' | 'none';

export interface Report {
  readonly id: string;
  /** A packet that did not pass, or a request that was refused. */
  readonly kind: 'denial' | 'refusal';
  readonly reason: string;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly count: number;
  /** Absent where it lies inside: `fromInside` says so. */
  readonly source?: { readonly address: string; readonly port?: number };
  readonly fromInside: boolean;
  readonly proven: Proof;
  readonly protocol?: string;
  /** What a packet was for. */
  readonly externalEndpoint?: { readonly address: string; readonly port: number };
  /** The device's own port: what a request asked for, or a packet to a trigger port was for. */
  readonly devicePort?: number;
  readonly device: ExternalId;
  readonly grantId?: string;
  /** Who a certificate said it was; of a request. */
  readonly server?: string;
  /** SHA-256 of that certificate, in hex. */
  readonly certificate?: string;
}

/** What could not be kept apart any more: how many of a reason there were. */
export interface RolledUp {
  readonly kind: Report['kind'];
  readonly reason: string;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly count: number;
}

const KINDS = { packet: 'denial', request: 'refusal' } as const;

/** The report that a row is to an MTC user; undefined where it is none. */
export function reportOf(row: Denial, user: MtcUserName, spaces: Spaces): Report | undefined {
  const kind = row.kind === 'handshake' ? undefined : KINDS[row.kind];
  const device = parseExternalId((kind === 'refusal' ? row.externalId : row.device) ?? '');
  if (row.mtcUser !== user || !kind || !device || row.source === ROLLED_UP) return undefined;
  const { id, reason, firstMs: firstSeenMs, lastMs: lastSeenMs, count } = row;
  const from = parseAddress(row.source);
  const fromInside = from !== undefined && spaces.isInner(from);
  const { server, certificate } = row;
  return {
    ...{ id, kind, reason, firstSeenMs, lastSeenMs, count, device, fromInside },
    proven: kind === 'refusal' ? 'tls' : 'none',
    ...(from && !fromInside && { source: sourceOf(from, row.sourcePort) }),
    ...(kind === 'refusal' ? askedFor(row.target) : aimedAt(row.target, spaces)),
    ...(row.grant !== undefined && { grantId: row.grant }),
    ...(kind === 'refusal' && server !== undefined && { server }),
    ...(kind === 'refusal' && certificate !== undefined && { certificate }),
  };
}

/** What a row of rolled-up ones is to an MTC user; undefined where it is none. */
export function rolledUpOf(row: Denial, user: MtcUserName): RolledUp | undefined {
  const kind = row.kind === 'handshake' ? undefined : KINDS[row.kind];
  if (row.mtcUser !== user || !kind || row.source !== ROLLED_UP) return undefined;
  const { reason, firstMs: firstSeenMs, lastMs: lastSeenMs, count } = row;
  return { kind, reason, firstSeenMs, lastSeenMs, count };
}

function sourceOf({ text: address }: Address, port: number | undefined): NonNullable<Report['source']> {
  return { address, ...(port !== undefined && { port }) };
}

/** `udp/5683` of a request. */
function askedFor(target: string): Pick<Report, 'protocol' | 'devicePort'> {
  const [, protocol, port] = /^([a-z]+)\/(\d{1,5})$/.exec(target) ?? [];
  return protocol === undefined ? {} : { protocol, devicePort: Number(port) };
}

/** `udp 203.0.113.1:22314` of a packet; `icmp 203.0.113.1 type 8`. */
function aimedAt(target: string, spaces: Spaces): Pick<Report, 'protocol' | 'externalEndpoint' | 'devicePort'> {
  const [protocol = '', where = ''] = target.split(' ');
  const to: Endpoint | undefined = parseEndpoint(where);
  const isProtocol = /^[a-z]+(-\d+)?$/.test(protocol) ? { protocol } : {};
  if (!to) return isProtocol;
  const { address, port } = to;
  if (spaces.isExternal(address)) return { ...isProtocol, externalEndpoint: { address: address.text, port } };
  return { ...isProtocol, devicePort: port };
}

/** Which reports; a time in UTC ms. */
export interface ReportFilter {
  /** Last seen no earlier than this. */
  readonly sinceMs?: number | undefined;
  /** First seen before this. */
  readonly untilMs?: number | undefined;
  readonly reason?: string | undefined;
  readonly device?: string | undefined;
}

export function matchesReport({ sinceMs, untilMs, reason, device }: ReportFilter, report: Report): boolean {
  return (
    (sinceMs === undefined || report.lastSeenMs >= sinceMs) &&
    (untilMs === undefined || report.firstSeenMs < untilMs) &&
    (reason === undefined || report.reason === reason) &&
    (device === undefined || report.device === device)
  );
}

/** By when they changed last, and by id: each change of a report puts it at the end. */
export function byChange(a: Report, b: Report): number {
  return a.lastSeenMs - b.lastSeenMs || (a.id < b.id ? -1 : Number(a.id > b.id));
}

/** The place of a report in that order, as a text that means nothing outside; `0-` is before all. */
export function placeOf({ lastSeenMs, id }: Report): string {
  return `${lastSeenMs.toString(36)}-${id}`;
}

/** Whether a report stands behind a place; undefined where the text is none. */
export function readPlace(text: string): ((report: Report) => number) | undefined {
  const [, time, id = ''] = /^([0-9a-z]{1,9})-([0-9a-z-]{0,40})$/.exec(text) ?? [];
  if (time === undefined) return undefined;
  const place = { lastSeenMs: Number.parseInt(time, 36), id } as Report;
  return (report) => byChange(report, place);
}

/** Columns of the table of a day, in order; RFC 4180. */
const COLUMNS = [
  ...['firstSeen', 'lastSeen', 'kind', 'reason', 'count', 'sourceAddress', 'sourcePort', 'fromInside', 'proven'],
  ...['protocol', 'externalAddress', 'externalPort', 'devicePort', 'device', 'grantId', 'server', 'certificate', 'id'],
] as const;

/** Reports as a table, the first row its header. */
export function csvOf(reports: readonly Report[]): string {
  const lines = reports.map((report) => {
    const { source, externalEndpoint, firstSeenMs, lastSeenMs } = report;
    const cells: Readonly<Record<string, unknown>> = {
      ...report,
      firstSeen: new Date(firstSeenMs).toISOString(),
      lastSeen: new Date(lastSeenMs).toISOString(),
      sourceAddress: source?.address,
      sourcePort: source?.port,
      externalAddress: externalEndpoint?.address,
      externalPort: externalEndpoint?.port,
    };
    return COLUMNS.map((column) => cell(cells[column])).join(',');
  });
  return [COLUMNS.join(','), ...lines, ''].join('\r\n');
}

/** A text that a spreadsheet would run as a formula gets an apostrophe before it. */
function cell(value: unknown): string {
  const text = value === undefined ? '' : String(value);
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
