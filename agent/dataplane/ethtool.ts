/**
 * Whether an interface's hardware takes VLAN tags out of frames, as the
 * kernel's `ethtool` family says it (generic netlink, Linux 5.6;
 * linux/ethtool_netlink.h). XDP does not see what was taken out: another
 * VLAN's frame looks there like one of the interface itself. Pure; the socket
 * is netlink.ts.
 */
import {
  ATTRIBUTE_HEADER,
  aligned,
  attributeAt,
  attributeIn,
  type Message,
  type Question,
  textIn,
  viewOf,
} from './netlink-message.ts';

const ETHTOOL_MSG_FEATURES_GET = 11;
/** An attribute of 12 bytes that holds another of 8: ETHTOOL_A_FEATURES_HEADER, ETHTOOL_A_HEADER_DEV_INDEX. */
const ABOUT = [12, 0, 0x01, 0x80, 8, 0, 1, 0] as const;
const ETHTOOL_A_FEATURES_ACTIVE = 4;
const ETHTOOL_A_BITSET_BITS = 3;
const ETHTOOL_A_BITSET_BITS_BIT = 1;
const ETHTOOL_A_BITSET_BIT_NAME = 2;
/** struct genlmsghdr */
const HEADER = 4;

const TAKES_TAGS: readonly string[] = ['rx-vlan-hw-parse', 'rx-vlan-stag-hw-parse'];

export function featuresOf(family: number, ifindex: number): Question {
  const body = Uint8Array.of(ETHTOOL_MSG_FEATURES_GET, 1, 0, 0, ...ABOUT, 0, 0, 0, 0);
  viewOf(body).setUint32(HEADER + ABOUT.length, ifindex, true);
  return { what: `the features of interface ${ifindex}`, type: family, dump: false, body };
}

/** Whether one of the features that are on takes tags out of received frames. */
export function readTakesTags(answer: readonly Message[]): boolean {
  return answer.some(({ body }) => {
    const active = attributeIn(body, HEADER, ETHTOOL_A_FEATURES_ACTIVE);
    const bits = active && attributeIn(active, 0, ETHTOOL_A_BITSET_BITS);
    if (!bits) return false;
    const view = viewOf(bits);
    const next = (from: number) => attributeAt(view, from, bits.length, ETHTOOL_A_BITSET_BITS_BIT);
    for (let at = next(0); at !== -1; ) {
      const length = view.getUint16(at, true);
      const name = attributeIn(bits.subarray(at + ATTRIBUTE_HEADER, at + length), 0, ETHTOOL_A_BITSET_BIT_NAME);
      if (name && TAKES_TAGS.includes(textIn(name))) return true;
      at = next(at + aligned(length));
    }
    return false;
  });
}
