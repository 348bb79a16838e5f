/**
 * What interfaces can do with XDP, as the kernel's `netdev` family says it
 * (generic netlink, Linux 6.3; linux/netdev.h, linux/genetlink.h). Pure; the
 * socket is netlink.ts.
 */
import { attributeIn, type Message, type Question, textIn, viewOf } from './netlink-message.ts';

/** The family that names the others (GENL_ID_CTRL). */
const CONTROL = 16;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;
const NETDEV_CMD_DEV_GET = 1;
const NETDEV_A_DEV_IFINDEX = 1;
const NETDEV_A_DEV_XDP_FEATURES = 3;
/** It takes the frames that an XDP program of another interface redirects to it. */
const NETDEV_XDP_ACT_NDO_XMIT = 4n;
/** struct genlmsghdr */
const HEADER = 4;

export const ALL_FAMILIES: Question = {
  what: 'the families of generic netlink',
  type: CONTROL,
  dump: true,
  body: Uint8Array.of(CTRL_CMD_GETFAMILY, 1, 0, 0),
};

/** The number of a family; undefined where the kernel has none of that name. */
export function readFamily(families: readonly Message[], wanted: 'netdev' | 'ethtool'): number | undefined {
  for (const { body } of families) {
    const name = attributeIn(body, HEADER, CTRL_ATTR_FAMILY_NAME);
    const id = attributeIn(body, HEADER, CTRL_ATTR_FAMILY_ID);
    if (name && id && textIn(name) === wanted) return viewOf(id, 2).getUint16(0, true);
  }
  return undefined;
}

export function allDevices(family: number): Question {
  return {
    what: 'what interfaces can do with XDP',
    type: family,
    dump: true,
    body: Uint8Array.of(NETDEV_CMD_DEV_GET, 1, 0, 0),
  };
}

/** The interfaces that take redirected frames, by their index. */
export function readTakers(devices: readonly Message[]): Set<number> {
  return new Set(
    devices.flatMap(({ body }) => {
      const ifindex = attributeIn(body, HEADER, NETDEV_A_DEV_IFINDEX);
      const features = attributeIn(body, HEADER, NETDEV_A_DEV_XDP_FEATURES);
      if (!ifindex || !features) return [];
      const takes = (viewOf(features, 8).getBigUint64(0, true) & NETDEV_XDP_ACT_NDO_XMIT) !== 0n;
      return takes ? viewOf(ifindex, 4).getUint32(0, true) : [];
    }),
  );
}
