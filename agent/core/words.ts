/**
 * The words of the domain, as types: what a server, a device, a grant is
 * called everywhere. See the README's glossary; TS 23.682 for MTC server,
 * MTC user, external identifier.
 */
import { type Address, type Endpoint, type Family, formatEndpoint } from './net.ts';

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** The name of an MTC server in the rule files. */
export type ServerName = Branded<'ServerName'>;
/** The name of an MTC user (tenant) in the rule files. */
export type MtcUserName = Branded<'MtcUserName'>;
/** External identifier of a device, `local@domain`, ASCII, domain in lower case (TS 23.682 4.6.2). */
export type ExternalId = Branded<'ExternalId'>;
/** E.164 digits without the plus sign, or the hash that stands for them (identities.ts). */
export type Msisdn = Branded<'Msisdn'>;
/** 6 to 15 digits (TS 23.003 2.2), or the hash that stands for them. */
export type Imsi = Branded<'Imsi'>;
/** The interface identifier of a device's IPv6 addresses (RFC 4291 2.5.1): four groups of lower-case hex, `0:0:0:1`. */
export type InterfaceId = Branded<'InterfaceId'>;
/** ULID of a trigger, and of its transaction (TS 29.122). */
export type TriggerId = Branded<'TriggerId'>;
/** ULID of a grant. */
export type GrantId = Branded<'GrantId'>;
/** A client certificate by its issuer's key (SHA-256 of the SubjectPublicKeyInfo) and serial number, both hex: `…:…`. */
export type CertificateId = Branded<'CertificateId'>;
/** An APN or DNN in lower case, with or without its operator identifier (TS 23.003 9.1). */
export type Apn = Branded<'Apn'>;
/** Name of a private address space (APN or DNN). */
export type RealmName = Branded<'RealmName'>;

export type Protocol = 'tcp' | 'udp';
export const PROTOCOLS: readonly Protocol[] = ['tcp', 'udp'];
export const PROTOCOL_NUMBERS: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17 };

/** Ports, both ends included. */
export interface PortRange {
  readonly low: number;
  readonly high: number;
}

/** The payload of a trigger goes in one datagram, as CoAP has it where no path is known (RFC 7252 4.6). In bytes. */
export const TRIGGER_PAYLOAD_MOST = 1024;

/** What devices may reach on the gateway itself; `port` is 0 for ICMP, of which echo is meant. */
export interface Service {
  readonly protocol: Protocol | 'icmp' | 'icmpv6';
  readonly port: number;
}

/** One text an external endpoint, for maps and lists: `udp 203.0.113.1:22314`. */
export function endpointKey(protocol: string, endpoint: Endpoint): string {
  return `${protocol} ${formatEndpoint(endpoint)}`;
}

/** An inner address is only an address together with its realm. */
export interface InnerAddress {
  readonly realm: RealmName;
  readonly address: Address;
}

/** What a grant may carry, both directions together; absent: as much as comes. */
export interface PacketLimits {
  readonly packetsPerSecond?: number | undefined;
  /** In all, as on the wire: packets with their link header. */
  readonly bytes?: number | undefined;
}

export const NO_LIMITS: PacketLimits = {};

/** Whose an external endpoint is, or was until now: what a denial there is put down to. */
export interface Owner {
  readonly grant: GrantId;
  readonly mtcUser: MtcUserName;
  readonly device: ExternalId;
}

export interface Device {
  readonly externalId: ExternalId;
  readonly msisdn?: Msisdn;
  readonly imsi?: Imsi;
  /** Where accounting says no more than a prefix, the address is this in it. */
  readonly interfaceId?: InterfaceId;
  /** What the operator says of it, by name: `model`, `region`. */
  readonly attributes?: Attributes;
}

/** Texts by name. */
export type Attributes = Readonly<Record<string, string>>;

/**
 * Which identifier a server used to name a device; answers repeat that one and
 * no other. The last is a phone number as a record keeps it (identities.ts):
 * no server names a device so.
 */
export type DeviceReference =
  | { readonly networkAccessIdentifier: string }
  | { readonly phoneNumber: string }
  | { readonly msisdnHash: string };

/** The identifier that a text is, as an operator or a record has it: digits are an MSISDN. */
export function referenceOf(name: string): DeviceReference {
  if (name.includes('@')) return { networkAccessIdentifier: name };
  return name.startsWith('hash:') ? { msisdnHash: name } : { phoneNumber: name };
}

/** Who asks: an authenticated MTC server, the address its request came from, and the marks of that one request. */
export interface Asker {
  readonly name: ServerName;
  readonly requestAddress: Address;
  /** The certificate it showed. */
  readonly certificate: CertificateId;
  /** Of that certificate, SHA-256 in lower-case hex, and the port its request came from: for reports of who asked. */
  readonly fingerprint?: string;
  readonly requestPort?: number;
  /** Names the request in the log, and whatever comes of it. */
  readonly correlator: string;
  /** Given by a server that would send the request again. */
  readonly idempotencyKey?: string;
}

/** The same of an MTC user. */
export interface MtcUserAsker extends Omit<Asker, 'name'> {
  readonly name: MtcUserName;
}

/** A trigger that a server asks for: a transaction of TS 29.122, in the words of the domain. */
export interface TriggerRequest {
  readonly device: DeviceReference;
  readonly port: number;
  /** Where the device sees it come from; absent: the gateway's own. */
  readonly sourcePort?: number;
  readonly isPriority: boolean;
  readonly payload: Uint8Array;
  /** 0: it is tried once, now. */
  readonly validitySeconds: number;
  /** Of the API: those that are ours too, as they are told; absent: none were named. */
  readonly features?: string;
  readonly notification?: TriggerNotification;
}

/** Where its server is told what became of it. */
export interface TriggerNotification {
  readonly destination: string;
  /** The URI of its server's transactions, as the server calls it; its own is that and its id. */
  readonly collection: string;
}

/** What a server asks for, with everything resolved that needs no policy. */
export interface GrantRequest {
  readonly device: DeviceReference;
  /** Where the granted packets come from: an address, `all`, or (absent) where the request came from. */
  readonly applicationServer?: { readonly address: Address | 'all'; readonly port?: number };
  readonly protocol: Protocol;
  readonly devicePort: number;
  readonly durationSeconds: number;
  readonly ipFamily?: Family;
  /** Where the server wants to be told of this grant; decides nothing. */
  readonly sink?: string;
}

/** What wakes a device that a grant request waits for: a trigger. */
export interface Wake {
  /** Absent: the first trigger port of this gateway. */
  readonly port?: number;
  readonly payload: Uint8Array;
}

/** Names go out in CAMARA's style for enumerations: endedByServer is ENDED_BY_SERVER. */
export function upperSnake(name: string): string {
  return name.replace(/[A-Z]/g, (capital) => `_${capital}`).toUpperCase();
}

const EXTERNAL_ID = /^([\x21-\x3f\x41-\x7e]{1,64})@([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)$/;

/** The external identifier that a text means, or undefined. */
export function parseExternalId(text: string): ExternalId | undefined {
  const match = EXTERNAL_ID.exec(text);
  if (!match?.[1] || !match[2] || match[2].includes('..')) return undefined;
  return `${match[1]}@${match[2].toLowerCase()}` as ExternalId;
}

/** An MSISDN from E.164 text, with or without the plus sign; undefined where it is none. */
export function parseMsisdn(text: string): Msisdn | undefined {
  return /^\+?[1-9]\d{4,14}$/.test(text) ? (text.replace('+', '') as Msisdn) : undefined;
}

/** An IMSI, or undefined. */
export function parseImsi(text: string): Imsi | undefined {
  return /^\d{6,15}$/.test(text) ? (text as Imsi) : undefined;
}

/**
 * An interface identifier as RADIUS writes it (RFC 3162 2.2: four groups of
 * hex), or undefined. All zeros is no interface, but the routers' anycast
 * address (RFC 4291 2.6.1).
 */
export function parseInterfaceId(text: string): InterfaceId | undefined {
  if (!/^[\da-f]{1,4}(:[\da-f]{1,4}){3}$/i.test(text)) return undefined;
  const groups = text.split(':').map((group) => Number.parseInt(group, 16));
  if (groups.every((group) => group === 0)) return undefined;
  return groups.map((group) => group.toString(16)).join(':') as InterfaceId;
}

/** What of the headers of carried packets is made alike, so that they tell nothing beside their addresses. */
export interface Normalisation {
  /** TTL and hop limit, either way; 0: one less than it was. */
  readonly hopLimit: number;
  /** IPv4 identification and that of IPv6 fragments, outward. */
  readonly identification: boolean;
  /** IPv6 flow label, outward. */
  readonly flowLabel: boolean;
  /** Traffic class but for ECN, either way. */
  readonly trafficClass: boolean;
  /** TCP timestamps, taken out of SYNs. */
  readonly timestamps: boolean;
  /** The MSS of SYNs, to what both links take. */
  readonly mss: boolean;
}

/** An interface identifier as its 64 bits. */
export function interfaceIdBits(interfaceId: InterfaceId): bigint {
  return interfaceId.split(':').reduce((bits, group) => (bits << 16n) | BigInt(`0x${group}`), 0n);
}

const APN = /^([a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*?)(\.mnc\d{3}\.mcc\d{3}\.gprs)?$/;

/** The APN that a text means, or undefined. Its network identifier is at most 62 characters, and ends in `.gprs` never. */
export function parseApn(text: string): Apn | undefined {
  const apn = text.toLowerCase();
  const [, network = ''] = APN.exec(apn) ?? [];
  return network !== '' && network.length <= 62 && !/(^|\.)gprs$/.test(network) ? (apn as Apn) : undefined;
}

/** An APN without its operator identifier; one that has none as it is. */
export function networkIdentifier(apn: string): string {
  return apn.replace(/\.mnc\d{3}\.mcc\d{3}\.gprs$/, '');
}
