/**
 * Bytes -> Packet: what a report says of a packet that did not pass.
 *
 * A verdict asks whether a packet is sound (dataplane/frame.ts); a report asks
 * what can be said of it, and denied packets are the ones least to be trusted.
 * So reading is total: any bytes give a Packet, whose fields are there as far
 * as the bytes go. It reads forward only, a bounded number of headers.
 * Invariant: more bytes of the same packet never change a field, they add.
 *
 * The bytes begin with the IP header, as NFLOG copies them, and may be cut.
 * RFC 791, 8200 (IP), 4302 (authentication header), 768, 9293 (UDP, TCP), 792, 4443 (ICMP).
 */
import { type Address, addressFromBytes, addressFromIpv4, type Family } from '../core/net.ts';
import { PROTOCOL_NUMBERS } from '../core/words.ts';

export interface Packet {
  readonly family?: Family;
  readonly source?: Address;
  readonly destination?: Address;
  readonly hops?: number;
  /** What the IP header carries; of IPv6, what stands behind its extension headers. */
  readonly protocol?: number;
  /** Numbers of the IPv6 extension headers passed on the way there, in order. */
  readonly extensions?: readonly number[];
  readonly fragment?: { readonly id: number; readonly offset: number; readonly more: boolean };
  /** Of TCP and UDP. A later fragment has none. */
  readonly ports?: { readonly source: number; readonly destination: number };
  readonly icmp?: { readonly type: number; readonly code: number };
}

const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
/** Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6 (RFC 7045, 4). */
const EXTENSIONS: readonly number[] = [0, 43, FRAGMENT, AUTHENTICATION, 60, 135, 139, 140];
/** More than this in one packet is an attack on whoever reads it. */
const EXTENSIONS_MOST = 8;
const WITH_PORTS: readonly number[] = Object.values(PROTOCOL_NUMBERS);
const ICMP: Readonly<Record<Family, number>> = { ipv4: 1, ipv6: 58 };

export function readPacket(bytes: Uint8Array): Packet {
  const version = (bytes[0] ?? 0) >> 4;
  if (version === 4) return readIpv4(bytes);
  if (version === 6) return readIpv6(bytes);
  return {};
}

function readIpv4(bytes: Uint8Array): Packet {
  const headerLength = ((bytes[0] ?? 0) & 15) * 4;
  const totalLength = u16(bytes, 2);
  const id = u16(bytes, 4);
  const place = u16(bytes, 6);
  const protocol = bytes[9];
  const offset = ((place ?? 0) & 0x1fff) * 8;
  const more = ((place ?? 0) & 0x2000) !== 0;
  const packet: Packet = {
    family: 'ipv4',
    ...known('hops', bytes[8]),
    ...known('protocol', protocol),
    ...known('source', ipv4At(bytes, 12)),
    ...known('destination', ipv4At(bytes, 16)),
    ...(id !== undefined && place !== undefined && (offset > 0 || more) && { fragment: { id, offset, more } }),
  };
  // Behind lengths that contradict each other nothing can be told from anything.
  const sound = headerLength >= IPV4_HEADER && totalLength !== undefined && totalLength >= headerLength;
  if (!sound || protocol === undefined || offset > 0) return packet;
  return { ...packet, ...readContent('ipv4', protocol, bytes.subarray(headerLength, totalLength)) };
}

function readIpv6(bytes: Uint8Array): Packet {
  const payloadLength = u16(bytes, 4);
  const hops = bytes[7];
  const packet: Packet = {
    family: 'ipv6',
    ...known('hops', hops),
    ...known('source', ipv6At(bytes, 8)),
    ...known('destination', ipv6At(bytes, 24)),
  };
  let protocol = bytes[6];
  if (payloadLength === undefined || protocol === undefined) return packet;
  // A frame may be padded behind its packet.
  const whole = bytes.subarray(0, IPV6_HEADER + payloadLength);
  const extensions: number[] = [];
  let fragment: Packet['fragment'];
  let at = IPV6_HEADER;
  while (protocol !== undefined && EXTENSIONS.includes(protocol)) {
    if (extensions.length === EXTENSIONS_MOST) return { ...packet, extensions, ...known('fragment', fragment) };
    extensions.push(protocol);
    const length = extensionLength(protocol, whole, at);
    const next: number | undefined = length === undefined ? undefined : whole[at];
    if (protocol === FRAGMENT) fragment = fragmentAt(whole, at) ?? fragment;
    at += length ?? 0;
    protocol = next;
    if (fragment && fragment.offset > 0) break; // what follows is the middle of something
  }
  return {
    ...packet,
    ...known('protocol', protocol),
    ...(extensions.length > 0 && { extensions }),
    ...known('fragment', fragment),
    ...(protocol !== undefined &&
      !(fragment && fragment.offset > 0) &&
      readContent('ipv6', protocol, whole.subarray(at))),
  };
}

/** How long an extension header is; undefined where it is not all there. */
function extensionLength(protocol: number, bytes: Uint8Array, at: number): number | undefined {
  const units = bytes[at + 1];
  if (units === undefined) return undefined;
  const length = protocol === FRAGMENT ? 8 : protocol === AUTHENTICATION ? (units + 2) * 4 : (units + 1) * 8;
  return at + length <= bytes.length ? length : undefined;
}

function fragmentAt(bytes: Uint8Array, at: number): Packet['fragment'] {
  const place = u16(bytes, at + 2);
  const high = u16(bytes, at + 4);
  const low = u16(bytes, at + 6);
  if (place === undefined || high === undefined || low === undefined) return undefined;
  return { id: high * 0x10000 + low, offset: place & 0xfff8, more: (place & 1) !== 0 };
}

function readContent(family: Family, protocol: number, content: Uint8Array): Pick<Packet, 'ports' | 'icmp'> {
  if (WITH_PORTS.includes(protocol)) {
    const source = u16(content, 0);
    const destination = u16(content, 2);
    return source !== undefined && destination !== undefined ? { ports: { source, destination } } : {};
  }
  const [type, code] = content;
  return protocol === ICMP[family] && type !== undefined && code !== undefined ? { icmp: { type, code } } : {};
}

/** The field, if there is a value for it. */
function known<Name extends keyof Packet>(name: Name, value: Packet[Name]): Pick<Packet, Name> | object {
  return value === undefined ? {} : { [name]: value };
}

function u16(bytes: Uint8Array, at: number): number | undefined {
  const high = bytes[at];
  const low = bytes[at + 1];
  return high === undefined || low === undefined ? undefined : (high << 8) | low;
}

function ipv4At(bytes: Uint8Array, at: number): Address | undefined {
  if (at + 4 > bytes.length) return undefined;
  return addressFromIpv4(bytes.subarray(at, at + 4));
}

/** Not in ::ffff:0:0/96, which on the wire would pass for an IPv4 address (RFC 4291, 2.5.5.2). */
function ipv6At(bytes: Uint8Array, at: number): Address | undefined {
  if (at + 16 > bytes.length) return undefined;
  const address = addressFromBytes(bytes.subarray(at, at + 16));
  return address.family === 'ipv6' ? address : undefined;
}
