/**
 * Keys and values of the gate's maps, and its constants, as bytes: both ways,
 * by the layout of gate.h. Pure; gate.ts carries them to the kernel.
 *
 * As in the header: addresses 16 bytes with IPv4 mapped, ports in network
 * order, all else little endian.
 */
import type { Admission } from '../core/admissions.ts';
import { type Address, addressFromBytes, mappedLength, type Prefix, sizeOf } from '../core/net.ts';
import { entryCount, ipv6Endpoints } from '../core/pool.ts';
import { type Normalisation, type PacketLimits, PROTOCOL_NUMBERS, PROTOCOLS, type Protocol } from '../core/words.ts';
import {
  type Entry,
  type EntryState,
  type GateSetup,
  type InnerPrefix,
  isTranslated,
  type Mapping,
  type PacketCount,
} from './dataplane.ts';
import { bucketsFor } from './entry-table.ts';
import {
  ENTRY,
  ENTRY_ANY_REMOTE,
  ENTRY_UNTRANSLATED,
  GATE_POOLS_MAX,
  GATE_SERVICES_MAX,
  LAYOUT,
  LIMIT_BYTES_SHIFT,
  NEXT_HOP4,
  NEXT_HOP6,
  NORMALISE,
  OWNER_BITS,
  type OWNERS,
  ROUTE_BY_MORE4,
  ROUTE_BY_MORE6,
  ROUTE_TAKES_FRAMES,
} from './layout.ts';

/** Bytes of a struct, to be filled field by field. */
class Value {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
  }

  address(at: number, address: Address): this {
    this.bytes.set(address.bytes, at);
    return this;
  }

  port(at: number, port: number): this {
    this.#view.setUint16(at, port);
    return this;
  }

  u8(at: number, value: number): this {
    this.#view.setUint8(at, value);
    return this;
  }

  u16(at: number, value: number): this {
    this.#view.setUint16(at, value, true);
    return this;
  }

  u32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }

  u64(at: number, value: bigint): this {
    this.#view.setBigUint64(at, value, true);
    return this;
  }
}

export function u32(value: number): Uint8Array {
  return new Value(4).u32(0, value).bytes;
}

export function readU32(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(0, true);
}

/** An entry that is dead: its end is 0 and nothing is counted yet. */
export function entryBytes(mapping: Mapping): Uint8Array {
  const value = new Value(LAYOUT.gate_entry.size)
    .u64(ENTRY.number, BigInt(mapping.number))
    .address(ENTRY.device, mapping.device.address)
    .address(ENTRY.external, mapping.external.address)
    .port(ENTRY.device_port, mapping.device.port)
    .port(ENTRY.external_port, mapping.external.port)
    .port(ENTRY.remote_port, mapping.remotePort)
    .u16(ENTRY.realm, mapping.realm)
    .u32(ENTRY.class_id, mapping.classId)
    .u64(ENTRY.limits, limitsWord(mapping.limits))
    .u8(ENTRY.protocol, PROTOCOL_NUMBERS[mapping.protocol]);
  const untranslated = isTranslated(mapping) ? 0 : ENTRY_UNTRANSLATED;
  value.u8(ENTRY.flags, untranslated | (mapping.remote === 'all' ? ENTRY_ANY_REMOTE : 0));
  if (mapping.remote !== 'all') value.address(ENTRY.remote, mapping.remote);
  return value.bytes;
}

/** One word for both limits. What has no room in it is as strict as it can be: 16,777,215 packets a second, 2^40 - 1 bytes. */
export function limitsWord({ packetsPerSecond = 0, bytes = 0 }: PacketLimits): bigint {
  const packets = Math.min(packetsPerSecond, 2 ** LIMIT_BYTES_SHIFT - 1);
  const quota = Math.min(bytes, 2 ** (64 - LIMIT_BYTES_SHIFT) - 1);
  return (BigInt(quota) << BigInt(LIMIT_BYTES_SHIFT)) | BigInt(packets);
}

function readLimits(word: bigint): PacketLimits {
  const packetsPerSecond = Number(BigInt.asUintN(LIMIT_BYTES_SHIFT, word));
  const bytes = Number(word >> BigInt(LIMIT_BYTES_SHIFT));
  return { ...(packetsPerSecond > 0 && { packetsPerSecond }), ...(bytes > 0 && { bytes }) };
}

/** What 128 bytes of the entries say; the index is the caller's knowledge. */
export function readEntry(index: number, bytes: Uint8Array): Entry {
  const view = viewOf(bytes);
  const address = (at: number) => addressFromBytes(bytes.subarray(at, at + 16));
  const anyRemote = (view.getUint8(ENTRY.flags) & ENTRY_ANY_REMOTE) !== 0;
  const mapping: Mapping = {
    index,
    number: Number(view.getBigUint64(ENTRY.number, true)),
    protocol: protocolOf(view.getUint8(ENTRY.protocol)),
    realm: view.getUint16(ENTRY.realm, true),
    device: { address: address(ENTRY.device), port: view.getUint16(ENTRY.device_port) },
    external: { address: address(ENTRY.external), port: view.getUint16(ENTRY.external_port) },
    remote: anyRemote ? 'all' : address(ENTRY.remote),
    remotePort: view.getUint16(ENTRY.remote_port),
    classId: view.getUint32(ENTRY.class_id, true),
    limits: readLimits(view.getBigUint64(ENTRY.limits, true)),
  };
  return { mapping, endNs: view.getBigUint64(ENTRY.end, true) };
}

/** What leads to the entry that these 128 bytes are: its key in the table `endpoints`, and in `answers`. */
export function endpointKeyOf(entry: Uint8Array): Uint8Array {
  const { fields, size } = LAYOUT.gate_endpoint;
  const key = new Uint8Array(size);
  key.set(entry.subarray(ENTRY.external, ENTRY.external + 16), fields.address);
  key.set(entry.subarray(ENTRY.external_port, ENTRY.external_port + 2), fields.port);
  key[fields.protocol] = entry[ENTRY.protocol] ?? 0;
  return key;
}

export function answerKeyOf(entry: Uint8Array): Uint8Array {
  const { fields, size } = LAYOUT.gate_answer;
  const key = new Uint8Array(size);
  key.set(entry.subarray(ENTRY.device, ENTRY.device + 16), fields.device);
  key.set(entry.subarray(ENTRY.class_id, ENTRY.class_id + 4), fields.class_id);
  key.set(entry.subarray(ENTRY.realm, ENTRY.realm + 2), fields.realm);
  key.set(entry.subarray(ENTRY.device_port, ENTRY.device_port + 2), fields.port);
  key[fields.protocol] = entry[ENTRY.protocol] ?? 0;
  return key;
}

export function readTarget(bytes: Uint8Array): Pick<EntryState, 'index' | 'number'> {
  const { fields } = LAYOUT.gate_target;
  const view = viewOf(bytes);
  return { index: view.getUint32(fields.index, true), number: Number(view.getBigUint64(fields.number, true)) };
}

export function prefixKey(prefix: Prefix): Uint8Array {
  const { fields, size } = LAYOUT.gate_prefix;
  return new Value(size).u32(fields.length, mappedLength(prefix)).address(fields.address, prefix.address).bytes;
}

/** The text of the prefix that a key of a trie is. */
export function prefixText(key: Uint8Array): string {
  const { fields } = LAYOUT.gate_prefix;
  return prefixOf(key.subarray(fields.address, fields.address + 16), readU32(key)).text;
}

/** `bits`: those that count of the mapped form. */
function prefixOf(bytes: Uint8Array, bits: number): Prefix {
  const address = addressFromBytes(bytes);
  const length = bits - (address.family === 'ipv4' ? 96 : 0);
  return { family: address.family, address, length, text: `${address.text}/${length}` };
}

export function admissionsBytes(admissions: readonly Admission[]): Uint8Array {
  const { fields, size } = LAYOUT.gate_admission;
  const value = new Value(LAYOUT.gate_admissions.size);
  for (const [i, { destination, protocol, ports, types }] of admissions.entries()) {
    const at = i * size;
    value
      .address(at + fields.destination, destination.address)
      .u16(at + fields.port_low, ports?.low ?? 0)
      .u16(at + fields.port_high, ports?.high ?? 0xffff)
      .u8(at + fields.protocol, protocol === 'any' ? 0 : SERVICE_NUMBERS[protocol])
      .u8(at + fields.any, protocol === 'any' ? 1 : 0);
    value.bytes.set(mask(mappedLength(destination), 16), at + fields.mask);
    const bits = value.bytes.subarray(at + fields.types, at + fields.types + 32);
    if (!types) bits.fill(0xff);
    for (const type of types ?? []) bits[type >> 3] = (bits[type >> 3] ?? 0) | (1 << (type & 7));
  }
  return value.bytes;
}

export function insideBytes({ realm, translated }: GateSetup['inside'][number]): Uint8Array {
  const { fields, size } = LAYOUT.gate_inside;
  return new Value(size).u16(fields.realm, realm).u16(fields.seen, translated ? 0 : 1).bytes;
}

/** Whose an address is, and of which realm. */
export function ownerBytes(owner: (typeof OWNERS)[keyof typeof OWNERS] | 0, realm = 0): Uint8Array {
  return u32((realm << OWNER_BITS) | owner);
}

/** Without an interface the kernel drops what is handed there: none has the number 0. */
export function routeBytes({
  ifindex,
  nextHops: { ipv4, ipv6 },
  mtu = 0,
  takesFrames = false,
  routedByMore = [],
}: GateSetup['outside']): Uint8Array {
  const { fields, size } = LAYOUT.gate_route;
  const flags =
    (ipv4 ? NEXT_HOP4 : 0) |
    (ipv6 ? NEXT_HOP6 : 0) |
    (takesFrames && ifindex !== undefined ? ROUTE_TAKES_FRAMES : 0) |
    (routedByMore.includes('ipv4') ? ROUTE_BY_MORE4 : 0) |
    (routedByMore.includes('ipv6') ? ROUTE_BY_MORE6 : 0);
  const route = new Value(size)
    .u32(fields.ifindex, ifindex ?? 0)
    .u32(fields.mtu, mtu)
    .u32(fields.next_hops, flags);
  if (ipv4) route.bytes.set(wireOfIpv4(ipv4), fields.next_hop4);
  if (ipv6) route.bytes.set(ipv6.bytes, fields.next_hop6);
  return route.bytes;
}

/** Before the bits of the address, those of its realm. */
const REALM_BITS = 32;

export function innerKey(realm: number, prefix: Prefix): Uint8Array {
  const { fields, size } = LAYOUT.gate_inner;
  return new Value(size)
    .u32(fields.length, REALM_BITS + mappedLength(prefix))
    .u32(fields.realm, realm)
    .address(fields.address, prefix.address).bytes;
}

/** The lengths of bound prefixes, one a byte, and back. */
export function lengthsWord(lengths: readonly number[]): bigint {
  return lengths.reduce((word, length, i) => word | (BigInt(length) << BigInt(8 * i)), 0n);
}

export function readLengths(word: bigint): number[] {
  const bytes = new Value(8).u64(0, word).bytes;
  return [...bytes].filter((length) => length > 0);
}

export function readInner(key: Uint8Array): InnerPrefix {
  const { fields } = LAYOUT.gate_inner;
  const view = viewOf(key);
  const bits = view.getUint32(fields.length, true) - REALM_BITS;
  return {
    realm: view.getUint32(fields.realm, true),
    prefix: prefixOf(key.subarray(fields.address, fields.address + 16), bits),
  };
}

/** The gate's constants. @throws RangeError where the pool or the services are more than the gate has room for */
export function configBytes(setup: GateSetup): Uint8Array {
  const { fields, size } = LAYOUT.gate_config;
  const { pool, outside, services, onlyBound, normalise, identificationKey } = setup;
  if (pool.ipv4.length > GATE_POOLS_MAX || pool.ipv6.length > GATE_POOLS_MAX)
    throw new RangeError(`the gate has room for ${GATE_POOLS_MAX} pool prefixes of a family`);
  if (services.length > GATE_SERVICES_MAX) throw new RangeError(`the gate has room for ${GATE_SERVICES_MAX} services`);

  const config = new Value(size)
    .u32(fields.port_low, pool.portLow)
    .u32(fields.port_count, pool.portCount)
    .u64(fields.identification_key, identificationKey)
    .u32(fields.only_bound, onlyBound ? 1 : 0)
    .u32(fields.normalise, normaliseWord(normalise))
    .u32(fields.hop_limit, normalise.hopLimit)
    .u32(fields.endpoints_mask, bucketsFor(ipv6Endpoints(pool)) - 1)
    .u32(fields.answers_mask, bucketsFor(entryCount(pool)) - 1)
    .u32(fields.seen_realms, setup.inside.some(({ translated }) => !translated) ? 1 : 0);
  config.bytes.set(routeBytes(outside), fields.outside);
  let slot = 0;
  for (const [i, prefix] of pool.ipv4.entries()) {
    const at = fields.pools4 + i * LAYOUT.gate_pool4.size;
    config.bytes.set(wireOfIpv4(prefix.address), at + LAYOUT.gate_pool4.fields.address);
    config.bytes.set(mask(prefix.length, 4), at + LAYOUT.gate_pool4.fields.mask);
    config.u32(at + LAYOUT.gate_pool4.fields.slot, slot);
    slot += Number(sizeOf(prefix));
  }
  for (const [i, prefix] of pool.ipv6.entries()) {
    const at = fields.pools6 + i * LAYOUT.gate_pool6.size;
    config.address(at + LAYOUT.gate_pool6.fields.address, prefix.address);
    config.bytes.set(mask(prefix.length, 16), at + LAYOUT.gate_pool6.fields.mask);
  }
  for (const [i, { protocol, port }] of services.entries()) {
    const at = fields.services + i * LAYOUT.gate_service.size;
    config.u8(at + LAYOUT.gate_service.fields.protocol, SERVICE_NUMBERS[protocol]);
    config.port(at + LAYOUT.gate_service.fields.port, port);
  }
  return config.bytes;
}

function normaliseWord(normalise: Normalisation): number {
  const kinds = Object.keys(NORMALISE) as (keyof typeof NORMALISE)[];
  return kinds.reduce((word, kind) => word | (normalise[kind] ? NORMALISE[kind] : 0), 0);
}

const SERVICE_NUMBERS = { ...PROTOCOL_NUMBERS, icmp: 1, icmpv6: 58 } as const;

/** The sum over the CPUs of one slot of `counters`. */
export function readCount(perCpu: Uint8Array): PacketCount {
  const view = viewOf(perCpu);
  const { fields, size } = LAYOUT.gate_count;
  let packets = 0n;
  let bytes = 0n;
  for (let at = 0; at < perCpu.length; at += size) {
    packets += view.getBigUint64(at + fields.packets, true);
    bytes += view.getBigUint64(at + fields.bytes, true);
  }
  return { packets, bytes };
}

function protocolOf(number: number): Protocol {
  const protocol = PROTOCOLS.find((name) => PROTOCOL_NUMBERS[name] === number);
  if (!protocol) throw new RangeError(`no grant has protocol ${number}`);
  return protocol;
}

function wireOfIpv4(address: Address): Uint8Array {
  return address.bytes.subarray(12);
}

function mask(length: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => 0xff & ~(0xff >> Math.max(0, Math.min(8, length - 8 * i))));
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
