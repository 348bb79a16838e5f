/**
 * What connection tracking tells of flows that are hidden behind the egress
 * pool (linux/netfilter/nfnetlink_conntrack.h): that one has begun, that one
 * has ended, or, of the whole table, that one runs. Whom a flow is with is
 * not read: nobody is to know (RFC 6888 REQ-12).
 *
 * Pure. There may be tens of thousands a second, most of them ours; of those
 * that are not, nothing is made.
 */
import type { Family, Prefix } from '../core/net.ts';
import { ATTRIBUTE_HEADER, aligned, attributeAt, HEADER, messageLength, readPart, viewOf } from './netlink-message.ts';
import { PrefixSet } from './prefix-set.ts';

export interface Flow {
  /** Of all that run at one time in one boot, this one: as good as certainly. */
  readonly key: number;
  readonly protocol: number;
  /** 4 or 16 bytes. */
  readonly inner: Uint8Array;
  /** Of a ping its identifier, here and outside. */
  readonly innerPort: number;
  readonly external: Uint8Array;
  readonly port: number;
  /** Where the kernel notes it (nf_conntrack_timestamp), in UTC ms. */
  readonly beganMs: number | undefined;
  readonly endedMs: number | undefined;
  readonly isEnded: boolean;
}

/** How the bytes of an answer stand, as in netlink-message.ts. */
interface FlowsRead {
  readonly ended: boolean;
  readonly broken: boolean;
  readonly refusal?: { readonly errno: number; readonly why: string };
}

/** NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_NEW, _DELETE. */
const CT_NEW = 0x100;
const CT_DELETE = 0x102;
const FAMILY_HEADER = 4;
const AF_INET = 2;
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_ID = 12;
const CTA_TIMESTAMP = 20;
const CTA_TIMESTAMP_START = 1;
const CTA_TIMESTAMP_STOP = 2;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_PROTO_DST_PORT = 3;
const CTA_PROTO_ICMP_ID = 4;
const CTA_PROTO_ICMPV6_ID = 7;
/** CTA_IP_V4_SRC, CTA_IP_V6_SRC; the destination's is one more. */
const SOURCE = { 4: 1, 16: 3 } as const;

export class FlowReader {
  readonly #egress: Readonly<Record<Family, PrefixSet>>;

  constructor(egress: readonly Prefix[]) {
    this.#egress = { ipv4: new PrefixSet('ipv4', egress), ipv6: new PrefixSet('ipv6', egress) };
  }

  /**
   * The flows in what one receive call brought, to `flow` one by one. `sequence`: of the answer; events have 0.
   * @throws AgentError netlinkFailed where the bytes contradict themselves
   */
  read(bytes: Uint8Array, sequence: number, flow: (one: Flow) => void): FlowsRead {
    const view = viewOf(bytes);
    let said: FlowsRead = { ended: false, broken: false };
    for (let at = 0; at < bytes.length; ) {
      const length = messageLength(view, at);
      const type = view.getUint16(at + 4, true);
      if (type === CT_NEW || type === CT_DELETE) {
        const found = this.#flowIn(bytes, view, at + HEADER, at + length, type === CT_DELETE);
        if (found) flow(found);
      } else {
        const part = readPart(bytes.subarray(at, at + length), sequence);
        said = {
          ended: said.ended || part.ended,
          broken: said.broken || part.broken,
          ...(part.refusal && { refusal: part.refusal }),
        };
      }
      at += aligned(length);
    }
    return said;
  }

  #flowIn(bytes: Uint8Array, view: DataView, from: number, to: number, isEnded: boolean): Flow | undefined {
    const egress = this.#egress[view.getUint8(from) === AF_INET ? 'ipv4' : 'ipv6'];
    const { width } = egress;
    const original = within(view, from + FAMILY_HEADER, to, CTA_TUPLE_ORIG);
    const reply = within(view, from + FAMILY_HEADER, to, CTA_TUPLE_REPLY);
    const source = addressAt(view, original, SOURCE[width], width);
    const external = addressAt(view, reply, SOURCE[width] + 1, width);
    const id = attributeAt(view, from + FAMILY_HEADER, to, CTA_ID);
    // What the gateway itself sends from no address of the pool; what has no identifier is of no protocol that is hidden.
    if (source === -1 || external === -1 || id === -1 || !egress.holds(view, external)) return undefined;
    const ways = [portsAt(view, original, CTA_PROTO_SRC_PORT), portsAt(view, reply, CTA_PROTO_DST_PORT)] as const;
    if (!ways[0] || !ways[1]) return undefined;
    const times = within(view, from + FAMILY_HEADER, to, CTA_TIMESTAMP);
    const [{ protocol, port: innerPort }, { port }] = ways;
    return {
      key: view.getUint32(id + ATTRIBUTE_HEADER) * 65_536 + port,
      protocol,
      inner: bytes.slice(source, source + width),
      innerPort,
      external: bytes.slice(external, external + width),
      port,
      beganMs: timeAt(view, times, CTA_TIMESTAMP_START),
      endedMs: isEnded ? timeAt(view, times, CTA_TIMESTAMP_STOP) : undefined,
      isEnded,
    };
  }
}

type Span = readonly [from: number, to: number];

/** The inside of an attribute between two places; nothing where it is not there. */
function within(view: DataView, from: number, to: number, type: number): Span {
  const at = attributeAt(view, from, to, type);
  return at === -1 ? [to, to] : [at + ATTRIBUTE_HEADER, at + view.getUint16(at, true)];
}

/** Where an address of a tuple begins; -1 where there is none. */
function addressAt(view: DataView, [from, to]: Span, type: number, width: number): number {
  const addresses = within(view, from, to, CTA_TUPLE_IP);
  const at = attributeAt(view, ...addresses, type);
  return at === -1 || view.getUint16(at, true) < ATTRIBUTE_HEADER + width ? -1 : at + ATTRIBUTE_HEADER;
}

/** The protocol of a tuple, and its port or identifier. */
function portsAt(view: DataView, [from, to]: Span, type: number): { protocol: number; port: number } | undefined {
  const proto = within(view, from, to, CTA_TUPLE_PROTO);
  const number = attributeAt(view, ...proto, CTA_PROTO_NUM);
  const port = [type, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID]
    .map((one) => attributeAt(view, ...proto, one))
    .find((at) => at !== -1);
  if (number === -1 || port === undefined) return undefined;
  return { protocol: view.getUint8(number + ATTRIBUTE_HEADER), port: view.getUint16(port + ATTRIBUTE_HEADER) };
}

/** Nanoseconds since 1970, in the network's byte order. */
function timeAt(view: DataView, span: Span, type: number): number | undefined {
  const at = attributeAt(view, ...span, type);
  const ns = at === -1 ? 0n : view.getBigUint64(at + ATTRIBUTE_HEADER);
  return ns === 0n ? undefined : Number(ns / 1_000_000n);
}
