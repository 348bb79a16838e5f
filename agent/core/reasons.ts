/**
 * The reasons of packets. A denial is a packet that did not pass; the log, the
 * counters, the packet's mark and the prefix of its copy name its reason from
 * here. Those of requests stand in refusals.ts, those of connections in
 * handshakes.ts.
 *
 * DENIALS is read by the gate: numbers are those of `enum reason` in gate.h,
 * held equal by a test.
 */

/** Why a packet did not pass, by the gate's number; the texts are for operators: what it means, and what to do. */
export const DENIALS = {
  noGrant: {
    number: 1,
    text: 'grants pool, and no grant was ever open there',
    advice: 'Somebody tries addresses. Nothing to do, unless it is a server of yours that holds an old endpoint.',
  },
  grantEnded: {
    number: 2,
    text: 'the grant of this endpoint has ended',
    advice: 'The server sends on after its grant: it should ask anew, or earlier. The log line grantEnded says why.',
  },
  wrongSource: {
    number: 3,
    text: 'a live grant, but not for this source',
    advice: 'If the source is the server itself, it has another exit: list it in sources, or name applicationServer.',
  },
  agentLost: {
    number: 4,
    text: 'the agent has not been heard for orphanGraceSeconds',
    advice: 'Look why the agent stood still: its log and `mtgate status`.',
  },
  malformed: {
    number: 5,
    text: 'headers cut short or contradicting their lengths',
    advice: 'A broken or hostile sender; if many sources send it, look at the path (MTU, offloads).',
  },
  headerOptions: {
    number: 6,
    text: 'IPv4 options or IPv6 extension headers',
    advice: 'Nothing: grants carry plain packets. A server that needs options cannot be served.',
  },
  hopLimit: {
    number: 7,
    text: 'TTL or hop limit used up',
    advice: 'A traceroute, or a routing loop: see whether one source and destination come again and again.',
  },
  fragment: {
    number: 8,
    text: 'a fragment that follows no other in its order, overlaps one, or is too short for its headers',
    advice: 'A path that reorders, or somebody who tries fragments; senders had better stay below the path MTU.',
  },
  protocolNotCarried: {
    number: 9,
    text: 'neither TCP nor UDP',
    advice: 'Nothing: grants are for TCP and UDP (a ping of an endpoint ends here, unless a filter allows it).',
  },
  spoofedSource: {
    number: 10,
    text: 'an inner or multicast source, seen from outside',
    advice: 'Find where it enters: the upstream router should filter such sources (BCP 38).',
  },
  realmDestination: {
    number: 11,
    text: 'addressed to the inside, from outside',
    advice:
      'Somebody outside knows or guesses inner addresses, and a route leads them here: look at the upstream router.',
  },
  innerLeak: {
    number: 12,
    text: 'would have carried an inner address outside',
    advice: 'Something on this host sends from inside addresses: look at its services and routes.',
  },
  gatewayService: {
    number: 13,
    text: 'a device addressed the gateway itself',
    advice: 'If devices need it, list it under services in agent.yaml; otherwise look at the device.',
  },
  deviceToDevice: {
    number: 14,
    text: 'a device addressed another device',
    advice: 'Look at the device: devices are kept apart.',
  },
  wrongRemote: {
    number: 15,
    text: "a device's answer to another address than the granted one",
    advice: 'Look at the device, and at whom it answers.',
  },
  tombstone: {
    number: 16,
    text: 'a leftover of a grant that has just ended',
    advice: 'Nothing: it ends by itself.',
  },
  addressChangingHands: {
    number: 17,
    text: 'the inner address is being given to another device',
    advice: 'Nothing: it lasts for a moment. If it stays, look for bindings that cannot be recorded (the log).',
  },
  packetRateExceeded: {
    number: 18,
    text: 'a live grant, but more packets a second than its rule allows',
    advice: 'If the application needs more, raise packetsPerSecond of the rule; otherwise look at who sends so much.',
  },
  byteQuotaExceeded: {
    number: 19,
    text: 'a live grant, but its bytes are used up',
    advice: 'The grant ends within a second (quotaUsed). If the application needs more, raise bytes of the rule.',
  },
  addressUnbound: {
    number: 20,
    text: 'from an inner address that no device holds',
    advice:
      'A device that is not bound (yet): see `mtgate device`. If devices may speak unbound, set gate.onlyBound to false.',
  },
  errorNotCarried: {
    number: 21,
    text: 'an ICMP error that is about no live grant, of a kind that shows the way, or that cannot be believed',
    advice:
      'Somebody guesses at flows, or a router answers a traceroute. Nothing to do; if applications hang, look at MTUs.',
  },
  icmpRateExceeded: {
    number: 22,
    text: 'ICMP messages about one grant, or echo requests of one source, more than ten a second',
    advice: 'Look for a broken path, or somebody who forges errors.',
  },
  packetTooBig: {
    number: 23,
    text: 'a granted packet that does not fit the next link; its sender was told its MTU',
    advice:
      'Nothing: senders come down by themselves. If it does not stop, the sender does not hear ICMP: see its firewall.',
  },
} as const satisfies Record<string, { number: number; text: string; advice: string }>;

export type DenialReason = keyof typeof DENIALS;

export const DENIAL_REASONS = Object.keys(DENIALS) as readonly DenialReason[];

/** The denial a gate number stands for, or undefined. */
export function denialOfNumber(number: number): DenialReason | undefined {
  return DENIAL_REASONS.find((reason) => DENIALS[reason].number === number);
}

/** The denial of this name, or undefined. */
function denialOfName(name: string): DenialReason | undefined {
  return Object.hasOwn(DENIALS, name) ? (name as DenialReason) : undefined;
}

/** Why the base dropped a packet, where it says so; beside the gate's reasons, and without a number of its. */
export const BASE_DENIALS = {
  filtered: {
    text: "a drop of the operator's filters: `rule` says which",
    advice: 'Nothing, if it was meant; `mtgate explain packet` shows what would let it pass.',
  },
  unsolicited: {
    text: "to a device's own address (nat: none), and neither granted nor an answer",
    advice: 'Somebody tries addresses. Nothing to do, unless it is a server of yours: it should ask for a grant.',
  },
  unauthorisedTrigger: {
    text: 'to a trigger port of a device, and not from the gateway: a trigger that nobody authorised',
    advice: 'Tell the MTC user of the device. If it is an application of yours, ask for triggers, or use another port.',
  },
  flowCapExceeded: {
    text: 'a device would have begun a flow, and has as many as it may; or a million devices have some',
    advice: 'Look at the device: is it well? If devices need more flows at once, raise base.flowsPerDevice.',
  },
} as const;

export type BaseDenial = keyof typeof BASE_DENIALS;

/** Why a packet did not pass, whoever dropped it. */
export type PacketReason = DenialReason | BaseDenial;

export function isBaseDenial(reason: string): reason is BaseDenial {
  return Object.hasOwn(BASE_DENIALS, reason);
}

/** How a filter can have met a copied packet: it was dropped, or would have been. */
export const FILTER_COPIES = ['filtered', 'staged'] as const;
export type FilterCopy = (typeof FILTER_COPIES)[number];

/**
 * The mark by which the base tells the gate (gate.h) that a device's packet
 * answers a flow that a filter allowed from outside: it may show its address.
 */
export const ANSWER_MARK = 0xa0000000;
/** The mark of what the gate itself answers, which its guard lets out as it is (gate.h). */
export const OWN_MARK = 0xa0000001;

/** The mark, with the number of the interface it is for, of a carried packet that the stack is to cut into fragments (gate.h). */
export const FRAGMENT_MARK = 0xb0000000;
/**
 * The mark by which base and gate tell the guard at the interface of a realm whose addresses the outside knows
 * that they let this in: without it nothing from outside gets there.
 */
export const LET_IN_MARK = 0xc0000000;
/** The bits of a mark that say of which kind it is. */
export const MARK_KIND = 0xf0000000;

/** The mark of a packet that is handed on to be looked at (gate.h): this, with the reason's number. */
export const DENIAL_MARK = 0xd0000000;
/** A packet of our own, sent and dropped on this host to see whether the inspector sees: no denial's number. */
export const SELF_TEST = { name: 'selfTest', mark: DENIAL_MARK + 0xff } as const;
/** What the base writes before a copied packet: this, with the reason's name, or a FilterCopy and the filter's id. */
export const DENIAL_PREFIX = 'mtgate ';

/** Why a packet was copied. */
export type CopyReason = PacketReason | FilterCopy | typeof SELF_TEST.name;

/** What a copied packet's prefix says of it, or undefined where it is none of ours. */
export function readPrefix(prefix: string): { readonly reason: CopyReason; readonly filter?: string } | undefined {
  if (!prefix.startsWith(DENIAL_PREFIX)) return undefined;
  const [name = '', filter] = prefix.slice(DENIAL_PREFIX.length).split(' ');
  const copy = FILTER_COPIES.find((one) => one === name);
  if (copy) return filter ? { reason: copy, filter } : undefined;
  const reason = name === SELF_TEST.name || isBaseDenial(name) ? name : denialOfName(name);
  return reason && filter === undefined ? { reason } : undefined;
}
