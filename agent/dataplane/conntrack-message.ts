/**
 * Connection tracking's messages (linux/netfilter/nfnetlink_conntrack.h): the
 * question for the whole table, its entries read, and the order that deletes
 * one. Pure; the socket is netlink.ts.
 *
 * There may be a million entries, of which a few are looked for: of those that
 * are not, nothing is made. What is read is total as in netlink-message.ts,
 * and an entry whose addresses cannot be read is a fault, not one of others.
 *
 * Danger: a deletion without a tuple empties the whole table, and one without
 * an id hits whatever has taken the tuple since. None is made without both.
 */
import { addressFromBytes, addressFromIpv4, type Family } from '../core/net.ts';
import {
  ATTRIBUTE_HEADER,
  aligned,
  attributeAt,
  damaged,
  HEADER,
  joined,
  messageLength,
  type Order,
  type Question,
  type Refusal,
  readPart,
  type Verdict,
  viewOf,
} from './netlink-message.ts';
import type { PrefixSet } from './prefix-set.ts';

/** NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_NEW, _GET, _DELETE. */
const CT_NEW = 0x100;
const CT_GET = 0x101;
const CT_DELETE = 0x102;
/** struct nfgenmsg: family, version, resource. */
const FAMILY_HEADER = 4;
const FAMILIES = { ipv4: 2, ipv6: 10 } as const satisfies Record<Family, number>;
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_TUPLE_IP = 1;
/** CTA_IP_V4_SRC, CTA_IP_V6_SRC; the destination's is one more. */
const SOURCE = { 4: 1, 16: 3 } as const;

/** All entries of a family. */
export function wholeTable(family: Family): Question {
  return {
    what: `the ${family} entries of connection tracking`,
    type: CT_GET,
    dump: true,
    body: Uint8Array.of(FAMILIES[family], 0, 0, 0),
  };
}

export interface FlowsPart extends Verdict {
  /** For each entry with an address in one of the prefixes, the order that deletes it. */
  readonly deletions: readonly Order[];
}

/**
 * What these bytes bring of the table: the entries of which an address, source or destination, original or reply
 * (behind address translation they are four), lies in one of the prefixes.
 * @throws AgentError netlinkFailed
 */
export function readFlows(bytes: Uint8Array, sequence: number, own: PrefixSet): FlowsPart {
  const view = viewOf(bytes);
  const deletions: Order[] = [];
  let ended = false;
  let broken = false;
  let refusal: Refusal | undefined;
  for (let at = 0; at < bytes.length; ) {
    const length = messageLength(view, at);
    if (view.getUint16(at + 4, true) === CT_NEW) {
      const from = at + HEADER;
      if (view.getUint32(at + 8, true) === sequence && isOwn(view, from, at + length, own))
        deletions.push(deletionOf(bytes.subarray(from, at + length)));
    } else {
      const part = readPart(bytes.subarray(at, at + length), sequence);
      ended ||= part.ended;
      broken ||= part.broken;
      refusal ??= part.refusal;
    }
    at += aligned(length);
  }
  return { deletions, ended, broken, ...(refusal && { refusal }) };
}

/** The addresses with which the entry of a deletion began, for a complaint. */
export function flowText({ body }: Order): string {
  const view = viewOf(body);
  const width = view.getUint8(0) === FAMILIES.ipv4 ? 4 : 16;
  const addresses = addressesAt(view, FAMILY_HEADER, body.length, CTA_TUPLE_ORIG);
  const text = (type: number) => {
    const at = addressAt(view, addresses, type, width);
    const bytes = body.subarray(at, at + width);
    return (width === 4 ? addressFromIpv4(bytes) : addressFromBytes(bytes)).text;
  };
  return `${text(SOURCE[width])} -> ${text(SOURCE[width] + 1)}`;
}

function isOwn(view: DataView, from: number, to: number, own: PrefixSet): boolean {
  if (to - from < FAMILY_HEADER) throw damaged(`an entry of ${to - from} bytes`);
  if (view.getUint8(from) !== FAMILIES[own.family]) return false;
  return (
    tupleIsOwn(view, addressesAt(view, from + FAMILY_HEADER, to, CTA_TUPLE_ORIG), own) ||
    tupleIsOwn(view, addressesAt(view, from + FAMILY_HEADER, to, CTA_TUPLE_REPLY), own)
  );
}

function tupleIsOwn(view: DataView, addresses: number, own: PrefixSet): boolean {
  const source = SOURCE[own.width];
  return (
    own.holds(view, addressAt(view, addresses, source, own.width)) ||
    own.holds(view, addressAt(view, addresses, source + 1, own.width))
  );
}

/** Where the attribute with a tuple's addresses begins. */
function addressesAt(view: DataView, from: number, to: number, type: number): number {
  const tuple = requiredAt(view, from, to, type);
  return requiredAt(view, tuple + ATTRIBUTE_HEADER, tuple + view.getUint16(tuple, true), CTA_TUPLE_IP);
}

/** Where an address begins, within the attribute with its tuple's addresses. */
function addressAt(view: DataView, addresses: number, type: number, width: number): number {
  const to = addresses + view.getUint16(addresses, true);
  const at = requiredAt(view, addresses + ATTRIBUTE_HEADER, to, type);
  const length = view.getUint16(at, true) - ATTRIBUTE_HEADER;
  if (length < width) throw damaged(`an address of ${length} bytes`);
  return at + ATTRIBUTE_HEADER;
}

function requiredAt(view: DataView, from: number, to: number, type: number): number {
  const at = attributeAt(view, from, to, type);
  if (at === -1) throw damaged(`an entry of connection tracking without attribute ${type}`);
  return at;
}

/** By its tuple, its zone and its id: this entry and none that has taken its place. The attributes as the kernel gave them. */
function deletionOf(entry: Uint8Array): Order {
  const view = viewOf(entry);
  const copies = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID].flatMap((type) => {
    // Without a zone it is in the default one.
    const at = (type === CTA_ZONE ? attributeAt : requiredAt)(view, FAMILY_HEADER, entry.length, type);
    if (at === -1) return [];
    const copy = new Uint8Array(aligned(view.getUint16(at, true)));
    copy.set(entry.subarray(at, at + view.getUint16(at, true)));
    return [copy];
  });
  return { type: CT_DELETE, body: joined([entry.slice(0, FAMILY_HEADER), ...copies]) };
}
