/**
 * RADIUS attributes -> an accounting event: the ones that say who holds which
 * address (RFC 2865, 2866, 2869, 3162, 4818, 6911; TS 29.061 16.4.7 for those
 * of 3GPP, vendor 10415), and no others. What is not in the tables is stepped
 * over unread; what is in them is read strictly and may be there once, since
 * of two a gateway would have to guess.
 *
 * Pure and total. A datagram with one wrong attribute comes to nothing as a
 * whole: half an event would be another event.
 */
import { type Address, addressFromBytes, addressFromIpv4, type Prefix, prefixOf } from '../core/net.ts';
import { type ExternalId, type Imsi, type Msisdn, parseExternalId, parseImsi, parseMsisdn } from '../core/words.ts';
import type { AccountingEvent, Nas } from './accounting.ts';
import type { Drop, DropReason } from './drops.ts';
import { type Attribute, readAttributes } from './radius.ts';

const VENDOR_SPECIFIC = 26;
const VENDOR_3GPP = 10415;

/** Acct-Status-Type (RFC 2866 5.1). */
const KINDS = new Map<number, AccountingEvent['kind']>([
  [1, 'start'],
  [2, 'stop'],
  [3, 'interim'],
  [7, 'on'],
  [8, 'off'],
]);

/** What a request says, by what it means here. */
interface Told {
  nasIpv4: Address;
  ipv4: Address;
  apn: string;
  msisdn: Msisdn;
  nasIdentifier: string;
  status: number;
  delaySeconds: number;
  session: string;
  timestampSeconds: number;
  nasIpv6: Address;
  interfaceId: bigint;
  ipv6Prefix: Prefix;
  delegatedPrefix: Prefix;
  ipv6Address: Address;
  imsi: Imsi;
  stopIndicator: number;
  externalId: ExternalId;
}

/** `value` is undefined where an attribute is well-formed and says nothing. */
type Reading<Value> = { readonly value: Value | undefined } | { readonly drop: DropReason };
type Read<Value> = (value: Buffer) => Reading<Value>;
interface Known {
  readonly name: string;
  readonly meaning: keyof Told;
  readonly read: Read<Told[keyof Told]>;
}

const known = <Meaning extends keyof Told>(
  type: number,
  name: string,
  meaning: Meaning,
  read: Read<Told[Meaning]>,
): readonly [number, Known] => [type, { name, meaning, read }];

const asTold = text((told) => told);

const STANDARD = new Map([
  known(4, 'NAS-IP-Address', 'nasIpv4', ipv4),
  known(8, 'Framed-IP-Address', 'ipv4', ipv4),
  known(
    30,
    'Called-Station-Id',
    'apn',
    text((called) => called.toLowerCase()),
  ),
  known(31, 'Calling-Station-Id', 'msisdn', msisdn),
  known(32, 'NAS-Identifier', 'nasIdentifier', asTold),
  known(40, 'Acct-Status-Type', 'status', integer),
  known(41, 'Acct-Delay-Time', 'delaySeconds', integer),
  known(44, 'Acct-Session-Id', 'session', asTold),
  known(55, 'Event-Timestamp', 'timestampSeconds', integer),
  known(95, 'NAS-IPv6-Address', 'nasIpv6', ipv6),
  known(96, 'Framed-Interface-Id', 'interfaceId', interfaceId),
  known(97, 'Framed-IPv6-Prefix', 'ipv6Prefix', ipv6Prefix),
  known(123, 'Delegated-IPv6-Prefix', 'delegatedPrefix', ipv6Prefix),
  known(168, 'Framed-IPv6-Address', 'ipv6Address', ipv6),
]);

const OF_3GPP = new Map([
  known(1, '3GPP-IMSI', 'imsi', text(parseImsi)),
  known(11, '3GPP-Session-Stop-Indicator', 'stopIndicator', octet),
  known(28, '3GPP-External-Identifier', 'externalId', text(parseExternalId)),
]);

/**
 * The event that the attributes of a request are. `source` is where it came
 * from, `arrivedMs` when (UTC).
 */
export function eventOf(
  attributes: readonly Attribute[],
  client: string,
  source: Address,
  arrivedMs: number,
): AccountingEvent | Drop {
  const told: Partial<Told> = {};
  const drop = readInto(told, attributes);
  if (drop) return drop;
  if (told.status === undefined) return { drop: 'missingStatusType' };
  const kind = KINDS.get(told.status);
  if (!kind) return { drop: 'unknownStatusType' };
  const id = told.nasIdentifier ?? told.nasIpv4?.text ?? told.nasIpv6?.text ?? source.text;
  const nas: Nas = { client, id };
  const { timestampSeconds, delaySeconds = 0 } = told;
  const time = {
    nasMs: timestampSeconds === undefined ? undefined : timestampSeconds * 1_000,
    hereMs: arrivedMs - delaySeconds * 1_000,
  };
  if (kind === 'on' || kind === 'off') return { kind, nas, time };
  if (told.session === undefined) return { drop: 'missingSession' };
  return {
    kind,
    nas,
    time,
    session: told.session,
    subscriber: { imsi: told.imsi, msisdn: told.msisdn, externalId: told.externalId },
    apn: told.apn,
    ipv4: told.ipv4,
    ipv6Prefix: told.ipv6Prefix,
    interfaceId: told.interfaceId,
    ipv6Address: told.ipv6Address,
    delegatedPrefix: told.delegatedPrefix,
    stopsAll: kind === 'stop' && told.stopIndicator !== undefined,
  };
}

function readInto(told: Partial<Told>, attributes: readonly Attribute[]): Drop | undefined {
  const seen = new Set<Known>();
  const readAll = (all: readonly Attribute[], table: ReadonlyMap<number, Known>): Drop | undefined => {
    for (const { type, value } of all) {
      const drop = type === VENDOR_SPECIFIC && table === STANDARD ? vendor(value) : readOne(table.get(type), value);
      if (drop) return drop;
    }
    return undefined;
  };
  /** Of another vendor nothing is known, its format neither. */
  const vendor = (value: Buffer): Drop | undefined => {
    const drop: Drop = { drop: 'malformedAttribute', attribute: 'Vendor-Specific' };
    if (value.length < 4) return drop;
    if (value.readUInt32BE(0) !== VENDOR_3GPP) return undefined;
    const inner = readAttributes(value.subarray(4));
    return inner ? readAll(inner, OF_3GPP) : drop;
  };
  const readOne = (attribute: Known | undefined, value: Buffer): Drop | undefined => {
    if (!attribute) return undefined;
    if (seen.has(attribute)) return { drop: 'attributeTwice', attribute: attribute.name };
    seen.add(attribute);
    const reading = attribute.read(value);
    if ('drop' in reading) return { ...reading, attribute: attribute.name };
    if (reading.value !== undefined) Object.assign(told, { [attribute.meaning]: reading.value });
    return undefined;
  };
  return readAll(attributes, STANDARD);
}

const MALFORMED = { drop: 'malformedAttribute' } as const;

function octet(value: Buffer): Reading<number> {
  return value.length === 1 ? { value: value[0] } : MALFORMED;
}

function integer(value: Buffer): Reading<number> {
  return value.length === 4 ? { value: value.readUInt32BE(0) } : MALFORMED;
}

/** A text of at least one character (RFC 2865 5), none of them a control character, that `read` understands. */
function text<Value>(read: (text: string) => Value | undefined): Read<Value> {
  return (octets) => {
    const decoded = utf8(octets);
    if (decoded === undefined) return { drop: 'notUtf8' };
    const value = decoded === '' || /\p{Cc}/u.test(decoded) ? undefined : read(decoded);
    return value === undefined ? MALFORMED : { value };
  };
}

/** Calling-Station-Id may be anything (RFC 2865 5.31); an MSISDN is one (TS 29.061 16.4.3). */
function msisdn(octets: Buffer): Reading<Msisdn> {
  const calling = text((said) => ({ msisdn: parseMsisdn(said) }))(octets);
  return 'drop' in calling ? calling : { value: calling.value?.msisdn };
}

/** 0.0.0.0 and the two addresses of RFC 2865 5.8 that leave the choice to others say that there is none. */
function ipv4(octets: Buffer): Reading<Address> {
  if (octets.length !== 4) return MALFORMED;
  const number = octets.readUInt32BE(0);
  if (number === 0 || number >= 0xfffffffe) return { value: undefined };
  return { value: addressFromIpv4(octets) };
}

/** Never an IPv4 address in its mapped form: that would be told as one. */
function ipv6(octets: Buffer): Reading<Address> {
  if (octets.length !== 16) return MALFORMED;
  const address = addressFromBytes(octets);
  if (address.family !== 'ipv6') return MALFORMED;
  return { value: address.text === '::' ? undefined : address };
}

function interfaceId(octets: Buffer): Reading<bigint> {
  return octets.length === 8 ? { value: octets.readBigUInt64BE(0) } : MALFORMED;
}

/** RFC 3162 2.3: a zero octet, the length in bits, and up to 16 octets, at least as many as the length needs; no bit set behind it. */
function ipv6Prefix(octets: Buffer): Reading<Prefix> {
  const [reserved, length = 0] = octets;
  const given = octets.length - 2;
  if (reserved !== 0 || given < 0 || given > 16 || length > 128 || given * 8 < length) return MALFORMED;
  const bytes = new Uint8Array(16);
  bytes.set(octets.subarray(2));
  const address = addressFromBytes(bytes);
  const prefix = address.family === 'ipv6' ? prefixOf(address, length) : undefined;
  return prefix ? { value: prefix } : MALFORMED;
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function utf8(octets: Buffer): string | undefined {
  try {
    return decoder.decode(octets);
  } catch {
    return undefined;
  }
}
