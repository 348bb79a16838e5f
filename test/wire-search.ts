/**
 * Looks through what was captured of a wire for inner addresses: in the
 * headers of every packet, in what ICMP quotes, in options, and in what TCP
 * and UDP carry; of TCP as the streams that the segments make, so that nothing
 * hides across two of them. In ciphertext only text is looked for: bytes would
 * be found there by chance. Fields that are random by themselves (TCP's
 * numbers and timestamps, sums, identifications) are passed over.
 */
import { readFileSync } from 'node:fs';
import { type InnerForms, wireAddress } from './inner-forms.ts';

/** A packet that may show what it shows. */
export type Exempt = (source: string, destination: string, atMs: number) => boolean;

export interface Findings {
  readonly packets: number;
  readonly bytes: number;
  readonly exempt: number;
  readonly leaks: readonly string[];
}

const PCAP_HEADER = 24;
const RECORD_HEADER = 16;
const ETHERNET = 14;
const MOST_TOLD = 5;
const TLS_APPLICATION_DATA = 23;
const TIMESTAMPS = 8;

class Search {
  readonly leaks: string[] = [];
  /** TCP: each flow's bytes in order, and the number that comes next. */
  readonly #streams = new Map<string, { next: number; readonly parts: Uint8Array[] }>();
  readonly #forms: InnerForms;

  constructor(forms: InnerForms) {
    this.#forms = forms;
  }

  #tell(what: string, found: string | undefined, frame?: Uint8Array): void {
    if (!found) return;
    const shown = frame ? `\n    ${Buffer.from(frame.subarray(0, 300)).toString('hex')}` : '';
    this.leaks.push(`${what}: ${found}${shown}`);
  }

  packet(frame: Uint8Array, packet: IpPacket | undefined): void {
    if (!packet) {
      // ARP and whatever else: all of it, and the addresses of ARP by their prefix.
      const body = frame.subarray(ETHERNET);
      const inArp = [body.subarray(14, 18), body.subarray(24, 28)].filter((bytes) => this.#forms.has(bytes));
      this.#tell('a frame that is not IP', inArp[0]?.join('.') ?? this.#forms.find(body), frame);
      return;
    }
    const { source, destination, protocol, extensions, upper, flow } = packet;
    for (const [name, bytes] of Object.entries({ source, destination }))
      if (this.#forms.has(bytes)) this.#tell(`${name} of a packet ${flow}`, textOf(bytes), frame);
    this.#tell(`options or extension headers ${flow}`, this.#forms.find(extensions), frame);
    const own = (bytes: Uint8Array, what: string) => this.#tell(`${what} ${flow}`, this.#forms.find(bytes), frame);
    if (packet.laterFragment) own(upper, 'a later fragment');
    else if (protocol === 6) this.#tcp(upper, flow);
    else if (protocol === 17) {
      const payload = upper.subarray(8);
      const dtls = payload[0] === TLS_APPLICATION_DATA && payload[1] === 0xfe;
      this.#tell(`a datagram ${flow}`, this.#forms.find(payload, dtls), frame);
    } else if (protocol === 1 || protocol === 58) {
      const quote = ipPacket(upper.subarray(8));
      for (const bytes of quote ? [quote.source, quote.destination] : [])
        if (this.#forms.has(bytes)) this.#tell(`an ICMP quote ${flow}`, textOf(bytes), frame);
      own(upper.subarray(4), 'ICMP');
    } else own(upper, `protocol ${protocol}`);
  }

  #tcp(segment: Uint8Array, flow: string): void {
    const view = viewOf(segment);
    for (const option of optionsOf(segment))
      this.#tell(`an option of TCP ${flow}`, option[0] === TIMESTAMPS ? undefined : this.#forms.find(option), segment);
    const payload = segment.subarray((segment[12] ?? 0) >> 2);
    const ports = `${view.getUint16(0)} to ${view.getUint16(2)}`;
    const sequence = view.getUint32(4);
    const begins = ((segment[13] ?? 0) & 2) !== 0;
    const key = `${flow} ports ${ports}`;
    let stream = this.#streams.get(key);
    if (!stream || begins) {
      if (stream) this.#stream(key, stream.parts);
      stream = { next: begins ? (sequence + 1) >>> 0 : sequence, parts: [] };
      this.#streams.set(key, stream);
    }
    if (payload.length === 0) return;
    const repeated = (stream.next - sequence) | 0; // what was sent before, mostly all of it or nothing
    if (repeated > 0 && repeated >= payload.length) {
      this.#stream(key, [payload]); // sent again: it need not be the same
      return;
    }
    stream.parts.push(repeated > 0 ? payload.subarray(repeated) : payload);
    stream.next = (sequence + payload.length) >>> 0;
  }

  end(): void {
    for (const [key, { parts }] of this.#streams) this.#stream(key, parts);
  }

  #stream(key: string, parts: readonly Uint8Array[]): void {
    const all = Buffer.concat(parts);
    const ssh = all.subarray(0, 4).toString('latin1') === 'SSH-';
    for (const { bytes, ciphertext } of tlsRecords(all))
      this.#tell(`a TCP stream ${key}`, this.#forms.find(bytes, ciphertext || ssh));
  }
}

/** The options of a TCP segment that have a length, each with its kind. */
function optionsOf(segment: Uint8Array): Uint8Array[] {
  const options = segment.subarray(20, Math.max(20, (segment[12] ?? 0) >> 2));
  const found: Uint8Array[] = [];
  for (let at = 0; at + 1 < options.length; ) {
    const size = options[at] === 1 ? 1 : (options[at + 1] ?? 0);
    if (options[at] === 0 || size < 1) break;
    if (size > 1) found.push(options.subarray(at, at + size));
    at += size;
  }
  return found;
}

interface IpPacket {
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly protocol: number;
  /** IPv4's options, IPv6's extension headers. */
  readonly extensions: Uint8Array;
  readonly upper: Uint8Array;
  readonly laterFragment: boolean;
  readonly flow: string;
}

/** A packet, or the quote of one; undefined where it is neither IPv4 nor IPv6. */
function ipPacket(bytes: Uint8Array): IpPacket | undefined {
  const version = (bytes[0] ?? 0) >> 4;
  const view = viewOf(bytes);
  if (version === 4 && bytes.length >= 20) {
    const [source, destination] = [bytes.subarray(12, 16), bytes.subarray(16, 20)];
    const header = ((bytes[0] ?? 0) & 15) * 4;
    return {
      ...{ source, destination, protocol: bytes[9] ?? 0, extensions: bytes.subarray(20, header) },
      ...{ upper: bytes.subarray(header, Math.max(header, view.getUint16(2))) },
      ...{ laterFragment: (view.getUint16(6) & 0x1fff) !== 0, flow: `${textOf(source)} to ${textOf(destination)}` },
    };
  }
  if (version !== 6 || bytes.length < 40) return undefined;
  const [source, destination] = [bytes.subarray(8, 24), bytes.subarray(24, 40)];
  let protocol = bytes[6] ?? 0;
  let at = 40;
  let laterFragment = false;
  while ([0, 43, 44, 60].includes(protocol) && at + 8 <= bytes.length) {
    if (protocol === 44) laterFragment = (view.getUint16(at + 2) & 0xfff8) !== 0;
    const length = protocol === 44 ? 8 : ((bytes[at + 1] ?? 0) + 1) * 8;
    protocol = bytes[at] ?? 0;
    at += length;
  }
  return {
    ...{ source, destination, protocol, extensions: bytes.subarray(40, at), upper: bytes.subarray(at) },
    ...{ laterFragment, flow: `${textOf(source)} to ${textOf(destination)}` },
  };
}

/** Of a stream of TLS its records, application data apart; any other stream whole. */
function tlsRecords(stream: Buffer): { readonly bytes: Uint8Array; readonly ciphertext: boolean }[] {
  const records: { bytes: Uint8Array; ciphertext: boolean }[] = [];
  let at = 0;
  for (; at + 5 <= stream.length; ) {
    const [type = 0, major, minor = 9] = stream.subarray(at, at + 3);
    if (type < 20 || type > TLS_APPLICATION_DATA || major !== 3 || minor > 4) break;
    const end = at + 5 + stream.readUInt16BE(at + 3);
    records.push({ bytes: stream.subarray(at + 5, end), ciphertext: type === TLS_APPLICATION_DATA });
    at = end;
  }
  if (at < stream.length) records.push({ bytes: stream.subarray(at), ciphertext: false });
  return records;
}

/** Searches a file of tcpdump: whole Ethernet frames, this machine's byte order. */
export function searchCapture(file: string, forms: InnerForms, exempt: Exempt): Findings {
  const all = readFileSync(file);
  const search = new Search(forms);
  let [packets, bytes, spared] = [0, 0, 0];
  for (let at = PCAP_HEADER; at + RECORD_HEADER <= all.length; ) {
    const length = all.readUInt32LE(at + 8);
    const frame = all.subarray(at + RECORD_HEADER, at + RECORD_HEADER + length);
    const atMs = all.readUInt32LE(at) * 1000 + all.readUInt32LE(at + 4) / 1000;
    at += RECORD_HEADER + length;
    packets += 1;
    bytes += frame.length;
    const type = frame.readUInt16BE(12);
    const packet = type === 0x0800 || type === 0x86dd ? ipPacket(frame.subarray(ETHERNET)) : undefined;
    if (packet && exempt(textOf(packet.source), textOf(packet.destination), atMs)) spared += 1;
    else search.packet(frame, packet);
  }
  search.end();
  const told = search.leaks.slice(0, MOST_TOLD);
  if (search.leaks.length > MOST_TOLD) told.push(`and ${search.leaks.length - MOST_TOLD} more`);
  return { packets, bytes, exempt: spared, leaks: told };
}

const textOf = (bytes: Uint8Array) => wireAddress(bytes).text;
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
