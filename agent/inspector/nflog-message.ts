/**
 * One NFLOG message as libpcap gives it (link type 239, LINKTYPE_NFLOG): four
 * bytes of header, then TLVs, each padded to four bytes; their length and type
 * are in the host's byte order, little-endian on every host of mtgate.
 *
 * Of the TLVs two are wanted, in whatever order they come: the prefix that the
 * base wrote, and the copied packet. What is not known is passed over; what is
 * cut or contradicts its length is `damaged`, as is a message without both.
 * Never throws, reads forward only.
 */
export interface NflogMessage {
  readonly prefix: string;
  /** A view into the message: copy what is kept. */
  readonly payload: Uint8Array;
}

const HEADER = 4;
const TLV_HEADER = 4;
/** linux/netfilter/nfnetlink_log.h */
const NFULA_PAYLOAD = 9;
const NFULA_PREFIX = 10;
/** The longest prefix that the kernel takes (NF_LOG_PREFIXLEN). */
const PREFIX_MOST = 128;

export function readNflog(message: Uint8Array): NflogMessage | 'damaged' {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  let prefix: string | undefined;
  let payload: Uint8Array | undefined;
  let at = HEADER;
  while (at + TLV_HEADER <= message.length) {
    const length = view.getUint16(at, true);
    const type = view.getUint16(at + 2, true);
    if (length < TLV_HEADER || at + length > message.length) return 'damaged';
    const value = message.subarray(at + TLV_HEADER, at + length);
    if (type === NFULA_PREFIX) prefix = textOf(value);
    if (type === NFULA_PAYLOAD) payload = value;
    at += (length + 3) & ~3;
  }
  // The last one's padding may be left out; anything else that stands over is half a TLV.
  if (at < message.length || prefix === undefined || payload === undefined) return 'damaged';
  return { prefix, payload };
}

function textOf(value: Uint8Array): string | undefined {
  const end = value.indexOf(0);
  const text = end === -1 ? value : value.subarray(0, end);
  return text.length > PREFIX_MOST ? undefined : new TextDecoder('latin1').decode(text);
}
